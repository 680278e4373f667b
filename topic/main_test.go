package topic_test

import (
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) {
	// Tests kill processes, whose leases the next sweep removes: this one.
	shmtest.Sweep = func() { _, _ = shm.Prune() }
	shmtest.Main(m)
}
