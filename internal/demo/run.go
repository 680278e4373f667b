// Package demo counts a tree of files in several processes on one block of
// shared memory. [Run] reads the files into it and starts workers, one of them
// a Python program where there is one; each counts its part in place and leaves
// what it finds in a second block. They are those of package worker or, where that is not,
// commands, as those are with whom it compares: [Work] is what these do.
//
// Text and colours are the caller's, as are the command lines of the workers.
package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/platform/mem"
)

const (
	topCount = 10

	// pythonShare is how large Python's part is beside a Go worker's, so that
	// both end at about the same time: measured with CPython 3.8 to 3.13 on
	// Go's own source, re and Counter counted at 17 to 19 MB/s, Go at 134.
	pythonShare = 1.0 / 8

	// The comparison with pipes takes turns so often, but begins no further turn
	// after so long.
	compareTurns = 3
	compareTime  = 3 * time.Second
)

// Options say what to count, and with whom. All but Worker, Workers and Limit
// may be left out.
type Options struct {
	Roots   []string // files and folders; none: Go's own source or, without Go, the current folder
	Limit   int64    // bytes of files to read at most
	Workers int      // that are Go programs, at least one
	Python  bool     // one more that is not, if there is a python3 on the PATH
	Dir     string   // where the blocks are, "" for the system's place

	// Worker makes a command, not started yet, that ends when ctx does and that
	// passes Dir, args and its two pipes to [Work]. It is called by several
	// goroutines at once. Those who count in place are started by package worker
	// where the system has it, so main has to call worker.Main.
	Worker   func(ctx context.Context, args ...string) *exec.Cmd
	commands bool // but never by package worker

	// Progress is told when a task begins whose progress done returns, in bytes
	// and to any goroutine; the task ends with stop. total is 0 if unknown.
	Progress func(task string, total int64, done func() int64) (stop func())

	// Loaded is called when the files are in memory, Counted when the workers
	// have counted them. Both see the report as far as it is written, and an
	// error of theirs ends the run.
	Loaded, Counted func(*Report) error
}

// Report is what a run has done and found.
type Report struct {
	Roots   []string `json:"roots"`
	Skipped int      `json:"skipped"` // files and folders that could not be read
	Why     string   `json:"skipped_why,omitempty"`
	Limited bool     `json:"limited"` // Options.Limit left files out

	NoPython string `json:"no_python_because,omitempty"`

	// What Loaded may want to say; later, Workers and Together tell the same.
	Files     int   `json:"-"`
	Bytes     int64 `json:"-"`
	Processes int   `json:"-"` // that share the text, this one included

	Text   Block `json:"text_block"`
	Result Block `json:"result_block"`

	Workers  []Worker     `json:"workers"`
	Together Worker       `json:"together"`
	Distinct int          `json:"distinct_identifiers"`
	Top      []Identifier `json:"commonest_identifiers"`
	TopSure  bool         `json:"commonest_identifiers_exact"`

	ReadSeconds   float64    `json:"read_seconds"`
	SingleSeconds float64    `json:"single_process_seconds"` // for the same counts, checked to be equal
	Compare       Comparison `json:"comparison"`
}

// Block is a block of shared memory, gone when Run has returned.
type Block struct {
	Name string `json:"name"`
	Size int    `json:"size"`
}

// Worker is what one process has counted, or all.
type Worker struct {
	Language string `json:"language,omitempty"`
	PID      int    `json:"pid,omitempty"`
	Tally
	Seconds float64 `json:"seconds"` // a worker's are without its start, the sum's are from first start to last end
}

// Comparison has the seconds of every turn, process starts included.
type Comparison struct {
	Workers int     `json:"workers"` // all Go
	Shared  Turns   `json:"shared_seconds"`
	Pipes   Turns   `json:"pipe_seconds"`
	Copying Turns   `json:"copy_only_seconds"` // through the same pipes, to workers that do not count
	Ratio   float64 `json:"pipes_by_shared"`   // of the medians

	// Processor time of the workers, which tells more where others keep the
	// machine busy. What this process needs to write to the pipes is not in it.
	SharedCPU Turns `json:"shared_cpu_seconds"`
	PipesCPU  Turns `json:"pipe_cpu_seconds"`
}

