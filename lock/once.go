package lock

import (
	"context"
	"errors"
	"os"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/step"
)

// Once does something once among all processes that have the block. Its word is
// that of a Mutex held by who does it, and what is "not recoverable" there is "done"
// here.
type Once struct {
	noCopy noCopy
	*handle
}

// NewOnce makes a handle on the Once in the [State] at byte off of the block.
//
// Errors: as [NewMutex].
func NewOnce(b *shm.Block, off int) (*Once, error) {
	h, err := attach(b, off, kindOnce, 0)
	if err != nil {
		return nil, err
	}
	h.onClose(h.owns, h.desert)
	return &Once{handle: h}, nil
}

// Do calls f if no call of Do for this Once, in any process, has been successful
// yet, and waits for one that is at it. When f fails, panics, or its process dies
// in it, the next caller does it anew: f has to cope with what that left.
//
// Errors: f's, os.ErrClosed, shm.ErrTruncated.
func (o *Once) Do(f func() error) error { return o.DoContext(context.Background(), f) }

// DoContext is Do, but waits for others only until ctx is done; then the error is
// its.
func (o *Once) DoContext(ctx context.Context, f func() error) error {
	if err := ctx.Err(); err != nil {
		return o.fail("do", err)
	}
	if o.ended() {
		return o.fail("do", os.ErrClosed)
	}
	if o.Done() {
		return nil
	}
	err := o.queue(ctx)
	if err == nil {
		err = o.compete(ctx)
		if err == nil && o.ended() {
			o.surrender()
			err = os.ErrClosed
		}
		o.next()
	}
	switch {
	case errors.Is(err, ErrNotRecoverable):
		o.shadow.acquire()
		return nil
	case err != nil && !errors.Is(err, ErrOwnerDied):
		return o.fail("do", err)
	}
	o.shadow.acquire()
	_ = o.mend() // the last one died in it; this one begins anew
	done := false
	defer func() {
		if !done {
			_ = o.release()
		}
	}()
	if err := f(); err != nil {
		return err
	}
	done = true
	o.shadow.release()
	crash.Point("once:ready")
	o.st.word.Store(wordBroken)
	crash.Point("once:done")
	step.Wake(o.low, 1<<30)
	if o.parked.Load() {
		o.signal()
	}
	return nil
}

// Done tells whether it has been done.
func (o *Once) Done() bool {
	if o.ended() || o.st.word.Load() != wordBroken {
		return false
	}
	o.shadow.acquire()
	return true
}
