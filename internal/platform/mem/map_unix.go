//go:build unix

package mem

import (
	"os"
	"sync"
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

// Retired addresses are bounded in number, since each may be a kernel mapping
// of its own (the limit is 65 530 of those), and in bytes, since without a
// bound two million cycles of a 64 MiB block used up the address space.
const maxRetired = 4096

var maxRetiredBytes = func() int64 {
	if unsafe.Sizeof(uintptr(0)) == 4 {
		return 64 << 20
	}
	return 256 << 30
}()

var retired struct {
	sync.Mutex
	queue [][]byte // oldest first
	bytes int64
}

// Retire frees the memory behind p but keeps its addresses, so that a stale
// access faults instead of reaching whatever is mapped there next. Beyond
// maxRetired mappings or maxRetiredBytes the oldest addresses are given back.
func Retire(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	// One call replaces the mapping in place: munmap and mmap would leave a
	// moment in which another thread's mmap takes the addresses.
	_, err := unix.MmapPtr(-1, 0, unsafe.Pointer(&p[0]), uintptr(len(p)), unix.PROT_NONE,
		unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_FIXED|mapNoReserve)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	retired.Lock()
	defer retired.Unlock()
	retired.queue = append(retired.queue, p)
	retired.bytes += int64(len(p))
	for len(retired.queue) > maxRetired || retired.bytes > maxRetiredBytes {
		old := retired.queue[0]
		retired.queue[0] = nil
		retired.queue = retired.queue[1:]
		retired.bytes -= int64(len(old))
		if err := Unmap(old); err != nil {
			return err
		}
	}
	return nil
}
