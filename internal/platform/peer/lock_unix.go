//go:build linux || darwin || freebsd || openbsd || netbsd || dragonfly

package peer

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Lock creates the file path and takes its lock, unless somebody has it; it
// does not wait. release removes the file.
func Lock(path string) (release func(), ok bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, false, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = nil
		}
		return nil, false, err
	}
	// The last holder may have removed it before we had the lock. Then another
	// file can have the name, and another process that one's lock.
	mine, err := f.Stat()
	if err == nil {
		var named os.FileInfo
		if named, err = os.Lstat(path); err == nil && os.SameFile(mine, named) {
			return func() { _ = os.Remove(path); f.Close() }, true, nil
		}
	}
	f.Close()
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return nil, false, err
}
