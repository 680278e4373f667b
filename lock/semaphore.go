package lock

import (
	"context"
	"fmt"
	"math"
	"os"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/step"
)

// The low half of a Semaphore's word: the lowest bit says that somebody may sleep,
// the others are, signed, the permits less the initial ones, which stand beside
// the kind. So one store stamps a Semaphore with its permits in it.
const (
	semWaiters = 1
	semMax     = 1 << 29
)

// Semaphore counts permits: Post adds one, Wait takes one, and waits while
// there is none.
type Semaphore struct {
	noCopy noCopy
	*handle
}

// NewSemaphore makes a handle on the Semaphore in the [State] at byte off of the
// block. If it is new it begins with initial permits; if not, initial means
// nothing.
//
// Errors: as [NewMutex]; shm.ErrSize if initial is negative or more than 2²⁹.
func NewSemaphore(b *shm.Block, off, initial int) (*Semaphore, error) {
	if initial < 0 || initial > semMax {
		return nil, &shm.Error{Op: "open Semaphore", Name: b.Name(), Err: fmt.Errorf("%w: %d permits; 0 to %d are possible", shm.ErrSize, initial, semMax)}
	}
	h, err := attach(b, off, kindSemaphore, uint32(initial))
	if err != nil {
		return nil, err
	}
	return &Semaphore{handle: h}, nil
}

func (s *Semaphore) permits(w uint32) int { return int(s.param) + int(int32(w)>>1) }

// Value returns how many permits there are now; 0 after Close.
func (s *Semaphore) Value() int {
	if s.ended() {
		return 0
	}
	return max(0, s.permits(s.low.Load()))
}

// TryWait takes a permit if there is one, and reports whether it did.
//
// Errors: os.ErrClosed.
func (s *Semaphore) TryWait() (bool, error) {
	if s.ended() {
		return false, s.fail("wait", os.ErrClosed)
	}
	return s.take(0), nil
}

func (s *Semaphore) take(flag uint32) bool {
	for {
		w := s.low.Load()
		if s.permits(w) <= 0 {
			return false
		}
		if s.low.CompareAndSwap(w, (w-2)|flag) {
			crash.Point("sem:taken")
			s.shadow.acquire()
			return true
		}
	}
}

// Wait takes a permit.
//
// Errors: os.ErrClosed, shm.ErrTruncated.
func (s *Semaphore) Wait() error {
	if !s.ended() && s.take(0) {
		return nil
	}
	return s.WaitContext(context.Background())
}

// WaitContext is Wait until ctx is done; then the error is its.
func (s *Semaphore) WaitContext(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return s.fail("wait", err)
	}
	if s.ended() {
		return s.fail("wait", os.ErrClosed)
	}
	return s.fail("wait", s.wait(ctx))
}

func (s *Semaphore) wait(ctx context.Context) error {
	if err := s.queue(ctx); err != nil {
		return err
	}
	defer s.next()
	for n := 0; s.spin(n); n++ {
		if s.take(0) {
			s.spinned(n)
			return nil
		}
	}
	s.spinned(0)
	sl := s.sleeping(ctx)
	defer sl.done()
	flag := uint32(0) // once we have slept, others may sleep as well
	for {
		bell := s.member.Bell.Load()
		if s.take(flag) {
			// Two may have been given while only one was woken.
			if w := s.low.Load(); flag != 0 && s.permits(w) > 0 {
				step.Wake(s.low, 1)
			}
			return nil
		}
		w := s.low.Load()
		if s.permits(w) > 0 {
			continue
		}
		if w&semWaiters == 0 && !s.low.CompareAndSwap(w, w|semWaiters) {
			continue
		}
		crash.Point("sem:waiting")
		flag = semWaiters
		if err := s.sleep(ctx, sl, s.low, w|semWaiters, bell); err != nil {
			if s.permits(s.low.Load()) > 0 {
				step.Wake(s.low, 1) // it may have been for another
			}
			return err
		}
	}
}

// Post adds a permit, and wakes one who waits.
//
// Errors: shm.ErrSize if there are 2²⁹ more than at first, os.ErrClosed.
func (s *Semaphore) Post() error {
	if s.ended() {
		return s.fail("post", os.ErrClosed)
	}
	s.shadow.release()
	// Without anybody who sleeps. A function with a defer in it takes longer.
	if w := s.low.Load(); w&semWaiters == 0 && s.countable(w) && s.low.CompareAndSwap(w, w+2) {
		crash.Point("sem:posted")
		return nil
	}
	return s.fail("post", s.post())
}

// countable tells whether one more permit can be counted.
func (s *Semaphore) countable(w uint32) bool {
	return int32(w)>>1 < semMax && s.permits(w) < math.MaxInt32-1
}

func (s *Semaphore) post() error {
	if err := s.enter(); err != nil { // as the word is looked at after the permit is there
		return err
	}
	defer s.leave()
	for {
		w := s.low.Load()
		if !s.countable(w) {
			return fmt.Errorf("%w: %d permits are the most", shm.ErrSize, semMax)
		}
		if !s.low.CompareAndSwap(w, w+2) {
			continue
		}
		crash.Point("sem:posted")
		if w&semWaiters != 0 && step.Wake(s.low, 1) == 0 {
			// Nobody sleeps. If the word is the same still, nobody can have begun to:
			// with a permit there they do not.
			s.low.CompareAndSwap(w+2, (w+2)&^semWaiters)
		}
		return nil
	}
}
