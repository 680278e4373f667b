package array_test

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/shmtest"
	peer "github.com/sharedmem/shm/interop/python"
)

// numPy is a Python that has NumPy and the functions of interop/python/arrays.py.
type numPy struct {
	*shmtest.PythonProcess
	t     testing.TB
	major int
}

// eachNumPy runs fn beside every NumPy of the machine.
func eachNumPy(t *testing.T, fn func(t *testing.T, np *numPy)) {
	each(t, "numpy", fn)
}

func each(t *testing.T, module string, fn func(t *testing.T, np *numPy)) {
	for _, py := range shmtest.PythonsWith(t, module) {
		t.Run(module+" "+py.Module+" on "+py.Version, func(t *testing.T) {
			np := &numPy{PythonProcess: shmtest.StartPython(t, py), t: t}
			fmt.Sscanf(py.Module, "%d.", &np.major)
			np.run(nil, peer.Arrays, nil)
			fn(t, np)
			// Waits for its tracker, which would else take blocks of later tests' names.
			if stderr := np.Exit(); stderr != "" {
				t.Errorf("standard error: %s", stderr)
			}
		})
	}
}

// run has Python run code with args, and puts its result where result points.
func (np *numPy) run(result any, code string, args any) {
	np.t.Helper()
	reply, err := np.Call("run", shmtest.Args{"code": code, "args": args})
	if err != nil {
		np.t.Fatalf("%v: %v", np.Python, err) // Must would print code and args
	}
	if result != nil {
		if err := json.Unmarshal(reply.Results, result); err != nil {
			np.t.Fatalf("%s: %v", reply.Results, err)
		}
	}
}

// form is raw or with a header, in C or Fortran order.
type form struct {
	npy   bool
	order array.Order
}

// kind is a type of elements, with six of them in Go's and in Python's words.
type kind struct {
	goType string
	py     string // an expression for interop/python/arrays.py
	aligns string // for structs: np.dtype's own way to the same layout, align=True
	torch  string // the name of torch's dtype

	create func(t testing.TB, name string, f form) (dtype string)
	check  func(t testing.TB, what, name string, f form)
	copy   func(t testing.TB, from, to string, f form)
	strip  func(t testing.TB, block *shm.Block, off int) // six elements in a row
}

var shape = []int{2, 3}

func kindOf[T any](py string, values ...T) kind {
	mask := make([]bool, reflect.TypeFor[T]().Size())
	significant(reflect.TypeFor[T](), 0, mask)
	open := func(name string, f form) (*array.Array[T], error) {
		if f.npy {
			return array.OpenNPY[T](name, nil)
		}
		return array.Open[T](name, shape, nil, f.order)
	}
	make := func(t testing.TB, name string, f form) *array.Array[T] {
		create := array.Create[T]
		if f.npy {
			create = array.CreateNPY[T]
		}
		a, err := create(name, shape, nil, f.order)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = a.Unlink(); _ = a.Close() })
		return a
	}
	compare := func(t testing.TB, what string, got []T) {
		t.Helper()
		g, w := layout.Bytes(got), layout.Bytes(values)
		for i := range w {
			if len(g) != len(w) || mask[i%len(mask)] && g[i] != w[i] {
				t.Errorf("%s: %v, want %v; in bytes %x, want %x", what, got, values, g, w)
				return
			}
		}
	}
	k := kind{goType: reflect.TypeFor[T]().String(), py: py}
	k.create = func(t testing.TB, name string, f form) string {
		a := make(t, name, f)
		i := 0
		for idx := range a.All() {
			a.Set(values[i], idx...)
			i++
		}
		return a.DType()
	}
	k.check = func(t testing.TB, what, name string, f form) {
		t.Helper()
		a, err := open(name, f)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		defer a.Close()
		if a.Order() != f.order || !slices.Equal(a.Shape(), shape) {
			t.Errorf("%s: opened as %v %v", what, a, a.Order())
		}
		compare(t, what, slices.Collect(a.Values()))
	}
	k.copy = func(t testing.TB, from, to string, f form) {
		a, err := open(from, f)
		if err != nil {
			t.Error(err)
			return
		}
		defer a.Close()
		if err := make(t, to, f).CopyFrom(a); err != nil {
			t.Error(err)
		}
	}
	k.strip = func(t testing.TB, b *shm.Block, off int) {
		t.Helper()
		a, err := array.FromBlock[T](b, off, []int{6})
		if err != nil {
			t.Error(err)
			return
		}
		compare(t, "from torch", a.Data())
	}
	return k
}

func (k kind) withTorch(dtype string) kind {
	k.torch = dtype
	return k
}

