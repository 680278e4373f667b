//go:build unix && !aix

package mem

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapShared maps the first size bytes of fd. unix.MmapPtr is used because
// unix.Mmap keeps a process-wide table under one mutex (golang/go#80739).
func mapShared(fd int, size int64, readOnly bool) ([]byte, error) {
	if size <= 0 || size != int64(int(size)) {
		return nil, unix.EOVERFLOW
	}
	prot := unix.PROT_READ
	if !readOnly {
		prot |= unix.PROT_WRITE
	}
	p, err := unix.MmapPtr(fd, 0, nil, uintptr(size), prot, unix.MAP_SHARED)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return unsafe.Slice((*byte)(p), size), nil
}

// Unmap gives p, which Map returned, back to the system. Its addresses may be
// handed out again at once, even within the next call to Map: use Retire for
// memory that somebody may still hold a pointer to.
func Unmap(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	return os.NewSyscallError("munmap", unix.MunmapPtr(unsafe.Pointer(&p[0]), uintptr(len(p))))
}

// wall replaces the memory behind p by nothing, in its place. One call does it:
// munmap and mmap would leave a moment in which another thread's mmap takes the
// addresses.
func wall(p []byte) (kept bool, err error) {
	_, err = unix.MmapPtr(-1, 0, unsafe.Pointer(&p[0]), uintptr(len(p)), unix.PROT_NONE,
		unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_FIXED|mapNoReserve)
	return err == nil, os.NewSyscallError("mmap", err)
}

// tearDown gives the addresses back that wall kept.
func tearDown(p []byte) error { return Unmap(p) }
