package demo

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
)

// writeTree writes files, by their slash-separated names, below a new folder.
func writeTree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := shmtest.TempDir(t)
	for name, text := range files {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestSources(t *testing.T) {
	root := writeTree(t, map[string]string{"a": "one\n", "b/c": "", "b/d": "two words", "e": strings.Repeat("x", 1000)})
	if runtime.GOOS != "windows" { // where links need a privilege
		if err := os.Symlink(root, filepath.Join(root, "b", "loop")); err != nil {
			t.Fatal(err)
		}
	}
	find := func(limit int64, roots ...string) (*sources, []string) {
		t.Helper()
		s, err := findSources(t.Context(), roots, limit)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, f := range s.files {
			rel, _ := filepath.Rel(root, f.path)
			names = append(names, filepath.ToSlash(rel))
		}
		return s, names
	}
	all := []string{"a", "b/c", "b/d", "e"}
	if s, names := find(1<<20, root); !slices.Equal(names, all) || s.bytes != 1013 || s.limited || s.skipped != 0 {
		t.Errorf("found %q, %+v", names, s)
	}
	if _, names := find(1<<20, filepath.Join(root, "b"), root, filepath.Join(root, "a")); len(names) != 4 {
		t.Errorf("found %q, want every file once", names)
	}
	if s, names := find(1012, root); !slices.Equal(names, all[:3]) || !s.limited {
		t.Errorf("with a limit found %q, %+v", names, s)
	}
	if _, err := findSources(t.Context(), []string{filepath.Join(root, "no")}, 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing root gives %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := findSources(ctx, []string{root}, 1<<20); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}

	// Between the look and the reading, one goes, one grows and one shrinks.
	s, _ := find(1<<20, root)
	_, length := s.spread()
	text := make([]byte, length)
	if err := os.Remove(filepath.Join(root, "b", "c")); err != nil {
		t.Fatal(err)
	}
	for name, now := range map[string]string{"a": "one\nmore\n", "e": "yy"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(now), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var done atomic.Int64
	files, err := s.load(t.Context(), text, &done)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range files {
		got = append(got, string(text[f.off:][:f.n]))
	}
	if want := []string{"one\n", "two words", "yy"}; !slices.Equal(got, want) {
		t.Errorf("loaded %q, want %q", got, want)
	}
	if s.skipped != 1 || !errors.Is(s.why, fs.ErrNotExist) || done.Load() != 1013 {
		t.Errorf("skipped %d for %v, %d bytes done", s.skipped, s.why, done.Load())
	}
	if _, err := s.load(ctx, text, &done); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}