func (k kind) aligned(dtype string) kind {
	k.aligns = dtype
	return k
}

// significant marks the bytes of a type that belong to a value. What lies in
// the holes between fields is nobody's.
func significant(t reflect.Type, at uintptr, mask []bool) {
	switch t.Kind() {
	case reflect.Array:
		for i := range uintptr(t.Len()) {
			significant(t.Elem(), at+i*t.Elem().Size(), mask)
		}
	case reflect.Struct:
		for i := range t.NumField() {
			significant(t.Field(i).Type, at+t.Field(i).Offset, mask)
		}
	default:
		for i := range t.Size() {
			mask[at+i] = true
		}
	}
}

func text[A [4]byte | [3]rune](s string) (a A) {
	var err error
	switch a := any(&a).(type) {
	case *[4]byte:
		err = array.PutText(a[:], s)
	case *[3]rune:
		err = array.PutText(a[:], s)
	}
	if err != nil {
		panic(err)
	}
	return a
}

// Structures with holes as Go and C make them, without, nested, and of all kinds.
type (
	holes struct {
		A int8
		B float64
		C int16
		D [4]byte
		E bool
	}
	dense struct {
		X, Y int16
		Z    [4]byte
	}
	point  struct{ X, Y float32 }
	nested struct {
		ID   uint16
		Pos  point
		Path [2]point
		Sub  [2][3]int16
	}
	mixed struct {
		Text  [3]rune
		Half  array.Float16
		When  array.Time
		Took  time.Duration
		Wave  complex64
		Brain array.BFloat16
	}
	named struct {
		Count int32 `npy:"größe"`
		Heat  int16 `npy:"温度"`
	}
	latin struct {
		Count int32 `npy:"größe"`
	}
)

