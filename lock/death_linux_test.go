package lock_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/lock"
)

// What package lock promises of processes that die, whatever they were doing and
// however they end.

// tooLong is how long nobody may wait because of another's death.
const tooLong = 5 * time.Second

func soon(t testing.TB, c <-chan error) error {
	t.Helper()
	limit := tooLong
	if os.Getenv("SHM_QEMU") != "" {
		limit = shmtest.Patience
	}
	select {
	case err := <-c:
		return err
	case <-time.After(limit):
		t.Fatalf("stuck for %v after a death", limit)
		return nil
	}
}

// roles are what a process is about when it dies, each in its own 1024 bytes.
var roles = []struct {
	name string
	play func(b *shm.Block, off int) error // says "there", or waits
	// waits says that play does not return, so that the test has to look.
	waits bool
}{
	{"Mutex held", func(b *shm.Block, off int) error {
		m, err := lock.NewMutex(b, off)
		if err != nil {
			return err
		}
		return m.Lock()
	}, false},
	{"RWMutex held for writing", func(b *shm.Block, off int) error {
		m, err := lock.NewRWMutex(b, off)
		if err != nil {
			return err
		}
		return m.Lock()
	}, false},
	{"RWMutex held for reading", func(b *shm.Block, off int) error {
		m, err := lock.NewRWMutex(b, off)
		if err != nil {
			return err
		}
		return m.RLock()
	}, false},
	{"Once doing", func(b *shm.Block, off int) error {
		o, err := lock.NewOnce(b, off)
		if err != nil {
			return err
		}
		return o.Do(func() error {
			shmtest.Say("there")
			shmtest.Hear()
			return errors.New("alive")
		})
	}, true},
	{"Mutex waited for", func(b *shm.Block, off int) error {
		m, err := lock.NewMutex(b, off)
		if err != nil {
			return err
		}
		return m.Lock()
	}, true},
	{"RWMutex waited for to write", func(b *shm.Block, off int) error {
		m, err := lock.NewRWMutex(b, off)
		if err != nil {
			return err
		}
		return m.Lock()
	}, true},
	{"RWMutex waited for to read", func(b *shm.Block, off int) error {
		m, err := lock.NewRWMutex(b, off)
		if err != nil {
			return err
		}
		return m.RLock()
	}, true},
	{"Cond waited for", func(b *shm.Block, off int) error {
		m, err := lock.NewMutex(b, off+64)
		if err != nil {
			return err
		}
		c, err := lock.NewCond(b, off)
		if err != nil {
			return err
		}
		err = m.Lock()
		for err == nil {
			err = c.Wait(m)
		}
		return err
	}, true},
	{"Event waited for", func(b *shm.Block, off int) error {
		e, err := lock.NewAutoEvent(b, off)
		if err != nil {
			return err
		}
		return e.Wait()
	}, true},
	{"Semaphore waited for", func(b *shm.Block, off int) error {
		s, err := lock.NewSemaphore(b, off, 0)
		if err != nil {
			return err
		}
		return s.Wait()
	}, true},
	{"Barrier waited for", func(b *shm.Block, off int) error {
		bar, err := lock.NewBarrier(b, off, 3)
		if err != nil {
			return err
		}
		_, err = bar.Wait()
		return err
	}, true},
	{"Barrier passed", func(b *shm.Block, off int) error {
		bar, err := lock.NewBarrier(b, off, 2)
		if err != nil {
			return err
		}
		_, err = bar.Wait()
		return err
	}, false},
}

func init() {
	shmtest.Register("hold", func(args []string) int { return play(args[0], "Mutex held", 0) })

	// play NAME ROLE OFF, and what then comes is told by the test.
	shmtest.Register("play", func(args []string) int {
		off, _ := strconv.Atoi(args[2])
		return play(args[0], args[1], off)
	})

	// zombie NAME: its child holds, dies, and is not waited for.
	shmtest.Register("zombie", func(args []string) int {
		r, w, err := os.Pipe()
		if err != nil {
			return complain(err)
		}
		defer w.Close()
		p, err := os.StartProcess(os.Args[0], []string{os.Args[0], os.Args[1], "hold", args[0]},
			&os.ProcAttr{Files: []*os.File{r, os.Stdout, os.Stderr}}) // it says "held"
		if err != nil {
			return complain(err)
		}
		shmtest.Await("kill")
		if err := p.Kill(); err != nil {
			return complain(err)
		}
		for {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid))
			if err != nil {
				return complain(err)
			}
			if _, rest, _ := strings.Cut(string(stat), ") "); strings.HasPrefix(rest, "Z") {
				break
			}
			time.Sleep(time.Millisecond)
		}
		shmtest.Say("zombie")
		shmtest.Await("reap")
		_, err = p.Wait()
		if err != nil {
			return complain(err)
		}
		return 0
	})
}

