package ring

import (
	"io"

	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/party"
)

// join makes the caller a participant.
func (q *Queue) join(op string, r party.Role) (*part, error) {
	p := &part{core: q.core, q: q}
	err := q.party.Join(&p.seat, r, func() {
		p.idx = p.seat.Index
		p.e = &q.entries[p.idx]
		p.seat.Waits = &p.e.waits
		p.pos = q.hdr.tail.Load()
		if r == receiver {
			p.pos = q.hdr.head.Load()
		}
		p.until = p.pos
		p.e.seen.Store(p.pos)
	})
	if err != nil {
		return nil, q.party.Fail(op, err)
	}
	p.lean = p.direct && q.party.Quiet
	return p, nil
}

// recover brings the slots in order that the dead owner of entry i left.
func (q *Queue) recover(i int, r party.Role) {
	switch {
	case r == sender && !q.oneSender:
		q.void(i)
	case q.direct && r == receiver:
		q.giveBackDirect(&q.entries[i])
	case r == receiver && q.oneReceiver:
		q.giveBackFrom(&q.entries[i])
	case r == receiver:
		q.giveBack(i)
		// After the slots, so that whoever sees the count finds them. Nobody else
		// would: they are behind the head.
		q.hdr.epoch.Add(1)
	}
}

// void marks what a dead sender had claimed and not committed.
func (q *Queue) void(i int) {
	for at := 0; at < len(q.words); at += q.step {
		w := q.words[at].Load()
		if w&stateMask == stateWriting && partOf(w) == i {
			q.words[at].CompareAndSwap(w, w&^stateMask|stateVoid)
			crash.Point("ring:voided")
		}
	}
}

// giveBack makes what a dead receiver had claimed somebody else's.
func (q *Queue) giveBack(i int) {
	e := &q.entries[i]
	for s := range q.mask + 1 {
		w := q.words[q.slot(s)].Load()
		if w&stateMask == stateReading && partOf(w) == i {
			pos := w>>lapShift<<q.shift | s
			q.again(e, pos, w)
		}
	}
}

// giveBackFrom does so for a dead single receiver, which claimed nothing, but
// noted up to where it might have read.
func (q *Queue) giveBackFrom(e *entry) {
	seen := e.seen.Load()
	pos := q.hdr.head.Load()
	for range 2 * (q.mask + 1) {
		if int64(seen-pos) <= 0 {
			return
		}
		w := q.words[q.slot(pos)].Load()
		span := uint64(1)
		if q.ahead(w, pos) == 0 && w&stateMask != stateFree {
			k, err := q.span(w)
			if err != nil {
				return // who receives will say so
			}
			span = k
			if w&stateMask == stateFull && w&flagAgain == 0 {
				q.again(e, pos, w)
			}
		}
		pos += span
	}
}

// again puts the message at pos, whose word is w, back for another receiver, or
// drops it.
func (q *Queue) again(e *entry, pos, w uint64) {
	if !q.discard {
		if q.words[q.slot(pos)].CompareAndSwap(w, w&^(stateMask|partMask)|stateFull|flagAgain) {
			crash.Point("ring:given-back")
			e.redelivered.Add(1)
		}
		return
	}
	span, err := q.span(w)
	if err != nil {
		return
	}
	q.core.free(pos, w, span)
	crash.Point("ring:discarded")
	e.lost.Add(1)
}

// end tells which end it is when those whom r waits for are not there.
func end(peers party.Peers, r party.Role) error {
	if r == receiver {
		switch gone, died := peers.Gone(sender); {
		case died:
			return ErrPeerGone
		case gone:
			return io.EOF
		}
		return nil
	}
	switch gone, died := peers.Gone(receiver); {
	case died:
		return ErrPeerGone
	case gone:
		return io.ErrClosedPipe
	}
	return nil
}
