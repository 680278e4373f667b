package conn

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sharedmem/shm/internal/shmtest"
)

func TestBothWays(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		l := mustListen(t, newAddress(t, kind), key, nil)
		a := mustDial(t, l.Addr(), key, nil)
		b := mustAccept(t, l)
		for _, n := range []int{0, 1, 16384, 16385, 1 << 20} {
			p := bytes.Repeat([]byte{'x'}, n)
			for _, way := range [][2]*Conn{{a, b}, {b, a}} {
				sent := make(chan error, 1)
				go func() { sent <- way[0].SendBytes(p) }()
				got, err := way[1].RecvBytes()
				if err != nil || !bytes.Equal(got, p) {
					t.Errorf("%d bytes: got %d, %v", n, len(got), err)
				}
				if err := <-sent; err != nil {
					t.Error(err)
				}
			}
		}
		// What was sent before Close arrives, and then the end.
		if err := a.SendBytes([]byte("bye")); err != nil {
			t.Error(err)
		}
		for range 2 {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		}
		if p, err := b.RecvBytes(); string(p) != "bye" || err != nil {
			t.Errorf("got %q, %v", p, err)
		}
		if p, err := b.RecvBytes(); err != io.EOF { //nolint:errorlint // users compare
			t.Errorf("after the end %q, %v", p, err)
		}
	})
}

func TestLimit(t *testing.T) {
	a, b := pair(t, &Options{MaxFrame: 100})
	if err := a.SendBytes(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	if p, err := b.RecvBytes(); len(p) != 100 || err != nil {
		t.Errorf("%d bytes, %v", len(p), err)
	}
	if err := a.SendBytes(make([]byte, 101)); err != nil { // the limit is the receiver's
		t.Fatal(err)
	}
	if p, err := b.RecvBytes(); !errors.Is(err, ErrTooLarge) {
		t.Errorf("%d bytes, %v", len(p), err)
	}
	if p, err := b.AppendBytes(nil); !errors.Is(err, ErrBroken) || !errors.Is(err, ErrTooLarge) {
		t.Errorf("then %d bytes, %v", len(p), err)
	}
}

// calls are all that wait, each until the Conn lets it go.
func calls(c *Conn) map[string]func(ctx context.Context) error {
	// More than any socket takes.
	large := make([]byte, 16<<20)
	return map[string]func(ctx context.Context) error{
		"RecvBytesContext": func(ctx context.Context) error { _, err := c.RecvBytesContext(ctx); return err },
		"RecvContext":      func(ctx context.Context) error { _, err := c.RecvContext(ctx); return err },
		"SendBytesContext": func(ctx context.Context) error { return c.SendBytesContext(ctx, large) },
		"SendContext":      func(ctx context.Context) error { return c.SendContext(ctx, large) },
		"RecvBytes":        func(context.Context) error { _, err := c.RecvBytes(); return err },
		"Recv":             func(context.Context) error { _, err := c.Recv(); return err },
		"AppendBytes":      func(context.Context) error { _, err := c.AppendBytes(nil); return err },
		"RecvBytesInto":    func(context.Context) error { _, err := c.RecvBytesInto(nil); return err },
		"SendBytes":        func(context.Context) error { return c.SendBytes(large) },
		"Send":             func(context.Context) error { return c.Send(large) },
	}
}

// busy waits until a call has the turn. The Conn tells nobody, so it asks.
func busy(c *Conn) {
	for !c.in.turn.taken.Load() && !c.out.turn.taken.Load() {
		runtime.Gosched()
	}
}

func TestCloseWakes(t *testing.T) {
	for name := range calls(nil) {
		t.Run(name, func(t *testing.T) {
			shmtest.Deadline(t, shmtest.Patience)
			a, _ := pair(t, nil)
			call := calls(a)[name]
			results := make(chan error)
			for range 2 { // one waits for the peer, one for its turn
				go func() { results <- call(context.Background()) }()
			}
			busy(a)
			a.Close()
			for range 2 {
				if err := <-results; !errors.Is(err, os.ErrClosed) && !errors.Is(err, ErrBroken) {
					t.Errorf("after Close: %v", err)
				}
			}
			if err := call(context.Background()); !errors.Is(err, os.ErrClosed) && !errors.Is(err, ErrBroken) {
				t.Errorf("later: %v", err)
			}
		})
	}
}

func TestDeadlineWakes(t *testing.T) {
	for name := range calls(nil) {
		t.Run(name, func(t *testing.T) {
			shmtest.Deadline(t, shmtest.Patience)
			a, _ := pair(t, nil)
			result := make(chan error)
			go func() { result <- calls(a)[name](context.Background()) }()
			busy(a)
			if err := a.SetDeadline(time.Unix(1, 0)); err != nil {
				t.Error(err)
			}
			if err := <-result; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("after the deadline: %v", err)
			}
		})
	}
}

