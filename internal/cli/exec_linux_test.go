package cli

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
)

// A Python that opens a block, and one that it starts, take nothing with them.
func TestExecPython(t *testing.T) {
	shmtest.Deadline(t, 4*shmtest.Patience)
	const program = `
import subprocess, sys
from multiprocessing import shared_memory
block = shared_memory.SharedMemory(sys.argv[1])
block.buf[0] += 1
if len(sys.argv) > 2:
    subprocess.run([sys.executable, "-c", sys.argv[2], sys.argv[1]], check=True)
`
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.String(), func(t *testing.T) {
			for _, e := range py.Env {
				key, value, _ := strings.Cut(e, "=")
				t.Setenv(key, value)
			}
			name := shmtest.Name(t)
			if status, _, errs := run(t, "A", "put", name); status != 0 {
				t.Fatal(errs)
			}
			if status, out, errs := run(t, "", "exec", py.Path, "-c", program, name, program); status != 0 || out+errs != "" {
				t.Errorf("status %d, %q, %q", status, out, errs)
			}
			if status, out, errs := run(t, "", "cat", name); status != 0 || out != "C" {
				t.Errorf("afterwards: %d %q %s", status, out, errs)
			}
			if status, _, errs := run(t, "", "rm", name); status != 0 {
				t.Error(errs)
			}
		})
	}
}

// readyForever is the end of a shell's program that waits for a signal to trap.
// It must not wait in read: a signal that comes between dash's look at what is
// pending and its system call is kept for after that, which never returns.
const readyForever = `echo ready; while :; do sleep 0.1; done`

// The signals that are sent to the command shm reach the one that it runs.
func TestExecSignals(t *testing.T) {
	noEmulator(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const program = `trap 'echo int; exit 31' INT; trap 'echo term; exit 32' TERM; trap 'echo hup; exit 33' HUP; ` + readyForever
	for s, want := range map[syscall.Signal]struct {
		said   string
		status int
	}{syscall.SIGINT: {"int", 31}, syscall.SIGTERM: {"term", 32}, syscall.SIGHUP: {"hup", 33}} {
		cmd := exec.Command(exe, "exec", "sh", "-c", program)
		cmd.Env = append(os.Environ(), asCommand+"=1")
		p := shmtest.StartCommand(t, cmd)
		p.Expect("ready")
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		p.Expect(want.said)
		if status := p.Wait(); status != want.status {
			t.Errorf("%v: status %d: %s", s, status, p.Stderr())
		}
	}
}

// When its context ends, what it runs is asked to end.
func TestExecCancelled(t *testing.T) {
	noEmulator(t)
	shmtest.Deadline(t, shmtest.Patience)
	ctx, cancel := context.WithCancel(t.Context())
	var out, errs strings.Builder
	said := writer(func(p []byte) (int, error) {
		cancel()
		return out.Write(p)
	})
	status := Run(ctx, []string{"exec", "sh", "-c", `trap 'exit 9' TERM; ` + readyForever}, nil, said, &errs)
	if status != 9 || out.String() != "ready\n" || errs.Len() > 0 {
		t.Errorf("status %d, %q, %q", status, out.String(), errs.String())
	}
}
