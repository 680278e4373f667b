package shmarrow

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	arrowarray "github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/arrow/tensor"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
)

// numbers are Arrow's types by NumPy's, without the byte order.
var numbers = map[string]arrow.DataType{
	"i1": arrow.PrimitiveTypes.Int8, "i2": arrow.PrimitiveTypes.Int16,
	"i4": arrow.PrimitiveTypes.Int32, "i8": arrow.PrimitiveTypes.Int64,
	"u1": arrow.PrimitiveTypes.Uint8, "u2": arrow.PrimitiveTypes.Uint16,
	"u4": arrow.PrimitiveTypes.Uint32, "u8": arrow.PrimitiveTypes.Uint64,
	"f2": arrow.FixedWidthTypes.Float16,
	"f4": arrow.PrimitiveTypes.Float32, "f8": arrow.PrimitiveTypes.Float64,
	// NumPy's times have no zone, as Arrow's timestamps without one.
	"M8[s]":  &arrow.TimestampType{Unit: arrow.Second},
	"M8[ms]": &arrow.TimestampType{Unit: arrow.Millisecond},
	"M8[us]": &arrow.TimestampType{Unit: arrow.Microsecond},
	"M8[ns]": &arrow.TimestampType{Unit: arrow.Nanosecond},
	"m8[s]":  arrow.FixedWidthTypes.Duration_s, "m8[ms]": arrow.FixedWidthTypes.Duration_ms,
	"m8[us]": arrow.FixedWidthTypes.Duration_us, "m8[ns]": arrow.FixedWidthTypes.Duration_ns,
}

// typeOf returns Arrow's type whose elements have the same bytes, and their size.
// Arrays are always in the machine's byte order, as Arrow's memory is.
func typeOf(dtype string) (arrow.DataType, int, error) {
	name := strings.TrimLeft(dtype, "|<>=")
	if t, ok := numbers[name].(arrow.FixedWidthDataType); ok {
		return t, t.BitWidth() / 8, nil
	}
	if digits, ok := strings.CutPrefix(name, "S"); ok {
		if n, err := strconv.Atoi(digits); err == nil && n > 0 {
			return &arrow.FixedSizeBinaryType{ByteWidth: n}, n, nil
		}
	}
	why := ""
	if name == "b1" {
		why = ", whose booleans are bits"
	}
	return nil, 0, fmt.Errorf("%w: no type of Arrow%s has the bytes of NumPy's %s", shm.ErrFormat, why, dtype)
}

// Column returns an array of one axis, without gaps, as a column over the same
// memory. [N]byte becomes a fixed_size_binary, array.Time a timestamp without a zone.
//
// Errors: shm.ErrFormat for a type that Arrow has not, bool and complex numbers
// among them, for another number of axes or gaps, or if the array lies in no
// block; os.ErrClosed.
func Column[T any](a *array.Array[T]) (arrow.Array, error) {
	const op = "make column"
	t, size, err := typeOf(a.DType())
	if err != nil {
		return nil, fail(op, a.Block(), err)
	}
	shape := a.Shape()
	if len(shape) != 1 || a.Order() == array.Strided {
		return nil, fail(op, a.Block(), fmt.Errorf("%w: a column has one axis and no gaps; Clone makes such a copy", shm.ErrFormat))
	}
	data, err := data(op, a, t, shape[0]*size, shape[0])
	if err != nil {
		return nil, err
	}
	return arrowarray.MakeFromData(data), nil
}

