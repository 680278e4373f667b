package shm_test

import (
	"fmt"
	"go/ast"
	"go/build"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sharedmem/shm"

// layers is the map of the repository, top first. A package may import
// packages of lower layers only, never its neighbours: what two neighbours
// both need belongs below them. "*" stands for any folder under that path.
var layers = [][]string{
	{"cmd/*", "examples/*"},
	{"internal/cli"},
	{"internal/demo"},
	{"worker", "manager"},
	{"array/npz", "internal/pyproc"}, // above array, whose files the one packs, and whose views the other sends
	{"conn", "list", "array", "lock", "ring", "topic"},
	{"internal/party"}, // what ring and topic stand on
	{"."},
	{"internal/tracker"},
	{"internal/lease", "internal/npy"},
	{"internal/step"},
	{"internal/layout", "internal/guard", "internal/pickle"},
	{"internal/platform/*"},
	{"internal/crash"}, // lowest, so that a crash point can stand anywhere
}

// testOnly are the libraries of our tests, which stand beside the layers.
var testOnly = []string{"internal/shmtest", "internal/shmtest/explore", "interop/python"}

// layer returns where dir stands, 0 being the top, or -1.
func layer(dir string) int {
	return slices.IndexFunc(layers, func(dirs []string) bool {
		return slices.ContainsFunc(dirs, func(d string) bool {
			prefix, sub := strings.CutSuffix(d, "*")
			return d == dir || sub && strings.HasPrefix(dir, prefix)
		})
	})
}

// archCheck returns what is wrong with one Go file at name, a slash-separated path
// from the root of the repository.
//
// Tests are free in what they import and which systems they are for: a test of
// a low layer may well drive a high one.
func archCheck(name string, src []byte) (faults []string, err error) {
	if strings.HasSuffix(name, "_test.go") {
		return nil, nil
	}
	f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		return nil, err
	}
	fault := func(format string, args ...any) {
		faults = append(faults, name+": "+fmt.Sprintf(format, args...))
	}

	dir := path.Dir(name)
	platform := strings.HasPrefix(dir, "internal/platform/")
	tests := slices.Contains(testOnly, dir)
	here := layer(dir)
	if here < 0 && !tests {
		fault("folder %s is not in the map in arch_test.go", dir)
		return faults, nil
	}

	for _, spec := range f.Imports {
		imp := strings.Trim(spec.Path.Value, "`\"")
		own, isOwn := strings.CutPrefix(imp+"/", module+"/")
		switch own = path.Clean(own); {
		case isOwn && slices.Contains(testOnly, own):
			if !tests {
				fault("imports %s outside a test", own)
			}
		case isOwn && tests:
			fault("imports %s: what every package's tests stand on stands on none of them", own)
		case isOwn && layer(own) < 0:
			fault("imports %s, which is not in the map in arch_test.go", own)
		case isOwn && layer(own) == here:
			fault("imports its neighbour %s", own)
		case isOwn && layer(own) < here:
			fault("imports %s, which stands above it", own)
		case isOwn && here == 0 && strings.HasPrefix(dir, "examples/") && strings.HasPrefix(own, "internal/"):
			fault("imports %s: examples use what users can use", own)
		case isOwn:
		case imp == "unsafe":
			if !platform && dir != "internal/layout" {
				fault("imports unsafe, which stays in internal/platform and internal/layout")
			}
		case imp == "C":
			fault("imports C: everything must build without cgo")
		case strings.HasPrefix(imp, "golang.org/x/sys/"):
		case here > 1 || tests:
			// The standard library's paths have no dot in their first element.
			if first, _, _ := strings.Cut(imp, "/"); strings.Contains(first, ".") {
				fault("imports %s: the library stands on the standard library and golang.org/x/sys", imp)
			}
		}
	}

	if !platform {
		if bySuffix(path.Base(name)) {
			fault("is for one system only, by its name; such files stay in internal/platform")
		}
		if tag := systemTag(f); tag != "" {
			fault("has //go:build %s; files for one system stay in internal/platform", tag)
		}
	}
	return faults, nil
}

// bySuffix reports whether the go command would leave a file out on some
// system because of its name alone, as mem_linux.go or word_amd64.go.
func bySuffix(base string) bool {
	nowhere := build.Context{GOOS: "none", GOARCH: "none", Compiler: "gc",
		OpenFile: func(string) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader("package p\n")), nil
		}}
	match, err := nowhere.MatchFile("", base)
	return err == nil && !match
}

// systemTag returns a file's build constraint, if it has one that asks for
// more than the race detector or the crash points of our tests.
func systemTag(f *ast.File) string {
	for _, group := range f.Comments {
		if group.Pos() > f.Package {
			break
		}
		for _, c := range group.List {
			if !constraint.IsGoBuild(c.Text) {
				continue
			}
			x, err := constraint.Parse(c.Text)
			if err != nil {
				return err.Error()
			}
			other := false
			x.Eval(func(tag string) bool {
				other = other || tag != "race" && tag != "shmcrash"
				return true
			})
			if other {
				return x.String()
			}
		}
	}
	return ""
}

