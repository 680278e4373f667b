package manager

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/conn"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/lease"
	"github.com/sharedmem/shm/internal/pickle"
	"github.com/sharedmem/shm/list"
)

// maxAnswer bounds what a server can make us hold: a list of a million names.
const maxAnswer = 64 << 20

// dial connects to the server.
func (m *Manager) dial(ctx context.Context) (*conn.Conn, error) {
	c, err := conn.Dial(ctx, m.address, m.opts.AuthKey, &m.opts.Conn)
	if err != nil {
		return nil, fmt.Errorf("manager: %w", err)
	}
	return c, nil
}

// A line is a connection to the server. Servers of ours listen on after their
// answer, so that a client which goes on asking need not go through the handshake
// each time; Python's hang up.
type line struct {
	*conn.Conn
	kept bool // it has served before, and may have ended since
	over bool // it is not to serve again
}

// Lines that nobody needs are kept for as long as a busy client's pauses last.
const (
	maxLines  = 8
	keepLines = time.Second
)

// lines are those that are not in use.
type lines struct {
	mu      sync.Mutex
	idle    []*conn.Conn
	timer   *time.Timer
	oneShot bool // the server hangs up after each answer
}

// line returns a connection, a new one if none is idle.
func (m *Manager) line(ctx context.Context) (*line, error) {
	m.lines.mu.Lock()
	if n := len(m.lines.idle); n > 0 {
		c := m.lines.idle[n-1]
		m.lines.idle = m.lines.idle[:n-1]
		m.lines.mu.Unlock()
		return &line{Conn: c, kept: true}, nil
	}
	m.lines.mu.Unlock()
	c, err := m.dial(ctx)
	return &line{Conn: c}, err
}

// leave is the end of a line's use.
func (m *Manager) leave(l *line) {
	m.lines.mu.Lock()
	defer m.lines.mu.Unlock()
	if l.over || m.lines.oneShot || len(m.lines.idle) >= maxLines {
		_ = l.Close()
		return
	}
	m.lines.idle = append(m.lines.idle, l.Conn)
	if m.lines.timer == nil {
		m.lines.timer = time.AfterFunc(keepLines, m.hangUp)
	}
	m.lines.timer.Reset(keepLines)
}

// hangUp closes the lines that nobody uses.
func (m *Manager) hangUp() {
	m.lines.mu.Lock()
	defer m.lines.mu.Unlock()
	for _, c := range m.lines.idle {
		_ = c.Close()
	}
	m.lines.idle = nil
	if m.lines.timer != nil {
		m.lines.timer.Stop() // the next line sets it again
	}
}

// request sends a request and returns the answer, over a new connection if the
// line has ended meanwhile.
func (m *Manager) request(ctx context.Context, l *line, method string, args ...any) (any, error) {
	v, err := m.ask(ctx, l, method, args...)
	_, answered := errors.AsType[*RemoteError](err)
	if err == nil || answered {
		return v, err
	}
	l.over = true
	if !l.kept || ctx.Err() != nil {
		return nil, err
	}
	// A server that does not listen on has not read the request either.
	_ = l.Close()
	m.lines.mu.Lock()
	m.lines.oneShot = true
	m.lines.mu.Unlock()
	c, err := m.dial(ctx)
	if err != nil {
		return nil, err
	}
	*l = line{Conn: c}
	return m.request(ctx, l, method, args...)
}

// call sends one request and returns the answer.
func (m *Manager) call(ctx context.Context, method string, args ...any) (any, error) {
	l, err := m.line(ctx)
	if err != nil {
		return nil, err
	}
	defer m.leave(l)
	return m.request(ctx, l, method, args...)
}

// offered is an argument that goes with a request to a server of ours.
type offered string

