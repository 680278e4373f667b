package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/platform/peer"
	"github.com/sharedmem/shm/internal/platform/proc"
	"github.com/sharedmem/shm/internal/platform/wait"
)

// self is the program of Go functions: this one again.
var self program = selfProgram{}

type selfProgram struct{}

// goLink is a child of this program. What it does in shared memory is described in shared.go.
type goLink struct {
	host host
	cmd  *exec.Cmd
	conn *net.UnixConn
	area *area

	tail atomic.Uint64        // the last slot that was used
	head atomic.Uint64        // the last one that is done with
	jobs [depth]atomic.Uint64 // whose they are

	polling sync.Mutex
	dead    bool // the block is gone; polling's
	mu      sync.Mutex
	files   map[uint64][]*os.File // that have come for results

	stage  atomic.Int32  // starting, then for good what start makes of it
	ready  chan struct{} // closed when the child has said so
	broken atomic.Bool   // it has closed the socket
	lived  atomic.Bool   // and was not about to end
	killed atomic.Bool
	heard  chan struct{} // closed when it says no more
	exited chan struct{}
}

// A link's stages. A child may end, or be given up, just when it is ready: then either start
// or watch has the block, and the other one never looks at it again.
const (
	starting = iota
	started  // the pool has the link
	failed   // it never will
)

