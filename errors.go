package shm

import (
	"errors"

	"github.com/sharedmem/shm/internal/platform/mem"
)

// Error is what every function and method of this package returns when it
// fails. Err is one of the variables below or one of the standard library's:
// fs.ErrNotExist, fs.ErrExist, fs.ErrPermission, os.ErrClosed,
// errors.ErrUnsupported, a context's error, or the system's own.
type Error struct {
	Op   string // "create", "open", "unlink", …
	Name string // the block's name without its slash; "" for an anonymous block
	Err  error
}

func (e *Error) Error() string {
	if e.Name == "" {
		return "shm: " + e.Op + ": " + e.Err.Error()
	}
	return "shm: " + e.Op + " " + quoteName(e.Name) + ": " + e.Err.Error()
}

// Unwrap gives errors.Is and errors.As the cause.
func (e *Error) Unwrap() error { return e.Err }

var (
	// ErrName says that a name cannot be the name of a block. The message has
	// the reason. It is returned before any system call.
	ErrName = errors.New("bad name")

	// ErrSize says that a size, offset or length does not fit: zero, negative,
	// beyond the address space, or outside the block.
	ErrSize = errors.New("bad size")

	// ErrNoSpace says that the memory cannot be had now; the message says how
	// much was asked for, how much was free, and which limit it was.
	ErrNoSpace = mem.ErrNoSpace

	// ErrFormat says that what lies in shared memory is not what its reader
	// expects, or that a Go type cannot describe it.
	ErrFormat = errors.New("bad format")

	// ErrTruncated says that another process made the block smaller while it
	// was mapped here.
	ErrTruncated = errors.New("block was truncated by another process")
)

// wrap gives err the package's error type, without doubling it.
func wrap(op, name string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Name == name {
		return err
	}
	return &Error{Op: op, Name: name, Err: err}
}
