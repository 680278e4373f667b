//go:build shmcrash && linux

package shm_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/shmtest"
)

// TestKillTracker kills a tracker for Pythons, and a Go program under Python's,
// at every point of theirs.
func TestKillTracker(t *testing.T) {
	shmtest.Deadline(t, 4*shmtest.Patience)
	py := shmtest.Pythons(t)[0]
	dies := func(t *testing.T, point string, args ...string) *shmtest.Process {
		cmd := trackedCommand(t, py, args...)
		cmd.Env = append(cmd.Env, "SHM_CRASH="+point+":1")
		return shmtest.StartCommand(t, cmd)
	}
	tests := map[string]func(t *testing.T, point string){
		"pytracker:started": func(t *testing.T, point string) {
			p := dies(t, point, "exit", "none")
			if status, stderr := p.WaitAll(); status != 1 || !strings.Contains(stderr, "tracker did not start") {
				t.Errorf("status %d: %s", status, stderr)
			}
		},
		"pytracker:registered": func(t *testing.T, point string) {
			name := shmtest.Name(t)
			cmd := underPythonCommand(t, py, name)
			cmd.Env = append(cmd.Env, "SHM_CRASH="+point+":1")
			p := shmtest.StartCommand(t, cmd)
			p.Expect("") // what Python reads from the dead
			// Our journal and Python's tracker both have it; but another test's sweep may have
			// taken it, or be at it: between Stat's look at the block and at the leases, both may have gone.
			info, err := shm.Stat(name)
			if _, gone := shm.Stat(name); err == nil && gone == nil && (info.Owner.PID == 0 || info.Owner.Alive) || err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%+v, %v", info, err)
			}
			p.CloseInput()
			p.WaitAll()
			if exists(t, name) {
				t.Error("it is left")
			}
		},
	}
	for point, left := range map[string]int{"pytracker:eof": 2, "remove:parked": 1, "pytracker:removed": 1} {
		tests[point] = func(t *testing.T, point string) {
			one, two := shmtest.Name(t), shmtest.Name(t)
			p := dies(t, point, "make", one, two)
			for range 2 {
				switch word, pid, _ := strings.Cut(p.Line(), " "); word {
				case "made", "held":
					defer kill(t, atoi(pid))
				}
			}
			t.Cleanup(func() {
				p.WaitAll()
				// Whatever was on its way out is gone with the next sweep.
				if _, err := shm.Prune(); err != nil {
					t.Error(err)
				}
				n := 0
				for _, name := range []string{one, two} {
					if err := shm.Unlink(name); err == nil {
						n++
					} else if !errors.Is(err, fs.ErrNotExist) {
						t.Error(err)
					}
				}
				if n != left {
					t.Errorf("%d of two blocks are left, want %d", n, left)
				}
			})
		}
	}
	for _, point := range crash.Points {
		if strings.HasPrefix(point, "pytracker:") && tests[point] == nil {
			t.Errorf("nobody dies at %s", point)
		}
	}
	for point, test := range tests {
		t.Run(strings.ReplaceAll(point, ":", "-"), func(t *testing.T) { test(t, point) })
	}
}
