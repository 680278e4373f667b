package array_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
)

// The examples run on every system. Their blocks have fresh names, so that two
// test runs do not meet.

func Example() {
	// One process makes an array …
	a, err := array.CreateNPY[float32]("", []int{480, 640}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer a.Unlink()
	defer a.Close()
	a.Set(0.5, 10, 20)

	// … another one opens it by its name, and knows its shape from its header.
	// In Python it is a numpy.ndarray over the block (see the package's
	// documentation).
	peer, err := array.OpenNPY[float32](a.Ref().Name, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer peer.Close()
	fmt.Println(peer.Shape(), peer.DType(), peer.At(10, 20))
	// Output: [480 640] <f4 0.5
}

func ExampleArray() {
	a, err := array.Create[int32]("", []int{3, 4}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer a.Unlink()
	defer a.Close()
	for i := range a.Data() {
		a.Data()[i] = int32(i)
	}

	// Views are of the same memory; nothing is copied.
	column := a.Transpose().Sub(1) // a[:, 1]
	if err := column.Fill(0); err != nil {
		log.Fatal(err)
	}
	for i, row := range a.Rows() {
		fmt.Println(i, row)
	}
	for v := range a.Flip(1).Sub(2).Values() { // a[2, ::-1]
		fmt.Print(v, " ")
	}
	// Output:
	// 0 [0 0 2 3]
	// 1 [4 0 6 7]
	// 2 [8 0 10 11]
	// 11 10 0 8
}

func ExampleArray_Reshape() {
	a, err := array.Over([]int16{0, 1, 2, 3, 4, 5}, []int{2, 3})
	if err != nil {
		log.Fatal(err)
	}
	b, err := a.Reshape(3, -1)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(b, b.Sub(2).Data())
	_, err = a.Transpose().Reshape(6)
	fmt.Println(err)
	// Output:
	// array(dtype='<i2', shape=(3, 2)) [4 5]
	// shm: reshape array: bad format: (6,) cannot be a view of this array, as its elements have gaps or another order; Clone it first
}

func ExampleArray_CopyFrom() {
	a, err := array.CreateNPY[float64]("", []int{2, 3}, nil, array.Fortran)
	if err != nil {
		log.Fatal(err)
	}
	defer a.Unlink()
	defer a.Close()
	local, err := array.Over([]float64{1, 2, 3, 4, 5, 6}, []int{2, 3})
	if err != nil {
		log.Fatal(err)
	}
	if err := a.CopyFrom(local); err != nil {
		log.Fatal(err)
	}
	fmt.Println(a.At(0, 1), a.Data()) // in the order that it has in memory
	// Output: 2 [1 4 2 5 3 6]
}

func ExampleOrder() {
	a, err := array.Over(make([]byte, 12), []int{3, 4})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(a.Order(), a.Transpose().Order(), a.Step(1, 2).Order())
	// Output: C F strided
}

// Two arrays in one block, beside each other.
func ExampleFromBlock() {
	b, err := shm.Create("", 4096, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	x, err := array.FromBlock[float64](b, 0, []int{100})
	if err != nil {
		log.Fatal(err)
	}
	y, err := array.FromBlock[uint8](b, 800, []int{10, 10})
	if err != nil {
		log.Fatal(err)
	}
	x.Set(1, 99)
	fmt.Println(y.At(0, 0), x.At(99))
	// Output: 0 1
}

func ExampleInfo() {
	type point struct {
		X, Y float32
		ID   uint32 `npy:"id"`
	}
	a, err := array.CreateNPY[point]("", []int{1000}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer a.Unlink()
	defer a.Close()

	info, err := array.Inspect(a.Block())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.DType)
	fmt.Println(info.ItemSize, info.Shape, info.Order, info.Version)
	// Output:
	// [('X', '<f4'), ('Y', '<f4'), ('id', '<u4')]
	// 12 [1000] C 1.0
}

// A type that is not the one in the block is refused, and the error says where
// they differ.
func ExampleOpenNPY() {
	type point struct{ X, Y float32 }
	type pixel struct{ X, Z float32 }
	a, err := array.CreateNPY[point]("", []int{10}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer a.Unlink()
	defer a.Close()
	_, err = array.OpenNPY[pixel](a.Ref().Name, nil)
	fmt.Println(strings.Replace(err.Error(), a.Ref().Name, "NAME", 1))
	// Output:
	// shm: open array "NAME": bad format: bad dtype: the memory has the field 'Y' where the Go type has 'Z'; a tag `npy:"Y"` renames it
}

// An array goes to a file and comes back into a block.
func ExampleLoadNPY() {
	a, err := array.Over([]float32{1, 2, 3, 4}, []int{2, 2})
	if err != nil {
		log.Fatal(err)
	}
	var file bytes.Buffer // or an *os.File: numpy.load reads it
	if _, err := a.WriteNPY(&file); err != nil {
		log.Fatal(err)
	}
	b, err := array.LoadNPY[float32]("", &file, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	fmt.Println(b.Shape(), b.Data())
	// Output: [2 2] [1 2 3 4]
}

func ExampleDeclaration() {
	type sample struct {
		ID    uint16
		Value float32
	}
	d, err := array.Describe[sample]()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(d.C)
	fmt.Println(d.NumPy)
	// Output:
	// #include <stdint.h>
	//
	// struct sample {
	// 	uint16_t ID;
	// 	uint8_t _pad0[2];
	// 	float Value;
	// } __attribute__((packed));
	// _Static_assert(sizeof(struct sample) == 8, "sample");
	//
	// import numpy
	//
	// sample = numpy.dtype({'names': ['ID', 'Value'], 'formats': ['<u2', '<f4'], 'offsets': [0, 4], 'itemsize': 8})
}

func ExampleFloat16() {
	for _, f := range []float32{0.1, 2049, 65520} {
		h := array.Float16Of(f)
		fmt.Printf("%#04x %v\n", uint16(h), h.Float32())
	}
	// Output:
	// 0x2e66 0.099975586
	// 0x6800 2048
	// 0x7c00 +Inf
}

func ExampleBFloat16() {
	h := array.BFloat16Of(3.14159)
	fmt.Printf("%#04x %v\n", uint16(h), h.Float32())
	// Output: 0x4049 3.140625
}

func ExampleTime() {
	t := array.TimeOf(time.Date(2024, 2, 29, 12, 0, 0, 5, time.UTC))
	fmt.Println(t, int64(t))
	fmt.Println(array.TimeOf(time.Time{}), array.NaT.Time().IsZero())
	// Output:
	// 2024-02-29T12:00:00.000000005Z 1709208000000000005
	// NaT true
}

func ExampleText() {
	a, err := array.Over(make([][6]rune, 2), []int{2})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(array.PutText(a.Ptr(0)[:], "Zürich"))
	fmt.Println(array.PutText(a.Ptr(1)[:], "Rapperswil"))
	fmt.Printf("%s %q %q\n", a.DType(), array.Text(a.Ptr(0)[:]), array.Text(a.Ptr(1)[:]))
	// Output:
	// <nil>
	// shm: put text: bad size: 10 characters where 6 have room
	// <U6 "Zürich" ""
}

// An array's place travels with the name of its block, and brings back a view.
func ExamplePlace() {
	a, err := array.Create[int32]("", []int{3, 4}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer a.Unlink()
	defer a.Close()
	a.Set(7, 2, 1)
	message, err := json.Marshal(a.SliceAxis(1, 0, 2).Place())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(message))

	// Another process, which was told the name as well:
	b, err := shm.Open(a.Ref().Name, nil)
	if err != nil {
		log.Fatal(err)
	}
	var p array.Place
	if err := json.Unmarshal(message, &p); err != nil {
		log.Fatal(err)
	}
	var view array.Array[int32]
	if err := view.Attach(b, p); err != nil {
		log.Fatal(err)
	}
	defer view.Close()
	fmt.Println(view.Shape(), view.At(2, 1))
	// Output:
	// {"dtype":"\u003ci4","offset":0,"shape":[3,2],"strides":[16,4]}
	// [3 2] 7
}
