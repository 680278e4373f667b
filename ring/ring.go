package ring

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/party"
)

var (
	// ErrPeerGone says that the last peer died: nobody is left to send, and the
	// ring is empty, or nobody to receive, and it is full.
	ErrPeerGone = party.ErrPeerGone

	// ErrTaken says that a ring for one sender or one receiver has it already.
	ErrTaken = party.ErrTaken

	// ErrOptions says that a ring has other options than those asked for.
	ErrOptions = party.ErrOptions

	// ErrBusy says that a Sender or Receiver is used by another goroutine, or in
	// the function given to its own Lease.
	ErrBusy = party.ErrBusy

	// ErrNotReserved says that there is no reserved message to commit or abort.
	ErrNotReserved = party.ErrNotReserved
)

// Side says how many there may be at one end of a ring.
type Side uint8

// How many there may be at one end.
const (
	Many Side = iota // any number; each message goes through one atomic operation more
	One              // on both sides: short messages one way take half the time or less
)

func (s Side) String() string {
	switch s {
	case Many:
		return "Many"
	case One:
		return "One"
	}
	return fmt.Sprintf("Side(%d)", uint8(s))
}

// AfterDeath says what becomes of a message that a receiver had taken and not
// finished with when it died.
type AfterDeath uint8

// What becomes of a dead receiver's message.
const (
	Redeliver AfterDeath = iota // another gets it; [Receiver.Redelivered] says so
	Discard                     // it counts as lost
)

func (a AfterDeath) String() string {
	switch a {
	case Redeliver:
		return "Redeliver"
	case Discard:
		return "Discard"
	}
	return fmt.Sprintf("AfterDeath(%d)", uint8(a))
}

// Waiting says how this process waits. It is no property of the ring.
type Waiting uint8

// Ways of waiting.
const (
	Adaptive Waiting = iota // spins for as long as that was of use lately, then sleeps
	Spin                    // never sleeps: for cores that have nothing else to do
	Sleep                   // never spins
)

// Options are the choices of [Create]; nil and the zero value mean the defaults.
type Options struct {
	// SlotSize is how many bytes of a message a slot has room for, 48 by default:
	// then a slot is 64 bytes long, one cache line. Slots lie at multiples of 64
	// and have 16 bytes of their own. With one sender and one receiver they lie
	// side by side and have none: multiples of 64 suit best.
	SlotSize int

	// Slots is how many there are, 1024 by default; rounded up to a power of two.
	Slots int

	// MaxMessage is the longest message, SlotSize by default. Longer ones take as
	// many slots in a row as they need, at most all and at most 65535.
	MaxMessage int

	Senders    Side
	Receivers  Side
	AfterDeath AfterDeath

	// Participants is how many senders and receivers there may be at once, 64
	// by default, at most 4096.
	Participants int

	Waiting Waiting

	// Block is how the block is made.
	Block shm.CreateOptions
}

// OpenOptions are the choices of [Open]; nil and the zero value mean the defaults.
type OpenOptions struct {
	// Options, if not nil, are what the ring must have been created with; a
	// difference is ErrOptions. Waiting and Block do not count.
	Options *Options

	Waiting Waiting
	Block   shm.OpenOptions
}

