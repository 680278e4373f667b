package npy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
)

// Elements of every kind, in both byte orders and at an odd address.
func TestValue(t *testing.T) {
	half := func(bits uint16) []byte { return binary.LittleEndian.AppendUint16(nil, bits) }
	f64 := func(v float64) []byte { return binary.LittleEndian.AppendUint64(nil, math.Float64bits(v)) }
	f32 := func(v float32) []byte { return binary.LittleEndian.AppendUint32(nil, math.Float32bits(v)) }
	i64 := func(v int64) []byte { return binary.LittleEndian.AppendUint64(nil, uint64(v)) }
	for _, c := range []struct {
		dtype string
		data  []byte // little-endian
		want  any
	}{
		{"?", []byte{0}, false}, {"?", []byte{2}, true},
		{"i1", []byte{0xff}, int64(-1)}, {"<i2", []byte{0xfe, 0xff}, int64(-2)}, {"<i4", []byte{0, 0, 0, 0x80}, int64(math.MinInt32)}, {"<i8", i64(math.MinInt64), int64(math.MinInt64)},
		{"u1", []byte{0xff}, uint64(255)}, {"<u2", []byte{0, 1}, uint64(256)}, {"<u4", []byte{1, 0, 0, 0x80}, uint64(1<<31 + 1)}, {"<u8", i64(-1), uint64(math.MaxUint64)},
		{"<f2", half(0x3c00), 1.0}, {"<f2", half(0xc000), -2.0}, {"<f2", half(0x7bff), 65504.0}, {"<f2", half(0x0001), math.Ldexp(1, -24)}, {"<f2", half(0xfc00), math.Inf(-1)}, {"<f2", half(0x03ff), 1023 * math.Ldexp(1, -24)},
		{"<f4", f32(0.1), float64(float32(0.1))}, {"<f8", f64(-0.1), -0.1}, {"bfloat16", half(0x3f80), 1.0},
		{"<c8", append(f32(1), f32(-2)...), complex(1, -2)}, {"<c16", append(f64(0.5), f64(2)...), complex(0.5, 2)},
		{"S4", []byte("ab\x00\x00"), []byte("ab")}, {"S3", []byte("a\x00b"), []byte("a\x00b")}, {"V2", []byte("a\x00"), []byte("a\x00")},
		{"<U2", []byte{0xe9, 0, 0, 0, 0, 0, 0, 0}, "é"}, {"<U1", []byte{0xff, 0xff, 0xff, 0x7f}, "\ufffd"}, {"<U1", []byte{0, 0xd8, 0, 0}, "\ufffd"}, {"<U0", nil, ""},
		{"<M8[D]", i64(-1), Time{-1, "D", false}}, {"<m8[25s]", i64(4), Time{4, "25s", true}},
	} {
		d, err := ParseSpelling(c.dtype)
		if err != nil {
			t.Fatal(err)
		}
		big := *d
		big.Big = true
		turned := append([]byte{}, c.data...)
		part := d.Size
		switch d.Kind {
		case 'c':
			part /= 2
		case 'U':
			part = 4
		case 'S', 'V':
			if d.Name == "" {
				part = 1
			}
		}
		for i := 0; i < len(turned); i += part {
			for a, b := i, i+part-1; a < b; a, b = a+1, b-1 {
				turned[a], turned[b] = turned[b], turned[a]
			}
		}
		little := *d
		little.Big = false
		for _, v := range []struct {
			d    *DType
			data []byte
		}{{&little, c.data}, {&big, turned}} {
			odd := append([]byte{0xaa}, append(v.data, 0xaa, 0xaa)...)[1:]
			if got := v.d.Value(odd); !reflect.DeepEqual(got, c.want) {
				t.Errorf("%s big=%v % x: %#v, want %#v", c.dtype, v.d.Big, v.data, got, c.want)
			}
		}
	}
	nan := DType{Kind: 'f', Size: 2}
	if v := nan.Value([]byte{1, 0x7c}); !math.IsNaN(v.(float64)) {
		t.Errorf("half NaN: %v", v)
	}
	d, err := ParseSpelling("[('a', 'i1'), ('b', [('x', '<u2', (2, 2))]), ('c', 'S2', (3,))]")
	if err != nil {
		t.Fatal(err)
	}
	got := d.Value([]byte{0xff, 1, 0, 2, 0, 3, 0, 4, 0, 'a', 0, 0, 0, 'b', 'c', 9})
	want := []any{int64(-1), []any{[]any{[]any{uint64(1), uint64(2)}, []any{uint64(3), uint64(4)}}}, []any{[]byte("a"), []byte{}, []byte("bc")}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%#v, want %#v", got, want)
	}
	for _, empty := range []DType{{Elem: &DType{Kind: 'i', Size: 1}, Shape: []int{math.MaxInt32, 0}}, {Elem: &DType{Kind: 'S'}, Shape: []int{math.MaxInt32}}} {
		if v := empty.Value(nil); !reflect.DeepEqual(v, []any{}) {
			t.Errorf("%v: %v", empty.String(), v)
		}
	}
}

