//go:build shmcrash && linux

package lock_test

import (
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
)

// mutants are defects, each of which a test named TestKill… must find.
var mutants = []shmtest.Mutant{
	{"wakes before it stores", "mutex.go",
		"if !h.st.word.CompareAndSwap(w, to) {\n\t\t\tcontinue\n\t\t}\n\t\tcrash.Point(\"unlock:free\")\n\t\tif w&flagWaiters != 0 {\n\t\t\tstep.Wake(h.low, n)\n\t\t}",
		"if w&flagWaiters != 0 {\n\t\t\tstep.Wake(h.low, n)\n\t\t}\n\t\tif !h.st.word.CompareAndSwap(w, to) {\n\t\t\tcontinue\n\t\t}",
		"Explore/mutex_3"},
	{"wakes nobody", "mutex.go", "\t\t\tstep.Wake(h.low, n)\n", "\t\t\t_ = n\n", "Explore/mutex_3"},
	{"drops the waiters' flag", "mutex.go", "\t\tmine |= flagWaiters\n", "", "Explore/mutex_3"},
	{"gives up a wake meant for others", "mutex.go",
		"if err := h.sleep(ctx, s, h.low, uint32(w), bell); err != nil {\n\t\t\th.passOn()\n",
		"if err := h.sleep(ctx, s, h.low, uint32(w), bell); err != nil {\n", "Explore/mutex_give_up"},
	{"asks who lives before it listens", "mutex.go",
		"asked, heard = owner(w), bell\n", "bell = h.member.Bell.Load()\n\t\t\tasked, heard = owner(w), bell\n", "Explore/mutex_3"},
	{"never asks who lives", "mutex.go",
		"if !h.alive(owner(w)) {\n\t\t\t\tif to := h.inherit(w) |", "if false {\n\t\t\t\tif to := h.inherit(w) |", "Explore/mutex_3"},
	{"forgets that the owner died", "mutex.go", "if w&flagPending == 0 {\n\t\tdied = flagDied\n\t}", "", "Explore/mutex_3"},
	{"tells of a death in which nothing was written", "mutex.go", "if w&flagPending == 0 {\n\t\tdied", "if true {\n\t\tdied", "Explore/rw_1_reads_2_write"},
	{"unlocks what is not mended", "mutex.go", "to, n = wordBroken, 1<<30 // all", "n = 1 << 30 // all", "Explore/mutex_spoilt"},
	{"wakes no goroutine of its own", "mutex.go", "if m.wish.Load() {\n\t\t\tm.signal()\n\t\t}", "", "Explore/mutex_goroutines"},

	{"lets no reader in", "rwmutex.go",
		"\tif m.st.word.Load()&flagDied == 0 {\n\t\tm.grant()\n\t}\n\terr := m.release()", "\terr := m.release()", "Explore/rw_1_reads_2_write"},
	{"lets readers in and seems to write", "rwmutex.go",
		"for w := m.st.word.Load(); w&flagPending == 0 &&", "for w := m.st.word.Load(); false &&", "Explore/rw_2_read_1_writes"},
	{"forgets who came late to read", "rwmutex.go",
		"err := m.release()\n\tm.wakeWanting()", "err := m.release()", "Explore/rw_2_read_1_writes"},
	{"retreats without a wake", "rwmutex.go",
		"crash.Point(\"rwlock:retreated\")\n\tif m.st.word.Load() != 0 {", "crash.Point(\"rwlock:retreated\")\n\tif false {", "Explore/rw_2_read_1_writes"},
	{"reads without a second look", "rwmutex.go", "if had || m.st.word.Load() == 0 {", "if true {", "Explore/rw_2_read_1_writes"},
	{"waits for dead readers", "rwmutex.go",
		"if !m.alive(owner(w)) {\n\t\t\t\tif m.slots[i]", "if false {\n\t\t\t\tif m.slots[i]", "Explore/rw_2_read_1_writes"},
	{"waits for no reader", "rwmutex.go",
		"if err := m.drain(ctx, i); err != nil {", "if false {\n\t\t\tvar err error", "Explore/rw_2_read_1_writes"},
	{"tells of an owner's death that had unlocked", "rwmutex.go",
		"if m.st.word.Load() != w {\n\t\t\t\t\tcontinue", "if false {\n\t\t\t\t\tcontinue", "Explore/rw_2_read_1_writes"},
	{"does not say that it waits to read", "rwmutex.go", "m.st.aux.Store(1)", "m.st.aux.Load()", "Explore/rw_2_read_1_writes"},

	{"rings no bell", "../internal/lease/member.go",
		"if known != nil && died {", "if known == nil && died {", "Recovery/Mutex"},
	{"watches nobody", "../internal/lease/member.go",
		"on = append(on, wait.On{Word: next.life, Value: life})", "_ = life", "Recovery/Mutex"},
}

// TestMutants shows of the tests of this package that they can fail.
func TestMutants(t *testing.T) { shmtest.Mutants(t, mutants) }
