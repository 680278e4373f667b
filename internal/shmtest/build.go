package shmtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// Programs compiles the programs below the test's folder, as their README has
// a reader do it, and returns a function that gives the file of each.
//
// Helper processes, which are the test's own program, would be quicker to have;
// but of two mains no test can import both, and a test of an example should
// run the example. Where there is no go command, or its programs would need
// the emulator to start each other, it skips the test.
func Programs(t testing.TB) func(program string) string {
	t.Helper()
	if os.Getenv("SHM_QEMU") != "" {
		Skip(t, "native", "programs that start programs would need the emulator for that")
	}
	tool, err := exec.LookPath("go")
	if err != nil {
		Skip(t, "go", "programs cannot be compiled here: "+err.Error())
	}
	dir := t.TempDir()
	// Not the version control's state: the checkout may be another user's.
	cmd := exec.Command(tool, "build", "-buildvcs=false", "-o", dir+string(filepath.Separator), "./...")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return func(program string) string {
		if runtime.GOOS == "windows" {
			program += ".exe"
		}
		return filepath.Join(dir, program)
	}
}
