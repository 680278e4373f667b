package shmtest

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// required reports whether SHM_REQUIRE, a list with commas, has what.
func required(what string) bool {
	return slices.Contains(strings.Split(os.Getenv("SHM_REQUIRE"), ","), what)
}

// Skip ends the test because the machine lacks something: "python", "qemu",
// "wine", "root", … On a machine that should have it, whose SHM_REQUIRE says
// so, the test fails instead.
func Skip(t testing.TB, what, reason string) {
	t.Helper()
	if required(what) {
		t.Fatalf("SHM_REQUIRE has %q, but: %s", what, reason)
	}
	t.Skipf("no %s: %s", what, reason)
}

// Deadline ends the whole test process, with the stacks of all goroutines, if
// the test is not over after d. It is a watchdog: no test passes or fails by
// being fast.
func Deadline(t testing.TB, d time.Duration) {
	t.Helper()
	name := t.Name()
	timer := time.AfterFunc(d, func() {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		fmt.Fprintf(os.Stderr, "shmtest: %s is not over after %v\n\n%s\n", name, d, stacks)
		abort()
	})
	t.Cleanup(func() { timer.Stop() })
}

// abort ends the process, not without what it started: the tests' own cleanup
// does not run any more.
func abort() {
	running.Range(func(p, _ any) bool {
		_ = p.(*os.Process).Kill()
		return true
	})
	atExit()
	os.Exit(1)
}
