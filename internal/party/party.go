// Package party is what structures in shared memory have in common in which
// several processes take part, any of which may die: a table of who does, and how
// they wait for each other. Packages ring and topic stand on it; docs/format.md has
// the bytes, in its section on rings.
//
// Two roles face each other: who sends and who receives, who publishes and
// who subscribes. What a role does is the structure's; that its place passes
// to others, and when, that sleepers are woken, and that nobody waits for the dead is
// settled here.
package party

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/lease"
	"github.com/sharedmem/shm/internal/platform/wait"
	"github.com/sharedmem/shm/internal/step"
)

// What the structures' own errors are.
var (
	ErrPeerGone    = errors.New("the last peer died")
	ErrTaken       = errors.New("it is for one, who is there already")
	ErrOptions     = errors.New("made with other options")
	ErrBusy        = errors.New("in use by another call")
	ErrNotReserved = errors.New("nothing is reserved")
)

// Waiting says how this process waits.
type Waiting uint8

// Ways of waiting.
const (
	Adaptive Waiting = iota
	Spin
	Sleep
)

// Role is what a participant does.
type Role uint64

// The roles. Zero is nobody's.
const (
	free    Role = iota
	Giver        // sends, publishes
	Taker        // receives, subscribes
	leaving = 8  // with a role: its owner has closed it
)

// Header is the party's part of a structure's header. It lies at a multiple of 64.
type Header struct {
	table step.Uint64 // the lease's ID of who changes the table, and tableWaiters
	peers step.Uint64 // how many there are: a sum of the table
}

// Entry is the party's part of a participant's, a line that seldom changes.
type Entry struct {
	owner step.Uint64 // its lease's ID
	state step.Uint64 // 0 free, or a role, with leaving
	_     [48]byte
}

// Role returns what e's owner does, 0 if e is free.
func (e *Entry) Role() Role { return Role(e.state.Load()) &^ leaving }

// Owner returns the ID of the lease of e's owner.
func (e *Entry) Owner() uint64 { return e.owner.Load() }

// Words are e's words, for tests that stop before each operation on them.
func (e *Entry) Words() (owner, state *step.Uint64) { return &e.owner, &e.state }

// Words are h's, as [Entry.Words].
func (h *Header) Words() (table, peers *step.Uint64) { return &h.table, &h.peers }

// Peers counts who takes part.
type Peers uint64

const (
	giverUnit = 1
	takerUnit = 1 << 16
	countMask = 1<<16 - 1

	everGiver = 1 << 32 // there has been one
	everTaker = 1 << 33
	giverDied = 1 << 34 // the last one that went did not close
	takerDied = 1 << 35
)

// Count returns how many there are.
func (p Peers) Count(r Role) int {
	if r == Taker {
		p /= takerUnit
	}
	return int(p & countMask)
}

// Gone reports whether there were some and none is left, and whether the last one died.
func (p Peers) Gone(r Role) (gone, died bool) {
	ever, d := Peers(everGiver), Peers(giverDied)
	if r == Taker {
		ever, d = everTaker, takerDied
	}
	gone = p.Count(r) == 0 && p&ever != 0
	return gone, gone && p&d != 0
}

// Peers returns who is there.
func (h *Header) Peers() Peers { return Peers(h.peers.Load()) }

// Structure is what its party needs to know of a structure.
type Structure struct {
	Header  *Header
	Low     *atomic.Uint32 // the half of Header's first word that futexes look at
	Entries []*Entry

	// Words to sleep on: who gives sleeps on Freed, who takes on Filled.
	Filled, Freed *step.Uint32

	OneGiver, OneTaker bool // there may be one
	Fenced             bool // who is about to sleep has all participants pass a barrier

	// Recover brings in order what the dead owner of entry i left, but for the entry
	// itself. It may be called twice for the same.
	Recover func(i int, r Role)

	// End says which end it is that those whom r waits for have, nil for none.
	End func(peers Peers, r Role) error
}

// Party is this process's share in a structure that it has open. Methods may be
// called by several goroutines at once.
type Party struct {
	Structure
	Block *shm.Block // nil in tests over the heap
	name  string
	Ways  Waiting

	me    uint64 // the lease's ID
	bell  *atomic.Uint32
	alive func(id uint64) bool
	left  func()

	heard atomic.Uint64 // bell when everybody was last known to live, and heardOnce
	stop  atomic.Uint32 // changes when a call of this process is to give up
	plain bool          // our threads can be fenced from afar
	Quiet bool          // so can all participants': no store needs to be a barrier
	slice time.Duration // how long to sleep at most, if we cannot fence the others
	table chan struct{} // held by the goroutine that changes the table; of all Parties on this memory
	parks [2]park       // on Filled and on Freed

	// Shadow is where the race detector looks.
	Shadow *Shadow

	closing chan struct{} // closed when Close begins

	mu     sync.Mutex
	seats  map[*Seat]struct{}
	closed bool
}

// Here begins a party over the memory of s, without a block: me is this would-be
// process, bell its bell, and alive tells of the others.
func (p *Party) Here(s Structure, me uint64, bell *atomic.Uint32, alive func(uint64) bool) {
	fences := wait.FencesAll()
	p.Structure = s
	p.Quiet, p.plain = s.Fenced && fences, wait.Fences()
	p.me, p.bell, p.alive, p.left = me, bell, alive, func() {}
	p.table, p.Shadow = make(chan struct{}, 1), &Shadow{}
	p.closing, p.seats = make(chan struct{}), map[*Seat]struct{}{}
	if s.Fenced && !fences {
		// Ours are barriers all the same; theirs are not, and may pass our flag by.
		p.slice = 5 * time.Millisecond
	}
}

