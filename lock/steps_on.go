//go:build shmcrash

package lock

import (
	"sync"
	"sync/atomic"

	"github.com/sharedmem/shm/internal/platform/wait"
)

// scheduler decides in a test when the goroutines of several would-be processes go
// on, and stands for the kernel and for death.
type scheduler interface {
	step(*word64) // called before each operation on a word
	wake(w *atomic.Uint32, n int) int
	sleep(on []wait.On) error
	until(ready func() bool)
	alive(r *room, owner uint64) bool
}

// explored is nil but in explore_test.go.
var explored scheduler

// word64 is an atomic.Uint64, each operation of which is a step.
type word64 struct{ v atomic.Uint64 }

func (w *word64) step() {
	if explored != nil {
		explored.step(w)
	}
}

func (w *word64) Load() uint64 {
	w.step()
	return w.v.Load()
}

func (w *word64) Store(n uint64) {
	w.step()
	w.v.Store(n)
}

func (w *word64) CompareAndSwap(from, to uint64) bool {
	w.step()
	return w.v.CompareAndSwap(from, to)
}

// localMutex is a sync.Mutex for which the scheduler waits.
type localMutex struct {
	mu   sync.Mutex
	held bool
}

func (m *localMutex) Lock() {
	if explored == nil {
		m.mu.Lock()
		return
	}
	explored.until(func() bool { return !m.held })
	m.held = true
}

func (m *localMutex) Unlock() {
	if explored == nil {
		m.mu.Unlock()
		return
	}
	m.held = false
}

func wake(w *atomic.Uint32, n int) int {
	if explored != nil {
		return explored.wake(w, n)
	}
	return wait.Wake(w, n)
}

func sleepOn(on ...wait.On) error {
	if explored != nil {
		return explored.sleep(on)
	}
	return wait.Any(0, on...)
}

func until(ready func() bool) {
	if explored != nil {
		explored.until(ready)
	}
}

func judge(r *room, owner uint64) (alive, known bool) {
	if explored == nil {
		return false, false
	}
	return explored.alive(r, owner), true
}
