// Package guard lets Close run beside calls in flight: calls count themselves
// in and out, Close keeps new ones out and waits for the old ones.
package guard

import (
	"sync"
	"sync/atomic"
)

const closed = 1 << 63

// Guard is open when zero. It must not be copied after first use.
type Guard struct {
	word atomic.Uint64 // the closed bit and the number of calls inside

	mu   sync.Mutex
	done chan struct{} // closed when Close begins; made when first asked for
	idle chan struct{} // closed when the last call has left after that; made by a Close that waits
}

// Enter counts a call in; false if Close has begun. Each Enter that returned
// true needs one Leave.
func (g *Guard) Enter() bool {
	// A compare-and-swap loop rather than an add that is taken back: the count
	// may then never rise again after Close has seen it reach zero.
	for {
		w := g.word.Load()
		if w&closed != 0 {
			return false
		}
		if g.word.CompareAndSwap(w, w+1) {
			return true
		}
	}
}

// Leave counts a call out.
func (g *Guard) Leave() {
	switch w := g.word.Add(^uint64(0)); {
	case w == closed:
		g.mu.Lock()
		if g.idle != nil {
			close(g.idle) // the last one; pairs with the receive in Close
			g.idle = nil
		}
		g.mu.Unlock()
	case w&^closed == closed-1:
		panic("guard: Leave without Enter")
	}
}

// Closed tells whether Close has begun.
func (g *Guard) Closed() bool { return g.word.Load()&closed != 0 }

// Done returns a channel that is closed when Close begins.
func (g *Guard) Done() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.done == nil {
		g.done = make(chan struct{})
		if g.Closed() {
			close(g.done)
		}
	}
	return g.done
}

// Close keeps new calls out, waits until those inside have left, and reports
// whether it was the first: that caller frees what the guard guards. Others
// wait as well and get false.
func (g *Guard) Close() bool {
	g.mu.Lock()
	first := g.word.Or(closed)&closed == 0
	if first && g.done != nil {
		close(g.done)
	}
	// Whoever is inside now will find idle when leaving, as that takes g.mu.
	idle := g.idle
	if idle == nil && g.word.Load() != closed {
		idle = make(chan struct{})
		g.idle = idle
	}
	g.mu.Unlock()
	if idle != nil {
		<-idle
	}
	return first
}
