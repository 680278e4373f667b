package shmtest

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	peer "github.com/sharedmem/shm/interop/python"
)

// Python is an interpreter of the machine.
type Python struct {
	Version      string // "3.8.18"; "3.14.2*" is that version's modules on a 3.13 interpreter
	Major, Minor int
	Path         string
	Env          []string // what it needs in its environment
	Module       string   // from PythonsWith: the version of the module asked for
}

func (p Python) String() string { return "python" + p.Version }

// Cmd returns the command that runs the interpreter with args.
func (p Python) Cmd(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.Path, args...)
	cmd.Env = append(os.Environ(), p.Env...)
	return cmd
}

// Pythons returns every CPython of the machine with shared memory, 3.8 or
// newer, one of each minor version, oldest first. It looks in PATH and where
// pyenv and other installers put them, and in the cache that
// interop/python/fetch_future.py fills. Without any it skips the test.
//
// SHM_REQUIRE may have python (any), python3.8 and so on (that one) and pyodide
// (3.14 and 3.15). With SHM_PYTHONS=ends only the oldest and the newest are
// returned, for runs that look at something else than Python once more.
func Pythons(t testing.TB) []Python {
	t.Helper()
	if os.Getenv("SHM_QEMU") != "" {
		// It would be the host's, of another architecture than the tests.
		Skip(t, "python", "under emulation there is no interpreter")
	}
	found := pythons()
	for _, what := range strings.Split(os.Getenv("SHM_REQUIRE"), ",") {
		var minors []int
		var minor int
		if what == "pyodide" {
			minors = []int{14, 15}
		} else if n, _ := fmt.Sscanf(what, "python3.%d", &minor); n == 1 {
			minors = []int{minor}
		}
		for _, minor := range minors {
			if !slices.ContainsFunc(found, func(p Python) bool { return p.Major == 3 && p.Minor == minor }) {
				t.Fatalf("SHM_REQUIRE has %q, but there is no Python 3.%d; found %v", what, minor, found)
			}
		}
	}
	if len(found) == 0 {
		Skip(t, "python", "found no CPython 3.8 or newer with shared memory")
	}
	if whole := withoutFuture(found); os.Getenv("SHM_PYTHONS") == "ends" && len(whole) > 2 {
		return []Python{whole[0], whole[len(whole)-1]}
	}
	return found
}

// withoutFuture leaves out those that are a module on an older interpreter.
func withoutFuture(ps []Python) []Python {
	return slices.DeleteFunc(slices.Clone(ps), func(p Python) bool { return strings.HasSuffix(p.Version, "*") })
}

// probe prints what an interpreter is; it fails where one has no shared memory.
const probe = `
import sys, json, platform
from multiprocessing import shared_memory, util
print(json.dumps([platform.python_implementation(), sys.version_info[0], sys.version_info[1],
	platform.python_version(), sys.executable, shared_memory.__file__]))`

// pythons starts every interpreter once per process, some at a time: each takes
// a tenth of a second.
var pythons = sync.OnceValue(func() []Python {
	found := askAll(candidates())
	best := map[int]Python{}
	for _, p := range found {
		if have, ok := best[p.Minor]; !ok || newer(p.Version, have.Version) {
			best[p.Minor] = p
		}
	}
	if base, ok := best[13]; ok {
		for _, p := range future(base) {
			if _, ok := best[p.Minor]; !ok {
				best[p.Minor] = p
			}
		}
	}
	return slices.SortedFunc(maps.Values(best), func(a, b Python) int { return a.Minor - b.Minor })
})

func newer(a, b string) bool {
	var av, bv [3]int // of "3.15.0rc1" what Sscanf gets
	_, _ = fmt.Sscanf(a, "%d.%d.%d", &av[0], &av[1], &av[2])
	_, _ = fmt.Sscanf(b, "%d.%d.%d", &bv[0], &bv[1], &bv[2])
	return slices.Compare(av[:], bv[:]) > 0
}

// candidates lists files that may be interpreters.
func candidates() []Python {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	home, _ := os.UserHomeDir()
	for _, pattern := range []string{
		filepath.Join(home, ".pyenv/versions/*/bin"),
		filepath.Join(os.Getenv("PYENV_ROOT"), "versions/*/bin"),
		filepath.Join(home, ".local/share/uv/python/*/bin"),
		"/usr/bin", "/usr/local/bin",
		"/opt/*/bin", "/opt/python/*/bin", "/opt/homebrew/bin",
		"/opt/hostedtoolcache/Python/*/*/bin",
		"/Users/runner/hostedtoolcache/Python/*/*/bin",
		"/Library/Frameworks/Python.framework/Versions/*/bin",
		`C:\hostedtoolcache\windows\Python\*\*`,
	} {
		more, _ := filepath.Glob(pattern)
		dirs = append(dirs, more...)
	}
	name := regexp.MustCompile(`^python(3|3\.\d+)?$`)
	if runtime.GOOS == "windows" {
		// Strict, since Wine would start the host's pythons.
		name = regexp.MustCompile(`^python(3|3\.\d+)?\.exe$`)
	}
	seen := map[string]bool{}
	var out []Python
	for _, dir := range dirs {
		for _, e := range list(dir) {
			if !name.MatchString(e.Name()) {
				continue
			}
			path := filepath.Join(dir, e.Name())
			real, err := filepath.EvalSymlinks(path)
			if err != nil || seen[real] {
				continue
			}
			if path, err = exec.LookPath(path); err == nil { // may be executed
				seen[real] = true
				out = append(out, Python{Path: path})
			}
		}
	}
	return out
}

