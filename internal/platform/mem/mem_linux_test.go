package mem

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func noHiddenName() (string, error) { return "", errors.New("no hidden name should be needed") }

func make1(t *testing.T, dir, name string) *Object {
	t.Helper()
	o, err := New(dir, name, func() (string, error) { return Prefix + "new.x", nil }, 4096, 0o600, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Publish(name); err != nil {
		t.Fatal(err)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestRemoveComparesIdentity(t *testing.T) {
	dir := t.TempDir()
	for _, parking := range []string{"", Prefix + "gone.x"} {
		a := make1(t, dir, "name")
		other := a.ID
		other.Ino++
		if ok, err := Remove(dir, "name", other, parking); ok || err != nil {
			t.Fatal(ok, err)
		}
		if ok, err := Remove(dir, "missing", other, parking); ok || err != nil {
			t.Fatal(ok, err)
		}
		if ok, err := Remove(dir, "name", a.ID, parking); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if entries, _ := os.ReadDir(dir); len(entries) != 0 {
			t.Fatal(entries)
		}
	}
}

// One process gives the name to one object after the other, another one wants
// to remove objects that it once saw. Whatever it removes must be what it
// meant: a name never vanishes while its object is not the one.
func TestRemoveSparesSuccessors(t *testing.T) {
	dir := t.TempDir()
	var current atomic.Pointer[ID]
	var wrong atomic.Int32
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if id := current.Load(); id != nil {
				old := *id
				old.Birth++ // never right: so nothing may ever be removed
				if ok, err := Remove(dir, "name", old, Prefix+"gone.x"); ok || err != nil {
					wrong.Add(1)
				}
			}
		}
	})
	for range 500 {
		o := make1(t, dir, "name")
		current.Store(&o.ID)
		if err := unlink(path(dir, "name")); err != nil {
			t.Fatal("the name was taken away:", err)
		}
	}
	close(stop)
	wg.Wait()
	if wrong.Load() != 0 {
		t.Fatalf("%d wrong removals", wrong.Load())
	}
}

// The rename that Remove stands on: what turns out to be another's gets its
// name back.
func TestParkedStrangerReturns(t *testing.T) {
	dir := t.TempDir()
	a := make1(t, dir, "name")
	hook := func() {
		if err := unlink(path(dir, "name")); err != nil {
			t.Fatal(err)
		}
		make1(t, dir, "name")
	}
	beforePark = hook
	defer func() { beforePark = nil }()
	if ok, err := Remove(dir, "name", a.ID, Prefix+"gone.x"); ok || err != nil {
		t.Fatal(ok, err)
	}
	s, err := Lookup(dir, "name")
	if err != nil || s.ID == a.ID || s.Links != 1 {
		t.Fatalf("%+v %v", s, err)
	}
}

func TestLocks(t *testing.T) {
	dir := t.TempDir()
	make1(t, dir, "name")
	open := func(ro bool) *Object {
		o, err := Open(dir, "name", ro)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { o.Close() })
		return o
	}
	a, b, ro := open(false), open(false), open(true)
	locked := func(want bool) {
		t.Helper()
		for _, o := range []*Object{b, ro} {
			if got, err := o.Locked(); got != want || err != nil {
				t.Fatal(got, err)
			}
		}
	}
	locked(false)
	if ok, err := a.Lock(); !ok || err != nil {
		t.Fatal(ok, err)
	}
	locked(true)
	if ok, err := b.Lock(); ok || err != nil {
		t.Fatal(ok, err)
	}
	if ok, err := b.LockToSweep(); ok || err != nil {
		t.Fatal("what is locked can be swept:", ok, err)
	}
	waited := make(chan error)
	go func() { waited <- ro.AwaitUnlocked() }()
	if err := errors.Join(a.Close(), <-waited); err != nil {
		t.Fatal(err)
	}
	// Who waited and who sweeps look like no owner, and there is one sweeper.
	locked(false)
	if ok, err := b.LockToSweep(); !ok || err != nil {
		t.Fatal(ok, err)
	}
	locked(false)
	if ok, err := open(false).LockToSweep(); ok || err != nil {
		t.Fatal("two sweepers:", err)
	}
}

