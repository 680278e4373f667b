//go:build linux && (amd64 || arm64)

package lock_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/interop/python"
	"github.com/sharedmem/shm/lock"
)

// counted is what both languages count in. A and B are the same whenever the lock is
// free; Dead counts its owners that were killed.
type counted struct {
	Lock       lock.State
	A, B, Dead int64
}

func init() {
	// mutex-count NAME N: takes the lock N times and counts under it.
	shmtest.Register("mutex-count", func(args []string) int {
		b, err := shm.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		g, err := shm.At[counted](b, 0)
		if err != nil {
			return complain(err)
		}
		m, err := lock.NewMutex(b, 0)
		if err != nil {
			return complain(err)
		}
		n, _ := strconv.Atoi(args[1])
		shmtest.Say("ready")
		shmtest.Await("go")
		for range n {
			err := m.Lock()
			if errors.Is(err, lock.ErrOwnerDied) {
				g.B = g.A
				g.Dead++
				err = m.MarkConsistent()
			}
			if err == nil && g.A != g.B {
				err = fmt.Errorf("torn: %d %d", g.A, g.B)
			}
			g.A++
			g.B++
			if err = errors.Join(err, m.Unlock()); err != nil {
				return complain(err)
			}
		}
		if err := b.Close(); err != nil {
			return complain(err)
		}
		return 0
	})
}

// pythonDriver follows shm_lock.py and does what it is told, line by line.
const pythonDriver = `
import signal, warnings
name, how = sys.argv[1:3]
memory = name
if how == "libatomic":
    _cas64, _cas32, _load64, _load32, _kept = _libatomic()
elif how == "poll":
    _have_waitv = False
elif how == "SharedMemory":
    from multiprocessing import resource_tracker, shared_memory
    memory = shared_memory.SharedMemory(name)
    resource_tracker.unregister(memory._name, "shared_memory")
with open("/dev/shm/" + name, "r+b") as f:
    data = mmap.mmap(f.fileno(), 0)

def count(n):
    for _ in range(n):
        with mutex:
            a, b, dead = struct.unpack_from("=qqq", data, 64)
            if mutex.owner_died:
                b, dead = a, dead + 1
                struct.pack_into("=q", data, 72, b)
                struct.pack_into("=q", data, 80, dead)
                mutex.mark_consistent()
            if a != b:
                raise AssertionError("torn: %d %d" % (a, b))
            struct.pack_into("=q", data, 64, a + 1)
            struct.pack_into("=q", data, 72, b + 1)

def fork():
    """A child has nothing of its parent's, and its death is its own."""
    warnings.simplefilter("ignore", DeprecationWarning)  # of 3.12: there are threads
    pid = os.fork()
    if pid == 0:
        try:
            mutex.release()
        except RuntimeError:
            os._exit(0 if not mutex.acquire(timeout=0.01) else 2)
        os._exit(1)
    return os.waitpid(pid, 0)[1]

def interrupted():
    """^C ends the waiting."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        mutex.acquire()
    except KeyboardInterrupt:
        return "interrupted"

def threads(n, rounds):
    """n threads of this process take turns."""
    ts = [threading.Thread(target=count, args=(rounds,)) for _ in range(n)]
    for t in ts: t.start()
    for t in ts: t.join()

print("ready", flush=True)
for line in sys.stdin:
    try:
        try:
            answer = eval(line)
        except SyntaxError:
            answer = exec(line)
    except Exception as e:
        answer = type(e).__name__
    print(answer, flush=True)
`

type pythonLocker struct{ *shmtest.Process }

func startLocker(t *testing.T, py shmtest.Python, name, how string) pythonLocker {
	t.Helper()
	cmd := py.Cmd(context.Background(), "-c", python.Lock+pythonDriver, name, how)
	p := pythonLocker{shmtest.StartCommand(t, cmd)}
	p.Expect("ready")
	return p
}

// do has Python evaluate a line, and returns what came of it.
func (p pythonLocker) do(t *testing.T, line, want string) {
	t.Helper()
	p.Send(line)
	if got := p.Line(); got != want {
		t.Fatalf("%s: %s, want %s\n%s", line, got, want, p.Stderr())
	}
}

// end has it leave as programs do, and checks that its lease is gone.
func (p pythonLocker) end(t *testing.T) {
	t.Helper()
	p.CloseInput()
	if status, errs := p.WaitAll(); status != 0 || errs != "" {
		t.Errorf("status %d: %s", status, errs)
	}
}

