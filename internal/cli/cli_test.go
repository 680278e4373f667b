package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

// blockDir is privateDir for tests that leave blocks in it.
func blockDir(t testing.TB) string {
	if runtime.GOOS == "windows" {
		t.Skip("on Windows a block dies with its last handle, and has no folder")
	}
	return privateDir(t)
}

// run executes a command line in this process.
func run(t testing.TB, stdin string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = Run(t.Context(), args, strings.NewReader(stdin), &out, &errs)
	return status, out.String(), errs.String()
}

func TestRun(t *testing.T) {
	dir := blockDir(t)
	if status, out, errs := run(t, "hello", "--dir", dir, "put", "a"); status != 0 || out+errs != "" {
		t.Fatalf("put: %d %q %q", status, out, errs)
	}
	if status, out, errs := run(t, "", "--dir", dir, "cat", "a"); status != 0 || out != "hello" || errs != "" {
		t.Fatalf("cat: %d %q %q", status, out, errs)
	}
	// Every command's document is one, and all of it JSON.
	for _, verb := range []string{"create c 4K", "ls", "ls -l", "info a", "info --python a", "prune", "prune -n", "rm c", "version"} {
		_, out, errs := run(t, "", append([]string{"--dir", dir, "--json"}, strings.Fields(verb)...)...)
		d := json.NewDecoder(strings.NewReader(out))
		var v map[string]any
		if err := d.Decode(&v); err != nil || d.Decode(&v) != io.EOF {
			t.Errorf("%s: no single JSON document: %v\n%s\n%s", verb, err, out, errs)
		}
	}
}

// A transfer that waits for its source ends when the context does, and leaves
// nothing.
func TestInterrupt(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	dir := blockDir(t)
	r, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		io.WriteString(w, "the first of two words")
		cancel()
	}()
	var out, errs bytes.Buffer
	status := Run(ctx, []string{"--dir", dir, "put", "never"}, r, &out, &errs)
	if status != exitInterrupted || !strings.Contains(errs.String(), "interrupted") {
		t.Errorf("status %d, %q", status, errs.String())
	}
	if _, err := shm.Dir(dir).Stat("never"); err == nil {
		t.Error("half a block has appeared")
	}
	w.CloseWithError(errors.New("over")) // the reader left behind ends
}

