package lock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/step"
)

// An RWState begins as a State, whose word is that of a Mutex among writers, and
// goes on with a slot for each process that reads. A slot is the ID of its
// process's lease and
//
//	1  held: the process reads
//	2  want: it waits to
//	4  changes when its process should look again
//
// A writer takes the word, so that nobody begins to read, and waits until no slot is
// held. A reader sets held and then looks at the word; a writer sets the word and
// then looks at the slots; so at least one of two sees the other, and if the
// reader sees a writer it takes held back. Who unlocks turns each want into held
// first. So a writer waits for those who read already and no others, and a reader for
// one writer and not for the next: neither can starve the other.
//
// The slot of a dead reader is cleared by the writer that waits for it: it
// has changed nothing.
const (
	slotHeld = 1
	slotWant = 2
	slotLook = 4

	rwHeader = 64
	rwSlots  = (1024 - rwHeader) / 8
)

// RWMutex is a lock between processes, and goroutines, that many can hold for
// reading or one for writing. Writers have precedence over new readers, and
// readers who waited over the next writer.
type RWMutex struct {
	noCopy noCopy
	*handle
	slots *[rwSlots]step.Uint64
	lows  *[2 * rwSlots]atomic.Uint32 // the same by halves
}

// readers is what a process has for all its goroutines that read.
type readers struct {
	mu    step.Mutex
	count int // goroutines that hold the lock; the slot is held while it is not 0
	slot  int // its number + 1; 0 before the first
	busy  bool
	sleep bool // who is busy has to wait, and does not only look
	queue []*follower
}

// follower waits for another goroutine of its process to get the lock for both.
type follower struct {
	try  bool // but not for long
	done chan struct{}
	ok   bool
}

// NewRWMutex makes a handle on the RWMutex in the [RWState] at byte off of the
// block.
//
// Errors: as [NewMutex].
func NewRWMutex(b *shm.Block, off int) (*RWMutex, error) {
	// Before attach writes: the end of it may be outside.
	if _, err := shm.At[RWState](b, off); err != nil {
		return nil, err
	}
	h, err := attach(b, off, kindRW, 0)
	if err != nil {
		return nil, err
	}
	return rwMutexOn(h, b)
}

func rwMutexOn(h *handle, b *shm.Block) (_ *RWMutex, err error) {
	m := &RWMutex{handle: h}
	h.claim = flagPending
	if m.slots, err = shm.At[[rwSlots]step.Uint64](b, h.off+rwHeader); err != nil {
		return nil, err
	}
	if m.lows, err = shm.At[[2 * rwSlots]atomic.Uint32](b, h.off+rwHeader); err != nil {
		return nil, err
	}
	h.onClose(func() bool {
		h.readers.mu.Lock()
		defer h.readers.mu.Unlock()
		return h.readers.count > 0 || h.owns() && h.st.word.Load()&flagPending == 0
	}, m.dropSlot)
	return m, nil
}

// dropSlot gives the process's slot back when its block is closed, and with it
// what was taken after Close asked whether the lock is held.
func (m *RWMutex) dropSlot() {
	r := &m.readers
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.slot > 0 {
		s := &m.slots[r.slot-1]
		for w := s.Load(); owner(w) == m.me && !s.CompareAndSwap(w, 0); w = s.Load() {
		}
		step.Wake(m.slotWord(r.slot-1), 1<<30)
		r.slot, r.count = 0, 0
	}
	m.desert()
	m.wakeWanting()
}

func (m *RWMutex) slotWord(i int) *atomic.Uint32 { return &m.lows[2*i+layout.LowHalf/4] }

// Lock waits until this process alone holds the lock, for writing.
//
// Errors: as [Mutex.Lock].
func (m *RWMutex) Lock() error { return m.LockContext(context.Background()) }

// LockContext is Lock until ctx is done; then the error is its.
func (m *RWMutex) LockContext(ctx context.Context) error {
	err := ctx.Err()
	if err == nil {
		err = m.lock(ctx)
	}
	return m.fail("lock", err)
}

func (m *RWMutex) lock(ctx context.Context) error {
	if err := m.queue(ctx); err != nil {
		return err
	}
	defer m.next()
	died := m.compete(ctx)
	if died != nil && !errors.Is(died, ErrOwnerDied) {
		return died
	}
	for i := range m.slots {
		if m.slots[i].Load()&slotHeld == 0 {
			continue
		}
		if err := m.drain(ctx, i); err != nil {
			m.abandon()
			return err
		}
	}
	if m.ended() {
		m.abandon() // Close has begun, and nobody could unlock any more
		return os.ErrClosed
	}
	m.begin()
	return died
}

