package ring

import (
	"context"
	"fmt"
	"io"
	"math"

	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/party"
	"github.com/sharedmem/shm/internal/platform/wait"
	"github.com/sharedmem/shm/internal/step"
)

// A ring for one sender and one receiver is direct: its slots have no words, and so no
// cache line of theirs goes there and back for each message. What is before the tail has
// been sent, what is before the head is done with, and each of the two has one writer:
//
//	sender     writes the message and its length, then moves the tail
//	receiver   says how far it may have read (seen, in its entry), reads, then moves the head
//
// Each keeps a copy of the other's, and looks again only when by that the ring is full,
// or empty. A sender that dies leaves what it has not shown where nobody looks. A
// receiver that dies leaves the head where it had come to, and in its seen what it may
// have had in its hands: that is given back, or dropped, by recovery.

const (
	group = 32 // messages of a batch that are shown, or given back, at once

	pauseLeast, pauseMost = 8, 400 // steps of an empty loop
)

// Who comes to the end of what it has seen of the other looks again. Right behind the other
// it would do that for each message, take its line away each time, and so hold it up.
// So it waits a moment before it looks, and longer if there was little the last time. That
// is for streams: one message at most, and the two are in a conversation,
// where the answer takes longer than the shortest pause.
func (p *part) look(position *step.Uint64) uint64 {
	for i := range p.pause {
		p.spun = i
	}
	return position.Load()
}

// found takes note of how much a look has found.
func (p *part) found(n uint64) {
	switch {
	case n == 0:
	case n == 1:
		p.pause = max(p.pause/2, pauseLeast)
	case n < group/2:
		p.pause = min(2*p.pause, pauseMost)
	case n > group:
		p.pause -= p.pause / 4
	}
}

// vacant says whether k slots are free.
func (s *Sender) vacant(k int) (bool, error) {
	c := s.core
	if s.until-s.pos >= uint64(k) {
		return true, nil
	}
	head := s.look(&c.hdr.head)
	used := s.pos - head
	if used > c.mask+1 {
		return false, garbage("the head", head)
	}
	s.found(head + c.mask + 1 - s.until)
	s.until = head + c.mask + 1
	if s.until-s.pos < uint64(k) {
		k = 0
	}
	s.fill(used + uint64(k))
	return k > 0, nil
}

// fill takes note of n slots in use.
func (s *Sender) fill(n uint64) {
	if n <= s.mask+1 && n > s.e.high.Load() {
		step.StoreRelease(&s.e.high, n)
	}
}

// move copies a message. One of a line's length is copied without a call: each store counts, as those
// to lines that are still on their way wait in a queue that is short, and a call has some of its own.
func move(to, from []byte) {
	if len(from) != line || len(to) < line {
		copy(to, from)
		return
	}
	*(*[16]byte)(to[0:16]) = *(*[16]byte)(from[0:16])
	*(*[16]byte)(to[16:32]) = *(*[16]byte)(from[16:32])
	*(*[16]byte)(to[32:48]) = *(*[16]byte)(from[32:48])
	*(*[16]byte)(to[48:64]) = *(*[16]byte)(from[48:64])
}

// put is Send, quick if it is as it nearly always is: one slot, which is free, and no barrier.
func (s *Sender) put(p []byte) error {
	in := party.Outside
	if s.lean {
		in = s.seat.Begin()
	}
	c := s.core
	if in != party.Inside || s.pos == s.until || len(p) > c.short || s.claimed != 0 {
		if in != party.Outside {
			s.seat.Exit()
		}
		return s.send(context.Background(), p)
	}
	at := int(s.pos & c.mask)
	move(c.bytes[at*c.room:], p)
	c.setLength(at, len(p))
	crash.Point("ring:written")
	s.q.party.Shadow.Giving()
	s.pos++
	h := c.hdr
	step.StoreRelease(&h.tail, s.pos)
	crash.Point("ring:committed")
	step.StoreRelease(&s.e.sent, s.e.sent.Load()+1)
	if h.filled.Load()&party.Sleeping != 0 {
		s.q.party.Wake(&h.filled)
	}
	s.seat.Exit()
	return nil
}

// setLength stores the length of the message at slot at. It is often what it was a lap ago;
// then its line stays in both caches.
func (c *core) setLength(at, n int) {
	if l := &c.words[at]; l.Load() != uint64(n) {
		step.StoreRelease(l, uint64(n))
	}
}

// run is how many of n messages can be in a row from the position on: up to the next multiple
// of a group, where the other side is told.
func (p *part) run(n int) int {
	g := min(group, p.mask+1)
	return min(n, int(p.until-p.pos), int(g-p.pos&(g-1)))
}

// putAll sends messages of a batch that take one slot each, as long as there is room, and
// returns how many. flush is to follow.
func (s *Sender) putAll(ps [][]byte) (n int) {
	c := s.core
	for s.claimed == 0 && n < len(ps) {
		if s.pos == s.until {
			if ok, _ := s.vacant(1); !ok {
				break
			}
		}
		at := int(s.pos & c.mask)
		run := s.run(len(ps) - n)
		k := c.moveIn(at, ps[n:n+run])
		crash.Point("ring:written")
		if n += k; k > 0 {
			s.pos += uint64(k)
			s.show(uint64(k), true)
		}
		if k < run {
			break
		}
	}
	return n
}

