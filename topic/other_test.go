//go:build !linux

package topic_test

import (
	"errors"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/topic"
)

// Without deaths that are told there are no topics, and it says so.
func TestUnsupported(t *testing.T) {
	name := shmtest.Name(t)
	if _, err := topic.Create(name, nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	if _, err := topic.OpenOrCreate(name, nil); err == nil {
		t.Error("a topic came into being")
	}
}
