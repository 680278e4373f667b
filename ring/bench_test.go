//go:build linux

package ring_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/ring"
)

// The peer is another process: an echo, a sink or a source.

func benchRing(b *testing.B, o ring.Options) *ring.Queue {
	q, err := ring.Create(shmtest.Name(b), &o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := errors.Join(q.Unlink(), q.Close()); err != nil {
			b.Error(err)
		}
	})
	return q
}

func waitingOf(s string) ring.Waiting {
	n, _ := strconv.Atoi(s)
	return ring.Waiting(n)
}

func complain(err error) int {
	os.Stderr.WriteString(err.Error() + "\n")
	return 1
}

func init() {
	shmtest.Register("bench-echo", func(args []string) int {
		in, err := ring.Open(args[0], &ring.OpenOptions{Waiting: waitingOf(args[2])})
		if err != nil {
			return complain(err)
		}
		out, err := ring.Open(args[1], &ring.OpenOptions{Waiting: waitingOf(args[2])})
		if err != nil {
			return complain(err)
		}
		r, err := in.Receiver()
		if err != nil {
			return complain(err)
		}
		s, err := out.Sender()
		if err != nil {
			return complain(err)
		}
		shmtest.Say("ready")
		buf := make([]byte, 1<<21)
		for {
			n, err := r.Receive(buf)
			if errors.Is(err, io.EOF) {
				_ = errors.Join(in.Close(), out.Close())
				return 0
			}
			if err == nil {
				err = s.Send(buf[:n])
			}
			if err != nil {
				return complain(err)
			}
		}
	})
	shmtest.Register("bench-sink", func(args []string) int {
		in, err := ring.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		r, err := in.Receiver()
		if err != nil {
			return complain(err)
		}
		shmtest.Say("ready")
		var sum int
		switch args[1] {
		case "copy":
			buf := make([]byte, 1<<21)
			for err == nil {
				_, err = r.Receive(buf)
				sum++
			}
		case "batch":
			bufs := make([][]byte, 64)
			for i := range bufs {
				bufs[i] = make([]byte, 64)
			}
			for err == nil {
				_, err = r.ReceiveBatch(bufs)
			}
		case "lease":
			for err == nil {
				err = r.Lease(func(p []byte) error { sum += int(p[0]); return nil })
			}
		}
		shmtest.Say("done")
		_ = in.Close()
		if !errors.Is(err, io.EOF) {
			return complain(err)
		}
		return 0
	})
	shmtest.Register("bench-source", func(args []string) int {
		q, err := ring.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		s, err := q.Sender()
		if err != nil {
			return complain(err)
		}
		n, _ := strconv.Atoi(args[1])
		shmtest.Say("ready")
		shmtest.Await("go")
		p := make([]byte, 64)
		for range n {
			if err := s.Send(p); err != nil {
				return complain(err)
			}
		}
		_ = q.Close()
		return 0
	})
}

func BenchmarkRoundTrip(b *testing.B) {
	for _, w := range []ring.Waiting{ring.Spin, ring.Adaptive, ring.Sleep} {
		for _, size := range []int{48, 64, 4096} {
			b.Run(fmt.Sprintf("%s/%d", [...]string{"adaptive", "spin", "sleep"}[w], size), func(b *testing.B) {
				o := ring.Options{SlotSize: size, Slots: 64, Senders: ring.One, Receivers: ring.One, Waiting: w}
				out, in := benchRing(b, o), benchRing(b, o)
				p := shmtest.Start(b, "bench-echo", out.Name(), in.Name(), strconv.Itoa(int(w)))
				p.Expect("ready")
				s, err := out.Sender()
				if err != nil {
					b.Fatal(err)
				}
				r, err := in.Receiver()
				if err != nil {
					b.Fatal(err)
				}
				buf := make([]byte, size)
				for b.Loop() {
					if err := s.Send(buf); err != nil {
						b.Fatal(err)
					}
					if _, err := r.Receive(buf); err != nil {
						b.Fatal(err)
					}
				}
				b.StopTimer()
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
				if st := p.Wait(); st != 0 {
					b.Fatal(st, p.Stderr())
				}
			})
		}
	}
}

func BenchmarkOneWay(b *testing.B) {
	for _, c := range []struct {
		side ring.Side
		how  string
		size int
		n    int
	}{
		{ring.One, "copy", 64, 1024}, {ring.One, "copy", 48, 1024}, {ring.One, "batch", 64, 1024}, {ring.One, "batch", 48, 1024}, {ring.One, "lease", 64, 1024},
		{ring.Many, "copy", 64, 1024}, {ring.Many, "batch", 64, 1024},
		{ring.One, "copy", 64 << 10, 16}, {ring.One, "copy", 1 << 20, 8}, {ring.One, "lease", 64 << 10, 16}, {ring.One, "lease", 1 << 20, 8},
	} {
		b.Run(fmt.Sprintf("%v/%s/%d", c.side, c.how, c.size), func(b *testing.B) {
			q := benchRing(b, ring.Options{SlotSize: c.size, Slots: c.n, Senders: c.side, Receivers: c.side})
			p := shmtest.Start(b, "bench-sink", q.Name(), c.how)
			p.Expect("ready")
			s, err := q.Sender()
			if err != nil {
				b.Fatal(err)
			}
			buf := make([]byte, c.size)
			batch := make([][]byte, 64)
			for i := range batch {
				batch[i] = buf
			}
			b.SetBytes(int64(c.size))
			b.ResetTimer()
			switch c.how {
			case "copy":
				for range b.N {
					if err := s.Send(buf); err != nil {
						b.Fatal(err)
					}
				}
			case "batch":
				for n := b.N; n > 0; {
					k, err := s.SendBatch(batch[:min(n, len(batch))])
					if err != nil {
						b.Fatal(err)
					}
					n -= k
				}
			case "lease":
				for range b.N {
					m, err := s.Reserve(c.size)
					if err != nil {
						b.Fatal(err)
					}
					m[0]++
					if err := s.Commit(c.size); err != nil {
						b.Fatal(err)
					}
				}
			}
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
			p.Expect("done")
			b.StopTimer()
			if st := p.Wait(); st != 0 {
				b.Fatal(st, p.Stderr())
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "M/s")
		})
	}
}

// What the calls cost without another core's cache in the way.
func BenchmarkAlone(b *testing.B) {
	for _, side := range []ring.Side{ring.One, ring.Many} {
		b.Run(side.String(), func(b *testing.B) {
			q := benchRing(b, ring.Options{SlotSize: 64, Senders: side, Receivers: side})
			s, err := q.Sender()
			if err != nil {
				b.Fatal(err)
			}
			r, err := q.Receiver()
			if err != nil {
				b.Fatal(err)
			}
			buf := make([]byte, 64)
			for b.Loop() {
				for range 100 {
					if err := s.Send(buf); err != nil {
						b.Fatal(err)
					}
				}
				for range 100 {
					if _, err := r.Receive(buf); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/100, "ns/message")
		})
	}
}