// Turns are the seconds of each turn.
type Turns []float64

// Median of an even number of turns is the lower of the middle two.
func (t Turns) Median() float64 {
	t = slices.Sorted(slices.Values(t))
	return t[(len(t)-1)/2]
}

// Why there is nothing to count.
var (
	ErrEmpty = errors.New("there are no files to read")
	ErrLimit = errors.New("the first file is larger than the limit")
)

// ReadError is that of a root that is not there or cannot be read, or says that
// none of the files can be.
type ReadError struct{ Err error }

func (e *ReadError) Error() string { return e.Err.Error() }
func (e *ReadError) Unwrap() error { return e.Err }

// SpaceError says that there is too little memory. All numbers are bytes.
type SpaceError struct {
	Need  int64 // of shared memory, for
	Files int64 // of files
	Fits  int64 // about so much of files would leave others something
	Err   error // shm.ErrNoSpace
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("%d bytes of shared memory for %d of files: %v", e.Need, e.Files, e.Err)
}

func (e *SpaceError) Unwrap() error { return e.Err }

// run is one run.
type run struct {
	Options
	report Report

	interpreter  interpreter
	index        *index
	text, result *shm.Block
	textBytes    []byte       // the text alone, without the index
	cpu          atomic.Int64 // processor time of the workers so far, in nanoseconds
}

// Run counts, checks the sum and compares with copying through pipes. When it
// returns, workers and blocks are gone; should this process be killed, they go
// by themselves. The report is nil if there is an error: a [ReadError], a
// [SpaceError], ErrEmpty, ErrLimit, that of ctx, or what a worker or the memory
// says.
func Run(ctx context.Context, o Options) (*Report, error) {
	r := &run{Options: o}
	if err := r.do(ctx); err != nil {
		return nil, err
	}
	return &r.report, nil
}

func (r *run) do(ctx context.Context) (err error) {
	rep := &r.report
	probed := make(chan struct{})
	go func() {
		defer close(probed)
		r.interpreter = findPython(ctx, r.Python)
	}()
	if len(r.Roots) == 0 {
		r.Roots = []string{defaultRoot(ctx)}
	}
	rep.Roots = r.Roots
	// Text, index and results are to fit an address space of 32 bits too.
	found, err := findSources(ctx, r.Roots, min(r.Limit, math.MaxInt/4))
	<-probed
	if err != nil {
		return err
	}
	if len(found.files) == 0 {
		return found.nothing()
	}
	if r.Dir != "" && r.interpreter.path != "" {
		r.interpreter = interpreter{why: "Python opens blocks in the system's place only"}
	}

	start := time.Now()
	if err := r.create(found); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.remove()) }()
	if err := r.load(ctx, found); err != nil {
		return err
	}
	rep.ReadSeconds = time.Since(start).Seconds()
	rep.Skipped, rep.Limited, rep.NoPython = found.skipped, found.limited, r.interpreter.why
	if found.why != nil {
		rep.Why = found.why.Error()
	}
	if len(r.index.files) == 0 {
		return found.nothing()
	}
	rep.Files, rep.Bytes, rep.Processes = len(r.index.files), r.bytes(), r.processes()+1
	rep.Text = Block{r.text.Name(), r.text.Size()}
	rep.Result = Block{r.result.Name(), r.result.Size()}
	if r.Loaded != nil {
		if err := r.Loaded(rep); err != nil {
			return err
		}
	}

	results, took, err := r.count(ctx)
	if err != nil {
		return err
	}
	sum := mergeResults(results)
	for i, res := range results {
		w := Worker{"Go", res.PID, res.Tally, float64(res.Nanoseconds) / 1e9}
		if i == r.Workers {
			w.Language = r.interpreter.version
		}
		rep.Workers = append(rep.Workers, w)
	}
	rep.Together = Worker{Tally: sum.Tally, Seconds: took.Seconds()}
	rep.Distinct = len(sum.names)
	rep.Top, rep.TopSure = sum.top(topCount)
	if r.Counted != nil {
		if err := r.Counted(rep); err != nil {
			return err
		}
	}

	if rep.SingleSeconds, err = r.check(ctx, &sum); err != nil {
		return err
	}
	rep.Compare, err = r.compare(ctx, sum.Tally)
	return err
}

