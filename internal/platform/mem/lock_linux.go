package mem

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// The lock lies far beyond the end of any file, on one byte. It is an OFD lock:
// it belongs to the open file, not to the process, so the kernel drops it when
// the last descriptor is gone, however that came about, and it holds across PID
// namespaces and is no matter of PIDs at all. A flock would be the same for the
// owner, but nobody could ask for it without taking it.
const lockOffset = 1 << 62

func (o *Object) flock(cmd int, typ int16) (unix.Flock_t, error) {
	l := unix.Flock_t{Type: typ, Whence: 0, Start: lockOffset, Len: 1}
	err := ignoringEINTR(func() error { return unix.FcntlFlock(uintptr(o.fd), cmd, &l) })
	return l, err
}

// Lock takes the object's lock for as long as it is open here, and reports
// whether it did; it does not wait.
func (o *Object) Lock() (bool, error) {
	_, err := o.flock(unix.F_OFD_SETLK, unix.F_WRLCK)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return false, nil
	}
	return err == nil, os.NewSyscallError("fcntl", err)
}

// LockWait takes the lock, waiting in the kernel until it is free. It occupies
// a thread.
func (o *Object) LockWait() error {
	_, err := o.flock(unix.F_OFD_SETLKW, unix.F_WRLCK)
	return os.NewSyscallError("fcntl", err)
}

// Locked reports whether somebody who may write to the object holds its lock.
// Asking for a read lock's obstacle, not a write lock's, leaves out the read
// locks that anybody could hold who may only read.
func (o *Object) Locked() (bool, error) {
	l, err := o.flock(unix.F_OFD_GETLK, unix.F_RDLCK)
	return err == nil && l.Type != unix.F_UNLCK, os.NewSyscallError("fcntl", err)
}
