// Package cli is the command shm as a function, so that tests and other
// programs can run it without a process:
//
//	status := cli.Run(ctx, []string{"ls", "--json"}, os.Stdin, os.Stdout, os.Stderr)
//
// A file holds a group of verbs; a verb is a constructor that takes the app
// and returns a cobra command. Verbs return errors and never print them.
package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/platform/mem"
	"github.com/sharedmem/shm/internal/platform/proc"
)

// What a run of the command ends with.
const (
	exitOK          = 0
	exitFailure     = 1   // something could not be done, or doctor found something to do
	exitUsage       = 2   // the command line makes no sense
	exitInterrupted = 130 // what shells report for a program that SIGINT ended
)

// app is what all verbs share: the three streams and the global flags.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	json  bool   // --json: one document on stdout
	exact bool   // --bytes: sizes as plain numbers
	dir   string // --dir
	pid   int    // --pid
	color string // --color: auto, always or never

	// root stands before /proc, /sys and /etc wherever df and doctor read them.
	// It is "" except in tests, which put made-up machines there.
	root string
}

// Run executes one command line, args without the program's name, and returns
// the exit status. When ctx ends, it lets go of what it holds and returns; a
// read from stdin may then still hang in a goroutine, since nothing ends a read
// from a terminal.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.newRoot()
	root.SetArgs(shielded(root, args)) // never nil, which cobra takes for os.Args
	return a.report(ctx, root.ExecuteContext(ctx))
}

// newRoot returns the whole tree of verbs.
func (a *app) newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "shm",
		Short: "Look at, make and clear away shared memory",
		Long: `shm works on named blocks of shared memory, those of Go programs that use
this module and those of Python's multiprocessing.shared_memory alike.`,
		Example: `  shm put model.bin               a file into a block of that name
  shm ls -l                       what is there, and who holds it
  shm info --python model.bin     how to open it in Python
  shm df                          where the memory went`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			hint := "shm --help"
			if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
				hint = "shm " + strings.Join(s, ", shm ")
			}
			return usageError{fmt.Errorf("there is no verb %q", args[0]), hint}
		},
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			switch a.color {
			case "auto", "always", "never":
			default:
				return usageError{fmt.Errorf("--color %q is not auto, always or never", a.color), "shm --help"}
			}
			if a.pid < 0 || cmd.Flags().Changed("pid") && a.pid == 0 {
				return usageError{fmt.Errorf("--pid %d is not the number of a process", a.pid), "shm --help"}
			}
			return nil
		},
	}
	root.SuggestionsMinimumDistance = 2
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{err, cmd.CommandPath() + " --help"}
	})
	f := root.PersistentFlags()
	f.BoolVar(&a.json, "json", false, "write one JSON document")
	f.BoolVar(&a.exact, "bytes", false, "write sizes in bytes")
	f.StringVar(&a.dir, "dir", "", "look into `DIR` instead of the system's place for shared memory")
	f.IntVar(&a.pid, "pid", 0, "look into the /dev/shm that process `N` sees, in its container")
	f.StringVar(&a.color, "color", "auto", "colour: auto, always or never (NO_COLOR is heeded)")

	for _, verb := range verbs {
		root.AddCommand(verb(a))
	}
	return root
}

// verbs are the constructors of every verb, each file's added by itself.
var verbs []func(*app) *cobra.Command

// where returns the directory that the flags --dir and --pid mean, "" for the
// system's own.
func (a *app) where() (string, error) {
	if a.pid == 0 {
		return a.dir, nil
	}
	dir, err := proc.Dir(a.pid, a.dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", hint(fmt.Errorf("process %d or its shared memory directory is not there", a.pid), "ps -p %d", a.pid)
	case errors.Is(err, fs.ErrPermission):
		return "", hint(fmt.Errorf("process %d may not be looked into by this user", a.pid), "sudo shm --pid %d ls", a.pid)
	}
	return dir, err
}

