package array

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

// A place brings back each view, in whatever form its array is.
func TestPlace(t *testing.T) {
	raw, err := Create[int32](shmtest.Name(t), []int{4, 6}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Unlink()
	defer raw.Close()
	headed, err := CreateNPY[int32](shmtest.Name(t), []int{4, 6}, nil, Fortran)
	if err != nil {
		t.Fatal(err)
	}
	defer headed.Unlink()
	defer headed.Close()
	for _, whole := range []*Array[int32]{raw, headed} {
		for i := range 4 {
			for j := range 6 {
				whole.Set(int32(10*i+j), i, j)
			}
		}
		for name, view := range map[string]*Array[int32]{
			"whole": whole, "transposed": whole.Transpose(), "row": whole.Sub(2), "rows": whole.Slice(1, 3),
			"flipped": whole.Flip(1).Step(0, 3), "empty": whole.Slice(2, 2), "one": whole.Sub(1).Sub(5),
		} {
			text, err := json.Marshal(view.Place())
			if err != nil {
				t.Fatal(err)
			}
			var p Place
			if err := json.Unmarshal(text, &p); err != nil {
				t.Fatal(err)
			}
			var back Array[int32]
			if err := back.Attach(whole.Block(), p); err != nil {
				t.Fatalf("%s, %s: %v", name, text, err)
			}
			if !slices.Equal(back.Shape(), view.Shape()) || !slices.Equal(slices.Collect(back.Values()), slices.Collect(view.Values())) {
				t.Errorf("%s, %s: %v %v", name, text, back.Shape(), slices.Collect(back.Values()))
			}
		}
	}

	p := raw.Place()
	if err := new(Array[float32]).Attach(raw.Block(), p); !errors.Is(err, shm.ErrFormat) {
		t.Errorf("of another type: %v", err)
	}
	if err := raw.Attach(raw.Block(), p); err == nil {
		t.Error("an array was made another")
	}
	for _, wrong := range []Place{
		{DType: "<i4", Offset: 4, Shape: []int{4, 6}, Strides: []int{24, 4}},
		{DType: "<i4", Offset: -4, Shape: []int{4}, Strides: []int{4}},
		{DType: "<i4", Shape: []int{4, 6}, Strides: []int{24}},
		{DType: "nonsense", Shape: []int{4, 6}, Strides: []int{24, 4}},
	} {
		if err := new(Array[int32]).Attach(raw.Block(), wrong); !errors.Is(err, shm.ErrFormat) && !errors.Is(err, shm.ErrSize) {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
}

// The names of a structure's fields are those that are there.
func TestPlaceOfStructs(t *testing.T) {
	type point struct{ X, Y float64 }
	b, err := shm.Create(shmtest.Name(t), 64, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	const dtype = "[('x', '<f8'), ('y', '<f8')]"
	var a Array[point]
	if err := a.Attach(b, Place{DType: dtype, Offset: 16, Shape: []int{3}, Strides: []int{16}}); err != nil {
		t.Fatal(err)
	}
	if p := a.Place(); p.DType != dtype || p.Offset != 16 {
		t.Errorf("%+v", p)
	}
}
