package shmarrow_test

import (
	"fmt"
	"log"

	"github.com/apache/arrow-go/v18/arrow"
	arrowarray "github.com/apache/arrow-go/v18/arrow/array"

	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/array/shmarrow"
)

func Example() {
	// An array in a block is a column, and columns make a record batch …
	a, err := array.Create[float64]("", []int{3}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer a.Unlink()
	defer a.Close()
	copy(a.Data(), []float64{12.5, 8, 31})
	fares, err := shmarrow.Column(a)
	if err != nil {
		log.Fatal(err)
	}
	defer fares.Release()
	schema := arrow.NewSchema([]arrow.Field{{Name: "fare", Type: fares.DataType()}}, nil)
	rec := arrowarray.NewRecordBatch(schema, []arrow.Array{fares}, 3)
	defer rec.Release()

	// … which goes into a block of its own, as an Arrow file.
	f, err := shmarrow.Create("", schema, []arrow.RecordBatch{rec}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer f.Unlink()
	defer f.Close()

	// Another process opens it by its name: pa.ipc.open_file(pa.py_buffer(block.buf))
	// in Python, and in Go:
	peer, err := shmarrow.Open(f.Ref().Name, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer peer.Close()
	got, err := peer.Record(0)
	if err != nil {
		log.Fatal(err)
	}
	defer got.Release()
	fmt.Println(got.Schema().Field(0), got.Column(0))
	// Output: fare: type=float64 [12.5 8 31]
}
