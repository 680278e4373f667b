//go:build race

package lock

import "sync/atomic"

// shadow is where the race detector looks for what a lock orders. It knows
// nothing of atomics outside the Go heap, where ours are, and would report data
// that a lock guards well. An atomic on the heap, written before the unlocking and
// read after the locking, tells it. Readers who unlock are ordered among each other by
// that, which they are not by the lock; nothing else is hidden.
type shadow struct{ written, read atomic.Uint32 }

func (s *shadow) acquire()     { s.written.Load(); s.read.Load() }
func (s *shadow) release()     { s.written.Store(1) }
func (s *shadow) acquireRead() { s.written.Load() }
func (s *shadow) releaseRead() { s.read.Add(1) }
