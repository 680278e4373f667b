package lock

import (
	"context"
	"errors"
	"math"
	"os"
	"sync/atomic"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/step"
)

// The word of a Mutex is the ID of its owner's lease, whose lowest four bits are
// free, and there:
//
//	1  somebody sleeps, or may: who unlocks wakes one
//	2  the owner before died, and what it left has not been mended
//	4  of an RWMutex: its owner waits for readers to leave, and has written nothing
//
// 0 is free, all ones is not recoverable. It is one word so that there is no
// instruction at which its owner can die without everybody knowing that it
// had the lock, or had not.
const (
	flagWaiters = 1
	flagDied    = 2
	flagPending = 4
	flags       = 0xf
	wordBroken  = math.MaxUint64
	nobody      = flags + 1 // an owner that nobody has ever been, and so is dead
)

func owner(w uint64) uint64 { return w &^ flags }

// Mutex is a mutual exclusion lock between processes, and between goroutines.
type Mutex struct {
	noCopy noCopy
	// What an uncontended Lock and Unlock touch, here: a pointer to follow is a
	// tenth of what they take.
	word *step.Uint64
	id   uint64
	end  *atomic.Bool // closed
	wish *atomic.Bool // parked
	*handle
}

// noCopy is what vet's copylocks looks for.
type noCopy struct{}

func (*noCopy) Lock()   {}
func (*noCopy) Unlock() {}

// NewMutex makes a handle on the Mutex in the [State] at byte off of the block.
//
// Errors: shm.ErrFormat if something else is there, shm.ErrSize if off is not in
// the block or no multiple of 8, fs.ErrPermission if the block was opened
// read-only, errors.ErrUnsupported.
func NewMutex(b *shm.Block, off int) (*Mutex, error) {
	h, err := attach(b, off, kindMutex, 0)
	if err != nil {
		return nil, err
	}
	return mutexOn(h), nil
}

func mutexOn(h *handle) *Mutex {
	h.onClose(h.owns, h.desert)
	return &Mutex{handle: h, word: &h.st.word, id: h.me, end: &h.closed, wish: &h.parked}
}

// owns tells whether this process holds the word.
func (h *handle) owns() bool {
	w := h.st.word.Load()
	return w != wordBroken && owner(w) == h.me
}

// Lock waits until this process holds the lock.
//
// Errors: ErrOwnerDied, with the lock held; ErrNotRecoverable; os.ErrClosed;
// shm.ErrTruncated.
func (m *Mutex) Lock() error {
	if !m.end.Load() && m.word.CompareAndSwap(0, m.id) {
		crash.Point("lock:taken")
		m.shadow.acquire()
		if m.end.Load() {
			return m.fail("lock", m.late())
		}
		return nil
	}
	return m.fail("lock", m.lock(context.Background()))
}

// LockContext is Lock until ctx is done; then the error is its.
func (m *Mutex) LockContext(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return m.fail("lock", err)
	}
	if !m.end.Load() && m.word.CompareAndSwap(0, m.id) {
		crash.Point("lock:taken")
		m.shadow.acquire()
		if m.end.Load() {
			return m.fail("lock", m.late())
		}
		return nil
	}
	return m.fail("lock", m.lock(ctx))
}

// TryLock takes the lock if it is free, or its owner dead, and reports whether
// it did. With ErrOwnerDied it did.
func (m *Mutex) TryLock() (bool, error) {
	if m.ended() {
		return false, m.fail("lock", os.ErrClosed)
	}
	ok, err := m.word.CompareAndSwap(0, m.id), error(nil)
	if ok && m.end.Load() {
		err = m.late()
		ok = err == nil
	} else if !ok {
		if err := m.enter(); err != nil {
			return false, m.fail("lock", err)
		}
		defer m.leave()
		ok, err = m.tryWord()
	}
	if ok {
		m.shadow.acquire()
	}
	return ok, m.fail("lock", err)
}

// tryWord looks once at the lock word.
func (h *handle) tryWord() (bool, error) {
	for {
		switch w := h.st.word.Load(); {
		case w == wordBroken:
			return false, ErrNotRecoverable
		case owner(w) == 0:
			if h.st.word.CompareAndSwap(w, h.me|h.claim) {
				crash.Point("lock:taken")
				return true, nil
			}
		case h.alive(owner(w)):
			return false, nil
		default:
			if to := h.inherit(w); h.st.word.CompareAndSwap(w, to) {
				return true, inherited(to)
			}
		}
	}
}

// late is for who has taken the lock and then seen Close begin: it is given back
// if that goes on.
func (m *Mutex) late() error {
	if m.enter() == nil {
		defer m.leave()
		if !m.ended() {
			return nil
		}
		m.surrender()
	}
	return os.ErrClosed
}

func (m *Mutex) lock(ctx context.Context) error {
	if err := m.queue(ctx); err != nil {
		return err
	}
	defer m.next()
	err := m.compete(ctx)
	if err != nil && !errors.Is(err, ErrOwnerDied) {
		return err
	}
	if m.ended() {
		// Close has begun, and nobody could unlock any more.
		m.surrender()
		return os.ErrClosed
	}
	m.shadow.acquire()
	return err
}

