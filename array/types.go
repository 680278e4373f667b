package array

import (
	"fmt"
	"math"
	"math/bits"
	"time"
	"unicode/utf8"

	"github.com/sharedmem/shm"
)

// Float16 is a number of IEEE 754's half precision, as its bits: NumPy's
// float16. The largest is 65504; there are some three digits.
type Float16 uint16

// NumPyDType returns "=f2": = is the machine's own order.
func (Float16) NumPyDType() string { return "=f2" }

// Float16Of rounds f to the nearest Float16, to the even one of two, as NumPy
// does; what is too large becomes infinite.
func Float16Of(f float32) Float16 {
	b := math.Float32bits(f)
	sign, exp, frac := uint16(b>>16)&0x8000, int(b>>23)&0xff, b&0x7fffff
	switch {
	case exp == 0xff: // infinite, or not a number, which stays one
		h := sign | 0x7c00 | uint16(frac>>13)
		if frac != 0 && frac>>13 == 0 {
			h |= 1
		}
		return Float16(h)
	case exp > 127+15:
		return Float16(sign | 0x7c00)
	case exp >= 127-14:
		h := uint32(exp-127+15)<<10 | frac>>13
		// A carry out of the fraction goes into the exponent, as it should, and out
		// of the largest number into infinity.
		return Float16(sign | uint16(h+roundUp(frac, 13, h)))
	case exp >= 127-25:
		// Below the smallest normal number: fewer bits, and no leading one unsaid.
		frac |= 1 << 23
		shift := uint(127 - 14 - exp + 13)
		h := frac >> shift
		return Float16(sign | uint16(h+roundUp(frac, shift, h)))
	}
	return Float16(sign)
}

// roundUp is 1 if what shift cuts off frac is more than half, or half and h odd.
func roundUp(frac uint32, shift uint, h uint32) uint32 {
	cut, half := frac&(1<<shift-1), uint32(1)<<(shift-1)
	if cut > half || cut == half && h&1 == 1 {
		return 1
	}
	return 0
}

// Float32 returns the number, which a float32 has exactly.
func (h Float16) Float32() float32 {
	sign, exp, frac := uint32(h&0x8000)<<16, uint32(h>>10)&0x1f, uint32(h)&0x3ff
	switch {
	case exp == 0x1f:
		return math.Float32frombits(sign | 0x7f800000 | frac<<13)
	case exp == 0 && frac == 0:
		return math.Float32frombits(sign)
	case exp == 0:
		// A float32 has such numbers with a leading one.
		shift := uint32(bits.LeadingZeros32(frac)) - 21
		return math.Float32frombits(sign | (127-14-shift)<<23 | (frac<<shift&0x3ff)<<13)
	}
	return math.Float32frombits(sign | (exp+127-15)<<23 | frac<<13)
}

// BFloat16 is the upper half of a float32's bits: the range of one, and some two
// digits. It is torch.bfloat16 and ml_dtypes.bfloat16. NumPy itself does not know
// it; in a .npy header it is V2, bytes.
type BFloat16 uint16

// NumPyDType returns "bfloat16", which np.dtype knows once ml_dtypes is imported.
func (BFloat16) NumPyDType() string { return "bfloat16" }

// BFloat16Of rounds f to the nearest BFloat16, to the even one of two.
func BFloat16Of(f float32) BFloat16 {
	b := math.Float32bits(f)
	if f != f {
		return BFloat16(b>>16 | 0x40) // quiet, so that cutting leaves no infinity
	}
	return BFloat16((b + 0x7fff + b>>16&1) >> 16)
}

// Float32 returns the number, which a float32 has exactly.
func (h BFloat16) Float32() float32 { return math.Float32frombits(uint32(h) << 16) }

// Time is a moment as NumPy's datetime64[ns]: nanoseconds since 1970 in UTC,
// from the year 1678 to 2262. For another unit define a type with another
// NumPyDType.
type Time int64

// NaT is NumPy's "not a time".
const NaT Time = math.MinInt64

// NumPyDType returns "=M8[ns]": = is the machine's own order.
func (Time) NumPyDType() string { return "=M8[ns]" }

// TimeOf converts t. The zero time.Time, and what is out of range, is NaT.
func TimeOf(t time.Time) Time {
	ns := t.UnixNano()
	// UnixNano wraps around for a time out of range.
	if !time.Unix(0, ns).Equal(t) {
		return NaT
	}
	return Time(ns)
}

// Time returns the moment in UTC, and for NaT the zero time.Time.
func (t Time) Time() time.Time {
	if t == NaT {
		return time.Time{}
	}
	return time.Unix(0, int64(t)).UTC()
}

// String returns the moment as RFC 3339 has it, or "NaT".
func (t Time) String() string {
	if t == NaT {
		return "NaT"
	}
	return t.Time().Format(time.RFC3339Nano)
}

// Text returns the text in an element of type [N]byte or [N]rune, given as v[:]:
// without the zeros at its end, as NumPy reads it. What is no character is
// U+FFFD in the text of a [N]rune; bytes are returned as they are.
func Text[E byte | rune](v []E) string {
	n := len(v)
	for n > 0 && v[n-1] == 0 {
		n--
	}
	switch v := any(v[:n]).(type) {
	case []byte:
		return string(v)
	case []rune:
		return string(v)
	}
	panic("unreachable")
}

// PutText stores text in an element, given as v[:], and zeros behind it. As in
// NumPy, zeros at its end are not seen again.
//
// Errors: shm.ErrSize if it is too long, when nothing is stored.
func PutText[E byte | rune](v []E, text string) error {
	n := len(text)
	if _, wide := any(v).([]rune); wide {
		n = utf8.RuneCountInString(text)
	}
	if n > len(v) {
		return &shm.Error{Op: "put text", Err: fmt.Errorf("%w: %d characters where %d have room", shm.ErrSize, n, len(v))}
	}
	clear(v)
	switch v := any(v).(type) {
	case []byte:
		copy(v, text)
	case []rune:
		i := 0
		for _, r := range text {
			v[i] = r
			i++
		}
	}
	return nil
}
