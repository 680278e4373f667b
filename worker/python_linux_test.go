package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/conn"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/list"
	"github.com/sharedmem/shm/worker"
)

const functions = "testdata/functions.py"

// eachPython runs f for every CPython that is there as a program.
func eachPython(t *testing.T, f func(t *testing.T, py string)) {
	for _, py := range shmtest.Pythons(t) {
		if len(py.Env) > 0 {
			continue // modules of a newer version, which find no program of that version
		}
		t.Run(py.String(), func(t *testing.T) { f(t, py.Path) })
	}
}

// onePython returns the newest of them, for what does not depend on the version.
func onePython(t *testing.T) string {
	path := ""
	for _, py := range shmtest.Pythons(t) {
		if len(py.Env) == 0 {
			path = py.Path
		}
	}
	return path
}

// python is worker.Python for the tests' file.
func python[In, Out any](py, function string) worker.Function[In, Out] {
	return worker.Python[In, Out](functions, function, &worker.PythonOptions{Interpreter: py})
}

// pythonSuite is the suite of a Python.
func pythonSuite(t *testing.T, py string, numpy bool) suite {
	s := suite{
		Echo: python[string, string](py, "suite_echo"), Sum: python[[]int64, int64](py, "suite_sum"),
		Fail: python[string, string](py, "suite_fail"), Crash: python[string, string](py, "suite_crash"),
		Exit: python[int64, int64](py, "suite_exit"), Kill: python[int64, int64](py, "suite_kill"),
		Loop: python[string, string](py, "suite_loop"), Print: python[string, string](py, "suite_print"),
		Zeros: python[int64, []byte](py, "suite_zeros"), PID: python[int64, int64](py, "suite_pid"),
		Blank: python[*shm.Block, int64](py, "suite_blank"), Make: python[int64, *shm.Block](py, "suite_make"),
		List: python[*list.List, int64](py, "suite_list"), Fork: python[string, string](py, "suite_fork"),
		Close: python[string, string](py, "suite_close"), Layout: layoutOf(t, py),
	}
	if numpy {
		s.Scale = python[*array.Array[float64], float64](py, "suite_scale")
		s.Matrix = python[int64, *array.Array[float64]](py, "suite_matrix")
	}
	return s
}

func TestPythonConformance(t *testing.T) {
	eachPython(t, func(t *testing.T, py string) { conform(t, pythonSuite(t, py, false)) })
}

func TestPythonNumPyConformance(t *testing.T) {
	eachNumPy(t, func(t *testing.T, py string) { conform(t, pythonSuite(t, py, true)) })
}

// must calls a function that has to succeed.
func must[In, Out any](t *testing.T, pool *worker.Pool, f worker.Function[In, Out], in In) Out {
	t.Helper()
	out, err := worker.Call(t.Context(), pool, f, in)
	if err != nil {
		t.Fatalf("%s: %v", f.Name(), err)
	}
	return out
}

type record struct {
	Name   string
	Size   int32 `py:"size"`
	Hidden int   `py:"-"`
	Tags   map[string][]float32
	Next   *record `py:"next"`
	Pair   [2]uint8
	Any    any
}

