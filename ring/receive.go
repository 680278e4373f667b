package ring

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"os"

	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/party"
	"github.com/sharedmem/shm/internal/step"
)

// Receiver takes messages out of a ring. It is for one goroutine at a time (a second
// one gets ErrBusy, as far as that can be noticed); only Close may be called
// beside the others. Make one for each goroutine, where the ring is for many.
type Receiver struct {
	*part
	shown uint64 // the head hint as we last stored it
	every uint64
	epoch uint64 // hdr.epoch when there was last nothing behind the head
	stale uint64 // how far the search for that has come
	had   uint64 // of a direct ring: who died may have had all before this position

	// The message that was taken.
	at    uint64 // its position
	word  uint64 // and word
	span  uint64
	n     int
	again bool

	spare []byte
}

// Receiver makes this process, or one more goroutine of it, a receiver.
//
// Errors: ErrTaken if the ring is for one and has it; shm.ErrNoSpace if all
// participants are there; os.ErrClosed.
func (q *Queue) Receiver() (*Receiver, error) {
	p, err := q.join("join as receiver", receiver)
	if err != nil {
		return nil, err
	}
	// Another number than any: there may be something behind the head.
	r := &Receiver{part: p, shown: p.pos, every: p.core.lag(), epoch: q.hdr.epoch.Load() - 1}
	if p.direct {
		// It only changes when there is no receiver.
		r.had = q.hdr.again.Load()
		return r, nil
	}
	p.seat.Leave, p.seat.Show = r.hint, r.hint
	return r, nil
}

// take takes the first message that nobody has taken; not ok if there is none. One
// longer than most stays, with io.ErrShortBuffer.
//
// What is taken has no gaps, as what is claimed (see claim), but for messages that a dead
// receiver had: those are behind the head, and searched when the epoch says so.
func (r *Receiver) take(most int) (ok bool, err error) {
	c := r.core
	if c.direct {
		return r.next(most)
	}
	hint := &c.hdr.head
	var from uint64
	if !c.oneReceiver {
		if epoch := c.hdr.epoch.Load(); epoch != r.epoch {
			if ok, err := r.takeStale(most, epoch); ok || err != nil {
				return ok, err
			}
		}
		if from = hint.Load(); int64(from-r.pos) > 0 {
			r.pos = from
		}
	}
	for steps := uint64(0); ; steps++ {
		at := c.slot(r.pos)
		w := c.words[at].Load()
		switch ahead := c.ahead(w, r.pos); {
		case ahead == 0:
			state := w & stateMask
			if state == stateFree || state == stateWriting {
				return false, nil
			}
			span, err := c.span(w)
			if err != nil {
				return false, err
			}
			switch state {
			case stateFull:
				if ok, err := r.claim(r.pos, w, span, most); ok || err != nil {
					return ok, err
				}
				continue // somebody was faster
			case stateVoid:
				c.free(r.pos, w, span)
				crash.Point("ring:passed")
				r.q.party.Wake(&c.hdr.freed)
			default:
				if c.oneReceiver {
					return false, garbage("a slot's word", w)
				}
			}
			r.pos += span
		case ahead > 0:
			r.pos++
			if h := hint.Load(); int64(h-r.pos) > 0 {
				r.pos = h
			}
		case ahead == -1: // nobody has come that far
			return false, nil
		default:
			return false, garbage("a slot's word", w)
		}
		if steps > 2*c.mask+1024 {
			if h := hint.Load(); h == from {
				return false, garbage("the head", h)
			} else if from = h; int64(h-r.pos) > 0 {
				r.pos = h
			}
			steps = 0
		}
	}
}

