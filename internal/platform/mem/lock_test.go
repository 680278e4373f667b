//go:build unix && !aix

package mem

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
)

// In a directory, all Unix systems do the same.

func TestLock(t *testing.T) {
	dir, name := t.TempDir(), shmtest.Name(t)
	o := publish(t, dir, name, 100)
	other, err := Open(dir, name, false)
	if err != nil {
		t.Fatal(err)
	}
	state := func(o *Object, want bool) {
		t.Helper()
		if locked, err := o.Locked(); locked != want || err != nil {
			t.Fatalf("locked: %v, %v, want %v", locked, err, want)
		}
	}
	take := func(o *Object, want bool) {
		t.Helper()
		if ok, err := o.Lock(); ok != want || err != nil {
			t.Fatalf("took it: %v, %v, want %v", ok, err, want)
		}
	}
	state(other, false)
	take(o, true)
	state(other, true)
	take(other, false)

	waited := make(chan error)
	go func() { waited <- other.LockWait() }()
	third, err := Open(dir, name, false)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	state(third, true)
	if err := o.Close(); err != nil { // and with it goes the lock
		t.Fatal(err)
	}
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
	state(third, true)
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	state(third, false)
	take(third, true)
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	o := publish(t, dir, "here", 5000)
	if o.Size != 5000 || o.Ino == 0 || o.UID != os.Geteuid() || o.Mode != 0o600 {
		t.Errorf("%+v", o.Stat)
	}
	if err := o.Grow(o.Size, 10_000); err != nil {
		t.Fatal(err)
	}
	hidden := Prefix + "keep.0000000000000000.1"
	if err := LinkFrom(dir, "here", hidden); err != nil {
		t.Fatal(err)
	}
	if err := LinkFrom(dir, "here", hidden); !errors.Is(err, fs.ErrExist) {
		t.Errorf("linked twice: %v", err)
	}
	for link, target := range map[string]string{"link": "here", "dangling": "nowhere"} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, link, true); !errors.Is(err, ErrNotRegular) {
			t.Errorf("followed a link to %s: %v", target, err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, "folder", true); !errors.Is(err, ErrNotRegular) {
		t.Errorf("opened a folder: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, "empty", true); !errors.Is(err, ErrEmpty) {
		t.Errorf("opened what has no size: %v", err)
	}

	seen := map[string]Stat{}
	want := func(name string) bool { return name != "empty" }
	if err := Entries(dir, want, func(s Stat) { seen[s.Name] = s }); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 2 || seen["here"].ID != o.ID || seen["here"].Size != 10_000 || seen["here"].Links != 2 || seen[hidden].ID != o.ID {
		t.Errorf("listed %+v", seen)
	}

	// Another one has taken the name: it is not o's to remove.
	if err := Unlink(dir, "here"); err != nil {
		t.Fatal(err)
	}
	successor := publish(t, dir, "here", 100)
	for _, parking := range []string{"", Prefix + "gone.0000000000000000.1"} {
		if removed, err := Remove(dir, "here", o.ID, parking); removed || err != nil {
			t.Errorf("removed a successor: %v, %v", removed, err)
		}
	}
	if s, err := Lookup(dir, "here"); err != nil || s.ID != successor.ID {
		t.Errorf("the successor: %+v, %v", s, err)
	}
	if _, err := Reopen(dir, "here", o.ID, true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("took a successor for its predecessor: %v", err)
	}

	// Whatever the umask, which is 022 or more where tests run.
	for _, mode := range []uint32{0o666, 0o640, 0o777} {
		m, err := New(dir, "", noTemp, 1, mode, 0)
		if err != nil {
			t.Fatal(err)
		}
		var s Stat
		if err := fstat(m.fd, &s); err != nil || uint32(s.Mode) != mode {
			t.Errorf("mode %04o became %04o, %v", mode, uint32(s.Mode), err)
		}
		m.Discard()
	}
}
