// Package npz reads and writes NumPy's archives of arrays: what numpy.savez and
// numpy.savez_compressed write and numpy.load reads.
//
//	f, err := npz.Open("model.npz")
//	if err != nil {
//		return err
//	}
//	defer f.Close()
//	w, err := npz.Load[float32](f, "weights", "weights", nil) // into a block of shared memory
//
// Such an archive is a zip file, of which each member x.npy is the array "x".
// Members that are no .npy files are passed over.
//
// What an archive says is checked before memory is taken for it: the size that
// its directory promises a member has to be what the member's header needs, and
// no more than its compressed bytes can become. An archive of a
// megabyte may nevertheless hold a gigabyte of zeros. [File.Info] tells
// before anything is read.
//
// A File may be used by several goroutines at once, a [Writer] by one.
package npz

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/internal/npy"
)

// suffix is what NumPy adds to the names of arrays.
const suffix = ".npy"

// A File is an archive that is read.
type File struct {
	members map[string]*zip.File
	names   []string
	size    int64
	file    *os.File // nil if it is not ours to close
}

// Open opens the archive at a path.
//
// Errors: shm.ErrFormat if it is none; those of [os.Open].
func Open(path string) (*File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	f, err := NewFile(file, info.Size())
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	f.file = file
	return f, nil
}

// NewFile reads the directory of an archive of size bytes.
//
// Errors: shm.ErrFormat if it is none, or has two arrays of one name; r's own.
func NewFile(r io.ReaderAt, size int64) (*File, error) {
	z, err := zip.NewReader(r, size)
	// Members are never files here, so that their names may be anything.
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return nil, fail("open archive", "", err)
	}
	f := &File{members: map[string]*zip.File{}, size: size}
	for _, m := range z.File {
		name, ok := strings.CutSuffix(m.Name, suffix)
		if !ok {
			continue
		}
		if f.members[name] != nil {
			return nil, bogus("open archive", name, errors.New("two arrays of this name"))
		}
		f.members[name] = m
		f.names = append(f.names, name)
	}
	return f, nil
}

// fail says what is wrong with an archive or a member of it. What the file below
// says stays what it is.
func fail(op, name string, err error) error {
	for _, bad := range []error{zip.ErrFormat, zip.ErrChecksum, zip.ErrAlgorithm, npy.ErrHeader, npy.ErrDType, io.ErrUnexpectedEOF} {
		if errors.Is(err, bad) {
			return bogus(op, name, err)
		}
	}
	if _, corrupt := errors.AsType[flate.CorruptInputError](err); corrupt {
		return bogus(op, name, err)
	}
	return &shm.Error{Op: op, Name: name, Err: err}
}

func bogus(op, name string, err error) error {
	return &shm.Error{Op: op, Name: name, Err: fmt.Errorf("%w: %w", shm.ErrFormat, err)}
}

// Close closes the file that Open opened.
func (f *File) Close() error {
	if f.file == nil {
		return nil
	}
	return f.file.Close()
}

// Names returns the arrays' names in the order of the archive, as a fresh slice.
func (f *File) Names() []string { return append([]string(nil), f.names...) }

// Info says what an array is, without reading its elements.
//
// Errors: fs.ErrNotExist if there is no such array, shm.ErrFormat if it is not
// what the archive promises.
func (f *File) Info(name string) (array.Info, error) {
	r, err := f.open(name)
	if err != nil {
		return array.Info{}, err
	}
	defer r.body.Close()
	h := r.header
	info := array.Info{DType: h.Type.String(), ItemSize: h.Type.Size, Shape: h.Shape, Order: array.C, Offset: h.Offset,
		Version: fmt.Sprintf("%d.%d", h.Version[0], h.Version[1])}
	if h.Fortran {
		info.Order = array.Fortran
	}
	return info, nil
}

// Member returns an array as the .npy file it is in the archive, whatever its
// type, and how many bytes that has. Its checksum is compared at its end.
//
// Errors: those of Info. Reading may end with shm.ErrFormat.
func (f *File) Member(name string) (r io.ReadCloser, size int64, err error) {
	m, err := f.open(name)
	if err != nil {
		return nil, 0, err
	}
	return m, int64(m.header.Offset + m.header.Bytes()), nil
}

// Load makes a block of an array, as [array.LoadNPY] does. The block is there
// only if all was read and the checksum is right.
//
// Errors: those of Info and of LoadNPY.
func Load[T any](f *File, name, block string, opts *shm.CreateOptions) (*array.Array[T], error) {
	m, err := f.open(name)
	if err != nil {
		return nil, err
	}
	defer m.body.Close()
	return array.LoadNPY[T](block, m, opts)
}

