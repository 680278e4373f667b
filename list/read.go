package list

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"os"
	"sync/atomic"
	"unicode/utf8"

	"github.com/sharedmem/shm"
)

func nativeWord(b []byte) uint64           { return binary.NativeEndian.Uint64(b) }
func putWord(b []byte, w uint64)           { binary.NativeEndian.PutUint64(b, w) }
func appendWord(b []byte, w uint64) []byte { return binary.NativeEndian.AppendUint64(b, w) }

// span is where the slot of item i begins and ends, in bytes from the first
// one. Not ok if there is no such item, or if the table, which anybody may have
// changed since it was opened, does not give whole words within the data.
func (l *List) span(i int) (lo, hi uint64, ok bool) {
	if uint(i) >= uint(l.shape.Items) {
		return 0, 0, false
	}
	if l.starts != nil {
		return 8 * uint64(l.starts[i]), 8 * uint64(l.starts[i+1]), true
	}
	lo, hi = l.words[1+i].Load(), l.words[2+i].Load()
	return lo, hi, lo < hi && hi <= uint64(l.shape.DataLen) && (lo|hi)&7 == 0
}

// slot is span with reasons.
func (l *List) slot(i int) (lo, hi int, err error) {
	from, to, ok := l.span(i)
	if ok {
		return int(from), int(to), nil
	}
	if uint(i) >= uint(l.shape.Items) {
		return 0, 0, fmt.Errorf("%w: the list has %d", ErrIndex, l.shape.Items)
	}
	return 0, 0, fmt.Errorf("%w: its slot would be bytes %d to %d of %d", shm.ErrFormat, int64(from), int64(to), l.shape.DataLen)
}

func (l *List) slotBytes(base, lo, hi int) []byte { return l.raw[8*base+lo : 8*base+hi] }

func (l *List) code(i int) byte { return l.raw[l.shape.Codes+i] }

// quick is the list as the ways see it that take some nanoseconds: cut into
// its parts, so that one look at an index serves for all of them. It is empty for
// lists to which there is no quick way: concurrent ones and those of 3.8.
type quick struct {
	forms []atomic.Uint64
	codes []byte
	table []atomic.Uint64 // one more
	slots []atomic.Uint64
}

// scalar returns the eight bytes of item i, if it has this format, for the
// quick ways in and out; nil if there is anything special about it.
func (l *List) scalar(i int, format uint64) *atomic.Uint64 {
	if l.block.Closed() || !l.quick.holds(i, format) {
		return nil
	}
	return l.quick.slot(i)
}

// holds and slot are the two halves of scalar, each of them small enough to be
// inlined where the call counts. They copy the slices first: after an atomic load
// the compiler reads again what it had of q, and checks again.

// holds tells whether there is an item i with this format and codeValue.
func (q *quick) holds(i int, format uint64) bool {
	forms, codes := q.forms, q.codes
	return uint(i) < uint(len(forms)) && uint(i) < uint(len(codes)) && forms[i].Load() == format && codes[i] == codeValue
}

// slot returns the first word of an item that there is, nil if the table is wrong.
func (q *quick) slot(i int) *atomic.Uint64 {
	table, slots := q.table, q.slots
	if uint(i)+1 >= uint(len(table)) {
		return nil
	}
	// In words: what is no multiple of 8 becomes larger than any list.
	lo, hi := bits.RotateLeft64(table[i].Load(), -3), bits.RotateLeft64(table[uint(i)+1].Load(), -3)
	if lo >= hi || hi > uint64(len(slots)) {
		return nil
	}
	return &slots[lo]
}

// scalarValue returns what lies there; not ok as well if it is becoming nil.
func (l *List) scalarValue(i int, format uint64) (v uint64, ok bool) {
	w := l.scalar(i, format)
	if w == nil {
		return 0, false
	}
	v = w.Load()
	return v, v != 0 || l.isZero(w, i)
}

// slotFormats are the formats of text and bytes whose length is the slot's, by the
// slot's words, for short ones.
var slotFormats = func() (formats [64]uint64) {
	for words := range formats {
		formats[words] = formatSized(8 * words)
	}
	return formats
}()

