package cli

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sharedmem/shm/internal/shmtest"
)

// nasty is what counting could get wrong.
var nasty = []string{
	"",
	"\n",
	"\n\n\n",
	"one",
	"one two\n",
	" \t\n\v\f\r",
	"a\rb\vc\fd\te",
	"123abc abc123 _ __1 1_ 0x1F 1e9",
	"x.y->z(a,b)[c]{d}\"e\"'f'",
	"caf\u00e9 \u00fcber na\u00efve", // letters beyond ASCII end identifiers, not words
	"a\u00a0b\u2028c\u0085d",         // and spaces beyond ASCII end identifiers only
	"a\x00b\x1cc\x1dd\x1ee\x1ff",     // str.split would split at \x1c to \x1f, bytes.split not
	"\xff\xfe\x80a\xc3",
	"\x85a\xa0b",
	strings.Repeat("long", 5000) + " " + strings.Repeat("9", 5000),
	"ABC abc Abc aBC",
	"\r\n\r\n",
	"[`@{/:", // neighbours of letters and digits
}

// model counts by other means, one thing after another.
func model(p []byte) *counter {
	c := newCounter()
	c.Bytes = uint64(len(p))
	for _, b := range p {
		if b == '\n' {
			c.Lines++
		}
	}
	c.Words = uint64(len(bytes.FieldsFunc(p, func(r rune) bool { return strings.ContainsRune(" \t\n\v\f\r", r) })))
	isName := func(r rune) bool {
		return r == '_' || '0' <= r && r <= '9' || 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z'
	}
	for _, run := range bytes.FieldsFunc(p, func(r rune) bool { return !isName(r) }) {
		if run[0] >= '0' && run[0] <= '9' {
			continue
		}
		c.Identifiers++
		if c.names[string(run)] == nil {
			c.names[string(run)] = new(uint64)
		}
		*c.names[string(run)]++
	}
	return c
}

// scramble returns n random bytes of the kinds that matter.
func scramble(r *rand.Rand, n int) []byte {
	const kinds = "aaabZ_09 \t\n\n\v\f\r.\x00\x1c\x85\xa0\xc3\xa9\xff"
	p := make([]byte, n)
	for i := range p {
		if p[i] = kinds[r.IntN(len(kinds))]; r.IntN(8) == 0 {
			p[i] = byte(r.Uint32())
		}
	}
	return p
}

func sameCounts(t *testing.T, what string, got, want *counter) {
	t.Helper()
	if got.tally != want.tally || !reflect.DeepEqual(got.list(), want.list()) {
		t.Fatalf("%s: got %+v %.300v\nwant %+v %.300v", what, got.tally, got.list(), want.tally, want.list())
	}
}

func TestDemoCount(t *testing.T) {
	c := newCounter()
	c.count([]byte("if a1 == a1 { 2b }\n\xc3\xa9t\xc3\xa9 _"))
	if want := (tally{Bytes: 26, Lines: 1, Words: 9, Identifiers: 5}); c.tally != want {
		t.Errorf("got %+v, want %+v", c.tally, want)
	}
	if got, want := c.list(), []identifier{{"a1", 2}, {"_", 1}, {"if", 1}, {"t", 1}}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}

	r := rand.New(rand.NewPCG(1, 2))
	texts := slices.Clone(nasty)
	for range 200 {
		texts = append(texts, string(scramble(r, r.IntN(2000))))
	}
	for _, text := range texts {
		c := newCounter()
		c.count([]byte(text))
		sameCounts(t, fmt.Sprintf("%.100q", text), c, model([]byte(text)))
	}
}

// sampleIndex lays random files out, as load does, and cuts the text into
// parts by weights.
func sampleIndex(r *rand.Rand, files int, weights []float64) (x *index, block []byte, whole *counter) {
	whole = newCounter()
	var contents [][]byte
	length, pathBytes := 0, 0
	for i := range files {
		p := scramble(r, r.IntN(300)*r.IntN(2))
		switch r.IntN(20) {
		case 0:
			p = bytes.Repeat([]byte("x "), r.IntN(2*pieceBytes)) // no line end for long
		case 1:
			p = bytes.Repeat([]byte("line of text\n"), r.IntN(pieceBytes/4))
		}
		contents = append(contents, p)
		length += len(p) + 1
		pathBytes += len(fmt.Sprint(i))
		whole.Files++
		whole.count(p)
	}
	text, size := layOut(len(weights), files, pathBytes, length)
	block = make([]byte, size)
	x = &index{text: text}
	at := 0
	for i, p := range contents {
		copy(block[text.off+at:], p)
		x.files = append(x.files, entry{fmt.Sprint(i), extent{at, len(p)}})
		at += len(p) + 1
	}
	x.parts = x.split(block[text.off:], weights)
	x.encode(block)
	return x, block, whole
}

