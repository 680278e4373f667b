//go:build unix

package tracker

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sharedmem/shm/internal/lease"
	"github.com/sharedmem/shm/internal/platform/proc"
	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

// again executes this program once more under the name argv0.
func again(t *testing.T, argv0 string, pipes ...*os.File) string {
	t.Helper()
	if os.Getenv("SHM_QEMU") != "" {
		t.Skip("under an emulator a program cannot execute itself again")
	}
	exe, err := proc.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := &exec.Cmd{Path: exe, Args: []string{argv0, "-test.list", "^TestSentinel"}, ExtraFiles: pipes}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// The name alone does not turn a program into a clean-up process, nor do pipes
// on which nobody speaks its language.
func TestSentinelIsNotEnough(t *testing.T) {
	for argv0, hello := range map[string]string{sentinel: hello, pythonSentinel: pythonHello} {
		if out := again(t, argv0); !strings.HasPrefix(out, "TestSentinel") {
			t.Fatalf("%s without pipes: %q", argv0, out)
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
			out := again(t, argv0, r, r)
			r.Close()
			if want := say != hello+"\n"; strings.HasPrefix(out, "TestSentinel") != want {
				t.Fatalf("%s after %q on the pipe: %q", argv0, say, out)
			}
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

func TestInherit(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if s, err := inherit(""); s != nil || err != nil {
		t.Fatalf("without the variable: %v, %v", s, err)
	}
	for _, bad := range []string{"x", "-1", "1", "1000000", strconv.Itoa(int(r.Fd())), strconv.Itoa(int(file.Fd())), strings.Repeat("9", 100)} {
		if s, err := inherit(bad); s != nil || !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s=%s: %v, %v", FDEnv, bad, s, err)
		}
	}
	fd, err := syscall.Dup(int(w.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	s, err := inherit(strconv.Itoa(fd))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Send(Probe, ""), s.Send(Register, "x"), s.Send(Unregister, "x")); err != nil {
		t.Fatal(err)
	}
	if err := s.Send(Register, "a:b"); !errors.Is(err, ErrPlain) {
		t.Errorf("a colon: %v", err)
	}
	// The number is another pipe's now, which must get nothing.
	r2, w2, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r2.Close()
	defer w2.Close()
	if err := unix.Dup2(int(w2.Fd()), fd); err != nil {
		t.Fatal(err)
	}
	if err := s.Send(Register, "y"); !errors.Is(err, errOther) {
		t.Errorf("to another pipe: %v", err)
	}
	w.Close()
	got, err := io.ReadAll(r)
	if want := "PROBE:0:noop\nREGISTER:/x:shared_memory\nUNREGISTER:/x:shared_memory\n"; string(got) != want || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	runtime.KeepAlive(s)
}