// askAll asks the candidates what they are and drops those that are nothing,
// such as pyenv's shims of versions that are not chosen.
func askAll(ps []Python) []Python {
	answers := make([]*Python, len(ps))
	slots := make(chan bool, runtime.NumCPU())
	var wg sync.WaitGroup
	for i, p := range ps {
		wg.Go(func() {
			slots <- true
			defer func() { <-slots }()
			answers[i] = ask(p)
		})
	}
	wg.Wait()
	var out []Python
	for _, p := range answers {
		if p != nil {
			out = append(out, *p)
		}
	}
	return out
}

func ask(p Python) *Python {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	out, err := p.Cmd(ctx, "-c", probe).Output()
	if err != nil {
		return nil
	}
	var implementation, module string
	answer := []any{&implementation, &p.Major, &p.Minor, &p.Version, &p.Path, &module}
	if json.Unmarshal(out, &answer) != nil || implementation != "CPython" || p.Major != 3 || p.Minor < 8 {
		return nil
	}
	for _, e := range p.Env {
		// It is to be trusted only if it really loads those modules.
		if dir, ok := strings.CutPrefix(e, "PYTHONPATH="); ok && !strings.HasPrefix(module, dir) {
			return nil
		}
	}
	return &p
}

// future returns the versions that exist here only as modules, for base, a
// 3.13 interpreter.
func future(base Python) []Python {
	versions := cached("pyodide-*/VERSION")
	var out []Python
	for _, file := range versions {
		p := Python{Path: base.Path, Env: []string{"PYTHONPATH=" + filepath.Join(filepath.Dir(file), "lib")}}
		version := strings.TrimSpace(readFile(file))
		var minor int
		if n, _ := fmt.Sscanf(version, "3.%d.", &minor); n != 1 {
			continue
		}
		if asked := ask(p); asked != nil {
			asked.Version, asked.Minor = version+"*", minor
			out = append(out, *asked)
		}
	}
	return out
}

// cached finds files where the scripts of interop/python put theirs.
func cached(pattern string) []string {
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil
		}
		cache = filepath.Join(home, ".cache")
	}
	files, _ := filepath.Glob(filepath.Join(cache, "shm-interop", pattern))
	return files
}

// PythonsWith returns the interpreters that have a module, "numpy" or "pyarrow",
// one for each version of the module, oldest first: those in the environments
// that interop/python/fetch_numpy.py makes, and only if there are none those
// of Pythons, as asking all of them takes seconds. Without any it skips the
// test, unless SHM_REQUIRE has the module.
func PythonsWith(t testing.TB, module string) []Python {
	t.Helper()
	if os.Getenv("SHM_QEMU") != "" {
		Skip(t, module, "under emulation there is no interpreter")
	}
	find, _ := withModule.LoadOrStore(module, sync.OnceValue(func() []Python {
		if found := environments(module); len(found) > 0 {
			return found
		}
		return importing(module, slices.Clone(pythons()))
	}))
	found := find.(func() []Python)()
	if len(found) == 0 {
		Skip(t, module, "no CPython that imports it; interop/python/fetch_numpy.py makes one")
	}
	return found
}

var withModule sync.Map

// environments returns those of fetch_numpy.py's environments whose VERSION,
// "numpy==2.0.0 torch==…", has the module.
func environments(module string) []Python {
	bin := "bin/python3"
	if runtime.GOOS == "windows" {
		bin = `Scripts\python.exe`
	}
	var ps []Python
	for _, file := range cached("env-*/VERSION") {
		if strings.Contains(" "+readFile(file), " "+module+"==") {
			ps = append(ps, Python{Path: filepath.Join(filepath.Dir(file), bin)})
		}
	}
	return importing(module, askAll(ps))
}

// importing asks for the module by importing it: what is installed may still
// not load.
func importing(module string, ps []Python) []Python {
	const probe = "import sys, importlib; sys.stdout.write(importlib.import_module(sys.argv[1]).__version__)"
	slots := make(chan bool, runtime.NumCPU())
	var wg sync.WaitGroup
	for i := range ps {
		p := &ps[i]
		wg.Go(func() {
			slots <- true
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(context.Background(), Patience)
			defer cancel()
			if out, err := p.Cmd(ctx, "-c", probe, module).Output(); err == nil {
				p.Module = string(out)
			}
		})
	}
	wg.Wait()
	ps = slices.DeleteFunc(ps, func(p Python) bool { return p.Module == "" })
	slices.SortStableFunc(ps, func(a, b Python) int {
		if newer(a.Module, b.Module) {
			return 1
		} else if newer(b.Module, a.Module) {
			return -1
		}
		return 0
	})
	return slices.CompactFunc(ps, func(a, b Python) bool { return a.Module == b.Module })
}

