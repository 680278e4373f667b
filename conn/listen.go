package conn

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// Listener accepts connections, and returns only those whose peers have the
// key. Handshakes go on beside each other and beside the program, so that a
// peer that is slow, or silent, holds up nobody. All methods may be called by
// several goroutines at once.
//
// A Listener must be closed.
type Listener struct {
	nl      net.Listener
	address string
	remove  func() // what is left of the address in the file system
	s       *settings

	ready  chan *Conn
	freed  chan struct{} // one element when room was made
	done   chan struct{} // closed when Close begins
	cancel context.CancelFunc
	wg     sync.WaitGroup
	close  func() error

	mu      sync.Mutex
	pending *list.List // of *guest, not authenticated, oldest first
	waiting int        // authenticated, for Accept
}

// guest is a peer during its handshake.
type guest struct {
	c       *Conn
	since   time.Time
	evicted bool
}

// grace is how long a handshake goes on undisturbed, however many wait.
const grace = time.Second

// Listen opens address for peers that have authKey: [Dial]'s, or Python's
// Client.
//
// The file of a Unix socket is for this user alone from its first moment on
// (mode 0600), and is removed by Close. One that a dead server has left there
// is replaced. "" chooses a fresh name in a fresh directory that only this user
// may enter; on Windows it is a TCP port of the loopback interface. With port 0
// the system chooses one. [Listener.Addr] says what it became.
//
// Errors: ErrAddress, ErrKey, errors.ErrUnsupported, the system's; a Unix
// socket whose name is taken gives one that is fs.ErrExist.
func Listen(address string, authKey []byte, opts *Options) (*Listener, error) {
	l, err := listen(address, authKey, opts)
	if err != nil {
		return nil, wrap("listen", err)
	}
	return l, nil
}

