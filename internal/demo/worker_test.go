package demo

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

// Python and Go count the same, to the last byte, whatever the bytes.
func TestPythonAgrees(t *testing.T) {
	root, whole := sampleTree(t)
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.String(), func(t *testing.T) {
			found, err := findSources(t.Context(), []string{root}, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			r := &run{Options: Options{Workers: 1}, interpreter: interpreter{path: py.Path}}
			if err := r.create(found); err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := r.remove(); err != nil {
					t.Error(err)
				}
			}()
			if err := r.load(t.Context(), found); err != nil {
				t.Fatal(err)
			}
			// As it was cut for this run, and everything to Python.
			for _, parts := range [][]extent{r.index.parts, {{}, {0, len(r.textBytes)}, {}}} {
				r.index.parts = parts
				r.index.encode(r.text.Bytes())
				cmd := py.Cmd(t.Context(), "-c", workerPython, r.text.Name(), r.result.Name(), "1", "1")
				if err := runWorker(cmd, nil, &r.cpu); err != nil {
					t.Fatal(err)
				}
				slot, err := resultSlot(r.result.Bytes(), 1)
				if err != nil {
					t.Fatal(err)
				}
				got, err := decodeResult(slot)
				if err != nil {
					t.Fatal(err)
				}
				want, err := r.index.countPart(t.Context(), r.textBytes, parts[1], noProgress)
				if err != nil {
					t.Fatal(err)
				}
				list := want.list()
				slices.SortFunc(got.List, byCount)
				if got.Tally != want.Tally || got.Distinct != uint64(len(list)) || got.Nanoseconds == 0 {
					t.Errorf("Python counted %+v, %d different; Go %+v, %d", got.Tally, got.Distinct, want.Tally, len(list))
				}
				// What had no room is left out by the same rule as Go's.
				ours := *want.result(time.Now())
				copied := make([]byte, len(slot))
				ours.encode(copied)
				if kept, err := decodeResult(copied); err != nil || got.Cut != kept.Cut || !slices.Equal(got.List, kept.List) {
					t.Errorf("Python listed %d (cut %d), Go %d (cut %d), %v", len(got.List), got.Cut, len(kept.List), kept.Cut, err)
				}
			}
			if whole.Files != uint64(len(r.index.files)) {
				t.Errorf("%d files of %d", len(r.index.files), whole.Files)
			}
			// Its resource tracker is gone as well by now, and must not have
			// taken the blocks along.
			for _, b := range []*shm.Block{r.text, r.result} {
				if _, err := shm.Stat(b.Name()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// A Python that cannot take part is left out, and the text says why.
func TestFindPython(t *testing.T) {
	if p := findPython(t.Context(), false); p.path != "" || p.why != "not wanted" {
		t.Errorf("got %+v", p)
	}
	bin := shmtest.TempDir(t)
	t.Setenv("PATH", bin)
	if p := findPython(t.Context(), true); p.path != "" || !strings.Contains(p.why, "no python3") {
		t.Errorf("got %+v", p)
	}
	if runtime.GOOS == "windows" {
		return // a script is no program there
	}
	for script, want := range map[string]string{
		"exit 1":                         "which came with 3.8",
		"echo what":                      "does not say",
		"echo; echo":                     "does not say",
		"echo /x/py; echo cpython 3 9 1": "",
	} {
		if err := os.WriteFile(filepath.Join(bin, "python3"), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		p := findPython(t.Context(), true)
		if want == "" && (p.path != "/x/py" || p.version != "Python 3.9.1" || p.why != "") || !strings.Contains(p.why, want) {
			t.Errorf("%q: got %+v", script, p)
		}
	}
}
