package list_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/list"
)

// The tests in this file do the same to lists in Go and in every CPython of the
// machine.

func eachPython(t *testing.T, f func(t *testing.T, py shmtest.Python)) {
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.Version, func(t *testing.T) {
			t.Parallel()
			f(t, py)
		})
	}
}

// layoutOf is the only layout that this Python knows.
func layoutOf(py shmtest.Python) list.Layout {
	if py.Minor == 8 {
		return list.Python38
	}
	return list.Python39
}

// program is what Python is to do, all of it in one request, and what is to be
// made of its answers.
type program struct {
	steps  [][]any
	checks []func(answer)
}

// answer is what a step returned, or the class of the exception it raised.
type answer struct {
	value     json.RawMessage
	exception string
}

// do adds a step to a list that Python knows by its key; see peer.py.
func (p *program) do(check func(answer), what, key string, args ...any) {
	p.steps = append(p.steps, append([]any{what, key}, args...))
	p.checks = append(p.checks, check)
}

// must is do for what has to succeed and returns nothing.
func (p *program) must(t testing.TB, what, key string, args ...any) {
	t.Helper()
	p.do(func(a answer) {
		if a.exception != "" {
			t.Fatalf("Python's %s %s %v: %s", what, key, args, a.exception)
		}
	}, what, key, args...)
}

// expect is do for what has to return this.
func (p *program) expect(t testing.TB, want any, what, key string, args ...any) {
	t.Helper()
	p.do(func(a answer) {
		if a.exception != "" {
			t.Errorf("Python's %s %s %v: %s, want %v", what, key, args, a.exception, want)
			return
		}
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got, like any
		if json.Unmarshal(a.value, &got) != nil || json.Unmarshal(text, &like) != nil || fmt.Sprint(got) != fmt.Sprint(like) {
			t.Errorf("Python's %s %s %v is %v, want %v", what, key, args, got, like)
		}
	}, what, key, args...)
}

// run has Python do it.
func (p *program) run(t testing.TB, py *shmtest.PythonProcess) {
	t.Helper()
	var results []json.RawMessage
	if err := json.Unmarshal(py.Must("lists", shmtest.Args{"steps": p.steps}).Results, &results); err != nil {
		t.Fatal(err)
	}
	if len(results) != len(p.steps) {
		t.Fatalf("%d answers to %d steps", len(results), len(p.steps))
	}
	for i, check := range p.checks {
		var a answer
		var both []json.RawMessage
		err := json.Unmarshal(results[i], &both)
		switch {
		case err == nil && len(both) == 1:
			a.value = both[0]
		case err == nil && len(both) == 2:
			err = json.Unmarshal(both[1], &a.exception)
		default:
			t.Fatalf("answer %s: %v", results[i], err)
		}
		if err != nil {
			t.Fatal(err)
		}
		check(a)
	}
	*p = program{}
}

// whole has Python look at the whole list.
func (p *program) whole(t testing.TB, m *model, key, name string) {
	t.Helper()
	all := []value{}
	format := ""
	for _, c := range m.cells {
		all = append(all, typed(c.v))
		format += c.format
	}
	p.expect(t, all, "all", key)
	p.expect(t, format, "format", key)
	if m.readable() {
		p.expect(t, m.repr(name), "repr", key)
	}
}

// sent is items as Python gets them.
func sent(items []any) []value {
	out := []value{}
	for _, v := range items {
		out = append(out, typed(v))
	}
	return out
}

func mustOpen(t testing.TB, name string) *list.List {
	t.Helper()
	l, err := list.Open(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// twins are two lists with the same bytes. Go and Python have both of them
// open, and one of them changes the first where the other changes the second.
type twins struct {
	m     *model
	byGo  bool
	key   string
	names [2]string
	lists [2]*list.List
}

func (w *twins) keyOf(k int) string { return fmt.Sprint(w.key, k) }

// close removes both.
func (w *twins) close(t testing.TB, p *program) {
	t.Helper()
	for k, l := range w.lists {
		if w.byGo {
			if err := errors.Join(l.Close(), l.Unlink()); err != nil {
				t.Error(err)
			}
			p.must(t, "unregister", w.keyOf(k)) // else Python's tracker removes it once more
		} else {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			p.must(t, "unlink", w.keyOf(k))
		}
		p.must(t, "close", w.keyOf(k))
	}
}

// TestInteropRandom makes random lists on both sides and changes them at
// random. After each step values, formats and all bytes are the same, and those of
// the model. SHM_LISTS is how many pairs of lists each Python gets.
func TestInteropRandom(t *testing.T) {
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		r := randomFor(t)
		p := shmtest.StartPython(t, py)
		const batch = 50 // as a request takes longer than a step
		for left := envInt(t, "SHM_LISTS", 250); left > 0; left -= batch {
			runRandom(t, r, p, min(left, batch))
			if t.Failed() {
				t.FailNow()
			}
		}
		if stderr := p.Exit(); stderr != "" {
			t.Errorf("Python's standard error: %s", stderr)
		}
	})
}

