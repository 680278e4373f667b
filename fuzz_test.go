package shm_test

import (
	"errors"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

// A name is refused before any system call, or it makes exactly one file with
// that name in the directory, and nothing anywhere else.
func FuzzName(f *testing.F) {
	for name := range badNames {
		f.Add(name)
	}
	f.Add("psm_1a2b3c4d")
	f.Add("/ünïcode and blanks\n")
	dir := shmtest.TempDir(f)
	f.Fuzz(func(t *testing.T, name string) {
		b, err := shm.Create(name, 1, &shm.CreateOptions{Dir: dir, Sparse: true, Lifetime: shm.Persistent})
		if runtime.GOOS == "windows" && errors.Is(err, errors.ErrUnsupported) {
			return // no Dir there
		}
		if err != nil {
			mustBe(t, err, shm.ErrName)
			if name == "" {
				t.Fatal("no name was made up")
			}
			return
		}
		defer b.Close()
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 || entries[0].Name() != b.Name() {
			t.Fatalf("%q made %v, %v", name, entries, err)
		}
		if name != "" && b.Name() != strings.TrimPrefix(name, "/") {
			t.Fatalf("%q became %q", name, b.Name())
		}
		var ref shm.Ref
		if err := ref.Set(b.Ref().String()); err != nil || ref != b.Ref() {
			t.Fatalf("Ref %+v became %+v, %v", b.Ref(), ref, err)
		}
		if err := shm.Dir(dir).Unlink(name); err != nil && name != "" {
			t.Fatal(err)
		}
		_ = shm.Dir(dir).Unlink(b.Name())
	})
}

// Whatever the options, Create returns a block as they ask, or an error of ours
// and nothing left.
func FuzzOptions(f *testing.F) {
	f.Add(1, uint32(0), 0, uint8(0))
	f.Add(4097, uint32(0o640), 2, uint8(0b111))
	f.Add(-1, uint32(1<<31), -7, uint8(0xff))
	dir := shmtest.TempDir(f)
	f.Fuzz(func(t *testing.T, size int, mode uint32, life int, bits uint8) {
		size %= 1 << 20 // what is larger is a matter of space
		o := &shm.CreateOptions{
			Mode: fs.FileMode(mode), Lifetime: shm.Lifetime(life), Dir: dir,
			KeepName: bits&1 != 0, Replace: bits&2 != 0, Sparse: bits&4 != 0, Prefault: bits&8 != 0, HugePages: bits&16 != 0,
		}
		if o.Lifetime == shm.Tracked {
			return // it starts a process
		}
		b, err := shm.Create("fuzz", size, o)
		if err != nil {
			if !errors.Is(err, shm.ErrSize) && !errors.Is(err, errors.ErrUnsupported) {
				t.Fatal(err)
			}
			if infos, err := shm.Dir(dir).List(); len(infos) != 0 || err != nil && !errors.Is(err, errors.ErrUnsupported) {
				t.Fatalf("left %v, %v", infos, err)
			}
			return
		}
		if i, err := shm.Dir(dir).Stat("fuzz"); err != nil || i.Size != int64(size) || i.Lifetime != o.Lifetime ||
			i.KeepName != o.KeepName || o.Mode != 0 && i.Mode != o.Mode {
			t.Fatalf("%+v became %+v, %v", o, i, err)
		}
		if err := errors.Join(b.Close(), b.Unlink()); err != nil {
			t.Fatal(err)
		}
	})
}
