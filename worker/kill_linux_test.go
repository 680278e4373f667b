//go:build shmcrash

package worker_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sharedmem/shm"
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
					shmtest.Deadline(t, 8*shmtest.Patience)
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

func init() {
	shmtest.Register("pool-life", func([]string) int {
		// Workers have standard error from us: who reads that knows when all are gone.
		ctx, cancel := context.WithCancel(context.Background())
		p, err := worker.NewPool(ctx, 2, &worker.PoolOptions{Options: worker.Options{Stderr: os.Stderr, Grace: 50 * time.Millisecond}})
		if err == nil {
			_, err = worker.Submit(ctx, p, deaf, struct{}{}) // one is at work meanwhile
		}
		for i := range 20 {
			if err == nil && i%2 == 0 {
				_, err = worker.Call(ctx, p, goSuite.Make, 1000)
			} else if err == nil {
				_, err = worker.Call(ctx, p, reverse, make([]byte, 1<<20))
			}
		}
		if err == nil {
			for m := range 2 { // both are free when they are stopped
				q, _ := worker.NewPool(ctx, 1, &worker.PoolOptions{Options: worker.Options{Stderr: os.Stderr}})
				_, err = worker.Call(ctx, q, goSuite.Make, int64(m+1))
				q.Close()
			}
		}
		cancel()
		p.Close()
		fmt.Fprintln(os.Stderr, err)
		return 0
	})
}

// The parent dies at each of its points while jobs run, and nothing is left of it, its workers, and
// what those have made.
func TestKillParentPoints(t *testing.T) {
	hits := map[string]int{}
	before := blocks(t)
	for _, point := range crash.Points {
		if !strings.HasPrefix(point, "pool:") {
			continue
		}
		for n := 1; n <= 2; n++ {
			cmd := shmtest.Command(t, "pool-life")
			cmd.Env = append(cmd.Env, fmt.Sprintf("SHM_CRASH=%s:%d", point, n))
			p := shmtest.StartCommand(t, cmd)
			if status, stderr := p.WaitAll(); status != -1 {
				t.Errorf("%s: nobody died there for the %d. time: status %d, %s", point, n, status, stderr)
				continue
			}
			hits[point]++
			if _, err := shm.Prune(); err != nil {
				t.Error(err)
			}
		}
	}
	noneOf(t, before)
	t.Logf("deaths: %v", hits)
}
