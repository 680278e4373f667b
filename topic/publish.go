package topic

import (
	"context"
	"fmt"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/party"
	"github.com/sharedmem/shm/internal/step"
)

// Publisher puts messages into a topic. It is for one goroutine at a time (a second
// one gets ErrBusy, as far as that can be noticed); only Close may be called
// beside the others. Make one for each goroutine, where the topic is for many.
type Publisher struct {
	*part
	limit uint64 // where to look at the subscribers' cursors again
	joins uint64 // hdr.joins when we last did
	shown uint64 // the tail as we last stored it, one of many
	every uint64 // how far it may lag

	claimed  bool
	reserved []byte // what Reserve returned
}

// Publisher makes this process, or one more goroutine of it, a publisher.
//
// Errors: ErrTaken if the topic is for one and has it; shm.ErrNoSpace if all
// participants are there; shm.ErrFormat if the topic is damaged; os.ErrClosed.
func (t *Topic) Publisher() (*Publisher, error) {
	pt, err := t.join(publisher, t.core.tail)
	if err != nil {
		return nil, t.party.Fail("join as publisher", err)
	}
	p := &Publisher{part: pt, limit: pt.pos, shown: pt.pos, every: min(max((t.mask+1)/8, 1), 16)}
	p.seat.Leave, p.seat.Show = p.withdraw, p.show
	p.show()
	return p, nil
}

func (p *Publisher) withdraw() {
	if p.claimed {
		p.abort()
	}
	p.show()
}

// show moves the tail up to where we are.
func (p *Publisher) show() {
	p.shown = p.pos
	if p.one {
		step.StoreRelease(&p.hdr.tail, p.pos)
	} else {
		p.advance(p.pos)
	}
}

// past is from what size on a copy may go past the caches, whose stores
// amd64 does not keep behind an earlier one.
const past = 1 << 16

// claim makes the next slot ours; not ok if a subscriber has not read what is there.
// Whoever sees anything of what we write there then sees the word that says so.
func (p *Publisher) claim() (ok bool, err error) {
	c := p.core
	if !c.one {
		return p.compete()
	}
	if c.wait && !p.may() {
		return false, nil
	}
	w := &c.words[c.slot(p.pos)]
	own := c.lap(p.pos) | uint64(p.idx)<<partShift | stateWriting
	if c.room < past {
		step.StoreRelease(w, own)
	} else {
		w.Store(own)
	}
	step.Settle(w)
	crash.Point("topic:claimed")
	return true, nil
}

// compete is claim among many.
//
// What is claimed has no gaps: whoever claims a slot has seen all those between the
// tail and it claimed. A slot that somebody has been writing to for a whole lap is
// claimed for nobody: its position is void. So no one ever waits for who is
// slow, and that one finds its word changed.
func (p *Publisher) compete() (ok bool, err error) {
	c := p.core
	hint := &c.hdr.tail
	from := hint.Load()
	if int64(from-p.pos) > 0 {
		p.pos = from
	}
	for steps := uint64(0); ; steps++ {
		w := &c.words[c.slot(p.pos)]
		v := w.Load()
		switch ahead := c.ahead(v, p.pos); {
		case ahead >= 0:
			p.pos++
			if h := hint.Load(); ahead > 0 && int64(h-p.pos) > 0 {
				p.pos = h
			}
		case ahead < -1:
			return false, garbage("a slot's word", v)
		case c.wait && !p.may():
			return false, nil
		case v&stateMask == stateWriting || v&stateMask == stateBlocked:
			if w.CompareAndSwap(v, c.lap(p.pos)|v&partMask|stateBlocked) {
				crash.Point("topic:blocked")
				p.pos++
			}
		case v&stateMask > stateBlocked:
			return false, garbage("a slot's word", v)
		default:
			if w.CompareAndSwap(v, c.lap(p.pos)|uint64(p.idx)<<partShift|stateWriting) {
				step.Settle(w)
				crash.Point("topic:claimed")
				return true, nil
			}
		}
		if steps > c.patience() {
			// So much has been claimed without anybody's moving the tail: nobody does.
			h := hint.Load()
			if h == from {
				return false, garbage("the tail", h)
			}
			if from = h; int64(h-p.pos) > 0 {
				p.pos = h
			}
			steps = 0
		}
	}
}

// may reports whether all subscribers have read what lies where we are to write.
func (p *Publisher) may() bool {
	return int64(p.limit-p.pos) > 0 && p.hdr.joins.Load() == p.joins || p.look()
}

// look finds out how far the subscribers let us go, and reports whether that is
// further than we are.
//
// Somebody who joins beside it is either seen here, or sees everything claimed that we
// know of, and begins behind that: until it has read there, we have to look again.
// So between what we know and this look stands a barrier, as between the
// joining and its look at the tail.
func (p *Publisher) look() bool {
	c := p.core
	p.joins = c.hdr.joins.Load()
	p.e.published.Store(p.e.published.Load())
	oldest := p.pos
	for i := range c.entries {
		e := &c.entries[i]
		if e.Role() == subscriber {
			if cur := e.cursor.Load(); int64(oldest-cur) > 0 {
				oldest = cur
			}
		}
	}
	if n := p.pos - oldest; n > p.e.high.Load() {
		step.StoreRelease(&p.e.high, n)
	}
	p.limit = oldest + c.mask + 1
	return int64(p.limit-p.pos) > 0
}

