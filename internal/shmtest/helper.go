package shmtest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// helperArg is a helper process's first argument; its name follows.
const helperArg = "shmtest-helper"

// Patience is how long anything waits for another process before the test
// fails. It is a watchdog, far beyond what a busy machine needs.
var Patience = func() time.Duration {
	if os.Getenv("SHM_QEMU") != "" {
		return 2 * time.Minute // emulation is slow
	}
	return 30 * time.Second
}()

var helpers = map[string]func(args []string) int{}

// Register names a function that [Start] can run in a process of its own. Its
// result is the exit status. Call it from init or TestMain.
func Register(name string, run func(args []string) int) {
	if helpers[name] != nil {
		panic("shmtest: two helpers named " + name)
	}
	helpers[name] = run
}

func isHelper() bool {
	return len(os.Args) > 2 && os.Args[1] == helperArg && os.Getenv(prefixEnv) != ""
}

func runHelper() int {
	self() // before anything changes the arguments
	run := helpers[os.Args[2]]
	if run == nil {
		fmt.Fprintf(os.Stderr, "shmtest: no helper named %q\n", os.Args[2])
		return 2
	}
	return run(os.Args[3:])
}

// stdin is a helper's standard input.
var stdin = sync.OnceValue(func() *bufio.Reader { return bufio.NewReader(os.Stdin) })

// Say writes a line for the test that started this helper process.
func Say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// Hear returns the next line that the test sends. When the test is gone it
// ends the process, so that no helper outlives what started it.
func Hear() string {
	line, err := stdin().ReadString('\n')
	if err != nil {
		os.Exit(3)
	}
	return line[:len(line)-1]
}

// Await hears one line and ends the helper process if it is another than want.
func Await(want string) {
	if got := Hear(); got != want {
		fmt.Fprintf(os.Stderr, "shmtest: got %q from the test, want %q\n", got, want)
		os.Exit(3)
	}
}