func TestPipeGone(t *testing.T) {
	dir := blockDir(t)
	if status, _, errs := run(t, strings.Repeat("x", 1<<16), "--dir", dir, "put", "a"); status != 0 {
		t.Fatal(errs)
	}
	r, w := io.Pipe()
	r.Close()
	var errs bytes.Buffer
	if status := Run(t.Context(), []string{"--dir", dir, "cat", "a"}, nil, w, &errs); status != 0 || errs.Len() > 0 {
		t.Errorf("status %d, %q", status, errs.String())
	}
	// Any other failure to write is one.
	if status := Run(t.Context(), []string{"--dir", dir, "cat", "a"}, nil, failing{}, &errs); status != exitFailure || !strings.Contains(errs.String(), "disk on fire") {
		t.Errorf("status %d, %q", status, errs.String())
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("disk on fire") }

// A block that is made smaller while it is written out is an error, not a
// crash.
func TestCatTruncated(t *testing.T) {
	dir := blockDir(t)
	if status, _, errs := run(t, strings.Repeat("x", 3*piece), "--dir", dir, "put", "a"); status != 0 {
		t.Fatal(errs)
	}
	var errs bytes.Buffer
	shrink := writer(func(p []byte) (int, error) {
		return len(p), os.Truncate(filepath.Join(dir, "a"), 4096)
	})
	if status := Run(t.Context(), []string{"--dir", dir, "cat", "a"}, nil, shrink, &errs); status != exitFailure || !strings.Contains(errs.String(), "truncated") {
		t.Errorf("status %d, %q", status, errs.String())
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// Looking at a block does not make it occupy memory.
func TestCatHoles(t *testing.T) {
	dir := blockDir(t)
	if status, _, errs := run(t, "", "--dir", dir, "create", "--sparse", "a", "4M"); status != 0 {
		t.Fatal(errs)
	}
	if status, out, errs := run(t, "", "--dir", dir, "cat", "a"); status != 0 || len(out) != 4<<20 {
		t.Fatalf("%d: %d bytes, %s", status, len(out), errs)
	}
	if info, err := shm.Dir(dir).Stat("a"); err != nil || info.Resident != 0 {
		t.Errorf("%d bytes resident, %v", info.Resident, err)
	}
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	a := &app{stdout: &out, color: "always"}
	tab := a.newTable("NAME", ">N", "")
	tab.row("é", 1, "")
	tab.row(cell{red, "long"}, 1000, "end")
	if err := tab.flush(); err != nil {
		t.Fatal(err)
	}
	want := "\x1b[1mNAME\x1b[0m     \x1b[1mN\x1b[0m\né        1\n\x1b[31mlong\x1b[0m  1000  end\n"
	if out.String() != want {
		t.Errorf("got\n%q, want\n%q", out.String(), want)
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"cam0": "cam0", "größe": "größe", "a b": "a b", "": `""`, " a": `" a"`, "a\nb": `"a\nb"`,
		"\x1b[2J": `"\x1b[2J"`, "\xff": `"\xff"`, `"x"`: `"\"x\""`, "a\u202eb": `"a\u202eb"`,
	} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestAge(t *testing.T) {
	now := time.Unix(1e9, 0)
	for ago, want := range map[time.Duration]string{
		-time.Second: "0s", 59 * time.Second: "59s", time.Minute: "1m", 3*time.Hour - 1: "2h", 47 * time.Hour: "47h", 72 * time.Hour: "3d",
	} {
		if got := age(now.Add(-ago), now); got != want {
			t.Errorf("age of %v = %s, want %s", ago, got, want)
		}
	}
	if got := age(time.Time{}, now); got != "-" {
		t.Errorf("age of nothing = %s", got)
	}
}

func TestProgressLine(t *testing.T) {
	for _, c := range []struct {
		done, total int64
		elapsed     time.Duration
		width       int
		want        string
	}{
		{1 << 20, 4 << 20, time.Second, 99, "put a [=======                       ]  25%  1.0 MiB of 4.0 MiB  1.0 MiB/s  3s left"},
		{4 << 20, 4 << 20, time.Second, 79, "put a [==============================] 100%  4.0 MiB of 4.0 MiB  4.0 MiB/s"},
		{5 << 20, 4 << 20, time.Second, 79, "put a [==============================] 100%  5.0 MiB of 4.0 MiB  5.0 MiB/s"},
		{1 << 20, 0, 2 * time.Second, 79, "put a 1.0 MiB  512.0 KiB/s"},
		{1 << 20, 4 << 20, 0, 20, "put a  25%  1.0 MiB "},
	} {
		if got := progressLine("put a", c.done, c.total, c.elapsed, c.width); got != c.want {
			t.Errorf("got  %q\nwant %q", got, c.want)
		}
	}
}

// FuzzArgs looks for command lines that make the parsing panic, or end in
// another status than there is. Only verbs that change nothing take part, and
// they look into an empty folder; and list, which makes its blocks there.
func FuzzArgs(f *testing.F) {
	for _, s := range []string{"ls", "ls -l --sort size", "info a --python", "cat --offset 1K x", "version --json", "help put", "--color\x00never", "create --help", "__complete ls \x00", "rm -h", "ls [a",
		"list x -1", "list x 0 -1 --type int", "list --create x 1 -2.5 'a' b'\\x00' None", "list --create x --concurrent --layout=3.8 --json y -- -z", "list --verify x"} {
		f.Add(s)
	}
	dir := shmtest.TempDir(f)
	safe := map[string]bool{"ls": true, "list": true, "info": true, "stat": true, "cat": true, "version": true, "help": true, "completion": true}
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' })
		a := &app{}
		root := a.newRoot()
		// What cobra would run decides, not what stands first in the line.
		verb, _, err := root.Find(args)
		if err == nil && verb != root && !safe[topName(verb)] {
			args = []string{topName(verb), "--help"}
		}
		for _, arg := range args {
			if strings.HasPrefix(arg, "--pid") || strings.HasPrefix(arg, "--dir") || strings.HasPrefix(arg, "__") {
				return // elsewhere than our folder
			}
			if strings.HasPrefix(arg, "--from") {
				return // any file, also one that does not end
			}
		}
		defer func() {
			made, err := shm.Dir(dir).List()
			for _, b := range made {
				err = errors.Join(err, shm.Dir(dir).Unlink(b.Name))
			}
			if err != nil && !isUnsupported(err) { // there, they are gone already
				t.Error(err)
			}
		}()
		args = append([]string{"--dir", dir}, args...)
		var out, errs bytes.Buffer
		status := Run(t.Context(), args, strings.NewReader(""), &out, &errs)
		if status != exitOK && status != exitFailure && status != exitUsage {
			t.Errorf("%q: status %d", args, status)
		}
		if status != exitOK && !strings.Contains(errs.String(), "shm: ") {
			t.Errorf("%q: an error that says nothing: %q", args, errs.String())
		}
	})
}

// topName is the verb below the root that a command belongs to.
func topName(c interface{ CommandPath() string }) string {
	_, rest, _ := strings.Cut(c.CommandPath(), " ")
	name, _, _ := strings.Cut(rest, " ")
	return name
}

// fixture writes the files of a made-up machine and returns its root.
func fixture(t *testing.T, files map[string]string) string {
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

func findings(e *examination, level string) (texts string) {
	for _, f := range e.list {
		if f.Level == level {
			texts += fmt.Sprintf("%s: %s [%s]\n", f.Check, f.Text, f.Remedy)
		}
	}
	return texts
}

// Every field of the documents is in the page of help about them.
func TestJSONTopic(t *testing.T) {
	text := newJSONTopic(nil).Long
	words := map[string]bool{}
	for _, w := range strings.FieldsFunc(text, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') }) {
		words[w] = true
	}
	var check func(typ reflect.Type)
	check = func(typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice:
			check(typ.Elem())
		case reflect.Struct:
			if typ == reflect.TypeFor[time.Time]() {
				return
			}
			for f := range typ.Fields() {
				name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				if !f.Anonymous && !words[name] {
					t.Errorf("shm help json does not mention %s.%s", typ, name)
				}
				check(f.Type)
			}
		}
	}
	for _, doc := range []any{blockDoc{}, pruned{}, dfDoc{}, finding{}, listDoc{}, itemDoc{}, verifyDoc{}, serveDoc{}, servedDoc{}, managedDoc{}, describeDoc{}} {
		check(reflect.TypeOf(doc))
	}
}
