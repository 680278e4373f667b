package record_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

var broke = regexp.MustCompile(`^\['oven 3', 2000, 451\.5, 'piece (\d+)00 broke in worker (\d+)', True\]$`)

func TestRecord(t *testing.T) {
	program := shmtest.Programs(t)
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.Version, func(t *testing.T) {
			t.Parallel()
			name := shmtest.Name(t)
			layout := "3.9"
			if py.Minor == 8 {
				layout = "3.8"
			}
			service := shmtest.StartCommand(t, exec.Command(program("oven"), "serve", "-name", name, "-layout", layout))
			const fresh = "['oven 3', 0, None, None, False]"
			service.Expect(shown(fresh, name))
			var workers [2]*shmtest.Process
			for i := range workers {
				workers[i] = shmtest.StartCommand(t, exec.Command(program("oven"), "work", "-name", name, "-pieces", "1000"))
				workers[i].Expect("waiting: no temperature yet")
			}
			panel := shmtest.StartCommand(t, py.Cmd(t.Context(), "panel.py", name))
			for _, step := range []struct{ say, want string }{
				{"show", fresh},
				{"measure 451.5", "['oven 3', 0, 451.5, None, False]"},
				{"off", "['oven 3', 0, 451.5, None, False]"},
			} {
				panel.Send(step.say)
				panel.Expect(step.want)
			}
			for _, w := range workers {
				w.Expect("waiting: switched off")
			}
			panel.Send("on")
			panel.Line() // they are at work, so it may be anything
			for _, w := range workers {
				if status := w.Wait(); status != 0 {
					t.Errorf("a worker ends with %d: %s", status, w.Stderr())
				}
			}

			panel.Send("show")
			end := panel.Line()
			m := broke.FindStringSubmatch(end)
			if m == nil || m[2] != strconv.Itoa(workers[0].PID()) && m[2] != strconv.Itoa(workers[1].PID()) {
				t.Errorf("Python shows %s at the end; the workers are %d and %d", end, workers[0].PID(), workers[1].PID())
			}
			service.Send("")
			service.Expect(shown(end, name))

			// With Python's resource tracker, which acts after it.
			panel.CloseInput()
			if status, stderr := panel.WaitAll(); status != 0 || stderr != "" {
				t.Errorf("the panel ends with %d: %s", status, stderr)
			}
			if runtime.GOOS == "linux" {
				if _, err := shm.Stat(name); err != nil {
					t.Errorf("the panel has removed the record: %v", err)
				}
			}

			late := shmtest.StartCommand(t, exec.Command(program("oven"), "work", "-name", name))
			panel = shmtest.StartCommand(t, py.Cmd(t.Context(), "panel.py", name))
			panel.Send("off")
			panel.Line()
			late.Expect("waiting: switched off")
			service.CloseInput()
			if status := service.Wait(); status != 0 {
				t.Errorf("the service ends with %d: %s", status, service.Stderr())
			}
			late.Expect("the service has ended")
			if status := late.Wait(); status != 0 {
				t.Errorf("the worker ends with %d: %s", status, late.Stderr())
			}
			panel.Send("on")
			if status, stderr := panel.WaitAll(); status != 1 || strings.TrimSpace(stderr) != "the service has ended" {
				t.Errorf("the panel ends with %d: %s", status, stderr)
			}
			if b, err := shm.Open(name, nil); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the record is still there: %v, %v", b, err)
			}
		})
	}
}

// shown is how the service shows what Python shows without a name.
func shown(items, name string) string {
	return fmt.Sprintf("ShareableList(%s, name='%s')", items, name)
}
