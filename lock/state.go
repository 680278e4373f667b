package lock

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/guard"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/lease"
	"github.com/sharedmem/shm/internal/step"
)

var (
	// ErrOwnerDied says that the last holder died holding the lock: the data may be
	// half-written. The caller holds it now. (With RLock it does not.)
	ErrOwnerDied = errors.New("the lock's owner died holding it")

	// ErrNotRecoverable says that a lock whose owner had died was unlocked
	// without MarkConsistent. It stays so.
	ErrNotRecoverable = errors.New("the lock is not recoverable: what its dead owner left was not mended")

	// ErrNotLocked says that this process does not hold what it gives back.
	ErrNotLocked = errors.New("not locked by this process")

	// ErrHeld is what Close of a block says when this process holds a lock in it.
	ErrHeld = errors.New("this process holds a lock in it")

	// ErrBroken says that a process that takes part in a Barrier has died.
	ErrBroken = errors.New("the barrier is broken: one who takes part has died")
)

// State is the room for a lock in shared memory, to be a field of a struct given
// to [shm.At]. All zeros is ready for use. It must not be touched but through
// handles.
type State struct {
	_ [0]atomic.Uint64 // aligns it to 8, on 32-bit machines too
	_ [64]byte
}

// RWState is the room for a [RWMutex]: 120 processes can hold it for reading at once.
type RWState struct {
	_ [0]atomic.Uint64
	_ [1024]byte
}

// state is how a State is read (docs/format.md).
type state struct {
	kind  atomic.Uint64 // "SL", version, kind, and 32 bits that belong to the kind
	word  step.Uint64   // what is waited for, in its low half
	aux   step.Uint64
	slots [8]atomic.Uint32
	place atomic.Uint64 // where the leases are of those who use it
}

type kind uint8

const (
	kindMutex kind = 1 + iota
	kindRW
	kindCond
	kindEvent
	kindBarrier
	kindOnce
	kindSemaphore
)

var kindNames = [...]string{"nothing", "Mutex", "RWMutex", "Cond", "Event", "Barrier", "Once", "Semaphore"}

