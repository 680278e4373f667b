package worker_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/worker"
)

// eachNumPy runs f for every NumPy that is there.
func eachNumPy(t *testing.T, f func(t *testing.T, py string)) {
	for _, py := range shmtest.PythonsWith(t, "numpy") {
		t.Run("numpy"+py.Module, func(t *testing.T) { f(t, py.Path) })
	}
}

// result takes an array that a function returned: it ends with the test.
func result[T any](t *testing.T, a *array.Array[T]) *array.Array[T] {
	t.Helper()
	shmtest.Watch(a.Block().Name())
	t.Cleanup(func() { _ = errors.Join(a.Close(), a.Unlink()) })
	return a
}

func newArray[T any](t *testing.T, shape ...int) *array.Array[T] {
	t.Helper()
	a, err := array.Create[T](shmtest.Name(t), shape, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(a.Close(), a.Unlink()) })
	return a
}

// point has no field that lies elsewhere where words have 32 bits.
type point struct {
	X int64
	Y float64
}

func TestPythonArrays(t *testing.T) {
	eachNumPy(t, func(t *testing.T, py string) {
		pool := newPool(t, 1, nil)
		a := newArray[float64](t, 3, 4)
		for i := range 12 {
			a.Data()[i] = float64(i)
		}
		must(t, pool, python[*array.Array[float64], any](py, "array_add_one"), a)
		if got := fmt.Sprint(a.Data()); got != "[1 2 3 4 5 6 7 8 9 10 11 12]" {
			t.Error(got)
		}
		headed, err := array.CreateNPY[int16](shmtest.Name(t), []int{2, 3}, nil, array.Fortran)
		if err != nil {
			t.Fatal(err)
		}
		defer headed.Unlink()
		defer headed.Close()
		headed.Set(7, 1, 2)
		about := python[any, []any](py, "array_about")
		for want, view := range map[string]any{
			"[<f8 [3 4] [32 8] true]":  a,
			"[<f8 [4 3] [8 32] true]":  a.Transpose(),
			"[<f8 [2 2] [32 16] true]": a.Slice(1, 3).Step(1, 2),
			"[<f8 [3 4] [32 -8] true]": a.Flip(1),
			"[<f8 [] [] true]":         a.Sub(1).Sub(1),
			"[<i2 [2 3] [2 4] true]":   headed,
			"[<i2 [1 3] [2 4] true]":   headed.Slice(1, 2),
		} {
			if got := fmt.Sprint(must(t, pool, about, view)); got != want {
				t.Errorf("%v is %s in Python, want %s", view, got, want)
			}
		}
		if got := must(t, pool, python[*array.Array[int16], int](py, "array_sum"), headed.Slice(1, 2)); got != 7 {
			t.Error(got)
		}
		b, err := shm.Open(a.Block().Name(), &shm.OpenOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		frozen, err := array.FromBlock[float64](b, 0, []int{12})
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(must(t, pool, about, any(frozen))); got != "[<f8 [12] [8] false]" {
			t.Error(got)
		}

		// A result is a block of its own, in whatever order and type; its dtype decides.
		d := result(t, must(t, pool, python[any, *array.Array[float64]](py, "array_double"), any(a.Transpose())))
		if !slices.Equal(d.Shape(), []int{4, 3}) || d.At(3, 2) != 24 || d.Order() != array.Fortran {
			t.Error(d, d.Order(), d.At(3, 2))
		}
		if info, err := shm.Stat(d.Block().Name()); err != nil || info.Owner.PID != os.Getpid() {
			t.Errorf("%+v, %v", info.Owner, err)
		}
		// One that lies in an argument is that memory.
		for _, f := range []string{"array_row", "array_same"} {
			same := must(t, pool, python[any, *array.Array[float64]](py, f), any(a.Flip(0)))
			if same.Block().Identity() != a.Block().Identity() {
				t.Errorf("%s: %v is a copy", f, same)
			}
			want := a.Flip(0)
			if f == "array_row" {
				want = want.Slice(1, 3).Step(1, 2)
			}
			if !slices.Equal(slices.Collect(same.Values()), slices.Collect(want.Values())) {
				t.Errorf("%s: %v", f, slices.Collect(same.Values()))
			}
			same.Close()
		}

		points := result(t, must(t, pool, python[int, *array.Array[point]](py, "array_points"), 5))
		must(t, pool, python[*array.Array[point], any](py, "array_move"), points)
		if got := fmt.Sprint(points.Data()); got != "[{1 0.5} {2 0.5} {3 0.5} {4 0.5} {5 0.5}]" {
			t.Error(got)
		}

		big := result(t, must(t, pool, python[string, *array.Array[int32]](py, "array_make"), "big-endian"))
		fortran := result(t, must(t, pool, python[string, *array.Array[float64]](py, "array_make"), "fortran"))
		empty := result(t, must(t, pool, python[string, *array.Array[float64]](py, "array_make"), "empty"))
		zero := result(t, must(t, pool, python[string, any](py, "array_make"), "zero-dim").(*array.Array[float64]))
		if got := fmt.Sprint(big.Data(), fortran.At(1, 0), fortran.Order(), empty.Shape(), zero.At()); got != "[0 1 2 3 4] 3 F [0 3] 7" {
			t.Error(got)
		}
		if got := must(t, pool, python[string, float64](py, "array_make"), "scalar"); got != 1.25 {
			t.Error(got)
		}
		two := must(t, pool, python[string, []*array.Array[float64]](py, "array_make"), "list")
		if len(two) != 2 || result(t, two[0]).Len() != 3 || result(t, two[1]).At(3) != 3 {
			t.Error(two)
		}
		one := result(t, must(t, pool, python[int, *array.Array[uint8]](py, "array_large"), 64<<20))
		if one.Len() != 64<<20 || one.At(64<<20-1) != 1 {
			t.Error(one)
		}

		// What has no place here is removed.
		before := blocks(t)
		_, err = worker.Call(t.Context(), pool, python[int, *array.Array[float32]](py, "array_points"), 5)
		if !errors.Is(err, worker.ErrEncode) && !errors.Is(err, shm.ErrFormat) {
			t.Error(err)
		}
		if _, err := worker.Call(t.Context(), pool, python[string, any](py, "array_make"), "objects"); !errors.Is(err, worker.ErrEncode) || !strings.Contains(err.Error(), "dtype object") {
			t.Error(err)
		}
		own, _ := array.Over([]int8{1}, []int{1})
		if _, err := worker.Call(t.Context(), pool, about, any(own)); !errors.Is(err, worker.ErrEncode) {
			t.Error(err)
		}
		leftNothing(t, before)
		if s := pool.Stats(); s.Died != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// leftNothing complains of blocks of this process's that were not there before.
func leftNothing(t *testing.T, before []string) {
	t.Helper()
	for _, name := range blocks(t) {
		if info, err := shm.Stat(name); err == nil && info.Owner.PID == os.Getpid() && !slices.Contains(before, name) {
			t.Errorf("%+v was left", info)
		}
	}
}

// An array that a function keeps is its own afterwards, and goes with the worker.
func TestPythonArrayKept(t *testing.T) {
	eachNumPy(t, func(t *testing.T, py string) {
		pool := newPool(t, 1, nil)
		keep := python[*array.Array[float64], []float64](py, "array_keep")
		for i := range 40 { // more than stay mapped by themselves
			a := newArray[float64](t, 1000)
			a.Data()[0] = float64(i)
			got := must(t, pool, keep, a)
			if len(got) != i+1 || got[0] != 0 || got[i] != float64(i) {
				t.Fatal(got)
			}
			_ = errors.Join(a.Close(), a.Unlink())
		}
	})
}

// A name that another block has now is not taken for the first.
func TestPythonArrayReplaced(t *testing.T) {
	eachNumPy(t, func(t *testing.T, py string) {
		pool := newPool(t, 1, nil)
		name := shmtest.Name(t)
		for i := range 5 {
			a, err := array.Create[float64](name, []int{1000 * (i + 1)}, nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = a.Fill(float64(i))
			for range 2 {
				if got := must(t, pool, python[*array.Array[float64], float64](py, "array_sum"), a); got != float64(i*1000*(i+1)) {
					t.Error(i, got)
				}
			}
			_ = errors.Join(a.Close(), a.Unlink())
		}
	})
}

// Without NumPy there are no arrays, and the error says what to do.
func TestPythonWithoutNumPy(t *testing.T) {
	a := newArray[float64](t, 3)
	eachPython(t, func(t *testing.T, py string) {
		pool := newPool(t, 1, nil)
		_, err := worker.Call(t.Context(), pool, python[*array.Array[float64], any](py, "array_same"), a)
		f, ok := errors.AsType[*worker.Failure](err)
		if err != nil && (!ok || f.Type != "ImportError" || !strings.Contains(f.Text, "NumPy") || !strings.Contains(f.Text, "PythonOptions")) {
			t.Error(err)
		}
	})
}

// Where there is no room for a result there is an exception, and nothing is left.
func TestPythonNoRoom(t *testing.T) {
	eachNumPy(t, func(t *testing.T, py string) {
		pool := newPool(t, 1, &worker.PoolOptions{Options: worker.Options{
			Limits: []worker.Limit{{Resource: worker.FileSize, Max: 8 << 20}},
		}})
		before := blocks(t)
		f := python[int, *array.Array[uint8]](py, "array_large")
		_, err := worker.Call(t.Context(), pool, f, 16<<20)
		if e, ok := errors.AsType[*worker.Failure](err); !ok || e.Type != "MemoryError" || !errors.Is(err, shm.ErrNoSpace) {
			t.Error(err)
		}
		leftNothing(t, before)
		if a := result(t, must(t, pool, f, 1<<20)); a.Len() != 1<<20 {
			t.Error(a)
		}
	})
}
