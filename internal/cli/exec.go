package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sharedmem/shm"
)

func init() { verbs = append(verbs, newExec) }

// What env and the shells return for a command that cannot be started.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
	exitSignal        = 128 // plus the signal's number
)

// statusError is an end with a status of its own. With a nil error all has been
// said.
type statusError struct {
	error
	status int
}

func (e statusError) Unwrap() error { return e.error }

func newExec(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "exec [--] COMMAND [ARG…]",
		Short: "Run a command whose Pythons remove nothing that is not theirs",
		Long: `Run COMMAND. Every CPython from 3.8 on that it starts, itself, by
multiprocessing or as a subprocess at any depth, has a resource tracker of ours
in place of its own, which would remove every block that the process opened. Ours
removes, milliseconds after the last of them has gone and however it went, the
blocks and semaphores that they made, left, and nobody else owns. What was there
before stays, and so does what a program of this module owns or made to last.

It works through the environment (PYTHONPATH and SHM_TRACKER). Pythons that do
not heed that are not reached: python -I, -E or -S, those under sudo or in a
container, and subprocesses with an environment of their own.

The exit status is the command's; 128 and the number of the signal that ended it;
126 if it cannot be run, 127 if it is not there. SIGTERM, SIGHUP, SIGINT and
SIGQUIT are passed on to it, the last two unless a terminal has done so. Linux
only.`,
		Example: `  shm exec python3 viewer.py cam0          cam0 is still there afterwards
  shm exec -- sh -c 'python3 a.py & python3 b.py'
  shm exec -- make test`,
		Args: atLeast(1, "a command"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.exec(cmd.Context(), args) },
	}
	// What follows the command is the command's.
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func (a *app) exec(ctx context.Context, args []string) error {
	cmd := a.command(args)
	if cmd.Err != nil {
		return startError("exec", args[0], cmd.Err)
	}
	release, err := shm.TrackPython(cmd)
	if err != nil {
		return err
	}
	return a.run(ctx, "exec", cmd, release)
}

// command prepares the command line args, on our streams.
func (a *app) command(args []string) *exec.Cmd {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.stdin, a.stdout, a.stderr
	// Where a stream is no file, os/exec copies it, and would wait for its end.
	cmd.WaitDelay = grace
	return cmd
}

// run runs cmd for a verb until it ends, and passes signals on to it. It calls
// started when it has started or failed to.
func (a *app) run(ctx context.Context, verb string, cmd *exec.Cmd, started func()) error {
	// Before the start, so that none is lost.
	signals := make(chan os.Signal, 8)
	a.notify(signals)
	defer signal.Stop(signals)
	err := cmd.Start()
	started()
	if err != nil {
		return startError(verb, cmd.Args[0], err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for cancelled := ctx.Done(); ; {
		select {
		case s := <-signals:
			if passedOn(a, s) {
				_ = cmd.Process.Signal(s) // an error means that it has ended
			}
		case <-cancelled:
			cancelled = nil
			// If it was a signal, the cause says so, and passing that on is all: the
			// command may live on after ^C.
			if context.Cause(ctx) == ctx.Err() { //nolint:errorlint // a signal's cause claims to be Canceled, too
				_ = cmd.Process.Signal(syscall.SIGTERM)
			}
		case err := <-ended:
			return statusOf(err)
		}
	}
}

// notify asks for the signals to pass on, but not for those that this process
// was started to ignore (nohup): the command shall ignore them as well.
func (a *app) notify(c chan<- os.Signal) {
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		if !signal.Ignored(s) {
			signal.Notify(c, s)
		}
	}
}

// passedOn tells whether the command needs s from us. A terminal sends ^C and ^\
// to the whole group of processes, the command included, and twice is once too
// often for a program that is cleaning up.
func passedOn(a *app, s os.Signal) bool {
	if s != os.Interrupt && s != syscall.SIGQUIT {
		return true
	}
	return !slices.ContainsFunc([]any{a.stdin, a.stdout, a.stderr}, func(stream any) bool {
		f := file(stream)
		return f != nil && term.IsTerminal(int(f.Fd()))
	})
}

func statusOf(err error) error {
	exit, ok := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return nil
	case !ok:
		return err
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return statusError{nil, exitSignal + int(ws.Signal())}
	}
	return statusError{nil, exit.ExitCode()}
}

// startError says why a verb could not start the command name.
func startError(verb, name string, err error) error {
	var text error
	status := exitNotExecutable
	try := "ls -l " + shellQuote(name)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		text, try, status = fmt.Errorf("there is no command %s in PATH", printable(name)), "command -v "+shellQuote(name), exitNotFound
	case errors.Is(err, exec.ErrDot):
		text, try = fmt.Errorf("%s is in the current directory, where it was not looked for", printable(name)), "shm "+verb+" "+shellQuote("./"+name)
	case errors.Is(err, fs.ErrNotExist):
		text, status = fmt.Errorf("there is no file %s, or what its first line names is missing", printable(name)), exitNotFound
	default:
		text = fmt.Errorf("cannot run %s: %w", printable(name), err)
	}
	return statusError{hint(text, "%s", try), status}
}
