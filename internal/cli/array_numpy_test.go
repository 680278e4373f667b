package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/sharedmem/shm/internal/npy"
	"github.com/sharedmem/shm/internal/shmtest"
)

// elementsOf are those of a .npy file in memory.
func elementsOf(t testing.TB, data []byte, f *arrayFlags) *elements {
	t.Helper()
	e := &elements{ctx: t.Context(), name: "x", from: bytes.NewReader(data), size: int64(len(data)), close: func() {}}
	if err := e.open(&app{}, f); err != nil {
		t.Fatal(err)
	}
	return e
}

// textOf prints them.
func textOf(t testing.TB, e *elements, all bool) string {
	t.Helper()
	g, err := e.grid(all)
	if err != nil {
		t.Fatal(err)
	}
	return g.text()
}

// numpyArrays has NumPy make arrays of all types, print them, and sum them up.
const numpyArrays = `
import io, json, math, sys, warnings
import numpy as np
warnings.simplefilter("ignore")
rng = np.random.default_rng(5)
arrays = {}
def add(name, a):
    arrays[name + " %d" % len(arrays)] = np.asarray(a)
add("bool", [True, False, True]); add("bool 2", rng.random((3, 40)) < .5); add("big bool", rng.random(2000) < .5)
for code in "bhilqBHILQ":
    info = np.iinfo(code)
    add(code, np.array([info.min, 0, info.max], code))
    add(code + " many", rng.integers(0, 100, (40, 50)).astype(code))
    add(code + " other", rng.integers(0, 100, (4, 5)).astype(np.dtype(code).newbyteorder()))
for code in "efd":
    d = np.dtype(code)
    top = float(np.finfo(d).max)
    for scale in (1, 10, 1e-3, 1e-5, 1e3, 1e4, 1e5, 1e7, 1e9, 1e30, 1e200):
        if scale < top:
            for shape in ((4,), (3, 5), (60, 50)):
                add("%s %g" % (code, scale), (rng.standard_normal(shape) * scale).astype(d))
                add("%s %g round" % (code, scale), np.round(rng.standard_normal(shape) * scale, 2).astype(d))
    add(code + " special", np.array([0, -0.0, 1, -1.5, np.nan, np.inf, -np.inf], d))
    add(code + " nan", np.array([np.nan, 1.25], d)); add(code + " inf", np.array([np.inf, 1], d)); add(code + " none", np.array([np.nan, np.inf], d))
    add(code + " limits", np.array([np.finfo(d).max, np.finfo(d).tiny, np.finfo(d).eps], d))
    add(code + " bounds", np.array([0.0001, 0.1], d)); add(code + " bounds", np.array([1, 1000], d)); add(code + " bounds", np.array([1, 1001], d))
    add(code + " bounds", np.array([999, 1000, 10000], d)); add(code + " thirds", np.array([1, 2, 3], d) / 3)
    add(code + " other", np.array([1.5, 2.25], d.newbyteorder()))
    for v in (0, 1, -1.5, 0.1, 1e-4, 1e-5, 1e15, 1e16, 1e17, 123456.789, np.nan, -np.inf):
        add(code + " one", np.array(v, d))
add("f near", np.array([0.1, 1.23456789e10], "f4")); add("d long", np.array([0.123456785, 0.123456775, 2.5]))
for code in "FD":
    for scale in (1, 1e-5, 1e9):
        add(code, ((rng.standard_normal((3, 3)) + 1j * rng.standard_normal((3, 3))) * scale).astype(code))
    add(code + " special", np.array([1+2j, complex(np.nan, -1), complex(0, np.inf), -0j], code))
    add(code + " one", np.array(1-2.5j, code)); add(code + " one", np.array(2.5j, code))
add("text", np.array(["a", "it's", 'say "x"', "\u00e9\u20ac\U0001f600", "a\nb", ""])); add("text one", np.array("it's")); add("bytes", np.array([b"a", b"\xff\x00b", b"", b"it's"]))
add("text other", np.array(["ab", "c"], np.dtype("U2").newbyteorder()))
add("texts", np.array(["word%d" % i for i in range(1500)])); add("void", np.array([b"abc", b"\0"], "V3"))
for unit in ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as", "25s", "7D"):
    add("M8 " + unit, np.array([0, 1, -1, 12345, -98765], "M8[%s]" % unit)); add("NaT " + unit, np.array(["NaT", "NaT"], "M8[%s]" % unit))
    add("m8 " + unit, np.array([0, 1, -1, 12345], "m8[%s]" % unit)); add("M8 one " + unit, np.array(5, "M8[%s]" % unit))
add("M8 far", np.array([-719528, -719529, -1000000, 2932896, 2932897, 10**7], "M8[D]")); add("M8 NaT", np.array(["2020-02-29T12:34:56.789", "NaT"], "M8[ms]"))
add("m8 NaT", np.array([1, "NaT"], "m8[s]")); add("days", np.arange(-800000, 800000, 1234).astype("M8[D]").reshape(-1, 1))
s = np.zeros(5, [("a", "i4"), ("b", "f4"), ("c", "S3"), ("d", "U2"), ("e", "?"), ("f", "i2", (2, 2)), ("t", "M8[D]"), ("n", [("x", "f8"), ("y", "c8")])])
s["a"] = rng.integers(-100, 100, 5); s["b"] = rng.random(5); s["n"]["x"] = rng.random(5) * 1e9; s["c"] = b"ab"; s["f"] = rng.integers(0, 99, (5, 2, 2))
add("struct", s); add("struct one", s[1]); add("single", np.array([(1,), (200,)], [("a", "i4")])); add("aligned", np.array([(1, 2.5)], np.dtype("u1,f8", align=True)))
add("structs", np.zeros(2000, "i4,f8"))
add("empty", np.zeros(0)); add("empty 2", np.zeros((3, 0, 2))); add("ones", np.ones((1, 1, 1)))
for shape in ((2, 3, 4), (10, 11, 12), (7, 1, 200), (1001,), (1000,), (2, 2, 2, 2), (3, 2000), (2000, 3), (8, 8, 8, 8)):
    add("shape", rng.integers(0, 1000, shape)); add("shape F", np.asfortranarray(rng.standard_normal(shape)))
for i in range(100):
    shape = tuple(rng.integers(1, 12, rng.integers(1, 4)))
    add("random", rng.standard_normal(shape) * 10.0 ** rng.integers(-8, 12, shape)); add("random f", (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4)).astype("f4"))
for name, a in arrays.items():
    f = io.BytesIO()
    np.save(f, a)
    doc = {"name": name, "file": f.getvalue().hex(), "text": str(a)}
    if a.dtype.kind in "iuf" and a.size:
        b = a[~np.isnan(a)] if a.dtype.kind == "f" else a
        if b.size:
            doc["summary"] = {"min": float(str(b.min())), "max": float(str(b.max())), "mean": float(b.astype("f8").mean()), "nan": int(a.size - b.size)}
    sys.stdout.write(json.dumps(doc) + "\n")
`

