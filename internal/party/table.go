package party

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/platform/wait"
	"github.com/sharedmem/shm/internal/step"
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
func (p *Party) lock(ctx context.Context, s *Seat, try bool) (ok bool, err error) {
	var done <-chan struct{}
	if s != nil {
		done = s.done
	}
	select {
	case p.table <- struct{}{}:
	default:
		if try {
			return false, nil
		}
		step.Until(func() bool { return len(p.table) == 0 || ctx.Err() != nil || s != nil && s.end.Load() })
		select {
		case p.table <- struct{}{}:
		case <-ctx.Done():
			return false, ctx.Err()
		case <-done:
			return false, os.ErrClosed
		}
	}
	defer func() {
		if !ok {
			<-p.table
		}
	}()
	var undo func() bool
	var asked uint64
	var heard uint32
	for {
		stop, bell := p.stop.Load(), p.bell.Load()
		w := p.Header.table.Load()
		owner := w &^ 0xf
		switch {
		case owner == 0:
			// If it was free with the flag set, the flag stays: others may sleep.
			if p.Header.table.CompareAndSwap(w, p.me|w&tableWaiters) {
				crash.Point("party:locked")
				return true, nil
			}
			continue
		case owner == p.me:
			// No goroutine of ours has it: we have the turn. So the word is garbage, or
			// an unlock of ours failed half-way, which it cannot.
			if p.Header.table.CompareAndSwap(w, p.me|w&tableWaiters) {
				p.redo()
				return true, nil
			}
			continue
		case owner != asked || bell != heard:
			if !p.alive(owner) {
				if p.Header.table.CompareAndSwap(w, p.me|w&tableWaiters) {
					crash.Point("party:relocked")
					p.redo()
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
		case s != nil && s.end.Load():
			return false, os.ErrClosed
		}
		if w&tableWaiters == 0 && !p.Header.table.CompareAndSwap(w, w|tableWaiters) {
			continue
		}
		if undo == nil && ctx.Done() != nil {
			undo = context.AfterFunc(ctx, p.wakeAll)
			defer undo()
		}
		if err := step.Sleep(0,
			wait.On{Word: p.Low, Value: uint32(w | tableWaiters)},
			wait.On{Word: p.bell, Value: bell},
			wait.On{Word: &p.stop, Value: stop, Private: true}); err != nil {
			return false, shm.ErrTruncated
		}
		asked = 0
	}
}

// wakeAll has the calls of this process that sleep look why they were woken.
func (p *Party) wakeAll() {
	p.stop.Add(1)
	wait.WakePrivate(&p.stop, 1<<30)
}

func (p *Party) unlock() {
	crash.Point("party:unlocking")
	// All waiters, and no flag left: who has to go on sleeping sets it again.
	if p.Header.table.Swap(0)&tableWaiters != 0 {
		step.Wake(p.Low, 1<<30)
	}
	<-p.table
}

// redo ends what a dead holder of the table began.
func (p *Party) redo() {
	for _, e := range p.Entries {
		if e.state.Load()&leaving != 0 {
			e.owner.Store(0)
			e.state.Store(uint64(free))
		}
	}
	p.recount(-1, 0, 0)
	p.signalBoth()
}

// recount adds up Header.peers from the table, without the entry skip.
func (p *Party) recount(skip int, set, clear uint64) {
	n := uint64(0)
	for i, e := range p.Entries {
		if i == skip {
			continue
		}
		switch Role(e.state.Load()) {
		case Giver:
			n += giverUnit
		case Taker:
			n += takerUnit
		}
	}
	flags := p.Header.peers.Load() & (everGiver | everTaker | giverDied | takerDied)
	p.Header.peers.Store(n | flags&^clear | set)
}

func (p *Party) signalBoth() {
	p.Wake(p.Filled)
	p.Wake(p.Freed)
}

// Join makes s, which is new, a participant. sit is called when it has its Index, but is
// not there yet for others: it sets s.Waits, and what the structure needs.
//
// Errors: ErrTaken; shm.ErrNoSpace; os.ErrClosed; shm.ErrTruncated.
func (p *Party) Join(s *Seat, r Role, sit func()) error {
	release, err := p.Acquire()
	if err != nil {
		return err
	}
	defer release()
	if _, err := p.lock(closeContext{context.Background(), p}, nil, false); err != nil {
		return err
	}
	defer p.unlock()
	p.inspect()
	at := -1
	for i, e := range p.Entries {
		switch have := Role(e.state.Load()); {
		case have == free && at < 0:
			at = i
		case have == r && (r == Giver && p.OneGiver || r == Taker && p.OneTaker):
			return ErrTaken
		}
	}
	if at < 0 {
		return fmt.Errorf("%w: all %d participants are there; Options.Participants allows for more", shm.ErrNoSpace, len(p.Entries))
	}
	e := p.Entries[at]
	s.Index, s.Role, s.party, s.entry, s.plain = at, r, p, e, p.plain
	s.done, s.idle, s.closed = make(chan struct{}), make(chan struct{}, 1), make(chan struct{})
	ever := uint64(everGiver)
	if r == Taker {
		ever = everTaker
	}
	e.owner.Store(p.me)
	crash.Point("party:joining")
	sit()
	e.state.Store(uint64(r))
	crash.Point("party:joined")
	p.recount(-1, ever, 0)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed { // meanwhile, and nobody would close it
		e.state.Store(uint64(free))
		p.recount(-1, 0, 0)
		return os.ErrClosed
	}
	p.seats[s] = struct{}{}
	return nil
}

// withdraw gives s's place back.
func (p *Party) withdraw(ctx context.Context, s *Seat) error {
	if _, err := p.lock(ctx, nil, false); err != nil {
		return fmt.Errorf("another process keeps the table of participants: %w", err)
	}
	defer p.unlock()
	died := uint64(giverDied)
	if s.Role == Taker {
		died = takerDied
	}
	s.entry.state.Store(uint64(s.Role) | leaving)
	crash.Point("party:leaving")
	p.recount(s.Index, 0, died)
	s.entry.owner.Store(0)
	s.entry.state.Store(uint64(free))
	crash.Point("party:left")
	p.signalBoth()
	return nil
}

// inspect recovers what dead participants left. Call with the table locked.
func (p *Party) inspect() {
	bell := p.bell.Load() // before the look: who dies after it rings again
	verdict := map[uint64]bool{p.me: true}
	recovered := false
	for i, e := range p.Entries {
		r := Role(e.state.Load())
		if r == free {
			continue
		}
		owner := e.owner.Load()
		alive, known := verdict[owner]
		if !known {
			alive = owner != 0 && p.alive(owner)
			verdict[owner] = alive
		}
		if !alive {
			p.recover(i, r)
			recovered = true
		}
	}
	p.heard.Store(heardOnce | uint64(bell))
	if recovered {
		p.signalBoth()
	}
}

const heardOnce = 1 << 32

// recover brings in order what the dead owner of entry i left. What is the structure's
// first, then the sum, then its place: whoever takes over from us in between does it again.
func (p *Party) recover(i int, r Role) {
	crash.Point("party:recovering")
	e := p.Entries[i]
	died := uint64(0)
	switch r {
	case Giver:
		died = giverDied
	case Taker:
		died = takerDied
	}
	p.Structure.Recover(i, r)
	crash.Point("party:recovered")
	p.recount(i, died, 0)
	e.owner.Store(0)
	e.state.Store(uint64(free))
	crash.Point("party:buried")
}

// ended tells which end it is when s waits for peers that are not there: nil if there
// are some, or none yet.
func (s *Seat) ended(peers Peers) error {
	err := s.party.End(peers, s.Role)
	if err != nil && (closeContext{p: s.party}).Err() != nil {
		return os.ErrClosed // perhaps they were of this Party
	}
	return err
}

// check looks, if somebody has died since the last look, who it was. With try it does
// not wait for a process that has the table.
func (p *Party) check(ctx context.Context, s *Seat, try bool) error {
	if p.heard.Load() == heardOnce|uint64(p.bell.Load()) {
		return nil
	}
	ok, err := p.lock(ctx, s, try)
	if err != nil || !ok {
		if errors.Is(err, os.ErrClosed) || ctx.Err() != nil || errors.Is(err, shm.ErrTruncated) {
			return err
		}
		return nil
	}
	p.inspect()
	p.unlock()
	return nil
}
