package npy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"structs"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/sharedmem/shm/internal/npy"
	"github.com/sharedmem/shm/internal/shmtest"
)

type (
	celsius float32
	day     int64
	brain   uint16
	raw     [5]byte
	big     uint32
	words   [2]celsius
	number  int32

	pair struct {
		X int8
		Y int64
	}
	packed struct {
		A [2]int8
		B [3]pair
		_ [4]byte
		C int16
	}
	all struct {
		Bool   bool
		I8     int8
		I16    int16 `npy:"i 16"`
		I32    int32 `json:"no" npy:"größe"`
		I64    int64
		F32    float32
		F64    float64
		C64    complex64
		C128   complex128
		S      [5]byte
		U      [3]rune
		When   day
		Long   time.Duration
		M      [2][3]float32
		Texts  [2][4]byte
		Nested struct{ A, B uint16 }
		List   [2]pair
		class  uint8 //nolint:unused // unexported fields are fields as well
		Bytes  [3]celsius
		Brain  brain
		BE     big
		Word   atomic.Int64
		Flag   atomic.Bool
		Raw    raw
	}
	aligned struct {
		_ [0]uint64
		_ structs.HostLayout
		A uint8
	}
	tail struct {
		A int32
		_ [0]byte
	}
)

func (day) NumPyDType() string   { return "=M8[D]" }
func (brain) NumPyDType() string { return "bfloat16" }
func (raw) NumPyDType() string   { return "V5" }
func (big) NumPyDType() string   { return ">u4" }

type (
	wrongSize  int32
	wrongName  int64
	wrongPtr   struct{ P *int }
	nothing    struct{}
	emptyNamed struct{}
	namedFace  interface{ NumPyDType() string }
)

func (wrongSize) NumPyDType() string  { return "<i8" }
func (wrongName) NumPyDType() string  { return "int64" }
func (wrongPtr) NumPyDType() string   { return "<i8" }
func (emptyNamed) NumPyDType() string { return "V0" }