func TestPythonValues(t *testing.T) {
	huge, _ := new(big.Int).SetString("-123456789012345678901234567890", 10)
	eachPython(t, func(t *testing.T, py string) {
		pool := newPool(t, 1, nil)
		for _, v := range []any{
			nil, true, false, int64(0), int64(-1), int64(math.MinInt64), int64(math.MaxInt64), huge,
			0.0, -1.5, math.Inf(1), 1e300, "", "text", "日本\x00語😀", []byte{}, []byte("\x00\xff"),
			[]any{}, []any{int64(1), "two", nil, []any{3.0}}, conn.Tuple{}, conn.Tuple{int64(1), "b", true, nil},
			conn.Dict{}, conn.Dict{{Key: "a", Value: int64(1)}, {Key: int64(2), Value: conn.Tuple{"x"}}},
			complex(1, -2), strings.Repeat("long ", 100_000), bytes.Repeat([]byte{7}, 3<<20),
		} {
			if got := must(t, pool, python[any, any](py, "echo"), v); !reflect.DeepEqual(got, v) {
				t.Errorf("%.60v came back as %.60v (%T)", v, got, got)
			}
		}
		if got := must(t, pool, python[float64, float64](py, "echo"), math.NaN()); !math.IsNaN(got) {
			t.Errorf("NaN came back as %v", got)
		}
		r := record{Name: "r", Size: 3, Tags: map[string][]float32{"a": {1.5}, "b": nil}, Next: &record{Name: "s"}, Pair: [2]uint8{1, 255}, Any: "x"}
		got := must(t, pool, python[record, record](py, "echo"), r)
		r.Tags["b"], r.Next.Tags = []float32{}, map[string][]float32{} // nil is an empty list or dict there
		if !reflect.DeepEqual(got, r) {
			t.Errorf("%+v came back as %+v", r, got)
		}
		if got := must(t, pool, python[*record, *record](py, "echo"), nil); got != nil {
			t.Errorf("nil came back as %v", got)
		}
		if got := must(t, pool, python[uint64, uint64](py, "echo"), math.MaxUint64); got != math.MaxUint64 {
			t.Errorf("%d came back", got)
		}
		if got := must(t, pool, python[*big.Int, *big.Int](py, "echo"), huge); got.Cmp(huge) != 0 {
			t.Errorf("%d came back", got)
		}
		if got := must(t, pool, python[map[int]bool, map[int]bool](py, "echo"), map[int]bool{3: true}); !got[3] {
			t.Errorf("%v came back", got)
		}
		if got := must(t, pool, python[int, float64](py, "echo"), 3); got != 3 {
			t.Errorf("%v came back", got)
		}
		for in, want := range map[any]string{
			true: "bool True", 1: "int 1", "a": "str 'a'", 2.5: "float 2.5", complex64(1): "complex (1+0j)",
			[2]int8{1, 2}: "list [1, 2]", time.Second: "int 1000000000", struct{ A int }{1}: "dict {'A': 1}",
		} {
			if got := must(t, pool, python[any, string](py, "kind"), in); got != want {
				t.Errorf("%v is %s in Python", in, got)
			}
		}
		must(t, pool, python[struct{}, struct{}](py, "nothing"), struct{}{})
		if got := must(t, pool, python[string, string](py, "Tools.twice"), ""); got != "" {
			t.Errorf("%q", got)
		}
		type various struct {
			Point struct{ X, Y float64 }
			Named struct {
				Name string
				Size int
			}
			Color            int
			Ordered, Counter map[string]int
			Set, Frozen      []int
			ByteArray        []byte
			MemoryView       []byte
			Complex          complex128
			Tuple            []any
			Shared           [][]int
		}
		v := must(t, pool, python[struct{}, various](py, "various"), struct{}{})
		if text := fmt.Sprint(v); text != "{{1.5 2} {n 3} 7 map[a:1] map[a:2 b:1] [5] [6] [120 121] [98 99] (1+2i) [1 b] [[1 2] [1 2]]}" {
			t.Error(text)
		}
	})
}

func TestPythonKeywords(t *testing.T) {
	py := onePython(t)
	pool := newPool(t, 1, nil)
	o := &worker.PythonOptions{Interpreter: py, Keywords: true}
	type args struct {
		A string `py:"a"`
		C []int  `py:"c"`
	}
	if got := must(t, pool, worker.Python[args, []any](functions, "keywords", o), args{"x", []int{1}}); fmt.Sprint(got) != "[x 2 [1]]" {
		t.Error(got)
	}
	if got := must(t, pool, worker.Python[map[string]int, []int](functions, "keywords", o), map[string]int{"a": 5, "b": 6}); fmt.Sprint(got) != "[5 6 3]" {
		t.Error(got)
	}
	if _, err := worker.Call(t.Context(), pool, worker.Python[struct{}, any](functions, "keywords", o), struct{}{}); !strings.Contains(fmt.Sprint(err), "missing 1 required positional argument") {
		t.Error(err)
	}
}

