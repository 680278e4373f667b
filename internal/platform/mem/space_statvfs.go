//go:build netbsd || solaris

package mem

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// SpaceOf asks the file system of dir. errors.ErrUnsupported for the system's
// place, which is not known.
func SpaceOf(dir string) (Space, error) {
	if dir == "" {
		return Space{}, errors.ErrUnsupported
	}
	var s unix.Statvfs_t
	if err := ignoringEINTR(func() error { return unix.Statvfs(dir, &s) }); err != nil {
		return Space{}, os.NewSyscallError("statvfs", err)
	}
	return Space{
		Size: int64(s.Blocks) * int64(s.Frsize), Free: int64(s.Bavail) * int64(s.Frsize),
		Inodes: int64(s.Files), FreeInodes: int64(s.Ffree),
	}, nil
}