func play(name, role string, off int) int {
	b, err := shm.Open(name, nil)
	if err != nil {
		return complain(err)
	}
	i := 0
	for roles[i].name != role {
		i++
	}
	if roles[i].waits {
		if role != "Once doing" {
			go func() {
				for asleep() == 0 {
					time.Sleep(time.Millisecond)
				}
				shmtest.Say("there")
			}()
		}
		if err := roles[i].play(b, off); err != nil {
			return complain(err)
		}
		shmtest.Say("got it")
		shmtest.Hear()
		return 0
	}
	if err := roles[i].play(b, off); err != nil {
		return complain(err)
	}
	shmtest.Say("held")
	switch shmtest.Hear() {
	case "exec":
		err := syscall.Exec("/bin/cat", []string{"cat"}, os.Environ())
		return complain(err)
	case "fork":
		// As a C library does it: a child with all descriptors, of which Go knows
		// nothing. It ends when its standard input does.
		var buf [1]byte
		pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
		if errno != 0 {
			return complain(errno)
		}
		if pid == 0 {
			_, _, _ = syscall.RawSyscall(syscall.SYS_READ, 0, uintptr(unsafe.Pointer(&buf[0])), 1)
			_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
		}
		shmtest.Say("forked")
		select {}
	}
	return 0
}

// Who waits for a lock gets it when its holder is killed, again and again, and
// learns what has happened.
func TestDeath(t *testing.T) {
	rounds := less(20)
	takers := []struct {
		role string
		take func(b *shm.Block, off int) error
		want error
		mend func(b *shm.Block, off int) error
	}{
		{"Mutex held", func(b *shm.Block, off int) error { return get(lock.NewMutex(b, off)).Lock() }, lock.ErrOwnerDied,
			func(b *shm.Block, off int) error {
				m := get(lock.NewMutex(b, off))
				return errors.Join(m.MarkConsistent(), m.Unlock())
			}},
		{"RWMutex held for writing", func(b *shm.Block, off int) error { return get(lock.NewRWMutex(b, off)).Lock() }, lock.ErrOwnerDied,
			func(b *shm.Block, off int) error {
				m := get(lock.NewRWMutex(b, off))
				return errors.Join(m.MarkConsistent(), m.Unlock())
			}},
		{"RWMutex held for writing", func(b *shm.Block, off int) error { return get(lock.NewRWMutex(b, off)).RLock() }, lock.ErrOwnerDied,
			func(b *shm.Block, off int) error { // which it has not got: somebody has to mend
				m := get(lock.NewRWMutex(b, off))
				if err := m.RUnlock(); !errors.Is(err, lock.ErrNotLocked) {
					return fmt.Errorf("RLock with ErrOwnerDied holds the lock: %w", err)
				}
				if err := m.Lock(); !errors.Is(err, lock.ErrOwnerDied) {
					return fmt.Errorf("and Lock after that: %w", err)
				}
				return errors.Join(m.MarkConsistent(), m.Unlock())
			}},
		{"RWMutex held for reading", func(b *shm.Block, off int) error { return get(lock.NewRWMutex(b, off)).Lock() }, nil,
			func(b *shm.Block, off int) error { return get(lock.NewRWMutex(b, off)).Unlock() }},
		{"Once doing", func(b *shm.Block, off int) error {
			done := false
			err := get(lock.NewOnce(b, off)).Do(func() error { done = true; return nil })
			if !done {
				err = errors.Join(err, errors.New("not done anew"))
			}
			return err
		}, nil, func(b *shm.Block, off int) error { clear(b.Bytes()[off : off+64]); return nil }},
	}
	for i, taker := range takers {
		t.Run(fmt.Sprintf("%s/%d", taker.role, i), func(t *testing.T) {
			b := create(t, 4096)
			var took []time.Duration
			for range rounds {
				p := shmtest.Start(t, "play", b.Name(), taker.role, "1024")
				if taker.role == "Once doing" {
					p.Expect("there")
				} else {
					p.Expect("held")
				}
				c := make(chan error, 1)
				var at time.Time
				go func() {
					err := taker.take(b, 1024)
					at = time.Now()
					c <- err
				}()
				untilAsleep(t, 1)
				start := time.Now()
				p.Kill()
				if err := soon(t, c); !errors.Is(err, taker.want) {
					t.Fatalf("%v, want %v", err, taker.want)
				}
				took = append(took, at.Sub(start))
				if err := taker.mend(b, 1024); err != nil {
					t.Fatal(err)
				}
			}
			slices.Sort(took)
			t.Logf("after kill -9: p50 %v, max %v of %d", took[len(took)/2], took[len(took)-1], len(took))
		})
	}
	prune(t)
}

