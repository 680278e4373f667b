package worker

import (
	"io"
	"time"

	"github.com/sharedmem/shm/ring"
)

// Options are how a worker's process is started; nil and the zero value mean the
// defaults. They hold for workers in Go and in Python alike.
type Options struct {
	// Env and Dir are those of [os/exec.Cmd]: nil is this process's environment, ""
	// its working directory.
	Env []string
	Dir string

	// The standard streams, as in os/exec: nil is the null device. The workers of a pool
	// share them; writers that are no *os.File are called by one worker at a time.
	// What a function prints never gets between jobs and results.
	Stdin          io.Reader
	Stdout, Stderr io.Writer

	// Limits are resource limits of the process (setrlimit): soft and hard alike.
	Limits []Limit

	// CPUs are the processors it may run on, counted from 0; none means all that this
	// process may. Linux only.
	CPUs []int

	// Nice is added to this process's niceness. Less than 0 needs privileges.
	Nice int

	// Grace is how long a worker may go on when it is to stop, or when its job is
	// cancelled or timed out, before it is killed: 2 s by default.
	Grace time.Duration

	// Waiting is how worker and parent wait for each other, as in package ring.
	// Spin needs a core for each.
	Waiting ring.Waiting
}

// Resource is what a [Limit] limits.
type Resource int

// Resources. Sizes are bytes.
const (
	CPUTime       Resource = iota // seconds of processor time, then the process is killed
	FileSize                      // of the files it writes
	DataSize                      // of its heap and the like
	CoreSize                      // of core dumps
	OpenFiles                     // descriptors
	AddressSpace                  // Go itself asks for some 100 MB of it
	LockedMemory                  // mlock
	UserProcesses                 // processes and threads of this user
)

// Limit is one resource limit.
type Limit struct {
	Resource Resource
	Max      uint64
}

const defaultGrace = 2 * time.Second
