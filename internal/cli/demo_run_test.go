package cli

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
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
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

func init() {
	shm := func(args []string) int {
		return Run(context.Background(), args, os.Stdin, os.Stdout, os.Stderr)
	}
	shmtest.Register("demo-shm", shm)

	// Workers that differ from the real one.
	shmtest.Register("demo-broken", func([]string) int {
		fmt.Fprintln(os.Stderr, "out of ink")
		return 3
	})
	shmtest.Register("demo-hanging", func(args []string) int {
		shmtest.Say("%s %s", args[0], args[1])
		shmtest.Hear() // the parent never says anything
		return 0
	})
	shmtest.Register("demo-lying", func(args []string) int {
		status := shm(args)
		if len(args) == 5 {
			lie(args[2])
		}
		return status
	})

	// A demo whose workers hang, to be ended from outside.
	shmtest.Register("demo-victim", func(args []string) int {
		demoWorkerCommand = func(ctx context.Context, args ...string) *exec.Cmd {
			cmd := helperCommand(ctx, nil, "demo-hanging", args...)
			cmd.Stdout = os.Stdout
			return cmd
		}
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		return Run(ctx, args, os.Stdin, os.Stdout, os.Stderr)
	})
}

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

// helperCommand runs a helper process as the verb runs a worker.
func helperCommand(ctx context.Context, t testing.TB, name string, args ...string) *exec.Cmd {
	c := shmtest.Command(noHelper{t}, name, args...)
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Env = c.Env
	return cmd
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

// useWorkers makes the demo start that helper process as its Go workers.
func useWorkers(t *testing.T, name string) {
	noEmulator(t)
	old := demoWorkerCommand
	t.Cleanup(func() { demoWorkerCommand = old })
	demoWorkerCommand = func(ctx context.Context, args ...string) *exec.Cmd {
		if name == "demo-shm" || name == "demo-lying" {
			args = append([]string{demoWorkerVerb}, args...)
		}
		return helperCommand(ctx, t, name, args...)
	}
}

// runDemo runs the verb and returns what it wrote and its exit status.
func runDemo(ctx context.Context, args ...string) (stdout, stderr string, status int) {
	var out, errs bytes.Buffer
	status = Run(ctx, append([]string{"demo"}, args...), strings.NewReader(""), &out, &errs)
	return out.String(), errs.String(), status
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

func TestDemoRun(t *testing.T) {
	useWorkers(t, "demo-shm")
	root, whole := sampleTree(t)
	for _, workers := range []int{1, 3} {
		out, errs, status := runDemo(t.Context(), "--json", "--no-python", "--workers", strconv.Itoa(workers), root)
		if status != 0 || errs != "" {
			t.Fatalf("status %d, %s", status, errs)
		}
		var r demoReport
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		gone(t, r.Text.Name, r.Result.Name)
		if r.Together.tally != whole.tally || r.Distinct != len(whole.names) || !r.TopSure || !slices.Equal(r.Top, whole.list()[:demoTop]) {
			t.Errorf("got %+v, %d different, %v (%v)\nwant %+v, %d, %v", r.Together.tally, r.Distinct, r.Top, r.TopSure,
				whole.tally, len(whole.names), whole.list()[:demoTop])
		}
		var sum tally
		pids := map[int]bool{os.Getpid(): true}
		for _, w := range r.Workers {
			sum.add(w.tally)
			if w.Language != "Go" || w.Bytes == 0 || w.Seconds <= 0 || pids[w.PID] {
				t.Errorf("worker %+v", w)
			}
			pids[w.PID] = true
		}
		if len(r.Workers) != workers || sum != whole.tally {
			t.Errorf("%d workers counted %+v, want %d and %+v", len(r.Workers), sum, workers, whole.tally)
		}
		c := r.Compare
		if n := len(c.Shared); c.Workers != workers || n == 0 || n != len(c.Pipes) || n != len(c.Copying) || n != len(c.PipesCPU) ||
			runtime.GOOS != "windows" && slices.Min(c.SharedCPU) <= 0 || // whose clock ticks 64 times a second
			c.Ratio <= 0 {
			t.Errorf("comparison %+v", c)
		}
	}

	out, errs, status := runDemo(t.Context(), "--no-python", "--workers", "2", root)
	if status != 0 || errs != "" {
		t.Fatalf("status %d, %s", status, errs)
	}
	for _, want := range []string{
		grouped(whole.Files) + " files, ", "in one block ", "shared by 3 processes",
		"worker 2  Go", "together", grouped(whole.Lines), "sum", "Checked:", "through pipes", "removed now",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "Python") {
		t.Errorf("--no-python, and yet:\n%s", out)
	}
}

// With a python3 on the PATH, it takes part.
func TestDemoRunPython(t *testing.T) {
	useWorkers(t, "demo-shm")
	if runtime.GOOS == "windows" {
		shmtest.Skip(t, "links", "a link called python3 needs a privilege")
	}
	root, whole := sampleTree(t)
	pythons := slices.DeleteFunc(slices.Clone(shmtest.Pythons(t)), func(py shmtest.Python) bool {
		return py.Env != nil // the verb could not know what it needs
	})
	if len(pythons) == 0 {
		shmtest.Skip(t, "python", "none that needs no environment")
	}
	// The oldest and the newest; TestDemoPythonAgrees has them all.
	for _, py := range []shmtest.Python{pythons[0], pythons[len(pythons)-1]} {
		t.Run(py.String(), func(t *testing.T) {
			bin := shmtest.TempDir(t)
			if err := os.Symlink(py.Path, filepath.Join(bin, "python3")); err != nil {
				t.Fatal(err)
			}
			t.Setenv("PATH", bin)
			out, errs, status := runDemo(t.Context(), "--json", "--workers", "1", root)
			if status != 0 || errs != "" {
				t.Fatalf("status %d, %s", status, errs)
			}
			var r demoReport
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				t.Fatalf("%v in %s", err, out)
			}
			if len(r.Workers) != 2 || r.Python != "" || r.Together.tally != whole.tally {
				t.Fatalf("got %+v", r)
			}
			if w := r.Workers[1]; w.Language != "Python "+py.Version || w.Bytes == 0 || w.PID == os.Getpid() {
				t.Errorf("Python's part is %+v", w)
			}
			gone(t, r.Text.Name, r.Result.Name)
		})
	}
}

// Python and Go count the same, to the last byte, whatever the bytes.
func TestDemoPythonAgrees(t *testing.T) {
	root, whole := sampleTree(t)
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.String(), func(t *testing.T) {
			found, err := findSources(t.Context(), []string{root}, demoLimit)
			if err != nil {
				t.Fatal(err)
			}
			a := &app{stdout: &bytes.Buffer{}, stderr: &bytes.Buffer{}}
			d := &demo{a: a, workers: 1, interpreter: interpreter{path: py.Path}}
			if err := d.create(found); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := d.remove(); err != nil {
					t.Error(err)
				}
			}()
			if err := d.load(t.Context(), found); err != nil {
				t.Fatal(err)
			}
			// As it was cut for this run, and everything to Python.
			for _, parts := range [][]extent{d.index.parts, {{}, {0, len(d.textBytes)}, {}}} {
				d.index.parts = parts
				d.index.encode(d.text.Bytes())
				cmd := py.Cmd(t.Context(), "-c", demoWorkerPython, d.text.Name(), d.result.Name(), "1", "1")
				if err := runWorker(cmd, nil, &d.cpu); err != nil {
					t.Fatal(err)
				}
				slot, err := resultSlot(d.result.Bytes(), 1)
				if err != nil {
					t.Fatal(err)
				}
				got, err := decodeResult(slot)
				if err != nil {
					t.Fatal(err)
				}
				want, err := d.index.countPart(t.Context(), d.textBytes, parts[1], noProgress)
				if err != nil {
					t.Fatal(err)
				}
				list := want.list()
				slices.SortFunc(got.List, byCount)
				if got.tally != want.tally || got.Distinct != uint64(len(list)) || got.Nanoseconds == 0 {
					t.Errorf("Python counted %+v, %d different; Go %+v, %d", got.tally, got.Distinct, want.tally, len(list))
				}
				// What had no room is left out by the same rule as Go's.
				ours := *want.result(time.Now())
				copied := make([]byte, len(slot))
				ours.encode(copied)
				if kept, err := decodeResult(copied); err != nil || got.Cut != kept.Cut || !slices.Equal(got.List, kept.List) {
					t.Errorf("Python listed %d (cut %d), Go %d (cut %d), %v", len(got.List), got.Cut, len(kept.List), kept.Cut, err)
				}
			}
			if whole.Files != uint64(len(d.index.files)) {
				t.Errorf("%d files of %d", len(d.index.files), whole.Files)
			}
			// Its resource tracker is gone as well by now, and must not have
			// taken the blocks along.
			for _, b := range []*shm.Block{d.text, d.result} {
				if _, err := shm.Stat(b.Name()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// Interrupted in the middle, it lets go of everything.
func TestDemoInterrupted(t *testing.T) {
	useWorkers(t, "demo-hanging")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	start := demoWorkerCommand
	demoWorkerCommand = func(ctx context.Context, args ...string) *exec.Cmd {
		cmd := start(ctx, args...)
		cmd.Stdout = w
		return cmd
	}
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
	out, errs, status := runDemo(ctx, "--no-python", "--workers", "2", root)
	if err := <-heard; err != nil {
		t.Fatalf("before the interruption: %v", err)
	}
	if status != exitInterrupted || errs != "shm: interrupted\n" || strings.Contains(out, "together") {
		t.Errorf("status %d, %q, %s", status, errs, out)
	}
	gone(t, text, result)
	// Nobody holds the other end any more, so both workers are gone too.
	w.Close()
	var more string
	for err = nil; err == nil; _, err = fmt.Fscan(r, &more) {
	}
}

// Ended from outside, even with -9, it leaves nothing either.
func TestDemoEnded(t *testing.T) {
	noEmulator(t)
	signals := []os.Signal{os.Kill, os.Interrupt, syscall.SIGTERM}
	if runtime.GOOS == "windows" {
		signals = signals[:1] // the others cannot be sent there
	}
	root := writeTree(t, map[string]string{"a": "some text\n"})
	for _, signal := range signals {
		t.Run(signal.String(), func(t *testing.T) {
			shmtest.Deadline(t, 2*shmtest.Patience)
			p := shmtest.Start(t, "demo-victim", "demo", "--no-python", "--workers", "1", "--json", root)
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
				if status != exitInterrupted {
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

func TestDemoBadWorkers(t *testing.T) {
	root := writeTree(t, map[string]string{"a": "some text\n"})
	for name, want := range map[string]string{
		"demo-broken": "worker 1: exit status 3: out of ink",
		"demo-lying":  "one process counted",
	} {
		useWorkers(t, name)
		_, errs, status := runDemo(t.Context(), "--no-python", "--workers", "1", root)
		if status != exitFailure || !strings.Contains(errs, want) {
			t.Errorf("%s: status %d, %s", name, status, errs)
		}
	}
}

func TestDemoErrors(t *testing.T) {
	useWorkers(t, "demo-shm")
	root := writeTree(t, map[string]string{"a": "some text\n"})
	empty := shmtest.TempDir(t)
	for _, tt := range []struct {
		args   []string
		status int
		want   []string
	}{
		{[]string{filepath.Join(empty, "no")}, exitFailure, []string{"no such file", "try: shm demo"}},
		{[]string{empty}, exitFailure, []string{"there are no files", "try: shm demo"}},
		{[]string{"--limit", "3", root}, exitFailure, []string{"larger than 3 B", "try: shm demo --limit"}},
		{[]string{"--limit", "0", root}, exitUsage, []string{"--limit"}},
		{[]string{"--limit", "much", root}, exitUsage, []string{"much"}},
		{[]string{"--workers", "0", root}, exitUsage, []string{"--workers 0"}},
	} {
		out, errs, status := runDemo(t.Context(), append(tt.args, "--no-python")...)
		if status != tt.status || out != "" {
			t.Errorf("%q: status %d, wrote %q", tt.args, status, out)
		}
		for _, want := range tt.want {
			if runtime.GOOS == "windows" && want == "no such file" {
				continue // which Windows and Wine say each in their own way
			}
			if !strings.Contains(errs, want) {
				t.Errorf("%q: no %q in %s", tt.args, want, errs)
			}
		}
	}
}

// More than the machine has: the error says how much would be needed, and what
// would fit.
func TestDemoNoSpace(t *testing.T) {
	noEmulator(t)
	if strconv.IntSize < 64 {
		t.Skip("a 32-bit address space ends before the memory does")
	}
	name := filepath.Join(shmtest.TempDir(t), "sparse")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, 8<<40); err != nil {
		shmtest.Skip(t, "sparse", "the file system has no files of 8 TiB: "+err.Error())
	}
	_, errs, status := runDemo(t.Context(), "--limit", "16T", "--no-python", "--workers", "1", name)
	if status != exitFailure || !strings.Contains(errs, "the demo needs 9.0 TiB of shared memory for 8.0 TiB") || !strings.Contains(errs, "try: shm demo --limit ") {
		t.Errorf("status %d, %s", status, errs)
	}
}

// A Python that cannot take part is left out, and the text says why.
func TestDemoFindPython(t *testing.T) {
	if p := findPython(t.Context(), false); p.path != "" || p.why != "not wanted" {
		t.Errorf("got %+v", p)
	}
	bin := shmtest.TempDir(t)
	t.Setenv("PATH", bin)
	if p := findPython(t.Context(), true); p.path != "" || !strings.Contains(p.why, "no python3") {
		t.Errorf("got %+v", p)
	}
	if runtime.GOOS == "windows" {
		return // a script is no program there
	}
	for script, want := range map[string]string{
		"exit 1":                         "which came with 3.8",
		"echo what":                      "does not say",
		"echo; echo":                     "does not say",
		"echo /x/py; echo cpython 3 9 1": "",
	} {
		if err := os.WriteFile(filepath.Join(bin, "python3"), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		p := findPython(t.Context(), true)
		if want == "" && (p.path != "/x/py" || p.version != "Python 3.9.1" || p.why != "") || !strings.Contains(p.why, want) {
			t.Errorf("%q: got %+v", script, p)
		}
	}
}