func TestOf(t *testing.T) {
	if npy.BigEndian {
		t.Skip("the names below are of a little-endian machine")
	}
	y := unsafe.Offsetof(pair{}.Y) // 32-bit machines may align an int64 to 4
	pairType := fmt.Sprintf("{'names': ['X', 'Y'], 'formats': ['i1', '<i8'], 'offsets': [0, %d], 'itemsize': %d}", y, unsafe.Sizeof(pair{}))
	for _, c := range []struct {
		v    any
		want string
	}{
		{false, "|b1"}, {int8(0), "|i1"}, {int16(0), "<i2"}, {int32(0), "<i4"}, {int64(0), "<i8"},
		{uint8(0), "|u1"}, {uint16(0), "<u2"}, {uint32(0), "<u4"}, {uint64(0), "<u8"},
		{float32(0), "<f4"}, {0.0, "<f8"}, {complex64(0), "<c8"}, {complex128(0), "<c16"},
		{celsius(0), "<f4"}, {day(0), "<M8[D]"}, {time.Duration(0), "<m8[ns]"}, {time.Month(0), ""}, {brain(0), "bfloat16"},
		{[5]byte{}, "|S5"}, {[3]rune{}, "<U3"}, {raw{}, "|V5"}, {big(0), ">u4"},
		{pair{}, pairType},
		{struct{ A, B uint16 }{}, "[('A', '<u2'), ('B', '<u2')]"},
		{struct {
			A [2][3]celsius
			B [2][4]byte
			C [2][2]number
		}{}, "[('A', '<f4', (2, 3)), ('B', 'S4', (2,)), ('C', '<i4', (2, 2))]"},
		{struct {
			A brain
			B bool
			_ byte
		}{}, "{'names': ['A', 'B'], 'formats': ['V2', '?'], 'offsets': [0, 2], 'itemsize': 4}"},
		{aligned{}, fmt.Sprintf("{'names': ['A'], 'formats': ['u1'], 'offsets': [0], 'itemsize': %d}", unsafe.Sizeof(aligned{}))},
		{tail{}, "{'names': ['A'], 'formats': ['<i4'], 'offsets': [0], 'itemsize': 8}"},
	} {
		d, err := npy.Of(reflect.TypeOf(c.v))
		if c.want == "" {
			if !errors.Is(err, npy.ErrDType) {
				t.Errorf("%T is %v, %v", c.v, d, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%T: %v", c.v, err)
			continue
		}
		if d.String() != c.want || d.Size != int(reflect.TypeOf(c.v).Size()) {
			t.Errorf("%T is %s of %d bytes, want %s", c.v, d, d.Size, c.want)
		}
		if again, err := npy.Of(reflect.TypeOf(c.v)); again != d || err != nil {
			t.Errorf("%T: asked again, %v, %v", c.v, again, err)
		}
	}
	for v, want := range map[any]string{
		reflect.TypeFor[atomic.Int32]():  "<i4",
		reflect.TypeFor[atomic.Uint64](): "<u8",
		reflect.TypeFor[atomic.Bool]():   "<u4",
	} {
		if d, err := npy.Of(v.(reflect.Type)); err != nil || d.String() != want {
			t.Errorf("%v is %v, %v, want %s", v, d, err, want)
		}
	}
}

func TestOfRefuses(t *testing.T) {
	for _, c := range []struct {
		t    reflect.Type
		want string
	}{
		{reflect.TypeFor[int](), "int is a int, whose size is not the same on every machine; use int64"},
		{reflect.TypeFor[uint](), "use uint64"},
		{reflect.TypeFor[uintptr](), "use uint64"},
		{reflect.TypeFor[string](), "holds a pointer"},
		{reflect.TypeFor[*int32](), "holds a pointer"},
		{reflect.TypeFor[[]int32](), "holds a pointer"},
		{reflect.TypeFor[any](), "holds a pointer"},
		{reflect.TypeFor[map[int32]int32](), "holds a pointer"},
		{reflect.TypeFor[chan int32](), "holds a pointer"},
		{reflect.TypeFor[func()](), "holds a pointer"},
		{reflect.TypeFor[unsafe.Pointer](), "holds a pointer"},
		{reflect.TypeFor[namedFace](), "holds a pointer"},
		{reflect.TypeFor[wrongPtr](), "holds a pointer"},
		{reflect.TypeFor[atomic.Value](), "holds a pointer"},
		{reflect.TypeFor[atomic.Pointer[int]](), "holds a pointer"},
		{reflect.TypeFor[atomic.Uintptr](), "use uint64"},
		{reflect.TypeFor[struct {
			A struct{ B [2]struct{ C *int8 } }
		}](), ".A.B[0].C is a *int8"},
		{reflect.TypeFor[struct {
			A int8
			B int
		}](), ".B is a int"},
		{reflect.TypeFor[struct {
			A int8
			_ *int
		}](), "._ is a *int"},
		{reflect.TypeFor[struct {
			A int8 `npy:"b"`
			B int8 `npy:"b"`
		}](), ".B is a second field named 'b'"},
		{reflect.TypeFor[struct {
			A int8 `npy:"\xff"`
		}](), "not UTF-8"},
		{reflect.TypeFor[struct {
			A wrongSize
		}](), ".A is a npy_test.wrongSize of 4 bytes, and its NumPyDType says '<i8'"},
		{reflect.TypeFor[wrongName](), "npy_test.wrongName's NumPyDType: bad dtype 'int64'"},
		{reflect.TypeFor[nothing](), "has no fields"},
		{reflect.TypeFor[struct{ _ [8]byte }](), "has no fields"},
		{reflect.TypeFor[emptyNamed](), "has no bytes"},
		{reflect.TypeFor[[0]byte](), "has no elements"},
		{reflect.TypeFor[[3]float32](), "make its length a dimension"},
		{reflect.TypeFor[words](), "make its length a dimension"},
		{reflect.TypeFor[[2][4]byte](), "make its length a dimension"},
	} {
		for range 2 { // the second time from memory
			d, err := npy.Of(c.t)
			if !errors.Is(err, npy.ErrDType) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v: %v, %v; want it to say %q", c.t, d, err, c.want)
			}
		}
	}
}

// Every Go type matches what its own header says, and others only where their
// bytes mean the same.
func TestMatch(t *testing.T) {
	if npy.BigEndian {
		t.Skip("the names below are of a little-endian machine")
	}
	type point struct {
		X int32
		Y float64
	}
	type times struct {
		At day
		S  [4]byte
	}
	type grid struct {
		M [2][3]float32
		R [2][4]byte
		U [4]rune
	}
	yOff := fmt.Sprintf("('', '|V%d'), ", unsafe.Offsetof(point{}.Y)-4)
	if unsafe.Offsetof(point{}.Y) == 4 {
		yOff = ""
	}
	gridTail := "('r', '|S4', (2,)), ('u', '<U4')]"
	for _, c := range []struct {
		t    reflect.Type
		have string // descr
		want string // "" if they match
	}{
		{reflect.TypeFor[float64](), "'<f8'", ""},
		{reflect.TypeFor[float64](), "'>f8'", "the other byte order"},
		{reflect.TypeFor[float64](), "'<f4'", "the memory holds <f4, and the Go type means <f8"},
		{reflect.TypeFor[float64](), "'<i8'", "means <f8"},
		{reflect.TypeFor[float64](), "[('x', '<f8')]", "means <f8"},
		{reflect.TypeFor[int64](), "'<M8[ns]'", "means <i8"},
		{reflect.TypeFor[time.Duration](), "'<m8[ns]'", ""},
		{reflect.TypeFor[time.Duration](), "'<m8[us]'", "the memory holds <m8[us]"},
		{reflect.TypeFor[time.Duration](), "'<M8[ns]'", "the memory holds <M8[ns]"},
		{reflect.TypeFor[day](), "'<M8[D]'", ""},
		{reflect.TypeFor[day](), "'<M8'", "the memory holds <M8,"},
		{reflect.TypeFor[uint8](), "'|b1'", "means |u1"},
		{reflect.TypeFor[uint8](), "'>u1'", ""},
		{reflect.TypeFor[big](), "'>u4'", ""},
		{reflect.TypeFor[big](), "'<u4'", "the other byte order"},
		{reflect.TypeFor[brain](), "'<V2'", ""},
		{reflect.TypeFor[brain](), "'<f2'", "means bfloat16"},
		{reflect.TypeFor[[5]byte](), "'|S5'", ""},
		{reflect.TypeFor[[5]byte](), "'|V5'", ""},
		{reflect.TypeFor[[5]byte](), "'|S4'", "means |S5"},
		{reflect.TypeFor[[4]byte](), "'<U1'", "means |S4"},
		{reflect.TypeFor[[2]rune](), "'<U2'", ""},
		{reflect.TypeFor[[2]rune](), "'>U2'", "the other byte order"},
		{reflect.TypeFor[point](), "[('x', '<i4'), " + yOff + "('y', '<f8')]", ""},
		{reflect.TypeFor[point](), "[('X', '<i4'), " + yOff + "(('title', 'Y'), '<f8')]", ""},
		{reflect.TypeFor[point](), "[(('x', 'first'), '<i4'), " + yOff + "('Y', '<f8')]", ""},
		{reflect.TypeFor[point](), "[('x', '<i4'), ('', '|V60'), ('y', '<f8')]", "the field 'y' begins at byte 64, in Go at byte"},
		{reflect.TypeFor[point](), "[('x', '<i4'), " + yOff + "('y', '<f8'), ('', '|V8')]", "in Go"},
		{reflect.TypeFor[point](), "[('y', '<i4'), " + yOff + "('x', '<f8')]", "the field 'y' where the Go type has 'X'; a tag `npy:\"y\"`"},
		{reflect.TypeFor[point](), "[('x', '<i4')]", "the memory has no field 'Y'"},
		{reflect.TypeFor[point](), "[]", "the memory has no field 'X'"},
		{reflect.TypeFor[point](), "[('x', '<i4'), " + yOff + "('y', '<f8'), ('z', '<f8')]", "the Go type has no field 'z'"},
		{reflect.TypeFor[point](), "[('x', '<u4'), " + yOff + "('y', '<f8')]", "field 'X': the memory holds <u4"},
		{reflect.TypeFor[point](), "[('x', '>i4'), " + yOff + "('y', '<f8')]", "field 'X': the memory holds >i4"},
		{reflect.TypeFor[point](), "'|V16'", "the memory holds |V16"},
		{reflect.TypeFor[struct{ P struct{ A, B int16 } }](), "[('p', [('a', '<i2'), ('b', '<i2')])]", ""},
		{reflect.TypeFor[struct{ P struct{ A, B int16 } }](), "[('p', [('a', '<i2'), ('b', '<f2')])]", "field 'P.B': the memory holds <f2"},
		{reflect.TypeFor[struct{ P struct{ A, B int16 } }](), "[('p', [('a', '<i2'), ('c', '<i2')])]", "field 'P': the memory has the field 'c' where"},
		{reflect.TypeFor[struct{ P [3]struct{ A int16 } }](), "[('p', [('a', '<i2')], (3,))]", ""},
		{reflect.TypeFor[struct{ P [3]struct{ A int16 } }](), "[('p', [('a', '<i2')], (2,))]", "field 'P'"},
		{reflect.TypeFor[times](), "[('at', '<M8[D]'), ('s', '|S4'), ('', '|V4')]", map[bool]string{unsafe.Sizeof(times{}) == 12: "in Go 12"}[true]},
		{reflect.TypeFor[grid](), "[('m', '<f4', (2, 3)), " + gridTail, ""},
		{reflect.TypeFor[grid](), "[('m', ('<f4', (3,)), (2,)), " + gridTail, ""},
		{reflect.TypeFor[grid](), "[('m', '<f4', (3, 2)), " + gridTail, "field 'M'"},
		{reflect.TypeFor[grid](), "[('m', '<f4', (6,)), " + gridTail, "field 'M'"},
		{reflect.TypeFor[grid](), "[('m', '|V24'), " + gridTail, "field 'M'"},
		{reflect.TypeFor[grid](), "[('m', '<f4', (2, 3)), ('r', '|u1', (2, 4)), ('u', '<i4', (4,))]", ""},
		{reflect.TypeFor[grid](), "[('m', '<f4', (2, 3)), ('r', '|u1', (4, 2)), ('u', '<i4', (4,))]", "field 'R'"},
		{reflect.TypeFor[grid](), "[('m', '<f4', (2, 3)), ('r', '|i1', (2, 4)), ('u', '<i4', (4,))]", "field 'R'"},
		{reflect.TypeFor[grid](), "[('m', '<f4', (2, 3)), ('r', '|S4', (2,)), ('u', '>i4', (4,))]", "field 'U'"},
		{reflect.TypeFor[grid](), "[('m', '<f4', (2, 3)), ('r', '|S4', (2,)), ('u', '<f4', (4,))]", "field 'U'"},
	} {
		want, err := npy.Of(c.t)
		if err != nil {
			t.Fatal(err)
		}
		h, err := npy.Parse(dict(c.have, "False", "()"), -1)
		if err != nil {
			t.Errorf("%s: %v", c.have, err)
			continue
		}
		err = npy.Match(want, &h.Type)
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, npy.ErrDType) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v over %s: %v, want %q", c.t, c.have, err, c.want)
		}
	}
	// Both ways: through its own header, every type is itself.
	for _, typ := range []reflect.Type{
		reflect.TypeFor[all](), reflect.TypeFor[packed](), reflect.TypeFor[pair](), reflect.TypeFor[aligned](), reflect.TypeFor[grid](),
		reflect.TypeFor[raw](), reflect.TypeFor[brain](), reflect.TypeFor[day](), reflect.TypeFor[bool](), reflect.TypeFor[complex64](),
	} {
		d, err := npy.Of(typ)
		if err != nil {
			t.Fatal(err)
		}
		h := npy.Header{Type: *d, Shape: []int{3}}
		p, err := h.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		back, err := npy.Parse(p, -1)
		if err != nil {
			t.Fatal(err)
		}
		if err := npy.Match(d, &back.Type); err != nil {
			t.Errorf("%v: %v", typ, err)
		}
		if err := npy.Match(&back.Type, d); err != nil {
			t.Errorf("%v, the other way round: %v", typ, err)
		}
	}
}

