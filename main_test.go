package shm_test

import (
	"errors"
	"os"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) {
	// Tests kill processes, whose leases the next sweep removes: this one.
	shmtest.Sweep = func() { _, _ = shm.Prune() }
	shmtest.Main(m)
}

// place is the directory of a test that works in one of its own (see alone), or
// "", the system's place.
func place() string { return os.Getenv("SHM_TEST_DIR") }

// create makes a block that is closed and unlinked when the test ends.
func create(t testing.TB, name string, size int, opts *shm.CreateOptions) *shm.Block {
	t.Helper()
	var o shm.CreateOptions
	if opts != nil {
		o = *opts
	}
	if o.Dir == "" {
		o.Dir = place()
	}
	b, err := shm.Create(name, size, &o)
	if err != nil {
		t.Fatal(err)
	}
	shmtest.Watch(b.Name())
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		_ = b.Unlink() // the test may have done so
	})
	return b
}

// mustBe fails the test unless err is what it should be, and one of ours.
func mustBe(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
	if _, ok := errors.AsType[*shm.Error](err); !ok && want != nil {
		t.Fatalf("error %v is not a *shm.Error", err)
	}
}