// compete takes the lock word from other processes. Only the goroutine that has
// the turn calls it.
func (h *handle) compete(ctx context.Context) error {
	spins := 0
	for h.local.spin(spins) {
		spins++
		if h.st.word.Load() == 0 && h.st.word.CompareAndSwap(0, h.me|h.claim) {
			crash.Point("lock:taken")
			h.spinned(spins)
			return nil
		}
	}
	h.spinned(0)

	s := h.sleeping(ctx)
	defer s.done()
	var asked uint64 // an owner known to live when the bell was at heard
	var heard uint32
	mine := h.me | h.claim // with a flag once we have slept: others may sleep as well
	for {
		bell := h.member.Bell.Load()
		w := h.st.word.Load()
		switch {
		case w == wordBroken:
			return ErrNotRecoverable
		case owner(w) == 0:
			if h.st.word.CompareAndSwap(w, mine) {
				crash.Point("lock:taken")
				return nil
			}
			continue
		case owner(w) == h.me:
			if err := h.awaitRelease(ctx); err != nil {
				h.passOn()
				return err
			}
			continue
		case owner(w) != asked || bell != heard:
			if !h.alive(owner(w)) {
				if to := h.inherit(w) | mine&flagWaiters; h.st.word.CompareAndSwap(w, to) {
					return inherited(to)
				}
				continue
			}
			asked, heard = owner(w), bell
		}
		if w&flagWaiters == 0 {
			if !h.st.word.CompareAndSwap(w, w|flagWaiters) {
				continue
			}
			w |= flagWaiters
			crash.Point("lock:waiting")
		}
		mine |= flagWaiters
		if err := h.sleep(ctx, s, h.low, uint32(w), bell); err != nil {
			h.passOn()
			return err
		}
		if h.member.Bell.Load() == bell && h.st.word.Load() == w {
			asked = 0 // woken for nothing, perhaps by the clock: ask again
		}
		crash.Point("lock:woken")
	}
}

// inherit is the word of who takes over from the dead owner of w. Who sleeps goes
// on sleeping, and stays to be woken.
func (h *handle) inherit(w uint64) uint64 {
	died := w & flagDied
	if w&flagPending == 0 {
		died = flagDied
	}
	return h.me | h.claim | died | w&flagWaiters
}

func inherited(w uint64) error {
	crash.Point("lock:taken-over")
	if w&flagDied != 0 {
		return ErrOwnerDied
	}
	return nil
}

// awaitRelease waits for a goroutine of this process to unlock.
func (h *handle) awaitRelease(ctx context.Context) error {
	// The flag, then the look; unlocking stores first and then looks at the flag.
	// At least one of the two sees the other.
	h.parked.Store(true)
	defer h.parked.Store(false)
	if owner(h.st.word.Load()) != h.me {
		return nil
	}
	step.Until(func() bool { return len(h.released) > 0 || ctx.Err() != nil })
	select {
	case <-h.released:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-h.done:
		return os.ErrClosed
	}
}

// passOn is for who gives up waiting: the one wake that came may have been
// meant for others, and the flag is theirs as well.
func (h *handle) passOn() {
	for {
		w := h.st.word.Load()
		switch {
		case owner(w) == 0:
			step.Wake(h.low, 1)
			return
		case w == wordBroken || w&flagWaiters != 0 || h.st.word.CompareAndSwap(w, w|flagWaiters):
			return
		}
	}
}

// Unlock gives the lock back.
//
// Errors: ErrNotLocked if this process does not hold it, os.ErrClosed.
func (m *Mutex) Unlock() error {
	if m.ended() {
		return m.fail("unlock", os.ErrClosed)
	}
	m.shadow.release()
	crash.Point("unlock:begun")
	if m.word.CompareAndSwap(m.id, 0) {
		crash.Point("unlock:free")
		if m.wish.Load() {
			m.signal()
		}
		return nil
	}
	return m.fail("unlock", m.release())
}

// release gives the lock word back, whatever flags are in it.
func (h *handle) release() error {
	for {
		w := h.st.word.Load()
		if w == wordBroken || owner(w) != h.me {
			return ErrNotLocked
		}
		to, n := uint64(0), 1
		if w&flagDied != 0 {
			to, n = wordBroken, 1<<30 // all are to hear of it
		}
		if !h.st.word.CompareAndSwap(w, to) {
			continue
		}
		crash.Point("unlock:free")
		if w&flagWaiters != 0 {
			step.Wake(h.low, n)
		}
		crash.Point("unlock:woken")
		if h.parked.Load() {
			h.signal()
		}
		return nil
	}
}

// surrender gives up a lock under which nothing has been written. What a dead owner
// left is still there: then its state is as if we had died.
func (h *handle) surrender() {
	for {
		w := h.st.word.Load()
		if w&flagDied == 0 || w == wordBroken || owner(w) != h.me {
			_ = h.release()
			return
		}
		if h.st.word.CompareAndSwap(w, nobody|flagDied|w&flagWaiters) {
			step.Wake(h.low, 1<<30)
			if h.parked.Load() {
				h.signal()
			}
			return
		}
	}
}

// desert is for a lock that was taken after Close asked whether it is held:
// as if we had died.
func (h *handle) desert() {
	for w := h.st.word.Load(); h.owns(); w = h.st.word.Load() {
		if h.st.word.CompareAndSwap(w, nobody|flagDied|w&flagWaiters) {
			step.Wake(h.low, 1<<30)
		}
	}
}

// signal wakes who waits in awaitRelease.
func (l *local) signal() {
	select {
	case l.released <- struct{}{}:
	default:
	}
}

// MarkConsistent says that what a dead owner left has been mended. Call it with
// the lock held, after ErrOwnerDied.
//
// Errors: ErrNotLocked if this process does not hold it; nothing if there was
// nothing to mend.
func (m *Mutex) MarkConsistent() error { return m.fail("mark consistent", m.mend()) }

func (h *handle) mend() error {
	if h.ended() {
		return os.ErrClosed
	}
	for {
		w := h.st.word.Load()
		switch {
		case w == wordBroken || owner(w) != h.me:
			return ErrNotLocked
		case w&flagDied == 0 || h.st.word.CompareAndSwap(w, w&^flagDied):
			crash.Point("lock:mended")
			return nil
		}
	}
}
