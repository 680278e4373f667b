package manager_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
)

const terminate = syscall.SIGTERM

// asNobody returns what starts helpers as a user who may do nothing.
func asNobody(t *testing.T) func(helper string, args ...string) *shmtest.Process {
	t.Helper()
	if os.Geteuid() != 0 {
		shmtest.Skip(t, "root", "being another user needs root")
	}
	if os.Getenv("SHM_QEMU") != "" {
		t.Skip("the emulator would have to be copied as well")
	}
	// The test binary lies in a directory that others may not enter.
	bin := filepath.Join(t.TempDir(), "helper")
	exe, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = errors.Join(os.WriteFile(bin, exe, 0o755), os.Chmod(bin, 0o755))
	}
	for d := filepath.Dir(bin); err == nil && d != "/" && d != "/tmp"; d = filepath.Dir(d) {
		err = os.Chmod(d, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func(helper string, args ...string) *shmtest.Process {
		cmd := shmtest.Command(t, helper, args...)
		cmd.Path = bin
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		return shmtest.StartCommand(t, cmd)
	}
}
