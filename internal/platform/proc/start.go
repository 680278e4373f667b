package proc

import "os/exec"

// Resource is what a limit of a process limits.
type Resource int

// Resources, as setrlimit has them.
const (
	CPUTime  Resource = iota // seconds
	FileSize                 // bytes, as all sizes
	DataSize
	CoreSize
	OpenFiles
	AddressSpace
	LockedMemory
	UserProcesses
	Resources // how many there are
)

// Start is cmd.Start for a child that may run on some processors only (counted from
// 0; none: on all that we may) and has another niceness, which is added to ours. The
// process has both from its first instruction on. errors.ErrUnsupported
// outside Linux if either is asked for.
func Start(cmd *exec.Cmd, cpus []int, nice int) error {
	if len(cpus) == 0 && nice == 0 {
		return cmd.Start()
	}
	return startAs(cmd, cpus, nice)
}
