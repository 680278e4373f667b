package mem

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Two locks lie far beyond the end of any file, on a byte each: its owner's, which
// says that the owner lives, and that of who removes what a dead owner left. Were
// they one, a lease would look alive while it is swept. They are OFD locks: one
// belongs to the open file, not to the process, so the kernel drops it when
// the last descriptor is gone, however that came about, and it holds across PID
// namespaces and is no matter of PIDs at all. A flock would be the same for the
// owner, but nobody could ask for it without taking it.
const (
	ownerByte   = 1 << 62
	sweeperByte = ownerByte + 1
)

func (o *Object) flock(cmd int, typ int16, at int64) (unix.Flock_t, error) {
	l := unix.Flock_t{Type: typ, Whence: 0, Start: at, Len: 1}
	err := ignoringEINTR(func() error { return unix.FcntlFlock(uintptr(o.fd), cmd, &l) })
	return l, err
}

func (o *Object) tryLock(at int64) (bool, error) {
	_, err := o.flock(unix.F_OFD_SETLK, unix.F_WRLCK, at)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	return err == nil, os.NewSyscallError("fcntl", err)
}

// Lock takes the owner's lock for as long as the object is open here, and
// reports whether it did; it does not wait.
func (o *Object) Lock() (bool, error) { return o.tryLock(ownerByte) }

// LockWait is Lock, but waits in the kernel until the lock is free. It occupies
// a thread.
func (o *Object) LockWait() error {
	_, err := o.flock(unix.F_OFD_SETLKW, unix.F_WRLCK, ownerByte)
	return os.NewSyscallError("fcntl", err)
}

// LockToSweep takes the sweeper's lock, unless the owner's is held or another
// sweeper was first. The owner's must be one that, once free, is never taken
// again: so there is no gap between asking for it and taking the sweeper's.
func (o *Object) LockToSweep() (bool, error) {
	if locked, err := o.Locked(); locked || err != nil {
		return false, err
	}
	return o.tryLock(sweeperByte)
}

// AwaitUnlocked waits in the kernel until the owner's lock is free. It occupies
// a thread. Waiting for a read lock, which Locked does not count, it never looks
// like an owner itself.
func (o *Object) AwaitUnlocked() error {
	_, err := o.flock(unix.F_OFD_SETLKW, unix.F_RDLCK, ownerByte)
	return os.NewSyscallError("fcntl", err)
}

// Locked reports whether somebody who may write to the object holds the owner's
// lock.
// Asking for a read lock's obstacle, not a write lock's, leaves out the read
// locks that anybody could hold who may only read.
func (o *Object) Locked() (bool, error) {
	l, err := o.flock(unix.F_OFD_GETLK, unix.F_RDLCK, ownerByte)
	return err == nil && l.Type != unix.F_UNLCK, os.NewSyscallError("fcntl", err)
}