// Read reads an array into this process's own memory, as [array.ReadNPY] does.
//
// Errors: those of Info and of ReadNPY.
func Read[T any](f *File, name string) (*array.Array[T], error) {
	m, err := f.open(name)
	if err != nil {
		return nil, err
	}
	defer m.body.Close()
	return array.ReadNPY[T](m)
}

// member reads a .npy file out of an archive.
type member struct {
	name   string
	header *npy.Header
	left   int64 // bytes that are still to come
	head   *bytes.Reader
	body   io.ReadCloser
}

// maxRatio is how many bytes one of deflate's can become: a pair of bits for a
// match of 258.
const maxRatio = 1032

func (f *File) open(name string) (*member, error) {
	const op = "read archive"
	z := f.members[name]
	if z == nil {
		return nil, &shm.Error{Op: op, Name: name, Err: fmt.Errorf("%w: the archive has no such array", fs.ErrNotExist)}
	}
	size, packed := z.UncompressedSize64, z.CompressedSize64
	if packed > uint64(f.size) || size > (packed+64)*maxRatio {
		return nil, bogus(op, name, fmt.Errorf("%d bytes of an archive of %d cannot become %d", packed, f.size, size))
	}
	if z.Flags&1 != 0 {
		return nil, bogus(op, name, errors.New("it is encrypted"))
	}
	body, err := z.Open()
	if err != nil {
		if errors.Is(err, zip.ErrAlgorithm) {
			err = fmt.Errorf("%w: method %d; NumPy's are 0 and 8", err, z.Method)
		}
		return nil, fail(op, name, err)
	}
	h, head, err := npy.Read(body)
	if err != nil {
		return nil, errors.Join(fail(op, name, err), body.Close())
	}
	if need := uint64(h.Offset) + uint64(h.Bytes()); need != size {
		err = bogus(op, name, fmt.Errorf("its header needs %d bytes, and the archive promises %d", need, size))
		return nil, errors.Join(err, body.Close())
	}
	return &member{name, h, int64(size), bytes.NewReader(head), body}, nil
}

// Read gives the last byte only once the checksum behind it was compared, so
// that readers who know where an array ends, and stop there, have it compared.
func (m *member) Read(p []byte) (n int, err error) {
	if m.left == 0 {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	if m.head.Len() > 0 {
		n, err = m.head.Read(p)
	} else {
		n, err = m.body.Read(p[:min(int64(len(p)), m.left)])
	}
	m.left -= int64(n)
	if m.left > 0 {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
	} else if err == nil {
		// The reader of the zip package compares where the data ends.
		var more [1]byte
		var k int
		for k == 0 && err == nil {
			k, err = m.body.Read(more[:])
		}
		if k > 0 {
			err = zip.ErrFormat
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		// Without the bytes, or io.ReadFull would have enough and drop the error.
		return 0, fail("read archive", m.name, err)
	}
	return n, nil
}

func (m *member) Close() error { return m.body.Close() }

// epoch is when members were changed, as NumPy has it: the same arrays make the
// same archive.
var epoch = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// A Writer writes an archive. Its members are not compressed, as those of
// numpy.savez, unless Deflate is set.
type Writer struct {
	Deflate bool // compress what is added from now on, as numpy.savez_compressed does

	zip  *zip.Writer
	seen map[string]bool
}

// NewWriter returns a Writer to w, which [Writer.Close] finishes.
func NewWriter(w io.Writer) *Writer { return &Writer{zip: zip.NewWriter(w), seen: map[string]bool{}} }

// Add adds an array, an [array.Array] of any type, under a name.
//
// Errors: shm.ErrName if the name is empty, no UTF-8, absolute or has .. or a
// backslash in it, which unzip would take for another place; fs.ErrExist; those
// of a and of the writer below.
func (w *Writer) Add(name string, a interface {
	WriteNPY(w io.Writer) (int64, error)
}) error {
	const op = "write archive"
	switch {
	case name == "" || !utf8.ValidString(name) || strings.ContainsAny(name, "\x00\\"), !fs.ValidPath(name + suffix):
		return &shm.Error{Op: op, Name: name, Err: shm.ErrName}
	case w.seen[name]:
		return &shm.Error{Op: op, Name: name, Err: fmt.Errorf("the archive has an array of this name: %w", fs.ErrExist)}
	}
	w.seen[name] = true
	method := zip.Store
	if w.Deflate {
		method = zip.Deflate
	}
	out, err := w.zip.CreateHeader(&zip.FileHeader{Name: name + suffix, Method: method, Modified: epoch})
	if err != nil {
		return err
	}
	_, err = a.WriteNPY(out)
	return err
}

// Close writes the directory, without which nothing can be read. It does not
// close the writer below.
func (w *Writer) Close() error { return w.zip.Close() }
