//go:build !linux

package mem

import (
	"os"
	"runtime/debug"
	"sync/atomic"
	"unsafe"
)

func adviseHuge([]byte) {}

// populate touches every page of p, as there is no call that maps them all and
// says whether it could. What would have been a fault at the first use is an
// error here.
func populate(p []byte, write bool) (err error) {
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		if r := recover(); r != nil {
			if _, ok := r.(interface{ Addr() uintptr }); !ok {
				panic(r)
			}
			err = &NoSpaceError{Asked: int64(len(p)), Free: -1, Where: "the place of the block"}
		}
	}()
	for off := 0; off < len(p); off += os.Getpagesize() {
		// A page begins at off, so that the word is aligned, and there even if the
		// block is shorter. Adding zero changes nothing that another process is
		// writing; a plain store of what was read would.
		word := (*uint32)(unsafe.Pointer(&p[off]))
		if write {
			atomic.AddUint32(word, 0)
		} else {
			atomic.LoadUint32(word)
		}
	}
	return nil
}