// publish makes the claimed message of n bytes visible, and moves on. The word is
// stored last. quiet is for messages in the middle of a batch: then the store is
// no barrier, and flush is to follow.
func (p *Publisher) publish(n int, quiet bool) {
	c := p.core
	at := c.slot(p.pos)
	w := &c.words[at]
	step.StoreRelease(&c.words[at+1], uint64(n))
	crash.Point("topic:written")
	p.t.party.Shadow.Giving()
	own := c.lap(p.pos) | uint64(p.idx)<<partShift
	p.pos++
	switch {
	case !c.one:
		p.leave(w, own, stateFull)
	case quiet || p.t.party.Quiet:
		step.StoreRelease(w, own|stateFull)
	default:
		w.Store(own | stateFull)
	}
	crash.Point("topic:published")
	step.StoreRelease(&p.e.published, p.e.published.Load()+1)
	if c.one {
		step.StoreRelease(&c.hdr.tail, p.pos)
	} else if p.pos-p.shown >= p.every {
		p.show()
	}
	if !quiet && c.hdr.filled.Load()&party.Sleeping != 0 {
		p.t.party.Wake(&c.hdr.filled)
	}
}

// leave ends the writing of one of many.
func (p *Publisher) leave(w *step.Uint64, own, state uint64) {
	if w.CompareAndSwap(own|stateWriting, own|state) {
		return
	}
	// We have been overtaken: the slot is another lap's, and can be used again from
	// the next one on.
	for {
		v := w.Load()
		if v&stateMask != stateBlocked || partOf(v) != p.idx {
			return // by no publisher's doing
		}
		if w.CompareAndSwap(v, v&^stateMask|stateVoid) {
			crash.Point("topic:unblocked")
			return
		}
	}
}

// flush is the barrier after quiet messages, and the look at who sleeps.
func (p *Publisher) flush() {
	if !p.t.party.Quiet {
		p.e.published.Store(p.e.published.Load())
	}
	if f := &p.hdr.filled; f.Load()&party.Sleeping != 0 {
		p.t.party.Wake(f)
	}
}

// abort gives the claimed slot up. A single publisher's stays as it is, and the next
// message is written there.
func (p *Publisher) abort() {
	c := p.core
	p.claimed, p.reserved = false, nil
	if c.one {
		return
	}
	p.leave(&c.words[c.slot(p.pos)], c.lap(p.pos)|uint64(p.idx)<<partShift, stateVoid)
	crash.Point("topic:aborted")
	p.pos++
	p.t.party.Wake(&c.hdr.filled)
}

// await claims a slot as soon as it can.
func (p *Publisher) await(ctx context.Context) error {
	var w party.Waiter
	for {
		ok, err := p.claim()
		if ok || err != nil {
			p.seat.Over(&w)
			return err
		}
		if err := p.seat.Pause(ctx, &w, &p.hdr.freed); err != nil {
			return err
		}
	}
}

// check says whether a message of n bytes can be published now.
func (p *Publisher) check(n int) error {
	switch {
	case p.claimed:
		return fmt.Errorf("a message is reserved; commit or abort it before: %w", ErrBusy)
	case n > p.room || n < 0:
		return fmt.Errorf("%w: a message of %d bytes; SlotSize is %d", shm.ErrSize, n, p.room)
	}
	return nil
}

// begin begins a call that publishes n bytes, and claims a slot for them.
func (p *Publisher) begin(ctx context.Context, n int) error {
	if err := p.seat.Enter(); err != nil {
		return err
	}
	err := p.check(n)
	if err == nil {
		var ok bool
		if ok, err = p.claim(); !ok && err == nil {
			err = p.await(ctx)
		}
	}
	if err != nil {
		p.seat.Exit()
	}
	return err
}

// try is begin without waiting.
func (p *Publisher) try(n int) (ok bool, err error) {
	if err := p.seat.Enter(); err != nil {
		return false, err
	}
	if err = p.check(n); err == nil {
		ok, err = p.seat.Attempt(p.claim)
	}
	if !ok {
		p.seat.Exit()
	}
	return ok, err
}

// Publish copies m into the topic. With the policy Wait it waits until all
// subscribers have read what lies in its place.
//
// Errors: shm.ErrSize; os.ErrClosed; shm.ErrFormat if the topic is damaged.
func (p *Publisher) Publish(m []byte) error {
	err := p.begin(context.Background(), len(m))
	if err != nil {
		return p.t.party.Fail("publish", err)
	}
	p.copyIn(p.slot(p.pos), m)
	p.publish(len(m), false)
	p.seat.Exit()
	return nil
}

