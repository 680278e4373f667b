package ring

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/lease"
	"github.com/sharedmem/shm/internal/platform/wait"
)

var (
	// ErrPeerGone says that the last peer died: nobody is left to send, and the
	// ring is empty, or nobody to receive, and it is full.
	ErrPeerGone = errors.New("the last peer died")

	// ErrTaken says that a ring for one sender or one receiver has it already.
	ErrTaken = errors.New("the ring has its one already")

	// ErrOptions says that a ring has other options than those asked for.
	ErrOptions = errors.New("the ring has other options")

	// ErrBusy says that a Sender or Receiver is used by another goroutine, or in
	// the function given to its own Lease.
	ErrBusy = errors.New("in use by another call")

	// ErrNotReserved says that there is no reserved message to commit or abort.
	ErrNotReserved = errors.New("nothing is reserved")
)

// Side says how many there may be at one end of a ring.
type Side uint8

// How many there may be at one end.
const (
	Many Side = iota // any number; each message goes through one atomic operation more
	One
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
	// and have 16 bytes of their own.
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
	g.stride = strideOf(g.slotSize)
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
	for _, d := range []struct {
		name       string
		have, want any
	}{
		{"SlotSize", have.SlotSize, asked.SlotSize},
		{"Slots", have.Slots, asked.Slots},
		{"MaxMessage", have.MaxMessage, asked.MaxMessage},
		{"Senders", have.Senders, asked.Senders},
		{"Receivers", have.Receivers, asked.Receivers},
		{"AfterDeath", have.AfterDeath, asked.AfterDeath},
		{"Participants", have.Participants, asked.Participants},
	} {
		if d.have != d.want {
			return fmt.Errorf("%w: %s is %v, not %v", ErrOptions, d.name, d.have, d.want)
		}
	}
	return nil
}

// Queue is a ring that this process has open. Its methods may be called by
// several goroutines at once.
type Queue struct {
	*core
	options Options
	block   *shm.Block // nil in tests over the heap
	own     bool       // Close closes it
	name    string
	waiting Waiting

	me    uint64 // the lease's ID
	bell  *atomic.Uint32
	alive func(id uint64) bool
	left  func()

	heard  atomic.Uint64 // bell when everybody was last known to live, and heardOnce
	stop   atomic.Uint32 // changes when a call of this process is to give up
	plain  bool          // our threads can be fenced from afar
	quiet  bool          // so can all participants': no store needs to be a barrier
	slice  time.Duration // how long to sleep at most, if we cannot fence the others
	table  chan struct{} // held by the goroutine that changes the table; of all Queues on this memory
	parks  [2]park       // on filled and on freed
	shadow *shadow

	closing chan struct{} // closed when Close begins

	mu     sync.Mutex
	parts  map[*part]struct{}
	closed bool
}

// Create makes a ring in a new block.
//
// Errors: those of shm.Create, fs.ErrExist among them (a ring that is there is never
// touched); shm.ErrSize; errors.ErrUnsupported.
func Create(name string, opts *Options) (*Queue, error) {
	const op = "create ring"
	fail := func(err error) (*Queue, error) { return nil, &shm.Error{Op: op, Name: name, Err: err} }
	var o Options
	if opts != nil {
		o = *opts
	}
	g, err := o.geometry()
	if err != nil {
		return fail(err)
	}
	if err := wait.Supported(); err != nil {
		return fail(err)
	}
	if g.place, err = placeOf(o.Block.Dir); err != nil {
		return fail(err)
	}
	if wait.FencesAll() {
		g.flags |= flagFenced
	}
	b, err := shm.CreateWith(name, int(g.size()), &o.Block, func(b *shm.Block) error { return format(b.Bytes(), g) })
	if err != nil {
		return nil, err
	}
	q, err := attach(op, b, o.Waiting, nil)
	if err != nil {
		_, _ = b.Unlink(), b.Close()
		return nil, err
	}
	return q, nil
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
	if name == "" {
		return Create(name, &o)
	}
	for {
		q, err := Open(name, &OpenOptions{Options: &o, Waiting: o.Waiting, Block: shm.OpenOptions{Dir: o.Block.Dir, Prefault: o.Block.Prefault}})
		if !errors.Is(err, fs.ErrNotExist) {
			return q, err
		}
		if q, err = Create(name, &o); !errors.Is(err, fs.ErrExist) {
			return q, err
		}
	}
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
	const op = "open ring"
	b, err := shm.Open(name, &o.Block)
	if err != nil {
		return nil, err
	}
	q, err := attach(op, b, o.Waiting, o.Options)
	if err != nil {
		_ = b.Close()
		return nil, err
	}
	return q, nil
}

