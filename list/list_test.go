package list_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/list"
)

func newList(t testing.TB, o *list.Options, items ...any) *list.List {
	t.Helper()
	l, err := list.Create(shmtest.Name(t), items, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = l.Close()
		_ = l.Unlink()
	})
	return l
}

// eachKind runs a test with lists of all kinds.
func eachKind(t *testing.T, f func(t *testing.T, o *list.Options)) {
	for _, o := range []list.Options{
		{}, {Exact: true}, {Concurrent: true}, {Exact: true, Concurrent: true},
		{Layout: list.Python38}, {Layout: list.Python38, Exact: true, Concurrent: true},
	} {
		name := fmt.Sprintf("%v,exact=%v,concurrent=%v", o.Layout, o.Exact, o.Concurrent)
		t.Run(name, func(t *testing.T) { f(t, &o) })
	}
}

type (
	celsius float32
	label   string
	raw     []byte
	flag    bool
	level   uint16
)

func TestKinds(t *testing.T) {
	in := []any{
		1, int8(-2), int16(3), int32(-4), int64(math.MinInt64), uint(6), uint8(7), uint16(8), uint32(9), uint64(math.MaxInt64),
		1.5, float32(2.5), math.Copysign(0, -1), math.Float64frombits(0x7ff8_dead_beef_0001), math.Inf(-1),
		true, false, "", "seven77", "eight888", "日本", "a\x00b", []byte{}, []byte("\xff\x00\xfe"), nil,
		celsius(36.5), label("x"), raw("y"), flag(true), level(3), time.Second, []byte(nil),
	}
	want := []any{
		int64(1), int64(-2), int64(3), int64(-4), int64(math.MinInt64), int64(6), int64(7), int64(8), int64(9), int64(math.MaxInt64),
		1.5, 2.5, math.Copysign(0, -1), math.Float64frombits(0x7ff8_dead_beef_0001), math.Inf(-1),
		true, false, "", "seven77", "eight888", "日本", "a\x00b", []byte{}, []byte("\xff\x00\xfe"), nil,
		36.5, "x", []byte("y"), true, int64(3), int64(time.Second), []byte{},
	}
	eachKind(t, func(t *testing.T, o *list.Options) {
		l := newList(t, o, in...)
		other, err := list.Open(l.Block().Name(), &shm.OpenOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		if other.Exact() != o.Exact || other.Concurrent() != o.Concurrent || other.Layout() != o.Layout || other.Len() != len(in) {
			t.Errorf("opened as %v, exact %v, concurrent %v", other.Layout(), other.Exact(), other.Concurrent())
		}
		if err := other.Verify(); err != nil {
			t.Error(err)
		}
		got, err := other.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range other.All() {
			same(t, i, got[i], want[i])
			same(t, i, v, want[i])
			at, err := other.At(i)
			if err != nil {
				t.Error(err)
			}
			same(t, i, at, want[i])
		}
		// The same again, each set over something else.
		for i, v := range in {
			if err := errors.Join(l.SetNil(i), l.SetFloat(i, 0.5), l.Set(i, v)); err != nil {
				t.Error(err)
			}
			at, err := other.At(i)
			if err != nil {
				t.Error(err)
			}
			same(t, i, at, want[i])
		}
	})
}

// same compares floats bit by bit.
func same(t *testing.T, i int, got, want any) {
	t.Helper()
	if f, ok := got.(float64); ok {
		if w, ok := want.(float64); ok && math.Float64bits(f) == math.Float64bits(w) {
			return
		}
	}
	if b, ok := got.([]byte); ok {
		if w, ok := want.([]byte); ok && slices.Equal(b, w) && b != nil {
			return
		}
	} else if got == want {
		return
	}
	t.Errorf("item %d is %#v, not %#v", i, got, want)
}

func TestTyped(t *testing.T) {
	eachKind(t, func(t *testing.T, o *list.Options) {
		l := newList(t, o, 1, 2.5, true, "text", []byte("bytes"), nil)
		check := func(what string, i int, wrong []int, get func(i int) (any, error), want any) {
			t.Helper()
			got, err := get(i)
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			same(t, i, got, want)
			for _, j := range wrong {
				if _, err := get(j); !errors.Is(err, list.ErrType) || !strings.Contains(err.Error(), fmt.Sprint("item ", j)) {
					t.Errorf("%s of item %d: %v", what, j, err)
				}
			}
			for _, j := range []int{-1, 6, math.MaxInt, math.MinInt} {
				if _, err := get(j); !errors.Is(err, list.ErrIndex) {
					t.Errorf("%s of item %d: %v", what, j, err)
				}
			}
		}
		check("Int", 0, []int{1, 2, 3, 4, 5}, func(i int) (any, error) { return l.Int(i) }, int64(1))
		check("Float", 1, []int{0, 2, 3, 4, 5}, func(i int) (any, error) { return l.Float(i) }, 2.5)
		check("Bool", 2, []int{0, 1, 3, 4, 5}, func(i int) (any, error) { return l.Bool(i) }, true)
		check("Text", 3, []int{0, 1, 2, 4, 5}, func(i int) (any, error) { return l.Text(i) }, "text")
		check("IsNil", 5, nil, func(i int) (any, error) { return l.IsNil(i) }, true)
		check("IsNil", 3, nil, func(i int) (any, error) { return l.IsNil(i) }, false)
		check("AppendText", 3, []int{0, 1, 2, 4, 5}, func(i int) (any, error) {
			b, err := l.AppendText([]byte("> "), i)
			if err != nil && string(b) != "> " {
				t.Errorf("an error and %q", b)
			}
			return b, err
		}, []byte("> text"))
		check("AppendBytes", 4, []int{0, 1, 2, 3, 5}, func(i int) (any, error) { return l.AppendBytes(nil, i) }, []byte("bytes"))
		check("AddInt", 0, []int{1, 2, 3, 4, 5}, func(i int) (any, error) { return l.AddInt(i, 2) }, int64(3))
		check("CompareAndSwapInt", 0, []int{1, 2, 3, 4, 5}, func(i int) (any, error) { return l.CompareAndSwapInt(i, 3, 4) }, true)
		check("CompareAndSwapInt", 0, nil, func(i int) (any, error) { return l.CompareAndSwapInt(i, 3, 5) }, false)
		check("Format", 3, nil, func(i int) (any, error) { return l.Format(i) }, map[bool]string{false: "8s", true: "4s"}[o.Exact])
		check("At", 0, nil, func(i int) (any, error) { return l.At(i) }, int64(4))
	})
}

// TestRefused tries everything that must not change an item.
func TestRefused(t *testing.T) {
	long := strings.Repeat("x", 9_999_992)
	type (
		loop struct{}
		fits string
	)
	values := []struct {
		v    any
		want error
	}{ // in slots of 8
		{uint64(math.MaxInt64) + 1, list.ErrRange}, {uint64(math.MaxUint64), list.ErrRange},
		{"\xff", list.ErrText}, {"ab\xc3", list.ErrText}, {label("\xed\xa0\x80"), list.ErrText}, // a lone surrogate
		{fits("123456789"), list.ErrTooLong}, {fits("日本語"), shm.ErrSize},
		{long, list.ErrTooLong}, {[]byte(long), list.ErrTooLong},
		{loop{}, list.ErrType}, {[]int{1}, list.ErrType}, {[2]byte{}, list.ErrType}, {map[string]int{}, list.ErrType}, {complex(1, 2), list.ErrType},
		{(*int)(nil), list.ErrType}, {uintptr(1), list.ErrType}, {[]any{}, list.ErrType}, {func() {}, list.ErrType},
	}
	eachKind(t, func(t *testing.T, o *list.Options) {
		l := newList(t, o, 7, "abcdefg")
		image := func() string { return string(l.Block().Bytes()) }
		for _, c := range values {
			before := image()
			for i := range 2 {
				if err := l.Set(i, c.v); !errors.Is(err, c.want) {
					t.Errorf("Set to a %T: %v", c.v, err)
				}
			}
			if image() != before {
				t.Errorf("a refused %T has changed the list", c.v)
			}
			if _, ok := c.v.(fits); ok {
				continue // Create makes room for it
			}
			name := shmtest.Name(t)
			_, err := list.Create(name, []any{1, c.v}, o)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), "item 1") {
				t.Errorf("Create with a %T: %v", c.v, err)
			}
			if b, err := shm.Open(name, nil); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a failed Create left a block: %v", b)
			}
		}
		for _, i := range []int{-1, 2, math.MinInt} {
			if err := l.Set(i, 1); !errors.Is(err, list.ErrIndex) {
				t.Errorf("Set(%d): %v", i, err)
			}
		}
		if err := l.SetInt(0, math.MaxInt64-1); err != nil {
			t.Fatal(err)
		}
		for _, delta := range []int64{2, math.MaxInt64} {
			if n, err := l.AddInt(0, delta); !errors.Is(err, list.ErrRange) || n != 0 {
				t.Errorf("AddInt(%d) = %d, %v", delta, n, err)
			}
		}
		if n, err := l.AddInt(0, math.MinInt64); err != nil || n != -2 {
			t.Errorf("AddInt = %d, %v", n, err)
		}
		if n, err := l.AddInt(0, math.MinInt64); !errors.Is(err, list.ErrRange) {
			t.Errorf("AddInt = %d, %v", n, err)
		}
	})
	if _, err := list.Create("", nil, &list.Options{Layout: 7}); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}