// declared are types for the compilers, and names that are hard on them.
var declared = map[string]reflect.Type{
	"all": reflect.TypeFor[all](), "packed": reflect.TypeFor[packed](), "aligned": reflect.TypeFor[aligned](), "tail": reflect.TypeFor[tail](),
	"number": reflect.TypeFor[float64](), "text": reflect.TypeFor[[4]rune](), "bytes": reflect.TypeFor[[5]byte](),
	"Pair[int32,main.X]": reflect.TypeFor[pair](),
	"class":              reflect.TypeFor[pair](),
	"": reflect.TypeFor[struct {
		A int8  `npy:"int"`
		B int64 `npy:"_pad0"`
		C int8  `npy:"two words"`
		D int16 `npy:"two-words"`
		E int8  `npy:"1st"`
		F int8  `npy:"温度"`
		G int8  `npy:"None"`
		H struct {
			I struct{ X int8 }
		} `npy:"h"`
		J struct{ Y int16 } `npy:"h_I"`
	}](),
}

// offsets walks over the fields of structures. The n-th field of the Go type
// that is not blank is the n-th field of its dtype.
func offsets(d *npy.DType) (offs []int) {
	for _, f := range d.Fields {
		offs = append(offs, f.Offset)
	}
	return offs
}

func TestDeclareC(t *testing.T) {
	cc, err := exec.LookPath("gcc")
	if err != nil || os.Getenv("SHM_QEMU") != "" {
		shmtest.Skip(t, "gcc", "there is no gcc for this machine's types")
	}
	for name, typ := range declared {
		d, err := npy.Of(typ)
		if err != nil {
			t.Fatal(err)
		}
		src := npy.Declare(name, d).C + "#include <stddef.h>\n"
		id, members := names(t, src, "} __attribute__", "\t")
		if d.IsStruct() {
			for i, off := range offsets(d) {
				src += fmt.Sprintf("_Static_assert(offsetof(struct %s, %s) == %d, \"%s\");\n", id, members[i], off, members[i])
			}
		} else {
			src += fmt.Sprintf("_Static_assert(sizeof(%s) == %d, \"size\");\n", name, d.Size)
		}
		file := filepath.Join(t.TempDir(), "a.c")
		if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), shmtest.Patience)
		defer cancel()
		if out, err := exec.CommandContext(ctx, cc, "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", file).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s\n%s", name, err, out, src)
		}
	}
}

