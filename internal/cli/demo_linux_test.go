package cli

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

// In a container's small /dev/shm the demo takes what room there is, unless
// --limit says how much it is to be.
func TestDemoSmallPlace(t *testing.T) {
	noEmulator(t)
	if os.Geteuid() != 0 {
		shmtest.Skip(t, "root", "mounting a file system needs root")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	root, dir := shmtest.TempDir(t), shmtest.TempDir(t)
	line := "the same line again and again\n"
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		if err := os.WriteFile(filepath.Join(root, name), bytes.Repeat([]byte(line), 2<<20/len(line)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) (string, error) {
		cmd := exec.Command("sh", append([]string{"-c", `mount -t tmpfs -o size=12m shmtest "$1" && exe=$0 dir=$1 && shift &&
			exec "$exe" demo --dir "$dir" --no-python --workers 1 "$@"`, exe, dir}, args...)...)
		cmd.Env = append(os.Environ(), asCommand+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run(root)
	if err != nil || !strings.Contains(out, "takes what there is") || !strings.Contains(out, "4 files, 8.0 MiB") || !strings.Contains(out, "There is more") {
		t.Errorf("%v: %s", err, out)
	}
	out, err = run("--limit", "1G", root)
	if err == nil || !strings.Contains(out, "not enough shared memory") || !strings.Contains(out, "try: shm demo --limit ") {
		t.Errorf("%v: %s", err, out)
	}
}

// Killed, the command leaves nothing: neither workers nor, a moment later, blocks.
func TestDemoKilled(t *testing.T) {
	noEmulator(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	root := shmtest.TempDir(t)
	if err := os.WriteFile(filepath.Join(root, "a"), bytes.Repeat([]byte("the same line again and again\n"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	shmtest.Deadline(t, 4*shmtest.Patience)
	name := ""
	for {
		cmd := exec.Command(exe, "demo", "--no-python", root)
		cmd.Env = append(os.Environ(), asCommand+"=1")
		p := shmtest.StartCommand(t, cmd)
		_, rest, ok := strings.Cut(p.Line(), "in one block ")
		name, _, _ = strings.Cut(rest, ",")
		_, err := shm.Stat(name)
		if ok && err == nil {
			p.Kill()
			break
		}
		// We may have come too late, when it had done all. It ends by itself then.
		if status := p.Wait(); !ok || !errors.Is(err, fs.ErrNotExist) || status != 0 {
			t.Fatalf("%q: %v; status %d, %s", name, err, status, p.Stderr())
		}
	}
	for end := time.Now().Add(shmtest.Patience); ; time.Sleep(time.Millisecond) {
		if _, err := shm.Stat(name); errors.Is(err, fs.ErrNotExist) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s is still there", name)
		}
	}
}
