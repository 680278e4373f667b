//go:build shmcrash && linux

package list_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/list"
)

// These tests kill processes in the middle of a change, at each named step and
// then at random ones. They need the build tag that compiles the points in, and
// run in directories of their own, where nobody else sweeps dead leases.

// changes are the values that one item has one after the other. Between are
// text of another length, another type, nil, and numbers.
var changes = map[string][]any{
	"text":     {"the old text, of some length", "new", "another text, longer than new"},
	"bytes":    {[]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff"), []byte("\x01"), []byte("twelve bytes")},
	"type":     {"text of an item", int64(7), "text again, as before"},
	"number":   {int64(-1), 2.5, true},
	"from nil": {nil, "no longer nil, but text", nil},
	"to nil":   {"text, nil in a moment", nil, int64(5)},
	"int":      {int64(100), int64(101), int64(102)}, // by AddInt
}

const (
	changing = 1  // the item that changes
	slotSize = 48 // and its slot
)

func change(l *list.List, what string, v any) error {
	if what == "int" {
		sum, err := l.AddInt(changing, 1)
		if err == nil && sum != v {
			return fmt.Errorf("the sum is %d, not %d", sum, v)
		}
		return err
	}
	return l.Set(changing, v)
}

func init() {
	// changer makes changes from the given one on, until it dies or has no more.
	shmtest.Register("changer", func(args []string) int {
		dir, name, what := args[0], args[1], args[2]
		from, _ := strconv.Atoi(args[3])
		l, err := list.Open(name, &shm.OpenOptions{Dir: dir})
		if err != nil {
			return complain(err)
		}
		for _, v := range changes[what][from:] {
			if err := change(l, what, v); err != nil {
				return complain(err)
			}
		}
		return 0
	})
	shmtest.Register("list-life", func(args []string) int {
		dir, name, tally := args[0], args[1], args[2]
		id, _ := strconv.Atoi(args[3])
		o := &shm.OpenOptions{Dir: dir}
		l, err := list.Open(name, o)
		if err != nil {
			return complain(err)
		}
		t, err := list.Open(tally, o)
		if err != nil {
			return complain(err)
		}
		r := rand.New(rand.NewPCG(uint64(id), 1))
		for n := int64(1); ; n++ {
			_, err = l.AddInt(0, 1)
			if err == nil {
				err = t.SetInt(id, n)
			}
			for i := 1; err == nil && i < l.Len(); i++ {
				err = l.Set(i, marked(r))
			}
			if err != nil {
				return complain(err)
			}
		}
	})
}

func complain(err error) int {
	os.Stderr.WriteString(err.Error() + "\n")
	return 1
}

// crashing starts a helper that dies when it passes a point for the n-th time.
func crashing(t *testing.T, point string, n int, helper string, args ...string) *shmtest.Process {
	cmd := shmtest.Command(t, helper, args...)
	cmd.Env = append(cmd.Env, fmt.Sprintf("SHM_CRASH=%s:%d", point, n))
	return shmtest.StartCommand(t, cmd)
}

func killed(p *shmtest.Process) bool {
	p.Wait()
	ws, ok := p.Cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL
}

// privateDir returns a directory that goes with the test.
func privateDir(t *testing.T) string {
	dir := filepath.Join("/dev/shm", shmtest.Name(t))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func openIn(t *testing.T, dir, name string, readOnly bool) *list.List {
	t.Helper()
	l, err := list.Open(name, &shm.OpenOptions{Dir: dir, ReadOnly: readOnly})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// victimList makes a list with neighbours, of which item changing has value v.
func victimList(t *testing.T, dir string, v any, shared bool) *list.List {
	t.Helper()
	l, err := list.Create(shmtest.Name(t), []any{"left", strings.Repeat("\x00", slotSize-1), "right"},
		&list.Options{Concurrent: shared, Block: shm.CreateOptions{Dir: dir}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		l.Unlink()
	})
	if err := l.Set(changing, v); err != nil {
		t.Fatal(err)
	}
	return l
}

// pythonsView is the list without what Python knows nothing of.
func pythonsView(t *testing.T, l *list.List) *list.List {
	t.Helper()
	b := l.Block().Bytes()
	p, err := list.FromBlock(blockOf(t, b[:shapeOf(t, b).End]))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func holds(t *testing.T, what string, l *list.List, v any) {
	t.Helper()
	got, err := l.Snapshot()
	if err != nil || len(got) != 3 || got[0] != "left" || got[2] != "right" || !sameValue(got[changing], v) {
		t.Errorf("%s finds %#v, %v; want %#v", what, got, err, v)
	}
	if err := l.Verify(); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// settled checks that nothing of a dead process is left in an item.
func settled(t *testing.T, l *list.List) {
	t.Helper()
	b := l.Block().Bytes()
	record := b[trailerAt(shapeOf(t, b))+64+32*changing:]
	phase, owner := binary.NativeEndian.Uint64(record), binary.NativeEndian.Uint64(record[8:])
	if phase%2 != 0 || owner != 0 {
		t.Errorf("phase %d, owner %x", phase, owner)
	}
}

// counts tells whether a death at a point leaves the new value. Each point is
// passed once in a change.
func counts(point string) bool {
	switch point {
	case "set:owned", "set:half-spare", "set:spare":
		return false
	}
	return true
}

// TestKillConcurrent kills a process at each step of each kind of change: the
// old or the new value is there for every reader, whom nothing holds up, and
// the next writer goes on from it.
func TestKillConcurrent(t *testing.T) {
	hits := map[string]int{}
	for what, values := range changes {
		for _, point := range crash.Points {
			if !strings.HasPrefix(point, "set:") {
				continue
			}
			for n := 1; n <= 2; n++ {
				t.Run(fmt.Sprintf("%s/%s/%d", what, strings.TrimPrefix(point, "set:"), n), func(t *testing.T) {
					dir := privateDir(t)
					l := victimList(t, dir, values[0], true)
					now := values[n-1]
					var p *shmtest.Process
					if point == "set:dead-owner" {
						// One dies before the value counts or after, its heir when it takes over.
						first := []string{"set:half-spare", "set:counts"}[n-1]
						if p := crashing(t, first, 1, "changer", dir, l.Block().Name(), what, "1"); !killed(p) {
							t.Fatalf("no death at %s: %s", first, p.Stderr())
						}
						p = crashing(t, point, 1, "changer", dir, l.Block().Name(), what, strconv.Itoa(n))
					} else {
						if counts(point) {
							now = values[n]
						}
						p = crashing(t, point, n, "changer", dir, l.Block().Name(), what, "1")
					}
					if !killed(p) {
						t.Fatalf("no death at %s: %v, %s", point, p.Cmd.ProcessState, p.Stderr())
					}
					hits[point]++
					survives(t, dir, l, what, now)
				})
			}
		}
	}
	for _, point := range crash.Points {
		if strings.HasPrefix(point, "set:") && hits[point] == 0 {
			t.Errorf("nobody died at %s", point)
		}
	}
	t.Logf("deaths: %v", hits)
}

// survives checks a list in which a process died, and takes over.
func survives(t *testing.T, dir string, l *list.List, what string, now any) {
	t.Helper()
	before := bytes.Clone(l.Block().Bytes())
	holds(t, "who had it open", l, now)
	holds(t, "who opens it", openIn(t, dir, l.Block().Name(), false), now)
	holds(t, "who only reads", openIn(t, dir, l.Block().Name(), true), now)
	if !bytes.Equal(before, l.Block().Bytes()) {
		t.Error("reading has changed the list")
	}
	w := openIn(t, dir, l.Block().Name(), false)
	if what == "int" {
		// Going on from what is there: nothing of it is lost.
		old, _ := now.(int64)
		if sum, err := w.AddInt(changing, 1); sum != old+1 || err != nil {
			t.Errorf("the sum is %d, %v, after %v", sum, err, now)
		}
		now = old + 1
	} else {
		for _, v := range changes[what] {
			if err := w.Set(changing, v); err != nil {
				t.Errorf("the next writer: %v", err)
			}
			now = v
		}
	}
	settled(t, l)
	holds(t, "a reader", l, now)
	holds(t, "Python", pythonsView(t, l), now)
}

// TestKillHeirs kills one heir after the other, at each step of taking over.
func TestKillHeirs(t *testing.T) {
	dir := privateDir(t)
	for what, values := range changes {
		l := victimList(t, dir, values[0], true)
		kill := func(point string, n, from int) {
			t.Helper()
			if p := crashing(t, point, n, "changer", dir, l.Block().Name(), what, strconv.Itoa(from)); !killed(p) {
				t.Fatalf("%s: no death at %s: %v, %s", what, point, p.Cmd.ProcessState, p.Stderr())
			}
		}
		kill("set:counts", 1, 1)
		// The value of the first counts; all that its heirs have to do is to copy it.
		for _, point := range []string{"set:dead-owner", "set:owned", "set:half", "set:copied", "set:half", "set:owned"} {
			kill(point, 1, 2)
			holds(t, "who finds two dead at "+point, l, values[1])
		}
		kill("set:half-spare", 1, 2)
		holds(t, "who finds an heir that had settled", l, values[1])
		holds(t, "Python", pythonsView(t, l), values[1])
		kill("set:spare", 1, 2)
		survives(t, dir, l, what, values[1])
	}
}

// TestKillTwoHeirs has many heirs find one dead owner at once: one takes over,
// and what all of them add is there.
func TestKillTwoHeirs(t *testing.T) {
	dir := privateDir(t)
	for range 5 {
		l := victimList(t, dir, int64(100), true)
		if p := crashing(t, "set:counts", 1, "changer", dir, l.Block().Name(), "int", "1"); !killed(p) {
			t.Fatalf("no death: %s", p.Stderr())
		}
		var heirs sync.WaitGroup
		for range 8 {
			w := openIn(t, dir, l.Block().Name(), false)
			for range 2 {
				heirs.Go(func() {
					if _, err := w.AddInt(changing, 1); err != nil {
						t.Error(err)
					}
				})
			}
		}
		heirs.Wait()
		if sum, err := l.Int(changing); sum != 101+16 || err != nil {
			t.Errorf("%d, %v", sum, err)
		}
		settled(t, l)
	}
}

// TestKillPlain kills a process in the middle of a change of a list as Python
// has it: the item may hold anything then, but the list opens, the others are
// untouched and the item can be set again. Nil is what it was or becomes.
func TestKillPlain(t *testing.T) {
	hits := map[string]int{}
	for what, values := range changes {
		if what == "int" {
			continue // a single store; there is no middle
		}
		for _, point := range crash.Points {
			if !strings.HasPrefix(point, "store:") {
				continue
			}
			for n := 1; n <= 2; n++ {
				t.Run(fmt.Sprintf("%s/%s/%d", what, strings.TrimPrefix(point, "store:"), n), func(t *testing.T) {
					dir := privateDir(t)
					l := victimList(t, dir, values[0], false)
					before := bytes.Clone(l.Block().Bytes())
					if p := crashing(t, point, n, "changer", dir, l.Block().Name(), what, "1"); !killed(p) {
						t.Fatalf("no death at %s: %v, %s", point, p.Cmd.ProcessState, p.Stderr())
					}
					hits[point]++
					for _, readOnly := range []bool{true, false} {
						r := openIn(t, dir, l.Block().Name(), readOnly)
						v, err := r.At(changing)
						among(t, "At", err, nil, shm.ErrFormat)
						if err == nil && v != nil && (values[n-1] == nil || values[n] == nil) {
							t.Errorf("on the way from %v to %v it is %v", values[n-1], values[n], v)
						}
						among(t, "Verify", r.Verify(), nil, shm.ErrFormat)
					}
					rooms := roomsOf(t, l, before, changing)
					if off := strayByte(l.Block().Bytes(), before, rooms); off >= 0 {
						t.Errorf("byte %d is not the item's", off)
					}
					w := openIn(t, dir, l.Block().Name(), false)
					for _, v := range values {
						if err := w.Set(changing, v); err != nil {
							t.Error(err)
						}
						holds(t, "who has set it again", l, v)
					}
				})
			}
		}
	}
	for _, point := range crash.Points {
		if strings.HasPrefix(point, "store:") && hits[point] == 0 {
			t.Errorf("nobody died at %s", point)
		}
	}
	t.Logf("deaths: %v", hits)
}

// TestKillRandom kills processes that change the same items of one list at
// random points, SHM_KILLS times, while others read it.
func TestKillRandom(t *testing.T) {
	kills := shmtest.Kills(t, 100)
	dir := privateDir(t)
	o := &list.Options{Concurrent: true, Block: shm.CreateOptions{Dir: dir}}
	l, err := list.Create(shmtest.Name(t), markedItems(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Unlink()
	defer l.Close()
	o.Concurrent = false
	tally, err := list.Create(shmtest.Name(t), make([]any, kills), o)
	if err != nil {
		t.Fatal(err)
	}
	defer tally.Unlink()
	defer tally.Close()
	if err := tally.SetInts(0, make([]int64, kills)); err != nil {
		t.Fatal(err)
	}

	var stop atomic.Bool
	var reads [2]int
	var readers sync.WaitGroup
	for k := range reads {
		r := openIn(t, dir, l.Block().Name(), k == 1)
		readers.Go(func() {
			for last := int64(0); !stop.Load() && !t.Failed(); reads[k]++ {
				n, err := r.Int(0)
				if err != nil || n < last {
					t.Errorf("the counter fell from %d to %d, %v", last, n, err)
				}
				last = n
				for i := 1; i < r.Len(); i++ {
					if v, err := r.At(i); err != nil || !unbroken(v) {
						t.Errorf("item %d is %.200v, %v", i, v, err)
					}
				}
			}
		})
	}
	// In batches, as a test holds the pipes of its processes until it ends.
	const batch = 300
	for from := 0; from < kills; from += batch {
		t.Run(strconv.Itoa(from), func(t *testing.T) {
			var next atomic.Int64
			next.Store(int64(from))
			end := int64(min(from+batch, kills))
			var killers sync.WaitGroup
			for w := range 3 {
				killers.Go(func() {
					r := rand.New(rand.NewPCG(uint64(from), uint64(w)))
					for id := next.Add(1) - 1; id < end && !t.Failed(); id = next.Add(1) - 1 {
						p := crashing(t, "*", 1+r.IntN(200), "list-life", dir, l.Block().Name(), tally.Block().Name(), strconv.FormatInt(id, 10))
						if !killed(p) {
							t.Errorf("a life ended by itself: %s", p.Stderr())
						}
					}
				})
			}
			killers.Wait()
		})
	}
	stop.Store(true)
	readers.Wait()
	if reads[0] == 0 || reads[1] == 0 {
		t.Errorf("%d reads", reads)
	}
	told := make([]int64, kills)
	if err := tally.Ints(0, told); err != nil {
		t.Fatal(err)
	}
	known := int64(0)
	for _, n := range told {
		known += n
	}
	// Each may have died between adding and telling.
	if sum, err := l.Int(0); err != nil || sum < known || sum > known+int64(kills) || known == 0 {
		t.Errorf("the sum is %d, %v, of %d told by %d dead", sum, err, known, kills)
	}
	if err := l.Verify(); err != nil {
		t.Error(err)
	}
	for i := 1; i < l.Len(); i++ {
		if err := l.Set(i, nil); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d deaths, %d additions, %v reads", kills, known, reads)
	// And the dead have left nothing but their leases.
	if _, err := shm.Dir(dir).Prune(); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 3 {
		t.Error(errors.Join(err, fmt.Errorf("left %v", entries)))
	}
}
