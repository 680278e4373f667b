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
	once sync.Once
	init sync.Once
	done chan struct{} // closed when Close begins
	idle chan struct{} // closed when the last call has left after that
}

func (g *Guard) setup() {
	g.init.Do(func() {
		g.done, g.idle = make(chan struct{}), make(chan struct{})
	})
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
		g.setup()
		close(g.idle) // the last one; pairs with the receive in Close
	case w&^closed == closed-1:
		panic("guard: Leave without Enter")
	}
}

// Closed tells whether Close has begun.
func (g *Guard) Closed() bool { return g.word.Load()&closed != 0 }

// Done returns a channel that is closed when Close begins.
func (g *Guard) Done() <-chan struct{} {
	g.setup()
	return g.done
}

// Close keeps new calls out, waits until those inside have left, and reports
// whether it was the first: that caller frees what the guard guards. Others
// wait as well and get false.
func (g *Guard) Close() bool {
	first := false
	g.once.Do(func() {
		first = true
		g.setup()
		if w := g.word.Or(closed); w&^closed == 0 {
			close(g.idle)
		}
		close(g.done)
	})
	<-g.idle
	return first
}