// What Python returns has to fit what Go wants, and the error says where it does not.
func TestPythonMismatch(t *testing.T) {
	py := onePython(t)
	pool := newPool(t, 1, nil)
	check := func(err error, parts ...string) {
		t.Helper()
		e, ok := errors.AsType[*worker.Error](err)
		if !ok || e.Op != "decode" || e.PID == 0 || !errors.Is(err, worker.ErrEncode) {
			t.Errorf("%v", err)
			return
		}
		for _, p := range parts {
			if !strings.Contains(err.Error(), p) {
				t.Errorf("%v: lacks %q", err, p)
			}
		}
	}
	_, err := worker.Call(t.Context(), pool, python[any, int8](py, "echo"), 300)
	check(err, "the int 300", "int8")
	_, err = worker.Call(t.Context(), pool, python[any, uint](py, "echo"), -1)
	check(err, "the int -1")
	_, err = worker.Call(t.Context(), pool, python[any, int64](py, "echo"), any(uint64(math.MaxUint64)))
	check(err, "the int 18446744073709551615")
	_, err = worker.Call(t.Context(), pool, python[any, string](py, "echo"), nil)
	check(err, "None", "string")
	_, err = worker.Call(t.Context(), pool, python[any, int](py, "echo"), 1.5)
	check(err, "the float 1.5")
	_, err = worker.Call(t.Context(), pool, python[any, [2]int](py, "echo"), any([]int{1, 2, 3}))
	check(err, "a list of 3")
	_, err = worker.Call(t.Context(), pool, python[any, *shm.Block](py, "echo"), "x")
	check(err, "a str", "*shm.Block")
	_, err = worker.Call(t.Context(), pool, python[any, struct{ A []struct{ B int } }](py, "echo"),
		any(map[string]any{"a": []any{map[string]any{"b": 1}, map[string]any{"b": "x"}}}))
	check(err, `the result["a"][1]["b"] is a str, where Go wants int`)
	for _, in := range []any{make(chan int), func() {}, struct{ a int }{}, "\xff", (func())(nil), []any{map[string]any{"a": make(chan bool)}}} {
		if _, err := worker.Call(t.Context(), pool, python[any, any](py, "echo"), in); !errors.Is(err, worker.ErrEncode) || !strings.Contains(err.Error(), "echo") {
			t.Errorf("%T: %v", in, err)
		}
	}
	loop := []any{nil}
	loop[0] = loop
	if _, err := worker.Call(t.Context(), pool, python[any, any](py, "echo"), any(loop)); !errors.Is(err, worker.ErrEncode) {
		t.Errorf("what contains itself: %v", err)
	}
}

