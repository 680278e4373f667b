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
	var s unix.Statfs_t
	if err := ignoringEINTR(func() error { return unix.Statfs(dir, &s) }); err != nil {
		return Space{}, os.NewSyscallError("statfs", err)
	}
	return Space{
		Size: int64(s.F_blocks) * int64(s.F_bsize), Free: max(0, s.F_bavail*int64(s.F_bsize)),
		Inodes: int64(s.F_files), FreeInodes: int64(s.F_ffree),
		InMemory: unix.ByteSliceToString(s.F_fstypename[:]) == "mfs",
	}, nil
}