type numpyArray struct {
	Name    string
	File    shmtest.Hex
	Text    string
	Summary *struct {
		Min, Max, Mean jsonNumber
		NaN            int
	}
}

// jsonNumber is a number as Python writes it, NaN and Infinity too.
type jsonNumber string

func (n *jsonNumber) UnmarshalJSON(text []byte) error {
	*n = jsonNumber(text)
	return nil
}

func arraysOfNumPy(t *testing.T, py shmtest.Python) []numpyArray {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), shmtest.Patience)
	defer cancel()
	out, err := py.Cmd(ctx, "-c", numpyArrays).Output()
	if err != nil {
		t.Fatal(err)
	}
	// JSON proper has no NaN.
	for old, quoted := range map[string]string{": NaN": `: "nan"`, ": Infinity": `: "inf"`, ": -Infinity": `: "-inf"`} {
		out = bytes.ReplaceAll(out, []byte(old), []byte(quoted))
	}
	var all []numpyArray
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var a numpyArray
		if err := d.Decode(&a); err != nil {
			t.Fatal(err)
		}
		all = append(all, a)
	}
	if len(all) < 300 {
		t.Fatalf("only %d arrays", len(all))
	}
	return all
}

// newestNumPy is one that prints as we do: what it takes for a large float32 it
// changed with 2.3.
func newestNumPy(t *testing.T) shmtest.Python {
	t.Helper()
	all := shmtest.PythonsWith(t, "numpy")
	py := all[len(all)-1]
	var major, minor int
	if _, err := fmt.Sscanf(py.Module, "%d.%d", &major, &minor); err != nil || major < 2 || major == 2 && minor < 3 {
		shmtest.Skip(t, "numpy", "the newest NumPy is "+py.Module+", and what is printed is that of 2.3 and later")
	}
	return py
}

// What array prints is what NumPy prints, and info's numbers are its own.
func TestArrayAsNumPy(t *testing.T) {
	wrong := 0
	for _, a := range arraysOfNumPy(t, newestNumPy(t)) {
		e := elementsOf(t, a.File, &arrayFlags{order: "C"})
		if got := textOf(t, e, false); got != a.Text {
			if wrong++; wrong <= 10 {
				t.Errorf("%s, %s:\n%s\nNumPy:\n%s", a.Name, e.about(), got, a.Text)
			}
		}
		docs, texts, err := summarise(e)
		if err != nil {
			t.Fatal(err)
		}
		if s := a.Summary; s != nil {
			got := docs[0]
			near := func(mine json.RawMessage, theirs jsonNumber) bool {
				x, y := parseNumber(t, string(mine)), parseNumber(t, string(theirs))
				return x == y || x != x && y != y || math.Abs(x-y) <= 1e-9*max(math.Abs(x), math.Abs(parseNumber(t, string(s.Max))), math.Abs(parseNumber(t, string(s.Min))))
			}
			if !near(got.Min, s.Min) || !near(got.Max, s.Max) || !near(got.Mean, s.Mean) || got.NaN != nil && *got.NaN != s.NaN {
				t.Errorf("%s: summary %s, NumPy %+v", a.Name, texts[0], *s)
			}
		}
	}
	if wrong > 10 {
		t.Errorf("%d in all", wrong)
	}
}

