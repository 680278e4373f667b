package array

import (
	"fmt"
	"slices"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/npy"
)

// view is another view of the same memory.
func (a *Array[T]) view(first int, dims []dim) *Array[T] {
	v := *a
	v.first, v.dims = first, dims
	return &v
}

// axis panics for an axis that there is not.
func (a *Array[T]) axis(k int) dim {
	if uint(k) >= uint(len(a.dims)) {
		panic(fmt.Sprintf("array: axis %d of an array with %d axes", k, len(a.dims)))
	}
	return a.dims[k]
}

// Sub returns a[i]: the view with one axis less that has index i on the first.
// It panics if i is out of range or there is no axis.
func (a *Array[T]) Sub(i int) *Array[T] {
	d := a.axis(0)
	if uint(i) >= uint(d.n) {
		panicIndex(i, 0, d.n)
	}
	return a.view(a.first+i*d.step, a.dims[1:])
}

// Slice returns a[lo:hi]: the view of these indices of the first axis. Bounds are
// as for Go's slices, and panic as they do.
func (a *Array[T]) Slice(lo, hi int) *Array[T] { return a.SliceAxis(0, lo, hi) }

// SliceAxis is Slice for any axis.
func (a *Array[T]) SliceAxis(axis, lo, hi int) *Array[T] {
	d := a.axis(axis)
	if lo < 0 || hi < lo || hi > d.n {
		panic(fmt.Sprintf("array: bounds [%d:%d] out of range on axis %d with length %d", lo, hi, axis, d.n))
	}
	dims := slices.Clone(a.dims)
	dims[axis].n = hi - lo
	if hi == lo {
		return a.view(a.first, dims) // lo may be behind the last element
	}
	return a.view(a.first+lo*d.step, dims)
}

// Step returns a[::k] on an axis: the view of every k-th index from 0 on. It
// panics if k is not positive.
func (a *Array[T]) Step(axis, k int) *Array[T] {
	d := a.axis(axis)
	if k <= 0 {
		panic(fmt.Sprintf("array: a step of %d; Flip turns an axis round", k))
	}
	dims := slices.Clone(a.dims)
	dims[axis].n = d.n / k
	if d.n%k != 0 {
		dims[axis].n++
	}
	if dims[axis].n > 1 { // else the product may not fit
		dims[axis].step = d.step * k
	}
	return a.view(a.first, dims)
}

// Flip returns a[::-1] on an axis: the view in which it runs backwards.
func (a *Array[T]) Flip(axis int) *Array[T] {
	d := a.axis(axis)
	dims := slices.Clone(a.dims)
	dims[axis].step = -d.step
	return a.view(a.first+max(d.n-1, 0)*d.step, dims)
}

// Transpose returns the view with the axes in another order: axis k of it is
// axis axes[k] of a; without arguments they are turned round. It panics if axes
// is not each axis once.
func (a *Array[T]) Transpose(axes ...int) *Array[T] {
	dims := slices.Clone(a.dims)
	if len(axes) == 0 {
		slices.Reverse(dims)
		return a.view(a.first, dims)
	}
	if len(axes) != len(dims) {
		panic(fmt.Sprintf("array: %d axes to transpose %d", len(axes), len(dims)))
	}
	for k, from := range axes {
		dims[k] = a.axis(from)
		if slices.Contains(axes[:k], from) {
			panic(fmt.Sprintf("array: axis %d twice", from))
		}
	}
	return a.view(a.first, dims)
}

// Reshape returns the view of the same elements, in the order of All, with other
// axes. One length may be -1: what is left over. Nothing is copied; so where the
// elements of one new axis do not lie at equal distances, that is an error.
//
// Errors: shm.ErrSize if the shape has not as many elements, shm.ErrFormat if
// only a copy could have it; Clone first.
func (a *Array[T]) Reshape(shape ...int) (*Array[T], error) {
	fail := func(err error) (*Array[T], error) {
		e := &shm.Error{Op: "reshape array", Err: err}
		if a.block != nil {
			e.Name = a.block.Name()
		}
		return nil, e
	}
	asked := shape
	shape = slices.Clone(shape)
	n, open := a.Len(), slices.Index(shape, -1)
	if open >= 0 {
		shape[open] = 1
	}
	have, ok := npy.Elements(shape, a.dtype.Size)
	if open >= 0 {
		// Beside a length of 0, any would do, and so none is left over.
		if ok = ok && have > 0 && n%have == 0; ok {
			shape[open], have = n/have, n
		}
	}
	if !ok || have != n || len(shape) > npy.MaxDims {
		return fail(fmt.Errorf("%w: %d elements do not have the shape %s", shm.ErrSize, n, npy.PyShape(asked)))
	}
	if n == 0 {
		return a.view(a.first, contiguous(&npy.Header{Shape: shape})), nil
	}

	// Old and new axes are taken in groups of the same number of elements. Within
	// a group the old ones must run on, each into the one before it, and the new
	// ones divide that run up.
	var old []dim
	for _, d := range a.dims {
		if d.n != 1 {
			old = append(old, d)
		}
	}
	dims := make([]dim, len(shape))
	for i, k := 0, 0; k < len(shape); {
		if shape[k] == 1 {
			dims[k] = dim{1, 1}
			k++
			continue
		}
		oldEnd, newEnd := i+1, k+1
		oldN, newN := old[i].n, shape[k]
		for oldN != newN {
			if oldN < newN {
				oldN *= old[oldEnd].n
				oldEnd++
			} else {
				newN *= shape[newEnd]
				newEnd++
			}
		}
		for j := i; j < oldEnd-1; j++ {
			if old[j].step != old[j+1].step*old[j+1].n {
				return fail(fmt.Errorf("%w: %s cannot be a view of this array, as its elements have gaps or another order; Clone it first",
					shm.ErrFormat, npy.PyShape(asked)))
			}
		}
		step := old[oldEnd-1].step
		for j := newEnd - 1; j >= k; j-- {
			dims[j] = dim{shape[j], step}
			step *= shape[j]
		}
		i, k = oldEnd, newEnd
	}
	return a.view(a.first, dims), nil
}
