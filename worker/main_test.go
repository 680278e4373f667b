package worker_test

import (
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/worker"
)

func TestMain(m *testing.M) {
	worker.Main()
	shmtest.Main(m)
}
