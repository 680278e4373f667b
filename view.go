package shm

import (
	"errors"
	"fmt"
	"os"

	"github.com/sharedmem/shm/internal/layout"
)

// At returns the T that begins at byte off of the block: a typed view of the
// shared memory, not a copy. T must be free of pointers, slices, strings, maps,
// interfaces, channels and functions; off must be a multiple of T's alignment.
// The pointer is valid until Close; a later access faults.
//
// The bytes are the machine's own, in Go's layout, which is C's for these
// types. Reading and writing through the pointer is not synchronised with other
// processes; fields of sync/atomic's types are.
//
// Errors: ErrFormat for such a T (the message names the field), ErrSize if it
// does not lie within the block or is misaligned, os.ErrClosed.
func At[T any](b *Block, off int) (*T, error) {
	if !b.handOut() {
		return nil, &Error{"view", b.name, os.ErrClosed}
	}
	p, err := layout.At[T](b.mem, off)
	return p, viewError(b, err)
}

// Slice returns the n values of type T that begin at byte off of the block.
// The same holds as for [At].
func Slice[T any](b *Block, off, n int) ([]T, error) {
	if !b.handOut() {
		return nil, &Error{"view", b.name, os.ErrClosed}
	}
	s, err := layout.Slice[T](b.mem, off, n)
	return s, viewError(b, err)
}

// Offset returns where in the block p points, as for a lock that is a field of
// a struct got from [At]. ErrSize if *p does not lie in this mapping.
func Offset[T any](b *Block, p *T) (int, error) {
	off, ok := layout.Offset(b.mem, p)
	if !ok {
		return 0, &Error{"offset", b.name, fmt.Errorf("%w: the pointer is not into this block", ErrSize)}
	}
	return off, nil
}

func viewError(b *Block, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, layout.ErrType):
		err = fmt.Errorf("%w: %w", ErrFormat, err)
	default:
		err = fmt.Errorf("%w: %w", ErrSize, err)
	}
	return &Error{"view", b.name, err}
}
