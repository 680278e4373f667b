package array

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/bits"
	"reflect"
	"slices"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/npy"
)

// Order is which index changes fastest as one goes through memory.
type Order byte

// The orders. Only C and Fortran can be asked for.
const (
	Strided Order = 0   // neither: a view with gaps
	C       Order = 'C' // the last index, as in C; what NumPy and this package make unless asked
	Fortran Order = 'F' // the first index, as in Fortran, R, Julia and LAPACK
)

// String returns "C", "F" or "strided".
func (o Order) String() string {
	switch o {
	case C, Fortran:
		return string(rune(o))
	case Strided:
		return "strided"
	}
	return fmt.Sprintf("Order(%d)", byte(o))
}

// dim is one axis: its length, and how many elements of data lie from one index
// to the next.
type dim struct{ n, step int }

// Array is a view of typed elements in shared memory, or, from [Over] and
// [ReadNPY], in this process's own. See the package's documentation for who may
// call what when.
type Array[T any] struct {
	data  []T // the elements by address: all that an index can reach
	first int // where in data the element with all indices 0 lies
	dims  []dim

	block *shm.Block // nil in this process's own memory
	off   int        // which byte of the block data begins at
	dtype *npy.DType
}

// Create makes a raw array of zeros in a block of its own, as large as the
// elements are; with name "" it finds a fresh one. No axes make an array of one
// element. An array without elements still has a block, of one byte.
//
// order is C unless Fortran is given.
//
// Errors: shm.ErrFormat if T cannot be an element, shm.ErrSize if a length is
// negative or the product too large, and those of [shm.Create].
func Create[T any](name string, shape []int, opts *shm.CreateOptions, order ...Order) (*Array[T], error) {
	const op = "create array"
	h, err := plan[T](shape, order)
	if err != nil {
		return nil, &shm.Error{Op: op, Name: name, Err: err}
	}
	b, err := shm.Create(name, max(h.Bytes(), 1), opts)
	if err != nil {
		return nil, err
	}
	a, err := over[T](b, h)
	return created(b, a, err)
}

// CreateNPY is Create for an array with a header before its elements. The
// block appears under its name with the header in it; the elements begin at a
// multiple of 64.
//
// Errors: those of Create.
func CreateNPY[T any](name string, shape []int, opts *shm.CreateOptions, order ...Order) (*Array[T], error) {
	const op = "create array"
	h, err := plan[T](shape, order)
	if err != nil {
		return nil, &shm.Error{Op: op, Name: name, Err: err}
	}
	head, err := h.Append(nil)
	if err != nil {
		return nil, &shm.Error{Op: op, Name: name, Err: formatError(err)}
	}
	if _, ok := npy.Elements([]int{len(head) + h.Bytes()}, 1); !ok {
		return nil, &shm.Error{Op: op, Name: name, Err: fmt.Errorf("%w: %s elements of %d bytes", shm.ErrSize, npy.PyShape(shape), h.Type.Size)}
	}
	b, err := shm.CreateWith(name, len(head)+h.Bytes(), opts, func(b *shm.Block) error {
		_, err := b.WriteAt(head, 0)
		return err
	})
	if err != nil {
		return nil, err
	}
	a, err := over[T](b, h)
	return created(b, a, err)
}

// created gives up a block that turned out to be of no use.
func created[T any](b *shm.Block, a *Array[T], err error) (*Array[T], error) {
	if err != nil {
		return nil, errors.Join(err, b.Close(), b.Unlink())
	}
	return a, nil
}

// Open opens the block and takes it as a raw array of this shape; it may be
// longer than that.
//
// Errors: shm.ErrFormat if T cannot be an element, shm.ErrSize if the block is too
// small for the shape, and those of [shm.Open].
func Open[T any](name string, shape []int, opts *shm.OpenOptions, order ...Order) (*Array[T], error) {
	b, err := shm.Open(name, opts)
	if err != nil {
		return nil, err
	}
	a, err := FromBlock[T](b, 0, shape, order...)
	return opened(b, a, err)
}

// OpenNPY opens a block with a header, made by this package, by NumPy or from a
// file. Order and shape are the header's; its type must be T's.
//
// Errors: shm.ErrFormat if there is no header, if it says what its block cannot
// hold, or another type than T, naming the field; and those of [shm.Open].
// [Inspect] tells the type beforehand.
func OpenNPY[T any](name string, opts *shm.OpenOptions) (*Array[T], error) {
	b, err := shm.Open(name, opts)
	if err != nil {
		return nil, err
	}
	a, err := FromBlockNPY[T](b)
	return opened(b, a, err)
}

