package lock

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/lease"
	"github.com/sharedmem/shm/internal/step"
)

// A Barrier's word: in its high half how many have come, in its low half, for those
// who sleep,
//
//	 1 bit    broken
//	 8 bits   how often it was reset
//	23 bits   how often all have come
//
// In the slots stand the first eight processes that took part, by the upper half of
// their leases' IDs.
const (
	barrierBroken = 1
	barrierReset  = 1 << 1
	barrierRound  = 1 << 9
)

// Barrier is where parties wait for each other: when so many have come, all go
// on. Any number of processes and goroutines may take part.
type Barrier struct {
	noCopy noCopy
	*handle
}

// NewBarrier makes a handle on the Barrier in the [State] at byte off of the
// block. parties is the same for all.
//
// Errors: as [NewMutex]; shm.ErrFormat also if the barrier there is for another
// number; shm.ErrSize if parties is not 1 to 2³⁰.
func NewBarrier(b *shm.Block, off, parties int) (*Barrier, error) {
	const op = "open Barrier"
	if parties < 1 || parties > 1<<30 {
		return nil, &shm.Error{Op: op, Name: b.Name(), Err: fmt.Errorf("%w: %d parties", shm.ErrSize, parties)}
	}
	h, err := attach(b, off, kindBarrier, uint32(parties))
	if err != nil {
		return nil, err
	}
	if int(h.param) != parties {
		return nil, h.fail(op, fmt.Errorf("%w: the barrier there is for %d parties, not %d", shm.ErrFormat, h.param, parties))
	}
	h.onClose(nil, h.withdraw)
	return &Barrier{handle: h}, nil
}

func short(id uint64) uint32 { return uint32(id >> 32) }

// enrol makes this process one of those whose death breaks the barrier. With
// more than eight processes, that of the others does not.
func (b *Barrier) enrol() {
	me := short(b.me)
	for i := range b.st.slots {
		if b.st.slots[i].Load() == me {
			return
		}
	}
	for i := range b.st.slots {
		if b.st.slots[i].CompareAndSwap(0, me) {
			return
		}
	}
}

// withdraw is for a process that closes the block: it may come again or not, and
// its later death is nobody's matter.
func (h *handle) withdraw() {
	for i := range h.st.slots {
		h.st.slots[i].CompareAndSwap(short(h.me), 0)
	}
}

// Wait waits until all parties have come, and returns which one the caller was:
// 0 for the first, parties-1 for the last.
//
// A process that dies after it has once taken part breaks the barrier, as it may be the
// one that is waited for: all who wait, and all who come, get ErrBroken until
// [Barrier.Reset]. That holds for the first eight processes that take part;
// further ones are waited for as if they lived. So is who dies before it has come once.
//
// Errors: ErrBroken, os.ErrClosed, shm.ErrTruncated.
func (b *Barrier) Wait() (int, error) { return b.WaitContext(context.Background()) }

// WaitContext is Wait until ctx is done: then the caller has not come, and the
// error is its.
func (b *Barrier) WaitContext(ctx context.Context) (int, error) {
	err := ctx.Err()
	if err == nil && b.ended() {
		err = os.ErrClosed
	}
	if err != nil {
		return 0, b.fail("wait", err)
	}
	if err := b.enter(); err != nil {
		return 0, b.fail("wait", err)
	}
	defer b.leave()
	b.enrol()
	b.shadow.releaseRead()
	n, err := b.wait(ctx)
	if err == nil {
		b.shadow.acquire()
	}
	return n, b.fail("wait", err)
}

func (b *Barrier) wait(ctx context.Context) (int, error) {
	var w uint64
	n := 0
	for {
		w = b.st.word.Load()
		if w&barrierBroken != 0 {
			return 0, ErrBroken
		}
		n = int(w >> 32)
		if n+1 >= int(b.param) {
			if b.st.word.CompareAndSwap(w, uint64(uint32(w)+barrierRound)) {
				crash.Point("barrier:complete")
				step.Wake(b.low, 1<<30)
				return n, nil
			}
		} else if b.st.word.CompareAndSwap(w, w+1<<32) {
			crash.Point("barrier:come")
			break
		}
	}
	round := uint32(w)
	heard, asked := uint32(0), false
	for {
		bell := b.member.Bell.Load()
		if now := b.low.Load(); now != round {
			// Another count of resets is one in our round: it did not end well.
			if (now^round)&(barrierRound-barrierReset) != 0 || now&barrierBroken != 0 && now>>9 == round>>9 {
				return 0, ErrBroken
			}
			return n, nil
		}
		if !asked || bell != heard {
			asked, heard = true, bell
			// The look at the word decides, not this: all may have come meanwhile, and the
			// one who is dead now have been among them.
			b.judge()
			continue
		}
		err := b.park(ctx, b.low, round, bell)
		if err != nil && b.takeBack(round) {
			return 0, err
		}
		asked = err != nil || b.member.Bell.Load() != bell || b.low.Load() != round
	}
}

// takeBack makes the caller one who has not come; not if that is too late.
func (b *Barrier) takeBack(round uint32) bool {
	for {
		w := b.st.word.Load()
		if uint32(w) != round || w>>32 == 0 {
			return false
		}
		if b.st.word.CompareAndSwap(w, w-1<<32) {
			return true
		}
	}
}

// judge breaks the barrier if one who takes part has died.
func (b *Barrier) judge() {
	for i := range b.st.slots {
		id := b.st.slots[i].Load()
		if id == 0 || id == short(b.me) {
			continue
		}
		alive, err := lease.AliveShort(b.dir, id)
		if alive || err != nil {
			continue
		}
		for {
			w := b.st.word.Load()
			if w&barrierBroken != 0 {
				return
			}
			if b.st.word.CompareAndSwap(w, w|barrierBroken) {
				crash.Point("barrier:broken")
				step.Wake(b.low, 1<<30)
				return
			}
		}
	}
}

// Reset mends a broken barrier: nobody has come, and the dead do not take part. Who
// still waits gets ErrBroken. A barrier that is not broken stays as it is.
//
// Errors: os.ErrClosed.
func (b *Barrier) Reset() error {
	if b.ended() {
		return b.fail("reset", os.ErrClosed)
	}
	if err := b.enter(); err != nil {
		return b.fail("reset", err)
	}
	defer b.leave()
	var errs []error
	for i := range b.st.slots {
		if id := b.st.slots[i].Load(); id != 0 && id != short(b.me) {
			alive, err := lease.AliveShort(b.dir, id)
			if err != nil {
				errs = append(errs, err)
			} else if !alive {
				b.st.slots[i].CompareAndSwap(id, 0)
			}
		}
	}
	for {
		w := b.st.word.Load()
		if w&barrierBroken == 0 {
			break
		}
		low := uint32(w) &^ barrierBroken
		low = low&^(barrierRound-barrierReset) | (low+barrierReset)&(barrierRound-barrierReset)
		if b.st.word.CompareAndSwap(w, uint64(low)) {
			crash.Point("barrier:reset")
			step.Wake(b.low, 1<<30)
			break
		}
	}
	return b.fail("reset", errors.Join(errs...))
}
