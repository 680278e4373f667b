package peer

import "golang.org/x/sys/unix"

func of(fd int) (Cred, error) {
	c, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Cred{}, err
	}
	return Cred{PID: int(c.Pid), UID: int(c.Uid), GID: int(c.Gid)}, nil
}

// unix(7): bind gives the file the socket's own mode, less the umask.
func private(fd int) error { return unix.Fchmod(fd, 0o600) }
