package conn

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"slices"
	"sync"
)

// A frame is a length and that many bytes. The length is an int32, big-endian;
// if it does not fit, -1 and then a uint64.
const (
	shortHead = 4
	longHead  = 12
	maxShort  = math.MaxInt32

	// joined is the longest body that goes out in one write with its header, so
	// that a small message is one packet. CPython does the same.
	joined = 16384

	// inBuffer is what is read ahead. A larger one would make small frames no
	// cheaper, and large ones bypass it.
	inBuffer = 4096

	// firstStep is how much is allocated on the strength of a header alone. What
	// is longer grows with what has come, fourfold.
	firstStep = 1 << 20
)

// appendHead appends the header of a frame of n bytes.
func appendHead(dst []byte, n uint64) []byte {
	if n <= maxShort {
		return binary.BigEndian.AppendUint32(dst, uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, 0xff, 0xff, 0xff, 0xff), n)
}

// outBuffers are for header and body together.
var outBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, shortHead+joined)
	return &b
}}

// writer sends frames. It is for one goroutine at a time.
type writer struct {
	dst io.Writer
	err error // the one that ended inside a frame

	head [longHead]byte
	vec  [2][]byte
	bufs net.Buffers // of vec; in here it costs no allocation

	// Of short frames that go out together, during the handshake only.
	hold bool // until the next one
	held []byte
}

func (w *writer) frame(p []byte) error {
	if w.err != nil {
		return fmt.Errorf("%w: %w", ErrBroken, w.err)
	}
	if w.hold {
		w.hold = false
		w.held = append(appendHead(w.held, uint64(len(p))), p...)
		return nil
	}
	var done int64
	var err error
	if len(p) <= joined {
		b := outBuffers.Get().(*[]byte)
		*b = append(appendHead(append((*b)[:0], w.held...), uint64(len(p))), p...)
		w.held = nil
		var n int
		n, err = w.dst.Write(*b)
		done = int64(n)
		outBuffers.Put(b)
	} else {
		w.vec = [2][]byte{appendHead(w.head[:0], uint64(len(p))), p}
		w.bufs = w.vec[:]
		done, err = w.bufs.WriteTo(w.dst)
		w.vec, w.bufs = [2][]byte{}, nil
	}
	if err != nil && done > 0 {
		w.err = err
	}
	return err
}

// flush sends what is held.
func (w *writer) flush() error {
	b := w.held
	if len(b) == 0 {
		return nil
	}
	w.held = nil
	_, err := w.dst.Write(b)
	return err
}

// reader receives frames. It is for one goroutine at a time.
type reader struct {
	src io.Reader
	max int
	err error // the one that ended inside a frame

	buf  []byte // made at the first read
	r, w int    // buf[r:w] has come and is not used yet
}

// fill waits until need bytes are in the buffer, which is larger than that.
// io.EOF if the stream ends before the first.
func (r *reader) fill(need int) error {
	if r.buf == nil {
		r.buf = make([]byte, inBuffer)
	}
	if r.r == r.w {
		r.r, r.w = 0, 0
	} else if len(r.buf)-r.r < need {
		r.r, r.w = 0, copy(r.buf, r.buf[r.r:r.w])
	}
	for r.w-r.r < need {
		n, err := r.src.Read(r.buf[r.w:])
		r.w += n
		if err != nil && r.w-r.r < need {
			if r.w > r.r {
				return r.fail(err)
			}
			return err // between two frames: nothing is lost
		}
	}
	return nil
}

// fail notes an error inside a frame.
func (r *reader) fail(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	r.err = err
	return err
}

// peek waits for a header and returns the length of its frame and its own. It
// uses nothing up.
func (r *reader) peek() (n, head int, err error) {
	if r.err != nil {
		return 0, 0, fmt.Errorf("%w: %w", ErrBroken, r.err)
	}
	if err := r.fill(shortHead); err != nil {
		return 0, 0, err
	}
	head = shortHead
	length := uint64(binary.BigEndian.Uint32(r.buf[r.r:]))
	if length == math.MaxUint32 { // -1
		if err := r.fill(longHead); err != nil {
			return 0, 0, err
		}
		head = longHead
		length = binary.BigEndian.Uint64(r.buf[r.r+shortHead:])
	} else if length > maxShort {
		return 0, 0, r.fail(fmt.Errorf("%w: its length is %d", ErrFrame, int32(length)))
	}
	if length > uint64(r.max) {
		return 0, 0, r.fail(fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, length, r.max))
	}
	return int(length), head, nil
}

// read fills p with what follows.
func (r *reader) read(p []byte) error {
	n := copy(p, r.buf[r.r:r.w])
	r.r += n
	if n == len(p) {
		return nil
	}
	if _, err := io.ReadFull(r.src, p[n:]); err != nil {
		return r.fail(err)
	}
	return nil
}

// append appends the next frame to dst. If dst is nil, the result is not.
func (r *reader) append(dst []byte) ([]byte, error) {
	n, head, err := r.peek()
	if err != nil {
		return dst, err
	}
	r.r += head
	if dst == nil {
		dst = make([]byte, 0, min(n, firstStep))
	}
	for start := len(dst); n > 0; {
		got := len(dst) - start
		if room := cap(dst) - len(dst); room < min(n, firstStep) {
			dst = slices.Grow(dst, min(n, max(firstStep, 3*got)))
		}
		step := min(n, cap(dst)-len(dst))
		if err := r.read(dst[len(dst) : len(dst)+step]); err != nil {
			return dst[:start], err
		}
		dst = dst[:len(dst)+step]
		n -= step
	}
	return dst, nil
}

// complete tells whether a frame has come that nobody has asked for yet.
func (r *reader) complete() bool {
	b := r.buf[r.r:r.w]
	return len(b) >= shortHead && uint64(len(b)-shortHead) >= uint64(binary.BigEndian.Uint32(b))
}

// into reads the next frame into p. If it is longer than p, it stays where it
// is: n is its length then, and the error io.ErrShortBuffer.
func (r *reader) into(p []byte) (n int, err error) {
	n, head, err := r.peek()
	if err != nil {
		return 0, err
	}
	if n > len(p) {
		return n, io.ErrShortBuffer
	}
	r.r += head
	if err := r.read(p[:n]); err != nil {
		return 0, err
	}
	return n, nil
}

// timedOut tells whether a deadline was the reason.
func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
