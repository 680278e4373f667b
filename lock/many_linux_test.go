package lock_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/lock"
)

// crowds are the ways in which many goroutines wait for one thing. wait is each
// one's whole part, and passes the turn on where that is to be done.
var crowds = []struct {
	name string
	make func(b *shm.Block, n int) (wait, release func() error)
}{
	{"Mutex", func(b *shm.Block, _ int) (wait, release func() error) {
		m := get(lock.NewMutex(b, 0))
		get(0, m.Lock())
		return func() error { return errors.Join(m.Lock(), m.Unlock()) }, m.Unlock
	}},
	{"RWMutex to write", func(b *shm.Block, _ int) (wait, release func() error) {
		m := get(lock.NewRWMutex(b, 0))
		get(0, m.RLock())
		return func() error { return errors.Join(m.Lock(), m.Unlock()) }, m.RUnlock
	}},
	{"RWMutex to read", func(b *shm.Block, _ int) (wait, release func() error) {
		m := get(lock.NewRWMutex(b, 0))
		get(0, m.Lock())
		return func() error { return errors.Join(m.RLock(), m.RUnlock()) }, m.Unlock
	}},
	{"Cond", func(b *shm.Block, _ int) (wait, release func() error) {
		m, c := get(lock.NewMutex(b, 0)), get(lock.NewCond(b, 64))
		ready := false
		return func() error {
				err := m.Lock()
				for !ready && err == nil {
					err = c.Wait(m)
				}
				return errors.Join(err, m.Unlock())
			}, func() error {
				err := m.Lock()
				ready = true
				return errors.Join(err, c.Broadcast(), m.Unlock())
			}
	}},
	{"Event", func(b *shm.Block, _ int) (wait, release func() error) {
		e := get(lock.NewEvent(b, 0))
		return e.Wait, e.Set
	}},
	{"AutoEvent", func(b *shm.Block, _ int) (wait, release func() error) {
		e := get(lock.NewAutoEvent(b, 0))
		return func() error { return errors.Join(e.Wait(), e.Set()) }, e.Set
	}},
	{"Barrier", func(b *shm.Block, n int) (wait, release func() error) {
		bar := get(lock.NewBarrier(b, 0, n+1))
		come := func() error { _, err := bar.Wait(); return err }
		return come, come
	}},
	{"Once", func(b *shm.Block, _ int) (wait, release func() error) {
		o := get(lock.NewOnce(b, 0))
		begun, end, done := make(chan bool), make(chan bool), make(chan error)
		go func() {
			done <- o.Do(func() error { close(begun); <-end; return nil })
		}()
		<-begun
		return func() error { return o.Do(func() error { return errors.New("twice") }) },
			func() error { close(end); return <-done }
	}},
	{"Semaphore", func(b *shm.Block, _ int) (wait, release func() error) {
		s := get(lock.NewSemaphore(b, 0, 0))
		return func() error { return errors.Join(s.Wait(), s.Post()) }, s.Post
	}},
	{"NamedSemaphore", func(b *shm.Block, _ int) (wait, release func() error) {
		s := get(lock.OpenSemaphore(b.Name(), &lock.SemaphoreOptions{Create: true}))
		get(0, lock.UnlinkSemaphore(b.Name()))
		return func() error { return errors.Join(s.Wait(), s.Post()) }, s.Post
	}},
}

func threads() int { return len(get(os.ReadDir("/proc/self/task"))) }

// resident returns the bytes of memory that this process occupies.
func resident() int {
	status := string(get(os.ReadFile("/proc/self/status")))
	_, rest, _ := strings.Cut(status, "VmRSS:")
	n, _ := strconv.Atoi(strings.Fields(rest)[0])
	return n << 10
}

