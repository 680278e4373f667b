package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sharedmem/shm/internal/demo"
)

const (
	demoWorkerVerb = "demo-worker" // hidden

	demoWorkers = 256       // more than that many would only wait for each other
	demoLimit   = 512 << 20 // so that a demo in a home folder stays a demo
)

func init() { verbs = append(verbs, newDemo, newDemoWorker) }

func newDemo(a *app) *cobra.Command {
	d := &demoRun{a: a}
	d.Limit = demoLimit
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

It leaves nothing behind, also when it is interrupted or killed. Without --limit
it reads what there is room for.`,
		Example: `  shm demo
  shm demo --workers 4 ~/src
  shm demo --limit 40M            leave the rest of /dev/shm to others`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if d.Limit < 1 {
				return usageError{errors.New("--limit 0 leaves nothing to read"), "shm demo --limit 40M"}
			}
			if d.Workers < 1 || d.Workers > demoWorkers {
				return usageError{fmt.Errorf("--workers %d is not 1 to %d", d.Workers, demoWorkers), "shm demo --help"}
			}
			d.Python, d.Roots = !noPython, args
			d.limited = cmd.Flags().Changed("limit")
			return d.run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.IntVar(&d.Workers, "workers", min(runtime.GOMAXPROCS(0), demoWorkers), "start `N` Go workers")
	f.BoolVar(&noPython, "no-python", false, "start no Python worker")
	f.Var(newValue(&d.Limit, "SIZE", "512M", parseSize), "limit", "read at most so many bytes of files")
	return cmd
}

// newDemoWorker is the verb that Go workers run.
func newDemoWorker(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    demoWorkerVerb + " [ARG...]",
		Short:  "Be a worker of demo",
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			err := demo.Work(cmd.Context(), a.dir, args, a.stdin, a.stdout)
			if errors.Is(err, demo.ErrArgs) {
				return usageError{err, "shm demo"}
			}
			return err
		},
	}
}

// demoRun is one run of the verb.
type demoRun struct {
	a       *app
	limited bool // --limit was given
	demo.Options
}

func (d *demoRun) run(ctx context.Context) (err error) {
	if d.Dir, err = d.a.where(); err != nil {
		return err
	}
	d.Worker, d.Progress = d.worker, d.a.progress
	if !d.a.json {
		d.Loaded, d.Counted = d.showLoaded, d.showCounted
	}
	r, err := demo.Run(ctx, d.Options)
	if e, ok := errors.AsType[*demo.SpaceError](err); ok && !d.limited && e.Fits >= 1<<20 {
		// The /dev/shm of a container has 64 MB, unless somebody knew better. A
		// first try should show something there too.
		fmt.Fprintf(d.a.stderr, "note: the demo would need %s of shared memory and takes what there is: %v\n", d.a.size(e.Need), e.Err)
		d.Limit = e.Fits
		r, err = demo.Run(ctx, d.Options)
	}
	switch {
	case err != nil:
		return d.explain(err)
	case d.a.json:
		return d.a.writeJSON(r)
	}
	return d.showRest(r)
}

// worker runs this program again, to be a worker.
func (d *demoRun) worker(ctx context.Context, args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	argv := []string{demoWorkerVerb}
	if d.Dir != "" {
		argv = append(argv, "--dir", d.Dir)
	}
	return exec.CommandContext(ctx, self, append(argv, args...)...)
}

// explain puts an error in terms of flags and adds what to try.
func (d *demoRun) explain(err error) error {
	if e, ok := errors.AsType[*demo.SpaceError](err); ok {
		err = fmt.Errorf("the demo needs %s of shared memory for %s of files: %w", d.a.size(e.Need), d.a.size(e.Files), e.Err)
		if fits := e.Fits >> 20; fits > 0 {
			return hint(err, "shm demo --limit %dM", fits)
		}
		return hint(err, "shm df")
	}
	if _, ok := errors.AsType[*demo.ReadError](err); ok {
		return hint(err, "shm demo .")
	}
	switch {
	case errors.Is(err, demo.ErrLimit):
		return hint(fmt.Errorf("the first file is larger than %s", d.a.size(d.Limit)), "shm demo --limit 4G")
	case errors.Is(err, demo.ErrEmpty):
		return hint(err, "shm demo FOLDER-WITH-FILES")
	}
	return err
}

// showLoaded says what the memory now holds.
func (d *demoRun) showLoaded(r *demo.Report) error {
	w := d.a.stdout
	fmt.Fprintf(w, "%s files, %s in one block %s, shared by %d processes.\n",
		grouped(r.Files), d.a.size(r.Bytes), d.a.paint(bold, r.Text.Name), r.Processes)
	fmt.Fprintf(w, "This process has read them into it, from %s, in %s. The others count\n", printable(strings.Join(r.Roots, " ")), seconds(r.ReadSeconds))
	fmt.Fprintf(w, "there, in place, and leave what they find in %s, %s.\n", d.a.paint(bold, r.Result.Name), d.a.size(int64(r.Result.Size)))
	if r.Limited {
		fmt.Fprintf(w, "There is more, which the limit of %s left out.\n", d.a.size(d.Limit))
	}
	if r.Skipped > 0 {
		fmt.Fprintf(w, "%s could not be read and are left out: %s\n", grouped(r.Skipped), oneLine(r.Why))
	}
	if r.NoPython != "" && d.Python {
		fmt.Fprintf(w, "No Python worker: %s.\n", oneLine(r.NoPython))
	}
	_, err := fmt.Fprintln(w)
	return err
}

// showCounted prints a line for each process, and the commonest identifiers.
func (d *demoRun) showCounted(r *demo.Report) error {
	t := d.a.newTable("PROCESS", "LANGUAGE", ">PID", ">FILES", ">SIZE", ">LINES", ">WORDS", ">TIME", ">SPEED")
	line := func(name string, pid any, w demo.Worker) {
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
func (d *demoRun) showRest(r *demo.Report) error {
	w := d.a.stdout
	fmt.Fprintf(w, "%s one process alone counts the same, identifier by identifier, in %s.\n", d.a.paint(green, "Checked:"), seconds(r.SingleSeconds))
	c := &r.Compare
	who := "one Go worker"
	if c.Workers > 1 {
		who = fmt.Sprintf("%d Go workers", c.Workers)
	}
	fmt.Fprintf(w, "%s %s took %s for the same in shared memory, and %s when the text was copied\nthrough pipes: %s.\n",
		d.a.paint(bold, "Compared:"), who, seconds(c.Shared.Median()), seconds(c.Pipes.Median()), verdict(c))
	fmt.Fprintf(w, "Their processor time was %s and %s; copying alone took %s.\n", seconds(c.SharedCPU.Median()), seconds(c.PipesCPU.Median()), seconds(c.Copying.Median()))
	_, err := fmt.Fprintln(w, "Both blocks are removed now.")
	return err
}

// verdict puts the comparison into words, and claims no difference that one
// more turn could turn around.
func verdict(c *demo.Comparison) string {
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
