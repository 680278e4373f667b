//go:build unix

package lease

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sharedmem/shm/internal/platform/mem"
	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

// file makes a file as a block would be and returns what the system says of it.
func file(t *testing.T, dir, name string) mem.Stat {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("block"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := mem.Lookup(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// deadLease writes the lease of a process that does not live: no lock is on it.
func deadLease(t *testing.T, dir string, id uint64, records ...Record) string {
	t.Helper()
	b := make([]byte, firstSize)
	putHeader(b, Header{ID: id, PID: os.Getpid()}) // a PID that lives, used again
	for n, r := range records {
		putRecord(b[slotOffset(n):slotOffset(n)+slotSize], r, stateValid)
	}
	p := filepath.Join(dir, hidden(kindLease, id, 0))
	if err := os.WriteFile(p, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func sweep(t *testing.T, dir string) []string {
	t.Helper()
	removed, err := Sweep(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range removed {
		out = append(out, r.Name)
	}
	slices.Sort(out)
	return out
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	mine, other, foreign := file(t, dir, "mine"), file(t, dir, "other"), file(t, dir, "foreign")
	file(t, dir, hidden(kindKeep, 7, 0))
	file(t, dir, hidden(kindGone, 7, 1))
	file(t, dir, hidden(kindNew, 7, 2))
	file(t, dir, hidden(kindGone, 99, 0)) // of nobody's lease
	wrong := other.ID
	wrong.Birth++
	deadLease(t, dir, 7,
		Record{Name: "mine", ID: mine.ID},
		Record{Name: "other", ID: wrong},
		Record{Name: "missing", ID: foreign.ID},
	)
	if got := sweep(t, dir); !slices.Equal(got, []string{"mine"}) {
		t.Fatalf("removed %q", got)
	}
	if got := names(t, dir); !slices.Equal(got, []string{"foreign", "other"}) {
		t.Fatalf("left %q", got)
	}
}

// A living lease and everything with its ID stay.
func TestSweepSparesTheLiving(t *testing.T) {
	dir := t.TempDir()
	l := For(dir)
	s := file(t, dir, "mine")
	slot, err := l.Record(Record{Name: "mine", ID: s.ID, Keep: true})
	if err != nil {
		t.Fatal(err)
	}
	keep := slot.Keep()
	file(t, dir, keep)
	temp, release, err := l.Temp()
	if err != nil {
		t.Fatal(err)
	}
	file(t, dir, temp)
	before := names(t, dir)
	if got := sweep(t, dir); len(got) > 0 || !slices.Equal(names(t, dir), before) {
		t.Fatalf("removed %q, left %q of %q", got, names(t, dir), before)
	}
	owners, err := ReadOwners(dir)
	if err != nil {
		t.Fatal(err)
	}
	own, ok := owners.Of(s)
	if !ok || !own.Alive || own.PID != os.Getpid() || !own.Keep || !l.Is(own.Header.ID) {
		t.Fatalf("%+v %v", own, ok)
	}
	if err := (&Lease{dir: dir}).Disclaim(s.ID); !errors.Is(err, errBusy) {
		t.Fatal("a living owner's block was disclaimed:", err)
	}
	if err := l.Disclaim(s.ID); err != nil {
		t.Fatal(err)
	}
	if owners, _ = ReadOwners(dir); len(owners) != 1 {
		t.Fatal("a living owner's block was disclaimed")
	}
	slot.Forget()
	slot.Forget()
	release()
	for _, n := range []string{keep, temp, "mine"} {
		if err := os.Remove(filepath.Join(dir, n)); err != nil {
			t.Fatal(err)
		}
	}
	if got := names(t, dir); len(got) > 0 {
		t.Fatalf("left %q", got)
	}
}

// Anybody may put a file into /dev/shm: a journal is believed only about blocks
// of its own user.
func TestSweepBelievesOwnersOnly(t *testing.T) {
	if os.Geteuid() != 0 {
		shmtest.Skip(t, "root", "giving files away needs root")
	}
	dir := t.TempDir()
	victim, theirs := file(t, dir, "victim"), file(t, dir, "theirs")
	lease := deadLease(t, dir, 1, Record{Name: "victim", ID: victim.ID}, Record{Name: "theirs", ID: theirs.ID})
	bait := filepath.Join(dir, hidden(kindKeep, 1, 0))
	file(t, dir, filepath.Base(bait)) // root's
	for _, p := range []string{lease, filepath.Join(dir, "theirs")} {
		if err := os.Lchown(p, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	if got := sweep(t, dir); !slices.Equal(got, []string{"theirs"}) {
		t.Fatalf("removed %q", got)
	}
	if _, err := os.Lstat(filepath.Join(dir, "victim")); err != nil {
		t.Fatal("a stranger's journal removed root's block")
	}
	// Nor does it say who owns root's block.
	lease = deadLease(t, dir, 2, Record{Name: "victim", ID: victim.ID})
	if err := os.Lchown(lease, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	owners, err := ReadOwners(dir)
	if err != nil {
		t.Fatal(err)
	}
	if own, ok := owners.Of(victim); ok {
		t.Fatalf("a stranger owns root's block: %+v", own)
	}
	// Root's own journal may name what root gave away.
	os.Remove(lease)
	deadLease(t, dir, 3, Record{Name: "victim", ID: victim.ID})
	if err := os.Lchown(filepath.Join(dir, "victim"), 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if got := sweep(t, dir); !slices.Equal(got, []string{"victim"}) {
		t.Fatalf("removed %q", got)
	}
}

// Files that only look like leases harm nobody and stop nothing.
func TestSweepStrangeLeases(t *testing.T) {
	dir := t.TempDir()
	target := file(t, dir, "target")
	real := deadLease(t, dir, 5, Record{Name: "target", ID: target.ID})
	b, err := os.ReadFile(real)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "lease")
	if err := os.Rename(real, elsewhere); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, hidden(kindLease, 6, 0))
	fresh := filepath.Join(dir, hidden(kindLease, 8, 0))
	if err := errors.Join(
		os.Symlink(elsewhere, link),
		os.Mkdir(filepath.Join(dir, hidden(kindLease, 7, 0)), 0o700),
		os.WriteFile(fresh, nil, 0o600),
		os.WriteFile(filepath.Join(dir, ".shm-lease.nonsense"), b, 0o600),
		os.WriteFile(filepath.Join(dir, ".shm-lease.0000000000000005.1"), b, 0o600),
	); err != nil {
		t.Fatal(err)
	}
	if got := sweep(t, dir); len(got) > 0 {
		t.Fatalf("removed %q", got)
	}
	// A newer version's lease is left to it, with an error for who asked.
	newer := bytes.Clone(b)
	newer[8] = 2
	if err := os.WriteFile(filepath.Join(dir, hidden(kindLease, 9, 0)), newer, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Sweep(dir); !errors.Is(err, errJournal) {
		t.Fatal(err)
	}
	if _, err := mem.Lookup(dir, hidden(kindLease, 9, 0)); err != nil {
		t.Fatal(err)
	}
}

func TestManySlots(t *testing.T) {
	dir := t.TempDir()
	l := For(dir)
	var slots []*Slot
	for i := range 1000 {
		s, err := l.Record(Record{Name: "n", ID: mem.ID{Dev: 1, Ino: uint64(i + 1)}, Tracked: i%2 == 0})
		if err != nil {
			t.Fatal(err)
		}
		slots = append(slots, s)
	}
	for i, s := range slots {
		if i%3 == 0 {
			s.Forget()
		}
	}
	for i := range 100 { // freed slots are used again
		if _, err := l.Record(Record{Name: "again", ID: mem.ID{Dev: 2, Ino: uint64(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	owners, err := ReadOwners(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(owners) != 666+100 {
		t.Fatalf("%d records", len(owners))
	}
	for k, own := range owners {
		if own.Name == "n" && (own.Tracked != (k.Ino%2 == 1) || k.Ino%3 == 1) {
			t.Fatalf("%+v %+v", k, own)
		}
	}
	for _, name := range []string{"", ".", "..", "a/b", "a\x00", ".shm-x", strings.Repeat("x", 256)} {
		if _, err := l.Record(Record{Name: name}); err == nil {
			t.Fatalf("%q was recorded", name)
		}
	}
}

// Loops of create and unlink leave the lease file for a moment; then it goes.
func TestIdleLeaseGoes(t *testing.T) {
	dir := t.TempDir()
	l := For(dir)
	for i := range 100 {
		s, err := l.Record(Record{Name: "n", ID: mem.ID{Ino: uint64(i)}})
		if err != nil {
			t.Fatal(err)
		}
		s.Forget()
	}
	shmtest.Deadline(t, shmtest.Patience)
	for len(names(t, dir)) > 0 {
	}
}

func TestAwait(t *testing.T) {
	dir := t.TempDir()
	Await(dir, 12345) // there is none
	deadLease(t, dir, 6)
	Await(dir, 6)
	if _, err := os.Stat(filepath.Join(dir, hidden(kindLease, 6, 0))); errors.Is(err, fs.ErrNotExist) {
		t.Fatal("waiting removed the lease")
	}
}

func FuzzJournal(f *testing.F) {
	b := make([]byte, firstSize)
	putHeader(b, Header{ID: 1, PID: 2, Namespace: 3, Start: 4, Created: 5})
	putRecord(b[slotOffset(0):slotOffset(1)], Record{Name: "a", ID: mem.ID{Dev: 1, Ino: 2, Birth: 3}}, stateValid)
	putRecord(b[slotOffset(1):slotOffset(2)], Record{Name: strings.Repeat("é", 127), Keep: true, Tracked: true}, statePassing)
	f.Add(b)
	f.Add(b[:slotOffset(1)+100])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, records, err := decode(b)
		if err != nil && records != nil {
			t.Fatal("records and an error")
		}
		for _, r := range records {
			// What is believed is fit to be handed to unlink, and is what was
			// written: writing it again gives the same bytes.
			if err := r.check(); err != nil {
				t.Fatal(err)
			}
			again := make([]byte, slotSize)
			putRecord(again, r.Record, stateValid)
			_, back, err := decode(append(slices.Clone(b[:slotSize]), again...))
			if err != nil || len(back) != 1 || back[0].Record != r.Record {
				t.Fatalf("%+v became %+v, %v\n%s", r.Record, back, err, hex.Dump(again))
			}
		}
	})
}

func FuzzHidden(f *testing.F) {
	f.Add(hidden(kindLease, 1, 0))
	f.Add(hidden(kindKeep, 1<<63, 12))
	f.Add(".shm-keep..")
	f.Fuzz(func(t *testing.T, name string) {
		if kind, id, ok := parseHidden(name); ok {
			if !strings.HasPrefix(name, hidden(kind, id, 0)[:len(mem.Prefix)+len(kind)]) || strings.Contains(kind, ".") {
				t.Fatalf("%q parsed as %s of %x", name, kind, id)
			}
		}
	})
}
