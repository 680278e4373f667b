package shmgonum_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/mat"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/array/shmgonum"
	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

// pair makes an array that counts from 0 in the order of All, and opens it again.
func pair(t *testing.T, shape []int, order array.Order) (a, peer *array.Array[float64]) {
	t.Helper()
	a, err := array.CreateNPY[float64](shmtest.Name(t), shape, nil, order)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(a.Close(), a.Unlink()); err != nil {
			t.Error(err)
		}
	})
	n := 0.0
	for idx := range a.All() {
		a.Set(n, idx...)
		n++
	}
	if peer, err = array.OpenNPY[float64](a.Block().Name(), nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := peer.Close(); err != nil {
			t.Error(err)
		}
	})
	return a, peer
}

// same fails the test unless a matrix has what the array's own indices give.
func same(t *testing.T, what string, m mat.Matrix, a *array.Array[float64]) {
	t.Helper()
	r, c := m.Dims()
	if shape := a.Shape(); !slices.Equal(shape, []int{r, c}) {
		t.Fatalf("%s: %d by %d, want %v", what, r, c, shape)
	}
	for idx, v := range a.All() {
		if m.At(idx[0], idx[1]) != v {
			t.Errorf("%s: %v at %v, want %v", what, m.At(idx[0], idx[1]), idx, v)
		}
	}
}

// A product computed into the matrix is in the block, as another handle sees it.
func TestDense(t *testing.T) {
	a, peer := pair(t, []int{3, 3}, array.C)
	m, err := shmgonum.Dense(a)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "whole", m, a)
	left := mat.NewDense(3, 3, []float64{0, 0, 1, 0, 1, 0, 1, 0, 0}) // turns the rows round
	m.Mul(left, mat.DenseCopyOf(m))
	if got, want := peer.Data(), []float64{6, 7, 8, 3, 4, 5, 0, 1, 2}; !slices.Equal(got, want) {
		t.Errorf("another handle sees %v, want %v", got, want)
	}
	peer.Set(42, 1, 2)
	if m.At(1, 2) != 42 {
		t.Errorf("the matrix has %v where another handle stored 42", m.At(1, 2))
	}
	if data := m.RawMatrix().Data; &data[0] != a.Ptr(0, 0) || cap(data) != 9 {
		t.Errorf("the matrix has other memory than the array, or %d elements of it", cap(data))
	}
}

// Views keep their gaps: what lies there is not touched.
func TestDenseViews(t *testing.T) {
	a, peer := pair(t, []int{6, 5}, array.C)
	for what, v := range map[string]*array.Array[float64]{
		"rows":             a.Slice(2, 5),
		"a window":         a.Slice(1, 4).SliceAxis(1, 2, 4),
		"every other row":  a.Step(0, 2),
		"one row":          a.Slice(4, 5),
		"one column":       a.SliceAxis(1, 3, 4),
		"one element":      a.Slice(5, 6).SliceAxis(1, 4, 5),
		"a column's rows":  a.SliceAxis(1, 4, 5).Step(0, 3),
		"one row, flipped": a.Slice(3, 4).Flip(0),
	} {
		m, err := shmgonum.Dense(v)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		same(t, what, m, v)
		want := slices.Clone(a.Data())
		for _, x := range v.All() {
			row, col := int(x)/5, int(x)%5
			want[5*row+col] = -x
		}
		m.Scale(-1, m)
		if !slices.Equal(peer.Data(), want) {
			t.Errorf("%s: scaled by -1 the block has %v, want %v", what, peer.Data(), want)
		}
		m.Scale(-1, m)
	}
}

func TestFortran(t *testing.T) {
	a, peer := pair(t, []int{2, 3}, array.Fortran)
	if _, err := shmgonum.Dense(a); !errors.Is(err, shm.ErrFormat) || !strings.Contains(err.Error(), "Transpose()") {
		t.Errorf("Fortran's order as a Dense: %v", err)
	}
	m, err := shmgonum.Matrix(a)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "Matrix", m, a)
	if _, ok := m.(mat.Transpose); !ok {
		t.Errorf("Matrix of Fortran's order is a %T", m)
	}
	d, err := shmgonum.Dense(a.Transpose())
	if err != nil {
		t.Fatal(err)
	}
	d.Set(2, 1, 42)
	if peer.At(1, 2) != 42 || m.At(1, 2) != 42 {
		t.Errorf("42 stored in the transpose is %v in the block, %v in Matrix", peer.At(1, 2), m.At(1, 2))
	}
	var p mat.Dense
	p.Mul(m, mat.NewDense(3, 1, []float64{1, 1, 1}))
	if p.At(0, 0) != 3 || p.At(1, 0) != 3+4+42 {
		t.Errorf("sums of rows: %v", mat.Formatted(&p))
	}

	// In C's order Matrix is Dense.
	c, _ := pair(t, []int{2, 3}, array.C)
	if m, err = shmgonum.Matrix(c); err != nil {
		t.Fatal(err)
	}
	same(t, "Matrix in C order", m, c)
	if _, ok := m.(*mat.Dense); !ok {
		t.Errorf("Matrix of C's order is a %T", m)
	}
}

