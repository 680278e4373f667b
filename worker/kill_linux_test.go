//go:build shmcrash

package worker_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/worker"
)

// Every worker dies at the named point, when it comes there for the n-th time, and so do
// those that replace it. Each job is reported once all the same.
func TestKillPoints(t *testing.T) {
	hits := map[string]int{}
	for _, point := range crash.Points {
		if !strings.HasPrefix(point, "worker:") {
			continue
		}
		for _, n := range []int{1, 4} {
			for _, retries := range []int{0, 250*n - 249} { // 1, 751
				t.Run(fmt.Sprintf("%s %d %d", point, n, retries), func(t *testing.T) {
					shmtest.Deadline(t, 2*shmtest.Patience)
					p := newPool(t, 2, &worker.PoolOptions{Retries: retries, Options: worker.Options{
						Env: append(os.Environ(), fmt.Sprintf("SHM_CRASH=%s:%d", point, n)),
					}})
					if point == "worker:started" && n == 1 {
						// Nobody lives to take a job. Later ones may, and die before they are members.
						_, err := worker.Call(t.Context(), p, add, pair{})
						want(t, err, nil, "add", "before it was ready")
						hits[point]++
						return
					}
					failed := chaos(t, p, 100, retries, func(int) {})
					st := p.Stats()
					hits[point] += int(st.Died)
					// A worker that dies each time it has begun, or has not handed over a
					// block, never gets through.
					if retries > 0 && failed > 0 && n > 1 {
						t.Errorf("%d jobs failed in spite of retries; %+v", failed, st)
					}
				})
			}
		}
	}
	for _, p := range crash.Points {
		if strings.HasPrefix(p, "worker:") && hits[p] == 0 {
			t.Errorf("nobody died at %s", p)
		}
	}
	t.Logf("deaths: %v", hits)
}
