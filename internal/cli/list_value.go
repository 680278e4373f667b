package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/list"
)

// itemType is what an item of a list is. Its texts are --type's and --json's.
type itemType int

const (
	byLook itemType = iota // as the value looks
	intItem
	floatItem
	boolItem
	textItem
	bytesItem
	nilItem
)

var itemTypes = [...]string{"", "int", "float", "bool", "text", "bytes", "nil"}

func (t itemType) String() string { return itemTypes[t] }

func parseItemType(s string) (itemType, error) {
	for t, name := range itemTypes {
		if s == name && s != "" {
			return itemType(t), nil
		}
	}
	return 0, fmt.Errorf("%q is not int, float, bool, text, bytes or nil", s)
}

func typeOf(v any) itemType {
	switch v.(type) {
	case int64:
		return intItem
	case float64:
		return floatItem
	case bool:
		return boolItem
	case string:
		return textItem
	case []byte:
		return bytesItem
	}
	return nilItem
}

func parseLayout(s string) (list.Layout, error) {
	for _, l := range []list.Layout{list.Python39, list.Python38} {
		if s == l.String() {
			return l, nil
		}
	}
	return 0, fmt.Errorf("%q is not 3.9, which all later ones read as well, or 3.8", s)
}

var (
	// What Python takes for a number, but for underscores and other bases than
	// ten: too much that is no number looks so.
	intLook   = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)
	floatLook = regexp.MustCompile(`^-?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+|\.[0-9]+[eE][-+]?[0-9]+)$`)
	otherBase = regexp.MustCompile(`^[-+]?0[xXoObB]`)
)

// parseItem reads a VALUE.
func parseItem(s string, as itemType) (any, error) {
	bad := func(what string) (any, error) {
		return nil, usageError{fmt.Errorf("%s is no %s", clippedQuote(s), what), "shm list --help"}
	}
	switch as {
	case byLook:
		return parseLook(s)
	case intItem:
		base := 10
		if otherBase.MatchString(s) {
			base = 0
		}
		n, err := strconv.ParseInt(s, base, 64)
		if errors.Is(err, strconv.ErrRange) {
			return nil, tooLarge(s)
		}
		if err != nil {
			return bad("int")
		}
		return n, nil
	case floatItem:
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return bad("float")
		}
		return f, nil
	case boolItem:
		b, err := strconv.ParseBool(s)
		if err != nil {
			return bad("bool: true or false")
		}
		return b, nil
	case bytesItem:
		return []byte(s), nil
	case nilItem:
		if v, err := parseLook(s); s != "" && (v != nil || err != nil) {
			return bad("None")
		}
		return nil, nil
	}
	return utf8Text(s)
}

// parseLook reads a VALUE as what it looks like.
func parseLook(s string) (any, error) {
	switch s {
	case "None", "none", "null", "nil":
		return nil, nil
	case "True", "true":
		return true, nil
	case "False", "false":
		return false, nil
	case "nan":
		return math.NaN(), nil
	case "inf":
		return math.Inf(1), nil
	case "-inf":
		return math.Inf(-1), nil
	}
	switch {
	case intLook.MatchString(s):
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return nil, tooLarge(s)
		}
		return n, nil
	case floatLook.MatchString(s):
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return nil, usageError{fmt.Errorf("%s is beyond any float", clippedQuote(s)), "inf, or --type text"}
		}
		return f, nil
	}
	body, isBytes := s, false
	if len(s) > 0 && (s[0] == 'b' || s[0] == 'B') {
		body, isBytes = s[1:], true
	}
	if n := len(body); n >= 2 && (body[0] == '\'' || body[0] == '"') && body[n-1] == body[0] {
		b, err := unquote(body[1:n-1], body[0], isBytes)
		switch {
		case err != nil:
			// Perhaps it is meant as it is; but perhaps it is not.
			return nil, usageError{fmt.Errorf("%s looks like a Python literal, but %w", clippedQuote(s), err), "--type text, which takes it as it is"}
		case isBytes:
			return b, nil
		}
		return string(b), nil
	}
	return utf8Text(s)
}

func utf8Text(s string) (any, error) {
	if !utf8.ValidString(s) {
		return nil, usageError{fmt.Errorf("%s is no text: it is not UTF-8", clippedQuote(s)), "--type bytes"}
	}
	return s, nil
}

func tooLarge(s string) error {
	return usageError{fmt.Errorf("%w: %s", list.ErrRange, clipped(s, 60)), "--type float or --type text"}
}

func clippedQuote(s string) string { return strconv.Quote(clipped(s, 60)) }