func kinds() []kind {
	f32, f64 := math.Float32frombits, math.Float64frombits
	half := array.Float16Of
	inf := math.Inf(1)
	negZero := math.Copysign(0, -1)
	moment := func(ns time.Duration) array.Time { return array.TimeOf(time.Unix(0, 0).Add(ns)) }
	leap := array.TimeOf(time.Date(2024, 2, 29, 12, 34, 56, 789012345, time.UTC))
	a, b := text[[4]byte], text[[3]rune]
	const (
		// Each with a payload, the second one signalling.
		nan64, snan64 = 0x7ff8000000000123, 0xfff0000000000001
		nan32, snan32 = 0x7fc00123, 0xff800001
	)
	all := []kind{
		kindOf(`[True, False, True, True, False, False]`, true, false, true, true, false, false).withTorch("bool"),
		kindOf(`np.array([-128, -1, 0, 1, 127, 42], d)`, int8(-128), -1, 0, 1, 127, 42).withTorch("int8"),
		kindOf(`np.array([-2**15, -1, 0, 1, 2**15-1, 42], d)`, int16(math.MinInt16), -1, 0, 1, math.MaxInt16, 42).withTorch("int16"),
		kindOf(`np.array([-2**31, -1, 0, 1, 2**31-1, 42], d)`, int32(math.MinInt32), -1, 0, 1, math.MaxInt32, 42).withTorch("int32"),
		kindOf(`np.array([-2**63, -1, 0, 1, 2**63-1, 42], d)`, int64(math.MinInt64), -1, 0, 1, math.MaxInt64, 42).withTorch("int64"),
		kindOf(`np.array([0, 1, 127, 128, 255, 42], d)`, uint8(0), 1, 127, 128, 255, 42).withTorch("uint8"),
		kindOf(`np.array([0, 1, 2**15, 2**16-1, 7, 42], d)`, uint16(0), 1, 1<<15, math.MaxUint16, 7, 42).withTorch("uint16"),
		kindOf(`np.array([0, 1, 2**31, 2**32-1, 7, 42], d)`, uint32(0), 1, 1<<31, math.MaxUint32, 7, 42).withTorch("uint32"),
		kindOf(`np.array([0, 1, 2**63, 2**64-1, 7, 42], d)`, uint64(0), 1, 1<<63, math.MaxUint64, 7, 42).withTorch("uint64"),
		kindOf(`np.concatenate([np.array([1.5, -0.0, np.inf, 1.401298464324817e-45], d), np.array([0x7fc00123, 0xff800001], "u4").view(d)])`,
			1.5, float32(negZero), float32(inf), math.SmallestNonzeroFloat32, f32(nan32), f32(snan32)).withTorch("float32"),
		kindOf(`np.concatenate([np.array([1.5, -0.0, -np.inf, 5e-324], d), np.array([0x7ff8000000000123, 0xfff0000000000001], "u8").view(d)])`,
			1.5, negZero, -inf, 5e-324, f64(nan64), f64(snan64)).withTorch("float64"),
		kindOf(`np.concatenate([np.array([1.5-2j, complex(-0.0, np.inf), 2, 3j], d), np.array([0x7fc00123, 0xff800001, 0xff800001, 0x7fc00123], "u4").view(d)])`,
			complex64(1.5-2i), complex(float32(negZero), float32(inf)), 2, 3i, complex(f32(nan32), f32(snan32)), complex(f32(snan32), f32(nan32))).withTorch("complex64"),
		kindOf(`np.concatenate([np.array([1.5-2j, complex(-0.0, -np.inf), 2, 3j], d), np.array([0x7ff8000000000123, 0xfff0000000000001, 0xfff0000000000001, 0x7ff8000000000123], "u8").view(d)])`,
			1.5-2i, complex(negZero, -inf), 2, 3i, complex(f64(nan64), f64(snan64)), complex(f64(snan64), f64(nan64))).withTorch("complex128"),
		kindOf(`np.concatenate([np.array([1/3, -0.0, np.inf, 5.960464477539063e-08], d), np.array([0x7e12, 0xfc01], "u2").view(d)])`,
			half(1./3), half(float32(negZero)), half(float32(inf)), half(5.960464477539063e-08), 0x7e12, 0xfc01).withTorch("float16"),
		// 1/3 is 0x3eab: a NumPy without ml_dtypes knows the bits alone.
		kindOf(`np.concatenate([np.array([1/3, -0.0, np.inf, 2.0**-133], d) if ml_dtypes else np.array([0x3eab, 0x8000, 0x7f80, 1], "u2").view(d), np.array([0x7fd2, 0xff81], "u2").view(d)])`,
			array.BFloat16Of(1./3), array.BFloat16Of(float32(negZero)), array.BFloat16Of(float32(inf)), array.BFloat16Of(0x1p-133), 0x7fd2, 0xff81).withTorch("bfloat16"),
		kindOf(`np.array([b"abcd", b"", b"a\0b", b"\xff\x80", b"x", b"1"], d)`, a("abcd"), a(""), a("a\x00b"), a("\xff\x80"), a("x"), a("1")),
		kindOf(`np.array(["a\u00f1\U0001f600", "", "\u65e5\u672c\u8a9e", "a\0b", "\U0010ffff", "x"], d)`, b("añ😀"), b(""), b("日本語"), b("a\x00b"), b("\U0010ffff"), b("x")),
		kindOf(`np.array(["1970-01-01", "NaT", "2262-04-11T23:47:16.854775807", "1677-09-21T00:12:43.145224193", "2024-02-29T12:34:56.789012345", "1969-12-31T23:59:59.999999999"], d)`,
			moment(0), array.NaT, moment(math.MaxInt64), moment(-math.MaxInt64), leap, moment(-1)),
		kindOf(`np.array([np.timedelta64(3, "h"), np.timedelta64("NaT"), np.timedelta64(-1, "ns"), np.timedelta64(2**63-1, "ns"), np.timedelta64(0, "s"), np.timedelta64(1, "us")], d)`,
			3*time.Hour, time.Duration(math.MinInt64), -1, math.MaxInt64, 0, time.Microsecond),
		kindOf(`np.array([(i, i/3, -i, b"xyz"[:i], i % 2) for i in range(6)], d)`,
			holes{}, holes{1, 1. / 3, -1, a("x"), true}, holes{2, 2. / 3, -2, a("xy"), false}, holes{3, 1, -3, a("xyz"), true},
			holes{4, 4. / 3, -4, a("xyz"), false}, holes{5, 5. / 3, -5, a("xyz"), true}).
			aligned(`[("A", "i1"), ("B", "f8"), ("C", "i2"), ("D", "S4"), ("E", "?")]`),
		kindOf(`np.array([(i, -i, b"%d" % i) for i in range(6)], d)`,
			dense{0, 0, a("0")}, dense{1, -1, a("1")}, dense{2, -2, a("2")}, dense{3, -3, a("3")}, dense{4, -4, a("4")}, dense{5, -5, a("5")}).
			aligned(`[("X", "i2"), ("Y", "i2"), ("Z", "S4")]`),
		kindOf(`np.array([(i, (i, -i), [(i, 1), (2, i)], [[i, 1, 2], [3, 4, -i]]) for i in range(6)], d)`, func() (v []nested) {
			for i := range 6 {
				f, n := float32(i), int16(i)
				// Not -f, which is -0 where NumPy's -i is 0.
				v = append(v, nested{uint16(i), point{f, 0 - f}, [2]point{{f, 1}, {2, f}}, [2][3]int16{{n, 1, 2}, {3, 4, -n}}})
			}
			return v
		}()...).aligned(`[("ID", "u2"), ("Pos", np.dtype([("X", "f4"), ("Y", "f4")], align=True)), ("Path", np.dtype([("X", "f4"), ("Y", "f4")], align=True), (2,)), ("Sub", "i2", (2, 3))]`),
		kindOf(`np.array([("\u65e5\U0001f600", 0.5, np.datetime64(i, "s"), np.timedelta64(i, "m"), 1j, np.array(0x3f80, "u2").view("V2")[()]) for i in range(6)], d)`, func() (v []mixed) {
			for i := range 6 {
				v = append(v, mixed{b("日😀"), half(0.5), moment(time.Duration(i) * time.Second), time.Duration(i) * time.Minute, 1i, array.BFloat16Of(1)})
			}
			return v
		}()...).aligned(`[("Text", "U3"), ("Half", "f2"), ("When", "M8[ns]"), ("Took", "m8[ns]"), ("Wave", "c8"), ("Brain", "V2")]`),
		kindOf(`np.array([(i, -i) for i in range(6)], d)`, named{}, named{1, -1}, named{2, -2}, named{3, -3}, named{4, -4}, named{5, -5}),
		kindOf(`np.array([(i,) for i in range(6)], d)`, latin{}, latin{1}, latin{2}, latin{3}, latin{4}, latin{5}),
	}
	return all
}

