//go:build unix

package lease

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sharedmem/shm/internal/platform/mem"
)

// other is a lease as another process has it.
func other(t *testing.T, dir string) *Lease {
	t.Helper()
	l := &Lease{dir: absolute(dir)}
	t.Cleanup(func() { die(t, l) })
	return l
}

// die does to a lease what its process's death does.
func die(t *testing.T, l *Lease) {
	t.Helper()
	if g := l.spared.Swap(nil); g != nil {
		g.obj.Close()
	}
	if l.inc == nil {
		return
	}
	if err := mem.Unmap(l.inc.bytes); err != nil { // it keeps the lock as well
		t.Error(err)
	}
	if err := l.inc.obj.Close(); err != nil {
		t.Error(err)
	}
	l.inc = nil
}

func record(t *testing.T, l *Lease, s mem.Stat) *Slot {
	t.Helper()
	slot, err := l.Record(Record{Name: s.Name, ID: s.ID})
	if err != nil {
		t.Fatal(err)
	}
	return slot
}

func take(t *testing.T, l *Lease, s mem.Stat, offer string) *Slot {
	t.Helper()
	slot, ok, err := l.Take(s, offer)
	if err != nil || ok != (slot != nil) {
		t.Fatalf("Take %q: %v, %v, %v", offer, slot, ok, err)
	}
	return slot
}

