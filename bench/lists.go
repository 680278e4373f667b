package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/list"
)

// In the lists of a few items these are the ones that are measured.
const (
	intItem  = 500
	textItem = 501
	text8    = "abcdefgh"
)

// newList makes a list, which the case closes and unlinks. Where there is no
// room for it, which is 25 bytes an item and more, that is said in the result and
// ok is false: a small /dev/shm is no reason to measure nothing else.
func newList(r *Result, name string, items []any, o *list.Options) (l *list.List, ok bool, err error) {
	l, err = list.Create(name, items, o)
	if errors.Is(err, shm.ErrNoSpace) {
		r.Missing = append(r.Missing, err.Error())
		return nil, false, nil
	}
	return l, err == nil, err
}

// dropList is [remove] for lists.
func dropList(l *list.List) { _ = errors.Join(l.Close(), l.Unlink()) }

// ints are n items to make a list of.
func ints(n int) []any {
	items := make([]any, n)
	for i := range items {
		items[i] = i
	}
	return items
}

// few are the items of a small list: numbers, and one text.
func few() []any {
	items := ints(1000)
	items[textItem] = text8
	return items
}

// many is how long the long lists are.
func (e *env) many() int {
	if e.quick {
		return 100_000
	}
	return 1_000_000
}

// fewer rounds are enough, and as many as one waits for, where one of CPython's
// takes seconds.
func (e *env) fewer() *env {
	f := *e
	f.count = max(min(e.count, 3), e.count/3)
	return &f
}

// each is loop for what takes some nanoseconds: the loop is in f, so that
// calling f is not in the figure.
func each(name string, f func(n int) error) way {
	return way{name, func(n int) (time.Duration, error) {
		start := time.Now()
		err := f(n)
		return time.Since(start), err
	}}
}

func getInts(l *list.List) func(int) error {
	return func(n int) error {
		var s int64
		for range n {
			v, err := l.Int(intItem)
			if err != nil {
				return err
			}
			s += v
		}
		runtime.KeepAlive(s)
		return nil
	}
}

func setInts(l *list.List) func(int) error {
	return func(n int) error {
		for i := range n {
			if err := l.SetInt(intItem, int64(i)); err != nil {
				return err
			}
		}
		return nil
	}
}

func addInts(l *list.List) func(int) error {
	return func(n int) error {
		for range n {
			if _, err := l.AddInt(intItem, 1); err != nil {
				return err
			}
		}
		return nil
	}
}