// Tensor returns an array as a tensor over the same memory, with its strides. Arrow
// has tensors of int8 … uint64, float32 and float64.
//
// Errors: shm.ErrFormat for another type, for an axis that runs backwards, or if the
// array lies in no block; os.ErrClosed.
func Tensor[T any](a *array.Array[T]) (tensor.Interface, error) {
	const op = "make tensor"
	t, size, err := typeOf(a.DType())
	if err == nil && (!arrow.IsInteger(t.ID()) && t.ID() != arrow.FLOAT32 && t.ID() != arrow.FLOAT64) {
		err = fmt.Errorf("%w: Arrow has no tensors of NumPy's %s", shm.ErrFormat, a.DType())
	}
	if err != nil {
		return nil, fail(op, a.Block(), err)
	}
	shape, strides := make([]int64, 0, 4), make([]int64, 0, 4)
	step, span := size, size
	for i, n := range a.Shape() {
		s := a.Strides()[i]
		if a.Order() == array.Fortran {
			s = step // where an axis of one index may have any stride
			step *= n
		}
		if s < 0 && n > 1 {
			return nil, fail(op, a.Block(), fmt.Errorf("%w: axis %d runs backwards; Flip turns it round", shm.ErrFormat, i))
		}
		shape, strides = append(shape, int64(n)), append(strides, int64(s))
		span += s * max(n-1, 0)
	}
	if a.Order() == array.C {
		strides = nil // the same, likewise
	}
	if a.Order() != array.Strided {
		span = a.Len() * size
	}
	data, err := data(op, a, t, span, span/size)
	if err != nil {
		return nil, err
	}
	return tensor.New(data, shape, strides, nil), nil
}

// data wraps the n bytes from an array's first element on.
func data[T any](op string, a *array.Array[T], t arrow.DataType, n, length int) (*arrowarray.Data, error) {
	b := a.Block()
	if b == nil {
		return nil, fail(op, nil, fmt.Errorf("%w: the array lies in no block; Arrow's builders make columns of other memory", shm.ErrFormat))
	}
	off := 0
	if n > 0 {
		var err error
		if off, err = shm.Offset(b, a.Ptr(make([]int, len(a.Shape()))...)); err != nil {
			return nil, err
		}
	}
	p, err := shm.Slice[byte](b, off, n)
	if err != nil {
		return nil, err
	}
	// Buffers over bytes without an allocator are not counted: the block's Close
	// decides.
	return arrowarray.NewData(t, length, []*memory.Buffer{nil, memory.NewBufferBytes(p[:n:n])}, nil, 0, 0), nil
}

// FromColumn takes a column without nulls, of a [File] or from [Column], as an
// array over the same memory. b is the block it lies in. T is what [Column] would
// make such a column of; a timestamp may have a zone.
//
// Errors: shm.ErrFormat for another type or a column with nulls, shm.ErrSize if it
// does not lie in b or is misaligned; os.ErrClosed.
func FromColumn[T any](b *shm.Block, col arrow.Array) (*array.Array[T], error) {
	const op = "open column"
	none, err := array.Over[T](nil, []int{0})
	if err != nil {
		return nil, err
	}
	want, size, err := typeOf(none.DType())
	if err != nil {
		return nil, fail(op, b, err)
	}
	have := col.DataType()
	if t, ok := have.(*arrow.TimestampType); ok {
		have = &arrow.TimestampType{Unit: t.Unit}
	}
	switch {
	case !arrow.TypeEqual(have, want):
		return nil, fail(op, b, fmt.Errorf("%w: the column is of type %s, and %T has the bytes of %s", shm.ErrFormat, col.DataType(), *new(T), want))
	case col.NullN() > 0:
		return nil, fail(op, b, fmt.Errorf("%w: the column has %d nulls, for which an array has no place", shm.ErrFormat, col.NullN()))
	case col.Len() == 0:
		return array.FromBlock[T](b, 0, []int{0})
	}
	off, err := shm.Offset(b, &col.Data().Buffers()[1].Bytes()[col.Data().Offset()*size])
	if err != nil {
		return nil, err
	}
	return array.FromBlock[T](b, off, []int{col.Len()})
}

func fail(op string, b *shm.Block, err error) error {
	e := &shm.Error{Op: op, Err: err}
	if b != nil {
		e.Name = b.Name()
	}
	return e
}