// journals counts the leases that name the block.
func journals(t *testing.T, dir string, s mem.Stat) (n int) {
	t.Helper()
	leases, _, err := scan(dir, nil)
	if err == nil {
		err = readLeases(dir, leases, true, func(_ *mem.Object, _ found, _ Header, records []slotRecord) error {
			for _, r := range records {
				if r.ID == s.ID {
					n++
				}
			}
			return nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestHandover lets either owner, or both, die at each step of a block's way
// from one to the other.
func TestHandover(t *testing.T) {
	for _, tt := range []struct {
		name       string
		steps      int // done: offered, taken, given, settled
		giver      bool
		taker      bool // dead
		stays      bool
		afterwards bool // it goes when the other one dies too
	}{
		{name: "offered, giver", steps: 1, giver: true},
		{name: "offered, taker", steps: 1, taker: true, stays: true, afterwards: true},
		{name: "taken, giver", steps: 2, giver: true, stays: true, afterwards: true},
		{name: "taken, taker", steps: 2, taker: true, stays: true, afterwards: true},
		{name: "taken, both", steps: 2, giver: true, taker: true},
		{name: "given, giver", steps: 3, giver: true, stays: true, afterwards: true},
		{name: "given, taker", steps: 3, taker: true},
		{name: "settled, giver", steps: 4, giver: true, stays: true, afterwards: true},
		{name: "settled, taker", steps: 4, taker: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s := file(t, dir, "block")
			giver, taker := other(t, dir), other(t, dir)
			mine := record(t, giver, s)
			offer := mine.Offer()
			var theirs *Slot
			if tt.steps > 1 {
				if theirs = take(t, taker, s, offer); theirs == nil {
					t.Fatal("not taken")
				}
				if !taker.Withdrawn(s, offer) {
					t.Error("the giver is said to have given it up")
				}
			}
			if tt.steps > 2 {
				mine.Forget()
				if taker.Withdrawn(s, offer) {
					t.Error("the giver is said to have it")
				}
			}
			if tt.steps > 3 {
				theirs.Settle()
			}
			if journals(t, dir, s) == 0 {
				t.Error("the block is nobody's")
			}
			if tt.giver {
				die(t, giver)
			}
			if tt.taker {
				die(t, taker)
			}
			if got := sweep(t, dir); slices.Contains(got, "block") == tt.stays {
				t.Errorf("a sweep has removed %q", got)
			}
			if tt.stays && journals(t, dir, s) == 0 {
				t.Error("after the sweep the block is nobody's")
			}
			die(t, giver)
			die(t, taker)
			if got := sweep(t, dir); slices.Contains(got, "block") != tt.afterwards {
				t.Errorf("when both are dead, a sweep has removed %q", got)
			}
			if left := names(t, dir); len(left) > 0 {
				t.Errorf("there are %q", left)
			}
		})
	}
}

// TestWithdrawn has the giver take the offer back: the other one hears of it, and
// the block is as before.
func TestWithdrawn(t *testing.T) {
	dir := t.TempDir()
	s := file(t, dir, "block")
	giver, taker := other(t, dir), other(t, dir)
	mine := record(t, giver, s)
	offer := mine.Offer()
	theirs := take(t, taker, s, offer)
	mine.Settle()
	if !taker.Withdrawn(s, offer) {
		t.Fatal("not withdrawn")
	}
	theirs.Forget()
	if take(t, taker, s, offer) != nil {
		t.Error("taken after the offer's end")
	}
	die(t, giver)
	if got := sweep(t, dir); !slices.Equal(got, []string{"block"}) {
		t.Errorf("a sweep has removed %q", got)
	}
}

// TestTakeAgain takes from the same lease, its successor and another one: the one
// that stays open must not be taken for what it was.
func TestTakeAgain(t *testing.T) {
	dir := t.TempDir()
	taker, a, b := other(t, dir), other(t, dir), other(t, dir)
	a.spare = maxSpare // so that it loses its file at once
	block := func(name string) mem.Stat { return file(t, dir, name) }
	pass := func(giver *Lease, s mem.Stat) (offer string) {
		t.Helper()
		slot := record(t, giver, s)
		offer = slot.Offer()
		theirs := take(t, taker, s, offer)
		if theirs == nil {
			t.Fatalf("%s: not taken", s.Name)
		}
		slot.Forget()
		theirs.Settle()
		return offer
	}
	stays := record(t, a, block("stays"))
	pass(a, block("a1"))
	pass(a, block("a2"))
	pass(b, block("b1"))
	s := block("a3")
	old := pass(a, s)
	stays.Forget()
	if a.inc != nil {
		t.Fatal("the lease is still there")
	}
	if take(t, taker, s, old) != nil || taker.Withdrawn(s, old) {
		t.Error("taken from a lease that is gone")
	}
	if now := pass(a, block("a4")); now[:16] == old[:16] {
		t.Fatal("the same lease again")
	}
	dead := record(t, a, block("dead"))
	offer := dead.Offer()
	die(t, a)
	gone, err := mem.Lookup(dir, "dead")
	if err != nil {
		t.Fatal(err)
	}
	if take(t, taker, gone, offer) != nil {
		t.Error("taken from the dead")
	}
	if got := sweep(t, dir); !slices.Equal(got, []string{"dead"}) {
		t.Errorf("a sweep has removed %q", got)
	}
}

// TestTakeBelievesTheJournal tries to take what is not offered.
func TestTakeBelievesTheJournal(t *testing.T) {
	dir := t.TempDir()
	s, s2 := file(t, dir, "block"), file(t, dir, "second")
	giver, taker := other(t, dir), other(t, dir)
	mine := record(t, giver, s)
	second := record(t, giver, s2)
	offer := mine.Offer()
	id, _, _ := strings.Cut(offer, ".")
	second.Offer()
	own := record(t, taker, s2)
	successor := s
	successor.Birth++
	renamed := s
	renamed.Name = "other"
	another := s
	another.UID = s.UID + 1
	bad := filepath.Join(dir, hidden(kindLease, 5, 0))
	if err := os.WriteFile(bad, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(bad)
	lying := deadLease(t, dir, 7, Record{Name: s.Name, ID: s.ID})
	defer os.Remove(lying)
	b, err := os.ReadFile(lying)
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint32(b[slotOffset(0):], statePassing)
	if err := os.WriteFile(lying, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what, offer string
		block       mem.Stat
	}{
		{"nothing", "", s}, {"no number", "x.y", s}, {"no slot", id, s}, {"an empty slot", id + ".", s},
		{"a slot before the first", id + ".-1", s}, {"a free slot", id + ".2", s}, {"a slot beyond the end", id + ".100000", s},
		{"a slot beyond everything", id + ".99999999999999999999", s},
		{"another block's slot", id + ".1", s}, {"a lease that is not there", "00000000000000ff.0", s},
		{"a path", "../block.0", s}, {"no lease", "0000000000000005.0", s}, {"a dead one's", "0000000000000007.0", s},
		{"our own", own.Offer(), s2},
		{"a successor", offer, successor}, {"another name", offer, renamed},
	} {
		if take(t, taker, tt.block, tt.offer) != nil {
			t.Errorf("%s: taken", tt.what)
		}
	}
	if s.UID != 0 && take(t, taker, another, offer) != nil {
		t.Error("another user's: taken")
	}
	mine.Settle()
	if take(t, taker, s, offer) != nil {
		t.Error("what is not offered: taken")
	}
	mine.Offer()
	giver.inc.slot(0)[50]++ // the name's padding
	if take(t, taker, s, offer) != nil {
		t.Error("with a wrong checksum: taken")
	}
	giver.inc.slot(0)[50]--
	if n := journals(t, dir, s); n != 2 { // the giver's and the dead one's
		t.Errorf("%d journals have the block", n)
	}
	if theirs := take(t, taker, s, offer); theirs == nil {
		t.Error("what is offered: not taken")
	}
}