// PublishContext is Publish until ctx is done; then the error is its.
func (p *Publisher) PublishContext(ctx context.Context, m []byte) error {
	err := ctx.Err()
	if err == nil {
		err = p.begin(ctx, len(m))
	}
	if err != nil {
		return p.t.party.Fail("publish", err)
	}
	p.copyIn(p.slot(p.pos), m)
	p.publish(len(m), false)
	p.seat.Exit()
	return nil
}

// TryPublish publishes m if it need not wait for that, and reports whether it did.
//
// Errors: as Publish.
func (p *Publisher) TryPublish(m []byte) (bool, error) {
	ok, err := p.try(len(m))
	if !ok {
		return false, p.t.party.Fail("publish", err)
	}
	p.copyIn(p.slot(p.pos), m)
	p.publish(len(m), false)
	p.seat.Exit()
	return true, nil
}

// PublishBatch publishes all messages, in order, and returns how many it has published;
// fewer come with an error. Subscribers may see the first before the last is
// published; they are woken once, not for each.
//
// Errors: as Publish.
func (p *Publisher) PublishBatch(messages [][]byte) (int, error) {
	return p.PublishBatchContext(context.Background(), messages)
}

// PublishBatchContext is PublishBatch until ctx is done; then the error is its.
func (p *Publisher) PublishBatchContext(ctx context.Context, messages [][]byte) (n int, err error) {
	if err = ctx.Err(); err == nil {
		err = p.seat.Enter()
	}
	if err != nil {
		return 0, p.t.party.Fail("publish", err)
	}
	for _, m := range messages {
		if err = p.check(len(m)); err != nil {
			break
		}
		var ok bool
		if ok, err = p.claim(); !ok && err == nil {
			p.flush() // so that they can read on
			err = p.await(ctx)
		}
		if err != nil {
			break
		}
		p.copyIn(p.slot(p.pos), m)
		p.publish(len(m), true)
		n++
	}
	p.flush()
	p.seat.Exit()
	return n, p.t.party.Fail("publish", err)
}

// Reserve returns the room for a message of up to n bytes, to be filled in place, and
// then published with [Publisher.Commit], or given back with [Publisher.Abort]. The
// room holds what lay there before, which no subscriber can read any more. With the
// policy Wait it waits as Publish does.
//
// In a topic with many publishers subscribers wait for a reserved message, as it has its
// place in the order, until the others have come around once: then it counts as
// missed, whatever is committed. Should this process die, it is passed over.
//
// Errors: as Publish; ErrBusy if something is reserved already.
func (p *Publisher) Reserve(n int) ([]byte, error) {
	return p.ReserveContext(context.Background(), n)
}

// ReserveContext is Reserve until ctx is done; then the error is its.
func (p *Publisher) ReserveContext(ctx context.Context, n int) ([]byte, error) {
	err := ctx.Err()
	if err == nil {
		err = p.begin(ctx, n)
	}
	if err != nil {
		return nil, p.t.party.Fail("reserve", err)
	}
	defer p.seat.Exit()
	return p.reserve(n), nil
}

// TryReserve is Reserve if it need not wait; else it returns nil and no error.
func (p *Publisher) TryReserve(n int) ([]byte, error) {
	ok, err := p.try(n)
	if !ok {
		return nil, p.t.party.Fail("reserve", err)
	}
	defer p.seat.Exit()
	return p.reserve(n), nil
}

func (p *Publisher) reserve(n int) []byte {
	crash.Point("topic:reserved")
	p.claimed = true
	p.reserved = p.payload(p.slot(p.pos))[:n:n]
	return p.reserved
}

// Commit publishes the first n bytes of what Reserve returned.
//
// Errors: ErrNotReserved; shm.ErrSize if less was reserved; os.ErrClosed.
func (p *Publisher) Commit(n int) error {
	if err := p.seat.Enter(); err != nil {
		return p.t.party.Fail("commit", err)
	}
	defer p.seat.Exit()
	switch {
	case !p.claimed:
		return p.t.party.Fail("commit", ErrNotReserved)
	case n < 0 || n > len(p.reserved):
		return p.t.party.Fail("commit", fmt.Errorf("%w: %d bytes of %d reserved", shm.ErrSize, n, len(p.reserved)))
	}
	p.claimed, p.reserved = false, nil
	p.publish(n, false)
	return nil
}

// Abort gives back what Reserve returned. What lay there before is lost all the same.
//
// Errors: ErrNotReserved, os.ErrClosed.
func (p *Publisher) Abort() error {
	if err := p.seat.Enter(); err != nil {
		return p.t.party.Fail("abort", err)
	}
	defer p.seat.Exit()
	if !p.claimed {
		return p.t.party.Fail("abort", ErrNotReserved)
	}
	p.abort()
	return nil
}

// Close ends this publisher: a call that waits ends with os.ErrClosed, what is
// reserved is given back. When all publishers have closed, subscribers get io.EOF after
// the last message. Closing again returns nil.
func (p *Publisher) Close() error { return p.t.party.Fail("close publisher", p.seat.Close()) }
