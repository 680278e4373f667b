package lock

import (
	"context"
	"os"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/step"
)

// The low half of an Event's word: the lowest bit says that it is set, the others
// count how often it was, so that who waits passes even if it has been reset before it
// ran.
const eventSet = 1

// Event is a flag to wait for. Once set, a manual one lets everybody pass until it
// is reset; an automatic one lets one pass and is reset by that.
type Event struct {
	noCopy noCopy
	*handle
	auto bool
}

// NewEvent makes a handle on the manual Event in the [State] at byte off of the
// block.
//
// Errors: as [NewMutex]; shm.ErrFormat also if an automatic one is there.
func NewEvent(b *shm.Block, off int) (*Event, error) { return newEvent(b, off, false) }

// NewAutoEvent is NewEvent for an automatic one.
func NewAutoEvent(b *shm.Block, off int) (*Event, error) { return newEvent(b, off, true) }

func newEvent(b *shm.Block, off int, auto bool) (*Event, error) {
	param := uint32(0)
	if auto {
		param = 1
	}
	h, err := attach(b, off, kindEvent, param)
	if err != nil {
		return nil, err
	}
	if h.param != param {
		return nil, h.fail("open Event", shm.ErrFormat)
	}
	return &Event{handle: h, auto: auto}, nil
}

// Set sets the event. Setting one that is set does nothing.
//
// Errors: os.ErrClosed.
func (e *Event) Set() error {
	if e.ended() {
		return e.fail("set", os.ErrClosed)
	}
	e.shadow.release()
	for {
		w := e.low.Load()
		if w&eventSet != 0 {
			return nil
		}
		if e.low.CompareAndSwap(w, w+2|eventSet) {
			break
		}
	}
	crash.Point("event:set")
	n := 1 << 30
	if e.auto {
		n = 1
	}
	step.Wake(e.low, n)
	return nil
}

// Reset makes the event not set.
//
// Errors: os.ErrClosed.
func (e *Event) Reset() error {
	if e.ended() {
		return e.fail("reset", os.ErrClosed)
	}
	e.low.And(^uint32(eventSet))
	return nil
}

// IsSet tells whether the event is set now.
func (e *Event) IsSet() bool { return !e.ended() && e.low.Load()&eventSet != 0 }

// TryWait passes if the event is set, and reports whether it did.
//
// Errors: os.ErrClosed.
func (e *Event) TryWait() (bool, error) {
	if e.ended() {
		return false, e.fail("wait", os.ErrClosed)
	}
	return e.pass(), nil
}

func (e *Event) pass() bool {
	for {
		w := e.low.Load()
		if w&eventSet == 0 {
			return false
		}
		if !e.auto || e.low.CompareAndSwap(w, w&^eventSet) {
			crash.Point("event:passed")
			e.shadow.acquire()
			return true
		}
	}
}

// Wait waits until the event is set.
//
// Errors: os.ErrClosed, shm.ErrTruncated.
func (e *Event) Wait() error { return e.WaitContext(context.Background()) }

// WaitContext is Wait until ctx is done; then the error is its.
func (e *Event) WaitContext(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return e.fail("wait", err)
	}
	if e.ended() {
		return e.fail("wait", os.ErrClosed)
	}
	if e.auto {
		return e.fail("wait", e.waitAuto(ctx))
	}
	return e.fail("wait", e.waitManual(ctx))
}

func (e *Event) waitManual(ctx context.Context) error {
	if err := e.enter(); err != nil {
		return err
	}
	defer e.leave()
	for first := e.low.Load(); ; {
		bell := e.member.Bell.Load()
		w := e.low.Load()
		if w&eventSet != 0 || w>>1 != first>>1 {
			e.shadow.acquire()
			return nil
		}
		if err := e.park(ctx, e.low, w, bell); err != nil {
			return err
		}
	}
}

// waitAuto queues, so that one setting wakes one goroutine.
func (e *Event) waitAuto(ctx context.Context) error {
	if err := e.queue(ctx); err != nil {
		return err
	}
	defer e.next()
	if e.pass() {
		return nil
	}
	s := e.sleeping(ctx)
	defer s.done()
	for {
		bell := e.member.Bell.Load()
		w := e.low.Load()
		if e.pass() {
			return nil
		}
		if w&eventSet != 0 {
			continue
		}
		if err := e.sleep(ctx, s, e.low, w, bell); err != nil {
			if e.low.Load()&eventSet != 0 {
				step.Wake(e.low, 1) // it may have been for another
			}
			return err
		}
	}
}
