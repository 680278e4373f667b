package mem

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

// testDir is the system's place, or where there is none a directory.
func testDir(t *testing.T) string {
	if errors.Is(BadOptions("", false, false), errors.ErrUnsupported) {
		return t.TempDir()
	}
	return ""
}

// noTemp is no name that a sweep takes for a dead process's: other packages' tests
// sweep the same place at the same time.
func noTemp() (string, error) { return shmtest.Name(nil), nil }

// publish makes an object of size bytes with a name.
func publish(t *testing.T, dir, name string, size int64) *Object {
	t.Helper()
	o, err := New(dir, name, noTemp, size, 0o600, 0)
	if err == nil {
		err = o.Publish(name)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = Unlink(dir, name) // the test may have done so
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

func TestObject(t *testing.T) {
	dir, name := testDir(t), shmtest.Name(t)
	_, err := Open(dir, name, false)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("opened what is not there: %v", err)
	}
	if _, err = Lookup(dir, name); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("found what is not there: %v", err)
	}
	o := publish(t, dir, name, 5000)
	p, err := o.Map(true)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(p)) != o.Size || len(p) < 5000 || len(bytes.Trim(p, "\x00")) > 0 {
		t.Fatalf("%d bytes for 5000 with size %d, or not zero", len(p), o.Size)
	}
	p[4999] = 42

	// The name is taken now, also for an object that is ready before it finds out.
	late, err := New(dir, name, noTemp, 1, 0o600, 0)
	if err == nil {
		err = late.Publish(name)
		late.Discard()
	}
	if !errors.Is(err, fs.ErrExist) {
		t.Fatalf("took a name that was taken: %v", err)
	}

	a, err := Open(dir, name, true)
	if err != nil {
		t.Fatal(err)
	}
	if a.Size < 5000 || runtime.GOOS == "windows" && a.Size%int64(os.Getpagesize()) != 0 {
		t.Errorf("opened %d bytes", a.Size)
	}
	if a.ID != o.ID {
		t.Errorf("opened another object: %+v, not %+v", a.ID, o.ID)
	}
	var b [2]byte
	if n, err := a.ReadAt(b[:], 4999); n < 1 || b[0] != 42 || err != nil {
		t.Errorf("read %d bytes, %v, %v", n, b, err)
	}
	if n, err := a.ReadAt(b[:], 1<<20); n != 0 || err != nil {
		t.Errorf("read %d bytes beyond the end: %v", n, err)
	}
	q, err := a.Map(false)
	if err != nil {
		t.Fatal(err)
	}
	if q[4999] != 42 {
		t.Error("another mapping has other bytes")
	}
	if err := errors.Join(a.Close(), Unmap(q), Unmap(p)); err != nil {
		t.Error(err)
	}

	s, err := Lookup(dir, name)
	if err != nil || s.Name != name || s.Size < 5000 {
		t.Errorf("looked up %+v, %v", s, err)
	}
	if UnlinkIsNothing {
		return
	}
	if removed, err := Remove(dir, name, ID{1, 2, 3}, ""); removed || err != nil {
		t.Errorf("removed another's name: %v, %v", removed, err)
	}
	if removed, err := Remove(dir, name, o.ID, Prefix+"gone.0000000000000000.0"); !removed || err != nil {
		t.Errorf("removed %v, %v", removed, err)
	}
	if removed, err := Remove(dir, name, o.ID, ""); removed || err != nil {
		t.Errorf("removed again: %v, %v", removed, err)
	}
	if err := Unlink(dir, name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unlinked what is not there: %v", err)
	}
}

func TestNewFrom(t *testing.T) {
	dir := testDir(t)
	text := strings.Repeat("shared ", 10_000)
	file, err := os.CreateTemp("", "shm-test")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	if _, err := file.WriteString("not this" + text); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Seek(8, 0); err != nil {
		t.Fatal(err)
	}
	for what, r := range map[string]interface{ Read([]byte) (int, error) }{
		"a stream": strings.NewReader(text), "the rest of a file": file,
	} {
		name := shmtest.Name(t)
		o, err := NewFrom(dir, name, noTemp, r, 0o600, 0)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, o.Size)
		n, err := o.ReadAt(got, 0)
		got = bytes.TrimRight(got[:n], "\x00") // macOS
		if string(got) != text || err != nil {
			t.Errorf("%s of %d bytes became one of %d: %v", what, len(text), len(got), err)
		}
		o.Discard()
		if _, err := Lookup(dir, name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("discarded, and there: %v", err)
		}
	}
	if _, err := NewFrom(dir, shmtest.Name(t), noTemp, strings.NewReader(""), 0o600, 0); !errors.Is(err, ErrEmpty) {
		t.Errorf("an object of nothing: %v", err)
	}
}

// faults tells whether reading p[0] does.
func faults(p []byte) (yes bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { yes = recover() != nil }()
	sink = p[0]
	return
}

var sink byte

func TestRetire(t *testing.T) {
	dir := testDir(t)
	o := publish(t, dir, shmtest.Name(t), 4096)
	p, err := o.Map(false)
	if err != nil {
		t.Fatal(err)
	}
	if faults(p) {
		t.Fatal("the memory cannot be read")
	}
	if err := Retire(p); err != nil {
		t.Fatal(err)
	}
	// Nothing that is mapped later comes to lie there, until maxRetired others
	// have been retired.
	for range maxRetired {
		q, err := o.Map(false)
		if err != nil {
			t.Fatal(err)
		}
		if &q[0] == &p[0] {
			t.Fatal("the addresses were given away")
		}
		if !faults(p) {
			t.Fatal("a stale access reaches memory")
		}
		if err := Retire(q); err != nil {
			t.Fatal(err)
		}
	}
	retired.Lock()
	n, bytes := len(retired.queue), retired.bytes
	retired.Unlock()
	if n != maxRetired || bytes < maxRetired*4096 {
		t.Errorf("%d mappings of %d bytes are kept", n, bytes)
	}
	for range maxRetired + 1 {
		q, err := o.Map(false)
		if err != nil {
			t.Fatal(err)
		}
		if &q[0] == &p[0] {
			// Given back, and so used again.
			Unmap(q)
			return
		}
		if err := Retire(q); err != nil {
			t.Fatal(err)
		}
	}
	if runtime.GOOS == "linux" && os.Getenv("SHM_QEMU") == "" { // which prefers other addresses
		t.Error("the oldest addresses were not given back")
	}
}

func TestExclusive(t *testing.T) {
	dir, name := testDir(t), shmtest.Name(t)
	const rounds = 200
	count := 0 // not atomic: that is what Exclusive is for
	done := make(chan error)
	if runtime.GOOS == "linux" || dir != "" {
		return // nobody has to wait there
	}
	for range 4 {
		go func() {
			for range rounds {
				leave, err := Exclusive(dir, name)
				if err != nil {
					done <- err
					return
				}
				count++
				leave()
			}
			done <- nil
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if count != 4*rounds {
		t.Errorf("counted to %d, not %d", count, 4*rounds)
	}
}

func TestSpace(t *testing.T) {
	s, err := SpaceOf(testDir(t))
	if runtime.GOOS == "darwin" || runtime.GOOS == "freebsd" {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("the space of no file system: %+v, %v", s, err)
		}
		s, err = SpaceOf(os.TempDir())
	}
	if err != nil || s.Size < 0 || s.Size > 0 && (s.Free <= 0 || s.Free > s.Size) {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestSizeMax(t *testing.T) {
	if int64(int(SizeMax)) != SizeMax {
		t.Fatalf("%d is no int here", SizeMax)
	}
}