func listen(address string, authKey []byte, opts *Options) (*Listener, error) {
	s, err := newSettings(authKey, opts)
	if err != nil {
		return nil, err
	}
	l := &Listener{
		s: s, remove: func() {}, pending: list.New(),
		ready: make(chan *Conn), freed: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if address == "" {
		if address, l.remove, err = freshAddress(); err != nil {
			return nil, err
		}
	}
	if err := l.open(address); err != nil {
		l.remove()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	l.close = sync.OnceValue(l.shut)
	l.wg.Go(func() { l.serve(ctx) })
	return l, nil
}

func (l *Listener) open(address string) error {
	network, name, err := parseAddress(address)
	if err != nil {
		return err
	}
	if err := l.s.canCheckPeers(network); err != nil {
		return err
	}
	l.address = address
	if network == "unix" && name[0] != '@' {
		nl, removeFile, err := listenFile(name)
		if err != nil {
			return err
		}
		removeDir := l.remove
		l.nl, l.remove = nl, func() { removeFile(); removeDir() }
		return nil
	}
	if l.nl, err = net.Listen(network, name); err != nil {
		return err
	}
	if network != "unix" {
		l.address = "tcp:" + l.nl.Addr().String() // with the port that it became
	}
	return nil
}

// canCheckPeers tells early that CheckPeer cannot be asked.
func (s *settings) canCheckPeers(network string) error {
	if s.CheckPeer != nil && network != "unix" {
		return fmt.Errorf("CheckPeer over TCP: %w", errors.ErrUnsupported)
	}
	return nil
}

// Addr returns the address, as [Dial] takes it.
func (l *Listener) Addr() string { return l.address }

// PythonAddress returns the address as Python's Client takes it; see the
// function of this name.
func (l *Listener) PythonAddress() any {
	a, err := PythonAddress(l.address)
	if err != nil {
		panic(err) // Listen has understood it
	}
	return a
}

// Accept returns the next connection whose peer is authenticated. What becomes
// of others, Options.Refused learns. After Close the error is os.ErrClosed.
func (l *Listener) Accept() (*Conn, error) { return l.AcceptContext(context.Background()) }

// AcceptContext is Accept until ctx ends, whose error it returns then.
func (l *Listener) AcceptContext(ctx context.Context) (*Conn, error) {
	select {
	case <-l.done: // not by chance a connection that Close is about to end
		return nil, wrap("accept", os.ErrClosed)
	default:
	}
	select {
	case c := <-l.ready:
		return c, nil
	case <-ctx.Done():
		return nil, wrap("accept", ctx.Err())
	case <-l.done:
		return nil, wrap("accept", os.ErrClosed)
	}
}

// Close ends listening: Accept returns os.ErrClosed, and peers that it has not
// returned are hung up on. Connections that it has returned go on. Closing
// again returns what the first did.
func (l *Listener) Close() error { return l.close() }

func (l *Listener) shut() error {
	close(l.done)
	l.cancel()
	// The file first: while the socket is open, no other can get its inode.
	l.remove()
	err := l.nl.Close()
	l.wg.Wait()
	return wrap("close", err)
}

// serve takes connections until the Listener is closed.
func (l *Listener) serve(ctx context.Context) {
	for pause := time.Duration(0); ; {
		nc, err := l.nl.Accept()
		if err == nil {
			pause = 0
			if !l.admit(ctx, nc) {
				return
			}
			continue
		}
		if ctx.Err() != nil {
			return
		}
		// No descriptors, or no memory, or the peer is gone again. Others may
		// end in the meantime; there is nothing to wait for but time.
		l.refused(nil, err)
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		select {
		case <-time.After(pause):
		case <-l.done:
			return
		}
	}
}

// admit begins the handshake with a peer as soon as there is room for it;
// false when the Listener is closed.
func (l *Listener) admit(ctx context.Context, nc net.Conn) bool {
	if !l.makeRoom() {
		nc.Close()
		return false
	}
	g := &guest{c: newConn(nc, l.s.MaxFrame), since: time.Now()}
	if path, ok := strings.CutPrefix(l.address, "unix:"); ok {
		g.c.local = &net.UnixAddr{Name: path, Net: "unix"} // see listenPrivate
	}
	l.mu.Lock()
	place := l.pending.PushBack(g)
	l.mu.Unlock()
	l.wg.Go(func() {
		err := g.c.greet(ctx, l.s, true)

		l.mu.Lock()
		if g.evicted {
			err = ErrBusy
		} else {
			l.pending.Remove(place)
		}
		if err == nil {
			l.waiting++
		}
		l.mu.Unlock()
		if err != nil {
			g.c.nc.Close()
			l.notify()
			if ctx.Err() == nil || errors.Is(err, ErrBusy) { // else it is Close that refuses
				l.refused(g.c.remote, err)
			}
			return
		}

		select {
		case l.ready <- g.c:
		case <-l.done:
			g.c.nc.Close()
		}
		l.mu.Lock()
		l.waiting--
		l.mu.Unlock()
		l.notify()
	})
	return true
}

// makeRoom returns when there is room for one more guest, false when the
// Listener is closed.
func (l *Listener) makeRoom() bool {
	for {
		var timer <-chan time.Time
		l.mu.Lock()
		if l.pending.Len()+l.waiting < l.s.MaxPending {
			l.mu.Unlock()
			return true
		}
		if oldest := l.pending.Front(); oldest != nil {
			g := oldest.Value.(*guest)
			if rest := grace - time.Since(g.since); rest > 0 {
				timer = time.After(rest)
			} else {
				l.pending.Remove(oldest)
				g.evicted = true
				g.c.nc.Close()
				l.mu.Unlock()
				return true
			}
		}
		l.mu.Unlock()
		select {
		case <-l.freed:
		case <-timer:
		case <-l.done:
			return false
		}
	}
}

// notify wakes makeRoom.
func (l *Listener) notify() {
	select {
	case l.freed <- struct{}{}:
	default:
	}
}

func (l *Listener) refused(remote net.Addr, err error) {
	if l.s.Refused != nil {
		l.s.Refused(remote, wrap("accept", err))
	}
}
