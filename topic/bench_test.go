//go:build linux

package topic_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/topic"
)

func complain(err error) int {
	os.Stderr.WriteString(err.Error() + "\n")
	return 1
}

func report(err error) int {
	if err != nil {
		return complain(err)
	}
	return 0
}

func init() {
	// Reads until the end, and says how much came and how much was missed.
	shmtest.Register("bench-reader", func(args []string) int {
		w, _ := strconv.Atoi(args[1])
		tp, err := topic.Open(args[0], &topic.OpenOptions{Waiting: topic.Waiting(w)})
		if err != nil {
			return complain(err)
		}
		s, err := tp.Subscriber()
		if err != nil {
			return complain(err)
		}
		shmtest.Say("ready")
		buf := make([]byte, tp.Options().SlotSize)
		n, missed := 0, uint64(0)
		for {
			if _, err = s.Receive(buf); err != nil {
				break
			}
			n++
			missed += s.Missed()
		}
		shmtest.Say("%d %d", n, missed)
		if !errors.Is(err, io.EOF) {
			return complain(err)
		}
		return report(tp.Close())
	})
	shmtest.Register("bench-echo", func(args []string) int {
		w, _ := strconv.Atoi(args[2])
		in, err := topic.Open(args[0], &topic.OpenOptions{Waiting: topic.Waiting(w)})
		if err != nil {
			return complain(err)
		}
		out, err := topic.Open(args[1], &topic.OpenOptions{Waiting: topic.Waiting(w)})
		if err != nil {
			return complain(err)
		}
		s, err := in.Subscriber()
		if err != nil {
			return complain(err)
		}
		p, err := out.Publisher()
		if err != nil {
			return complain(err)
		}
		shmtest.Say("ready")
		buf := make([]byte, in.Options().SlotSize)
		for {
			n, err := s.Receive(buf)
			if errors.Is(err, io.EOF) {
				return report(errors.Join(in.Close(), out.Close()))
			}
			if err == nil {
				err = p.Publish(buf[:n])
			}
			if err != nil {
				return complain(err)
			}
		}
	})
}

// The publisher's time for each message, with subscribers in other processes.
func BenchmarkPublish(b *testing.B) {
	for _, policy := range []topic.Policy{topic.Overwrite, topic.Wait} {
		for _, how := range []string{"copy", "batch"} {
			for _, readers := range []int{0, 1, 4} {
				b.Run(fmt.Sprintf("%v/%s/%d", policy, how, readers), func(b *testing.B) {
					tp := create(b, topic.Options{SlotSize: 64, Policy: policy})
					var rs []*shmtest.Process
					for range readers {
						p := shmtest.Start(b, "bench-reader", tp.Name(), "0")
						p.Expect("ready")
						rs = append(rs, p)
					}
					p := publisherOf(b, tp)
					buf := make([]byte, 64)
					batch := make([][]byte, 64)
					for i := range batch {
						batch[i] = buf
					}
					b.SetBytes(64)
					b.ResetTimer()
					if how == "copy" {
						for range b.N {
							if err := p.Publish(buf); err != nil {
								b.Fatal(err)
							}
						}
					} else {
						for n := b.N; n > 0; {
							k, err := p.PublishBatch(batch[:min(n, len(batch))])
							if err != nil {
								b.Fatal(err)
							}
							n -= k
						}
					}
					b.StopTimer()
					b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "M/s")
					if err := p.Close(); err != nil {
						b.Fatal(err)
					}
					came, missed := 0, 0
					for _, r := range rs {
						var n, m int
						if _, err := fmt.Sscan(r.Line(), &n, &m); err != nil || n+m != b.N {
							b.Fatal(n, m, b.N, err, r.Stderr())
						}
						came += n
						missed += m
						if st := r.Wait(); st != 0 {
							b.Fatal(st, r.Stderr())
						}
					}
					if readers > 0 {
						b.ReportMetric(100*float64(came)/float64(came+missed), "%read")
					}
				})
			}
		}
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	for _, w := range []topic.Waiting{topic.Spin, topic.Adaptive, topic.Sleep} {
		b.Run([...]string{"adaptive", "spin", "sleep"}[w], func(b *testing.B) {
			o := topic.Options{SlotSize: 64, Slots: 64, Waiting: w}
			out, in := create(b, o), create(b, o)
			e := shmtest.Start(b, "bench-echo", out.Name(), in.Name(), strconv.Itoa(int(w)))
			e.Expect("ready")
			p, s := publisherOf(b, out), subscriberOf(b, in)
			buf := make([]byte, 64)
			for b.Loop() {
				if err := p.Publish(buf); err != nil {
					b.Fatal(err)
				}
				if _, err := s.Receive(buf); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			if err := p.Close(); err != nil {
				b.Fatal(err)
			}
			if st := e.Wait(); st != 0 {
				b.Fatal(st, e.Stderr())
			}
		})
	}
}
