package proc

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// startAs starts the child from a thread that has what the child is to have, as it
// inherits that. The thread ends with its goroutine, since a niceness cannot be taken
// back without privileges.
func startAs(cmd *exec.Cmd, cpus []int, nice int) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot end, and is the one that ps shows. While we have it,
			// another goroutine is on another one.
			started <- startAs(cmd, cpus, nice)
			runtime.UnlockOSThread()
			return
		}
		started <- func() error {
			if len(cpus) > 0 {
				var set unix.CPUSet
				for _, c := range cpus {
					if c < 0 || c >= len(set)*64 {
						return fmt.Errorf("there is no processor %d: %w", c, syscall.EINVAL)
					}
					set.Set(c)
				}
				if err := unix.SchedSetaffinity(0, &set); err != nil {
					return os.NewSyscallError("sched_setaffinity", err)
				}
			}
			if nice != 0 {
				now, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
				if err == nil {
					// The system call counts the other way round, from 40 to 1.
					err = unix.Setpriority(unix.PRIO_PROCESS, 0, 20-now+nice)
				}
				if err != nil {
					return os.NewSyscallError("setpriority", err)
				}
			}
			return cmd.Start()
		}()
	}()
	return <-started
}

// SetLimit sets a resource limit, soft and hard, of a process of ours.
func SetLimit(pid int, what Resource, limit uint64) error {
	if what < 0 || what >= Resources {
		return syscall.EINVAL
	}
	number := [Resources]int{unix.RLIMIT_CPU, unix.RLIMIT_FSIZE, unix.RLIMIT_DATA, unix.RLIMIT_CORE,
		unix.RLIMIT_NOFILE, unix.RLIMIT_AS, unix.RLIMIT_MEMLOCK, unix.RLIMIT_NPROC}[what]
	return os.NewSyscallError("prlimit", unix.Prlimit(pid, number, &unix.Rlimit{Cur: limit, Max: limit}, nil))
}

// AwaitExit returns when the child has ended, and leaves it to be waited for. It
// occupies no thread, as [os.Process.Wait] does, if the kernel has descriptors
// of processes (5.4).
func AwaitExit(p *os.Process) {
	fd := -1
	err := p.WithHandle(func(handle uintptr) {
		fd, _ = unix.FcntlInt(handle, unix.F_DUPFD_CLOEXEC, 3)
	})
	if err != nil || fd < 0 {
		return // Wait does it all, then
	}
	if unix.SetNonblock(fd, true) != nil {
		_ = unix.Close(fd)
		return
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || err != nil && err != unix.EINTR
	})
}

// Resident returns how many bytes of memory a process occupies, 0 if it is gone.
func Resident(pid int) int64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0
	}
	if f := bytes.Fields(b); len(f) > 1 {
		if n, err := strconv.ParseInt(string(f[1]), 10, 64); err == nil {
			return n * int64(os.Getpagesize())
		}
	}
	return 0
}

// Exiting reports whether a process has begun to end, or is gone. One that closes what it
// has open because it ends has begun to before.
func Exiting(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return true
	}
	// The name in parentheses may be anything; what follows is state, parent, group,
	// session, terminal, its group, flags.
	const flags, exiting = 6, 0x4 // PF_EXITING
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) <= flags {
		return true
	}
	n, err := strconv.ParseUint(string(f[flags]), 10, 64)
	return err != nil || n&exiting != 0
}
