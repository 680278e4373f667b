// Package wait lets threads of different processes sleep until a word in
// shared memory changes, and learn of each other's death.
//
// On Linux these are futexes: [Any] is futex_waitv, which sleeps on several
// words at once, and a word given to [Guard] is changed by the kernel when its
// process dies, however it dies (the robust list). Elsewhere there is nothing
// of the kind that works between processes without a helper, and [Supported] says so.
package wait

import (
	"sync/atomic"
	"time"
)

// On is a word to sleep on: until its value is another, or somebody wakes it.
type On struct {
	Word    *atomic.Uint32
	Value   uint32
	Private bool // in this process's own memory
}

// What [Guard] stores in a word, and what the kernel makes of it.
const (
	Waiters   = 1 << 31 // asks the kernel to wake somebody
	OwnerDied = 1 << 30
)

// Backstop is the longest that anybody sleeps without a look at what it waits
// for. Nothing rests on it but the case that everything else has failed: a
// process that should pass on a death notice is stopped by a debugger.
const Backstop = time.Second