// unquote undoes Python's escapes in a literal without its quotes. What Python
// only warns of, it refuses.
func unquote(s string, quote byte, isBytes bool) ([]byte, error) {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); {
		c := s[i]
		i++
		switch {
		case c == quote:
			return nil, fmt.Errorf("its quotes do not match")
		case c >= utf8.RuneSelf && isBytes:
			return nil, fmt.Errorf(`bytes are ASCII and \x escapes`)
		case c != '\\':
			out = append(out, c)
			continue
		case i == len(s): // the quote that ended it was escaped
			return nil, fmt.Errorf("its quotes do not match")
		}
		c = s[i]
		i++
		if n := strings.IndexByte(`\'"abfnrtv`, c); n >= 0 {
			out = append(out, "\\'\"\a\b\f\n\r\t\v"[n])
			continue
		}
		digits, base := 0, 16
		switch {
		case c == 'x':
			digits = 2
		case c == 'u' && !isBytes:
			digits = 4
		case c == 'U' && !isBytes:
			digits = 8
		case c >= '0' && c <= '7':
			base = 8
			i--
			for digits < 3 && i+digits < len(s) && s[i+digits] >= '0' && s[i+digits] <= '7' {
				digits++
			}
		default:
			return nil, fmt.Errorf(`\%s is no escape`, firstRune(s[i-1:]))
		}
		end := min(i+digits, len(s))
		n, err := strconv.ParseUint(s[i:end], base, 32)
		limit := uint64(utf8.MaxRune)
		if isBytes {
			limit = 0xff
		}
		switch {
		case err != nil || end-i < digits:
			return nil, fmt.Errorf(`\%c%s is no escape`, c, s[i:end])
		case n > limit || !isBytes && !utf8.ValidRune(rune(n)):
			return nil, fmt.Errorf("%#x is no character", n)
		case isBytes:
			out = append(out, byte(n))
		default:
			out = utf8.AppendRune(out, rune(n))
		}
		i = end
	}
	if !isBytes && !utf8.Valid(out) {
		return nil, errors.New("it is not UTF-8")
	}
	return out, nil
}

func firstRune(s string) string {
	_, n := utf8.DecodeRuneInString(s)
	return s[:n]
}

// compactJSON writes a value on one line.
func compactJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// jsonValue writes an item. JSON knows neither all floats nor bytes; the item's
// type says what a string stands for.
func jsonValue(v any) (json.RawMessage, error) {
	switch v := v.(type) {
	case nil:
		return json.RawMessage("null"), nil
	case int64:
		return strconv.AppendInt(nil, v, 10), nil
	case float64:
		text := layout.PyReprFloat(v)
		if math.IsNaN(v) || math.IsInf(v, 0) {
			text = strconv.Quote(text)
		}
		return json.RawMessage(text), nil
	}
	return compactJSON(v) // []byte becomes base64
}

// readItems reads a JSON array of items, or the document that list writes, which
// has one.
func readItems(r io.Reader) (items []any, err error) {
	d := json.NewDecoder(r)
	d.UseNumber() // an int64 is no float64
	t, err := d.Token()
	if err == nil {
		switch t {
		case json.Delim('['):
			items, err = readArray(d)
		case json.Delim('{'):
			items, err = readDocument(d)
		default:
			err = fmt.Errorf("%v is no array of items", t)
		}
	}
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, errors.New("the JSON ends too early")
	case err != nil:
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows on the JSON")
	}
	return items, nil
}

func readDocument(d *json.Decoder) (items []any, err error) {
	found := false
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		if key != "items" {
			var skipped json.RawMessage
			if err := d.Decode(&skipped); err != nil {
				return nil, err
			}
			continue
		}
		if t, err := d.Token(); err != nil || t != json.Delim('[') {
			return nil, errors.Join(err, errors.New("its items are no array"))
		}
		if items, err = readArray(d); err != nil {
			return nil, err
		}
		found = true
	}
	if !found {
		return nil, errors.New("the object has no items")
	}
	_, err = d.Token() // }
	return items, err
}

// readArray reads items up to the ] and that.
func readArray(d *json.Decoder) (items []any, err error) {
	for d.More() {
		var v any
		if err := d.Decode(&v); err != nil {
			return nil, err
		}
		item, err := itemFromJSON(v)
		if err != nil {
			return nil, fmt.Errorf("item %d: %w", len(items), err)
		}
		items = append(items, item)
	}
	_, err = d.Token()
	return items, err
}

func itemFromJSON(v any) (any, error) {
	switch v := v.(type) {
	case nil, bool, string:
		return v, nil
	case json.Number:
		if !strings.ContainsAny(v.String(), ".eE") {
			n, err := strconv.ParseInt(v.String(), 10, 64)
			if err != nil {
				return nil, fmt.Errorf("%w: %s", list.ErrRange, clipped(v.String(), 60))
			}
			return n, nil
		}
		return v.Float64()
	case map[string]any:
		if text, ok := v["error"].(string); ok {
			return nil, fmt.Errorf("it could not be read: %s", text)
		}
		name, _ := v["type"].(string)
		t, err := parseItemType(name)
		if err != nil {
			return nil, fmt.Errorf("its type %w", err)
		}
		return itemOfType(t, v["value"])
	}
	return nil, fmt.Errorf("%w: an array", list.ErrType)
}

// itemOfType undoes docOfItem.
func itemOfType(t itemType, v any) (any, error) {
	text, isText := v.(string)
	number, isNumber := v.(json.Number)
	switch {
	case t == bytesItem && isText:
		return base64.StdEncoding.DecodeString(text)
	case t == floatItem && isText && (text == "nan" || text == "inf" || text == "-inf"):
		return parseLook(text)
	case t == floatItem && isNumber:
		return number.Float64()
	case t == nilItem:
		v = nil
	case t == intItem && isNumber, t == textItem && isText:
	case t == boolItem && (v == true || v == false):
	default:
		return nil, fmt.Errorf("%w: %v is no %v", list.ErrType, clipped(fmt.Sprint(v), 60), t)
	}
	item, err := itemFromJSON(v)
	if err == nil && typeOf(item) != t {
		err = fmt.Errorf("%w: %v is no %v", list.ErrType, number, t)
	}
	return item, err
}
