// Package pyproc runs functions of Python scripts in processes that are true
// children of Python's multiprocessing: started as its own spawn starts them,
// with a parent, a name and an authentication key, and with a resource tracker
// of ours, which removes nothing that is not theirs.
//
// The helper, worker.py, is sent to the child with the first pickles. From then on
// both talk in frames of multiprocessing.connection, over a socket that the
// child has inherited:
//
//	to the child     job u64, keywords u8, length of the name u8, name, pickle of the arguments
//	                 or 0 u64, 0 u16, pickle of the names of blocks that we own now
//	                 or nothing: no more jobs
//	                 before all of these the script's text, if it is sent
//	from the child   version, as text, before anything else
//	                 job u64 (0: it is ready), state u8, count u16, so many names of blocks
//	                 (length u8, name) that shall be ours, pickle of result or exception
//
// Arguments are loaded by Python's own pickle. Results are decoded by ours, which
// knows plain values and handles of shared memory.
package pyproc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/conn"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/pickle"
	"github.com/sharedmem/shm/internal/platform/peer"
	"github.com/sharedmem/shm/internal/tracker"
)

const (
	// MaxMessage is how long a frame may be.
	MaxMessage = 1 << 30

	// direct is up to which length a frame is written by Send itself. The socket
	// has room for two of them and what is told beside, so that no write waits.
	direct = 32 << 10

	// brief is how long jobs may take on average, and the one at work may have taken,
	// for the next one to be sent before that is done. It cannot be taken back then,
	// and waits if this one should be long.
	brief = time.Millisecond

	depth   = 16
	textMax = 8 << 10 // of what a child said last
)

// Job is what Send takes: an id that is not 0, and the rest as [Encode] makes it.
type Job struct {
	ID       uint64
	Function string
	Keywords bool
	Args     []byte
}

// Result is what came of a job. Err is an [*Exception] if it raised one or
// returned what cannot be sent; else Pickle is for [Decode]. Made are blocks that the
// function has made and this process owns now, which are closed here.
type Result struct {
	ID     uint64
	Pickle []byte
	Made   []*shm.Block
	Err    error
}

// Exception is what a function raised.
type Exception struct {
	Class, Text, Traceback string
	NotSent                bool // it has returned, but what it returned cannot be sent
}

func (e *Exception) Error() string {
	if e.Traceback == "" {
		return e.Class + ": " + e.Text
	}
	return strings.TrimRight(e.Traceback, "\n")
}

// ErrVersion says that an interpreter is too old.
var ErrVersion = errors.New("a Python of 3.8 or newer is needed")

// ErrProtocol says that a child wrote something else than its helper does.
var ErrProtocol = errors.New("what the Python process sent is not what its helper sends")

// Config says what to start. None of the functions may wait for the child;
// Done and Died are called by one goroutine.
type Config struct {
	Interpreter string // a path, from Find
	Script      string // a file, if it ends in ".py", else a module
	Source      string // if not "", the text of Script, which then is but a name

	// Start starts the command, whose Env, Dir and standard streams are as the
	// caller wants them. Limit, if not nil, is called before the script is loaded.
	Command *exec.Cmd
	Start   func(*exec.Cmd) error
	Limit   func(pid int) error

	Done func(*Result)
	Died func(*Death)
}

// Death is how a child ended.
type Death struct {
	State *os.ProcessState
	Begun uint64 // the job that it had begun, 0 if none
	Said  string // the end of its standard error, if that went nowhere else
	Err   error  // what it did wrong before
}

// Child is a running Python.
type Child struct {
	Version string // "3.11.7"

	config  Config
	conn    *conn.Conn
	theirs  *os.File // its end of the connection, to end what is to be received
	spawn   *os.File // it dies when this is closed
	cancels *os.File
	tracker *tracker.Pythons
	said    *lastBytes
	exited  chan struct{} // closed when it has been waited for

	mu       sync.Mutex
	jobs     []*work // in order; those that were sent come first
	writing  bool    // a goroutine writes a long frame
	average  time.Duration
	stopping bool
}

