package list_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"math/big"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/list"
)

// model is a ShareableList in the dullest way: each item by itself, put together
// only to look at the bytes. It is written from the description of the format
// and shares no code with the package.
type model struct {
	layout list.Layout
	exact  bool
	cells  []cell
}

type cell struct {
	v      any // as At returns it
	slot   []byte
	format string
	code   byte
}

// cutText is the value of text that CPython has cut off inside a character:
// reading it is an error on both sides.
type cutText struct{}

// newModel lays out a list as we do or, byChars, as CPython does, which counts
// characters for the slots of text and cuts off what does not fit.
func newModel(items []any, layout list.Layout, exact, byChars bool) *model {
	m := &model{layout: layout, exact: exact}
	for _, v := range items {
		n := 8
		switch v := v.(type) {
		case string:
			n = len(v)
			if byChars {
				n = utf8.RuneCountInString(v)
			}
			n = 8 * (n/8 + 1)
		case []byte:
			n = 8 * (len(v)/8 + 1)
		}
		c := cell{slot: make([]byte, n)}
		c.put(v, exact)
		m.cells = append(m.cells, c)
	}
	return m
}

func (c *cell) put(v any, exact bool) {
	c.v, c.code = v, 0
	word := uint64(0)
	switch v := v.(type) {
	case nil:
		c.format, c.code = "xxxxxx?x", 3
	case int64:
		c.format, word = "q", uint64(v)
	case float64:
		c.format, word = "d", math.Float64bits(v)
	case bool:
		c.format = "xxxxxxx?"
		binary.NativeEndian.PutUint64(c.slot, 0)
		if v {
			c.slot[7] = 1
		}
		return
	case string:
		s := string(c.putSized([]byte(v), exact))
		if c.v, c.code = s, 1; !utf8.ValidString(s) {
			c.v = cutText{}
		}
		return
	case []byte:
		c.v, c.code = c.putSized(v, exact), 2
		return
	default:
		panic(fmt.Sprintf("the model knows no %T", v))
	}
	binary.NativeEndian.PutUint64(c.slot, word)
}

func (c *cell) putSized(b []byte, exact bool) []byte {
	clear(c.slot)
	n := copy(c.slot, b)
	if exact && n < len(c.slot) {
		c.format = fmt.Sprintf("%ds", n)
		return bytes.Clone(b)
	}
	c.format = fmt.Sprintf("%ds", len(c.slot))
	return bytes.TrimRight(c.slot[:n], "\x00")
}

// set changes the model, or returns the error that it has to be.
func (m *model) set(i int, v any) error {
	var b []byte
	switch v := v.(type) {
	case uint64:
		return list.ErrRange
	case []int:
		return list.ErrType
	case string:
		if b = []byte(v); !utf8.Valid(b) {
			return list.ErrText
		}
	case []byte:
		b = v
	}
	if i < 0 || i >= len(m.cells) {
		return list.ErrIndex
	}
	c := &m.cells[i]
	if n := len(c.slot); len(b) > n || m.exact && len(b) == n && b[n-1] == 0 {
		return list.ErrTooLong
	}
	c.put(v, m.exact)
	return nil
}

// image is the list's bytes up to Python's end.
func (m *model) image() []byte {
	word := binary.NativeEndian.AppendUint64
	out := word(nil, uint64(len(m.cells)))
	var data, formats, codes []byte
	for _, c := range m.cells {
		if m.layout == list.Python39 {
			out = word(out, uint64(len(data)))
		} else {
			out = word(out, uint64(len(c.slot)))
		}
		data = append(data, c.slot...)
		formats = append(append(formats, c.format...), make([]byte, 8-len(c.format))...)
		codes = append(codes, c.code)
	}
	if m.layout == list.Python39 {
		out = word(out, uint64(len(data)))
	}
	return append(append(append(out, data...), formats...), codes...)
}

