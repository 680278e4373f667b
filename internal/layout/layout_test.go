package layout_test

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
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
	for _, py := range shmtest.Pythons(t) {
		cmd := py.Cmd(t.Context(), "-c", `import sys, json, os
items = [os.fsdecode(bytes.fromhex(h)) for h in json.load(sys.stdin)]
print(json.dumps([repr(s).encode("utf-8", "surrogatepass").hex() for s in items]))`)
		var hexes []string
		for _, s := range in {
			hexes = append(hexes, hexOf(s))
		}
		q, err := json.Marshal(hexes)
		if err != nil {
			t.Fatal(err)
		}
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
		for i, s := range in {
			if want := hexOf(layout.PyRepr(s)); got[i] != want {
				t.Errorf("Python %s: repr of %q is %s, PyRepr gives %s", py.Version, s, got[i], want)
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
