//go:build darwin || freebsd

package mem

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system's place here is a space of names in the kernel, reached by
// shm_open and shm_unlink. It has no directory to list or watch, no second
// names, no renaming and no locks, and an object has its name from the start:
//
//   - The name appears when New is called, before the journal has it. A process
//     killed between the two leaves a block that no sweep finds.
//   - Leases, journals and locks are files in a directory of the user's.
//   - On macOS an object has no identity; see identity.

// The system calls are made directly. The C library's functions do nothing but
// that, and calling shm_open, which is variadic, would need cgo.

func shmOpen(name string, flags int, mode uint32) (int, error) {
	p, err := unix.BytePtrFromString("/" + name)
	if err != nil {
		return -1, err
	}
	// macOS refuses O_CLOEXEC. Both kernels are known to set the flag by
	// themselves, but no manual promises it; so it is set here, and until then
	// package os/exec must not fork.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, _, errno := unix.Syscall(unix.SYS_SHM_OPEN, uintptr(unsafe.Pointer(p)), uintptr(flags), uintptr(mode))
	if errno != 0 {
		return -1, os.NewSyscallError("shm_open", errno)
	}
	unix.CloseOnExec(int(fd))
	return int(fd), nil
}

func unlinkSystem(name string) error {
	p, err := unix.BytePtrFromString("/" + name)
	if err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_SHM_UNLINK, uintptr(unsafe.Pointer(p)), 0, 0); errno != 0 {
		return os.NewSyscallError("shm_unlink", errno)
	}
	return nil
}

func newSystem(name string, size int64, mode uint32, flags int) (*Object, error) {
	fd, err := shmOpen(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, mode)
	if err != nil {
		return nil, err
	}
	o := &Object{fd: fd, named: true, flags: flags, system: name}
	if err := o.initSystem(size, mode); err != nil {
		_ = unlinkSystem(name)
		_ = o.Close()
		return nil, err
	}
	return o, nil
}

// initSystem gives a fresh object its size, which macOS lets be done but once
// and rounds up to a page. Nothing can be reserved: macOS takes memory and swap
// space as pages are used, FreeBSD counts the size against the swap space here.
func (o *Object) initSystem(size int64, mode uint32) error {
	err := ignoringEINTR(func() error { return unix.Ftruncate(o.fd, size) })
	switch err {
	case nil:
	case unix.ENOMEM, unix.ENOSPC, unix.EFBIG:
		return &NoSpaceError{Asked: size, Free: -1, Where: "the system's shared memory"}
	default:
		return os.NewSyscallError("ftruncate", err)
	}
	if err := o.statSystem(); err != nil {
		return err
	}
	if uint32(o.Mode) == mode {
		return nil
	}
	// The umask has taken bits away. It belongs to all threads, so that clearing
	// it around shm_open would let other threads make files too open.
	if err := unix.Fchmod(o.fd, mode); err != nil {
		return fmt.Errorf("the umask makes mode %04o of %04o, which this system cannot change afterwards: %w",
			uint32(o.Mode), mode, errors.ErrUnsupported)
	}
	return o.statSystem()
}

func (o *Object) statSystem() error {
	err := fstat(o.fd, &o.Stat)
	o.ID, o.Links = identity(o.system, &o.Stat), 1
	return err
}

// identity returns the object's inode where the system tells it: not on macOS.
// There it is a fingerprint of all that fstat says, which never changes in an
// object's life. Two objects that have a name one after the other can agree in
// all of that. So if an owner dies, and somebody else unlinks its block and
// makes another with the same name, size, mode and user, a sweep takes the new
// one for the old and removes it.
func identity(name string, s *Stat) ID {
	if s.Ino != 0 {
		return s.ID
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%d %o %d", name, s.Size, s.Mode, s.UID)
	return ID{Ino: h.Sum64()}
}

func openSystem(name string, readOnly bool) (*Object, error) {
	flags := unix.O_RDWR
	if readOnly {
		flags = unix.O_RDONLY
	}
	fd, err := shmOpen(name, flags, 0)
	if err != nil {
		return nil, err
	}
	o := &Object{Stat: Stat{Name: name}, fd: fd, named: true, readOnly: readOnly, system: name}
	if err = o.statSystem(); err == nil && o.Size == 0 {
		err = ErrEmpty
	}
	if err != nil {
		_ = o.Close()
		return nil, err
	}
	return o, nil
}

func lookupSystem(name string) (Stat, error) {
	fd, err := shmOpen(name, unix.O_RDONLY, 0)
	if err != nil {
		return Stat{}, err
	}
	o := &Object{fd: fd, system: name}
	err = o.statSystem()
	_ = o.Close()
	o.Name = name
	return o.Stat, err
}

// removeSystem looks and unlinks: there is no renaming that would close the
// gap between the two.
func removeSystem(name string, id ID) (bool, error) {
	s, err := lookupSystem(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || s.ID != id {
		return false, err
	}
	err = unlinkSystem(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func noSystem() error { return nil }

// systemLeaseDir makes and checks the directory for files that belong to the
// system's place. Others may write to the directory that it is in, so it is
// used only if nobody but this user can reach into it.
func systemLeaseDir() (string, error) {
	uid := os.Geteuid()
	dir := filepath.Join(os.TempDir(), "shm-"+strconv.Itoa(uid))
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	var s unix.Stat_t
	if err := unix.Lstat(dir, &s); err != nil {
		return "", &fs.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if s.Mode&unix.S_IFMT != unix.S_IFDIR || int(s.Uid) != uid || s.Mode&0o077 != 0 {
		return "", &fs.PathError{Op: "use", Path: dir, Err: fmt.Errorf("not a directory of this user's alone: %w", fs.ErrPermission)}
	}
	return dir, nil
}

// lockBeside locks a file that stands for the object name. It binds this user's
// processes only, which is also whom leases are for here.
func lockBeside(kind, name string, how int) (release func(), ok bool, err error) {
	dir, err := systemLeaseDir()
	if err != nil {
		return nil, false, err
	}
	p := path(dir, Prefix+kind+"."+name)
	for {
		fd, err := open(p, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, false, err
		}
		err = ignoringEINTR(func() error { return unix.Flock(fd, how) })
		var ours, now Stat
		if err == nil {
			err = fstat(fd, &ours)
		}
		if err != nil {
			unix.Close(fd)
			if err == unix.EWOULDBLOCK {
				return nil, false, nil
			}
			return nil, false, os.NewSyscallError("flock", err)
		}
		// Who had the lock before us has removed the file: another one may be there
		// by now, or nobody would find ours.
		if lstat(p, &now) == nil && now.ID == ours.ID {
			return func() {
				_ = unlink(p)
				unix.Close(fd)
			}, true, nil
		}
		unix.Close(fd)
	}
}

// Exclusive makes OpenOrCreate calls of this user's processes for one name wait
// for each other until release is called, where a name appears before its block
// is complete. The kernel drops the lock of a process that dies. It occupies a
// thread while it waits.
func Exclusive(dir, name string) (release func(), err error) {
	if dir != "" {
		return func() {}, nil
	}
	release, _, err = lockBeside("init", name, unix.LOCK_EX)
	return release, err
}