// Command returns the command that [Start] runs, for tests that change it
// first: give it to [StartCommand].
func Command(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	if !dispatched {
		// The child would run all tests, and so start children in its turn.
		t.Fatalf("helper %q: the package's TestMain does not call shmtest.Main", name)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	argv := append([]string{exe, helperArg, name}, args...)
	if qemu := os.Getenv("SHM_QEMU"); qemu != "" {
		argv = append([]string{qemu}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	id := self()
	cmd.Env = append(os.Environ(),
		prefixEnv+"="+id.prefix,
		childEnv+"="+id.child+strconv.FormatInt(id.starts.Add(1), 36)+".")
	return cmd
}

// Process is a running helper process, or another program of the test's. Its
// methods are for the test's goroutine.
type Process struct {
	Cmd *exec.Cmd

	t      testing.TB
	what   string
	stdin  io.WriteCloser
	lines  chan string   // of its standard output; closed at its end
	exited chan struct{} // closed when it has been waited for
	silent chan struct{} // closed when nobody holds its standard error any more
	closed chan struct{} // closed at the end of the test

	mu     sync.Mutex
	stderr bytes.Buffer
}

// running has every *os.Process that was started and not waited for.
var running sync.Map

// Start runs a registered helper in a process of its own, which is killed, if
// it has not ended by then, when the test ends.
func Start(t testing.TB, name string, args ...string) *Process {
	t.Helper()
	return StartCommand(t, Command(t, name, args...))
}

// StartCommand starts cmd, of which it sets the three standard streams.
func StartCommand(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{
		Cmd: cmd, t: t, what: fmt.Sprintf("%.80q", cmd.Args),
		lines:  make(chan string, 64),
		exited: make(chan struct{}), silent: make(chan struct{}), closed: make(chan struct{}),
	}
	// Pipes of our own: those of os/exec make Wait wait for everybody who
	// inherited them, such as a clean-up process.
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = inR, outW, errW
	err = cmd.Start()
	inR.Close()
	outW.Close()
	errW.Close()
	p.stdin = inW
	var readers sync.WaitGroup
	t.Cleanup(func() {
		if err == nil {
			p.Kill()
		}
		close(p.closed)
		inW.Close()
		outR.Close()
		errR.Close()
		readers.Wait()
	})
	if err != nil {
		t.Fatal(err)
	}
	running.Store(cmd.Process, true)
	go func() {
		_ = cmd.Wait() // how it ended is in cmd.ProcessState
		running.Delete(cmd.Process)
		close(p.exited)
	}()
	readers.Go(func() {
		defer close(p.lines)
		for r := bufio.NewReader(outR); ; {
			line, err := r.ReadString('\n')
			if n := len(line); n > 0 && line[n-1] == '\n' {
				line = line[:n-1]
			}
			if err != nil && line == "" {
				return
			}
			select {
			case p.lines <- line:
			case <-p.closed:
				return
			}
		}
	})
	readers.Go(func() {
		defer close(p.silent)
		_, _ = io.Copy(writerFunc(func(b []byte) (int, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.stderr.Write(b)
		}), errR)
	})
	return p
}

type writerFunc func(b []byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// PID returns the process's ID.
func (p *Process) PID() int { return p.Cmd.Process.Pid }

// Stderr returns what the process has written to its standard error so far.
func (p *Process) Stderr() string {
	select {
	case <-p.exited: // its last words may still be on their way
		select {
		case <-p.silent:
		case <-time.After(time.Second): // somebody whom it started has its standard error as well
		}
	default:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

// fatalf fails the test with what the process had to say.
func (p *Process) fatalf(format string, args ...any) {
	p.t.Helper()
	p.t.Fatalf("%s: %s\n%s", p.what, fmt.Sprintf(format, args...), p.Stderr())
}

// Line returns the next line of the process's standard output.
func (p *Process) Line() string {
	p.t.Helper()
	select {
	case line, ok := <-p.lines:
		if !ok {
			p.Wait()
			p.fatalf("ended (%v) without another line", p.Cmd.ProcessState)
		}
		return line
	case <-time.After(Patience):
		p.dump()
		p.fatalf("no line after %v", Patience)
		return ""
	}
}

// Expect fails the test unless the process's next line is want.
func (p *Process) Expect(want string) {
	p.t.Helper()
	if got := p.Line(); got != want {
		p.fatalf("got %q, want %q", got, want)
	}
}

// Send writes a line to the process's standard input.
func (p *Process) Send(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
		p.fatalf("send %q: %v", line, err)
	}
}

// CloseInput closes the process's standard input.
func (p *Process) CloseInput() { p.stdin.Close() }

// Kill kills the process, which cannot prevent it, and waits until it is gone.
func (p *Process) Kill() {
	_ = p.Cmd.Process.Kill() // an error means it is gone already
	<-p.exited
}

// Wait waits until the process ends and returns its exit status, -1 if a
// signal ended it.
func (p *Process) Wait() int {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(Patience):
		p.dump()
		p.fatalf("still running after %v", Patience)
	}
	return p.Cmd.ProcessState.ExitCode()
}

// WaitAll is Wait, and waits then for every process that inherited its
// standard error, such as Python's resource tracker. It returns what was
// written there.
func (p *Process) WaitAll() (status int, stderr string) {
	p.t.Helper()
	status = p.Wait()
	select {
	case <-p.silent:
	case <-time.After(Patience):
		p.fatalf("a process that it started is still there after %v", Patience)
	}
	return status, p.Stderr()
}

// dump kills a process that hangs, a Go program not before it has written the
// stacks of its goroutines.
func (p *Process) dump() {
	if p.Cmd.Process.Signal(syscall.SIGQUIT) == nil {
		select {
		case <-p.exited:
		case <-time.After(2 * time.Second):
		}
	}
	p.Kill()
}
