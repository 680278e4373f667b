package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/list"
)

func TestParseItem(t *testing.T) {
	type bad struct{}
	for _, c := range []struct {
		text string
		as   itemType
		want any
	}{
		{"None", byLook, nil}, {"none", byLook, nil}, {"null", byLook, nil}, {"nil", byLook, nil}, {"NONE", byLook, "NONE"},
		{"True", byLook, true}, {"false", byLook, false}, {"TRUE", byLook, "TRUE"}, {"yes", byLook, "yes"},
		{"0", byLook, int64(0)}, {"-0", byLook, int64(0)}, {"-7", byLook, int64(-7)}, {"007", byLook, "007"}, {"+1", byLook, "+1"},
		{"0x10", byLook, "0x10"}, {"1_000", byLook, "1_000"}, {" 1", byLook, " 1"}, {"1 ", byLook, "1 "}, {"-", byLook, "-"}, {"1\n", byLook, "1\n"},
		{"9223372036854775807", byLook, int64(math.MaxInt64)}, {"-9223372036854775808", byLook, int64(math.MinInt64)},
		{"9223372036854775808", byLook, bad{}}, {"-9223372036854775809", byLook, bad{}},
		{"1.5", byLook, 1.5}, {"1.", byLook, 1.0}, {".5", byLook, 0.5}, {"-.5e-3", byLook, -0.0005}, {"1e3", byLook, 1000.0}, {"1E+3", byLook, 1000.0},
		{"1e16", byLook, 1e16}, {"5e-324", byLook, 5e-324}, {"1e999", byLook, bad{}}, {".", byLook, "."}, {"1.2.3", byLook, "1.2.3"}, {"1e", byLook, "1e"}, {"e5", byLook, "e5"},
		{"inf", byLook, math.Inf(1)}, {"-inf", byLook, math.Inf(-1)}, {"infinity", byLook, "infinity"},
		{"", byLook, ""}, {"two words", byLook, "two words"}, {"\xff", byLook, bad{}},
		{`'42'`, byLook, "42"}, {`"42"`, byLook, "42"}, {`''`, byLook, ""}, {`'`, byLook, `'`}, {`'tis`, byLook, `'tis`}, {`b`, byLook, "b"}, {`b'`, byLook, `b'`},
		{`'\x41\u00e9\U0001f600\n\0\101\1018\'\\'`, byLook, "Aé😀\n\x00AA8'\\"}, {`"it's"`, byLook, "it's"},
		{`b'\xff\x00\777'`, byLook, bad{}}, {`b'\xff\x00\377a'`, byLook, []byte("\xff\x00\xffa")}, {`B""`, byLook, []byte{}},
		{`b'é'`, byLook, bad{}}, {`b'\u0041'`, byLook, bad{}}, {`'\q'`, byLook, bad{}}, {`'\x4'`, byLook, bad{}}, {`'\xgg'`, byLook, bad{}}, {`'\ud800'`, byLook, bad{}},
		{`'\U00110000'`, byLook, bad{}}, {`'\'`, byLook, bad{}}, {`'a'b'`, byLook, bad{}}, {"'\xff'", byLook, bad{}}, {`'\+41'`, byLook, bad{}}, {`'\x+4'`, byLook, bad{}},
		{"-8", intItem, int64(-8)}, {"007", intItem, int64(7)}, {"0x1F", intItem, int64(31)}, {"+5", intItem, int64(5)}, {"1.0", intItem, bad{}},
		{"1", floatItem, 1.0}, {"Infinity", floatItem, math.Inf(1)}, {"1e999", floatItem, bad{}}, {"x", floatItem, bad{}},
		{"1", boolItem, true}, {"FALSE", boolItem, false}, {"no", boolItem, bad{}},
		{"42", textItem, "42"}, {`'x'`, textItem, `'x'`}, {"\xff", textItem, bad{}}, {"\xff", bytesItem, []byte("\xff")}, {`b'x'`, bytesItem, []byte(`b'x'`)},
		{"", nilItem, nil}, {"null", nilItem, nil}, {"0", nilItem, bad{}}, {"99999999999999999999", nilItem, bad{}},
	} {
		got, err := parseItem(c.text, c.as)
		if _, fails := c.want.(bad); fails {
			if err == nil {
				t.Errorf("%q as %q: %#v, no error", c.text, c.as, got)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q as %q: %#v, %v; want %#v", c.text, c.as, got, err, c.want)
		}
	}
	if v, err := parseItem("nan", byLook); err != nil || !math.IsNaN(v.(float64)) {
		t.Errorf("nan: %v, %v", v, err)
	}
}

// What is printed can be given back, and so can JSON.
func FuzzItem(f *testing.F) {
	for _, s := range []string{"", "1", "-1.5", "'a'", `b"\x00"`, "é\u202e'\"", "nan", "None", "\x1b[2J", "\U0001f600"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, as := range []itemType{byLook, textItem, bytesItem} {
			v, err := parseItem(text, as)
			if err != nil {
				continue
			}
			if back, err := parseItem(layout.PyReprItem(v), byLook); err != nil || layout.PyReprItem(back) != layout.PyReprItem(v) || typeOf(back) != typeOf(v) {
				t.Errorf("%#v, printed as %s, is %#v, %v", v, layout.PyReprItem(v), back, err)
			}
			value, err := jsonValue(v)
			if err != nil {
				t.Fatal(err)
			}
			doc, err := compactJSON(itemDoc{Type: typeOf(v).String(), Value: value})
			if err != nil {
				t.Fatal(err)
			}
			back, err := readItems(strings.NewReader("[" + string(doc) + "]"))
			if err != nil || layout.PyReprItem(back[0]) != layout.PyReprItem(v) || typeOf(back[0]) != typeOf(v) {
				t.Errorf("%#v, in JSON %s, is %#v, %v", v, doc, back, err)
			}
		}
	})
}

