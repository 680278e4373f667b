package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/ring"
	"github.com/sharedmem/shm/worker"
)

// What the workers of these cases do: as good as nothing, as it is the way there that is
// measured; and work.
type terms struct{ A, B int64 }

var (
	workNothing = worker.Func("nothing", func(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil })
	workAdd     = worker.Func("add", func(_ context.Context, t terms) (int64, error) { return t.A + t.B, nil })
	workBusy    = worker.Func("busy", func(_ context.Context, n int64) (uint64, error) { return busy(n), nil })
)

// busy keeps one core at work, and no memory.
func busy(n int64) (x uint64) {
	x = 1
	for range n {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
	}
	return x
}

// newPool starts all of a pool's workers.
func newPool(ctx context.Context, n int, waiting ring.Waiting) (*worker.Pool, error) {
	p, err := worker.NewPool(ctx, n, &worker.PoolOptions{Options: worker.Options{Waiting: waiting}})
	if err != nil {
		return nil, err
	}
	if err := worker.Ready(ctx, p, workNothing); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// gobWorkers are processes that take jobs through a pipe each and answer through another, as Go
// programs do it with the standard library alone.
type gobWorkers struct {
	all []*gobWorker
}

type gobWorker struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	enc *gob.Encoder
	dec *gob.Decoder
}

func startGob(n int) (*gobWorkers, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	g := &gobWorkers{}
	for range n {
		w := &gobWorker{cmd: exec.Command(self, roleArg, "gob")}
		var out io.Reader
		if w.in, err = w.cmd.StdinPipe(); err == nil {
			if out, err = w.cmd.StdoutPipe(); err == nil {
				err = w.cmd.Start()
			}
		}
		if err != nil {
			g.stop()
			return nil, err
		}
		w.enc, w.dec = gob.NewEncoder(w.in), gob.NewDecoder(bufio.NewReader(out))
		g.all = append(g.all, w)
	}
	return g, nil
}

func (w *gobWorker) call(t terms) (err error) {
	var sum int64
	if err = w.enc.Encode(t); err == nil {
		err = w.dec.Decode(&sum)
	}
	if err == nil && sum != t.A+t.B {
		err = fmt.Errorf("a worker says %d", sum)
	}
	return err
}

// each has the workers do n jobs, a goroutine feeding each of them.
func (g *gobWorkers) each(n int) error {
	jobs := make(chan terms, len(g.all))
	errs := make([]error, len(g.all))
	var wg sync.WaitGroup
	for i, w := range g.all {
		wg.Go(func() {
			for t := range jobs {
				if errs[i] == nil {
					errs[i] = w.call(t)
				}
			}
		})
	}
	for i := range n {
		jobs <- terms{int64(i), 1}
	}
	close(jobs)
	wg.Wait()
	return errors.Join(errs...)
}

func (g *gobWorkers) stop() {
	for _, w := range g.all {
		w.in.Close()
		_ = w.cmd.Wait()
	}
}

// roleGob is a worker of gobWorkers.
func roleGob(in io.Reader, out io.Writer) error {
	enc, dec := gob.NewEncoder(out), gob.NewDecoder(bufio.NewReader(in))
	for {
		var t terms
		if err := dec.Decode(&t); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := enc.Encode(t.A + t.B); err != nil {
			return err
		}
	}
}

// emptyProgram builds a Go program that does nothing.
func (e *env) emptyProgram(ctx context.Context) (string, error) {
	source, program := filepath.Join(e.tmp, "empty.go"), filepath.Join(e.tmp, "empty")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", program, source)
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOTOOLCHAIN=local")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("an empty Go program: %w %s", err, out)
	}
	return program, nil
}