// PythonProcess is a running interop/python/peer.py. Its methods are for the
// test's goroutine.
type PythonProcess struct {
	*Process
	Python Python
}

// Args are the arguments of one call.
type Args map[string]any

// Reply is the answer to one call; which fields it fills is the call's matter.
type Reply struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	Repr string `json:"repr"`
	Data Hex    `json:"data"`

	Results json.RawMessage `json:"results"`
}

// Hex is bytes that travel in JSON as Python's bytes.hex writes them.
type Hex []byte

// MarshalText writes what bytes.fromhex reads.
func (h Hex) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

// UnmarshalText accepts what MarshalText returns.
func (h *Hex) UnmarshalText(text []byte) (err error) {
	*h, err = hex.AppendDecode(nil, text)
	return err
}

// PythonError is an exception raised by what Python was asked to do.
type PythonError struct {
	Class   string `json:"error"`
	Errno   int    `json:"errno"` // 0 unless it is an OSError
	Message string `json:"message"`
}

func (e *PythonError) Error() string {
	return fmt.Sprintf("%s: %s (errno %d)", e.Class, e.Message, e.Errno)
}

// StartPython runs interop/python/peer.py and waits until it is ready.
func StartPython(t testing.TB, py Python) *PythonProcess {
	t.Helper()
	// It ends with the test, by Kill; a context would need one more owner.
	p := &PythonProcess{StartCommand(t, py.Cmd(context.Background(), "-c", peer.Peer)), py}
	p.what = py.String() // the command line is a whole program
	p.Line()
	return p
}

// Call has Python do op. The error is a *PythonError.
func (p *PythonProcess) Call(op string, args Args) (Reply, error) {
	p.t.Helper()
	request := maps.Clone(args)
	if request == nil {
		request = Args{}
	}
	request["op"] = op
	line, err := json.Marshal(request)
	if err != nil {
		p.fatalf("%s: %v", op, err)
	}
	p.Send(string(line))
	var answer struct {
		Reply
		PythonError
	}
	line = []byte(p.Line())
	if err := json.Unmarshal(line, &answer); err != nil {
		p.fatalf("%s: answered %q: %v", op, line, err)
	}
	if answer.Class != "" {
		return Reply{}, &answer.PythonError
	}
	if name, ok := args["name"]; ok && name == nil {
		Watch(answer.Name)
	}
	return answer.Reply, nil
}

// Must is Call for what has to succeed.
func (p *PythonProcess) Must(op string, args Args) Reply {
	p.t.Helper()
	r, err := p.Call(op, args)
	if err != nil {
		p.fatalf("%s %v: %v", op, args, err)
	}
	return r
}

// Exit has Python end as a program ends, and waits until it and its resource
// tracker, which acts after it, are gone. It returns what both wrote to
// standard error.
func (p *PythonProcess) Exit() (stderr string) {
	p.t.Helper()
	p.Must("exit", nil)
	p.CloseInput()
	// The tracker inherits standard error and nothing else of what we gave.
	status, stderr := p.WaitAll()
	if status != 0 {
		p.fatalf("exit status %d", status)
	}
	return stderr
}

// driver is the end of a Driven's program.
const driver = `
print("ready", flush=True)
for line in sys.stdin:
    try:
        try:
            answer = eval(line)
        except SyntaxError:
            answer = exec(line)
    except Exception as e:
        answer = type(e).__name__
    print(answer, flush=True)
`

// Driven is a Python that can import the modules of interop/python that are for
// users, and evaluates what it is sent, line by line.
type Driven struct{ *Process }

// StartDriven starts one with a program that precedes the first line.
func StartDriven(t testing.TB, py Python, program string, args ...string) Driven {
	t.Helper()
	dir := TempDir(t)
	if err := os.CopyFS(dir, peer.Modules); err != nil {
		t.Fatal(err)
	}
	program = fmt.Sprintf("import os, sys\nsys.path.insert(0, %q)\nsys.dont_write_bytecode = True\n", dir) + program + driver
	d := Driven{StartCommand(t, py.Cmd(t.Context(), append([]string{"-c", program}, args...)...))}
	d.Expect("ready")
	return d
}

// Do has it evaluate a line, and wants the answer: what print writes of the value, or
// the exception's class.
func (d Driven) Do(line, want string) {
	d.t.Helper()
	d.Send(line)
	if got := d.Line(); got != want {
		d.t.Fatalf("%s: %s, want %s\n%s", line, got, want, d.Stderr())
	}
}

// End has it end as programs do.
func (d Driven) End() {
	d.t.Helper()
	d.CloseInput()
	if status, errs := d.WaitAll(); status != 0 || errs != "" {
		d.t.Errorf("status %d: %s", status, errs)
	}
}
