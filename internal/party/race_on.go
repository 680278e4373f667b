//go:build race

package party

import "sync/atomic"

// Shadow is where the race detector looks for what a structure orders: it knows
// nothing of atomics outside the Go heap. An atomic on the heap, written before a
// message is sent and read after one was received, tells it.
type Shadow struct{ v atomic.Uint32 }

// Giving is called before something is handed on.
func (s *Shadow) Giving() { s.v.Store(1) }

// Taken is called after something was taken.
func (s *Shadow) Taken() { s.v.Load() }