// readable tells whether no text is cut.
func (m *model) readable() bool {
	for _, c := range m.cells {
		if c.v == (any)(cutText{}) {
			return false
		}
	}
	return true
}

// count and index compare as Python does.
func (m *model) count(v any) (n, first int) {
	first = -1
	for i, c := range m.cells {
		if pyEqual(c.v, v) {
			if n++; first < 0 {
				first = i
			}
		}
	}
	return n, first
}

// pyEqual is Python's ==, with numbers as mathematics has them.
func pyEqual(a, b any) bool {
	x, xNumber := number(a)
	y, yNumber := number(b)
	if xNumber || yNumber {
		return x != nil && y != nil && x.Cmp(y) == 0
	}
	return typed(a) == typed(b)
}

// number is nil for NaN, which is a number, and for what is none.
func number(v any) (*big.Float, bool) {
	f := new(big.Float).SetPrec(200)
	switch v := v.(type) {
	case int64:
		return f.SetInt64(v), true
	case uint64:
		return f.SetUint64(v), true
	case bool:
		if v {
			return f.SetInt64(1), true
		}
		return f, true
	case float64:
		if math.IsNaN(v) {
			return nil, true
		}
		return f.SetFloat64(v), true
	}
	return nil, false
}

// value is one item's type and value, exact to the bit, as they travel to and
// from Python.
type value [2]string

func typed(v any) value {
	switch v := v.(type) {
	case nil:
		return value{"None", ""}
	case int64:
		return value{"int", strconv.FormatInt(v, 10)}
	case uint64:
		return value{"int", strconv.FormatUint(v, 10)}
	case float64:
		return value{"float", fmt.Sprintf("%016x", math.Float64bits(v))}
	case bool:
		return value{"bool", fmt.Sprint(v)}
	case string:
		return value{"str", hex.EncodeToString([]byte(v))}
	case []byte:
		return value{"bytes", hex.EncodeToString(v)}
	case cutText:
		return value{"error", "UnicodeDecodeError"}
	case []int:
		return value{"list", ""}
	}
	panic(fmt.Sprintf("the model knows no %T", v))
}

// at is what At says, in the model's terms.
func at(l *list.List, i int) value {
	v, err := l.At(i)
	switch {
	case err == nil:
		return typed(v)
	case errors.Is(err, list.ErrText) && errors.Is(err, shm.ErrFormat):
		return typed(cutText{})
	}
	return value{"error", err.Error()}
}

// pyRepr is Python's repr of one item.
func pyRepr(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return layout.PyReprFloat(v)
	case bool:
		if v {
			return "True"
		}
		return "False"
	case string:
		return layout.PyRepr(v)
	case []byte:
		return layout.PyReprBytes(v)
	}
	panic(fmt.Sprintf("the model knows no %T", v))
}

func (m *model) repr(name string) string {
	var items []string
	for _, c := range m.cells {
		items = append(items, pyRepr(c.v))
	}
	return fmt.Sprintf("ShareableList([%s], name='%s')", strings.Join(items, ", "), name)
}

// same compares the whole list with the model, by all ways to look at it.
func (m *model) same(t testing.TB, l *list.List) {
	t.Helper()
	if l.Len() != len(m.cells) {
		t.Fatalf("%d items, want %d", l.Len(), len(m.cells))
	}
	for i, c := range m.cells {
		if got, want := at(l, i), typed(c.v); got != want {
			t.Errorf("item %d is %v, want %v", i, got, want)
		}
		if got, err := l.Format(i); got != c.format || err != nil {
			t.Errorf("format %d is %q, %v, want %q", i, got, err, c.format)
		}
	}
	if err := l.Verify(); err != nil {
		t.Error(err)
	}
	m.sameBytes(t, l)
}

func (m *model) sameBytes(t testing.TB, l *list.List) {
	t.Helper()
	want := m.image()
	if got := l.Block().Bytes()[:len(want)]; !bytes.Equal(got, want) {
		t.Fatalf("bytes differ:\n%swant\n%s", hex.Dump(got), hex.Dump(want))
	}
}

