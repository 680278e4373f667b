package shmgonum_test

import (
	"fmt"
	"log"

	"gonum.org/v1/gonum/mat"

	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/array/shmgonum"
)

func Example() {
	a, err := array.CreateNPY[float64]("", []int{2, 2}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer a.Unlink()
	defer a.Close()
	copy(a.Data(), []float64{4, 7, 2, 6})

	m, err := shmgonum.Dense(a)
	if err != nil {
		log.Fatal(err)
	}
	if err := m.Inverse(mat.DenseCopyOf(m)); err != nil { // the result goes into the block
		log.Fatal(err)
	}
	for row := range 2 {
		fmt.Printf("%.1f\n", a.Row(row))
	}
	// Output:
	// [0.6 -0.7]
	// [-0.2 0.4]
}
