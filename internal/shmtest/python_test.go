package shmtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPythons(t *testing.T) {
	found := Pythons(t)
	t.Logf("%v", found)
	for i, p := range found {
		if p.Major != 3 || p.Minor < 8 || i > 0 && p.Minor <= found[i-1].Minor {
			t.Errorf("%v: not one of each version in order: %v", p, found)
		}
		out, err := p.Cmd(t.Context(), "-c", "import platform; print(platform.python_version())").Output()
		version := strings.TrimSpace(string(out))
		if err != nil || version != p.Version && !(strings.HasSuffix(p.Version, "*") && strings.HasPrefix(version, "3.13.")) {
			t.Errorf("%v says %q, %v", p, out, err)
		}
	}
}

func TestPythonsEnds(t *testing.T) {
	t.Setenv("SHM_PYTHONS", "")
	all := withoutFuture(Pythons(t))
	t.Setenv("SHM_PYTHONS", "ends")
	ends := Pythons(t)
	if ends[0].Version != all[0].Version || len(all) > 2 && (len(ends) != 2 || ends[1].Version != all[len(all)-1].Version) {
		t.Errorf("of %v the ends are %v", all, ends)
	}
}

func TestPythonsRequired(t *testing.T) {
	t.Setenv("SHM_PYTHONS", "")
	pythons := func(t testing.TB) { Pythons(t) }
	// First of all with what the environment has, which may skip the test.
	found := Pythons(t)
	t.Setenv("SHM_REQUIRE", "python")
	if r := record(pythons); r.failed != "" || r.skipped != "" {
		t.Errorf("failed %q, skipped %q", r.failed, r.skipped)
	}
	t.Setenv("SHM_REQUIRE", "python3.99")
	if r := record(pythons); !strings.Contains(r.failed, "no Python 3.99") {
		t.Errorf("failed %q", r.failed)
	}
	has14 := false
	for _, p := range found {
		has14 = has14 || p.Minor == 14
	}
	t.Setenv("SHM_REQUIRE", "pyodide")
	if r := record(pythons); (r.failed == "") != has14 {
		t.Errorf("failed %q with %v", r.failed, found)
	}
}

func TestPythonsWith(t *testing.T) {
	const nothing = "shm_no_such_module"
	if r := record(func(t testing.TB) { PythonsWith(t, nothing) }); !strings.Contains(r.skipped, nothing) {
		t.Errorf("skipped %q, failed %q", r.skipped, r.failed)
	}
	t.Setenv("SHM_REQUIRE", nothing)
	if r := record(func(t testing.TB) { PythonsWith(t, nothing) }); !strings.Contains(r.failed, nothing) {
		t.Errorf("skipped %q, failed %q", r.skipped, r.failed)
	}
	t.Setenv("SHM_REQUIRE", "")
	// One that every Python has, always with the same version.
	found := PythonsWith(t, "json")
	if len(found) != 1 || found[0].Module == "" {
		t.Fatalf("json: %v", found)
	}
	p := StartPython(t, found[0])
	r := p.Must("run", Args{"code": "import json\nresult = [json.__version__, args]", "args": []int{1}})
	if got, want := string(r.Results), fmt.Sprintf("[%q, [1]]", found[0].Module); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if _, err := p.Call("run", Args{"code": "1 / 0"}); err == nil {
		t.Error("an exception is lost")
	}
	if stderr := p.Exit(); stderr != "" {
		t.Errorf("standard error: %s", stderr)
	}
}

// TestPeer proves the tests' own tools on every Python, before anything of ours
// takes part: in particular that Exit waits for the resource tracker.
func TestPeer(t *testing.T) {
	for _, py := range Pythons(t) {
		t.Run(py.Version, func(t *testing.T) {
			t.Parallel()
			a, b := StartPython(t, py), StartPython(t, py)
			made := a.Must("create", Args{"name": nil, "size": 10})
			if made.Name == "" || made.Repr != fmt.Sprintf("SharedMemory('%s', size=%d)", made.Name, made.Size) {
				t.Errorf("created %+v", made)
			}
			seen := b.Must("attach", Args{"name": made.Name})
			if seen.Name != made.Name || seen.Size < 10 {
				t.Errorf("attached %+v", seen)
			}
			a.Must("write", Args{"off": 2, "data": Hex("hello")})
			if got := string(b.Must("read", Args{"off": 0, "n": 8}).Data); got != "\x00\x00hello\x00" {
				t.Errorf("read %q", got)
			}

			_, err := b.Call("attach", Args{"name": Name(t), "block": "other"})
			var pe *PythonError
			if !errors.As(err, &pe) || pe.Class != "FileNotFoundError" || pe.Errno != 2 {
				t.Errorf("attaching nothing: %v", err)
			}

			if _, err := os.Stat(shmDir); err != nil {
				return // no system with a tracker that can be looked at
			}
			path := filepath.Join(shmDir, made.Name)
			if _, err := os.Stat(path); err != nil {
				t.Error(err)
			}
			// The attacher's tracker takes the block from under its creator.
			stderr := b.Exit()
			if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("after Exit of a Python that attached: %v", err)
			}
			if !strings.Contains(stderr, "1 leaked shared_memory objects") {
				t.Errorf("no warning on standard error: %s", stderr)
			}
			// The warning names its source: it must be the tracker of that version.
			for _, e := range py.Env {
				if dir, ok := strings.CutPrefix(e, "PYTHONPATH="); ok && !strings.Contains(stderr, dir) {
					t.Errorf("the tracker is not from %s: %s", dir, stderr)
				}
			}
			if _, err := a.Call("unlink", nil); !errors.As(err, &pe) || pe.Class != "FileNotFoundError" {
				t.Errorf("unlinking what the tracker has unlinked: %v", err)
			}
			a.Must("close", nil)
			a.Must("unregister", Args{"name": made.Name})
			if stderr := a.Exit(); stderr != "" {
				t.Errorf("standard error: %s", stderr)
			}
		})
	}
}