func runRandom(t *testing.T, r *rand.Rand, py *shmtest.PythonProcess, n int) {
	t.Helper()
	var pr program
	all := make([]*twins, n)
	for i := range all {
		all[i] = makeTwins(t, r, py, &pr, fmt.Sprint(i, "."))
	}
	pr.run(t, py)
	for _, w := range all {
		for k, name := range w.names {
			if w.lists[k] == nil {
				w.lists[k] = mustOpen(t, name)
			}
			w.same(t, k)
		}
	}
	for range 8 {
		for _, w := range all {
			w.step(t, r, &pr)
		}
		pr.run(t, py)
		for _, w := range all {
			for _, l := range w.lists {
				w.m.sameBytes(t, l)
			}
		}
	}
	for _, w := range all {
		for k, name := range w.names {
			w.same(t, k)
			pr.whole(t, w.m, w.keyOf(k), name)
		}
		// What an item has become is looked for in the other list.
		if n := len(w.m.cells); n > 0 && w.m.readable() {
			w.search(t, &pr, w.m.cells[r.IntN(n)].v)
			w.search(t, &pr, randomValue(r, 8))
		}
	}
	pr.run(t, py)
	for _, w := range all {
		w.close(t, &pr)
	}
	pr.run(t, py)
}

// makeTwins makes both lists on one side and has Python open or make its.
func makeTwins(t *testing.T, r *rand.Rand, py *shmtest.PythonProcess, pr *program, key string) *twins {
	t.Helper()
	w := &twins{byGo: r.IntN(2) == 0, key: key, names: [2]string{shmtest.Name(t), shmtest.Name(t)}}
	items, layout := randomItems(r), layoutOf(py.Python)
	w.m = newModel(items, layout, false, !w.byGo)
	for k, name := range w.names {
		if !w.byGo {
			pr.must(t, "make", w.keyOf(k), name, sent(items))
		} else {
			l, err := list.Create(name, items, &list.Options{Layout: layout, Concurrent: r.IntN(3) == 0})
			if err != nil {
				t.Fatal(err)
			}
			w.lists[k] = l
			pr.must(t, "open", w.keyOf(k), name)
		}
		pr.whole(t, w.m, w.keyOf(k), name)
	}
	return w
}

// same looks at one of the lists in Go.
func (w *twins) same(t testing.TB, k int) {
	t.Helper()
	l := w.lists[k]
	w.m.same(t, l)
	if w.m.readable() {
		if want := w.m.repr(w.names[k]); l.String() != want {
			t.Errorf("%v, want %s", l, want)
		}
	}
	// Empty ones differ in length only, which Windows rounds up.
	if l.Len() > 0 && l.Layout() != w.m.layout {
		t.Errorf("%v has layout %v", l, l.Layout())
	}
}

func (w *twins) search(t testing.TB, pr *program, v any) {
	t.Helper()
	n, first := w.m.count(v)
	pr.expect(t, n, "count", w.keyOf(0), typed(v))
	pr.do(func(a answer) {
		if want := fmt.Sprint(first); a.exception != "" && (first >= 0 || a.exception != "ValueError") || a.exception == "" && string(a.value) != want {
			t.Errorf("Python's index of %v is %s %s, want %s", typed(v), a.value, a.exception, want)
		}
	}, "index", w.keyOf(0), typed(v))
	if got, err := w.lists[1].Count(v); got != n || err != nil {
		t.Errorf("Count(%v) is %d, %v, want %d", typed(v), got, err, n)
	}
	if got, err := w.lists[1].Index(v); got != first || (err != nil) != errors.Is(err, list.ErrNotFound) || (err != nil) != (first < 0) {
		t.Errorf("Index(%v) is %d, %v, want %d", typed(v), got, err, first)
	}
}

// exceptions are what Python raises where we return these errors.
var exceptions = map[error]string{
	nil:             "",
	list.ErrIndex:   "IndexError",
	list.ErrTooLong: "ValueError",
	list.ErrText:    "UnicodeEncodeError",
	list.ErrType:    "KeyError",
	list.ErrRange:   "error", // struct's
}

