package cli

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
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/platform/mem"
)

const (
	demoWorkers = 256       // more than that many would only wait for each other
	demoLimit   = 512 << 20 // so that a demo in a home folder stays a demo
	demoTop     = 10

	// pythonShare is how large Python's part is beside a Go worker's, so that
	// both end at about the same time: measured with CPython 3.8 to 3.13 on
	// Go's own source, re and Counter counted at 17 to 19 MB/s, Go at 134.
	pythonShare = 1.0 / 8

	// The comparison with pipes takes turns so often, but begins no further turn
	// after so long.
	compareTurns = 3
	compareTime  = 3 * time.Second
)

func init() { verbs = append(verbs, newDemo, newDemoWorker) }

func newDemo(a *app) *cobra.Command {
	d := &demo{a: a, limit: demoLimit}
	var noPython bool
	cmd := &cobra.Command{
		Use:   "demo [PATH...]",
		Short: "Show several processes at work on the same memory",
		Long: `demo reads a tree of files into one block of shared memory: Go's own source,
or the current folder where there is no Go, unless PATHs are given. Worker
processes then count lines, words and identifiers in it, each in its part, in
place, and put what they find into a second block. One of them is a Python
program, if there is a python3 on the PATH. It then checks the sum, and measures
how long the same takes when the text is copied through pipes.

It leaves nothing behind, also when it is interrupted or killed.`,
		Example: `  shm demo
  shm demo --workers 4 ~/src
  shm demo --limit 40M            where /dev/shm is small, as in a container`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if d.limit < 1 {
				return usageError{errors.New("--limit 0 leaves nothing to read"), "shm demo --limit 40M"}
			}
			if d.workers < 1 || d.workers > demoWorkers {
				return usageError{fmt.Errorf("--workers %d is not 1 to %d", d.workers, demoWorkers), "shm demo --help"}
			}
			d.python, d.roots = !noPython, args
			return d.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.IntVar(&d.workers, "workers", min(runtime.GOMAXPROCS(0), demoWorkers), "start `N` Go workers")
	f.BoolVar(&noPython, "no-python", false, "start no Python worker")
	f.Var(newValue(&d.limit, "SIZE", "512M", parseSize), "limit", "read at most so many bytes of files")
	return cmd
}

// demo is one run of the verb.
type demo struct {
	a       *app
	roots   []string
	workers int
	python  bool
	limit   int64

	dir          string // where the blocks are, "" for the system's place
	interpreter  interpreter
	index        *index
	text, result *shm.Block
	textBytes    []byte       // the text alone, without the index
	cpu          atomic.Int64 // processor time of the workers so far, in nanoseconds
}

// demoReport is what --json writes; the text says the same in other words.
type demoReport struct {
	Roots   []string `json:"roots"`
	Skipped int      `json:"skipped"` // files and folders that could not be read
	Why     string   `json:"skipped_why,omitempty"`
	Limited bool     `json:"limited"` // --limit left files out
	Python  string   `json:"no_python_because,omitempty"`

	Text   demoBlock `json:"text_block"`
	Result demoBlock `json:"result_block"`

	Workers  []demoWorker `json:"workers"`
	Together demoWorker   `json:"together"`
	Distinct int          `json:"distinct_identifiers"`
	Top      []identifier `json:"commonest_identifiers"`
	TopSure  bool         `json:"commonest_identifiers_exact"`

	ReadSeconds   float64     `json:"read_seconds"`
	SingleSeconds float64     `json:"single_process_seconds"` // for the same counts, checked to be equal
	Compare       demoCompare `json:"comparison"`
}

type demoBlock struct {
	Name string `json:"name"`
	Size int    `json:"size"`
}

type demoWorker struct {
	Language string `json:"language,omitempty"`
	PID      int    `json:"pid,omitempty"`
	tally
	Seconds float64 `json:"seconds"` // a worker's are without its start, the sum's are from first start to last end
}

// demoCompare has the seconds of every turn, process starts included.
type demoCompare struct {
	Workers int       `json:"workers"` // all Go
	Shared  []float64 `json:"shared_seconds"`
	Pipes   []float64 `json:"pipe_seconds"`
	Copying []float64 `json:"copy_only_seconds"` // through the same pipes, to workers that do not count
	Ratio   float64   `json:"pipes_by_shared"`   // of the medians

	// Processor time of the workers, which tells more where others keep the
	// machine busy. What this process needs to write to the pipes is not in it.
	SharedCPU []float64 `json:"shared_cpu_seconds"`
	PipesCPU  []float64 `json:"pipe_cpu_seconds"`
}

func (d *demo) run(ctx context.Context) (err error) {
	var r demoReport
	probed := make(chan struct{})
	go func() {
		defer close(probed)
		d.interpreter = findPython(ctx, d.python)
	}()
	if d.dir, err = d.a.where(); err != nil {
		<-probed
		return err
	}
	if len(d.roots) == 0 {
		d.roots = []string{defaultRoot(ctx)}
	}
	r.Roots = d.roots
	// Text, index and results are to fit an address space of 32 bits too.
	found, err := findSources(ctx, d.roots, min(d.limit, math.MaxInt/4))
	<-probed
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			err = hint(err, "shm demo .")
		}
		return err
	}
	if len(found.files) == 0 {
		return found.nothing(d.a, d.limit)
	}
	if d.dir != "" && d.interpreter.path != "" {
		d.interpreter = interpreter{why: "Python opens blocks in the system's place only"}
	}

	start := time.Now()
	if err := d.create(found); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.remove()) }()
	if err := d.load(ctx, found); err != nil {
		return err
	}
	r.ReadSeconds = time.Since(start).Seconds()
	r.Skipped, r.Limited, r.Python = found.skipped, found.limited, d.interpreter.why
	if found.why != nil {
		r.Why = found.why.Error()
	}
	if len(d.index.files) == 0 {
		return found.nothing(d.a, d.limit)
	}
	r.Text = demoBlock{d.text.Name(), d.text.Size()}
	r.Result = demoBlock{d.result.Name(), d.result.Size()}
	d.announce(&r)

	results, took, err := d.count(ctx)
	if err != nil {
		return err
	}
	sum := mergeResults(results)
	for i, res := range results {
		w := demoWorker{"Go", res.PID, res.tally, float64(res.Nanoseconds) / 1e9}
		if i == d.workers {
			w.Language = d.interpreter.version
		}
		r.Workers = append(r.Workers, w)
	}
	r.Together = demoWorker{tally: sum.tally, Seconds: took.Seconds()}
	r.Distinct = len(sum.names)
	r.Top, r.TopSure = sum.top(demoTop)
	if err := d.showWorkers(&r); err != nil {
		return err
	}

	if r.SingleSeconds, err = d.check(ctx, &sum); err != nil {
		return err
	}
	if r.Compare, err = d.compare(ctx, sum.tally); err != nil {
		return err
	}
	if err := d.showRest(&r); err != nil {
		return err
	}
	if d.a.json {
		return d.a.writeJSON(&r)
	}
	return nil
}

