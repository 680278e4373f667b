package mem

import (
	"bytes"
	"io"
	"os"
)

// readAll is io.ReadAll with room for a whole regular file from the start.
func readAll(r io.Reader) ([]byte, error) {
	var b bytes.Buffer
	if f, ok := r.(*os.File); ok {
		if fi, err := f.Stat(); err == nil && fi.Mode().IsRegular() && fi.Size() < SizeMax {
			b.Grow(int(fi.Size()) + bytes.MinRead)
		}
	}
	_, err := b.ReadFrom(r)
	return b.Bytes(), err
}

// newFilled is New for an object that holds b, where it can be written through
// a mapping only.
func newFilled(dir, name string, temp func() (string, error), b []byte, mode uint32, flags int) (*Object, error) {
	if len(b) == 0 {
		return nil, ErrEmpty
	}
	o, err := New(dir, name, temp, int64(len(b)), mode, flags)
	if err != nil {
		return nil, err
	}
	p, err := o.Map(false)
	if err != nil {
		o.Discard()
		return nil, err
	}
	copy(p, b)
	return o, Unmap(p)
}

// readMapped is ReadAt through a mapping. It is used only where no other
// process can make an object smaller: elsewhere this might fault.
func readMapped(o *Object, b []byte, off int64) (int, error) {
	p, err := o.Map(false)
	if err != nil {
		return 0, err
	}
	n := 0
	if off < int64(len(p)) {
		n = copy(b, p[off:])
	}
	return n, Unmap(p)
}
