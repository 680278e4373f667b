//go:build unix

package proc

import "golang.org/x/sys/unix"

// TakesLines tells whether descriptor fd is open for writing, and a pipe.
func TakesLines(fd int) bool {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	return err == nil && flags&unix.O_ACCMODE != unix.O_RDONLY && IsPipe(fd)
}
