package pyproc

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/sharedmem/shm/internal/pickle"
	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

// What a child is given at first is written in one go, before it reads.
func TestFamilyFitsPipe(t *testing.T) {
	b, err := family(strings.Repeat("/long", 800)+"/script.py", false)
	if err != nil || len(b) > 60<<10 {
		t.Errorf("%d bytes, %v; a pipe takes 64 KiB", len(b), err)
	}
}

func TestFind(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("programs have other names there, and workers are for Linux")
	}
	dir := shmtest.TempDir(t)
	program := func(path string) string {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	venv := program("venv/bin/python3")
	conda := program("conda/bin/python")
	old, newest := program("pyenv/versions/3.12.9/bin/python3"), program("pyenv/versions/3.12.10/bin/python3")
	program("pyenv/versions/3.13.0rc1/bin/python3")
	program("pyenv/versions/3.1.2/bin/python3")
	inPath, versioned := program("bin/python3"), program("bin/python3.11")
	t.Setenv("PYENV_ROOT", filepath.Join(dir, "pyenv"))
	t.Setenv("PATH", filepath.Join(dir, "bin"))
	t.Setenv("VIRTUAL_ENV", "")
	for what, want := range map[string]string{
		"": inPath, "python3": inPath, "python3.11": versioned, "3.11": versioned, "3.12": newest, "3.12.9": old,
		filepath.Join(dir, "venv"): venv, filepath.Join(dir, "conda"): conda, venv: venv,
	} {
		if got, err := Find(what); got != want || err != nil {
			t.Errorf("%q is %s, want %s; %v", what, got, want, err)
		}
	}
	for _, what := range []string{"3.13", "3.14", "3.12.1", "python3.12", filepath.Join(dir, "pyenv"), filepath.Join(dir, "none")} {
		if got, err := Find(what); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q is %s, %v", what, got, err)
		}
	}
	t.Setenv("VIRTUAL_ENV", filepath.Join(dir, "venv"))
	if got, err := Find(""); got != venv || err != nil {
		t.Errorf("in an environment: %s, %v", got, err)
	}
}

// Whatever a child sends is an error at worst.
func FuzzFrame(f *testing.F) {
	ok, err := pickle.Marshal(pickle.Tuple{"ValueError", "text", "trace"}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append([]byte{1, 0, 0, 0, 0, 0, 0, 0, stateFailed, 0, 0}, ok...))
	f.Add(append([]byte{1, 0, 0, 0, 0, 0, 0, 0, stateDone, 0, 0}, ok...))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, stateDone, 1, 0, 200, 'a'})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 11 {
			b[9], b[10] = 0, 0 // names of blocks would be taken over
		}
		r, err := (&Child{}).parse(b)
		if err != nil {
			if !errors.Is(err, ErrProtocol) {
				t.Error(err)
			}
			return
		}
		if r.Err == nil {
			var v any
			_, _ = Decode(r.Pickle, &v)
			var s struct {
				A []int
				B map[string]float64
			}
			_, _ = Decode(r.Pickle, &s)
		}
	})
}
