package worker_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/worker"
)

// tick is a job of the chaos: it counts its runs in shared memory, so that every one is seen,
// also of those whose worker died.
type tickJob struct {
	Runs  shm.Ref
	Index int64
	Kind  int64 // what it returns besides
	Bytes []byte
}

type tickDone struct {
	Index int64
	Bytes []byte
	Block *shm.Block
}

const (
	tickPlain = iota
	tickBytes // through a block of its own, both ways
	tickBlock // a block that it creates
	tickKinds
)

var (
	runsMu sync.Mutex
	runsOf = map[shm.Ref][]atomic.Int64{}
)

var tick = worker.Func("tick", func(_ context.Context, j tickJob) (d tickDone, err error) {
	runsMu.Lock()
	runs := runsOf[j.Runs]
	if runs == nil {
		var b *shm.Block
		if b, err = j.Runs.Open(nil); err == nil {
			runs, err = shm.Slice[atomic.Int64](b, 0, b.Size()/8)
			runsOf[j.Runs] = runs
		}
	}
	runsMu.Unlock()
	if err != nil {
		return d, err
	}
	runs[j.Index].Add(1)
	d.Index, d.Bytes = j.Index, j.Bytes
	if j.Kind == tickBlock {
		if d.Block, err = shm.Create(testName(), 64, nil); err == nil {
			d.Block.Bytes()[0] = byte(j.Index)
		}
	}
	return d, err
})