// What C's long doubles are, as np.longdouble(…).tobytes() has them on amd64 and arm64.
func TestLongDouble(t *testing.T) {
	for _, c := range []struct {
		read func([]byte) float64
		hex  string // highest byte first
		want float64
	}{
		{extended, "3fff8000000000000000", 1}, {extended, "bffec000000000000000", -0.75}, {extended, "00000000000000000000", 0},
		{extended, "7fff8000000000000000", math.Inf(1)}, {extended, "ffff8000000000000000", math.Inf(-1)}, {extended, "7fffc000000000000000", math.NaN()},
		{extended, "4000c90fdaa22168c235", math.Pi}, {extended, "7ffe8000000000000000", math.Inf(1)}, {extended, "3fff8000000000000401", 1 + 0x1p-52},
		{quadruple, "3fff0000000000000000000000000000", 1}, {quadruple, "bffe8000000000000000000000000000", -0.75}, {quadruple, "4000921fb54442d18469898cc51701b8", math.Pi},
		{quadruple, "7fff0000000000000000000000000000", math.Inf(1)}, {quadruple, "7fff8000000000000000000000000000", math.NaN()}, {quadruple, "7fff0000000000000000000000000001", math.NaN()},
		{quadruple, "80000000000000000000000000000000", math.Copysign(0, -1)}, {quadruple, "3fff0000000000000800000000000001", 1 + 0x1p-52}, {quadruple, "3fff0000000000000800000000000000", 1},
	} {
		p := make([]byte, 16)
		for i := range len(c.hex) / 2 {
			fmt.Sscanf(c.hex[len(c.hex)-2-2*i:][:2], "%02x", &p[i])
		}
		if got := c.read(p); got != c.want && !(got != got && c.want != c.want) || math.Signbit(got) != math.Signbit(c.want) && got == got {
			t.Errorf("%s: %v, want %v", c.hex, got, c.want)
		}
	}
	for _, d := range []DType{{Kind: 'f', Size: 16, Big: true}, {Kind: 'f', Size: 12}, {Kind: 'f', Size: 16}} {
		if got := d.Float()(make([]byte, d.Size)); got != 0 {
			t.Errorf("%v: %v", d, got)
		}
	}
}

func TestTimeString(t *testing.T) {
	for _, c := range []struct {
		n    int64
		unit string
		want string
	}{
		{0, "Y", "1970"}, {-1971, "Y", "-001"}, {100_000, "Y", "101970"}, {13, "M", "1971-02"}, {-1, "M", "1969-12"}, {1, "W", "1970-01-08"},
		{0, "D", "1970-01-01"}, {-1, "D", "1969-12-31"}, {11016, "D", "2000-02-29"}, {-719528, "D", "0000-01-01"}, {-719529, "D", "-001-12-31"}, {2932897, "D", "10000-01-01"},
		{-1, "h", "1969-12-31T23"}, {61, "m", "1970-01-01T01:01"}, {86399, "s", "1970-01-01T23:59:59"}, {2, "25s", "1970-01-01T00:00:50"},
		{-1, "ms", "1969-12-31T23:59:59.999"}, {1, "as", "1970-01-01T00:00:00.000000000000000001"}, {math.MaxInt64, "ns", "2262-04-11T23:47:16.854775807"},
		{NaT, "s", "NaT"}, {5, "", "5"}, {5, "generic", "5 generic"}, {math.MaxInt64, "7D", "9223372036854775807 7D"},
	} {
		if got := (Time{c.n, c.unit, false}).String(); got != c.want {
			t.Errorf("%d %s: %s, want %s", c.n, c.unit, got, c.want)
		}
	}
	if got := (Time{-3, "ms", true}).String(); got != "-3 ms" {
		t.Error(got)
	}
}

