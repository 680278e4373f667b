package npz_test

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/array/npz"
	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

type point struct {
	X int32
	_ [4]byte // else 32-bit machines have none
	Y float64
}

func Example() {
	a, err := array.Over([]float32{1, 2, 3, 4, 5, 6}, []int{2, 3})
	if err != nil {
		fmt.Println(err)
		return
	}
	var file bytes.Buffer // numpy.load reads such a file
	w := npz.NewWriter(&file)
	if err := errors.Join(w.Add("weights", a), w.Close()); err != nil {
		fmt.Println(err)
		return
	}

	f, err := npz.NewFile(bytes.NewReader(file.Bytes()), int64(file.Len()))
	if err != nil {
		fmt.Println(err)
		return
	}
	b, err := npz.Read[float32](f, "weights")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(f.Names(), b.Shape(), b.At(1, 2))
	// Output: [weights] [2 3] 6
}

// little skips on machines whose arrays are not those of the golden files.
func little(t *testing.T) {
	t.Helper()
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the files are little-endian")
	}
}

// check compares an archive with what testdata was made of.
func check(t *testing.T, f *npz.File) {
	t.Helper()
	if want := []string{"weights", "flags", "points", "fortran", "empty", "one"}; !slices.Equal(f.Names(), want) {
		t.Errorf("names %q, want %q", f.Names(), want)
	}
	name := shmtest.Name(t)
	w, err := npz.Load[float32](f, "weights", name, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Unlink()
	defer w.Close()
	if !slices.Equal(w.Shape(), []int{3, 4}) || !slices.Equal(w.Data(), []float32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}) {
		t.Errorf("weights: %v, %v", w.Shape(), w.Data())
	}
	same(t, f, "flags", []bool{true, false})
	same(t, f, "points", []point{{X: 1, Y: .5}, {X: 2, Y: 1.5}, {X: 3, Y: -2.5}})
	same(t, f, "fortran", []int64{0, 3, 1, 4, 2, 5})
	same(t, f, "empty", []float64{})
	same(t, f, "one", []float64{2.5})
	info, err := f.Info("fortran")
	if want := (array.Info{DType: "<i8", ItemSize: 8, Shape: []int{2, 3}, Order: array.Fortran, Offset: 128, Version: "1.0"}); err != nil || !reflect.DeepEqual(info, want) {
		t.Errorf("%+v, %v; want %+v", info, err, want)
	}
}

func same[T comparable](t *testing.T, f *npz.File, name string, want []T) {
	t.Helper()
	a, err := npz.Read[T](f, name)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	if !slices.Equal(a.Data(), want) {
		t.Errorf("%s: %v, want %v", name, a.Data(), want)
	}
}

// What NumPy wrote, both majors, is read; and what we make of it as well.
func TestGolden(t *testing.T) {
	little(t)
	files, err := filepath.Glob("testdata/*.npz")
	if err != nil || len(files) != 4 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			f, err := npz.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			check(t, f)
			for _, deflate := range []bool{false, true} {
				data := copied(t, f, deflate)
				again, err := npz.NewFile(bytes.NewReader(data), int64(len(data)))
				if err != nil {
					t.Fatal(err)
				}
				check(t, again)
			}
		})
	}
}

// asItIs is a .npy file that is not looked into.
type asItIs struct{ io.Reader }

func (f asItIs) WriteNPY(w io.Writer) (int64, error) { return io.Copy(w, f) }

