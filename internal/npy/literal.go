package npy

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// The parts of Python's literals that a header is made of. Strings, ints and
// bools are Go's; anything that would have to be evaluated is an error.
type (
	tuple []any
	list  []any
	dict  []entry
	entry struct {
		key   string
		value any
	}
)

// maxDepth bounds how deep tuples, lists and dicts may lie in each other: a
// structure in a structure takes two. Without it a header of brackets would
// use up the stack.
const maxDepth = 64

var errLiteral = errors.New("not a literal")

type parser struct {
	text  string
	pos   int
	depth int
}

// parseLiteral reads a text that is one literal, with blanks around it. It is
// UTF-8, as Python's sources are: other bytes in a string would be printed as lone
// surrogates, which no literal of ours may have.
func parseLiteral(text string) (any, error) {
	p := &parser{text: text}
	if !utf8.ValidString(text) {
		return nil, p.fail("the text is not UTF-8")
	}
	v, err := p.value()
	if err != nil {
		return nil, err
	}
	if p.skip(); p.pos < len(p.text) {
		return nil, p.fail("followed by %q", p.rest())
	}
	return v, nil
}

func (p *parser) fail(format string, args ...any) error {
	return fmt.Errorf("%w at byte %d: %s", errLiteral, p.pos, fmt.Sprintf(format, args...))
}

// rest is a short piece of what was not read, for messages.
func (p *parser) rest() string {
	return strings.ToValidUTF8(p.text[p.pos:min(len(p.text), p.pos+24)], "?")
}

func (p *parser) skip() {
	for p.pos < len(p.text) && strings.IndexByte(" \t\r\n\f", p.text[p.pos]) >= 0 {
		p.pos++
	}
}

// next skips blanks and returns the next byte, 0 at the end.
func (p *parser) next() byte {
	if p.skip(); p.pos < len(p.text) {
		return p.text[p.pos]
	}
	return 0
}

func (p *parser) value() (any, error) {
	switch c := p.next(); {
	case c == '\'' || c == '"':
		return p.str()
	case c == '(' || c == '[' || c == '{':
		if p.depth++; p.depth > maxDepth {
			return nil, p.fail("nested deeper than %d", maxDepth)
		}
		defer func() { p.depth-- }()
		p.pos++
		switch c {
		case '(':
			items, comma, err := p.items(')')
			if err == nil && len(items) == 1 && !comma {
				return items[0], nil // brackets around a value
			}
			return tuple(items), err
		case '[':
			items, _, err := p.items(']')
			return list(items), err
		}
		return p.dict()
	case c >= '0' && c <= '9' || c == '-' || c == '+':
		return p.number()
	case strings.HasPrefix(p.text[p.pos:], "True"):
		return p.word("True", true)
	case strings.HasPrefix(p.text[p.pos:], "False"):
		return p.word("False", false)
	case c == 0 && p.pos >= len(p.text):
		return nil, p.fail("the text ends")
	}
	return nil, p.fail("%q; only dicts, tuples, lists, strings, integers, True and False are read", p.rest())
}

func (p *parser) word(w string, v bool) (any, error) {
	end := p.pos + len(w)
	if end < len(p.text) && (isLetter(p.text[end]) || p.text[end] == '(' || p.text[end] == '.') {
		return nil, p.fail("%q", p.rest())
	}
	p.pos = end
	return v, nil
}

func isLetter(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= utf8.RuneSelf
}

func (p *parser) items(closing byte) (items []any, comma bool, err error) {
	for {
		if p.next() == closing {
			p.pos++
			return items, comma, nil
		}
		if len(items) > 0 && !comma {
			return nil, false, p.fail("%q where a comma or %q belongs", p.rest(), closing)
		}
		v, err := p.value()
		if err != nil {
			return nil, false, err
		}
		items = append(items, v)
		if comma = p.next() == ','; comma {
			p.pos++
		}
	}
}

func (p *parser) dict() (any, error) {
	var d dict
	for comma := true; ; {
		c := p.next()
		if c == '}' {
			p.pos++
			return d, nil
		}
		if !comma || c != '\'' && c != '"' {
			return nil, p.fail("%q where a key or '}' belongs", p.rest())
		}
		key, err := p.str()
		if err != nil {
			return nil, err
		}
		if p.next() != ':' {
			return nil, p.fail("%q where ':' belongs", p.rest())
		}
		p.pos++
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		d = append(d, entry{key, v})
		if comma = p.next() == ','; comma {
			p.pos++
		}
	}
}

// number reads an integer, also one of Python 2's with an L behind it, as
// NumPy does.
func (p *parser) number() (any, error) {
	end := p.pos + 1
	for end < len(p.text) && p.text[end] >= '0' && p.text[end] <= '9' {
		end++
	}
	n, err := strconv.ParseInt(p.text[p.pos:end], 10, 64)
	if err != nil || n > math.MaxInt || n < math.MinInt {
		return nil, p.fail("%q is no integer that fits", p.text[p.pos:min(end, p.pos+24)])
	}
	if end < len(p.text) && p.text[end] == 'L' {
		end++
	}
	if end < len(p.text) && (isLetter(p.text[end]) || p.text[end] == '.') {
		return nil, p.fail("%q is no integer", p.rest())
	}
	p.pos = end
	return int(n), nil
}

func (p *parser) str() (string, error) {
	quote := p.text[p.pos]
	p.pos++
	var out strings.Builder
	for p.pos < len(p.text) {
		c := p.text[p.pos]
		p.pos++
		switch c {
		case quote:
			return out.String(), nil
		case '\n':
			return "", p.fail("a string ends with its line")
		case '\\':
			r, err := p.escape()
			if err != nil {
				return "", err
			}
			out.WriteRune(r)
		default:
			out.WriteByte(c)
		}
	}
	return "", p.fail("a string has no end")
}

func (p *parser) escape() (rune, error) {
	if p.pos == len(p.text) {
		return 0, p.fail("a string has no end")
	}
	c := p.text[p.pos]
	p.pos++
	digits := 0
	switch c {
	case '\\', '\'', '"':
		return rune(c), nil
	case 'n':
		return '\n', nil
	case 'r':
		return '\r', nil
	case 't':
		return '\t', nil
	case 'x':
		digits = 2
	case 'u':
		digits = 4
	case 'U':
		digits = 8
	default:
		return 0, p.fail("the escape \\%c", c)
	}
	if p.pos+digits > len(p.text) {
		return 0, p.fail("a string has no end")
	}
	n, err := strconv.ParseUint(p.text[p.pos:p.pos+digits], 16, 32)
	if err != nil || n > utf8.MaxRune || n >= 0xd800 && n < 0xe000 {
		return 0, p.fail("the escape \\%c%s", c, p.text[p.pos:p.pos+digits])
	}
	p.pos += digits
	return rune(n), nil
}