func (k kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

const (
	stampMagic   = 'S' | 'L'<<8
	stampVersion = 1
)

func stamp(k kind, param uint32) uint64 {
	return stampMagic | stampVersion<<16 | uint64(k)<<24 | uint64(param)<<32
}

// handle is what every kind of handle has.
type handle struct {
	*room
	st  *state
	low *atomic.Uint32 // the half of st.word that futexes look at
	off int
	*local
	param uint32
	claim uint64 // flags with which the word is taken
	idle  atomic.Pointer[sleeper]
}

// attach makes the handle on the State at off, which is stamped if it is new.
func attach(b *shm.Block, off int, k kind, param uint32) (*handle, error) {
	fail := func(err error) (*handle, error) {
		return nil, &shm.Error{Op: "open " + k.String(), Name: b.Name(), Err: err}
	}
	// Close may run beside this.
	release, err := b.Acquire()
	if err != nil {
		return fail(os.ErrClosed)
	}
	defer release()
	if b.ReadOnly() {
		return fail(fmt.Errorf("opened read-only: %w", fs.ErrPermission))
	}
	st, err := shm.At[state](b, off)
	if err != nil {
		return nil, err
	}
	low, err := shm.At[atomic.Uint32](b, off+8+layout.LowHalf)
	if err != nil {
		return nil, err
	}
	place, err := placeOf(b)
	if err != nil {
		return fail(err)
	}
	r, err := roomOf(b)
	if err != nil {
		return fail(err)
	}

	want := stamp(k, param)
	if have := st.kind.Load(); have != 0 || !st.kind.CompareAndSwap(0, want) {
		have = st.kind.Load() // read once more, as somebody else may have been first
		switch {
		case have&0xffff != stampMagic:
			return fail(fmt.Errorf("%w: at offset %d is no lock, and no room for one: not zero, but %#x", shm.ErrFormat, off, have))
		case have>>16&0xff != stampVersion:
			return fail(fmt.Errorf("%w: a lock of version %d, this program knows %d; update the older program", shm.ErrFormat, have>>16&0xff, stampVersion))
		case kind(have>>24) != k:
			return fail(fmt.Errorf("%w: at offset %d is a %v", shm.ErrFormat, off, kind(have>>24)))
		}
		param = uint32(have >> 32)
	}
	// Who looks for leases elsewhere would take the others for dead, and they it.
	if !st.place.CompareAndSwap(0, place) && st.place.Load() != place {
		return fail(fmt.Errorf("those who use it have their leases elsewhere; open the block by the name and directory it was made with: %w", errors.ErrUnsupported))
	}
	h := &handle{room: r, st: st, low: low, off: off, param: param}
	if h.local = r.local(off); h.local == nil {
		return fail(os.ErrClosed)
	}
	return h, nil
}

// placeOf names in a word where the leases of a block's processes lie; never 0.
func placeOf(b *shm.Block) (uint64, error) {
	p, err := lease.Place(b.Ref().Dir)
	if err != nil {
		return 0, err
	}
	return p[0]*0x9e3779b97f4a7c15 ^ p[1] | 1<<63, nil
}

func (h *handle) fail(op string, err error) error {
	if err == nil {
		return nil
	}
	return &shm.Error{Op: op, Name: h.block.Name(), Err: err}
}

// room is what this process has for all locks of one Block.
type room struct {
	block  *shm.Block
	member *lease.Member
	me     uint64 // the ID in the words that this process owns
	dir    string

	closed atomic.Bool // Close has begun, or is about to and asks what is held

	// Who works in the block for longer than an instruction is inside: Close waits
	// for them, after it has woken them, before it takes memory and member from
	// under them.
	guard   guard.Guard
	done    <-chan struct{} // closed when guard is
	release func()          // keeps the memory until then, from a second Close as well

	mu       sync.Mutex
	places   map[int]place // by the offset of their States
	sleepers map[*sleeper]struct{}
}

// place is what Close has to ask, and to do, for the lock at one offset. It is of
// this Block, as another's mapping of the same memory may be gone.
type place struct {
	held  func() bool // whether this process holds the lock
	leave func()      // takes the process out of what it takes part in
}

// rooms has an entry for each open Block with locks, and memories one for each
// memory, as one may be mapped twice.
var (
	roomsMu  sync.Mutex
	rooms    = map[*shm.Block]*room{}
	memories = map[shm.Identity]*memory{}
)

// memory holds what all handles of this process on one State share.
type memory struct {
	refs   int
	locals map[int]*local
}

func roomOf(b *shm.Block) (*room, error) {
	roomsMu.Lock()
	defer roomsMu.Unlock()
	if r := rooms[b]; r != nil {
		return r, nil
	}
	dir := b.Ref().Dir
	m, err := lease.Join(dir)
	if err != nil {
		return nil, err
	}
	release, err := b.Acquire()
	if err != nil {
		m.Leave()
		return nil, os.ErrClosed
	}
	r := &room{block: b, member: m, me: m.ID, dir: dir, places: map[int]place{}, sleepers: map[*sleeper]struct{}{}, release: release}
	r.done = r.guard.Done()
	if err := b.OnClose(r.busy, r.closing); err != nil {
		release()
		m.Leave()
		return nil, err
	}
	rooms[b] = r
	id := b.Identity()
	if memories[id] == nil {
		memories[id] = &memory{locals: map[int]*local{}}
	}
	memories[id].refs++
	return r, nil
}

// local returns what all handles of this process on the State at off share, nil
// if the block is being closed.
func (r *room) local(off int) *local {
	roomsMu.Lock()
	defer roomsMu.Unlock()
	m := memories[r.block.Identity()]
	if rooms[r.block] != r {
		return nil
	}
	l := m.locals[off]
	if l == nil {
		l = newLocal()
		m.locals[off] = l
	}
	return l
}

// onClose sets what Close asks and does for this lock; either may be nil.
func (h *handle) onClose(held func() bool, leave func()) {
	h.room.mu.Lock()
	h.places[h.off] = place{held, leave}
	h.room.mu.Unlock()
}

// busy keeps a block open in which this process holds a lock: nobody could give
// it back. It sets closed before it looks, and who takes a lock looks at closed
// after: so at least one of the two sees the other.
func (r *room) busy() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed.Store(true)
	for off, p := range r.places {
		if p.held != nil && p.held() {
			r.closed.Store(false)
			return fmt.Errorf("%w, at offset %d; unlock it before", ErrHeld, off)
		}
	}
	return nil
}

// enter begins what Close has to wait for; leave ends it.
//
// An uncontended Lock does without, as it would cost as much as the lock itself:
// it looks at closed and then at the word.
func (r *room) enter() error {
	if !r.guard.Enter() {
		return os.ErrClosed
	}
	return nil
}

func (r *room) leave() { r.guard.Leave() }

// ended tells whether Close has begun, once busy has made up its mind.
func (r *room) ended() bool { return r.closed.Load() && r.decided() }

func (r *room) decided() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed.Load()
}

// closing wakes everybody who waits in the block, and waits until they have
// left.
func (r *room) closing() {
	r.mu.Lock()
	for s := range r.sleepers {
		s.wake()
	}
	r.mu.Unlock()

	r.guard.Close()

	roomsMu.Lock()
	delete(rooms, r.block)
	id := r.block.Identity()
	m := memories[id]
	m.refs--
	last := m.refs == 0
	if last {
		delete(memories, id)
	}
	roomsMu.Unlock()
	// As long as the memory is open another time the process takes part.
	for _, p := range r.places {
		if last && p.leave != nil {
			p.leave()
		}
	}
	r.member.Leave()
	r.release()
}

// alive tells whether the owner in a word lives. Unknown is alive: to take a
// lock from somebody is worse than to wait.
func (r *room) alive(owner uint64) bool {
	if owner == r.me {
		return true
	}
	if ok, known := step.Judge(owner); known {
		return ok
	}
	ok, err := lease.Alive(r.dir, owner)
	return ok || err != nil
}
