package array

import (
	"fmt"
	"io/fs"
	"slices"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/layout"
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
// order of either in memory. They may lie in the same memory, also in two
// mappings of one block; only what [Over] took from the other mapping is not
// recognised.
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
	alias := a.aliases(src)
	if order := orderOf(a.dims); order != Strided && order == orderOf(src.dims) && !alias {
		copy(a.Data(), src.Data()) // right for memory that overlaps, if its addresses do
		return
	}
	if alias || a.overlaps(src) {
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

// extent returns between which of data the elements lie: lo with it, hi without.
func (a *Array[T]) extent() (lo, hi int) {
	lo, hi = a.first, a.first+1
	for _, d := range a.dims {
		if d.n == 0 {
			return 0, 0
		}
		if s := (d.n - 1) * d.step; s < 0 {
			lo += s
		} else {
			hi += s
		}
	}
	return lo, hi
}

// overlaps reports whether some bytes are both a's and src's, by their addresses.
// Elements that interleave count as well, though none is in both.
func (a *Array[T]) overlaps(src *Array[T]) bool {
	lo, hi := a.extent()
	x := layout.Bytes(a.data[lo:hi])
	lo, hi = src.extent()
	y := layout.Bytes(src.data[lo:hi])
	if len(x) == 0 || len(y) == 0 {
		return false
	}
	_, in := layout.Offset(x, &y[0])
	_, around := layout.Offset(y, &x[0])
	return in || around
}

// aliases reports whether src may be some of the same memory at other addresses:
// in another mapping of the same block. Only the names tell, and a block made
// from a descriptor has none; so it errs on the side of a copy.
func (a *Array[T]) aliases(src *Array[T]) bool {
	if a.block == nil || src.block == nil || a.block == src.block {
		return false
	}
	if x, y := a.block.Name(), src.block.Name(); x != y && x != "" && y != "" {
		return false
	}
	lo, hi := a.extent()
	srcLo, srcHi := src.extent()
	size := a.dtype.Size
	return a.off+lo*size < src.off+srcHi*size && src.off+srcLo*size < a.off+hi*size
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