// nothing says why there is nothing to count.
func (s *sources) nothing() error {
	switch {
	case s.skipped > 0:
		return &ReadError{fmt.Errorf("none of the files can be read: %w", s.why)}
	case s.limited:
		return ErrLimit
	}
	return ErrEmpty
}

// defaultRoot is a tree of real text that a machine with Go has.
func defaultRoot(ctx context.Context) string {
	cmd := exec.CommandContext(ctx, "go", "env", "GOROOT")
	// Not here, where a go.mod could make it fetch another Go first.
	cmd.Dir = os.TempDir()
	cmd.Env = append(os.Environ(), "GOTOOLCHAIN=local")
	if out, err := cmd.Output(); err == nil {
		src := filepath.Join(strings.TrimSpace(string(out)), "src")
		if info, err := os.Stat(src); err == nil && info.IsDir() {
			return src
		}
	}
	return "."
}

// processes is how many workers count in the first run.
func (r *run) processes() int {
	if r.interpreter.path != "" {
		return r.Workers + 1
	}
	return r.Workers
}

// create makes both blocks, large enough for what was found.
func (r *run) create(found *sources) (err error) {
	_, length := found.spread()
	// Two sets of parts: one with a share for Python, one for the comparison.
	text, size := layOut(r.processes()+r.Workers, len(found.files), found.pathBytes, length)
	slot := slotBytes(length/r.Workers + pieceBytes)
	results := headBytes + r.processes()*slot

	if r.text, err = r.block(size); err == nil {
		if r.result, err = r.block(results); err != nil {
			err = errors.Join(err, r.remove())
		}
	}
	if errors.Is(err, shm.ErrNoSpace) {
		need := int64(size + results)
		free := need / 2
		if e, ok := errors.AsType[*mem.NoSpaceError](err); ok && e.Free >= 0 {
			if free = e.Free; e.Asked == int64(results) {
				free += int64(size)
			}
		}
		// An eighth more than the files is needed; the rest is left to others.
		return &SpaceError{Need: need, Files: found.bytes, Fits: free * 3 / 4, Err: err}
	}
	if err != nil {
		return err
	}
	r.index = &index{text: text}
	r.textBytes = r.text.Bytes()[text.off:][:text.n]
	encodeResultHead(r.result.Bytes(), r.processes(), slot)
	return nil
}

// block makes one block. It is Tracked, for nobody but a clean-up process can
// tidy up after a kill -9; where there can be none, the next process does.
func (r *run) block(size int) (*shm.Block, error) {
	b, err := shm.Create("", size, &shm.CreateOptions{Lifetime: shm.Tracked, Dir: r.Dir})
	if errors.Is(err, errors.ErrUnsupported) {
		b, err = shm.Create("", size, &shm.CreateOptions{Dir: r.Dir})
	}
	return b, err
}

// remove takes both blocks away. A name that is gone already is no error.
func (r *run) remove() (err error) {
	for _, b := range []*shm.Block{r.text, r.result} {
		if b == nil {
			continue
		}
		if e := b.Unlink(); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
		err = errors.Join(err, b.Close())
	}
	return err
}

// load reads the files into the text block and writes its index.
func (r *run) load(ctx context.Context, found *sources) (err error) {
	var done atomic.Int64
	stop := r.progress("reading", found.bytes, done.Load)
	defer stop()
	if r.index.files, err = found.load(ctx, r.textBytes, &done); err != nil {
		return err
	}
	even := slices.Repeat([]float64{1}, r.Workers)
	weights := even
	if r.processes() > r.Workers {
		weights = append(slices.Clone(even), pythonShare)
	}
	r.index.parts = slices.Concat(r.index.split(r.textBytes, weights), r.index.split(r.textBytes, even))
	r.index.encode(r.text.Bytes())
	return nil
}

