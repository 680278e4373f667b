package array

import (
	"reflect"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/npy"
)

// Declaration says how other languages declare the bytes of a Go type, padding
// included: each of these is source to be pasted.
type Declaration struct {
	C      string // a struct of <stdint.h>'s types, with its size asserted
	Ctypes string // a ctypes.Structure
	NumPy  string // a numpy.dtype
}

// Describe declares T in other languages, under the name of its Go type. It may
// be any type that [shm.At] takes, and need not be one that arrays have; fields
// of sync/atomic's types are the numbers in them.
//
// Errors: shm.ErrFormat, which names the field that no other language could
// have: one that holds a pointer, or an int.
func Describe[T any]() (Declaration, error) {
	t := reflect.TypeFor[T]()
	d, err := npy.Of(t)
	if err != nil {
		return Declaration{}, &shm.Error{Op: "describe " + t.String(), Err: formatError(err)}
	}
	return Declaration(npy.Declare(t.Name(), d)), nil
}
