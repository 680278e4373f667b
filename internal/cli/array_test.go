package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/array/npz"
	"github.com/sharedmem/shm/internal/npy"
	"github.com/sharedmem/shm/internal/shmtest"
)

type testPoint struct {
	X int32   `npy:"x"`
	_ [4]byte // else 32-bit machines have none
	T float64 `npy:"temperature"`
}

// writeArrays makes the files that scripts look at.
func writeArrays(dir string) error {
	var errs []error
	file := func(name string, a interface {
		WriteNPY(io.Writer) (int64, error)
	}, err error) {
		var data bytes.Buffer
		if err == nil {
			_, err = a.WriteNPY(&data)
		}
		errs = append(errs, err, os.WriteFile(filepath.Join(dir, name), data.Bytes(), 0o600))
	}
	line := make([]float64, 2000)
	for i := range line {
		line[i] = float64(i%100) / 4
	}
	a, err := array.Over(line, []int{2000})
	file("line.npy", a, err)
	image := make([]uint8, 40*60*3)
	for i := range image {
		image[i] = uint8(i)
	}
	b, err := array.Over(image, []int{40, 60, 3})
	file("image.npy", b, err)
	c, err := array.Over([]testPoint{{X: 1, T: 0.5}, {X: 2, T: 1.5}, {X: -3, T: 2.5}}, []int{3})
	file("points.npy", c, err)
	d, err := array.Over([]int16{1, 2, 3, 4, 5, 6}, []int{2, 3}, array.Fortran)
	file("fortran.npy", d, err)
	var z bytes.Buffer
	w := npz.NewWriter(&z)
	errs = append(errs, w.Add("weights", d), w.Add("layer/bias", a), w.Close(), os.WriteFile(filepath.Join(dir, "arrays.npz"), z.Bytes(), 0o600))
	whole, err := os.ReadFile(filepath.Join(dir, "line.npy"))
	if err == nil {
		errs = append(errs, os.WriteFile(filepath.Join(dir, "cut.npy"), whole[:5000], 0o600))
		lie := bytes.Replace(whole, []byte("'<f8'"), []byte("'|O' "), 1)
		errs = append(errs, os.WriteFile(filepath.Join(dir, "objects.npy"), lie, 0o600))
	}
	return errors.Join(append(errs, err)...)
}

