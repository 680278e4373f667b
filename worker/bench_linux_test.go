package worker_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/sharedmem/shm/ring"
	"github.com/sharedmem/shm/worker"
)

var (
	nothing = worker.Func("nothing", func(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil })
	reverse = worker.Func("reverse", func(_ context.Context, b []byte) ([]byte, error) { slices.Reverse(b); return b, nil })
)

func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		p, err := worker.Start(b.Context(), nothing, struct{}{}, nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := p.Wait(); err != nil {
			b.Fatal(err)
		}
	}
}

func pool(b testing.TB, n int, o *worker.PoolOptions) *worker.Pool {
	b.Helper()
	p, err := worker.NewPool(b.Context(), n, o)
	if err == nil {
		err = worker.Ready(b.Context(), p, nothing)
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { p.Close() })
	return p
}

// BenchmarkCall is the round trip of an empty job; with p50 and p99.
func BenchmarkCall(b *testing.B) {
	for _, w := range []ring.Waiting{ring.Adaptive, ring.Spin, ring.Sleep} {
		b.Run([]string{"adaptive", "spin", "sleep"}[w], func(b *testing.B) {
			p := pool(b, 1, &worker.PoolOptions{Options: worker.Options{Waiting: w}})
			var took []time.Duration
			for b.Loop() {
				begun := time.Now()
				if _, err := worker.Call(context.Background(), p, nothing, struct{}{}); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(begun))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2]), "p50-ns")
			b.ReportMetric(float64(took[len(took)*99/100]), "p99-ns")
		})
	}
}

func BenchmarkMap(b *testing.B) {
	p := pool(b, 2, nil)
	in := make([]int64, b.N)
	b.ResetTimer()
	for _, err := range worker.Map(context.Background(), p, double, in) {
		if err != nil {
			b.Fatal(err)
		}
	}
}

var double = worker.Func("double", func(_ context.Context, n int64) (int64, error) { return 2 * n, nil })

func BenchmarkBytes(b *testing.B) {
	for _, n := range []int{1 << 10, 32 << 10, 1 << 20, 64 << 20} {
		b.Run(time.Duration(n).String(), func(b *testing.B) {
			p := pool(b, 1, nil)
			in := make([]byte, n)
			b.SetBytes(int64(n))
			for b.Loop() {
				if _, err := worker.Call(context.Background(), p, reverse, in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
