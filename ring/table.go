package ring

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/platform/wait"
)

// The table of participants changes, and what the dead left is recovered, under a
// lock: a word with the ID of its holder's lease. Whoever finds a dead holder's
// ID there replaces it by its own and brings to an end what the other began. All
// that is done under it can be done again from the start: each step is a
// compare-and-swap from what was before, or stores what was stored.
//
// One lock, as it is for rare things only. It makes sure that a place in the table
// passes to another owner only when no slot bears its number, and that no
// belated recoverer takes the new owner's slots for the old one's.
const tableWaiters = 1 // somebody sleeps until it is free; IDs have their lowest four bits clear

// lock takes the table. try gives up when another living process has it; ok is
// false then.
func (q *Queue) lock(ctx context.Context, p *part, try bool) (ok bool, err error) {
	var done <-chan struct{}
	if p != nil {
		done = p.done
	}
	select {
	case q.table <- struct{}{}:
	default:
		if try {
			return false, nil
		}
		select {
		case q.table <- struct{}{}:
		case <-ctx.Done():
			return false, ctx.Err()
		case <-done:
			return false, os.ErrClosed
		}
	}
	defer func() {
		if !ok {
			<-q.table
		}
	}()
	var undo func() bool
	var asked uint64
	var heard uint32
	for {
		stop, bell := q.stop.Load(), q.bell.Load()
		w := q.hdr.table.Load()
		owner := w &^ 0xf
		switch {
		case owner == 0:
			// If it was free with the flag set, the flag stays: others may sleep.
			if q.hdr.table.CompareAndSwap(w, q.me|w&tableWaiters) {
				crash.Point("ring:locked")
				return true, nil
			}
			continue
		case owner == q.me:
			// No goroutine of ours has it: we have the turn. So the word is garbage, or
			// an unlock of ours failed half-way, which it cannot.
			if q.hdr.table.CompareAndSwap(w, q.me|w&tableWaiters) {
				q.redo()
				return true, nil
			}
			continue
		case owner != asked || bell != heard:
			if !q.alive(owner) {
				if q.hdr.table.CompareAndSwap(w, q.me|w&tableWaiters) {
					crash.Point("ring:relocked")
					q.redo()
					return true, nil
				}
				continue
			}
			asked, heard = owner, bell
		}
		if try {
			return false, nil
		}
		switch {
		case ctx.Err() != nil:
			return false, ctx.Err()
		case p != nil && p.end.Load():
			return false, os.ErrClosed
		}
		if w&tableWaiters == 0 && !q.hdr.table.CompareAndSwap(w, w|tableWaiters) {
			continue
		}
		if undo == nil && ctx.Done() != nil {
			undo = context.AfterFunc(ctx, q.wakeAll)
			defer undo()
		}
		if err := wait.Any(0,
			wait.On{Word: q.low, Value: uint32(w | tableWaiters)},
			wait.On{Word: q.bell, Value: bell},
			wait.On{Word: &q.stop, Value: stop, Private: true}); err != nil {
			return false, shm.ErrTruncated
		}
		asked = 0
	}
}

// wakeAll has the calls of this process that sleep look why they were woken.
func (q *Queue) wakeAll() {
	q.stop.Add(1)
	wait.WakePrivate(&q.stop, 1<<30)
}

func (q *Queue) unlock() {
	crash.Point("ring:unlocking")
	// All waiters, and no flag left: who has to go on sleeping sets it again.
	if q.hdr.table.Swap(0)&tableWaiters != 0 {
		wait.Wake(q.low, 1<<30)
	}
	<-q.table
}

// redo ends what a dead holder of the table began.
func (q *Queue) redo() {
	for i := range q.entries {
		e := &q.entries[i]
		if e.state.Load()&leaving != 0 {
			e.owner.Store(0)
			e.state.Store(uint64(free))
		}
	}
	q.recount(-1, 0, 0)
	q.signalBoth()
}

// recount adds up hdr.peers from the table, without the entry skip.
func (q *Queue) recount(skip int, set, clear uint64) {
	n := uint64(0)
	for i := range q.entries {
		if i == skip {
			continue
		}
		switch role(q.entries[i].state.Load()) {
		case sender:
			n += senderUnit
		case receiver:
			n += receiverUnit
		}
	}
	flags := q.hdr.peers.Load() & (everSender | everReceiver | senderDied | receiverDied)
	q.hdr.peers.Store(n | flags&^clear | set)
}

func (q *Queue) signalBoth() {
	q.wake(&q.hdr.filled)
	q.wake(&q.hdr.freed)
}

