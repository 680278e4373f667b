//go:build unix && !linux && !aix

package mem

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// AutoPrefix begins the names that are made up.
const AutoPrefix = "psm_"

// SystemDir is empty: the system's place, if there is one, is no directory.
const SystemDir = ""

const systemIsDir = false

// Memory that nobody may write to is not counted anywhere but on Linux, and not
// all know the flag.
const mapNoReserve = 0

// BadName says what this system, beyond the rules of all, has against a name.
func BadName(string) string { return "" }

// BadOptions says which wish cannot be fulfilled on this system.
func BadOptions(dir string, keepName, persistent bool) error {
	if keepName {
		return fmt.Errorf("KeepName needs the kernel to tell of vanished names, as Linux does: %w", errors.ErrUnsupported)
	}
	if dir == "" {
		return noSystem()
	}
	return nil
}

// LeaseDir is the directory in which the leases of dir's owners lie: dir
// itself, or for the system's place, where no files can be, a directory of this
// user's.
func LeaseDir(dir string) (string, error) {
	if dir == "" {
		return systemLeaseDir()
	}
	return dir, nil
}

// openUnnamed makes a file with the hidden name temp: no system but Linux makes
// one without a name and gives it one later.
func openUnnamed(dir string, temp func() (string, error), mode uint32) (int, string, error) {
	return openHidden(dir, temp, mode)
}

func (o *Object) linkTo(name string) error {
	if o.hidden == "" {
		return errors.ErrUnsupported
	}
	return link(path(o.dir, o.hidden), path(o.dir, name))
}

func fromUnix(s *unix.Stat_t, out *Stat) error {
	if s.Mode&unix.S_IFMT != unix.S_IFREG {
		return ErrNotRegular
	}
	out.Dev, out.Ino, out.Birth = uint64(s.Dev), uint64(s.Ino), birth(s)
	out.Size, out.Resident = s.Size, int64(s.Blocks)*512
	out.Mode = fs.FileMode(s.Mode) & 0o7777
	out.UID, out.Links = int(s.Uid), int(s.Nlink)
	return nil
}

func fstat(fd int, out *Stat) error {
	var s unix.Stat_t
	if err := ignoringEINTR(func() error { return unix.Fstat(fd, &s) }); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if s.Mode&unix.S_IFMT == 0 {
		s.Mode |= unix.S_IFREG // so macOS describes shared memory, and nothing else
	}
	return fromUnix(&s, out)
}

func lstat(p string, out *Stat) error {
	var s unix.Stat_t
	if err := ignoringEINTR(func() error { return unix.Lstat(p, &s) }); err != nil {
		return os.NewSyscallError("lstat", err)
	}
	return fromUnix(&s, out)
}

func lstatAt(dir int, name string, out *Stat) error {
	var s unix.Stat_t
	err := ignoringEINTR(func() error { return unix.Fstatat(dir, name, &s, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil {
		return os.NewSyscallError("fstatat", err)
	}
	return fromUnix(&s, out)
}