// text returns the slot of item i for the quick way out, if the item is text in
// Python's way, nil if there is anything special about it.
func (l *List) text(i int) []byte {
	forms, codes := l.quick.forms, l.quick.codes
	if l.block.Closed() || uint(i) >= uint(len(forms)) || uint(i) >= uint(len(codes)) || codes[i] != codeText {
		return nil
	}
	lo, hi, ok := l.span(i)
	words := (hi - lo) / 8
	if !ok || words >= uint64(len(slotFormats)) || forms[i].Load() != slotFormats[words] {
		return nil
	}
	return l.slotBytes(l.data, int(lo), int(hi))
}

// item names the item and the list in an error.
func (l *List) item(op string, i int, err error) error {
	if err == nil {
		return nil
	}
	return l.fail(op, fmt.Errorf("item %d: %w", i, err))
}

// kinds is a set of them.
type kinds uint8

const (
	noKind   kinds = 0
	allKinds kinds = 1<<(kindBytes+1) - 1
)

func (k kind) only() kinds { return 1 << k }

// read returns the value of item i, and if want has its kind, also what it is.
// Text and bytes are appended to buf, which becomes out; they are v.b then.
func (l *List) read(i int, want kinds, buf []byte) (v value, out []byte, err error) {
	lo, hi, err := l.slot(i)
	if err != nil {
		return value{}, buf, err
	}
	if l.concurrent {
		return l.readShared(i, lo, hi, want, buf)
	}
	// Again if somebody changed the item meanwhile from nil or to nil, which should
	// be seen whole; not for ever, as a hostile process never ends.
	for try := 0; ; try++ {
		k, n, format, code, err := l.kind(i, hi-lo)
		switch {
		case err != nil || want&k.only() == 0:
			return value{kind: k, form: format}, buf, err
		case k < kindText:
			w := &l.words[l.data+lo/8]
			v := w.Load()
			if v == 0 && k != kindNil && try < tries && !l.isZero(w, i) {
				continue
			}
			return value{kind: k, word: v}, buf, nil
		}
		b := l.slotBytes(l.data, lo, lo+n)
		if n == hi-lo { // else the length is exact
			b = b[:textLen(b)]
		}
		out = append(buf, b...)
		if try < tries && l.code(i) != code {
			continue
		}
		return value{kind: k, b: out[len(buf):]}, out, nil
	}
}

// tries is how often a reader that was disturbed reads again.
const tries = 1000

// isZero tells whether the number of item i is 0 and not just on its way to nil:
// that clears the number after it has set the code. From nil to a number and back
// again the code looks the same, but not several times over.
func (l *List) isZero(w *atomic.Uint64, i int) bool {
	for range 2 {
		if l.code(i) != codeValue || w.Load() != 0 {
			return false
		}
	}
	return true
}

// kind is kindOf item i in a list that is not concurrent.
func (l *List) kind(i, slot int) (k kind, n int, format uint64, code byte, err error) {
	for range tries {
		format, code = l.words[l.form+i].Load(), l.code(i)
		if k, n, err = kindOf(format, code, slot); err == nil || !l.moving(i, format, code) {
			break
		}
	}
	return k, n, format, code, err
}

// moving tells whether an item's format and code, which did not fit each other,
// have changed since.
func (l *List) moving(i int, format uint64, code byte) bool {
	n := 4
	if format == 0 {
		n = 1000 // CPython clears a format before it writes it, and needs some 20 ns in between
	}
	for range n {
		if l.words[l.form+i].Load() != format || l.code(i) != code {
			return true
		}
	}
	return false
}

// textLen is the length without the zeros that fill up the slot. Most slots are
// filled up with less than a word, but some are nearly empty.
func textLen(b []byte) int {
	n := len(b)
	for n >= 8 && nativeWord(b[n-8:]) == 0 {
		n -= 8
	}
	for n > 0 && b[n-1] == 0 {
		n--
	}
	return n
}

// typed returns item i if it is of this kind.
func (l *List) typed(i int, k kind, buf []byte) (v value, out []byte, err error) {
	const op = "get"
	if l.block.Closed() {
		return value{}, buf, l.item(op, i, os.ErrClosed)
	}
	v, out, err = l.read(i, k.only(), buf)
	switch {
	case err == nil && v.kind != k:
		err = wrongType(v.kind, k)
	case err == nil && k == kindText:
		err = validText(v.b)
	}
	if err != nil {
		return value{}, buf, l.item(op, i, err)
	}
	return v, out, nil
}

func wrongType(is, not kind) error {
	return fmt.Errorf("%w: it is of type %v, not %v", ErrType, is, not)
}

