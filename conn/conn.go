package conn

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Conn is one end of a connection, authenticated unless Options.NoAuth was
// set. What one side sends as one message the other receives as one. All
// methods may be called by several goroutines at once: messages are sent one
// after the other and never mix, and each is received by one of the receivers.
//
// A Conn must be closed.
type Conn struct {
	nc            net.Conn
	local, remote net.Addr
	closed        atomic.Bool

	in struct {
		half
		reader
	}
	out struct {
		half
		writer
	}
}

func newConn(nc net.Conn, maxFrame int) *Conn {
	c := &Conn{nc: nc, local: nc.LocalAddr(), remote: nc.RemoteAddr()}
	c.in.half = newHalf(nc.SetReadDeadline)
	c.in.reader = reader{src: nc, max: maxFrame}
	c.out.half = newHalf(nc.SetWriteDeadline)
	c.out.writer = writer{dst: nc}
	return c
}

// LocalAddr returns the address of this end, as package net has it.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the address of the other end. One that dialed a Unix
// socket has none, and its text is "" or "@".
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// Peer asks the system which process is at the other end of a Unix socket. It
// returns errors.ErrUnsupported for other sockets and on systems that do not
// tell.
func (c *Conn) Peer() (Peer, error) {
	p, err := peerOf(c.nc)
	return p, wrap("peer", err)
}

// Close ends the connection. Calls in flight, and later ones, return
// os.ErrClosed. What has been sent still arrives. Closing again returns nil.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	return wrap("close", c.nc.Close())
}

// SetDeadline sets when calls of Send… and Recv… give up, those in flight
// too. They return os.ErrDeadlineExceeded. A zero time means never. What a
// deadline cuts off inside a frame leaves the Conn broken in that direction,
// see ErrBroken; before the first byte of a frame it does no harm.
func (c *Conn) SetDeadline(t time.Time) error {
	err := c.SetReadDeadline(t)
	if werr := c.SetWriteDeadline(t); err == nil {
		err = werr
	}
	return err
}

// SetReadDeadline is SetDeadline for receiving.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return wrap("set deadline", c.in.setDeadline(t))
}

// SetWriteDeadline is SetDeadline for sending.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return wrap("set deadline", c.out.setDeadline(t))
}

// SendBytes sends p as one message; Python's recv_bytes returns it. It returns
// when the system has taken all of it, which for a long message means that the
// peer receives. It keeps no reference to p.
//
// Errors: os.ErrClosed, os.ErrDeadlineExceeded, ErrBroken, the system's.
func (c *Conn) SendBytes(p []byte) error { return c.SendBytesContext(context.Background(), p) }

// SendBytesContext is SendBytes until ctx ends, whose error it returns then.
func (c *Conn) SendBytesContext(ctx context.Context, p []byte) error {
	w, err := c.out.enter(ctx)
	if err == nil {
		err = c.out.leave(w, c.out.frame(p))
	}
	return wrap("send", err)
}

// RecvBytes waits for a message, which Python's send_bytes sent, and returns
// it in memory of the caller's own. See AppendBytes for a way without
// allocation. When the peer has closed the connection, the error is io.EOF.
//
// Errors: io.EOF, io.ErrUnexpectedEOF inside a message, ErrTooLarge, ErrFrame,
// os.ErrClosed, os.ErrDeadlineExceeded, ErrBroken, the system's.
func (c *Conn) RecvBytes() ([]byte, error) { return c.RecvBytesContext(context.Background()) }

// RecvBytesContext is RecvBytes until ctx ends, whose error it returns then.
func (c *Conn) RecvBytesContext(ctx context.Context) ([]byte, error) {
	w, err := c.in.enter(ctx)
	if err != nil {
		return nil, wrap("receive", err)
	}
	p, err := c.in.append(nil)
	if err = c.in.leave(w, err); err != nil {
		return nil, wrap("receive", err)
	}
	return p, nil
}

// AppendBytes is RecvBytes that appends the message to dst, and allocates only
// if it has no room. After an error the result is dst, but what lies behind it
// may have changed.
func (c *Conn) AppendBytes(dst []byte) ([]byte, error) {
	w, err := c.in.enter(context.Background())
	if err == nil {
		dst, err = c.in.append(dst)
		err = c.in.leave(w, err)
	}
	return dst, wrap("receive", err)
}

// RecvBytesInto is RecvBytes into p; n is the length of the message. If that is
// more than len(p), the error is io.ErrShortBuffer, and the message stays to be
// received.
func (c *Conn) RecvBytesInto(p []byte) (n int, err error) {
	w, err := c.in.enter(context.Background())
	if err == nil {
		n, err = c.in.into(p)
		err = c.in.leave(w, err)
	}
	return n, wrap("receive", err)
}

// half is what the two directions have alike: whose turn it is, and until when.
type half struct {
	turn turn
	set  func(time.Time) error

	mu       sync.Mutex
	deadline time.Time // the user's
	cut      bool      // a context has ended and set its own
}

func newHalf(set func(time.Time) error) half {
	return half{turn: turn{wake: make(chan struct{}, 1)}, set: set}
}

// turn is a mutex for which one can wait until a context ends.
type turn struct {
	taken   atomic.Bool
	waiters atomic.Int32
	wake    chan struct{} // holds one element if a waiter should look again
}

// take returns false if done was closed first.
func (t *turn) take(done <-chan struct{}) bool {
	if t.taken.CompareAndSwap(false, true) {
		return true
	}
	// Before looking again: give looks for waiters after it has given.
	t.waiters.Add(1)
	defer t.waiters.Add(-1)
	for !t.taken.CompareAndSwap(false, true) {
		select {
		case <-t.wake:
		case <-done:
			return false
		}
	}
	return true
}

func (t *turn) give() {
	t.taken.Store(false)
	if t.waiters.Load() > 0 {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
}

func (h *half) setDeadline(t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deadline = t
	if h.cut {
		return nil // leave sets it
	}
	return h.set(t)
}

// past is a deadline that has been missed.
var past = time.Unix(1, 0)

// watch cuts a call off when its context ends.
type watch struct {
	ctx  context.Context
	stop func() bool
	done chan struct{} // closed when it has cut
}

// enter waits for the turn. The result is for leave.
func (h *half) enter(ctx context.Context) (*watch, error) {
	if ctx.Done() == nil {
		// Whoever has the turn gives it up when the Conn is closed or the
		// deadline is over.
		h.turn.take(nil)
		return nil, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !h.turn.take(ctx.Done()) {
		return nil, ctx.Err()
	}
	w := &watch{ctx: ctx, done: make(chan struct{})}
	w.stop = context.AfterFunc(ctx, func() {
		defer close(w.done)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.cut = true
		_ = h.set(past) // fails if it is closed, which ends the call as well
	})
	return w, nil
}

// leave gives up the turn and returns the call's error, which is the context's
// if that cut it off.
func (h *half) leave(w *watch, err error) error {
	if w != nil && !w.stop() {
		<-w.done
		h.mu.Lock()
		h.cut = false
		_ = h.set(h.deadline)
		h.mu.Unlock()
		if timedOut(err) {
			err = w.ctx.Err()
		}
	}
	h.turn.give()
	return err
}