// names finds the last structure's name in C, and those of its members but for
// padding.
func names(t *testing.T, src, end, indent string) (id string, members []string) {
	for line := range strings.Lines(src) {
		if rest, ok := strings.CutPrefix(line, "struct "); ok {
			id, members = strings.TrimSuffix(rest, " {\n"), nil
		}
		if rest, ok := strings.CutPrefix(line, indent); ok {
			rest, _, _ = strings.Cut(strings.TrimSuffix(rest, ";\n"), "[")
			if i := strings.LastIndexByte(rest, ' '); !strings.HasPrefix(rest[i+1:], "_pad") || rest[i+1:] == "_pad0_" {
				members = append(members, rest[i+1:])
			}
		}
	}
	if strings.Contains(src, end) && (id == "" || len(members) == 0) {
		t.Fatalf("found no structure in\n%s", src)
	}
	return id, members
}

func TestDeclareCtypes(t *testing.T) {
	pythons := shmtest.Pythons(t)
	var script strings.Builder
	script.WriteString("import warnings\nwarnings.simplefilter('error')\n")
	for name, typ := range declared {
		d, err := npy.Of(typ)
		if err != nil {
			t.Fatal(err)
		}
		src := npy.Declare(name, d).Ctypes
		script.WriteString(src)
		if !d.IsStruct() {
			fmt.Fprintf(&script, "assert ctypes.sizeof(%s) == %d\n", name, d.Size)
			continue
		}
		i := strings.LastIndex(src, "class ")
		id, _, _ := strings.Cut(src[i+len("class "):], "(")
		fmt.Fprintf(&script, "have = [getattr(%[1]s, n).offset for n, *_ in %[1]s._fields_ if not n.startswith('_pad') or n == '_pad0_']\n", id)
		want := strings.ReplaceAll(fmt.Sprint(offsets(d)), " ", ", ")
		fmt.Fprintf(&script, "assert have == %s, (%q, have)\nassert ctypes.sizeof(%s) == %d\n", want, id, id, d.Size)
	}
	script.WriteString("print('all well')\n")
	file := filepath.Join(t.TempDir(), "a.py")
	if err := os.WriteFile(file, []byte(script.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, py := range pythons {
		ctx, cancel := context.WithTimeout(t.Context(), shmtest.Patience)
		defer cancel()
		if out, err := py.Cmd(ctx, file).CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "all well" {
			t.Errorf("%v: %v\n%s\n%s", py, err, out, script.String())
		}
	}
}

func TestDeclareNumPy(t *testing.T) {
	if npy.BigEndian {
		t.Skip("the names below are of a little-endian machine")
	}
	for _, c := range []struct {
		t    reflect.Type
		want string
	}{
		{reflect.TypeFor[float32](), "import numpy\n\nt = numpy.dtype('<f4')\n"},
		{reflect.TypeFor[brain](), "import numpy\n\nt = numpy.dtype('bfloat16')\n"},
		{reflect.TypeFor[struct{ A, B int16 }](), "import numpy\n\nt = numpy.dtype([('A', '<i2'), ('B', '<i2')])\n"},
	} {
		d, err := npy.Of(c.t)
		if err != nil {
			t.Fatal(err)
		}
		if got := npy.Declare("t", d).NumPy; got != c.want {
			t.Errorf("%v is\n%s", c.t, got)
		}
	}
}
