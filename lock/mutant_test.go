//go:build shmcrash && linux

package lock_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
)

// mutants are defects, each of which one test at least must find. A text stands
// in its file exactly once.
var mutants = []struct {
	name, file, old, new string
	finds                string // the test
}{
	{"wakes before it stores", "mutex.go",
		"if !h.st.word.CompareAndSwap(w, to) {\n\t\t\tcontinue\n\t\t}\n\t\tcrash.Point(\"unlock:free\")\n\t\tif w&flagWaiters != 0 {\n\t\t\twake(h.low, n)\n\t\t}",
		"if w&flagWaiters != 0 {\n\t\t\twake(h.low, n)\n\t\t}\n\t\tif !h.st.word.CompareAndSwap(w, to) {\n\t\t\tcontinue\n\t\t}",
		"Explore/mutex_3"},
	{"wakes nobody", "mutex.go", "\t\t\twake(h.low, n)\n", "\t\t\t_ = n\n", "Explore/mutex_3"},
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

// TestMutants shows of the tests of this package that they can fail: each mutant
// is compiled in place of the real file, and a test has to find it.
func TestMutants(t *testing.T) {
	if os.Getenv("SHM_QEMU") != "" {
		shmtest.Skip(t, "native", "the compiler would run under the emulator, and what it makes without it")
	}
	tool, err := exec.LookPath("go")
	if err != nil {
		shmtest.Skip(t, "go", "nothing can be compiled here: "+err.Error())
	}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			file, err := filepath.Abs(m.file)
			if err != nil {
				t.Fatal(err)
			}
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(src), m.old); n != 1 {
				t.Fatalf("the text is there %d times; this test has to follow the code", n)
			}
			dir := t.TempDir()
			changed := filepath.Join(dir, "changed.go")
			overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{file: changed}})
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(changed, []byte(strings.Replace(string(src), m.old, m.new, 1)), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "overlay"), overlay, 0o600); err != nil {
				t.Fatal(err)
			}
			binary := filepath.Join(dir, "mutant.test")
			build := exec.Command(tool, "test", "-c", "-tags", "shmcrash", "-vet=off", "-overlay", filepath.Join(dir, "overlay"), "-o", binary, ".")
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("it does not compile: %v\n%s", err, out)
			}
			run := exec.Command(binary, "-test.run", "^TestKill"+strings.ReplaceAll(m.finds, "/", "$/^")+"$", "-test.failfast", "-test.v")
			run.Env = append(os.Environ(), "SHM_EXPLORE=60s", "SHM_KILLS=10")
			out, err := run.CombinedOutput()
			if err == nil {
				t.Fatalf("nobody has noticed:\n%s", out)
			}
			what := "it was found otherwise"
			for _, line := range strings.Split(string(out), "\n") {
				if at := strings.Index(line, "_test.go:"); at >= 0 && !strings.Contains(line, "schedules") {
					what = strings.TrimSpace(line[at+len("_test.go:"):])
				}
			}
			t.Log(what)
			if !strings.Contains(string(out), "--- FAIL: TestKill") {
				t.Errorf("not found by a check: %v\n%s", err, out)
			}
		})
	}
}
