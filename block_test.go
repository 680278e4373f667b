package shm_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

func TestCreateOpen(t *testing.T) {
	name := shmtest.Name(t)
	b := create(t, "/"+name, 10_000, nil)
	if b.Name() != name || b.Size() != roundsCreator(10_000) {
		t.Fatalf("created %v", b)
	}
	if p := b.Bytes(); len(p) != b.Size() || len(bytes.Trim(p, "\x00")) != 0 {
		t.Fatal("a new block is not all zero")
	}
	copy(b.Bytes()[5000:], "from the creator")

	for _, n := range []string{name, "/" + name} {
		o, err := shm.Open(n, nil)
		if err != nil {
			t.Fatal(err)
		}
		if o.Name() != name || o.Size() < 10_000 {
			t.Fatalf("opened %v", o)
		}
		if got := string(o.Bytes()[5000:5016]); got != "from the creator" {
			t.Fatalf("read %q", got)
		}
		copy(o.Bytes(), "from the opener")
		if got := string(b.Bytes()[:15]); got != "from the opener" {
			t.Fatalf("the creator reads %q", got)
		}
		if err := o.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if runtime.GOOS == "windows" {
		return // where the rest is different, and documented so
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if o, err := shm.Open(name, nil); err != nil {
		t.Fatal("closing took the block away:", err)
	} else {
		o.Close()
	}
	if err := b.Unlink(); err != nil {
		t.Fatal(err)
	}
	mustBe(t, b.Unlink(), fs.ErrNotExist)
	_, err := shm.Open(name, nil)
	mustBe(t, err, fs.ErrNotExist)
}

func TestFreshName(t *testing.T) {
	b := create(t, "", 1, nil)
	if !regexp.MustCompile(`^(psm|wnsm)_[0-9a-f]{8}$`).MatchString(b.Name()) {
		t.Fatalf("the name %q is not as Python makes them", b.Name())
	}
	if want := fmt.Sprintf("SharedMemory('%s', size=%d)", b.Name(), roundsCreator(1)); b.String() != want {
		t.Fatalf("String is %s, want %s", b, want)
	}
}

func TestCreateTaken(t *testing.T) {
	name := shmtest.Name(t)
	b := create(t, name, 100, nil)
	b.Bytes()[0] = 42
	for _, size := range []int{1, 100, 4 << 20} {
		_, err := shm.Create(name, size, nil)
		mustBe(t, err, fs.ErrExist)
	}
	if b.Bytes()[0] != 42 {
		t.Fatal("a failed Create changed the block")
	}
	// Of many that want the name, one gets it.
	name = shmtest.Name(t)
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			b, err := shm.Create(name, 100, nil)
			if err == nil {
				won.Add(1)
				t.Cleanup(func() { b.Close(); b.Unlink() })
			} else if !errors.Is(err, fs.ErrExist) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Fatalf("%d of 8 created the same block", won.Load())
	}
}

var badNames = map[string]string{
	"":                        "empty",
	"/":                       "empty",
	"a/b":                     "slash",
	"//a":                     "slash",
	"a/":                      "slash",
	"../etc":                  "slash",
	".":                       "directory",
	"..":                      "directory",
	"/..":                     "directory",
	"a\x00b":                  "NUL",
	"\xff\xfe":                "UTF-8",
	"sem.mp-1":                "semaphores",
	".shm-lease.0123":         "own",
	strings.Repeat("x", 256):  "bytes",
	strings.Repeat("é", 1000): "bytes",
}

func TestBadNames(t *testing.T) {
	for name, reason := range badNames {
		check := func(op string, err error) {
			t.Helper()
			mustBe(t, err, shm.ErrName)
			if !strings.Contains(err.Error(), reason) || len(err.Error()) > 400 {
				t.Errorf("%s %.20q: %v does not give the reason %q", op, name, err, reason)
			}
		}
		if name != "" { // which Create replaces
			_, err := shm.Create(name, 1, nil)
			check("Create", err)
			_, err = shm.OpenOrCreate(name, 1, nil, nil)
			check("OpenOrCreate", err)
		}
		_, err := shm.Open(name, nil)
		check("Open", err)
		_, err = shm.Stat(name)
		check("Stat", err)
		check("Unlink", shm.Unlink(name))
		_, err = shm.Wait(t.Context(), name, nil)
		check("Wait", err)
	}
}

func TestBadSizes(t *testing.T) {
	name := shmtest.Name(t)
	sizes := []int{0, -1, -1 << 31}
	if big := uint64(1) << 62; uint64(int(big)) == big {
		sizes = append(sizes, int(big))
	}
	for _, size := range sizes {
		_, err := shm.Create(name, size, nil)
		mustBe(t, err, shm.ErrSize)
		_, err = shm.OpenOrCreate(name, size, nil, nil)
		mustBe(t, err, shm.ErrSize)
		_, err = shm.Anonymous(size, nil)
		mustBe(t, err, shm.ErrSize)
	}
	_, err := shm.CreateFrom(name, strings.NewReader(""), nil)
	mustBe(t, err, shm.ErrSize)
	_, err = shm.Open(name, nil)
	mustBe(t, err, fs.ErrNotExist)
}

func TestReadWriteAt(t *testing.T) {
	b := create(t, shmtest.Name(t), 100, nil)
	size := int64(b.Size())
	if n, err := b.WriteAt([]byte("hello"), size-5); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	for _, off := range []int64{-1, size - 4, size, size + 1, 1 << 40} {
		n, err := b.WriteAt([]byte("hello"), off)
		if n != 0 {
			t.Fatalf("%d bytes written at %d", n, off)
		}
		mustBe(t, err, shm.ErrSize)
	}
	p := make([]byte, 10)
	if n, err := b.ReadAt(p, size-5); n != 5 || !errors.Is(err, io.EOF) || string(p[:n]) != "hello" {
		t.Fatal(n, err, p)
	}
	if n, err := b.ReadAt(p, size-10); n != 10 || err != nil || string(p[5:]) != "hello" {
		t.Fatal(n, err, p)
	}
	if n, err := b.ReadAt(p, size); n != 0 || !errors.Is(err, io.EOF) {
		t.Fatal(n, err)
	}
	_, err := b.ReadAt(p, -1)
	mustBe(t, err, shm.ErrSize)
	all, err := io.ReadAll(io.NewSectionReader(b, 0, size+900))
	if int64(len(all)) != size || err != nil {
		t.Fatal(len(all), err)
	}

	r, err := shm.Open(b.Name(), &shm.OpenOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n, err := r.ReadAt(p[:5], size-5); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	_, err = r.WriteAt(p, 0)
	mustBe(t, err, fs.ErrPermission)
}

func TestClose(t *testing.T) {
	b := create(t, shmtest.Name(t), 100, nil)
	select {
	case <-b.Done():
		t.Fatal("Done before Close")
	default:
	}
	release, err := b.Acquire()
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan error)
	go func() { closed <- b.Close() }()
	<-b.Done()
	b.Bytes() // nil or not: it must not crash
	_, err = b.Acquire()
	mustBe(t, err, os.ErrClosed)
	select {
	case <-closed:
		t.Fatal("Close did not wait for the release")
	default:
	}
	release()
	release()
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal("closing again:", err)
	}
	if b.Bytes() != nil {
		t.Fatal("Bytes after Close")
	}
	_, err = b.ReadAt(make([]byte, 1), 0)
	mustBe(t, err, os.ErrClosed)
	_, err = b.ReadAt(make([]byte, 1), 1000)
	mustBe(t, err, os.ErrClosed)
	_, err = b.WriteAt(make([]byte, 1), 0)
	mustBe(t, err, os.ErrClosed)
	mustBe(t, b.Do(func([]byte) error { return nil }), os.ErrClosed)
	_, err = shm.At[int64](b, 0)
	mustBe(t, err, os.ErrClosed)
	_, err = b.File()
	mustBe(t, err, os.ErrClosed)
	if b.Name() == "" || b.Size() != roundsCreator(100) {
		t.Fatal("name and size are gone after Close")
	}
}