// prune removes the leases of those that the test has killed.
func prune(t *testing.T) {
	t.Helper()
	if _, err := shm.Prune(); err != nil {
		t.Error(err)
	}
}

// Who waits and is killed takes nothing with it: no lock, no signal, no permit,
// and no wake-up that was on its way to it.
func TestDeathOfWaiter(t *testing.T) {
	for _, role := range roles {
		if !role.waits || role.name == "Once doing" || strings.HasPrefix(role.name, "Barrier") {
			continue
		}
		t.Run(role.name, func(t *testing.T) {
			for range less(10) {
				b := create(t, 4096)
				give, take := opposite(role.name, b, 1024)
				p := shmtest.Start(t, "play", b.Name(), role.name, "1024")
				p.Expect("there")
				// Another one waits behind it.
				c := make(chan error, 1)
				go func() { c <- take() }()
				untilAsleep(t, 1)
				// What is given reaches the first one, who cannot do anything about it.
				stop(t, p)
				check(t, give())
				p.Kill()
				if err := soon(t, c); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	prune(t)
}

// stop returns when no thread of p runs.
func stop(t *testing.T, p *shmtest.Process) {
	t.Helper()
	if err := p.Cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for {
		running := 0
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.PID()))
		if err != nil || len(tasks) == 0 {
			t.Fatal("no threads", err)
		}
		for _, file := range tasks {
			stat, _ := os.ReadFile(file)
			if _, rest, _ := strings.Cut(string(stat), ") "); !strings.HasPrefix(rest, "T") {
				running++
			}
		}
		if running == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// opposite returns what gives to those who wait, and a wait of this process.
func opposite(role string, b *shm.Block, off int) (give, take func() error) {
	other := get(shm.Open(b.Name(), nil))
	shut := func(f func() error) func() error {
		return func() error { return errors.Join(f(), other.Close()) }
	}
	switch kind, _, _ := strings.Cut(role, " "); kind {
	case "Mutex":
		m, n := get(lock.NewMutex(b, off)), get(lock.NewMutex(other, off))
		get(0, m.Lock())
		return m.Unlock, shut(func() error { return errors.Join(n.Lock(), n.Unlock()) })
	case "RWMutex":
		m, n := get(lock.NewRWMutex(b, off)), get(lock.NewRWMutex(other, off))
		get(0, m.Lock())
		return m.Unlock, shut(func() error { return errors.Join(n.Lock(), n.Unlock()) })
	case "Cond":
		m, c := get(lock.NewMutex(b, off+64)), get(lock.NewCond(b, off))
		ready := false
		return func() error {
				err := m.Lock()
				ready = true
				return errors.Join(err, c.Signal(), m.Unlock())
			}, shut(func() error {
				err := m.Lock()
				for !ready && err == nil {
					err = c.Wait(m)
				}
				return errors.Join(err, m.Unlock())
			})
	case "Event":
		e, f := get(lock.NewAutoEvent(b, off)), get(lock.NewAutoEvent(other, off))
		return e.Set, shut(f.Wait)
	case "Semaphore":
		s, u := get(lock.NewSemaphore(b, off, 0)), get(lock.NewSemaphore(other, off, 0))
		return s.Post, shut(u.Wait)
	}
	panic(role)
}

// A barrier is broken for all by the death of one who takes part, until it is
// reset.
func TestDeathAtBarrier(t *testing.T) {
	b := create(t, 4096)
	three := get(lock.NewBarrier(b, 0, 3))
	two := get(lock.NewBarrier(b, 1024, 2))
	for range less(10) {
		// One who waits.
		p := shmtest.Start(t, "play", b.Name(), "Barrier waited for", "0")
		p.Expect("there")
		c := make(chan error, 3)
		go func() { _, err := three.Wait(); c <- err }()
		untilAsleep(t, 1)
		p.Kill()
		if err := soon(t, c); !errors.Is(err, lock.ErrBroken) {
			t.Fatalf("%v, want ErrBroken", err)
		}
		if _, err := three.Wait(); !errors.Is(err, lock.ErrBroken) {
			t.Fatalf("who comes later: %v, want ErrBroken", err)
		}
		check(t, three.Reset())
		for range 3 {
			go func() { _, err := three.Wait(); c <- err }()
		}
		for range 3 {
			check(t, soon(t, c))
		}

		// One who has passed, and would come again.
		p = shmtest.Start(t, "play", b.Name(), "Barrier passed", "1024")
		if _, err := two.Wait(); err != nil {
			t.Fatal(err)
		}
		p.Expect("held")
		go func() { _, err := two.Wait(); c <- err }()
		untilAsleep(t, 1)
		p.Kill()
		if err := soon(t, c); !errors.Is(err, lock.ErrBroken) {
			t.Fatalf("%v, want ErrBroken", err)
		}
		check(t, two.Reset())
	}
	prune(t)
}

// What was not mended is lost for everybody, those who wait included.
func TestNotRecoverable(t *testing.T) {
	b := create(t, 4096)
	other := open(t, b.Name())
	m, n := get(lock.NewMutex(b, 0)), get(lock.NewMutex(other, 0))
	rw, rx := get(lock.NewRWMutex(b, 1024)), get(lock.NewRWMutex(other, 1024))
	p := shmtest.Start(t, "play", b.Name(), "Mutex held", "0")
	q := shmtest.Start(t, "play", b.Name(), "RWMutex held for writing", "1024")
	p.Expect("held")
	q.Expect("held")
	p.Kill()
	q.Kill()
	if ok, err := m.TryLock(); !ok || !errors.Is(err, lock.ErrOwnerDied) {
		t.Fatal(ok, err)
	}
	if ok, err := rx.TryRLock(); ok || !errors.Is(err, lock.ErrOwnerDied) {
		t.Fatal("for reading:", ok, err)
	}
	if ok, err := rw.TryLock(); !ok || !errors.Is(err, lock.ErrOwnerDied) {
		t.Fatal(ok, err)
	}
	c := make(chan error, 4)
	there := shmtest.Start(t, "play", b.Name(), "Mutex waited for", "0")
	there.Expect("there")
	go func() { c <- n.Lock() }()
	go func() { c <- rx.Lock() }()
	go func() { c <- rx.RLock() }()
	untilAsleep(t, 3)
	check(t, m.Unlock())
	check(t, rw.Unlock())
	for range 3 {
		if err := soon(t, c); !errors.Is(err, lock.ErrNotRecoverable) {
			t.Errorf("%v, want ErrNotRecoverable", err)
		}
	}
	if st, said := there.WaitAll(); st != 1 || !strings.Contains(said, "not recoverable") {
		t.Error(st, said)
	}
	_, try := m.TryLock()
	_, tryRead := rw.TryRLock()
	for _, err := range []error{m.Lock(), try, m.LockContext(context.Background()), rw.Lock(), rw.RLock(), tryRead} {
		if !errors.Is(err, lock.ErrNotRecoverable) {
			t.Errorf("%v, want ErrNotRecoverable", err)
		}
	}
	for _, err := range []error{m.Unlock(), m.MarkConsistent(), rw.Unlock(), rw.MarkConsistent()} {
		if !errors.Is(err, lock.ErrNotLocked) {
			t.Errorf("%v, want ErrNotLocked", err)
		}
	}
	prune(t)
}

// A waiting writer gives up, or tries, after a death: what the dead one left is
// not forgotten by that.
func TestDeathRemembered(t *testing.T) {
	b := create(t, 4096)
	m := get(lock.NewRWMutex(b, 0))
	p := shmtest.Start(t, "play", b.Name(), "RWMutex held for writing", "0")
	p.Expect("held")
	p.Kill()
	for range 3 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
		if err := m.RLockContext(ctx); !errors.Is(err, lock.ErrOwnerDied) {
			t.Error(err)
		}
		cancel()
	}
	if err := m.Lock(); !errors.Is(err, lock.ErrOwnerDied) {
		t.Fatal(err)
	}
	check(t, m.MarkConsistent())
	check(t, m.MarkConsistent())
	check(t, m.Unlock())
	check(t, m.RLock())
	check(t, m.RUnlock())
	prune(t)
}

// Nobody has waited for the dead process: it has a PID still, and its parent
// sleeps.
func TestZombie(t *testing.T) {
	native(t)
	b := create(t, 4096)
	m := get(lock.NewMutex(b, 0))
	p := shmtest.Start(t, "zombie", b.Name())
	p.Expect("held")
	c := make(chan error, 1)
	go func() { c <- m.Lock() }()
	untilAsleep(t, 1)
	p.Send("kill")
	if err := soon(t, c); !errors.Is(err, lock.ErrOwnerDied) {
		t.Error(err)
	}
	p.Expect("zombie")
	check(t, m.MarkConsistent())
	check(t, m.Unlock())
	p.Send("reap")
	if st := p.Wait(); st != 0 {
		t.Error(st, p.Stderr())
	}
	prune(t)
}

func native(t *testing.T) {
	t.Helper()
	if os.Getenv("SHM_QEMU") != "" {
		shmtest.Skip(t, "native", "the emulator is another process than its program")
	}
}

// Two processes with the same PID, each the first of its namespace: the death of
// the one that does not hold the lock is not the other's.
func TestNamespaces(t *testing.T) {
	native(t)
	apart := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	try := exec.Command("true")
	try.SysProcAttr = apart
	if err := try.Run(); err != nil {
		shmtest.Skip(t, "root", "no PID namespace can be made: "+err.Error())
	}
	start := func(helper string, args ...string) *shmtest.Process {
		cmd := shmtest.Command(t, helper, args...)
		cmd.SysProcAttr = apart
		return shmtest.StartCommand(t, cmd)
	}
	b := create(t, 4096)
	m := get(lock.NewMutex(b, 0))
	for range less(5) {
		holder := start("play", b.Name(), "Mutex held", "0")
		holder.Expect("held")
		waiter := start("play", b.Name(), "Mutex waited for", "0")
		waiter.Expect("there")
		c := make(chan error, 1)
		go func() { c <- m.Lock() }()
		untilAsleep(t, 1)
		waiter.Kill()
		bystander := start("play", b.Name(), "Mutex waited for", "0")
		bystander.Expect("there")
		select {
		case err := <-c:
			t.Fatalf("got a live process's lock: %v", err)
		default:
		}
		bystander.Kill()
		if ok, err := m.TryLock(); ok || err != nil {
			t.Fatalf("got a live process's lock: %v %v", ok, err)
		}
		holder.Kill()
		if err := soon(t, c); !errors.Is(err, lock.ErrOwnerDied) {
			t.Fatal(err)
		}
		check(t, m.MarkConsistent())
		check(t, m.Unlock())
	}
	prune(t)
}

// A program that is replaced by another has gone, though its process lives.
func TestExec(t *testing.T) {
	native(t)
	b := create(t, 4096)
	m := get(lock.NewMutex(b, 0))
	p := shmtest.Start(t, "play", b.Name(), "Mutex held", "0")
	p.Expect("held")
	c := make(chan error, 1)
	go func() { c <- m.Lock() }()
	untilAsleep(t, 1)
	p.Send("exec")
	if err := soon(t, c); !errors.Is(err, lock.ErrOwnerDied) {
		t.Error(err)
	}
	p.Send("is it you?")
	p.Expect("is it you?")
	check(t, m.MarkConsistent())
	check(t, m.Unlock())
	p.CloseInput()
	if st := p.Wait(); st != 0 {
		t.Error(st, p.Stderr())
	}
	prune(t)
}

// A child made behind Go's back inherits every descriptor, the lease's as well, and
// with it the file lock; not the life.
func TestForkedChild(t *testing.T) {
	native(t)
	b := create(t, 4096)
	m := get(lock.NewMutex(b, 0))
	p := shmtest.Start(t, "play", b.Name(), "Mutex held", "0")
	p.Expect("held")
	p.Send("fork")
	p.Expect("forked")
	c := make(chan error, 1)
	go func() { c <- m.Lock() }()
	untilAsleep(t, 1)
	p.Kill()
	if err := soon(t, c); !errors.Is(err, lock.ErrOwnerDied) {
		t.Error(err)
	}
	// Nor does it hinder anybody else's death from being noticed.
	check(t, m.MarkConsistent())
	check(t, m.Unlock())
	q := shmtest.Start(t, "play", b.Name(), "Mutex held", "0")
	q.Expect("held")
	go func() { c <- m.Lock() }()
	untilAsleep(t, 1)
	q.Kill()
	if err := soon(t, c); !errors.Is(err, lock.ErrOwnerDied) {
		t.Error(err)
	}
	check(t, m.Unlock())
	p.CloseInput()
	p.WaitAll()
	prune(t)
}
