//go:build !linux

package ring_test

import (
	"errors"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/ring"
)

// Without deaths that are told there are no rings, and it says so.
func TestUnsupported(t *testing.T) {
	name := shmtest.Name(t)
	if _, err := ring.Create(name, nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	if _, err := ring.OpenOrCreate(name, nil); err == nil {
		t.Error("a ring came into being")
	}
}
