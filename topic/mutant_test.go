//go:build shmcrash && linux

package topic_test

import (
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
)

// mutants are defects, each of which a test named TestKill… must find.
var mutants = []shmtest.Mutant{
	{"does not say that it writes", "publish.go", "if c.room < past {\n\t\tstep.StoreRelease(w, own)", "if c.room < past {", "Explore/plain"},
	{"publishes before the length is there", "publish.go",
		"step.StoreRelease(&c.words[at+1], uint64(n))\n", "defer step.StoreRelease(&c.words[at+1], uint64(n))\n", "Explore/plain,_many"},
	{"publishes without a barrier", "publish.go", "case quiet || p.t.party.Quiet:", "case true:", "Explore/plain,_wait,_not_fenced"},
	{"ends a batch without a barrier", "publish.go",
		"if !p.t.party.Quiet {\n\t\tp.e.published.Store(p.e.published.Load())", "if !p.t.party.Quiet {", "Explore/stays,_not_fenced"},
	{"publishes without a comparison", "publish.go",
		"if w.CompareAndSwap(own|stateWriting, own|state) {", "if w.Store(own | state); true {", "Explore/overtaken,_many"},
	{"claims what somebody still writes to", "publish.go",
		"case v&stateMask == stateWriting || v&stateMask == stateBlocked:", "case false:", "Explore/overtaken,_many"},
	{"leaves a slot that it was overtaken in as a message", "publish.go", "v&^stateMask|stateVoid) {\n\t\t\tcrash.Point(\"topic:unblocked\")", "v&^stateMask|stateFull) {\n\t\t\tcrash.Point(\"topic:unblocked\")", "Explore/overtaken,_many"},
	{"wakes no subscriber", "publish.go", "if !quiet && c.hdr.filled.Load()&party.Sleeping != 0 {", "if false {", "Explore/plain,_wait"},
	{"wakes nobody after it gave a slot back", "publish.go", "p.pos++\n\tp.t.party.Wake(&c.hdr.filled)", "p.pos++", "Explore/gives_back,_wait,_many"},
	{"goes one slot too far", "publish.go", "p.limit = oldest + c.mask + 1", "p.limit = oldest + c.mask + 2", "Explore/plain,_wait"},
	{"does not wait for who joined", "publish.go", " && p.hdr.joins.Load() == p.joins || p.look()", " || p.look()", "Explore/late,_wait"},
	{"wakes no publisher", "receive.go", "if c.wait && c.hdr.freed.Load()&party.Sleeping != 0 {", "if false {", "Explore/plain,_wait"},
	{"moves on without a barrier", "receive.go", "case !c.wait || s.t.party.Quiet:", "case true:", "Explore/plain,_wait,_not_fenced"},
	{"moves on before it has read", "receive.go", "err := fn(s.payload", "s.e.cursor.Store(s.pos + 1)\n\terr := fn(s.payload", "Explore/lease,_wait"},
	{"does not look again after copying", "receive.go", "if s.still(s.word) {\n\t\t\ts.missed", "if true {\n\t\t\ts.missed", "Explore/plain"},
	{"leases without a second look", "receive.go", "if whole = s.still(s.word); !whole {", "if whole = true; !whole {", "Explore/lease"},
	{"counts one too few", "receive.go", "s.lose(next - s.pos)", "s.lose(next - s.pos - 1)", "Explore/plain"},
	{"begins where the tail was before it joined", "receive.go",
		"if s.joined, err = t.core.tail(); err == nil && begin == Now {", "if s.joined = s.pos; false {", "Explore/join,_wait"},
	{"leaves a dead publisher's slot", "topic.go", "t.void(i)", "_ = i", "Explore/a_death,_many"},
	{"takes half a value", "latest.go", "case step.LoadLast(&c.words[at]) != w:", "case step.LoadLast(&c.words[at]) == 0:", "Explore/latest"},
}

// TestMutants shows of the tests of this package that they can fail.
func TestMutants(t *testing.T) { shmtest.Mutants(t, mutants) }
