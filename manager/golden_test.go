package manager_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/conn"
	"github.com/sharedmem/shm/manager"
)

// golden returns CPython's messages, by their names. Those of two versions are
// the same with protocol 4.
func golden(t testing.TB) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for _, version := range []string{"3.8.18", "3.13.0"} {
		raw, err := os.ReadFile("../testdata/vectors/golden_messages_" + version + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var all []struct{ Kind, Name, Hex string }
		if err := json.Unmarshal(raw, &all); err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, v := range all {
			if v.Kind != "pickle_message" {
				continue
			}
			b, err := hex.DecodeString(v.Hex)
			if err != nil {
				t.Fatal(err)
			}
			if old, ok := out[v.Name]; ok && !bytes.Equal(old, b) {
				t.Fatalf("%s differs between the versions", v.Name)
			}
			out[v.Name] = b
			n++
		}
		if n != 34 {
			t.Fatalf("%d messages of %s, want 34", n, version)
		}
	}
	return out
}

const (
	first  = "psm_0123abcd" // the blocks of the messages
	second = "psm_89abcdef"
)

// TestServerMessages sends a server what CPython sends, and compares its
// answers with CPython's, byte for byte.
func TestServerMessages(t *testing.T) {
	messages := golden(t)
	for _, tt := range []struct {
		request, reply string
		tracked        []string
		text           string // in place of a reply, what a #TRACEBACK begins with
	}{
		{request: "req_dummy", reply: "rep_none"},
		{request: "req_track_segment", reply: "rep_none"},
		{request: "req_release_segment", text: "ValueError: "},
		{request: "req_release_segment", text: "FileNotFoundError: [Errno 2] ", tracked: []string{first}},
		{request: "req_list_segments", reply: "rep_list_empty"},
		{request: "req_list_segments", reply: "rep_list1", tracked: []string{first}},
		{request: "req_list_segments", reply: "rep_list2", tracked: []string{first, second}},
		{request: "req_list_segments", reply: "rep_list3", tracked: []string{first, second, "x"}},
		{request: "req_number_of_objects", reply: "rep_int0"},
		{request: "req_debug_info", reply: "rep_empty_str"},
		{request: "req_accept_connection", reply: "rep_none"},
		{request: "req_accept_connection_thread", reply: "rep_none"},
		{request: "req_shutdown", reply: "rep_none"},
		{request: "req_create", text: "TypeError: this manager makes no objects"},
		{request: "req_create_args", text: "TypeError: this manager makes no objects"},
		{request: "req_create_kw", text: "TypeError: this manager makes no objects"},
		{request: "req_incref", text: "KeyError: "},
		{request: "req_decref", text: "KeyError: "},
		{request: "req_get_methods", text: "KeyError: "},
		{request: "req_method", text: "KeyError: 7f00deadbeef: "},
		{request: "req_method_kw", text: "KeyError: 7f00deadbeef: "},
		{request: "req_getvalue", text: "KeyError: 7f00deadbeef: "},
		{request: "req_repr", text: "KeyError: 7f00deadbeef: "},
		// No requests.
		{request: "rep_none", text: "ValueError: not a request"},
		{request: "rep_error_keyerror", text: "ValueError: not a request"},
		{request: "rep_proxy", text: "ValueError: not a request"},
	} {
		t.Run(tt.request, func(t *testing.T) {
			// No block of these names may be there, whatever else runs here.
			m := start(t, &manager.Options{Dir: ownDir(t)})
			for _, name := range tt.tracked {
				b := exchange(t, m, request(t, nil, "track_segment", name))
				if !bytes.Equal(b, messages["rep_none"]) {
					t.Fatalf("track_segment: %q", b)
				}
			}
			got := exchange(t, m, messages[tt.request])
			if tt.text != "" {
				if text := traceback(t, got); !strings.HasPrefix(text, tt.text) || !strings.HasSuffix(text, "\n") {
					t.Errorf("got %q, want %q…", text, tt.text)
				}
			} else if !bytes.Equal(got, messages[tt.reply]) {
				t.Errorf("got\n%swant\n%s", hex.Dump(got), hex.Dump(messages[tt.reply]))
			}
			if tt.request == "req_shutdown" {
				if err := m.Wait(); err != nil {
					t.Error(err)
				}
			} else {
				names(t, m) // it goes on
			}
		})
	}
}

// exchange sends a server one message over a connection of its own, and
// returns the answer.
func exchange(t testing.TB, m *manager.Manager, message []byte) []byte {
	t.Helper()
	c, err := connDial(t, m)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SendBytes(message); err != nil {
		t.Fatal(err)
	}
	b, err := c.RecvBytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// scripted is a server that says what it was told to, and notes what it gets.
type scripted struct {
	l    *conn.Listener
	got  chan []byte
	says chan []byte
}

func newScripted(t testing.TB) *scripted {
	t.Helper()
	l, err := conn.Listen("", []byte("key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s := &scripted{l, make(chan []byte, 8), make(chan []byte, 8)}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if b, err := c.RecvBytes(); err == nil {
				s.got <- b
				_ = c.SendBytes(<-s.says)
			}
			c.Close()
		}
	}()
	return s
}

