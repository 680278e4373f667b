//go:build unix && !linux && !darwin && !aix

package mem

import "os"

// reserve makes the file size bytes long with memory behind every page from
// offset from on, or fails with NoSpaceError. It writes them, which every file
// system understands: posix_fallocate exists on some of these systems only, and
// ZFS refuses it.
func reserve(fd int, dir string, from, size int64) error {
	if free, ok := freeSpace(dir); ok && size-from > free {
		return &NoSpaceError{Asked: size, Free: free, Where: dir}
	}
	return sizeError(dir, size, os.NewSyscallError("write", writeZeros(fd, from, size)))
}
