package passingfd_test

import (
	"os/exec"
	"runtime"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

func run(t *testing.T, parent string, child ...string) {
	t.Helper()
	p := shmtest.StartCommand(t, exec.Command(parent, child...))
	p.Expect("the child says 42")
	if status, stderr := p.WaitAll(); status != 0 || stderr != "" {
		t.Errorf("status %d: %s", status, stderr)
	}
}

func TestPassing(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the example is for Linux")
	}
	program := shmtest.Programs(t)
	t.Run("go", func(t *testing.T) { run(t, program("parent"), program("child")) })
	t.Run("python", func(t *testing.T) {
		for _, py := range shmtest.Pythons(t) {
			t.Run(py.Version, func(t *testing.T) { run(t, program("parent"), py.Path, "child.py") })
		}
	})
	t.Run("bad child", func(t *testing.T) {
		p := shmtest.StartCommand(t, exec.Command(program("parent"), "false"))
		if status := p.Wait(); status == 0 {
			t.Error("a child's failure is not the parent's")
		}
	})
}
