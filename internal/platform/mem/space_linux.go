package mem

import (
	"bufio"
	"bytes"
	"math"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	tmpfsMagic = 0x01021994
	ramfsMagic = 0x858458f6
	hugetlbfs  = 0x958458f6

	// memfdDir stands for the kernel's internal tmpfs, which has no limit of its
	// own.
	memfdDir = "memfd"

	// Up to this size fallocate itself is the check, since it fails at once and
	// rolls back. Beyond, looking first spares zeroing gigabytes only to fail.
	lookFirst = 1 << 20

	// A signal may interrupt fallocate; kernels before 5.16 or so then undo all
	// of the call. Go's own preemption signals come every 10 ms, and 16 MiB take
	// about 4 ms.
	piece    = 16 << 20
	minPiece = 256 << 10
)

// reserve makes the file size bytes long with memory behind every page from
// offset from on, or fails with NoSpaceError.
//
// What it cannot rule out: other processes may use the memory up between the
// look and the reservation, and the kernel then kills somebody instead of
// refusing. The look is repeated for every 16 MiB, to keep that gap small.
func reserve(fd int, dir string, from, size int64) error {
	if size-from > lookFirst && dir != memfdDir {
		if free, ok := freeSpace(dir); ok && size-from > free {
			return &NoSpaceError{Asked: size, Free: free, Where: dir}
		}
	}
	if free, where := memoryLeft(dir, size-from); size-from > free {
		return &NoSpaceError{Asked: size, Free: free, Where: where}
	}
	step := int64(piece)
	for off := from; off < size; {
		n := min(step, size-off)
		if off > from {
			if free, where := memoryLeft(dir, n); n > free {
				return &NoSpaceError{Asked: size, Free: free + off - from, Where: where}
			}
		}
		switch err := unix.Fallocate(fd, 0, off, n); err {
		case nil:
			off += n
		case unix.EINTR:
			step = max(step/2, minPiece)
		case unix.EOPNOTSUPP, unix.ENOSYS: // NFS, some FUSE
			if err := writeZeros(fd, off, size); err != nil {
				return sizeError(dir, size, os.NewSyscallError("write", err))
			}
			return nil
		default:
			return sizeError(dir, size, os.NewSyscallError("fallocate", err))
		}
	}
	return nil
}

// freeSpace returns what the file system of dir has left for us; not ok if it
// has no limit.
func freeSpace(dir string) (int64, bool) {
	if dir == memfdDir {
		return -1, false
	}
	var s unix.Statfs_t
	if err := ignoringEINTR(func() error { return unix.Statfs(resolve(dir), &s) }); err != nil || s.Blocks == 0 {
		return -1, false
	}
	return int64(s.Bavail) * int64(s.Bsize), true
}

// SpaceOf asks the file system of dir.
func SpaceOf(dir string) (Space, error) {
	var s unix.Statfs_t
	if err := ignoringEINTR(func() error { return unix.Statfs(resolve(dir), &s) }); err != nil {
		return Space{}, os.NewSyscallError("statfs", err)
	}
	return Space{
		Size: int64(s.Blocks) * int64(s.Bsize), Free: int64(s.Bavail) * int64(s.Bsize),
		Inodes: int64(s.Files), FreeInodes: int64(s.Ffree),
		InMemory: inMemory(int64(s.Type)),
	}, nil
}

func inMemory(fsType int64) bool {
	return fsType == tmpfsMagic || fsType == ramfsMagic || fsType == hugetlbfs
}

// Looking into cgroups and /proc/meminfo costs some 150 µs, ten times a small
// Create. So the answer is kept for a while and what we reserve is taken off it:
// small blocks pay for one look in many. How long depends on what is at stake:
// what would take less than a four-thousandth of the memory left may rely on
// what was true some seconds ago.
var left = struct {
	sync.Mutex
	at    time.Time
	free  int64
	where string
	disk  map[string]bool // directories that do not lie in memory
}{disk: map[string]bool{}}

const (
	keepLook      = 200 * time.Millisecond
	keepLookSmall = 5 * time.Second
)

// spare is what of a limit blocks may use. The last part is not for them: a
// process that fills its cgroup to the brim is killed at the next page of its
// own heap, and the kernel's counts run some hundred KiB behind.
func (l Limit) spare() int64 {
	return max(0, l.Free-min(max(l.Max/16, 1<<20), 32<<20))
}

// memoryLeft returns how much memory the machine and the cgroups above this
// process leave, and which of them is the tightest, and counts n as taken.
// Files on disks are not limited by memory.
func memoryLeft(dir string, n int64) (int64, string) {
	left.Lock()
	defer left.Unlock()
	age := time.Since(left.at)
	stale := age > keepLookSmall || age > keepLook && n > left.free>>12
	if stale {
		clear(left.disk)
	}
	onDisk, known := left.disk[dir]
	if !known {
		var s unix.Statfs_t
		onDisk = dir != memfdDir && unix.Statfs(dir, &s) == nil && !inMemory(int64(s.Type))
		left.disk[dir] = onDisk
	}
	if onDisk {
		return math.MaxInt64, dir
	}
	if stale || n > left.free/8 {
		left.free, left.where = math.MaxInt64, "memory"
		if limits := Headroom("/"); len(limits) > 0 { // the first is the tightest
			left.free, left.where = limits[0].spare(), limits[0].Where
		}
		left.at = time.Now()
	}
	free := left.free
	if n <= free {
		left.free -= n
	}
	return free, left.where
}

