// Package peer asks the system who is at the other end of a Unix socket, makes
// the files of such sockets private from their first moment, has locks for
// replacing them, and makes sockets that a child inherits.
//
//	who is it         Linux: SO_PEERCRED. macOS, FreeBSD: LOCAL_PEERCRED, and
//	                  for the process LOCAL_PEERPID, or what the credentials hold.
//	                  Elsewhere: errors.ErrUnsupported.
//	private files     Linux gives the file the mode of the socket; others do not.
package peer

import "syscall"

// Cred is a process as the kernel saw it when it connected or, for the side
// that listens, when it began to listen.
type Cred struct {
	PID int // 0 if the system does not say
	UID int
	GID int
}

// Of returns who is at the other end of c, a connected Unix socket.
func Of(c syscall.Conn) (Cred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Cred{}, err
	}
	var cred Cred
	var asked error
	if err := raw.Control(func(fd uintptr) { cred, asked = of(int(fd)) }); err != nil {
		return Cred{}, err
	}
	return cred, asked
}

// Private has the file that bind will make for the socket be mode 0600, or
// less if the umask says so. It is made for [net.ListenConfig.Control].
// errors.ErrUnsupported where only the umask decides; and a system may ignore
// it, so look at the file.
func Private(_, _ string, c syscall.RawConn) error {
	var set error
	if err := c.Control(func(fd uintptr) { set = private(int(fd)) }); err != nil {
		return err
	}
	return set
}