func parseNumber(t *testing.T, s string) float64 {
	t.Helper()
	v, err := parseItem(strings.Trim(s, `"`), floatItem)
	if err != nil {
		t.Fatal(err)
	}
	return v.(float64)
}

// An index picks what Python's does, for views of every kind.
func TestArrayIndexAsNumPy(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), shmtest.Patience)
	defer cancel()
	all := shmtest.PythonsWith(t, "numpy")
	indices := []string{"0", "-1", "1:3", "::2", "::-1", "5:1:-2", "-3:", ":-3", "100:", "3:3", "0,1", "1:,2", "..., 0", "0, ...", "...", "1, ..., ::-1",
		":, ::3, -1", "[2, :, 1]", "::-1, ::-1, ::-1", "3:1", "-100:100", "::9223372036854775807", "::-9223372036854775807", "1,"}
	const python = `
import io, json, sys
import numpy as np
a = np.arange(6*7*8, dtype=">u2").reshape(6, 7, 8)
for order in "CF":
    f = io.BytesIO(); np.save(f, np.asarray(a, order=order)); print(f.getvalue().hex())
for index in json.loads(sys.argv[1]):
    print(json.dumps(eval("a[" + index.strip("[]") + "]").tolist()))
`
	list, err := json.Marshal(indices)
	if err != nil {
		t.Fatal(err)
	}
	out, err := all[len(all)-1].Cmd(ctx, "-c", python, string(list)).Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	for _, file := range lines[:2] {
		var data shmtest.Hex
		if err := data.UnmarshalText([]byte(file)); err != nil {
			t.Fatal(err)
		}
		for i, index := range indices {
			e := elementsOf(t, data, &arrayFlags{order: "C", index: index})
			if got, want := jsonOf(t, e), strings.ReplaceAll(lines[2+i], " ", ""); got != want && e.count() > 0 {
				t.Errorf("[%s]: %s, want %s", index, got, want)
			} else if e.count() == 0 && strings.ContainsAny(want, "0123456789") {
				t.Errorf("[%s]: nothing, want %s", index, want)
			}
		}
	}
}

// jsonOf is the values that --json writes, on one line.
func jsonOf(t testing.TB, e *elements) string {
	t.Helper()
	var out bytes.Buffer
	if err := (&app{stdout: &out}).arrayJSON(e); err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Values json.RawMessage `json:"values"`
	}
	if err := json.Unmarshal(out.Bytes(), &doc); err != nil {
		t.Fatalf("%v in %s", err, out.Bytes())
	}
	return strings.ReplaceAll(string(doc.Values), "\n", "")
}

// Types that describe prints are those that NumPy and ctypes lay out alike.
func TestDescribeAsNumPy(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), shmtest.Patience)
	defer cancel()
	all := shmtest.PythonsWith(t, "numpy")
	types := []string{"<f4", "|b1", "[('a', '<i4'), ('b', '<f8')]", "{'names': ['x', 'y z'], 'formats': ['u1', ('<f4', (2, 3))], 'offsets': [4, 8], 'itemsize': 40}",
		"[('n', [('p', '<u2'), ('q', 'S3')]), ('u', '<U5'), ('t', '<M8[25s]'), ('c', '<c16', (2,))]", "[(('title', 'x'), '>i8')]"}
	program := ""
	for i, dtype := range types {
		status, source, errs := run(t, "", "describe", "--lang", "numpy", "--dtype", dtype)
		if status != 0 {
			t.Fatal(errs)
		}
		_, ct, _ := run(t, "", "describe", "--lang", "ctypes", "--dtype", dtype)
		d, err := npy.ParseSpelling(dtype)
		if err != nil {
			t.Fatal(err)
		}
		back, err := npy.ParseSpelling(d.String())
		if err != nil || back.String() != d.String() {
			t.Errorf("%s: %v reads back as %v, %v", dtype, d, back, err)
		}
		program += fmt.Sprintf("%s\nassert element == numpy.dtype(%s), (%d, element)\n%s\n", source, pythonType(dtype), i, ct)
		program += fmt.Sprintf("assert ctypes.sizeof(element) == %d\nassert str(numpy.dtype(%s)) == %q or numpy.dtype(%[2]s).str == %[3]q, (numpy.dtype(%[2]s), %[3]q)\n", d.Size, pythonType(dtype), d.String())
	}
	if out, err := all[len(all)-1].Cmd(ctx, "-c", program).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s\nfrom\n%s", err, out, program)
	}
}

func pythonType(s string) string {
	if slices.Contains([]byte("[{"), s[0]) {
		return s
	}
	return "'" + s + "'"
}
