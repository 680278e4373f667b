package mem

import (
	"os"

	"golang.org/x/sys/unix"
)

// reserve makes the file size bytes long with room on its file system behind
// every page from offset from on, or fails with NoSpaceError.
func reserve(fd int, dir string, from, size int64) error {
	store := unix.Fstore_t{
		Flags: unix.F_ALLOCATEALL, Posmode: unix.F_PEOFPOSMODE, Length: size - from,
	}
	err := ignoringEINTR(func() error { return unix.FcntlFstore(uintptr(fd), unix.F_PREALLOCATE, &store) })
	switch err {
	case nil:
		err = ignoringEINTR(func() error { return unix.Ftruncate(fd, size) })
		return sizeError(dir, size, os.NewSyscallError("ftruncate", err))
	case unix.ENOTSUP, unix.EOPNOTSUPP, unix.EINVAL: // SMB, FUSE and the like
		return sizeError(dir, size, os.NewSyscallError("write", writeZeros(fd, from, size)))
	}
	return sizeError(dir, size, os.NewSyscallError("fcntl", err))
}
