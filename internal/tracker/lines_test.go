package tracker

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
)

// vectors reads a file of testdata/vectors.
func vectors(t testing.TB, name string, to any) {
	t.Helper()
	b, err := os.ReadFile("../../testdata/vectors/" + name)
	if err == nil {
		err = json.Unmarshal(b, to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What every CPython writes is read, and the plain form of what we write is
// what they write.
func TestLinesVectors(t *testing.T) {
	var events []struct{ Python, Event, Bytes string }
	vectors(t, "resource_tracker_lines.json", &events)
	for _, e := range events {
		want := Line{Register, "/tl_seg", SharedMemory}
		switch {
		case strings.Contains(e.Event, "track=False"), e.Event == "close()":
			want = Line{}
		case strings.HasPrefix(e.Event, "unlink"):
			want.Cmd = Unregister
		case strings.HasPrefix(e.Event, "ensure_running"):
			want = Line{}
			if e.Bytes == "" {
				t.Errorf("%s: ensure_running writes nothing", e.Python)
			}
		case strings.HasPrefix(e.Event, "register("):
			want = Line{Register, "/mp-abcd1234", Semaphore}
		}
		var got Line
		readLines(strings.NewReader(e.Bytes), func(b []byte) {
			l, err := ParseLine(b)
			if err != nil {
				t.Errorf("%s, %s: %q: %v", e.Python, e.Event, b, err)
			}
			if l.Cmd == Probe {
				return
			}
			got = l
			if b[0] == '{' {
				return
			}
			if plain, err := l.Append(nil); err != nil || string(plain) != string(b) {
				t.Errorf("%s writes %q, we %q, %v", e.Python, b, plain, err)
			}
		})
		if got != want {
			t.Errorf("%s, %s: %+v, want %+v", e.Python, e.Event, got, want)
		}
	}
	if len(events) < 20 {
		t.Errorf("%d events only", len(events))
	}
}

func TestParseLine(t *testing.T) {
	for text, want := range map[string]Line{
		"REGISTER:/a:shared_memory":                   {Register, "/a", SharedMemory},
		"  UNREGISTER:/a:shared_memory\r\n":           {Unregister, "/a", SharedMemory},
		"REGISTER:/a:b:c:semaphore\n":                 {Register, "/a:b:c", Semaphore},
		"REGISTER:::\n":                               {Register, ":", ""},
		"PROBE:0:noop\n":                              {Probe, "0", "noop"},
		"FROB:/a b:folder":                            {"FROB", "/a b", "folder"},
		`{"cmd":"PROBE","rtype":"noop"}` + "\n":       {Probe, "", "noop"},
		`{"rtype":"x","base64_name":"_-8=","cmd":""}`: {"", "\xff\xef", "x"},
		`{ "cmd" : "PROBE" , "rtype" : "noop" }`:      {Probe, "", "noop"},
	} {
		if l, err := ParseLine([]byte(text)); err != nil || l != want {
			t.Errorf("%q: %+v, %v", text, l, err)
		}
	}
	for _, text := range []string{
		"", "\n", "REGISTER", "REGISTER:/a", "REGISTER:/\xc3\xa9:shared_memory", "{", "{}", `{"cmd":"PROBE"}`,
		`{"cmd":1,"rtype":"noop"}`, `{"cmd":"PROBE","rtype":"noop","base64_name":7}`, `{"cmd":"PROBE","rtype":"noop","base64_name":null}`,
		`{"CMD":"PROBE","rtype":"noop"}`, `{"cmd":"PROBE","rtype":"noop","base64_name":"abc"}`, `{"cmd":"PROBE","rtype":"noop"} x`,
		`{"cmd":"PROBE","rtype":"noop","base64_name":"+/8="}`,
	} {
		if l, err := ParseLine([]byte(text)); !errors.Is(err, errLine) {
			t.Errorf("%q: %+v, %v", text, l, err)
		}
	}
}

func TestAppendLine(t *testing.T) {
	long := Line{Register, "/" + strings.Repeat("x", 255), SharedMemory}
	if b, err := long.Append([]byte("before")); err != nil || !strings.HasPrefix(string(b), "beforeREGISTER:/x") {
		t.Errorf("the longest name: %q, %v", b, err)
	}
	for _, name := range []string{"/a:b", "/a\nb", "/é", "/\xff", "/" + strings.Repeat("x", 500)} {
		if b, err := (Line{Register, name, SharedMemory}).Append([]byte("before")); !errors.Is(err, ErrPlain) || string(b) != "before" {
			t.Errorf("%q: %q, %v", name, b, err)
		}
	}
}

// A line that is too long costs no memory and nothing but itself.
func TestReadLinesTooLong(t *testing.T) {
	a, b := "PROBE:0:noop\n", "REGISTER:/b:shared_memory" // the last without newline
	for _, n := range []int{maxLine - 1, maxLine, maxLine + 1, 3*maxLine - 1, 1 << 20} {
		in := io.MultiReader(strings.NewReader(a), strings.NewReader(strings.Repeat("x", n)), strings.NewReader("\n"+a+b))
		var got []string
		bad := readLines(bufio.NewReaderSize(in, maxLine), func(l []byte) { got = append(got, string(l)) })
		want := []string{a, a, b}
		if n < maxLine {
			want = slices.Insert(want, 1, strings.Repeat("x", n)+"\n")
		} else if bad != 1 {
			t.Errorf("%d bytes: %d bad lines", n, bad)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d bytes: %.99q", n, got)
		}
	}
	if bad := readLines(strings.NewReader(strings.Repeat("x", maxLine)), func([]byte) { t.Error("a line") }); bad != 1 {
		t.Errorf("%d bad lines", bad)
	}
}

// FuzzLines: whatever comes, each line is read or refused, what is read is
// written as it was if it can be, and a registry survives it.
func FuzzLines(f *testing.F) {
	var events []struct{ Bytes string }
	vectors(f, "resource_tracker_lines.json", &events)
	for _, e := range events {
		f.Add([]byte(e.Bytes))
	}
	var cases []struct {
		Lines []string `json:"lines_written"`
	}
	vectors(f, "resource_tracker_behaviour.json", &cases)
	for _, c := range cases {
		f.Add([]byte(strings.Join(c.Lines, "")))
	}
	f.Add([]byte(strings.Repeat("REGISTER:/x", maxLine/8)))
	dir := shmtest.TempDir(f)
	if _, err := newRegistry(dir); errors.Is(err, errors.ErrUnsupported) {
		f.Skip("no names are removed on this system")
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := newRegistry(dir)
		if err != nil {
			t.Fatal(err)
		}
		lines := 0
		bad := readLines(strings.NewReader(string(text)), func(b []byte) {
			lines++
			l, err := ParseLine(b)
			if err != nil {
				return
			}
			if l.Cmd != Register && l.Cmd != Unregister || l.Type != SharedMemory && l.Type != Semaphore {
				return
			}
			if plain, err := l.Append(nil); err == nil {
				if again, err := ParseLine(plain); err != nil || again != l {
					t.Errorf("%+v comes back as %+v, %v", l, again, err)
				}
			}
		})
		r.read(strings.NewReader(string(text)))
		if r.bad < bad || len(r.set) > lines {
			t.Errorf("%d bad of %d, %d names", r.bad, lines, len(r.set))
		}
		for _, err := range r.clean() {
			t.Error(err)
		}
	})
}
