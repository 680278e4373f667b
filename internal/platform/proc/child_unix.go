//go:build unix

package proc

import (
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// IsPipe tells whether descriptor fd is open and a pipe.
func IsPipe(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO
}

// Detached are the attributes of a child that a terminal's signals do not
// reach: it has a session of its own.
func Detached() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// IgnoreSignals makes this process outlive the signals that a group of
// processes or a whole machine is politely asked to end with. Its end is its
// parent's.
func IgnoreSignals() {
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU)
}