// claim takes the message at pos, whose word is w; not ok if another was faster.
func (r *Receiver) claim(pos, w, span uint64, most int) (ok bool, err error) {
	c := r.core
	at := c.slot(pos)
	n := c.words[at+1].Load()
	if !c.oneReceiver && c.words[at].Load() != w {
		return false, nil // the length may be another message's
	}
	switch {
	case n > uint64(c.limit) || n > span*uint64(c.room):
		return false, garbage("the length of a message", n)
	case n > uint64(most):
		return false, fmt.Errorf("a message of %d bytes: %w", n, io.ErrShortBuffer)
	}
	if c.oneReceiver {
		// Nothing has to be claimed. But if we die, the next one is to know that we may
		// have worked on it.
		step.StoreRelease(&r.e.seen, pos+span)
	} else {
		own := w&^(stateMask|partMask) | uint64(r.idx)<<partShift | stateReading
		if !c.words[at].CompareAndSwap(w, own) {
			return false, nil
		}
		w = own
		if pos == r.pos {
			r.pos += span
		}
	}
	crash.Point("ring:taken")
	r.at, r.word, r.span, r.n, r.again = pos, w, span, int(n), w&flagAgain != 0
	r.q.party.Shadow.Taken()
	return true, nil
}

// takeStale takes a message that dead receivers left behind the head.
func (r *Receiver) takeStale(most int, epoch uint64) (ok bool, err error) {
	c := r.core
	for ; r.stale <= c.mask; r.stale++ {
		w := c.words[c.slot(r.stale)].Load()
		if w&(stateMask|flagAgain) != stateFull|flagAgain {
			continue
		}
		span, err := c.span(w)
		if err != nil {
			return false, err
		}
		if ok, err := r.claim(w>>lapShift<<c.shift|r.stale, w, span, most); ok || err != nil {
			return ok, err
		}
	}
	r.stale, r.epoch = 0, epoch
	return false, nil
}

// view returns the message that was taken, in place if it lies in one slot.
func (r *Receiver) view() []byte {
	c := r.core
	if c.direct {
		if p := c.inOnePiece(r.at, r.n); p != nil {
			return p
		}
	} else if r.n <= c.room {
		return c.payload(c.slot(r.at))[:r.n:r.n]
	}
	if cap(r.spare) < r.n {
		r.spare = make([]byte, r.n)
	}
	r.read(r.spare[:r.n])
	return r.spare[:r.n:r.n]
}

// read copies the message that was taken.
func (r *Receiver) read(buf []byte) {
	r.core.copyOut(r.at, buf)
}

// finish gives the slots of the message that was taken back to the senders. quiet is as
// for Sender.publish.
func (r *Receiver) finish(quiet bool) {
	c := r.core
	if c.direct {
		r.release(1, quiet)
		return
	}
	crash.Point("ring:copied")
	next := c.lap(r.at) + nextLap
	w := &c.words[c.slot(r.at)]
	if r.span > 1 {
		for i := r.span - 1; i > 0; i-- {
			c.words[c.slot(r.at+i)].Store(c.lap(r.at+i) + nextLap)
		}
		crash.Point("ring:freeing")
	}
	if quiet || r.q.party.Quiet {
		step.StoreRelease(w, next)
	} else {
		w.Store(next)
	}
	crash.Point("ring:freed")
	received := &r.e.received
	step.StoreRelease(received, received.Load()+1)
	if c.oneReceiver {
		r.pos = r.at + r.span
	}
	if r.pos-r.shown >= r.every {
		r.hint()
	}
	if !quiet && c.hdr.freed.Load()&party.Sleeping != 0 {
		r.q.party.Wake(&c.hdr.freed)
	}
}

// flush is the barrier after quiet messages, and the look at who sleeps.
func (r *Receiver) flush() {
	if received := &r.e.received; !r.q.party.Quiet {
		received.Store(received.Load())
	}
	if f := &r.hdr.freed; f.Load()&party.Sleeping != 0 {
		r.q.party.Wake(f)
	}
}

func (r *Receiver) hint() {
	r.shown = r.pos
	if r.oneReceiver {
		step.StoreRelease(&r.hdr.head, r.pos)
	} else {
		advance(&r.hdr.head, r.pos)
	}
}

