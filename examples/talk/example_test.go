package talk_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

func TestPairs(t *testing.T) {
	program := shmtest.Programs(t)
	for i, py := range shmtest.Pythons(t) {
		for _, pair := range []string{"go go", "go py", "py go", "py py"} {
			if pair == "go go" && i > 0 {
				continue // no Python in it
			}
			t.Run(py.Version+" "+pair, func(t *testing.T) {
				t.Parallel()
				server, client, _ := strings.Cut(pair, " ")
				command := func(language, role string, args ...string) *exec.Cmd {
					if language == "go" {
						return exec.Command(program(role), args...)
					}
					return py.Cmd(t.Context(), append([]string{role + ".py"}, args...)...)
				}
				var address []string // one fresh, one TCP
				if client == "py" {
					address = []string{"tcp:127.0.0.1:0"}
				}
				s := shmtest.StartCommand(t, command(server, "server", address...))
				c := shmtest.StartCommand(t, command(client, "client", s.Line()))
				for _, want := range []string{"20", "howdy", "pardon?"} {
					c.Expect(want)
				}
				for _, want := range []string{"got a list", "got a SharedMemory", "got a str"} {
					s.Expect(want)
				}
				for _, p := range []*shmtest.Process{s, c} {
					if status, stderr := p.WaitAll(); status != 0 || stderr != "" {
						t.Errorf("%v ends with %d: %s", p.Cmd.Args, status, stderr)
					}
				}
			})
		}
	}
}