// begin says that the word's owner may write from now on.
func (m *RWMutex) begin() {
	for w := m.st.word.Load(); owner(w) == m.me && !m.st.word.CompareAndSwap(w, w&^flagPending); w = m.st.word.Load() {
	}
	crash.Point("rwlock:writing")
	m.shadow.acquire()
}

// drain waits until slot i is not held.
func (m *RWMutex) drain(ctx context.Context, i int) error {
	s := m.sleeping(ctx)
	defer s.done()
	var heard uint32
	asked := false
	for {
		bell := m.member.Bell.Load()
		w := m.slots[i].Load()
		if w&slotHeld == 0 {
			return nil
		}
		if !asked || bell != heard {
			if !m.alive(owner(w)) {
				if m.slots[i].CompareAndSwap(w, 0) {
					crash.Point("rwlock:forgotten")
				}
				continue
			}
			heard = bell
		}
		crash.Point("rwlock:draining")
		if err := m.sleep(ctx, s, m.slotWord(i), uint32(w), bell); err != nil {
			return err
		}
		asked = m.member.Bell.Load() != bell || m.slots[i].Load() != w
	}
}

// abandon gives the word up before anything was written under it. What a dead
// owner left is still there: then its state is as if we had died.
func (m *RWMutex) abandon() {
	if m.st.word.Load()&flagDied == 0 {
		m.grant()
	}
	m.surrender()
	m.wakeWanting()
}

// TryLock takes the lock for writing if nobody holds it, or only the dead do, and
// reports whether it did.
func (m *RWMutex) TryLock() (bool, error) {
	if m.ended() {
		return false, m.fail("lock", os.ErrClosed)
	}
	if err := m.enter(); err != nil {
		return false, m.fail("lock", err)
	}
	defer m.leave()
	ok, err := m.tryWord()
	if !ok {
		return false, m.fail("lock", err)
	}
	for i := range m.slots {
		w := m.slots[i].Load()
		for w&slotHeld != 0 && !m.alive(owner(w)) {
			m.slots[i].CompareAndSwap(w, 0)
			w = m.slots[i].Load()
		}
		if w&slotHeld != 0 {
			m.abandon()
			return false, nil
		}
	}
	if m.ended() {
		m.abandon()
		return false, m.fail("lock", os.ErrClosed)
	}
	m.begin()
	return true, m.fail("lock", err)
}

// Unlock gives the lock back that Lock took.
//
// Errors: as [Mutex.Unlock].
func (m *RWMutex) Unlock() error {
	if m.ended() {
		return m.fail("unlock", os.ErrClosed)
	}
	if err := m.enter(); err != nil { // as there is work to do when it is unlocked
		return m.fail("unlock", err)
	}
	defer m.leave()
	if w := m.st.word.Load(); w == wordBroken || owner(w) != m.me || w&flagPending != 0 {
		return m.fail("unlock", ErrNotLocked)
	}
	m.shadow.release()
	crash.Point("unlock:begun")
	if m.st.word.Load()&flagDied == 0 {
		m.grant()
	}
	err := m.release()
	m.wakeWanting()
	return m.fail("unlock", err)
}

// MarkConsistent is [Mutex.MarkConsistent].
func (m *RWMutex) MarkConsistent() error { return m.fail("mark consistent", m.mend()) }

// grant lets in those who wait to read, while the word is still ours. It first
// takes back that we write: who dies in the middle of it leaves readers who read
// what is whole, and nobody is to be told that it might not be.
func (m *RWMutex) grant() {
	if m.st.aux.Load() == 0 {
		return
	}
	for w := m.st.word.Load(); w&flagPending == 0 && !m.st.word.CompareAndSwap(w, w|flagPending); w = m.st.word.Load() {
	}
	m.st.aux.Store(0)
	crash.Point("rwlock:granting")
	for i := range m.slots {
		for w := m.slots[i].Load(); w&slotWant != 0; w = m.slots[i].Load() {
			if m.slots[i].CompareAndSwap(w, w&^slotWant|slotHeld) {
				crash.Point("rwlock:granted")
				step.Wake(m.slotWord(i), 1<<30)
			}
		}
	}
}

// wakeWanting wakes those who came to wait after grant looked. Their slots change,
// as one of them may be about to sleep on what it was.
func (m *RWMutex) wakeWanting() {
	if m.st.aux.Load() == 0 {
		return
	}
	for i := range m.slots {
		for w := m.slots[i].Load(); w&slotWant != 0; w = m.slots[i].Load() {
			if m.slots[i].CompareAndSwap(w, w^slotLook) {
				step.Wake(m.slotWord(i), 1<<30)
				break
			}
		}
	}
}