// await takes a message as soon as there is one.
func (r *Receiver) await(ctx context.Context, most int) error {
	var w party.Waiter
	for {
		ok, err := r.take(most)
		if ok || err != nil {
			r.seat.Over(&w)
			return err
		}
		if err := r.seat.Pause(ctx, &w, &r.hdr.filled); err != nil {
			return err
		}
	}
}

// attempt takes a message if there is one now.
func (r *Receiver) attempt(most int) (ok bool, err error) {
	return r.seat.Attempt(func() (bool, error) { return r.take(most) })
}

// Receive copies the next message into buf, waits for it if there is none, and
// returns its length.
//
// Errors: io.EOF if there is none and all senders have closed; ErrPeerGone if there
// is none and the last sender died (another may come: Receive may be called
// again after either); io.ErrShortBuffer, and the message stays; os.ErrClosed;
// shm.ErrFormat if the ring is damaged.
func (r *Receiver) Receive(buf []byte) (int, error) {
	return r.get(buf)
}

// ReceiveContext is Receive until ctx is done; then the error is its.
func (r *Receiver) ReceiveContext(ctx context.Context, buf []byte) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, r.q.party.Fail("receive", err)
	}
	return r.receive(ctx, buf)
}

func (r *Receiver) receive(ctx context.Context, buf []byte) (n int, err error) {
	if err := r.seat.Enter(); err != nil {
		return 0, r.fail(err)
	}
	var ok bool
	if n, ok = r.quick(buf, false); ok {
		r.seat.Exit()
		return n, nil
	}
	if err = r.await(ctx, len(buf)); err == nil {
		n = r.n
		r.read(buf[:n])
		r.finish(false)
	}
	r.seat.Exit()
	return n, r.fail(err)
}

// quick receives into buf what lies where we are, if nobody else receives, and if it is
// what it nearly always is: a message in one slot, for the first time, and not too long.
func (r *Receiver) quick(buf []byte, quiet bool) (n int, ok bool) {
	c := r.core
	at := c.slot(r.pos)
	w := c.words[at].Load()
	if c.direct || !c.oneReceiver || w&^partMask != c.lap(r.pos)|1<<spanShift|stateFull {
		return 0, false
	}
	size := c.words[at+1].Load()
	if size > uint64(min(len(buf), c.room, c.limit)) {
		return 0, false
	}
	step.StoreRelease(&r.e.seen, r.pos+1)
	crash.Point("ring:taken")
	r.at, r.word, r.span, r.n, r.again = r.pos, w, 1, int(size), false
	r.q.party.Shadow.Taken()
	copy(buf, c.bytes[at*8+slotHeader:][:size])
	r.finish(quiet)
	return int(size), true
}

// quickly receives, of a batch, what can be received so, and returns how many.
func (r *Receiver) quickly(bufs [][]byte) (n int) {
	if r.direct {
		return r.getAll(bufs)
	}
	for n < len(bufs) {
		b := bufs[n]
		k, ok := r.quick(b[:cap(b)], true)
		if !ok {
			break
		}
		bufs[n] = b[:k]
		n++
	}
	return n
}

// fail wraps an error; io.EOF is what its callers compare with.
func (r *Receiver) fail(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return r.q.party.Fail("receive", err)
}

// TryReceive is Receive if there is a message now; ok says so. With many senders there is
// none as long as the next one is being written, though later ones may be complete.
func (r *Receiver) TryReceive(buf []byte) (n int, ok bool, err error) {
	if err := r.seat.Enter(); err != nil {
		return 0, false, r.fail(err)
	}
	if ok, err = r.attempt(len(buf)); ok {
		n = r.n
		r.read(buf[:n])
		r.finish(false)
	}
	r.seat.Exit()
	return n, ok, r.fail(err)
}

// ReceiveBatch waits for a message, and takes all that are there then, at most
// len(bufs). Each of the first n elements of bufs becomes one message: its array
// is used if it is large enough. Senders are woken once, not for each.
//
// If the process dies in the call, what it was copying comes again, or is dropped: one
// message, or in a ring for one sender and one receiver up to 32.
//
// Errors: as Receive, for the first message.
func (r *Receiver) ReceiveBatch(bufs [][]byte) (n int, err error) {
	return r.ReceiveBatchContext(context.Background(), bufs)
}

