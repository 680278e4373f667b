//go:build shmcrash

package step

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/platform/wait"
)

// Scheduler decides in a test when the goroutines of several would-be processes go
// on, and stands for the kernel, for death and for what a processor may do.
type Scheduler interface {
	// Step is called before each operation on a word, an *atomic.Uint64 or 32.
	// change says that it is one after which all stores before it are seen. Not ok:
	// the goroutine is as good as dead, and nothing it does must have an effect.
	Step(word any, change bool) (ok bool)
	// Load has what the goroutine has stored and nobody else sees yet.
	Load(w *atomic.Uint64) (v uint64, own bool)
	// Release is a store that may be seen later than the loads that follow.
	Release(w *atomic.Uint64, v uint64)
	Fence()
	Wake(w *atomic.Uint32, n int) int
	Sleep(words []*atomic.Uint32, values []uint32) error
	Until(ready func() bool)
	Alive(id uint64) bool
}

// Explored is nil but in the tests that explore.
var Explored Scheduler

// Uint64 is an atomic.Uint64, each operation of which is a step.
type Uint64 struct{ v atomic.Uint64 }

func step(w any, change bool) bool { return Explored == nil || Explored.Step(w, change) }

// Load is atomic.Uint64's, as are the other methods.
func (w *Uint64) Load() uint64 {
	step(&w.v, false)
	if Explored != nil {
		if v, own := Explored.Load(&w.v); own {
			return v
		}
	}
	return w.v.Load()
}

// Store stores v.
func (w *Uint64) Store(v uint64) {
	if step(&w.v, true) {
		w.v.Store(v)
	}
}

// Swap stores v.
func (w *Uint64) Swap(v uint64) uint64 {
	if step(&w.v, true) {
		return w.v.Swap(v)
	}
	return w.v.Load()
}

// CompareAndSwap stores to in place of from.
func (w *Uint64) CompareAndSwap(from, to uint64) bool {
	return !step(&w.v, true) || w.v.CompareAndSwap(from, to)
}

// Add adds n.
func (w *Uint64) Add(n uint64) uint64 {
	if step(&w.v, true) {
		return w.v.Add(n)
	}
	return w.v.Load() + n
}

// Uint32 is an atomic.Uint32, each operation of which is a step.
type Uint32 struct{ v atomic.Uint32 }

// Load is atomic.Uint32's, as are the other methods.
func (w *Uint32) Load() uint32 {
	step(&w.v, false)
	return w.v.Load()
}

// Store stores v.
func (w *Uint32) Store(v uint32) {
	if step(&w.v, true) {
		w.v.Store(v)
	}
}

// CompareAndSwap stores to in place of from.
func (w *Uint32) CompareAndSwap(from, to uint32) bool {
	return !step(&w.v, true) || w.v.CompareAndSwap(from, to)
}

// Add adds n.
func (w *Uint32) Add(n uint32) uint32 {
	if step(&w.v, true) {
		return w.v.Add(n)
	}
	return w.v.Load() + n
}

// Mutex is a sync.Mutex for which the scheduler waits.
type Mutex struct {
	mu   sync.Mutex
	held bool
}

// Lock is sync.Mutex's.
func (m *Mutex) Lock() {
	if Explored == nil {
		m.mu.Lock()
		return
	}
	Explored.Until(func() bool { return !m.held })
	m.held = true
}

// Unlock is sync.Mutex's.
func (m *Mutex) Unlock() {
	if Explored == nil {
		m.mu.Unlock()
		return
	}
	m.held = false
}

// Raw64 is w without steps.
func Raw64(w *Uint64) *atomic.Uint64 { return &w.v }

// Raw32 is w without steps, as package wait wants it.
func Raw32(w *Uint32) *atomic.Uint32 { return &w.v }

// StoreRelease is [layout.StoreRelease].
func StoreRelease(w *Uint64, v uint64) {
	switch {
	case Explored != nil:
		Explored.Release(&w.v, v)
	case raced:
		w.v.Store(v)
	default:
		layout.StoreRelease(&w.v, v)
	}
}

// Wake is [wait.Wake].
func Wake(w *atomic.Uint32, n int) int {
	if Explored != nil {
		return Explored.Wake(w, n)
	}
	return wait.Wake(w, n)
}

// Sleep is [wait.Any].
func Sleep(timeout time.Duration, on ...wait.On) error {
	if Explored == nil {
		return wait.Any(timeout, on...)
	}
	words, values := make([]*atomic.Uint32, len(on)), make([]uint32, len(on))
	for i, o := range on {
		words[i], values[i] = o.Word, o.Value
	}
	return Explored.Sleep(words, values)
}

// FenceAll is [wait.FenceAll].
func FenceAll() {
	if Explored != nil {
		Explored.Fence()
		return
	}
	wait.FenceAll()
}

// Until stands before a wait for another goroutine of the process, which is
// over when ready says so.
func Until(ready func() bool) {
	if Explored != nil {
		Explored.Until(ready)
	}
}

// Judge tells whether the process that id names is alive, if a test knows that.
func Judge(id uint64) (alive, known bool) {
	if Explored == nil {
		return false, false
	}
	return Explored.Alive(id), true
}
