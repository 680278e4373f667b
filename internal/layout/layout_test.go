package layout_test

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/shmtest"
)

// What Python's repr says of these, found by asking it.
var reprs = map[string]string{
	"":               `''`,
	"psm_1a2b3c4d":   `'psm_1a2b3c4d'`,
	"it's":           `"it's"`,
	`"it's"`:         `'"it\'s"'`,
	`back\slash`:     `'back\\slash'`,
	"a\nb\rc\td\x00": `'a\nb\rc\td\x00'`,
	"é中😀":            `'é中😀'`,
	"\u00a0\u2028":   `'\xa0\u2028'`,
	"\x7f\x80":       `'\x7f\udc80'`,
	"\U000e0001":     `'\U000e0001'`,
}

func TestPyRepr(t *testing.T) {
	for in, want := range reprs {
		if got := layout.PyRepr(in); got != want {
			t.Errorf("PyRepr(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestPyReprAsks(t *testing.T) {
	var in []string
	for s := range reprs {
		in = append(in, s)
	}
	for r := rune(0); r < 0x500; r++ {
		in = append(in, string(r))
	}
	asks(t, "os.fsdecode(b)", in, layout.PyRepr)
}

func TestPyReprBytesAsks(t *testing.T) {
	all := make([]byte, 256)
	in := []string{"", "'", `"`, `'"`, `"'"`, `it's`, `say "it's"`, `\`, `\'`, "\\x00", "ab\x00", "é中😀", "\n\r\t\v\f"}
	for c := range all {
		all[c] = byte(c)
		in = append(in, string(all[c:c+1]), "'"+string(all[c:c+1])+`"`)
	}
	asks(t, "b", append(in, string(all)), func(s string) string { return layout.PyReprBytes([]byte(s)) })
}

func TestPyReprFloatAsks(t *testing.T) {
	var in []string
	add := func(f float64) {
		for _, f := range []float64{f, -f, math.Nextafter(f, 0), math.Nextafter(f, math.Inf(1))} {
			in = append(in, string(binary.BigEndian.AppendUint64(nil, math.Float64bits(f))))
		}
	}
	for _, f := range []float64{0, 1, 0.1, 1.0 / 3, 273.154, math.Pi, 123456789012345678, math.Inf(1), math.NaN(), 1 << 53, 1 << 63, 9007199254740993} {
		add(f)
	}
	// Where repr changes between its two ways to write them, and everywhere else.
	for e := -324; e <= 308; e++ {
		f, err := strconv.ParseFloat(fmt.Sprintf("1e%d", e), 64)
		if err != nil {
			t.Fatal(err)
		}
		add(f)
	}
	for bit := range 64 {
		add(math.Float64frombits(1 << bit))
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		add(math.Float64frombits(r.Uint64()))
		add(float64(r.Int64()>>r.IntN(64)) / float64(int64(1)<<r.IntN(20)))
	}
	asks(t, "struct.unpack('>d', b)[0]", in, func(s string) string {
		return layout.PyReprFloat(math.Float64frombits(binary.BigEndian.Uint64([]byte(s))))
	})
}

// asks compares ours with what every Python's repr says of value, an expression
// of the bytes b.
func asks(t *testing.T, value string, in []string, ours func(string) string) {
	t.Helper()
	var hexes []string
	for _, s := range in {
		hexes = append(hexes, hexOf(s))
	}
	q, err := json.Marshal(hexes)
	if err != nil {
		t.Fatal(err)
	}
	for _, py := range shmtest.Pythons(t) {
		cmd := py.Cmd(t.Context(), "-c", `import sys, json, os, struct
items = [bytes.fromhex(h) for h in json.load(sys.stdin)]
print(json.dumps([repr(`+value+`).encode("utf-8", "surrogatepass").hex() for b in items]))`)
		cmd.Env = append(cmd.Environ(), "PYTHONUTF8=1")
		cmd.Stdin, cmd.Stderr = strings.NewReader(string(q)), os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatal(err)
		}
		if len(got) != len(in) {
			t.Fatalf("%v: %d answers to %d questions", py, len(got), len(in))
		}
		for i, s := range in {
			if want := hexOf(ours(s)); got[i] != want {
				t.Errorf("%v: repr of %q is %s, ours %s", py, s, got[i], want)
			}
		}
	}
}

func hexOf(s string) string { return hex.EncodeToString([]byte(s)) }

func TestOffsets(t *testing.T) {
	words := make([]uint64, 8)
	b := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), 64)
	p, err := layout.At[uint32](b, 60)
	if err != nil {
		t.Fatal(err)
	}
	if off, ok := layout.Offset(b, p); off != 60 || !ok {
		t.Fatal(off, ok)
	}
	for _, bad := range []*uint64{nil, new(uint64)} {
		if _, ok := layout.Offset(b, bad); ok {
			t.Fatal("a pointer elsewhere has an offset")
		}
	}
	// A value that begins in the block but does not end there.
	if _, ok := layout.Offset(b[:62], p); ok {
		t.Fatal("a value that sticks out has an offset")
	}
	base := uintptr(unsafe.Pointer(&b[0]))
	for _, c := range []struct {
		addr uintptr
		off  int
		ok   bool
	}{{base, 0, true}, {base + 63, 63, true}, {base + 100, 63, true}, {base + 128, 0, false}, {base - 1, 0, false}} {
		if off, ok := layout.FaultOffset(b, c.addr, 128); off != c.off || ok != c.ok {
			t.Errorf("FaultOffset(base%+d) = %d, %v", int(c.addr-base), off, ok)
		}
	}
	if _, ok := layout.FaultOffset(nil, base, 128); ok {
		t.Error("a fault in no memory")
	}
}

// vectors are blocks that Python made.
func vectors(t testing.TB) map[string][]byte {
	raw, err := os.ReadFile("../../testdata/vectors/shareable_list_golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct{ Name, Python, Hex string }
	if err := json.Unmarshal(raw, &cases); err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for _, c := range cases {
		b, err := hex.DecodeString(c.Hex)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > 16 { // no items: nothing to know it by
			out[c.Name+" of "+c.Python] = b
		}
	}
	return out
}

func kind(b []byte) string {
	read := func(off int64, n int) []byte {
		if off < 0 || off > int64(len(b)) {
			return nil
		}
		return b[off:min(off+int64(n), int64(len(b)))]
	}
	return layout.Kind(read(0, layout.KindPrefix), int64(len(b)), read)
}

func TestKind(t *testing.T) {
	lists := 0
	for path, b := range vectors(t) {
		if got := kind(b); got != "list" {
			t.Errorf("%s is taken for %q", path, got)
		}
		lists++
	}
	if lists < 10 {
		t.Fatalf("only %d lists among the vectors", lists)
	}
	for want, b := range map[string]string{
		"npy":   "\x93NUMPY\x01\x00v\x00{'descr': '<f8'}",
		"arrow": "ARROW1\x00\x00",
		"empty": "\x00\x00\x00\x00",
		"text":  "Grüße, 世界\n" + strings.Repeat("\x00", 100),
		"":      "\x01\x02\x03\xff",
	} {
		if got := kind([]byte(b)); got != want {
			t.Errorf("%q is taken for %q", b, got)
		}
	}
	// A count alone does not make a list.
	almost := make([]byte, 4096)
	binary.LittleEndian.PutUint64(almost, 3)
	if got := kind(almost); got == "list" {
		t.Error("a counter is taken for a list")
	}
}

func FuzzKind(f *testing.F) {
	for _, b := range vectors(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { kind(b) })
}
