package ring

import (
	"context"
	"fmt"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/party"
	"github.com/sharedmem/shm/internal/step"
)

// Sender puts messages into a ring. It is for one goroutine at a time (a second one
// gets ErrBusy, as far as that can be noticed); only Close may be called beside
// the others. Make one for each goroutine, where the ring is for many.
type Sender struct {
	*part
	shown uint64 // the tail hint as we last stored it
	every uint64 // how far it may lag

	claimed  int    // slots that are reserved, 0 if there is no reservation
	reserved []byte // what Reserve returned
	spare    []byte // for messages over several slots
}

// Sender makes this process, or one more goroutine of it, a sender.
//
// Errors: ErrTaken if the ring is for one and has it; shm.ErrNoSpace if all
// participants are there; os.ErrClosed.
func (q *Queue) Sender() (*Sender, error) {
	p, err := q.join("join as sender", sender)
	if err != nil {
		return nil, err
	}
	s := &Sender{part: p, shown: p.pos, every: p.core.lag()}
	p.seat.Leave, p.seat.Show = s.withdraw, s.hint
	return s, nil
}

// lag is how far hints may be behind: to move one is a cache line that all the others
// have to fetch again, to walk on from it costs as many.
func (c *core) lag() uint64 { return min(max((c.mask+1)/8, 1), 16) }

func (s *Sender) withdraw() {
	if s.claimed != 0 {
		s.abort()
	}
	s.hint()
}

// claim finds the first slot that nobody has claimed in its lap, and claims k of them
// with it; not ok if the ring is full. Then pos is the first.
//
// What is claimed has no gaps: whoever claims a slot has seen all those between the hint
// and it claimed, and the hint says so of all before. So it is enough to look from the hint
// on for the first free one. With one sender finding it is all; nobody else takes
// it, and who dies before the commit leaves it free.
func (s *Sender) claim(k int) (ok bool, err error) {
	c := s.core
	if c.direct {
		return s.vacant(k)
	}
	hint := &c.hdr.tail
	from := hint.Load()
	if int64(from-s.pos) > 0 && !c.oneSender {
		s.pos = from
	}
	for steps := uint64(0); ; steps++ {
		at := c.slot(s.pos)
		w := c.words[at].Load()
		switch ahead := c.ahead(w, s.pos); {
		case ahead == 0 && w&stateMask == stateFree:
			free, err := c.following(s.pos, k)
			if err != nil || free < 0 {
				return false, err
			}
			if free == 0 {
				break // somebody was faster
			}
			if c.oneSender {
				return true, nil
			}
			if c.words[at].CompareAndSwap(w, w|uint64(k)<<spanShift|uint64(s.idx)<<partShift|stateWriting) {
				crash.Point("ring:claimed")
				return true, nil
			}
		case ahead == 0:
			span, err := c.span(w)
			if err != nil {
				return false, err
			}
			s.pos += span
		case ahead > 0:
			// Used up since. A message of several slots is passed one by one: the first of
			// them is the last to be freed.
			s.pos++
			if h := hint.Load(); int64(h-s.pos) > 0 {
				s.pos = h
			}
		case ahead == -1: // in use; if it says free, behind the first slot of a message
			return false, nil
		default:
			return false, garbage("a slot's word", w)
		}
		if steps > 2*c.mask+1024 {
			// So much has been claimed without anybody's moving the hint: nobody does.
			if h := hint.Load(); h == from {
				return false, garbage("the tail", h)
			} else if from = h; int64(h-s.pos) > 0 {
				s.pos = h
			}
			steps = 0
		}
	}
}

// following looks at the slots behind the first of a message of k: 1 if they are free, 0
// if somebody has claimed the first one since, -1 if they are still in use.
func (c *core) following(pos uint64, k int) (int, error) {
	for i := uint64(1); i < uint64(k); i++ {
		w := c.words[c.slot(pos+i)].Load()
		switch ahead := c.ahead(w, pos+i); {
		case ahead == 0 && w&stateMask == stateFree:
		case ahead == -1:
			return -1, nil
		case ahead < -1 || c.oneSender:
			return -1, garbage("a slot's word", w)
		default:
			return 0, nil
		}
	}
	return 1, nil
}

