package proc

import (
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Executable returns a path by which this very program can be executed again,
// even after its file was replaced or deleted.
func Executable() (string, error) { return "/proc/self/exe", nil }

// CloseFrom closes every descriptor from fd on that was inherited. Only for the start of a process
// that knows what it needs. What this process has opened is close-on-exec, as Go opens
// everything: the run-time's own among it, which is there before the first line of main if
// the init of some package has opened a file, and without which the process would crash.
func CloseFrom(fd int) {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		for ; fd < 1024; fd++ {
			closeInherited(fd)
		}
		return
	}
	for _, e := range all {
		if n, err := strconv.Atoi(e.Name()); err == nil && n >= fd {
			closeInherited(n)
		}
	}
}

func closeInherited(fd int) {
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
		_ = unix.Close(fd)
	}
}

// Mortal are the attributes of a child that the kernel kills when the thread ends
// that started it: with its parent, then, if that keeps the thread.
func Mortal() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
