package demo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/worker"
)

func TestMain(m *testing.M) {
	worker.Main()
	shmtest.Sweep = func() { shm.Prune() }
	shmtest.Main(m)
}

func init() {
	work := func(args []string) int {
		if err := Work(context.Background(), "", args, os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	shmtest.Register("worker", work)

	// Workers that differ from the real one.
	shmtest.Register("broken", func([]string) int {
		fmt.Fprintln(os.Stderr, "out of ink")
		return 3
	})
	shmtest.Register("hanging", func(args []string) int {
		shmtest.Say("%s %s", args[0], args[1])
		shmtest.Hear() // the parent never says anything
		return 0
	})
	shmtest.Register("lying", func(args []string) int {
		status := work(args)
		if len(args) == 4 {
			lie(args[1])
		}
		return status
	})

	// victim ROOT: a run whose workers hang, to be ended from outside.
	shmtest.Register("victim", func(args []string) int {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		o := options(nil, "hanging", 1, args[0])
		o.Worker = withStdout(o.Worker, os.Stdout)
		_, err := Run(ctx, o)
		if errors.Is(err, context.Canceled) {
			return interrupted
		}
		fmt.Fprintln(os.Stderr, err)
		return 1
	})
}

// interrupted is how a victim ends that has cleaned up.
const interrupted = 42

// lie makes the words of the first slot one too many.
func lie(result string) {
	b, err := shm.Open(result, nil)
	if err != nil {
		panic(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			panic(err)
		}
	}()
	words := b.Bytes()[headBytes+8*6:]
	binary.LittleEndian.PutUint64(words, binary.LittleEndian.Uint64(words)+1)
}

// options are those of a run whose Go workers are that helper process. t is nil
// in helper processes.
func options(t *testing.T, name string, workers int, root string) Options {
	if t != nil {
		noEmulator(t)
	}
	return Options{
		Roots: []string{root}, Limit: 1 << 30, Workers: workers, commands: name != "worker",
		Worker: func(ctx context.Context, args ...string) *exec.Cmd {
			c := shmtest.Command(noHelper{t}, name, args...)
			cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
			cmd.Env = c.Env
			return cmd
		},
	}
}

// withStdout lets workers write to that file.
func withStdout(worker func(context.Context, ...string) *exec.Cmd, to *os.File) func(context.Context, ...string) *exec.Cmd {
	return func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := worker(ctx, args...)
		cmd.Stdout = to
		return cmd
	}
}

// noHelper lets helper processes, which have no test, use shmtest.Command.
type noHelper struct{ testing.TB }

func (n noHelper) Helper()           {}
func (n noHelper) Fatal(args ...any) { panic(fmt.Sprint(args...)) }

// noEmulator skips a test whose program has to start itself again: the kernel
// does not know how to start one for another machine.
func noEmulator(t *testing.T) {
	t.Helper()
	if os.Getenv("SHM_QEMU") != "" {
		t.Skip("this program is run by an emulator and cannot be started again without")
	}
}

// sampleTree is a tree that several processes have something to do with.
func sampleTree(t *testing.T) (root string, whole *counter) {
	r := rand.New(rand.NewPCG(9, 10))
	files := map[string]string{"large": string(bytes.Repeat([]byte("for i := range n { sum += i }\n"), 100_000))}
	for i, text := range nasty {
		files[fmt.Sprintf("nasty/%d", i)] = text
	}
	for i := range 50 {
		files[fmt.Sprintf("random/%d", i)] = string(scramble(r, r.IntN(10_000)))
	}
	whole = newCounter()
	for _, text := range files {
		whole.Files++
		whole.count([]byte(text))
	}
	return writeTree(t, files), whole
}

// gone fails the test if a block is still there.
func gone(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := shm.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
}

func TestRun(t *testing.T) {
	root, whole := sampleTree(t)
	for _, workers := range []int{1, 2, 3} {
		o := options(t, "worker", workers, root)
		o.commands = workers == 3 // as where there is no package worker
		loaded, counted := 0, 0
		o.Loaded = func(r *Report) error {
			loaded++
			if r.Files != int(whole.Files) || r.Bytes != int64(whole.Bytes) || r.Processes != workers+1 || r.Workers != nil {
				t.Errorf("loaded: %+v", r)
			}
			for _, b := range []Block{r.Text, r.Result} {
				if _, err := shm.Stat(b.Name); err != nil {
					t.Error(err)
				}
			}
			return nil
		}
		o.Counted = func(r *Report) error {
			counted++
			if len(r.Workers) != workers || r.Compare.Workers != 0 {
				t.Errorf("counted: %+v", r)
			}
			return nil
		}
		r, err := Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if loaded != 1 || counted != 1 {
			t.Errorf("Loaded was called %d times, Counted %d times", loaded, counted)
		}
		gone(t, r.Text.Name, r.Result.Name)
		if r.Together.Tally != whole.Tally || r.Distinct != len(whole.names) || !r.TopSure || !slices.Equal(r.Top, whole.list()[:topCount]) {
			t.Errorf("got %+v, %d different, %v (%v)\nwant %+v, %d, %v", r.Together.Tally, r.Distinct, r.Top, r.TopSure,
				whole.Tally, len(whole.names), whole.list()[:topCount])
		}
		var sum Tally
		pids := map[int]bool{os.Getpid(): true}
		for _, w := range r.Workers {
			sum.add(w.Tally)
			if w.Language != "Go" || w.Bytes == 0 || w.Seconds <= 0 || pids[w.PID] {
				t.Errorf("worker %+v", w)
			}
			pids[w.PID] = true
		}
		if len(r.Workers) != workers || sum != whole.Tally {
			t.Errorf("%d workers counted %+v, want %d and %+v", len(r.Workers), sum, workers, whole.Tally)
		}
		c := r.Compare
		if n := len(c.Shared); c.Workers != workers || n == 0 || n != len(c.Pipes) || n != len(c.Copying) || n != len(c.PipesCPU) ||
			runtime.GOOS != "windows" && slices.Min(c.SharedCPU) <= 0 || // whose clock ticks 64 times a second
			c.Ratio <= 0 {
			t.Errorf("comparison %+v", c)
		}
	}
}

// An error of the caller's, as that of a full disk, ends the run.
func TestRunShownNowhere(t *testing.T) {
	full := errors.New("full")
	fail := func(*Report) error { return full }
	o := options(t, "worker", 1, writeTree(t, map[string]string{"a": "some text\n"}))
	for _, which := range []*func(*Report) error{&o.Loaded, &o.Counted} {
		*which = fail
		if r, err := Run(t.Context(), o); r != nil || !errors.Is(err, full) {
			t.Errorf("got %+v, %v", r, err)
		}
		*which = nil
	}
}

// Interrupted when all is there, it starts nobody and leaves nothing.
func TestInterruptedBefore(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := options(t, "worker", 2, writeTree(t, map[string]string{"a": "some text\n", "b": "more text\n"}))
	var names []string
	o.Loaded = func(r *Report) error {
		names = []string{r.Text.Name, r.Result.Name}
		cancel()
		return nil
	}
	if _, err := Run(ctx, o); !errors.Is(err, context.Canceled) || len(names) == 0 {
		t.Errorf("%v, %q", err, names)
	}
	gone(t, names...)
}

// With a python3 on the PATH, it takes part.
func TestRunPython(t *testing.T) {
	if runtime.GOOS == "windows" {
		shmtest.Skip(t, "links", "a link called python3 needs a privilege")
	}
	root, whole := sampleTree(t)
	pythons := slices.DeleteFunc(slices.Clone(shmtest.Pythons(t)), func(py shmtest.Python) bool {
		return py.Env != nil // a run could not know what it needs
	})
	if len(pythons) == 0 {
		shmtest.Skip(t, "python", "none that needs no environment")
	}
	// The oldest and the newest; TestPythonAgrees has them all.
	for _, py := range []shmtest.Python{pythons[0], pythons[len(pythons)-1]} {
		t.Run(py.String(), func(t *testing.T) {
			bin := shmtest.TempDir(t)
			if err := os.Symlink(py.Path, filepath.Join(bin, "python3")); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", bin)
			o := options(t, "worker", 1, root)
			o.Python = true
			r, err := Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Workers) != 2 || r.NoPython != "" || r.Together.Tally != whole.Tally {
				t.Fatalf("got %+v", r)
			}
			if w := r.Workers[1]; w.Language != "Python "+py.Version || w.Bytes == 0 || w.PID == os.Getpid() {
				t.Errorf("Python's part is %+v", w)
			}
			gone(t, r.Text.Name, r.Result.Name)
		})
	}
}

