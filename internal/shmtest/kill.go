package shmtest

import (
	"fmt"
	"os"
	"testing"
)

// Crashing starts a helper that kills itself when it passes a point of package crash for
// the n-th time, "*" being any.
func Crashing(t testing.TB, point string, n int, helper string, args ...string) *Process {
	cmd := Command(t, helper, args...)
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, fmt.Sprintf("SHM_CRASH=%s:%d", point, n))
	return StartCommand(t, cmd)
}

// Killed waits for the process and reports whether it was killed, rather than ended.
func (p *Process) Killed() bool {
	p.Wait()
	return p.Cmd.ProcessState.String() == "signal: killed"
}
