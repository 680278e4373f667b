package pickle_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/sharedmem/shm/internal/pickle"
	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

// Short names, for the tables here.
type (
	tuple = pickle.Tuple
	dict  = pickle.Dict
)

// vector is what a CPython pickled.
type vector struct {
	Kind, Name, Python, Literal string

	Hex          string // protocol 4, but for the handles, of the protocol in their name
	HexProtocol5 string `json:"hex_protocol5"`
	HexProtocol2 string `json:"hex_protocol2"`
}

// vectors returns all of two versions that are pickles.
func vectors(t testing.TB) (out []vector) {
	t.Helper()
	for _, version := range []string{"3.8.18", "3.13.0"} {
		raw, err := os.ReadFile("../../testdata/vectors/golden_messages_" + version + ".json")
		var all []vector
		if err == nil {
			err = json.Unmarshal(raw, &all)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range all {
			if strings.HasPrefix(v.Kind, "pickle_") {
				out = append(out, v)
			}
		}
	}
	if len(out) != 2*(len(messages)+14) {
		t.Fatalf("%d vectors, want two for each of %d messages and 14 handles", len(out), len(messages))
	}
	return out
}

// pickles returns the vector's pickles, with what tells them apart.
func (v *vector) pickles(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for key, text := range map[string]string{"": v.Hex, ", protocol 5": v.HexProtocol5, ", protocol 2": v.HexProtocol2} {
		if text != "" {
			out[v.Name+" of Python "+v.Python+key] = unhex(t, text)
		}
	}
	return out
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func request(ident any, method string, args ...any) tuple {
	return tuple{ident, method, append(tuple{}, args...), dict{}}
}

func i(n int64) any { return n }

// messages has the literal of each vector, in Go.
var messages = map[string]any{
	"req_dummy":                    request(nil, "dummy"),
	"req_shutdown":                 request(nil, "shutdown"),
	"req_track_segment":            request(nil, "track_segment", "psm_0123abcd"),
	"req_release_segment":          request(nil, "release_segment", "psm_0123abcd"),
	"req_list_segments":            request(nil, "list_segments"),
	"req_number_of_objects":        request(nil, "number_of_objects"),
	"req_debug_info":               request(nil, "debug_info"),
	"req_create":                   request(nil, "create", "Obj"),
	"req_create_args":              request(nil, "create", "list", []any{i(1), i(2)}),
	"req_create_kw":                tuple{nil, "create", tuple{"Obj", i(1)}, dict{{Key: "x", Value: 2.5}}},
	"req_incref":                   request(nil, "incref", "7f00deadbeef"),
	"req_decref":                   request(nil, "decref", "7f00deadbeef"),
	"req_accept_connection":        request(nil, "accept_connection", "MainProcess"),
	"req_accept_connection_thread": request(nil, "accept_connection", "MainProcess|Thread-1"),
	"req_get_methods":              request(nil, "get_methods", pickle.Token("Obj", "/tmp/pymp-x/listener-y", "7f00deadbeef")),
	"req_method":                   request("7f00deadbeef", "get"),
	"req_getvalue":                 request("7f00deadbeef", "#GETVALUE"),
	"req_repr":                     request("7f00deadbeef", "__repr__"),
	"req_method_kw":                tuple{"7f00deadbeef", "add", tuple{i(1)}, dict{{Key: "b", Value: i(2)}}},
	"rep_none":                     tuple{"#RETURN", nil},
	"rep_int0":                     tuple{"#RETURN", i(0)},
	"rep_int1":                     tuple{"#RETURN", i(1)},
	"rep_list_empty":               tuple{"#RETURN", []any{}},
	"rep_list1":                    tuple{"#RETURN", []any{"psm_0123abcd"}},
	"rep_list2":                    tuple{"#RETURN", []any{"psm_0123abcd", "psm_89abcdef"}},
	"rep_list3":                    tuple{"#RETURN", []any{"psm_0123abcd", "psm_89abcdef", "x"}},
	"rep_empty_str":                tuple{"#RETURN", ""},
	"rep_create":                   tuple{"#RETURN", tuple{"7f00deadbeef", tuple{"get", "set"}}},
	"rep_error_valueerror":         tuple{"#ERROR", pickle.Exception("ValueError", "boom")},
	"rep_error_keyerror":           tuple{"#ERROR", pickle.Exception("KeyError", "k")},
	"rep_error_filenotfound":       tuple{"#ERROR", pickle.Exception("FileNotFoundError", i(2), "No such file or directory", "/x")},
	"rep_traceback":                tuple{"#TRACEBACK", "Traceback (most recent call last):\n  ...\nKeyError: 1\n"},
	"rep_unserializable":           tuple{"#UNSERIALIZABLE", "Traceback\n"},
	"rep_proxy":                    tuple{"#PROXY", tuple{tuple{"a", "b"}, pickle.Token("Iterator", "/tmp/s", "7f00")}},
	"addr_unix":                    "/tmp/pymp-abcdefgh/listener-abcdefgh",
	"addr_tcp":                     tuple{"127.0.0.1", i(50000)},
	"addr_tcp_small_port":          tuple{"127.0.0.1", i(80)},
	"addr_abstract":                []byte("\x00name"),
}

// value returns what the vector's pickles are of.
func (v *vector) value(t testing.TB) any {
	t.Helper()
	switch {
	case v.Kind == "pickle_SharedMemory":
		return pickle.SharedMemory("golden_seg", 10)
	case v.Name == "sl_ForkingPickler":
		return pickle.ForkingShareableList("golden_sl")
	case v.Kind == "pickle_ShareableList":
		return pickle.ShareableList("golden_sl")
	}
	want, ok := messages[v.Name]
	if !ok {
		t.Fatalf("no value for %s", v.Literal)
	}
	return want
}

var managerOptions = &pickle.Options{Globals: pickle.ManagerGlobals}

func TestVectorsDecode(t *testing.T) {
	for _, v := range vectors(t) {
		for name, b := range v.pickles(t) {
			want := v.value(t)
			if v.Name == "rep_error_filenotfound" && strings.HasSuffix(name, "2") {
				// Python 2 has no other class for it.
				want = tuple{"#ERROR", pickle.Exception("OSError", i(2), "No such file or directory", "/x")}
			}
			got, err := pickle.Unmarshal(b, managerOptions)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: got %#v, %v, want %#v", name, got, err, want)
			}
		}
	}
}

func TestVectorsEncode(t *testing.T) {
	equal := 0
	for _, v := range vectors(t) {
		got, err := pickle.Marshal(v.value(t), nil)
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		want := unhex(t, v.Hex)
		if strings.Contains(v.Name, "_proto") && !strings.HasSuffix(v.Name, "4") {
			continue // other protocols, which Marshal does not write
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s of Python %s:\n%swant\n%s", v.Name, v.Python, hex.Dump(got), hex.Dump(want))
		}
		if five := unhex(t, v.HexProtocol5); len(five) > 0 {
			if got[1] = 5; !bytes.Equal(got, five) {
				t.Errorf("%s: protocol 5 is another beyond its number", v.Name)
			}
		}
		equal++
	}
	if want := 2 * (len(messages) + 4); equal != want {
		t.Errorf("compared %d vectors, want %d", equal, want)
	}
}

func TestHandle(t *testing.T) {
	for _, v := range vectors(t) {
		name, size, isList, ok := pickle.Handle(v.value(t))
		switch v.Kind {
		case "pickle_SharedMemory":
			if name != "golden_seg" || size != 10 || isList || !ok {
				t.Errorf("%s: %q, %d, %v, %v", v.Name, name, size, isList, ok)
			}
		case "pickle_ShareableList":
			if name != "golden_sl" || size != 0 || !isList || !ok {
				t.Errorf("%s: %q, %d, %v, %v", v.Name, name, size, isList, ok)
			}
		default:
			if ok {
				t.Errorf("%s is taken for a handle of %q", v.Name, name)
			}
		}
	}
}

// kinds are types of Go's beyond those that Unmarshal returns.
type (
	name   string
	fields map[string]any
)

func TestMarshalKinds(t *testing.T) {
	ref := func(v any) (any, bool) {
		if n, ok := v.(name); ok {
			return pickle.ShareableList(string(n)), true
		}
		return nil, false
	}
	for _, tt := range []struct{ in, want any }{
		{int8(-1), i(-1)},
		{uint16(65535), i(65535)},
		{uint64(1<<64 - 1), new(big.Int).SetUint64(1<<64 - 1)},
		{float32(0.5), 0.5},
		{[]string{"a", "b"}, []any{"a", "b"}},
		{[]int64{1}, []any{i(1)}},
		{[]uint8{1}, []byte{1}},
		{[]any(nil), []any{}},
		{[]byte(nil), []byte{}},
		{tuple(nil), tuple{}},
		{map[string]any{"b": 1, "a": name("x")}, dict{{Key: "a", Value: pickle.ShareableList("x")}, {Key: "b", Value: i(1)}}},
		{fields{"a": true}, dict{{Key: "a", Value: true}}},
		{[]name{"x"}, []any{pickle.ShareableList("x")}},
		{big.NewInt(7), i(7)},
	} {
		b, err := pickle.Marshal(tt.in, &pickle.EncodeOptions{Convert: ref})
		if err != nil {
			t.Errorf("%#v: %v", tt.in, err)
			continue
		}
		if got, err := pickle.Unmarshal(b, managerOptions); err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%#v became %#v, %v, want %#v", tt.in, got, err, tt.want)
		}
	}
	b, err := pickle.Marshal(name("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := pickle.Unmarshal(b, nil); err != nil || got != "x" {
		t.Errorf("without Convert it became %#v, %v", got, err)
	}
}

// TestNotAHandle has what is like a handle and would be something else to Python.
func TestNotAHandle(t *testing.T) {
	block := pickle.SharedMemory("x", 1)
	mapping := func(args ...any) *pickle.Call {
		return &pickle.Call{Func: block.Func, Args: args}
	}
	list, _ := pickle.ForkingShareableList("x").Func.(*pickle.Call)
	rebuild := func(args ...any) *pickle.Call {
		return &pickle.Call{Func: &pickle.Call{Func: list.Func, Args: args}, Args: tuple{}}
	}
	keywords := dict{{Key: "name", Value: "x"}}
	for what, v := range map[string]any{
		"nil":                   nil,
		"a nil *Call":           (*pickle.Call)(nil),
		"a class":               block.Func,
		"a new block":           mapping("x", true, i(1)),
		"a block without size":  mapping("x", false),
		"a block without name":  mapping(nil, false, i(1)),
		"a negative size":       mapping("x", false, i(-1)),
		"a block's __new__":     &pickle.Call{Func: block.Func, Args: block.Args, New: true},
		"a block with state":    &pickle.Call{Func: block.Func, Args: block.Args, HasState: true},
		"a list of a block":     rebuild(block.Func, tuple{}, keywords),
		"a list with items":     rebuild(list.Args[0], tuple{[]any{}}, keywords),
		"a list without name":   rebuild(list.Args[0], tuple{}, dict{}),
		"a list with more":      rebuild(list.Args[0], tuple{}, append(keywords[:1:1], keywords...)),
		"a list called with x":  &pickle.Call{Func: list, Args: tuple{"x"}},
		"a partial, not called": list,
		"a token":               pickle.Token("a", "b", "c"),
	} {
		if name, size, isList, ok := pickle.Handle(v); ok || name != "" || size != 0 || isList {
			t.Errorf("%s is taken for a handle: %q, %d, %v", what, name, size, isList)
		}
	}
	for what, v := range map[string]any{
		"nil":            nil,
		"a nil *Call":    (*pickle.Call)(nil),
		"a block":        block,
		"no state":       &pickle.Call{Func: pickle.Token("a", "b", "c").Func, Args: tuple{}, New: true},
		"a number":       pickle.Token("a", 1, "c"),
		"called, no new": &pickle.Call{Func: pickle.Token("a", "b", "c").Func, Args: tuple{}, State: tuple{"a", "b", "c"}},
	} {
		if typeid, _, _, ok := pickle.AsToken(v); ok {
			t.Errorf("%s is taken for a token of %q", what, typeid)
		}
		if class, _, ok := pickle.AsException(v); ok {
			t.Errorf("%s is taken for a %s", what, class)
		}
	}
	class, args, ok := pickle.AsException(pickle.Exception("multiprocessing.managers.RemoteError", "text"))
	if class != "multiprocessing.managers.RemoteError" || len(args) != 1 || !ok {
		t.Errorf("%q, %v, %v", class, args, ok)
	}
	if _, _, ok := pickle.AsException(pickle.Exception("os.system", "id")); ok {
		t.Error("os.system is taken for an exception")
	}
}

func TestDictGet(t *testing.T) {
	d := dict{{Key: "a", Value: i(1)}, {Key: i(1), Value: i(2)}, {Key: "a", Value: i(3)}}
	if v, ok := d.Get("a"); v != i(3) || !ok {
		t.Errorf("got %v, %v, want the last", v, ok)
	}
	if v, ok := d.Get("b"); v != nil || ok {
		t.Errorf("got %v, %v", v, ok)
	}
}
