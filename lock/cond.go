package lock

import (
	"context"
	"errors"
	"os"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/step"
)

// Cond is a condition variable: processes that hold a [Mutex] wait here until
// another has changed what it guards. The low half of its word counts signals.
type Cond struct {
	noCopy noCopy
	*handle
}

// NewCond makes a handle on the Cond in the [State] at byte off of the block.
//
// Errors: as [NewMutex].
func NewCond(b *shm.Block, off int) (*Cond, error) {
	h, err := attach(b, off, kindCond, 0)
	if err != nil {
		return nil, err
	}
	return &Cond{handle: h}, nil
}

// Wait unlocks m, waits for a signal, and locks m again. It may return without
// one, and when any process has died, so that it cannot wait for a signal that a dead
// one has swallowed: so call it in a loop that looks at what is waited for.
//
// Errors: those of [Mutex.Unlock], when it has not waited; those of [Mutex.Lock],
// ErrOwnerDied among them, when it has.
func (c *Cond) Wait(m *Mutex) error { return c.WaitContext(context.Background(), m) }

// WaitContext is Wait until ctx is done. m is locked again then as well, and the
// error is the context's, joined with Lock's.
func (c *Cond) WaitContext(ctx context.Context, m *Mutex) error {
	if err := ctx.Err(); err != nil {
		return c.fail("wait", err)
	}
	if c.ended() {
		return c.fail("wait", os.ErrClosed)
	}
	if err := c.enter(); err != nil {
		return c.fail("wait", err)
	}
	seq, bell := c.low.Load(), c.member.Bell.Load()
	err := m.Unlock()
	if err != nil {
		c.leave()
		return err
	}
	for err == nil && c.low.Load() == seq && c.member.Bell.Load() == bell {
		err = c.park(ctx, c.low, seq, bell)
	}
	if err != nil && c.low.Load() != seq && !c.ended() {
		step.Wake(c.low, 1) // the signal may have been for another
	}
	c.leave() // before Lock: m may be of another block
	return errors.Join(c.fail("wait", err), m.Lock())
}

// Signal wakes one process that waits, with all its goroutines that do.
//
// Errors: os.ErrClosed.
func (c *Cond) Signal() error { return c.signalAll(1) }

// Broadcast wakes all who wait.
//
// Errors: os.ErrClosed.
func (c *Cond) Broadcast() error { return c.signalAll(1 << 30) }

func (c *Cond) signalAll(n int) error {
	if c.ended() {
		return c.fail("signal", os.ErrClosed)
	}
	c.low.Add(1)
	crash.Point("cond:signalled")
	step.Wake(c.low, n)
	return nil
}
