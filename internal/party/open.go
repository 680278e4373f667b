package party

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/sharedmem/shm"
)

// Create makes a block of size bytes for a structure, which what names, and opens it: format
// gets the memory before anybody else sees it, and what is to be noted in the header (see
// prepare).
//
// Errors: those of shm.Create, of format, and of open, after which no block is left;
// errors.ErrUnsupported.
func Create[T any](what, name string, size int, o *shm.CreateOptions, format func(mem []byte, place uint64, fenced bool) error, open func(*shm.Block) (T, error)) (t T, err error) {
	place, fenced, err := prepare(o.Dir)
	if err != nil {
		return t, &shm.Error{Op: "create " + what, Name: name, Err: err}
	}
	b, err := shm.CreateWith(name, size, o, func(b *shm.Block) error { return format(b.Bytes(), place, fenced) })
	if err != nil {
		return t, err
	}
	if t, err = open(b); err != nil {
		err = &shm.Error{Op: "create " + what, Name: b.Name(), Err: err}
		_, _ = b.Unlink(), b.Close()
	}
	return t, err
}

// Open opens a block and the structure in it.
//
// Errors: those of shm.Open and of open; fs.ErrPermission if the block is opened
// read-only; errors.ErrUnsupported.
func Open[T any](what, name string, o *shm.OpenOptions, open func(*shm.Block) (T, error)) (t T, err error) {
	b, err := shm.Open(name, o)
	if err != nil {
		return t, err
	}
	if err = usable(b); err == nil {
		t, err = open(b)
	}
	if err != nil {
		err = &shm.Error{Op: "open " + what, Name: b.Name(), Err: err}
		_ = b.Close()
	}
	return t, err
}

// OpenOrCreate opens what has the name, and creates it otherwise, whoever else tries the same.
func OpenOrCreate[T any](name string, open, create func() (T, error)) (T, error) {
	for {
		if name != "" {
			if t, err := open(); !errors.Is(err, fs.ErrNotExist) {
				return t, err
			}
		}
		if t, err := create(); name == "" || !errors.Is(err, fs.ErrExist) {
			return t, err
		}
	}
}

// Option is one in which a structure may be other than it should be.
type Option struct {
	Name       string
	Have, Want any
}

// Differ says in which of the options, if in any.
//
// Errors: ErrOptions.
func Differ(options ...Option) error {
	for _, o := range options {
		if o.Have != o.Want {
			return fmt.Errorf("%w: %s is %v, not %v", ErrOptions, o.Name, o.Have, o.Want)
		}
	}
	return nil
}
