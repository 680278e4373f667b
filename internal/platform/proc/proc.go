// Package proc knows processes: which one this is, whether a PID still means
// the process it meant, and which processes hold which shared memory. It takes
// plain values and knows nothing of blocks or owners.
//
// Everything it says of other processes is a snapshot: by the time it is read
// they may have gone. A PID alone never identifies a process, since the system
// uses it again; PID and start time together do, inside one PID namespace.
//
//	t, err := proc.StartTime(pid)    // remember both
//	…
//	now, err := proc.StartTime(pid)  // the same process if now == t
//
// [Scan] looks into every process once and says who holds which memory;
// [Claim] asks the kernel about a single file and is right even about processes
// that cannot be seen.
//
// Linux has all of it. Elsewhere functions return an error that wraps
// [errors.ErrUnsupported], and PIDNamespace returns 0.
package proc

import (
	"bytes"
	"errors"
	"strconv"
)

// Key identifies a file or shared memory object while it exists. Paths do not:
// memory made without a name (O_TMPFILE) shows a deleted name in the maps of
// its holders for ever, even after it was given one.
// (System V segments have no inode of their own; theirs is made up.)
type Key struct{ Dev, Ino uint64 }

// Kind tells the objects on the kernel's internal file system of shared memory
// from each other and from files.
type Kind int

const (
	File   Kind = iota // of a file system; nameless if Links is 0
	Memfd              // memfd_create
	SysV               // shmget
	Shared             // MAP_SHARED|MAP_ANONYMOUS, which processes inherit from each other
)

func (k Kind) String() string {
	return [...]string{"file", "memfd", "sysv", "shared"}[k]
}

// An Object is memory that at least one process has open or mapped.
type Object struct {
	Key
	Kind     Kind
	Name     string // a file's path as its first holder sees it, a memfd's name, a SysV key
	Size     int64  // bytes
	Resident int64  // bytes that occupy memory or swap
	Links    int    // names it has; -1 if that could not be found out
	// Guess says that only mappings were seen, and the object itself could not
	// be asked: Size and Resident are then what its holders have of it, and the
	// truth is as much or more.
	Guess   bool
	Holders []Holder // by PID
}

// Holder is a process that has an object open or mapped.
type Holder struct {
	PID    int    `json:"pid"`
	Name   string `json:"name"`   // of the command, as ps shows it
	UID    int    `json:"uid"`    // -1 if it went meanwhile
	Mapped int64  `json:"mapped"` // bytes of address space
	Open   int    `json:"open"`   // descriptors
}

// Snapshot is what Scan saw.
type Snapshot struct {
	Objects map[Key]*Object
	// Processes were looked into. Refused were there but belong to others, and
	// may hold anything; HidesPIDs says that /proc does not even show whether
	// there are more of those. Kernel threads are not counted: they map nothing.
	Processes, Refused int
	HidesPIDs          bool
}

// Complete says that every process of this PID namespace was looked into.
func (s *Snapshot) Complete() bool { return s.Refused == 0 && !s.HidesPIDs }

// ErrHeld is returned by Claim for a file that some process has open.
var ErrHeld = errors.New("held by another process")

// startTimeField is where the start time stands in /proc/PID/stat, counted
// from the field that follows the command's name: field 22 of proc(5), which
// counts from one and has PID and name first.
const startTimeField = 22 - 3

var errStat = errors.New("proc: /proc/PID/stat does not look as it should")

// parseStartTime reads the start time from the text of /proc/PID/stat. The
// command's name stands there in parentheses and unescaped, and a process may
// choose it, spaces, parentheses and newlines included: only what follows the
// last closing parenthesis can be trusted to be fields.
func parseStartTime(stat []byte) (uint64, error) {
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 {
		return 0, errStat
	}
	fields := bytes.Fields(stat[i+1:])
	if len(fields) <= startTimeField {
		return 0, errStat
	}
	t, err := strconv.ParseUint(string(fields[startTimeField]), 10, 64)
	if err != nil {
		return 0, errStat
	}
	return t, nil
}

var sysvPrefix = []byte("/SYSV")

// sysvInode is set in the inode of System V segments.
const sysvInode = 1 << 63

// A mapping is one line of /proc/PID/maps.
type mapping struct {
	Key
	start, end, offset uint64
	path               []byte
}

// parseMapping reads a line of /proc/PID/maps or smaps:
//
//	7f5ee8a00000-7f5ee8a02000 rw-s 00000000 00:1a 12345      /dev/shm/cam0
//
// It is called for some ten thousand lines a run and therefore allocates
// nothing. ok is false for lines that are no mapping of a file.
func parseMapping(line []byte) (m mapping, ok bool) {
	var major, minor uint64
	if m.start, line, ok = hexUntil(line, '-'); !ok {
		return m, false
	}
	if m.end, line, ok = hexUntil(line, ' '); !ok || m.end < m.start {
		return m, false
	}
	if len(line) < 5 || line[4] != ' ' { // the permissions
		return m, false
	}
	if m.offset, line, ok = hexUntil(line[5:], ' '); !ok {
		return m, false
	}
	if major, line, ok = hexUntil(line, ':'); !ok {
		return m, false
	}
	if minor, line, ok = hexUntil(line, ' '); !ok {
		return m, false
	}
	i := 0
	for ; i < len(line) && line[i] >= '0' && line[i] <= '9'; i++ {
		m.Ino = m.Ino*10 + uint64(line[i]-'0')
	}
	m.Dev = mkdev(major, minor)
	m.path = bytes.TrimLeft(line[i:], " ")
	if bytes.HasPrefix(m.path, sysvPrefix) {
		// The kernel shows a segment's ID for its inode: 0 for the first, and for
		// others perhaps the number that a memfd on the same device has.
		m.Ino |= sysvInode
	}
	// Anonymous memory, the stack, and the like have none.
	return m, m.Ino != 0
}

// hexUntil reads a hexadecimal number and the byte after it.
func hexUntil(line []byte, end byte) (n uint64, rest []byte, ok bool) {
	for i, c := range line {
		switch {
		case c >= '0' && c <= '9':
			n = n<<4 | uint64(c-'0')
		case c >= 'a' && c <= 'f':
			n = n<<4 | uint64(c-'a'+10)
		case c == end && i > 0:
			return n, line[i+1:], true
		default:
			return 0, nil, false
		}
	}
	return 0, nil, false
}

// mkdev makes the number that stat has in st_dev from its two halves, which
// are all that maps and statx have.
func mkdev(major, minor uint64) uint64 {
	return major&0xfffff000<<32 | major&0xfff<<8 | minor&0xffffff00<<12 | minor&0xff
}

// classify tells what lies on the kernel's internal file system by the name
// that the kernel gave it.
func classify(path []byte) (Kind, string) {
	path = bytes.TrimSuffix(path, []byte(" (deleted)"))
	if name, ok := bytes.CutPrefix(path, []byte("/memfd:")); ok {
		return Memfd, string(name)
	}
	if key, ok := bytes.CutPrefix(path, sysvPrefix); ok {
		return SysV, string(key)
	}
	return Shared, ""
}