func getTexts(l *list.List) func(int) error {
	var buf [64]byte
	return func(n int) error {
		for range n {
			b, err := l.AppendText(buf[:0], textItem)
			if err == nil && len(b) != len(text8) {
				err = fmt.Errorf("text %q", b)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

func setTexts(l *list.List) func(int) error {
	return func(n int) error {
		for range n {
			if err := l.SetText(textItem, text8); err != nil {
				return err
			}
		}
		return nil
	}
}

func getAny(l *list.List, item int) func(int) error {
	return func(n int) error {
		for range n {
			if _, err := l.At(item); err != nil {
				return err
			}
		}
		return nil
	}
}

func setAny(l *list.List, item int, v any) func(int) error {
	return func(n int) error {
		for range n {
			if err := l.Set(item, v); err != nil {
				return err
			}
		}
		return nil
	}
}

// listInt is one number of a list.
func listInt(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "A list: get and set an int", Text: `One item of a list of 1000, again and again, in a loop on either side that is in the figure. Int and SetInt look at the index, at where the table puts the item, at its format and its code, and
whether the list was closed, each time. At and Set take any type, and count themselves in, so that Close waits, and turn a fault (a peer made the block smaller) into an error. AddInt is atomic between processes. CPython
does sl[i] and sl[i] = v: it unpacks the format, the value and the code through a memoryview each.`}
	name := e.block("list-int")
	l, ok, err := newList(r, name, few(), nil)
	if !ok {
		return r, err
	}
	defer dropList(l)
	ways := []way{
		each("List.Int", getInts(l)),
		each("List.SetInt", setInts(l)),
		each("List.AddInt", addInts(l)),
		each("List.At", getAny(l, intItem)),
		each("List.Set", setAny(l, intItem, intItem)),
	}
	for _, p := range e.pythons {
		ways = append(ways, p.way(p.name+", get", "getitem", name, intItem), p.way(p.name+", set", "setint", name, intItem))
	}
	if r.Rows, err = e.rounds(ctx, ways); err != nil {
		return nil, err
	}
	for _, v := range []struct{ ours, theirs string }{{"List.Int", ", get"}, {"List.SetInt", ", set"}} {
		r.below(v.ours, r.row(v.ours).Median, 10, "ns")
		for _, p := range e.pythons {
			r.faster(v.ours, p.name+v.theirs, 200)
		}
	}
	r.Missing = append(r.Missing, e.missing...)
	return r, nil
}

// listText is one text of a list.
func listText(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "A list: get and set text of 8 bytes", Text: `As above, for an item that is text. AppendText copies it to the end of a slice that the caller has, and checks that it is UTF-8; Text makes a string of it. Setting it is always done the safe way, as At
and Set are. There is no target but that AppendText shall not allocate.`}
	name := e.block("list-text")
	l, ok, err := newList(r, name, few(), nil)
	if !ok {
		return r, err
	}
	defer dropList(l)
	get := getTexts(l)
	ways := []way{
		each("List.AppendText", get),
		each("List.Text", func(n int) error {
			for range n {
				if _, err := l.Text(textItem); err != nil {
					return err
				}
			}
			return nil
		}),
		each("List.At", getAny(l, textItem)),
		each("List.SetText", setTexts(l)),
		each("List.Set", setAny(l, textItem, text8)),
	}
	for _, p := range e.pythons {
		ways = append(ways, p.way(p.name+", get", "getitem", name, textItem), p.way(p.name+", set", "settext", name, textItem))
	}
	if r.Rows, err = e.rounds(ctx, ways); err != nil {
		return nil, err
	}
	allocs := testing.AllocsPerRun(1000, func() {
		if e := get(1); e != nil {
			err = e
		}
	})
	r.below("List.AppendText", allocs, 0, "allocations")
	r.Missing = append(r.Missing, e.missing...)
	return r, err
}

// listCreate is making a long list.
func listCreate(ctx context.Context, e *env) (*Result, error) {
	n := e.many()
	r := &Result{Title: fmt.Sprintf("A list: create it of %d ints", n), Text: `From a []any that is there, or list(range(n)), until the list has its name; closing and removing it are not counted. The target is held against the default, which
reserves all memory first. CPython reserves nothing, as does the second row: there each page is cleared when it is first written to. Most of our time is the kernel's, which clears and maps 25 bytes for each item page by page; several processors share that. The last row of
ours is a block of as many bytes and nothing in it, every page mapped by one processor: what is left then is no matter of lists.`}
	items := ints(n)
	name := e.block("list-create")
	create := func(what string, o *list.Options) way {
		return timed(what, func() (time.Duration, error) {
			start := time.Now()
			l, err := list.Create(name, items, o)
			if err != nil {
				return 0, err
			}
			took := time.Since(start)
			return took, errors.Join(l.Close(), l.Unlink())
		})
	}
	// Whether there is room for the largest of them, and how large a plain one is.
	size := 0
	for _, o := range []*list.Options{{Concurrent: true}, nil} {
		l, ok, err := newList(r, name, items, o)
		if !ok {
			return r, err
		}
		size = l.Block().Size()
		dropList(l)
	}
	ways := []way{
		create("list.Create", nil),
		create("list.Create, sparse", &list.Options{Block: shm.CreateOptions{Sparse: true}}),
		create("list.Create, concurrent", &list.Options{Concurrent: true}),
		timed("shm.Create, as many bytes, Prefault", func() (time.Duration, error) {
			start := time.Now()
			b, err := shm.Create(name, size, &shm.CreateOptions{Prefault: true})
			if err != nil {
				return 0, err
			}
			took := time.Since(start)
			return took, errors.Join(b.Close(), b.Unlink())
		}),
	}
	for _, p := range e.pythons {
		ways = append(ways, p.way(p.name, "makelist", name, n))
	}
	var err error
	if r.Rows, err = e.fewer().rounds(ctx, ways); err != nil {
		return nil, err
	}
	for _, p := range e.pythons {
		r.faster("list.Create", p.name, 100)
	}
	r.timesAsFast(e)
	r.Missing = append(r.Missing, e.missing...)
	return r, nil
}

// timesAsFast adds a table of how many times as fast as CPython each way of
// ours is: of those, too, that have no target.
func (r *Result) timesAsFast(e *env) {
	var theirs []*Row
	head := []string{"as fast as"}
	for _, p := range e.pythons {
		if row := r.row(p.name); row != nil {
			theirs, head = append(theirs, row), append(head, p.name)
		}
	}
	if len(theirs) == 0 {
		return
	}
	r.Facts = [][]string{head}
	for i := range r.Rows[:len(r.Rows)-len(theirs)] {
		cells := []string{r.Rows[i].Name}
		for _, t := range theirs {
			cells = append(cells, digits(ratio(&r.Rows[i], t, true))+" ×")
		}
		r.Facts = append(r.Facts, cells)
	}
}

// listIterate is going through a long list.
func listIterate(ctx context.Context, e *env) (*Result, error) {
	n := e.many()
	r := &Result{Title: fmt.Sprintf("A list: the sum of %d ints", n), Text: `Ints copies all of them into a slice of the caller's, which is then summed up. The other ways read each item by itself, with all its checks: a loop of Int, a loop over All (which gives values of any
type, so that large ints are allocated), and over a Snapshot, which has all of them at once. CPython does for x in sl: s += x. The target is for Ints.`}
	name := e.block("list-iterate")
	l, ok, err := newList(r, name, ints(n), nil)
	if !ok {
		return r, err
	}
	defer dropList(l)
	dst := make([]int64, n)
	ways := []way{
		loop("List.Ints", func() error {
			if err := l.Ints(0, dst); err != nil {
				return err
			}
			var s int64
			for _, v := range dst {
				s += v
			}
			return checkSum(uint64(s), n)
		}),
		loop("List.Int, one by one", func() error {
			var s int64
			for i := range n {
				v, err := l.Int(i)
				if err != nil {
					return err
				}
				s += v
			}
			return checkSum(uint64(s), n)
		}),
		loop("List.All", func() error {
			var s int64
			for _, v := range l.All() {
				x, ok := v.(int64)
				if !ok {
					return fmt.Errorf("%v is no int", v)
				}
				s += x
			}
			return checkSum(uint64(s), n)
		}),
		loop("List.Snapshot", func() error {
			all, err := l.Snapshot()
			if err != nil {
				return err
			}
			var s int64
			for _, v := range all {
				x, ok := v.(int64)
				if !ok {
					return fmt.Errorf("%v is no int", v)
				}
				s += x
			}
			return checkSum(uint64(s), n)
		}),
	}
	for _, p := range e.pythons {
		ways = append(ways, p.way(p.name, "sumlist", name, n))
	}
	if r.Rows, err = e.fewer().rounds(ctx, ways); err != nil {
		return nil, err
	}
	for _, p := range e.pythons {
		r.faster("List.Ints", p.name, 300)
	}
	r.timesAsFast(e)
	r.Missing = append(r.Missing, e.missing...)
	return r, nil
}

// listOpen is coming to a long list.
func listOpen(ctx context.Context, e *env) (*Result, error) {
	n := e.many()
	r := &Result{Title: fmt.Sprintf("A list: open one of %d ints by name, and verify it", n), Text: `Opening and closing, as CPython's ShareableList(name=…) and its shm.close(). Ours looks at the two ends of the table, CPython reads all of it into a list. CPython 3.8's layout has to be added up. Verify goes
through all that Open did not look at, in a list that is open.`}
	items := ints(n)
	name, old := e.block("list-open"), e.block("list-open-38")
	l, ok, err := newList(r, name, items, nil)
	if !ok {
		return r, err
	}
	defer dropList(l)
	l38, ok, err := newList(r, old, items, &list.Options{Layout: list.Python38})
	if !ok {
		return r, err
	}
	defer dropList(l38)
	open := func(what, name string) way {
		return loop(what, func() error {
			l, err := list.Open(name, nil)
			if err != nil {
				return err
			}
			return l.Close()
		})
	}
	ways := []way{
		open("list.Open", name),
		open("list.Open, 3.8's layout", old),
		loop("List.Verify", l.Verify),
	}
	for _, p := range e.pythons {
		ways = append(ways, p.way(p.name, "openlist", name, n))
	}
	if r.Rows, err = e.fewer().rounds(ctx, ways); err != nil {
		return nil, err
	}
	for _, p := range e.pythons {
		r.faster("list.Open", p.name, 100)
	}
	r.below("List.Verify", r.row("List.Verify").Median/1e6, 10, "ms")
	r.Missing = append(r.Missing, e.missing...)
	return r, nil
}

// listConcurrent is what it costs that nobody sees half a value.
func listConcurrent(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "A list: with Options.Concurrent, and beside another process", Text: `One item of a plain list and of a Concurrent one. "Contended" is with another process that changes the same item as fast as it can, with AddInt or SetText; what is left of a processor
each, on a machine with two, is part of the figure, as is the waiting for whoever has the item. No target.`}
	plain, shared := e.block("list-plain"), e.block("list-concurrent")
	other, err := child("contend")
	if err != nil {
		return nil, err
	}
	defer other.stop()
	var ways []way
	for _, v := range []struct {
		what, name string
		o          *list.Options
	}{{"plain", plain, nil}, {"Concurrent", shared, &list.Options{Concurrent: true}}} {
		l, ok, err := newList(r, v.name, few(), v.o)
		if !ok {
			return r, err
		}
		defer dropList(l)
		for _, call := range []struct {
			what, change string
			f            func(int) error
		}{
			{"Int", "int", getInts(l)}, {"SetInt", "int", setInts(l)}, {"AddInt", "int", addInts(l)},
			{"AppendText", "text", getTexts(l)}, {"SetText", "text", setTexts(l)},
		} {
			alone := each(fmt.Sprintf("List.%s, %s", call.what, v.what), call.f)
			ways = append(ways, alone, way{alone.name + ", contended", func(n int) (took time.Duration, err error) {
				if _, err := other.ask("%s %s", call.change, v.name); err != nil {
					return 0, err
				}
				took, err = alone.run(n)
				_, stopErr := other.ask("rest")
				return took, errors.Join(err, stopErr)
			}})
		}
	}
	r.Rows, err = e.rounds(ctx, ways)
	return r, err
}

// roleContend changes an item of a list from one line of its input, which says
// what kind of item and in which list, to the next.
func roleContend(in io.Reader, out io.Writer) error {
	var rest atomic.Bool
	var busy sync.WaitGroup
	var failed error
	stop := func() {
		rest.Store(true)
		busy.Wait()
		rest.Store(false)
	}
	defer stop()
	for lines := bufio.NewScanner(in); lines.Scan(); {
		stop()
		if failed != nil {
			return failed
		}
		if lines.Text() == "rest" {
			fmt.Fprintln(out, "resting")
			continue
		}
		var kind, name string
		if _, err := fmt.Sscan(lines.Text(), &kind, &name); err != nil {
			return err
		}
		l, err := list.Open(name, nil)
		if err != nil {
			return err
		}
		change := addInts(l)
		if kind == "text" {
			change = setTexts(l)
		}
		started := make(chan struct{})
		busy.Go(func() {
			defer l.Close()
			failed = change(1)
			close(started)
			for failed == nil && !rest.Load() {
				failed = change(100)
			}
		})
		<-started
		fmt.Fprintln(out, "changing")
	}
	return nil
}
