package manager

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/sharedmem/shm/conn"
	"github.com/sharedmem/shm/internal/platform/proc"
)

// A server in a process of its own is this program, executed again. It is taken
// for one only if argv[0] says so and descriptors 3 and 4 are pipes on which its
// parent says so as well; never by an environment variable alone, which every
// child would inherit.
const (
	sentinel = "shm-manager"
	hello    = "shm-manager 1"
)

func init() {
	if len(os.Args) > 0 && os.Args[0] == sentinel && proc.IsPipe(3) && proc.IsPipe(4) {
		serveChild()
	}
}

// order is what the child is to do: those of Options that can be told.
type order struct {
	Options
	Conn struct { // in place of that of Options
		Digests              []conn.Digest
		MaxFrame, MaxPending int
		HandshakeTimeout     time.Duration
	}
}

// report is what the child tells when it listens, or why it does not.
type report struct{ Address, Error string }

// serveChild is the process. It returns, and lets the program be what it
// otherwise is, if nobody speaks our language on the pipe.
func serveChild() {
	in := bufio.NewReader(os.NewFile(3, "pipe"))
	if line, err := in.ReadString('\n'); err != nil || line != hello+"\n" {
		return
	}
	out := os.NewFile(4, "pipe")
	proc.CloseFrom(5) // what our parent inherited is none of our business
	// As Python's server: ^C is for its users, who may still need it.
	signal.Ignore(os.Interrupt, syscall.SIGHUP)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var o order
	err := json.NewDecoder(in).Decode(&o)
	if err == nil {
		o.Options.Conn = conn.Options{
			Digests: o.Conn.Digests, MaxFrame: o.Conn.MaxFrame, MaxPending: o.Conn.MaxPending, HandshakeTimeout: o.Conn.HandshakeTimeout,
		}
		err = Serve(ctx, &o.Options, func(m *Manager) {
			_ = json.NewEncoder(out).Encode(report{Address: m.Address()})
			_ = out.Close()
		})
	}
	if err != nil {
		_ = json.NewEncoder(out).Encode(report{Error: err.Error()})
		os.Exit(1)
	}
	os.Exit(0)
}

// process is a server's process.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // how it ended; read after done
}

func startProcess(ctx context.Context, o Options) (*Manager, error) {
	fail := func(err error) (*Manager, error) {
		return nil, fmt.Errorf("manager: cannot start its process: %w", err)
	}
	if o.Conn.CheckPeer != nil || o.Conn.Refused != nil || o.Conn.NoAuth {
		return fail(fmt.Errorf("functions in Options.Conn are of this process: %w", errors.ErrUnsupported))
	}
	what := order{Options: o}
	what.Options.Conn = conn.Options{}
	what.Conn.Digests, what.Conn.MaxFrame = o.Conn.Digests, o.Conn.MaxFrame
	what.Conn.MaxPending, what.Conn.HandshakeTimeout = o.Conn.MaxPending, o.Conn.HandshakeTimeout
	exe, err := proc.Executable()
	if err != nil {
		return fail(err)
	}
	toR, toW, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	defer toW.Close()
	fromR, fromW, err := os.Pipe()
	if err != nil {
		toR.Close()
		return fail(err)
	}
	defer fromR.Close()
	cmd := &exec.Cmd{
		Path: exe, Args: []string{sentinel}, Dir: "/",
		Env:         os.Environ(), // for the sake of what the loader needs
		ExtraFiles:  []*os.File{toR, fromW},
		Stderr:      os.Stderr,
		SysProcAttr: proc.Detached(), // it is not to end with our terminal
	}
	err = cmd.Start()
	toR.Close()
	fromW.Close()
	if err != nil {
		return fail(err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	stop := context.AfterFunc(ctx, func() { _ = fromR.SetReadDeadline(time.Now()) })
	defer stop()
	// The key goes through a pipe: arguments and environment can be read by others.
	_, err = fmt.Fprintln(toW, hello)
	if err == nil {
		err = json.NewEncoder(toW).Encode(what)
	}
	var r report
	if err == nil {
		err = json.NewDecoder(fromR).Decode(&r)
	}
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case err != nil:
		err = fmt.Errorf("%w (it is this program executed again; is the main program not written in Go?)", err)
	case r.Error != "":
		err = errors.New(r.Error)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		<-p.done
		return fail(err)
	}
	return &Manager{opts: o, address: r.Address, child: p}, nil
}

func (p *process) wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// end waits for the process to end, and sees to it that it does.
func (p *process) end(ctx context.Context, patience time.Duration) error {
	for _, step := range []func() error{
		func() error { return nil }, // it has been told over the wire
		func() error { return p.cmd.Process.Signal(syscall.SIGTERM) },
		p.cmd.Process.Kill,
	} {
		_ = step()
		turn, cancel := context.WithTimeout(ctx, patience)
		err := p.wait(turn)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return err
		}
	}
	return errors.New("manager: its process does not end")
}
