package conn

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"
)

func TestHead(t *testing.T) {
	for _, tt := range []struct {
		n    uint64
		want string
	}{
		{0, "00000000"},
		{16384, "00004000"},
		{math.MaxInt32, "7fffffff"},
		{math.MaxInt32 + 1, "ffffffff0000000080000000"},
		{1 << 40, "ffffffff0000010000000000"},
	} {
		if got := fmt.Sprintf("%x", appendHead(nil, tt.n)); got != tt.want {
			t.Errorf("header of %d bytes is %s, want %s", tt.n, got, tt.want)
		}
	}
}

func TestFrames(t *testing.T) {
	for _, n := range []int{0, 1, 4095, 4096, 4097, 16383, 16384, 16385, 1 << 20, 1<<20 + 1, 5 << 20} {
		p := bytes.Repeat([]byte("abcdefg"), n/7+1)[:n]
		var stream bytes.Buffer
		w := writer{dst: &stream}
		for range 2 {
			if err := w.frame(p); err != nil {
				t.Fatal(err)
			}
		}
		whole := stream.Bytes()
		for name, src := range map[string]io.Reader{
			"whole":    bytes.NewReader(whole),
			"halves":   iotest.HalfReader(bytes.NewReader(whole)),
			"data+EOF": iotest.DataErrReader(bytes.NewReader(whole)),
		} {
			r := reader{src: src, max: n}
			got, err := r.append(nil)
			if err != nil || !bytes.Equal(got, p) || got == nil {
				t.Errorf("%d bytes, %s: got %d bytes, %v", n, name, len(got), err)
			}
			// Behind what is there already.
			got, err = r.append([]byte("x"))
			if err != nil || !bytes.Equal(got, append([]byte("x"), p...)) {
				t.Errorf("%d bytes, %s: appended %d bytes, %v", n, name, len(got), err)
			}
			if got, err := r.append(nil); err != io.EOF { //nolint:errorlint // it has to be io.EOF itself
				t.Errorf("%d bytes, %s: after the last frame %d bytes, %v", n, name, len(got), err)
			}
		}
	}
}

