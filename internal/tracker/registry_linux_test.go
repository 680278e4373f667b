package tracker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sharedmem/shm/internal/lease"
	"github.com/sharedmem/shm/internal/platform/mem"
)

func put(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("some bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func there(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// begin makes a registry for a directory of its own, in which before was already.
func begin(t *testing.T, before ...string) (r *registry, dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range before {
		put(t, dir, name)
	}
	r, err := newRegistry(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r, dir
}

func (r *registry) end(t *testing.T, lines string) {
	t.Helper()
	r.read(strings.NewReader(lines))
	for _, err := range r.clean() {
		t.Error(err)
	}
}

// What stays and what goes is as with CPython's trackers.
func TestRegistryVectors(t *testing.T) {
	var cases []struct {
		Python, Case string
		Lines        []string `json:"lines_written"`
		Left         bool     `json:"trk_exists_left"`
	}
	vectors(t, "resource_tracker_behaviour.json", &cases)
	for _, c := range cases {
		r, dir := begin(t)
		path := put(t, dir, "trk_exists")
		r.end(t, strings.Join(c.Lines, ""))
		if got := there(t, path); got != c.Left {
			t.Errorf("%s, %s: trk_exists is there: %v", c.Python, c.Case, got)
		}
	}
	if len(cases) < 50 {
		t.Errorf("%d cases only", len(cases))
	}
}

func TestRegistryForms(t *testing.T) {
	r, dir := begin(t)
	var lines string
	var paths []string
	for name, line := range map[string]string{
		"plain":      "REGISTER:/plain:shared_memory\n",
		"slashes":    "REGISTER:///slashes:shared_memory\n",
		"none":       "REGISTER:none:shared_memory\n",
		"a:b":        "REGISTER:/a:b:shared_memory\n",
		"\xffé":      `{"cmd":"REGISTER","rtype":"shared_memory","base64_name":"L__DqQ=="}` + "\n",
		"sem.mp-abc": "REGISTER:/mp-abc:semaphore\n",
		"mp-musl":    "REGISTER:/mp-musl:semaphore\n",
		"sem.x":      "REGISTER:/sem.x:shared_memory\n",
	} {
		lines += line
		paths = append(paths, put(t, dir, name))
	}
	lines += "garbage\n" + "REGISTER:/plain:folder\n" + "REGISTER:/plain:noop\n"
	r.end(t, lines)
	for _, p := range paths {
		if there(t, p) {
			t.Errorf("%s is left", p)
		}
	}
	if r.bad != 3 {
		t.Errorf("%d bad lines, want 3", r.bad)
	}
}

// A fresh name is the family's from before it is made, if it was fresh.
func TestRegistryExpects(t *testing.T) {
	r, dir := begin(t, "before")
	late := put(t, dir, "psm_d") // made before its line is read
	r.read(strings.NewReader("EXPECT:/psm_a:shared_memory\nEXPECT:/psm_b:shared_memory\nEXPECT:/psm_c:shared_memory\n" +
		"EXPECT:/psm_d:shared_memory\nEXPECT:/before:shared_memory\nREGISTER:/psm_b:shared_memory\nUNREGISTER:/psm_b:shared_memory\n"))
	a, b := put(t, dir, "psm_a"), put(t, dir, "psm_b") // nobody makes psm_c
	r.end(t, "")
	if there(t, a) || there(t, late) {
		t.Error("what was made and not registered is left")
	}
	if !there(t, b) || !there(t, filepath.Join(dir, "before")) {
		t.Error("what is not the family's is gone")
	}
}

// What is not the family's own stays.
func TestRegistrySpares(t *testing.T) {
	r, dir := begin(t, "before", "sem.mp-before", "taken")
	// A name that passes to something younger is the family's again.
	if err := os.Remove(filepath.Join(dir, "taken")); err != nil {
		t.Fatal(err)
	}
	taken := put(t, dir, "taken")
	lasting := put(t, dir, "lasting")
	mem.MarkName(dir, "lasting", "persistent")
	marked := mem.LookupMark(dir, "lasting") != ""
	owned := put(t, dir, "owned")
	s, err := mem.Lookup(dir, "owned")
	if err != nil {
		t.Fatal(err)
	}
	slot, err := lease.For(dir).Record(lease.Record{Name: "owned", ID: s.ID})
	if err != nil {
		t.Fatal(err)
	}
	defer slot.Forget()
	adopted := put(t, dir, "adopted")
	o, err := mem.Open(dir, "adopted", false)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if ok, err := o.Lock(); !ok || err != nil { // as Adopt does, half-way
		t.Fatal(ok, err)
	}
	successor := put(t, dir, "successor")
	hidden := put(t, dir, ".shm-lease.0123456789abcdef")
	outside := put(t, t.TempDir(), "outside")
	folder := filepath.Join(dir, "folder")
	link := filepath.Join(dir, "link")
	if err := errors.Join(os.Mkdir(folder, 0o700), os.Symlink(outside, link)); err != nil {
		t.Fatal(err)
	}
	lines := "REGISTER:/mp-before:semaphore\n"
	for _, name := range []string{"before", "taken", "lasting", "owned", "adopted", "successor", ".shm-lease.0123456789abcdef", "folder", "link",
		"../" + filepath.Base(filepath.Dir(outside)) + "/outside", "..", ".", "", "missing"} {
		lines += "REGISTER:/" + name + ":shared_memory\n"
	}
	r.read(strings.NewReader(lines))
	if err := os.Remove(successor); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "successor")
	for _, err := range r.clean() {
		t.Error(err)
	}
	for _, path := range []string{filepath.Join(dir, "before"), filepath.Join(dir, "sem.mp-before"), owned, adopted, successor, hidden, outside, folder, link} {
		if !there(t, path) {
			t.Errorf("%s is gone", path)
		}
	}
	if marked && !there(t, lasting) {
		t.Error("a persistent block is gone")
	}
	if there(t, taken) {
		t.Error("a block of the family is left")
	}
}

// A set, not a count, and a name registered again is what has the name then.
func TestRegistrySet(t *testing.T) {
	r, dir := begin(t)
	a, b := put(t, dir, "a"), put(t, dir, "b")
	r.read(strings.NewReader("REGISTER:/a:shared_memory\nREGISTER:/a:shared_memory\nUNREGISTER:/a:shared_memory\nUNREGISTER:/a:shared_memory\nREGISTER:/b:shared_memory\n"))
	if err := os.Remove(b); err != nil {
		t.Fatal(err)
	}
	put(t, dir, "b")
	r.end(t, "REGISTER:/b:shared_memory")
	if !there(t, a) || there(t, b) {
		t.Errorf("a is there: %v, b: %v", there(t, a), there(t, b))
	}
}

func TestRegistryFull(t *testing.T) {
	r, dir := begin(t)
	r.most = 100
	first := put(t, dir, "0")
	var lines strings.Builder
	for i := range r.most + 5 {
		fmt.Fprintf(&lines, "REGISTER:/%d:shared_memory\n", i)
	}
	lines.WriteString("REGISTER:/0:shared_memory\n") // no new one
	r.read(strings.NewReader(lines.String()))
	errs := r.clean()
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), "5 names were too many") {
		t.Errorf("%v", errs)
	}
	if there(t, first) {
		t.Error("the first is left")
	}
}