// workerStart is what a process costs.
func workerStart(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "Workers: start", Text: `From worker.Start until the new process has its job; and until it has answered and is gone. Beside it the same program started by os/exec, until it has answered one gob through its pipes, and a process of
multiprocessing's spawn, from start to join; and an empty Go program, from start to end, which no Go program starts faster than. One that does more before worker.Main takes longer.`}
	gobs := func() error {
		g, err := startGob(1)
		if err != nil {
			return err
		}
		defer g.stop()
		return g.each(1)
	}
	ways := []way{
		timed("worker.Start", func() (time.Duration, error) {
			start := time.Now()
			p, err := worker.Start(ctx, workNothing, struct{}{}, nil)
			if err != nil {
				return 0, err
			}
			took := time.Since(start)
			_, err = p.Wait()
			return took, err
		}),
		loop("worker.Start, Wait", func() error {
			p, err := worker.Start(ctx, workNothing, struct{}{}, nil)
			if err != nil {
				return err
			}
			_, err = p.Wait()
			return err
		}),
		loop("os/exec, one gob, Wait", gobs),
	}
	if empty, err := e.emptyProgram(ctx); err != nil {
		r.Missing = append(r.Missing, err.Error())
	} else {
		ways = append(ways, loop("os/exec, an empty Go program, Wait", func() error { return exec.Command(empty).Run() }))
	}
	for _, p := range e.pythons {
		ways = append(ways, p.way(p.name+", Process, spawn", "process", "-", 1))
	}
	var err error
	if r.Rows, err = e.fewer().rounds(ctx, ways); err != nil {
		return nil, err
	}
	r.below("worker.Start", r.row("worker.Start").Median/1e6, 5, "ms")
	r.Missing = append(r.Missing, e.missing...)
	return r, nil
}

// workerCall is the way there and back.
func workerCall(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "Workers: the round trip of an empty job", Text: `One job at a time, given to one worker by worker.Call, each call timed by itself. Sleeping: the worker is asleep when the job comes, and the caller when the answer does. Spinning: each looks until it is there,
which needs two free cores. Looking for a while is the default. Beside them a bare futex word in C, with no message in it (each figure the mean of a round); one gob through a pipe and back; and multiprocessing's Pool.apply. Every pool is started anew for each round, so that nobody spins while another is measured.`}
	calls := 300
	if e.quick {
		calls = 100
	}
	samples := map[string][]float64{}
	sample := func(name string, call func() error) error {
		for i := range calls + calls/10 {
			start := time.Now()
			if err := call(); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if took := time.Since(start); i >= calls/10 {
				samples[name] = append(samples[name], float64(took.Nanoseconds()))
			}
		}
		return nil
	}
	ways := map[string]func(name string) error{}
	names := []string{"sleeping", "looking for a while", "spinning"}
	for i, waiting := range []ring.Waiting{ring.Sleep, ring.Adaptive, ring.Spin} {
		ways[names[i]] = func(name string) error {
			p, err := newPool(ctx, 1, waiting)
			if err != nil {
				return err
			}
			defer p.Close()
			return sample(name, func() error {
				_, err := worker.Call(context.Background(), p, workNothing, struct{}{})
				return err
			})
		}
	}
	if e.c != nil {
		futex := e.cWay("C, futex", "pingpong", 4096)
		names = append(names, futex.name)
		ways[futex.name] = func(name string) error {
			n := 20 * calls // it starts a process
			took, err := futex.run(n)
			samples[name] = append(samples[name], float64(took.Nanoseconds())/float64(n))
			return err
		}
	}
	names = append(names, "gob through pipes")
	ways["gob through pipes"] = func(name string) error {
		g, err := startGob(1)
		if err != nil {
			return err
		}
		defer g.stop()
		return sample(name, func() error { return g.all[0].call(terms{1, 2}) })
	}
	for _, p := range e.pythons {
		name := p.name + ", Pool.apply"
		names = append(names, name)
		ways[name] = func(name string) error {
			answer, err := p.ask("applyeach - 1 %d", calls)
			for _, ns := range strings.Split(answer, ",") {
				var v float64
				if _, err := fmt.Sscan(ns, &v); err == nil {
					samples[name] = append(samples[name], v)
				}
			}
			return err
		}
	}
	for round := range e.fewer().count {
		for i := range names {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			name := names[(round+i)%len(names)]
			if err := ways[name](name); err != nil {
				return nil, err
			}
			time.Sleep(e.settle)
		}
	}
	r.Facts = [][]string{{"", "calls", "median", "90 %", "99 %"}}
	for _, name := range names {
		s := samples[name]
		r.Rows = append(r.Rows, newRow(name, s))
		facts := []string{name, fmt.Sprint(len(s))}
		for _, q := range []float64{0.5, 0.9, 0.99} {
			facts = append(facts, timeText(quantile(s, q)))
		}
		r.Facts = append(r.Facts, facts)
	}
	r.below("sleeping", r.row("sleeping").Median/1e3, 10, "µs")
	r.below("spinning", r.row("spinning").Median/1e3, 1.5, "µs")
	r.Missing = append(r.Missing, e.missing...)
	return r, nil
}