// npyOver makes the .npy file of some elements.
func npyOver[T any](t testing.TB, data []T, shape ...int) []byte {
	t.Helper()
	a, err := array.Over(data, shape)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := a.WriteNPY(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// What NumPy 2.5 prints, for machines without.
func TestArrayText(t *testing.T) {
	c := &arrayFlags{order: "C"}
	long := make([]int32, 1001)
	for i := range long {
		long[i] = int32(i)
	}
	wide := make([]float64, 200)
	for i := range wide {
		wide[i] = float64(i) / 8
	}
	for _, x := range []struct {
		file []byte
		want string
	}{
		{npyOver(t, long, 1001), "[   0    1    2 ...  998  999 1000]"},
		{npyOver(t, wide[:12], 3, 4), "[[0.    0.125 0.25  0.375]\n [0.5   0.625 0.75  0.875]\n [1.    1.125 1.25  1.375]]"},
		{npyOver(t, wide[:20], 20), "[0.    0.125 0.25  0.375 0.5   0.625 0.75  0.875 1.    1.125 1.25  1.375\n 1.5   1.625 1.75  1.875 2.    2.125 2.25  2.375]"},
		{npyOver(t, []float32{1e10, -0.5}, 2), "[ 1.e+10 -5.e-01]"},
		{npyOver(t, []bool{true, false}, 2), "[ True False]"},
		{npyOver(t, []array.Time{0, array.NaT}, 2), "['1970-01-01T00:00:00.000000000'                           'NaT']"},
		{npyOver(t, []complex128{1 + 2i, -1.5i}, 2), "[1.+2.j  0.-1.5j]"},
		{npyOver(t, []testPoint{{X: 1, T: .5}, {X: -20, T: 2}}, 2), "[(  1, 0.5) (-20, 2. )]"},
		{npyOver(t, [][3]byte{{'a'}, {'b', 0, 'c'}}, 2), `[b'a' b'b\x00c']`},
		{npyOver(t, [][2]rune{{'é'}, {'\'', 'x'}}, 2), `['é' "'x"]`},
		{npyOver(t, []int64{42}), "42"},
		{npyOver(t, []array.Float16{array.Float16Of(0.1), array.Float16Of(3)}, 2), "[0.1 3. ]"},
		{npyOver(t, []int8{1, 2, 3, 4, 5, 6, 7, 8}, 2, 2, 2), "[[[1 2]\n  [3 4]]\n\n [[5 6]\n  [7 8]]]"},
		{npyOver(t, []int8{}, 0, 4), "[]"},
	} {
		if got := textOf(t, elementsOf(t, x.file, c), false); got != x.want {
			t.Errorf("got\n%s\nwant\n%s", got, x.want)
		}
	}
	if got := textOf(t, elementsOf(t, npyOver(t, long, 1001), c), true); strings.Contains(got, "...") || !strings.Contains(got, " 500 ") {
		t.Errorf("not all: %s", got)
	}
}

// Values in JSON, whatever their type.
func TestArrayJSON(t *testing.T) {
	type inner struct {
		A uint8
		B [2]float32
	}
	type record struct {
		N [2]inner
		S [2]byte
		T array.Time
	}
	for _, x := range []struct {
		file []byte
		want string
	}{
		{npyOver(t, []float32{0.1, float32(1e30)}, 2), `[0.1,1e+30]`},
		{npyOver(t, []uint64{1<<64 - 1}, 1, 1), `[[18446744073709551615]]`},
		{npyOver(t, []complex64{0.1 + 2i}), `[0.1,2]`},
		{npyOver(t, []array.Time{array.NaT, 1}, 2), `[null,"1970-01-01T00:00:00.000000001"]`},
		{npyOver(t, [][2]byte{{'<', 'a'}, {0xff, 1}}, 2), `["<a",{"base64":"/wE="}]`},
		{npyOver(t, []record{{N: [2]inner{{1, [2]float32{.5, 2}}, {}}, S: [2]byte{'x'}}}, 1),
			`[{"N":[{"A":1,"B":[0.5,2]},{"A":0,"B":[0,0]}],"S":"x","T":"1970-01-01T00:00:00.000000000"}]`},
		{npyOver(t, []int8{}, 2, 0), `[]`},
		{npyOver(t, []array.Float16{0x7c00, 0x7e00, 0xfc00}, 3), `["inf","nan","-inf"]`},
	} {
		if got := jsonOf(t, elementsOf(t, x.file, &arrayFlags{order: "C"})); got != x.want {
			t.Errorf("%s, want %s", got, x.want)
		}
	}
}

// Slices are Python's, by a dull model of them.
func TestParseSlice(t *testing.T) {
	python := func(start, stop, step *int, n int) []int {
		out := []int{}
		by := 1
		if step != nil {
			by = *step
		}
		clip := func(p *int, absent, lo, hi int) int {
			if p == nil {
				return absent
			}
			v := *p
			if v < 0 {
				v += n
			}
			return min(max(v, lo), hi)
		}
		if by > 0 {
			for i := clip(start, 0, 0, n); i < clip(stop, n, 0, n); i += by {
				out = append(out, i)
			}
			return out
		}
		for i := clip(start, n-1, -1, n-1); i > clip(stop, -1, -1, n-1); i += by {
			out = append(out, i)
		}
		return out
	}
	text := func(p *int) string {
		if p == nil {
			return ""
		}
		return fmt.Sprint(*p)
	}
	var some []*int
	some = append(some, nil)
	for i := -7; i <= 7; i++ {
		some = append(some, &i)
	}
	for n := range 5 {
		for _, start := range some {
			for _, stop := range some {
				for _, step := range some {
					if step != nil && *step == 0 {
						continue
					}
					s := text(start) + ":" + text(stop) + ":" + text(step)
					first, count, by, err := parseSlice(s, n)
					want := python(start, stop, step, n)
					if err != nil || count != len(want) || count > 0 && (first != want[0] || first+(count-1)*by != want[count-1]) {
						t.Fatalf("%s of %d: %d, %d times, by %d, %v; want %v", s, n, first, count, by, err, want)
					}
				}
			}
		}
	}
	for _, s := range []string{"::0", "a:", ":1.5", "1:2:3:4", "::x"} {
		if _, _, _, err := parseSlice(s, 5); err == nil {
			t.Errorf("%s is no slice", s)
		}
	}
}

// A block that becomes smaller while it is looked at is an error, not a crash.
func TestArrayTruncated(t *testing.T) {
	dir := blockDir(t)
	data := npyOver(t, make([]float64, 1<<17), 1<<17)
	for _, args := range [][]string{{"array", "a", "--json"}, {"plot", "a", "-o", filepath.Join(dir, "..", "x.png")}, {"cat", "--npz", "a"}, {"array", "a", "-1"}} {
		path := filepath.Join(dir, "a")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		a := &app{stdout: io.Discard, stderr: io.Discard, dir: dir}
		e, err := a.openElements(t.Context(), "a", &arrayFlags{order: "C"})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 4096); err != nil {
			t.Fatal(err)
		}
		switch args[0] {
		case "plot":
			_, err = a.newPlot(e, 100, nil)
		case "cat":
			_, err = fileOf{e}.WriteNPY(io.Discard)
		default:
			if args[2] == "--json" {
				err = a.arrayJSON(e)
			} else {
				err = a.printArray(e, false)
			}
		}
		if !errors.Is(err, shm.ErrTruncated) {
			t.Errorf("%v: %v", args, err)
		}
		if _, _, err := summarise(e); !errors.Is(err, shm.ErrTruncated) {
			t.Errorf("info: %v", err)
		}
		e.close()
		// Opened now, its header says what is not there.
		if status, _, errs := run(t, "", append([]string{"--dir", dir}, args...)...); status != exitFailure || !strings.Contains(errs, "behind the header there are") {
			t.Errorf("%v: status %d, %s", args, status, errs)
		}
		if status, out, _ := run(t, "", "--dir", dir, "info", "a"); status != exitOK || !strings.Contains(out, "npy, but bad .npy header") {
			t.Errorf("info: status %d, %s", status, out)
		}
	}
}

// Looking at an array does not make its block occupy memory, and ends with its
// context.
func TestArrayHoles(t *testing.T) {
	dir := blockDir(t)
	path := filepath.Join(dir, "a")
	h := npy.Header{Type: npy.DType{Kind: 'f', Size: 8, Big: npy.BigEndian}, Shape: []int{1 << 20}}
	head, err := h.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(path, head, 0o600), os.Truncate(path, int64(len(head)+h.Bytes()))); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"info", "a"}, {"array", "a"}, {"array", "a", "--json"}, {"plot", "a"}} {
		if status, out, errs := run(t, "", append([]string{"--dir", dir}, args...)...); status != 0 || out == "" {
			t.Errorf("%v: %d, %s", args, status, errs)
		}
		if b, err := shm.Dir(dir).Stat("a"); err != nil || b.Resident > 64<<10 {
			t.Errorf("%v: %d bytes in memory, %v", args, b.Resident, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var errs bytes.Buffer
		if status := Run(ctx, append([]string{"--dir", dir}, args...), nil, io.Discard, &errs); status != exitInterrupted {
			t.Errorf("%v: interrupted: %d, %s", args, status, errs.String())
		}
	}
}

// Headers whose elements would take forever, or more memory than there is.
func TestArrayBombs(t *testing.T) {
	for _, dtype := range []string{"'|S0'", "[('a', '|S0', (2000000000,)), ('b', '|u1')]"} {
		text := "{'descr': " + dtype + ", 'fortran_order': False, 'shape': (%s,), }"
		shape := "4000000000000000000"
		if dtype[0] == '[' {
			shape = "3"
		}
		text = fmt.Sprintf(text, shape)
		data := append([]byte(npy.Magic+"\x01\x00"), byte(len(text)), 0)
		data = append(append(data, text...), 1, 2, 3)
		e := &elements{ctx: t.Context(), name: "x", from: bytes.NewReader(data), size: int64(len(data)), close: func() {}}
		err := e.open(&app{}, &arrayFlags{order: "C"})
		if dtype[0] != '[' {
			if err == nil {
				t.Errorf("%s: opened", dtype)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := textOf(t, e, true); got != "[([], 1) ([], 2) ([], 3)]" {
			t.Error(got)
		}
		if _, _, err := summarise(e); err != nil {
			t.Error(err)
		}
		if err := e.pick("a"); err == nil && e.count() < maxPrinted {
			t.Errorf("%v", e.shape())
		}
	}
}

// Go types that describe writes are laid out as it says, and package array
// matches them with the type they come from.
func TestDescribeGo(t *testing.T) {
	if npy.BigEndian {
		t.Skip("the types are little-endian")
	}
	for _, dtype := range []string{"<f4", "|S5", "<M8[ns]", "<m8[25s]", "[('a', '<i4'), ('b', '<f4')]", "[('type', '<u2', (2, 3)), ('Name with blanks', 'S3'), ('x', '?')]",
		"{'names': ['a', 'b', 'c', 'd'], 'formats': ['u1', '<c16', '<f2', '<U3'], 'offsets': [3, 8, 30, 36], 'itemsize': 64}",
		"[('n', [('t', '<M8[ns]'), ('d', '<m8[ns]'), ('day', '<M8[D]'), ('other', '<M8[D]')]), ('v', 'V8'), ('0`\"', '<i8')]"} {
		d, err := npy.ParseSpelling(dtype)
		if err != nil {
			t.Fatal(err)
		}
		source, err := goDeclaration("some block", d)
		if err != nil {
			t.Errorf("%s: %v", dtype, err)
			continue
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, "x.go", "package x\n"+source, 0)
		if err != nil {
			t.Errorf("%v in\n%s", err, source)
			continue
		}
		conf := types.Config{Importer: stubs{}}
		pkg, err := conf.Check("x", fset, []*ast.File{f}, nil)
		if err != nil {
			t.Errorf("%v in\n%s", err, source)
			continue
		}
		typ := pkg.Scope().Lookup("Some_block").Type()
		for _, arch := range []string{"amd64", "arm64", "386"} {
			sameLayout(t, types.SizesFor("gc", arch), typ, d, source)
		}
	}
	for dtype, want := range map[string]string{"[('x', 'u1'), ('y', '<f8')]": "'y' begins at byte 1", "[('x', '<f8'), ('y', 'u1')]": "no multiple of 8", ">i4": "other byte order",
		"<f16": "long double", "<c32": "long double", "[('x', 'S0')]": "no bytes"} {
		d, err := npy.ParseSpelling(dtype)
		if err != nil {
			t.Fatal(err)
		}
		if source, err := goDeclaration("x", d); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v\n%s", dtype, err, source)
		}
	}
}

// stubs are the packages that declarations import, of which only sizes matter.
type stubs struct{}

func (stubs) Import(path string) (*types.Package, error) {
	source := map[string]string{"time": "package time; type Duration int64", "github.com/sharedmem/shm/array": "package array; type Time int64; type Float16 uint16; type BFloat16 uint16"}[path]
	if source == "" {
		return importer.Default().Import(path)
	}
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "stub.go", source, 0)
	if err != nil {
		return nil, err
	}
	return (&types.Config{}).Check(path, fset, []*ast.File{f}, nil)
}

func sameLayout(t *testing.T, sizes types.Sizes, typ types.Type, d *npy.DType, source string) {
	t.Helper()
	if n := sizes.Sizeof(typ); n != int64(d.Size) {
		t.Errorf("%v: %d bytes, want %d\n%s", typ, n, d.Size, source)
	}
	s, ok := typ.Underlying().(*types.Struct)
	if !ok {
		return
	}
	var all []*types.Var
	for i := range s.NumFields() {
		all = append(all, s.Field(i))
	}
	offsets := sizes.Offsetsof(all)
	k := 0
	for i, v := range all {
		if v.Name() == "_" {
			continue
		}
		f := d.Fields[k]
		k++
		name := v.Name()
		if tag, ok := strings.CutPrefix(s.Tag(i), "npy:"); ok {
			if _, err := fmt.Sscanf(tag, "%q", &name); err != nil {
				t.Error(err)
			}
		}
		if offsets[i] != int64(f.Offset) || !strings.EqualFold(name, f.Name) {
			t.Errorf("%s at %d, want %s at %d\n%s", name, offsets[i], f.Name, f.Offset, source)
		}
		if f.Type.IsStruct() {
			sameLayout(t, sizes, v.Type(), &f.Type, source)
		}
	}
	if k != len(d.Fields) {
		t.Errorf("%d fields of %d\n%s", k, len(d.Fields), source)
	}
}

// A file that begins as .npy and is none leaves no block, however it comes; what
// only looks so at first is nothing to put.
func TestPutNPY(t *testing.T) {
	dir := blockDir(t)
	whole := string(npyOver(t, make([]int16, 300), 300))
	for _, c := range []struct {
		data string
		ok   bool
	}{
		{whole, true}, {whole + "more", true}, {whole[:len(whole)-1], false}, {whole[:100], false}, {whole[:8], false}, {whole[:7], false}, {whole[:6], false},
		{whole[:5], true}, {"\x93NUMPX", true}, {"\x93", true}, {npy.Magic + "\x09\x00" + whole[8:], false}, {strings.Replace(whole, "'<i2'", "'|O' ", 1), false},
		{strings.Replace(whole, "(300,)", "(-30,)", 1), false},
	} {
		path := filepath.Join(shmtest.TempDir(t), "x.bin")
		if err := os.WriteFile(path, []byte(c.data), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"put", "a", path}, {"put", "a"}, {"put", "a", "-", os.DevNull}} {
			status, _, errs := run(t, c.data, append([]string{"--dir", dir}, args...)...)
			_, err := shm.Dir(dir).Stat("a")
			if (status == 0) != c.ok || (err == nil) != c.ok || !c.ok && !strings.Contains(errs, "shm put --raw") {
				t.Errorf("%q, %d bytes, %v: status %d, %v, %s", c.data[:min(len(c.data), 8)], len(c.data), args[2:], status, err, errs)
			}
			if status, _, errs := run(t, c.data, append([]string{"--dir", dir, "put", "--raw", "--replace"}, args[1:]...)...); status != 0 {
				t.Errorf("--raw: %s", errs)
			}
			if status, out, _ := run(t, "", "--dir", dir, "cat", "a"); status != 0 || out != c.data {
				t.Errorf("%d bytes have become %d", len(c.data), len(out))
			}
			if err := shm.Dir(dir).Unlink("a"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A byte at a time, a header is found all the same.
func TestCheckedNPY(t *testing.T) {
	whole := npyOver(t, make([]int16, 300), 300)
	for _, n := range []int{len(whole), len(whole) - 1} {
		got, err := io.ReadAll(&checkedNPY{r: oneByte{bytes.NewReader(whole[:n])}})
		if (err == nil) != (n == len(whole)) || err == nil && !bytes.Equal(got, whole) {
			t.Errorf("%d of %d bytes: %d, %v", n, len(whole), len(got), err)
		}
	}
}

type oneByte struct{ r io.Reader }

func (o oneByte) Read(p []byte) (int, error) { return o.r.Read(p[:min(len(p), 1)]) }
