//go:build unix

package lease

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
)

// A census counts every lease, and believes of what others wrote only what can be.
func TestCensus(t *testing.T) {
	dir := shmtest.TempDir(t)
	if all, err := Census(dir); err != nil || len(all) != 0 {
		t.Errorf("nobody: %v %v", all, err)
	}
	id, release, err := For(dir).Pin()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	deadLease(t, dir, 0x1230)
	// One that says it is ours, and one that is no lease at all.
	b, err := os.ReadFile(filepath.Join(dir, hidden(kindLease, id, 0)))
	if err != nil {
		t.Fatal(err)
	}
	for id, content := range map[uint64][]byte{0x4560: b, 0x7890: []byte("SHMLEASE")} {
		if err := os.WriteFile(filepath.Join(dir, hidden(kindLease, id, 0)), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := Census(dir)
	if err != nil || len(all) != 4 {
		t.Fatalf("%v %v", all, err)
	}
	for _, o := range all {
		pid, alive := 0, false
		switch o.ID {
		case id:
			pid, alive = os.Getpid(), true
		case 0x1230:
			pid = os.Getpid() // as its header says; it is used again
		}
		if o.PID != pid || o.Alive != alive || o.Lease == "" {
			t.Errorf("%+v, want PID %d, alive %v", o, pid, alive)
		}
	}
}
