package cli

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/lock"
)

// What is sent to the command shm reaches the one under the lock, which is free
// afterwards.
func TestLockSignals(t *testing.T) {
	noEmulator(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	name := shmtest.Name(t)
	for s, want := range map[syscall.Signal]int{syscall.SIGINT: 31, syscall.SIGTERM: 32, syscall.SIGHUP: 33} {
		cmd := exec.Command(exe, "lock", name, "--", "sh", "-c", `trap 'exit 31' INT; trap 'exit 32' TERM; trap 'exit 33' HUP; `+readyForever)
		cmd.Env = append(os.Environ(), asCommand+"=1")
		p := shmtest.StartCommand(t, cmd)
		p.Expect("ready")
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		if status := p.Wait(); status != want {
			t.Errorf("%v: status %d: %s", s, status, p.Stderr())
		}
		if status, out, errs := run(t, "", "lock", "-n", name, "--", "echo", "free"); status != 0 || out+errs != "free\n" {
			t.Errorf("after %v: status %d, %q, %q", s, status, out, errs)
		}
	}
	if status, _, errs := run(t, "", "rm", name); status != 0 {
		t.Error(errs)
	}
}

// Somebody who types ^C while it waits gets the prompt back.
func TestLockInterrupted(t *testing.T) {
	noEmulator(t)
	shmtest.Deadline(t, shmtest.Patience)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	name := shmtest.Name(t)
	cmd := exec.Command(exe, "lock", name, "--", "sh", "-c", "echo ready; read x")
	cmd.Env = append(os.Environ(), asCommand+"=1")
	p := shmtest.StartCommand(t, cmd)
	p.Expect("ready")
	b, err := shm.Open(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for {
			if i, err := lock.Describe(b, 0); err != nil || i.Waiting {
				cancel()
				return
			}
		}
	}()
	var out, errs strings.Builder
	status := Run(ctx, []string{"lock", name, "--", "echo", "no"}, nil, &out, &errs)
	if status != exitInterrupted || out.Len() > 0 || errs.String() != "shm: interrupted\n" {
		t.Errorf("status %d, %q, %q", status, out.String(), errs.String())
	}
	p.CloseInput()
	p.Wait()
}