// At returns item i: an int64, float64, bool, string, []byte or nil. Bytes are a
// copy. It is safe beside Close and a block that another process makes
// smaller.
//
// Errors: ErrIndex, shm.ErrFormat, ErrText, shm.ErrTruncated, os.ErrClosed; for
// a Concurrent list ErrBusy.
func (l *List) At(i int) (any, error) {
	var out any
	err := l.block.Do(func([]byte) (err error) {
		var buf [64]byte
		out, err = l.any(i, buf[:0])
		return err
	})
	return out, l.item("get", i, err)
}

// any is At without protection. buf is scratch.
func (l *List) any(i int, buf []byte) (any, error) {
	if uint(i) < uint(len(l.quick.forms)) {
		switch l.quick.forms[i].Load() {
		case formatInt:
			if v, ok := l.scalarValue(i, formatInt); ok {
				return int64(v), nil
			}
		case formatFloat:
			if v, ok := l.scalarValue(i, formatFloat); ok {
				return math.Float64frombits(v), nil
			}
		}
	}
	v, _, err := l.read(i, allKinds, buf)
	if err == nil && v.kind == kindText {
		err = validText(v.b)
	}
	if err != nil {
		return nil, err
	}
	return v.any(), nil
}

// Int returns item i, which must be an int. It takes some nanoseconds, and must
// not run beside Close; if another process makes the block smaller, it faults.
// See [List.At] for a way without these risks.
//
// Errors: ErrType for an item of another type, and those of At.
func (l *List) Int(i int) (int64, error) {
	// scalarValue, without its calls.
	if !l.block.Closed() && l.quick.holds(i, formatInt) {
		if w := l.quick.slot(i); w != nil {
			if v := w.Load(); v != 0 || l.isZero(w, i) {
				return int64(v), nil
			}
		}
	}
	v, _, err := l.typed(i, kindInt, nil)
	return int64(v.word), err
}

// Float returns item i, which must be a float, bit by bit as it is stored: with
// the sign of zeros and the payload of NaNs. The same holds as for [List.Int].
func (l *List) Float(i int) (float64, error) {
	if v, ok := l.scalarValue(i, formatFloat); ok {
		return math.Float64frombits(v), nil
	}
	v, _, err := l.typed(i, kindFloat, nil)
	return math.Float64frombits(v.word), err
}

// Bool returns item i, which must be a bool. The same holds as for [List.Int].
func (l *List) Bool(i int) (bool, error) {
	if v, ok := l.scalarValue(i, formatBool); ok {
		return v&boolMask != 0, nil
	}
	v, _, err := l.typed(i, kindBool, nil)
	return v.word&boolMask != 0, err
}

// IsNil tells whether item i is nil, Python's None. The same holds as for
// [List.Int], but no type is wrong.
func (l *List) IsNil(i int) (bool, error) {
	const op = "get"
	if l.block.Closed() {
		return false, l.item(op, i, os.ErrClosed)
	}
	v, _, err := l.read(i, noKind, nil)
	return err == nil && v.kind == kindNil, l.item(op, i, err)
}

// AppendText appends item i, which must be text, to dst, and allocates only if
// dst has no room for it. If there is an error it returns dst as it was. The
// same holds as for [List.Int].
func (l *List) AppendText(dst []byte, i int) ([]byte, error) {
	if b := l.text(i); b != nil {
		// What was copied is what is checked.
		out := append(dst, b[:textLen(b)]...)
		if l.code(i) == codeText && utf8.Valid(out[len(dst):]) {
			return out, nil
		}
	}
	_, out, err := l.typed(i, kindText, dst)
	return out, err
}

// AppendBytes is [List.AppendText] for an item that must be bytes.
func (l *List) AppendBytes(dst []byte, i int) ([]byte, error) {
	_, out, err := l.typed(i, kindBytes, dst)
	return out, err
}

// Text returns item i, which must be text. The same holds as for [List.Int].
func (l *List) Text(i int) (string, error) {
	var buf [64]byte
	v, _, err := l.typed(i, kindText, buf[:0])
	return string(v.b), err
}

// Format returns the format of item i as Python stores it: "q" for an int, "d"
// for a float, "xxxxxxx?" for a bool, "xxxxxx?x" for None, "16s" for text or
// bytes in a slot of 16.
//
// Errors: those of At, but for ErrText.
func (l *List) Format(i int) (format string, err error) {
	err = l.block.Do(func([]byte) error {
		v, _, err := l.read(i, noKind, nil)
		format = formatText(v.form)
		return err
	})
	return format, l.item("get", i, err)
}