// placeOf names in a word where the leases of a block's processes lie; never 0.
func placeOf(dir string) (uint64, error) {
	p, err := lease.Place(dir)
	if err != nil {
		return 0, err
	}
	return p[0]*0x9e3779b97f4a7c15 ^ p[1] | 1<<63, nil
}

func attach(op string, b *shm.Block, w Waiting, want *Options) (*Queue, error) {
	fail := func(err error) (*Queue, error) { return nil, &shm.Error{Op: op, Name: b.Name(), Err: err} }
	if b.ReadOnly() {
		return fail(fmt.Errorf("opened read-only: %w", fs.ErrPermission))
	}
	if err := wait.Supported(); err != nil {
		return fail(err)
	}
	c, g, err := newCore(b.Bytes())
	if err != nil {
		return fail(err)
	}
	if want != nil {
		if err := g.differs(want); err != nil {
			return fail(err)
		}
	}
	dir := b.Ref().Dir
	switch place, err := placeOf(dir); {
	case err != nil:
		return fail(err)
	case place != g.place:
		// Who looks for leases elsewhere would take the others for dead, and they it.
		return fail(fmt.Errorf("those who use it have their leases elsewhere; open the block by the name and directory it was made with: %w", errors.ErrUnsupported))
	}
	m, err := lease.Join(dir)
	if err != nil {
		return fail(err)
	}
	q := newQueue(c, m.ID, m.Bell, func(id uint64) bool {
		// Unknown is alive: to take something from the living is worse than to wait.
		ok, err := lease.Alive(dir, id)
		return ok || err != nil
	})
	q.options, q.block, q.own, q.name, q.waiting = g.options(), b, true, b.Name(), w
	id := b.Identity()
	q.table, q.shadow = shareOf(id)
	q.left = func() {
		m.Leave()
		unshare(id)
	}
	if err := b.OnClose(nil, q.shut); err != nil {
		q.left()
		return fail(err)
	}
	return q, nil
}

func newQueue(c *core, me uint64, bell *atomic.Uint32, alive func(uint64) bool) *Queue {
	fences := wait.FencesAll()
	q := &Queue{
		quiet: c.fenced && fences,
		core:  c, me: me, bell: bell, alive: alive, left: func() {}, plain: wait.Fences(),
		closing: make(chan struct{}),
		table:   make(chan struct{}, 1), shadow: &shadow{}, parts: map[*part]struct{}{},
	}
	if c.fenced && !fences {
		// Ours are barriers all the same; theirs are not, and may pass our flag by.
		q.slice = 5 * time.Millisecond
	}
	return q
}

// shared is what all Queues of this process on one memory have in common. In the
// table's lock stands only which process it is.
type shared struct {
	refs   int
	table  chan struct{}
	shadow *shadow
}

var (
	shareMu sync.Mutex
	shares  = map[shm.Identity]*shared{}
)

func shareOf(id shm.Identity) (chan struct{}, *shadow) {
	shareMu.Lock()
	defer shareMu.Unlock()
	s := shares[id]
	if s == nil {
		s = &shared{table: make(chan struct{}, 1), shadow: &shadow{}}
		shares[id] = s
	}
	s.refs++
	return s.table, s.shadow
}

func unshare(id shm.Identity) {
	shareMu.Lock()
	defer shareMu.Unlock()
	if s := shares[id]; s != nil {
		if s.refs--; s.refs == 0 {
			delete(shares, id)
		}
	}
}

func (q *Queue) fail(op string, err error) error {
	if err == nil {
		return nil
	}
	return &shm.Error{Op: op, Name: q.name, Err: err}
}