// ReceiveBatchContext is ReceiveBatch until ctx is done; then the error is its.
func (r *Receiver) ReceiveBatchContext(ctx context.Context, bufs [][]byte) (n int, err error) {
	if err := ctx.Err(); err != nil || len(bufs) == 0 {
		return 0, r.q.party.Fail("receive", err)
	}
	if err := r.seat.Enter(); err != nil {
		return 0, r.fail(err)
	}
	again := false
	for {
		if n += r.quickly(bufs[n:]); n == len(bufs) {
			break
		}
		if n == 0 {
			if err = r.await(ctx, math.MaxInt); err != nil {
				break
			}
		} else if ok, _ := r.take(math.MaxInt); !ok { // a failure comes again
			break
		}
		if cap(bufs[n]) < r.n {
			bufs[n] = make([]byte, r.n)
		}
		bufs[n] = bufs[n][:r.n]
		r.read(bufs[n])
		again = again || r.again
		r.finish(true)
		n++
	}
	if n > 0 {
		r.flush()
		r.again = again
	}
	r.seat.Exit()
	return n, r.fail(err)
}

// Lease waits for a message and calls fn with it, in place and without a copy (a
// message over several slots is copied, but see [Sender.Reserve]). p is valid until fn returns, and must not
// be written to. The message is then done with, whatever fn returns, and Lease returns
// that. If the process dies in fn, it was not.
//
// fn must not use this Receiver. Close waits for it. Another process, if it is
// hostile, can change p meanwhile.
//
// Errors: as Receive; fn's.
func (r *Receiver) Lease(fn func(p []byte) error) error {
	return r.LeaseContext(context.Background(), fn)
}

// LeaseContext is Lease with a wait until ctx is done; then the error is its.
func (r *Receiver) LeaseContext(ctx context.Context, fn func(p []byte) error) error {
	if err := ctx.Err(); err != nil {
		return r.fail(err)
	}
	if err := r.seat.Enter(); err != nil {
		return r.fail(err)
	}
	defer r.seat.Exit()
	if err := r.await(ctx, math.MaxInt); err != nil {
		return r.fail(err)
	}
	defer r.finish(false)
	return fn(r.view())
}

// Redelivered tells whether the last message that was received (of a batch, any) had
// been given to a receiver before that died: it may have been worked on.
func (r *Receiver) Redelivered() bool { return r.again }

// All yields messages as they come, each valid until the next, without a copy as in
// Lease. It ends when all senders have closed. Another error is yielded once, with
// no message, and ends it as well.
func (r *Receiver) All() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for {
			more := false
			err := r.Lease(func(p []byte) error {
				more = yield(p, nil)
				return nil
			})
			switch {
			case errors.Is(err, io.EOF):
				return
			case err != nil:
				yield(nil, err)
				return
			case !more:
				return
			}
		}
	}
}

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
	if err := r.seat.Enter(); err != nil {
		return nil, r.fail(err)
	}
	defer r.seat.Exit()
	f, err := r.seat.Notify(r.nothing)
	return f, r.fail(err)
}

// nothing, called when there was nothing to take, returns how to find out whether that
// is still so.
func (r *Receiver) nothing() func() bool {
	c, pos, epoch := r.core, r.pos, r.epoch
	return func() bool {
		if c.direct {
			return c.hdr.tail.Load() == pos
		}
		w := c.words[c.slot(pos)].Load()
		ahead := c.ahead(w, pos)
		empty := ahead < 0 || ahead == 0 && (w&stateMask == stateFree || w&stateMask == stateWriting)
		return empty && (c.oneReceiver || c.hdr.epoch.Load() == epoch)
	}
}

// Close ends this receiver: a call that waits ends with os.ErrClosed. Messages stay
// in the ring. Closing again returns nil.
func (r *Receiver) Close() error { return r.q.party.Fail("close receiver", r.seat.Close()) }
