package frames_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

func TestFrames(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("KeepName is for Linux only")
	}
	program := shmtest.Programs(t)
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.Version, func(t *testing.T) {
			t.Parallel()
			name := shmtest.Name(t)
			service := shmtest.StartCommand(t, exec.Command(program("service"), "-name", name, "-frames", "2"))
			if got := service.Line(); !strings.HasPrefix(got, "waiting") {
				t.Fatalf("the service says %q", got)
			}
			before, err := shm.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			var last string
			for _, care := range [][]string{nil, {"--careless"}, nil} {
				worker := shmtest.StartCommand(t, py.Cmd(t.Context(), append(append([]string{"worker.py"}, care...), name)...))
				for range 2 {
					line := service.Line()
					if !strings.HasPrefix(line, "frame ") || line == last {
						t.Errorf("the service says %q", line)
					}
					last = line
				}
				// With its resource tracker.
				if status, stderr := worker.WaitAll(); status != 0 || care == nil && stderr != "" {
					t.Errorf("the worker %q ends with %d: %s", care, status, stderr)
				}
				ctx, cancel := context.WithTimeout(t.Context(), shmtest.Patience)
				b, err := shm.Wait(ctx, name, nil) // the name may be gone for a moment
				cancel()
				if err != nil {
					t.Fatalf("after the worker %q: %v", care, err)
				}
				b.Close()
			}
			if !strings.HasPrefix(last, "frame 6: mean 76.5, from 0 to 255") {
				t.Errorf("the last frame: %q", last)
			}
			// The same block all the time.
			if after, err := shm.Stat(name); err != nil || after.Inode != before.Inode {
				t.Errorf("it was %+v and is %+v, %v", before, after, err)
			}
			if err := service.Cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			if status := service.Wait(); status != 0 {
				t.Errorf("the service ends with %d: %s", status, service.Stderr())
			}
			if _, err := shm.Stat(name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the block is still there: %v", err)
			}
		})
	}
}
