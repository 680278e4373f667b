package lock_test

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/lock"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

type guarded struct {
	Lock lock.State
	A, B int64
	Dead int64
}

func complain(err error) int {
	os.Stderr.WriteString(err.Error() + "\n")
	return 1
}

func init() {
	shmtest.Register("count", func(args []string) int {
		b, err := shm.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		g, err := shm.At[guarded](b, 0)
		if err != nil {
			return complain(err)
		}
		m, err := lock.NewMutex(b, 0)
		if err != nil {
			return complain(err)
		}
		n, _ := strconv.Atoi(args[1])
		shmtest.Say("ready")
		shmtest.Await("go")
		for range n {
			if err := m.Lock(); errors.Is(err, lock.ErrOwnerDied) {
				g.B = g.A
				atomic.AddInt64(&g.Dead, 1)
				if err := m.MarkConsistent(); err != nil {
					return complain(err)
				}
			} else if err != nil {
				return complain(err)
			}
			if g.A != g.B {
				return complain(fmt.Errorf("torn: %d %d", g.A, g.B))
			}
			g.A++
			g.B++
			if err := m.Unlock(); err != nil {
				return complain(err)
			}
		}
		if err := b.Close(); err != nil {
			return complain(err)
		}
		return 0
	})
}

func TestMutexProcesses(t *testing.T) {
	name := shmtest.Name(t)
	b, err := shm.Create(name, 4096, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	const procs, rounds = 3, 20000
	var ps []*shmtest.Process
	for range procs {
		ps = append(ps, shmtest.Start(t, "count", name, strconv.Itoa(rounds)))
	}
	for _, p := range ps {
		p.Expect("ready")
	}
	start := time.Now()
	for _, p := range ps {
		p.Send("go")
	}
	for _, p := range ps {
		if st := p.Wait(); st != 0 {
			t.Error(st, p.Stderr())
		}
	}
	t.Logf("%v a round", time.Since(start)/(procs*rounds))
	g, err := shm.At[guarded](b, 0)
	if err != nil {
		t.Fatal(err)
	}
	if g.A != procs*rounds {
		t.Errorf("%d, want %d", g.A, procs*rounds)
	}
}

// A process dies with the lock; who waits gets it.
func TestMutexDeath(t *testing.T) {
	name := shmtest.Name(t)
	b, err := shm.Create(name, 4096, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	m, err := lock.NewMutex(b, 0)
	if err != nil {
		t.Fatal(err)
	}
	var took []time.Duration
	for range 10 {
		p := shmtest.Start(t, "hold", name)
		p.Expect("held")
		got := make(chan error, 1)
		go func() { got <- m.Lock() }()
		start := time.Now()
		p.Kill()
		select {
		case err := <-got:
			took = append(took, time.Since(start))
			if !errors.Is(err, lock.ErrOwnerDied) {
				t.Fatal(err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("stuck")
		}
		if err := errors.Join(m.MarkConsistent(), m.Unlock()); err != nil {
			t.Fatal(err)
		}
		p.Wait()
		if _, err := shm.Prune(); err != nil {
			t.Error(err)
		}
	}
	t.Log(took)
}

func init() {
	shmtest.Register("hold", func(args []string) int {
		b, err := shm.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		m, err := lock.NewMutex(b, 0)
		if err != nil {
			return complain(err)
		}
		if err := m.Lock(); err != nil {
			return complain(err)
		}
		shmtest.Say("held")
		shmtest.Hear()
		return 0
	})
}

func BenchmarkMutex(b *testing.B) {
	blk, err := shm.Create("", 4096, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer blk.Unlink()
	defer blk.Close()
	m, err := lock.NewMutex(blk, 0)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		m.Lock()
		m.Unlock()
	}
}