// prepare says whether there can be a party in dir, and where: the place to be
// noted in the header, and whether Fenced is.
//
// Errors: errors.ErrUnsupported; those of naming the directory.
func prepare(dir string) (place uint64, fenced bool, err error) {
	if err := wait.Supported(); err != nil {
		return 0, false, err
	}
	place, err = placeOf(dir)
	return place, wait.FencesAll(), err
}

// placeOf names in a word where the leases of a block's processes lie; never 0.
func placeOf(dir string) (uint64, error) {
	p, err := lease.Place(dir)
	if err != nil {
		return 0, err
	}
	return p[0]*0x9e3779b97f4a7c15 ^ p[1] | 1<<63, nil
}

// usable says whether this process can take part in what lies in b at all.
//
// Errors: fs.ErrPermission if b is read-only; errors.ErrUnsupported.
func usable(b *shm.Block) error {
	if b.ReadOnly() {
		return fmt.Errorf("opened read-only: %w", fs.ErrPermission)
	}
	return wait.Supported()
}

// Enter has this process take its share in the structure s in b, whose header names
// place. The block's Close ends it.
//
// Errors: errors.ErrUnsupported if the others' leases are elsewhere; those of becoming
// a member; os.ErrClosed.
func (p *Party) Enter(b *shm.Block, s Structure, place uint64, w Waiting) error {
	dir := b.Ref().Dir
	switch here, err := placeOf(dir); {
	case err != nil:
		return err
	case place != here:
		// Who looks for leases elsewhere would take the others for dead, and they it.
		return fmt.Errorf("those who use it have their leases elsewhere; open the block by the name and directory it was made with: %w", errors.ErrUnsupported)
	}
	m, err := lease.Join(dir)
	if err != nil {
		return err
	}
	p.Here(s, m.ID, m.Bell, func(id uint64) bool {
		// Unknown is alive: to take something from the living is worse than to wait.
		ok, err := lease.Alive(dir, id)
		return ok || err != nil
	})
	p.Block, p.name, p.Ways = b, b.Name(), w
	id := b.Identity()
	p.table, p.Shadow = shareOf(id)
	p.left = func() {
		m.Leave()
		unshare(id)
	}
	if err := b.OnClose(nil, p.shut); err != nil {
		p.left()
		return err
	}
	return nil
}

// shared is what all Parties of this process on one memory have in common. In the
// table's lock stands only which process it is.
type shared struct {
	refs   int
	table  chan struct{}
	shadow *Shadow
}

var (
	shareMu sync.Mutex
	shares  = map[shm.Identity]*shared{}
)

func shareOf(id shm.Identity) (chan struct{}, *Shadow) {
	shareMu.Lock()
	defer shareMu.Unlock()
	s := shares[id]
	if s == nil {
		s = &shared{table: make(chan struct{}, 1), shadow: &Shadow{}}
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

// Fail says in which call of what err is.
func (p *Party) Fail(op string, err error) error {
	if err == nil {
		return nil
	}
	return &shm.Error{Op: op, Name: p.name, Err: err}
}

// Acquire keeps the memory until release is called.
//
// Errors: os.ErrClosed.
func (p *Party) Acquire() (release func(), err error) {
	if p.Block == nil {
		return func() {}, nil
	}
	if release, err = p.Block.Acquire(); err != nil {
		return nil, os.ErrClosed
	}
	return release, nil
}

// shut is what the block's Close calls first.
func (p *Party) shut() {
	close(p.closing)
	p.wakeAll()
	p.mu.Lock()
	p.closed = true
	seats := p.seats
	p.seats = map[*Seat]struct{}{}
	p.mu.Unlock()
	// All at once: one may wait for what another does in the function given to Lease.
	var all sync.WaitGroup
	for s := range seats {
		all.Go(func() { _ = s.close() })
	}
	all.Wait()
	p.left()
}

// closeContext ends when Close begins.
type closeContext struct {
	context.Context
	p *Party
}

func (c closeContext) Done() <-chan struct{} { return c.p.closing }

func (c closeContext) Err() error {
	select {
	case <-c.p.closing:
		return os.ErrClosed
	default:
		return nil
	}
}

// Owners tells who the owner of an entry is, of a structure in b whose header names
// place. If its processes have their leases elsewhere, nothing is known of them, and they
// are taken to live.
func Owners(b *shm.Block, place uint64) (of func(e *Entry) shm.Owner, elsewhere bool) {
	dir := b.Ref().Dir
	here, err := placeOf(dir)
	elsewhere = err != nil || here != place
	owners := map[uint64]shm.Owner{}
	if !elsewhere {
		census, _ := lease.Census(dir) // without it nobody is known
		for _, l := range census {
			owners[l.ID] = shm.Owner{PID: l.PID, Alive: l.Alive, Lease: l.Lease}
		}
	}
	return func(e *Entry) shm.Owner {
		id := e.Owner()
		if o, known := owners[id]; known {
			return o
		}
		return shm.Owner{Lease: fmt.Sprintf("%016x", id), Alive: elsewhere}
	}, elsewhere
}
