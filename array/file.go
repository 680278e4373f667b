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
// (A header that ends where elements of T cannot begin is written anew; NumPy
// makes none.)
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
	if h.Offset%reflect.TypeFor[T]().Align() != 0 {
		// Not of NumPy's making: in a block the elements need a better place.
		if head, err = h.Append(nil); err != nil {
			return nil, nil, formatError(err)
		}
	}
	h.Type = typed(want, &h.Type)
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
	var total int64
	write := func(p []byte) error {
		n, err := w.Write(p)
		total += int64(n)
		return err
	}
	err = a.within(func() error {
		if err := write(head); err != nil {
			return err
		}
		if data := a.Data(); data != nil && a.block == nil {
			return write(layout.Bytes(data))
		}
		// w never sees the block itself: where it has been made smaller, a system
		// call would report a bad address, and another goroutine, as at the other
		// end of an io.Pipe, would crash.
		v := a
		if h.Fortran {
			v = a.Transpose() // whose order of All is that of the memory
		}
		buf, fill := make([]T, min(v.Len(), max(1, 256<<10/max(a.dtype.Size, 1)))), 0
		for r := range v.runs() {
			for r.n > 0 {
				k := min(r.n, len(buf)-fill)
				if r.step == 1 {
					copy(buf[fill:], v.data[r.first:r.first+k])
					r.first += k
				} else {
					for i := range k {
						buf[fill+i] = v.data[r.first]
						r.first += r.step
					}
				}
				r.n -= k
				if fill += k; fill == len(buf) {
					if err := write(layout.Bytes(buf)); err != nil {
						return err
					}
					fill = 0
				}
			}
		}
		return write(layout.Bytes(buf[:fill]))
	})
	return total, err
}
