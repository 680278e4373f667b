//go:build unix && !linux && !aix

package mem

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// The lock is flock's: like Linux's OFD locks, and unlike those of POSIX, it
// belongs to the open file and goes with its last descriptor. What flock lacks
// is a way to ask for it without taking it; see Locked.

func (o *Object) flock(how int) error {
	return ignoringEINTR(func() error { return unix.Flock(o.fd, how) })
}

// Lock takes the object's lock for as long as it is open here, and reports
// whether it did; it does not wait.
func (o *Object) Lock() (bool, error) {
	if o.system != "" {
		// There is no lock on what is no file: one beside it stands for it.
		if o.beside != nil {
			return true, nil
		}
		release, ok, err := lockBeside("lock", o.system, unix.LOCK_EX|unix.LOCK_NB)
		o.beside = release
		return ok, err
	}
	err := o.flock(unix.LOCK_EX | unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, os.NewSyscallError("flock", err)
}

// LockWait takes the lock, waiting in the kernel until it is free. It occupies
// a thread. Leases only are waited for, and they are files.
func (o *Object) LockWait() error {
	return os.NewSyscallError("flock", o.flock(unix.LOCK_EX))
}

// LockToSweep is Lock: flock has one lock for a file, so that a lease looks alive
// while it is swept.
func (o *Object) LockToSweep() (bool, error) { return o.Lock() }

// AwaitUnlocked waits in the kernel until nobody holds the lock. It occupies a
// thread.
func (o *Object) AwaitUnlocked() error {
	return os.NewSyscallError("flock", o.flock(unix.LOCK_SH))
}

// Locked reports whether somebody holds the object's lock. It takes a shared
// lock for a moment, as there is no other way to find out; a sweeper who comes
// at this moment takes a dead owner for a living one and leaves its blocks to
// the next sweeper. Shared, so that those who ask do not deceive each other.
func (o *Object) Locked() (bool, error) {
	err := o.flock(unix.LOCK_SH | unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	if err == nil {
		err = o.flock(unix.LOCK_UN)
	}
	return false, os.NewSyscallError("flock", err)
}
