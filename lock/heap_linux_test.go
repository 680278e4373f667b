package lock

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/step"
)

// The algorithms over words of the Go heap, where the race detector sees them: a
// plain access among the atomic ones would be reported. The handles are as ever but
// for where their words are.
func onHeap(t *testing.T, n int, k kind, param uint32) []*handle {
	t.Helper()
	b, err := shm.Anonymous(4096, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	words := make([]byte, 1024)
	var hs []*handle
	for i := range n {
		h, err := attach(b, 1024*i, k, param)
		if err != nil {
			t.Fatal(err)
		}
		st, err := layout.At[state](words, 0)
		if err != nil {
			t.Fatal(err)
		}
		low, err := layout.At[atomic.Uint32](words, 8+layout.LowHalf)
		if err != nil {
			t.Fatal(err)
		}
		h.st, h.low = st, low
		hs = append(hs, h)
	}
	return hs
}

// hammer has goroutines take turns, some of which give up.
func hammer(t *testing.T, lock func(g int, ctx context.Context) error, unlock func(g int) error) {
	t.Helper()
	var wg sync.WaitGroup
	data, taken := 0, atomic.Int64{}
	for g := range 6 {
		wg.Go(func() {
			for k := range 300 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(k%20)*20*time.Microsecond)
				if k%3 > 0 {
					cancel()
					ctx = context.Background()
				}
				err := lock(g, ctx)
				cancel()
				if errors.Is(err, context.DeadlineExceeded) {
					continue
				}
				if err == nil {
					data++
					taken.Add(1)
					if k%50 == 0 {
						runtime.Gosched()
					}
					err = unlock(g)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if int64(data) != taken.Load() {
		t.Errorf("%d, want %d", data, taken.Load())
	}
}

func TestHeapMutex(t *testing.T) {
	var ms []*Mutex
	hs := onHeap(t, 2, kindMutex, 0)
	hs[1].local = hs[0].local // as all handles of one process have it
	for _, h := range hs {
		ms = append(ms, mutexOn(h))
	}
	hammer(t, func(g int, ctx context.Context) error { return ms[g%2].LockContext(ctx) },
		func(g int) error { return ms[g%2].Unlock() })
}

func TestHeapSemaphore(t *testing.T) {
	hs := onHeap(t, 2, kindSemaphore, 1)
	a, b := &Semaphore{handle: hs[0]}, &Semaphore{handle: hs[1]}
	ss := []*Semaphore{a, b} // each with a queue of its own, as two processes have
	hammer(t, func(g int, ctx context.Context) error { return ss[g%2].WaitContext(ctx) },
		func(g int) error { return ss[g%2].Post() })
	if a.Value() != 1 {
		t.Error(a.Value())
	}
}

func TestHeapEvent(t *testing.T) {
	hs := onHeap(t, 2, kindEvent, 1)
	es := []*Event{{handle: hs[0], auto: true}, {handle: hs[1], auto: true}}
	if err := es[0].Set(); err != nil {
		t.Fatal(err)
	}
	hammer(t, func(g int, ctx context.Context) error { return es[g%2].WaitContext(ctx) },
		func(g int) error { return es[g%2].Set() })
}

func TestHeapBarrier(t *testing.T) {
	hs := onHeap(t, 2, kindBarrier, 4)
	bs := []*Barrier{{handle: hs[0]}, {handle: hs[1]}}
	var wg sync.WaitGroup
	var data [4]int
	for g := range 4 {
		wg.Go(func() {
			for k := range 200 {
				data[g] = k
				if _, err := bs[g%2].Wait(); err != nil {
					t.Error(err)
					return
				}
				for i := range data {
					if data[i] != k {
						t.Errorf("round %d: one is in round %d", k, data[i])
					}
				}
				if _, err := bs[g%2].Wait(); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestHeapRWMutex(t *testing.T) {
	words := make([]byte, 1024)
	var ms []*RWMutex
	for i, h := range onHeap(t, 2, kindRW, 0) {
		m := &RWMutex{handle: h}
		h.claim = flagPending
		var err error
		if m.slots, err = layout.At[[rwSlots]step.Uint64](words, rwHeader); err != nil {
			t.Fatal(err)
		}
		if m.lows, err = layout.At[[2 * rwSlots]atomic.Uint32](words, rwHeader); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			h.local = ms[0].local
		}
		ms = append(ms, m)
	}
	var wg sync.WaitGroup
	data := 0
	for g := range 6 {
		wg.Go(func() {
			m := ms[g%2]
			for k := range 300 {
				if (k+g)%4 == 0 {
					err := m.Lock()
					data++
					if err = errors.Join(err, m.Unlock()); err != nil {
						t.Error(err)
						return
					}
					continue
				}
				err := m.RLock()
				if data > 6*300/4 {
					err = errors.New("too much is written")
				}
				if err = errors.Join(err, m.RUnlock()); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if data != 6*300/4 {
		t.Errorf("%d, want %d", data, 6*300/4)
	}
}
