package proc

import (
	"bytes"
	"cmp"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Scan looks once into every process and reports the objects that are held and
// for whose key want returns true, and all memfds, SysV segments and shared
// anonymous memory. want is called once per mapping and descriptor, from one
// goroutine. Files of other file systems are not touched, and nothing waits
// for a file server that hangs.
func Scan(want func(Key) bool) (*Snapshot, error) { return scan("/proc", want) }

func scan(root string, want func(Key) bool) (*Snapshot, error) {
	dir, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	names, err := dir.Readdirnames(-1)
	dir.Close()
	if err != nil {
		return nil, err
	}
	s := scanner{
		snapshot: &Snapshot{Objects: map[Key]*Object{}, HidesPIDs: hidesPIDs(root)},
		want:     want,
		internal: internalDevice(),
		buf:      make([]byte, 64<<10),
	}
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			s.process(pid, root+"/"+name)
		}
	}
	for _, o := range s.snapshot.Objects {
		slices.SortFunc(o.Holders, func(a, b Holder) int { return cmp.Compare(a.PID, b.PID) })
		if o.Guess {
			guessResident(root, o)
		}
	}
	return s.snapshot, nil
}

// scanner holds what one Scan reuses from process to process.
type scanner struct {
	snapshot *Snapshot
	want     func(Key) bool
	internal uint64 // the device of memfds and their like; 0 if unknown
	buf      []byte
}

// process looks into one process, whose folder in /proc is path.
func (s *scanner) process(pid int, path string) {
	errMaps := s.maps(pid, path)
	errFDs := s.fds(pid, path)
	switch {
	case refused(errMaps) || refused(errFDs):
		if !kernelThread(path) {
			s.snapshot.Refused++
		}
	case errors.Is(errMaps, fs.ErrNotExist), errors.Is(errMaps, unix.ESRCH):
		// It has gone, and holds nothing any more.
	default:
		s.snapshot.Processes++
	}
}

func refused(err error) bool {
	return errors.Is(err, fs.ErrPermission) // EACCES and EPERM
}

