package manager

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sharedmem/shm/conn"
)

// Options are the choices of [Start] and [Serve]; nil and the zero value mean
// the defaults. The struct is copied on entry.
type Options struct {
	// Address is where to listen: "unix:/path", "unix:@abstract" (Linux) or
	// "tcp:host:port". "" is a Unix socket in a new directory that only this user
	// can enter.
	Address string

	// AuthKey is what clients must know, Python's authkey. nil makes a new one,
	// which [Manager.AuthKey] returns; an empty one is an error.
	AuthKey []byte

	// Conn has the choices for the connections: digests, limits, timeouts.
	Conn conn.Options

	// Dir is where the blocks are, instead of the system's place for shared
	// memory. Python's clients know only that one.
	Dir string

	// Process serves in a process of its own, which lives on when this one
	// crashes, until Shutdown or a signal ends it. It is this program, executed
	// again. errors.ErrUnsupported on Windows.
	Process bool

	// RequestTimeout is how long a connection may take to send its request, and
	// to take the answer. 0 means 30 s.
	RequestTimeout time.Duration

	// ShutdownTimeout is how long Shutdown waits for the process to end by itself
	// before it kills it. 0 means 5 s.
	ShutdownTimeout time.Duration

	// MaxConns, MaxBlocks and MaxRequest bound what clients can make the server
	// hold: connections at once, tracked blocks, bytes of a request. 0 means
	// 4096, 1 000 000 and 1 MiB.
	MaxConns, MaxBlocks, MaxRequest int
}

func (o *Options) defaults() (Options, error) {
	var d Options
	if o != nil {
		d = *o
	}
	switch {
	case d.AuthKey == nil:
		d.AuthKey = make([]byte, 32)
		_, _ = rand.Read(d.AuthKey) // never fails
	case len(d.AuthKey) == 0:
		return d, errors.New("manager: the authentication key is empty; nil makes a new one")
	}
	d.AuthKey = slices.Clone(d.AuthKey)
	if d.RequestTimeout == 0 {
		d.RequestTimeout = 30 * time.Second
	}
	if d.ShutdownTimeout == 0 {
		d.ShutdownTimeout = 5 * time.Second
	}
	if d.MaxConns == 0 {
		d.MaxConns = 4096
	}
	if d.MaxBlocks == 0 {
		d.MaxBlocks = 1_000_000
	}
	if d.MaxRequest == 0 {
		d.MaxRequest = 1 << 20
	}
	return d, nil
}

// Manager is a client of a manager's server, which may be this process's own.
// Its methods may be called by several goroutines at once; each has a
// connection of its own, which is kept for a second if the server is ours.
type Manager struct {
	opts    Options
	address string
	server  *server  // in this process
	child   *process // started by us
	lines   lines
}

// Start starts a manager: a server that keeps a list of blocks, owns them, and
// removes them when it is shut down. Python's SharedMemoryManager connects to
// it with address and key, and creates blocks through it as through its own.
//
// ctx covers the starting only. The server runs until [Manager.Shutdown], or a
// client's; if its process goes before, the next sweep removes its blocks.
func Start(ctx context.Context, opts *Options) (*Manager, error) {
	o, err := opts.defaults()
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if o.Process {
		return startProcess(ctx, o)
	}
	s, err := listen(&o)
	if err != nil {
		return nil, fmt.Errorf("manager: %w", err)
	}
	go s.serve()
	return &Manager{opts: o, address: s.listener.Addr(), server: s}, nil
}

// Serve serves in the foreground until ctx ends or a client shuts the manager
// down, and then removes the blocks. ready, if not nil, is called when clients
// can connect.
//
// The error names the blocks that were not there to be removed, with
// fs.ErrNotExist.
func Serve(ctx context.Context, opts *Options, ready func(*Manager)) error {
	var o Options
	if opts != nil {
		o = *opts
	}
	o.Process = false
	m, err := Start(ctx, &o)
	if err != nil {
		return err
	}
	if ready != nil {
		ready(m)
	}
	select {
	case <-ctx.Done():
		err = m.server.shutdown()
	case <-m.server.done:
	}
	return errors.Join(err, m.Wait())
}

// Connect returns a client of a manager that serves elsewhere, in Go or in
// Python, after it has said something to it.
//
// Errors: conn.ErrAuth for a wrong key, and those of [conn.Dial].
func Connect(ctx context.Context, address string, authKey []byte) (*Manager, error) {
	return Open(ctx, &Options{Address: address, AuthKey: authKey})
}

// Open is [Connect] with more choices: of Options, Conn says how to connect, and
// Dir where Create makes its blocks, which has to be the server's. What concerns
// servers is ignored.
func Open(ctx context.Context, opts *Options) (*Manager, error) {
	if opts == nil || len(opts.AuthKey) == 0 {
		return nil, errors.New("manager: connecting needs the server's authentication key")
	}
	o, err := opts.defaults()
	if err != nil {
		return nil, err
	}
	m := &Manager{opts: o, address: o.Address}
	if _, err := m.call(ctx, methodDummy); err != nil {
		return nil, err
	}
	return m, nil
}

// Address returns where the server listens, as Connect and conn.Dial take it.
func (m *Manager) Address() string { return m.address }

// AuthKey returns the key that clients need. Keep it secret.
func (m *Manager) AuthKey() []byte { return slices.Clone(m.opts.AuthKey) }

// Stats returns what the server has done, if it serves in this process; ok is
// false if it does not.
func (m *Manager) Stats() (s Stats, ok bool) {
	if m.server == nil {
		return Stats{}, false
	}
	return m.server.snapshot(), true
}
