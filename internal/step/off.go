//go:build !shmcrash

package step

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/platform/wait"
)

// Words, and a lock among the goroutines of one process.
type (
	Uint64 = atomic.Uint64
	Uint32 = atomic.Uint32
	Mutex  = sync.Mutex
)

// Raw64 is w without steps.
func Raw64(w *Uint64) *atomic.Uint64 { return w }

// Raw32 is w without steps, as package wait wants it.
func Raw32(w *Uint32) *atomic.Uint32 { return w }

// StoreRelease is [layout.StoreRelease].
func StoreRelease(w *Uint64, v uint64) {
	if raced {
		w.Store(v)
		return
	}
	layout.StoreRelease(w, v)
}

// Wake is [wait.Wake].
func Wake(w *atomic.Uint32, n int) int { return wait.Wake(w, n) }

// Sleep is [wait.Any].
func Sleep(timeout time.Duration, on ...wait.On) error { return wait.Any(timeout, on...) }

// FenceAll is [wait.FenceAll].
func FenceAll() { wait.FenceAll() }

// Until stands before a wait for another goroutine of the process, which is
// over when ready says so.
func Until(func() bool) {}

// Judge tells whether the process that id names is alive, if a test knows that.
func Judge(uint64) (alive, known bool) { return false, false }
