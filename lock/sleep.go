package lock

import (
	"context"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/platform/wait"
	"github.com/sharedmem/shm/internal/step"
)

// local is what the handles of this process on one State share.
type local struct {
	// turn is held by the one goroutine that competes with other processes; the
	// others queue for it, in order, without a thread.
	turn chan struct{}

	// parked says that who has the turn waits for a goroutine of this process, and
	// released wakes it.
	parked   atomic.Bool
	released chan struct{}

	mu      sync.Mutex
	leading bool          // a goroutine sleeps for all in park
	moved   chan struct{} // closed when it wakes

	spins atomic.Int32 // how long it was of use to spin, lately

	readers readers // of an RWMutex
	shadow  shadow  // for the race detector
}

func newLocal() *local {
	return &local{turn: make(chan struct{}, 1), released: make(chan struct{}, 1), moved: make(chan struct{})}
}

// queue enters and waits for the turn; next gives it on and leaves.
func (h *handle) queue(ctx context.Context) error {
	if err := h.enter(); err != nil {
		return err
	}
	err := h.line(ctx)
	if err != nil {
		h.leave()
	}
	return err
}

func (h *handle) line(ctx context.Context) error {
	select {
	case h.turn <- struct{}{}:
		return nil
	default:
	}
	step.Until(func() bool { return len(h.turn) == 0 || ctx.Err() != nil })
	select {
	case h.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-h.done:
		return os.ErrClosed
	}
}

func (h *handle) next() {
	<-h.turn
	h.leave()
}

// sleeper is a goroutine in the kernel. stop is a word of its own, to get it out of
// there.
type sleeper struct {
	stop atomic.Uint32
	h    *handle
	undo func() bool
}

func (s *sleeper) wake() {
	s.stop.Store(1)
	wait.WakePrivate(&s.stop, 1)
}

// sleeping prepares to sleep, perhaps several times, until done. The caller has
// entered.
func (h *handle) sleeping(ctx context.Context) *sleeper {
	s := h.idle.Swap(nil)
	if s == nil {
		s = &sleeper{h: h}
		h.room.mu.Lock()
		h.sleepers[s] = struct{}{}
		h.room.mu.Unlock()
	}
	if ctx.Done() != nil {
		s.undo = context.AfterFunc(ctx, s.wake)
	}
	return s
}

// done ends what sleeping began. The handle keeps one sleeper for the next time:
// who hands a lock back and forth needs one every few microseconds.
func (s *sleeper) done() {
	if s.undo != nil {
		s.undo()
		s.undo = nil
	}
	h := s.h
	if !h.idle.CompareAndSwap(nil, s) {
		h.room.mu.Lock()
		delete(h.sleepers, s)
		h.room.mu.Unlock()
	}
}

// sleep sleeps until word is no longer value, somebody wakes those who sleep on
// it, or the bell rings, which was at bell when the caller last looked at
// who is alive. The error is the context's, os.ErrClosed or shm.ErrTruncated.
func (h *handle) sleep(ctx context.Context, s *sleeper, word *atomic.Uint32, value, bell uint32) error {
	// A wake that came late, from the time before, must not last. The reset first: who
	// stops us sets what we look at, and then stop.
	s.stop.Store(0)
	switch {
	case h.ended():
		return os.ErrClosed
	case ctx.Err() != nil:
		return ctx.Err()
	}
	err := step.Sleep(0,
		wait.On{Word: word, Value: value},
		wait.On{Word: h.member.Bell, Value: bell},
		wait.On{Word: &s.stop, Private: true})
	runtime.KeepAlive(s)
	switch {
	case err != nil:
		return shm.ErrTruncated
	case h.ended():
		return os.ErrClosed
	}
	return ctx.Err()
}

// park is sleep for many goroutines that all go on when the word changes: one of
// them sleeps in the kernel and wakes the others.
func (h *handle) park(ctx context.Context, word *atomic.Uint32, value, bell uint32) error {
	l := h.local
	l.mu.Lock()
	if l.leading {
		moved := l.moved
		l.mu.Unlock()
		// The leader may sleep on an older value, but not if the word has changed
		// before it slept, nor on if it does so now: whoever changes it wakes the
		// leader. So it is enough to look once more after it.
		if word.Load() != value || h.member.Bell.Load() != bell {
			return ctx.Err()
		}
		select {
		case <-moved:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-h.done:
			return os.ErrClosed
		}
	}
	l.leading = true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		l.leading = false
		close(l.moved)
		l.moved = make(chan struct{})
		l.mu.Unlock()
	}()
	s := h.sleeping(ctx)
	defer s.done()
	return h.sleep(ctx, s, word, value, bell)
}

// Spinning pays if the owner runs on another core and is about to unlock; it
// costs if all cores are busy, the owner's perhaps by us. So the limit follows
// what came of it: the mean of what it took, as in glibc's adaptive mutexes.
const (
	spinMax  = 60
	spinTurn = 30 // turns of the empty loop, some 10 ns each with a load between
)

var cores = runtime.NumCPU()

// spin waits a moment and reports whether it is worth to look again, for the
// n-th time.
func (l *local) spin(n int) bool {
	if cores < 2 || int32(n) > 2*l.spins.Load()+4 || n > spinMax {
		return false
	}
	for range spinTurn { // which the compiler leaves alone
	}
	return true
}

// spinned takes note of how it ended.
func (l *local) spinned(n int) {
	old := l.spins.Load()
	l.spins.Store(old + (int32(n)-old)/8)
}