// oneCase is what Python is told of one array of Go's, and of the blocks that
// it is to make itself.
type oneCase struct {
	Name    string `json:"name"` // Go's, as Python is to find it
	Copied  string `json:"copied"`
	Made    string `json:"made"`
	DType   string `json:"dtype"`
	Expr    string `json:"expr"`
	Aligned string `json:"aligned"`
	Shape   []int  `json:"shape"`
	Order   string `json:"order"`
	NPY     bool   `json:"npy"`

	kind kind
	form form
	back string // Go's copy of Made
}

// look checks Go's arrays, copies each, and makes the like of it from nothing.
const look = `
def one(name, copied, made, dtype, expr, aligned, shape, order, npy):
    d, new = dt(dtype), int(np.__version__.split(".")[0]) >= 2
    spelled = str(d) if d.names or dtype == "bfloat16" and new else d.str
    # Before 1.23 NumPy spelled structures with fewer blanks.
    if spelled != dtype and (new or not d.names and dtype != "bfloat16"):
        return "np.dtype is " + spelled
    if aligned:
        want = np.dtype(eval(aligned), align=True)
        want = np.dtype({"names": want.names, "formats": [want[n] for n in want.names],
            "offsets": [want.fields[n][1] for n in want.names], "itemsize": want.itemsize})
        if want != d:
            return "NumPy aligns it as %s" % want
    open_array(name, name, dtype, shape, order, npy)
    why = check(name, expr, dtype, shape, order)
    if why:
        return why
    a, block, _ = arrays[name]
    if npy:
        data = bytes(block.buf)
        again = np.load(io.BytesIO(data))
        if again.flags.f_contiguous != (order == "F"):
            return "np.load has another order"
        why = differ(again.view(d) if dtype == "bfloat16" else again, a)
        if why:
            return "np.load: " + why
        # What lies between fields need not be the same.
        head = len(data) - a.nbytes
        # A bfloat16 is <V2 as ml_dtypes has it saved, and |V2 when it was read back.
        theirs, ours = [x[:head].replace(b"<V2", b"|V2") for x in (file_of(a), data)]
        if new and theirs != ours:
            return "np.save writes the header %r, Go %r" % (theirs, ours)
    make_array(copied, copied, a, order, None, npy)
    version = [2, 0] if npy and order == "F" and dtype.isascii() else None
    make_array(made, made, values(expr, d, shape), order, version, npy)
    del a
    free(name)

result = [one(**c) for c in args]
`

