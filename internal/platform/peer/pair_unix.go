//go:build unix

package peer

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Pair returns the two ends of a new stream socket, which no child inherits
// unless it is given one.
func Pair() (a, b *os.File, err error) {
	// Systems without SOCK_CLOEXEC have a moment between the two calls, in which
	// nobody may fork.
	syscall.ForkLock.RLock()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		unix.CloseOnExec(fds[0])
		unix.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	return os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket"), nil
}

// Shut ends what f, an end of a Pair, sends, for all processes that have it: the
// other end reads what there is, and then io.EOF.
func Shut(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var shut error
	err = raw.Control(func(fd uintptr) { shut = unix.Shutdown(int(fd), unix.SHUT_WR) })
	if err == nil {
		err = os.NewSyscallError("shutdown", shut)
	}
	return err
}
