package worker_test

import (
	"context"

	"github.com/sharedmem/shm/worker"
)

type pair struct{ A, B int64 }

var (
	add  = worker.Func("add", func(_ context.Context, p pair) (int64, error) { return p.A + p.B, nil })
	echo = worker.Func("echo", func(_ context.Context, s string) (string, error) { return s, nil })
)