// Every kind of element in both orders and both forms goes from Go to NumPy and
// back, and from NumPy to Go and back, and is the same to the bit.
func TestNumPyKinds(t *testing.T) {
	eachNumPy(t, func(t *testing.T, np *numPy) {
		var cases []oneCase
		for _, k := range kinds() {
			for _, f := range []form{{false, array.C}, {false, array.Fortran}, {true, array.C}, {true, array.Fortran}} {
				c := oneCase{
					Name: shmtest.Name(t), Copied: shmtest.Name(t), Made: shmtest.Name(t), back: shmtest.Name(t),
					Expr: k.py, Shape: shape, Order: f.order.String(), NPY: f.npy, kind: k, form: f,
				}
				if strconv.IntSize == 64 { // others align eight bytes to four
					c.Aligned = k.aligns
				}
				c.DType = k.create(t, c.Name, f)
				cases = append(cases, c)
			}
		}
		var why []*string
		np.run(&why, look, cases)
		for i, c := range cases {
			what := fmt.Sprintf("%s as %s, npy=%v, order %s", c.kind.goType, c.DType, c.NPY, c.Order)
			if why[i] != nil {
				t.Errorf("%s: in NumPy: %s", what, *why[i])
				continue
			}
			c.kind.check(t, what+", copied by NumPy", c.Copied, c.form)
			c.kind.check(t, what+", made by NumPy", c.Made, c.form)
			c.kind.copy(t, c.Made, c.back, c.form)
			cases[i].Name = c.back
		}
		if t.Failed() {
			return
		}
		np.run(&why, `
def back(name, copied, made, dtype, expr, shape, order, npy, **_):
    open_array(name, name, dtype, shape, order, npy)
    why = check(name, expr, dtype, shape, order) or differ(arrays[name][0], arrays[made][0].view(dt(dtype)))
    for key in (name, copied, made):
        free(key)
    return why

result = [back(**c) for c in args]
`, cases)
		for i, c := range cases {
			if why[i] != nil {
				t.Errorf("%s, npy=%v, order %s: back in NumPy: %s", c.kind.goType, c.NPY, c.Order, *why[i])
			}
		}
	})
}

// Arrays without axes, without elements, with axes of one; their files are
// NumPy's own to the byte, from Go's views as well.
func TestNumPyFiles(t *testing.T) {
	eachNumPy(t, func(t *testing.T, np *numPy) {
		type file struct {
			Data shmtest.Hex `json:"data"`
			Expr string      `json:"expr"`
		}
		var files []file
		add := func(expr string, a *array.Array[int32]) {
			var f bytes.Buffer
			if n, err := a.WriteNPY(&f); err != nil || n != int64(f.Len()) {
				t.Errorf("%s: %d bytes of %d, %v", expr, n, f.Len(), err)
			}
			files = append(files, file{f.Bytes(), expr})
		}
		upTo := func(shape ...int) *array.Array[int32] {
			n := 1
			for _, d := range shape {
				n *= d
			}
			data := make([]int32, n)
			for i := range data {
				data[i] = int32(i)
			}
			a, err := array.Over(data, shape)
			if err != nil {
				t.Fatal(err)
			}
			return a
		}
		for _, shape := range [][]int{{}, {0}, {1}, {5}, {3, 0, 2}, {1, 4}, {4, 1}, {2, 1, 3}, {1, 1, 1}, {123456, 1}} {
			var dims []string
			for _, d := range shape {
				dims = append(dims, strconv.Itoa(d))
			}
			add(fmt.Sprintf("np.arange(%d, dtype='i4').reshape([%s])", upTo(shape...).Len(), strings.Join(dims, ",")), upTo(shape...))
		}
		base := "np.arange(60, dtype='i4').reshape(3, 4, 5)"
		a := upTo(3, 4, 5)
		add(base+".T", a.Transpose())
		add(base+".transpose(2, 0, 1)", a.Transpose(2, 0, 1))
		add(base+"[::2, :, ::-1]", a.Step(0, 2).Flip(2))
		add(base+"[1]", a.Sub(1))
		add(base+"[1].T", a.Sub(1).Transpose())
		add(base+"[1:3, 1:4:2, 4:0:-2]", a.Slice(1, 3).SliceAxis(1, 1, 4).Step(1, 2).SliceAxis(2, 1, 5).Flip(2).Step(2, 2))
		add(base+"[:, 2:2]", a.SliceAxis(1, 2, 2))
		add(base+"[::-1, ::-1, ::-1]", a.Flip(0).Flip(1).Flip(2))

		var written []shmtest.Hex
		np.run(&written, `
result = []
for f in args:
    want, data = eval(f["expr"]), bytes.fromhex(f["data"])
    why = differ(np.load(io.BytesIO(data)), want)
    if why:
        raise ValueError("%s: %s" % (f["expr"], why))
    f = io.BytesIO()
    np.save(f, want)
    result.append(f.getvalue().hex())
`, files)
		for i, f := range files {
			if np.major >= 2 && !bytes.Equal(written[i], f.Data) {
				t.Errorf("%s: Go writes %q, NumPy %q", f.Expr, f.Data, written[i])
			}
			want, err := array.ReadNPY[int32](bytes.NewReader(f.Data))
			if err != nil {
				t.Fatal(err)
			}
			got, err := array.ReadNPY[int32](bytes.NewReader(written[i]))
			if err != nil {
				t.Errorf("%s, as NumPy writes it: %v", f.Expr, err)
			} else if !slices.Equal(slices.Collect(got.Values()), slices.Collect(want.Values())) || !slices.Equal(got.Shape(), want.Shape()) {
				t.Errorf("%s: read %v from NumPy's file, %v from Go's", f.Expr, got, want)
			}
		}

		// A .npz is a zip of such files.
		var npz []shmtest.Hex
		np.run(&npz, `
result = []
for save in (np.savez, np.savez_compressed):
    f = io.BytesIO()
    save(f, a=np.arange(6.0).reshape(2, 3), b=np.array([True, False]))
    result.append(f.getvalue().hex())
`, nil)
		for _, data := range npz {
			z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
			if err != nil {
				t.Fatal(err)
			}
			a, b := fromZip[float64](t, z, "a.npy"), fromZip[bool](t, z, "b.npy")
			if a.At(1, 2) != 5 || !slices.Equal(a.Shape(), []int{2, 3}) || !slices.Equal(b.Data(), []bool{true, false}) {
				t.Errorf("from a .npz: %v, %v", a.Data(), b.Data())
			}
		}
		var made bytes.Buffer
		z := zip.NewWriter(&made)
		w, err := z.Create("x.npy")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := upTo(2, 3).WriteNPY(w); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		np.run(nil, `
with np.load(io.BytesIO(bytes.fromhex(args))) as z:
    why = differ(z["x"], np.arange(6, dtype="i4").reshape(2, 3))
    if why:
        raise ValueError(why)
`, shmtest.Hex(made.Bytes()))
	})
}

