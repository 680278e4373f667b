package worker_test

import (
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/worker"
)

func TestMain(m *testing.M) {
	worker.Main()
	// Workers are killed here, and what they had is swept by the next process: this one.
	shmtest.Sweep = func() { _, _ = shm.Prune() }
	shmtest.Main(m)
}