// copied writes an archive anew, member by member.
func copied(t *testing.T, f *npz.File, deflate bool) []byte {
	t.Helper()
	var out bytes.Buffer
	w := npz.NewWriter(&out)
	w.Deflate = deflate
	for _, name := range f.Names() {
		r, size, err := f.Member(name)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil || int64(len(data)) != size {
			t.Fatalf("%s: %d bytes of %d, %v", name, len(data), size, err)
		}
		if err := errors.Join(r.Close(), w.Add(name, asItIs{bytes.NewReader(data)})); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// numpy.load reads what we write, and we what numpy.savez writes, on every NumPy.
func TestNumPy(t *testing.T) {
	little(t)
	const python = `
import sys, numpy as np
with np.load(sys.argv[1]) as z:
    arrays = {k: z[k] for k in z.files}
assert list(arrays) == ["weights", "points", "text"], list(arrays)
w = np.arange(12, dtype="f4").reshape(3, 4)
assert arrays["weights"].flags.f_contiguous and (arrays["weights"] == w).all() and arrays["weights"].dtype == w.dtype
assert arrays["points"]["Y"].tolist() == [0.5, float("inf")], arrays["points"]
assert arrays["text"].tolist() == ["h\u00e9", ""], arrays["text"]
(np.savez_compressed if sys.argv[3] else np.savez)(sys.argv[2], **arrays)
`
	dir := shmtest.TempDir(t)
	weights, err := array.Over([]float32{0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11}, []int{3, 4}, array.Fortran)
	if err != nil {
		t.Fatal(err)
	}
	points, err := array.Over([]point{{X: 1, Y: .5}, {X: -1, Y: math.Inf(1)}}, []int{2})
	if err != nil {
		t.Fatal(err)
	}
	texts := [][3]rune{{'h', 'é'}, {}}
	text, err := array.Over(texts, []int{2})
	if err != nil {
		t.Fatal(err)
	}
	for _, py := range shmtest.PythonsWith(t, "numpy") {
		for _, compress := range []string{"", "yes"} {
			t.Run(py.Module+compress, func(t *testing.T) {
				ours, theirs := filepath.Join(dir, "ours.npz"), filepath.Join(dir, "theirs.npz")
				out, err := os.Create(ours)
				if err != nil {
					t.Fatal(err)
				}
				w := npz.NewWriter(out)
				w.Deflate = compress != ""
				if err := errors.Join(w.Add("weights", weights), w.Add("points", points), w.Add("text", text), w.Close(), out.Close()); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), shmtest.Patience)
				defer cancel()
				if out, err := py.Cmd(ctx, "-c", python, ours, theirs, compress).CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				f, err := npz.Open(theirs)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				same(t, f, "weights", weights.Data())
				same(t, f, "points", points.Data())
				same(t, f, "text", texts)
			})
		}
	}
}

