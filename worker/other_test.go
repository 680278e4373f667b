//go:build !linux

package worker_test

import (
	"context"
	"errors"
	"testing"

	"github.com/sharedmem/shm/worker"
)

var echo = worker.Func("echo", func(_ context.Context, s string) (string, error) { return s, nil })

func TestUnsupported(t *testing.T) {
	if _, err := worker.NewPool(t.Context(), 1, nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	if _, err := worker.Start(t.Context(), echo, "", nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
}