// WaitNPY is OpenNPY as soon as the block exists.
//
// Errors: those of OpenNPY and [shm.Wait].
func WaitNPY[T any](ctx context.Context, name string, opts *shm.OpenOptions) (*Array[T], error) {
	b, err := shm.Wait(ctx, name, opts)
	if err != nil {
		return nil, err
	}
	a, err := FromBlockNPY[T](b)
	return opened(b, a, err)
}

func opened[T any](b *shm.Block, a *Array[T], err error) (*Array[T], error) {
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return a, nil
}

// FromBlock takes the bytes of a block from off on as a raw array, as
// np.ndarray(shape, dtype, buf, off) does. Several arrays may lie in one block;
// Close of any of them closes it. off must be a multiple of T's alignment. If
// FromBlock fails the block stays open.
//
// Errors: those of Open, os.ErrClosed.
func FromBlock[T any](b *shm.Block, off int, shape []int, order ...Order) (*Array[T], error) {
	h, err := plan[T](shape, order)
	if err != nil {
		return nil, &shm.Error{Op: "open array", Name: b.Name(), Err: err}
	}
	h.Offset = off
	return over[T](b, h)
}

// FromBlockStrided is FromBlock for elements that lie anywhere: off is where the
// one with all indices 0 begins, and strides has for each axis the bytes from one
// index to the next, which may be 0 or negative, as those of a NumPy array
// that was flipped. They must be multiples of T's size. Elements that share
// memory are one element.
//
// Errors: those of Open, os.ErrClosed.
func FromBlockStrided[T any](b *shm.Block, off int, shape, strides []int) (*Array[T], error) {
	fail := func(err error) (*Array[T], error) {
		return nil, &shm.Error{Op: "open array", Name: b.Name(), Err: err}
	}
	h, err := plan[T](shape, nil)
	if err != nil {
		return fail(err)
	}
	if len(strides) != len(shape) {
		return fail(fmt.Errorf("%w: %d strides for %d axes", shm.ErrSize, len(strides), len(shape)))
	}
	size := max(h.Type.Size, 1)
	dims, n := make([]dim, len(shape)), h.Len()
	lowest, last := off, off
	for i, s := range strides {
		if s%size != 0 {
			return fail(fmt.Errorf("%w: the stride of axis %d is %d bytes, no multiple of an element's %d", shm.ErrFormat, i, s, size))
		}
		dims[i] = dim{shape[i], s / size}
		if n == 0 {
			continue
		}
		// Neither end may leave the block, and with them nothing between.
		hi, lo := bits.Mul64(uint64(max(s, -s)), uint64(shape[i]-1))
		if hi != 0 || lo > uint64(b.Size()) || s < 0 && s == -s {
			return fail(fmt.Errorf("%w: axis %d, %d steps of %d bytes, leaves the block of %d bytes", shm.ErrSize, i, shape[i]-1, s, b.Size()))
		}
		if s < 0 {
			lowest -= int(lo)
		} else {
			last += int(lo)
		}
		if lowest < 0 || last > b.Size() {
			return fail(fmt.Errorf("%w: bytes %d to %d of a block of %d", shm.ErrSize, lowest, last+size, b.Size()))
		}
	}
	count := 0
	if n > 0 {
		count = (last-lowest)/size + 1
	}
	data, err := shm.Slice[T](b, lowest, count)
	if err != nil {
		return nil, err
	}
	return &Array[T]{data: data, first: (off - lowest) / size, dims: dims, block: b, off: lowest, dtype: &h.Type}, nil
}

