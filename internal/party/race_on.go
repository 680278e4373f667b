//go:build race

package party

import "sync/atomic"

// StoreRelease is a plain store without the race detector, which would take it for
// an access like any other.
func StoreRelease(w *atomic.Uint64, v uint64) { w.Store(v) }

// Shadow is where the race detector looks for what a structure orders: it knows
// nothing of atomics outside the Go heap. An atomic on the heap, written before a
// message is sent and read after one was received, tells it.
type Shadow struct{ v atomic.Uint32 }

// Giving is called before something is handed on.
func (s *Shadow) Giving() { s.v.Store(1) }

// Taken is called after something was taken.
func (s *Shadow) Taken() { s.v.Load() }