func TestLongForm(t *testing.T) {
	// CPython accepts it for short frames as well.
	stream := binary.BigEndian.AppendUint64([]byte{255, 255, 255, 255}, 5)
	r := reader{src: iotest.OneByteReader(strings.NewReader(string(stream) + "hello")), max: 5}
	if got, err := r.append(nil); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestBadFrames(t *testing.T) {
	for _, tt := range []struct {
		name, stream string
		want         error
	}{
		{"negative", "\xff\xff\xff\xfe", ErrFrame},
		{"most negative", "\x80\x00\x00\x00", ErrFrame},
		{"over the limit", "\x00\x00\x04\x01", ErrTooLarge},
		{"huge", "\x7f\xff\xff\xff", ErrTooLarge},
		{"long and over the limit", "\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x04\x01", ErrTooLarge},
		{"long and negative", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", ErrTooLarge},
		{"nothing", "", io.EOF},
		{"half a header", "\x00\x00", io.ErrUnexpectedEOF},
		{"half a long header", "\xff\xff\xff\xff\x00\x00\x00", io.ErrUnexpectedEOF},
		{"no body", "\x00\x00\x00\x05", io.ErrUnexpectedEOF},
		{"half a body", "\x00\x00\x00\x05abc", io.ErrUnexpectedEOF},
	} {
		r := reader{src: strings.NewReader(tt.stream), max: 1024}
		got, err := r.append(nil)
		if !errors.Is(err, tt.want) || len(got) != 0 {
			t.Errorf("%s: %q, %v, want %v", tt.name, got, err, tt.want)
		}
		// What follows is not looked at any more.
		_, again := r.append(nil)
		if tt.want == io.EOF { //nolint:errorlint // the table's own value
			continue
		}
		if !errors.Is(again, ErrBroken) || !errors.Is(again, tt.want) {
			t.Errorf("%s: then %v", tt.name, again)
		}
	}
}

// TestAnnounced lets a peer announce much and send little.
func TestAnnounced(t *testing.T) {
	for _, sent := range []int{0, 1, firstStep, 2 * firstStep} {
		stream := append(appendHead(nil, 1<<30), make([]byte, sent)...)
		r := reader{src: bytes.NewReader(stream), max: 1 << 30}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := r.append(nil)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes of 1 GiB: %v", sent, err)
		}
		if got, most := after.TotalAlloc-before.TotalAlloc, uint64(4*firstStep+8*sent); got > most {
			t.Errorf("%d bytes of 1 GiB cost %d bytes, more than %d", sent, got, most)
		}
	}
}

func TestShortBuffer(t *testing.T) {
	var stream bytes.Buffer
	w := writer{dst: &stream}
	for _, s := range []string{"hello", "you"} {
		if err := w.frame([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	r := reader{src: &stream, max: 100}
	p := make([]byte, 4)
	for range 2 {
		if n, err := r.into(p); n != 5 || err != io.ErrShortBuffer { //nolint:errorlint // below wrap it is plain
			t.Errorf("into 4 bytes: %d, %v", n, err)
		}
	}
	p = make([]byte, 10)
	if n, err := r.into(p); err != nil || string(p[:n]) != "hello" {
		t.Errorf("into 10 bytes: %q, %v", p[:n], err)
	}
	if n, err := r.into(p); err != nil || string(p[:n]) != "you" {
		t.Errorf("the next: %q, %v", p[:n], err)
	}
}

func TestOneWrite(t *testing.T) {
	for _, tt := range []struct{ n, writes int }{{0, 1}, {16384, 1}, {16385, 2}} {
		var sizes []int
		w := writer{dst: writerFunc(func(p []byte) (int, error) {
			sizes = append(sizes, len(p))
			return len(p), nil
		})}
		if err := w.frame(make([]byte, tt.n)); err != nil || len(sizes) != tt.writes {
			t.Errorf("%d bytes: writes of %v, %v", tt.n, sizes, err)
		}
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestBrokenWriter(t *testing.T) {
	n, fault := 0, os.ErrDeadlineExceeded
	w := writer{dst: writerFunc(func([]byte) (int, error) { return n, fault })}
	// Nothing of it is out, so the next may follow.
	if err := w.frame([]byte("hello")); errors.Is(err, ErrBroken) || !errors.Is(err, fault) {
		t.Errorf("deadline before the first byte: %v", err)
	}
	n = 3
	if err := w.frame([]byte("hello")); errors.Is(err, ErrBroken) || !errors.Is(err, fault) {
		t.Errorf("deadline inside: %v", err)
	}
	if err := w.frame([]byte("hello")); !errors.Is(err, ErrBroken) || !errors.Is(err, fault) {
		t.Errorf("after that: %v", err)
	}
}

func TestAllocations(t *testing.T) {
	a, b := pair(t, nil)
	small, large, buf := make([]byte, 64), make([]byte, 20000), make([]byte, 0, 1<<20)
	for _, tt := range []struct {
		what string
		most float64
		f    func() error
	}{
		{"SendBytes and AppendBytes, 64 bytes", 0, func() error {
			if err := a.SendBytes(small); err != nil {
				return err
			}
			_, err := b.AppendBytes(buf)
			return err
		}},
		{"SendBytes and AppendBytes, 20000 bytes", 0, func() error {
			if err := a.SendBytes(large); err != nil {
				return err
			}
			_, err := b.AppendBytes(buf)
			return err
		}},
		{"RecvBytes, 64 bytes", 1, func() error {
			if err := a.SendBytes(small); err != nil {
				return err
			}
			_, err := b.RecvBytes()
			return err
		}},
	} {
		if raceEnabled {
			t.Skip("the race detector allocates, and empties pools")
		}
		got := testing.AllocsPerRun(100, func() {
			if err := tt.f(); err != nil {
				t.Error(err)
			}
		})
		if got > tt.most {
			t.Errorf("%s: %v allocations, want %v", tt.what, got, tt.most)
		}
	}
}

// TestTogether has many send and many receive at once.
func TestTogether(t *testing.T) {
	a, b := pair(t, nil)
	const senders, each = 8, 50
	var wg sync.WaitGroup
	for s := range senders {
		wg.Go(func() {
			for i := range each {
				// Long and short ones: those take other ways out.
				p := bytes.Repeat([]byte{byte(s)}, 1+i*1000)
				if err := a.SendBytes(p); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var mu sync.Mutex
	total := 0
	for range 4 {
		wg.Go(func() {
			for {
				p, err := b.RecvBytes()
				if err != nil {
					return // below, when all have come
				}
				if bytes.Count(p, p[:1]) != len(p) || len(p)%1000 != 1 {
					t.Errorf("a frame of %d bytes is of several", len(p))
				}
				mu.Lock()
				total++
				if total == senders*each {
					b.Close()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if total != senders*each {
		t.Errorf("%d frames of %d have come", total, senders*each)
	}
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x05hello\x00\x00\x00\x00"), 10, 3)
	f.Add([]byte("\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x02hi\xff\xff\xff\xfe"), 10, 1)
	f.Add([]byte("\x7f\xff\xff\xffabc"), math.MaxInt32, 1)
	f.Fuzz(func(t *testing.T, stream []byte, most, chunk int) {
		if most < 0 {
			return
		}
		r := reader{src: &chunks{stream, max(chunk, 1)}, max: most}
		// What a simple reader makes of it.
		rest := stream
		for {
			got, err := r.append(nil)
			if err != nil {
				if cap(got) > 2*firstStep+8*len(stream) {
					t.Errorf("an error costs %d bytes", cap(got))
				}
				if len(rest) == 0 != (err == io.EOF) { //nolint:errorlint // it has to be io.EOF itself
					t.Errorf("%v with %d bytes left", err, len(rest))
				}
				if _, again := r.append(nil); again == nil {
					t.Error("a frame after an error")
				}
				return
			}
			var again bytes.Buffer
			w := writer{dst: &again}
			if err := w.frame(got); err != nil {
				t.Fatal(err)
			}
			if cut, ok := bytes.CutPrefix(rest, again.Bytes()); ok {
				rest = cut
			} else { // the long form
				n := binary.BigEndian.Uint64(rest[shortHead:])
				if !bytes.HasPrefix(rest, []byte{255, 255, 255, 255}) || n != uint64(len(got)) ||
					!bytes.Equal(got, rest[longHead:longHead+len(got)]) {
					t.Fatalf("%q read from %q", got, rest)
				}
				rest = rest[longHead+len(got):]
			}
			if len(got) > most {
				t.Errorf("%d bytes, the limit is %d", len(got), most)
			}
		}
	})
}

// chunks gives a few bytes at a time.
type chunks struct {
	rest []byte
	n    int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.n)], c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func TestPartialFrame(t *testing.T) {
	raw, c := rawPair(t, 1000)
	c.SetReadDeadline(time.Unix(1, 0))
	if _, err := c.RecvBytes(); !errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, ErrBroken) {
		t.Errorf("no frame at all: %v", err)
	}
	c.SetReadDeadline(time.Time{})
	raw.Write([]byte("\x00\x00\x00\x02hi"))
	if p, err := c.RecvBytes(); string(p) != "hi" || err != nil {
		t.Errorf("a frame after a missed deadline: %q, %v", p, err)
	}
	raw.Write([]byte("\x00\x00\x00\x05he"))
	c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := c.RecvBytes(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("half a frame: %v", err)
	}
	c.SetReadDeadline(time.Time{})
	raw.Write([]byte("llo"))
	if _, err := c.RecvBytes(); !errors.Is(err, ErrBroken) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after half a frame: %v", err)
	}
	// The other direction goes on.
	if err := c.SendBytes([]byte("hi")); err != nil {
		t.Error(err)
	}
	p := make([]byte, 6)
	if _, err := io.ReadFull(raw, p); err != nil || string(p) != "\x00\x00\x00\x02hi" {
		t.Errorf("got %q, %v", p, err)
	}
}