// moveIn copies messages into slots from at on, up to one that is too long.
func (c *core) moveIn(at int, ps [][]byte) int {
	to, room, short := c.bytes[at*c.room:(at+len(ps))*c.room], c.room, c.short
	for i, p := range ps {
		if len(p) > short {
			return i
		}
		move(to[i*room:], p)
		c.setLength(at+i, len(p))
	}
	return len(ps)
}

// moveOut copies messages out of slots from at on, up to one that is too long.
func (c *core) moveOut(at int, bufs [][]byte) int {
	from, lengths, room, short := c.bytes[at*c.room:(at+len(bufs))*c.room], c.words[at:at+len(bufs)], c.room, c.short
	for i, b := range bufs {
		n := lengths[i].Load()
		if n > uint64(min(cap(b), short)) {
			return i
		}
		b = b[:n]
		move(b, from[i*room:][:n])
		bufs[i] = b
	}
	return len(bufs)
}

// add puts a message of n bytes, which lies in its k slots, behind the others.
func (s *Sender) add(n, k int, quiet bool) {
	s.setLength(int(s.pos&s.mask), n)
	crash.Point("ring:written")
	s.pos += uint64(k)
	s.show(1, quiet)
}

// show moves the tail behind n messages more.
func (s *Sender) show(n uint64, quiet bool) {
	h, p := s.hdr, &s.q.party
	p.Shadow.Giving()
	if quiet || p.Quiet {
		step.StoreRelease(&h.tail, s.pos)
	} else {
		h.tail.Store(s.pos)
	}
	crash.Point("ring:committed")
	step.StoreRelease(&s.e.sent, s.e.sent.Load()+n)
	if !quiet && h.filled.Load()&party.Sleeping != 0 {
		p.Wake(&h.filled)
	}
}

// there says whether there is a message at the head.
func (r *Receiver) there() (bool, error) {
	if r.pos == r.until {
		tail := r.look(&r.hdr.tail)
		n := tail - r.pos
		if n > r.mask+1 {
			return false, garbage("the tail", tail)
		}
		r.found(n)
		r.until = tail
	}
	return r.pos != r.until, nil
}

// get is Receive, quick if it is as it nearly always is.
func (r *Receiver) get(buf []byte) (int, error) {
	in, n, at := party.Outside, uint64(math.MaxUint64), 0
	if r.lean {
		in = r.seat.Begin()
	}
	c := r.core
	if in == party.Inside && r.pos != r.until && int64(r.had-r.pos) <= 0 {
		at = int(r.pos & c.mask)
		n = c.words[at].Load()
	}
	if n > uint64(min(len(buf), c.short)) {
		if in != party.Outside {
			r.seat.Exit()
		}
		return r.receive(context.Background(), buf)
	}
	r.again = false
	step.StoreRelease(&r.e.seen, r.pos+1)
	crash.Point("ring:taken")
	r.q.party.Shadow.Taken()
	move(buf, c.bytes[at*c.room:][:n])
	crash.Point("ring:copied")
	r.pos++
	h := c.hdr
	step.StoreRelease(&h.head, r.pos)
	crash.Point("ring:freed")
	step.StoreRelease(&r.e.received, r.e.received.Load()+1)
	if h.freed.Load()&party.Sleeping != 0 {
		r.q.party.Wake(&h.freed)
	}
	r.seat.Exit()
	return int(n), nil
}

// getAll receives a batch of messages that take one slot each, as far as they are there, and
// returns how many. flush is to follow.
func (r *Receiver) getAll(bufs [][]byte) (n int) {
	c := r.core
	for n < len(bufs) {
		if ok, _ := r.there(); !ok || int64(r.had-r.pos) > 0 {
			break
		}
		run := r.run(len(bufs) - n)
		r.see(uint64(run))
		k := c.moveOut(int(r.pos&c.mask), bufs[n:n+run])
		if n += k; k > 0 {
			r.span = uint64(k)
			r.release(uint64(k), true)
		}
		if k < run {
			step.StoreRelease(&r.e.seen, r.pos)
			break
		}
	}
	return n
}

// see says how many slots may be read from here on. If we die, the next one is to know that we
// may have worked on what is in them.
func (r *Receiver) see(span uint64) {
	r.at, r.span, r.again = r.pos, span, int64(r.had-r.pos) > 0
	step.StoreRelease(&r.e.seen, r.pos+span)
	crash.Point("ring:taken")
	r.q.party.Shadow.Taken()
}