func (selfProgram) start(ctx context.Context, o *Options, h host) (link, error) {
	if !mainCalled.Load() {
		return nil, ErrNoMain
	}
	if err := wait.Supported(); err != nil {
		return nil, err
	}
	exe, err := proc.Executable()
	if err != nil {
		return nil, err
	}
	l := &goLink{host: h, files: map[uint64][]*os.File{}, ready: make(chan struct{}), heard: make(chan struct{}), exited: make(chan struct{})}
	if l.area, err = newArea(); err != nil {
		return nil, err
	}
	var there *os.File
	if l.conn, there, err = peer.Messages(); err != nil {
		return nil, errors.Join(err, l.area.block.Close())
	}
	files := []*os.File{there}
	for _, b := range []interface{ File() (*os.File, error) }{l.area.block, h.bell().block} {
		f, ferr := b.File()
		if ferr != nil {
			err = ferr
			break
		}
		files = append(files, f)
	}
	if err == nil {
		l.cmd = &exec.Cmd{Path: exe, Args: []string{sentinel}, ExtraFiles: files}
		err = o.start(l.cmd)
	}
	for _, f := range files {
		_ = f.Close()
	}
	if err != nil {
		return nil, errors.Join(err, l.conn.Close(), l.area.block.Close())
	}
	// Our end of everything is open here only: the child and those whom it starts have
	// nothing by which they could keep each other alive.
	crash.Point("pool:started")
	greeting, _ := json.Marshal(hello{Version: version, Waiting: o.Waiting}) // numbers only
	if err = o.limit(l.pid()); err == nil {
		err = peer.Send(l.conn, append([]byte{frameHello}, greeting...), nil)
	}
	crash.Point("pool:greeted")
	go l.listen()
	go l.watch(o)
	if err == nil {
		select {
		case <-l.ready:
			if l.stage.CompareAndSwap(starting, started) {
				crash.Point("pool:ready")
				return l, nil
			}
			<-l.exited
			err = l.early()
		case <-l.exited:
			err = l.early()
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	l.stage.Store(failed)
	l.kill()
	<-l.exited
	_ = l.area.block.Close()
	return nil, err
}

// early says why a child may have ended before it was ready.
func (l *goLink) early() error {
	d := deathOf(l.cmd.ProcessState)
	d.Crash = l.crash()
	if d.Hint = scarce(d.Crash); d.Hint == "" {
		// One that gets no threads may have no way yet to tell us.
		d.Hint = "before it was ready; what runs before worker.Main, inits among it, runs in every worker; Go needs threads and memory, too (ulimit -u and -v, UserProcesses and AddressSpace in Limits); Stderr in Options tells more"
	}
	return d
}

// scarce says of a crash what there was too little of. The run-time does not: the text
// comes before what it writes to where crashes go.
func scarce(crash string) string {
	switch {
	case !strings.Contains(crash, "runtime.throw("):
	case strings.Contains(crash, "runtime.newosproc("):
		return "as it could have no more threads; raise the limit (ulimit -u, or UserProcesses in Limits)"
	case strings.Contains(crash, "runtime.mallocgc("):
		return "as Go could have no more memory (ulimit -v, or AddressSpace and DataSize in Limits); what shm.Create cannot have is an error instead"
	}
	return ""
}

// start starts a child's process, with standard streams, processors and niceness.
func (o *Options) start(cmd *exec.Cmd) error {
	cmd.Env, cmd.Dir = o.Env, o.Dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = o.Stdin, o.Stdout, o.Stderr
	// Processes that the child leaves behind may hold its streams for ever.
	cmd.WaitDelay = o.Grace
	return proc.Start(cmd, o.CPUs, o.Nice)
}

// limit sets the resource limits of a child that waits for its first message.
func (o *Options) limit(pid int) error {
	for _, l := range o.Limits {
		if err := proc.SetLimit(pid, proc.Resource(l.Resource), l.Max); err != nil {
			return fmt.Errorf("limit %d to %d: %w", l.Resource, l.Max, err)
		}
	}
	return nil
}

func deathOf(s *os.ProcessState) *Death {
	d := &Death{Code: s.ExitCode(), state: s}
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		d.Signal = w.Signal()
	}
	return d
}

func (l *goLink) pid() int { return l.cmd.Process.Pid }

// listen hears what the child says beside results.
func (l *goLink) listen() {
	defer close(l.heard)
	buf := make([]byte, peer.Message)
	for ready := false; ; {
		n, files, err := peer.Receive(l.conn, buf)
		if err != nil {
			// It has ended or is about to; or it has closed what is not its own, and then
			// nobody can tell it anything any more.
			l.lived.Store(!proc.Exiting(l.pid()))
			l.broken.Store(true)
			l.kill0()
			return
		}
		switch kind, seq := parseFrame(buf[:n]); {
		case kind == frameReady && !ready:
			ready = true
			close(l.ready)
		case kind == frameFiles:
			l.mu.Lock()
			l.files[seq] = append(l.files[seq], files...)
			l.mu.Unlock()
			l.poll()
		default:
			for _, f := range files {
				_ = f.Close()
			}
		}
	}
}

// watch waits for the child's end and tells the host.
func (l *goLink) watch(o *Options) {
	proc.AwaitExit(l.cmd.Process)
	_ = l.cmd.Wait() // how it ended is in ProcessState
	// Its last words are heard to the end, unless a process that it left has the socket, too.
	select {
	case <-l.heard:
	case <-time.After(time.Second):
	}
	_ = l.conn.Close()
	<-l.heard
	l.stage.CompareAndSwap(starting, failed)
	close(l.exited)
	if l.stage.Load() != started {
		return // start tells, and closes the block
	}
	l.polling.Lock()
	for l.take(true) {
	}
	l.polling.Unlock()
	d := deathOf(l.cmd.ProcessState)
	d.Crash = l.crash()
	d.Hint = scarce(d.Crash)
	switch {
	case l.killed.Load(), d.Hint != "":
	case l.lived.Load() && d.Signal == syscall.SIGKILL:
		d.Hint = "since it had closed its socket to this process, descriptor 3 or a copy of it; functions must close only what they opened"
	case d.Signal == syscall.SIGKILL:
		d.Hint = "which somebody sent: the kernel, if memory ran out or a limit was reached (see dmesg), or a person"
	case d.Crash == "" && d.Signal == 0:
		d.Hint = "which the function called os.Exit for, or a library exit; a function returns an error instead"
	}
	l.mu.Lock()
	for _, files := range l.files {
		for _, f := range files {
			_ = f.Close()
		}
	}
	l.files = nil
	l.mu.Unlock()
	// The words are looked at by the host once more; then the block can go.
	begun := map[uint64]bool{}
	for seq := l.head.Load() + 1; seq <= l.tail.Load(); seq++ {
		if w := l.area.slot(seq).words[wordState].Load(); w&stateMask == slotBegun || w&stateMask == slotDone {
			begun[l.jobs[seq%depth].Load()] = true
		}
	}
	l.host.died(l, d, func(id uint64) bool { return begun[id] })
	// The pool has forgotten us, but somebody may still be polling.
	l.polling.Lock()
	l.dead = true
	l.polling.Unlock()
	_ = l.area.block.Close()
}

// crash reads what the run-time wrote there at the child's end.
func (l *goLink) crash() string {
	text, _, _ := strings.Cut(string(l.area.crash), "\x00")
	return strings.ToValidUTF8(text, "\uFFFD")
}

func (l *goLink) room() int { return depth - int(l.tail.Load()-l.head.Load()) }

func (l *goLink) send(j *job) error {
	seq := l.tail.Load() + 1
	s := l.area.slot(seq)
	if len(j.in.files) > 0 {
		_ = l.conn.SetWriteDeadline(time.Now().Add(time.Second))
		if err := sendFiles(l.conn, seq, j.in.files); err != nil && !l.gone(err) {
			l.kill0() // some may have come, which the next job would find
			return err
		}
	}
	if !s.put(j.name, &j.in, 0, nil) {
		return fmt.Errorf("an argument of %d bytes %w", len(j.in.data), ErrEncode)
	}
	l.jobs[seq%depth].Store(j.id)
	crash.Point("pool:put")
	s.words[wordState].Store(seq<<stateBits | slotQueued)
	crash.Point("pool:queued")
	l.tail.Store(seq)
	wakeUp(l.area.wake)
	return nil
}

// gone reports whether the child has ended; died tells, or will.
func (l *goLink) gone(err error) bool {
	return l.broken.Load() || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// find returns the slot of a job that is on its way.
func (l *goLink) find(id uint64) (seq uint64, ok bool) {
	for seq := l.tail.Load(); seq > l.head.Load(); seq-- {
		if l.jobs[seq%depth].Load() == id {
			return seq, true
		}
	}
	return 0, false
}

func (l *goLink) withdraw(id uint64) bool {
	seq, ok := l.find(id)
	return ok && l.area.slot(seq).words[wordState].CompareAndSwap(seq<<stateBits|slotQueued, seq<<stateBits|slotWithdrawn)
}

func (l *goLink) cancel(id uint64) {
	if seq, ok := l.find(id); ok {
		l.tell(frameCancel, seq)
	}
}

func (l *goLink) stop() {
	crash.Point("pool:stopping")
	l.tell(frameStop, 0)
}

func (l *goLink) kill() {
	l.killed.Store(true)
	l.kill0()
}

func (l *goLink) kill0() { _ = l.cmd.Process.Kill() }

// tell sends a short message. A child that does not hear it has ended, or is stopped and
// its socket full; that one will be killed when its time is over.
func (l *goLink) tell(kind byte, seq uint64) {
	_ = l.conn.SetWriteDeadline(time.Now().Add(time.Second))
	_ = peer.Send(l.conn, frame(kind, seq), nil)
}

func (l *goLink) poll() (some bool) {
	// Not TryLock: who has it may have looked just before a result came, and we are
	// about to sleep.
	l.polling.Lock()
	for l.take(false) {
		some = true
	}
	l.polling.Unlock()
	return some
}

// take takes the next result, if it is there; last says that no more will come. Call with
// polling locked.
func (l *goLink) take(last bool) bool {
	seq := l.head.Load() + 1
	if seq > l.tail.Load() || l.dead {
		return false
	}
	s := l.area.slot(seq)
	id := l.jobs[seq%depth].Load()
	switch w := s.words[wordState].Load(); {
	case w == seq<<stateBits|slotWithdrawn:
		l.head.Store(seq)
		return true
	case w != seq<<stateBits|slotDone:
		return false
	}
	r, ok := l.result(seq, s, last)
	if ok {
		l.head.Store(seq)
		l.host.done(l, id, r)
	}
	return ok
}

// result reads what is in a slot. Not ok if descriptors are missing, which are on their
// way, or died with the child.
func (l *goLink) result(seq uint64, s *slot, last bool) (r *reply, ok bool) {
	m, err := s.get(false)
	if err != nil {
		return &reply{err: err}, true
	}
	r = &reply{}
	if m.files > 0 {
		l.mu.Lock()
		files := l.files[seq]
		if len(files) < m.files {
			l.mu.Unlock()
			return nil, false
		}
		r.files = files
		delete(l.files, seq)
		l.mu.Unlock()
	}
	if len(m.extra) > 0 {
		crash.Point("pool:came")
		var gone bool
		if r.taken, ok, gone = takeOffers(m.extra); !ok {
			r.drop()
			if gone || last {
				return nil, false // its death is about to be told
			}
			return &reply{err: fmt.Errorf("%w: a block that it returns cannot be taken over; it must not be unlinked", ErrProtocol)}, true
		}
		crash.Point("pool:taken")
		l.tell(frameTaken, seq)
		crash.Point("pool:told")
	}
	if m.flags&flagFailed != 0 {
		r.err = parseFailure(m.data)
		return r, true
	}
	r.fill(m)
	r.data = append([]byte(nil), m.data...) // the slot is used again
	return r, true
}
