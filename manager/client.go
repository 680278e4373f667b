package manager

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/conn"
	"github.com/sharedmem/shm/internal/crash"
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

// call sends one request and returns the answer.
func (m *Manager) call(ctx context.Context, method string, args ...any) (any, error) {
	c, err := m.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return m.ask(ctx, c, method, args...)
}

func (m *Manager) ask(ctx context.Context, c *conn.Conn, method string, args ...any) (any, error) {
	err := send(ctx, c, method, args...)
	var b []byte
	if err == nil {
		b, err = c.RecvBytesContext(ctx)
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
	c, err := m.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	b, err := shm.Create("", size, &shm.CreateOptions{Dir: m.opts.Dir})
	if err != nil {
		return nil, err
	}
	if err := m.track(ctx, c, b); err != nil {
		return nil, errors.Join(err, b.Close(), b.Unlink())
	}
	return b, nil
}

// CreateList makes a list, as [list.Create] does with its defaults, and gives it
// to the manager, as Create does.
func (m *Manager) CreateList(ctx context.Context, items []any) (*list.List, error) {
	c, err := m.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	l, err := list.Create("", items, &list.Options{Block: shm.CreateOptions{Dir: m.opts.Dir}})
	if err != nil {
		return nil, err
	}
	if err := m.track(ctx, c, l.Block()); err != nil {
		return nil, errors.Join(err, l.Close(), l.Unlink())
	}
	return l, nil
}

// Track gives a block that this process owns, or that nobody owns, to the
// manager, as Create does. It is the way to blocks and lists with names and
// options of one's own.
//
// Errors: shm.ErrOwned if another process owns it, fs.ErrNotExist if its name is
// gone, and those of the connection.
func (m *Manager) Track(ctx context.Context, b *shm.Block) error {
	c, err := m.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	// It has to be ours before the server hears of it.
	if err := b.Adopt(); err != nil {
		return err
	}
	return m.track(ctx, c, b)
}

func (m *Manager) track(ctx context.Context, c *conn.Conn, b *shm.Block) error {
	if _, err := m.ask(ctx, c, methodTrack, b.Name()); err != nil {
		return err
	}
	crash.Point("manager:tracked")
	if m.server != nil {
		return b.Adopt() // nothing to do for what this process has made
	}
	// The server has its name, and takes it over when we say so or die. Were it
	// the other way round, a death in between would leave a block that is nobody's.
	if err := b.Disown(); errors.Is(err, errors.ErrUnsupported) {
		return nil // Windows: it stays as long as anybody has it open
	} else if err != nil {
		return err
	}
	crash.Point("manager:disowned")
	// A server of ours says when it has it; Python's has hung up before.
	if c.SendBytesContext(ctx, nil) == nil {
		if _, err := c.RecvBytesContext(ctx); err == nil {
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

// Shutdown has the manager remove all of its blocks and end, and waits for that
// if this process started it. Any client may call it.
//
// The error is a *[MissingError] if blocks were not there to be removed; the
// manager has ended nevertheless. (One of Python's stops at the first of
// them, and does not end: the error then is a [RemoteError].)
func (m *Manager) Shutdown(ctx context.Context) error {
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
