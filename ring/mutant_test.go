//go:build shmcrash && linux

package ring_test

import (
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
)

// mutants are defects, each of which a test named TestKill… must find.
var mutants = []shmtest.Mutant{
	{"commits before the length is there", "send.go",
		"step.StoreRelease(&c.words[at+1], uint64(n))\n\tcrash.Point(\"ring:written\")",
		"defer step.StoreRelease(&c.words[at+1], uint64(n))\n\tcrash.Point(\"ring:written\")", "Explore/n-1"},
	{"claims without a comparison", "send.go",
		"if !w.CompareAndSwap(lap, lap|1<<spanShift|uint64(s.idx)<<partShift|stateWriting) {\n\t\t\treturn false\n\t\t}",
		"w.Store(lap|1<<spanShift|uint64(s.idx)<<partShift|stateWriting)", "Explore/n-1"},
	{"wakes no receiver", "send.go", "if !quiet && c.hdr.filled.Load()&party.Sleeping != 0 {", "if false {", "Explore/n-1"},
	{"wakes no sender", "receive.go", "if !quiet && c.hdr.freed.Load()&party.Sleeping != 0 {", "if false {", "Explore/n-1"},
	{"shows a message before its length", "direct.go",
		"move(c.bytes[at*c.room:], p)\n", "step.StoreRelease(&c.hdr.tail, s.pos+1)\n\tmove(c.bytes[at*c.room:], p)\n", "Explore/1-1"},
	{"shows a batch before it is there", "direct.go",
		"k := c.moveIn(at, ps[n:n+run])\n", "s.pos += uint64(run)\n\t\ts.show(0, true)\n\t\ts.pos -= uint64(run)\n\t\tk := c.moveIn(at, ps[n:n+run])\n", "Explore/1-1,_batch"},
	{"gives a slot back before it is read", "direct.go",
		"move(buf, c.bytes[at*c.room:][:n])\n", "step.StoreRelease(&c.hdr.head, r.pos+1)\n\t_ = c.hdr.freed.Load()\n\tmove(buf, c.bytes[at*c.room:][:n])\n", "Explore/1-1,_one_by_one"},
	{"takes a full ring for an empty one", "direct.go", "if s.until-s.pos >= uint64(k) {", "if true {", "Explore/1-1"},
	{"wakes no single receiver", "direct.go", "if !quiet && h.filled.Load()&party.Sleeping != 0 {", "if false {", "Explore/1-1,_not_fenced"},
	{"wakes no single receiver, quickly", "direct.go", "if h.filled.Load()&party.Sleeping != 0 {", "if false {", "Explore/1-1,_insists"},
	{"wakes no single sender", "direct.go", "if !quiet && h.freed.Load()&party.Sleeping != 0 {", "if false {", "Explore/1-1"},
	{"moves the tail without a barrier", "direct.go", "if quiet || p.Quiet {\n\t\tstep.StoreRelease(&h.tail", "if true {\n\t\tstep.StoreRelease(&h.tail", "Explore/1-1,_not_fenced"},
	{"moves the head without a barrier", "direct.go", "if quiet || p.Quiet {\n\t\tstep.StoreRelease(&h.head", "if true {\n\t\tstep.StoreRelease(&h.head", "Explore/1-1,_not_fenced"},
	{"reads without a note in its entry", "direct.go", "step.StoreRelease(&r.e.seen, r.pos+span)", "_ = span", "Explore/1-1,_a_death"},
	{"takes what a dead receiver saw for done", "direct.go", "if q.discard {\n\t\th.head.Store(seen)", "if true {\n\t\th.head.Store(seen)", "Explore/1-1,_a_death"},
	{"does not say what comes again", "direct.go", "advance(&h.again, seen)", "_ = advance", "Explore/1-1,_a_death"},
	{"counts again what the dead has counted", "direct.go", "if tally == 0 {", "if true {", "Explore/1-1,_discard,_two_deaths"},
	{"ends a batch without a barrier", "send.go", "sent.Store(sent.Load())", "_ = sent", "Explore/1-1,_batch,_not_fenced"},
	{"commits without a barrier", "send.go", "if quiet || s.q.party.Quiet {", "if true {", "Explore/n-1,_not_fenced"},
	{"sleeps without the others' barrier", "../internal/party/sleep.go", "if p.Fenced {", "if false {", "Explore/1-1"},
	{"does not say that it sleeps", "../internal/party/sleep.go",
		"if v&Sleeping == 0 && !f.CompareAndSwap(v, v|Sleeping) {", "if false {", "Explore/1-1"},
	{"looks for the others after the last look for messages", "../internal/party/sleep.go",
		"if err := s.ended(w.peers); err != nil {\n\t\treturn err\n\t}\n\tstep.StoreRelease",
		"if err := s.ended(p.Header.Peers()); err != nil {\n\t\treturn err\n\t}\n\tstep.StoreRelease", "Explore/1-1"},
	{"leaves a dead sender's slot", "recover.go", "case r == sender && !q.oneSender:\n\t\tq.void(i)", "case r == sender && !q.oneSender:", "Explore/n-1,_a_death"},
	{"tells nobody of what a dead receiver had", "recover.go", "\t\tq.hdr.epoch.Add(1)\n", "", "Explore/1-n,_a_death"},
	{"tells of it before it is there", "recover.go",
		"q.giveBack(i)\n", "q.hdr.epoch.Add(1)\n\t\tq.giveBack(i)\n\t\treturn\n", "Explore/n-n,_two_deaths"},
	{"does not mark what comes again", "recover.go", "|stateFull|flagAgain) {", "|stateFull) {", "Explore/n-1,_a_death"},
	{"reads without a note", "receive.go", "step.StoreRelease(&r.e.seen, pos+span)", "_ = pos + span", "Explore/n-1,_a_death"},
	{"copies what is not committed", "receive.go", "w&^partMask != c.lap(r.pos)|1<<spanShift|stateFull {", "w == c.lap(r.pos) {", "Explore/n-1,_copies"},
	{"frees the first slot first", "receive.go",
		"w := &c.words[c.slot(r.at)]\n", "w := &c.words[c.slot(r.at)]\n\tw.Store(next)\n", "Explore/n-n,_long"},
	{"takes a claimed message for a free slot", "send.go",
		"case ahead == 0 && w&stateMask == stateFree:\n\t\t\tfree, err", "case ahead == 0 && w&stateMask <= stateWriting:\n\t\t\tfree, err", "Explore/n-n,_two_send,_a_death"},
	{"never asks who died", "../internal/party/table.go", "if p.heard.Load() == heardOnce|uint64(p.bell.Load()) {", "if p.heard.Load()&heardOnce != 0 {", "Explore/1-1,_a_death"},
}

// TestMutants shows of the tests of this package that they can fail.
func TestMutants(t *testing.T) { shmtest.Mutants(t, mutants) }
