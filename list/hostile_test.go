package list_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/lease"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/list"
)

// The tests in this file give the package blocks whose bytes are bad, each in
// one way.

// forgery is the bytes of a list, to be spoilt, and where their parts lie.
type forgery struct {
	b []byte
	s layout.ListShape
}

// forge begins with a good list. Its items need slots of 16, 8, 8, … bytes.
func forge(t testing.TB, o *list.Options) *forgery {
	t.Helper()
	l := newList(t, o, "camera 0", 1, 2.5, true, nil, []byte("\x01\x02"), "", 7)
	f := &forgery{b: bytes.Clone(l.Block().Bytes())}
	f.s = shapeOf(t, f.b)
	if end := f.recordAt(l.Len()) + f.s.DataLen; l.Concurrent() {
		f.b = f.b[:end] // where blocks are whole pages there is more
	} else if !l.Exact() {
		f.b = f.b[:f.s.End]
	}
	return f
}

func shapeOf(t testing.TB, b []byte) layout.ListShape {
	t.Helper()
	s, err := layout.ParseList(int64(len(b)), func(off int64, n int) []byte {
		return b[min(off, int64(len(b))):min(off+int64(n), int64(len(b)))]
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (f *forgery) word(off int, v int64) { binary.NativeEndian.PutUint64(f.b[off:], uint64(v)) }
func (f *forgery) count(n int64)         { f.word(0, n) }
func (f *forgery) table(i int, v int64)  { f.word(8+8*i, v) }
func (f *forgery) code(i int, c byte)    { f.b[f.s.Codes+i] = c }

func (f *forgery) format(i int, s string) {
	f.word(f.s.Formats+8*i, 0)
	copy(f.b[f.s.Formats+8*i:f.s.Formats+8*i+8], s)
}

func trailerAt(s layout.ListShape) int { return (s.End + 7) &^ 7 }

// recordAt is where the record of item i lies; that of the item behind the last
// is where the spare slots begin.
func (f *forgery) recordAt(i int) int { return trailerAt(f.s) + 64 + 32*i }

// record overwrites what guards item i: phase and owner, and the format and
// code that go with the spare slot.
func (f *forgery) record(i int, phase, owner int64, format string, code int64) {
	at := f.recordAt(i)
	f.word(at, phase)
	f.word(at+8, owner)
	f.word(at+16, 0)
	copy(f.b[at+16:at+24], format)
	f.word(at+24, code)
}

var (
	plain      = &list.Options{}
	python38   = &list.Options{Layout: list.Python38}
	exact      = &list.Options{Exact: true}
	concurrent = &list.Options{Concurrent: true}
)

// What is to become of a hostile block.
const (
	refused = iota // FromBlock refuses it
	found          // it opens; the item cannot be read, and Verify says so
	lenient        // it opens and the item reads as something; Verify finds it
	fine           // it is a list after all
)

type hostileCase struct {
	name  string
	o     *list.Options
	want  int
	item  int // the one that is bad
	spoil func(f *forgery)
}

func hostile() []hostileCase {
	cases := []hostileCase{
		{"one offset short", plain, found, 7, func(f *forgery) { f.table(8, int64(f.s.DataLen)-8) }},
		{"offsets decreasing, slots overlapping", plain, found, 2, func(f *forgery) { f.table(2, 40) }},
		{"offset odd", plain, found, 1, func(f *forgery) { f.table(2, 25) }},
		{"both offsets odd", plain, found, 1, func(f *forgery) { f.table(1, 17); f.table(2, 25) }},
		{"offset beyond the data", plain, found, 3, func(f *forgery) { f.table(4, 1<<40) }},
		{"offset just beyond the data", plain, found, 6, func(f *forgery) { f.table(7, int64(f.s.DataLen)+8) }},
		{"slot empty", plain, found, 3, func(f *forgery) { f.table(4, 32) }},
		{"slots with a gap", plain, lenient, 1, func(f *forgery) { f.table(1, 16); f.table(2, 32) }},
		{"int's slot wraps around", plain, found, 1, func(f *forgery) { f.table(1, -8); f.table(2, 0) }},
		{"float's slot wraps around", plain, found, 2, func(f *forgery) { f.table(2, -8); f.table(3, 0) }},
		{"slot wraps far around", plain, found, 2, func(f *forgery) { f.table(2, math.MinInt64); f.table(3, math.MinInt64+8) }},
		{"slots wrap around, shared", concurrent, found, 1, func(f *forgery) { f.table(1, -8); f.table(2, 0) }},
		{"slot beyond the data, shared", concurrent, found, 1, func(f *forgery) { f.table(2, 1<<40) }},

		{"exact length 0", plain, fine, 0, func(f *forgery) { f.format(0, "0s") }},
		{"exact length", plain, fine, 0, func(f *forgery) { f.format(0, "3s") }},
		{"code None of an int", plain, fine, 1, func(f *forgery) { f.code(1, 3) }},
		{"text as bytes", plain, fine, 0, func(f *forgery) { f.code(0, 2) }},
		{"text not UTF-8", plain, fine, 0, func(f *forgery) { f.b[f.s.Data] = 0xff }},
		{"trailer without its magic", concurrent, fine, 0, func(f *forgery) { f.b[trailerAt(f.s)]++ }},
		{"trailer cut within its header", exact, fine, 0, func(f *forgery) { f.b = f.b[:trailerAt(f.s)+63] }},

		{"trailer of version 0", exact, refused, 0, func(f *forgery) { f.b[trailerAt(f.s)+8] = 0 }},
		{"trailer of version 2", concurrent, refused, 0, func(f *forgery) { f.b[trailerAt(f.s)+8] = 2 }},
		{"trailer with unknown flags", concurrent, refused, 0, func(f *forgery) { f.b[trailerAt(f.s)+12] |= 4 }},
		{"trailer with a high flag", exact, refused, 0, func(f *forgery) { f.b[trailerAt(f.s)+15] = 0x80 }},
		{"trailer of more items", concurrent, refused, 0, func(f *forgery) { f.b[trailerAt(f.s)+16]++ }},
		{"trailer of -1 items", exact, refused, 0, func(f *forgery) { f.word(trailerAt(f.s)+16, -1) }},
		{"trailer of fewer data", concurrent, refused, 0, func(f *forgery) { f.b[trailerAt(f.s)+24] -= 8 }},
		{"trailer cut within its records", concurrent, refused, 0, func(f *forgery) { f.b = f.b[:f.recordAt(3)] }},
		{"trailer cut within its spare slots", concurrent, refused, 0, func(f *forgery) { f.b = f.b[:len(f.b)-1] }},

		{"interrupted, owner unknown", concurrent, fine, 1, func(f *forgery) { f.record(1, 1, 0x1234567890abcdef, "q", 0) }},
		{"interrupted before, owner unknown", concurrent, fine, 1, func(f *forgery) { f.record(1, 2, -1, "zz", 77) }},
		{"interrupted, no owner", concurrent, fine, 0, func(f *forgery) { f.record(0, -1, 0, "16s", 1) }},
		{"interrupted, no format", concurrent, found, 1, func(f *forgery) { f.record(1, 3, 99, "", 0) }},
		{"interrupted, text without end", concurrent, lenient, 0, func(f *forgery) { f.record(0, 3, 99, "9999999s", 1) }},
		{"interrupted, code too large", concurrent, found, 1, func(f *forgery) { f.record(1, 5, -2, "q", 255) }},
		{"phase about to wrap", concurrent, fine, 1, func(f *forgery) { f.record(1, -2, 0, "q", 0) }},
	}
	for _, n := range []int64{-1, math.MinInt64, math.MaxInt64, 1 << 61, 1 << 32, 9, 7, 100} {
		for _, o := range []*list.Options{plain, python38} {
			c := hostileCase{fmt.Sprintf("count %d, %v", n, o.Layout), o, refused, 0, func(f *forgery) { f.count(n) }}
			if n == 7 {
				// Item 7's offset ends a list of seven just as well, and what were its
				// bytes are a format then. Sizes of 3.8 have no end to be wrong.
				c.want, c.item = found, 0
			}
			cases = append(cases, c)
		}
	}
	for _, first := range []int64{-8, 1, 8, 1 << 62, math.MinInt64} {
		cases = append(cases, hostileCase{fmt.Sprintf("first offset %d", first), plain, refused, 0, func(f *forgery) { f.table(0, first) }})
	}
	for _, last := range []int64{-8, 0, 8, 71, 73, 80, 1 << 40, math.MinInt64, math.MaxInt64} {
		cases = append(cases, hostileCase{fmt.Sprintf("last offset %d", last), plain, refused, 0, func(f *forgery) { f.table(8, last) }})
	}
	for _, size := range []int64{0, 1, 7, 9, -8, 16, 1 << 32, 1 << 62, math.MinInt64, math.MaxInt64} {
		c := hostileCase{fmt.Sprintf("size %d", size), python38, refused, 3, func(f *forgery) { f.table(3, size) }}
		if size == 0 {
			c.name = "size zero"
		}
		cases = append(cases, c)
	}
	cases = append(cases, hostileCase{"sizes overflow", python38, refused, 0, func(f *forgery) {
		for i := range 8 {
			f.table(i, 1<<61)
		}
	}})
	for _, format := range []string{
		"99999999", "s", "8x", "qq", "Q", "", "q\x00\x00q", "8s\x008", "xxxxxx??", "xxxxxx?", "-8s", " 8s", "8s8s", "\xff\xff\xff\xff\xff\xff\xff\xff", "1e3s",
	} {
		for _, o := range []*list.Options{plain, python38, concurrent} {
			cases = append(cases, hostileCase{fmt.Sprintf("format %q, %v, %v", format, o.Layout, o.Concurrent), o, found, 0,
				func(f *forgery) { f.format(0, format) }})
		}
	}
	for _, format := range []string{"17s", "24s", "1000000s", "9999999s"} {
		for _, o := range []*list.Options{plain, python38, exact, concurrent} {
			cases = append(cases, hostileCase{fmt.Sprintf("format %q, %v, %v, %v", format, o.Layout, o.Exact, o.Concurrent), o, lenient, 0,
				func(f *forgery) { f.format(0, format) }})
		}
	}
	for _, code := range []byte{4, 127, 128, 255} {
		for i := range 8 {
			cases = append(cases, hostileCase{fmt.Sprintf("code %d of item %d", code, i), plain, found, i, func(f *forgery) { f.code(i, code) }})
		}
	}
	for _, m := range []struct {
		item int
		code byte
	}{{0, 0}, {5, 0}, {1, 1}, {1, 2}, {2, 1}, {3, 2}, {4, 0}, {4, 1}} {
		for _, o := range []*list.Options{plain, concurrent} {
			cases = append(cases, hostileCase{fmt.Sprintf("code %d for item %d, %v", m.code, m.item, o.Concurrent), o, found, m.item,
				func(f *forgery) { f.code(m.item, m.code) }})
		}
	}
	for _, small := range []struct {
		bytes []byte
		want  int
	}{
		{make([]byte, 1), refused},
		{make([]byte, 7), refused},
		{make([]byte, 8), fine}, // 3.8's list of nothing
		{make([]byte, 9), fine},
		{make([]byte, 15), fine},
		{make([]byte, 16), fine}, // and 3.9's
		{make([]byte, 4096), fine},
		{bytes.Repeat([]byte{0xff}, 8), refused},
		{bytes.Repeat([]byte{0xff}, 4096), refused},
		{append([]byte{1}, make([]byte, 15)...), refused},
		{append([]byte{1}, make([]byte, 40)...), refused},
		{[]byte("plain text, and no list at all. It is long enough for one, though."), refused},
	} {
		cases = append(cases, hostileCase{fmt.Sprintf("%d bytes like %x", len(small.bytes), small.bytes[:1]), plain, small.want, -1,
			func(f *forgery) { f.b = small.bytes }})
	}
	return cases
}

func TestHostile(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	for _, c := range hostile() {
		t.Run(c.name, func(t *testing.T) {
			f := forge(t, c.o)
			c.spoil(f)
			l, err := list.FromBlock(blockOf(t, f.b))
			if c.want == refused {
				if mustBe(t, err, shm.ErrFormat); err == nil {
					l.Close()
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if c.item >= 0 {
				if _, err = l.At(c.item); c.want == found || errors.Is(err, list.ErrText) {
					mustBe(t, err, shm.ErrFormat)
				} else if err != nil {
					t.Errorf("item %d: %v", c.item, err)
				}
			}
			if err = l.Verify(); c.want == fine {
				if err != nil {
					t.Error(err)
				}
			} else {
				mustBe(t, err, shm.ErrFormat)
			}
			useAll(t, l)
			// Whatever was wrong with an item but its place, Set puts it right.
			if c.item >= 0 && l.SetInt(c.item, 1) == nil {
				if v, err := l.Int(c.item); v != 1 || err != nil {
					t.Errorf("item %d was set to 1 and is %d, %v", c.item, v, err)
				}
			}
		})
	}
}

// mustBe fails the test unless err is what it should be, and says of what list.
func mustBe(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
		return
	}
	if _, ok := errors.AsType[*shm.Error](err); !ok {
		t.Errorf("error %v is not a *shm.Error", err)
	}
}

// readErrors are what a reader of bad bytes may be told.
var readErrors = []error{nil, shm.ErrFormat, list.ErrType, list.ErrNotFound, list.ErrIndex}

func among(t testing.TB, what string, err error, allowed ...error) {
	t.Helper()
	for _, a := range allowed {
		if a == nil && err == nil || a != nil && errors.Is(err, a) {
			return
		}
	}
	t.Errorf("%s: error %v", what, err)
}

// readAll reads with every method. Of an error it only checks that it is one
// that may be.
func readAll(t testing.TB, l *list.List, allowed ...error) {
	t.Helper()
	ok := func(what string, err error) { t.Helper(); among(t, what, err, append(allowed, readErrors...)...) }
	n := l.Len()
	for i := -1; i <= n; i++ {
		if i == 40 && n > 80 { // a long one is as its ends
			i = n - 40
		}
		v, err := l.At(i)
		ok("At", err)
		if s, is := v.(string); is && len(s) > l.Block().Size() {
			t.Errorf("item %d has %d bytes", i, len(s))
		}
		if v != nil && err != nil {
			t.Errorf("item %d is %v, and %v", i, v, err)
		}
		readTyped(l, i, ok)
		_, err = l.Format(i)
		ok("Format", err)
		ok("Ints", l.Ints(i, make([]int64, 1)))
		ok("Ints", l.Ints(i, make([]int64, 3)))
		ok("Floats", l.Floats(i, make([]float64, 2)))
	}
	items, err := l.Snapshot()
	ok("Snapshot", err)
	if err == nil && len(items) != n {
		t.Errorf("%d items of %d", len(items), n)
	}
	seen := 0
	for i, v := range l.All() {
		if err, is := v.(error); is {
			ok("All", err)
		}
		if i != seen {
			t.Errorf("item %d comes after %d others", i, seen)
		}
		seen++
	}
	for _, v := range []any{1, 2.5, true, nil, "camera 0", []byte("\x01\x02")} {
		_, err = l.Count(v)
		ok("Count", err)
		_, err = l.Index(v)
		ok("Index", err)
	}
	ok("Verify", l.Verify())
	_ = l.String()
}

// readTyped reads with the methods for single items of one type.
func readTyped(l *list.List, i int, ok func(what string, err error)) {
	_, err := l.Int(i)
	ok("Int", err)
	_, err = l.Float(i)
	ok("Float", err)
	_, err = l.Bool(i)
	ok("Bool", err)
	_, err = l.IsNil(i)
	ok("IsNil", err)
	_, err = l.Text(i)
	ok("Text", err)
	_, err = l.AppendText(nil, i)
	ok("AppendText", err)
	_, err = l.AppendBytes(nil, i)
	ok("AppendBytes", err)
}

// writers are all ways to change an item. Those for more than one come last.
var writers = []struct {
	name string
	do   func(l *list.List, i int) error
}{
	{"AddInt", func(l *list.List, i int) error { _, err := l.AddInt(i, 1); return err }},
	{"CompareAndSwapInt", func(l *list.List, i int) error { _, err := l.CompareAndSwapInt(i, 1, 2); return err }},
	{"SetText", func(l *list.List, i int) error { return l.SetText(i, "text") }},
	{"SetInt", func(l *list.List, i int) error { return l.SetInt(i, -1) }},
	{"SetInt again", func(l *list.List, i int) error { return l.SetInt(i, -2) }},
	{"AddInt to an int", func(l *list.List, i int) error { _, err := l.AddInt(i, 1); return err }},
	{"SetFloat", func(l *list.List, i int) error { return l.SetFloat(i, math.Inf(1)) }},
	{"SetFloat again", func(l *list.List, i int) error { return l.SetFloat(i, 0.5) }},
	{"SetBool", func(l *list.List, i int) error { return l.SetBool(i, true) }},
	{"SetBool again", func(l *list.List, i int) error { return l.SetBool(i, true) }},
	{"SetBytes", func(l *list.List, i int) error { return l.SetBytes(i, bytes.Repeat([]byte{0xff}, 16)) }},
	{"SetNil", func(l *list.List, i int) error { return l.SetNil(i) }},
	{"Set", func(l *list.List, i int) error { return l.Set(i, "other") }},
	{"Set, too long", func(l *list.List, i int) error { return l.SetText(i, string(make([]byte, 5000))) }},
	{"SetInts", func(l *list.List, i int) error { return l.SetInts(i, []int64{-7}) }},
	{"SetInts again", func(l *list.List, i int) error { return l.SetInts(i, []int64{-8}) }},
	{"SetFloats", func(l *list.List, i int) error { return l.SetFloats(i, []float64{-7}) }},
	{"SetFloats again", func(l *list.List, i int) error { return l.SetFloats(i, []float64{-8}) }},
}

// writeErrors are what a writer to bad bytes may be told.
// ErrUnsupported is for a concurrent list that names another place for its leases.
var writeErrors = []error{nil, shm.ErrFormat, list.ErrType, list.ErrTooLong, list.ErrIndex, list.ErrRange, errors.ErrUnsupported}

// useAll reads and writes with every method, and checks that no writer of an
// item changes a byte that is not the item's. Nobody else may use the list.
func useAll(t testing.TB, l *list.List) {
	t.Helper()
	readAll(t, l)
	mem := l.Block().Bytes()
	before := bytes.Clone(mem)
	n := l.Len()
	for i := -1; i <= n; i++ {
		if i == 8 && n > 16 {
			i = n - 8
		}
		for _, w := range writers {
			rooms := roomsOf(t, l, mem, i)
			err := w.do(l, i)
			among(t, w.name, err, writeErrors...)
			if off := strayByte(mem, before, rooms); off >= 0 {
				t.Fatalf("%s of item %d changed byte %d of %d, outside of %v", w.name, i, off, len(mem), rooms)
			}
			if rooms == nil && err == nil {
				t.Fatalf("%s of item %d, which has no place, succeeded", w.name, i)
			}
			for _, r := range rooms {
				copy(before[r[0]:r[1]], mem[r[0]:r[1]])
			}
		}
	}
	// What it read before, it can still.
	readAll(t, l)
}

// roomsOf returns the parts of the block that belong to item i, from where to
// where; none if its slot is not within the data.
func roomsOf(t testing.TB, l *list.List, b []byte, i int) [][2]int {
	t.Helper()
	s := shapeOf(t, b)
	if i < 0 || i >= s.Items {
		return nil
	}
	word := func(k int) int64 { return int64(binary.NativeEndian.Uint64(b[8+8*k:])) }
	lo, hi := word(i), word(i+1)
	if s.Sizes {
		lo = 0
		for k := range i {
			lo += word(k)
		}
		hi = lo + word(i)
	}
	if lo < 0 || lo >= hi || hi > int64(s.DataLen) || (lo|hi)%8 != 0 {
		return nil
	}
	rooms := [][2]int{
		{s.Data + int(lo), s.Data + int(hi)},
		{s.Formats + 8*i, s.Formats + 8*i + 8},
		{s.Codes + i, s.Codes + i + 1},
	}
	if l.Concurrent() {
		records := trailerAt(s) + 64
		spare := records + 32*s.Items
		rooms = append(rooms, [2]int{records + 32*i, records + 32*i + 32}, [2]int{spare + int(lo), spare + int(hi)})
	}
	return rooms
}

// strayByte returns the first byte that differs outside of rooms, -1 if none.
func strayByte(a, b []byte, rooms [][2]int) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for off := range a {
		if a[off] != b[off] && !slices.ContainsFunc(rooms, func(r [2]int) bool { return off >= r[0] && off < r[1] }) {
			return off
		}
	}
	return -1
}

// scribble overwrites a list at random, mostly what holds it together, with what
// it could be, until stop.
func scribble(b []byte, s layout.ListShape, r *rand.Rand, stop *atomic.Bool) {
	tail := trailerAt(s)
	for !stop.Load() {
		off := 8 * r.IntN(len(b)/8)
		switch r.IntN(5) {
		case 0:
			off = 8 * r.IntN(2+s.Items)
		case 1:
			off = s.Formats + 8*r.IntN(s.Items)
		case 2:
			b[s.Codes+r.IntN(s.Items)] = byte(r.IntN(5))
			continue
		case 3:
			if tail+64 < len(b) { // phases, owners, formats, codes
				off = tail + 8*r.IntN(8+4*s.Items)
			}
		}
		if off+8 > len(b) {
			continue
		}
		switch r.IntN(5) {
		case 0:
			binary.NativeEndian.PutUint64(b[off:], r.Uint64())
		case 1:
			binary.NativeEndian.PutUint64(b[off:], uint64(8*(r.IntN(24)-4)))
		case 2:
			binary.NativeEndian.PutUint64(b[off:], uint64(r.IntN(8)))
		default:
			format := []string{"q", "d", "xxxxxxx?", "xxxxxx?x", "8s", "16s", "24s", "9999999s", "0s", "qq"}[r.IntN(10)]
			copy(b[off:off+8], format+"\x00\x00\x00\x00\x00\x00\x00")
		}
	}
}

func init() {
	shmtest.Register("scribbler", func(args []string) int {
		b, err := shm.Open(args[0], nil)
		if err != nil {
			return 1
		}
		items, _ := strconv.Atoi(args[1])
		data, _ := strconv.Atoi(args[2])
		s, _ := layout.ShapeList(items, data, args[3] == "true")
		shmtest.Say("ready")
		var stop atomic.Bool
		go func() {
			shmtest.Await("stop")
			stop.Store(true)
		}()
		scribble(b.Bytes(), s, rand.New(rand.NewPCG(1, 2)), &stop)
		return 0
	})
	shmtest.Register("pinner", func([]string) int {
		id, _, err := lease.For("").Pin()
		if err != nil {
			return 1
		}
		shmtest.Say("%d", id)
		shmtest.Hear()
		return 0
	})
}

// The bytes change while they are read and written, by this process and by
// another one: nothing that was checked once may be relied on.
func TestScribbled(t *testing.T) {
	t.Parallel()
	passes := 40
	if raced {
		passes = 5
	}
	for _, o := range []*list.Options{plain, exact, concurrent, python38} {
		t.Run(fmt.Sprintf("%v,%v,%v", o.Layout, o.Exact, o.Concurrent), func(t *testing.T) {
			shmtest.Deadline(t, 2*shmtest.Patience)
			l := newList(t, o, "camera 0", 1, 2.5, true, nil, []byte("\x01\x02"), "", 7, 8, 9, 10)
			mem := l.Block().Bytes()
			s := shapeOf(t, mem)
			p := shmtest.Start(t, "scribbler", l.Block().Name(), strconv.Itoa(s.Items), strconv.Itoa(s.DataLen), strconv.FormatBool(s.Sizes))
			p.Expect("ready")
			var stop atomic.Bool
			var scribbler, workers sync.WaitGroup
			scribbler.Go(func() { scribble(mem, s, rand.New(rand.NewPCG(3, 4)), &stop) })
			for k := range 3 {
				workers.Go(func() {
					for range passes {
						readAll(t, l)
						for i := -1; i <= l.Len() && k > 0; i++ {
							for _, w := range writers {
								among(t, w.name, w.do(l, i), writeErrors...)
							}
						}
					}
				})
			}
			workers.Wait()
			stop.Store(true)
			scribbler.Wait()
			p.Send("stop")
			if status := p.Wait(); status != 0 {
				t.Errorf("the scribbler ended with %d: %s", status, p.Stderr())
			}
		})
	}
}

// The block shrinks and grows while the methods that may be used then are at it.
func TestTruncated(t *testing.T) {
	if os.Getenv("SHM_QEMU") != "" {
		shmtest.Skip(t, "native", "qemu-user does not say where a fault was")
	}
	if raced {
		t.Skip("the race detector does atomic operations in C, where no fault becomes a panic")
	}
	if runtime.GOOS != "linux" {
		shmtest.Skip(t, "linux", "elsewhere blocks cannot shrink, or are no files")
	}
	for _, o := range []*list.Options{plain, concurrent, python38} {
		t.Run(fmt.Sprintf("%v,%v", o.Layout, o.Concurrent), func(t *testing.T) {
			shmtest.Deadline(t, shmtest.Patience)
			dir := shmtest.TempDir(t)
			with := *o
			with.Block.Dir = dir
			items := make([]any, 2000)
			for i := range items {
				items[i] = i
				if i%7 == 0 {
					items[i] = strings.Repeat("x", i%100)
				}
			}
			l := newList(t, &with, items...)
			path := filepath.Join(dir, l.Block().Name())
			size := int64(l.Block().Size())
			var stop atomic.Bool
			var faults [8]atomic.Int64
			var workers, truncator sync.WaitGroup
			truncator.Go(func() {
				r := rand.New(rand.NewPCG(5, 6))
				for !stop.Load() {
					for _, n := range []int64{r.Int64N(size), size} {
						if err := os.Truncate(path, n); err != nil {
							t.Error(err)
							return
						}
					}
				}
			})
			ops := [len(faults)]func(i int) error{
				func(i int) error { _, err := l.At(i); return err },
				func(i int) error { return l.Set(i, "x") },
				func(i int) error { return l.Set(i, int64(i)) },
				func(int) error { return l.Ints(1, make([]int64, 1999)) },
				func(i int) error { return l.SetInts(i, make([]int64, 2000-i)) },
				func(int) error { _, err := l.Snapshot(); return err },
				func(int) error { return l.Verify() },
				func(i int) error { _, err := l.Format(i); return err },
			}
			for k, op := range ops {
				workers.Go(func() {
					for n := 0; n < 500 || faults[k].Load() == 0; n++ {
						err := op(n % 2000)
						if errors.Is(err, shm.ErrTruncated) {
							faults[k].Add(1)
							continue
						}
						among(t, fmt.Sprint("op ", k), err, append(writeErrors, list.ErrText)...)
					}
				})
			}
			workers.Wait()
			stop.Store(true)
			truncator.Wait()
			if _, err := l.Count(1); err != nil {
				among(t, "Count", err, readErrors...)
			}
		})
	}
}

// An item of a concurrent list that a living process has does not come free.
// Readers do not notice; writers give up in the end, and go on when it is dead.
func TestBusy(t *testing.T) {
	t.Parallel() // with all that have something to do, as it waits some seconds
	l := newList(t, concurrent, 5, "five", 6, "six")
	name := l.Block().Name()
	open := func() *list.List {
		w, err := list.Open(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { w.Close() })
		return w
	}
	p := shmtest.Start(t, "pinner")
	id, err := strconv.ParseUint(p.Line(), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	mem := l.Block().Bytes()
	f := &forgery{b: mem, s: shapeOf(t, mem)}
	for i := range l.Len() {
		f.record(i, 0, int64(id), "", 0)
	}
	// Of these the owner had the new value written, and nothing else.
	f.record(2, 1, int64(id), "q", 0)
	f.record(3, 1, int64(id), "8s", 1)
	spare := f.recordAt(4)
	f.word(spare+16, 66)
	copy(mem[spare+24:], "sixty6\x00\x00")

	want := []any{int64(5), "five", int64(66), "sixty6"}
	read := func() {
		t.Helper()
		got, err := l.Snapshot()
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v; want %v", got, err, want)
		}
	}
	read()
	var wg sync.WaitGroup
	for i, w := range []func(l *list.List, i int) error{
		func(l *list.List, i int) error { _, err := l.AddInt(i, 1); return err },
		func(l *list.List, i int) error { return l.SetText(i, "new") },
		func(l *list.List, i int) error { return l.SetInts(i, []int64{1}) },
		func(l *list.List, i int) error { return l.SetNil(i) },
	} {
		wg.Go(func() { mustBe(t, w(l, i), list.ErrBusy) })
	}
	closing := open()
	wg.Go(func() { mustBe(t, closing.Set(1, "new"), os.ErrClosed) })
	for range 1000 {
		read()
	}
	// Waiting does not hold Close up for as long.
	if err := closing.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	read()
	p.Kill()
	read()
	for i := range l.Len() {
		if err := open().Set(i, int64(100+i)); err != nil {
			t.Error(err)
		}
		want[i] = int64(100 + i)
	}
	read()
	// The dead one's lease.
	if _, err := shm.Prune(); err != nil {
		t.Error(err)
	}
}
