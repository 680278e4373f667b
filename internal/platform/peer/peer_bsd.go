//go:build darwin || freebsd

package peer

import (
	"errors"

	"golang.org/x/sys/unix"
)

// solLocal is SOL_LOCAL, which FreeBSD spells as a plain 0.
const solLocal = 0

func of(fd int) (Cred, error) {
	c, err := unix.GetsockoptXucred(fd, solLocal, unix.LOCAL_PEERCRED)
	if err != nil {
		return Cred{}, err
	}
	cred := Cred{PID: pid(fd), UID: int(c.Uid)}
	if c.Ngroups > 0 {
		cred.GID = int(c.Groups[0])
	}
	return cred, nil
}

func private(int) error { return errors.ErrUnsupported }
