//go:build unix

package tracker

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/sharedmem/shm/internal/lease"
	"github.com/sharedmem/shm/internal/platform/proc"
	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

// again executes this program once more under the clean-up process's name.
func again(t *testing.T, pipes ...*os.File) string {
	t.Helper()
	if os.Getenv("SHM_QEMU") != "" {
		t.Skip("under an emulator a program cannot execute itself again")
	}
	exe, err := proc.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := &exec.Cmd{Path: exe, Args: []string{sentinel, "-test.list", "^TestSentinel"}, ExtraFiles: pipes}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// The name alone does not turn a program into a clean-up process, nor do pipes
// on which nobody speaks its language.
func TestSentinelIsNotEnough(t *testing.T) {
	if out := again(t); !strings.HasPrefix(out, "TestSentinel") {
		t.Fatalf("without pipes: %q", out)
	}
	for _, say := range []string{"", "hello\n", hello, hello + "\n"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteString(say); err != nil {
			t.Fatal(err)
		}
		w.Close()
		out := again(t, r, r)
		r.Close()
		if want := say != hello+"\n"; strings.HasPrefix(out, "TestSentinel") != want {
			t.Fatalf("after %q on the pipe: %q", say, out)
		}
	}
}

func TestWatchTwice(t *testing.T) {
	if os.Getenv("SHM_QEMU") != "" {
		t.Skip("under an emulator a program cannot execute itself again")
	}
	l := lease.For(t.TempDir())
	for range 2 {
		if err := Watch(l); err != nil {
			t.Fatal(err)
		}
	}
	cleaner.Lock()
	defer cleaner.Unlock()
	args, err := os.ReadFile("/proc/" + strconv.Itoa(cleaner.cmd.Process.Pid) + "/cmdline")
	if err == nil && !bytes.HasPrefix(args, []byte(sentinel)) {
		t.Fatalf("the clean-up process calls itself %q", args)
	}
}