// randomFor is the same in each run, unless SHM_SEED says otherwise.
func randomFor(t testing.TB) *rand.Rand {
	seed := uint64(envInt(t, "SHM_SEED", 1))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("SHM_SEED=%d repeats it", seed)
		}
	})
	h := fnv.New64a()
	h.Write([]byte(t.Name()))
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}

func envInt(t testing.TB, name string, otherwise int) int {
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

var (
	edgeInts   = []int64{0, 1, -1, 2, 7, 255, 1 << 31, -1 << 31, 1<<53 - 1, 1 << 53, 1<<53 + 1, -1<<53 - 1, math.MaxInt64, math.MinInt64, math.MinInt64 + 1}
	edgeFloats = []float64{
		0, math.Copysign(0, -1), 1, -1, 2, 7, 0.1, -273.154, 1e16, 1e-5, 1 << 31, 1 << 53, -1 << 53, 1 << 63, -1 << 63, 1 << 64,
		math.Inf(1), math.Inf(-1), math.MaxFloat64, math.SmallestNonzeroFloat64, math.Float64frombits(0x000fffffffffffff),
		math.Float64frombits(0x7ff8000000000000), math.Float64frombits(0xfff8000000000000), // quiet
		math.Float64frombits(0x7ff8dead0000beef), math.Float64frombits(0x7ff0000000000001), math.Float64frombits(0xfff4000000000bad), // payloads, signalling
	}
	// Around the multiples of 8, which decide about slots.
	edgeLens = []int{0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 23, 24, 25, 31, 32, 33}
	// What repr escapes, zeros, and 1 to 4 bytes a character.
	letters = []rune("abcXYZ019 '\"\\\n\r\t\x00\x00\x01\x7f\u00a0éßЖ中文\u2028\ufeff😀🚀")
)

// randomValue is nil, an int64, float64, bool, string or []byte; the last two
// often as long as a slot of n bytes and a little longer or shorter.
func randomValue(r *rand.Rand, n int) any {
	length := pick(r, edgeLens)
	switch r.IntN(8) {
	case 0, 1:
		length = max(0, n-2+r.IntN(4))
	case 2:
		length = r.IntN(120)
	}
	switch r.IntN(10) {
	case 0:
		return nil
	case 1:
		return pick(r, edgeInts)
	case 2:
		return int64(r.Uint64()) >> r.IntN(64)
	case 3:
		return pick(r, edgeFloats)
	case 4:
		return math.Float64frombits(r.Uint64())
	case 5:
		return r.IntN(2) == 0
	case 6, 7:
		var s strings.Builder
		one := r.IntN(2) == 0 // else of all kinds
		for range length {
			if one {
				s.WriteByte(byte('a' + r.IntN(26)))
			} else {
				s.WriteRune(pick(r, letters))
			}
		}
		for range r.IntN(6) - 3 {
			s.WriteByte(0)
		}
		return s.String()
	}
	b := make([]byte, length)
	for i := range b {
		b[i] = byte(r.Uint32() >> r.IntN(16)) // with some more zeros
	}
	if r.IntN(4) == 0 && length > 0 {
		b[length-1] = 0
	}
	return b
}

func randomItems(r *rand.Rand) []any {
	n := r.IntN(12)
	if r.IntN(20) == 0 {
		n = 100
	}
	items := make([]any, n)
	for i := range items {
		items[i] = randomValue(r, 8*r.IntN(5))
	}
	return items
}

type (
	ownInt    int16
	ownUint   uint32
	ownFloat  float32
	ownBool   bool
	ownString string
	ownBytes  []byte
)

// dressed is the same value as another of Go's types.
func dressed(r *rand.Rand, v any) any {
	in := func(v any, ok bool) []any {
		if ok {
			return []any{v}
		}
		return nil
	}
	as := []any{v}
	switch v := v.(type) {
	case int64:
		as = append(as, in(int(v), int64(int(v)) == v)...)
		as = append(as, in(int8(v), int64(int8(v)) == v)...)
		as = append(as, in(int32(v), int64(int32(v)) == v)...)
		as = append(as, in(ownInt(v), int64(ownInt(v)) == v)...)
		as = append(as, in(uint8(v), int64(uint8(v)) == v)...)
		as = append(as, in(ownUint(v), int64(ownUint(v)) == v)...)
		as = append(as, in(uint64(v), v >= 0)...)
	case float64:
		as = append(as, in(float32(v), float64(float32(v)) == v)...)
		as = append(as, in(ownFloat(v), float64(ownFloat(v)) == v)...)
	case bool:
		as = append(as, ownBool(v))
	case string:
		as = append(as, ownString(v))
	case []byte:
		as = append(as, ownBytes(v))
	}
	return pick(r, as)
}

// forbidden is a value that no list can hold.
func forbidden(r *rand.Rand) any {
	return pick(r, []any{uint64(1 << 63), uint64(math.MaxUint64), []int{1}, "a\xff", "\xe4\xb8"})
}

// TestModel does the same to lists and to their models.
func TestModel(t *testing.T) {
	for _, layout := range []list.Layout{list.Python39, list.Python38} {
		for flags := range 4 {
			opts := &list.Options{Layout: layout, Exact: flags&1 != 0, Concurrent: flags&2 != 0}
			t.Run(fmt.Sprintf("%v exact=%v concurrent=%v", layout, opts.Exact, opts.Concurrent), func(t *testing.T) {
				r := randomFor(t)
				for range 8 {
					runModel(t, r, opts)
				}
			})
		}
	}
}

func runModel(t *testing.T, r *rand.Rand, opts *list.Options) {
	items := randomItems(r)
	if len(items) == 0 {
		items = append(items, nil) // there is nothing to do to an empty one
	}
	asked := make([]any, len(items))
	for i, v := range items {
		// An exact list refuses no item at its creation: the slots have a byte to spare.
		asked[i] = dressed(r, v)
	}
	name := shmtest.Name(t)
	l, err := list.Create(name, asked, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(l.Close(), l.Unlink()); err != nil {
			t.Error(err)
		}
	}()
	m := newModel(items, opts.Layout, opts.Exact, false)
	if l.Layout() != opts.Layout || l.Exact() != opts.Exact || l.Concurrent() != opts.Concurrent {
		t.Errorf("made %v, got %v, %v, %v", *opts, l.Layout(), l.Exact(), l.Concurrent())
	}
	m.same(t, l)
	for step := range 300 {
		m.step(t, r, l)
		if t.Failed() {
			t.Fatalf("at step %d of the list %v", step, l)
		}
		m.sameBytes(t, l)
	}
	m.same(t, l)
	again, err := list.Open(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	m.same(t, again)
}

// step does one thing to both.
func (m *model) step(t *testing.T, r *rand.Rand, l *list.List) {
	t.Helper()
	n := len(m.cells)
	i := r.IntN(n)
	c := &m.cells[i]
	want := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: item %d: %v, want %v", what, i, err, want)
		}
	}
	switch r.IntN(16) {
	case 0, 1, 2, 3:
		v := randomValue(r, len(c.slot))
		want("Set", l.Set(i, dressed(r, v)), m.set(i, v))
	case 4:
		v := forbidden(r)
		want("Set of what is forbidden", l.Set(i, v), m.set(i, v))
		i = pick(r, []int{-1, -n, n, n + 1, math.MaxInt, math.MinInt})
		want("Set outside", l.Set(i, 1), list.ErrIndex)
		_, err := l.At(i)
		want("At outside", err, list.ErrIndex)
		_, err = l.Int(i)
		want("Int outside", err, list.ErrIndex)
		want("SetInt outside", l.SetInt(i, 1), list.ErrIndex)
	case 5:
		if got := at(l, i); got != typed(c.v) {
			t.Errorf("At(%d) is %v, want %v", i, got, typed(c.v))
		}
	case 6:
		m.stepTyped(t, r, l, i)
	case 7:
		m.readTyped(t, l, i)
	case 8, 9:
		m.stepBulk(t, r, l)
	case 10:
		delta := pick(r, edgeInts)
		sum, err := l.AddInt(i, delta)
		old, ok := c.v.(int64)
		exact := new(big.Int).Add(big.NewInt(old), big.NewInt(delta))
		switch {
		case !ok:
			want("AddInt", err, list.ErrType)
		case !exact.IsInt64():
			want("AddInt", err, list.ErrRange)
		default:
			want("AddInt", err, nil)
			if sum != exact.Int64() {
				t.Errorf("%d + %d is %d", old, delta, sum)
			}
			want("the sum", m.set(i, sum), nil)
		}
	case 11:
		now, ok := c.v.(int64)
		old := now
		if r.IntN(2) == 0 {
			old = pick(r, edgeInts)
		}
		next := pick(r, edgeInts)
		swapped, err := l.CompareAndSwapInt(i, old, next)
		if !ok {
			want("CompareAndSwapInt", err, list.ErrType)
			break
		}
		want("CompareAndSwapInt", err, nil)
		if swapped != (now == old) {
			t.Errorf("%d for %d where %d is: %v", next, old, now, swapped)
		}
		if swapped {
			want("the new one", m.set(i, next), nil)
		}
	case 12:
		m.search(t, l, c.v)
		m.search(t, l, randomValue(r, 8))
		m.search(t, l, pick(r, []any{uint64(1 << 63), uint64(math.MaxUint64), 1.0, true, int64(0)}))
	case 13:
		got, err := l.Snapshot()
		want("Snapshot", err, nil)
		at := 0
		for k, v := range l.All() {
			if k != at || typed(v) != typed(m.cells[k].v) || typed(v) != typed(got[k]) {
				t.Errorf("All has %v at %d, Snapshot %v, want %v", v, k, got[k], m.cells[at].v)
			}
			at++
		}
		if at != n || len(got) != n {
			t.Errorf("All has %d items, Snapshot %d, want %d", at, len(got), n)
		}
	case 14:
		if got, want := l.String(), m.repr(l.Block().Name()); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	case 15:
		if got, err := l.Format(i); got != c.format || err != nil {
			t.Errorf("format %d is %q, %v, want %q", i, got, err, c.format)
		}
		want("Verify", l.Verify(), nil)
	}
}

