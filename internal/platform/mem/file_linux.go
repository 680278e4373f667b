package mem

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// SystemDir is where the C library's shm_open, and so Python, keeps objects.
const SystemDir = "/dev/shm"

// NameMax is the longest name in bytes.
const NameMax = 255

// AutoPrefix begins the names that are made up.
const AutoPrefix = "psm_"

// BadName says what this system, beyond the rules of all, has against a name.
func BadName(string) string { return "" }

// BadOptions says which wish cannot be fulfilled on this system.
func BadOptions(dir string, keepName, persistent bool) error { return nil }

// On Linux the system's place is a directory like any other.
const systemIsDir = true

const mapNoReserve = unix.MAP_NORESERVE

// Exclusive makes OpenOrCreate calls for one name wait for each other, where a
// name appears before its block is complete. Here it does not.
func Exclusive(dir, name string) (release func(), err error) { return func() {}, nil }

func newSystem(string, int64, uint32, int) (*Object, error) { panic("unreachable") }
func openSystem(string, bool) (*Object, error)              { panic("unreachable") }
func lookupSystem(string) (Stat, error)                     { panic("unreachable") }
func removeSystem(string, ID) (bool, error)                 { panic("unreachable") }
func unlinkSystem(string) error                             { panic("unreachable") }

// LeaseDir is the directory in which the leases of dir's owners lie: dir
// itself, so that whoever shares the blocks, a container say, shares the
// leases.
func LeaseDir(dir string) (string, error) { return resolve(dir), nil }

// noTmpfile remembers directories' file systems without O_TMPFILE, or systems
// without a way to link its result (no /proc and no AT_EMPTY_PATH).
var noTmpfile, noEmptyPath atomic.Bool

// openUnnamed makes a file without a name in dir, or failing that one with the
// hidden name temp, which it returns.
func openUnnamed(dir string, temp func() (string, error), mode uint32) (int, string, error) {
	if !noTmpfile.Load() && !forceHidden {
		fd, err := open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, mode)
		if err == nil {
			return fd, "", nil
		}
		// EOPNOTSUPP is a file system without it, EISDIR a kernel before 3.11, and
		// EINVAL what some FUSE file systems say.
		if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EINVAL) {
			return -1, "", err
		}
	}
	return openHidden(dir, temp, mode)
}

// forceHidden makes tests take the way of file systems without O_TMPFILE.
var forceHidden = os.Getenv("SHM_TEST_NO_TMPFILE") != ""

func (o *Object) linkTo(name string) error {
	to := path(o.dir, name)
	if o.hidden != "" {
		return link(path(o.dir, o.hidden), to)
	}
	// The first way needs kernel 6.10 or CAP_DAC_READ_SEARCH, the second /proc.
	if !noEmptyPath.Load() {
		err := ignoringEINTR(func() error { return unix.Linkat(o.fd, "", unix.AT_FDCWD, to, unix.AT_EMPTY_PATH) })
		if err != unix.ENOENT && err != unix.EPERM && err != unix.EINVAL {
			return os.NewSyscallError("linkat", err)
		}
		noEmptyPath.Store(true)
	}
	return os.NewSyscallError("linkat", ignoringEINTR(func() error {
		return unix.Linkat(unix.AT_FDCWD, procFD(o.fd), unix.AT_FDCWD, to, unix.AT_SYMLINK_FOLLOW)
	}))
}

func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

const statxMask = unix.STATX_BASIC_STATS | unix.STATX_BTIME

func statx(dirfd int, p string, flags int, out *Stat) error {
	var s unix.Statx_t
	err := ignoringEINTR(func() error { return unix.Statx(dirfd, p, flags|unix.AT_SYMLINK_NOFOLLOW, statxMask, &s) })
	if err != nil {
		return os.NewSyscallError("statx", err)
	}
	if s.Mode&unix.S_IFMT != unix.S_IFREG {
		return ErrNotRegular
	}
	out.Dev, out.Ino = unix.Mkdev(s.Dev_major, s.Dev_minor), s.Ino
	// tmpfs knows the birth time from kernel 5.18 on.
	if out.Birth = 0; s.Mask&unix.STATX_BTIME != 0 {
		out.Birth = s.Btime.Sec*1e9 + int64(s.Btime.Nsec)
	}
	out.Size, out.Resident = int64(s.Size), int64(s.Blocks)*512
	out.Mode = fs.FileMode(s.Mode) & 0o7777
	out.UID, out.Links = int(s.Uid), int(s.Nlink)
	return nil
}

func fstat(fd int, out *Stat) error { return statx(fd, "", unix.AT_EMPTY_PATH, out) }

func lstat(p string, out *Stat) error { return statx(unix.AT_FDCWD, p, 0, out) }

func lstatAt(dir int, name string, out *Stat) error { return statx(dir, name, 0, out) }

// Anonymous makes an object without a name, sealed against shrinking and
// growing, so that no peer can turn an access into a fault. It travels as a
// descriptor.
func Anonymous(size int64, flags int) (*Object, error) {
	fd, err := unix.MemfdCreate("shm", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_NOEXEC_SEAL)
	if err == unix.EINVAL { // kernels before 6.3 do not know MFD_NOEXEC_SEAL
		fd, err = unix.MemfdCreate("shm", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	o := &Object{fd: fd, dir: memfdDir, named: true, flags: flags, fresh: true}
	if err := o.init(size, 0o600); err != nil {
		o.Close()
		return nil, err
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		o.Close()
		return nil, os.NewSyscallError("fcntl", err)
	}
	return o, nil
}

// mark is the extended attribute by which blocks that nobody owns are told
// from what other programs left. tmpfs has user attributes from kernel 6.6 on.
const mark = "user.shm.lifetime"

// Mark leaves text on the object, for [LookupMark]. It is a courtesy that not
// every file system offers: no error.
func (o *Object) Mark(text string) { _ = unix.Fsetxattr(o.fd, mark, []byte(text), 0) }

// MarkName does the same for the object that has the name.
func MarkName(dir, name, text string) {
	_ = unix.Lsetxattr(path(resolve(dir), name), mark, []byte(text), 0)
}

// LookupMark returns what Mark left, "" if nothing.
func LookupMark(dir, name string) string {
	var buf [32]byte
	n, err := unix.Lgetxattr(path(resolve(dir), name), mark, buf[:])
	if err != nil || n > len(buf) {
		return ""
	}
	return string(buf[:n])
}

func adviseHuge(p []byte) { _ = unix.Madvise(p, unix.MADV_HUGEPAGE) }

// populate maps every page of p. Kernels before 5.14 do not know the advice;
// there the pages come at their first use, as without prefault.
func populate(p []byte, write bool) error {
	advice := unix.MADV_POPULATE_READ
	if write {
		advice = unix.MADV_POPULATE_WRITE
	}
	err := ignoringEINTR(func() error { return unix.Madvise(p, advice) })
	switch err {
	case unix.EINVAL:
		return nil
	case unix.EFAULT, unix.ENOMEM: // what would have been a SIGBUS later
		return &NoSpaceError{Asked: int64(len(p)), Free: -1, Where: "the file system of the block"}
	}
	return os.NewSyscallError("madvise", err)
}