func TestHeadroom(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  []Limit
	}{
		"version 2, nested, seen whole": {map[string]string{
			"proc/meminfo":                          "MemTotal: 1000 kB\nMemAvailable: 900 kB\nSwapTotal: 100 kB\nSwapFree: 100 kB\n",
			"proc/self/cgroup":                      "0::/a/b\n",
			"proc/self/mountinfo":                   "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
			"sys/fs/cgroup/a/memory.max":            "204800\n",
			"sys/fs/cgroup/a/memory.current":        "102400\n",
			"sys/fs/cgroup/a/memory.stat":           "anon 5\ninactive_file 1024\nactive_file 1024\nshmem 7\n",
			"sys/fs/cgroup/a/memory.swap.max":       "0\n",
			"sys/fs/cgroup/a/b/memory.max":          "max\n",
			"sys/fs/cgroup/a/b/memory.current":      "102400\n",
			"sys/fs/cgroup/a/b/memory.swap.current": "0\n",
		}, []Limit{
			{Where: "the cgroup ROOT/sys/fs/cgroup/a", Max: 204800, Used: 102400, Free: 104448},
			{Where: "the machine's memory and swap", Max: 1100 << 10, Used: 100 << 10, Free: 1000 << 10},
		}},
		"version 2, a container's own root": {map[string]string{
			"proc/meminfo":                 "MemTotal: 1000 kB\nMemAvailable: 900 kB\n",
			"proc/self/cgroup":             "0::/\n",
			"proc/self/mountinfo":          "30 23 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
			"sys/fs/cgroup/memory.max":     "65536\n",
			"sys/fs/cgroup/memory.current": "70000\n", // it may be over for a moment
		}, []Limit{
			{Where: "the cgroup ROOT/sys/fs/cgroup", Max: 65536, Used: 70000, Free: 0},
			{Where: "the machine's memory and swap", Max: 1000 << 10, Used: 100 << 10, Free: 900 << 10},
		}},
		"version 1 beside 2, mounted in part": {map[string]string{
			"proc/meminfo":     "MemTotal: 1000 kB\nMemAvailable: 900 kB\nSwapFree: 10 kB\nSwapTotal: 10 kB\n",
			"proc/self/cgroup": "4:memory:/docker/c1/sub\n3:cpuset:/\n0::/\n",
			"proc/self/mountinfo": "30 23 0:26 /docker/c1 /sys/fs/cgroup/memory\\040v1 rw - cgroup cgroup rw,memory\n" +
				"31 23 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			"sys/fs/cgroup/memory v1/sub/memory.limit_in_bytes":       "409600\n",
			"sys/fs/cgroup/memory v1/sub/memory.usage_in_bytes":       "204800\n",
			"sys/fs/cgroup/memory v1/sub/memory.stat":                 "total_inactive_file 1024\ninactive_file 99999\n",
			"sys/fs/cgroup/memory v1/sub/memory.memsw.limit_in_bytes": "411648\n",
			"sys/fs/cgroup/memory v1/memory.limit_in_bytes":           "9223372036854771712\n",
			"sys/fs/cgroup/memory v1/memory.usage_in_bytes":           "1\n",
		}, []Limit{
			{Where: "the cgroup ROOT/sys/fs/cgroup/memory v1/sub", Max: 409600, Used: 204800, Free: 204800 + 1024 + 2048},
			{Where: "the machine's memory and swap", Max: 1010 << 10, Used: 100 << 10, Free: 910 << 10},
		}},
		"nothing to see": {map[string]string{"proc/self/cgroup": "garbage\n::::\n"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for f, text := range c.files {
				p := filepath.Join(root, f)
				if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			got := Headroom(root)
			if len(got) != len(c.want) {
				t.Fatalf("%+v", got)
			}
			for i, w := range c.want {
				w.Where = strings.Replace(w.Where, "ROOT", root, 1)
				if got[i] != w {
					t.Errorf("got %+v, want %+v", got[i], w)
				}
			}
		})
	}
}

func TestWatch(t *testing.T) {
	dir := t.TempDir()
	var all []*Watcher
	for range 3 {
		w, err := Watch(dir, "name", Appears)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, w)
	}
	other, err := Watch(dir, "other", Appears)
	if err != nil {
		t.Fatal(err)
	}
	make1(t, dir, "name")
	for _, w := range all {
		<-w.C
		w.Stop()
	}
	select {
	case <-other.C:
		t.Fatal("woken for another name")
	default:
	}
	other.Stop()
	watches.Lock()
	left := len(watches.m)
	watches.Unlock()
	if left != 0 {
		t.Fatalf("%d watches are left", left)
	}
	if _, err := Watch(filepath.Join(dir, "missing"), "name", Appears); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestUnnamedNeedsNoHiddenName(t *testing.T) {
	if forceHidden {
		t.Skip("SHM_TEST_NO_TMPFILE is set")
	}
	o, err := New("", "x", noHiddenName, 10, 0o600, Sparse)
	if err != nil {
		t.Fatal(err)
	}
	o.Discard()
	o.Discard()
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 4096: "4.0 KiB", 1<<20 - 1: "1.0 MiB", 3 << 30: "3.0 GiB", 1<<63 - 1: "8.0 EiB"} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %s, want %s", n, got, want)
		}
	}
}
