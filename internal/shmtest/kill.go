package shmtest

import (
	"fmt"
	"os"
	"strconv"
	"testing"
)

// Kills is how many processes to kill at random: what SHM_KILLS says, or else so many
// as a test run has time for.
func Kills(t testing.TB, ordinary int) int {
	s := os.Getenv("SHM_KILLS")
	if s == "" {
		return ordinary
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("SHM_KILLS: %v", err)
	}
	return n
}

// EveryStep tells whether there is time to kill at each of thousands of steps, not
// only at some, others each time: "make kill" has it, a run for a change has not.
func EveryStep(t testing.TB) bool { return Kills(t, 0) >= 1000 }

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
