package handover_test

import (
	"errors"
	"io/fs"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) {
	// For the parent that is killed.
	shmtest.Sweep = func() { _, _ = shm.Prune() }
	shmtest.Main(m)
}

func TestHandover(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a block goes with the last process that has it open")
	}
	program := shmtest.Programs(t)
	for _, end := range []string{"enter", "kill"} {
		t.Run(end, func(t *testing.T) {
			parent := shmtest.StartCommand(t, exec.Command(program("parent"), program("child")))
			line := parent.Line()
			f := strings.Fields(strings.ReplaceAll(line, ",", ""))
			if len(f) != 6 || f[0] != "1000" || f[5] != "332833500" {
				t.Fatalf("the parent says %q", line)
			}
			name := f[3]
			shmtest.Watch(name)
			info, err := shm.Stat(name)
			if err != nil || info.Owner.PID != parent.PID() || !info.Owner.Alive || info.Lifetime != shm.Owned {
				t.Errorf("after the handover: %+v, %v; the parent is %d", info, err, parent.PID())
			}
			if end == "enter" {
				parent.Send("")
				if status := parent.Wait(); status != 0 {
					t.Errorf("the parent ends with %d: %s", status, parent.Stderr())
				}
			} else {
				parent.Kill()
				// Another test's sweep may be at it, and ours passes over what that has locked.
				for end := time.Now().Add(shmtest.Patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
					if _, err := shm.Prune(); err != nil {
						t.Error(err)
					}
					if _, err := shm.Stat(name); err != nil {
						break
					}
				}
			}
			if _, err := shm.Stat(name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the block is still there: %v", err)
			}
		})
	}
}
