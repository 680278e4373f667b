package pythonlists_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

func TestGo(t *testing.T) {
	program := shmtest.Programs(t)
	for _, flags := range [][]string{nil, {"-exact"}, {"-layout", "3.8"}, {"-layout", "3.8", "-exact"}} {
		t.Run("create "+strings.Join(flags, " "), func(t *testing.T) {
			name := shmtest.Name(t)
			exact := slices.Contains(flags, "-exact")
			run(t, name, exec.Command(program("create"), append(flags, name)...), exact,
				exec.Command(program("attach"), name), "go", exact)
		})
	}
}

func TestPython(t *testing.T) {
	program := shmtest.Programs(t)
	for _, py := range shmtest.Pythons(t) {
		var layout []string
		if py.Minor == 8 {
			layout = []string{"-layout", "3.8"}
		}
		for _, pair := range []string{"go py", "go py exact", "py go", "py py"} {
			t.Run(py.Version+" "+pair, func(t *testing.T) {
				t.Parallel()
				name := shmtest.Name(t)
				exact := strings.HasSuffix(pair, "exact")
				creator := py.Cmd(t.Context(), "create.py", name)
				if strings.HasPrefix(pair, "go") {
					flags := append([]string{}, layout...)
					if exact {
						flags = append(flags, "-exact")
					}
					creator = exec.Command(program("create"), append(flags, name)...)
				}
				attacher, language := py.Cmd(t.Context(), "attach.py", name), "py"
				if strings.HasSuffix(pair, "go") {
					attacher, language = exec.Command(program("attach"), name), "go"
				}
				// No attacher sees the zero: Python never does, and made no list that keeps it.
				run(t, name, creator, exact, attacher, language, false)
			})
		}
	}
}

// run has creator and attacher work on a list. Each may or may not see the zero
// at the end of an item.
func run(t *testing.T, name string, creator *exec.Cmd, creatorSees bool, attacher *exec.Cmd, language string, attacherSees bool) {
	t.Helper()
	shown := func(ice, count string, zero bool) string {
		ended := "'?'"
		if zero {
			ended = `'?\x00'`
		}
		return fmt.Sprintf(`ShareableList(['howdy', b'HoWdY', %s, 100, None, True, %s, %s, '?\x00$'], name='%s')`, ice, count, ended, name)
	}
	create := shmtest.StartCommand(t, creator)
	create.Expect(name)
	attach := shmtest.StartCommand(t, attacher)
	attach.Expect(shown("-273.154", "42", attacherSees))
	if language == "go" {
		attach.Expect("string []uint8 float64 int64 <nil> bool int64 string string ")
		if got := attach.Line(); !strings.Contains(got, "item 2: too long") {
			t.Errorf("attach says %q", got)
		}
	} else {
		attach.Expect("str bytes float int NoneType bool int str str")
		attach.Expect("bytes/str item exceeds available storage")
	}
	attach.Expect("dry ice")
	attach.Expect("9 6 1")
	if attacherSees {
		attach.Expect("2 2")
	} else {
		attach.Expect("1 2")
	}
	// Python's resource tracker, which acts after it, is gone then.
	if status, stderr := attach.WaitAll(); status != 0 || stderr != "" {
		t.Errorf("attach ends with %d: %s", status, stderr)
	}
	if runtime.GOOS == "linux" {
		if _, err := shm.Stat(name); err != nil {
			t.Errorf("who opened the list has removed it: %v", err)
		}
	}

	create.Send("")
	create.Expect(shown("'dry ice'", "43", creatorSees))
	if status := create.Wait(); status != 0 {
		t.Errorf("create ends with %d: %s", status, create.Stderr())
	}
	if b, err := shm.Open(name, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the list is still there: %v, %v", b, err)
	}
}
