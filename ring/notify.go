package ring

import (
	"context"
	"errors"
	"io"
	"os"
	"sync/atomic"

	"github.com/sharedmem/shm/internal/platform/wait"
)

// notifier makes a pipe readable when there may be something to receive.
type notifier struct {
	in, out *os.File
	raised  atomic.Bool
	empty   chan uint64 // the position at which there was nothing
}

func isEnd(err error) bool { return errors.Is(err, io.EOF) }

// Notify returns a file that is readable as long as there may be something to
// receive, for those who wait in a poll loop: when it is readable, call TryReceive
// until that finds nothing, which makes it unreadable until the next
// message comes. It is readable too when the last sender goes and when the
// Receiver is closed.
//
// Do not read from the file nor close it; it belongs to the Receiver, and every call
// returns the same. A child process can be given it (exec.Cmd.ExtraFiles) or another
// one by a Unix socket: it may wait for it, while TryReceive has to be called
// here. The file costs a goroutine, which waits as Receive does.
//
// Errors: os.ErrClosed; the system's.
func (r *Receiver) Notify() (*os.File, error) {
	if err := r.enter(); err != nil {
		return nil, r.fail(err)
	}
	defer r.exit()
	if r.notifier != nil {
		return r.notifier.out, nil
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, r.fail(err)
	}
	n := &notifier{in: in, out: out, empty: make(chan uint64, 1)}
	n.raise()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.run(r.part)
	}()
	r.notifier = n
	leave := r.leave
	r.leave = func() {
		<-ended
		_ = in.Close() // readable for good, as at the end of a file
		leave()
	}
	return out, nil
}

func (n *notifier) raise() {
	n.raised.Store(true)
	_, _ = n.in.Write([]byte{1})
}

// lower makes it unreadable. The Receiver has found nothing at its position.
func (n *notifier) lower(r *Receiver) {
	if !n.raised.Load() {
		return
	}
	var b [1]byte
	if _, err := n.out.Read(b[:]); err == nil {
		n.raised.Store(false)
		n.empty <- r.pos
	}
}

// run waits, each time that nothing was found, until that may have changed.
func (n *notifier) run(p *part) {
	q := p.q
	for {
		var pos uint64
		select {
		case pos = <-n.empty:
		case <-p.done:
			return
		}
		epoch, stop := q.hdr.epoch.Load(), context.Context(closeContext{context.Background(), q})
		for {
			bell := q.bell.Load()
			if q.check(stop, p, false) != nil {
				return
			}
			v := q.hdr.filled.Load()
			if v&sleeping == 0 && !q.hdr.filled.CompareAndSwap(v, v|sleeping) {
				continue
			}
			if q.fenced {
				wait.FenceAll()
			}
			w := q.words[q.slot(pos)].Load()
			nothing := q.ahead(w, pos) < 0 || q.ahead(w, pos) == 0 && (w&stateMask == stateFree || w&stateMask == stateWriting)
			if !nothing || q.hdr.epoch.Load() != epoch || ended(q.hdr.peers.Load(), receiver) != nil {
				break
			}
			if q.sleep(stop, p, &q.hdr.filled, v|sleeping, bell) != nil {
				return
			}
		}
		n.raise()
	}
}
