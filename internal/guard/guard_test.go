package guard_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sharedmem/shm/internal/guard"
)

func TestCloseWaits(t *testing.T) {
	var g guard.Guard
	if first, second := g.Enter(), g.Enter(); !first || !second {
		t.Fatal("a zero guard is closed")
	}
	done := g.Done()
	got := make(chan bool, 2)
	go func() { got <- g.Close() }()
	<-done
	go func() { got <- g.Close() }()
	if g.Enter() || !g.Closed() {
		t.Fatal("a call got in after Close had begun")
	}
	g.Leave()
	select {
	case <-got:
		t.Fatal("Close did not wait for the second call")
	default:
	}
	g.Leave()
	if a, b := <-got, <-got; a == b {
		t.Fatalf("the two Closes returned %v and %v", a, b)
	}
	if g.Close() {
		t.Fatal("a third Close was the first")
	}
	<-g.Done()
}

func TestLeaveWithoutEnter(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Fatal("no panic")
		}
	}()
	new(guard.Guard).Leave()
}

// What the guard guards is never used after it was freed, whoever comes when.
func TestHammer(t *testing.T) {
	for range 2000 {
		var g guard.Guard
		var freed, firsts atomic.Int32
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for g.Enter() {
					if freed.Load() != 0 {
						t.Error("used after free")
					}
					g.Leave()
				}
			})
		}
		for range 2 {
			wg.Go(func() {
				if g.Close() {
					freed.Store(1)
					firsts.Add(1)
				}
			})
		}
		wg.Wait()
		if firsts.Load() != 1 {
			t.Fatalf("%d first Closes", firsts.Load())
		}
	}
}
