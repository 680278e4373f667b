//go:build (!unix && !windows) || aix

package mem

import (
	"errors"
	"fmt"
	"io"
	"runtime"
)

// NameMax is the longest name in bytes.
const NameMax = 255

// AutoPrefix begins the names that are made up.
const AutoPrefix = "psm_"

// UnlinkIsNothing tells that names cannot be taken away, and that objects go
// with their last handle.
const UnlinkIsNothing = false

var errNone = fmt.Errorf("no shared memory on %s: %w", runtime.GOOS, errors.ErrUnsupported)

// Object does not exist on this system. It has its methods so that programs
// which can do without shared memory compile.
type Object struct{ Stat }

// BadName says what this system, beyond the rules of all, has against a name.
func BadName(string) string { return "" }

// BadOptions says which wish cannot be fulfilled on this system: none can.
func BadOptions(dir string, keepName, persistent bool) error { return errNone }

// New returns an error that wraps errors.ErrUnsupported.
func New(dir, name string, temp func() (string, error), size int64, mode uint32, flags int) (*Object, error) {
	return nil, errNone
}

// NewFrom returns an error that wraps errors.ErrUnsupported.
func NewFrom(dir, name string, temp func() (string, error), r io.Reader, mode uint32, flags int) (*Object, error) {
	return nil, errNone
}

// Open returns an error that wraps errors.ErrUnsupported.
func Open(dir, name string, readOnly bool) (*Object, error) { return nil, errNone }

// Anonymous returns an error that wraps errors.ErrUnsupported.
func Anonymous(size int64, flags int) (*Object, error) { return nil, errNone }

// Lookup returns an error that wraps errors.ErrUnsupported.
func Lookup(dir, name string) (Stat, error) { return Stat{}, errNone }

// Remove returns an error that wraps errors.ErrUnsupported.
func Remove(dir, name string, id ID, parking string) (bool, error) { return false, errNone }

// Unlink returns an error that wraps errors.ErrUnsupported.
func Unlink(dir, name string) error { return errNone }

// Exclusive returns an error that wraps errors.ErrUnsupported.
func Exclusive(dir, name string) (release func(), err error) { return nil, errNone }

// SpaceOf returns an error that wraps errors.ErrUnsupported.
func SpaceOf(dir string) (Space, error) { return Space{}, errNone }

// Map returns an error that wraps errors.ErrUnsupported.
func (o *Object) Map(prefault bool) ([]byte, error) { return nil, errNone }

// ReadAt returns an error that wraps errors.ErrUnsupported.
func (o *Object) ReadAt(b []byte, off int64) (int, error) { return 0, errNone }

// Keep returns nothing.
func (o *Object) Keep() io.Closer { return nil }

// Discard does nothing.
func (o *Object) Discard() {}

// Close does nothing.
func (o *Object) Close() error { return nil }

// Unmap does nothing.
func Unmap(p []byte) error { return nil }

func wall(p []byte) (kept bool, err error) { return false, nil }

func tearDown(p []byte) error { return nil }