// RLock waits until this process holds the lock for reading. It may be held so
// many times; each needs one RUnlock. As with sync.RWMutex, a goroutine that
// holds it must not RLock again, since a writer may wait in between.
//
// Errors: ErrOwnerDied if a writer has died holding it: the lock is then NOT held;
// take Lock, and mend what the writer left. ErrNotRecoverable, os.ErrClosed,
// shm.ErrTruncated; shm.ErrNoSpace if 120 living processes have it in use.
func (m *RWMutex) RLock() error { return m.RLockContext(context.Background()) }

// RLockContext is RLock until ctx is done; then the error is its.
func (m *RWMutex) RLockContext(ctx context.Context) error {
	err := ctx.Err()
	if err == nil {
		err = m.rlock(ctx, false)
	}
	return m.fail("lock for reading", err)
}

// TryRLock takes the lock for reading if no writer holds it or waits for it.
func (m *RWMutex) TryRLock() (bool, error) {
	err := m.rlock(context.Background(), true)
	if errors.Is(err, errNotNow) {
		return false, nil
	}
	return err == nil, m.fail("lock for reading", err)
}

var errNotNow = errors.New("not now")

func (m *RWMutex) rlock(ctx context.Context, try bool) error {
	if m.ended() {
		return os.ErrClosed
	}
	r := &m.readers
	for entered := false; ; {
		r.mu.Lock()
		if r.count > 0 && m.st.word.Load() == 0 {
			r.count++
			r.mu.Unlock()
			m.shadow.acquireRead()
			return nil
		}
		if !entered {
			if err := m.enter(); err != nil {
				r.mu.Unlock()
				return err
			}
			defer m.leave()
			entered = true
		}
		if !r.busy {
			break
		}
		if try && r.sleep {
			r.mu.Unlock()
			return errNotNow
		}
		f := &follower{try: try, done: make(chan struct{})}
		r.queue = append(r.queue, f)
		r.mu.Unlock()
		if done, err := m.follow(ctx, f); done {
			return err
		}
	}
	r.busy = true
	slot, err := m.slot()
	for err == nil {
		r.mu.Unlock()
		err = m.acquireRead(ctx, slot, try)
		r.mu.Lock()
		if m.slots[slot].Load()&slotHeld != 0 {
			break
		}
		// The last of the others who read here has just left, and took it along.
	}
	r.busy, r.sleep = false, false
	if err == nil {
		r.count++
	}
	for _, f := range r.queue {
		if f.ok = err == nil; f.ok {
			r.count++
		}
		close(f.done)
	}
	r.queue = nil
	r.mu.Unlock()
	if err == nil {
		err = m.reading()
	}
	return err
}

// reading is where a reader has the lock, unless Close has begun: then nobody could
// give it back.
func (m *RWMutex) reading() error {
	m.shadow.acquireRead()
	if m.ended() {
		_ = m.runlock()
		return os.ErrClosed
	}
	return nil
}

// follow waits for another goroutine to get the lock for f as well. Not done if
// that one failed, for a reason of its own perhaps.
func (m *RWMutex) follow(ctx context.Context, f *follower) (done bool, err error) {
	step.Until(func() bool {
		select {
		case <-f.done:
			return true
		default:
			return ctx.Err() != nil
		}
	})
	select {
	case <-f.done:
	case <-ctx.Done():
		err = ctx.Err()
	case <-m.done:
		err = os.ErrClosed
	}
	if err != nil {
		r := &m.readers
		r.mu.Lock()
		r.queue = slices.DeleteFunc(r.queue, func(o *follower) bool { return o == f })
		ok := f.ok
		r.mu.Unlock()
		if ok {
			_ = m.runlock()
		}
		return true, err
	}
	if f.ok {
		err = m.reading()
	}
	return f.ok, err
}

// slot finds the process's slot, or takes one. Call with readers.mu held.
func (m *RWMutex) slot() (int, error) {
	r := &m.readers
	if r.slot > 0 {
		return r.slot - 1, nil
	}
	home := int(m.me >> 32 % rwSlots)
	for _, dead := range []bool{false, true} {
		for k := range rwSlots {
			i := (home + k) % rwSlots
			w := m.slots[i].Load()
			if w != 0 && (!dead || m.alive(owner(w))) {
				continue
			}
			if m.slots[i].CompareAndSwap(w, m.me) {
				crash.Point("rwlock:slot")
				r.slot = i + 1
				return i, nil
			}
		}
	}
	return 0, fmt.Errorf("%w: %d living processes use this RWMutex, and it has no more slots", shm.ErrNoSpace, rwSlots)
}