// step changes one item, in one of the lists by Go and in the other by Python.
func (w *twins) step(t testing.TB, r *rand.Rand, pr *program) {
	t.Helper()
	n := len(w.m.cells)
	mine := r.IntN(2)
	l, theirs := w.lists[mine], w.keyOf(1-mine)
	i, v := 0, any(int64(42))
	switch outside := n == 0 || r.IntN(20) == 0; {
	case outside:
		i = n + r.IntN(3)
	case r.IntN(10) == 0:
		i, v = r.IntN(n), forbidden(r)
	default:
		i = r.IntN(n)
		v = randomValue(r, len(w.m.cells[i].slot))
	}
	want := w.m.set(i, v)
	before := at(l, i)
	if err := l.Set(i, v); !errors.Is(err, want) {
		t.Errorf("setting item %d to %v: %v, want %v", i, typed(v), err, want)
	}
	if now := at(l, i); want != nil && now != before {
		t.Errorf("item %d was %v, is %v after %v", i, before, now, want)
	}
	if i >= n {
		if _, err := l.At(i); !errors.Is(err, list.ErrIndex) {
			t.Errorf("item %d of %d: %v", i, n, err)
		}
	}
	asked := i
	if i < n && r.IntN(20) == 0 {
		// Python's "from the end" is no index of ours.
		asked -= n
		if err := l.Set(asked, int64(1)); !errors.Is(err, list.ErrIndex) {
			t.Errorf("setting item %d: %v", asked, err)
		}
	}
	pr.do(func(a answer) {
		if a.exception != exceptions[want] {
			t.Errorf("Python sets item %d to %v: %q, want %q", asked, typed(v), a.exception, exceptions[want])
		}
	}, "set", theirs, asked, typed(v))
	if errors.Is(want, list.ErrRange) {
		// Python leaves 0 where it raises that.
		w.m.cells[i].put(int64(0), false)
		if err := l.SetInt(i, 0); err != nil {
			t.Error(err)
		}
	}
	if i < n {
		now := typed(w.m.cells[i].v)
		if got := at(l, i); got != now {
			t.Errorf("item %d, set to %v, is %v, want %v", i, typed(v), got, now)
		}
		// Set by Python and by us, seen by Python.
		for k := range w.lists {
			pr.do(func(a answer) {
				var got value
				if a.exception != "" {
					got = value{"error", a.exception}
				} else if err := json.Unmarshal(a.value, &got); err != nil {
					t.Fatal(err)
				}
				if got != now {
					t.Errorf("item %d, set to %v, is %v in Python, want %v", i, typed(v), got, now)
				}
				// And by us.
				if got := at(w.lists[k], i); got != now {
					t.Errorf("item %d, set to %v, is %v in Go, want %v", i, typed(v), got, now)
				}
			}, "get", w.keyOf(k), i)
		}
	}
}

// TestInteropEquality asks Python what is equal to what.
func TestInteropEquality(t *testing.T) {
	items := []any{nil, true, false, "", "a", "1", "a\x00b", "é", []byte{}, []byte("a"), []byte("1"), []byte("a\x00b"), []byte("é")}
	for _, v := range edgeInts {
		items = append(items, v)
	}
	for _, v := range edgeFloats {
		items = append(items, v)
	}
	asked := append([]any{
		uint64(1 << 63), uint64(1<<63 + 1), uint64(math.MaxUint64), 1.5, "a\x00", []byte("a\x00"), "b", "None", "True",
		math.Nextafter(1<<53, 0), math.Nextafter(1<<63, 0), math.Nextafter(-1<<63, math.Inf(-1)),
	}, items...)
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		p := shmtest.StartPython(t, py)
		name := shmtest.Name(t)
		l, err := list.Create(name, items, &list.Options{Layout: layoutOf(py)})
		if err != nil {
			t.Fatal(err)
		}
		w := &twins{m: newModel(items, layoutOf(py), false, false), byGo: true, lists: [2]*list.List{l, l}}
		var pr program
		pr.must(t, "open", w.keyOf(0), name)
		pr.whole(t, w.m, w.keyOf(0), name)
		for _, v := range asked {
			w.search(t, &pr, v)
		}
		pr.must(t, "unregister", w.keyOf(0))
		pr.run(t, p)
		if err := errors.Join(l.Close(), l.Unlink()); err != nil {
			t.Error(err)
		}
		if stderr := p.Exit(); stderr != "" {
			t.Errorf("Python's standard error: %s", stderr)
		}
	})
}