// join makes the caller a participant.
func (q *Queue) join(op string, r role) (_ *part, err error) {
	fail := func(err error) (*part, error) { return nil, q.fail(op, err) }
	release := func() {}
	if q.block != nil {
		if release, err = q.block.Acquire(); err != nil {
			return fail(os.ErrClosed)
		}
	}
	defer release()
	if _, err := q.lock(closeContext{context.Background(), q}, nil, false); err != nil {
		return fail(err)
	}
	defer q.unlock()
	q.inspect()
	at := -1
	for i := range q.entries {
		switch s := role(q.entries[i].state.Load()); {
		case s == free && at < 0:
			at = i
		case s == r && (r == sender && q.oneSender || r == receiver && q.oneReceiver):
			return fail(ErrTaken)
		}
	}
	if at < 0 {
		return fail(fmt.Errorf("%w: all %d participants are there; Options.Participants allows for more", shm.ErrNoSpace, len(q.entries)))
	}
	e := &q.entries[at]
	p := &part{
		core: q.core, q: q, e: e, idx: at, role: r, plain: q.plain, show: func() {}, leave: func() {},
		done: make(chan struct{}), idle: make(chan struct{}, 1), closed: make(chan struct{}),
	}
	ever := uint64(everSender)
	p.pos = q.hdr.tail.Load()
	if r == receiver {
		ever = everReceiver
		p.pos = q.hdr.head.Load()
	}
	e.owner.Store(q.me)
	crash.Point("ring:joining")
	e.seen.Store(p.pos)
	e.state.Store(uint64(r))
	crash.Point("ring:joined")
	q.recount(-1, ever, 0)
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed { // meanwhile, and nobody would close it
		e.state.Store(uint64(free))
		q.recount(-1, 0, 0)
		return fail(os.ErrClosed)
	}
	q.parts[p] = struct{}{}
	return p, nil
}

// closeContext ends when Close of the Queue begins.
type closeContext struct {
	context.Context
	q *Queue
}

func (c closeContext) Done() <-chan struct{} { return c.q.closing }

func (c closeContext) Err() error {
	select {
	case <-c.q.closing:
		return os.ErrClosed
	default:
		return nil
	}
}

// withdraw gives p's place back.
func (q *Queue) withdraw(ctx context.Context, p *part) error {
	if _, err := q.lock(ctx, nil, false); err != nil {
		return fmt.Errorf("another process keeps the table of participants: %w", err)
	}
	defer q.unlock()
	died := uint64(senderDied)
	if p.role == receiver {
		died = receiverDied
	}
	p.e.state.Store(uint64(p.role) | leaving)
	crash.Point("ring:leaving")
	q.recount(p.idx, 0, died)
	p.e.owner.Store(0)
	p.e.state.Store(uint64(free))
	crash.Point("ring:left")
	q.signalBoth()
	return nil
}

// inspect recovers what dead participants left. Call with the table locked.
func (q *Queue) inspect() {
	bell := q.bell.Load() // before the look: who dies after it rings again
	verdict := map[uint64]bool{q.me: true}
	recovered := false
	for i := range q.entries {
		e := &q.entries[i]
		r := role(e.state.Load())
		if r == free {
			continue
		}
		owner := e.owner.Load()
		alive, known := verdict[owner]
		if !known {
			alive = owner != 0 && q.alive(owner)
			verdict[owner] = alive
		}
		if !alive {
			q.recover(i, r)
			recovered = true
		}
	}
	q.heard.Store(heardOnce | uint64(bell))
	if recovered {
		q.signalBoth()
	}
}

const heardOnce = 1 << 32

// recover brings in order what the dead owner of entry i left. Its slots first, then
// the sum, then its place: whoever takes over from us in between does it again.
func (q *Queue) recover(i int, r role) {
	crash.Point("ring:recovering")
	e := &q.entries[i]
	died := uint64(0)
	switch r {
	case sender:
		died = senderDied
		if !q.oneSender {
			q.void(i)
		}
	case receiver:
		died = receiverDied
		if q.oneReceiver {
			q.giveBackFrom(e)
		} else {
			q.giveBack(i)
			// After the slots, so that whoever sees the count finds them. Nobody else
			// would: they are behind the head.
			q.hdr.epoch.Add(1)
		}
	}
	crash.Point("ring:recovered")
	q.recount(i, died, 0)
	e.owner.Store(0)
	e.state.Store(uint64(free))
	crash.Point("ring:buried")
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

// gone tells which end it is when p waits for peers that are not there: nil if there
// are some, or none yet.
func (p *part) gone(peers uint64) error {
	err := ended(peers, p.role)
	if err != nil && (closeContext{q: p.q}).Err() != nil {
		return os.ErrClosed // perhaps they were of this Queue
	}
	return err
}

func ended(peers uint64, r role) error {
	if r == receiver {
		switch {
		case peers&countMask != 0 || peers&everSender == 0:
			return nil
		case peers&senderDied != 0:
			return ErrPeerGone
		}
		return errEnd
	}
	switch {
	case peers/receiverUnit&countMask != 0 || peers&everReceiver == 0:
		return nil
	case peers&receiverDied != 0:
		return ErrPeerGone
	}
	return errNoReceiver
}

// check looks, if somebody has died since the last look, who it was. With try it does
// not wait for a process that has the table.
func (q *Queue) check(ctx context.Context, p *part, try bool) error {
	if q.heard.Load() == heardOnce|uint64(q.bell.Load()) {
		return nil
	}
	ok, err := q.lock(ctx, p, try)
	if err != nil || !ok {
		if errors.Is(err, os.ErrClosed) || ctx.Err() != nil || errors.Is(err, shm.ErrTruncated) {
			return err
		}
		return nil
	}
	q.inspect()
	q.unlock()
	return nil
}