// FromBlockNPY takes a block as an array with a header. As FromBlock.
//
// Errors: those of OpenNPY, os.ErrClosed.
func FromBlockNPY[T any](b *shm.Block) (*Array[T], error) {
	const op = "open array"
	want, err := npy.Of(reflect.TypeFor[T]())
	if err != nil {
		return nil, &shm.Error{Op: op, Name: b.Name(), Err: formatError(err)}
	}
	h, err := header(b)
	if err != nil {
		return nil, err
	}
	if err := npy.Match(want, &h.Type); err != nil {
		return nil, &shm.Error{Op: op, Name: b.Name(), Err: formatError(err)}
	}
	// NumPy's own headers end at multiples of 16 at least; others' need not.
	if n := reflect.TypeFor[T]().Align(); h.Offset%n != 0 {
		return nil, &shm.Error{Op: op, Name: b.Name(),
			Err: fmt.Errorf("%w: the elements begin at byte %d, and in Go they need a multiple of %d", shm.ErrFormat, h.Offset, n)}
	}
	h.Type = typed(want, &h.Type)
	return over[T](b, h)
}

// typed is the dtype of an array whose header has another that matches: its fields
// keep the names they have there.
func typed(want, have *npy.DType) npy.DType {
	if have.IsStruct() {
		return *have
	}
	return *want
}

// header reads the header of a block, in Do, as the block may be smaller by now.
func header(b *shm.Block) (h *npy.Header, err error) {
	fault := b.Do(func(p []byte) error {
		h, err = npy.Parse(p, len(p))
		return nil
	})
	if fault != nil {
		return nil, fault
	}
	if err != nil {
		return nil, &shm.Error{Op: "open array", Name: b.Name(), Err: formatError(err)}
	}
	return h, nil
}

// Over takes a slice of this process as an array, to copy from or to, or to
// write to a file. It must have as many elements as the shape.
//
// Errors: shm.ErrFormat, shm.ErrSize.
func Over[T any](data []T, shape []int, order ...Order) (*Array[T], error) {
	h, err := plan[T](shape, order)
	if err == nil && h.Len() != len(data) {
		err = fmt.Errorf("%w: %d elements for the shape %s, which has %d", shm.ErrSize, len(data), npy.PyShape(shape), h.Len())
	}
	if err != nil {
		return nil, &shm.Error{Op: "make array", Err: err}
	}
	return &Array[T]{data: data, dims: contiguous(h), dtype: &h.Type}, nil
}

// plan checks type and shape, once for all that makes arrays.
func plan[T any](shape []int, order []Order) (*npy.Header, error) {
	d, err := npy.Of(reflect.TypeFor[T]())
	if err != nil {
		return nil, formatError(err)
	}
	h := &npy.Header{Type: *d, Shape: slices.Clone(shape)}
	switch {
	case len(order) > 1:
		return nil, fmt.Errorf("%w: more than one order", shm.ErrFormat)
	case len(order) == 1 && order[0] != C && order[0] != Fortran:
		return nil, fmt.Errorf("%w: an order that is neither C nor Fortran", shm.ErrFormat)
	}
	if len(shape) > npy.MaxDims {
		return nil, fmt.Errorf("%w: %d axes, and NumPy has at most %d", shm.ErrSize, len(shape), npy.MaxDims)
	}
	for i, n := range shape {
		if n < 0 {
			return nil, fmt.Errorf("%w: the length of axis %d is %d", shm.ErrSize, i, n)
		}
	}
	if _, ok := npy.Elements(shape, d.Size); !ok {
		return nil, fmt.Errorf("%w: the shape %s of elements of %d bytes is larger than any memory", shm.ErrSize, npy.PyShape(shape), d.Size)
	}
	h.Fortran = len(order) == 1 && order[0] == Fortran
	// As NumPy has it: what is in both orders at once is in C's.
	if h.Fortran && orderOf(contiguous(h)) == C {
		h.Fortran = false
	}
	return h, nil
}

// over lays a header's array over its block.
func over[T any](b *shm.Block, h *npy.Header) (*Array[T], error) {
	data, err := shm.Slice[T](b, h.Offset, h.Len())
	if err != nil {
		return nil, err
	}
	return &Array[T]{data: data, dims: contiguous(h), block: b, off: h.Offset, dtype: &h.Type}, nil
}

// contiguous gives the axes of elements without gaps.
func contiguous(h *npy.Header) []dim {
	dims := make([]dim, len(h.Shape))
	step := 1
	for k := range dims {
		i := k // from the axis that changes fastest
		if !h.Fortran {
			i = len(dims) - 1 - k
		}
		dims[i] = dim{h.Shape[i], step}
		step *= max(h.Shape[i], 1)
	}
	return dims
}

