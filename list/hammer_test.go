package list_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/list"
)

// The tests in this file have several processes change and read one list at the
// same time, and hold it to what the package's documentation promises them.

// longest is the length of the longest marked text.
const longest = 1 + 25*97

// markedItems are a counter and items that hold marked values.
func markedItems() []any {
	room := strings.Repeat("\x00", longest)
	return []any{0, room, room, room, room}
}

// marked returns a value that shows whether it is whole: text and bytes are of
// one letter, which says how long; floats are halves.
func marked(r *rand.Rand) any {
	k := r.IntN(26)
	switch r.IntN(8) {
	case 0:
		return int64(k) * 0x0101010101010101
	case 1:
		return float64(k) + 0.5
	case 2:
		return nil
	case 3:
		return k%2 == 0
	case 4:
		return bytes.Repeat([]byte{'A' + byte(k)}, 1+97*k)
	}
	return strings.Repeat(string(rune('a'+k)), 1+97*k)
}

// unbroken tells whether v is a value that marked made, or the empty text that an
// item has at first.
func unbroken(v any) bool {
	switch v := v.(type) {
	case nil, bool:
		return true
	case int64:
		return v%0x0101010101010101 == 0 && v>>56 < 26
	case float64:
		return v >= 0.5 && v <= 25.5 && v-0.5 == float64(int(v))
	case string:
		return v == "" || v[0] >= 'a' && v[0] <= 'z' && v == strings.Repeat(v[:1], 1+97*int(v[0]-'a'))
	case []byte:
		return len(v) > 0 && v[0] >= 'A' && v[0] <= 'Z' && bytes.Equal(v, bytes.Repeat(v[:1], 1+97*int(v[0]-'A')))
	}
	return false
}

// The items of the list in Python's layout that is hammered.
const (
	adding   = iota // by AddInt
	swapping        // by CompareAndSwapInt
	wholeInt
	wholeFloat
	wholeBool
	missing    // nil or an int
	message    // set before
	flagged    // this one
	fromPython // Python's to write
	chatter    // text that changes all the time, whole or not
	plainItems
)

const pattern = 0x0101010101010101

// raced says that the race detector is in this program, which makes it slow.
var raced = func() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}()

// rounds is how often each writer changes everything.
var rounds = func() int {
	if raced || os.Getenv("SHM_QEMU") != "" {
		return 5000
	}
	return 100_000
}()

// hammers are what helper processes do to a list until they have done enough, or
// see stop. They return how much they did, for readers how often they saw
// something new.
var hammers = map[string]func(l *list.List, id int, stop *atomic.Bool) (int, error){
	"write plain":       writePlain,
	"read plain":        readPlain,
	"write concurrent":  writeConcurrent,
	"read concurrent":   readConcurrent,
	"search concurrent": searchConcurrent,
}

