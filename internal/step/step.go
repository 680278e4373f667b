// Package step has the words that processes share and what they do with them, so
// that a test can decide what happens between any two of these steps.
//
// The types are sync/atomic's and sync's own, and the functions are those of package
// wait, but with the build tag shmcrash: then each asks [Explored], if there is
// one, before it does anything. internal/shmtest/explore is such a one. Without the
// tag none of this costs an instruction.
package step

import "runtime"

// Settle has everything that this goroutine stores from here on be seen after what
// it has just stored in w, by whatever atomic operation. On amd64 all stores are so
// (but for those of large copies past the caches). On arm64 not even a
// compare-and-swap holds later stores back (its load is an acquire, its
// store is not); but a load that is sequentially consistent, LDAR, waits for the
// store before it, STLR, and what follows waits for the load.
func Settle(w *Uint64) { w.Load() }

// LoadLast is w.Load after everything that this goroutine has loaded before. On amd64
// all loads are so. On arm64 they may be later than a following LDAR, but
// not than an STLR, and that one not than the LDAR.
func LoadLast(w *Uint64) uint64 {
	if runtime.GOARCH != "amd64" {
		var x Uint64
		x.Store(1)
	}
	return w.Load()
}
