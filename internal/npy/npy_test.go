package npy_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/sharedmem/shm/internal/npy"
	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

// golden is a line of testdata/headers.json, which golden.py wrote.
type golden struct {
	NumPy, Header, DType, SHA256 string
	Version                      []byte // that golden.py asked for, if any
	Shape                        []int64
	Fortran                      bool
	Size                         int
	Fields                       [][]any // name, offset, size
}

func (g *golden) bytes() []byte {
	var b []byte
	for _, r := range g.Header { // a character for each byte
		b = append(b, byte(r))
	}
	return b
}

func goldens(t testing.TB) []golden {
	raw, err := os.ReadFile("testdata/headers.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []golden
	for dec := json.NewDecoder(bytes.NewReader(raw)); ; {
		var g struct {
			golden
			Version []int
		}
		if err := dec.Decode(&g); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		for _, v := range g.Version {
			g.golden.Version = append(g.golden.Version, byte(v))
		}
		all = append(all, g.golden)
	}
	if len(all) < 120 {
		t.Fatalf("only %d headers", len(all))
	}
	return all
}

// What NumPy writes is read as NumPy reads it, and written as NumPy 2 writes it.
func TestGolden(t *testing.T) {
	for _, g := range goldens(t) {
		if g.Header == "" {
			many := npy.Header{Type: npy.DType{Kind: 'V', Fields: []npy.Field{}}, Shape: []int{2}}
			for i := range 2500 {
				many.Type.Fields = append(many.Type.Fields,
					npy.Field{Name: fmt.Sprintf("field number %d", i), Offset: 4 * i, Type: npy.DType{Kind: 'f', Size: 4}})
			}
			many.Type.Size = 4 * 2500
			b, err := many.Append(nil)
			if sum := sha256.Sum256(b); err != nil || hex.EncodeToString(sum[:]) != g.SHA256 || len(b) != g.Size || many.Version != [2]byte{2, 0} {
				t.Errorf("NumPy %s: 2500 fields: other bytes, %d instead of %d, %v", g.NumPy, len(b), g.Size, err)
			}
			if back, err := npy.Parse(b, -1); err != nil || !reflect.DeepEqual(back, &many) {
				t.Errorf("2500 fields: read as %v, %v", back, err)
			}
			continue
		}
		b := g.bytes()
		h, err := npy.Parse(b, -1)
		if slices.ContainsFunc(g.Shape, func(n int64) bool { return n > math.MaxInt }) {
			if !errors.Is(err, npy.ErrHeader) {
				t.Errorf("%.200q: %v, and this machine has not so much memory", g.Header, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("NumPy %s: %.200q: %v", g.NumPy, g.Header, err)
			continue
		}
		// The first of them put blanks elsewhere.
		spelt, want := h.Type.String(), g.DType
		if g.NumPy[0] == '1' {
			spelt, want = strings.ReplaceAll(spelt, " ", ""), strings.ReplaceAll(want, " ", "")
		}
		if spelt != want || h.Type.Size != g.Size {
			t.Errorf("%.200q is %s of %d bytes, and NumPy %s has %s of %d", g.Header, spelt, h.Type.Size, g.NumPy, want, g.Size)
		}
		shape := []int64{}
		for _, n := range h.Shape {
			shape = append(shape, int64(n))
		}
		if !slices.Equal(shape, g.Shape) || h.Fortran != g.Fortran || h.Offset != len(b) {
			t.Errorf("%.200q: %v, Fortran %v, %d bytes", g.Header, shape, h.Fortran, h.Offset)
		}
		if len(h.Type.Fields) != len(g.Fields) {
			t.Fatalf("%.200q: %d fields", g.Header, len(h.Type.Fields))
		}
		for i, f := range h.Type.Fields {
			if want := g.Fields[i]; f.Name != want[0] || float64(f.Offset) != want[1] || float64(f.Type.Size) != want[2] {
				t.Errorf("%.200q: field %d is %v, want %v", g.Header, i, f, want)
			}
		}
		if g.NumPy[0] == '1' || g.Version != nil {
			continue // without the room to grow, or in a version that was asked for
		}
		again := *h
		if got, err := again.Append([]byte("x")); err != nil || !bytes.Equal(got[1:], b) {
			t.Errorf("written again, %q is %q, %v", b, got, err)
		}
		if !reflect.DeepEqual(&again, h) {
			t.Errorf("written again, %v is %v", h, again)
		}
	}
}

// A header cut off anywhere is refused; and so is what promises more than there
// is.
func TestCut(t *testing.T) {
	for _, g := range goldens(t) {
		b := g.bytes()
		for n := range len(b) {
			if _, err := npy.Parse(b[:n], -1); !errors.Is(err, npy.ErrHeader) {
				t.Fatalf("%q: %v", b[:n], err)
			}
			if h, _, err := npy.Read(bytes.NewReader(b[:n])); !errors.Is(err, npy.ErrHeader) {
				t.Fatalf("%q is read: %v, %v", b[:n], h, err)
			}
		}
		h, err := npy.Parse(b, -1)
		if err != nil {
			continue // on 32 bits
		}
		for size, ok := range map[int]bool{len(b) + h.Bytes(): true, len(b) + h.Bytes() + 1: true, len(b) + h.Bytes() - 1: false} {
			if _, err := npy.Parse(b, size); (err == nil) != (ok || size < 0) || err != nil && !errors.Is(err, npy.ErrHeader) {
				t.Errorf("%.200q of %d bytes in %d: %v", b, len(b)+h.Bytes(), size, err)
			}
		}
		r, head, err := npy.Read(iotest.OneByteReader(io.MultiReader(bytes.NewReader(b), strings.NewReader("and elements"))))
		if err != nil || !bytes.Equal(head, b) || !reflect.DeepEqual(r, h) {
			t.Errorf("%.200q is read as %v, %v", b, r, err)
		}
	}
	broken := errors.New("broken")
	for n := range 20 {
		r := io.MultiReader(strings.NewReader("\x93NUMPY\x01\x00v\x00{'descr': '<f8', "[:n]), iotest.ErrReader(broken))
		if _, _, err := npy.Read(r); !errors.Is(err, broken) || errors.Is(err, npy.ErrHeader) {
			t.Errorf("the reader fails after %d bytes: %v", n, err)
		}
	}
}

// head is a header with this text, of version 1.0.
func head(text string) []byte {
	b := []byte(npy.Magic + "\x01\x00")
	return append(binary.LittleEndian.AppendUint16(b, uint16(len(text))), text...)
}

func dict(descr, order, shape string) []byte {
	return head("{'descr': " + descr + ", 'fortran_order': " + order + ", 'shape': " + shape + "}")
}

// Other ways to write the same, of other programs and of older NumPys.
func TestOtherWriters(t *testing.T) {
	type want struct {
		dtype   string
		shape   []int
		fortran bool
	}
	f8 := want{"<f8", []int{3, 4}, false}
	for text, want := range map[string]want{
		"{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }             \n": f8, // 16 bytes aligned
		"{'shape': (3L, 4L), 'fortran_order': False, 'descr': '<f8'}\n":              f8, // Python 2
		"\t {\"shape\":(3,4),\n\"descr\":\"<f8\" , \"fortran_order\":False}":         f8,
		"({'shape': ((3), (+4),), 'descr': ('<f8'), 'fortran_order': (False)})":      f8,
		`{'descr': '\x3cf\u0038', 'fortran_order': False, 'shape': (3,4)}`:           f8,
		"{'descr': 'f8', 'fortran_order': True, 'shape': (0,)}":                      {"<f8", []int{0}, true},
		"{'descr': '|i4', 'fortran_order': True, 'shape': ()}":                       {"<i4", []int{}, true},
		"{'descr': '?', 'fortran_order': True, 'shape': ()}":                         {"|b1", []int{}, true},
		"{'descr': '>u1', 'fortran_order': True, 'shape': (-0,)}":                    {"|u1", []int{0}, true},
		"{'descr': 'a5', 'fortran_order': True, 'shape': (1,)}":                      {"|S5", []int{1}, true},
		"{'descr': '<V5', 'fortran_order': True, 'shape': (1,)}":                     {"|V5", []int{1}, true},
		"{'descr': [('a', '<f4', 3), ('b', ('i2', (2,)), (3,))], 'fortran_order': True, 'shape': (1,)}": {
			"[('a', '<f4', (3,)), ('b', '<i2', (3, 2))]", []int{1}, true},
		"{'descr': [('\xe9', '>f4')], 'fortran_order': True, 'shape': (1,)}": {"[('é', '>f4')]", []int{1}, true},
	} {
		if npy.BigEndian {
			continue // what has no order has this machine's
		}
		h, err := npy.Parse(head(text), -1)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if h.Type.String() != want.dtype || !slices.Equal(h.Shape, want.shape) || h.Fortran != want.fortran {
			t.Errorf("%q: %v, %v, %v", text, h.Type.String(), h.Shape, h.Fortran)
		}
	}
}

func TestBadHeaders(t *testing.T) {
	const rest = ", 'fortran_order': False, 'shape': (2,)}"
	big := strings.Repeat("9", 400)
	texts := []string{
		"", " ", "{", "}", "{}", "()", "5", "'<f8'", "None", "{'descr'", "{'descr':", "{'descr': }", "{,}",
		"{'descr': '<f8'" + rest + "x", "{'descr': '<f8'" + rest + "{}", "{'descr': '<f8'" + rest + "\x00", "{'descr': '<f8'" + rest + "#",
		// Code.
		"{'descr': __import__('os').system('true')" + rest,
		"{'descr': '<f8'.upper()" + rest, "{'descr': '<f8' + ''" + rest, "{'descr': '<f8' '<f8'" + rest, "{'descr': f'<f8'" + rest,
		"{'descr': b'<f8'" + rest, "{'descr': u'<f8'" + rest, "{'descr': numpy.dtype('<f8')" + rest, "{'descr': lambda: 0" + rest,
		"{'descr': ['<f8' for _ in range(9)]" + rest, "{**{'descr': '<f8'}" + rest, "dict(descr='<f8'" + rest,
		"{'descr': '<f8', 'fortran_order': bool(1), 'shape': (2,)}", "{'descr': '<f8', 'fortran_order': not True, 'shape': (2,)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (2**3,)}", "{'descr': '<f8', 'fortran_order': False, 'shape': (9**9**9,)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (2+1,)}", "{'descr': '<f8', 'fortran_order': False, 'shape': tuple([2])}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (2,) * 3}", "{'descr': '<f8', 'fortran_order': False or True, 'shape': (2,)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (2,)} if True else {}",
		"{'descr': '<f8', 'fortran_order': True.real, 'shape': (2,)}", "{'descr': '<f8', 'fortran_order': True(), 'shape': (2,)}",
		// Keys.
		"{'descr': '<f8', 'descr': '<f8'" + rest, "{'descr': '<f8', 'fortran_order': True" + rest, "{'descr': '<f8', 'shape': (2,)" + rest,
		"{'descr': '<f8', 'fortran_order': False}", "{'descr': '<f8', 'shape': (2,)}", "{'fortran_order': False, 'shape': (2,)}",
		"{'descr': '<f8', 'more': 1" + rest, "{1: 2, 'descr': '<f8'" + rest, "{'Descr': '<f8'" + rest, "{'descr': '<f8' 'fortran_order': False, 'shape': (2,)}",
		"{'descr', '<f8', 'fortran_order': False, 'shape': (2,)}",
		// Order and shape.
		"{'descr': '<f8', 'fortran_order': 1, 'shape': (2,)}", "{'descr': '<f8', 'fortran_order': 'False', 'shape': (2,)}",
		"{'descr': '<f8', 'fortran_order': Falsehood, 'shape': (2,)}", "{'descr': '<f8', 'fortran_order': None, 'shape': (2,)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': 2}", "{'descr': '<f8', 'fortran_order': False, 'shape': (2)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': [2]}", "{'descr': '<f8', 'fortran_order': False, 'shape': (2.0,)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}", "{'descr': '<f8', 'fortran_order': False, 'shape': (0x2,)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (1_0,)}", "{'descr': '<f8', 'fortran_order': False, 'shape': (1e2,)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (2 3)}", "{'descr': '<f8', 'fortran_order': False, 'shape': (,)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (True,)}", "{'descr': '<f8', 'fortran_order': False, 'shape': ('2',)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (- 2,)}", "{'descr': '<f8', 'fortran_order': False, 'shape': (--2,)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (2LL,)}", "{'descr': '<f8', 'fortran_order': False, 'shape': (2j,)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (" + big + ",)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (18446744073709551617,)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (9223372036854775807,)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (0, 4294967296, 4294967296)}",
		"{'descr': '|u1', 'fortran_order': False, 'shape': (3037000500, 3037000500)}",
		"{'descr': '<f8', 'fortran_order': False, 'shape': (" + strings.Repeat("1,", 65) + ")}",
		// Types.
		"{'descr': ''" + rest, "{'descr': '<'" + rest, "{'descr': '<f'" + rest, "{'descr': '<f3'" + rest, "{'descr': '<f-8'" + rest,
		"{'descr': '<f+8'" + rest, "{'descr': '<f 8'" + rest, "{'descr': '<x8'" + rest, "{'descr': '<i16'" + rest, "{'descr': '<b2'" + rest,
		"{'descr': 'float64'" + rest, "{'descr': '<f8,<f8'" + rest, "{'descr': '(2,)f8'" + rest, "{'descr': '<c4'" + rest,
		"{'descr': '|O'" + rest, "{'descr': '|O8'" + rest, "{'descr': 'O'" + rest, "{'descr': '|T16'" + rest,
		"{'descr': '<M8[xs]'" + rest, "{'descr': '<M8[ns'" + rest, "{'descr': '<M8[]'" + rest, "{'descr': '<M4[ns]'" + rest,
		"{'descr': '<M8[ns]]'" + rest, "{'descr': '<M8[s/100]'" + rest, "{'descr': '<f8[ns]'" + rest,
		"{'descr': '|S99999999999'" + rest, "{'descr': '<U2147483647'" + rest, "{'descr': '|S" + big + "'" + rest,
		"{'descr': 8" + rest, "{'descr': True" + rest, "{'descr': {}" + rest, "{'descr': ()" + rest, "{'descr': ('<f8',)" + rest,
		"{'descr': ('<f8', (2,))" + rest, "{'descr': ['<f8']" + rest, "{'descr': [[]]" + rest, "{'descr': [()]" + rest,
		"{'descr': [('a',)]" + rest, "{'descr': [('a', '<f8', (2,), 1)]" + rest, "{'descr': [(1, '<f8')]" + rest,
		"{'descr': [('a', '|O')]" + rest, "{'descr': [('a', '<f8'), ('a', '<i4')]" + rest, "{'descr': [('a', '<f8', '2')]" + rest,
		"{'descr': [('a', '<f8', (-2,))]" + rest, "{'descr': [('a', '<f8', [2])]" + rest, "{'descr': [('a', '<f8', True)]" + rest,
		"{'descr': [('a', '<f8', (65536, 65536))]" + rest, "{'descr': [('a', '<f8', (" + strings.Repeat("1,", 65) + "))]" + rest,
		"{'descr': [('a', ('<f8', (" + strings.Repeat("1,", 40) + ")), (" + strings.Repeat("1,", 40) + "))]" + rest,
		"{'descr': [(('t', 'a', 'b'), '<f8')]" + rest, "{'descr': [((1, 'a'), '<f8')]" + rest, "{'descr': [(('t', 2), '<f8')]" + rest,
		"{'descr': [('a', '|S2147483647'), ('b', '|S2147483647')]" + rest, "{'descr': [('', '|V2147483647'), ('', '|V1')]" + rest,
		// Strings.
		"{'descr': '<f8" + rest, "{'descr': \"<f8'" + rest, "{'descr': '<f\n8'" + rest, `{'descr': '\q'` + rest, `{'descr': '\x4'` + rest,
		`{'descr': '\N{BULLET}'` + rest, `{'descr': '\074f8'` + rest, `{'descr': '\ud800'` + rest, `{'descr': '\U00110000'` + rest,
		`{'descr': '\x+4'` + rest, `{'descr': '\`, `{'descr': '\x`, `{'descr': '\u12`, `{'descr': '''<f8'''` + rest, `{'descr': r'<f8'` + rest,
		"{'descr': '\\\xe9'" + rest,
		// Brackets.
		strings.Repeat("(", 65000), strings.Repeat("[", 65000), strings.Repeat("{'a':", 13000), strings.Repeat("[", 65) + strings.Repeat("]", 65),
		"{'descr': " + strings.Repeat("[('a', ", 40) + "'<f8'" + strings.Repeat(")]", 40) + rest,
		"{'descr': [('a', '<f8']" + rest, "{'descr': [('a', '<f8'})" + rest, "{'descr': ['a' 'b']" + rest,
	}
	for _, text := range texts {
		_, err := npy.Parse(head(text), -1)
		if !errors.Is(err, npy.ErrHeader) {
			t.Errorf("%.200q: %v", text, err)
		} else if len(err.Error()) > 400 {
			t.Errorf("%.200q: so long an error: %v", text, err)
		}
	}
	for name, b := range map[string][]byte{
		"nothing":        {},
		"magic":          []byte("\x92NUMPY\x01\x00\x02\x00{}"),
		"version 0":      []byte(npy.Magic + "\x00\x00\x02\x00{}"),
		"version 4":      []byte(npy.Magic + "\x04\x00\x02\x00\x00\x00{}"),
		"version 1.1":    []byte(npy.Magic + "\x01\x01\x02\x00{}"),
		"longer":         []byte(npy.Magic + "\x01\x00\xff\xff{}"),
		"much longer":    []byte(npy.Magic + "\x02\x00\xff\xff\xff\xff{}"),
		"as long as may": []byte(npy.Magic + "\x02\x00\x00\x00\x10\x00{}"),
		"not UTF-8":      []byte(npy.Magic + "\x03\x00\x2d\x00\x00\x00{'descr':'\xe9','fortran_order':True,'shape':()}"),
	} {
		if _, err := npy.Parse(b, -1); !errors.Is(err, npy.ErrHeader) {
			t.Errorf("%s: %v", name, err)
		}
		if _, _, err := npy.Read(bytes.NewReader(b)); !errors.Is(err, npy.ErrHeader) {
			t.Errorf("%s, read: %v", name, err)
		}
	}
	for descr, want := range map[string]string{
		"'|O'":                              "Python objects are pointers",
		"[('a', [('b', '<f8'), ('c', 5)])]": `'a': field 1: 'c': bad dtype: neither a string nor`,
		"'" + strings.Repeat("x", 99) + "'": "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…'",
	} {
		if _, err := npy.Parse(dict(descr, "True", "()"), -1); !errors.Is(err, npy.ErrDType) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.50s: %v, want it to say %s", descr, err, want)
		}
	}
}

func TestElements(t *testing.T) {
	for _, c := range []struct {
		shape []int
		size  int
		n     int
		ok    bool
	}{
		{nil, 8, 1, true},
		{[]int{2, 3}, 8, 6, true},
		{[]int{2, 0, 3}, 8, 0, true},
		{[]int{math.MaxInt}, 1, math.MaxInt, true},
		{[]int{math.MaxInt}, 0, math.MaxInt, true},
		{[]int{math.MaxInt}, 2, 0, false},
		{[]int{math.MaxInt/8 + 1}, 8, 0, false},
		{[]int{math.MaxInt / 8}, 8, math.MaxInt / 8, true},
		{[]int{0, math.MaxInt, 2}, 1, 0, false},
		{[]int{math.MaxInt, math.MaxInt, math.MaxInt}, 8, 0, false},
		{[]int{1 << (strconv.IntSize / 2), 1 << (strconv.IntSize / 2)}, 1, 0, false},
		{[]int{-1}, 1, 0, false},
		{[]int{0, -1}, 1, 0, false},
		{[]int{math.MinInt}, 1, 0, false},
	} {
		if n, ok := npy.Elements(c.shape, c.size); n != c.n || ok != c.ok {
			t.Errorf("%v of %d bytes: %d, %v", c.shape, c.size, n, ok)
		}
	}
	// Append has its limit as well.
	h := npy.Header{Type: npy.DType{Kind: 'V', Size: 1, Fields: []npy.Field{
		{Name: strings.Repeat("a", npy.MaxHeader), Type: npy.DType{Kind: 'u', Size: 1}}}}}
	if _, err := h.Append(nil); !errors.Is(err, npy.ErrDType) {
		t.Errorf("a field's name of a MiB: %v", err)
	}
}

// What is accepted, written and read again is the same.
func FuzzHeader(f *testing.F) {
	for _, g := range goldens(f) {
		f.Add(g.bytes())
	}
	f.Add(dict("[('a', '<f4', 3), ('b', ('i2', (2,)), (3,))]", "True", "(3L,)"))
	f.Add(dict(`[(('\x3c', 'b'), '|V5'), ('', '|V5')]`, "False", "(0, 5)"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := npy.Parse(b, len(b)+1<<20)
		if r, head, rerr := npy.Read(bytes.NewReader(b)); rerr == nil && err == nil && !reflect.DeepEqual(r, h) || err == nil && rerr != nil {
			t.Fatalf("in a stream it is %v, %q, %v", r, head, rerr)
		}
		if err != nil {
			if !errors.Is(err, npy.ErrHeader) {
				t.Fatal(err)
			}
			return
		}
		if h.Offset > len(b) || h.Bytes() < 0 || h.Bytes() > 1<<20+len(b) || len(h.Shape) > npy.MaxDims {
			t.Fatalf("%+v of %d bytes", h, len(b))
		}
		again := *h
		p, err := again.Append(nil)
		if err != nil {
			if len(b) < npy.MaxHeader/16 { // as escapes are longer than what they stand for
				t.Fatal(err)
			}
			return
		}
		if len(p)%npy.Align != 0 || len(p) != again.Offset {
			t.Fatalf("%q ends at %d", p, len(p))
		}
		back, err := npy.Parse(p, -1)
		if err != nil || !reflect.DeepEqual(back, &again) {
			t.Fatalf("%+v, written as %q, is %+v, %v", h, p, back, err)
		}
		if back.Version, back.Offset = h.Version, h.Offset; !reflect.DeepEqual(back, h) {
			t.Fatalf("%+v became %+v", h, back)
		}
		npy.Declare("t", &h.Type)
		if err := npy.Match(&h.Type, &back.Type); err != nil {
			t.Fatalf("%v does not match itself: %v", h.Type.String(), err)
		}
	})
}

func FuzzType(f *testing.F) {
	for _, g := range goldens(f) {
		f.Add(g.DType)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := npy.ParseType(s)
		if err != nil {
			if !errors.Is(err, npy.ErrDType) || len(err.Error()) > 1000 {
				t.Fatal(err)
			}
			return
		}
		if d.Size < 0 || d.IsStruct() || d.Elem != nil {
			t.Fatalf("%+v", d)
		}
		spelt := d.String()
		if again, err := npy.ParseType(spelt); err != nil || !reflect.DeepEqual(again, d) {
			t.Fatalf("%+v is spelt %q, which is %+v, %v", d, spelt, again, err)
		}
	})
}
