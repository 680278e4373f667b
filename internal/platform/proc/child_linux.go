package proc

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Executable returns a path by which this very program can be executed again,
// even after its file was replaced or deleted.
func Executable() (string, error) { return "/proc/self/exe", nil }

// CloseFrom closes every descriptor from fd on. Only for the start of a process
// that knows what it needs.
func CloseFrom(fd int) {
	if unix.CloseRange(uint(fd), 1<<31-1, 0) == nil {
		return
	}
	for ; fd < 1024; fd++ { // kernels before 5.9
		_ = unix.Close(fd)
	}
}

// Mortal are the attributes of a child that the kernel kills when the thread ends
// that started it: with its parent, then, if that keeps the thread.
func Mortal() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