// geometry is what o looks like in a header.
func (o *Options) geometry() (g geometry, err error) {
	bad := func(what string, n int) (geometry, error) {
		return g, fmt.Errorf("%w: %s %d", shm.ErrSize, what, n)
	}
	slot, slots, limit, parts := o.SlotSize, o.Slots, o.MaxMessage, o.Participants
	if slot == 0 {
		slot = 48
	}
	if slots == 0 {
		slots = 1024
	}
	if limit == 0 {
		limit = slot
	}
	if parts == 0 {
		parts = 64
	}
	switch {
	case slot < 0 || slot > 1<<30:
		return bad("SlotSize", slot)
	case slots < 0 || slots > maxSlots:
		return bad("Slots", slots)
	case parts < 2 || parts > maxParts:
		return bad("Participants", parts)
	case o.Senders > One || o.Receivers > One || o.AfterDeath > Discard || o.Waiting > Sleep:
		return g, fmt.Errorf("%v senders, %v receivers, %v, Waiting(%d): %w", o.Senders, o.Receivers, o.AfterDeath, o.Waiting, errors.ErrUnsupported)
	}
	// Multiples of 8, so that typed messages are aligned in place.
	g.slotSize = uint64(max(slot+7, 8)) &^ 7
	g.slots = max(2, uint64(1)<<bits.Len(uint(max(slots, 1)-1)))
	g.parts = uint64(parts)
	if limit < 1 || uint64(limit-1)/g.slotSize >= min(g.slots, maxSpan) {
		return bad("MaxMessage", limit)
	}
	g.limit = uint64(limit)
	if o.Senders == One {
		g.flags |= flagOneSender
	}
	if o.Receivers == One {
		g.flags |= flagOneReceiver
	}
	if o.AfterDeath == Discard {
		g.flags |= flagDiscard
	}
	g.stride = g.strideOf()
	if size := g.size(); uint64(int(size)) != size || int(size) < 0 || g.slots > (1<<46)/g.stride {
		return g, fmt.Errorf("%w: %d slots of %d bytes", shm.ErrSize, slots, slot)
	}
	return g, nil
}

func (g *geometry) options() Options {
	o := Options{SlotSize: int(g.slotSize), Slots: int(g.slots), MaxMessage: int(g.limit), Participants: int(g.parts)}
	if g.flags&flagOneSender != 0 {
		o.Senders = One
	}
	if g.flags&flagOneReceiver != 0 {
		o.Receivers = One
	}
	if g.flags&flagDiscard != 0 {
		o.AfterDeath = Discard
	}
	return o
}

// differs says in which option a ring is not as it should be.
func (g *geometry) differs(want *Options) error {
	w, err := want.geometry()
	if err != nil {
		return err
	}
	have, asked := g.options(), w.options()
	return party.Differ(
		party.Option{Name: "SlotSize", Have: have.SlotSize, Want: asked.SlotSize},
		party.Option{Name: "Slots", Have: have.Slots, Want: asked.Slots},
		party.Option{Name: "MaxMessage", Have: have.MaxMessage, Want: asked.MaxMessage},
		party.Option{Name: "Senders", Have: have.Senders, Want: asked.Senders},
		party.Option{Name: "Receivers", Have: have.Receivers, Want: asked.Receivers},
		party.Option{Name: "AfterDeath", Have: have.AfterDeath, Want: asked.AfterDeath},
		party.Option{Name: "Participants", Have: have.Participants, Want: asked.Participants},
	)
}

// Queue is a ring that this process has open. Its methods may be called by
// several goroutines at once.
type Queue struct {
	*core
	options Options
	block   *shm.Block // nil in tests over the heap
	party   party.Party
}

// Create makes a ring in a new block.
//
// Errors: those of shm.Create, fs.ErrExist among them (a ring that is there is never
// touched); shm.ErrSize; errors.ErrUnsupported.
func Create(name string, opts *Options) (*Queue, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	g, err := o.geometry()
	if err != nil {
		return nil, &shm.Error{Op: "create ring", Name: name, Err: err}
	}
	return party.Create("ring", name, int(g.size()), &o.Block, func(mem []byte, place uint64, fenced bool) error {
		if g.place = place; fenced {
			g.flags |= flagFenced
		}
		return format(mem, g)
	}, func(b *shm.Block) (*Queue, error) { return attach(b, o.Waiting, nil) })
}

// OpenOrCreate opens the ring if it exists, and creates it otherwise, whoever else
// tries the same.
//
// Errors: those of Create and of Open with these options.
func OpenOrCreate(name string, opts *Options) (*Queue, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	open := &OpenOptions{Options: &o, Waiting: o.Waiting, Block: shm.OpenOptions{Dir: o.Block.Dir, Prefault: o.Block.Prefault}}
	return party.OpenOrCreate(name,
		func() (*Queue, error) { return Open(name, open) }, func() (*Queue, error) { return Create(name, &o) })
}

