//go:build !386 && !arm

// Where there are addresses for more memory than there is.

package worker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/worker"
)

// This file is about what there is too little of: descriptors, processes, memory.

// terabyte returns more memory than there is: all zeros, of which no page is occupied.
var terabyte = worker.Func("terabyte", func(context.Context, int) ([]byte, error) {
	b, err := shm.Anonymous(1<<40, &shm.CreateOptions{Sparse: true})
	if err != nil {
		return nil, err
	}
	// Not closed: what it returns is looked at later.
	forever = append(forever, b)
	return b.Bytes(), nil
})

var forever []*shm.Block

// length of what it is given.
var length = worker.Func("length", func(_ context.Context, b []byte) (int, error) { return len(b), nil })

// swarm makes so many named blocks.
var swarm = worker.Func("swarm", func(_ context.Context, n int) (all []*shm.Block, err error) {
	for range n {
		b, err := shm.Create(testName()+strings.Repeat("x", 100), 1, nil)
		if err != nil {
			return all, err
		}
		all = append(all, b)
	}
	return all, nil
})

func openFiles(t testing.TB) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// As many workers as one asks for, all of them real; and nothing is left of them.
func TestHundreds(t *testing.T) {
	n := number("SHM_WORKERS", 300)
	if testing.Short() || raceEnabled {
		n = 60 // each takes a hundred megabytes then
	}
	newPool(t, 1, nil).Kill() // the run-time opens some for itself
	before := openFiles(t)
	p := newPool(t, n, nil)
	if err := worker.Ready(t.Context(), p, add); err != nil {
		t.Fatal(err)
	}
	pids := p.PIDs()
	if s := p.Stats(); s.Workers != n || len(pids) != n {
		t.Fatalf("%+v, %d processes", s, len(pids))
	}
	for sum, err := range worker.Map(t.Context(), p, add, make([]pair, 10*n)) {
		if sum != 0 || err != nil {
			t.Fatal(sum, err)
		}
	}
	t.Logf("%d workers, %d threads here", n, threads(t))
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if alive(pid) {
			t.Errorf("worker %d is there still", pid)
		}
	}
	if n := openAtLast(before); n > before {
		t.Errorf("%d descriptors are open, %d were before", n, before)
	}
}

// openAtLast waits until no more than so many descriptors are open, as who waited for a worker
// closes its own a moment later.
func openAtLast(most int) (n int) {
	for end := time.Now().Add(shmtest.Patience); ; time.Sleep(time.Millisecond) {
		all, err := os.ReadDir("/proc/self/fd")
		if n = len(all); err == nil && n <= most || time.Now().After(end) {
			return n
		}
	}
}

func threads(t testing.TB) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// check is what a helper process finds, which is told to the test.
type check struct{ errs []error }

func (c *check) that(ok bool, what string, err error) bool {
	if !ok {
		if err == nil {
			err = errors.New("not so")
		}
		c.errs = append(c.errs, fmt.Errorf("%s: %w", what, err))
	}
	return ok
}

func (c *check) report() int {
	if err := errors.Join(c.errs...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// named wants a clear error of a function.
func (c *check) named(err, target error, function string, texts ...string) {
	e, ok := errors.AsType[*worker.Error](err)
	c.that(ok && (target == nil || errors.Is(err, target)) && e.Function == function, function, fmt.Errorf("got %w, want %v", err, target))
	for _, text := range texts {
		c.that(err != nil && strings.Contains(err.Error(), text), function, fmt.Errorf("%q is not in %w", text, err))
	}
}

func init() {
	shmtest.Register("worker-few-descriptors", func([]string) int { return fewDescriptors() })
	shmtest.Register("worker-few-processes", func(args []string) int { return fewProcesses(args[0]) })
	shmtest.Register("worker-small-shm", func(args []string) int { return smallShm(args[0]) })
}

// fewDescriptors has a process of few descriptors start many workers.
func fewDescriptors() int {
	var c check
	const few = 80
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: few, Max: few}); err != nil {
		c.that(false, "setrlimit", err)
		return c.report()
	}
	for range 3 { // what is left by one of them the next would lack
		p, err := worker.NewPool(context.Background(), 200, nil)
		if err != nil {
			c.that(false, "pool", err)
			break
		}
		c.named(worker.Ready(context.Background(), p, add), syscall.EMFILE, "add", "ulimit -n", "fewer workers")
		n := 0
		for sum, err := range worker.Map(context.Background(), p, add, make([]pair, 1000)) {
			c.that(sum == 0 && err == nil, "add", err)
			n++
		}
		s := p.Stats()
		c.that(n == 1000 && s.Workers > 5 && s.Workers < few && s.Died == 0, fmt.Sprintf("%d, %+v", n, s), nil)
		p.Kill()
		c.that(p.Stats().Workers == 0, "kill", nil)
		_, err = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		c.that(errors.Is(err, syscall.ECHILD), "children are left", err)
		n = openAtLast(15)
		c.that(n <= 15, fmt.Sprintf("%d descriptors are left", n), nil)
	}
	return c.report()
}

