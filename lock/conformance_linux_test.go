package lock_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/platform/wait"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/lock"
)

// The conformance suite: what every primitive has to do, in one process and
// between several. TestOldKernel runs all of it once more without futex_waitv and
// robust lists.

// locker is what excludes others, whatever it is. A wait that takes it is
// lock.
type locker struct {
	lock    func() error
	context func(context.Context) error
	try     func() (bool, error)
	unlock  func() error
	close   func() error // of what is not in a block
	held    bool         // knows its holder
}

func (l locker) take(ctx context.Context) error {
	if ctx == nil {
		return l.lock()
	}
	return l.context(ctx)
}

// lockers by their names, for helper processes as well. first says who makes
// it, and gives the permits.
var lockers = []struct {
	name string
	open func(b *shm.Block, off int, first bool) (locker, error)
}{
	{"Mutex", func(b *shm.Block, off int, _ bool) (locker, error) {
		m, err := lock.NewMutex(b, off)
		if err != nil {
			return locker{}, err
		}
		return locker{m.Lock, m.LockContext, m.TryLock, m.Unlock, nil, true}, nil
	}},
	{"RWMutex", func(b *shm.Block, off int, _ bool) (locker, error) {
		m, err := lock.NewRWMutex(b, off)
		if err != nil {
			return locker{}, err
		}
		return locker{m.Lock, m.LockContext, m.TryLock, m.Unlock, nil, true}, nil
	}},
	{"Semaphore", func(b *shm.Block, off int, _ bool) (locker, error) {
		s, err := lock.NewSemaphore(b, off, 1)
		if err != nil {
			return locker{}, err
		}
		return locker{s.Wait, s.WaitContext, s.TryWait, s.Post, nil, false}, nil
	}},
	{"AutoEvent", func(b *shm.Block, off int, first bool) (locker, error) {
		e, err := lock.NewAutoEvent(b, off)
		if err == nil && first {
			err = e.Set()
		}
		if err != nil {
			return locker{}, err
		}
		return locker{e.Wait, e.WaitContext, e.TryWait, e.Set, nil, false}, nil
	}},
	{"NamedSemaphore", func(b *shm.Block, off int, first bool) (locker, error) {
		s, err := lock.OpenSemaphore(b.Name()+"."+strconv.Itoa(off), &lock.SemaphoreOptions{Create: first, Exclusive: first, Initial: 1})
		if err != nil {
			return locker{}, err
		}
		return locker{s.Wait, s.WaitContext, s.TryWait, s.Post, s.Close, false}, nil
	}},
}

// eachLocker runs f for every locker, each with a block of its own. open makes one
// more handle, on one more mapping of the block if it says so.
func eachLocker(t *testing.T, f func(t *testing.T, name string, b *shm.Block, open func(b *shm.Block) locker)) {
	for _, l := range lockers {
		t.Run(l.name, func(t *testing.T) {
			if l.name == "NamedSemaphore" && strconv.IntSize != 64 {
				t.Skip("the C library's semaphores have another layout on 32 bits")
			}
			b := create(t, 4096)
			first := true
			f(t, l.name, b, func(b *shm.Block) locker {
				h, err := l.open(b, 0, first)
				if err != nil {
					t.Fatal(err)
				}
				if first && l.name == "NamedSemaphore" {
					t.Cleanup(func() {
						if err := lock.UnlinkSemaphore(b.Name() + ".0"); err != nil {
							t.Error(err)
						}
					})
				}
				first = false
				if h.close != nil {
					t.Cleanup(func() { _ = h.close() })
				}
				return h
			})
		})
	}
}

func create(t testing.TB, size int) *shm.Block {
	t.Helper()
	b, err := shm.Create(shmtest.Name(t), size, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(b.Close(), b.Unlink()); err != nil {
			t.Error(err)
		}
	})
	return b
}