// Close beside readers: each gets bytes or os.ErrClosed, and never a fault.
func TestCloseBesideCalls(t *testing.T) {
	for range 50 {
		b := create(t, shmtest.Name(t), 4096, nil)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				p := make([]byte, 4096)
				for {
					if _, err := b.ReadAt(p, 0); err != nil {
						if !errors.Is(err, os.ErrClosed) {
							t.Error(err)
						}
						return
					}
				}
			})
		}
		wg.Go(func() { b.Close() })
		b.Close()
		wg.Wait()
	}
}

func TestDo(t *testing.T) {
	b := create(t, shmtest.Name(t), 4096, nil)
	want := errors.New("mine")
	if err := b.Do(func(p []byte) error { p[7] = 7; return want }); !errors.Is(err, want) {
		t.Fatal(err)
	}
	if b.Bytes()[7] != 7 {
		t.Fatal("Do did not write")
	}
	// A panic of the callback's own goes through, and leaves the block usable.
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		b.Do(func(p []byte) error { return errors.New(string(p[4096:4097])) })
	}()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

type pixel struct {
	R, G, B, A uint8
	Depth      float32
}

type header struct {
	Count atomic.Uint64
	Flags uint16
	Name  [14]byte
	Grid  [4]pixel
}

type bad struct {
	X     int64
	Inner struct{ Names []string }
}

