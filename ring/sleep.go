package ring

import (
	"context"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/platform/wait"
)

var (
	errEnd        = io.EOF
	errNoReceiver = io.ErrClosedPipe
)

// A word to sleep on has in its lowest bit that somebody sleeps, or is about to, and
// above it counts how often they were woken.
//
//	who waits     sets the bit, looks at the ring again, sleeps if the word is the same
//	who commits   stores the slot's word, looks at the bit; if it is set, clears it,
//	              counts, and wakes all
//
// Either the one must see the slot, or the other the bit: between the two steps of
// each stands a full barrier. Waiting is rare and sending is not, so where the
// kernel can do that (membarrier, which has the threads of all participants pass a
// barrier) who waits pays for both, and who commits stores plainly: if its look at the
// bit came before the barrier, so did its store, and the waiter's look comes after.
// Elsewhere both stores are barriers themselves: sync/atomic's are sequentially
// consistent, XCHG and LOCK CMPXCHG on amd64, and on arm64 STLR followed by LDAR
// stay in order.
//
// Waking all keeps it that simple: the flag says "at least one", and nobody has to
// pass on what it did not need. Who dies between its store and the waking rings
// everybody's bell by it.
const sleeping = 1

// wake wakes those who sleep on f, if any do.
func (q *Queue) wake(f *atomic.Uint32) {
	for {
		v := f.Load()
		if v&sleeping == 0 {
			return
		}
		if f.CompareAndSwap(v, (v+2)&^sleeping) {
			crash.Point("ring:waking")
			wait.Wake(f, 1<<30)
			return
		}
	}
}

// park is where the goroutines of a process sleep for one word: one of them in the
// kernel, for all.
type park struct {
	mu      sync.Mutex
	leading bool
	moved   chan struct{} // closed when the leader wakes
}

// sleep sleeps until f is no longer value, the bell rings, the participant is closed
// or ctx is done. It may end for no reason.
func (q *Queue) sleep(ctx context.Context, p *part, f *atomic.Uint32, value, bell uint32) error {
	k := &q.parks[0]
	if f == &q.hdr.freed {
		k = &q.parks[1]
	}
	k.mu.Lock()
	if k.leading {
		moved := k.moved
		k.mu.Unlock()
		// The leader may sleep on an older value, but not if the word has changed
		// before it slept, nor on if it does so now.
		if f.Load() != value || q.bell.Load() != bell {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
		case <-p.done:
		}
		return p.stopped(ctx)
	}
	k.leading = true
	k.moved = make(chan struct{})
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		k.leading = false
		close(k.moved)
		k.mu.Unlock()
	}()
	if ctx.Done() != nil {
		undo := context.AfterFunc(ctx, q.wakeAll)
		defer undo()
	}
	// Whoever stops us stores that first, and then changes stop.
	stop := q.stop.Load()
	if err := p.stopped(ctx); err != nil {
		return err
	}
	err := wait.Any(q.slice,
		wait.On{Word: f, Value: value},
		wait.On{Word: q.bell, Value: bell},
		wait.On{Word: &q.stop, Value: stop, Private: true})
	runtime.KeepAlive(q)
	if err != nil {
		return shm.ErrTruncated
	}
	if f.Load() == value && q.bell.Load() == bell {
		q.heard.Store(0) // woken for nothing, perhaps by the clock: ask who lives
	}
	return p.stopped(ctx)
}

// stopped says why a call is to give up.
func (p *part) stopped(ctx context.Context) error {
	if p.end.Load() {
		return os.ErrClosed
	}
	return ctx.Err()
}

// Spinning pays if the peer runs on another core and is about to be there. What it
// takes to be woken is some 50 µs where cores are far apart, so to spin for as long
// is never more than twice too long. It costs if the cores are busy, the peer's
// perhaps by us. So the limit follows what came of it; now and then the longest is tried
// again, as a pair that has begun to sleep would otherwise never find out that it
// need not: each waits for the other to wake.
const (
	looksMax = 2000 // some 25 ns each
	retry    = 16
)

var cores = runtime.NumCPU()

// waiter is one wait.
type waiter struct {
	looks, limit int
	first        bool
	ready        bool // the flag is set: one more look, then sleep
	value, bell  uint32
	peers        uint64
}

// pause is called between two looks, and spins or sleeps.
func (p *part) pause(ctx context.Context, w *waiter, f *atomic.Uint32) error {
	q := p.q
	if w.looks == 0 {
		switch {
		case q.waiting == Sleep || cores < 2 && q.waiting != Spin:
			w.limit = -1
		case p.tries%retry == 0:
			w.limit = looksMax
		default:
			w.limit = min(2*p.spins+4, looksMax)
		}
	}
	w.looks++
	if w.looks <= w.limit || q.waiting == Spin {
		for i := range 8 {
			p.spun = i
		}
		if w.looks&63 != 0 {
			return nil
		}
		if err := p.stopped(ctx); err != nil {
			return err
		}
		if q.waiting != Spin {
			return nil
		}
		runtime.Gosched()
		if w.ready { // the look after the one at the peers
			w.ready = false
			return p.gone(w.peers)
		}
		w.peers = q.hdr.peers.Load()
		w.ready = true
		return q.check(ctx, p, false)
	}
	if !w.ready {
		if !w.first {
			w.first = true
			p.spins -= (p.spins + 3) / 4
			p.tries++
			p.show()          // for those who look from outside
			runtime.Gosched() // the peer may be a goroutine of ours
		}
		w.bell = q.bell.Load()
		if err := q.check(ctx, p, false); err != nil {
			return err
		}
		v := f.Load()
		if v&sleeping == 0 && !f.CompareAndSwap(v, v|sleeping) {
			return nil
		}
		if q.fenced {
			// Even if the bit was set already: who set it has perhaps not come to this yet.
			wait.FenceAll()
		}
		crash.Point("ring:waiting")
		w.value = v | sleeping
		w.peers = q.hdr.peers.Load()
		w.ready = true
		return nil
	}
	w.ready = false
	if err := p.gone(w.peers); err != nil {
		return err
	}
	e := p.e
	storeRelease(&e.waits, e.waits.Load()+1)
	err := q.sleep(ctx, p, f, w.value, w.bell)
	crash.Point("ring:woken")
	return err
}

// over takes note of a wait that came to an end.
func (p *part) over(w *waiter) {
	if w.looks == 0 || w.first {
		return
	}
	if d := w.looks - p.spins; d > 0 {
		p.spins += (d + 1) / 2
	} else {
		p.spins += d / 8
	}
}
