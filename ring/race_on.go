//go:build race

package ring

import "sync/atomic"

// storeRelease is a plain store without the race detector, which would take it for
// an access like any other.
func storeRelease(w *atomic.Uint64, v uint64) { w.Store(v) }

// shadow is where the race detector looks for what a ring orders: it knows
// nothing of atomics outside the Go heap. An atomic on the heap, written before a
// message is sent and read after one was received, tells it.
type shadow struct{ v atomic.Uint32 }

func (s *shadow) sending()  { s.v.Store(1) }
func (s *shadow) received() { s.v.Load() }