// workerMap is many small jobs at once.
func workerMap(ctx context.Context, e *env) (*Result, error) {
	n := max(2, min(4, runtime.NumCPU()))
	r := &Result{Title: fmt.Sprintf("Workers: small jobs, %d workers", n), Text: `Two numbers there, their sum back, as many jobs as can be: the figure is for one. worker.Map in order and unordered; goroutines that each feed a process over pipes with gob, one job at a time; multiprocessing's
Pool.map with chunksize 1, so that each job is a message, as it is here.`}
	pool, err := newPool(ctx, n, ring.Adaptive)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	gobs, err := startGob(n)
	if err != nil {
		return nil, err
	}
	defer gobs.stop()
	inputs := func(n int) func(yield func(terms) bool) {
		return func(yield func(terms) bool) {
			for i := range n {
				if !yield(terms{int64(i), 1}) {
					return
				}
			}
		}
	}
	ways := []way{
		each("worker.Map", func(n int) error {
			want := int64(1)
			for sum, err := range worker.Map(ctx, pool, workAdd, inputs(n)) {
				if err != nil || sum != want {
					return fmt.Errorf("%d, not %d: %w", sum, want, err)
				}
				want++
			}
			return nil
		}),
		each("worker.MapUnordered", func(n int) error {
			for res := range worker.MapUnordered(ctx, pool, workAdd, inputs(n)) {
				if res.Err != nil || res.Value != int64(res.Index)+1 {
					return fmt.Errorf("%d of %d: %w", res.Value, res.Index, res.Err)
				}
			}
			return nil
		}),
		each("gob through pipes", gobs.each),
	}
	for _, p := range e.pythons {
		ways = append(ways, p.way(p.name+", Pool.map", "map", "-", n))
	}
	if r.Rows, err = e.rounds(ctx, ways); err != nil {
		return nil, err
	}
	for _, p := range e.pythons {
		r.faster("worker.Map", p.name+", Pool.map", 20)
	}
	r.faster("worker.Map", "gob through pipes", 3)
	r.Missing = append(r.Missing, e.missing...)
	return r, nil
}

// workerScale is whether two workers are twice as fast as one.
func workerScale(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "Workers: two cores", Text: `Sixteen jobs that compute, by one worker and by two; and by one goroutine and by two, which is what this machine has to give at that time. Where others use it too, the figure for workers says little without that for goroutines.`}
	const jobs = 16
	size := int64(2_000_000) // some milliseconds: what the way there costs is not to be seen
	var inputs [jobs]int64
	for i := range inputs {
		inputs[i] = size
	}
	want := busy(size)
	work := func(n int) (way, func() error, error) {
		pool, err := newPool(ctx, n, ring.Adaptive)
		if err != nil {
			return way{}, nil, err
		}
		return loop(fmt.Sprintf("%d workers", n), func() error {
			for x, err := range worker.Map(ctx, pool, workBusy, inputs[:]) {
				if err != nil || x != want {
					return fmt.Errorf("%d, not %d: %w", x, want, err)
				}
			}
			return nil
		}), pool.Close, nil
	}
	routines := func(n int) way {
		return loop(fmt.Sprintf("%d goroutines", n), func() error {
			var wg sync.WaitGroup
			wrong := make([]bool, n)
			for i := range n {
				wg.Go(func() {
					for range jobs / n {
						wrong[i] = wrong[i] || busy(size) != want
					}
				})
			}
			wg.Wait()
			for _, w := range wrong {
				if w {
					return errors.New("a goroutine computes something else")
				}
			}
			return nil
		})
	}
	var ways []way
	for _, n := range []int{2, 1} {
		w, stop, err := work(n)
		if err != nil {
			return nil, err
		}
		defer stop() //nolint:errcheck // returns nil
		ways = append(ways, w, routines(n))
	}
	var err error
	if r.Rows, err = e.rounds(ctx, ways); err != nil {
		return nil, err
	}
	r.faster("2 workers", "1 workers", 1.8)
	gain := func(a, b string) string { return fmt.Sprintf("%.2f", ratio(r.row(a), r.row(b), true)) }
	r.Facts = [][]string{{"", "two as fast as one"}, {"workers", gain("2 workers", "1 workers")}, {"goroutines", gain("2 goroutines", "1 goroutines")}}
	return r, nil
}

