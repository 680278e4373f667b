package worker_test

import (
	"flag"
	"os"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/worker"
)

func TestMain(m *testing.M) {
	worker.Main()
	if os.Getenv("SHM_QEMU") != "" {
		// Under an emulator a program cannot execute itself again, and so has no workers.
		flag.Parse()
		_ = flag.Set("test.run", "^(TestCodec|TestHostileSlot|TestFuncPanics|TestUnsupported|FuzzDecode)$")
	}
	// Workers are killed here, and what they had is swept by the next process: this one.
	shmtest.Sweep = func() { _, _ = shm.Prune() }
	shmtest.Main(m)
}