func open(t testing.TB, name string) *shm.Block {
	t.Helper()
	b, err := shm.Open(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// get is for what cannot fail.
func get[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// check fails the test, from any goroutine.
func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

var header = regexp.MustCompile(`^goroutine \d+ \[(select|syscall|chan receive)`)

// asleep returns how many goroutines of this process wait in package lock.
func asleep() int {
	buf := make([]byte, 8<<20)
	buf = buf[:runtime.Stack(buf, true)]
	n := 0
	for g := range bytes.SplitSeq(buf, []byte("\n\n")) {
		if header.Match(g) && (bytes.Contains(g, []byte("shm/lock.(*handle)")) || bytes.Contains(g, []byte("shm/lock.(*RWMutex).follow")) ||
			bytes.Contains(g, []byte("shm/lock.(*NamedSemaphore).wait("))) {
			n++
		}
	}
	return n
}

// untilAsleep returns when as many goroutines wait in package lock, wherever exactly. What
// is tested must hold if they are not quite there yet as well.
func untilAsleep(t testing.TB, n int) {
	t.Helper()
	for end := time.Now().Add(shmtest.Patience); asleep() < n; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines wait, want %d", asleep(), n)
		}
	}
}

// promptly fails the test unless err comes from c soon.
func promptly(t testing.TB, c <-chan error) error {
	t.Helper()
	select {
	case err := <-c:
		return err
	case <-time.After(shmtest.Patience):
		buf := make([]byte, 1<<20)
		t.Fatalf("stuck\n%s", buf[:runtime.Stack(buf, true)])
		return nil
	}
}

// less is for what takes long under emulation.
func less(n int) int {
	if os.Getenv("SHM_QEMU") != "" || os.Getenv("SHM_TEST_OLD_KERNEL") != "" || raceEnabled {
		return max(1, n/10)
	}
	return n
}

type counters struct{ a, b uint64 }

// Goroutines with handles of their own on two mappings take turns.
func TestExclusion(t *testing.T) {
	eachLocker(t, func(t *testing.T, name string, b *shm.Block, openLocker func(*shm.Block) locker) {
		other := open(t, b.Name())
		const goroutines = 8
		rounds := less(2000)
		heap := 0 // plain, so that the race detector sees whether it is guarded
		var shared *counters
		var wg sync.WaitGroup
		for i := range goroutines {
			block := b
			if i%2 == 1 {
				block = other
			}
			l := openLocker(block)
			shared = get(shm.At[counters](block, 2048))
			c := shared
			wg.Go(func() {
				for k := range rounds {
					ctx := context.Background()
					if k%2 == 0 {
						ctx = nil
					}
					if k%7 == 3 {
						for {
							ok, err := l.try()
							if err != nil {
								t.Error(err)
								return
							}
							if ok {
								break
							}
							runtime.Gosched()
						}
					} else if err := l.take(ctx); err != nil {
						t.Error(err)
						return
					}
					heap++
					c.a++
					if c.a != c.b+1 {
						t.Errorf("%d and %d: two hold it", c.a, c.b)
					}
					c.b++
					if err := l.unlock(); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		if heap != goroutines*rounds || shared.a != uint64(heap) {
			t.Errorf("%d and %d, want %d", heap, shared.a, goroutines*rounds)
		}
	})
}

func init() {
	// take NAME LOCKER ROUNDS: counts under the lock. Some waits are given up, at
	// moments of all kinds.
	shmtest.Register("take", func(args []string) int {
		b, err := shm.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		c, err := shm.At[counters](b, 2048)
		if err != nil {
			return complain(err)
		}
		i := slices.IndexFunc(lockers, func(l struct {
			name string
			open func(b *shm.Block, off int, first bool) (locker, error)
		}) bool {
			return l.name == args[1]
		})
		rounds, _ := strconv.Atoi(args[2])
		l, err := lockers[i].open(b, 0, false)
		if err != nil {
			return complain(err)
		}
		shmtest.Say("ready")
		shmtest.Await("go")
		var wg sync.WaitGroup
		var failed atomic.Pointer[error]
		var given, slow atomic.Int64
		for g := range 2 {
			wg.Go(func() {
				for k := 0; k < rounds; {
					start := time.Now()
					var err error
					if k%3 == g {
						ctx, cancel := context.WithTimeout(context.Background(), time.Duration(k%40)*5*time.Microsecond)
						err = l.context(ctx)
						cancel()
						if errors.Is(err, context.DeadlineExceeded) {
							given.Add(1)
							k++
							continue
						}
					} else {
						err = l.lock()
					}
					if time.Since(start) > wait.Backstop*9/10 {
						slow.Add(1)
					}
					if err == nil {
						if c.a != c.b {
							err = fmt.Errorf("%d and %d: two hold it", c.a, c.b)
						}
						c.a++
						c.b++
						err = errors.Join(err, l.unlock())
					}
					if err != nil {
						failed.Store(&err)
						return
					}
					k++
				}
			})
		}
		wg.Wait()
		if err := failed.Load(); err != nil {
			return complain(*err)
		}
		if l.close != nil {
			err = l.close()
		}
		if err = errors.Join(err, b.Close()); err != nil {
			return complain(err)
		}
		shmtest.Say("%d %d", given.Load(), slow.Load())
		return 0
	})
}

// Processes take turns, some of which give up waiting. A wake-up that was lost
// would be noticed only after wait.Backstop, so nobody may have waited so long.
func TestExclusionProcesses(t *testing.T) {
	eachLocker(t, func(t *testing.T, name string, b *shm.Block, openLocker func(*shm.Block) locker) {
		openLocker(b)
		const procs = 3
		rounds := less(3000)
		var ps []*shmtest.Process
		for range procs {
			ps = append(ps, shmtest.Start(t, "take", b.Name(), name, strconv.Itoa(rounds)))
		}
		for _, p := range ps {
			p.Expect("ready")
		}
		for _, p := range ps {
			p.Send("go")
		}
		given, slow := 0, 0
		for _, p := range ps {
			var g, s int
			if _, err := fmt.Sscan(p.Line(), &g, &s); err != nil {
				t.Fatal(err)
			}
			given, slow = given+g, slow+s
			if st := p.Wait(); st != 0 {
				t.Error(st, p.Stderr())
			}
		}
		c := get(shm.At[counters](b, 2048))
		if want := uint64(procs*2*rounds - given); c.a != want || c.b != want {
			t.Errorf("%d and %d, want %d", c.a, c.b, want)
		}
		if slow > 2 {
			t.Errorf("%d waits lasted until the backstop: wake-ups were lost", slow)
		}
		t.Logf("%d of %d waits given up", given, procs*2*rounds)
	})
}

func TestTry(t *testing.T) {
	eachLocker(t, func(t *testing.T, name string, b *shm.Block, openLocker func(*shm.Block) locker) {
		one, two := openLocker(b), openLocker(open(t, b.Name()))
		for range 3 {
			for _, l := range []locker{one, two} {
				if ok, err := l.try(); !ok || err != nil {
					t.Fatal(ok, err)
				}
				for _, m := range []locker{one, two} {
					if ok, err := m.try(); ok || err != nil {
						t.Fatal(ok, err)
					}
				}
				// Any handle of the process gives it back.
				if err := two.unlock(); err != nil {
					t.Fatal(err)
				}
			}
		}
		done, cancel := context.WithCancel(context.Background())
		cancel()
		if err := one.context(done); !errors.Is(err, context.Canceled) {
			t.Errorf("with a context that is done: %v", err)
		}
		if ok, err := one.try(); !ok || err != nil {
			t.Error("it has taken the lock all the same", ok, err)
		}
		if one.held {
			if err := one.unlock(); err != nil {
				t.Error(err)
			}
			for _, l := range []locker{one, two} {
				if err := l.unlock(); !errors.Is(err, lock.ErrNotLocked) {
					t.Errorf("Unlock without Lock: %v, want ErrNotLocked", err)
				}
			}
		}
	})
}

// Giving up takes no longer than a moment, whoever waits and however busy the
// machine is.
func TestCancel(t *testing.T) {
	var stop atomic.Bool
	defer stop.Store(true)
	for range runtime.GOMAXPROCS(0) {
		go func() { // a busy machine
			for !stop.Load() {
			}
		}()
	}
	eachLocker(t, func(t *testing.T, name string, b *shm.Block, openLocker func(*shm.Block) locker) {
		one, two := openLocker(b), openLocker(open(t, b.Name()))
		if err := one.lock(); err != nil {
			t.Fatal(err)
		}
		var took []time.Duration
		for k := range 5 {
			// The one that waits for all, and one that waits for it.
			ctx, cancel := context.WithCancelCause(context.Background())
			behind, cancelBehind := context.WithTimeout(context.Background(), time.Hour)
			c, d := make(chan error, 1), make(chan error, 1)
			go func() { c <- two.context(ctx) }()
			untilAsleep(t, 1)
			go func() { d <- one.context(behind) }()
			untilAsleep(t, 2)
			start := time.Now()
			if k%2 == 0 {
				cancel(nil)
				if err := promptly(t, c); !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
				took = append(took, time.Since(start))
				cancelBehind()
				if err := promptly(t, d); !errors.Is(err, context.Canceled) {
					t.Fatal(err)
				}
				continue
			}
			cancelBehind()
			if err := promptly(t, d); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			took = append(took, time.Since(start))
			cancel(nil)
			if err := promptly(t, c); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
		}
		slices.Sort(took)
		t.Log(took)
		if median := took[len(took)/2]; median > 50*time.Millisecond && os.Getenv("SHM_QEMU") == "" && !raceEnabled {
			t.Errorf("giving up takes %v", median)
		}
		// And nothing is left of them.
		if err := one.unlock(); err != nil {
			t.Fatal(err)
		}
		if ok, err := two.try(); !ok || err != nil {
			t.Error(ok, err)
		}
		check(t, two.unlock())
	})
}

// Close of the block, or the semaphore, ends every wait, and nothing but that.
func TestCloseWakes(t *testing.T) {
	eachLocker(t, func(t *testing.T, name string, b *shm.Block, openLocker func(*shm.Block) locker) {
		holder := openLocker(b)
		for range 5 {
			if err := holder.lock(); err != nil {
				t.Fatal(err)
			}
			// The holder is another process to all but itself, which may not close.
			p := shmtest.Start(t, "wait-close", b.Name(), name, "20")
			p.Expect("waiting")
			p.Send("close")
			if st := p.Wait(); st != 0 {
				t.Fatal(st, p.Stderr())
			}
			if err := holder.unlock(); err != nil {
				t.Fatal(err)
			}
		}
		// Who was there and closed has left nothing that hinders the others.
		if ok, err := holder.try(); !ok || err != nil {
			t.Error(ok, err)
		}
		check(t, holder.unlock())
	})
}

func init() {
	shmtest.Register("wait-close", func(args []string) int {
		b, err := shm.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		n, _ := strconv.Atoi(args[2])
		i := 0
		for lockers[i].name != args[1] {
			i++
		}
		l, err := lockers[i].open(b, 0, false)
		if err != nil {
			return complain(err)
		}
		c := make(chan error, n)
		for k := range n {
			go func() {
				if k%2 == 0 {
					c <- l.lock()
				} else {
					ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
					defer cancel()
					c <- l.context(ctx)
				}
			}()
		}
		for asleep() < n {
			time.Sleep(time.Millisecond)
		}
		shmtest.Say("waiting")
		shmtest.Await("close")
		if l.close != nil {
			err = l.close()
		}
		if err = errors.Join(err, b.Close()); err != nil {
			return complain(err)
		}
		for range n {
			if err := <-c; !errors.Is(err, os.ErrClosed) {
				return complain(fmt.Errorf("one who waited got %v", err))
			}
		}
		// Whatever comes later says the same.
		_, err = l.try()
		for _, err := range []error{l.lock(), l.context(context.Background()), err, l.unlock()} {
			if !errors.Is(err, os.ErrClosed) {
				return complain(fmt.Errorf("after Close: %v", err))
			}
		}
		return 0
	})
}

// Close beside waiting and locking never faults and leaves no lock behind that
// nobody can give back.
func TestCloseBeside(t *testing.T) {
	eachLocker(t, func(t *testing.T, name string, b *shm.Block, openLocker func(*shm.Block) locker) {
		mine := openLocker(b)
		for range less(40) {
			other, err := shm.Open(b.Name(), nil)
			if err != nil {
				t.Fatal(err)
			}
			l := openLocker(other)
			check(t, mine.lock())
			c := make(chan error, 8)
			for range cap(c) {
				go func() {
					err := l.context(context.Background())
					if err == nil {
						err = l.unlock()
					}
					c <- err
				}()
			}
			untilAsleep(t, cap(c))
			// Half of them get the lock perhaps, while the block goes.
			closed := make(chan error, 1)
			go func() {
				for {
					var err error
					if l.close != nil {
						err = l.close()
					}
					if err = errors.Join(err, other.Close()); !errors.Is(err, lock.ErrHeld) {
						closed <- err
						return
					}
					runtime.Gosched()
				}
			}()
			check(t, mine.unlock())
			for range cap(c) {
				if err := promptly(t, c); err != nil && !errors.Is(err, os.ErrClosed) {
					t.Fatal(err)
				}
			}
			check(t, promptly(t, closed))
			if !mine.held {
				// Who has passed and cannot post any more keeps its permit.
				if ok, _ := mine.try(); ok {
					check(t, mine.unlock())
				} else {
					check(t, mine.unlock())
				}
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), shmtest.Patience)
			if err := mine.context(ctx); err != nil && !errors.Is(err, lock.ErrOwnerDied) {
				t.Fatal(err)
			} else if err != nil {
				t.Fatal("the lock was taken in a block that was being closed")
			}
			cancel()
			check(t, mine.unlock())
		}
	})
}

// A block in which this process holds a lock stays open, and usable.
func TestCloseHeld(t *testing.T) {
	b := create(t, 4096)
	m := get(lock.NewMutex(b, 0))
	rw := get(lock.NewRWMutex(b, 1024))
	once := get(lock.NewOnce(b, 64))
	refused := func(what string) {
		t.Helper()
		if err := b.Close(); !errors.Is(err, lock.ErrHeld) {
			t.Fatalf("%s: Close: %v, want ErrHeld", what, err)
		}
	}
	check(t, m.Lock())
	refused("Mutex")
	check(t, m.Unlock())
	check(t, rw.Lock())
	refused("RWMutex")
	check(t, rw.Unlock())
	check(t, rw.RLock())
	check(t, rw.RLock())
	refused("RWMutex for reading")
	check(t, rw.RUnlock())
	refused("RWMutex for reading, once still")
	check(t, rw.RUnlock())
	check(t, once.Do(func() error { refused("Once"); return nil }))
	check(t, m.Lock())
	check(t, m.Unlock())

	// A second mapping may go at any time when nothing is held, and what the first
	// one holds then is known still.
	other := open(t, b.Name())
	get(lock.NewMutex(other, 0))
	get(lock.NewRWMutex(other, 1024))
	get(lock.NewBarrier(other, 128, 1))
	get(lock.NewOnce(other, 64))
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	check(t, m.Lock())
	refused("Mutex, after another mapping is gone")
	check(t, m.Unlock())
	check(t, rw.RLock())
	refused("RWMutex for reading, after another mapping is gone")
	check(t, rw.RUnlock())
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Error("closing again:", err)
	}
	if _, err := lock.NewMutex(b, 0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("NewMutex after Close: %v", err)
	}
}

// Making handles beside Close gives a handle or os.ErrClosed.
func TestAttachBesideClose(t *testing.T) {
	name := create(t, 4096).Name()
	for range less(200) {
		b, err := shm.Open(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for k := range 20 {
					if _, err := lock.NewMutex(b, 64*(i*4+k%4)); err != nil {
						if !errors.Is(err, os.ErrClosed) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		check(t, b.Close())
		wg.Wait()
	}
}

// What is at an offset is known by its first use, and nothing else is taken for
// it.
func TestKinds(t *testing.T) {
	b := create(t, 8192)
	for i, c := range constructors {
		if err := c.open(b, 1024*i); err != nil {
			t.Fatal(err)
		}
	}
	other := open(t, b.Name())
	for i := range constructors {
		for _, c := range constructors {
			for _, block := range []*shm.Block{b, other} {
				err := c.open(block, 1024*i)
				if c.kind == constructors[i].kind && err != nil || c.kind != constructors[i].kind && !errors.Is(err, shm.ErrFormat) {
					t.Errorf("a %s where a %s is: %v", c.kind, constructors[i].kind, err)
				}
			}
		}
	}
	at := func(kind string) int {
		for i, c := range constructors {
			if c.kind == kind {
				return 1024 * i
			}
		}
		panic(kind)
	}
	_, err := lock.NewAutoEvent(other, at("Event"))
	if !errors.Is(err, shm.ErrFormat) {
		t.Errorf("an automatic event where a manual one is: %v", err)
	}
	get(lock.NewAutoEvent(b, 7168))
	if _, err := lock.NewEvent(b, 7168); !errors.Is(err, shm.ErrFormat) {
		t.Errorf("a manual event where an automatic one is: %v", err)
	}
	if _, err := lock.NewBarrier(other, at("Barrier"), 3); !errors.Is(err, shm.ErrFormat) {
		t.Errorf("a barrier of 3 where one of 2 is: %v", err)
	}
	for _, n := range []int{0, -1, 1<<30 + 1} {
		if _, err := lock.NewBarrier(b, 7296, n); !errors.Is(err, shm.ErrSize) {
			t.Errorf("a barrier of %d: %v", n, err)
		}
	}
	for _, n := range []int{-1, 1<<29 + 1} {
		if _, err := lock.NewSemaphore(b, 7296, n); !errors.Is(err, shm.ErrSize) {
			t.Errorf("a semaphore of %d: %v", n, err)
		}
	}
	if s := get(lock.NewSemaphore(other, at("Semaphore"), 99)); s.Value() != 1 {
		t.Errorf("a semaphore that was there has %d permits, want 1", s.Value())
	}
}

// Bytes that are no lock are no lock, and are left as they are.
func TestForeignBytes(t *testing.T) {
	b := create(t, 4096)
	p := b.Bytes()
	for i := range p {
		p[i] = byte(i*7 + 1)
	}
	before := bytes.Clone(p)
	for _, c := range constructors {
		if err := c.open(b, 0); !errors.Is(err, shm.ErrFormat) {
			t.Errorf("%s: %v, want ErrFormat", c.kind, err)
		}
	}
	if !bytes.Equal(p, before) {
		t.Error("the bytes have changed")
	}

	clear(p)
	get(lock.NewMutex(b, 0))
	p[2]++ // the version
	if _, err := lock.NewMutex(b, 0); !errors.Is(err, shm.ErrFormat) || !strings.Contains(err.Error(), "version") {
		t.Errorf("another version: %v", err)
	}
	p[2]--
	p[3] = 99
	if _, err := lock.NewMutex(b, 0); !errors.Is(err, shm.ErrFormat) {
		t.Errorf("another kind: %v", err)
	}
}

func TestPlaces(t *testing.T) {
	b := create(t, 4096)
	readonly, err := shm.Open(b.Name(), &shm.OpenOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer readonly.Close()
	for _, c := range constructors {
		if err := c.open(readonly, 0); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s in a block opened read-only: %v", c.kind, err)
		}
		for _, off := range []int{1, 4, 12, -8, 4096, 4096 - c.size + 8, math.MaxInt &^ 7, math.MinInt} {
			if err := c.open(b, off); !errors.Is(err, shm.ErrSize) {
				t.Errorf("%s at %d: %v, want ErrSize", c.kind, off, err)
			}
		}
	}
	for i, p := range b.Bytes() {
		if p != 0 {
			t.Fatalf("byte %d has been written to", i)
		}
	}
	for _, c := range constructors {
		if err := c.open(b, 4096-c.size); err != nil {
			t.Errorf("%s at the end: %v", c.kind, err)
		}
		clear(b.Bytes())
	}
}

// A State is a field among others, at a place that is right on every machine.
func TestField(t *testing.T) {
	type fields struct {
		A    byte
		Lock lock.State
		B    byte
		RW   lock.RWState
		C    uint64
	}
	b := create(t, 4096)
	s := get(shm.At[fields](b, 8))
	off := get(shm.Offset(b, &s.Lock))
	m, err := lock.NewMutex(b, off)
	if err != nil {
		t.Fatal(err)
	}
	rwOff := get(shm.Offset(b, &s.RW))
	rw, err := lock.NewRWMutex(b, rwOff)
	if err != nil {
		t.Fatal(err)
	}
	if off != 16 || rwOff != 88 {
		t.Errorf("at %d and %d, want 16 and 88", off, rwOff)
	}
	check(t, m.Lock())
	check(t, rw.Lock())
	if s.A != 0 || s.B != 0 || s.C != 0 {
		t.Error("a lock has written beyond its State")
	}
	check(t, rw.Unlock())
	check(t, m.Unlock())
	locks := get(shm.Slice[lock.State](b, 2048, 10))
	for i := range locks {
		n := get(lock.NewMutex(b, get(shm.Offset(b, &locks[i]))))
		check(t, n.Lock())
		defer n.Unlock()
	}
}

// An anonymous block has no name by which others find the leases; they lie where
// they always do.
func TestAnonymous(t *testing.T) {
	b, err := shm.Anonymous(4096, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	f, err := b.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	other, err := shm.FromFile(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	m, n := get(lock.NewMutex(b, 0)), get(lock.NewMutex(other, 0))
	check(t, m.Lock())
	if ok, err := n.TryLock(); ok || err != nil {
		t.Error(ok, err)
	}
	check(t, n.Unlock())
}

// Readers are together, a writer is alone.
func TestReaders(t *testing.T) {
	b := create(t, 4096)
	m, n := get(lock.NewRWMutex(b, 0)), get(lock.NewRWMutex(open(t, b.Name()), 0))
	p := shmtest.Start(t, "read", b.Name())
	p.Expect("read")
	for _, l := range []*lock.RWMutex{m, n} {
		check(t, l.RLock())
		if ok, err := l.TryRLock(); !ok || err != nil {
			t.Error(ok, err)
		}
		if ok, err := l.TryLock(); ok || err != nil {
			t.Error("a writer beside readers", ok, err)
		}
	}
	for range 4 {
		check(t, m.RUnlock())
	}
	if err := n.RUnlock(); !errors.Is(err, lock.ErrNotLocked) {
		t.Errorf("RUnlock too often: %v", err)
	}
	if ok, err := m.TryLock(); ok || err != nil {
		t.Error("a writer beside another process's reader", ok, err)
	}
	p.Send("unlock")
	p.Expect("unlocked")
	if ok, err := m.TryLock(); !ok || err != nil {
		t.Fatal(ok, err)
	}
	for _, l := range []*lock.RWMutex{m, n} {
		if ok, err := l.TryRLock(); ok || err != nil {
			t.Error("a reader beside a writer", ok, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := n.RLockContext(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	p.Send("lock")
	check(t, m.Unlock())
	p.Expect("read")
	p.Send("unlock")
	p.Expect("unlocked")

	// All together.
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range less(500) {
				if ok, err := m.TryRLock(); !ok || err != nil {
					t.Error("TryRLock without a writer", ok, err)
					return
				}
				check(t, n.RUnlock())
			}
		})
	}
	wg.Wait()
	if ok, err := n.TryLock(); !ok || err != nil {
		t.Error(ok, err)
	}
	check(t, n.Unlock())
}

func init() {
	shmtest.Register("read", func(args []string) int {
		b, err := shm.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		m, err := lock.NewRWMutex(b, 0)
		if err != nil {
			return complain(err)
		}
		for {
			if err := m.RLock(); err != nil {
				return complain(err)
			}
			shmtest.Say("read")
			shmtest.Await("unlock")
			if err := m.RUnlock(); err != nil {
				return complain(err)
			}
			shmtest.Say("unlocked")
			shmtest.Await("lock")
		}
	})

	// rw NAME reads|writes: as fast as it can, until told to stop.
	shmtest.Register("rw", func(args []string) int {
		b, err := shm.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		m, err := lock.NewRWMutex(b, 0)
		if err != nil {
			return complain(err)
		}
		c, err := shm.At[counters](b, 2048)
		if err != nil {
			return complain(err)
		}
		var stop atomic.Bool
		go func() { shmtest.Await("stop"); stop.Store(true) }()
		var wg sync.WaitGroup
		var failed atomic.Pointer[error]
		var n atomic.Int64
		for range 2 {
			wg.Go(func() {
				for !stop.Load() {
					if err := readOrWrite(m, c, args[1] == "writes"); err != nil {
						failed.Store(&err)
						return
					}
					if n.Add(1) == 10 {
						shmtest.Say("going")
					}
				}
			})
		}
		wg.Wait()
		if err := failed.Load(); err != nil {
			return complain(*err)
		}
		if err := b.Close(); err != nil {
			return complain(err)
		}
		return 0
	})
}

func readOrWrite(m *lock.RWMutex, c *counters, write bool) error {
	if write {
		if err := m.Lock(); err != nil {
			return err
		}
		c.a++
		c.b++
		return m.Unlock()
	}
	if err := m.RLock(); err != nil {
		return err
	}
	if a, b := atomic.LoadUint64(&c.a), atomic.LoadUint64(&c.b); a != b {
		return fmt.Errorf("%d and %d: read while written", a, b)
	}
	return m.RUnlock()
}

// However many read, and never all at once not, a writer gets its turn; and
// the other way round.
func TestStarvation(t *testing.T) {
	for _, others := range []string{"reads", "writes"} {
		t.Run("all others "+others, func(t *testing.T) {
			b := create(t, 4096)
			m := get(lock.NewRWMutex(b, 0))
			c := get(shm.At[counters](b, 2048))
			p, q := shmtest.Start(t, "rw", b.Name(), others), shmtest.Start(t, "rw", b.Name(), others)
			p.Expect("going")
			q.Expect("going")
			var stop atomic.Bool
			var wg sync.WaitGroup
			wg.Go(func() {
				for !stop.Load() {
					if err := readOrWrite(m, c, others == "writes"); err != nil {
						t.Error(err)
						return
					}
				}
			})
			done := make(chan error, 1)
			var worst time.Duration
			go func() {
				for range less(200) {
					start := time.Now()
					if err := readOrWrite(m, c, others == "reads"); err != nil {
						done <- err
						return
					}
					worst = max(worst, time.Since(start))
				}
				done <- nil
			}()
			err := promptly(t, done)
			stop.Store(true)
			wg.Wait()
			check(t, err)
			t.Logf("longest wait %v", worst)
			for _, p := range []*shmtest.Process{p, q} {
				p.Send("stop")
				if st := p.Wait(); st != 0 {
					t.Error(st, p.Stderr())
				}
			}
		})
	}
}

// A waiting writer keeps new readers out, and lets those in who waited when it is
// done.
func TestPrecedence(t *testing.T) {
	b := create(t, 4096)
	m := get(lock.NewRWMutex(b, 0))
	p := shmtest.Start(t, "read", b.Name())
	p.Expect("read")
	wrote := make(chan error, 1)
	data := 0
	go func() {
		if err := m.Lock(); err != nil {
			wrote <- err
			return
		}
		data++
		wrote <- m.Unlock()
	}()
	untilAsleep(t, 1)
	if ok, err := m.TryRLock(); ok || err != nil {
		t.Error("a new reader has come before a waiting writer", ok, err)
	}
	readers := make(chan error, 5)
	for range cap(readers) {
		go func() {
			err := m.RLock()
			if data != 1 {
				err = errors.Join(err, errors.New("read before the writer wrote"))
			}
			readers <- errors.Join(err, m.RUnlock())
		}()
	}
	untilAsleep(t, 1+cap(readers))
	p.Send("unlock")
	check(t, promptly(t, wrote))
	for range cap(readers) {
		check(t, promptly(t, readers))
	}
}

// Cancelling writers and readers at any moment leaves a lock that works.
func TestRWCancel(t *testing.T) {
	b := create(t, 4096)
	m, n := get(lock.NewRWMutex(b, 0)), get(lock.NewRWMutex(open(t, b.Name()), 0))
	p := shmtest.Start(t, "rw", b.Name(), "reads")
	q := shmtest.Start(t, "rw", b.Name(), "writes")
	p.Expect("going")
	q.Expect("going")
	data := 0
	var wg sync.WaitGroup
	for g := range 6 {
		wg.Go(func() {
			l := m
			if g%2 == 0 {
				l = n
			}
			for k := range less(300) {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(k*g%50)*10*time.Microsecond)
				lockIt, unlock := l.LockContext, l.Unlock
				if g < 3 {
					lockIt, unlock = l.RLockContext, l.RUnlock
				}
				switch err := lockIt(ctx); {
				case err == nil:
					if g >= 3 {
						data++
					}
					check(t, unlock())
				case !errors.Is(err, context.DeadlineExceeded):
					t.Error(err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	for _, p := range []*shmtest.Process{p, q} {
		p.Send("stop")
		if st := p.Wait(); st != 0 {
			t.Error(st, p.Stderr())
		}
	}
	if ok, err := n.TryLock(); !ok || err != nil {
		t.Fatal(ok, err)
	}
	check(t, n.Unlock())
}

// Close ends the waits for reading and writing.
func TestRWClose(t *testing.T) {
	b := create(t, 4096)
	m := get(lock.NewRWMutex(b, 0))
	for range less(20) {
		p := shmtest.Start(t, "rw-close", b.Name())
		check(t, m.Lock())
		p.Expect("ready")
		p.Send("go")
		p.Expect("waiting")
		p.Send("close")
		if st := p.Wait(); st != 0 {
			t.Fatal(st, p.Stderr())
		}
		check(t, m.Unlock())
		if ok, err := m.TryLock(); !ok || err != nil {
			t.Fatal("something is left of those who waited and closed", ok, err)
		}
		check(t, m.Unlock())
	}
}

func init() {
	shmtest.Register("rw-close", func(args []string) int {
		b, err := shm.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		m, err := lock.NewRWMutex(b, 0)
		if err != nil {
			return complain(err)
		}
		shmtest.Say("ready")
		shmtest.Await("go")
		const n = 9
		c := make(chan error, n)
		for i := range n {
			if i%3 == 0 {
				go func() { c <- m.Lock() }()
			} else {
				go func() { c <- m.RLock() }()
			}
		}
		for asleep() < n {
			time.Sleep(time.Millisecond)
		}
		shmtest.Say("waiting")
		shmtest.Await("close")
		if err := b.Close(); err != nil {
			return complain(err)
		}
		for range n {
			if err := <-c; !errors.Is(err, os.ErrClosed) {
				return complain(fmt.Errorf("one who waited got %v", err))
			}
		}
		return 0
	})
}

// A queue of words between processes and goroutines, by one Mutex and two Conds.
func TestCond(t *testing.T) {
	b := create(t, 4096)
	q := get(openQueue(b))
	p := shmtest.Start(t, "consume", b.Name())
	n := uint64(less(2000))
	var sum, got atomic.Uint64
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				v, err := q.take()
				if err != nil {
					t.Error(err)
					return
				}
				if v == 0 {
					return
				}
				sum.Add(v)
				got.Add(1)
			}
		})
	}
	want := uint64(0)
	for v := uint64(1); v <= n; v++ {
		want += v
		if err := q.put(v); err != nil {
			t.Fatal(err)
		}
	}
	for range 6 {
		if err := q.put(0); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	var theirs, count uint64
	if _, err := fmt.Sscan(p.Line(), &theirs, &count); err != nil {
		t.Fatal(err)
	}
	if st := p.Wait(); st != 0 {
		t.Error(st, p.Stderr())
	}
	if sum.Load()+theirs != want || got.Load()+count != n {
		t.Errorf("%d words of sum %d, want %d of %d", got.Load()+count, sum.Load()+theirs, n, want)
	}
	t.Logf("%d here, %d there", got.Load(), count)
}

type queueState struct {
	_     [3]lock.State // of a Mutex and two Conds
	n     uint64
	items [4]uint64
}

type queue struct {
	*queueState
	m           *lock.Mutex
	full, empty *lock.Cond
}

func openQueue(b *shm.Block) (*queue, error) {
	s, err := shm.At[queueState](b, 0)
	if err != nil {
		return nil, err
	}
	q := &queue{queueState: s}
	q.m, err = lock.NewMutex(b, 0)
	if err == nil {
		q.full, err = lock.NewCond(b, 64)
	}
	if err == nil {
		q.empty, err = lock.NewCond(b, 128)
	}
	return q, err
}

func (q *queue) put(v uint64) error {
	if err := q.m.Lock(); err != nil {
		return err
	}
	for q.n == uint64(len(q.items)) {
		if err := q.full.Wait(q.m); err != nil {
			return err
		}
	}
	q.items[q.n] = v
	q.n++
	return errors.Join(q.empty.Signal(), q.m.Unlock())
}

func (q *queue) take() (uint64, error) {
	if err := q.m.Lock(); err != nil {
		return 0, err
	}
	for q.n == 0 {
		if err := q.empty.Wait(q.m); err != nil {
			return 0, err
		}
	}
	v := q.items[0]
	copy(q.items[:], q.items[1:q.n])
	q.n--
	// One that a signal was for may find nothing; the next one must not wait.
	return v, errors.Join(q.full.Signal(), q.m.Unlock())
}

func init() {
	shmtest.Register("consume", func(args []string) int {
		b, err := shm.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		q, err := openQueue(b)
		if err != nil {
			return complain(err)
		}
		var sum, got atomic.Uint64
		var failed atomic.Pointer[error]
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for {
					v, err := q.take()
					if err != nil {
						failed.Store(&err)
						return
					}
					if v == 0 {
						return
					}
					sum.Add(v)
					got.Add(1)
				}
			})
		}
		wg.Wait()
		if err := failed.Load(); err != nil {
			return complain(*err)
		}
		shmtest.Say("%d %d", sum.Load(), got.Load())
		return 0
	})
}

func TestCondDetails(t *testing.T) {
	b := create(t, 4096)
	m, c := get(lock.NewMutex(b, 0)), get(lock.NewCond(b, 64))
	if err := c.Wait(m); !errors.Is(err, lock.ErrNotLocked) {
		t.Errorf("Wait without the lock: %v", err)
	}
	// Given up, the lock is held all the same.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
	defer cancel()
	check(t, m.Lock())
	for ctx.Err() == nil { // it may return for no reason
		if err := c.WaitContext(ctx, m); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
	if err := c.WaitContext(ctx, m); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if ok, err := m.TryLock(); ok || err != nil {
		t.Error(ok, err)
	}
	check(t, m.Unlock())

	// Broadcast wakes all, also of another mapping.
	other := open(t, b.Name())
	n, d := get(lock.NewMutex(other, 0)), get(lock.NewCond(other, 64))
	ready := 0
	done := make(chan error, 10)
	for i := range cap(done) {
		mu, cond := m, c
		if i%2 == 0 {
			mu, cond = n, d
		}
		go func() {
			err := mu.Lock()
			for ready == 0 && err == nil {
				err = cond.Wait(mu)
			}
			done <- errors.Join(err, mu.Unlock())
		}()
	}
	untilAsleep(t, cap(done))
	check(t, m.Lock())
	ready = 1
	check(t, c.Broadcast())
	check(t, m.Unlock())
	for range cap(done) {
		check(t, promptly(t, done))
	}
	// Close wakes who waits.
	ready = 0
	go func() {
		err := n.Lock()
		if err == nil {
			for err == nil {
				err = d.Wait(n)
			}
		}
		done <- err
	}()
	untilAsleep(t, 1)
	check(t, other.Close())
	if err := promptly(t, done); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

func TestEvent(t *testing.T) {
	b := create(t, 4096)
	e, f := get(lock.NewEvent(b, 0)), get(lock.NewEvent(open(t, b.Name()), 0))
	if ok, err := e.TryWait(); ok || err != nil || e.IsSet() {
		t.Error(ok, err)
	}
	data := 0
	done := make(chan error, 10)
	for i := range cap(done) {
		h := e
		if i%2 == 0 {
			h = f
		}
		go func() {
			err := h.Wait()
			if data != 1 {
				err = errors.Join(err, errors.New("passed too early"))
			}
			done <- err
		}()
	}
	p := shmtest.Start(t, "event", b.Name(), "0")
	p.Expect("waits")
	untilAsleep(t, cap(done))
	data = 1
	check(t, e.Set())
	check(t, f.Set())
	for range cap(done) {
		check(t, promptly(t, done))
	}
	p.Expect("passed")
	for range 2 {
		if ok, err := f.TryWait(); !ok || err != nil || !e.IsSet() {
			t.Error("a manual event that is set", ok, err)
		}
	}
	check(t, f.Reset())
	if ok, err := e.TryWait(); ok || err != nil || e.IsSet() {
		t.Error("a manual event that is reset", ok, err)
	}

	// A pulse lets pass all who wait, though it is reset before they run.
	for range less(50) {
		for i := range cap(done) {
			h := e
			if i%2 == 0 {
				h = f
			}
			go func() { done <- h.Wait() }()
		}
		untilAsleep(t, cap(done))
		check(t, e.Set())
		check(t, e.Reset())
		for range cap(done) {
			check(t, promptly(t, done))
		}
	}

	ctx, cancel := context.WithCancel(context.Background())
	go func() { done <- e.WaitContext(ctx) }()
	untilAsleep(t, 1)
	cancel()
	if err := promptly(t, done); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func init() {
	shmtest.Register("event", func(args []string) int {
		b, err := shm.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		off, _ := strconv.Atoi(args[1])
		e, err := lock.NewEvent(b, off)
		if err != nil {
			return complain(err)
		}
		shmtest.Say("waits")
		if err := e.Wait(); err != nil {
			return complain(err)
		}
		shmtest.Say("passed")
		return 0
	})
}

// An automatic event lets one pass for each setting.
func TestAutoEvent(t *testing.T) {
	b := create(t, 4096)
	e, f := get(lock.NewAutoEvent(b, 0)), get(lock.NewAutoEvent(open(t, b.Name()), 0))
	done := make(chan error, 10)
	for i := range cap(done) {
		h := e
		if i%2 == 0 {
			h = f
		}
		go func() { done <- h.Wait() }()
	}
	untilAsleep(t, cap(done))
	for range cap(done) {
		check(t, e.Set())
		check(t, promptly(t, done))
		if f.IsSet() {
			t.Error("set after one has passed")
		}
	}
	check(t, f.Set())
	check(t, e.Set())
	if ok, err := e.TryWait(); !ok || err != nil {
		t.Error(ok, err)
	}
	if ok, err := e.TryWait(); ok || err != nil {
		t.Error("set twice, passed twice", ok, err)
	}
	check(t, e.Set())
	check(t, e.Reset())
	if ok, err := e.TryWait(); ok || err != nil {
		t.Error("passed after Reset", ok, err)
	}
}

// All of many rounds meet, in two processes with several goroutines each.
func TestBarrier(t *testing.T) {
	const here, there = 6, 3
	b := create(t, 4096)
	rounds := less(300)
	p := shmtest.Start(t, "barrier", b.Name(), strconv.Itoa(there), strconv.Itoa(here+there), strconv.Itoa(rounds))
	if err := meet(b, here, here+there, rounds); err != nil {
		t.Error(err)
	}
	if st := p.Wait(); st != 0 {
		t.Error(st, p.Stderr())
	}
}

type rounds struct {
	come  atomic.Uint64
	turns [4]atomic.Uint64 // a bit for each number given out
}

// meet goes through rounds with n goroutines, each with a handle of its own.
func meet(b *shm.Block, n, parties, total int) error {
	r, err := shm.At[rounds](b, 2048)
	if err != nil {
		return err
	}
	errs := make(chan error, n)
	for range n {
		bar, err := lock.NewBarrier(b, 0, parties)
		if err != nil {
			return err
		}
		go func() {
			for k := range total {
				r.come.Add(1)
				i, err := bar.Wait()
				if err != nil {
					errs <- err
					return
				}
				if got := r.come.Load(); got < uint64((k+1)*parties) {
					errs <- fmt.Errorf("round %d: on with %d of %d", k, got, (k+1)*parties)
					return
				}
				if r.turns[k%4].Or(1<<i)&(1<<i) != 0 {
					errs <- fmt.Errorf("round %d: two have number %d", k, i)
					return
				}
				// Two rounds later nobody is in this one any more.
				r.turns[(k+2)%4].Store(0)
			}
			errs <- nil
		}()
	}
	for range n {
		err = errors.Join(err, <-errs)
	}
	if all := r.turns[(total-1)%4].Load(); err == nil && all >= 1<<parties {
		err = fmt.Errorf("numbers %b", all)
	}
	return err
}

func init() {
	shmtest.Register("barrier", func(args []string) int {
		b, err := shm.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		var n [3]int
		for i := range n {
			n[i], _ = strconv.Atoi(args[i+1])
		}
		if err := meet(b, n[0], n[1], n[2]); err != nil {
			return complain(err)
		}
		if err := b.Close(); err != nil {
			return complain(err)
		}
		return 0
	})
}

func TestBarrierDetails(t *testing.T) {
	b := create(t, 4096)
	other := open(t, b.Name())
	bar, same := get(lock.NewBarrier(b, 0, 3)), get(lock.NewBarrier(other, 0, 3))
	for range 3 {
		// Who gives up has not come.
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 3)
		go func() { _, err := same.WaitContext(ctx); done <- err }()
		untilAsleep(t, 1)
		cancel()
		if err := promptly(t, done); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		data, sum := 0, atomic.Int64{}
		for i := range 3 {
			go func() {
				if i == 0 {
					data++
				}
				n, err := bar.Wait()
				if data != 1 {
					err = errors.Join(err, errors.New("on before all have come"))
				}
				sum.Add(int64(n))
				done <- err
			}()
		}
		for range 3 {
			check(t, promptly(t, done))
		}
		if sum.Load() != 0+1+2 {
			t.Errorf("numbers of sum %d", sum.Load())
		}
		check(t, bar.Reset()) // nothing is broken
	}
	one := get(lock.NewBarrier(b, 64, 1))
	if n, err := one.Wait(); n != 0 || err != nil {
		t.Error(n, err)
	}
	done := make(chan error, 1)
	go func() { _, err := same.Wait(); done <- err }()
	untilAsleep(t, 1)
	check(t, other.Close())
	if err := promptly(t, done); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	if _, err := same.Wait(); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

// It is done once among all processes and goroutines, however they come.
func TestOnce(t *testing.T) {
	b := create(t, 8192)
	n := less(40)
	ps := []*shmtest.Process{shmtest.Start(t, "once", b.Name(), strconv.Itoa(n)), shmtest.Start(t, "once", b.Name(), strconv.Itoa(n))}
	for _, p := range ps {
		p.Expect("ready")
	}
	for _, p := range ps {
		p.Send("go")
	}
	if err := doOnces(b, n); err != nil {
		t.Error(err)
	}
	for _, p := range ps {
		if st := p.Wait(); st != 0 {
			t.Error(st, p.Stderr())
		}
	}
	counts := get(shm.Slice[atomic.Uint64](b, 4096, n))
	for i := range counts {
		if got := counts[i].Load(); got != 1 {
			t.Errorf("%d: done %d times", i, got)
		}
	}
}

func doOnces(b *shm.Block, n int) error {
	counts, err := shm.Slice[atomic.Uint64](b, 4096, n)
	if err != nil {
		return err
	}
	errs := make(chan error, 4)
	for range cap(errs) {
		go func() {
			for i := range n {
				o, err := lock.NewOnce(b, 64*i)
				if err == nil {
					err = o.Do(func() error { counts[i].Add(1); return nil })
				}
				if err == nil && (!o.Done() || counts[i].Load() != 1) {
					err = fmt.Errorf("%d: Do has returned, and it is not done", i)
				}
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range cap(errs) {
		err = errors.Join(err, <-errs)
	}
	return err
}

func init() {
	shmtest.Register("once", func(args []string) int {
		b, err := shm.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		n, _ := strconv.Atoi(args[1])
		shmtest.Say("ready")
		shmtest.Await("go")
		if err := doOnces(b, n); err != nil {
			return complain(err)
		}
		return 0
	})
}

func TestOnceDetails(t *testing.T) {
	b := create(t, 4096)
	o, same := get(lock.NewOnce(b, 0)), get(lock.NewOnce(open(t, b.Name()), 0))
	mine := errors.New("mine")
	if err := o.Do(func() error { return mine }); !errors.Is(err, mine) || o.Done() {
		t.Error(err)
	}
	func() {
		defer func() {
			if r := recover(); r != "panic" {
				t.Errorf("recovered %v", r)
			}
		}()
		_ = o.Do(func() error { panic("panic") })
	}()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_ = o.Do(func() error { runtime.Goexit(); return nil })
	}()
	<-gone
	if o.Done() {
		t.Error("done after a panic")
	}
	// Others wait for who does it.
	data := 0
	done := make(chan error, 5)
	check(t, same.Do(func() error {
		for range cap(done) {
			go func() {
				err := o.Do(func() error { return errors.New("done a second time") })
				if data != 1 {
					err = errors.Join(err, errors.New("on before it is done"))
				}
				done <- err
			}()
		}
		untilAsleep(t, cap(done))
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		if err := o.DoContext(ctx, func() error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		data = 1
		return nil
	}))
	for range cap(done) {
		check(t, promptly(t, done))
	}
	if !o.Done() || !same.Done() {
		t.Error("not done")
	}
}

// No permit is lost, none is made.
func TestSemaphorePermits(t *testing.T) {
	const permits = 3
	b := create(t, 4096)
	s, same := get(lock.NewSemaphore(b, 0, permits)), get(lock.NewSemaphore(open(t, b.Name()), 0, 0))
	if same.Value() != permits {
		t.Errorf("%d permits, want %d", same.Value(), permits)
	}
	p := shmtest.Start(t, "permits", b.Name(), strconv.Itoa(less(3000)))
	if err := usePermits(b, less(3000), permits); err != nil {
		t.Error(err)
	}
	if st := p.Wait(); st != 0 {
		t.Error(st, p.Stderr())
	}
	if s.Value() != permits {
		t.Errorf("%d permits are left, want %d", s.Value(), permits)
	}
	for range permits {
		if ok, err := s.TryWait(); !ok || err != nil {
			t.Error(ok, err)
		}
	}
	if ok, err := same.TryWait(); ok || err != nil || s.Value() != 0 {
		t.Error("a permit too many", ok, err)
	}
	// One for each who waits.
	done := make(chan error, 6)
	for range cap(done) {
		go func() { done <- s.Wait() }()
	}
	untilAsleep(t, cap(done))
	for range cap(done) {
		check(t, same.Post())
	}
	for range cap(done) {
		check(t, promptly(t, done))
	}
	big := get(lock.NewSemaphore(b, 64, 1<<29))
	if big.Value() != 1<<29 {
		t.Error(big.Value())
	}
}

func usePermits(b *shm.Block, n, permits int) error {
	s, err := lock.NewSemaphore(b, 0, permits)
	if err != nil {
		return err
	}
	inside, err := shm.At[atomic.Int64](b, 2048)
	if err != nil {
		return err
	}
	errs := make(chan error, 5)
	for g := range cap(errs) {
		go func() {
			for k := range n {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(k*(g+1)%30)*20*time.Microsecond)
				var err error
				if g%2 == 0 {
					err = s.Wait()
				} else {
					err = s.WaitContext(ctx)
				}
				cancel()
				if errors.Is(err, context.DeadlineExceeded) {
					continue
				}
				if err == nil && inside.Add(1) > int64(permits) {
					err = errors.New("more inside than permits")
				}
				inside.Add(-1)
				if err = errors.Join(err, s.Post()); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range cap(errs) {
		err = errors.Join(err, <-errs)
	}
	return err
}

func init() {
	shmtest.Register("permits", func(args []string) int {
		b, err := shm.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		n, _ := strconv.Atoi(args[1])
		if err := usePermits(b, n, 3); err != nil {
			return complain(err)
		}
		return 0
	})
}

// All of the above with what older kernels have. Emulators have no more anyway.
func TestOldKernel(t *testing.T) {
	if os.Getenv("SHM_QEMU") != "" {
		t.Skip("an emulator is one already")
	}
	if os.Getenv("SHM_TEST_OLD_KERNEL") != "" {
		t.Skip("this is the run with an old kernel")
	}
	if raceEnabled {
		t.Skip("the other runs have it; with the race detector this one takes long")
	}
	cmd := exec.Command(get(os.Executable()), "-test.run",
		"^Test(Exclusion|ExclusionProcesses|Try|CloseWakes|Readers|RWCancel|Cond|CondDetails|AutoEvent|Barrier|Once|SemaphorePermits|Death|DeathAtBarrier)$")
	cmd.Env = append(os.Environ(), "SHM_TEST_OLD_KERNEL=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("PASS")) {
		t.Errorf("%v\n%s", err, out)
	}
}