// write copies a message into the claimed slots.
func (s *Sender) write(p []byte) {
	c := s.core
	if c.direct {
		c.copyTo(s.pos, p)
		return
	}
	for pos := s.pos; ; pos++ {
		n := copy(c.payload(c.slot(pos)), p)
		if p = p[n:]; len(p) == 0 {
			return
		}
	}
}

// publish makes the claimed message of n bytes visible, and moves on. The word is
// stored last. quiet is for messages in the middle of a batch: then the store is
// no barrier, and flush is to follow.
func (s *Sender) publish(n, k int, quiet bool) {
	c := s.core
	if c.direct {
		s.add(n, k, quiet)
		return
	}
	at := c.slot(s.pos)
	step.StoreRelease(&c.words[at+1], uint64(n))
	crash.Point("ring:written")
	s.q.party.Shadow.Giving()
	w := c.lap(s.pos) | uint64(k)<<spanShift | uint64(s.idx)<<partShift | stateFull
	s.pos += uint64(k)
	if quiet || s.q.party.Quiet {
		step.StoreRelease(&c.words[at], w)
	} else {
		c.words[at].Store(w)
	}
	crash.Point("ring:committed")
	sent := &s.e.sent
	step.StoreRelease(sent, sent.Load()+1)
	if s.pos-s.shown >= s.every {
		s.hint()
	}
	if !quiet && c.hdr.filled.Load()&party.Sleeping != 0 {
		s.q.party.Wake(&c.hdr.filled)
	}
}

// flush is the barrier after quiet messages, and the look at who sleeps.
func (s *Sender) flush() {
	if sent := &s.e.sent; !s.q.party.Quiet {
		sent.Store(sent.Load())
	}
	if f := &s.hdr.filled; f.Load()&party.Sleeping != 0 {
		s.q.party.Wake(f)
	}
}

// hint moves the hint up, and takes the time to look how full the ring is.
func (s *Sender) hint() {
	c := s.core
	if c.direct {
		s.fill(s.pos - c.hdr.head.Load())
		return
	}
	s.shown = s.pos
	if c.oneSender {
		step.StoreRelease(&c.hdr.tail, s.pos)
	} else {
		advance(&c.hdr.tail, s.pos)
	}
	crash.Point("ring:hinted")
	if n := s.pos - c.hdr.head.Load(); n <= c.mask+1 && n > s.e.high.Load() {
		step.StoreRelease(&s.e.high, n)
	}
}

func (s *Sender) abort() {
	c := s.core
	k := s.claimed
	s.claimed, s.reserved = 0, nil
	if c.oneSender {
		return // it was never taken
	}
	at := c.slot(s.pos)
	c.words[at].Store(c.words[at].Load()&^stateMask | stateVoid)
	crash.Point("ring:aborted")
	s.pos += uint64(k)
	s.q.party.Wake(&c.hdr.filled)
}

// await claims k slots as soon as it can.
func (s *Sender) await(ctx context.Context, k int) error {
	var w party.Waiter
	for {
		ok, err := s.claim(k)
		if ok || err != nil {
			s.seat.Over(&w)
			return err
		}
		if err := s.seat.Pause(ctx, &w, &s.hdr.freed); err != nil {
			return err
		}
	}
}

// attempt claims k slots if it can now.
func (s *Sender) attempt(k int) (ok bool, err error) {
	return s.seat.Attempt(func() (bool, error) { return s.claim(k) })
}

// check says whether a message of n bytes can be sent now.
func (s *Sender) check(n int) error {
	switch {
	case s.claimed != 0:
		return fmt.Errorf("a message is reserved; commit or abort it before: %w", ErrBusy)
	case n > s.limit || n < 0:
		return fmt.Errorf("%w: a message of %d bytes; MaxMessage is %d", shm.ErrSize, n, s.limit)
	}
	return nil
}