// work is a job that has not come back.
type work struct {
	id    uint64
	frame []byte
	sent  bool
	since time.Time // when it was the first of those sent
}

// Start starts a child and returns when it has loaded its script. If ctx ends
// before, nothing is left. After a nil error Died will be called.
//
// Errors: ErrVersion; an *Exception of the script, an [*EarlyDeath]; those of
// shm.TrackPython.
func Start(ctx context.Context, config Config) (_ *Child, err error) {
	c := &Child{config: config, exited: make(chan struct{}), average: 2 * brief}
	undo := []func(){}
	defer func() {
		if err != nil {
			for _, f := range undo {
				f()
			}
		}
	}()
	if c.tracker, err = tracker.ForPythons(); err != nil {
		return nil, err
	}
	undo = append(undo, c.tracker.Release)
	ours, theirs, err := conn.ForChild(&conn.Options{MaxFrame: MaxMessage})
	if err != nil {
		return nil, err
	}
	c.conn, c.theirs = ours, theirs
	undo = append(undo, func() { _ = errors.Join(ours.Close(), theirs.Close()) })
	pipes := []*os.File{}
	for _, end := range []**os.File{&c.spawn, &c.cancels} {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		defer r.Close()
		pipes = append(pipes, r)
		undo = append(undo, func() { _ = w.Close() })
		*end = w
	}

	cmd := config.Command
	cmd.Path = config.Interpreter
	cmd.Args = []string{config.Interpreter, "-c", bootstrap, "--multiprocessing-fork"}
	cmd.ExtraFiles = []*os.File{pipes[0], theirs, pipes[1]}
	c.tracker.Prepare(cmd) // appends trackerFD
	if cmd.Stderr == nil {
		c.said = &lastBytes{}
		cmd.Stderr = c.said
	}
	if err := config.Start(cmd); err != nil {
		return nil, err
	}
	crash.Point("pyproc:started")
	go func() {
		_ = cmd.Wait() // how it ended is in ProcessState
		// Others may have inherited its end. What it has written itself is there.
		_ = peer.Shut(c.theirs)
		close(c.exited)
	}()
	if err = c.load(ctx); err != nil {
		_ = cmd.Process.Kill()
		<-c.exited
		return nil, c.early(err)
	}
	go c.receive()
	return c, nil
}

// load gives the child what it is, and waits until it is ready.
func (c *Child) load(ctx context.Context) error {
	if c.config.Limit != nil {
		if err := c.config.Limit(c.PID()); err != nil {
			return err
		}
	}
	pickles, err := family(c.config.Script, c.config.Source != "")
	if err != nil {
		return err
	}
	// The pipe takes all of it at once; a test sees to that. A child that has gone
	// is known by what it does not answer.
	_, _ = c.spawn.Write(pickles)
	if c.config.Source != "" {
		_ = c.conn.SendBytesContext(ctx, []byte(c.config.Source))
	}
	hello, err := c.conn.RecvBytesContext(ctx)
	if err != nil {
		return err
	}
	c.Version = strings.ToValidUTF8(string(hello[:min(len(hello), 20)]), "?")
	var minor int
	if n, _ := fmt.Sscanf(c.Version, "3.%d.", &minor); n != 1 || minor < 8 {
		return fmt.Errorf("%w, and %s is %s", ErrVersion, c.config.Interpreter, c.Version)
	}
	frame, err := c.conn.RecvBytesContext(ctx)
	if err != nil {
		return err
	}
	crash.Point("pyproc:ready")
	r, err := c.parse(frame)
	if err == nil && r.ID != 0 {
		err = ErrProtocol
	}
	if err != nil {
		return err
	}
	return r.Err
}

// EarlyDeath is the end of a child before it was ready.
type EarlyDeath struct{ Death }

func (e *EarlyDeath) Error() string {
	text := fmt.Sprintf("the Python process ended before it was ready (%v)", e.State)
	if e.Said != "" {
		text += ", and said: " + e.Said
	}
	return text
}