// stepTyped sets an item by the way for its type.
func (m *model) stepTyped(t *testing.T, r *rand.Rand, l *list.List, i int) {
	t.Helper()
	v := randomValue(r, len(m.cells[i].slot))
	var err error
	switch v := v.(type) {
	case nil:
		err = l.SetNil(i)
	case int64:
		err = l.SetInt(i, v)
	case float64:
		err = l.SetFloat(i, v)
	case bool:
		err = l.SetBool(i, v)
	case string:
		err = l.SetText(i, v)
	case []byte:
		err = l.SetBytes(i, v)
	}
	if want := m.set(i, v); !errors.Is(err, want) {
		t.Errorf("setting item %d to %v: %v, want %v", i, typed(v), err, want)
	}
}

// readTyped reads an item by the ways for all types.
func (m *model) readTyped(t *testing.T, l *list.List, i int) {
	t.Helper()
	c := m.cells[i]
	check := func(what string, v any, err error) {
		t.Helper()
		if typed(v)[0] != typed(c.v)[0] {
			if !errors.Is(err, list.ErrType) {
				t.Errorf("%s of item %d, which is %v: %v", what, i, typed(c.v), err)
			}
		} else if err != nil || typed(v) != typed(c.v) {
			t.Errorf("%s of item %d is %v, %v, want %v", what, i, typed(v), err, typed(c.v))
		}
	}
	n, err := l.Int(i)
	check("Int", n, err)
	f, err := l.Float(i)
	check("Float", f, err)
	b, err := l.Bool(i)
	check("Bool", b, err)
	s, err := l.Text(i)
	check("Text", s, err)
	if null, err := l.IsNil(i); null != (c.v == nil) || err != nil {
		t.Errorf("IsNil of item %d, which is %v: %v, %v", i, typed(c.v), null, err)
	}
	for what, get := range map[string]func([]byte, int) ([]byte, error){"AppendText": l.AppendText, "AppendBytes": l.AppendBytes} {
		out, err := get([]byte("before"), i)
		rest, ok := bytes.CutPrefix(out, []byte("before"))
		if !ok || err != nil && len(rest) > 0 {
			t.Errorf("%s of item %d: %q, %v", what, i, out, err)
		}
		if what == "AppendText" {
			check(what, string(rest), err)
		} else {
			check(what, rest, err)
		}
	}
}