func fromZip[T any](t *testing.T, z *zip.Reader, name string) *array.Array[T] {
	t.Helper()
	f, err := z.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a, err := array.ReadNPY[T](f)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Where NumPy's own views lie in a block, Go finds the same elements; and what
// one side stores through a view, the other sees.
func TestNumPyViews(t *testing.T) {
	eachNumPy(t, func(t *testing.T, np *numPy) {
		name := shmtest.Name(t)
		var views []struct {
			Off            int
			Shape, Strides []int
			Values         []float64
		}
		np.run(&views, `
make_array("v", args, np.arange(60.0).reshape(3, 4, 5))
a = arrays["v"][0]
result = []
for v in (a, a.T, a[::-1], a[:, ::-2, 1:], a[2, ::-1, ::-1], a[1:2, 3:, 4], a[0, 0, 0, ...], a[:, 1:1],
          np.broadcast_to(a[0, 0], (4, 5)), np.lib.stride_tricks.as_strided(a, (3, 3), (8, 8))):
    result.append({"Off": v.__array_interface__["data"][0] - a.__array_interface__["data"][0],
        "Shape": v.shape, "Strides": v.strides, "Values": [float(x) for x in v.flat]})
# A name that is left would keep the memory, and so would a view of it.
del a, v
`, name)
		b, err := shm.Open(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		for _, v := range views {
			if len(v.Values) == 0 {
				v.Off = 0 // which NumPy has anywhere
			}
			a, err := array.FromBlockStrided[float64](b, v.Off, v.Shape, v.Strides)
			if err != nil {
				t.Errorf("%+v: %v", v, err)
				continue
			}
			if got := slices.Collect(a.Values()); !slices.Equal(got, v.Values) {
				t.Errorf("%+v: %v", v, got)
			}
		}
		a, err := array.FromBlock[float64](b, 0, []int{3, 4, 5})
		if err != nil {
			t.Fatal(err)
		}
		a.Transpose().Flip(0).Set(-1, 0, 1, 2) // [4 - 0, 1, 2] turned round
		var seen []float64
		np.run(&seen, `
a = arrays["v"][0]
result = [a[2, 1, 4], (a == -1).sum().item()]
a[::-1][0, 0, 0] = 888
del a
`, nil)
		if seen[0] != -1 || seen[1] != 1 {
			t.Errorf("NumPy sees %v of what Go stored through a view", seen)
		}
		if got := a.At(2, 0, 0); got != 888 {
			t.Errorf("Go sees %v of what NumPy stored through a view", got)
		}
		np.run(nil, `free("v")`, nil)
	})
}

// A block with a header is a file that NumPy maps by itself, without a parser
// of ours and without its resource tracker.
func TestNumPyMapsBlock(t *testing.T) {
	eachNumPy(t, func(t *testing.T, np *numPy) {
		name := shmtest.Name(t)
		a, err := array.CreateNPY[named](name, []int{2, 3}, nil, array.Fortran)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Unlink()
		defer a.Close()
		path := filepath.Join("/dev/shm", name)
		if _, err := os.Stat(path); err != nil {
			shmtest.Skip(t, "devshm", "blocks are no files here")
		}
		a.Set(named{7, 8}, 1, 2)
		var got []int
		np.run(&got, `
a = np.load(args, mmap_mode="r+")
result = [int(a[1, 2][n]) for n in a.dtype.names]
a["温度"][0, 1] = 888
del a
`, path)
		if !slices.Equal(got, []int{7, 8}) || a.At(0, 1).Heat != 888 {
			t.Errorf("NumPy reads %v, Go %v", got, a.At(0, 1))
		}
	})
}

// docs/python.md says what becomes of an array whose memory was closed first.
func TestNumPyClosedFirst(t *testing.T) {
	const program = `
import sys
from multiprocessing import shared_memory
import numpy as np
block = shared_memory.SharedMemory(sys.argv[1], create=True, size=4096)
block.unlink()
a = eval(sys.argv[2])
try:
    block.close()
except BufferError:
    print("BufferError")
    del a # else it is raised again at exit
else:
    a[0]
`
	if runtime.GOOS == "windows" {
		t.Skip("a fault does not end a process with a signal there")
	}
	for _, py := range shmtest.PythonsWith(t, "numpy") {
		old := strings.HasPrefix(py.Module, "1.17.")
		for expr, fault := range map[string]bool{
			`np.ndarray(512, "f8", block.buf)`: true,
			`np.frombuffer(block.buf)`:         old,
			`np.asarray(block.buf)`:            false,
		} {
			if !old && !strings.HasPrefix(py.Module, "2.") {
				continue // nothing is said of those between
			}
			out, err := py.Cmd(t.Context(), "-c", program, shmtest.Name(t), expr).Output()
			if fault && (err == nil || !strings.HasPrefix(err.Error(), "signal: segmentation fault")) {
				t.Errorf("NumPy %s, %s: %q, %v; not a segmentation fault", py.Module, expr, out, err)
			}
			if !fault && (err != nil || strings.TrimSpace(string(out)) != "BufferError") {
				t.Errorf("NumPy %s, %s: %q, %v; not BufferError", py.Module, expr, out, err)
			}
		}
	}
}

// What torch.frombuffer makes of Go's elements, and Go of its.
func TestTorch(t *testing.T) {
	each(t, "torch", func(t *testing.T, np *numPy) {
		type elements struct {
			From string `json:"from"`
			To   string `json:"to"`
			Off  int    `json:"off"`
			Name string `json:"torch"`
			Expr string `json:"expr"`
			D    string `json:"dtype"`
			kind kind
		}
		var all []elements
		for _, k := range kinds() {
			if k.torch == "" {
				continue
			}
			for _, npy := range []bool{false, true} {
				e := elements{From: shmtest.Name(t), To: shmtest.Name(t), Name: k.torch, Expr: k.py, kind: k}
				e.D = k.create(t, e.From, form{npy, array.C})
				if npy {
					b, err := shm.Open(e.From, nil)
					if err != nil {
						t.Fatal(err)
					}
					info, err := array.Inspect(b)
					if err != nil {
						t.Fatal(err)
					}
					e.Off = info.Offset
					if err := b.Close(); err != nil {
						t.Fatal(err)
					}
				}
				all = append(all, e)
			}
		}
		var why []*string
		np.run(&why, `
import torch
made = []

def one(off, torch_name, expr, dtype, source, target):
    block = attach(source)
    t = torch.frombuffer(block.buf, dtype=getattr(torch, torch_name), count=6, offset=off)
    want = values(expr, dt(dtype), (6,))
    got = t.view(torch.uint8).numpy().tobytes()
    if got != want.tobytes():
        return "bytes %s, not %s" % (got.hex(), want.tobytes().hex())
    # The same numbers, as far as they are any.
    if t[:2].tolist() != [x.item() for x in want[:2]]:
        return "%s, not %s" % (t, want)
    mine = shared_memory.SharedMemory(target, create=True, size=off + len(got))
    u = torch.frombuffer(mine.buf, dtype=t.dtype, count=6, offset=off)
    u.copy_(t)
    del t, u
    block.close()
    made.append(mine)

result = [one(c["off"], c["torch"], c["expr"], c["dtype"], c["from"], c["to"]) for c in args]
`, all)
		for i, e := range all {
			if why[i] != nil {
				t.Errorf("%s as %s at byte %d: in torch: %s", e.kind.goType, e.Name, e.Off, *why[i])
				continue
			}
			b, err := shm.Open(e.To, nil)
			if err != nil {
				t.Fatal(err)
			}
			e.kind.strip(t, b, e.Off)
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}
		np.run(nil, `
for block in made:
    block.close()
    block.unlink()
`, nil)
	})
}

// nileYear is one line of testdata/nile.npy.
type nileYear struct {
	Year int32   `npy:"year"`
	Flow float32 `npy:"flow"`
}

// The file of real measurements, which every NumPy makes from testdata/nile.py,
// goes through a block, Go and Python and comes out the same to the byte.
func TestRealFile(t *testing.T) {
	file, err := os.ReadFile("testdata/nile.npy")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("testdata/nile.py")
	if err != nil {
		t.Fatal(err)
	}
	eachNumPy(t, func(t *testing.T, np *numPy) {
		var made shmtest.Hex
		np.run(&made, string(source)+"\nresult = make().hex()\n", nil)
		elements := file[len(file)-100*8:]
		if !bytes.HasSuffix(made, elements) || np.major >= 2 && !bytes.Equal(made, file) {
			t.Errorf("this NumPy makes another file:\n%q, not\n%q", made, file)
		}

		name, back := shmtest.Name(t), shmtest.Name(t)
		a, err := array.LoadNPY[nileYear](name, bytes.NewReader(file), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Unlink()
		defer a.Close()
		if a.Len() != 100 || a.At(0) != (nileYear{1871, 1120}) || a.At(99) != (nileYear{1970, 740}) {
			t.Errorf("%v, from %v to %v", a, a.At(0), a.At(99))
		}
		var block shmtest.Hex
		np.run(&block, `
open_array("nile", args[0], npy=True)
result = bytes(arrays["nile"][1].buf).hex()
make_array("back", args[1], arrays["nile"][0], npy=True)
`, []string{name, back})
		if !bytes.Equal(block, file) {
			t.Errorf("the block has %q", block)
		}
		b, err := array.OpenNPY[nileYear](back, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		var out bytes.Buffer
		if _, err := b.WriteNPY(&out); err != nil || !bytes.Equal(out.Bytes(), file) {
			t.Errorf("back from Python: %v, %q", err, out.Bytes())
		}
		np.run(nil, `free("nile"); free("back")`, nil)
	})
}

// A picture goes as rows of pixels from Go's decoder to Python and back.
func TestPicture(t *testing.T) {
	file, err := os.ReadFile("testdata/picture.png")
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	eachNumPy(t, func(t *testing.T, np *numPy) {
		size := img.Bounds().Size()
		name, back := shmtest.Name(t), shmtest.Name(t)
		a, err := array.CreateNPY[uint8](name, []int{size.Y, size.X, 3}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Unlink()
		defer a.Close()
		for y := range size.Y {
			for x := range size.X {
				r, g, b, _ := img.At(x, y).RGBA()
				copy(a.Row(y, x), []uint8{uint8(r >> 8), uint8(g >> 8), uint8(b >> 8)})
			}
		}
		// Python checks what it sees with a decoder of its own: the file's lines are
		// stored unfiltered, so that zlib is all it takes.
		np.run(nil, `
import struct, zlib
open_array("picture", args[0], npy=True)
a = arrays["picture"][0]
data, at, packed = bytes.fromhex(args[2]), 8, b""
while at < len(data):
    n, kind = struct.unpack(">I4s", data[at:at + 8])
    packed += data[at + 8:at + 8 + n] if kind == b"IDAT" else b""
    at += n + 12
lines = np.frombuffer(zlib.decompress(packed), "u1").reshape(a.shape[0], -1)
assert not lines[:, 0].any(), "filtered"
why = differ(np.ascontiguousarray(a), lines[:, 1:].reshape(a.shape))
if why:
    raise ValueError(why)
make_array("back", args[1], a, npy=True)
del a
`, []any{name, back, shmtest.Hex(file)})
		b, err := array.OpenNPY[uint8](back, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if !bytes.Equal(a.Data(), b.Data()) {
			t.Error("Python gave back another picture")
		}
		// And as a picture again.
		out := image.NewNRGBA(image.Rect(0, 0, size.X, size.Y))
		for i, pixel := range b.Rows() {
			copy(out.Pix[4*i:], append(slices.Clone(pixel), 255))
		}
		var again bytes.Buffer
		if err := (&png.Encoder{CompressionLevel: png.NoCompression}).Encode(&again, out); err != nil {
			t.Fatal(err)
		}
		decoded, err := png.Decode(io.Reader(&again))
		if err != nil {
			t.Fatal(err)
		}
		for y := range size.Y {
			for x := range size.X {
				r, g, b, _ := decoded.At(x, y).RGBA()
				if wr, wg, wb, _ := img.At(x, y).RGBA(); r != wr || g != wg || b != wb {
					t.Fatalf("pixel %d, %d differs", x, y)
				}
			}
		}
		np.run(nil, `free("picture"); free("back")`, nil)
	})
}
