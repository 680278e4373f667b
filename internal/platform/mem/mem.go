// Package mem makes, opens, maps, removes and lists shared memory objects. It
// takes plain values and knows nothing of blocks, owners or leases; names have
// been checked by its callers.
//
// An object is made in steps, so that a crash between any two leaves nothing
// and nobody sees it half made:
//
//	o, err := mem.New(dir, name, temp, size, mode, flags) // memory without a name
//	p, err := o.Map(false)                                // its bytes
//	                                                      // (the owner journals o.ID here)
//	err = o.Publish(name)                                 // now it has its name
//	o.Close()                                             // the mapping stays
//
// On Linux New uses O_TMPFILE and Publish linkat. Where the system cannot make
// an object without a name (macOS, Windows), New gives it its name at once,
// [Object.Named] is true from then on, and Publish does nothing.
package mem

import (
	"errors"
	"fmt"
	"io/fs"
)

// ErrNoSpace is wrapped by NoSpaceError.
var ErrNoSpace = errors.New("not enough shared memory")

// NoSpaceError says what was asked for, what was free and where.
type NoSpaceError struct {
	Asked, Free int64  // bytes; Free is -1 when unknown
	Where       string // the file system or the cgroup whose limit it is
}

func (e *NoSpaceError) Error() string {
	if e.Free < 0 {
		return fmt.Sprintf("%v: %s asked, no more to be had in %s", ErrNoSpace, Size(e.Asked), e.Where)
	}
	return fmt.Sprintf("%v: %s asked, %s free in %s", ErrNoSpace, Size(e.Asked), Size(e.Free), e.Where)
}

func (e *NoSpaceError) Unwrap() error { return ErrNoSpace }

// Size writes a number of bytes for people: 4096 is "4.0 KiB".
func Size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for ; f >= 1023.95 && i < 5; i++ {
		f /= 1024
	}
	return fmt.Sprintf("%.1f %ciB", f, "KMGTPE"[i])
}

// ID is an object's identity. Two objects that ever existed on one machine
// differ in it as long as Birth is known: inode numbers alone are used again.
// The zero ID is no object's. Windows has none, and macOS tells too little of
// the objects in its own place: their ID is a fingerprint of that, which a
// successor of the same name, size, mode and user has as well.
type ID struct {
	Dev, Ino uint64
	Birth    int64 // nanoseconds since 1970; 0 if the file system does not say
}

// Stat is what the system says of an object.
type Stat struct {
	ID
	Name     string // in a listing
	Size     int64
	Resident int64
	Mode     fs.FileMode
	UID      int // -1 if unknown
	Links    int
	Mark     string // the mark left by [Object.Mark], "" if none; only where asked for
}

// Flags of [New].
const (
	Sparse    = 1 << iota // do not reserve
	HugePages             // ask for huge pages when mapping
)

// ErrNotRegular is returned for a name that belongs to something other than
// shared memory: a directory, symbolic link, device or the like.
var ErrNotRegular = errors.New("not shared memory but another kind of file")

// ErrEmpty is returned for an object of size zero: its creator has not sized
// it yet, or never will.
var ErrEmpty = errors.New("the block is empty: its creator has not given it a size yet (shm.Wait waits for that)")

// Prefix begins every hidden name of ours: leases, second links, parked
// removals. No block may have such a name.
const Prefix = ".shm-"

// SizeMax is the largest size that can be mapped at all: half of a 47-bit
// address space, or what an int holds on 32-bit machines.
const SizeMax = int64(1)<<31 - 1 + (int64(1)<<46-int64(1)<<31+1)*int64(^uint(0)>>63)