func (s *scripted) connect(t testing.TB, dummy, none []byte) *manager.Manager {
	t.Helper()
	s.says <- none
	m, err := manager.Connect(t.Context(), s.l.Addr(), []byte("key"))
	if err != nil {
		t.Fatal(err)
	}
	if got := <-s.got; !bytes.Equal(got, dummy) {
		t.Errorf("Connect sends %q, want %q", got, dummy)
	}
	return m
}

// TestClientMessages compares what a client sends with what CPython sends, and
// feeds it CPython's answers.
func TestClientMessages(t *testing.T) {
	messages := golden(t)
	s := newScripted(t)
	m := s.connect(t, messages["req_dummy"], messages["rep_none"])
	said := func(what, want string) {
		t.Helper()
		if got := <-s.got; !bytes.Equal(got, messages[want]) {
			t.Errorf("%s sends\n%swant\n%s", what, hex.Dump(got), hex.Dump(messages[want]))
		}
	}
	for i, want := range [][]string{{}, {first}, {first, second}, {first, second, "x"}} {
		s.says <- messages[[]string{"rep_list_empty", "rep_list1", "rep_list2", "rep_list3"}[i]]
		if got, err := m.Blocks(t.Context()); err != nil || !slices.Equal(got, want) {
			t.Errorf("Blocks: %q, %v, want %q", got, err, want)
		}
		said("Blocks", "req_list_segments")
	}
	s.says <- messages["rep_none"]
	if err := m.Release(t.Context(), first); err != nil {
		t.Error(err)
	}
	said("Release", "req_release_segment")
	for reply, want := range map[string]manager.RemoteError{
		"rep_error_valueerror":   {Kind: "#ERROR", Text: "ValueError: boom"},
		"rep_error_filenotfound": {Kind: "#ERROR", Text: "FileNotFoundError: [Errno 2] No such file or directory: /x"},
		"rep_error_keyerror":     {Kind: "#ERROR", Text: "KeyError: k"},
		"rep_traceback":          {Kind: "#TRACEBACK", Text: "KeyError: 1"},
		"rep_unserializable":     {Kind: "#UNSERIALIZABLE", Text: "Traceback"},
	} {
		s.says <- messages[reply]
		err := m.Release(t.Context(), first)
		var remote *manager.RemoteError
		if !errors.As(err, &remote) || *remote != want {
			t.Errorf("%s: %v, want %v", reply, err, &want)
		}
		if notThere := strings.HasPrefix(want.Text, "Val") || strings.HasPrefix(want.Text, "File"); errors.Is(err, fs.ErrNotExist) != notThere {
			t.Errorf("%s: fs.ErrNotExist is %v: %v", reply, !notThere, err)
		}
		<-s.got
	}
	for _, reply := range []string{"rep_int0", "rep_none", "rep_empty_str", "rep_create", "rep_proxy", "req_dummy"} {
		s.says <- messages[reply]
		if got, err := m.Blocks(t.Context()); err == nil {
			t.Errorf("%s: %q are no names", reply, got)
		}
		<-s.got
	}
	// As a server of Python's it hangs up after that, and is alive.
	s.says <- messages["rep_none"]
	s.says <- messages["rep_none"]
	b, err := shm.Create(first, 10, &shm.CreateOptions{Dir: ownDir(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Track(t.Context(), b); err != nil {
		t.Error(err)
	}
	said("Track", "req_track_segment")
	if err := errors.Join(b.Close(), b.Unlink()); err != nil {
		t.Error(err)
	}
	drain(s)
	s.says <- messages["rep_none"]
	if err := m.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	said("Shutdown", "req_shutdown")
}

// drain forgets what has been said and heard.
func drain(s *scripted) {
	for {
		select {
		case <-s.got:
		case <-s.says:
		default:
			return
		}
	}
}

// TestBadAnswers is for servers that are none.
func TestBadAnswers(t *testing.T) {
	messages := golden(t)
	s := newScripted(t)
	m := s.connect(t, messages["req_dummy"], messages["rep_none"])
	for name, answer := range map[string][]byte{
		"nothing":         {},
		"garbage":         []byte("\x80\x04garbage"),
		"code":            []byte("cos\nsystem\n(S'echo'\ntR."),
		"no tuple":        marshal(t, "#RETURN"),
		"three":           marshal(t, conn.Tuple{"#RETURN", nil, nil}),
		"unknown kind":    marshal(t, conn.Tuple{"#NONSENSE", nil}),
		"kind of no text": marshal(t, conn.Tuple{1, nil}),
		"numbers":         marshal(t, conn.Tuple{"#RETURN", []any{1, 2}}),
		"error of what":   marshal(t, conn.Tuple{"#ERROR", []any{1}}),
		"traceback of no": marshal(t, conn.Tuple{"#TRACEBACK", 1}),
	} {
		s.says <- answer
		if got, err := m.Blocks(t.Context()); err == nil {
			t.Errorf("%s: %q", name, got)
		}
		<-s.got
		s.says <- answer
		if name == "numbers" {
			s.says <- answer
			<-s.says
		}
		if err := m.Shutdown(t.Context()); err == nil {
			t.Errorf("%s: Shutdown is fine", name)
		}
		<-s.got
	}
}