// acquireRead makes the process's slot held. One goroutine at a time does.
func (m *RWMutex) acquireRead(ctx context.Context, i int, try bool) error {
	slot := &m.slots[i]
	// Without a writer there is nothing to wait for. Nor with one, if other
	// goroutines hold the slot at the moment in which we set it: it waits for them.
	had := slot.Load()&slotHeld != 0
	if m.st.word.Load() == 0 {
		had = m.set(slot, slotHeld, 0)&slotHeld != 0
		crash.Point("rwlock:held")
		if had || m.st.word.Load() == 0 {
			return nil
		}
	}
	if try {
		if w := m.st.word.Load(); w != wordBroken && (owner(w) == 0 || m.alive(owner(w))) {
			if !had {
				m.retreat(i, 0)
			}
			return errNotNow
		}
	}
	if had {
		m.set(slot, slotWant, 0)
	} else {
		m.retreat(i, slotWant)
	}
	crash.Point("rwlock:want")
	if !try {
		m.refuse()
	}

	s := m.sleeping(ctx)
	defer s.done()
	var asked uint64
	var heard uint32
	for {
		m.st.aux.Store(1) // before the look at the word: see grant and wakeWanting
		bell := m.member.Bell.Load()
		have := slot.Load()
		if have&slotWant == 0 {
			return nil // granted
		}
		w := m.st.word.Load()
		switch {
		case w == wordBroken:
			m.giveUp(i)
			return ErrNotRecoverable
		case owner(w) == 0:
			if !slot.CompareAndSwap(have, have&^slotWant|slotHeld) {
				continue
			}
			crash.Point("rwlock:held")
			if have&slotHeld != 0 || m.st.word.Load() == 0 {
				return nil
			}
			m.retreat(i, slotWant)
			continue
		case owner(w) != asked || bell != heard:
			// A writer that died waiting for readers has written nothing, and the next
			// one will find it; we would wait for that one, so take its place for a
			// moment.
			if !m.alive(owner(w)) {
				if m.st.word.Load() != w {
					continue // it had given the lock back before it died
				}
				if w&flagPending != 0 && w&flagDied == 0 {
					if m.st.word.CompareAndSwap(w, 0) {
						crash.Point("rwlock:freed")
						if w&flagWaiters != 0 {
							step.Wake(m.low, 1<<30)
						}
					}
					continue
				}
				if m.giveUp(i) {
					return nil
				}
				return ErrOwnerDied
			}
			asked, heard = owner(w), bell
		}
		if try {
			// Its owner seemed dead, and now another lives.
			if m.giveUp(i) {
				return nil
			}
			return errNotNow
		}
		if err := m.sleep(ctx, s, m.slotWord(i), uint32(have), bell); err != nil {
			if m.giveUp(i) {
				m.readers.mu.Lock()
				if m.readers.count == 0 {
					m.retreat(i, 0)
				}
				m.readers.mu.Unlock()
			}
			return err
		}
		if m.member.Bell.Load() == bell && slot.Load() == have {
			asked = 0
		}
		crash.Point("rwlock:reader-woken")
	}
}

// refuse sends those away who would not wait, as we have to.
func (m *RWMutex) refuse() {
	r := &m.readers
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sleep = true
	r.queue = slices.DeleteFunc(r.queue, func(f *follower) bool {
		if f.try {
			close(f.done)
		}
		return f.try
	})
}

// set changes flags of the process's own slot. Others change want only, to held.
func (m *RWMutex) set(slot *step.Uint64, on, off uint64) (old uint64) {
	for {
		w := slot.Load()
		if slot.CompareAndSwap(w, w&^off|on) {
			return w
		}
	}
}

// retreat makes the slot not held, and wakes a writer that waits for that.
func (m *RWMutex) retreat(i int, want uint64) {
	m.set(&m.slots[i], want, slotHeld)
	crash.Point("rwlock:retreated")
	if m.st.word.Load() != 0 {
		step.Wake(m.slotWord(i), 1<<30)
	}
}

// giveUp takes want back, and reports that it was too late: granted.
func (m *RWMutex) giveUp(i int) (granted bool) {
	return m.set(&m.slots[i], 0, slotWant)&slotWant == 0
}

// RUnlock gives back what one RLock took.
//
// Errors: ErrNotLocked, os.ErrClosed.
func (m *RWMutex) RUnlock() error {
	if m.ended() {
		return m.fail("unlock", os.ErrClosed)
	}
	return m.fail("unlock", m.runlock())
}

func (m *RWMutex) runlock() error {
	m.shadow.releaseRead()
	r := &m.readers
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.count == 0 {
		return ErrNotLocked
	}
	if r.count--; r.count == 0 {
		crash.Point("unlock:begun")
		m.retreat(r.slot-1, 0)
	}
	return nil
}