func TestContextWakes(t *testing.T) {
	for name := range calls(nil) {
		if !strings.HasSuffix(name, "Context") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			shmtest.Deadline(t, shmtest.Patience)
			a, b := pair(t, nil)
			ctx, cancel := context.WithCancel(t.Context())
			results := make(chan error)
			for range 2 { // one waits for the peer, one for its turn
				go func() { results <- calls(a)[name](ctx) }()
			}
			busy(a)
			if strings.HasPrefix(name, "Send") { // has begun, and cannot end
				if _, err := io.ReadFull(b.nc, make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
			}
			cancel()
			for range 2 {
				if err := <-results; !errors.Is(err, context.Canceled) {
					t.Errorf("canceled: %v", err)
				}
			}
			if err := calls(a)[name](ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("with a context that has ended: %v", err)
			}

			// The Conn's own deadline holds again, which is none. Only what was
			// cut off inside a frame is broken.
			if strings.HasPrefix(name, "Send") {
				if err := a.SendBytes(nil); !errors.Is(err, ErrBroken) || !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("after half a frame: %v", err)
				}
				return
			}
			go func() { results <- b.Send("hello") }()
			if v, err := a.Recv(); v != "hello" || err != nil {
				t.Errorf("after a context: %v, %v", v, err)
			}
			if err := <-results; err != nil {
				t.Error(err)
			}
		})
	}
}

// TestContextAndDeadline: a deadline set while a context cuts does not undo
// the cut, and holds afterwards.
func TestContextAndDeadline(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	a, b := pair(t, nil)
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error)
		go func() { _, err := a.RecvBytesContext(ctx); result <- err }()
		go cancel()
		for range 3 {
			a.SetReadDeadline(time.Now().Add(time.Hour))
		}
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	a.SetReadDeadline(time.Unix(1, 0))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if _, err := a.RecvBytesContext(ctx); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("past the deadline: %v", err)
	}
	a.SetDeadline(time.Time{})
	if err := b.SendBytes([]byte("hi")); err != nil {
		t.Error(err)
	}
	if p, err := a.RecvBytesContext(ctx); string(p) != "hi" || err != nil {
		t.Errorf("%q, %v", p, err)
	}
}

func TestDialEnds(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	// A server that never says anything.
	l := mustListen(t, newAddress(t, native()), nil, &Options{NoAuth: true})
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() {
		_, err := Dial(ctx, l.Addr(), key, nil)
		result <- err
	}()
	c := mustAccept(t, l)
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("Dial: %v", err)
	}
	if p, err := c.RecvBytes(); err != io.EOF { //nolint:errorlint // users compare
		t.Errorf("Dial has not hung up: %q, %v", p, err)
	}
	if _, err := Dial(ctx, l.Addr(), key, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Dial with a context that has ended: %v", err)
	}
	l.Close()
	if _, err := Dial(t.Context(), l.Addr(), key, nil); err == nil {
		t.Error("Dial where nobody listens")
	}
}
