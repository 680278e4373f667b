package topic

import (
	"errors"
	"fmt"
	"io"
	"math/bits"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/party"
)

var (
	// ErrPeerGone says that the last publisher died, and that there is nothing more.
	ErrPeerGone = party.ErrPeerGone

	// ErrTaken says that a topic for one publisher has it already.
	ErrTaken = party.ErrTaken

	// ErrOptions says that a topic has other options than those asked for.
	ErrOptions = party.ErrOptions

	// ErrBusy says that a Publisher or Subscriber is used by another goroutine, or in
	// the function given to its own Lease.
	ErrBusy = party.ErrBusy

	// ErrNotReserved says that there is no reserved message to commit or abort.
	ErrNotReserved = party.ErrNotReserved

	// ErrOverwritten says that a message was overwritten while it was read in place:
	// what was read is worth nothing.
	ErrOverwritten = errors.New("overwritten while it was read")
)

// Policy says what a publisher does when a subscriber is slow.
type Policy uint8

// What a publisher does when a slow subscriber has not read what is to be overwritten.
const (
	// Overwrite never waits. The subscriber learns how many messages it missed.
	Overwrite Policy = iota

	// Wait waits until all subscribers have read it: none misses any. One that died
	// does not count, one that is stopped or does not receive does, for ever.
	Wait
)

func (p Policy) String() string {
	switch p {
	case Overwrite:
		return "Overwrite"
	case Wait:
		return "Wait"
	}
	return fmt.Sprintf("Policy(%d)", uint8(p))
}

// Waiting says how this process waits. It is no property of the topic.
type Waiting uint8

// Ways of waiting.
const (
	Adaptive Waiting = iota // spins for as long as that was of use lately, then sleeps
	Spin                    // never sleeps: for cores that have nothing else to do
	Sleep                   // never spins
)

// Options are the choices of [Create]; nil and the zero value mean the defaults.
type Options struct {
	// SlotSize is how long a message may be, in bytes, 48 by default: then a slot
	// is 64 bytes long, one cache line. Slots lie at multiples of 64 and have 16 bytes
	// of their own.
	SlotSize int

	// Slots is how many messages are kept, 1024 by default; rounded up to a power of
	// two.
	Slots int

	Policy Policy

	// ManyPublishers allows for more than one, each of whose messages then goes
	// through two atomic operations more.
	ManyPublishers bool

	// Participants is how many publishers and subscribers there may be at once, 64
	// by default, at most 4096.
	Participants int

	Waiting Waiting

	// Block is how the block is made.
	Block shm.CreateOptions
}

// OpenOptions are the choices of [Open]; nil and the zero value mean the defaults.
type OpenOptions struct {
	// Options, if not nil, are what the topic must have been created with; a
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
	slot, slots, parts := o.SlotSize, o.Slots, o.Participants
	if slot == 0 {
		slot = 48
	}
	if slots == 0 {
		slots = 1024
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
	case o.Policy > Wait || o.Waiting > Sleep:
		return g, fmt.Errorf("%v, Waiting(%d): %w", o.Policy, o.Waiting, errors.ErrUnsupported)
	}
	// Multiples of 8, so that typed messages are aligned in place.
	g.slotSize = uint64(max(slot+7, 8)) &^ 7
	g.slots = max(2, uint64(1)<<bits.Len(uint(max(slots, 1)-1)))
	g.stride = strideOf(g.slotSize)
	g.parts = uint64(parts)
	if !o.ManyPublishers {
		g.flags |= flagOne
	}
	if o.Policy == Wait {
		g.flags |= flagWait
	}
	if size := g.size(); uint64(int(size)) != size || int(size) < 0 || g.slots > (1<<46)/g.stride {
		return g, fmt.Errorf("%w: %d slots of %d bytes", shm.ErrSize, slots, slot)
	}
	return g, nil
}

func (g *geometry) options() Options {
	o := Options{SlotSize: int(g.slotSize), Slots: int(g.slots), Participants: int(g.parts), ManyPublishers: g.flags&flagOne == 0}
	if g.flags&flagWait != 0 {
		o.Policy = Wait
	}
	return o
}

// differs says in which option a topic is not as it should be.
func (g *geometry) differs(want *Options) error {
	w, err := want.geometry()
	if err != nil {
		return err
	}
	have, asked := g.options(), w.options()
	return party.Differ(
		party.Option{Name: "SlotSize", Have: have.SlotSize, Want: asked.SlotSize},
		party.Option{Name: "Slots", Have: have.Slots, Want: asked.Slots},
		party.Option{Name: "Policy", Have: have.Policy, Want: asked.Policy},
		party.Option{Name: "ManyPublishers", Have: have.ManyPublishers, Want: asked.ManyPublishers},
		party.Option{Name: "Participants", Have: have.Participants, Want: asked.Participants},
	)
}

// Topic is a topic that this process has open. Its methods may be called by
// several goroutines at once.
type Topic struct {
	*core
	options Options
	block   *shm.Block // nil in tests over the heap
	party   party.Party
}

// Create makes a topic in a new block.
//
// Errors: those of shm.Create, fs.ErrExist among them (a topic that is there is
// never touched); shm.ErrSize; errors.ErrUnsupported.
func Create(name string, opts *Options) (*Topic, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	g, err := o.geometry()
	if err != nil {
		return nil, &shm.Error{Op: "create topic", Name: name, Err: err}
	}
	return party.Create("topic", name, int(g.size()), &o.Block, func(mem []byte, place uint64, fenced bool) error {
		if g.place = place; fenced {
			g.flags |= flagFenced
		}
		return format(mem, g)
	}, func(b *shm.Block) (*Topic, error) { return attach(b, o.Waiting, nil) })
}

