package lease

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/platform/mem"
)

// A block passes from one living owner to another, from a manager's client to
// its server, through two journals: the one who gives marks its slot and says
// where it is (Offer); the other one looks there, at nothing else, records the
// block in a slot that is marked as well (Take), and says so; the first frees
// its slot (Forget), and when the second knows that, its slot is like any other
// (Settle). So the block is in one journal at least at every moment, and a
// sweeper that finds it marked in a dead one's leaves it alone if a living one's
// names it too.
//
// Adopting after Disown needs no agreement, and so has to read every lease there
// is, and in between the block is nobody's.

// Offer marks the block as one that whoever is told the result may take.
func (s *Slot) Offer() string {
	s.mark(statePassing)
	return fmt.Sprintf("%016x.%d", s.inc.id, s.n)
}

// Settle undoes the mark: the block is this process's and nobody else's.
func (s *Slot) Settle() { s.mark(stateValid) }

func (s *Slot) mark(as uint32) {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if s.n >= 0 {
		state(s.inc.slot(s.n)).Store(as)
	}
}

// Take records a block that another lease offers. It believes the offer as far
// as that journal bears it out: it has to name the block, with its identity,
// as one that passes, and its owner has to live and be the block's user or root.
// Not ok if it does not.
//
// The caller holds the lock on the block, as whoever adopts does.
func (l *Lease) Take(block mem.Stat, offer string) (_ *Slot, ok bool, err error) {
	g := l.giver(offer)
	if g == nil {
		return nil, false, nil
	}
	defer l.spareGiver(g)
	if !g.offers(block, false) {
		return nil, false, nil
	}
	slot, err := l.record(Record{Name: block.Name, ID: block.ID}, statePassing)
	if err != nil {
		return nil, false, err
	}
	crash.Point("manager:recorded")
	// A sweeper of the other's lease has its lock before it looks at ours. So if
	// the owner still holds it, no sweeper has missed what we just wrote. (Where
	// one lock is both owner's and sweeper's, a client that dies at this very
	// moment may take the block with it; it has not told anybody of it.)
	if alive, err := g.obj.Locked(); !alive || err != nil {
		slot.Forget()
		return nil, false, err
	}
	return slot, true, nil
}

// Withdrawn tells whether the offer's owner lives and still has the block, so
// that it never heard that it was taken, or has changed its mind.
func (l *Lease) Withdrawn(block mem.Stat, offer string) bool {
	g := l.giver(offer)
	if g == nil {
		return false
	}
	defer l.spareGiver(g)
	alive, err := g.obj.Locked()
	return alive && err == nil && g.offers(block, true)
}

// giver is an open lease of another process, and the slot that it offers.
type giver struct {
	obj *mem.Object
	id  uint64
	n   int
}

// giver opens the lease of an offer; nil if it is not there, or ours.
//
// The last one stays open, as the client of a manager mostly comes again. One
// that has lost its name meanwhile, with its owner or because it was empty, is
// not locked any more and offers nothing.
func (l *Lease) giver(offer string) *giver {
	lease, slot, ok := strings.Cut(offer, ".")
	id, err := strconv.ParseUint(lease, 16, 64)
	n, nerr := strconv.Atoi(slot)
	if !ok || err != nil || nerr != nil || n < 0 || n >= maxSize/slotSize || l.Is(id) {
		return nil
	}
	if g := l.spared.Swap(nil); g != nil {
		if g.id == id {
			g.n = n
			return g
		}
		_ = g.obj.Close()
	}
	dir, err := mem.LeaseDir(l.dir)
	if err != nil {
		return nil
	}
	o, err := mem.Open(dir, hidden(kindLease, id, 0), true)
	if err != nil {
		return nil
	}
	var b [slotSize]byte
	if got, err := o.ReadAt(b[:], 0); err == nil && got == len(b) {
		if h, err := decodeHeader(b[:]); err == nil && h.ID == id {
			return &giver{o, id, n}
		}
	}
	_ = o.Close()
	return nil
}

func (l *Lease) spareGiver(g *giver) {
	if old := l.spared.Swap(g); old != nil {
		_ = old.obj.Close()
	}
}

// offers tells whether the slot names the block as one that passes, or, if any,
// in whatever state.
func (g *giver) offers(block mem.Stat, any bool) bool {
	if g.obj.UID != block.UID && g.obj.UID != 0 {
		return false // not its to give
	}
	var b [slotSize]byte
	if got, err := g.obj.ReadAt(b[:], int64(slotOffset(g.n))); err != nil || got < len(b) {
		return false
	}
	r, state := decodeSlot(b[:])
	return (state == statePassing || any && state == stateValid) && r.ID == block.ID && r.Name == block.Name
}

// Blocks is what package manager needs of package shm, which knows who owns which
// block and sets it, and nobody else is to have. A block is a *shm.Block.
var Blocks struct {
	// Offer offers a block that this process owns; nil if our journal has no such block.
	Offer func(block any) *Offered
	// Take takes over the block of that name, if it is the one that is offered,
	// and returns it, closed; nil if it is not to be had so.
	Take func(dir, name, offer string) *Taken
}

// Offered is a block on its way to another process.
type Offered struct {
	Text  string
	Given func() // the other one has it
	Kept  func() // it has not
}

// Taken is a block that has come from another process.
type Taken struct {
	Block  any
	Settle func() // the other one has heard of it
	// Withdrawn tells whether the other one, which says nothing more, still has it.
	Withdrawn func() bool
	Return    func() // it is the other one's again
}