// Python up to 3.15 reads exact lists without the zeros at the end, and when it
// changes text or bytes it cuts what is longer than what was there.
func TestInteropExact(t *testing.T) {
	items := []any{"ab\x00", []byte("\x00\x00"), "", []byte("12345678"), "中文\x00", int64(7), []byte("x")}
	stripped := []any{"ab", []byte{}, "", []byte("12345678"), "中文", int64(7), []byte("x")}
	for _, concurrent := range []bool{false, true} {
		t.Run(fmt.Sprintf("concurrent=%v", concurrent), func(t *testing.T) {
			eachPython(t, func(t *testing.T, py shmtest.Python) {
				name := shmtest.Name(t)
				l, err := list.Create(name, items, &list.Options{Layout: layoutOf(py), Exact: true, Concurrent: concurrent})
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := errors.Join(l.Close(), l.Unlink()); err != nil {
						t.Error(err)
					}
				}()
				m := newModel(items, layoutOf(py), true, false)
				m.same(t, l)
				end := len(m.image())
				trailer := bytes.Clone(l.Block().Bytes()[end:])

				p := shmtest.StartPython(t, py)
				var pr program
				pr.must(t, "open", "l", name)
				pr.expect(t, sent(stripped), "all", "l")
				pr.expect(t, "3s2s0s8s7sq1s", "format", "l")
				for i, v := range map[int]any{
					0: "xyz",          // as long as before
					1: []byte("long"), // cut
					2: "longer",       // cut to nothing
					3: []byte("1234567890123456"),
					4: []byte("ab\x00"), // another type, shorter: it has the length of before
					5: "now text",       // in the slot of a number there is no exact length
					6: -0.5,
				} {
					pr.must(t, "set", "l", i, typed(v))
				}
				pr.run(t, p)
				if !bytes.Equal(l.Block().Bytes()[end:], trailer) {
					t.Errorf("Python wrote to the trailer:\n%swant\n%s", hex.Dump(l.Block().Bytes()[end:]), hex.Dump(trailer))
				}
				now := []any{"xyz", []byte("lo"), "", []byte("12345678"), []byte("ab\x00\x00\x00\x00\x00"), "now text", -0.5}
				for i, v := range now {
					if got := at(l, i); got != typed(v) {
						t.Errorf("item %d, set by Python, is %v, want %v", i, got, typed(v))
					}
				}
				if err := l.Verify(); err != nil {
					t.Error(err)
				}

				// What Python cuts we do not, and the length is exact again.
				after := []any{"longer", []byte("long\x00"), "\x00", []byte("123456789"), "", []byte("\x00"), "\x00y\x00"}
				seen := []any{"longer", []byte("long"), "", []byte("123456789"), "", []byte{}, "\x00y"}
				for i, v := range after {
					if err := l.Set(i, v); err != nil {
						t.Error(err)
					}
					if got := at(l, i); got != typed(v) {
						t.Errorf("item %d is %v, want %v", i, got, typed(v))
					}
				}
				pr.expect(t, sent(seen), "all", "l")
				pr.expect(t, "6s5s1s9s0s1s3s", "format", "l")
				pr.must(t, "unregister", "l")
				pr.run(t, p)
				if stderr := p.Exit(); stderr != "" {
					t.Errorf("Python's standard error: %s", stderr)
				}
			})
		})
	}
}

