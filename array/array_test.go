package array_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

// What one handle writes, the next one reads, header or not, in both orders.
func TestCreateOpen(t *testing.T) {
	for _, order := range []array.Order{array.C, array.Fortran} {
		name := shmtest.Name(t)
		a, err := array.CreateNPY[int16](name, []int{3, 4}, nil, order)
		if err != nil {
			t.Fatal(err)
		}
		for idx := range a.All() {
			a.Set(int16(10*idx[0]+idx[1]), idx...)
		}
		b, err := array.OpenNPY[int16](name, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := slices.Collect(b.Values()), []int16{0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23}; !slices.Equal(got, want) {
			t.Errorf("%v: %v, want %v", order, got, want)
		}
		if b.Order() != order || b.DType() != "<i2" || !slices.Equal(b.Shape(), []int{3, 4}) {
			t.Errorf("%v: opened as %v, %v", order, b, b.Order())
		}
		if _, err := array.OpenNPY[uint16](name, nil); !errors.Is(err, shm.ErrFormat) {
			t.Errorf("as another type: %v", err)
		}
		if err := errors.Join(b.Close(), a.Close(), a.Unlink()); err != nil {
			t.Error(err)
		}
	}
}
