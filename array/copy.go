package array

import (
	"fmt"
	"io/fs"
	"slices"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/npy"
)

// within runs fn while the array's block is held open, and turns a fault in it
// into an error.
func (a *Array[T]) within(fn func() error) error {
	if a.block == nil {
		return fn()
	}
	return a.block.Do(func([]byte) error { return fn() })
}

// writable refuses before the first store what would end in a fault.
func (a *Array[T]) writable(op string) error {
	if a.block != nil && a.block.ReadOnly() {
		return &shm.Error{Op: op, Name: a.block.Name(), Err: fmt.Errorf("opened read-only: %w", fs.ErrPermission)}
	}
	return nil
}

// Fill stores v in every element.
//
// Errors: fs.ErrPermission if the block was opened read-only, shm.ErrTruncated,
// os.ErrClosed.
func (a *Array[T]) Fill(v T) error {
	if err := a.writable("fill array"); err != nil {
		return err
	}
	return a.within(func() error {
		if data := a.Data(); data != nil {
			for i := range data {
				data[i] = v
			}
			return nil
		}
		for r := range a.runs() {
			for p := r.first; r.n > 0; r.n-- {
				a.data[p] = v
				p += r.step
			}
		}
		return nil
	})
}

// CopyFrom stores the elements of src, which has the same shape, whatever the
// order of either in memory. They may lie in the same memory.
//
// Errors: shm.ErrSize if the shapes differ, and those of Fill.
func (a *Array[T]) CopyFrom(src *Array[T]) error {
	const op = "copy array"
	if err := a.writable(op); err != nil {
		return err
	}
	if !slices.EqualFunc(a.dims, src.dims, func(x, y dim) bool { return x.n == y.n }) {
		e := &shm.Error{Op: op, Err: fmt.Errorf("%w: from the shape %s to %s", shm.ErrSize, npy.PyShape(src.Shape()), npy.PyShape(a.Shape()))}
		if a.block != nil {
			e.Name = a.block.Name()
		}
		return e
	}
	return a.within(func() error {
		return src.within(func() error {
			a.copyFrom(src)
			return nil
		})
	})
}

func (a *Array[T]) copyFrom(src *Array[T]) {
	if order := orderOf(a.dims); order != Strided && order == orderOf(src.dims) {
		copy(a.Data(), src.Data()) // right for memory that overlaps
		return
	}
	if a.overlaps(src) {
		src = src.clone()
	}
	// Along the axis that is densest where it is written: one that jumps makes
	// the cache load a line for each element it writes.
	to, from := a.dims, src.dims
	if n := len(to); n > 1 {
		dense := n - 1
		for k := range n {
			if to[k].n > 1 && abs(to[k].step) < abs(to[dense].step) || to[dense].n <= 1 {
				dense = k
			}
		}
		to, from = slices.Clone(to), slices.Clone(from)
		to[dense], to[n-1] = to[n-1], to[dense]
		from[dense], from[n-1] = from[n-1], from[dense]
	}
	d, s := a.view(a.first, to), src.view(src.first, from)
	if len(to) == 0 {
		d.data[d.first] = s.data[s.first]
		return
	}
	last := len(to) - 1
	if to[last].n == 0 {
		return
	}
	idx := make([]int, last)
	for range count(to[:last]) {
		p, q := d.first, s.first
		for k, i := range idx {
			p += i * to[k].step
			q += i * from[k].step
		}
		if to[last].step == 1 && from[last].step == 1 {
			copy(d.data[p:p+to[last].n], s.data[q:q+to[last].n])
		} else {
			for range to[last].n {
				d.data[p] = s.data[q]
				p += to[last].step
				q += from[last].step
			}
		}
		advance(idx, to)
	}
}

func abs(n int) int { return max(n, -n) }

// overlaps reports whether writing to a may change src. Two mappings of one
// block have different addresses, and are told by the block's name; it errs on
// the side of a copy.
func (a *Array[T]) overlaps(src *Array[T]) bool {
	if len(a.data) == 0 || len(src.data) == 0 {
		return false
	}
	if a.block != nil && src.block != nil {
		return a.block == src.block || a.block.Name() == src.block.Name()
	}
	if a.block != nil || src.block != nil {
		return false
	}
	return a.shares(src)
}

// shares reports whether two views are of the same slice. cap counts to its end,
// so of two parts of one slice the last possible element is the same.
func (a *Array[T]) shares(src *Array[T]) bool {
	x, y := a.data[:cap(a.data)], src.data[:cap(src.data)]
	return &x[len(x)-1] == &y[len(y)-1]
}

// Clone returns a copy in this process's own memory, in C order.
//
// Errors: shm.ErrTruncated, os.ErrClosed.
func (a *Array[T]) Clone() (*Array[T], error) {
	var c *Array[T]
	err := a.within(func() error {
		c = a.clone()
		return nil
	})
	return c, err
}

func (a *Array[T]) clone() *Array[T] {
	c := &Array[T]{data: make([]T, a.Len()), dims: contiguous(&npy.Header{Shape: a.Shape()}), dtype: a.dtype}
	c.copyFrom(a)
	return c
}
