package list_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/list"
)

// golden is a list that CPython made, and what it read from it.
type golden struct {
	Name, Python, Literal, Hex, Format string
	Readback                           []string // what repr says of each item
	Size                               int
}

func (g *golden) bytes(t testing.TB) []byte {
	t.Helper()
	b, err := hex.DecodeString(g.Hex)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (g *golden) layout() list.Layout {
	if strings.HasPrefix(g.Python, "3.8") {
		return list.Python38
	}
	return list.Python39
}

// vectors returns the same lists of CPython 3.8 and of a later one.
func vectors(t testing.TB) (out []golden) {
	t.Helper()
	raw, err := os.ReadFile("../testdata/vectors/shareable_list_golden.json")
	if err == nil {
		err = json.Unmarshal(raw, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(out) != 2*len(goldenItems) {
		t.Fatalf("%d vectors, want two for each of %d", len(out), len(goldenItems))
	}
	return out
}

// blockOf makes a block with these bytes.
func blockOf(t testing.TB, b []byte) *shm.Block {
	t.Helper()
	block, err := shm.Create(shmtest.Name(t), len(b), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = block.Unlink() })
	copy(block.Bytes(), b)
	return block
}

// goldenItems has what CPython was given for the vector of this name: its
// literal, in Go.
var goldenItems = map[string][]any{
	"empty":                 {},
	"int_zero":              {int64(0)},
	"int_one":               {int64(1)},
	"int_minus_one":         {int64(-1)},
	"int_i64max":            {int64(math.MaxInt64)},
	"int_i64min":            {int64(math.MinInt64)},
	"ints_small":            {int64(1), int64(2), int64(3)},
	"float_zero":            {0.0},
	"float_negzero":         {math.Copysign(0, -1)},
	"float_1_5":             {1.5},
	"float_inf":             {math.Inf(1)},
	"float_ninf":            {math.Inf(-1)},
	"float_nan":             {math.Float64frombits(0x7ff8000000000000)}, // math.NaN has another payload
	"float_negnan":          {math.Float64frombits(0xfff8000000000000)},
	"float_min_subnormal":   {5e-324},
	"float_max":             {1.7976931348623157e308},
	"bool_true":             {true},
	"bool_false":            {false},
	"none":                  {nil},
	"str_empty":             {""},
	"str_a":                 {"a"},
	"str_7":                 {"abcdefg"},
	"str_8":                 {"abcdefgh"},
	"str_15":                {"abcdefghijklmno"},
	"str_16":                {"abcdefghijklmnop"},
	"str_e_acute":           {"é"},
	"str_4_e_acute":         {"éééé"},
	"str_emoji1":            {"😀"},
	"str_emoji2":            {"😀😀"},
	"str_emoji3_truncated":  {"😀😀😀"},
	"str_7cjk_truncated":    {"中中中中中中中"},
	"str_8_emoji_truncated": {strings.Repeat("😀", 8)},
	"str_nul_inside":        {"a\x00b"},
	"str_trailing_nul":      {"ab\x00"},
	"str_only_nul":          {"\x00"},
	"bytes_empty":           {[]byte{}},
	"bytes_a":               {[]byte("a")},
	"bytes_7":               {[]byte("1234567")},
	"bytes_8":               {[]byte("12345678")},
	"bytes_trailing_nul":    {[]byte("ab\x00")},
	"bytes_8_trailing_nul":  {[]byte("1234567\x00")},
	"bytes_only_nuls":       {[]byte("\x00\x00")},
	"bytes_inner_nul":       {[]byte("a\x00b")},
	"bytes_ff":              {[]byte("\xff\xfe")},
	"bytes_all":             {allBytes()},
	"mixed":                 {"howdy", []byte("HoWdY"), -273.154, int64(100), nil, true, int64(42)},
	"mixed_all":             {int64(0), int64(-1), 1.5, true, false, nil, "héllo", []byte("ab\x00c"), "", []byte{}},
	"str_1000":              {strings.Repeat("x", 1000)},
}

func allBytes() []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// wider are the vectors with text of more bytes than CPython's slot for as many
// characters is made for. Our slots are longer.
var wider = []string{"str_4_e_acute", "str_emoji2", "str_emoji3_truncated", "str_7cjk_truncated", "str_8_emoji_truncated"}

func (g *golden) items(t testing.TB) []any {
	t.Helper()
	items, ok := goldenItems[g.Name]
	if !ok {
		t.Fatalf("no items for %s", g.Literal)
	}
	return items
}

// TestGoldenModel has the model write what CPython wrote, cut text included, so
// that the other tests may trust it.
func TestGoldenModel(t *testing.T) {
	for _, g := range vectors(t) {
		if got := newModel(g.items(t), g.layout(), false, true).image(); !bytes.Equal(got, g.bytes(t)) || len(got) != g.Size {
			t.Errorf("%s of Python %s: the model has\n%swant\n%s", g.Name, g.Python, hex.Dump(got), hex.Dump(g.bytes(t)))
		}
	}
}

// TestGoldenRead opens what CPython made.
func TestGoldenRead(t *testing.T) {
	for _, g := range vectors(t) {
		t.Run(g.Python+" "+g.Name, func(t *testing.T) {
			b := blockOf(t, g.bytes(t))
			l, err := list.FromBlock(b)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			// In a whole page, as Windows has it, nothing tells the empty ones apart.
			if l.Layout() != g.layout() && (l.Len() > 0 || b.Size() == len(g.bytes(t))) {
				t.Errorf("layout %v", l.Layout())
			}
			if l.Exact() || l.Concurrent() {
				t.Error("it is taken for a list with a trailer")
			}
			newModel(g.items(t), l.Layout(), false, true).same(t, l)

			// The model has no last word about values: CPython has.
			if l.Len() != len(g.Readback) {
				t.Fatalf("%d items, want %d", l.Len(), len(g.Readback))
			}
			format := ""
			for i, want := range g.Readback {
				f, err := l.Format(i)
				if err != nil {
					t.Error(err)
				}
				format += f
				v, err := l.At(i)
				if strings.HasPrefix(want, "!UnicodeDecodeError") {
					if !errors.Is(err, list.ErrText) || !errors.Is(err, shm.ErrFormat) {
						t.Errorf("text that CPython cannot read is %q, %v", v, err)
					}
				} else if err != nil || pyRepr(v) != want {
					t.Errorf("item %d is %v, %v, want %s", i, v, err, want)
				}
			}
			if format != g.Format {
				t.Errorf("format %q, want %q", format, g.Format)
			}
			want := "ShareableList([" + strings.Join(g.Readback, ", ") + "], name='" + b.Name() + "')"
			if g.Name == "str_7cjk_truncated" {
				if !strings.HasPrefix(l.String(), "ShareableList([<") {
					t.Errorf("%v hides that its text is cut", l)
				}
			} else if l.String() != want {
				t.Errorf("%v, want %s", l, want)
			}
		})
	}
}

// TestGoldenWrite makes what CPython made, and what it should have made of text
// that it cuts.
func TestGoldenWrite(t *testing.T) {
	same := 0
	for _, g := range vectors(t) {
		for _, concurrent := range []bool{false, true} {
			l, err := list.Create(shmtest.Name(t), g.items(t), &list.Options{Layout: g.layout(), Concurrent: concurrent})
			if err != nil {
				t.Fatalf("%s: %v", g.Name, err)
			}
			want := g.bytes(t)
			if slices.Contains(wider, g.Name) {
				want = newModel(g.items(t), g.layout(), false, false).image()
				if bytes.Equal(want, g.bytes(t)) {
					t.Errorf("%s: our slot is CPython's", g.Name)
				}
				if v, err := l.At(0); v != g.items(t)[0] {
					t.Errorf("%s: %q, %v", g.Name, v, err)
				}
			} else {
				same++
			}
			got := l.Block().Bytes()
			if !bytes.Equal(got[:len(want)], want) || !concurrent && len(got) != len(want) {
				t.Errorf("%s of Python %s:\n%swant\n%s", g.Name, g.Python, hex.Dump(got), hex.Dump(want))
			}
			if err := errors.Join(l.Close(), l.Unlink()); err != nil {
				t.Error(err)
			}
		}
	}
	if want := 4 * (len(goldenItems) - len(wider)); same != want {
		t.Errorf("%d lists are CPython's, want %d", same, want)
	}
}
