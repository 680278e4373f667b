package shmgonum

import (
	"fmt"

	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/blas/cblas128"
	"gonum.org/v1/gonum/mat"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
)

// Dense returns an array of two axes as a matrix over the same memory. Rows may
// have gaps between them, as those of a view by SliceAxis or Step, but
// not elements of a row.
//
// Errors: shm.ErrFormat for another number of axes or for elements that lie in
// another way, when the message says what to do; shm.ErrSize without any
// elements, as gonum has no such matrices; os.ErrClosed.
func Dense(a *array.Array[float64]) (*mat.Dense, error) {
	rows, cols, stride, data, err := general(a)
	if err != nil {
		return nil, err
	}
	m := new(mat.Dense)
	m.SetRawMatrix(blas64.General{Rows: rows, Cols: cols, Stride: stride, Data: data})
	return m, nil
}

// CDense is Dense for complex numbers.
//
// Errors: those of Dense.
func CDense(a *array.Array[complex128]) (*mat.CDense, error) {
	rows, cols, stride, data, err := general(a)
	if err != nil {
		return nil, err
	}
	m := new(mat.CDense)
	m.SetRawCMatrix(cblas128.General{Rows: rows, Cols: cols, Stride: stride, Data: data})
	return m, nil
}

// Matrix is Dense for what is only read, in either order: an array in Fortran's is
// returned as the transpose (a mat.Transpose) of the matrix that its memory is
// in C's. gonum multiplies by such a one without a copy.
//
// Errors: those of Dense.
func Matrix(a *array.Array[float64]) (mat.Matrix, error) {
	if shape, strides := a.Shape(), a.Strides(); len(shape) == 2 && shape[1] > 1 && strides[1] != itemSize(a) {
		t, err := Dense(a.Transpose())
		if err != nil {
			return nil, err
		}
		return t.T(), nil
	}
	return Dense(a)
}

// Vector returns an array of one axis as a vector over the same memory. Its
// elements may lie at any distance from each other, one after another.
//
// Errors: those of Dense.
func Vector(a *array.Array[float64]) (*mat.VecDense, error) {
	shape := a.Shape()
	switch {
	case len(shape) != 1:
		return nil, fail(a, shm.ErrFormat, "%d axes, and a vector has one; Sub and Reshape make such a view", len(shape))
	case shape[0] == 0:
		return nil, fail(a, shm.ErrSize, "no elements, and gonum has no such vector")
	}
	n, inc := shape[0], 1
	if n > 1 {
		inc = a.Strides()[0] / itemSize(a)
	}
	if inc < 1 {
		return nil, fail(a, shm.ErrFormat, "elements that do not follow one another; Flip turns the axis round, Clone makes a copy")
	}
	data, err := elements(a, (n-1)*inc+1)
	if err != nil {
		return nil, err
	}
	v := new(mat.VecDense)
	v.SetRawVector(blas64.Vector{N: n, Inc: inc, Data: data})
	return v, nil
}

// general finds the rows of a matrix in an array's memory.
func general[T float64 | complex128](a *array.Array[T]) (rows, cols, stride int, data []T, err error) {
	shape := a.Shape()
	switch {
	case len(shape) != 2:
		err = fail(a, shm.ErrFormat, "%d axes, and a matrix has two; Sub and Reshape make such a view", len(shape))
		return
	case shape[0] == 0 || shape[1] == 0:
		err = fail(a, shm.ErrSize, "no elements, and gonum has no such matrix")
		return
	}
	rows, cols = shape[0], shape[1]
	strides, size := a.Strides(), itemSize(a)
	// The stride of an axis with one index may be anything.
	if cols > 1 && strides[1] != size {
		advice := "Clone makes a copy in C order"
		if rows == 1 || strides[0] == size {
			advice = "the order is Fortran's: take Dense of Transpose(), which is the transposed matrix, or Matrix"
		}
		err = fail(a, shm.ErrFormat, "elements of a row that do not lie side by side; %s", advice)
		return
	}
	stride = cols
	if rows > 1 {
		stride = strides[0] / size
	}
	if stride < cols {
		err = fail(a, shm.ErrFormat, "rows that overlap or run backwards; Flip turns an axis round, Clone makes a copy")
		return
	}
	data, err = elements(a, (rows-1)*stride+cols)
	return
}

// elements returns the n elements from the first one on, with those in gaps.
func elements[T float64 | complex128](a *array.Array[T], n int) ([]T, error) {
	b := a.Block()
	if b == nil {
		// In this process's own memory a view hands out no more than its elements.
		data := a.Data()
		if data == nil {
			return nil, fail(a, shm.ErrFormat, "gaps between the elements of an array in no block; Clone makes a copy")
		}
		return data, nil
	}
	off, err := shm.Offset(b, a.Ptr(make([]int, len(a.Shape()))...))
	if err != nil {
		return nil, err
	}
	data, err := shm.Slice[T](b, off, n)
	if err != nil {
		return nil, err
	}
	// Without room behind it, so that no Grow of gonum's reaches what is not the
	// array's.
	return data[:n:n], nil
}

func itemSize[T float64 | complex128](*array.Array[T]) int {
	if _, ok := any(*new(T)).(float64); ok {
		return 8
	}
	return 16
}

func fail[T float64 | complex128](a *array.Array[T], kind error, format string, args ...any) error {
	e := &shm.Error{Op: "make matrix", Err: fmt.Errorf("%w: %s", kind, fmt.Sprintf(format, args...))}
	if b := a.Block(); b != nil {
		e.Name = b.Name()
	}
	return e
}