func noProgress(uint64) {}

// Whatever the files and the weights, the parts together are the whole.
func TestDemoParts(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for round := range 15 {
		weights := make([]float64, 1+r.IntN(9))
		for i := range weights {
			weights[i] = 0.01 + r.Float64()
		}
		x, block, whole := sampleIndex(r, r.IntN(40), weights)
		got, err := decodeIndex(block)
		if err != nil {
			t.Fatal(err)
		}
		if got.text != x.text || !slices.Equal(got.parts, x.parts) || !slices.Equal(got.files, x.files) {
			t.Fatalf("encoded\n%+v\ndecoded\n%+v", x, got)
		}

		text := block[x.text.off:]
		var results, piped []result
		for i, part := range x.parts {
			c, err := got.countPart(t.Context(), text, part, noProgress)
			if err != nil {
				t.Fatal(err)
			}
			for piece := range got.pieces(text, part) {
				if n := bytes.LastIndexByte(text[piece.off:][:max(piece.n-1, 0)], '\n'); n >= pieceBytes {
					t.Fatalf("a piece of %d bytes has a line end at %d", piece.n, n)
				}
			}
			slot := make([]byte, slotHead+1<<22)
			c.result(time.Now()).encode(slot)
			res, err := decodeResult(slot)
			if err != nil {
				t.Fatal(err)
			}
			if res.PID != os.Getpid() || res.Cut != 0 || res.Distinct != uint64(len(c.names)) || !slices.Equal(res.List, c.list()) {
				t.Fatalf("part %d: %+v came back from its slot", i, res)
			}
			results = append(results, res)

			var sent, reply bytes.Buffer
			if err := x.sendPart(&sent, text, part, len(slot)); err != nil {
				t.Fatal(err)
			}
			if err := workPiped(t.Context(), &sent, &reply); err != nil {
				t.Fatal(err)
			}
			if res, err = decodeResult(reply.Bytes()); err != nil {
				t.Fatal(err)
			}
			piped = append(piped, res)
		}
		for name, rs := range map[string][]result{"in place": results, "through pipes": piped} {
			sum := mergeResults(rs)
			if err := sum.check(whole); err != nil {
				t.Fatalf("round %d, %d parts %s: %v", round, len(weights), name, err)
			}
			top, sure := sum.top(5)
			if list := whole.list(); !sure || !slices.Equal(top, list[:min(5, len(list))]) {
				t.Fatalf("commonest are %v (%v), want %v", top, sure, list[:min(5, len(list))])
			}
		}
	}
}

func TestDemoPartsAreFair(t *testing.T) {
	text := bytes.Repeat([]byte("0123456789\n"), 100_000)
	x := &index{files: []entry{{"a", extent{0, 400_000}}, {"b", extent{400_001, len(text) - 400_001}}}}
	parts := x.split(text, []float64{1, 1, 0.125})
	for i, want := range []int{517_647, 517_647, 64_706} {
		if diff := parts[i].n - want; diff < -12 || diff > 12 {
			t.Errorf("part %d has %d bytes, want about %d", i, parts[i].n, want)
		}
	}
}

func TestDemoMergeWithCuts(t *testing.T) {
	a := result{List: []identifier{{"x", 100}, {"y", 50}}, Cut: 3}
	b := result{List: []identifier{{"x", 10}, {"z", 7}}}
	m := mergeResults([]result{a, b})
	want := map[string]span{"x": {110, 0}, "y": {50, 0}, "z": {7, 3}}
	if !reflect.DeepEqual(m.names, want) || m.unseen != 3 {
		t.Fatalf("got %v, unseen %d, want %v, 3", m.names, m.unseen, want)
	}
	for k, wantSure := range map[int]bool{1: true, 2: true, 3: false, 4: false} {
		if top, sure := m.top(k); sure != wantSure || len(top) != min(k, 3) {
			t.Errorf("top %d: %v, sure %v, want %v", k, top, sure, wantSure)
		}
	}

	single := func(counts map[string]uint64) *counter {
		c := newCounter()
		for name, n := range counts {
			c.names[name] = &n
		}
		return c
	}
	for _, tt := range []struct {
		counts map[string]uint64
		ok     bool
	}{
		{map[string]uint64{"x": 110, "y": 50, "z": 7}, true},
		{map[string]uint64{"x": 110, "y": 50, "z": 10, "cut": 3}, true},
		{map[string]uint64{"x": 111, "y": 50, "z": 7}, false},
		{map[string]uint64{"x": 110, "y": 50, "z": 11}, false},
		{map[string]uint64{"x": 110, "y": 50, "z": 7, "cut": 4}, false},
		{map[string]uint64{"x": 110, "z": 7}, false},
	} {
		if err := m.check(single(tt.counts)); (err == nil) != tt.ok {
			t.Errorf("%v: %v", tt.counts, err)
		}
	}
	other := single(map[string]uint64{"x": 110, "y": 50, "z": 7})
	other.Words++
	if m.check(other) == nil {
		t.Error("a word more is not noticed")
	}
}