// Headroom returns every bound on memory that holds for this process, tightest
// first: the machine's, and those of every cgroup from ours up that can be
// seen, of version 1 and 2. root is "/" but in tests.
func Headroom(root string) []Limit {
	var limits []Limit
	mi := keyed(filepath.Join(root, "proc/meminfo"), 1024)
	swap := mi["SwapFree"]
	if avail, ok := mi["MemAvailable"]; ok {
		limits = append(limits, Limit{
			Where: "the machine's memory and swap",
			Max:   mi["MemTotal"] + mi["SwapTotal"],
			Used:  mi["MemTotal"] + mi["SwapTotal"] - avail - swap,
			Free:  avail + swap,
		})
	}
	for _, g := range memoryCgroups(root) {
		if l, ok := g.limit(swap); ok {
			limits = append(limits, l)
		}
	}
	sort.SliceStable(limits, func(i, j int) bool { return limits[i].Free < limits[j].Free })
	return limits
}

// cgroup is a directory of the cgroup file system that bounds our memory.
type cgroup struct {
	dir string
	v2  bool
}

func (g cgroup) limit(swapFree int64) (Limit, bool) {
	l := Limit{Where: "the cgroup " + g.dir}
	maxFile, usedFile, prefix := "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
	if g.v2 {
		maxFile, usedFile, prefix = "memory.max", "memory.current", ""
	}
	var ok bool
	if l.Max, ok = number(filepath.Join(g.dir, maxFile)); !ok || l.Max >= 1<<60 {
		return l, false // "max", or version 1's way to say so
	}
	if l.Used, ok = number(filepath.Join(g.dir, usedFile)); !ok {
		return l, false
	}
	// Pages of files on disk are given up before anybody is refused or killed.
	// Pages of shared memory are not among these two: they count as anonymous.
	stat := keyed(filepath.Join(g.dir, "memory.stat"), 1)
	l.Free = max(0, l.Max-l.Used+stat[prefix+"inactive_file"]+stat[prefix+"active_file"])
	if g.v2 {
		swap := swapFree
		if m, ok := number(filepath.Join(g.dir, "memory.swap.max")); ok {
			used, _ := number(filepath.Join(g.dir, "memory.swap.current"))
			swap = min(swap, max(0, m-used))
		}
		l.Free += swap
	} else if m, ok := number(filepath.Join(g.dir, "memory.memsw.limit_in_bytes")); ok && m < 1<<60 {
		l.Free += min(swapFree, max(0, m-l.Max))
	}
	return l, true
}

// memoryCgroups lists the cgroups that hold this process and bound its memory,
// innermost first.
func memoryCgroups(root string) []cgroup {
	mounts := cgroupMounts(root)
	var out []cgroup
	f, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return nil
	}
	for _, line := range strings.Split(strings.TrimSpace(string(f)), "\n") {
		part := strings.SplitN(line, ":", 3)
		if len(part) != 3 {
			continue
		}
		v2 := part[0] == "0" && part[1] == ""
		if !v2 && !hasWord(part[1], ',', "memory") {
			continue
		}
		m, ok := mounts[v2]
		if !ok {
			continue
		}
		// The path is seen from the root of the hierarchy, the mount may show only
		// a part of it (a container's); outside of it nothing can be looked at.
		rel, err := filepath.Rel(m.root, part[2])
		if err != nil || strings.HasPrefix(rel, "..") {
			rel = "."
		}
		for {
			out = append(out, cgroup{dir: filepath.Join(root, m.point, rel), v2: v2})
			if rel == "." {
				break
			}
			rel = filepath.Dir(rel)
		}
	}
	return out
}

type mount struct{ root, point string }

// cgroupMounts finds where the memory controller of version 1 (false) and the
// hierarchy of version 2 (true) are mounted.
func cgroupMounts(root string) map[bool]mount {
	out := map[bool]mount{}
	f, err := os.Open(filepath.Join(root, "proc/self/mountinfo"))
	if err != nil {
		return out
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		// 36 35 98:0 /root /point options … - type source superoptions
		head, tail, ok := strings.Cut(s.Text(), " - ")
		h, t := strings.Fields(head), strings.Fields(tail)
		if !ok || len(h) < 5 || len(t) < 3 {
			continue
		}
		v2 := t[0] == "cgroup2"
		if !v2 && (t[0] != "cgroup" || !hasWord(t[2], ',', "memory")) {
			continue
		}
		if _, seen := out[v2]; !seen {
			out[v2] = mount{unescape(h[3]), unescape(h[4])}
		}
	}
	return out
}

// unescape undoes mountinfo's octal spelling of blanks.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func hasWord(list string, sep byte, word string) bool {
	for _, w := range strings.Split(list, string(sep)) {
		if w == word {
			return true
		}
	}
	return false
}

// number reads a file that holds one number; not ok for "max" and the missing.
func number(file string) (int64, bool) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(b)), 10, 64)
	return n, err == nil
}

// keyed reads lines of the form "key[:] number …", times unit.
func keyed(file string, unit int64) map[string]int64 {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	out := map[string]int64{}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		if n, err := strconv.ParseInt(f[1], 10, 64); err == nil {
			out[strings.TrimSuffix(f[0], ":")] = n * unit
		}
	}
	return out
}
