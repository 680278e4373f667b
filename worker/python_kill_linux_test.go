//go:build shmcrash

package worker_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/worker"
)

func init() {
	shmtest.Register("python-life", func(args []string) int {
		pool, err := worker.NewPool(context.Background(), 1, nil)
		for range 2 {
			if err == nil {
				_, err = worker.Call(context.Background(), pool, python[[]byte, *shm.Block](args[0], "block_make"), []byte("x"))
			}
		}
		fmt.Fprintln(os.Stderr, err)
		return 0
	})
}

// The parent dies at each of its points, and nothing is left of it and its child.
func TestKillPythonParent(t *testing.T) {
	py := onePython(t)
	before := blocks(t)
	for _, point := range crash.Points {
		if !strings.HasPrefix(point, "pyproc:") {
			continue
		}
		cmd := shmtest.Command(t, "python-life", py)
		cmd.Env = append(cmd.Env, "SHM_CRASH="+point+":1")
		p := shmtest.StartCommand(t, cmd)
		// Everybody who could leave something has standard error from it.
		if status, stderr := p.WaitAll(); status != -1 {
			t.Errorf("%s: nobody died there: status %d, %s", point, status, stderr)
		}
		if _, err := shm.Prune(); err != nil {
			t.Error(err)
		}
		t.Logf("%s: died", point)
	}
	noneOf(t, before)
}
