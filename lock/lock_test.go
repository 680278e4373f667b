package lock_test

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/lock"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

func complain(err error) int {
	os.Stderr.WriteString(err.Error() + "\n")
	return 1
}

// guarded is what the helper "count" counts in.
type guarded struct {
	Lock lock.State
	A, B int64
	Dead int64
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

// constructors are all of the package but NamedSemaphore's.
var constructors = []struct {
	kind string
	size int
	open func(b *shm.Block, off int) error
}{
	{"Mutex", 64, func(b *shm.Block, off int) error { _, err := lock.NewMutex(b, off); return err }},
	{"RWMutex", 1024, func(b *shm.Block, off int) error { _, err := lock.NewRWMutex(b, off); return err }},
	{"Cond", 64, func(b *shm.Block, off int) error { _, err := lock.NewCond(b, off); return err }},
	{"Event", 64, func(b *shm.Block, off int) error { _, err := lock.NewEvent(b, off); return err }},
	{"Barrier", 64, func(b *shm.Block, off int) error { _, err := lock.NewBarrier(b, off, 2); return err }},
	{"Once", 64, func(b *shm.Block, off int) error { _, err := lock.NewOnce(b, off); return err }},
	{"Semaphore", 64, func(b *shm.Block, off int) error { _, err := lock.NewSemaphore(b, off, 1); return err }},
}

// Elsewhere nothing is half there: every constructor says so.
func TestUnsupported(t *testing.T) {
	if runtime.GOOS == "linux" {
		t.Skip("Linux has all of it")
	}
	b, err := shm.Create(shmtest.Name(t), 4096, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	for _, c := range constructors {
		if err := c.open(b, 0); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %v, want errors.ErrUnsupported", c.kind, err)
		}
	}
	if _, err := lock.NewAutoEvent(b, 0); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("automatic Event: %v, want errors.ErrUnsupported", err)
	}
	if _, err := lock.OpenSemaphore(shmtest.Name(t), &lock.SemaphoreOptions{Create: true}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("NamedSemaphore: %v, want errors.ErrUnsupported", err)
	}
	if err := lock.UnlinkSemaphore(shmtest.Name(t)); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("UnlinkSemaphore: %v, want errors.ErrUnsupported", err)
	}
	for _, p := range b.Bytes()[:1024] {
		if p != 0 {
			t.Fatal("a constructor that failed has written into the block")
		}
	}
}