// early says why a child that has been waited for was not ready. An error in
// receiving says less than how it ended, unless a context was the reason.
func (c *Child) early(err error) error {
	var exception *Exception
	switch {
	case errors.As(err, &exception), errors.Is(err, ErrVersion), errors.Is(err, ErrProtocol),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET):
		return &EarlyDeath{Death{State: c.config.Command.ProcessState, Said: c.said.String()}}
	}
	return err
}

// PID returns the child's process ID.
func (c *Child) PID() int { return c.config.Command.Process.Pid }

// Room is how many jobs Send takes.
func (c *Child) Room() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return depth - len(c.jobs)
}

// Send hands in a job. It does not wait, and does not fail: if the child is
// gone, Died tells that the job did not begin.
func (c *Child) Send(j *Job) error {
	if len(j.Function) > 255 {
		return fmt.Errorf("the function's name has %d bytes, more than 255", len(j.Function))
	}
	if len(j.Args) > MaxMessage-512 {
		return fmt.Errorf("the argument is a pickle of %d bytes, more than %d; put it into an array or a block", len(j.Args), MaxMessage-512)
	}
	b := make([]byte, 0, 10+len(j.Function)+len(j.Args))
	b = binary.LittleEndian.AppendUint64(b, j.ID)
	keywords := byte(0)
	if j.Keywords {
		keywords = 1
	}
	b = append(b, keywords, byte(len(j.Function)))
	b = append(append(b, j.Function...), j.Args...)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.jobs = append(c.jobs, &work{id: j.ID, frame: b})
	c.pump()
	return nil
}

// pump sends what is to be sent now. Call with mu locked.
func (c *Child) pump() {
	for i, w := range c.jobs {
		if c.writing || i > 1 || i == 1 && (c.average > brief || time.Since(c.jobs[0].since) > brief) {
			return
		}
		if w.sent {
			continue
		}
		w.sent = true
		if i == 0 {
			w.since = time.Now()
		}
		frame := w.frame
		w.frame = nil
		if len(frame) <= direct {
			_ = c.conn.SendBytes(frame)
			continue
		}
		c.writing = true
		go func() {
			_ = c.conn.SendBytes(frame)
			c.mu.Lock()
			defer c.mu.Unlock()
			c.writing = false
			c.pump()
		}()
	}
	if c.stopping && len(c.jobs) == 0 && !c.writing {
		_ = c.conn.SendBytes(nil)
	}
}

// Withdraw takes back a job that was not sent to the child.
func (c *Child) Withdraw(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.find(id)
	if i < 0 || c.jobs[i].sent {
		return false
	}
	c.jobs = slices.Delete(c.jobs, i, i+1)
	return true
}

func (c *Child) find(id uint64) int {
	return slices.IndexFunc(c.jobs, func(w *work) bool { return w.id == id })
}

// Cancel raises KeyboardInterrupt in the function of a job, if it runs, and
// before it runs otherwise.
func (c *Child) Cancel(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := c.find(id); i < 0 || !c.jobs[i].sent {
		return
	}
	// A pipe that is full is that of a child that heeds no signals.
	_ = c.cancels.SetWriteDeadline(time.Now().Add(time.Millisecond))
	if _, err := c.cancels.Write(binary.LittleEndian.AppendUint64(nil, id)); err == nil {
		_ = c.config.Command.Process.Signal(syscall.SIGTERM)
	}
}

// Stop has the child end when it has done what it was sent.
func (c *Child) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopping = true
	c.pump()
}

// Kill ends the child at once.
func (c *Child) Kill() { _ = c.config.Command.Process.Kill() }