// archive makes one of whatever bytes.
func archive(t *testing.T, change func(h *zip.FileHeader), members ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for i := 0; i < len(members); i += 2 {
		h := &zip.FileHeader{Name: members[i], Method: zip.Store}
		if change == nil {
			m, err := w.CreateHeader(h)
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(m, members[i+1])
			continue
		}
		h.UncompressedSize64, h.CompressedSize64 = uint64(len(members[i+1])), uint64(len(members[i+1]))
		change(h)
		m, err := w.CreateRaw(h)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(m, members[i+1])
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func npyFile(t *testing.T, n int) string {
	t.Helper()
	a, err := array.Over(make([]uint8, n), []int{n})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if _, err := a.WriteNPY(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// Archives that lie are refused, before memory is taken, and leave no block.
func TestBad(t *testing.T) {
	good := npyFile(t, 1000)
	const huge = int64(1 << 40)
	long := fmt.Sprintf("(%d,), }", huge)
	short := "(1000,), }"
	lie := strings.Replace(good, short+strings.Repeat(" ", len(long)-len(short)), long, 1)
	if lie == good || len(lie) != len(good) {
		t.Fatalf("no lie: %q", lie[:128])
	}
	crc := func(h *zip.FileHeader) { h.CRC32 = 12345 }
	for what, data := range map[string][]byte{
		"no header":         archive(t, nil, "a.npy", "hello"),
		"empty":             archive(t, nil, "a.npy", ""),
		"too short":         archive(t, nil, "a.npy", good[:len(good)-1]),
		"too long":          archive(t, nil, "a.npy", good+"x"),
		"a lying header":    archive(t, nil, "a.npy", lie),
		"a wrong checksum":  archive(t, crc, "a.npy", good),
		"a lying directory": archive(t, func(h *zip.FileHeader) { h.UncompressedSize64 = uint64(huge) + 128 }, "a.npy", lie),
		"both lie":          archive(t, func(h *zip.FileHeader) { h.UncompressedSize64, h.CompressedSize64 = uint64(huge)+128, uint64(huge)+128 }, "a.npy", lie),
		"encrypted":         archive(t, func(h *zip.FileHeader) { h.Flags |= 1 }, "a.npy", good),
		"unknown method":    archive(t, func(h *zip.FileHeader) { h.Method = 14 }, "a.npy", good),
		"no deflate":        archive(t, func(h *zip.FileHeader) { h.Method = zip.Deflate }, "a.npy", "\xff"+good[1:]),
		"objects":           archive(t, nil, "a.npy", strings.Replace(good, "'|u1'", "'|O' ", 1)),
	} {
		f, err := npz.NewFile(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		name := shmtest.Name(t)
		if _, err := npz.Read[uint8](f, "a"); !errors.Is(err, shm.ErrFormat) {
			t.Errorf("%s: Read: %v", what, err)
		}
		if _, err := npz.Load[uint8](f, "a", name, nil); !errors.Is(err, shm.ErrFormat) {
			t.Errorf("%s: Load: %v", what, err)
		}
		if _, err := shm.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: there is a block: %v", what, err)
		}
	}
	for what, data := range map[string][]byte{
		"no archive":    []byte("hello"),
		"nothing":       nil,
		"cut":           archive(t, nil, "a.npy", good)[:500],
		"two of a name": archive(t, nil, "a.npy", good, "a.npy", good),
	} {
		if _, err := npz.NewFile(bytes.NewReader(data), int64(len(data))); !errors.Is(err, shm.ErrFormat) {
			t.Errorf("%s: %v", what, err)
		}
	}
	data := archive(t, nil, "../a.npy", good, "readme.txt", "x", "/b.npy", good)
	f, err := npz.NewFile(bytes.NewReader(data), int64(len(data)))
	if err != nil || !slices.Equal(f.Names(), []string{"../a", "/b"}) {
		t.Fatalf("%v, %v", f, err)
	}
	if _, err := f.Info("readme.txt"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what is no array: %v", err)
	}
	if _, err := npz.Read[uint8](f, "../a"); err != nil {
		t.Error(err)
	}
	if _, err := npz.Read[int8](f, "/b"); !errors.Is(err, shm.ErrFormat) {
		t.Errorf("as another type: %v", err)
	}
	if _, err := npz.Open(filepath.Join(shmtest.TempDir(t), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// What the file itself says, when reading it fails, is not about its format.
func TestReadError(t *testing.T) {
	data := archive(t, nil, "a.npy", npyFile(t, 100_000))
	on := errors.New("disk on fire")
	r := failingAfter{bytes.NewReader(data), 50_000, on}
	f, err := npz.NewFile(&r, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	r.armed()
	if _, err := npz.Read[uint8](f, "a"); !errors.Is(err, on) || errors.Is(err, shm.ErrFormat) {
		t.Error(err)
	}
}

type failingAfter struct {
	r    io.ReaderAt
	at   int64
	fail error
}

func (f *failingAfter) armed() { f.at = -f.at }

func (f *failingAfter) ReadAt(p []byte, off int64) (int, error) {
	if f.at < 0 && off+int64(len(p)) > -f.at {
		return 0, f.fail
	}
	return f.r.ReadAt(p, off)
}

func TestWriterRefuses(t *testing.T) {
	a, err := array.Over([]uint8{1}, []int{1})
	if err != nil {
		t.Fatal(err)
	}
	w := npz.NewWriter(io.Discard)
	for _, name := range []string{"", "/a", "../a", "a/../b", "a\\b", "\xff", "a\x00", "a//b"} {
		if err := w.Add(name, a); !errors.Is(err, shm.ErrName) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := errors.Join(w.Add("a", a), w.Add("a/b", a), w.Add("é", a)); err != nil {
		t.Error(err)
	}
	if err := w.Add("a", a); !errors.Is(err, fs.ErrExist) {
		t.Errorf("twice: %v", err)
	}
}

// Zeros that hardly take room are no error, whatever they become.
func TestDense(t *testing.T) {
	var out bytes.Buffer
	w := npz.NewWriter(&out)
	w.Deflate = true
	a, err := array.Over(make([]uint64, 1<<20), []int{1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Add("zeros", a), w.Close()); err != nil {
		t.Fatal(err)
	}
	f, err := npz.NewFile(bytes.NewReader(out.Bytes()), int64(out.Len()))
	if err != nil {
		t.Fatal(err)
	}
	if out.Len() > 1<<16 {
		t.Fatalf("%d bytes, and no test of anything", out.Len())
	}
	same(t, f, "zeros", a.Data())
}

func FuzzFile(f *testing.F) {
	for _, path := range []string{"testdata/numpy2.npz", "testdata/numpy1_compressed.npz"} {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		z, err := npz.NewFile(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		for _, name := range z.Names() {
			r, size, err := z.Member(name)
			if err != nil {
				continue
			}
			n, err := io.Copy(io.Discard, r)
			if err == nil && n != size {
				t.Errorf("%d bytes and no error, promised %d", n, size)
			}
			r.Close()
		}
	})
}
