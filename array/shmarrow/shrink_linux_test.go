package shmarrow_test

import (
	"errors"
	"os"
	"sync"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array/shmarrow"
	"github.com/sharedmem/shm/internal/shmtest"
)

// A block that somebody cuts while its file is open is no broken file, and no
// death. Several goroutines find out at once.
func TestFileShrinks(t *testing.T) {
	if os.Getenv("SHM_QEMU") != "" {
		t.Skip("qemu-user does not say where a fault was")
	}
	f, err := shmarrow.Create(shmtest.Name(t), nil, []arrow.RecordBatch{mixed(t, 0, 1000), mixed(t, 1000, 1000)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, f)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			if _, err := f.Record(i % 2); err != nil {
				t.Errorf("before: %v", err)
			}
		})
	}
	wg.Wait()
	// The footer and the second batch are gone.
	if err := os.Truncate("/dev/shm/"+f.Ref().Name, int64(f.Block().Size()/2)); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		wg.Go(func() {
			if _, err := f.Record(1); !errors.Is(err, shm.ErrTruncated) {
				t.Errorf("a batch that is gone: %v", err)
			}
			if _, err := shmarrow.FromBlock(f.Block()); !errors.Is(err, shm.ErrTruncated) {
				t.Errorf("a file that is gone: %v", err)
			}
		})
	}
	wg.Wait()
	rec, err := f.Record(0)
	if err != nil {
		t.Fatalf("a batch that is there: %v", err)
	}
	rec.Release()
}
