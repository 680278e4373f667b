package array

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/npy"
)

// Place says where in a block an array lies, as a value that can be sent: with
// the block's name it is all that another process needs to have the same
// array, views with gaps among them.
type Place struct {
	DType   string `json:"dtype"`   // as NumPy spells it
	Offset  int    `json:"offset"`  // the byte of the block at which the element with all indices 0 begins
	Shape   []int  `json:"shape"`   // the length of each axis
	Strides []int  `json:"strides"` // for each axis the bytes from one index to the next
}

// Place returns where in [Array.Block] the array lies. In Python that is
// np.ndarray(shape, dtype, block.buf, offset, strides).
func (a *Array[T]) Place() Place {
	return Place{a.DType(), a.off + a.first*a.dtype.Size, a.Shape(), a.Strides()}
}

// Attach makes a, which must be new(Array[T]), the array that lies at p in a
// block. [FromBlockStrided] does the same for who knows T; this is for code
// that knows it by reflection only. If Attach fails the block stays open.
//
// Errors: those of FromBlockStrided; shm.ErrFormat as well if the dtype is not
// T's, naming the field.
func (a *Array[T]) Attach(b *shm.Block, p Place) error {
	fail := func(err error) error { return &shm.Error{Op: "open array", Name: b.Name(), Err: err} }
	if a.dtype != nil {
		return fail(fmt.Errorf("%w: this Array is one already", errors.ErrUnsupported))
	}
	want, err := npy.Of(reflect.TypeFor[T]())
	if err != nil {
		return fail(formatError(err))
	}
	have, err := npy.ParseSpelling(p.DType)
	if err == nil {
		err = npy.Match(want, have)
	}
	if err != nil {
		return fail(formatError(err))
	}
	got, err := FromBlockStrided[T](b, p.Offset, p.Shape, p.Strides)
	if err != nil {
		return err
	}
	dtype := typed(want, have)
	got.dtype = &dtype
	*a = *got
	return nil
}