// orderOf finds whether elements lie without gaps, and how; axes of length 1 do
// not matter, and without elements nothing does.
func orderOf(dims []dim) Order {
	if slices.ContainsFunc(dims, func(d dim) bool { return d.n == 0 }) {
		return C
	}
	step, c := 1, true
	for i := len(dims) - 1; i >= 0; i-- {
		if d := dims[i]; d.n > 1 {
			c = c && d.step == step
			step *= d.n
		}
	}
	if c {
		return C
	}
	step = 1
	for _, d := range dims {
		if d.n > 1 {
			if d.step != step {
				return Strided
			}
			step *= d.n
		}
	}
	return Fortran
}

func formatError(err error) error { return fmt.Errorf("%w: %w", shm.ErrFormat, err) }

// Shape returns the length of each axis, as a fresh slice.
func (a *Array[T]) Shape() []int {
	shape := make([]int, len(a.dims))
	for i, d := range a.dims {
		shape[i] = d.n
	}
	return shape
}

// Strides returns for each axis how many bytes lie between an index and the
// next, as NumPy's strides, as a fresh slice.
func (a *Array[T]) Strides() []int {
	strides := make([]int, len(a.dims))
	for i, d := range a.dims {
		strides[i] = d.step * a.dtype.Size
	}
	return strides
}

// Len returns the number of elements, over all axes: NumPy's size. An array
// without axes has one.
func (a *Array[T]) Len() int {
	n := 1
	for _, d := range a.dims {
		n *= d.n
	}
	return n
}

// DType returns the type of the elements as NumPy spells it: "<f4", or for a
// struct "[('x', '<i4'), ('y', '<i4')]".
func (a *Array[T]) DType() string { return a.dtype.String() }

// Order returns C or Fortran if the elements lie side by side in that order, and
// else Strided. What lies in both is C.
func (a *Array[T]) Order() Order { return orderOf(a.dims) }

// At returns the element with these indices, one for each axis. It panics if
// there are more or fewer, or if one is out of range.
func (a *Array[T]) At(idx ...int) T { return a.data[a.pos(idx)] }

// Set stores v. It panics as At does. An array opened read-only faults.
func (a *Array[T]) Set(v T, idx ...int) { a.data[a.pos(idx)] = v }

// Ptr returns where an element lies, to change one field of a struct or to use
// sync/atomic on it. It panics as At does.
func (a *Array[T]) Ptr(idx ...int) *T { return &a.data[a.pos(idx)] }

// pos is where in data an element lies.
func (a *Array[T]) pos(idx []int) int {
	return a.first + place(a.dims, idx)
}

// place is not generic, which saves the dictionary that such a function is
// passed, and does one axis and two, the most frequent, without a loop: a loop of
// two turns costs as much as all the rest of At.
func place(dims []dim, idx []int) int {
	if len(idx) == 2 && len(dims) == 2 {
		i, j, x, y := idx[0], idx[1], &dims[0], &dims[1]
		if uint(i) < uint(x.n) && uint(j) < uint(y.n) {
			return i*x.step + j*y.step
		}
	} else if len(idx) == 1 && len(dims) == 1 {
		if i, x := idx[0], &dims[0]; uint(i) < uint(x.n) {
			return i * x.step
		}
	}
	if len(idx) != len(dims) {
		panicCount(len(idx), len(dims))
	}
	p := 0
	for k, i := range idx {
		d := &dims[k]
		if uint(i) >= uint(d.n) {
			panicIndex(i, k, d.n)
		}
		p += i * d.step
	}
	return p
}

//go:noinline
func panicCount(have, want int) {
	panic(fmt.Sprintf("array: %d indices for %d axes", have, want))
}

//go:noinline
func panicIndex(i, axis, n int) {
	panic(fmt.Sprintf("array: index %d out of range on axis %d with length %d", i, axis, n))
}

// Data returns the elements in the order they have in memory, which is that of
// [Array.Order]; the slice is the memory itself. It is nil if they do not lie side
// by side.
func (a *Array[T]) Data() []T {
	if orderOf(a.dims) == Strided {
		return nil
	}
	n := a.Len()
	if n == 0 {
		return []T{} // first may lie anywhere, and data be nil
	}
	// Axes of length 1 may have any step: first is right even so.
	return a.data[a.first : a.first+n : a.first+n]
}