func TestFewDescriptors(t *testing.T) {
	p := shmtest.Start(t, "worker-few-descriptors")
	if p.Wait() != 0 {
		t.Fatal(p.Stderr())
	}
}

// A user who may have no more processes is told so, and goes on when there may be more.
func TestFewProcesses(t *testing.T) {
	if os.Geteuid() != 0 {
		shmtest.Skip(t, "root", "becoming a user of few processes needs root")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Where it lies nobody else may look.
	program, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, who := range []string{"parent", "worker"} {
		t.Run(who, func(t *testing.T) {
			cmd := shmtest.Command(t, "worker-few-processes", who)
			cmd.Path, cmd.Dir, cmd.ExtraFiles = "/proc/self/fd/3", "/", []*os.File{program}
			// Nobody else's number, as processes are counted for each user.
			user := uint32(1<<20 + os.Getpid())
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
			p := shmtest.StartCommand(t, cmd)
			if p.Wait() != 0 {
				t.Fatal(p.Stderr())
			}
		})
	}
}

func fewProcesses(who string) int {
	var c check
	ctx := context.Background()
	o := &worker.PoolOptions{}
	if who == "worker" {
		// It has one thread at least, and Go needs more.
		o.Limits = []worker.Limit{{Resource: worker.UserProcesses, Max: 1}}
	}
	p, err := worker.NewPool(ctx, 3, o)
	if err != nil {
		c.that(false, "pool", err)
		return c.report()
	}
	defer p.Kill()
	if who == "worker" {
		_, err := worker.Call(ctx, p, add, pair{1, 2})
		c.named(err, nil, "add", "ulimit -u", "UserProcesses")
		return c.report()
	}
	// Threads count, too. The run-time, which ends the process if it gets none, has some to
	// spare then.
	spareThreads(40)
	var old syscall.Rlimit
	c.that(unix.Prlimit(0, unix.RLIMIT_NPROC, nil, (*unix.Rlimit)(&old)) == nil, "getrlimit", nil)
	c.that(unix.Prlimit(0, unix.RLIMIT_NPROC, &unix.Rlimit{Cur: 1, Max: old.Max}, nil) == nil, "setrlimit", nil)
	_, err = worker.Call(ctx, p, add, pair{1, 2})
	c.named(err, syscall.EAGAIN, "add", "ulimit -u", "fewer workers")
	c.that(unix.Prlimit(0, unix.RLIMIT_NPROC, &unix.Rlimit{Cur: old.Max, Max: old.Max}, nil) == nil, "setrlimit", nil)
	sum, err := worker.Call(ctx, p, add, pair{1, 2})
	c.that(sum == 3 && err == nil, "add", err)
	return c.report()
}

// spareThreads leaves the run-time with so many threads that do nothing.
func spareThreads(n int) {
	var fd [2]int
	if syscall.Pipe2(fd[:], syscall.O_CLOEXEC) != nil {
		return
	}
	var wait sync.WaitGroup
	for range n {
		wait.Go(func() { _, _ = syscall.Read(fd[0], make([]byte, 1)) })
	}
	for {
		all, err := os.ReadDir("/proc/self/task")
		if err != nil || len(all) > n {
			break
		}
		runtime.Gosched()
	}
	_ = syscall.Close(fd[1])
	wait.Wait()
	_ = syscall.Close(fd[0])
}

// Where /dev/shm is full, functions that need some of it fail, and nothing else does.
func TestSmallShm(t *testing.T) {
	if os.Geteuid() != 0 {
		shmtest.Skip(t, "root", "mounting a file system needs root")
	}
	py := ""
	if all := shmtest.PythonsWith(t, "numpy"); len(all) > 0 {
		py = all[0].Path
	}
	cmd := shmtest.Command(t, "worker-small-shm", py)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	p := shmtest.StartCommand(t, cmd)
	if p.Wait() != 0 {
		t.Fatal(p.Stderr())
	}
}

func smallShm(py string) int {
	var c check
	if err := unix.Mount("shmtest", "/dev/shm", "tmpfs", 0, "size=1m"); err != nil {
		c.that(false, "mount", err)
		return c.report()
	}
	ctx := context.Background()
	p, err := worker.NewPool(ctx, 2, nil)
	if err != nil {
		c.that(false, "pool", err)
		return c.report()
	}
	defer p.Kill()
	goesOn := func(when string) {
		out, err := worker.Call(ctx, p, goSuite.Echo, "x")
		c.that(out == "x" && err == nil, when, err)
		zeros, err := worker.Call(ctx, p, goSuite.Zeros, 4<<20)
		c.that(len(zeros) == 4<<20 && err == nil, when+", with values that are larger", err)
	}
	_, err = worker.Call(ctx, p, goSuite.Make, 4<<20)
	c.named(err, shm.ErrNoSpace, "make", "free in /dev/shm")
	goesOn("after one that was too large")
	var blocks []*shm.Block
	for {
		b, err := worker.Call(ctx, p, goSuite.Make, 16<<10)
		if err != nil {
			c.named(err, shm.ErrNoSpace, "make", "/dev/shm")
			break
		}
		blocks = append(blocks, b)
	}
	c.that(len(blocks) > 40, fmt.Sprintf("%d blocks fit", len(blocks)), nil)
	// The last page, too.
	for {
		b, err := shm.Create("", 1, nil)
		if err != nil {
			c.that(errors.Is(err, shm.ErrNoSpace), "full", err)
			break
		}
		blocks = append(blocks, b)
	}
	goesOn("when it is full")
	c.that(p.Stats().Died == 0, "somebody died", nil)
	// New workers, which need leases of their own for what they make.
	_, err = worker.Call(ctx, p, goSuite.Exit, 3)
	d, ok := errors.AsType[*worker.Death](err)
	c.that(ok && d.Code == 3, "exit", err)
	for range 20 {
		_, err = worker.Call(ctx, p, goSuite.Make, 1)
		c.named(err, shm.ErrNoSpace, "make")
	}
	goesOn("with a new worker")
	if py != "" {
		large := worker.Python[int, *array.Array[uint8]](functions, "array_large", &worker.PythonOptions{Interpreter: py})
		_, err := worker.Call(ctx, p, large, 100<<10)
		c.named(err, shm.ErrNoSpace, large.Name(), "/dev/shm")
		one, err := worker.Call(ctx, p, python[int64, int64](py, "suite_pid"), 0)
		c.that(one != 0 && err == nil, "Python goes on", err)
	}
	for _, b := range blocks {
		if err := errors.Join(b.Unlink(), b.Close()); err != nil {
			c.that(false, "unlink", err)
		}
	}
	b, err := worker.Call(ctx, p, goSuite.Make, 16<<10)
	if c.that(err == nil, "when there is room again", err); err == nil {
		c.that(b.Unlink() == nil && b.Close() == nil, "unlink", nil)
	}
	p.Kill()
	left, err := filepath.Glob("/dev/shm/shmtest*")
	c.that(len(left) == 0, fmt.Sprintf("left: %v", left), err)
	return c.report()
}

// What is larger than memory, or than what may be sent, costs nobody his life but the
// function that asks Go for more memory than there is.
func TestTooLarge(t *testing.T) {
	ctx := t.Context()
	p := newPool(t, 1, nil)
	goesOn := func(t *testing.T) {
		t.Helper()
		if out, err := worker.Call(ctx, p, goSuite.Echo, "on"); out != "on" || err != nil {
			t.Error(out, err)
		}
	}
	t.Run("argument", func(t *testing.T) {
		b, err := shm.Anonymous(1<<40, &shm.CreateOptions{Sparse: true})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		goesOn(t)
		before := openFiles(t)
		for range 20 {
			_, err = worker.Call(ctx, p, length, b.Bytes())
			want(t, err, worker.ErrEncode, "length", "a value of 10995116")
			want(t, err, shm.ErrNoSpace, "length", "free")
			goesOn(t)
		}
		if n := openAtLast(before); n > before {
			t.Errorf("%d descriptors, %d before", n, before)
		}
		// As a block it is no matter.
		if out, err := worker.Call(ctx, p, blockSize, b); out != 1<<40 || err != nil {
			t.Error(out, err)
		}
	})
	t.Run("result", func(t *testing.T) {
		for range 3 {
			_, err := worker.Call(ctx, p, terabyte, 0)
			wantFailure(t, err, "terabyte", "a value of 10995116", "free")
			want(t, err, worker.ErrEncode, "terabyte")
			want(t, err, shm.ErrNoSpace, "terabyte")
			goesOn(t)
		}
		if s := p.Stats(); s.Died != 0 || s.Started != 1 {
			t.Errorf("%+v", s)
		}
	})
	t.Run("blocks", func(t *testing.T) {
		_, err := worker.Call(ctx, p, swarm, 500)
		wantFailure(t, err, "swarm", "500 blocks")
		want(t, err, worker.ErrEncode, "swarm")
		goesOn(t)
		// Nobody has them, and nobody ever will.
		left, err := filepath.Glob("/dev/shm/" + os.Getenv("SHMTEST_PREFIX") + "w*xxx")
		if len(left) != 0 || err != nil {
			t.Errorf("%d blocks are left, %v", len(left), err)
		}
	})
	t.Run("memory", func(t *testing.T) {
		if raceEnabled {
			return // which needs terabytes of addresses
		}
		p := newPool(t, 1, &worker.PoolOptions{Options: worker.Options{Limits: []worker.Limit{{Resource: worker.AddressSpace, Max: 2 << 30}}}})
		_, err := worker.Call(ctx, p, goSuite.Zeros, 8<<30)
		if d := wantDeath(t, err, "zeros", 2, 0); !strings.Contains(d.Hint, "no more memory") || !strings.Contains(d.Error(), "AddressSpace") {
			t.Errorf("%.600s", d.Error())
		}
		if out, err := worker.Call(ctx, p, goSuite.Zeros, 4<<20); len(out) != 4<<20 || err != nil {
			t.Error(len(out), err)
		}
		// A panic, as Go counts.
		_, err = worker.Call(ctx, p, goSuite.Zeros, 1<<60)
		wantFailure(t, err, "zeros", "out of range")
		// What fits alone does not fit twice: the function has it, but it cannot be sent.
		_, err = worker.Call(ctx, p, most, 2<<30)
		want(t, err, shm.ErrNoSpace, "most", "AddressSpace")
		if out, err := worker.Call(ctx, p, goSuite.Echo, "on"); out != "on" || err != nil {
			t.Error(out, err)
		}
	})
	t.Run("files", func(t *testing.T) {
		p := newPool(t, 1, &worker.PoolOptions{Options: worker.Options{Limits: []worker.Limit{{Resource: worker.FileSize, Max: 4 << 20}}}})
		_, err := worker.Call(ctx, p, goSuite.Zeros, 8<<20)
		want(t, err, shm.ErrNoSpace, "zeros", "8.0 MiB asked, no more to be had")
		if out, err := worker.Call(ctx, p, goSuite.Echo, "on"); out != "on" || err != nil {
			t.Error(out, err)
		}
	})
	t.Run("Python", func(t *testing.T) {
		py := onePython(t)
		p := newPool(t, 1, &worker.PoolOptions{Options: worker.Options{Limits: []worker.Limit{{Resource: worker.AddressSpace, Max: 2 << 30}}}})
		zeros, echo := python[int64, []byte](py, "suite_zeros"), python[string, string](py, "suite_echo")
		for _, n := range []int64{8 << 30, 1<<30 + 1<<29} { // too large, and too large to be sent
			_, err := worker.Call(ctx, p, zeros, n)
			if f := wantFailure(t, err, zeros.Name()); !errors.Is(err, shm.ErrNoSpace) && !errors.Is(err, worker.ErrEncode) || f.Type == "" {
				t.Errorf("%d bytes: %v", n, err)
			}
			if out, err := worker.Call(ctx, p, echo, "on"); out != "on" || err != nil {
				t.Error(out, err)
			}
		}
		_, err := worker.Call(ctx, p, python[[]byte, string](py, "kind"), make([]byte, 1<<30))
		want(t, err, worker.ErrEncode, python[[]byte, string](py, "kind").Name(), "into an array or a block")
		if s := p.Stats(); s.Died != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// most returns most of what is left of so many bytes of addresses.
var most = worker.Func("most", func(_ context.Context, limit int) ([]byte, error) {
	text, err := os.ReadFile("/proc/self/statm")
	var pages int
	if _, serr := fmt.Sscan(string(text), &pages); err == nil {
		err = serr
	}
	if err != nil {
		return nil, err
	}
	return make([]byte, (limit-pages*os.Getpagesize())/8*5), nil
})

var blockSize = worker.Func("size", func(_ context.Context, b *shm.Block) (int, error) { return b.Size(), nil })