// OpenOrCreate opens the topic if it exists, and creates it otherwise, whoever else
// tries the same.
//
// Errors: those of Create and of Open with these options.
func OpenOrCreate(name string, opts *Options) (*Topic, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	open := &OpenOptions{Options: &o, Waiting: o.Waiting, Block: shm.OpenOptions{Dir: o.Block.Dir, Prefault: o.Block.Prefault}}
	return party.OpenOrCreate(name,
		func() (*Topic, error) { return Open(name, open) }, func() (*Topic, error) { return Create(name, &o) })
}

// Open opens a topic that exists.
//
// Errors: those of shm.Open; shm.ErrFormat if it is no topic; ErrOptions;
// fs.ErrPermission for OpenOptions.Block.ReadOnly; errors.ErrUnsupported.
func Open(name string, opts *OpenOptions) (*Topic, error) {
	var o OpenOptions
	if opts != nil {
		o = *opts
	}
	return party.Open("topic", name, &o.Block, func(b *shm.Block) (*Topic, error) { return attach(b, o.Waiting, o.Options) })
}

func attach(b *shm.Block, w Waiting, want *Options) (*Topic, error) {
	c, g, err := newCore(b.Bytes())
	if err != nil {
		return nil, err
	}
	if want != nil {
		if err := g.differs(want); err != nil {
			return nil, err
		}
	}
	t := &Topic{core: c, options: g.options(), block: b}
	if err := t.party.Enter(b, t.structure(), g.place, party.Waiting(w)); err != nil {
		return nil, err
	}
	return t, nil
}

// structure is what the party is to know of the topic.
func (t *Topic) structure() party.Structure {
	c := t.core
	entries := make([]*party.Entry, len(c.entries))
	for i := range entries {
		entries[i] = &c.entries[i].Entry
	}
	return party.Structure{
		Header: &c.hdr.Header, Low: c.low, Entries: entries, Filled: &c.hdr.filled, Freed: &c.hdr.freed,
		OneGiver: c.one, Fenced: c.fenced,
		Recover: t.recover, End: end,
	}
}

// recover brings the slots in order that the dead owner of entry i left. What a single
// publisher was writing stays so: the next one writes there.
func (t *Topic) recover(i int, r party.Role) {
	if r == publisher && !t.one {
		t.void(i)
	}
}

// end tells which end it is when those whom r waits for are not there. A publisher does
// not wait for subscribers that are not there.
func end(peers party.Peers, r party.Role) error {
	if r == publisher {
		return nil
	}
	switch gone, died := peers.Gone(publisher); {
	case died:
		return ErrPeerGone
	case gone:
		return io.EOF
	}
	return nil
}

// Name returns the block's name.
func (t *Topic) Name() string { return t.block.Name() }

// Block returns the block that the topic lies in.
func (t *Topic) Block() *shm.Block { return t.block }

// Options returns what the topic was created with, defaults filled in. Block and
// Waiting are zero.
func (t *Topic) Options() Options { return t.options }

// Ref returns the topic's name as a value.
func (t *Topic) Ref() shm.Ref { return t.block.Ref() }

// Unlink removes the topic's name. Those who have it open go on.
func (t *Topic) Unlink() error { return t.block.Unlink() }

// Close closes all publishers and subscribers that this process has on this Topic,
// which ends their waiting, and the block. It waits for functions given to Lease.
func (t *Topic) Close() error { return t.block.Close() }

// Stats are counts since the topic was made. They are added up from what each
// participant writes beside its work, so they may be some messages old.
type Stats struct {
	Published   uint64 `json:"published"`
	Received    uint64 `json:"received"`   // by all subscribers together
	Missed      uint64 `json:"missed"`     // as well
	Waits       uint64 `json:"waits"`      // how often somebody slept
	HighWater   uint64 `json:"high_water"` // the furthest that a subscriber was seen behind, in messages
	Kept        int    `json:"kept"`       // messages that are there now, about
	Publishers  int    `json:"publishers"`
	Subscribers int    `json:"subscribers"`
}

// Stats returns the topic's counts.
//
// Errors: os.ErrClosed.
func (t *Topic) Stats() (Stats, error) {
	release, err := t.party.Acquire()
	if err != nil {
		return Stats{}, t.party.Fail("stats", err)
	}
	defer release()
	return t.stats(), nil
}

func (c *core) stats() (s Stats) {
	for i := range c.entries {
		e := &c.entries[i]
		s.Published += e.published.Load()
		s.Received += e.received.Load()
		s.Missed += e.missed.Load()
		s.Waits += e.waits.Load()
		s.HighWater = max(s.HighWater, e.high.Load())
	}
	s.Kept = int(min(c.hdr.tail.Load(), c.mask+1))
	peers := c.hdr.Peers()
	s.Publishers, s.Subscribers = peers.Count(publisher), peers.Count(subscriber)
	return s
}

// part is what a Publisher and a Subscriber have in common.
type part struct {
	*core
	t    *Topic
	seat party.Seat
	e    *entry
	idx  int
	pos  uint64 // the next position to look at
}

// join makes the caller a participant that begins where start says.
func (t *Topic) join(r party.Role, start func() (uint64, error)) (*part, error) {
	p := &part{core: t.core, t: t}
	var wrong error
	err := t.party.Join(&p.seat, r, func() {
		p.idx = p.seat.Index
		p.e = &t.entries[p.idx]
		p.seat.Waits = &p.e.waits
		p.pos, wrong = start()
		p.e.cursor.Store(p.pos)
	})
	if err == nil && wrong != nil {
		_ = p.seat.Close()
		err = wrong
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}