// Every day of some thousand years follows the one before.
func TestDates(t *testing.T) {
	y, m, d := 1, 1, 1
	length := func() int {
		switch {
		case m == 2 && (y%4 == 0 && y%100 != 0 || y%400 == 0):
			return 29
		case m == 2:
			return 28
		case m == 4 || m == 6 || m == 9 || m == 11:
			return 30
		}
		return 31
	}
	for days := int64(-719162); y < 2600; days++ {
		if want := fmt.Sprintf("%04d-%02d-%02d", y, m, d); date(days) != want {
			t.Fatalf("day %d: %s, want %s", days, date(days), want)
		}
		if d++; d > length() {
			d, m = 1, m+1
		}
		if m > 12 {
			m, y = 1, y+1
		}
	}
}

func TestParseSpelling(t *testing.T) {
	for in, want := range map[string]string{
		"float32": "<f4", " u1 ": "|u1", "bool": "|b1", "'<f8'": "<f8", "bfloat16": "bfloat16", "complex128": "<c16", "('<f4', (2, 3))": "('<f4', (2, 3))",
		"[('x', '<i4'), ('y', 'u1')]": "[('x', '<i4'), ('y', 'u1')]",
		"{'names': ['b', 'a'], 'formats': ['<f8', 'u1'], 'offsets': [8, 0], 'itemsize': 20}":                                  "{'names': ['a', 'b'], 'formats': ['u1', '<f8'], 'offsets': [0, 8], 'itemsize': 20}",
		"{'names': ['a'], 'formats': [{'names': ['x'], 'formats': ['i1'], 'offsets': [3]}], 'offsets': [1], 'aligned': True}": "{'names': ['a'], 'formats': [{'names': ['x'], 'formats': ['i1'], 'offsets': [3], 'itemsize': 4}], 'offsets': [1], 'itemsize': 5}",
		"[('n', {'names': ['x'], 'formats': [('<f4', (2,))], 'offsets': [4], 'itemsize': 12}, (3,))]":                         "[('n', {'names': ['x'], 'formats': [('<f4', (2,))], 'offsets': [4], 'itemsize': 12}, (3,))]",
	} {
		if BigEndian {
			t.Skip("the spellings are little-endian")
		}
		d, err := ParseSpelling(in)
		if err != nil || d.String() != want {
			t.Errorf("%s: %v, %v; want %s", in, d, err, want)
			continue
		}
		back, err := ParseSpelling(d.String())
		if err != nil || !reflect.DeepEqual(back, d) {
			t.Errorf("%s reads back as %+v, %v", d, back, err)
		}
	}
	for _, in := range []string{"", "x", "O", "float31", "[", "[]", "[('x',)]", "{}", "{'names': ['a']}", "{'names': ['a'], 'formats': ['i1'], 'offsets': [-1]}",
		"{'names': ['a', 'b'], 'formats': ['<i4', '<i4'], 'offsets': [0, 2]}", "{'names': ['a'], 'formats': ['<i4'], 'offsets': [0], 'itemsize': 3}",
		"{'names': ['a'], 'formats': ['<i4'], 'offsets': ['0']}", "{'names': ['a'], 'formats': ['O'], 'offsets': [0]}", "{'names': 'a', 'formats': ['i1'], 'offsets': [0]}",
		"{'names': ['a'], 'formats': ['i1'], 'offsets': [0], 'code': 1}", "__import__('os')", "(1, 2, 3)", "[('\xd7', 'i1')]", strings.Repeat("[", 100)} {
		if d, err := ParseSpelling(in); !errors.Is(err, ErrDType) && !errors.Is(err, errLiteral) {
			t.Errorf("%s: %v, %v", in, d, err)
		}
	}
}

// Whatever type is understood, its elements can be read from any bytes.
func FuzzValue(f *testing.F) {
	f.Add("[('a', '>i4'), ('b', '<U3', (2,))]", []byte("0123456789"))
	f.Add("{'names': ['x'], 'formats': ['<M8[7Y]'], 'offsets': [3], 'itemsize': 16}", []byte("\x00\x00\x00\x00\x00\x00\x00\x80\xff\xff\xff\xff\xff"))
	f.Add(">c32", []byte{})
	f.Fuzz(func(t *testing.T, dtype string, data []byte) {
		d, err := ParseSpelling(dtype)
		if err != nil || d.Size > 1<<16 {
			return
		}
		p := make([]byte, d.Size)
		copy(p, data)
		_ = d.Value(p)
		if back, err := ParseSpelling(d.String()); err != nil || back.String() != d.String() {
			t.Errorf("%s reads back as %v, %v", d, back, err)
		}
	})
}