// Row returns the elements along the last axis, for these indices of the others:
// the memory itself. It panics if an index is out of range, or if there is no
// axis or the last one has gaps.
func (a *Array[T]) Row(idx ...int) []T {
	last := len(a.dims) - 1
	if last < 0 {
		panic("array: no axis, and so no rows")
	}
	d := a.dims[last]
	if d.step != 1 && d.n > 1 {
		panicGaps(last)
	}
	p := a.first + place(a.dims[:last], idx)
	if d.n == 0 {
		return a.data[:0]
	}
	return a.data[p : p+d.n : p+d.n]
}

//go:noinline
func panicGaps(axis int) {
	panic(fmt.Sprintf("array: the elements along axis %d have gaps between them; use All or Values", axis))
}

// Rows yields what Row returns for all indices, counted from 0, the last of them
// changing fastest. It panics as Row does.
func (a *Array[T]) Rows() iter.Seq2[int, []T] {
	return func(yield func(int, []T) bool) {
		last := len(a.dims) - 1
		if last < 0 {
			panic("array: no axis, and so no rows")
		}
		idx := make([]int, last)
		n := count(a.dims[:last])
		for i := range n {
			if !yield(i, a.Row(idx...)) {
				return
			}
			advance(idx, a.dims)
		}
	}
}

func count(dims []dim) int {
	n := 1
	for _, d := range dims {
		n *= d.n
	}
	return n
}

// advance goes to the next index, the last one changing fastest.
func advance(idx []int, dims []dim) {
	for k := len(idx) - 1; k >= 0; k-- {
		if idx[k]++; idx[k] < dims[k].n {
			return
		}
		idx[k] = 0
	}
}

// All yields every element with its indices, the last of them changing fastest
// whatever the order in memory. The slice of indices is the same one each time.
func (a *Array[T]) All() iter.Seq2[[]int, T] {
	return func(yield func([]int, T) bool) {
		idx := make([]int, len(a.dims))
		for range a.Len() {
			if !yield(idx, a.data[a.pos(idx)]) {
				return
			}
			advance(idx, a.dims)
		}
	}
}

// Values yields every element in the order of All.
func (a *Array[T]) Values() iter.Seq[T] {
	return func(yield func(T) bool) {
		for run := range a.runs() {
			for p := run.first; run.n > 0; run.n-- {
				if !yield(a.data[p]) {
					return
				}
				p += run.step
			}
		}
	}
}

// run is some elements at equal distances, along the last axis or, where the
// elements lie side by side, over several.
type run struct{ first, n, step int }

// runs yields all elements in the order of All.
func (a *Array[T]) runs() iter.Seq[run] {
	return func(yield func(run) bool) {
		n := a.Len()
		if n == 0 {
			return
		}
		if orderOf(a.dims) == C {
			yield(run{a.first, n, 1})
			return
		}
		last := len(a.dims) - 1
		d, idx := a.dims[last], make([]int, last)
		for range count(a.dims[:last]) {
			if !yield(run{a.first + place(a.dims[:last], idx), d.n, d.step}) {
				return
			}
			advance(idx, a.dims)
		}
	}
}

// Block returns the block the array lies in, nil for one of this process's own
// memory.
func (a *Array[T]) Block() *shm.Block { return a.block }

// Close closes the block, and with it every other view of it. See [shm.Block.Close].
func (a *Array[T]) Close() error {
	if a.block == nil {
		return nil
	}
	return a.block.Close()
}

// Unlink takes the block's name away. See [shm.Block.Unlink].
func (a *Array[T]) Unlink() error {
	if a.block == nil {
		return nil
	}
	return a.block.Unlink()
}

// Ref returns the block's name as a value. The type and shape of a raw array do
// not travel with it.
func (a *Array[T]) Ref() shm.Ref {
	if a.block == nil {
		return shm.Ref{}
	}
	return a.block.Ref()
}

// String describes the array, and has none of its elements:
// array('cam0', dtype='<f4', shape=(480, 640)).
func (a *Array[T]) String() string {
	name := ""
	if a.block != nil {
		name = layout.PyRepr(a.block.Name()) + ", "
	}
	dtype := a.dtype.String()
	if !a.dtype.IsStruct() {
		dtype = "'" + dtype + "'"
	}
	return fmt.Sprintf("array(%sdtype=%s, shape=%s)", name, dtype, npy.PyShape(a.Shape()))
}