// TestArchitecture reads every file, whatever its build constraints, which
// go list would not.
func TestArchitecture(t *testing.T) {
	files := 0
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name == "." {
				return nil
			}
			// As the go command does: hidden and underscored folders, testdata,
			// and modules of their own are not part of this one.
			_, err := os.Stat(filepath.Join(name, "go.mod"))
			if err == nil || strings.HasPrefix(d.Name(), ".") || strings.HasPrefix(d.Name(), "_") || d.Name() == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		src, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		files++
		faults, err := archCheck(filepath.ToSlash(name), src)
		for _, f := range faults {
			t.Error(f)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 10 {
		t.Errorf("found only %d Go files: is this the root of the repository?", files)
	}
}

// TestArchitectureCheck proves that the check can fail, and that it does not
// fail on what is allowed.
func TestArchitectureCheck(t *testing.T) {
	own := func(p string) string { return module + "/" + p }
	for _, tt := range []struct {
		file, tag, imp string
		want           string // part of the one fault, or "" for none
	}{
		// Down is fine, by one layer or several.
		{file: "cmd/shm/main.go", imp: own("internal/cli")},
		{file: "internal/cli/ls.go", imp: module},
		{file: "worker/pool.go", imp: own("ring")},
		{file: "list/list.go", imp: module},
		{file: "list/list.go", imp: own("internal/layout")},
		{file: "block.go", imp: own("internal/platform/mem")},
		{file: "internal/tracker/tracker.go", imp: own("internal/lease")},
		{file: "examples/hello/writer/main.go", imp: own("list")},
		// Up and sideways are not.
		{file: "block.go", imp: own("list"), want: "stands above"},
		{file: "internal/demo/run.go", imp: own("internal/cli"), want: "stands above"},
		{file: "internal/layout/cast.go", imp: module, want: "stands above"},
		{file: "internal/lease/lease.go", imp: own("internal/tracker"), want: "stands above"},
		{file: "internal/cli/ls.go", imp: own("cmd/shm"), want: "stands above"},
		{file: "list/list.go", imp: own("array"), want: "neighbour"},
		{file: "manager/manager.go", imp: own("worker"), want: "neighbour"},
		{file: "internal/platform/mem/mem_linux.go", imp: own("internal/platform/proc"), want: "neighbour"},
		{file: "internal/platform/wait/wait.go", imp: own("internal/guard"), want: "stands above"},
		// Places that nobody put on the map.
		{file: "misc/misc.go", imp: "fmt", want: "not in the map"},
		{file: "block.go", imp: own("internal/util"), want: "not in the map"},
		{file: "examples/hello/main.go", imp: own("internal/layout"), want: "what users can use"},
		// The tests' own library.
		{file: "internal/shmtest/main.go", imp: "os/exec"},
		{file: "internal/shmtest/main.go", imp: "golang.org/x/sys/unix"},
		{file: "internal/shmtest/python.go", imp: own("interop/python")},
		{file: "internal/shmtest/main.go", imp: module, want: "on none of them"},
		{file: "ring/ring.go", imp: own("internal/shmtest"), want: "outside a test"},
		{file: "internal/demo/run.go", imp: own("interop/python"), want: "outside a test"},
		{file: "ring/ring_test.go", imp: own("internal/shmtest")},
		// Crash points stand anywhere.
		{file: "internal/platform/mem/mem.go", imp: own("internal/crash")},
		{file: "internal/crash/crash.go", imp: own("internal/platform/mem"), want: "stands above"},
		// unsafe, C and other people's modules.
		{file: "internal/platform/mem/mem.go", imp: "unsafe"},
		{file: "internal/layout/cast.go", imp: "unsafe"},
		{file: "view.go", imp: "unsafe", want: "unsafe"},
		{file: "internal/cli/ls.go", imp: "unsafe", want: "unsafe"},
		{file: "internal/platform/mem/mem_darwin.go", imp: "C", want: "without cgo"},
		{file: "lock/lock.go", imp: "golang.org/x/sys/cpu"},
		{file: "lock/lock.go", imp: "golang.org/x/term", want: "the library stands on"},
		{file: "conn/conn.go", imp: "github.com/Microsoft/go-winio", want: "the library stands on"},
		{file: "internal/demo/run.go", imp: "github.com/spf13/cobra", want: "the library stands on"},
		{file: "internal/shmtest/main.go", imp: "go.uber.org/goleak", want: "the library stands on"},
		{file: "internal/cli/root.go", imp: "github.com/spf13/cobra"},
		{file: "conn/conn_test.go", imp: "github.com/google/go-cmp/cmp"},
		// Files for one system.
		{file: "internal/platform/mem/mem_windows.go", imp: "fmt"},
		{file: "internal/platform/mem/mem_other.go", tag: "!linux && !windows", imp: "fmt"},
		{file: "block_linux.go", imp: "fmt", want: "by its name"},
		{file: "lock/word_arm64.go", imp: "fmt", want: "by its name"},
		{file: "internal/cli/df_windows_386.go", imp: "fmt", want: "by its name"},
		{file: "block_unix.go", tag: "unix", imp: "fmt", want: "//go:build unix"},
		{file: "block.go", tag: "!race && linux", imp: "fmt", want: "//go:build !race && linux"},
		{file: "block_race.go", tag: "race", imp: "fmt"},
		{file: "internal/lease/crash.go", tag: "!shmcrash", imp: "fmt"},
		{file: "block_linux_test.go", imp: "fmt"},
		{file: "block_unix_test.go", tag: "unix", imp: "fmt"},
	} {
		src := "package p\n\nimport _ \"" + tt.imp + "\"\n"
		if tt.tag != "" {
			src = "// A file.\n\n//go:build " + tt.tag + "\n\n" + src
		}
		faults, err := archCheck(tt.file, []byte(src))
		switch {
		case err != nil:
			t.Errorf("%s: %v", tt.file, err)
		case tt.want == "" && len(faults) > 0:
			t.Errorf("%s %s: unexpected: %v", tt.file, tt.imp, faults)
		case tt.want != "" && (len(faults) != 1 || !strings.Contains(faults[0], tt.want)):
			t.Errorf("%s %s: got %q, want one fault with %q", tt.file, tt.imp, faults, tt.want)
		}
	}
	if _, err := archCheck("block.go", []byte("packag shm")); err == nil {
		t.Error("a file that does not parse was let through")
	}
}