// Open opens a ring that exists.
//
// Errors: those of shm.Open; shm.ErrFormat if it is no ring; ErrOptions;
// fs.ErrPermission for OpenOptions.Block.ReadOnly; errors.ErrUnsupported.
func Open(name string, opts *OpenOptions) (*Queue, error) {
	var o OpenOptions
	if opts != nil {
		o = *opts
	}
	return party.Open("ring", name, &o.Block, func(b *shm.Block) (*Queue, error) { return attach(b, o.Waiting, o.Options) })
}

func attach(b *shm.Block, w Waiting, want *Options) (*Queue, error) {
	c, g, err := newCore(b.Bytes())
	if err != nil {
		return nil, err
	}
	if want != nil {
		if err := g.differs(want); err != nil {
			return nil, err
		}
	}
	q := &Queue{core: c, options: g.options(), block: b}
	if err := q.party.Enter(b, q.structure(), g.place, party.Waiting(w)); err != nil {
		return nil, err
	}
	return q, nil
}

// structure is what the party is to know of the ring.
func (q *Queue) structure() party.Structure {
	c := q.core
	entries := make([]*party.Entry, len(c.entries))
	for i := range entries {
		entries[i] = &c.entries[i].Entry
	}
	return party.Structure{
		Header: &c.hdr.Header, Low: c.low, Entries: entries, Filled: &c.hdr.filled, Freed: &c.hdr.freed,
		OneGiver: c.oneSender, OneTaker: c.oneReceiver, Fenced: c.fenced,
		Recover: q.recover, End: end,
	}
}

// Name returns the block's name.
func (q *Queue) Name() string { return q.block.Name() }

// Block returns the block that the ring lies in.
func (q *Queue) Block() *shm.Block { return q.block }

// Options returns what the ring was created with, defaults filled in. Block and
// Waiting are zero.
func (q *Queue) Options() Options { return q.options }

// Ref returns the ring's name as a value.
func (q *Queue) Ref() shm.Ref { return q.block.Ref() }

// Unlink removes the ring's name. Those who have it open go on.
func (q *Queue) Unlink() error { return q.block.Unlink() }

// Close closes all senders and receivers that this process has on this Queue,
// which ends their waiting, and the block. It waits for functions given to Lease.
func (q *Queue) Close() error { return q.block.Close() }

// Stats are counts since the ring was made. They are added up from what each
// participant writes beside its work, so they may be some messages old.
type Stats struct {
	Sent        uint64 `json:"sent"`
	Received    uint64 `json:"received"`
	Lost        uint64 `json:"lost"`        // with Discard, what dead receivers had taken
	Redelivered uint64 `json:"redelivered"` // messages given back by dead receivers
	Waits       uint64 `json:"waits"`       // how often somebody slept
	HighWater   uint64 `json:"high_water"`  // the most slots seen in use
	Pending     int    `json:"pending"`     // slots in use now, about
	Senders     int    `json:"senders"`
	Receivers   int    `json:"receivers"`
}

// Stats returns the ring's counts.
//
// Errors: os.ErrClosed.
func (q *Queue) Stats() (Stats, error) {
	release, err := q.party.Acquire()
	if err != nil {
		return Stats{}, q.party.Fail("stats", err)
	}
	defer release()
	return q.stats(), nil
}

func (c *core) stats() (s Stats) {
	for i := range c.entries {
		e := &c.entries[i]
		s.Sent += e.sent.Load()
		s.Received += e.received.Load()
		s.Lost += e.lost.Load()
		s.Redelivered += e.redelivered.Load()
		s.Waits += e.waits.Load()
		s.HighWater = max(s.HighWater, e.high.Load())
	}
	if n := int64(c.hdr.tail.Load() - c.hdr.head.Load()); n > 0 {
		s.Pending = int(min(uint64(n), c.mask+1))
	}
	peers := c.hdr.Peers()
	s.Senders, s.Receivers = peers.Count(sender), peers.Count(receiver)
	return s
}

// part is what a Sender and a Receiver have in common.
type part struct {
	*core
	q    *Queue
	seat party.Seat
	e    *entry
	idx  int
	pos  uint64 // the next position to look at

	// Of a direct ring:
	until uint64 // up to where slots are free, or messages there, as far as was seen
	lean  bool   // no store needs to be a barrier
	pause int    // before the next look at the other's position
	spun  int    // where the pause stores
}
