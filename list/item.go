package list

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"unicode/utf8"

	"github.com/sharedmem/shm"
)

// kind is what an item is to Python.
type kind uint8

const (
	kindNil kind = iota
	kindInt
	kindFloat
	kindBool
	kindText
	kindBytes
)

func (k kind) String() string {
	return [...]string{"None", "int", "float", "bool", "str", "bytes"}[k]
}

// The codes that Python keeps beside the formats.
const (
	codeValue = 0 // int, float, bool: what the format says
	codeText  = 1
	codeBytes = 2
	codeNil   = 3
)

func (k kind) code() byte {
	return [...]byte{codeNil, codeValue, codeValue, codeValue, codeText, codeBytes}[k]
}

// A format is eight bytes of text, compared as one word.
var (
	formatInt   = word("q")
	formatFloat = word("d")
	formatBool  = word("xxxxxxx?")
	formatNil   = word("xxxxxx?x")

	// A bool is the last of its eight bytes; Python takes any but 0 for True.
	boolTrue = word("\x00\x00\x00\x00\x00\x00\x00\x01")
	boolMask = word("\x00\x00\x00\x00\x00\x00\x00\xff")
)

// word is s in memory, padded with zeros, read as a number by this machine.
func word(s string) uint64 {
	var b [8]byte
	copy(b[:], s)
	return binary.NativeEndian.Uint64(b[:])
}

// formatSized is the format of n bytes: "16s".
func formatSized(n int) uint64 {
	var b [8]byte
	s := strconv.AppendUint(b[:0], uint64(n), 10)
	if len(s) < len(b) {
		b[len(s)] = 's'
	}
	return binary.NativeEndian.Uint64(b[:])
}

// parseSized undoes formatSized. It accepts leading zeros, as Python does.
func parseSized(format uint64) (n int, ok bool) {
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], format)
	i := 0
	for ; i < len(b) && b[i] >= '0' && b[i] <= '9'; i++ {
		n = 10*n + int(b[i]-'0')
	}
	// Nothing but zeros may follow.
	return n, i > 0 && i < len(b) && b[i] == 's' && zeros(b[i+1:])
}

func zeros(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// kindOf says what an item with this format and code is, and for text and bytes
// how many bytes of its slot count.
func kindOf(format uint64, code byte, slot int) (k kind, n int, err error) {
	sized := false
	switch format {
	case formatInt:
		k = kindInt
	case formatFloat:
		k = kindFloat
	case formatBool:
		k = kindBool
	case formatNil:
		k = kindNil
	default:
		if n, sized = parseSized(format); !sized {
			return 0, 0, fmt.Errorf("%w: its format %q is none of Python's", shm.ErrFormat, formatText(format))
		}
		// What the format claims beyond the slot is another item's.
		n = min(n, slot)
	}
	switch {
	case code == codeNil: // whatever the format: Python looks at the code last
		return kindNil, 0, nil
	case sized && code == codeText:
		return kindText, n, nil
	case sized && code == codeBytes:
		return kindBytes, n, nil
	case !sized && code == codeValue && k != kindNil:
		return k, 0, nil
	}
	return 0, 0, fmt.Errorf("%w: its format %q and its code %d do not belong together", shm.ErrFormat, formatText(format), int8(code))
}

func formatText(format uint64) string {
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], format)
	n := len(b)
	for n > 0 && b[n-1] == 0 {
		n--
	}
	return string(b[:n])
}

// value is one item's value outside of the list. Text and bytes are either in
// s or in b.
type value struct {
	kind kind
	room int    // of a nil to be made, in bytes
	big  bool   // an int beyond int64: word is a uint64. No item is
	word uint64 // int, float and bool as they lie in memory
	s    string
	b    []byte
	form uint64 // the format, of one that was read for its kind only
}

func intValue(v int64) value     { return value{kind: kindInt, word: uint64(v)} }
func floatValue(v float64) value { return value{kind: kindFloat, word: math.Float64bits(v)} }

func boolValue(v bool) value {
	if v {
		return value{kind: kindBool, word: boolTrue}
	}
	return value{kind: kindBool}
}

func uintValue(v uint64) value {
	return value{kind: kindInt, word: v, big: v > math.MaxInt64}
}

// len is the length of text or bytes; 0 for all else.
func (v *value) len() int { return len(v.s) + len(v.b) }

// put writes the value into its slot, as much of it as is given.
func (v *value) put(dst []byte) {
	if v.kind < kindText {
		putWord(dst, v.word)
		return
	}
	n := copy(dst, v.s)
	n += copy(dst[n:], v.b)
	clear(dst[n:])
}

// endsInZero tells whether Python would lose the last byte.
func (v *value) endsInZero() bool {
	n, m := len(v.s), len(v.b)
	return n > 0 && v.s[n-1] == 0 || m > 0 && v.b[m-1] == 0
}