// forPythons runs a test with each Python of the machine, on a block of one page.
func forPythons(t *testing.T, f func(t *testing.T, py shmtest.Python, b *shm.Block, name string)) {
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.String(), func(t *testing.T) {
			t.Parallel()
			name := shmtest.Name(t)
			b, err := shm.Create(name, 4096, nil)
			must(t, err)
			defer b.Unlink()
			defer b.Close()
			f(t, py, b, name)
		})
	}
}

// eventually waits until what is described at off is as wanted.
func eventually(t *testing.T, b *shm.Block, off int, want func(lock.Info) bool) {
	t.Helper()
	for deadline := time.Now().Add(shmtest.Patience); !want(one(t, b, off)); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", one(t, b, off))
		}
	}
}

func isWaiting(i lock.Info) bool { return i.Waiting }

func TestPythonMutex(t *testing.T) {
	forPythons(t, func(t *testing.T, py shmtest.Python, b *shm.Block, name string) {
		m, err := lock.NewMutex(b, 0)
		must(t, err)
		p := startLocker(t, py, name, "")
		p.do(t, "mutex = Mutex(memory)", "None")

		// Each sees what the other holds, and gives back only what is its own.
		p.do(t, "mutex.acquire()", "True")
		if i := one(t, b, 0); i.State != "held" || i.Holders[0].PID != p.PID() || !i.Holders[0].Alive {
			t.Errorf("%+v", i)
		}
		if ok, err := m.TryLock(); ok || err != nil {
			t.Fatal(ok, err)
		}
		if err := m.Unlock(); !errors.Is(err, lock.ErrNotLocked) {
			t.Error(err)
		}
		p.do(t, "fork()", "0")
		got := make(chan error, 1)
		go func() { got <- m.Lock() }()
		eventually(t, b, 0, isWaiting)
		p.do(t, "mutex.release()", "None")
		must(t, <-got)
		p.do(t, "mutex.release()", "RuntimeError")
		p.do(t, "mutex.mark_consistent()", "RuntimeError")
		p.do(t, "mutex.acquire(False)", "False")
		p.do(t, "mutex.acquire(timeout=0.01)", "False")
		p.do(t, "mutex.locked(), mutex.locked_here()", "(True, False)")
		p.do(t, "interrupted()", "interrupted")
		p.Send("mutex.acquire()")
		eventually(t, b, 0, isWaiting)
		must(t, m.Unlock())
		p.Expect("True")
		p.do(t, "mutex.release()", "None")

		// What is not there, or something else.
		p.do(t, "Mutex(memory, 4)", "ValueError")
		p.do(t, "Mutex(memory, 4096)", "ValueError")
		p.do(t, "Semaphore(memory, 0)", "ValueError")
		p.do(t, "Mutex(memory, 0, directory='/tmp')", "FileNotFoundError")
		p.do(t, "Mutex(data, 0, directory='/tmp')", "OSError")
		p.do(t, "mutex.close()", "None")
		p.do(t, "mutex.acquire()", "ValueError")
		p.end(t)
		if _, err := shm.Prune(); err != nil { // the child's lease
			t.Error(err)
		}
	})
}

