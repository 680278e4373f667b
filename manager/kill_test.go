//go:build shmcrash && linux

package manager_test

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/shmtest"
)

// TestKillAtEveryPoint kills client or server at every step of a block's way
// from one to the other, and the server while it removes them. The block must
// then be gone, or somebody's, so that it goes with that one.
func TestKillAtEveryPoint(t *testing.T) {
	sides := map[string]string{
		"manager:recorded": "server", "manager:listed": "server", "manager:adopting": "server", "manager:removing": "server",
		"manager:offered": "client", "manager:tracked": "client", "manager:given": "client", "manager:disowned": "client",
		// Those below us, on the way.
		"create:published": "client", "forget:freed": "client", "disown:forgotten": "client", "adopt:recorded": "server",
	}
	offered := []string{kept, fresh}
	ways := map[string][]string{ // all, if it is not there
		"manager:recorded": offered, "manager:offered": offered, "manager:given": offered,
		"manager:adopting": {plain}, "manager:disowned": {plain}, "disown:forgotten": {plain}, "adopt:recorded": {plain},
	}
	for _, point := range crash.Points {
		side, ok := sides[point]
		if !ok {
			if strings.HasPrefix(point, "manager:") {
				t.Errorf("nobody is killed at %s", point)
			}
			continue
		}
		all := ways[point]
		if all == nil {
			all = []string{kept, fresh, plain}
		}
		for _, way := range all {
			t.Run(strings.ReplaceAll(point, ":", "-")+"-"+way, func(t *testing.T) {
				dir := alone(t)
				at := func(who string, cmd *exec.Cmd) *shmtest.Process {
					if who == side {
						cmd.Env = append(cmd.Env, fmt.Sprintf("SHM_CRASH=%s:1", point))
					}
					return shmtest.StartCommand(t, cmd)
				}
				server := at("server", shmtest.Command(t, "server", dir, "unix:@"+shmtest.Name(t)))
				args := []string{server.Line(), server.Line(), dir, way}
				client := at("client", shmtest.Command(t, "client", args...))
				if side == "client" {
					if client.Wait() != -1 {
						t.Fatal("the client was not killed")
					}
					m, err := helperConnect(args)
					if err != nil {
						t.Fatal(err)
					}
					// The server has seen its end when it answers another.
					if _, err := m.Create(t.Context(), 10); err != nil {
						t.Fatal(err)
					}
					// What the server lists of what it was offered, nobody's sweep removes.
					there := sweep(t, dir)
					if way == kept {
						for _, name := range names(t, m) {
							if !slices.Contains(there, name) {
								t.Errorf("the server lists %s, which is gone", name)
							}
						}
					}
					_ = m.Shutdown(t.Context()) // the client's block may be missing
					if status := server.Wait(); status != 0 {
						t.Errorf("the server ends with %d: %s", status, server.Stderr())
					}
				} else {
					line := client.Line() // a block, or what became of it
					if point == "manager:removing" {
						m, err := helperConnect(args)
						if err != nil {
							t.Fatal(err)
						}
						_ = m.Shutdown(t.Context())
					} else if _, err := shm.Dir(dir).Stat(line); err == nil {
						t.Errorf("the client has block %s of a server that is dead", line)
					}
					if server.Wait() != -1 {
						t.Fatal("the server was not killed")
					}
					client.Kill()
				}
				if left := sweep(t, dir); len(left) > 0 {
					t.Errorf("there are %q", left)
				}
				if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
					t.Errorf("there are %v, %v", entries, err)
				}
			})
		}
	}
}
