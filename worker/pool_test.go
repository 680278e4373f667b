package worker_test

import (
	"testing"
	"time"

	"github.com/sharedmem/shm/worker"
)

func TestCalls(t *testing.T) {
	begun := time.Now()
	p, err := worker.Start(t.Context(), echo, "hello", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Log("start", time.Since(begun))
	if out, err := p.Wait(); out != "hello" || err != nil {
		t.Fatal(out, err)
	}
	t.Log("wait", time.Since(begun))
	pool, err := worker.NewPool(t.Context(), 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	for i := range int64(10) {
		if sum, err := worker.Call(t.Context(), pool, add, pair{i, 10}); err != nil || sum != i+10 {
			t.Fatal(sum, err)
		}
	}
	var in []pair
	for i := range int64(10000) {
		in = append(in, pair{i, 2 * i})
	}
	i := int64(0)
	begun = time.Now()
	for out, err := range worker.Map(t.Context(), pool, add, in) {
		if err != nil || out != 3*i {
			t.Fatal(i, out, err)
		}
		i++
	}
	t.Log("map", time.Since(begun)/time.Duration(len(in)), pool.Stats())
	begun = time.Now()
	i = 0
	for range worker.MapUnordered(t.Context(), pool, add, in) {
		i++
	}
	t.Log("unordered", time.Since(begun)/time.Duration(len(in)), i, pool.Stats())
}