// A slot too small for the list keeps what it can, and says what it lost.
func TestDemoSlotIsFull(t *testing.T) {
	r := result{List: []identifier{{"often", 9}, {strings.Repeat("long", 50), 8}, {"some", 7}, {"rare", 1}}}
	slot := make([]byte, slotHead+2*listHead+9)
	r.encode(slot)
	got, err := decodeResult(slot)
	if err != nil || got.Cut != 8 || !slices.Equal(got.List, []identifier{{"often", 9}, {"some", 7}}) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestDemoBadSlots(t *testing.T) {
	block := make([]byte, headBytes+2*256)
	encodeResultHead(block, 2, 256)
	for i, ok := range map[int]bool{-1: false, 0: true, 1: true, 2: false} {
		if p, err := resultSlot(block, i); (err == nil) != ok || ok && len(p) != 256 {
			t.Errorf("slot %d: %d bytes, %v", i, len(p), err)
		}
	}
	for _, size := range []uint64{0, 8, 127, 129, 264, 1 << 40, 1<<64 - 8} {
		binary.LittleEndian.PutUint64(block[16:], size)
		if _, err := resultSlot(block, 1); err == nil {
			t.Errorf("slots of %d bytes are accepted", size)
		}
	}
	if _, err := resultSlot(block[:10], 0); err == nil {
		t.Error("a short block is accepted")
	}
}

func TestDemoBadPipe(t *testing.T) {
	x, block, _ := sampleIndex(rand.New(rand.NewPCG(5, 6)), 10, []float64{1})
	var b bytes.Buffer
	if err := x.sendPart(&b, block[x.text.off:], x.parts[0], 1024); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 15, 16, 17, 16 + 24, b.Len() - 1} {
		if err := workPiped(t.Context(), bytes.NewReader(b.Bytes()[:n]), &bytes.Buffer{}); err == nil {
			t.Errorf("a pipe that ends after %d bytes is accepted", n)
		}
	}
	for _, at := range []int{0, 8, 16, 24} {
		bad := bytes.Clone(b.Bytes())
		binary.LittleEndian.PutUint64(bad[at:], 1<<63+5)
		if err := workPiped(t.Context(), bytes.NewReader(bad), &bytes.Buffer{}); err == nil {
			t.Errorf("nonsense at %d is accepted", at)
		}
	}
}

func FuzzDemoIndex(f *testing.F) {
	_, block, _ := sampleIndex(rand.New(rand.NewPCG(7, 8)), 3, []float64{1, 2})
	f.Add(block[:min(len(block), 4096)])
	for at := 8; at < 64+2*partBytes+fileBytes; at += 8 {
		bad := bytes.Clone(block[:min(len(block), 4096)])
		binary.LittleEndian.PutUint64(bad[at:], 1<<64-1)
		f.Add(bad)
	}
	f.Fuzz(func(t *testing.T, block []byte) {
		x, err := decodeIndex(block)
		if err != nil {
			return
		}
		text := block[x.text.off:][:x.text.n] // a panic here is what is looked for
		for _, part := range append(x.parts, extent{0, len(text)}) {
			c, err := x.countPart(t.Context(), text, part, noProgress)
			if err != nil || c.Bytes > uint64(part.n) || c.Files > uint64(len(x.files)) {
				t.Fatalf("part %+v of %d files: %+v, %v", part, len(x.files), c.tally, err)
			}
		}
		paths := 0
		for _, f := range x.files {
			paths += len(f.path)
		}
		// Paths may overlap in a block that is not of our making.
		if need, _ := layOut(len(x.parts), len(x.files), paths, x.text.n); need.off <= x.text.off {
			again := bytes.Clone(block)
			x.encode(again)
			y, err := decodeIndex(again)
			if err != nil || !slices.Equal(x.files, y.files) || !slices.Equal(x.parts, y.parts) {
				t.Fatalf("%+v became %+v, %v", x, y, err)
			}
		}
	})
}

