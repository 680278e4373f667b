package party

import (
	"context"
	"os"
	"runtime"
	"sync"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/platform/wait"
	"github.com/sharedmem/shm/internal/step"
)

// Sleeping, a word to sleep on has in its lowest bit if somebody sleeps, or is about to;
// above it counts how often they were woken.
//
//	who waits     sets the bit, looks at the memory again, sleeps if the word is the same
//	who commits   stores what it has to, looks at the bit; if it is set, clears it,
//	              counts, and wakes all
//
// Either the one must see that store, or the other the bit: between the two steps of
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
const Sleeping = 1

// Wake wakes those who sleep on f, if any do.
func (p *Party) Wake(f *step.Uint32) {
	for {
		v := f.Load()
		if v&Sleeping == 0 {
			return
		}
		if f.CompareAndSwap(v, (v+2)&^Sleeping) {
			crash.Point("party:waking")
			step.Wake(step.Raw32(f), 1<<30)
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
func (p *Party) sleep(ctx context.Context, s *Seat, f *step.Uint32, value, bell uint32) error {
	k := &p.parks[0]
	if f == p.Freed {
		k = &p.parks[1]
	}
	k.mu.Lock()
	if k.leading {
		moved := k.moved
		k.mu.Unlock()
		// The leader may sleep on an older value, but not if the word has changed
		// before it slept, nor on if it does so now.
		if f.Load() != value || p.bell.Load() != bell {
			return nil
		}
		step.Until(func() bool { return hasEnded(moved) || ctx.Err() != nil || s.end.Load() })
		select {
		case <-moved:
		case <-ctx.Done():
		case <-s.done:
		}
		return s.stopped(ctx)
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
		undo := context.AfterFunc(ctx, p.wakeAll)
		defer undo()
	}
	// Whoever stops us stores that first, and then changes stop.
	stop := p.stop.Load()
	if err := s.stopped(ctx); err != nil {
		return err
	}
	err := step.Sleep(p.slice,
		wait.On{Word: step.Raw32(f), Value: value},
		wait.On{Word: p.bell, Value: bell},
		wait.On{Word: &p.stop, Value: stop, Private: true})
	runtime.KeepAlive(p)
	if err != nil {
		return shm.ErrTruncated
	}
	if f.Load() == value && p.bell.Load() == bell {
		p.heard.Store(0) // woken for nothing, perhaps by the clock: ask who lives
	}
	return s.stopped(ctx)
}

func hasEnded(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// stopped says why a call is to give up.
func (s *Seat) stopped(ctx context.Context) error {
	if s.end.Load() {
		return os.ErrClosed
	}
	return ctx.Err()
}

// Spinning pays if the peer runs on another core and is about to be there. What it
// takes to be woken is some 50 µs where cores are far apart, so to spin for as long
// is never more than twice too long. It costs if the cores are busy, the peer's
// perhaps by us. So a wait that ended before we slept doubles how long the next ones may
// spin, however short it was, as the peer of a stream of messages may be held up for once;
// one that did not halves it. Now and then the longest is tried
// again, as a pair that has begun to sleep would otherwise never find out that it
// need not: each waits for the other to wake. On busy cores that is a slice of time lost
// each time, and more rarely done each time.
const (
	looksMax   = 2000 // some 25 ns each
	retryFirst = 16   // sleeps after which the longest is tried again; twice as many each time
	retryLast  = 256  // that it was of no use
)

var cores = runtime.NumCPU()

// Waiter is one wait; zero at first.
type Waiter struct {
	looks, limit int
	first        bool
	ready        bool // the flag is set: one more look, then sleep
	value, bell  uint32
	peers        Peers
}

// Pause is called between two looks, and spins or sleeps on f.
//
// Errors: the end, if there is one; the context's; os.ErrClosed; shm.ErrTruncated.
func (s *Seat) Pause(ctx context.Context, w *Waiter, f *step.Uint32) error {
	p := s.party
	if w.looks == 0 {
		switch {
		case p.Ways == Sleep || cores < 2 && p.Ways != Spin:
			w.limit = -1
		case s.tries >= s.retry:
			w.limit = looksMax
		default:
			w.limit = min(s.spins+4, looksMax)
		}
	}
	w.looks++
	if w.looks <= w.limit || p.Ways == Spin {
		for i := range 8 {
			s.spun = i
		}
		if w.looks&63 != 0 {
			return nil
		}
		if err := s.stopped(ctx); err != nil {
			return err
		}
		if p.Ways != Spin {
			return nil
		}
		runtime.Gosched()
		if w.ready { // the look after the one at the peers
			w.ready = false
			return s.ended(w.peers)
		}
		w.peers = p.Header.Peers()
		w.ready = true
		return p.check(ctx, s, false)
	}
	if !w.ready {
		if !w.first {
			w.first = true
			s.spins /= 2
			if s.tries++; w.limit == looksMax {
				s.gap = min(max(2*s.gap, retryFirst), retryLast)
				s.retry = s.tries + s.gap
			}
			if s.Show != nil {
				s.Show() // for those who look from outside
			}
			runtime.Gosched() // the peer may be a goroutine of ours
		}
		w.bell = p.bell.Load()
		if err := p.check(ctx, s, false); err != nil {
			return err
		}
		v := f.Load()
		if v&Sleeping == 0 && !f.CompareAndSwap(v, v|Sleeping) {
			return nil
		}
		if p.Fenced {
			// Even if the bit was set already: who set it has perhaps not come to this yet.
			step.FenceAll()
		}
		crash.Point("party:waiting")
		w.value = v | Sleeping
		w.peers = p.Header.Peers()
		w.ready = true
		return nil
	}
	w.ready = false
	if err := s.ended(w.peers); err != nil {
		return err
	}
	step.StoreRelease(s.Waits, s.Waits.Load()+1)
	err := p.sleep(ctx, s, f, w.value, w.bell)
	crash.Point("party:woken")
	return err
}

// Over takes note of a wait that came to an end.
func (s *Seat) Over(w *Waiter) {
	if w.looks == 0 || w.first {
		return
	}
	s.gap = 0
	s.spins = min(2*s.spins+4, looksMax)
}
