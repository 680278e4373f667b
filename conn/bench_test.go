package conn

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
)

// plainPair returns the two ends of a plain Unix socket.
func plainPair(b *testing.B) (x, y net.Conn) {
	b.Helper()
	l, err := net.Listen("unix", filepath.Join(shmtest.TempDir(b), "s"))
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	if x, err = net.Dial("unix", l.Addr().String()); err != nil {
		b.Fatal(err)
	}
	if y, err = l.Accept(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { x.Close(); y.Close() })
	return x, y
}

func BenchmarkRoundTrip(b *testing.B) {
	p := make([]byte, 64)
	b.Run("socket", func(b *testing.B) {
		x, y := plainPair(b)
		go io.CopyBuffer(struct{ io.Writer }{y}, struct{ io.Reader }{y}, make([]byte, 64))
		buf := make([]byte, 64)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := x.Write(p); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(x, buf); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("conn", func(b *testing.B) {
		x, y := pair(b, nil)
		go func() {
			buf := make([]byte, 0, 64)
			for {
				got, err := y.AppendBytes(buf)
				if err != nil || y.SendBytes(got) != nil {
					return
				}
			}
		}()
		buf := make([]byte, 0, 64)
		b.ReportAllocs()
		for b.Loop() {
			if err := x.SendBytes(p); err != nil {
				b.Fatal(err)
			}
			if _, err := x.AppendBytes(buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkStream(b *testing.B) {
	for _, size := range []int{64 << 10, 1 << 20} {
		p := make([]byte, size)
		b.Run(fmt.Sprintf("socket/%dKiB", size>>10), func(b *testing.B) {
			x, y := plainPair(b)
			go func() {
				for {
					if _, err := x.Write(p); err != nil {
						return
					}
				}
			}()
			buf := make([]byte, size)
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, err := io.ReadFull(y, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
		for _, how := range []string{"AppendBytes", "RecvBytes"} {
			b.Run(fmt.Sprintf("conn/%dKiB/%s", size>>10, how), func(b *testing.B) {
				x, y := pair(b, nil)
				go func() {
					for x.SendBytes(p) == nil {
					}
				}()
				buf := make([]byte, 0, size)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					var err error
					if how == "RecvBytes" {
						_, err = y.RecvBytes()
					} else {
						_, err = y.AppendBytes(buf)
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkConnect is a connection from beginning to end.
func BenchmarkConnect(b *testing.B) {
	l := mustListen(b, newAddress(b, native()), key, nil)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	for b.Loop() {
		c, err := Dial(b.Context(), l.Addr(), key, nil)
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}

// BenchmarkOverhead is what a message costs beside the system's part of it.
func BenchmarkOverhead(b *testing.B) {
	p := make([]byte, 64)
	frame := append(appendHead(nil, 64), p...)
	b.Run("SendBytes", func(b *testing.B) {
		c := newConn(&fakeConn{out: io.Discard}, 64)
		b.ReportAllocs()
		for b.Loop() {
			if err := c.SendBytes(p); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("AppendBytes", func(b *testing.B) {
		c := newConn(&fakeConn{in: readerFunc(func(p []byte) (int, error) { return copy(p, frame), nil })}, 64)
		buf := make([]byte, 0, 64)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := c.AppendBytes(buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