func FuzzDemoResult(f *testing.F) {
	slot := make([]byte, 256)
	(&result{List: []identifier{{"a", 1}, {"bc", 2}}}).encode(slot)
	f.Add(slot)
	binary.LittleEndian.PutUint64(slot[slotHead+8:], 1<<63)
	f.Add(slot)
	f.Fuzz(func(t *testing.T, slot []byte) {
		r, err := decodeResult(slot)
		if err != nil {
			return
		}
		m := mergeResults([]result{r, r})
		m.top(demoTop)
		out := make([]byte, len(slot))
		cut := r.Cut
		r.encode(out)
		again, err := decodeResult(out)
		if err != nil || r.Cut != cut || !slices.Equal(again.List, r.List) || again.tally != r.tally {
			t.Fatalf("%+v became %+v, %v", r, again, err)
		}
	})
}

// writeTree writes files, by their slash-separated names, below a new folder.
func writeTree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := shmtest.TempDir(t)
	for name, text := range files {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestDemoSources(t *testing.T) {
	root := writeTree(t, map[string]string{"a": "one\n", "b/c": "", "b/d": "two words", "e": strings.Repeat("x", 1000)})
	if runtime.GOOS != "windows" { // where links need a privilege
		if err := os.Symlink(root, filepath.Join(root, "b", "loop")); err != nil {
			t.Fatal(err)
		}
	}
	find := func(limit int64, roots ...string) (*sources, []string) {
		t.Helper()
		s, err := findSources(t.Context(), roots, limit)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range s.files {
			rel, _ := filepath.Rel(root, f.path)
			names = append(names, filepath.ToSlash(rel))
		}
		return s, names
	}
	all := []string{"a", "b/c", "b/d", "e"}
	if s, names := find(1<<20, root); !slices.Equal(names, all) || s.bytes != 1013 || s.limited || s.skipped != 0 {
		t.Errorf("found %q, %+v", names, s)
	}
	if _, names := find(1<<20, filepath.Join(root, "b"), root, filepath.Join(root, "a")); len(names) != 4 {
		t.Errorf("found %q, want every file once", names)
	}
	if s, names := find(1012, root); !slices.Equal(names, all[:3]) || !s.limited {
		t.Errorf("with a limit found %q, %+v", names, s)
	}
	if _, err := findSources(t.Context(), []string{filepath.Join(root, "no")}, 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing root gives %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := findSources(ctx, []string{root}, 1<<20); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}

	// Between the look and the reading, one goes, one grows and one shrinks.
	s, _ := find(1<<20, root)
	_, length := s.spread()
	text := make([]byte, length)
	if err := os.Remove(filepath.Join(root, "b", "c")); err != nil {
		t.Fatal(err)
	}
	for name, now := range map[string]string{"a": "one\nmore\n", "e": "yy"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(now), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var done atomic.Int64
	files, err := s.load(t.Context(), text, &done)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, string(text[f.off:][:f.n]))
	}
	if want := []string{"one\n", "two words", "yy"}; !slices.Equal(got, want) {
		t.Errorf("loaded %q, want %q", got, want)
	}
	if s.skipped != 1 || !errors.Is(s.why, fs.ErrNotExist) || done.Load() != 1013 {
		t.Errorf("skipped %d for %v, %d bytes done", s.skipped, s.why, done.Load())
	}
	if _, err := s.load(ctx, text, &done); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

func TestDemoWords(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1 000", 1234567: "1 234 567"} {
		if got := grouped(n); got != want {
			t.Errorf("grouped(%d) = %q, want %q", n, got, want)
		}
	}
	for _, tt := range []struct {
		shared, pipes []float64
		want          string
	}{
		{[]float64{1, 2}, []float64{3, 3}, "3.00 times as long (medians of 2"},
		{[]float64{1, 2}, []float64{0.5, 0.9}, "pipes were faster"},
		{[]float64{1, 2}, []float64{1.5, 2.5}, "no clear difference here, 1.50 times"},
		{[]float64{1, 2}, []float64{0.5, 1.5}, "no clear difference here, 0.50 times"},
		{[]float64{1}, []float64{3}, "only once"},
	} {
		c := demoCompare{Shared: tt.shared, Pipes: tt.pipes, Ratio: median(tt.pipes) / median(tt.shared)}
		if got := c.verdict(); !strings.Contains(got, tt.want) {
			t.Errorf("%+v: %q, want %q in it", c, got, tt.want)
		}
	}
	if got := median([]float64{3, 1, 2}); got != 2 {
		t.Errorf("median = %v", got)
	}
}
