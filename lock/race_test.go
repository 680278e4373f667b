//go:build race

package lock_test

import (
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/lock"
)

const raceEnabled = true

func init() {
	// Each helper would wait a second before it ends, for reports by other threads.
	os.Setenv("GORACE", os.Getenv("GORACE")+" atexit_sleep_ms=0")

	// Two goroutines write, and only one asks the Mutex.
	shmtest.Register("racy", func(args []string) int {
		b, err := shm.Create(args[0], 4096, nil)
		if err != nil {
			return complain(err)
		}
		defer b.Unlink()
		defer b.Close()
		m, err := lock.NewMutex(b, 0)
		if err != nil {
			return complain(err)
		}
		data := 0
		var wg sync.WaitGroup
		start := make(chan struct{})
		for i := range 2 {
			wg.Go(func() {
				<-start
				if args[1] == "guarded" || i == 0 {
					_ = m.Lock()
					defer m.Unlock()
				}
				data++
			})
		}
		close(start)
		wg.Wait()
		shmtest.Say("%d", data)
		return 0
	})
}

// The shadow that keeps false reports away hides no true one. The suite itself,
// under the race detector, is the test that there are no false ones.
func TestRaceDetector(t *testing.T) {
	p := shmtest.Start(t, "racy", shmtest.Name(t), "unguarded")
	if st, said := p.WaitAll(); st != 66 || !strings.Contains(said, "WARNING: DATA RACE") {
		t.Errorf("status %d, and no report of a write that no lock guards:\n%s", st, p.Stderr())
	}
	p = shmtest.Start(t, "racy", shmtest.Name(t), "guarded")
	if st := p.Wait(); st != 0 {
		t.Errorf("status %d\n%s", st, p.Stderr())
	}
}
