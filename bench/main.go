// Command bench measures package shm side by side with its peers, all of them
// in one run and in turns, and writes docs/benchmarks.md with its plots.
//
//	go run .          # some minutes; writes ../docs/benchmarks.md
//	go run . -quick   # under a minute; prints, and writes nothing
//	go run . -json    # prints everything it measured, each round of it
//	go run . -peers   # first builds Aeron and iceoryx2, for minutes, once
//
// A benchmark is not a test: a target that is missed is reported as such, and
// the exit code is 0. It runs on Linux.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/worker"
)

// shmDir is where blocks without a Dir lie on Linux.
const shmDir = "/dev/shm"

// env is what all cases share.
type env struct {
	count  int           // rounds
	round  time.Duration // how long one way's share of a round is
	settle time.Duration // rest between two ways
	quick  bool
	peers  bool // build those that take minutes

	prefix  string // of every name that this run gives
	tmp     string // on disk
	c       *peer  // nil if there is no C compiler
	pythons []*peer
	missing []string // the peers that could not be had, and why
}

// block is the name of a block of this run.
func (e *env) block(suffix string) string { return e.prefix + suffix }

// path is where C finds what Go knows as name.
func (e *env) path(name string) string { return filepath.Join(shmDir, name) }

// cases in the order of the document.
var cases = []struct {
	id  string
	run func(context.Context, *env) (*Result, error)
}{
	{"create", create},
	{"attach", attach},
	{"copy", copying},
	{"access", access},
	{"calls", calls},
	{"list", listing},
	{"prefault", prefault},
	{"cycles", cycles},
	{"tracked", tracked},
	{"wait", waiting},
	{"kill", killing},
	{"command", command},
	{"list-int", listInt},
	{"list-text", listText},
	{"list-create", listCreate},
	{"list-iterate", listIterate},
	{"list-open", listOpen},
	{"list-concurrent", listConcurrent},
	{"conn-64", conn64},
	{"conn-1mib", connMiB},
	{"conn-dial", connDial},
	{"manager-create", managerCreate},
	{"manager-1000", managerThousand},
	{"array-sum", arraySum},
	{"array-at", arrayAt},
	{"array-open", arrayOpen},
	{"array-hand", arrayHand},
	{"lock-alone", lockUncontended},
	{"lock-two", lockContended},
	{"lock-recovery", lockRecovery},
	{"ring-echo", ringEcho},
	{"ring-copy", ringCopy},
	{"ring-large", ringLarge},
	{"ring-place", ringPlace},
	{"ring-loaded", ringLoaded},
	{"topic-publish", topicPublish},
	{"topic-echo", topicEcho},
	{"worker-start", workerStart},
	{"worker-call", workerCall},
	{"worker-map", workerMap},
	{"worker-scale", workerScale},
	{"worker-python", workerPython},
	{"worker-array", workerArray},
}

// Report is the whole run, as -json prints it.
type Report struct {
	When    time.Time `json:"when"`
	Took    string    `json:"took"`
	Rounds  int       `json:"rounds"`
	Round   string    `json:"round"`
	Machine Machine   `json:"machine"`
	Results []*Result `json:"results"`
}

func main() {
	worker.Main()
	if len(os.Args) > 1 && os.Args[1] == roleArg {
		if err := role(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := Run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// Run is the command.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	quick := flags.Bool("quick", false, "few and short rounds, for a look; writes no document")
	asJSON := flags.Bool("json", false, "print what was measured as JSON")
	only := flags.String("run", "", "run the cases whose id matches this `regexp`; writes no document")
	peers := flags.Bool("peers", false, "first build the peers that take minutes and come from registries, and keep them in the user's cache")
	rounds := flags.Int("rounds", 0, "how many `rounds` (default 31, with -quick 5)")
	docs := flags.String("docs", "", "`folder` for benchmarks.md and benchmarks/*.svg (default ../docs for a whole run)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	pattern, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-run: %w", err)
	}
	if *docs == "" && !*quick && *only == "" {
		*docs = "../docs"
		if _, err := os.Stat("../docs"); err != nil {
			return fmt.Errorf("started in the bench folder? %w", err)
		}
	}
	// Tables for people; standard output stays clean for -json.
	out := stdout
	if *asJSON {
		out = io.Discard
	}

	e := &env{count: 31, round: 30 * time.Millisecond, settle: 3 * time.Millisecond, quick: *quick, peers: *peers,
		prefix: fmt.Sprintf("shmbench-%d-", os.Getpid())}
	if *quick {
		e.count, e.round = 5, 10*time.Millisecond
	}
	if *rounds > 0 {
		e.count = *rounds
	}
	if e.tmp, err = os.MkdirTemp("", "shmbench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.clean()) }()
	if e.c, err = startC(e.tmp); err != nil {
		e.missing = append(e.missing, "C: "+err.Error())
	} else {
		defer e.c.stop()
	}
	var missing []string
	e.pythons, missing = startPythons("3.11", "3.13")
	e.missing = append(e.missing, missing...)
	for _, p := range e.pythons {
		defer p.stop()
	}

	report := Report{When: time.Now().UTC().Truncate(time.Second), Rounds: e.count, Round: e.round.String(), Machine: machine(e.pythons)}
	if report.Machine.Busy() {
		fmt.Fprintf(stderr, "bench: the machine is busy (load %s): expect noise, and too much of it for Go, which waits longer than the peers\n", report.Machine.Before)
	}
	all, steal := ticks()
	for _, c := range cases {
		if !pattern.MatchString(c.id) {
			continue
		}
		fmt.Fprintf(stderr, "%s …\n", c.id)
		result, err := c.run(ctx, e)
		if err := ctx.Err(); err != nil {
			return err
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.id, err)
		}
		result.ID = c.id
		report.Results = append(report.Results, result)
		if err := result.print(out); err != nil {
			return err
		}
	}
	all1, steal1 := ticks()
	if all1 > all {
		report.Machine.Steal = 100 * (steal1 - steal) / (all1 - all)
	}
	report.Machine.After = load()
	report.Took = time.Since(report.When).Round(time.Second).String()
	if *asJSON {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "\t")
		if err := enc.Encode(report); err != nil {
			return err
		}
	}
	if *docs != "" {
		return report.write(*docs)
	}
	return nil
}

// clean removes whatever this run may have left, on every way out: blocks of
// processes that were killed on purpose among them.
func (e *env) clean() error {
	errs := []error{os.RemoveAll(e.tmp)}
	entries, err := os.ReadDir(shmDir)
	errs = append(errs, err)
	for _, f := range entries {
		if strings.HasPrefix(f.Name(), e.prefix) {
			errs = append(errs, os.RemoveAll(filepath.Join(shmDir, f.Name())))
		}
	}
	// What is left of the children's books: leases of dead processes.
	_, err = shm.Prune()
	return errors.Join(append(errs, err)...)
}
