package demo

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

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
func TestParts(t *testing.T) {
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

func TestPartsAreFair(t *testing.T) {
	text := bytes.Repeat([]byte("0123456789\n"), 100_000)
	x := &index{files: []entry{{"a", extent{0, 400_000}}, {"b", extent{400_001, len(text) - 400_001}}}}
	parts := x.split(text, []float64{1, 1, 0.125})
	for i, want := range []int{517_647, 517_647, 64_706} {
		if diff := parts[i].n - want; diff < -12 || diff > 12 {
			t.Errorf("part %d has %d bytes, want about %d", i, parts[i].n, want)
		}
	}
}

// A slot too small for the list keeps what it can, and says what it lost.
func TestSlotIsFull(t *testing.T) {
	r := result{List: []Identifier{{"often", 9}, {strings.Repeat("long", 50), 8}, {"some", 7}, {"rare", 1}}}
	slot := make([]byte, slotHead+2*listHead+9)
	r.encode(slot)
	got, err := decodeResult(slot)
	if err != nil || got.Cut != 8 || !slices.Equal(got.List, []Identifier{{"often", 9}, {"some", 7}}) {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestBadSlots(t *testing.T) {
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

func TestBadPipe(t *testing.T) {
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

func FuzzIndex(f *testing.F) {
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
				t.Fatalf("part %+v of %d files: %+v, %v", part, len(x.files), c.Tally, err)
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

func FuzzResult(f *testing.F) {
	slot := make([]byte, 256)
	(&result{List: []Identifier{{"a", 1}, {"bc", 2}}}).encode(slot)
	f.Add(slot)
	binary.LittleEndian.PutUint64(slot[slotHead+8:], 1<<63)
	f.Add(slot)
	f.Fuzz(func(t *testing.T, slot []byte) {
		r, err := decodeResult(slot)
		if err != nil {
			return
		}
		m := mergeResults([]result{r, r})
		m.top(topCount)
		out := make([]byte, len(slot))
		cut := r.Cut
		r.encode(out)
		again, err := decodeResult(out)
		if err != nil || r.Cut != cut || !slices.Equal(again.List, r.List) || again.Tally != r.Tally {
			t.Fatalf("%+v became %+v, %v", r, again, err)
		}
	})
}
