package manager_test

import (
	"errors"
	"io/fs"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

var name = regexp.MustCompile(`(psm_[0-9a-f]{8})`)

// eachPair runs f for every Python and every two of the languages. command
// returns the command that runs a program in a language.
func eachPair(t *testing.T, f func(t *testing.T, py shmtest.Python, one, other string, command func(language, program string) *exec.Cmd)) {
	if runtime.GOOS == "windows" {
		t.Skip("Python's managers have no Unix sockets there, and blocks go with their users")
	}
	program := shmtest.Programs(t)
	for i, py := range shmtest.Pythons(t) {
		for _, pair := range []string{"go go", "go py", "py go"} {
			if pair == "go go" && i > 0 {
				continue // no Python in it
			}
			if strings.HasPrefix(pair, "py") && strings.HasSuffix(py.Version, "*") {
				continue // modules without their interpreter, whose forkserver they need
			}
			t.Run(py.Version+" "+pair, func(t *testing.T) {
				t.Parallel()
				one, other, _ := strings.Cut(pair, " ")
				f(t, py, one, other, func(language, what string) *exec.Cmd {
					if language == "go" {
						return exec.Command(program(what))
					}
					return py.Cmd(t.Context(), what+".py")
				})
			})
		}
	}
}

func TestBasic(t *testing.T) {
	eachPair(t, func(t *testing.T, _ shmtest.Python, one, other string, command func(language, program string) *exec.Cmd) {
		env := []string{"MANAGER_ADDRESS=" + filepath.Join(shmtest.TempDir(t), "socket"), "MANAGER_KEY=00ff6b6579"}
		run := func(language, program string) *shmtest.Process {
			cmd := command(language, program)
			cmd.Env = append(cmd.Environ(), env...)
			return shmtest.StartCommand(t, cmd)
		}
		serve := run(one, "serve")
		serve.Expect("ready")

		basic := run(other, "basic")
		var made []string
		for _, want := range []string{
			"ShareableList([2, 3, 5, 7], name='NAME')", "ShareableList(['shared', 'between', 'two'], name='NAME')",
			"SharedMemory('NAME', size=128)",
		} {
			line := basic.Line()
			block := name.FindString(line)
			shmtest.Watch(block)
			made = append(made, block)
			// Where blocks grow to pages it is larger.
			if got := strings.Replace(line, block, "NAME", 1); got != want && runtime.GOOS == "linux" {
				t.Errorf("%q, want %q", got, want)
			}
		}
		if status, stderr := basic.WaitAll(); status != 0 || stderr != "" {
			t.Errorf("basic ends with %d: %s", status, stderr)
		}
		for _, block := range made {
			if _, err := shm.Stat(block); err != nil {
				t.Errorf("after its maker's end: %v", err)
			}
		}

		serve.Send("")
		serve.Expect("all blocks are removed")
		if status := serve.Wait(); status != 0 {
			t.Errorf("serve ends with %d: %s", status, serve.Stderr())
		}
		for _, block := range made {
			if _, err := shm.Stat(block); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("after the manager's end: %v", err)
			}
		}
	})
}

func TestSum(t *testing.T) {
	eachPair(t, func(t *testing.T, py shmtest.Python, one, other string, command func(language, program string) *exec.Cmd) {
		if py.Minor == 8 && other == "py" {
			t.Skip("CPython 3.8 has another layout of lists; README.md says what to do")
		}
		half := command(other, "half")
		sum := command(one, "sum")
		sum.Args = append(sum.Args, half.Args...)
		sum.Env = half.Env
		p := shmtest.StartCommand(t, sum)
		p.Expect("the sum is 1999000")
		if status, stderr := p.WaitAll(); status != 0 || one == "go" && stderr != "" {
			t.Errorf("sum ends with %d: %s", status, stderr)
		}
	})
}