// receive takes results until there will be no more.
func (c *Child) receive() {
	var fault error
	var buf []byte
	for {
		frame, err := c.conn.AppendBytes(buf[:0])
		if err != nil {
			break
		}
		r, err := c.parse(frame)
		if err != nil {
			fault = err
			break
		}
		if buf = frame; cap(buf) > direct {
			buf = nil
		}
		if !c.finished(r.ID) {
			drop(r.Made)
			fault = fmt.Errorf("%w: the result of a job that it was not given", ErrProtocol)
			break
		}
		c.config.Done(r)
	}
	if fault != nil {
		c.Kill()
	}
	<-c.exited
	_ = c.conn.Close()
	_ = c.theirs.Close()
	_ = c.spawn.Close()
	_ = c.cancels.Close()
	// Only now may the tracker remove what is left: what the function made for us
	// has been taken.
	c.tracker.Release()
	d := &Death{State: c.config.Command.ProcessState, Said: c.said.String(), Err: fault}
	c.mu.Lock()
	if len(c.jobs) > 0 && c.jobs[0].sent {
		d.Begun = c.jobs[0].id
	}
	c.jobs = nil
	c.mu.Unlock()
	c.config.Died(d)
}

// finished takes a job off the list. The child works in order.
func (c *Child) finished(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.jobs) == 0 || c.jobs[0].id != id || !c.jobs[0].sent {
		return false
	}
	now := time.Now()
	c.average += (now.Sub(c.jobs[0].since) - c.average) / 4
	c.jobs[0] = nil
	c.jobs = c.jobs[1:]
	if len(c.jobs) > 0 {
		c.jobs[0].since = now
	}
	c.pump()
	return true
}

// The states in which a job comes back.
const (
	stateDone = iota
	stateFailed
	stateNotSent
)

// parse reads a frame, and takes over the blocks that it names.
func (c *Child) parse(b []byte) (*Result, error) {
	short := fmt.Errorf("%w: a frame of %d bytes", ErrProtocol, len(b))
	if len(b) < 11 {
		return nil, short
	}
	r := &Result{ID: binary.LittleEndian.Uint64(b)}
	state, n := b[8], int(binary.LittleEndian.Uint16(b[9:]))
	b = b[11:]
	var names []any
	for range n {
		if len(b) == 0 || len(b) <= int(b[0]) {
			return nil, short
		}
		names = append(names, string(b[1:1+int(b[0])]))
		b = b[1+int(b[0]):]
	}
	switch state {
	case stateDone:
		r.Pickle = slices.Clone(b)
	case stateFailed, stateNotSent:
		v, err := pickle.Unmarshal(b, &pickle.Options{MaxBytes: MaxMessage})
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		e := &Exception{NotSent: state == stateNotSent}
		if t, ok := v.(pickle.Tuple); ok && len(t) == 3 {
			e.Class, _ = t[0].(string)
			e.Text, _ = t[1].(string)
			e.Traceback, _ = t[2].(string)
		}
		r.Err = e
	default:
		return nil, short
	}
	if n > 0 {
		crash.Point("pyproc:came")
	}
	for _, name := range names {
		block, err := take(name.(string))
		if err != nil {
			drop(r.Made)
			return &Result{ID: r.ID, Err: fmt.Errorf("the function's block %v cannot be taken over: %w", name, err)}, nil
		}
		r.Made = append(r.Made, block)
	}
	if n > 0 {
		crash.Point("pyproc:taken")
		c.own(names)
	}
	return r, nil
}

// take makes this process the owner of what a child has made.
func take(name string) (*shm.Block, error) {
	b, err := shm.Open(name, nil)
	if err != nil {
		return nil, err
	}
	return b, errors.Join(b.Adopt(), b.Close())
}

// drop removes what nobody wants.
func drop(made []*shm.Block) {
	for _, b := range made {
		_ = b.Unlink()
	}
}

// own tells the child which blocks it need not mind any more. It is a matter of
// tidiness only: the tracker asks who owns them.
func (c *Child) own(names []any) {
	text, err := pickle.Marshal(names, nil)
	if err != nil || len(text) > direct {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.writing {
		_ = c.conn.SendBytes(append(make([]byte, 10), text...))
	}
}

// lastBytes keeps the end of what is written to it.
type lastBytes struct {
	mu sync.Mutex
	b  []byte
}

func (l *lastBytes) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	if extra := len(l.b) - textMax; extra > 0 {
		l.b = append(l.b[:0], l.b[extra:]...)
	}
	return len(p), nil
}

func (l *lastBytes) String() string {
	if l == nil {
		return ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.ToValidUTF8(strings.TrimSpace(string(l.b)), "?")
}