// exactly and atLeast check the number of arguments as cobra's own functions
// do, but call a wrong one a usage error and say what is missing.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usageError{fmt.Errorf("%s wants %s", cmd.Name(), what), cmd.CommandPath() + " --help"}
		}
		return nil
	}
}

func atLeast(n int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return usageError{fmt.Errorf("%s wants %s", cmd.Name(), what), cmd.CommandPath() + " --help"}
		}
		return nil
	}
}

// usageError is a command line that makes no sense.
type usageError struct {
	err  error
	hint string
}

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// hintError is an error with the next thing to try.
type hintError struct {
	err  error
	hint string
}

func (e hintError) Error() string { return e.err.Error() }
func (e hintError) Unwrap() error { return e.err }

// hint adds the next thing to try to err, mostly a command line.
func hint(err error, format string, args ...any) error {
	return hintError{err, fmt.Sprintf(format, args...)}
}

// errQuiet ends a command with exitFailure when all has been said already.
var errQuiet = errors.New("failed")

// report says on stderr what went wrong, one line each and a hint after the
// last, and returns the exit status.
func (a *app) report(ctx context.Context, err error) int {
	end, own := errors.AsType[statusError](err)
	switch {
	case err == nil, isBrokenPipe(err):
		// The reader has had enough, as `head` has: that is no failure of ours.
		return exitOK
	case errors.Is(err, errQuiet):
		return exitFailure
	case own && end.error == nil:
		return end.status
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(a.stderr, "shm: interrupted")
		return exitInterrupted
	}
	lines := []error{err}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		lines = many.Unwrap()
	}
	for _, e := range lines {
		fmt.Fprintln(a.stderr, "shm:", oneLine(a.message(e)))
	}
	try := a.nextStep(lines[len(lines)-1])
	if try != "" {
		fmt.Fprintln(a.stderr, "try:", oneLine(try))
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	if own {
		return end.status
	}
	return exitFailure
}

// message is what an error says, in the words of somebody who typed a command.
func (a *app) message(err error) string {
	// The library's errors begin with the package's name already.
	text := strings.TrimPrefix(err.Error(), "shm: ")
	e, ok := errors.AsType[*shm.Error](err)
	if !ok {
		return text
	}
	if !errors.Is(e, fs.ErrNotExist) {
		return text
	}
	dir, derr := a.place()
	if derr == nil && runtime.GOOS == "linux" {
		if _, derr = os.Stat(string(cmp.Or(dir, "/dev/shm"))); derr != nil {
			return placeName(dir) + " is not there"
		}
	}
	if e.Name == "" {
		return text
	}
	return fmt.Sprintf("%s %s: there is no such block", e.Op, printable(e.Name))
}

// nextStep is what to try after err: what the verb said, or what such an error
// suggests.
func (a *app) nextStep(err error) string {
	if e, ok := errors.AsType[usageError](err); ok {
		return e.hint
	}
	if e, ok := errors.AsType[hintError](err); ok {
		return e.hint
	}
	flags := a.placeFlags()
	switch {
	case errors.Is(err, fs.ErrNotExist) && strings.HasSuffix(a.message(err), "is not there"):
		return "shm doctor" + flags
	case errors.Is(err, fs.ErrNotExist):
		return "shm ls" + flags
	case errors.Is(err, fs.ErrPermission):
		return "shm ls" + flags + "   (it says whose block it is; root may do it)"
	case errors.Is(err, mem.ErrNoSpace), errors.Is(err, syscall.ENOSPC):
		return "shm df" + flags
	}
	return ""
}

// placeFlags repeats --dir and --pid, for hints that name a command.
func (a *app) placeFlags() (s string) {
	if a.dir != "" {
		s += " --dir " + shellQuote(a.dir)
	}
	if a.pid != 0 {
		s += fmt.Sprintf(" --pid %d", a.pid)
	}
	return s
}

func isBrokenPipe(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, io.ErrClosedPipe)
}

// file returns the *os.File behind a stream, nil if it is none.
func file(stream any) *os.File {
	f, _ := stream.(*os.File)
	return f
}