func TestViews(t *testing.T) {
	b := create(t, shmtest.Name(t), 4096, nil)
	h, err := shm.At[header](b, 64)
	if err != nil {
		t.Fatal(err)
	}
	h.Count.Add(3)
	h.Grid[3].Depth = 1.5
	o, err := shm.Open(b.Name(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	g, err := shm.At[header](o, 64)
	if err != nil {
		t.Fatal(err)
	}
	if g == h || g.Count.Load() != 3 || g.Grid[3].Depth != 1.5 {
		t.Fatalf("the other mapping has %+v", g)
	}
	if off, err := shm.Offset(b, &h.Flags); err != nil || off != 72 {
		t.Fatal(off, err)
	}
	_, err = shm.Offset(o, &h.Flags)
	mustBe(t, err, shm.ErrSize)
	local := new(int64)
	_, err = shm.Offset(b, local)
	mustBe(t, err, shm.ErrSize)

	s, err := shm.Slice[float64](b, 8, 511)
	if err != nil || len(s) != 511 || cap(s) != 511 {
		t.Fatal(len(s), err)
	}
	if s, err := shm.Slice[float64](b, 4096, 0); err != nil || len(s) != 0 {
		t.Fatal(len(s), err)
	}
	if s, err := shm.Slice[struct{}](b, 0, 5); err != nil || len(s) != 5 {
		t.Fatal(len(s), err)
	}

	for _, c := range []struct{ off, n int }{
		{0, 513}, {8, 512}, {-8, 1}, {4096, 1}, {4089, 1}, {1, 1}, {0, -1}, {0, 1<<31 - 1}, {4104, 0},
	} {
		_, err := shm.Slice[float64](b, c.off, c.n)
		mustBe(t, err, shm.ErrSize)
	}
	_, err = shm.At[header](b, 4096-16)
	mustBe(t, err, shm.ErrSize)

	_, err = shm.At[bad](b, 0)
	mustBe(t, err, shm.ErrFormat)
	if !strings.Contains(err.Error(), "bad.Inner.Names") {
		t.Fatalf("%v does not name the field", err)
	}
	for _, err := range []error{
		second(shm.At[string](b, 0)), second(shm.At[*int](b, 0)), second(shm.At[any](b, 0)),
		second(shm.At[map[int]int](b, 0)), second(shm.At[chan int](b, 0)), second(shm.At[func()](b, 0)),
		second(shm.At[[3][2]error](b, 0)), second(shm.Slice[[]byte](b, 0, 0)),
	} {
		mustBe(t, err, shm.ErrFormat)
	}
}

func second[T any](_ T, err error) error { return err }

func TestOffsetOfReadOnlyAndPrefault(t *testing.T) {
	b := create(t, shmtest.Name(t), 1<<20, &shm.CreateOptions{Prefault: true, HugePages: true})
	b.Bytes()[1<<20-1] = 9
	for _, ro := range []bool{false, true} {
		o, err := shm.Open(b.Name(), &shm.OpenOptions{Prefault: true, ReadOnly: ro})
		if err != nil {
			t.Fatal(err)
		}
		if o.Bytes()[1<<20-1] != 9 {
			t.Fatal("other memory")
		}
		o.Close()
	}
}

func TestRef(t *testing.T) {
	b := create(t, shmtest.Name(t), 100, nil)
	b.Bytes()[0] = 77
	type message struct {
		Frame shm.Ref
		N     int
	}
	var viaJSON, viaGob message
	j, err := json.Marshal(message{b.Ref(), 1})
	if err != nil || json.Unmarshal(j, &viaJSON) != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := errors.Join(gob.NewEncoder(&buf).Encode(message{b.Ref(), 1}), gob.NewDecoder(&buf).Decode(&viaGob)); err != nil {
		t.Fatal(err)
	}
	var viaFlag shm.Ref
	f := flag.NewFlagSet("", flag.ContinueOnError)
	f.Var(&viaFlag, "block", "")
	if err := f.Parse([]string{"-block", b.Ref().String()}); err != nil {
		t.Fatal(err)
	}
	for _, r := range []shm.Ref{viaJSON.Frame, viaGob.Frame, viaFlag} {
		o, err := r.Open(nil)
		if err != nil {
			t.Fatal(err)
		}
		if o.Bytes()[0] != 77 {
			t.Fatal("another block")
		}
		o.Close()
	}
	for _, text := range []string{"", "..", "a/", "/x/..", "sem.x"} {
		mustBe(t, new(shm.Ref).Set(text), shm.ErrName)
	}
	var r shm.Ref
	if err := r.Set("/var/tmp/cam0"); err != nil || r.Dir != "/var/tmp" || r.Name != "cam0" {
		t.Fatalf("%+v %v", r, err)
	}
	if err := r.Set("/cam0"); err != nil || r.Dir != "" || r.Name != "cam0" {
		t.Fatalf("%+v %v", r, err)
	}
}

func TestCreateFrom(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<17) // 2 MiB, some steps of filling
	pipe := func(p []byte) io.Reader {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
		go func() { w.Write(p); w.Close() }()
		return r
	}
	file := func(p []byte) io.Reader {
		f, err := os.CreateTemp("", "shmtest-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close(); os.Remove(f.Name()) })
		f.Write(p)
		f.Seek(0, io.SeekStart)
		return f
	}
	for name, from := range map[string]func([]byte) io.Reader{
		"reader": func(p []byte) io.Reader { return bytes.NewReader(p) },
		"pipe":   pipe,
		"file":   file,
	} {
		for _, n := range []int{1, 4096, 100_000, len(data) - 1, len(data)} {
			b, err := shm.CreateFrom(shmtest.Name(t), from(data[:n]), nil)
			if err != nil {
				t.Fatal(name, n, err)
			}
			if b.Size() != roundsCreator(n) || !bytes.Equal(b.Bytes()[:n], data[:n]) {
				t.Fatalf("%s: %d bytes became %d others", name, n, b.Size())
			}
			_ = errors.Join(b.Close(), b.Unlink())
		}
		more := append(data[:len(data):len(data)], "and more"...)
		b, err := shm.CreateFrom(shmtest.Name(t), from(more), nil)
		if err != nil {
			t.Fatal(name, err)
		}
		if !bytes.Equal(b.Bytes()[:len(more)], more) {
			t.Fatalf("%s: wrong bytes", name)
		}
		_ = errors.Join(b.Close(), b.Unlink())
	}
	name := shmtest.Name(t)
	want := errors.New("the source is broken")
	_, err := shm.CreateFrom(name, io.MultiReader(strings.NewReader("x"), &brokenReader{want}), nil)
	mustBe(t, err, want)
	_, err = shm.Open(name, nil)
	mustBe(t, err, fs.ErrNotExist)
}

type brokenReader struct{ err error }

func (r *brokenReader) Read([]byte) (int, error) { return 0, r.err }

func TestOpenOrCreate(t *testing.T) {
	name := shmtest.Name(t)
	var calls, saw atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			b, err := shm.OpenOrCreate(name, 4096, nil, func(b *shm.Block) error {
				calls.Add(1)
				b.Bytes()[4095] = 1
				return nil
			})
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { b.Close(); b.Unlink() })
			saw.Add(int32(b.Bytes()[4095]))
		})
	}
	wg.Wait()
	// Losers of the race may have called init on a block of their own that was
	// thrown away.
	if calls.Load() < 1 || saw.Load() != 8 {
		t.Fatalf("init ran %d times, %d of 8 saw its work", calls.Load(), saw.Load())
	}
	_, err := shm.OpenOrCreate(name, 1<<20, nil, nil)
	mustBe(t, err, shm.ErrSize)

	if runtime.GOOS == "linux" {
		alone := shmtest.Name(t)
		b, err := shm.OpenOrCreate(alone, 10, nil, func(b *shm.Block) error {
			_, err := shm.Open(alone, nil)
			mustBe(t, err, fs.ErrNotExist) // not before init is done
			return nil
		})
		if err := errors.Join(err, b.Close(), b.Unlink()); err != nil {
			t.Fatal(err)
		}
	}

	failing := shmtest.Name(t)
	want := errors.New("no")
	_, err = shm.OpenOrCreate(failing, 10, nil, func(*shm.Block) error { return want })
	mustBe(t, err, want)
	_, err = shm.OpenOrCreate(failing, 10, nil, func(*shm.Block) error { return fs.ErrExist })
	mustBe(t, err, fs.ErrExist)
	func() {
		defer func() { recover() }()
		shm.OpenOrCreate(failing, 10, nil, func(*shm.Block) error { panic("at the worst moment") })
	}()
	_, err = shm.Open(failing, nil)
	mustBe(t, err, fs.ErrNotExist)
}