// maps reads the mappings of a process.
func (s *scanner) maps(pid int, path string) error {
	fd, err := unix.Open(path+"/maps", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// A read returns whole lines as long as they fit, but nobody promises so:
	// what is left of the last line waits at the front of the buffer.
	have := 0
	for {
		n, err := unix.Read(fd, s.buf[have:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n <= 0 {
			return nil
		}
		rest := s.buf[:have+n]
		for {
			i := bytes.IndexByte(rest, '\n')
			if i < 0 {
				break
			}
			s.mapping(pid, path, rest[:i])
			rest = rest[i+1:]
		}
		have = copy(s.buf, rest)
		if have == len(s.buf) {
			s.buf = append(s.buf, make([]byte, len(s.buf))...)
		}
	}
}

// mapping takes in one line of maps.
func (s *scanner) mapping(pid int, path string, line []byte) {
	m, ok := parseMapping(line)
	if !ok || m.Dev != s.internal && !s.want(m.Key) {
		return
	}
	o := s.object(m.Key, m.path)
	if o.Guess {
		// Through this link the object itself can be asked, though its file was
		// closed; the kernel lets only the privileged.
		link := path + "/map_files/" + strconv.FormatUint(m.start, 16) + "-" + strconv.FormatUint(m.end, 16)
		var st unix.Statx_t
		if statx(unix.AT_FDCWD, link, &st) == nil {
			o.learn(&st)
		} else {
			o.Size = max(o.Size, int64(m.offset+m.end-m.start))
			if !bytes.HasSuffix(m.path, []byte(" (deleted)")) {
				o.Links = 1
			}
		}
	}
	o.holder(pid, path).Mapped += int64(m.end - m.start)
}

// fds looks at the descriptors of a process.
func (s *scanner) fds(pid int, path string) error {
	dir, err := unix.Open(path+"/fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	var names []string
	for {
		n, err := unix.ReadDirent(dir, s.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n <= 0 {
			return nil
		}
		_, _, names = unix.ParseDirent(s.buf[:n], -1, names[:0])
		for _, name := range names {
			var st unix.Statx_t
			if statx(dir, name, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
				continue // closed meanwhile, or a socket, pipe or terminal
			}
			key := Key{mkdev(uint64(st.Dev_major), uint64(st.Dev_minor)), st.Ino}
			if key.Dev != s.internal && !s.want(key) {
				continue
			}
			o := s.snapshot.Objects[key]
			if o == nil || o.Name == "" {
				var link [unix.PathMax]byte
				n, err := unix.Readlinkat(dir, name, link[:])
				if err != nil {
					n = 0
				}
				o = s.object(key, link[:n])
			}
			o.learn(&st)
			o.holder(pid, path).Open++
		}
	}
}

// statx asks what lies behind a link of /proc, from what the kernel has at
// hand: the file may lie on a server that does not answer.
func statx(dir int, path string, st *unix.Statx_t) error {
	return unix.Statx(dir, path, unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT,
		unix.STATX_TYPE|unix.STATX_INO|unix.STATX_SIZE|unix.STATX_BLOCKS|unix.STATX_NLINK, st)
}

// object returns the object of that key, made if need be. Until somebody calls
// learn it is a guess.
func (s *scanner) object(key Key, path []byte) *Object {
	o := s.snapshot.Objects[key]
	if o == nil {
		o = &Object{Key: key, Links: -1, Guess: true, Name: string(path)}
		if key.Dev == s.internal {
			o.Kind, o.Name = classify(path)
		}
		s.snapshot.Objects[key] = o
	}
	return o
}

// learn takes over what the object itself says.
func (o *Object) learn(st *unix.Statx_t) {
	o.Guess = false
	o.Size, o.Resident, o.Links = int64(st.Size), int64(st.Blocks)*512, int(st.Nlink)
}

// holder returns the entry of a process, made if need be. Scan goes process by
// process, so that it can only be the last one.
func (o *Object) holder(pid int, path string) *Holder {
	if n := len(o.Holders); n > 0 && o.Holders[n-1].PID == pid {
		return &o.Holders[n-1]
	}
	h := Holder{PID: pid, UID: -1}
	if comm, err := os.ReadFile(path + "/comm"); err == nil {
		h.Name = strings.TrimSuffix(string(comm), "\n")
	}
	var st unix.Stat_t
	if unix.Stat(path, &st) == nil {
		h.UID = int(st.Uid)
	}
	o.Holders = append(o.Holders, h)
	return &o.Holders[len(o.Holders)-1]
}

// guessResident finds out how much of an object its holders have in their page
// tables, where nothing better can be had: the largest share of one process,
// for they may all have the same pages. smaps makes the kernel walk those
// tables, so only the processes concerned are asked.
func guessResident(root string, o *Object) {
	for _, h := range o.Holders {
		text, err := os.ReadFile(root + "/" + strconv.Itoa(h.PID) + "/smaps")
		if err != nil {
			continue
		}
		var sum int64
		in := false
		for line := range bytes.Lines(text) {
			if c := line[0]; c >= '0' && c <= '9' || c >= 'a' && c <= 'f' {
				m, ok := parseMapping(bytes.TrimSuffix(line, []byte("\n")))
				in = ok && m.Key == o.Key
			} else if rss, ok := bytes.CutPrefix(line, []byte("Rss:")); ok && in {
				kib, _ := strconv.ParseInt(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(rss), []byte("kB")))), 10, 64)
				sum += kib << 10
			}
		}
		o.Resident = max(o.Resident, sum)
	}
}

// internalDevice returns the device of the kernel's internal mount of shared
// memory, which has no path to ask, but a memfd lies on it.
func internalDevice() uint64 {
	fd, err := unix.MemfdCreate("shm", unix.MFD_CLOEXEC)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	var st unix.Statx_t
	if statx(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), &st) != nil {
		return 0
	}
	return mkdev(uint64(st.Dev_major), uint64(st.Dev_minor))
}

// kernelThread says whether a process is a thread of the kernel, which anybody
// may know: PF_KTHREAD in the flags, the seventh field after the name.
func kernelThread(path string) bool {
	stat, err := os.ReadFile(path + "/stat")
	if err != nil {
		return true // gone
	}
	const field, pfKthread = 9 - 3, 0x00200000
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= field {
		return false
	}
	flags, err := strconv.ParseUint(string(fields[field]), 10, 64)
	return err == nil && flags&pfKthread != 0
}

// hidesPIDs says whether /proc is mounted so that this user does not see the
// processes of others at all.
func hidesPIDs(root string) bool {
	if os.Geteuid() == 0 {
		return false
	}
	mounts, err := os.ReadFile(root + "/self/mountinfo")
	if err != nil {
		return true
	}
	for line := range bytes.Lines(mounts) {
		f := bytes.Fields(line)
		if len(f) < 5 || string(f[4]) != "/proc" {
			continue
		}
		for _, o := range bytes.Split(f[len(f)-1], []byte(",")) {
			if v, ok := bytes.CutPrefix(o, []byte("hidepid=")); ok {
				return string(v) != "0" && string(v) != "off" && string(v) != "1" && string(v) != "noaccess"
			}
		}
	}
	return false
}

// Claim opens a file that no process has open or mapped, and keeps it so: until
// the file is closed, the kernel holds back whoever opens it (for 45 seconds at
// most, /proc/sys/fs/lease-break-time). ErrHeld says that someone has it, in
// whatever container. An error that wraps errors.ErrUnsupported says that the
// question cannot be asked here: only the file's user and root may.
func Claim(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.EWOULDBLOCK {
		return nil, ErrHeld // someone else's claim
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	// A write lease is what file servers use to cache a file that only they
	// have. The kernel counts open files, and a mapping keeps its file open. Go
	// programs are not ended by the SIGIO that announces someone at the door.
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK)
	if err != nil {
		unix.Close(fd)
		if err == unix.EAGAIN {
			return nil, ErrHeld
		}
		return nil, &fs.PathError{Op: "lease", Path: path, Err: errors.Join(err, errors.ErrUnsupported)}
	}
	return os.NewFile(uintptr(fd), path), nil
}