// nothing says why there is nothing to count.
func (s *sources) nothing(a *app, limit int64) error {
	switch {
	case s.skipped > 0:
		return hint(fmt.Errorf("none of the files can be read: %w", s.why), "shm demo .")
	case s.limited:
		return hint(fmt.Errorf("the first file is larger than %s", a.size(limit)), "shm demo --limit 4G")
	}
	return hint(errors.New("there are no files to read"), "shm demo FOLDER-WITH-FILES")
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
func (d *demo) processes() int {
	if d.interpreter.path != "" {
		return d.workers + 1
	}
	return d.workers
}

// create makes both blocks, large enough for what was found.
func (d *demo) create(found *sources) (err error) {
	_, length := found.spread()
	// Two sets of parts: one with a share for Python, one for the comparison.
	text, size := layOut(d.processes()+d.workers, len(found.files), found.pathBytes, length)
	slot := slotBytes(length/d.workers + pieceBytes)
	results := headBytes + d.processes()*slot

	if d.text, err = d.block(size); err == nil {
		if d.result, err = d.block(results); err != nil {
			err = errors.Join(err, d.remove())
		}
	}
	if errors.Is(err, shm.ErrNoSpace) {
		need := int64(size + results)
		err = fmt.Errorf("the demo needs %s of shared memory for %s of files: %w", d.a.size(need), d.a.size(found.bytes), err)
		free := need / 2
		if e, ok := errors.AsType[*mem.NoSpaceError](err); ok && e.Free >= 0 {
			if free = e.Free; e.Asked == int64(results) {
				free += int64(size)
			}
		}
		// An eighth more than the files is needed; the rest is left to others.
		if fits := free * 3 / 4 >> 20; fits > 0 {
			return hint(err, "shm demo --limit %dM", fits)
		}
		return hint(err, "shm df")
	}
	if err != nil {
		return err
	}
	d.index = &index{text: text}
	d.textBytes = d.text.Bytes()[text.off:][:text.n]
	encodeResultHead(d.result.Bytes(), d.processes(), slot)
	return nil
}

// block makes one block. It is Tracked, for nobody but a clean-up process can
// tidy up after a kill -9; where there can be none, the next process does.
func (d *demo) block(size int) (*shm.Block, error) {
	b, err := shm.Create("", size, &shm.CreateOptions{Lifetime: shm.Tracked, Dir: d.dir})
	if errors.Is(err, errors.ErrUnsupported) {
		b, err = shm.Create("", size, &shm.CreateOptions{Dir: d.dir})
	}
	return b, err
}

// remove takes both blocks away. A name that is gone already is no error.
func (d *demo) remove() (err error) {
	for _, b := range []*shm.Block{d.text, d.result} {
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
func (d *demo) load(ctx context.Context, found *sources) (err error) {
	var done atomic.Int64
	stop := d.a.progress("reading", found.bytes, done.Load)
	defer stop()
	if d.index.files, err = found.load(ctx, d.textBytes, &done); err != nil {
		return err
	}
	even := slices.Repeat([]float64{1}, d.workers)
	weights := even
	if d.processes() > d.workers {
		weights = append(slices.Clone(even), pythonShare)
	}
	d.index.parts = slices.Concat(d.index.split(d.textBytes, weights), d.index.split(d.textBytes, even))
	d.index.encode(d.text.Bytes())
	return nil
}

// count is the demo itself: all workers, each in its part.
func (d *demo) count(ctx context.Context) ([]result, time.Duration, error) {
	n := d.processes()
	done, err := d.countedSoFar(n)
	if err != nil {
		return nil, 0, err
	}
	defer d.a.progress("counting", d.bytes(), done)()
	return d.countShared(ctx, n, 0)
}

// bytes is how much text there is.
func (d *demo) bytes() (n int64) {
	for _, f := range d.index.files {
		n += int64(f.n)
	}
	return n
}

// countedSoFar returns a function that adds up what the workers say of their
// progress. Nothing depends on it but a bar on the screen.
func (d *demo) countedSoFar(slots int) (func() int64, error) {
	words := make([]*uint64, slots)
	for i := range words {
		var err error
		if words[i], err = progressWord(d.result, i); err != nil {
			return nil, err
		}
	}
	return func() (sum int64) {
		for i, w := range words {
			// A worker may write nonsense, but not make the bar go beyond its part.
			sum += int64(min(atomic.LoadUint64(w), uint64(d.index.parts[i].n)))
		}
		return sum
	}, nil
}

// check counts everything again in this process and compares.
func (d *demo) check(ctx context.Context, sum *merged) (seconds float64, err error) {
	var done atomic.Int64
	defer d.a.progress("checking", d.bytes(), done.Load)()
	start := time.Now()
	single, err := d.index.countPart(ctx, d.textBytes, extent{0, len(d.textBytes)}, func(n uint64) { done.Store(int64(n)) })
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
func (d *demo) compare(ctx context.Context, want tally) (c demoCompare, err error) {
	c.Workers = d.workers
	var done atomic.Int64
	// Without a total: how many turns there will be, time tells.
	defer d.a.progress("comparing with pipes", 0, done.Load)()
	first := d.processes()
	cpu := func() float64 { return float64(d.cpu.Swap(0)) / 1e9 }
	shared := func() error {
		results, took, err := d.countShared(ctx, d.workers, first)
		c.Shared, c.SharedCPU = append(c.Shared, took.Seconds()), append(c.SharedCPU, cpu())
		return cmp.Or(err, sameTally(results, want))
	}
	pipes := func() error {
		results, took, err := d.countPiped(ctx, d.workers, first)
		c.Pipes, c.PipesCPU = append(c.Pipes, took.Seconds()), append(c.PipesCPU, cpu())
		return cmp.Or(err, sameTally(results, want))
	}
	copying := func() error {
		took, err := d.copyOnly(ctx, d.workers, first)
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
			done.Add(d.bytes())
		}
	}
	c.Ratio = median(c.Pipes) / median(c.Shared)
	return c, nil
}

// sameTally is an error if the results do not add up to want.
func sameTally(results []result, want tally) error {
	var sum tally
	for _, r := range results {
		sum.add(r.tally)
	}
	if sum != want {
		return fmt.Errorf("counting again gave %+v instead of %+v", sum, want)
	}
	return nil
}

// median of an even number of values is the lower of the middle two.
func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[(len(v)-1)/2]
}

// announce says what the memory now holds.
func (d *demo) announce(r *demoReport) {
	if d.a.json {
		return
	}
	w := d.a.stdout
	fmt.Fprintf(w, "%s files, %s in one block %s, shared by %d processes.\n",
		grouped(len(d.index.files)), d.a.size(d.bytes()), d.a.paint(bold, r.Text.Name), d.processes()+1)
	fmt.Fprintf(w, "This process has read them into it, from %s, in %s. The others count\n", printable(strings.Join(r.Roots, " ")), seconds(r.ReadSeconds))
	fmt.Fprintf(w, "there, in place, and leave what they find in %s, %s.\n", d.a.paint(bold, r.Result.Name), d.a.size(int64(r.Result.Size)))
	if r.Limited {
		fmt.Fprintf(w, "There is more; --limit %s left it out.\n", d.a.size(d.limit))
	}
	if r.Skipped > 0 {
		fmt.Fprintf(w, "%s could not be read and are left out: %s\n", grouped(r.Skipped), oneLine(r.Why))
	}
	if r.Python != "" && d.python {
		fmt.Fprintf(w, "No Python worker: %s.\n", oneLine(r.Python))
	}
	fmt.Fprintln(w)
}

// showWorkers prints a line for each process.
func (d *demo) showWorkers(r *demoReport) error {
	if d.a.json {
		return nil
	}
	t := d.a.newTable("PROCESS", "LANGUAGE", ">PID", ">FILES", ">SIZE", ">LINES", ">WORDS", ">TIME", ">SPEED")
	line := func(name string, pid any, w demoWorker) {
		speed := "-"
		if w.Seconds > 0 {
			speed = d.a.size(int64(float64(w.Bytes)/w.Seconds)) + "/s"
		}
		t.row(name, w.Language, pid, grouped(w.Files), d.a.size(int64(w.Bytes)), grouped(w.Lines), grouped(w.Words), seconds(w.Seconds), speed)
	}
	for i, w := range r.Workers {
		line("worker "+strconv.Itoa(i+1), w.PID, w)
	}
	line("together", "", r.Together)
	if err := t.flush(); err != nil {
		return err
	}
	fmt.Fprintf(d.a.stdout, "A worker's time is that of counting; together includes starting the processes.\n\n")

	t = d.a.newTable("IDENTIFIER", ">COUNT")
	for _, id := range r.Top {
		name := id.Name
		if len(name) > 60 {
			name = name[:57] + "..."
		}
		t.row(name, grouped(id.Count))
	}
	if err := t.flush(); err != nil {
		return err
	}
	if !r.TopSure {
		fmt.Fprintln(d.a.stdout, "There were too many different ones for all to be listed: the counts are lower bounds.")
	}
	fmt.Fprintln(d.a.stdout)
	return nil
}

// showRest prints what the check and the comparison gave.
func (d *demo) showRest(r *demoReport) error {
	if d.a.json {
		return nil
	}
	w := d.a.stdout
	fmt.Fprintf(w, "%s one process alone counts the same, identifier by identifier, in %s.\n", d.a.paint(green, "Checked:"), seconds(r.SingleSeconds))
	c := r.Compare
	who := "one Go worker"
	if c.Workers > 1 {
		who = fmt.Sprintf("%d Go workers", c.Workers)
	}
	fmt.Fprintf(w, "%s %s took %s for the same in shared memory, and %s when the text was copied\nthrough pipes: %s.\n",
		d.a.paint(bold, "Compared:"), who, seconds(median(c.Shared)), seconds(median(c.Pipes)), c.verdict())
	fmt.Fprintf(w, "Their processor time was %s and %s; copying alone took %s.\n", seconds(median(c.SharedCPU)), seconds(median(c.PipesCPU)), seconds(median(c.Copying)))
	_, err := fmt.Fprintln(w, "Both blocks are removed now.")
	return err
}

// verdict puts the comparison into words, and claims no difference that one
// more turn could turn around.
func (c *demoCompare) verdict() string {
	long := fmt.Sprintf("%.2f times as long", c.Ratio)
	switch turns := len(c.Shared); {
	case turns < 2:
		return long + ", measured only once as it takes so long here"
	case c.Ratio > 1 && slices.Min(c.Pipes) > slices.Max(c.Shared):
		return fmt.Sprintf("%s (medians of %d turns)", long, turns)
	case c.Ratio < 1 && slices.Max(c.Pipes) < slices.Min(c.Shared):
		return fmt.Sprintf("pipes were faster here, %s (medians of %d turns)", long, turns)
	default:
		return fmt.Sprintf("no clear difference here, %s (medians of %d turns that overlap)", long, turns)
	}
}

func seconds(s float64) string { return fmt.Sprintf("%.2fs", s) }

// grouped writes a number with spaces between thousands.
func grouped[T int | uint64](n T) string {
	s := strconv.FormatUint(uint64(n), 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + " " + s[i:]
	}
	return s
}
