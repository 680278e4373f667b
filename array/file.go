package array

import (
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/npy"
)

// Info is what a header says of its array.
type Info struct {
	DType    string // as [Array.DType]
	ItemSize int    // bytes of an element
	Shape    []int
	Order    Order // C or Fortran
	Offset   int   // the byte at which the elements begin
	Version  string
}

// Inspect reads the header of a block, for those who do not know what type it
// holds.
//
// Errors: shm.ErrFormat if there is none, shm.ErrTruncated, os.ErrClosed.
func Inspect(b *shm.Block) (Info, error) {
	h, err := header(b)
	if err != nil {
		return Info{}, err
	}
	info := Info{DType: h.Type.String(), ItemSize: h.Type.Size, Shape: h.Shape, Order: C, Offset: h.Offset,
		Version: fmt.Sprintf("%d.%d", h.Version[0], h.Version[1])}
	if h.Fortran {
		info.Order = Fortran
	}
	return info, nil
}

// LoadNPY makes a block that holds a .npy file, as it is, and opens it. r is read
// to the end of the elements, and the block appears only when they are complete.
//
// Errors: shm.ErrFormat if it is no such file, ends early, or is of another type
// than T; those of [shm.Create], and r's own.
func LoadNPY[T any](name string, r io.Reader, opts *shm.CreateOptions) (*Array[T], error) {
	h, head, err := readHeader[T](r)
	if err != nil {
		return nil, &shm.Error{Op: "load array", Name: name, Err: err}
	}
	b, err := shm.CreateWith(name, h.Offset+h.Bytes(), opts, func(b *shm.Block) error {
		if _, err := b.WriteAt(head, 0); err != nil {
			return err
		}
		return b.Do(func(p []byte) error { return readElements(r, p[h.Offset:]) })
	})
	if err != nil {
		return nil, err
	}
	a, err := over[T](b, h)
	return created(b, a, err)
}

// ReadNPY reads a .npy file into this process's own memory. r is read to the end
// of the elements. Memory is taken as they come, whatever the header promises.
//
// Errors: shm.ErrFormat if it is no such file, ends early, or is of another type
// than T; and r's own.
func ReadNPY[T any](r io.Reader) (*Array[T], error) {
	const op = "read array"
	h, _, err := readHeader[T](r)
	if err != nil {
		return nil, &shm.Error{Op: op, Err: err}
	}
	n := h.Len()
	var data []T
	for len(data) < n {
		grow := min(n-len(data), max(len(data), 1<<20/max(h.Type.Size, 1), 1))
		have := len(data)
		data = append(data, make([]T, grow)...)
		if err := readElements(r, layout.Bytes(data[have:])); err != nil {
			return nil, &shm.Error{Op: op, Err: err}
		}
	}
	return &Array[T]{data: data, dims: contiguous(h), dtype: &h.Type}, nil
}

func readHeader[T any](r io.Reader) (*npy.Header, []byte, error) {
	want, err := npy.Of(reflect.TypeFor[T]())
	if err != nil {
		return nil, nil, formatError(err)
	}
	h, head, err := npy.Read(r)
	if err == nil {
		err = npy.Match(want, &h.Type)
	}
	if err != nil {
		if errors.Is(err, npy.ErrHeader) || errors.Is(err, npy.ErrDType) {
			err = formatError(err)
		}
		return nil, nil, err
	}
	h.Type = *want
	return h, head, nil
}

func readElements(r io.Reader, p []byte) error {
	n, err := io.ReadFull(r, p)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: the file ends %d bytes before its elements do", shm.ErrFormat, len(p)-n)
	}
	return err
}

// WriteNPY writes the array as a .npy file, which numpy.load and ReadNPY read, and
// returns how many bytes that were. A view without its own order in memory is
// written in C's.
//
// Errors: shm.ErrTruncated, os.ErrClosed, and w's own.
func (a *Array[T]) WriteNPY(w io.Writer) (int64, error) {
	h := npy.Header{Type: *a.dtype, Shape: a.Shape(), Fortran: a.Order() == Fortran}
	head, err := h.Append(nil)
	if err != nil {
		return 0, &shm.Error{Op: "write array", Err: formatError(err)}
	}
	n, err := w.Write(head)
	total := int64(n)
	if err != nil {
		return total, err
	}
	err = a.within(func() error {
		if data := a.Data(); data != nil {
			n, err := w.Write(layout.Bytes(data))
			total += int64(n)
			return err
		}
		buf := make([]T, 0, max(1, 64<<10/max(a.dtype.Size, 1)))
		flush := func() error {
			n, err := w.Write(layout.Bytes(buf))
			total += int64(n)
			buf = buf[:0]
			return err
		}
		for r := range a.runs() {
			for p := r.first; r.n > 0; r.n-- {
				if buf = append(buf, a.data[p]); len(buf) == cap(buf) {
					if err := flush(); err != nil {
						return err
					}
				}
				p += r.step
			}
		}
		return flush()
	})
	return total, err
}