// Send copies p into the ring, and waits while it is full.
//
// A ring without receivers takes messages until it is full, as one may come back.
// Then, if there have been receivers, Send gives up.
//
// Errors: ErrPeerGone if the ring is full and the last receiver died,
// io.ErrClosedPipe if it is full and the last receiver closed; shm.ErrSize;
// os.ErrClosed; shm.ErrFormat if the ring is damaged.
func (s *Sender) Send(p []byte) error { return s.put(p) }

// SendContext is Send until ctx is done; then the error is its.
func (s *Sender) SendContext(ctx context.Context, p []byte) error {
	if err := ctx.Err(); err != nil {
		return s.q.party.Fail("send", err)
	}
	return s.send(ctx, p)
}

func (s *Sender) send(ctx context.Context, p []byte) error {
	if err := s.seat.Enter(); err != nil {
		return s.q.party.Fail("send", err)
	}
	if s.quick(p, false) {
		s.seat.Exit()
		return nil
	}
	err := s.check(len(p))
	k := s.need(len(p))
	if err == nil {
		err = s.await(ctx, k)
	}
	if err == nil {
		s.write(p)
		s.publish(len(p), k, false)
	}
	s.seat.Exit()
	return s.q.party.Fail("send", err)
}

// quick sends p if it takes one slot and that is free where we are; in a direct ring, put does.
func (s *Sender) quick(p []byte, quiet bool) bool {
	c := s.core
	if len(p) > c.short || s.claimed != 0 || c.direct {
		return false
	}
	at := c.slot(s.pos)
	w, lap := &c.words[at], c.lap(s.pos)
	if w.Load() != lap {
		return false
	}
	if !c.oneSender {
		if !w.CompareAndSwap(lap, lap|1<<spanShift|uint64(s.idx)<<partShift|stateWriting) {
			return false
		}
		crash.Point("ring:claimed")
	}
	copy(c.bytes[at*8+slotHeader:], p)
	s.publish(len(p), 1, quiet)
	return true
}

// quickly sends, of a batch, what can be sent so, and returns how many.
func (s *Sender) quickly(ps [][]byte) (n int) {
	if s.direct {
		return s.putAll(ps)
	}
	for n < len(ps) && s.quick(ps[n], true) {
		n++
	}
	return n
}

// TrySend sends p if there is room now, and reports whether it did.
//
// Errors: as Send.
func (s *Sender) TrySend(p []byte) (bool, error) {
	if err := s.seat.Enter(); err != nil {
		return false, s.q.party.Fail("send", err)
	}
	if s.quick(p, false) {
		s.seat.Exit()
		return true, nil
	}
	err := s.check(len(p))
	k := s.need(len(p))
	ok := false
	if err == nil {
		ok, err = s.attempt(k)
	}
	if ok {
		s.write(p)
		s.publish(len(p), k, false)
	}
	s.seat.Exit()
	return ok, s.q.party.Fail("send", err)
}

// SendBatch sends all messages, in order, and returns how many it has sent; fewer come with an
// error. Receivers may see the first before the last is sent; they are woken once,
// not for each.
//
// Errors: as Send.
func (s *Sender) SendBatch(messages [][]byte) (int, error) {
	return s.SendBatchContext(context.Background(), messages)
}

// SendBatchContext is SendBatch until ctx is done; then the error is its.
func (s *Sender) SendBatchContext(ctx context.Context, messages [][]byte) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, s.q.party.Fail("send", err)
	}
	if err := s.seat.Enter(); err != nil {
		return 0, s.q.party.Fail("send", err)
	}
	var err error
	n := 0
	for {
		if n += s.quickly(messages[n:]); n == len(messages) {
			break
		}
		p := messages[n]
		if err = s.check(len(p)); err != nil {
			break
		}
		k := s.need(len(p))
		var ok bool
		if ok, err = s.claim(k); !ok && err == nil {
			s.flush()
			err = s.await(ctx, k)
		}
		if err != nil {
			break
		}
		s.write(p)
		s.publish(len(p), k, true)
		n++
	}
	s.flush()
	s.seat.Exit()
	return n, s.q.party.Fail("send", err)
}