// progress calls Progress, if there is one.
func (r *run) progress(task string, total int64, done func() int64) (stop func()) {
	if r.Progress == nil {
		return func() {}
	}
	return r.Progress(task, total, done)
}

// count is the demo itself: all workers, each in its part.
func (r *run) count(ctx context.Context) ([]result, time.Duration, error) {
	n := r.processes()
	done, err := r.countedSoFar(n)
	if err != nil {
		return nil, 0, err
	}
	defer r.progress("counting", r.bytes(), done)()
	return r.countShared(ctx, n, 0)
}

// bytes is how much text there is.
func (r *run) bytes() (n int64) {
	for _, f := range r.index.files {
		n += int64(f.n)
	}
	return n
}

// countedSoFar returns a function that adds up what the workers say of their
// progress. Nothing depends on it but a bar on the screen.
func (r *run) countedSoFar(slots int) (func() int64, error) {
	words := make([]*uint64, slots)
	for i := range words {
		var err error
		if words[i], err = progressWord(r.result, i); err != nil {
			return nil, err
		}
	}
	return func() (sum int64) {
		for i, w := range words {
			// A worker may write nonsense, but not make the bar go beyond its part.
			sum += int64(min(atomic.LoadUint64(w), uint64(r.index.parts[i].n)))
		}
		return sum
	}, nil
}

// check counts everything again in this process and compares.
func (r *run) check(ctx context.Context, sum *merged) (seconds float64, err error) {
	var done atomic.Int64
	defer r.progress("checking", r.bytes(), done.Load)()
	start := time.Now()
	single, err := r.index.countPart(ctx, r.textBytes, extent{0, len(r.textBytes)}, func(n uint64) { done.Store(int64(n)) })
	if err != nil {
		return 0, err
	}
	seconds = time.Since(start).Seconds()
	return seconds, sum.check(single)
}

// compare measures the same work by the same Go workers with and without
// copying: in shared memory, and through pipes. Both start their processes, use
// the same code and the same even parts; they take turns, and who begins
// changes, so that a machine that gets warmer or busier treats both alike. The
// copying is measured alone, too, since the counting may hide it.
func (r *run) compare(ctx context.Context, want Tally) (c Comparison, err error) {
	c.Workers = r.Workers
	var done atomic.Int64
	// Without a total: how many turns there will be, time tells.
	defer r.progress("comparing with pipes", 0, done.Load)()
	first := r.processes()
	cpu := func() float64 { return float64(r.cpu.Swap(0)) / 1e9 }
	shared := func() error {
		results, took, err := r.countShared(ctx, r.Workers, first)
		c.Shared, c.SharedCPU = append(c.Shared, took.Seconds()), append(c.SharedCPU, cpu())
		return cmp.Or(err, sameTally(results, want))
	}
	pipes := func() error {
		results, took, err := r.countPiped(ctx, r.Workers, first)
		c.Pipes, c.PipesCPU = append(c.Pipes, took.Seconds()), append(c.PipesCPU, cpu())
		return cmp.Or(err, sameTally(results, want))
	}
	copying := func() error {
		took, err := r.copyOnly(ctx, r.Workers, first)
		c.Copying = append(c.Copying, took.Seconds())
		cpu() // is none of the next one's
		return err
	}
	cpu()
	start := time.Now()
	for turn := range compareTurns {
		if turn > 0 && time.Since(start) > compareTime {
			break
		}
		order := []func() error{shared, pipes, copying}
		if turn%2 == 1 {
			slices.Reverse(order)
		}
		for _, measure := range order {
			if err := measure(); err != nil {
				return c, err
			}
			done.Add(r.bytes())
		}
	}
	c.Ratio = c.Pipes.Median() / c.Shared.Median()
	return c, nil
}

// sameTally is an error if the results do not add up to want.
func sameTally(results []result, want Tally) error {
	var sum Tally
	for _, r := range results {
		sum.add(r.Tally)
	}
	if sum != want {
		return fmt.Errorf("counting again gave %+v instead of %+v", sum, want)
	}
	return nil
}