// chaos runs jobs while workers die, and returns how many failed by that. It calls each, when
// that many have ended.
func chaos(t *testing.T, p *worker.Pool, jobs, retries int, each func(n int)) (failed int) {
	t.Helper()
	b, err := shm.Create(shmtest.Name(t), 8*jobs, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	defer b.Unlink()
	runs, err := shm.Slice[atomic.Int64](b, 0, jobs)
	if err != nil {
		t.Fatal(err)
	}
	long := make([]byte, 70<<10)
	inputs := func(yield func(tickJob) bool) {
		for i := range jobs {
			j := tickJob{Runs: b.Ref(), Index: int64(i)}
			switch i % 16 {
			case 3:
				j.Kind, j.Bytes = tickBytes, long
			case 7:
				j.Kind = tickBlock
			}
			if !yield(j) {
				return
			}
		}
	}
	seen, ended := make([]bool, jobs), 0
	for r := range worker.MapUnordered(t.Context(), p, tick, inputs) {
		if r.Index < 0 || seen[r.Index] {
			t.Fatalf("job %d was reported before; now %v", r.Index, r.Err)
		}
		seen[r.Index] = true
		ended++
		each(ended)
		n := runs[r.Index].Load()
		if n > int64(1+retries) {
			t.Errorf("job %d ran %d times", r.Index, n)
		}
		if r.Err != nil {
			if _, ok := errors.AsType[*worker.Death](r.Err); !ok {
				t.Fatalf("job %d: %v", r.Index, r.Err)
			}
			failed++
			continue
		}
		kind := [...]int{3: tickBytes, 7: tickBlock, 15: 0}[r.Index%16]
		if v := r.Value; v.Index != int64(r.Index) || n == 0 || (kind == tickBytes) != (len(v.Bytes) == len(long)) || (kind == tickBlock) != (v.Block != nil) {
			t.Fatalf("job %d: ran %d times, %d, %d bytes, %v", r.Index, n, v.Index, len(v.Bytes), v.Block)
		}
		if v := r.Value.Block; v != nil {
			if v.Bytes()[0] != byte(r.Index) {
				t.Errorf("job %d: another one's block", r.Index)
			}
			if err := errors.Join(v.Unlink(), v.Close()); err != nil {
				t.Error(err)
			}
		}
	}
	for i, ok := range seen {
		if !ok {
			t.Fatalf("job %d was not reported", i)
		}
	}
	if st := p.Stats(); st.Pending != 0 || int(st.Done+st.Failed) < jobs {
		t.Errorf("%+v", st)
	}
	return failed
}

// number is a variable of the environment, or its default.
func number(name string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return otherwise
}

// Workers are killed at random while many jobs run, each of which is reported once.
func TestChaos(t *testing.T) {
	seed := uint64(number("SHM_SEED", int(time.Now().UnixNano())))
	for _, retries := range []int{0, 50} {
		t.Run(fmt.Sprintf("retries %d", retries), func(t *testing.T) {
			t.Logf("SHM_SEED=%d", seed)
			rnd := rand.New(rand.NewPCG(seed, uint64(retries)))
			p := newPool(t, 3, &worker.PoolOptions{Retries: retries})
			// So many jobs from one to the next, and not so much time, of which a busy machine
			// needs any amount to start a worker.
			kills, next := 0, 0
			failed := chaos(t, p, number("SHM_JOBS", 6000), retries, func(n int) {
				if n < next {
					return
				}
				next = n + 1 + rnd.IntN(60)
				if pids := p.PIDs(); len(pids) > 0 && syscall.Kill(pids[rnd.IntN(len(pids))], syscall.SIGKILL) == nil {
					kills++
				}
			})
			t.Logf("%d kills, %d jobs failed, %+v", kills, failed, p.Stats())
			if kills == 0 || p.Stats().Died == 0 {
				t.Error("nobody died")
			}
			if retries > 0 && failed > 0 {
				t.Errorf("%d jobs failed in spite of retries", failed)
			}
		})
	}
}

func init() {
	shmtest.Register("worker-parent", func(args []string) int {
		p, err := worker.NewPool(context.Background(), 3, nil)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		// One loops, one sleeps, one is made to die together with its parent.
		for _, f := range []worker.Function[string, string]{goSuite.Loop, patient, patient} {
			if _, err := worker.Submit(context.Background(), p, f, args[0]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
		if err := worker.Ready(context.Background(), p, patient); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		shmtest.Say("%v", p.PIDs())
		shmtest.Hear()
		return 0
	})
	shmtest.Register("worker-once", func(args []string) int {
		if len(args) > 0 {
			_ = os.Remove(args[0]) // ourselves
		}
		p, err := worker.Start(context.Background(), goSuite.Echo, "hello", nil)
		if err == nil {
			var out string
			if out, err = p.Wait(); err == nil && out == "hello" {
				shmtest.Say("%s", out)
				return 0
			}
		}
		fmt.Fprintln(os.Stderr, err)
		return 1
	})
}

// Who is killed is not blamed for the socket that this closes.
func TestKilledHint(t *testing.T) {
	p := newPool(t, 1, nil)
	for range 20 {
		_, err := worker.Call(t.Context(), p, goSuite.Kill, int64(syscall.SIGKILL))
		if d, ok := errors.AsType[*worker.Death](err); !ok || !strings.HasPrefix(d.Hint, "which somebody sent") {
			t.Fatal(err)
		}
	}
}

// Workers go when their parent does, whatever they are doing.
func TestParentKilled(t *testing.T) {
	b, err := shm.Create(shmtest.Name(t), 8, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	defer b.Unlink()
	parent := shmtest.Start(t, "worker-parent", b.Name())
	var pids []int
	for _, f := range strings.Fields(strings.Trim(parent.Line(), "[]")) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	if len(pids) != 3 {
		t.Fatalf("workers %v", pids)
	}
	parent.Kill()
	for _, pid := range pids {
		for end := time.Now().Add(shmtest.Patience); alive(pid); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("worker %d has outlived its parent", pid)
			}
		}
	}
}

// Every kind of program can be a parent.
func TestParents(t *testing.T) {
	t.Run("deleted", func(t *testing.T) {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(exe)
		if err != nil {
			t.Fatal(err)
		}
		moved := filepath.Join(t.TempDir(), "program")
		if err := os.WriteFile(moved, b, 0o700); err != nil {
			t.Fatal(err)
		}
		cmd := shmtest.Command(t, "worker-once", moved)
		cmd.Path, cmd.Args[0] = moved, moved
		p := shmtest.StartCommand(t, cmd)
		p.Expect("hello")
		if _, err := os.Stat(moved); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		cmd := shmtest.Command(t, "worker-once")
		sh := exec.Command("/bin/sh", append([]string{"-c", `exec "$0" "$@" <&- >&- 2>&-`}, cmd.Args...)...)
		sh.Env = cmd.Env
		if err := sh.Run(); err != nil {
			t.Error(err)
		}
	})
	t.Run("session", func(t *testing.T) {
		cmd := shmtest.Command(t, "worker-once")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // no terminal
		shmtest.StartCommand(t, cmd).Expect("hello")
	})
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	const text = `package main

import (
	"context"
	"fmt"
	"os"

	"github.com/sharedmem/shm/worker"
)

var greet = worker.Func("greet", func(_ context.Context, s string) (string, error) { return "hello " + s, nil })

func main() {
	if len(os.Args) < 2 || os.Args[1] != "lazy" {
		worker.Main()
	}
	p, err := worker.Start(context.Background(), greet, "you", nil)
	if err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
	fmt.Println(p.Wait())
}
`
	if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	goTool := func(t *testing.T, args ...string) string {
		t.Helper()
		if _, err := exec.LookPath("go"); err != nil {
			shmtest.Skip(t, "go", "there is no go command")
		}
		cmd := exec.Command("go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	t.Run("go run", func(t *testing.T) {
		if out := goTool(t, "run", source); out != "hello you <nil>\n" {
			t.Errorf("%q", out)
		}
	})
	t.Run("static", func(t *testing.T) {
		bin := filepath.Join(dir, "static")
		goTool(t, "build", "-o", bin, source)
		if out, err := exec.Command(bin).CombinedOutput(); string(out) != "hello you <nil>\n" {
			t.Errorf("%q, %v", out, err)
		}
		out, err := exec.Command(bin, "lazy").CombinedOutput()
		if !strings.Contains(string(out), "worker.Main") || err == nil {
			t.Errorf("without Main: %q, %v", out, err)
		}
		// Its name alone makes no worker of it.
		cmd := exec.Command(bin)
		cmd.Args[0] = "shm-worker"
		if out, err := cmd.CombinedOutput(); string(out) != "hello you <nil>\n" {
			t.Errorf("%q, %v", out, err)
		}
	})
}
