//go:build unix

package lease

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
)

func init() {
	shmtest.Register("pin", func(args []string) int {
		id, release, err := For(args[0]).Pin()
		if err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			return 1
		}
		shmtest.Say("%d", id)
		shmtest.Await("release")
		release()
		shmtest.Say("released")
		shmtest.Hear()
		return 0
	})
}

func lives(t *testing.T, dir string, id uint64, want bool) {
	t.Helper()
	if alive, err := Alive(dir, id); alive != want || err != nil {
		t.Fatalf("%016x: alive %v, %v; want %v", id, alive, err, want)
	}
}

func TestPin(t *testing.T) {
	dir := t.TempDir()
	l := For(dir)
	a, releaseA, err := l.Pin()
	if err != nil {
		t.Fatal(err)
	}
	b, releaseB, err := l.Pin()
	if err != nil || b != a || a == 0 || !l.Is(a) {
		t.Fatalf("%016x and %016x of one process, %v", a, b, err)
	}
	lives(t, dir, a, true)
	if got := sweep(t, dir); len(got) > 0 {
		t.Fatalf("removed %q", got)
	}
	releaseA()
	lives(t, dir, a, true)
	// Blocks come and go beside it.
	s, err := l.Record(Record{Name: "block"})
	if err != nil {
		t.Fatal(err)
	}
	s.Forget()
	lives(t, dir, a, true)
	releaseB()
	lives(t, dir, a, false)
	if got := names(t, dir); len(got) > 0 {
		t.Fatalf("left %q", got)
	}
	// Who was dead once stays so.
	c, release, err := l.Pin()
	if err != nil || c == a {
		t.Fatalf("%016x again, %v", c, err)
	}
	lives(t, dir, a, false)
	lives(t, dir, c, true)
	release()
}

// A block's death does not take the pin with it, nor the other way round.
func TestPinBesideBlocks(t *testing.T) {
	dir := t.TempDir()
	l := For(dir)
	s, err := l.Record(Record{Name: "block"})
	if err != nil {
		t.Fatal(err)
	}
	id, release, err := l.Pin()
	if err != nil || !l.Is(id) {
		t.Fatal(err)
	}
	release()
	lives(t, dir, id, true)
	s.Forget()
	lives(t, dir, id, false)
}

func TestPinAtOnce(t *testing.T) {
	dir := t.TempDir()
	l := For(dir)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				id, release, err := l.Pin()
				if err != nil {
					t.Error(err)
					return
				}
				if alive, err := Alive(dir, id); !alive || err != nil {
					t.Errorf("%016x is pinned and dead, %v", id, err)
				}
				release()
			}
		})
	}
	wg.Wait()
}

func TestPinOfOthers(t *testing.T) {
	dir := t.TempDir()
	start := func() (*shmtest.Process, uint64) {
		p := shmtest.Start(t, "pin", dir)
		id, err := strconv.ParseUint(p.Line(), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return p, id
	}
	p, a := start()
	q, b := start()
	if a == b {
		t.Fatalf("both are %016x", a)
	}
	lives(t, dir, a, true)
	lives(t, dir, b, true)
	p.Kill()
	lives(t, dir, a, false) // its file is there
	lives(t, dir, b, true)
	if err := os.Remove(filepath.Join(dir, hidden(kindLease, a, 0))); err != nil {
		t.Fatal(err)
	}
	lives(t, dir, a, false)
	q.Send("release")
	q.Expect("released")
	lives(t, dir, b, false)
	q.Kill()
}

// Anything may stand in shared memory instead of an ID, and for a lease.
func TestAliveOfNobody(t *testing.T) {
	dir := t.TempDir()
	for _, id := range []uint64{0, 1, 1<<64 - 1, binary.NativeEndian.Uint64([]byte("../../..")), binary.NativeEndian.Uint64([]byte(strings.Repeat("%", 8)))} {
		lives(t, dir, id, false)
	}
	elsewhere := filepath.Join(t.TempDir(), "lease")
	if err := os.WriteFile(elsewhere, make([]byte, firstSize), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, filepath.Join(dir, hidden(kindLease, 2, 0))); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, hidden(kindLease, 3, 0)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, hidden(kindLease, 4, 0)), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	deadLease(t, dir, 5)
	for id := uint64(2); id <= 5; id++ {
		lives(t, dir, id, false)
	}
	if before, after := names(t, dir), sweep(t, dir); len(after) > 0 || len(before) != 4 {
		t.Errorf("%q, removed %q", before, after)
	}
}
