//go:build darwin || dragonfly || freebsd

package mem

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// SpaceOf asks the file system of dir. errors.ErrUnsupported for the system's
// place, which has none.
func SpaceOf(dir string) (Space, error) {
	if dir == "" {
		return Space{}, errors.ErrUnsupported
	}
	var s unix.Statfs_t
	if err := ignoringEINTR(func() error { return unix.Statfs(dir, &s) }); err != nil {
		return Space{}, os.NewSyscallError("statfs", err)
	}
	return Space{
		// What is left may be negative: root may go below the reserve.
		Size: int64(s.Blocks) * int64(s.Bsize), Free: max(0, int64(s.Bavail)*int64(s.Bsize)),
		Inodes: int64(s.Files), FreeInodes: int64(s.Ffree),
		InMemory: unix.ByteSliceToString(s.Fstypename[:]) == "tmpfs",
	}, nil
}