// FuzzItems looks for JSON that makes the reader panic or accept what no list
// holds.
func FuzzItems(f *testing.F) {
	for _, s := range []string{`[1,"a",null,true,1.5]`, `{"items":[{"type":"bytes","value":"AA=="}],"x":{}}`, `[[`, `{"items":1}`, `[{"type":"int","value":1.0}]`, "", "]", "{}", `[1]]`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		items, err := readItems(strings.NewReader(text))
		if err != nil && items != nil {
			t.Error("items in spite of an error")
		}
		for _, v := range items {
			if typeOf(v) == nilItem && v != nil {
				t.Errorf("%T is no item", v)
			}
		}
	})
}

// listName makes a list that goes with the test.
func listName(t *testing.T, items []any, opts *list.Options) string {
	t.Helper()
	l, err := list.Create(shmtest.Name(t), items, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Unlink(); err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l.Block().Name()
}

// A long list comes in pieces, and ends with its reader.
func TestListStreams(t *testing.T) {
	const n = 200_000
	items := make([]any, n)
	for i := range items {
		items[i] = i
	}
	name := listName(t, items, nil)
	for _, flag := range []string{"--json=false", "--json"} {
		lines, most := 0, 0
		var last []byte
		count := writer(func(p []byte) (int, error) {
			lines, most = lines+bytes.Count(p, []byte("\n")), max(most, len(p))
			last = append(last[:0], p...)
			return len(p), nil
		})
		var errs bytes.Buffer
		if status := Run(t.Context(), []string{"list", name, flag}, nil, count, &errs); status != 0 || lines < n || most > 1<<16 {
			t.Errorf("%s: status %d, %d lines, %d bytes in a piece, %s", flag, status, lines, most, errs.String())
		}
		if !strings.Contains(string(last), fmt.Sprint(n-1)) {
			t.Errorf("%s: the last item is missing: %q", flag, last)
		}
		writes := 0
		gone := writer(func(p []byte) (int, error) { writes++; return 0, io.ErrClosedPipe })
		if status := Run(t.Context(), []string{"list", name, flag}, nil, gone, &errs); status != 0 || writes != 1 || errs.Len() > 0 {
			t.Errorf("%s: reader gone: status %d, %d writes, %s", flag, status, writes, errs.String())
		}
		if status := Run(t.Context(), []string{"list", name, flag}, nil, failing{}, &errs); status != exitFailure || !strings.Contains(errs.String(), "disk on fire") {
			t.Errorf("%s: status %d, %s", flag, status, errs.String())
		}
		ctx, cancel := context.WithCancel(t.Context())
		stop := writer(func(p []byte) (int, error) { cancel(); writes++; return len(p), nil })
		if status := Run(ctx, []string{"list", name, flag}, nil, stop, &errs); status != exitInterrupted || writes != 2 {
			t.Errorf("%s: interrupted: status %d after %d writes", flag, status, writes-1)
		}
	}
}

// A list that becomes smaller while it is written out ends with an error, and
// in JSON nevertheless.
func TestListTruncated(t *testing.T) {
	if os.Getenv("SHM_QEMU") != "" {
		t.Skip("qemu-user does not tell where a SIGBUS was")
	}
	dir := blockDir(t)
	args := []string{"--dir", dir, "list", "--create", "a"}
	for range 20_000 {
		args = append(args, "12345678")
	}
	if status, _, errs := run(t, "", args...); status != 0 {
		t.Fatal(errs)
	}
	var out, errs bytes.Buffer
	shrink := writer(func(p []byte) (int, error) {
		if err := os.Truncate(filepath.Join(dir, "a"), 4096); err != nil {
			t.Error(err)
		}
		return out.Write(p)
	})
	if status := Run(t.Context(), []string{"--dir", dir, "--json", "list", "a"}, nil, shrink, &errs); status != exitFailure || !strings.Contains(errs.String(), "truncated") {
		t.Errorf("status %d, %s", status, errs.String())
	}
	if items, err := readItems(&out); err != nil || len(items) == 0 || len(items) == 20_000 {
		t.Errorf("%d items, %v", len(items), err)
	}
}

// Numbers with a sign are no flags to list, and to others what they were.
func TestShielded(t *testing.T) {
	root := (&app{}).newRoot()
	for _, c := range []struct{ in, want string }{
		{"list x -1", "list x |-1"}, {"list x -1 -2.5", "list x |-1 |-2.5"}, {"--json list x -inf", "--json list x |-inf"},
		{"list --create -1 --mode -1", "list --create |-1 --mode -1"}, {"list --pid -1 x -- -1", "list --pid -1 x -- -1"},
		{"list -x -h -i", "list -x -h -i"}, {"cat --offset -1 x", "cat --offset -1 x"}, {"cat -1", "cat -1"}, {"", ""}, {"list --mode=7 -1", "list --mode=7 |-1"},
	} {
		got := shielded(root, strings.Fields(c.in))
		if s := strings.ReplaceAll(strings.Join(got, " "), shield, "|"); got == nil || s != c.want {
			t.Errorf("%s: %s, want %s", c.in, s, c.want)
		}
	}
}

// Names complete, indices do not.
func TestListCompletes(t *testing.T) {
	dir := blockDir(t)
	if status, _, errs := run(t, "", "--dir", dir, "list", "--create", "state", "1"); status != 0 {
		t.Fatal(errs)
	}
	if _, out, _ := run(t, "", "__complete", "--dir", dir, "list", "s"); !strings.HasPrefix(out, "state\n") {
		t.Errorf("%q", out)
	}
	if _, out, _ := run(t, "", "__complete", "--dir", dir, "list", "state", "s"); strings.HasPrefix(out, "state\n") {
		t.Errorf("a name in place of an index: %q", out)
	}
}

// Lists of every Python are read, changed and opened with the lines that info
// prints, and are there afterwards, without a word from Python.
func TestListPython(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*shmtest.Patience)
	defer cancel()
	const python = `
import sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import ShareableList
items = ShareableList([1, '1', b'1', 1.0, True, None, -2**63, 'it\'s "\u00e9\n', b'\x00\xff', 1e16, float('-inf'), ''], name=sys.argv[1])
resource_tracker.unregister(items.shm._name, "shared_memory")
for item in items: print(repr(item))
`
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.String(), func(t *testing.T) {
			name := shmtest.Name(t)
			defer func() {
				if err := shm.Unlink(name); err != nil {
					t.Error(err)
				}
			}()
			printed, err := py.Cmd(ctx, "-c", python, name).CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, printed)
			}
			status, out, errs := run(t, "", "list", name)
			lines := strings.Split(strings.TrimSpace(out), "\n")
			layout := "3.9"
			if py.Minor == 8 {
				layout = "3.8"
			}
			if want := fmt.Sprintf("%s: 12 items, Python %s layout", name, layout); status != 0 || lines[0] != want {
				t.Fatalf("%d %s%s, want %s", status, out, errs, want)
			}
			var values []string
			for _, line := range lines[2:] {
				values = append(values, line[len("INDEX  TYPE   "):])
			}
			if want := strings.Split(strings.TrimSpace(string(printed)), "\n"); !slices.Equal(values, want) {
				t.Errorf("we read %q, Python %q", values, want)
			}
			for i, v := range []string{"2", "-1.5", "b'ab'", "x", "None", "True"} {
				if status, _, errs := run(t, "", "list", name, fmt.Sprint(i), v); status != 0 {
					t.Errorf("%d: %s", i, errs)
				}
			}
			_, program, errs := run(t, "", "info", "--python", name)
			if errs != "" {
				t.Fatal(errs)
			}
			program += "\nassert list(items)[:6] == [2, -1.5, b'ab', 'x', None, True], list(items)\nitems[0] = 'python'\n"
			if out, err := py.Cmd(ctx, "-c", program).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%v\n%s\nfrom\n%s", err, out, program)
			}
			if status, out, errs := run(t, "", "list", name, "0"); status != 0 || out != "python\n" {
				t.Errorf("afterwards: %d %q %s", status, out, errs)
			}
		})
	}
}

// What the command makes for Python 3.8, that one reads, and others the rest.
func TestListForPython(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*shmtest.Patience)
	defer cancel()
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.String(), func(t *testing.T) {
			layout := "--layout=3.9"
			if py.Minor == 8 {
				layout = "--layout=3.8"
			}
			var names []string
			program := ""
			for _, more := range []string{"--exact=false", "--exact", "--concurrent"} {
				name := shmtest.Name(t)
				names = append(names, name)
				if status, _, errs := run(t, "", "list", "--create", layout, more, name, "1", "é€", "b'\\x00\\x01'", "None"); status != 0 {
					t.Fatal(errs)
				}
				_, lines, _ := run(t, "", "info", "--python", name)
				program += lines + "\nassert list(items) == [1, 'é€', b'\\x00\\x01', None], list(items)\nitems.shm.close()\n"
			}
			if out, err := py.Cmd(ctx, "-c", program).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%v\n%s\nfrom\n%s", err, out, program)
			}
			if status, _, errs := run(t, "", append([]string{"rm"}, names...)...); status != 0 {
				t.Errorf("they have not stayed: %s", errs)
			}
		})
	}
}