func (m *Manager) ask(ctx context.Context, l *line, method string, args ...any) (any, error) {
	kwds := pickle.Dict{}
	if n := len(args) - 1; n >= 0 {
		if offer, ok := args[n].(offered); ok {
			args = args[:n]
			// A connection that has served before is one to ours: Python's servers
			// hang up after an answer, and never read what comes then.
			if l.kept && offer != "" {
				kwds = pickle.Dict{{Key: keyOffer, Value: string(offer)}}
			}
		}
	}
	err := send(ctx, l.Conn, method, kwds, args...)
	var b []byte
	if err == nil {
		b, err = l.RecvBytesContext(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("manager: %s: %w", method, err)
	}
	v, err := result(b, maxAnswer)
	if err != nil {
		return nil, fmt.Errorf("manager: %s: %w", method, err)
	}
	return v, nil
}

// Create makes a block of size bytes under a fresh name and gives it to the
// manager, which owns it from now on: it stays when this process goes, and goes
// when the manager is shut down. The Block is the caller's to close.
//
// Errors: those of [shm.Create] and of the connection. There is no block then.
func (m *Manager) Create(ctx context.Context, size int) (*shm.Block, error) {
	// Who cannot connect need not create anything.
	l, err := m.line(ctx)
	if err != nil {
		return nil, err
	}
	defer m.leave(l)
	b, err := shm.Create("", size, &shm.CreateOptions{Dir: m.opts.Dir})
	if err != nil {
		return nil, err
	}
	if err := m.track(ctx, l, b); err != nil {
		return nil, errors.Join(err, b.Close(), b.Unlink())
	}
	return b, nil
}

// CreateList makes a list, as [list.Create] does with its defaults, and gives it
// to the manager, as Create does.
func (m *Manager) CreateList(ctx context.Context, items []any) (*list.List, error) {
	l, err := m.line(ctx)
	if err != nil {
		return nil, err
	}
	defer m.leave(l)
	made, err := list.Create("", items, &list.Options{Block: shm.CreateOptions{Dir: m.opts.Dir}})
	if err != nil {
		return nil, err
	}
	if err := m.track(ctx, l, made.Block()); err != nil {
		return nil, errors.Join(err, made.Close(), made.Unlink())
	}
	return made, nil
}

// Track gives a block that this process owns, or that nobody owns, to the
// manager, as Create does. It is the way to blocks and lists with names and
// options of one's own.
//
// Errors: shm.ErrOwned if another process owns it, fs.ErrNotExist if its name is
// gone, and those of the connection. The block is whose it was then.
func (m *Manager) Track(ctx context.Context, b *shm.Block) error {
	l, err := m.line(ctx)
	if err != nil {
		return err
	}
	defer m.leave(l)
	before, err := shm.Dir(b.Ref().Dir).Stat(b.Name())
	if err != nil {
		return err
	}
	// It has to be ours before the server hears of it.
	if err := b.Adopt(); err != nil {
		return err
	}
	err = m.track(ctx, l, b)
	if err != nil && !before.Owner.Alive {
		// Nobody's, and perhaps meant to stay: it must not go with us.
		err = errors.Join(err, b.Disown())
	}
	return err
}

// offering is false in tests of what happens with servers of another making.
var offering = true

// track has the server track a block that this process owns. The block is ours
// until the server has said that it has it: see lease.Slot.Offer.
func (m *Manager) track(ctx context.Context, l *line, b *shm.Block) error {
	var offer *lease.Offered
	text := ""
	if m.server == nil && offering {
		if offer = lease.Blocks.Offer(b); offer != nil {
			text = offer.Text
			crash.Point("manager:offered")
		}
	}
	v, err := m.request(ctx, l, methodTrack, b.Name(), offered(text))
	taken, hungUp := v == true, false
	if err == nil {
		crash.Point("manager:tracked")
		l.over = true // until the server has said that it has the block
		if m.server != nil {
			return b.Adopt() // nothing to do for what this process has made
		}
		if offer != nil && !l.kept {
			// It has not been told with the request, but may be one of ours.
			taken, hungUp, err = m.offer(ctx, l, text)
		}
	}
	if offer != nil {
		if err == nil && taken {
			offer.Given()
			crash.Point("manager:given")
			l.over = false
			return nil
		}
		offer.Kept()
	}
	if err != nil {
		return err
	}
	return m.giveUp(ctx, l, b, hungUp)
}

// offer tells the server on a connection's first request where the block is. One
// of Python's has hung up; any other that does has died, and the block is ours.
func (m *Manager) offer(ctx context.Context, l *line, text string) (taken, hungUp bool, err error) {
	var b []byte
	if err = l.SendBytesContext(ctx, []byte(text)); err == nil {
		b, err = l.RecvBytesContext(ctx)
	}
	if err == nil {
		return len(b) == 0, false, nil
	}
	_, err = m.call(ctx, methodDummy)
	return false, true, err
}

// giveUp leaves the block to a server that only knows its name, and takes it over
// when we say so or die, or never does, as Python's. Were it the other way round,
// a death in between would leave a block that is nobody's.
func (m *Manager) giveUp(ctx context.Context, l *line, b *shm.Block, hungUp bool) error {
	if err := b.Disown(); errors.Is(err, errors.ErrUnsupported) {
		return nil // Windows: it stays as long as anybody has it open
	} else if err != nil {
		return err
	}
	crash.Point("manager:disowned")
	if hungUp {
		return nil // a server of Python's does not own its blocks
	}
	// A server of ours says when it has it; Python's has hung up before.
	if l.SendBytesContext(ctx, nil) == nil {
		if _, err := l.RecvBytesContext(ctx); err == nil {
			l.over = false
			return nil
		}
	}
	// Still nobody's: a server of Python's does not own its blocks, else ours has
	// died before it had it, or could not have it.
	if _, err := m.call(ctx, methodDummy); err != nil {
		return errors.Join(err, b.Adopt())
	}
	return nil
}

// Blocks returns the names of the blocks that the manager tracks, in the order
// in which they were made.
func (m *Manager) Blocks(ctx context.Context) ([]string, error) {
	v, err := m.call(ctx, methodList)
	if err != nil {
		return nil, err
	}
	items, ok := v.([]any)
	names := make([]string, len(items))
	for i, item := range items {
		names[i], ok = item.(string)
		if !ok {
			break
		}
	}
	if !ok {
		return nil, fmt.Errorf("manager: %s: the answer is no list of names", methodList)
	}
	return names, nil
}

// Release has the manager remove a block now.
//
// Errors: fs.ErrNotExist if the manager does not track it or it is gone.
func (m *Manager) Release(ctx context.Context, name string) error {
	_, err := m.call(ctx, methodRelease, name)
	var remote *RemoteError
	if errors.As(err, &remote) && notThere(remote.Text) {
		err = fmt.Errorf("%w: %w", err, fs.ErrNotExist)
	}
	return err
}

// Close ends the client's connections to the server; the manager and its blocks
// stay. A client that is dropped loses them by itself, a second after its last
// request; one that is used again makes new ones.
func (m *Manager) Close() error {
	m.hangUp()
	return nil
}

// Shutdown has the manager remove all of its blocks and end, and waits for that
// if this process started it. Any client may call it.
//
// The error is a *[MissingError] if blocks were not there to be removed; the
// manager has ended nevertheless. (One of Python's stops at the first of
// them, and does not end: the error then is a [RemoteError].)
func (m *Manager) Shutdown(ctx context.Context) error {
	defer m.hangUp()
	if m.server != nil {
		err := m.server.shutdown()
		return errors.Join(err, m.wait(ctx))
	}
	v, err := m.call(ctx, methodShutdown)
	if err == nil {
		var names []string
		items, _ := v.([]any)
		for _, item := range items {
			names = append(names, fmt.Sprint(item))
		}
		err = missingError(names)
	}
	if m.child != nil {
		err = errors.Join(err, m.child.end(ctx, m.opts.ShutdownTimeout))
	}
	return err
}

// Wait waits until the server has ended, if this process started it, and returns
// nil or why it ended.
func (m *Manager) Wait() error { return m.wait(context.Background()) }

func (m *Manager) wait(ctx context.Context) error {
	switch {
	case m.server != nil:
		select {
		case <-m.server.done:
			return m.server.failed
		case <-ctx.Done():
			return ctx.Err()
		}
	case m.child != nil:
		return m.child.wait(ctx)
	}
	return fmt.Errorf("manager: waiting for a server that another process started: %w", errors.ErrUnsupported)
}

// notThere tells whether the server's error says that a name is not tracked or
// a block gone, in Python's words or ours.
func notThere(text string) bool {
	return strings.HasPrefix(text, "ValueError") || strings.HasPrefix(text, "FileNotFoundError")
}