func TestPythonBlocks(t *testing.T) {
	eachPython(t, func(t *testing.T, py string) {
		pool := newPool(t, 1, nil)
		b, err := shm.Create(shmtest.Name(t), 8, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Unlink()
		defer b.Close()
		copy(b.Bytes(), "hello")
		if got := must(t, pool, python[*shm.Block, []byte](py, "block_bytes"), b); string(got) != "hello" {
			t.Errorf("%q", got)
		}
		must(t, pool, python[shm.Ref, any](py, "block_fill"), b.Ref())
		if got := string(b.Bytes()[:5]); got != "12345" {
			t.Errorf("%q", got)
		}

		made := must(t, pool, python[[]byte, *shm.Block](py, "block_make"), []byte("made"))
		shmtest.Watch(made.Name())
		if got := string(made.Bytes()[:4]); got != "made" {
			t.Errorf("%q", got)
		}
		if info, err := shm.Stat(made.Name()); err != nil || info.Owner.PID != os.Getpid() {
			t.Errorf("what Python made belongs to %+v, %v", info.Owner, err)
		}
		// Given back, it is this process's still.
		again := must(t, pool, python[*shm.Block, map[string]*shm.Block](py, "block_again"), made)
		for _, a := range again {
			if a.Identity() != made.Identity() || a == made {
				t.Errorf("%v is not %v", a, made)
			}
			a.Close()
		}
		ref := must(t, pool, python[[]byte, shm.Ref](py, "block_make"), []byte("by name"))
		shmtest.Watch(ref.Name)
		left := must(t, pool, python[[]byte, string](py, "block_make_and_leave"), []byte("left"))
		shmtest.Watch(left)

		l, err := list.Create(shmtest.Name(t), []any{"first", 1, 2.5}, &list.Options{Layout: layoutOf(t, py)})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Unlink()
		defer l.Close()
		if got := must(t, pool, python[*list.List, float64](py, "list_sum"), l); got != 3.5 {
			t.Error(got)
		}
		if got, _ := l.Text(0); got != "seen" {
			t.Errorf("%q", got)
		}
		l2 := must(t, pool, python[[]any, *list.List](py, "list_make"), []any{1, "x", nil})
		shmtest.Watch(l2.Block().Name())
		if got := l2.String(); !strings.Contains(got, "[1, 'x', None]") {
			t.Error(got)
		}

		// None of it goes with the worker, but what it did not hand over.
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
		gone(t, left)
		for _, name := range []string{made.Name(), ref.Name, l2.Block().Name(), b.Name(), l.Block().Name()} {
			if _, err := shm.Stat(name); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, err := range []error{made.Close(), made.Unlink(), shm.Unlink(ref.Name), l2.Close(), l2.Unlink()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
}

// layoutOf is the only layout of lists that an interpreter knows.
func layoutOf(t *testing.T, py string) list.Layout {
	for _, p := range shmtest.Pythons(t) {
		if p.Path == py && p.Minor == 8 {
			return list.Python38
		}
	}
	if strings.Contains(py, "py3.8") { // an environment of NumPy's
		return list.Python38
	}
	return list.Python39
}

// gone waits until a block has been removed.
func gone(t *testing.T, name string) {
	t.Helper()
	for end := time.Now().Add(shmtest.Patience); ; time.Sleep(time.Millisecond) {
		if _, err := shm.Stat(name); errors.Is(err, fs.ErrNotExist) {
			return
		} else if time.Now().After(end) {
			t.Fatalf("%s is still there: %v", name, err)
		}
	}
}

// A result of which a part cannot be sent, or that nobody takes, leaves nothing.
func TestPythonBlocksNotTaken(t *testing.T) {
	py := onePython(t)
	pool := newPool(t, 1, nil)
	before := blocks(t)
	if _, err := worker.Call(t.Context(), pool, python[[]byte, any](py, "block_and_bad"), []byte("x")); !errors.Is(err, worker.ErrEncode) {
		t.Error(err)
	}
	if _, err := worker.Call(t.Context(), pool, python[[]byte, int](py, "block_make"), []byte("x")); !errors.Is(err, worker.ErrEncode) {
		t.Error(err)
	}
	must(t, pool, python[[]byte, struct{}](py, "block_make"), []byte("x"))
	_ = pool.Close()
	leftNothing(t, before)
}

// blocks lists those that Python names.
func blocks(t *testing.T) (names []string) {
	t.Helper()
	paths, _ := filepath.Glob("/dev/shm/psm_*")
	for _, p := range paths {
		names = append(names, filepath.Base(p))
	}
	return names
}

func TestPythonFailures(t *testing.T) {
	eachPython(t, func(t *testing.T, py string) {
		pool := newPool(t, 1, nil)
		fail := func(f worker.Function[string, any], in string) *worker.Failure {
			t.Helper()
			_, err := worker.Call(t.Context(), pool, f, in)
			e, ok := errors.AsType[*worker.Failure](err)
			if !ok {
				t.Fatalf("%s: %v", in, err)
			}
			return e
		}
		f := python[string, any](py, "fail")
		if e := fail(f, "key"); e.Type != "KeyError" || e.Text != "'x'" || !strings.Contains(e.Trace, "functions.py") || strings.Contains(e.Trace, "_shm_worker") {
			t.Errorf("%+v", e)
		}
		if e := fail(f, "file"); !errors.Is(e, fs.ErrNotExist) || errors.Is(e, fs.ErrExist) {
			t.Errorf("%+v", e)
		}
		if e := fail(f, "zero"); e.Type != "ValueError" || e.Text != "bad\nnews" || !strings.Contains(e.Trace, "ZeroDivisionError") {
			t.Errorf("%+v", e)
		}
		for _, how := range []string{"object", "function", "class", "open"} {
			if e := fail(python[string, any](py, "unsendable"), how); !errors.Is(e, worker.ErrEncode) || e.Type == "" {
				t.Errorf("%s: %+v", how, e)
			}
		}
		for _, how := range []string{"loop", "surrogate"} { // only Go refuses these
			_, err := worker.Call(t.Context(), pool, python[string, any](py, "unsendable"), how)
			if !errors.Is(err, worker.ErrEncode) {
				t.Errorf("%s: %v", how, err)
			}
		}
		if e := fail(python[string, any](py, "none_such"), ""); e.Type != "AttributeError" || !strings.Contains(e.Text, "none_such") || !strings.Contains(e.Text, "functions.py") {
			t.Errorf("%+v", e)
		}
		if e := fail(python[string, any](py, "Named._fields"), ""); e.Type != "TypeError" {
			t.Errorf("%+v", e)
		}
		if e := fail(python[string, any](py, "nothing"), ""); e.Type != "TypeError" || !strings.Contains(e.Text, "argument") {
			t.Errorf("%+v", e)
		}
		_, err := worker.Call(t.Context(), pool, python[struct{}, any](py, "raise_strange"), struct{}{})
		if e, ok := errors.AsType[*worker.Failure](err); !ok || !strings.HasSuffix(e.Type, "Raises") {
			t.Error(err)
		}
		_, err = worker.Call(t.Context(), pool, python[struct{}, any](py, "recurse"), struct{}{})
		if e, ok := errors.AsType[*worker.Failure](err); !ok || e.Type != "RecursionError" || len(e.Trace) > 32<<10 {
			t.Error(err)
		}
		if s := pool.Stats(); s.Started != 1 || s.Died != 0 {
			t.Errorf("a failure cost the worker its life: %+v", s)
		}
	})
}

// What keeps a worker from being started is said at once, with what to do.
func TestPythonNotStarted(t *testing.T) {
	py := onePython(t)
	dir := shmtest.TempDir(t)
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, tt := range map[string]struct {
		script, interpreter string
		want                string
		is                  error
	}{
		"syntax":         {write("syntax.py", "def f(:\n"), py, "SyntaxError", nil},
		"raises":         {write("raises.py", "import sys\nraise RuntimeError('not today')\n"), py, "not today", nil},
		"imports":        {write("imports.py", "import none_such_module\n"), py, "ModuleNotFoundError", nil},
		"exits":          {write("exits.py", "import sys\nsys.exit('enough')\n"), py, "enough", nil},
		"crashes":        {write("crashes.py", "import os\nos.abort()\n"), py, "abort", nil},
		"missing":        {filepath.Join(dir, "none.py"), py, "none.py", fs.ErrNotExist},
		"module":         {"none_such.module", py, "none_such", nil},
		"no interpreter": {functions, "python9.99", "python9.99", fs.ErrNotExist},
		"no version":     {functions, "3.99", "3.99", fs.ErrNotExist},
		"no environment": {functions, dir, "bin/python", fs.ErrNotExist},
		"no Python":      {functions, "/bin/true", "before it was ready", nil},
		"says something": {functions, write("says", "#!/bin/sh\necho pity >&2\nexit 3\n"), "pity", nil},
		"speaks":         {functions, write("speaks", "#!/bin/sh\nprintf '\\377\\377\\377\\376garbage' >&4\n"), "", nil},
		"empty":          {"", py, "needs a script", fs.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			f := worker.Python[struct{}, any](tt.script, "nothing", &worker.PythonOptions{Interpreter: tt.interpreter})
			pool := newPool(t, 2, nil)
			err := worker.Ready(t.Context(), pool, f)
			e, ok := errors.AsType[*worker.Error](err)
			if !ok || e.Op != "start" || !strings.Contains(err.Error(), tt.want) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Error(err)
			}
			if _, err := worker.Call(t.Context(), pool, f, struct{}{}); err == nil {
				t.Error("called")
			}
			if _, err := worker.Start(t.Context(), f, struct{}{}, nil); err == nil {
				t.Error("started")
			}
		})
	}
	// Those of pyenv that are too old, if there are any.
	home, _ := os.UserHomeDir()
	for _, v := range []string{"2.7", "3.6", "3.7"} {
		if old, _ := filepath.Glob(filepath.Join(home, ".pyenv/versions", v+".*")); len(old) > 0 {
			pool := newPool(t, 1, nil)
			err := worker.Ready(t.Context(), pool, worker.Python[struct{}, any](functions, "nothing", &worker.PythonOptions{Interpreter: v}))
			if err == nil || !strings.Contains(err.Error(), "3.8 or newer") || !strings.Contains(err.Error(), "is "+v) {
				t.Error(err)
			}
		}
	}
}

func TestPythonDeaths(t *testing.T) {
	eachPython(t, func(t *testing.T, py string) {
		pool := newPool(t, 1, nil)
		leave := python[string, string](py, "leave")
		for how, want := range map[string]struct {
			code   int
			signal syscall.Signal
			crash  string
		}{
			"sys.exit": {3, 0, ""}, "os._exit": {4, 0, ""}, "abort": {-1, syscall.SIGABRT, "functions.py"},
			"segv": {-1, syscall.SIGSEGV, "functions.py"}, "kill": {-1, syscall.SIGKILL, ""},
		} {
			_, err := worker.Call(t.Context(), pool, leave, how)
			d, ok := errors.AsType[*worker.Death](err)
			if !ok || d.Code != want.code || d.Signal != want.signal || d.Hint == "" || !strings.Contains(d.Crash, want.crash) {
				t.Errorf("%s: %v", how, err)
			}
		}
		// Its own descriptors are out of reach of who closes those from 3 on; but not if all
		// are closed.
		if got := must(t, pool, leave, "none"); got != "none" {
			t.Error(got)
		}
		_, err := worker.Call(t.Context(), pool, leave, "close")
		if d, ok := errors.AsType[*worker.Death](err); !ok || d.Code != 1 {
			t.Errorf("closed descriptors: %v", err)
		}
		// One that forks has one answer, and the copy goes.
		for i := range 20 {
			if got := must(t, pool, python[int, int](py, "fork"), i); got != i {
				t.Errorf("%d came back as %d", i, got)
			}
		}
		if s := pool.Stats(); s.Died != 6 || s.Started != 7 {
			t.Errorf("%+v", s)
		}
	})
}

func TestPythonCancelled(t *testing.T) {
	py := onePython(t)
	dir := shmtest.TempDir(t)
	pool := newPool(t, 1, &worker.PoolOptions{Options: worker.Options{Grace: 20 * time.Second}})
	first := must(t, pool, python[struct{}, int](py, "pid"), struct{}{})

	// A function that waits is interrupted, cleans up, and its worker lives on.
	file := filepath.Join(dir, "cancelled")
	ctx, cancel := context.WithCancel(t.Context())
	job, err := worker.Submit(ctx, pool, python[string, any](py, "wait_for"), file)
	if err != nil {
		t.Fatal(err)
	}
	other, err := worker.Submit(t.Context(), pool, python[string, any](py, "echo"), "after")
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := job.Wait(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if v, err := other.Wait(); v != "after" || err != nil {
		t.Error(v, err)
	}
	if now := must(t, pool, python[struct{}, int](py, "pid"), struct{}{}); now != first {
		t.Errorf("worker %d became %d", first, now)
	}

	// One that hears nothing is killed.
	pool = newPool(t, 1, &worker.PoolOptions{Timeout: 100 * time.Millisecond, Options: worker.Options{Grace: 100 * time.Millisecond}})
	if _, err := worker.Call(t.Context(), pool, python[struct{}, any](py, "hold_the_lock"), struct{}{}); !errors.Is(err, worker.ErrTimeout) {
		t.Error(err)
	}
	// One that loops is interrupted.
	pool = newPool(t, 1, &worker.PoolOptions{Timeout: 100 * time.Millisecond, Options: worker.Options{Grace: 20 * time.Second}})
	if _, err := worker.Call(t.Context(), pool, python[struct{}, any](py, "loop_for_ever"), struct{}{}); !errors.Is(err, worker.ErrTimeout) {
		t.Error(err)
	}
	if s := pool.Stats(); s.Died != 0 {
		t.Errorf("%+v", s)
	}
}

func TestPythonOutput(t *testing.T) {
	py := onePython(t)
	var out, errs bytes.Buffer
	p, err := worker.Start(t.Context(), python[string, int](py, "say"), "words", &worker.Options{Stdout: &out, Stderr: &errs})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := p.Wait(); n != 5 || err != nil {
		t.Error(n, err)
	}
	if !strings.Contains(out.String(), "words\n") || !strings.Contains(out.String(), "junk") || !strings.Contains(errs.String(), "words!\n") {
		t.Errorf("%q, %q", out.String(), errs.String())
	}
}

// A worker is what multiprocessing makes.
func TestPythonFamily(t *testing.T) {
	eachPython(t, func(t *testing.T, py string) {
		dir := shmtest.TempDir(t)
		pool := newPool(t, 1, &worker.PoolOptions{Options: worker.Options{Dir: dir, Env: append(os.Environ(), "SHM_TEST=yes"), Nice: 1,
			Limits: []worker.Limit{{Resource: worker.CoreSize, Max: 0}}}})
		about := must(t, pool, python[struct{}, struct {
			Parent, PID, PPID, Key, Nice   int
			Name, Main, Method, Stdin, Dir string
			Env                            *string
			Alive                          bool
			Argv                           []string
		}](py, "about"), struct{}{})
		script, _ := filepath.Abs(functions)
		if about.Parent != os.Getpid() || about.PPID != os.Getpid() || about.Key != 32 || !strings.HasPrefix(about.Name, "GoWorker-") ||
			!about.Alive || about.Main != "__mp_main__" || about.Method != "spawn" || about.Stdin != "" || about.Dir != dir ||
			about.Env == nil || *about.Env != "yes" || len(about.Argv) != 1 || about.Argv[0] != script || about.Nice < 1 {
			t.Errorf("%+v", about)
		}
		if got := must(t, pool, python[[]int, []int](py, "nested"), []int{1, 2, 3}); fmt.Sprint(got) != "[1 4 9]" {
			t.Error(got)
		}
		b, err := shm.Create(shmtest.Name(t), 4096, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Unlink()
		defer b.Close()
		if got := must(t, pool, python[string, int](py, "open_in_subprocess"), b.Name()); got != 4096 {
			t.Error(got)
		}
		_ = pool.Close()
		if _, err := shm.Stat(b.Name()); err != nil {
			t.Errorf("a Python that opened the block removed it: %v", err)
		}
	})
}

func TestPythonModule(t *testing.T) {
	py := onePython(t)
	pool := newPool(t, 1, nil)
	if got := must(t, pool, worker.Python[float64, float64]("math", "sqrt", &worker.PythonOptions{Interpreter: py}), 16); got != 4 {
		t.Error(got)
	}
	dir := shmtest.TempDir(t)
	if err := os.MkdirAll(filepath.Join(dir, "package"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "package", "mod.py"), []byte("def f(x): return [__name__, x]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pool = newPool(t, 1, &worker.PoolOptions{Options: worker.Options{Dir: dir}})
	if got := must(t, pool, worker.Python[int, []any]("package.mod", "f", &worker.PythonOptions{Interpreter: py}), 1); fmt.Sprint(got) != "[package.mod 1]" {
		t.Error(got)
	}
}

// A script that is part of the program, larger than a pipe takes.
func TestPythonSource(t *testing.T) {
	eachPython(t, func(t *testing.T, py string) {
		const text = "import json\ndef f(x):\n    if x < 0:\n        raise ValueError('below')  # nothing\n    return json.dumps([__name__, x])\n"
		source := text + strings.Repeat("# "+strings.Repeat("x", 98)+"\n", 3000)
		dir := shmtest.TempDir(t)
		if err := os.WriteFile(filepath.Join(dir, "json.py"), []byte("raise RuntimeError('not that one')\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		pool := newPool(t, 1, &worker.PoolOptions{Options: worker.Options{Dir: dir}})
		f := worker.Python[int, string]("embedded", "f", &worker.PythonOptions{Interpreter: py, Source: source})
		if got := must(t, pool, f, 1); got != `["__mp_main__", 1]` {
			t.Error(got)
		}
		_, err := worker.Call(t.Context(), pool, f, -1)
		if fail := wantFailure(t, err, "f", "below"); !strings.Contains(fail.Trace, "embedded") || !strings.Contains(fail.Trace, "# nothing") {
			t.Error(fail.Trace)
		}
		bad := worker.Python[int, string]("wrong.py", "f", &worker.PythonOptions{Interpreter: py, Source: "def f(:\n"})
		_, err = worker.Call(t.Context(), pool, bad, 1)
		wantFailure(t, err, "f", "SyntaxError", "wrong.py")
	})
}

// Two functions of one script share workers; thousands of jobs come back in order.
func TestPythonMap(t *testing.T) {
	py := onePython(t)
	pool := newPool(t, 2, &worker.PoolOptions{MaxJobs: 400})
	var in []pair
	for i := range int64(2000) {
		in = append(in, pair{i, 2 * i})
	}
	i := int64(0)
	for out, err := range worker.Map(t.Context(), pool, python[pair, int64](py, "add"), in) {
		if err != nil || out != 3*i {
			t.Fatal(i, out, err)
		}
		i++
	}
	must(t, pool, python[string, string](py, "echo"), "x")
	if s := pool.Stats(); i != 2000 || s.Done != 2001 || s.Recycled < 4 || s.Died != 0 {
		t.Errorf("%d, %+v", i, s)
	}
}