// A thousand goroutines that wait are no thousand threads, and each gets its turn.
func TestCrowd(t *testing.T) {
	n := 1000
	if os.Getenv("SHM_QEMU") != "" {
		n = 100
	}
	for _, c := range crowds {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "NamedSemaphore" && strconv.IntSize != 64 {
				t.Skip("the C library's semaphores have another layout on 32 bits")
			}
			b := create(t, 4096)
			wait, release := c.make(b, n)
			debug.FreeOSMemory()
			before, room := threads(), resident()
			done := make(chan error, n)
			for range n {
				go func() { done <- wait() }()
			}
			untilAsleep(t, n)
			if more := threads() - before; more > 8 {
				t.Errorf("%d threads more", more)
			}
			// The race detector and an emulator have their own idea of memory; and the
			// stacks that untilAsleep looks at are not the locks'.
			debug.FreeOSMemory()
			more := (resident() - room) >> 20
			if more > 20 && !raceEnabled && os.Getenv("SHM_QEMU") == "" {
				t.Errorf("%d MB more", more)
			}
			check(t, release())
			for range n {
				check(t, promptly(t, done))
			}
			t.Logf("%d threads and %d MB more", threads()-before, more)
		})
	}
}

// Waiting holds up neither the garbage collector nor other goroutines, not even
// with one processor to run on.
func TestWaitingIsQuiet(t *testing.T) {
	for _, procs := range []int{runtime.GOMAXPROCS(0), 1} {
		t.Run(fmt.Sprint(procs), func(t *testing.T) {
			defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
			var release []func() error
			var done []chan error
			for _, c := range crowds {
				if c.name == "NamedSemaphore" && strconv.IntSize != 64 {
					continue
				}
				wait, r := c.make(create(t, 4096), 1)
				d := make(chan error, 1)
				go func() { d <- wait() }()
				release, done = append(release, r), append(done, d)
			}
			untilAsleep(t, len(done))
			// A thread in a call that Go does not know of holds the collector up until
			// somebody wakes it, or for wait.Backstop, each time; other work on the machine, now and then.
			const limit = 300 * time.Millisecond
			var collecting, longest, talking time.Duration
			quiet := false
			for range 5 {
				collecting, longest = collect(10)
				talking = converse(100)
				if quiet = max(collecting, longest) <= limit && (talking <= limit || os.Getenv("SHM_QEMU") != ""); quiet {
					break
				}
			}
			if !quiet {
				t.Errorf("the collector took %v, and stopped everybody for %v; a hundred words between two goroutines took %v", collecting, longest, talking)
			}
			for i, r := range release {
				check(t, r())
				check(t, promptly(t, done[i]))
			}
			t.Logf("collector %v, longest stop %v", collecting, longest)
		})
	}
}

// collect collects garbage some times, and returns how long that took each time, and
// for how long everybody was stopped at most.
func collect(times int) (each, longest time.Duration) {
	start := time.Now()
	for range times {
		runtime.GC()
	}
	each = time.Since(start) / time.Duration(times)
	var stats debug.GCStats
	debug.ReadGCStats(&stats)
	for _, p := range stats.Pause[:min(times, len(stats.Pause))] {
		longest = max(longest, p)
	}
	return each, longest
}

// converse returns how long two goroutines take to exchange so many words.
func converse(words int) time.Duration {
	ping, pong := make(chan int), make(chan int)
	go func() {
		for v := range ping {
			pong <- v
		}
		close(pong)
	}()
	start := time.Now()
	for i := range words {
		ping <- i
		<-pong
	}
	close(ping)
	<-pong
	return time.Since(start)
}

// With one processor the owner may be the goroutine that cannot run while we spin.
func TestOneProcessor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	b := create(t, 4096)
	m := get(lock.NewMutex(b, 0))
	p := shmtest.Start(t, "take", b.Name(), "Mutex", "500")
	p.Expect("ready")
	p.Send("go")
	c := get(shm.At[counters](b, 2048))
	done := make(chan error, 4)
	for range cap(done) {
		go func() {
			for range 500 {
				if err := m.Lock(); err != nil {
					done <- err
					return
				}
				c.a++
				runtime.Gosched()
				c.b++
				if err := m.Unlock(); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range cap(done) {
		check(t, promptly(t, done))
	}
	p.Line()
	if st := p.Wait(); st != 0 {
		t.Error(st, p.Stderr())
	}
	if c.a != c.b {
		t.Error(c.a, c.b)
	}
}
