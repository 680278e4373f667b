package demo

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
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
	if got.Tally != want.Tally || !reflect.DeepEqual(got.list(), want.list()) {
		t.Fatalf("%s: got %+v %.300v\nwant %+v %.300v", what, got.Tally, got.list(), want.Tally, want.list())
	}
}

func TestCount(t *testing.T) {
	c := newCounter()
	c.count([]byte("if a1 == a1 { 2b }\n\xc3\xa9t\xc3\xa9 _"))
	if want := (Tally{Bytes: 26, Lines: 1, Words: 9, Identifiers: 5}); c.Tally != want {
		t.Errorf("got %+v, want %+v", c.Tally, want)
	}
	if got, want := c.list(), []Identifier{{"a1", 2}, {"_", 1}, {"if", 1}, {"t", 1}}; !slices.Equal(got, want) {
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

func TestMergeWithCuts(t *testing.T) {
	a := result{List: []Identifier{{"x", 100}, {"y", 50}}, Cut: 3}
	b := result{List: []Identifier{{"x", 10}, {"z", 7}}}
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