func TestVector(t *testing.T) {
	a, peer := pair(t, []int{4, 3}, array.C)
	column := a.Transpose().Sub(1)
	v, err := shmgonum.Vector(column)
	if err != nil {
		t.Fatal(err)
	}
	if raw := v.RawVector(); raw.N != 4 || raw.Inc != 3 {
		t.Errorf("a column of three is %d elements at a distance of %d", raw.N, raw.Inc)
	}
	if got := mat.Sum(v); got != 1+4+7+10 {
		t.Errorf("its sum is %v", got)
	}
	v.AddScaledVec(v, 100, v)
	if got, want := peer.Data(), []float64{0, 101, 2, 3, 404, 5, 6, 707, 8, 9, 1010, 11}; !slices.Equal(got, want) {
		t.Errorf("another handle sees %v, want %v", got, want)
	}
	row, err := shmgonum.Vector(a.Sub(3))
	if err != nil {
		t.Fatal(err)
	}
	if got := blas64.Asum(row.RawVector()); got != 9+1010+11 {
		t.Errorf("the sum of the last row is %v", got)
	}
	one, err := shmgonum.Vector(a.Sub(2).Slice(1, 2).Flip(0))
	if err != nil || one.Len() != 1 || one.AtVec(0) != 707 {
		t.Errorf("a vector of one element: %v, %v", one, err)
	}
}

func TestCDense(t *testing.T) {
	a, err := array.Create[complex128](shmtest.Name(t), []int{2, 3}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Unlink()
	defer a.Close()
	m, err := shmgonum.CDense(a.SliceAxis(1, 1, 3))
	if err != nil {
		t.Fatal(err)
	}
	m.Set(1, 1, 3-4i)
	m.Conj(m)
	if a.At(1, 2) != 3+4i || a.At(0, 0) != 0 {
		t.Errorf("the array has %v", a.Data())
	}
}

// Of this process's own memory there is less, as its gaps belong to somebody.
func TestOver(t *testing.T) {
	data := []float64{1, 2, 3, 4, 5, 6}
	a, err := array.Over(data, []int{2, 3})
	if err != nil {
		t.Fatal(err)
	}
	m, err := shmgonum.Dense(a)
	if err != nil {
		t.Fatal(err)
	}
	m.Set(0, 1, 42)
	if data[1] != 42 {
		t.Errorf("the slice has %v", data)
	}
	if _, err := shmgonum.Dense(a.SliceAxis(1, 0, 2)); !errors.Is(err, shm.ErrFormat) {
		t.Errorf("a view with gaps: %v", err)
	}
}

func TestErrors(t *testing.T) {
	a, _ := pair(t, []int{4, 4}, array.C)
	raw := a.Block()
	strided := func(off int, shape, strides []int) *array.Array[float64] {
		t.Helper()
		v, err := array.FromBlockStrided[float64](raw, off, shape, strides)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	dense := func(a *array.Array[float64]) error { _, err := shmgonum.Dense(a); return err }
	matrix := func(a *array.Array[float64]) error { _, err := shmgonum.Matrix(a); return err }
	vector := func(a *array.Array[float64]) error { _, err := shmgonum.Vector(a); return err }
	for _, tt := range []struct {
		what string
		err  error
		want error
		say  string
	}{
		{"one axis as a matrix", dense(a.Sub(0)), shm.ErrFormat, "Reshape"},
		{"no rows", dense(a.Slice(1, 1)), shm.ErrSize, "no elements"},
		{"no columns", dense(a.SliceAxis(1, 4, 4)), shm.ErrSize, "no elements"},
		{"every other column", dense(a.Step(1, 2)), shm.ErrFormat, "Clone"},
		{"every other column", matrix(a.Step(1, 2)), shm.ErrFormat, "Clone"},
		{"rows upside down", dense(a.Flip(0)), shm.ErrFormat, "Flip"},
		{"rows from right to left", dense(a.Flip(1)), shm.ErrFormat, "Clone"},
		{"one row again and again", dense(strided(0, []int{3, 4}, []int{0, 8})), shm.ErrFormat, "overlap"},
		{"a window that slides", dense(strided(0, []int{3, 4}, []int{8, 8})), shm.ErrFormat, "overlap"},
		{"two axes as a vector", vector(a), shm.ErrFormat, "Sub"},
		{"a vector of nothing", vector(a.Sub(0).Slice(4, 4)), shm.ErrSize, "no elements"},
		{"a vector that runs backwards", vector(a.Sub(0).Flip(0)), shm.ErrFormat, "Flip"},
		{"one element again and again", vector(strided(0, []int{3}, []int{0})), shm.ErrFormat, "Clone"},
	} {
		if !errors.Is(tt.err, tt.want) || !strings.Contains(tt.err.Error(), tt.say) {
			t.Errorf("%s: %v; want %v that says %q", tt.what, tt.err, tt.want, tt.say)
		}
		if e, ok := errors.AsType[*shm.Error](tt.err); !ok || e.Name != raw.Name() {
			t.Errorf("%s: %#v is not a *shm.Error with the block's name", tt.what, tt.err)
		}
	}

	b, err := array.OpenNPY[float64](raw.Name(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := dense(b); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a matrix of a closed block: %v", err)
	}
	if err := vector(b.Sub(1)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a vector of a closed block: %v", err)
	}
}
