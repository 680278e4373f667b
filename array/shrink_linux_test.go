package array_test

import (
	"errors"
	"io"
	"os"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/internal/shmtest"
)

// Another process makes the block smaller. Elsewhere the system does not let it.
func TestShrunk(t *testing.T) {
	if os.Getenv("SHM_QEMU") != "" {
		t.Skip("qemu-user does not say where a fault was")
	}
	const rows, columns = 64, 1024
	name := shmtest.Name(t)
	a, err := array.CreateNPY[int32](name, []int{rows, columns}, nil)
	if err != nil {
		t.Fatal(err)
	}
	closed(t, a)
	r, err := array.OpenNPY[int32](name, &shm.OpenOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	whole, err := array.Create[int32](shmtest.Name(t), []int{rows, columns}, nil)
	if err != nil {
		t.Fatal(err)
	}
	closed(t, whole)
	if err := os.Truncate("/dev/shm/"+name, 8192); err != nil {
		t.Fatal(err)
	}

	for what, v := range map[string]*array.Array[int32]{"whole": a, "Transpose": a.Transpose(), "Flip": a.Flip(1), "Step": a.Step(1, 3), "Slice": a.Slice(60, 64)} {
		local, err := array.Over(make([]int32, v.Len()), v.Shape())
		if err != nil {
			t.Fatal(err)
		}
		peer := whole
		if what == "Transpose" {
			peer = whole.Transpose()
		}
		peer = peer.Slice(0, v.Shape()[0]).SliceAxis(1, 0, v.Shape()[1])
		for op, err := range map[string]error{
			"Fill":      v.Fill(1),
			"from":      v.CopyFrom(local),
			"to":        local.CopyFrom(v),
			"from peer": v.CopyFrom(peer),
			"to peer":   peer.CopyFrom(v),
			"within":    v.CopyFrom(v.Flip(0)),
			"Clone":     second(v.Clone()),
			"WriteNPY":  second(v.WriteNPY(io.Discard)),
		} {
			if !errors.Is(err, shm.ErrTruncated) {
				t.Errorf("%s, %s: %v", what, op, err)
			}
		}
		// The reader of a pipe is another goroutine, which nothing protects.
		pr, pw := io.Pipe()
		read := make(chan error)
		go func() { read <- second(io.Copy(io.Discard, pr)) }()
		mustBe(t, second(v.WriteNPY(pw)), shm.ErrTruncated)
		pw.Close()
		if err := <-read; err != nil {
			t.Error(err)
		}
		// To a file, the system copies.
		pipe, to, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		go func() { read <- second(io.Copy(io.Discard, pipe)) }()
		mustBe(t, second(v.WriteNPY(to)), shm.ErrTruncated)
		to.Close()
		if err := <-read; err != nil {
			t.Error(err)
		}
		pipe.Close()
	}
	mustBe(t, second(r.Clone()), shm.ErrTruncated)
	mustBe(t, whole.CopyFrom(r), shm.ErrTruncated)
	// What is left is still there.
	if err := a.Slice(0, 1).Fill(3); err != nil || r.At(0, 5) != 3 {
		t.Error(err)
	}
	_, err = array.OpenNPY[int32](name, nil)
	mustBe(t, err, shm.ErrFormat)
	_, err = array.Open[int32](name, []int{rows, columns}, nil)
	mustBe(t, err, shm.ErrSize)
	if err := os.Truncate("/dev/shm/"+name, 0); err != nil {
		t.Fatal(err)
	}
	_, err = array.FromBlockNPY[int32](a.Block())
	mustBe(t, err, shm.ErrTruncated)
	_, err = array.Inspect(r.Block())
	mustBe(t, err, shm.ErrTruncated)
}

func second[T any](_ T, err error) error { return err }

// A block made from a descriptor has no name that would tell whose memory it is.
func TestCopyOverDescriptor(t *testing.T) {
	const n = 100_000
	a, err := array.Create[int32](shmtest.Name(t), []int{n}, nil)
	if err != nil {
		t.Fatal(err)
	}
	closed(t, a)
	f, err := a.Block().File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := shm.FromFile(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	o, err := array.FromBlock[int32](b, 0, []int{n})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		a.Set(int32(i), i)
	}
	if err := a.CopyFrom(o.Flip(0)); err != nil {
		t.Fatal(err)
	}
	for i, v := range a.Data() {
		if v != int32(n-1-i) {
			t.Fatalf("at %d %d, want %d", i, v, n-1-i)
		}
	}
}