// To Python a concurrent list is a list: it reads and sets items, by what it
// knows of, and the trailer stays as it is.
func TestInteropConcurrent(t *testing.T) {
	items := []any{"camera 0", int64(0), 0.0, nil, []byte("12345678"), true, "中文"}
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		name := shmtest.Name(t)
		l, err := list.Create(name, items, &list.Options{Layout: layoutOf(py), Concurrent: true})
		if err != nil {
			t.Fatal(err)
		}
		other := mustOpen(t, name)
		if !other.Concurrent() || other.Exact() {
			t.Errorf("another handle on it: concurrent %v, exact %v", other.Concurrent(), other.Exact())
		}
		m := newModel(items, layoutOf(py), false, false)
		p := shmtest.StartPython(t, py)
		var pr program
		pr.must(t, "open", "l", name)
		pr.whole(t, m, "l", name)
		pr.run(t, p)

		// Each item goes from Go to Python and back, to another type each time.
		for turn := range 2 * len(items) {
			for i := range items {
				v := items[(i+turn)%len(items)]
				want := m.set(i, v)
				if turn%2 == 0 {
					if err := l.Set(i, v); !errors.Is(err, want) {
						t.Errorf("setting item %d to %v: %v, want %v", i, typed(v), err, want)
					}
					continue
				}
				pr.do(func(a answer) {
					if a.exception != exceptions[want] {
						t.Errorf("Python sets item %d to %v: %q, want %q", i, typed(v), a.exception, exceptions[want])
					}
				}, "set", "l", i, typed(v))
			}
			trailer := bytes.Clone(l.Block().Bytes()[len(m.image()):])
			pr.whole(t, m, "l", name)
			pr.run(t, p)
			if now := l.Block().Bytes()[len(m.image()):]; !bytes.Equal(now, trailer) {
				t.Fatalf("Python wrote to the trailer:\n%swant\n%s", hex.Dump(now), hex.Dump(trailer))
			}
			m.same(t, l)
			m.same(t, other)
		}

		// Python's change is seen by what changes an item from its old value.
		if err := l.Set(0, 1); err != nil {
			t.Error(err)
		}
		pr.must(t, "set", "l", 0, typed(int64(41)))
		pr.run(t, p)
		if sum, err := other.AddInt(0, 1); sum != 42 || err != nil {
			t.Errorf("41 + 1 is %d, %v", sum, err)
		}
		if swapped, err := l.CompareAndSwapInt(0, 42, math.MinInt64); !swapped || err != nil {
			t.Errorf("swap: %v, %v", swapped, err)
		}
		pr.expect(t, typed(int64(math.MinInt64)), "get", "l", 0)
		pr.must(t, "unregister", "l")
		pr.run(t, p)
		if err := errors.Join(other.Close(), l.Close(), l.Unlink()); err != nil {
			t.Error(err)
		}
		if stderr := p.Exit(); stderr != "" {
			t.Errorf("Python's standard error: %s", stderr)
		}
	})
}

// Whoever opens a list and lets go of it leaves it where it is.
func TestInteropLifetime(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("on Windows a list goes with the last handle, in Python as well, and there is no resource tracker")
	}
	items := []any{"kept", int64(1)}
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		// Go's, and two Pythons one after the other.
		ours := shmtest.Name(t)
		l, err := list.Create(ours, items, &list.Options{Layout: layoutOf(py)})
		if err != nil {
			t.Fatal(err)
		}
		for n := range int64(2) {
			p := shmtest.StartPython(t, py)
			var pr program
			pr.must(t, "open", "l", ours)
			pr.expect(t, typed(n+1), "get", "l", 1)
			pr.must(t, "set", "l", 1, typed(n+2))
			pr.must(t, "unregister", "l")
			pr.run(t, p)
			// Not asked to close it: the program just ends.
			if stderr := p.Exit(); strings.Contains(stderr, "leaked") {
				t.Errorf("Python's standard error: %s", stderr)
			}
			if v, err := l.Int(1); v != n+2 || err != nil {
				t.Errorf("%d, %v", v, err)
			}
		}
		again := mustOpen(t, ours)
		if err := errors.Join(again.Close(), l.Close(), l.Unlink()); err != nil {
			t.Error(err)
		}

		// Python's, opened and closed by us, and opened by another Python meanwhile.
		p := shmtest.StartPython(t, py)
		theirs := shmtest.Name(t)
		var pr program
		pr.must(t, "make", "l", theirs, sent(items))
		pr.run(t, p)
		for n := range int64(2) {
			l := mustOpen(t, theirs)
			if sum, err := l.AddInt(1, 1); sum != n+2 || err != nil {
				t.Errorf("%d, %v", sum, err)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
		l = mustOpen(t, theirs)
		defer l.Close()
		pr.must(t, "open", "again", theirs)
		pr.expect(t, typed(int64(3)), "get", "again", 1)
		pr.must(t, "close", "again")
		pr.must(t, "unlink", "l")
		pr.run(t, p)
		if _, err := list.Open(theirs, nil); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Python unlinked it: %v", err)
		}
		// Without its name it goes on for those who have it.
		pr.must(t, "set", "l", 0, typed("here"))
		pr.run(t, p)
		if v, err := l.Text(0); v != "here" || err != nil {
			t.Errorf("%q, %v", v, err)
		}
		if err := l.SetInt(1, 7); err != nil {
			t.Error(err)
		}
		pr.expect(t, typed(int64(7)), "get", "l", 1)
		pr.run(t, p)
		if stderr := p.Exit(); stderr != "" {
			t.Errorf("Python's standard error: %s", stderr)
		}
	})
}