// valueOf takes what Python's list can hold, in all of Go's kinds of it.
func valueOf(v any) (value, error) {
	switch v := v.(type) {
	case nil:
		return value{}, nil
	case int:
		return intValue(int64(v)), nil
	case int64:
		return intValue(v), nil
	case float64:
		return floatValue(v), nil
	case bool:
		return boolValue(v), nil
	case string:
		return value{kind: kindText, s: v}, nil
	case []byte:
		return value{kind: kindBytes, b: v}, nil
	case Room:
		if v < 0 || v > maxLen {
			return value{}, fmt.Errorf("%w: room for %d bytes, Python's limit is %d", ErrTooLong, v, maxLen)
		}
		return value{room: int(v)}, nil
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return intValue(r.Int()), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return uintValue(r.Uint()), nil
	case reflect.Float32, reflect.Float64:
		return floatValue(r.Float()), nil
	case reflect.Bool:
		return boolValue(r.Bool()), nil
	case reflect.String:
		return value{kind: kindText, s: r.String()}, nil
	case reflect.Slice:
		if r.Type().Elem().Kind() == reflect.Uint8 {
			return value{kind: kindBytes, b: r.Bytes()}, nil
		}
	}
	return value{}, fmt.Errorf("%w: a %T; it holds integers, floats, bools, strings, []byte and nil", ErrType, v)
}

// check tells whether some list can hold the value.
func (v *value) check() error {
	switch {
	case v.big:
		return fmt.Errorf("%w: %d", ErrRange, v.word)
	case v.len() > maxLen:
		return fmt.Errorf("%w: %d bytes, Python's limit is %d", ErrTooLong, v.len(), maxLen)
	case v.kind == kindText && !utf8.ValidString(v.s):
		return fmt.Errorf("%w: %s; give it as []byte", ErrText, clip(strconv.Quote(v.s)))
	}
	return nil
}

func clip(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}

// slot is the room that an item of this value gets: Python's, but for its
// counting characters where bytes are meant, which cuts the text off
// (gh-88336). One byte at least is to spare.
func (v *value) slot() int {
	switch v.kind {
	case kindText, kindBytes:
		return 8 * (v.len()/8 + 1)
	}
	return 8 * (v.room/8 + 1)
}

// format is what stands beside the value in a slot that had the format old.
// Python keeps the format of text when text follows on text. Where it had the
// length of the whole slot we do the same; where it had an exact one we write
// the new one, as Python's way cuts what is longer.
func (v *value) format(old uint64, slot int, exact bool) (uint64, error) {
	switch v.kind {
	case kindInt:
		return formatInt, nil
	case kindFloat:
		return formatFloat, nil
	case kindBool:
		return formatBool, nil
	case kindNil:
		return formatNil, nil
	}
	n := v.len()
	if n > slot {
		return 0, fmt.Errorf("%w: %d bytes, its slot has room for %d", ErrTooLong, n, slot)
	}
	if was, sized := parseSized(old); sized && was < slot {
		exact = true
	}
	if !exact {
		return formatSized(slot), nil
	}
	// A length that is the slot's is taken for Python's way to write formats.
	if n == slot && v.endsInZero() {
		return 0, fmt.Errorf("%w: to keep the zero at its end it needs a slot of more than %d bytes", ErrTooLong, slot)
	}
	return formatSized(n), nil
}

// any is the value as At returns it. Bytes are the caller's then.
func (v *value) any() any {
	switch v.kind {
	case kindInt:
		return int64(v.word)
	case kindFloat:
		return math.Float64frombits(v.word)
	case kindBool:
		return v.word&boolMask != 0
	case kindText:
		return string(v.b)
	case kindBytes:
		return append([]byte{}, v.b...)
	}
	return nil
}

// equal is Python's ==: numbers are compared by value, whatever their types,
// and True is 1; text and bytes are never equal. Text is in b on both sides.
func (v *value) equal(w *value) bool {
	switch {
	case v.kind == kindNil || w.kind == kindNil:
		return v.kind == w.kind
	case v.kind >= kindText || w.kind >= kindText:
		return v.kind == w.kind && bytes.Equal(v.b, w.b)
	case v.kind == kindFloat && w.kind == kindFloat:
		return math.Float64frombits(v.word) == math.Float64frombits(w.word)
	case v.kind == kindFloat:
		return equalFloat(w, math.Float64frombits(v.word))
	case w.kind == kindFloat:
		return equalFloat(v, math.Float64frombits(w.word))
	}
	return v.number() == w.number() && v.big == w.big
}

// number is an int's or bool's value.
func (v *value) number() uint64 {
	if v.kind == kindBool {
		if v.word&boolMask != 0 {
			return 1
		}
		return 0
	}
	return v.word
}

// equalFloat compares exactly: 2**53+1 is no float, and converting it to one
// would make it equal to 2**53.
func equalFloat(v *value, f float64) bool {
	if f != math.Trunc(f) { // NaN as well
		return false
	}
	if v.big {
		return f >= 1<<63 && f < 1<<64 && uint64(f) == v.word
	}
	return f >= -1<<63 && f < 1<<63 && int64(f) == int64(v.number())
}
