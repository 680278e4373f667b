package mem

import (
	"sync"
	"unsafe"
)

// Retired addresses are bounded in number, since each may be a kernel mapping
// of its own (Linux allows 65 530 of those), and in bytes, since without a
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
	if kept, err := wall(p); !kept {
		return err
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
		if err := tearDown(old); err != nil {
			return err
		}
	}
	return nil
}
