package array_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
)

// rounded is f with so many bits behind the leading one, the slow way: as a
// multiple of the distance between two such numbers, of which the smallest
// normal one is 2^least.
func rounded(f float64, bits, least int) float64 {
	if f == 0 || math.IsInf(f, 0) {
		return f
	}
	_, exp := math.Frexp(f) // f is 0.5 to 1 times 2^exp
	ulp := math.Ldexp(1, max(exp-1, least)-bits)
	return math.RoundToEven(f/ulp) * ulp
}

// samples are all float32s that are a number of fewer bits, what lies between
// two of them, what lies next to either, and some others.
func samples(step uint32, fn func(f float32)) {
	for b := uint64(0); b < 1<<32; b += uint64(step) {
		for _, d := range []uint32{0, 1, step/2 - 1, step / 2, step/2 + 1, step - 1} {
			fn(math.Float32frombits(uint32(b) + d))
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		fn(math.Float32frombits(r.Uint32()))
		fn(float32(r.NormFloat64()))
	}
}

func TestFloat16(t *testing.T) {
	value := func(h array.Float16) float64 { // as IEEE 754 defines it
		exp, frac := int(h>>10)&31, float64(h&1023)
		sign := 1 - 2*float64(h>>15)
		switch exp {
		case 31:
			if frac > 0 {
				return math.NaN()
			}
			return math.Inf(int(sign))
		case 0:
			return math.Copysign(math.Ldexp(frac, -24), sign)
		}
		return sign * math.Ldexp(1024+frac, exp-25)
	}
	for i := range 1 << 16 {
		h := array.Float16(i)
		f := h.Float32()
		if want := value(h); float64(f) != want && !(f != f && want != want) || math.Signbit(float64(f)) != (i >= 1<<15) {
			t.Fatalf("%#x is %v, want %v", i, f, want)
		}
		if back := array.Float16Of(f); back != h {
			t.Fatalf("%#x became %v and %#x", i, f, uint16(back))
		}
	}
	samples(1<<13, func(f float32) {
		h := array.Float16Of(f)
		if math.Signbit(float64(f)) != (h>>15 == 1) {
			t.Fatalf("%v (%#x) becomes %#x, of another sign", f, math.Float32bits(f), uint16(h))
		}
		want := rounded(float64(f), 10, -14)
		if math.Abs(want) > 65504 {
			want = math.Inf(int(math.Copysign(1, want)))
		}
		if got := value(h); got != want && !(f != f && got != got) {
			t.Fatalf("%v (%#x) becomes %v, want %v", f, math.Float32bits(f), got, want)
		}
	})
}

func TestBFloat16(t *testing.T) {
	for i := range 1 << 16 {
		h := array.BFloat16(i)
		f := h.Float32()
		if math.Float32bits(f) != uint32(i)<<16 {
			t.Fatalf("%#x is %v", i, f)
		}
		want := h
		if f != f {
			want |= 0x40 // a quiet one
		}
		if back := array.BFloat16Of(f); back != want {
			t.Fatalf("%#x became %v and %#x", i, f, uint16(back))
		}
	}
	samples(1<<16, func(f float32) {
		h := array.BFloat16Of(f)
		if math.Signbit(float64(f)) != (h>>15 == 1) {
			t.Fatalf("%v (%#x) becomes %#x, of another sign", f, math.Float32bits(f), uint16(h))
		}
		want := rounded(float64(f), 7, -126)
		if math.Abs(want) > math.Ldexp(255, 120) {
			want = math.Inf(int(math.Copysign(1, want)))
		}
		if got := float64(h.Float32()); got != want && !(f != f && got != got) {
			t.Fatalf("%v (%#x) becomes %v, want %v", f, math.Float32bits(f), got, want)
		}
	})
}

func TestTime(t *testing.T) {
	for _, ns := range []int64{0, 1, -1, math.MaxInt64, math.MinInt64 + 1, 1700000000123456789} {
		at := time.Unix(0, ns)
		got := array.TimeOf(at)
		if got != array.Time(ns) || !got.Time().Equal(at) || got.Time().Location() != time.UTC {
			t.Errorf("%v is %d, %v", at, got, got)
		}
		if got := array.TimeOf(at.In(time.FixedZone("", 3600))); got != array.Time(ns) {
			t.Errorf("elsewhere, %v is %v", at, got)
		}
		if got.String() != at.UTC().Format(time.RFC3339Nano) {
			t.Errorf("%v is spelt %v", at, got)
		}
	}
	last := time.Unix(0, math.MaxInt64)
	for _, at := range []time.Time{
		{}, last.Add(1), time.Unix(0, math.MinInt64), time.Unix(0, math.MinInt64).Add(-1),
		time.Date(1677, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2263, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Unix(1<<55, 0),
	} {
		if got := array.TimeOf(at); got != array.NaT || got.String() != "NaT" {
			t.Errorf("%v is %v", at, got)
		}
	}
	if !array.NaT.Time().IsZero() {
		t.Error(array.NaT.Time())
	}
	if got := array.TimeOf(time.Now()).Time(); time.Since(got) > time.Hour {
		t.Error("now is", got)
	}
}

func TestText(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "a": "a", "12345": "12345", "é": "é", "a\x00b": "a\x00b", "a\x00\x00": "a", "\x00": "", "\xff": "\xff",
	} {
		v := [5]byte{9, 9, 9, 9, 9}
		if err := array.PutText(v[:], text); err != nil || array.Text(v[:]) != want {
			t.Errorf("%q: %q, %v", text, array.Text(v[:]), err)
		}
	}
	for text, want := range map[string]string{
		"": "", "a": "a", "温度": "温度", "12345": "12345", "🌡🌡🌡🌡🌡": "🌡🌡🌡🌡🌡", "a\x00": "a", "a\xffb": "a\ufffdb",
	} {
		v := [5]rune{9, 9, 9, 9, 9}
		if err := array.PutText(v[:], text); err != nil || array.Text(v[:]) != want {
			t.Errorf("%q: %q, %v", text, array.Text(v[:]), err)
		}
	}
	b, r := [5]byte{7}, [5]rune{7}
	mustBe(t, array.PutText(b[:], "123456"), shm.ErrSize)
	mustBe(t, array.PutText(b[:], "日本"), shm.ErrSize)
	mustBe(t, array.PutText(r[:], "123456"), shm.ErrSize)
	if b[0] != 7 || r[0] != 7 {
		t.Error("what was too long was stored")
	}
	if got := array.Text([]rune{0xd800, 'a', 0x110000, -1}); got != "\ufffda\ufffd\ufffd" {
		t.Errorf("what is no character is %q", got)
	}
}

func TestDescribe(t *testing.T) {
	type reading struct {
		At    array.Time
		Value array.Float16 `npy:"value"`
		Label [8]byte
	}
	d, err := array.Describe[reading]()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ in, want string }{
		{d.C, "struct reading {\n\tint64_t /* a moment in ns */ At;\n\tuint16_t /* the bits of a half */ value;\n\tchar Label[8];\n"},
		{d.Ctypes, "class reading(ctypes.Structure):\n"}, {d.Ctypes, "('Label', ctypes.c_char * 8),\n"},
		{d.NumPy, "reading = numpy.dtype({'names': ['At', 'value', 'Label'], 'formats': ['<M8[ns]', '<f2', 'S8'], 'offsets': [0, 8, 10], 'itemsize': "},
	} {
		if !strings.Contains(c.in, c.want) {
			t.Errorf("%s\ndoes not have %q", c.in, c.want)
		}
	}
	_, err = array.Describe[struct{ A []byte }]()
	mustBe(t, err, shm.ErrFormat)
	_, err = array.Describe[int]()
	mustBe(t, err, shm.ErrFormat)
	if _, err = array.Describe[struct{ N [3]int }](); !errors.Is(err, shm.ErrFormat) || !strings.Contains(err.Error(), ".N[0] is a int") {
		t.Error(err)
	}
}
