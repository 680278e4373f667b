//go:build shmcrash

package crash

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

// SHM_CRASH=point:n kills the process with SIGKILL when it passes point for the
// n-th time; SHM_CRASH=*:n when it passes any point for the n-th time.
var (
	target string
	count  atomic.Int64
)

func init() {
	name, n, ok := cutLast(os.Getenv("SHM_CRASH"))
	if !ok {
		return
	}
	target = name
	i, err := strconv.ParseInt(n, 10, 64)
	if err != nil {
		panic("SHM_CRASH: " + err.Error())
	}
	count.Store(i)
}

func cutLast(s string) (string, string, bool) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

// Hook, if it is set, is called at every point.
var Hook func(name string)

// Point kills this process if the environment asked for it here.
func Point(name string) {
	if !slices.Contains(Points, name) {
		panic("crash: unknown point " + name)
	}
	if Hook != nil {
		Hook(name)
	}
	if target != name && target != "*" || count.Add(-1) != 0 {
		return
	}
	p, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		panic(err)
	}
	select {} // the signal is on its way
}
