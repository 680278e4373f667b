//go:build !unix || aix

package mem

import (
	"errors"
	"os"
)

// What needs objects that are files.

// FromFile returns errors.ErrUnsupported.
func FromFile(f *os.File, readOnly bool) (*Object, error) { return nil, errors.ErrUnsupported }

// Reopen returns errors.ErrUnsupported: objects have no identity here.
func Reopen(dir, name string, id ID, readOnly bool) (*Object, error) {
	return nil, errors.ErrUnsupported
}

// LinkFrom returns errors.ErrUnsupported.
func LinkFrom(dir, from, to string) error { return errors.ErrUnsupported }

// Link returns errors.ErrUnsupported.
func (o *Object) Link(name string) error { return errors.ErrUnsupported }

// File returns errors.ErrUnsupported.
func (o *Object) File(name string) (*os.File, error) { return nil, errors.ErrUnsupported }

// Grow returns errors.ErrUnsupported.
func (o *Object) Grow(from, size int64) error { return errors.ErrUnsupported }

// Lock returns errors.ErrUnsupported, as do all that belong to leases.
func (o *Object) Lock() (bool, error) { return false, errors.ErrUnsupported }

// LockToSweep returns errors.ErrUnsupported.
func (o *Object) LockToSweep() (bool, error) { return false, errors.ErrUnsupported }

// AwaitUnlocked returns errors.ErrUnsupported.
func (o *Object) AwaitUnlocked() error { return errors.ErrUnsupported }

// LockWait returns errors.ErrUnsupported.
func (o *Object) LockWait() error { return errors.ErrUnsupported }

// Locked returns errors.ErrUnsupported.
func (o *Object) Locked() (bool, error) { return false, errors.ErrUnsupported }

// ReadAll returns errors.ErrUnsupported.
func (o *Object) ReadAll(limit int64) ([]byte, error) { return nil, errors.ErrUnsupported }

// WriteAt returns errors.ErrUnsupported.
func (o *Object) WriteAt(b []byte, off int64) error { return errors.ErrUnsupported }

// LeaseDir returns errors.ErrUnsupported.
func LeaseDir(dir string) (string, error) { return "", errors.ErrUnsupported }

// Entries returns errors.ErrUnsupported.
func Entries(string, func(string) bool, func(Stat)) error { return errors.ErrUnsupported }

// Listed returns false.
func Listed(string) bool { return false }

// Mark does nothing.
func (o *Object) Mark(text string) {}

// MarkName does nothing.
func MarkName(dir, name, text string) {}

// LookupMark returns "".
func LookupMark(dir, name string) string { return "" }

// Named tells whether the object already has its public name: from the start.
func (o *Object) Named() bool { return true }

// Publish does nothing.
func (o *Object) Publish(name string) error { return nil }

// Place is the same for all processes: they share one space of names.
func Place(dir string) ([2]uint64, error) { return [2]uint64{}, nil }
