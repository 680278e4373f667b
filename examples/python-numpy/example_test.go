package pythonnumpy_test

import (
	"errors"
	"io/fs"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

// plain makes Go's and NumPy's way to print an array the same.
func plain(s string) string { return strings.Join(strings.Fields(strings.Trim(s, "[]")), " ") }

func TestPairs(t *testing.T) {
	program := shmtest.Programs(t)
	for i, py := range shmtest.PythonsWith(t, "numpy") {
		for _, pair := range []string{"go go", "go py", "py go", "py py"} {
			if pair == "go go" && i > 0 {
				continue // no Python in it
			}
			t.Run(py.Module+" "+pair, func(t *testing.T) {
				t.Parallel()
				creator, attacher, _ := strings.Cut(pair, " ")
				command := func(language, role string, args ...string) *exec.Cmd {
					if language == "go" {
						return exec.Command(program(role), args...)
					}
					return py.Cmd(t.Context(), append([]string{role + ".py"}, args...)...)
				}
				name := shmtest.Name(t)
				create := shmtest.StartCommand(t, command(creator, "create", name))
				create.Expect(name)

				attach := shmtest.StartCommand(t, command(attacher, "attach", name))
				for _, want := range []string{"1 1 2 3 5 8", "1 1 2 3 5 888"} {
					if got := plain(attach.Line()); got != want {
						t.Errorf("attach sees %q, not %q", got, want)
					}
				}
				// Python's resource tracker, which acts after it, is gone then.
				if status, stderr := attach.WaitAll(); status != 0 || stderr != "" {
					t.Errorf("attach ends with %d: %s", status, stderr)
				}
				if runtime.GOOS == "linux" {
					if _, err := shm.Stat(name); err != nil {
						t.Errorf("who opened the block has removed it: %v", err)
					}
				}

				create.Send("")
				if got := plain(create.Line()); got != "1 1 2 3 5 888" {
					t.Errorf("create sees %q", got)
				}
				if status := create.Wait(); status != 0 {
					t.Errorf("create ends with %d: %s", status, create.Stderr())
				}
				if b, err := shm.Open(name, nil); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("the block is still there: %v, %v", b, err)
				}
			})
		}
	}
}
