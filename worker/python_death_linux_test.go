package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/worker"
)

// A worker is killed at each line of its helper, from the moment at which a
// function has returned a block until it has heard that the block is ours: then it is,
// or else it is gone. The last round is one in which nobody dies. SHM_KILLS=10000 kills at each
// line, else it is some of them.
func TestPythonKilledAtEveryLine(t *testing.T) {
	py := onePython(t)
	before := blocks(t)
	pool := newPool(t, 1, nil)
	f := python[int, struct {
		Made *shm.Block
		N    int
	}](py, "block_make_killed")
	echo := python[string, string](py, "echo")
	given, lost, step := 0, 0, 7
	if shmtest.EveryStep(t) {
		step = 1
	}
	for n := 1; ; n += step {
		deaths := pool.Stats().Died
		got, err := worker.Call(t.Context(), pool, f, n)
		d, died := errors.AsType[*worker.Death](err)
		switch {
		case err == nil:
			if got.N != n || string(got.Made.Bytes()[:4]) != "made" {
				t.Fatalf("%d: %+v", n, got)
			}
			if err := errors.Join(got.Made.Unlink(), got.Made.Close()); err != nil {
				t.Fatalf("%d: %v", n, err)
			}
			given++
		case died && d.Signal == syscall.SIGKILL:
			lost++
		default:
			t.Fatalf("%d: %v", n, err)
		}
		// It may die as well while it waits for the next job, or with that.
		_, err = worker.Call(t.Context(), pool, echo, "next")
		if _, died := errors.AsType[*worker.Death](err); err != nil && !died {
			t.Fatalf("%d: %v", n, err)
		}
		if got.Made != nil && err == nil && pool.Stats().Died == deaths {
			break
		}
		if n > 1000 {
			t.Fatal("there is no end to it")
		}
	}
	t.Logf("%d times the block was ours, %d times it was not to be", given, lost)
	if given < 2 || lost < 5 {
		t.Error("that is too few")
	}
	_ = pool.Close()
	noneOf(t, before)
}

// noneOf waits until no block of Python's is there but those of before.
func noneOf(t *testing.T, before []string) {
	t.Helper()
	var left []string
	begun := time.Now()
	for end := begun.Add(shmtest.Patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		left = slices.DeleteFunc(blocks(t), func(n string) bool { return slices.Contains(before, n) })
		if len(left) == 0 {
			return
		}
	}
	// Other packages' tests have blocks, too, but those have living owners, are younger, or
	// a Python has them.
	mapped := func(name string) bool {
		all, _ := filepath.Glob("/proc/[0-9]*/maps")
		return slices.ContainsFunc(all, func(path string) bool {
			text, _ := os.ReadFile(path)
			return bytes.Contains(text, []byte("/dev/shm/"+name))
		})
	}
	for _, name := range left {
		if info, err := shm.Stat(name); err == nil && (info.Owner.PID == os.Getpid() || info.Owner.PID == 0 && info.Created.Before(begun) && !mapped(name)) {
			t.Errorf("%+v is left", info)
		}
	}
}

// Workers are killed at random while jobs run, each of which is reported once.
func TestPythonChaos(t *testing.T) {
	py := onePython(t)
	seed := uint64(number("SHM_SEED", int(time.Now().UnixNano())))
	t.Logf("SHM_SEED=%d", seed)
	before := blocks(t)
	for _, retries := range []int{0, 50} {
		rnd := rand.New(rand.NewPCG(seed, uint64(retries)))
		pool := newPool(t, 2, &worker.PoolOptions{Retries: retries})
		f := python[int, struct {
			Index int
			Block *shm.Block
		}](py, "tick")
		jobs := number("SHM_JOBS", 6000) / 2
		in := make([]int, jobs)
		for i := range in {
			in[i] = i
		}
		// So many jobs from one to the next, as for Go: after too little time none would have begun
		// in between, on a busy machine, again and again, which the pool takes for a fault.
		seen, failed, kills, ended, next := make([]bool, jobs), 0, 0, 0, 0
		for r := range worker.MapUnordered(t.Context(), pool, f, in) {
			if r.Index < 0 || seen[r.Index] {
				t.Fatalf("job %d again: %v", r.Index, r.Err)
			}
			seen[r.Index] = true
			if ended++; ended > next {
				next = ended + rnd.IntN(200)
				if pids := pool.PIDs(); len(pids) > 0 && syscall.Kill(pids[rnd.IntN(len(pids))], syscall.SIGKILL) == nil {
					kills++
				}
			}
			if r.Err != nil {
				if _, ok := errors.AsType[*worker.Death](r.Err); !ok {
					t.Fatal(r.Err)
				}
				failed++
				continue
			}
			b := r.Value.Block
			if r.Value.Index != r.Index || (b != nil) != (r.Index%5 == 0) || b != nil && string(b.Bytes()[:8]) != fmt.Sprintf("%08d", r.Index) {
				t.Fatalf("job %d: %+v", r.Index, r.Value)
			}
			if b != nil {
				if err := errors.Join(b.Unlink(), b.Close()); err != nil {
					t.Error(err)
				}
			}
		}
		t.Logf("%d kills, %d of %d jobs failed, %+v", kills, failed, jobs, pool.Stats())
		if kills == 0 {
			t.Error("nobody was killed")
		}
		if i := slices.Index(seen, false); i >= 0 {
			t.Errorf("job %d was not reported", i)
		}
		if retries > 0 && failed > 0 {
			t.Errorf("%d jobs failed in spite of retries", failed)
		}
		_ = pool.Close()
	}
	noneOf(t, before)
}

func init() {
	// A parent of workers: one that waits, one that loops, one that holds Python's lock.
	shmtest.Register("python-parent", func(args []string) int {
		fail := func(err error) int {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		ctx := context.Background()
		pool, err := worker.NewPool(ctx, 3, &worker.PoolOptions{Options: worker.Options{Stderr: os.Stderr}})
		if err != nil {
			return fail(err)
		}
		left, err := worker.Call(ctx, pool, python[[]byte, string](args[0], "block_make_and_leave"), []byte("left"))
		if err != nil {
			return fail(err)
		}
		made, err := worker.Call(ctx, pool, python[[]byte, *shm.Block](args[0], "block_make"), []byte("made"))
		if err != nil {
			return fail(err)
		}
		for _, name := range []string{"hold_the_lock", "loop_for_ever"} {
			if _, err := worker.Submit(ctx, pool, python[struct{}, any](args[0], name), struct{}{}); err != nil {
				return fail(err)
			}
		}
		if err := worker.Ready(ctx, pool, python[struct{}, any](args[0], "nothing")); err != nil {
			return fail(err)
		}
		shmtest.Say("%s %s %v", left, made.Name(), pool.PIDs())
		shmtest.Hear()
		return 0
	})
}

// Workers go when their parent does, and so does what they and it have made.
func TestPythonParentKilled(t *testing.T) {
	eachPython(t, func(t *testing.T, py string) {
		parent := shmtest.Start(t, "python-parent", py)
		line := strings.Fields(strings.Map(func(r rune) rune {
			if r == '[' || r == ']' {
				return ' '
			}
			return r
		}, parent.Line()))
		if len(line) != 5 {
			t.Fatal(line)
		}
		parent.Kill()
		for _, text := range line[2:] {
			pid, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(shmtest.Patience); alive(pid); time.Sleep(time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("worker %d has outlived its parent", pid)
				}
			}
		}
		gone(t, line[0])
		if _, err := shm.Prune(); err != nil {
			t.Error(err)
		}
		gone(t, line[1])
	})
}