// Whoever is killed, the other side gets the lock, hears of it and mends.
func TestPythonMutexDeath(t *testing.T) {
	forPythons(t, func(t *testing.T, py shmtest.Python, b *shm.Block, name string) {
		m, err := lock.NewMutex(b, 0)
		must(t, err)
		var goTook, pyTook []time.Duration
		for range 2 {
			p := startLocker(t, py, name, "")
			p.do(t, "mutex = Mutex(memory)", "None")
			p.do(t, "mutex.acquire()", "True")
			got := make(chan error, 1)
			go func() { got <- m.Lock() }()
			eventually(t, b, 0, isWaiting)
			start := time.Now()
			p.Kill()
			if err := <-got; !errors.Is(err, lock.ErrOwnerDied) {
				t.Fatal(err)
			}
			goTook = append(goTook, time.Since(start))
			must(t, m.MarkConsistent(), m.Unlock())
		}
		p := startLocker(t, py, name, "")
		p.do(t, "mutex = Mutex(memory)", "None")
		for range 2 {
			h := shmtest.Start(t, "mutex-hold", name, "0")
			h.Expect("waits")
			h.Expect("held")
			p.Send("mutex.acquire()")
			eventually(t, b, 0, isWaiting)
			start := time.Now()
			h.Kill()
			p.Expect("True")
			pyTook = append(pyTook, time.Since(start))
			p.do(t, "mutex.owner_died", "True")
			p.do(t, "mutex.mark_consistent()", "None")
			p.do(t, "mutex.owner_died", "False")
			p.do(t, "mutex.release()", "None")
		}
		t.Logf("from kill -9 to the lock: Go %v, Python %v", goTook, pyTook)

		// A Python that ends while it holds the lock has died holding it.
		p.do(t, "mutex.acquire()", "True")
		p.end(t)
		if ok, err := m.TryLock(); !ok || !errors.Is(err, lock.ErrOwnerDied) {
			t.Fatal(ok, err)
		}
		// Not mended is not recoverable, for those who wait already too.
		p = startLocker(t, py, name, "")
		p.do(t, "mutex = Mutex(memory)", "None")
		p.Send("mutex.acquire()")
		eventually(t, b, 0, isWaiting)
		must(t, m.Unlock())
		p.Expect("NotRecoverable")
		p.do(t, "mutex.acquire(False)", "NotRecoverable")
		p.end(t)
		if _, err := shm.Prune(); err != nil {
			t.Error(err)
		}
	})
}

func TestPythonSemaphore(t *testing.T) {
	forPythons(t, func(t *testing.T, py shmtest.Python, b *shm.Block, name string) {
		p := startLocker(t, py, name, "")
		p.do(t, "sem = Semaphore(memory, 64, 2)", "None")
		s, err := lock.NewSemaphore(b, 64, 7) // which means nothing any more
		must(t, err)
		if s.Value() != 2 {
			t.Error(s.Value())
		}
		must(t, s.Wait())
		p.do(t, "sem.acquire()", "True")
		p.do(t, "sem.value, sem.acquire(False), sem.acquire(timeout=0.01)", "(0, False, False)")
		if ok, err := s.TryWait(); ok || err != nil {
			t.Error(ok, err)
		}
		got := make(chan error, 1)
		go func() { got <- s.Wait() }()
		eventually(t, b, 64, isWaiting)
		p.do(t, "sem.release()", "None")
		must(t, <-got)
		for range 3 {
			p.Send("sem.acquire()")
			eventually(t, b, 64, isWaiting)
			must(t, s.Post())
			p.Expect("True")
		}
		// One that is killed while it waits takes nothing with it.
		q := startLocker(t, py, name, "")
		q.do(t, "sem = Semaphore(memory, 64)", "None")
		q.Send("sem.acquire()")
		eventually(t, b, 64, isWaiting)
		q.Kill()
		must(t, s.Post())
		p.do(t, "sem.acquire(timeout=10)", "True")
		p.do(t, "sem.release()", "None")
		if s.Value() != 1 {
			t.Error(s.Value())
		}
		p.do(t, "Mutex(memory, 64)", "ValueError")
		p.end(t)
		if _, err := shm.Prune(); err != nil {
			t.Error(err)
		}
	})
}

func TestPythonEvent(t *testing.T) {
	forPythons(t, func(t *testing.T, py shmtest.Python, b *shm.Block, name string) {
		e, err := lock.NewEvent(b, 0)
		must(t, err)
		auto, err := lock.NewAutoEvent(b, 64)
		must(t, err)
		p := startLocker(t, py, name, "")
		p.do(t, "ev, auto = Event(memory), Event(memory, 64, auto=True)", "None")
		p.do(t, "Event(memory, 0, auto=True)", "ValueError")
		p.do(t, "ev.is_set(), ev.wait(0.01)", "(False, False)")
		p.Send("ev.wait()")
		must(t, e.Set())
		p.Expect("True")
		p.do(t, "ev.is_set(), ev.wait()", "(True, True)")
		p.do(t, "ev.clear()", "None")
		if e.IsSet() {
			t.Error("still set")
		}
		got := make(chan error, 2)
		for range 2 {
			go func() { got <- e.Wait() }()
		}
		p.do(t, "ev.set()", "None")
		must(t, <-got, <-got)

		p.Send("auto.wait()")
		must(t, auto.Set())
		p.Expect("True")
		p.do(t, "auto.wait(0.01)", "False")
		go func() { got <- auto.Wait() }()
		p.do(t, "auto.set()", "None")
		must(t, <-got)
		if auto.IsSet() {
			t.Error("one passes, and no more")
		}
		p.end(t)
	})
}

