package npy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"
	"strings"
	"sync/atomic"
	"unicode/utf8"
)

const (
	// Magic is how a header begins.
	Magic = "\x93NUMPY"

	// Align is what the length of a header is a multiple of, in files that NumPy
	// has written since 1.14, and this package. Before, it was 16.
	Align = 64

	// MaxDims is how many dimensions an array may have: NumPy 2's limit.
	MaxDims = 64

	// MaxHeader is how long a header may be. NumPy itself loads none longer
	// than 10 000 characters unless told to; structures with thousands of
	// fields have them.
	MaxHeader = 1 << 20
)

// BigEndian is this machine's order.
var BigEndian = binary.NativeEndian.Uint16([]byte{0, 1}) == 1

// ErrHeader says that a header is not NumPy's, or lies about its data.
var ErrHeader = errors.New("bad .npy header")

// Header describes the array behind it.
type Header struct {
	Version [2]byte
	Type    DType
	Fortran bool
	Shape   []int
	Offset  int // where the elements begin: the header's length
}

// Len is the number of elements, and Bytes that of bytes they take. They do not
// overflow: Parse and Check have seen to it.
func (h *Header) Len() int {
	n := 1
	for _, d := range h.Shape {
		n *= d
	}
	return n
}

// Bytes is how many bytes the elements take.
func (h *Header) Bytes() int { return h.Len() * h.Type.Size }

// Elements multiplies a shape. Not ok if a length is negative, or if the array
// has more bytes than an address space, even if another length is 0.
func Elements(shape []int, itemSize int) (n int, ok bool) {
	size, empty := uint64(max(itemSize, 1)), false
	for _, d := range shape {
		if d < 0 {
			return 0, false
		}
		if d == 0 {
			empty = true
			continue
		}
		hi, lo := bits.Mul64(size, uint64(d))
		if hi != 0 || lo > math.MaxInt {
			return 0, false
		}
		size = lo
	}
	if empty {
		return 0, true
	}
	return int(size / uint64(max(itemSize, 1))), true
}

// Length looks at the first bytes of a header and returns how long it is, and
// how many bytes it has to see to know: 10 or 12.
func Length(p []byte) (length, see int, err error) {
	if len(p) < 8 || string(p[:6]) != Magic {
		return 0, 0, fmt.Errorf("%w: it does not begin with %q", ErrHeader, Magic)
	}
	switch p[6] {
	case 1:
		if len(p) >= 10 {
			length = int(binary.LittleEndian.Uint16(p[8:]))
		}
		see = 10
	case 2, 3:
		if len(p) >= 12 {
			n := binary.LittleEndian.Uint32(p[8:])
			if n > MaxHeader {
				return 0, 0, fmt.Errorf("%w: %d bytes long, more than the %d allowed", ErrHeader, n, MaxHeader)
			}
			length = int(n)
		}
		see = 12
	default:
		return 0, 0, fmt.Errorf("%w: version %d.%d is unknown; NumPy's are 1.0 to 3.0", ErrHeader, p[6], p[7])
	}
	if p[7] != 0 {
		return 0, 0, fmt.Errorf("%w: version %d.%d is unknown; NumPy's are 1.0 to 3.0", ErrHeader, p[6], p[7])
	}
	if len(p) < see {
		return 0, see, fmt.Errorf("%w: it ends after %d bytes", ErrHeader, len(p))
	}
	return see + length, see, nil
}

// Parse reads the header at the beginning of p, which may be shared memory: its
// bytes are copied before they are looked at. size is how many bytes there are
// in all, header included; -1 if that is not known, as of a stream.
//
// Errors: ErrHeader, ErrDType.
func Parse(p []byte, size int) (*Header, error) {
	var first [12]byte
	n := copy(first[:], p)
	length, see, err := Length(first[:n])
	if err != nil {
		return nil, err
	}
	if length > len(p) {
		return nil, fmt.Errorf("%w: it says that it has %d bytes, and there are %d", ErrHeader, length, len(p))
	}
	var h *Header
	if l := last.Load(); l != nil && l.header.Version[0] == first[6] && l.text == string(p[see:length]) {
		h = l.header.clone()
	} else {
		raw := string(p[see:length])
		text := raw
		if first[6] < 3 {
			text = latin1(text)
		} else if !utf8.ValidString(text) {
			return nil, fmt.Errorf("%w: its text is not UTF-8", ErrHeader)
		}
		h = &Header{Version: [2]byte{first[6], first[7]}, Offset: length}
		if err := h.read(text); err != nil {
			return nil, err
		}
		if len(raw) < 1024 {
			last.Store(&parsed{raw, h.clone()})
		}
	}
	items, ok := Elements(h.Shape, h.Type.Size)
	if !ok {
		return nil, fmt.Errorf("%w: %d bytes × the shape %s is more than there can be", ErrHeader, h.Type.Size, clip(PyShape(h.Shape)))
	}
	if need := items * h.Type.Size; size >= 0 && need > size-length {
		return nil, fmt.Errorf("%w: elements of type %s in the shape %s take %d bytes, and behind the header there are %d",
			ErrHeader, clip(h.Type.String()), clip(PyShape(h.Shape)), need, size-length)
	}
	return h, nil
}

// last is the header read last, and its text. Who opens arrays again and again
// opens ones of the same type and shape, and reading a header is a tenth of that.
var last atomic.Pointer[parsed]