// Interrupted in the middle, it lets go of everything.
func TestInterrupted(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var text, result string
	heard := make(chan error, 1)
	go func() {
		defer cancel()
		if _, err := fmt.Fscan(r, &text, &result); err != nil {
			heard <- err
			return
		}
		_, err1 := shm.Stat(text)
		_, err2 := shm.Stat(result)
		heard <- errors.Join(err1, err2)
	}()
	root := writeTree(t, map[string]string{"a": "some text\n", "b": "more text\n"})
	o := options(t, "hanging", 2, root)
	o.Worker = withStdout(o.Worker, w)
	o.Counted = func(*Report) error {
		t.Error("workers that hang have counted")
		return nil
	}
	_, err = Run(ctx, o)
	if err := <-heard; err != nil {
		t.Fatalf("before the interruption: %v", err)
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	gone(t, text, result)
	// Nobody holds the other end any more, so both workers are gone too.
	w.Close()
	var more string
	for err = nil; err == nil; _, err = fmt.Fscan(r, &more) {
	}
}

// Ended from outside, even with -9, it leaves nothing either.
func TestEnded(t *testing.T) {
	noEmulator(t)
	signals := []os.Signal{os.Kill, os.Interrupt, syscall.SIGTERM}
	if runtime.GOOS == "windows" {
		signals = signals[:1] // the others cannot be sent there
	}
	root := writeTree(t, map[string]string{"a": "some text\n"})
	for _, signal := range signals {
		t.Run(signal.String(), func(t *testing.T) {
			shmtest.Deadline(t, 2*shmtest.Patience)
			p := shmtest.Start(t, "victim", root)
			text, result, ok := strings.Cut(p.Line(), " ")
			if !ok {
				t.Fatalf("got %q", text)
			}
			shmtest.Watch(text)
			shmtest.Watch(result)
			for _, name := range []string{text, result} {
				if _, err := shm.Stat(name); err != nil {
					t.Fatal(err)
				}
			}
			if err := p.Cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			status := p.Wait()
			if signal != os.Kill {
				if status != interrupted {
					t.Errorf("status %d, %s", status, p.Stderr())
				}
				gone(t, text, result)
				return
			}
			// It takes the clean-up process a moment, and nothing tells when a name
			// goes. Deadline ends this if it never does.
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for _, name := range []string{text, result} {
				for {
					if _, err := shm.Stat(name); errors.Is(err, fs.ErrNotExist) {
						break
					}
					<-tick.C
				}
			}
		})
	}
}

func TestBadWorkers(t *testing.T) {
	root := writeTree(t, map[string]string{"a": "some text\n"})
	for name, want := range map[string]string{
		"broken": "worker 1: exit status 3: out of ink",
		"lying":  "one process counted",
	} {
		if _, err := Run(t.Context(), options(t, name, 1, root)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNothing(t *testing.T) {
	root := writeTree(t, map[string]string{"a": "some text\n"})
	empty := shmtest.TempDir(t)
	o := options(t, "worker", 1, empty)
	if _, err := Run(t.Context(), o); !errors.Is(err, ErrEmpty) {
		t.Errorf("an empty folder: %v", err)
	}
	o.Roots = []string{filepath.Join(empty, "no")}
	_, err := Run(t.Context(), o)
	if e, ok := errors.AsType[*ReadError](err); !ok || !errors.Is(e, fs.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	o.Roots, o.Limit = []string{root}, 3
	if _, err := Run(t.Context(), o); !errors.Is(err, ErrLimit) {
		t.Errorf("a limit of 3: %v", err)
	}
	for _, args := range [][]string{{"a"}, {"a", "b", "c", "d"}, {"a", "b", "1", "2", "3"}} {
		if err := Work(t.Context(), "", args, strings.NewReader(""), &bytes.Buffer{}); !errors.Is(err, ErrArgs) {
			t.Errorf("a worker with %q: %v", args, err)
		}
	}
}

func TestMedian(t *testing.T) {
	for want, turns := range map[float64]Turns{2: {3, 1, 2}, 5: {7, 5}} {
		if got := turns.Median(); got != want {
			t.Errorf("median of %v = %v", turns, got)
		}
	}
}
