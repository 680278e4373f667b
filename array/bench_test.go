package array_test

import (
	"errors"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/internal/shmtest"
)

var (
	sinkFloat float64
	sinkArray *array.Array[float64]
)

func bench(b *testing.B, shape ...int) *array.Array[float64] {
	a, err := array.CreateNPY[float64](shmtest.Name(b), shape, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := errors.Join(a.Close(), a.Unlink()); err != nil {
			b.Error(err)
		}
	})
	return a
}

func BenchmarkAt(b *testing.B) {
	b.Run("1", func(b *testing.B) {
		a := bench(b, 1024)
		for i := 0; b.Loop(); i = (i + 1) & 1023 {
			sinkFloat += a.At(i)
		}
	})
	b.Run("2", func(b *testing.B) {
		a := bench(b, 64, 64)
		for i := 0; b.Loop(); i = (i + 1) & 63 {
			sinkFloat += a.At(i, 63-i)
		}
	})
	b.Run("3", func(b *testing.B) {
		a := bench(b, 16, 16, 16)
		for i := 0; b.Loop(); i = (i + 1) & 15 {
			sinkFloat += a.At(i, 15-i, i)
		}
	})
}

func BenchmarkSet(b *testing.B) {
	a := bench(b, 64, 64)
	for i := 0; b.Loop(); i = (i + 1) & 63 {
		a.Set(1, i, 63-i)
	}
}

// The sum of ten million, in a block and in a slice of Go's heap.
func BenchmarkSum(b *testing.B) {
	const n = 10_000_000
	sum := func(b *testing.B, data []float64) {
		for b.Loop() {
			s := 0.0
			for _, v := range data {
				s += v
			}
			sinkFloat = s
		}
		b.SetBytes(8 * n)
	}
	b.Run("block", func(b *testing.B) {
		a := bench(b, n)
		if err := a.Fill(0.5); err != nil {
			b.Fatal(err)
		}
		sum(b, a.Data())
	})
	b.Run("values", func(b *testing.B) {
		a := bench(b, n)
		if err := a.Fill(0.5); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			s := 0.0
			for v := range a.Values() {
				s += v
			}
			sinkFloat = s
		}
		b.SetBytes(8 * n)
	})
	b.Run("heap", func(b *testing.B) {
		data := make([]float64, n)
		for i := range data {
			data[i] = 0.5
		}
		sum(b, data)
	})
}

func BenchmarkOpen(b *testing.B) {
	a := bench(b, 64, 64)
	b.Run("array", func(b *testing.B) {
		for b.Loop() {
			o, err := array.OpenNPY[float64](a.Block().Name(), nil)
			if err != nil {
				b.Fatal(err)
			}
			o.Close()
		}
	})
	b.Run("block", func(b *testing.B) {
		for b.Loop() {
			o, err := shm.Open(a.Block().Name(), nil)
			if err != nil {
				b.Fatal(err)
			}
			// As the array does, so that Close does the same.
			if o.Bytes()[0] != 0x93 {
				b.Fatal("no header")
			}
			o.Close()
		}
	})
}

func BenchmarkCopyFrom(b *testing.B) {
	a, c := bench(b, 1000, 1000), bench(b, 1000, 1000)
	b.Run("same", func(b *testing.B) {
		for b.Loop() {
			if err := a.CopyFrom(c); err != nil {
				b.Fatal(err)
			}
		}
		b.SetBytes(8e6)
	})
	b.Run("transposed", func(b *testing.B) {
		t := c.Transpose()
		for b.Loop() {
			if err := a.CopyFrom(t); err != nil {
				b.Fatal(err)
			}
		}
		b.SetBytes(8e6)
	})
}

func BenchmarkView(b *testing.B) {
	a := bench(b, 64, 64)
	for i := 0; b.Loop(); i = (i + 1) & 63 {
		sinkArray = a.Sub(i)
	}
}