// The longest items there are: 9 999 991 bytes.
func TestLongest(t *testing.T) {
	text := strings.Repeat("é", 4_999_995) + "x"
	if len(text) != 9_999_991 {
		t.Fatal(len(text))
	}
	l := newList(t, nil, text, []byte(text))
	if got, err := l.Text(0); err != nil || got != text {
		t.Error("text differs", err)
	}
	if got, err := l.AppendBytes(nil, 1); err != nil || string(got) != text {
		t.Error("bytes differ", err)
	}
	if f, err := l.Format(0); err != nil || f != "9999992s" {
		t.Error(f, err)
	}
	// The slot has room for one byte more, but no item may have it.
	if err := l.SetBytes(1, []byte(text+"x")); !errors.Is(err, list.ErrTooLong) {
		t.Error(err)
	}
}

// Zeros at the end are Python's padding, unless the list is exact.
func TestTrailingZeros(t *testing.T) {
	for _, c := range []struct{ in, padded string }{
		{"?\x00", "?"}, {"\x00", ""}, {"1234567\x00", "1234567"}, {"\x00\x00\x00\x00\x00\x00\x00\x00", ""}, {"a\x00b\x00\x00", "a\x00b"},
	} {
		eachKind(t, func(t *testing.T, o *list.Options) {
			want := c.padded
			if o.Exact {
				want = c.in
			}
			l := newList(t, o, c.in, []byte(c.in), strings.Repeat("x", len(c.in)))
			if err := l.SetText(2, c.in); err != nil {
				t.Fatal(err)
			}
			for _, i := range []int{0, 2} {
				if got, err := l.Text(i); got != want || err != nil {
					t.Errorf("%q reads as %q, %v", c.in, got, err)
				}
			}
			if got, err := l.AppendBytes(nil, 1); string(got) != want || err != nil {
				t.Errorf("%q reads as %q, %v", c.in, got, err)
			}
		})
	}
	l := newList(t, &list.Options{Exact: true}, "1234567")
	if err := l.SetText(0, "12345678"); err != nil {
		t.Error(err)
	}
	if got, err := l.Text(0); got != "12345678" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	// Its format would be that of a padded slot.
	if err := l.SetText(0, "1234567\x00"); !errors.Is(err, list.ErrTooLong) {
		t.Error(err)
	}
	if got, err := l.Text(0); got != "12345678" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	// Still exact when something else was there in between.
	if err := errors.Join(l.SetInt(0, 1), l.SetText(0, "a\x00")); err != nil {
		t.Error(err)
	}
	if got, err := l.Text(0); got != "a\x00" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestEquality(t *testing.T) {
	nan := math.NaN()
	eachKind(t, func(t *testing.T, o *list.Options) {
		l := newList(t, o, 0, false, 0.0, math.Copysign(0, -1), 1, 1.0, true, nan, "1", []byte("1"), nil, int64(1<<53+1), float64(1<<53), float64(1<<63), "")
		for _, c := range []struct {
			v            any
			count, index int
		}{
			{0, 4, 0}, {false, 4, 0}, {math.Copysign(0, -1), 4, 0}, {true, 3, 4}, {uint8(1), 3, 4}, {float32(1), 3, 4},
			{nan, 0, -1}, {"1", 1, 8}, {[]byte("1"), 1, 9}, {nil, 1, 10}, {int64(1<<53 + 1), 1, 11}, {int64(1 << 53), 1, 12}, {float64(1 << 53), 1, 12},
			{uint64(1) << 63, 1, 13}, {uint64(math.MaxUint64), 0, -1}, {int64(math.MinInt64), 0, -1}, {"", 1, 14}, {[]byte(nil), 0, -1}, {0.5, 0, -1}, {"no", 0, -1},
		} {
			if n, err := l.Count(c.v); n != c.count || err != nil {
				t.Errorf("Count(%#v) = %d, %v, not %d", c.v, n, err, c.count)
			}
			i, err := l.Index(c.v)
			if i != c.index || errors.Is(err, list.ErrNotFound) != (c.index < 0) || err != nil && c.index >= 0 {
				t.Errorf("Index(%#v) = %d, %v, not %d", c.v, i, err, c.index)
			}
		}
		if _, err := l.Count([]int{}); !errors.Is(err, list.ErrType) {
			t.Error(err)
		}
		if _, err := l.Index(struct{}{}); !errors.Is(err, list.ErrType) {
			t.Error(err)
		}
	})
}

func TestBulk(t *testing.T) {
	eachKind(t, func(t *testing.T, o *list.Options) {
		items := []any{"an int in a wide slot", 1, 2, 3, "another", 5, 6.5, 7.5}
		l := newList(t, o, items...)
		if err := errors.Join(l.Set(0, 0), l.Set(4, 4)); err != nil {
			t.Fatal(err)
		}
		ints := [6]int64{}
		if err := l.Ints(0, ints[:]); err != nil || ints != [6]int64{0, 1, 2, 3, 4, 5} {
			t.Error(ints, err)
		}
		floats := [2]float64{}
		if err := l.Floats(6, floats[:]); err != nil || floats != [2]float64{6.5, 7.5} {
			t.Error(floats, err)
		}
		if err := l.Ints(4, ints[:4]); !errors.Is(err, list.ErrType) || !strings.Contains(err.Error(), "item 6") || ints[0] != 4 || ints[1] != 5 {
			t.Error(ints, err)
		}
		// Setting may change the types.
		if err := errors.Join(l.SetInts(2, []int64{-2, -3, -4, -5, -6}), l.SetFloats(0, []float64{0.5, 1.5})); err != nil {
			t.Error(err)
		}
		if got, want := l.String(), fmt.Sprintf("ShareableList([0.5, 1.5, -2, -3, -4, -5, -6, 7.5], name='%s')", l.Block().Name()); got != want {
			t.Error(got)
		}
		for _, c := range []struct{ i, n int }{{-1, 1}, {0, 9}, {8, 1}, {math.MaxInt, 1}, {math.MinInt, 2}, {9, 0}} {
			if err := l.Ints(c.i, ints[:min(c.n, 6)]); c.n <= 6 && !errors.Is(err, list.ErrIndex) {
				t.Errorf("Ints(%d, %d): %v", c.i, c.n, err)
			}
			if err := l.SetFloats(c.i, append([]float64{}, floats[:]...)[:min(c.n, 2)]); c.n <= 2 && !errors.Is(err, list.ErrIndex) {
				t.Errorf("SetFloats(%d, %d): %v", c.i, c.n, err)
			}
		}
		if err := errors.Join(l.Ints(8, nil), l.SetInts(0, nil)); err != nil {
			t.Error(err)
		}
	})
}

// Larger than what is read ahead and than what one goroutine makes.
func TestMany(t *testing.T) {
	items := []any{}
	for i := range 100_000 {
		switch i % 5 {
		case 4:
			items = append(items, fmt.Sprint("text ", i))
		default:
			items = append(items, int64(i))
		}
	}
	l := newList(t, nil, items...)
	if err := l.Verify(); err != nil {
		t.Fatal(err)
	}
	n := 0
	for i, v := range l.All() {
		if v != items[i] || i != n {
			t.Fatalf("item %d is %v", i, v)
		}
		n++
	}
	if n != len(items) {
		t.Fatal(n)
	}
	for i, v := range l.All() {
		if i == 1000 {
			break
		}
		_ = v
	}
}

func TestReadOnly(t *testing.T) {
	eachKind(t, func(t *testing.T, o *list.Options) {
		l := newList(t, o, 1, 1.5, true, "x", nil)
		r, err := list.Open(l.Block().Name(), &shm.OpenOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		_, add := r.AddInt(0, 1)
		_, swap := r.CompareAndSwapInt(0, 1, 2)
		for i, err := range []error{r.Set(0, 2), r.SetInt(0, 2), r.SetFloat(1, 2), r.SetBool(2, true), r.SetText(3, "y"), r.SetBytes(3, nil), r.SetNil(4),
			r.SetInts(0, []int64{1}), r.SetFloats(0, []float64{1}), add, swap} {
			if !errors.Is(err, fs.ErrPermission) {
				t.Errorf("change %d of what was opened read-only: %v", i, err)
			}
		}
	})
}

func TestClosed(t *testing.T) {
	eachKind(t, func(t *testing.T, o *list.Options) {
		l := newList(t, o, 1, 1.5, true, "x", nil)
		if err := l.SetText(3, "y"); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(l.Close(), l.Close()); err != nil {
			t.Fatal(err)
		}
		_, e1 := l.Int(0)
		_, e2 := l.At(0)
		_, e3 := l.AppendText(nil, 3)
		_, e4 := l.IsNil(4)
		_, e5 := l.AddInt(0, 1)
		_, e6 := l.Snapshot()
		_, e7 := l.Count(1)
		_, e8 := l.Format(0)
		for i, err := range []error{e1, e2, e3, e4, e5, e6, e7, e8, l.Set(0, 2), l.SetInt(0, 2), l.SetNil(0), l.SetInts(0, []int64{1}),
			l.Ints(0, []int64{0}), l.Verify()} {
			if !errors.Is(err, os.ErrClosed) {
				t.Errorf("call %d after Close: %v", i, err)
			}
		}
		n := 0
		for _, v := range l.All() {
			if err, ok := v.(error); !ok || !errors.Is(err, os.ErrClosed) {
				t.Errorf("an item after Close: %v", v)
			}
			n++
		}
		if n != 1 || l.Len() != 5 || !strings.Contains(l.String(), "closed") {
			t.Errorf("%d items after Close, length %d, %v", n, l.Len(), l)
		}
	})
}

// Close beside calls that copy: they end with os.ErrClosed.
func TestCloseBeside(t *testing.T) {
	eachKind(t, func(t *testing.T, o *list.Options) {
		l := newList(t, o, 1, "text", 2.5)
		var started, done sync.WaitGroup
		for g := range 4 {
			started.Add(1)
			done.Go(func() {
				for n := 0; ; n++ {
					var err error
					switch g {
					case 0:
						_, err = l.At(1)
					case 1:
						err = l.Set(1, fmt.Sprint(n%1000))
					case 2:
						_, err = l.Snapshot()
					case 3:
						err = l.SetInts(0, []int64{int64(n)})
					}
					if n == 0 {
						started.Done()
					}
					if err != nil {
						if !errors.Is(err, os.ErrClosed) && (o.Concurrent || !errors.Is(err, shm.ErrFormat)) {
							t.Error(err)
						}
						if errors.Is(err, os.ErrClosed) {
							return
						}
					}
				}
			})
		}
		started.Wait()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		done.Wait()
	})
}

// The typed ways in and out do not allocate.
func TestAllocations(t *testing.T) {
	for _, o := range []*list.Options{nil, {Concurrent: true}, {Layout: list.Python38}} {
		l := newList(t, o, 1, 2.5, true, "abcdefgh", []byte("12345678"), nil)
		var buf [64]byte
		var ints [1]int64
		ways := map[string]func() error{
			"Int":      func() error { _, err := l.Int(0); return err },
			"SetInt":   func() error { return l.SetInt(0, 5000) },
			"AddInt":   func() error { _, err := l.AddInt(0, 1); return err },
			"Ints":     func() error { return l.Ints(0, ints[:]) },
			"SetInts":  func() error { return l.SetInts(0, ints[:]) },
			"Float":    func() error { _, err := l.Float(1); return err },
			"SetFloat": func() error { return l.SetFloat(1, 3) },
			"Bool":     func() error { _, err := l.Bool(2); return err },
			"SetBool":  func() error { return l.SetBool(2, false) },
			"Text":     func() error { _, err := l.AppendText(buf[:0], 3); return err },
			"SetText":  func() error { return l.SetText(3, "hgfedcba") },
			"Bytes":    func() error { _, err := l.AppendBytes(buf[:0], 4); return err },
			"SetBytes": func() error { return l.SetBytes(4, buf[:3]) },
			"IsNil":    func() error { _, err := l.IsNil(3); return err },
			"SetNil":   func() error { return l.SetNil(5) },
		}
		for name, f := range ways {
			if n := testing.AllocsPerRun(100, func() {
				if err := f(); err != nil {
					t.Error(err)
				}
			}); n != 0 {
				t.Errorf("%s allocates %v times (options %+v)", name, n, o)
			}
		}
	}
}

// A list is there complete, or not at all.
func TestAppearsComplete(t *testing.T) {
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" {
		t.Skip("a block has its name before it is complete here")
	}
	name := shmtest.Name(t)
	items := []any{}
	for i := range 20_000 {
		items = append(items, i)
	}
	var opened sync.WaitGroup
	opened.Go(func() {
		l, err := list.Wait(t.Context(), name, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer l.Close()
		ints := make([]int64, len(items))
		if err := l.Ints(0, ints); err != nil {
			t.Error(err)
		}
		for i, v := range ints {
			if v != int64(i) {
				t.Errorf("item %d is %d", i, v)
			}
		}
	})
	l, err := list.Create(name, items, nil)
	if err != nil {
		t.Fatal(err)
	}
	opened.Wait()
	if err := errors.Join(l.Close(), l.Unlink()); err != nil {
		t.Error(err)
	}
}

// A name that is taken stays as it is.
func TestTaken(t *testing.T) {
	l := newList(t, nil, 1)
	if _, err := list.Create(l.Block().Name(), []any{2}, nil); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	if v, err := l.Int(0); v != 1 || err != nil {
		t.Error(v, err)
	}
	if _, err := list.Open(shmtest.Name(t), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// A block that is no list stays open when it is taken for one.
func TestNoList(t *testing.T) {
	b, err := shm.Create(shmtest.Name(t), 100, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	b.Bytes()[0] = 200
	if _, err := list.FromBlock(b); !errors.Is(err, shm.ErrFormat) {
		t.Error(err)
	}
	if b.Closed() {
		t.Error("the block was closed")
	}
	if _, err := list.Open(b.Name(), nil); !errors.Is(err, shm.ErrFormat) {
		t.Error(err)
	}
}

func TestAnonymous(t *testing.T) {
	src := newList(t, &list.Options{Concurrent: true}, 1, "two")
	image := src.Block().Bytes()
	b, err := shm.Anonymous(len(image), nil)
	if err != nil {
		t.Fatal(err)
	}
	copy(b.Bytes(), image)
	l, err := list.FromBlock(b)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.SetText(1, "three"); err != nil {
		t.Error(err)
	}
	if got := l.String(); got != "ShareableList([1, 'three'], name='')" {
		t.Error(got)
	}
}

func TestRoom(t *testing.T) {
	eachKind(t, func(t *testing.T, o *list.Options) {
		l := newList(t, o, list.Room(20), list.Room(0), 1)
		for i := range 2 {
			if v, err := l.At(i); v != nil || err != nil {
				t.Errorf("room is %v, %v", v, err)
			}
		}
		if err := l.SetText(0, strings.Repeat("x", 20)); err != nil {
			t.Error(err)
		}
		if err := l.SetText(1, "123456789"); !errors.Is(err, list.ErrTooLong) {
			t.Error(err)
		}
		for _, n := range []list.Room{0, 5} {
			if err := l.Set(0, n); !errors.Is(err, list.ErrType) {
				t.Errorf("Set to room for %d: %v", n, err)
			}
		}
		for _, n := range []list.Room{-1, 9_999_992} {
			if _, err := list.Create("", []any{n}, o); !errors.Is(err, list.ErrTooLong) {
				t.Errorf("room for %d: %v", n, err)
			}
		}
	})
}

// Who looks for leases elsewhere than the others must not take them for dead.
func TestElsewhere(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("all processes see the same leases here")
	}
	dir := shmtest.TempDir(t)
	l := newList(t, &list.Options{Concurrent: true, Block: shm.CreateOptions{Dir: dir}}, 1, "two")
	f, err := l.Block().File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := shm.FromFile(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := list.FromBlock(b)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.SetInt(0, 2); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("changed without being seen: %v", err)
	}
	if err := l.SetInt(0, 3); err != nil {
		t.Error(err)
	}
	if v, err := other.Int(0); v != 3 || err != nil {
		t.Error(v, err)
	}
	// By the same name, but from another working directory.
	if other, err = list.Open(l.Ref().Name, &shm.OpenOptions{Dir: dir + "/."}); err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.SetInt(0, 4); err != nil {
		t.Error(err)
	}
}