// Both sides count under one lock, in each of the ways that a Python may have to
// take, with threads, and with somebody killed in between.
func TestPythonCounting(t *testing.T) {
	const rounds, kills = 200, 2
	forPythons(t, func(t *testing.T, py shmtest.Python, b *shm.Block, name string) {
		g, err := shm.At[counted](b, 0)
		must(t, err)
		m, err := lock.NewMutex(b, 0)
		must(t, err)
		total := int64(0)
		ways := []string{"", "poll", "SharedMemory", "libatomic"}
		if py.Minor%3 != 2 {
			ways = ways[:1] // an old one, a new one and one between try them all
		}
		for _, how := range ways {
			if how == "libatomic" && !hasLibatomic(t, py) {
				t.Log("without libatomic.so.1")
				continue
			}
			p := startLocker(t, py, name, how)
			p.do(t, "mutex = Mutex(memory)", "None")
			h := shmtest.Start(t, "mutex-count", name, strconv.Itoa(rounds))
			h.Expect("ready")
			h.Send("go")
			p.do(t, fmt.Sprintf("count(%d)", rounds), "None")
			p.do(t, fmt.Sprintf("threads(4, %d)", rounds/10), "None")
			if st := h.Wait(); st != 0 {
				t.Error(st, h.Stderr())
			}
			total += rounds + rounds + 4*rounds/10
			must(t, m.Lock())
			if g.A != total || g.B != total || g.Dead != 0 {
				t.Errorf("%s: %d, %d, %d; want %d", how, g.A, g.B, g.Dead, total)
			}
			must(t, m.Unlock())
			p.do(t, "mutex.close()", "None")
			p.end(t)
		}

		// Whoever is killed, whenever: the others go on, and nothing is torn.
		stays := startLocker(t, py, name, "")
		stays.do(t, "mutex = Mutex(memory)", "None")
		stays.Send(fmt.Sprintf("count(%d)", rounds))
		for i := range kills {
			p := startLocker(t, py, name, "")
			p.do(t, "mutex = Mutex(memory)", "None")
			h := shmtest.Start(t, "mutex-count", name, "1000000")
			h.Expect("ready")
			h.Send("go")
			p.Send("count(1000000)")
			time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond) // where it strikes, not what is waited for
			if i%2 == 0 {
				p.Kill()
				h.Kill()
			} else {
				h.Kill()
				p.Kill()
			}
		}
		stays.Expect("None")
		if err := m.Lock(); errors.Is(err, lock.ErrOwnerDied) {
			g.B = g.A
			must(t, m.MarkConsistent())
		} else {
			must(t, err)
		}
		t.Logf("%d rounds, %d of %d killed while they held it", g.A, g.Dead, 2*kills)
		if g.A != g.B || g.A < total+rounds {
			t.Errorf("%d, %d; want %d at least", g.A, g.B, total+rounds)
		}
		must(t, m.Unlock())
		stays.end(t)
		if _, err := shm.Prune(); err != nil {
			t.Error(err)
		}
	})
}

func hasLibatomic(t *testing.T, py shmtest.Python) bool {
	t.Helper()
	err := py.Cmd(t.Context(), "-c", "import ctypes; ctypes.CDLL('libatomic.so.1')").Run()
	return err == nil
}

// The module that is to be copied is the one that was tested, and says nothing
// on its own when it is imported elsewhere than where it works.
func TestPythonModule(t *testing.T) {
	src, err := os.ReadFile("../interop/python/shm_lock.py")
	must(t, err)
	if !bytes.Equal(src, []byte(python.Lock)) || !strings.Contains(python.Lock, "__all__") {
		t.Error("not the embedded one")
	}
	for _, py := range shmtest.Pythons(t)[:1] {
		code := "import platform; platform.machine = lambda: 'sparc'\n" + python.Lock
		var errs bytes.Buffer
		cmd := py.Cmd(t.Context(), "-c", code)
		cmd.Stderr = &errs
		if err := cmd.Run(); err == nil || !strings.Contains(errs.String(), "ImportError: shm_lock: only for 64-bit Linux") {
			t.Errorf("%v: %s", err, errs.String())
		}
	}
}