// Name returns the block's name.
func (q *Queue) Name() string { return q.name }

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

// shut is what the block's Close calls first.
func (q *Queue) shut() {
	close(q.closing)
	q.wakeAll()
	q.mu.Lock()
	q.closed = true
	parts := q.parts
	q.parts = map[*part]struct{}{}
	q.mu.Unlock()
	// All at once: one may wait for what another does in the function given to Lease.
	var all sync.WaitGroup
	for p := range parts {
		all.Go(func() { _ = p.close() })
	}
	all.Wait()
	q.left()
}

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
	var s Stats
	if q.block != nil {
		release, err := q.block.Acquire()
		if err != nil {
			return s, q.fail("stats", os.ErrClosed)
		}
		defer release()
	}
	for i := range q.entries {
		e := &q.entries[i]
		s.Sent += e.sent.Load()
		s.Received += e.received.Load()
		s.Lost += e.lost.Load()
		s.Redelivered += e.redelivered.Load()
		s.Waits += e.waits.Load()
		s.HighWater = max(s.HighWater, e.high.Load())
	}
	if n := int64(q.hdr.tail.Load() - q.hdr.head.Load()); n > 0 {
		s.Pending = int(min(uint64(n), q.mask+1))
	}
	peers := q.hdr.peers.Load()
	s.Senders = int(peers & countMask)
	s.Receivers = int(peers / receiverUnit & countMask)
	return s, nil
}

// part is what a Sender and a Receiver have in common.
type part struct {
	*core
	q    *Queue
	e    *entry
	idx  int
	role role
	pos  uint64 // the next position to look at

	busy  atomic.Uint64 // a call is inside
	end   atomic.Bool   // Close has begun
	plain bool
	leave func() // what Close does before the entry is given back
	show  func() // moves the hint up

	done   chan struct{} // closed when Close begins
	idle   chan struct{} // a call has left after that
	closed chan struct{} // closed when Close is over
	spins  int           // how many looks it took lately, while spinning
	tries  int
	spun   int // where the empty loop stores
}

// enter begins a call. Close beside it sees busy, or the call sees end: Close stores
// end, then has all threads pass a barrier, then looks at busy. So this side, which
// is the one that is taken a million times a second, needs no barrier of its own.
// Where threads cannot be fenced from afar both sides' stores are barriers.
func (p *part) enter() error {
	if p.busy.Load() != 0 {
		if p.end.Load() {
			return os.ErrClosed
		}
		return ErrBusy
	}
	if p.plain {
		storeRelease(&p.busy, 1)
	} else {
		p.busy.Store(1)
	}
	if p.end.Load() {
		p.exit()
		return os.ErrClosed
	}
	return nil
}

// exit ends it. The argument is the same the other way round: Close sees that
// busy is 0, or we see end and tell it.
func (p *part) exit() {
	if p.plain {
		storeRelease(&p.busy, 0)
	} else {
		p.busy.Store(0)
	}
	if p.end.Load() {
		select {
		case p.idle <- struct{}{}:
		default:
		}
	}
}

// close gives up the place in the table, once the call in flight has ended.
func (p *part) close() error {
	q := p.q
	if p.end.Swap(true) {
		<-p.closed
		return nil
	}
	defer close(p.closed)
	close(p.done)
	q.stop.Add(1)
	wait.WakePrivate(&q.stop, 1<<30)
	wait.Fence()
	for p.busy.Load() != 0 {
		<-p.idle
	}
	p.leave()
	q.mu.Lock()
	delete(q.parts, p)
	q.mu.Unlock()
	// A living process that keeps the table from us, stopped by a debugger or
	// hostile, does not keep us from closing: the place is then a dead one's when
	// this process ends.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return q.withdraw(ctx, p)
}

// Close of a Queue and of one of its participants race for it: whoever is first
// closes it, the other waits in close.
func (q *Queue) closePart(op string, p *part) error {
	if q.block != nil {
		release, err := q.block.Acquire()
		if err != nil {
			<-p.closed
			return nil
		}
		defer release()
	}
	return q.fail(op, p.close())
}