func init() {
	shmtest.Register("hammer", func(args []string) int {
		id, _ := strconv.Atoi(args[2])
		l, err := list.Open(args[1], &shm.OpenOptions{ReadOnly: args[3] == "true"})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		var stop atomic.Bool
		shmtest.Say("ready")
		shmtest.Await("go")
		go func() {
			shmtest.Await("stop")
			stop.Store(true)
		}()
		n, err := hammers[args[0]](l, id, &stop)
		if err = errors.Join(err, l.Close()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		shmtest.Say("%d", n)
		return 0
	})
}

func writePlain(l *list.List, id int, _ *atomic.Bool) (int, error) {
	r := rand.New(rand.NewPCG(uint64(id), 2))
	for n := range rounds {
		k := r.Int64N(100)
		_, err := l.AddInt(adding, 1)
		for err == nil {
			var old int64
			var ok bool
			if old, err = l.Int(swapping); err == nil {
				if ok, err = l.CompareAndSwapInt(swapping, old, old+1); ok {
					break
				}
			}
		}
		err = errors.Join(err, l.SetInt(wholeInt, k*pattern), l.SetFloat(wholeFloat, float64(k)+0.5), l.SetBool(wholeBool, k%2 == 0))
		if id == 0 { // of these two there is one writer
			err = errors.Join(err, l.SetInt(message, int64(n)), l.SetInt(flagged, int64(n)))
			if n%2 == 0 {
				err = errors.Join(err, l.SetInt(missing, (1+k)*pattern))
			} else {
				err = errors.Join(err, l.SetNil(missing))
			}
		}
		if id == 1 {
			err = errors.Join(err, l.SetText(chatter, strings.Repeat("x", int(k)/2)))
		}
		if err != nil {
			return n, fmt.Errorf("round %d: %w", n, err)
		}
	}
	return rounds, nil
}

func readPlain(l *list.List, _ int, stop *atomic.Bool) (news int, err error) {
	var last, sum int64
	for !stop.Load() {
		n, err := l.Int(wholeInt)
		if err != nil || n%pattern != 0 || n/pattern >= 100 {
			return 0, fmt.Errorf("an int is %#x, %w", n, err)
		}
		if n != last {
			last = n
			news++
		}
		f, err := l.Float(wholeFloat)
		if err != nil || f-0.5 != float64(int(f)) || f > 100 {
			return 0, fmt.Errorf("a float is %v, %w", f, err)
		}
		if _, err := l.Bool(wholeBool); err != nil {
			return 0, err
		}
		s, err := l.Int(adding)
		if err != nil || s < sum {
			return 0, fmt.Errorf("the sum fell from %d to %d, %w", sum, s, err)
		}
		sum = s
		flag, err := l.Int(flagged)
		if err != nil {
			return 0, err
		}
		if m, err := l.Int(message); err != nil || m < flag {
			return 0, fmt.Errorf("the flag is %d, the message before it %d, %w", flag, m, err)
		}
		if err := maybeNil(l); err != nil {
			return 0, err
		}
		var two [2]int64
		if err := l.Ints(adding, two[:]); err != nil || two[adding] < sum {
			return 0, fmt.Errorf("after %d it is %d, %w", sum, two[adding], err)
		}
		// CPython clears a number before it writes one, and the format as well.
		if p, err := l.Int(fromPython); err != nil && !errors.Is(err, shm.ErrFormat) || p%pattern != 0 {
			return 0, fmt.Errorf("what Python wrote is %#x, %w", p, err)
		}
		_, err = l.At(chatter)
		if err != nil && !errors.Is(err, shm.ErrFormat) {
			return 0, err
		}
	}
	return news, nil
}

// maybeNil reads in every way an item that is nil or an int.
func maybeNil(l *list.List) error {
	is := func(v int64) bool { return v != 0 && v%pattern == 0 && v/pattern <= 100 }
	v, err := l.At(missing)
	if n, ok := v.(int64); err != nil || v != nil && (!ok || !is(n)) {
		return fmt.Errorf("nil or an int is %#x, %w", v, err)
	}
	n, err := l.Int(missing)
	if !is(n) && !errors.Is(err, list.ErrType) || errors.Is(err, shm.ErrFormat) {
		return fmt.Errorf("an int or nothing is %#x, %w", n, err)
	}
	var one [1]int64
	err = l.Ints(missing, one[:])
	if !is(one[0]) && !errors.Is(err, list.ErrType) || errors.Is(err, shm.ErrFormat) {
		return fmt.Errorf("an int or nothing is %#x of Ints, %w", one, err)
	}
	_, err = l.IsNil(missing)
	return err
}

func writeConcurrent(l *list.List, id int, _ *atomic.Bool) (int, error) {
	r := rand.New(rand.NewPCG(uint64(id), 3))
	n := rounds / 10
	for range n {
		_, err := l.AddInt(0, 1)
		if err == nil {
			err = l.Set(1+r.IntN(l.Len()-1), marked(r))
		}
		if err != nil {
			return 0, err
		}
	}
	return n, nil
}

func readConcurrent(l *list.List, _ int, stop *atomic.Bool) (news int, err error) {
	var sum int64
	for !stop.Load() {
		n, err := l.Int(0)
		if err != nil || n < sum {
			return 0, fmt.Errorf("the sum fell from %d to %d, %w", sum, n, err)
		}
		if n > sum {
			sum = n
			news++
		}
		for i := 1; i < l.Len(); i++ {
			v, err := l.At(i)
			if err != nil || !unbroken(v) {
				return 0, fmt.Errorf("item %d is %.200v, %w", i, v, err)
			}
			if s, err := l.Text(i); !unbroken(s) || err != nil && !errors.Is(err, list.ErrType) {
				return 0, fmt.Errorf("text %d is %.200v, %w", i, s, err)
			}
		}
	}
	return news, nil
}

func searchConcurrent(l *list.List, _ int, stop *atomic.Bool) (news int, err error) {
	for last := any(nil); !stop.Load(); {
		items, err := l.Snapshot()
		if err != nil {
			return 0, err
		}
		for i, v := range items[1:] {
			if !unbroken(v) {
				return 0, fmt.Errorf("item %d is %.200v", 1+i, v)
			}
		}
		if items[0] != last {
			last = items[0]
			news++
		}
		if _, err := l.Count("x"); err != nil {
			return 0, err
		}
		if err := l.Verify(); err != nil {
			return 0, err
		}
	}
	return news, nil
}

// hammer has helper processes do things to a list and returns what each said.
// Readers read as long as writers write.
func hammer(t *testing.T, l *list.List, writers, readers []string, beside ...*shmtest.Process) (news int) {
	t.Helper()
	start := func(what string, id int, readOnly bool) *shmtest.Process {
		p := shmtest.Start(t, "hammer", what, l.Block().Name(), strconv.Itoa(id), strconv.FormatBool(readOnly))
		p.Expect("ready")
		return p
	}
	var w, r []*shmtest.Process
	for i, what := range readers {
		r = append(r, start(what, i, i%2 == 1))
	}
	for i, what := range writers {
		w = append(w, start(what, i, false))
	}
	done := func(p *shmtest.Process) int {
		n, err := strconv.Atoi(p.Line())
		if status := p.Wait(); err != nil || status != 0 {
			t.Errorf("status %d, %v: %s", status, err, p.Stderr())
		}
		return n
	}
	for _, p := range append(append(beside, r...), w...) {
		p.Send("go")
	}
	for _, p := range w {
		if n := done(p); n == 0 {
			t.Error("a writer did nothing")
		}
	}
	for _, p := range beside {
		p.Send("stop")
		if n := done(p); n == 0 {
			t.Error("Python did nothing")
		}
	}
	for _, p := range r {
		p.Send("stop")
	}
	for _, p := range r {
		news += done(p)
	}
	if news == 0 {
		t.Error("no reader saw anything new")
	}
	return news
}

// python is a program that works on a list from "go" to "stop".
func pythonHammer(t *testing.T, py shmtest.Python, name, body string) *shmtest.Process {
	t.Helper()
	script := `
import sys, struct, threading
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import ShareableList
l = ShareableList(name=sys.argv[1])
resource_tracker.unregister(l.shm._name, "shared_memory") # or it would take the name away
print("ready", flush=True)
assert sys.stdin.readline() == "go\n"
stopped = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stopped.set())).start()
n = 0
` + body + `
print(n, flush=True)
l.shm.close()
`
	p := shmtest.StartCommand(t, py.Cmd(context.Background(), "-c", script, name))
	p.Expect("ready")
	return p
}

const (
	// What CPython makes of half of a value is its affair.
	pythonReads = `
while not stopped.is_set() or n == 0:
    for i in range(len(l)):
        try:
            l[i]
            n += 1
        except (ValueError, KeyError, AttributeError, struct.error):
            pass
`
	pythonWrites = `
while not stopped.is_set() or n == 0:
    n += 1
    l[8] = n % 100 * 0x0101010101010101
l[8] = 77 * 0x0101010101010101
`
)

// somePythons are the oldest and the newest that know today's layout.
func somePythons(t *testing.T) []shmtest.Python {
	all := shmtest.Pythons(t)
	for len(all) > 0 && all[0].Minor < 9 {
		all = all[1:]
	}
	if len(all) == 0 {
		shmtest.Skip(t, "python", "found no CPython 3.9 or newer")
	}
	if len(all) > 1 {
		all = []shmtest.Python{all[0], all[len(all)-1]}
	}
	return all
}

func plainList(t *testing.T) *list.List {
	return newList(t, nil, 0, 0, 0, 0.5, true, nil, 0, 0, 0, strings.Repeat("\x00", 63))
}

func checkPlain(t *testing.T, l *list.List, writers int) {
	t.Helper()
	for _, i := range []int{adding, swapping} {
		if n, err := l.Int(i); n != int64(writers*rounds) || err != nil {
			t.Errorf("item %d is %d, %v; want %d", i, n, err, writers*rounds)
		}
	}
	if err := l.Verify(); err != nil {
		t.Error(err)
	}
}

// Between processes of this library a list in Python's layout keeps numbers
// whole, sums exact and nil apart.
func TestHammerPlain(t *testing.T) {
	t.Parallel()
	l := plainList(t)
	news := hammer(t, l, []string{"write plain", "write plain"}, []string{"read plain", "read plain"})
	checkPlain(t, l, 2)
	t.Logf("%d changes seen", news)
}

// Python beside them reads what it can, and its numbers are seen.
func TestHammerPlainPython(t *testing.T) {
	t.Parallel()
	pys := somePythons(t)
	l := plainList(t)
	name := l.Block().Name()
	beside := []*shmtest.Process{pythonHammer(t, pys[0], name, pythonWrites), pythonHammer(t, pys[len(pys)-1], name, pythonReads)}
	news := hammer(t, l, []string{"write plain", "write plain"}, []string{"read plain"}, beside...)
	checkPlain(t, l, 2)
	if n, err := l.Int(fromPython); n != 77*pattern || err != nil {
		t.Errorf("Python's last int is %#x, %v", n, err)
	}
	t.Logf("%d changes seen", news)
}

// A concurrent list keeps everything whole.
func TestHammerConcurrent(t *testing.T) {
	t.Parallel()
	l := newList(t, concurrent, markedItems()...)
	news := hammer(t, l, []string{"write concurrent", "write concurrent", "write concurrent"},
		[]string{"read concurrent", "read concurrent", "search concurrent", "search concurrent"})
	if n, err := l.Int(0); n != int64(3*(rounds/10)) || err != nil {
		t.Errorf("the sum is %d, %v", n, err)
	}
	t.Logf("%d changes seen", news)
}

func TestHammerConcurrentPython(t *testing.T) {
	t.Parallel()
	pys := somePythons(t)
	l := newList(t, concurrent, markedItems()...)
	var beside []*shmtest.Process
	for _, py := range pys {
		beside = append(beside, pythonHammer(t, py, l.Block().Name(), pythonReads))
	}
	news := hammer(t, l, []string{"write concurrent", "write concurrent"}, []string{"read concurrent", "read concurrent"}, beside...)
	if n, err := l.Int(0); n != int64(2*(rounds/10)) || err != nil {
		t.Errorf("the sum is %d, %v", n, err)
	}
	if err := l.Verify(); err != nil {
		t.Error(err)
	}
	t.Logf("%d changes seen", news)
}