// Reserve returns the room for a message of up to n bytes, to be filled in place, and
// then sent with [Sender.Commit], or given back with [Sender.Abort]. It waits
// while the ring is full. The room holds what lay there before.
//
// A message over several slots has no place in one piece: Reserve returns memory of
// this process then, which Commit copies. In a ring for one sender and one receiver
// that is so only for one that begins at the end of the ring and goes on at its beginning.
//
// In a ring with many senders those who receive wait for a reserved message, as it
// has its place in the order. Should this process die, the place is void and
// passed over.
//
// Errors: as Send; ErrBusy if something is reserved already.
func (s *Sender) Reserve(n int) ([]byte, error) {
	return s.ReserveContext(context.Background(), n)
}

// ReserveContext is Reserve until ctx is done; then the error is its.
func (s *Sender) ReserveContext(ctx context.Context, n int) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, s.q.party.Fail("reserve", err)
	}
	if err := s.seat.Enter(); err != nil {
		return nil, s.q.party.Fail("reserve", err)
	}
	defer s.seat.Exit()
	err := s.check(n)
	k := s.need(n)
	if err == nil {
		err = s.await(ctx, k)
	}
	if err != nil {
		return nil, s.q.party.Fail("reserve", err)
	}
	return s.reserve(n, k), nil
}

// TryReserve is Reserve if there is room now; else it returns nil and no error.
func (s *Sender) TryReserve(n int) ([]byte, error) {
	if err := s.seat.Enter(); err != nil {
		return nil, s.q.party.Fail("reserve", err)
	}
	defer s.seat.Exit()
	err := s.check(n)
	k := s.need(n)
	ok := false
	if err == nil {
		ok, err = s.attempt(k)
	}
	if !ok {
		return nil, s.q.party.Fail("reserve", err)
	}
	return s.reserve(n, k), nil
}

func (s *Sender) reserve(n, k int) []byte {
	crash.Point("ring:reserved")
	s.claimed = k
	switch {
	case s.direct && s.inOnePiece(s.pos, n) != nil:
		s.reserved = s.inOnePiece(s.pos, n)
	case !s.direct && k == 1:
		s.reserved = s.payload(s.slot(s.pos))[:n:n]
	default:
		if cap(s.spare) < n {
			s.spare = make([]byte, n)
		}
		s.reserved = s.spare[:n]
	}
	return s.reserved
}

// Commit sends the first n bytes of what Reserve returned.
//
// Errors: ErrNotReserved; shm.ErrSize if less was reserved; os.ErrClosed.
func (s *Sender) Commit(n int) error {
	if err := s.seat.Enter(); err != nil {
		return s.q.party.Fail("commit", err)
	}
	defer s.seat.Exit()
	switch {
	case s.claimed == 0:
		return s.q.party.Fail("commit", ErrNotReserved)
	case n < 0 || n > len(s.reserved):
		return s.q.party.Fail("commit", fmt.Errorf("%w: %d bytes of %d reserved", shm.ErrSize, n, len(s.reserved)))
	}
	k := s.claimed
	if k > 1 {
		s.write(s.reserved[:n]) // onto itself, if it lies in place
	}
	if s.direct {
		k = s.need(n) // the other slots were never taken
	}
	s.claimed, s.reserved = 0, nil
	s.publish(n, k, false)
	return nil
}

// Abort gives back what Reserve returned.
//
// Errors: ErrNotReserved, os.ErrClosed.
func (s *Sender) Abort() error {
	if err := s.seat.Enter(); err != nil {
		return s.q.party.Fail("abort", err)
	}
	defer s.seat.Exit()
	if s.claimed == 0 {
		return s.q.party.Fail("abort", ErrNotReserved)
	}
	s.abort()
	return nil
}

// Close ends this sender: a call that waits ends with os.ErrClosed, what is
// reserved is given back. When all senders have closed, receivers get io.EOF after
// the last message. Closing again returns nil.
func (s *Sender) Close() error { return s.q.party.Fail("close sender", s.seat.Close()) }
