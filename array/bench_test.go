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

// perElement is for loops of many calls: b.Loop, and a sum that is kept in
// memory, would cost more than At.
func perElement(b *testing.B, n int, all func() float64) {
	for b.Loop() {
		sinkFloat = all()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/element")
}

func BenchmarkAt(b *testing.B) {
	const n = 4096
	b.Run("1", func(b *testing.B) {
		a := bench(b, n)
		perElement(b, n, func() (s float64) {
			for i := range n {
				s += a.At(i)
			}
			return s
		})
	})
	b.Run("2", func(b *testing.B) {
		a := bench(b, 64, 64)
		perElement(b, n, func() (s float64) {
			for i := range 64 {
				for j := range 64 {
					s += a.At(i, j)
				}
			}
			return s
		})
	})
	b.Run("3", func(b *testing.B) {
		a := bench(b, 16, 16, 16)
		perElement(b, n, func() (s float64) {
			for i := range 16 {
				for j := range 16 {
					for k := range 16 {
						s += a.At(i, j, k)
					}
				}
			}
			return s
		})
	})
}

func BenchmarkSet(b *testing.B) {
	a := bench(b, 64, 64)
	perElement(b, 4096, func() float64 {
		for i := range 64 {
			for j := range 64 {
				a.Set(1, i, j)
			}
		}
		return 0
	})
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