type parsed struct {
	text   string
	header *Header
}

// clone is a Header of its own. Types are never written to, and are shared.
func (h *Header) clone() *Header {
	c := *h
	c.Shape = slices.Clone(h.Shape)
	return &c
}

// Read reads a header from a stream, and returns its bytes as well.
func Read(r io.Reader) (*Header, []byte, error) {
	p := make([]byte, 8, 256)
	if _, err := io.ReadFull(r, p); err != nil {
		return nil, nil, short(err)
	}
	_, see, err := Length(p)
	if see == 0 {
		return nil, nil, err
	}
	p = p[:see]
	if _, err := io.ReadFull(r, p[8:]); err != nil {
		return nil, nil, short(err)
	}
	length, _, err := Length(p)
	if err != nil {
		return nil, nil, err
	}
	p = append(p, make([]byte, length-see)...)
	if _, err := io.ReadFull(r, p[see:]); err != nil {
		return nil, nil, short(err)
	}
	h, err := Parse(p, -1)
	return h, p, err
}

func short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: the data ends within it", ErrHeader)
	}
	return err
}

// read takes the three keys from the dict, which NumPy wants to be all.
func (h *Header) read(text string) error {
	v, err := parseLiteral(text)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrHeader, err)
	}
	d, ok := v.(dict)
	if !ok {
		return fmt.Errorf("%w: it is no dict", ErrHeader)
	}
	seen := map[string]bool{}
	for _, e := range d {
		if seen[e.key] {
			return fmt.Errorf("%w: %q twice", ErrHeader, e.key)
		}
		seen[e.key] = true
		switch e.key {
		case "descr":
			if h.Type, err = parseDType(e.value); err != nil {
				return fmt.Errorf("%w: %w", ErrHeader, err)
			}
			if h.Type.Elem != nil {
				return fmt.Errorf("%w: its elements are arrays, where NumPy would have more dimensions", ErrHeader)
			}
		case "fortran_order":
			if h.Fortran, ok = e.value.(bool); !ok {
				return fmt.Errorf("%w: fortran_order is neither True nor False", ErrHeader)
			}
		case "shape":
			dims, ok := e.value.(tuple)
			if !ok {
				return fmt.Errorf("%w: its shape is no tuple", ErrHeader)
			}
			if len(dims) > MaxDims {
				return fmt.Errorf("%w: %d dimensions, and NumPy has at most %d", ErrHeader, len(dims), MaxDims)
			}
			h.Shape = make([]int, len(dims))
			for i, v := range dims {
				if h.Shape[i], ok = v.(int); !ok || h.Shape[i] < 0 {
					return fmt.Errorf("%w: the length of axis %d is no number from 0 on", ErrHeader, i)
				}
			}
		default:
			return fmt.Errorf("%w: the key %q is not NumPy's", ErrHeader, clip(e.key))
		}
	}
	if len(seen) != 3 {
		return fmt.Errorf("%w: it lacks one of descr, fortran_order and shape", ErrHeader)
	}
	return nil
}

// latin1 is how the first two versions are encoded.
func latin1(s string) string {
	if isASCII(s) {
		return s
	}
	var out strings.Builder
	for i := range len(s) {
		out.WriteRune(rune(s[i]))
	}
	return out.String()
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// Append writes h's header, byte for byte as NumPy does since 1.23, in the
// oldest version that can say it, and sets h.Version and h.Offset.
func (h *Header) Append(p []byte) ([]byte, error) {
	order := "False"
	if h.Fortran {
		order = "True"
	}
	text := "{'descr': " + h.Type.descr() + ", 'fortran_order': " + order + ", 'shape': " + PyShape(h.Shape) + ", }"
	if n := len(h.Shape); n > 0 {
		// Room for the axis that grows when elements are appended to a file: its
		// length can be rewritten in place as long as it has at most 21 digits.
		grow := h.Shape[0]
		if h.Fortran {
			grow = h.Shape[n-1]
		}
		text += strings.Repeat(" ", 21-len(fmt.Sprint(grow)))
	}
	encoded, version := []byte(text), byte(1)
	if !isASCII(text) {
		encoded = encoded[:0]
		for _, r := range text {
			if r > 0xff {
				encoded, version = []byte(text), 3
				break
			}
			encoded = append(encoded, byte(r))
		}
	}
	prefix := 10
	if version == 1 && padded(prefix, len(encoded))-prefix > math.MaxUint16 {
		version = 2
	}
	if version > 1 {
		prefix = 12
	}
	length := padded(prefix, len(encoded))
	if length > MaxHeader {
		return nil, fmt.Errorf("%w: a header of %d bytes; the limit is %d", ErrDType, length, MaxHeader)
	}
	h.Version, h.Offset = [2]byte{version, 0}, length
	p = append(append(p, Magic...), version, 0)
	if version == 1 {
		p = binary.LittleEndian.AppendUint16(p, uint16(length-prefix))
	} else {
		p = binary.LittleEndian.AppendUint32(p, uint32(length-prefix))
	}
	p = append(p, encoded...)
	p = append(p, bytes.Repeat([]byte(" "), length-prefix-len(encoded)-1)...)
	return append(p, '\n'), nil
}

// padded is the length of a header with its prefix, blanks and newline. NumPy
// adds a whole 64 blanks where none were needed.
func padded(prefix, text int) int {
	n := prefix + text + 1
	return n + Align - n%Align
}