// next takes the message at the head.
func (r *Receiver) next(most int) (bool, error) {
	c := r.core
	if ok, err := r.there(); !ok {
		return false, err
	}
	n, span := c.words[r.pos&c.mask].Load(), uint64(1)
	if n > uint64(c.room) && n <= uint64(c.limit) {
		span = uint64(c.need(int(n)))
	}
	switch {
	case n > uint64(c.limit) || span > r.until-r.pos:
		return false, garbage("the length of a message", n)
	case n > uint64(most):
		return false, fmt.Errorf("a message of %d bytes: %w", n, io.ErrShortBuffer)
	}
	r.n = int(n)
	r.see(span)
	return true, nil
}

// release moves the head behind the n messages that were taken.
func (r *Receiver) release(n uint64, quiet bool) {
	h, p := r.hdr, &r.q.party
	crash.Point("ring:copied")
	r.pos = r.at + r.span
	if quiet || p.Quiet {
		step.StoreRelease(&h.head, r.pos)
	} else {
		h.head.Store(r.pos)
	}
	crash.Point("ring:freed")
	step.StoreRelease(&r.e.received, r.e.received.Load()+n)
	if !quiet && h.freed.Load()&party.Sleeping != 0 {
		p.Wake(&h.freed)
	}
}

// inOnePiece returns where a message of n bytes at pos lies, nil if a part of it is at the
// ring's end and the rest at its beginning.
func (c *core) inOnePiece(pos uint64, n int) []byte {
	from := int(pos&c.mask) * c.room
	if from+n > len(c.bytes) {
		return nil
	}
	return c.bytes[from : from+n : from+n]
}

// piece is how much is copied at once: from a mebibyte on Go copies past the caches, in which
// the other side would find it.
const piece = 512 << 10

// copyTo copies a message to pos.
func (c *core) copyTo(pos uint64, p []byte) {
	for at := int(pos&c.mask) * c.room; len(p) > 0; at %= len(c.bytes) {
		n := copy(c.bytes[at:], p[:min(len(p), piece)])
		at, p = at+n, p[n:]
	}
}

// copyFrom copies the message at pos.
func (c *core) copyFrom(pos uint64, p []byte) {
	for at := int(pos&c.mask) * c.room; len(p) > 0; at %= len(c.bytes) {
		n := copy(p[:min(len(p), piece)], c.bytes[at:])
		at, p = at+n, p[n:]
	}
}

// giveBackDirect gives back what a dead receiver had, or drops it. How many
// messages that are is counted once, whoever dies here: before anything changes it is
// written down what the counter has to be.
func (q *Queue) giveBackDirect(e *entry) {
	h := q.hdr
	seen, from, counter := e.seen.Load(), h.head.Load(), &e.lost
	if !q.discard {
		counter = &e.redelivered
		if again := h.again.Load(); int64(again-from) > 0 {
			from = again // those were counted when another died
		}
	}
	tally := h.tally.Load()
	if tally == 0 {
		tally = (counter.Load()+q.messages(from, seen))<<1 | 1
		h.tally.Store(tally)
		crash.Point("ring:tallied")
	}
	counter.Store(tally >> 1)
	crash.Point("ring:counted")
	if q.discard {
		h.head.Store(seen)
		crash.Point("ring:discarded")
	} else {
		advance(&h.again, seen)
		crash.Point("ring:given-back")
	}
	h.tally.Store(0)
}

// peekDirect is [Peek] in a direct ring.
func (c *core) peekDirect(pos uint64) (messages []Message, next uint64, err error) {
	head, tail, again, seen := c.hdr.head.Load(), c.hdr.tail.Load(), c.hdr.again.Load(), uint64(0)
	if tail-head > c.mask+1 {
		// They were loaded one after the other: the head may have moved in between.
		now := c.hdr.head.Load()
		if now == head || int64(tail-now) > int64(c.mask+1) {
			return nil, pos, garbage("the tail", tail)
		}
		head = now
	}
	for i := range c.entries {
		if c.entries[i].Role() == receiver {
			seen = c.entries[i].seen.Load()
		}
	}
	if int64(pos-head) < 0 {
		pos = head
	}
	for int64(tail-pos) > 0 {
		n := c.words[pos&c.mask].Load()
		m := Message{Position: pos, Taken: int64(seen-pos) > 0, Redelivered: int64(again-pos) > 0}
		if n <= uint64(c.limit) {
			m.Data = make([]byte, n)
			c.copyFrom(pos, m.Data)
		}
		// The copy is of this message if it has still its place after all of it.
		wait.Fence()
		if head := c.hdr.head.Load(); int64(head-pos) > 0 {
			pos = head
			continue
		}
		span := uint64(c.need(len(m.Data)))
		if n > uint64(c.limit) || span > tail-pos {
			return messages, pos, garbage("the length of a message", n)
		}
		messages = append(messages, m)
		pos += span
	}
	return messages, pos, nil
}

// messages counts those from one position to another.
func (c *core) messages(from, to uint64) (n uint64) {
	for ; int64(to-from) > 0 && n <= c.mask; n++ {
		from += uint64(c.need(int(min(c.words[from&c.mask].Load(), uint64(c.limit)))))
	}
	return n
}