//go:embed peers/work.py
var workPy []byte

// pythonWork writes the script whose functions Python workers call.
func (e *env) pythonWork() (string, error) {
	path := filepath.Join(e.tmp, "work.py")
	return path, os.WriteFile(path, workPy, 0o600)
}

// workerPython is the way to Python and back.
func workerPython(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "Workers in Python: the round trip of an empty job", Text: `worker.Call of a function in a script, in a Python that is a worker of this program; and Pool.apply between a Python and its own forked worker.`}
	script, err := e.pythonWork()
	if err != nil {
		return nil, err
	}
	var ways []way
	for _, p := range e.pythons {
		pool, err := worker.NewPool(ctx, 1, nil)
		if err != nil {
			return nil, err
		}
		defer pool.Close()
		f := worker.Python[struct{}, struct{}](script, "nothing", &worker.PythonOptions{Interpreter: p.cmd.Path})
		if err := worker.Ready(ctx, pool, f); err != nil {
			return nil, err
		}
		ways = append(ways, loop("worker.Python, "+p.name, func() error {
			_, err := worker.Call(context.Background(), pool, f, struct{}{})
			return err
		}), p.way(p.name+", Pool.apply", "apply", "-", 1))
	}
	if r.Rows, err = e.rounds(ctx, ways); err != nil {
		return nil, err
	}
	for _, p := range e.pythons {
		r.atMost("worker.Python, "+p.name, p.name+", Pool.apply", 1)
	}
	r.Missing = append(r.Missing, e.missing...)
	return r, nil
}

// workerArray is an array as an argument.
func workerArray(ctx context.Context, e *env) (*Result, error) {
	size := 64 << 20
	if e.quick {
		size = 16 << 20
	}
	r := &Result{Title: fmt.Sprintf("Workers in Python: %s of NumPy's array as an argument", bytesText(float64(size))), Text: `The function reads one element. As *array.Array it is the same memory on both sides; Pool.apply pickles it, through a socket.`}
	py, err := startNumPy()
	if err != nil {
		r.Missing = append(r.Missing, err.Error())
		return r, nil
	}
	defer py.stop()
	script, err := e.pythonWork()
	if err != nil {
		return nil, err
	}
	a, err := array.CreateNPY[float64](e.block("worker-array"), []int{size / 8}, nil)
	if errors.Is(err, shm.ErrNoSpace) {
		r.Missing = append(r.Missing, err.Error())
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	defer dropArray(a)
	pool, err := worker.NewPool(ctx, 1, nil)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	f := worker.Python[*array.Array[float64], float64](script, "last", &worker.PythonOptions{Interpreter: py.cmd.Path})
	if err := worker.Ready(ctx, pool, f); err != nil {
		return nil, err
	}
	n := 0.0
	if r.Rows, err = e.fewer().rounds(ctx, []way{
		loop("worker.Python", func() error {
			n++
			a.Set(n, a.Len()-1)
			if got, err := worker.Call(context.Background(), pool, f, a); err != nil || got != n {
				return fmt.Errorf("%g, not %g: %w", got, n, err)
			}
			return nil
		}),
		py.way("Pool.apply", "applyarray", "-", size/8),
	}); err != nil {
		return nil, err
	}
	r.faster("worker.Python", "Pool.apply", 20)
	return r, nil
}