// stepBulk reads and writes some items at once.
func (m *model) stepBulk(t *testing.T, r *rand.Rand, l *list.List) {
	t.Helper()
	i := r.IntN(len(m.cells) + 1)
	n := r.IntN(len(m.cells) - i + 1)
	outside := len(m.cells) - i + 1
	ints, floats := make([]int64, n), make([]float64, n)
	switch r.IntN(4) {
	case 0:
		for k := range ints {
			ints[k] = pick(r, edgeInts)
			m.cells[i+k].put(ints[k], m.exact)
		}
		if err := l.SetInts(i, ints); err != nil {
			t.Errorf("SetInts of items %d to %d: %v", i, i+n-1, err)
		}
		if err := l.SetInts(i, make([]int64, outside)); !errors.Is(err, list.ErrIndex) {
			t.Errorf("SetInts of %d items from %d on: %v", outside, i, err)
		}
		return
	case 1:
		for k := range floats {
			floats[k] = pick(r, edgeFloats)
			m.cells[i+k].put(floats[k], m.exact)
		}
		if err := l.SetFloats(i, floats); err != nil {
			t.Errorf("SetFloats of items %d to %d: %v", i, i+n-1, err)
		}
		if err := l.SetFloats(i, make([]float64, outside)); !errors.Is(err, list.ErrIndex) {
			t.Errorf("SetFloats of %d items from %d on: %v", outside, i, err)
		}
		return
	}
	check := func(what string, err error, got func(k int) any) {
		t.Helper()
		for k := range n {
			want := m.cells[i+k].v
			if typed(got(k))[0] != typed(want)[0] {
				if !errors.Is(err, list.ErrType) {
					t.Errorf("%s of item %d, which is %v: %v", what, i+k, typed(want), err)
				}
				return
			}
			if typed(got(k)) != typed(want) {
				t.Errorf("%s of item %d is %v, want %v", what, i+k, got(k), want)
			}
		}
		if err != nil {
			t.Errorf("%s of items %d to %d: %v", what, i, i+n-1, err)
		}
	}
	check("Ints", l.Ints(i, ints), func(k int) any { return ints[k] })
	check("Floats", l.Floats(i, floats), func(k int) any { return floats[k] })
	if err := l.Ints(i, make([]int64, outside)); !errors.Is(err, list.ErrIndex) {
		t.Errorf("Ints of %d items from %d on: %v", outside, i, err)
	}
}

func (m *model) search(t *testing.T, l *list.List, v any) {
	t.Helper()
	n, first := m.count(v)
	if got, err := l.Count(v); got != n || err != nil {
		t.Errorf("Count(%v) is %d, %v, want %d", typed(v), got, err, n)
	}
	got, err := l.Index(v)
	if got != first || errors.Is(err, list.ErrNotFound) != (first < 0) || err != nil && first >= 0 {
		t.Errorf("Index(%v) is %d, %v, want %d", typed(v), got, err, first)
	}
}
