package manager_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sharedmem/shm/conn"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/manager"
)

// Sessions of clients that have the key, and are wrong or mean no good.

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := manager.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func request(t testing.TB, ident any, method string, args ...any) []byte {
	t.Helper()
	return marshal(t, conn.Tuple{ident, method, append(conn.Tuple{}, args...), conn.Dict{}})
}

// traceback returns the text of an answer that is one.
func traceback(t testing.TB, answer []byte) string {
	t.Helper()
	v, err := manager.Unmarshal(answer)
	if err != nil {
		t.Fatalf("%q: %v", answer, err)
	}
	r, ok := v.(conn.Tuple)
	if ok && len(r) == 2 && r[0] == "#TRACEBACK" {
		if text, ok := r[1].(string); ok {
			return text
		}
	}
	t.Fatalf("got %v, want a traceback", v)
	return ""
}

// TestHostile sends requests that are none. Each is answered so, and counted,
// and the server goes on.
func TestHostile(t *testing.T) {
	dir := shmtest.TempDir(t)
	proof := filepath.Join(dir, "executed")
	deep := bytes.Repeat([]byte("("), 1500)
	const invalid = "ValueError: not a request of multiprocessing.managers"
	for _, tt := range []struct {
		name    string
		message []byte
		want    string // how the answer begins
		count   string // what it is counted as
	}{
		{"empty", nil, invalid, "invalid"},
		{"garbage", []byte("GET / HTTP/1.1\r\n\r\n"), invalid, "invalid"},
		{"zeros", make([]byte, 1000), invalid, "invalid"},
		{"truncated", request(t, nil, "dummy")[:20], invalid, "invalid"},
		{"a future protocol", append([]byte{0x80, 99}, request(t, nil, "dummy")[2:]...), invalid, "invalid"},
		{"os.system", []byte("cos\nsystem\n(S'touch " + proof + "'\ntR."), invalid, "invalid"},
		{"os.system of protocol 4", []byte("\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R."), invalid, "invalid"},
		{"eval", []byte("cbuiltins\neval\n(S'1'\ntR."), invalid, "invalid"},
		{"code as an argument", []byte("(NVdummy\n(cos\nsystem\n(S'touch " + proof + "'\ntRt(dt."), invalid, "invalid"},
		{"a class that is allowed", []byte("cmultiprocessing.managers\nToken\n."), invalid, "invalid"},
		{"deep", append(deep, bytes.Repeat([]byte("l"), 1500)...), invalid, "invalid"},
		{"memo bomb", memoBomb(), invalid, "invalid"},
		{"announces a gigabyte", []byte("\x80\x04\x8e\x00\x00\x00\x40\x00\x00\x00\x00."), invalid, "invalid"},
		{"too large", make([]byte, 5000), "ValueError: ", "invalid"},
		{"no tuple", marshal(t, []any{nil, "dummy", conn.Tuple{}, conn.Dict{}}), invalid, "invalid"},
		{"three", marshal(t, conn.Tuple{nil, "dummy", conn.Tuple{}}), invalid, "invalid"},
		{"five", marshal(t, conn.Tuple{nil, "dummy", conn.Tuple{}, conn.Dict{}, nil}), invalid, "invalid"},
		{"method of no text", marshal(t, conn.Tuple{nil, 1, conn.Tuple{}, conn.Dict{}}), invalid, "invalid"},
		{"method of bytes", marshal(t, conn.Tuple{nil, []byte("dummy"), conn.Tuple{}, conn.Dict{}}), invalid, "invalid"},
		{"arguments in a list", marshal(t, conn.Tuple{nil, "dummy", []any{}, conn.Dict{}}), invalid, "invalid"},
		{"keywords in a tuple", marshal(t, conn.Tuple{nil, "dummy", conn.Tuple{}, conn.Tuple{}}), invalid, "invalid"},
		{"unknown method", request(t, nil, "frobnicate"), `AssertionError: "frobnicate" unrecognized`, "unknown"},
		{"method of a class", request(t, nil, "__init__"), `AssertionError: "__init__" unrecognized`, "unknown"},
		{"server's own", request(t, nil, "serve_forever"), `AssertionError: "serve_forever" unrecognized`, "unknown"},
		{"long method", request(t, nil, strings.Repeat("m", 2000)), `AssertionError: "mmm`, "unknown"},
		{"an object", request(t, "7f00", "get"), "KeyError: 7f00: ", "object"},
		{"an object of many parts", request(t, []any{strings.Repeat("i", 2000)}, "get"), "KeyError: [iii", "object"},
		{"dummy with more", request(t, nil, "dummy", 1), "TypeError: dummy takes no arguments, not 1", "dummy"},
		{"shutdown with more", request(t, nil, "shutdown", 1), "TypeError: ", "shutdown"},
		{"list with more", request(t, nil, "list_segments", "x"), "TypeError: ", "list_segments"},
		{"count with more", request(t, nil, "number_of_objects", "x"), "TypeError: ", "number_of_objects"},
		{"info with more", request(t, nil, "debug_info", "x"), "TypeError: ", "debug_info"},
		{"keywords", marshal(t, conn.Tuple{nil, "dummy", conn.Tuple{}, conn.Dict{{Key: "x", Value: 1}}}), "TypeError: ", "dummy"},
		{"track nothing", request(t, nil, "track_segment"), "TypeError: ", "track_segment"},
		{"track two", request(t, nil, "track_segment", "a", "b"), "TypeError: ", "track_segment"},
		{"track a number", request(t, nil, "track_segment", 1), "TypeError: ", "track_segment"},
		{"track bytes", request(t, nil, "track_segment", []byte("x")), "TypeError: ", "track_segment"},
		{"release nothing", request(t, nil, "release_segment"), "TypeError: ", "release_segment"},
		{"release another's", request(t, nil, "release_segment", "theirs"), `ValueError: "theirs" is not tracked`, "release_segment"},
		{"release a path", request(t, nil, "release_segment", "../x"), `ValueError: "../x" is not tracked`, "release_segment"},
		{"get_methods of nothing", request(t, nil, "get_methods"), "KeyError: ", "get_methods"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.name == "too large" && runtime.GOOS == "windows" {
				t.Skip("a TCP connection that is closed with something unread may lose the answer")
			}
			m := start(t, &manager.Options{MaxRequest: 4096, Dir: dir})
			text := traceback(t, exchange(t, m, tt.message))
			if !strings.HasPrefix(text, tt.want) || len(text) > 500 {
				t.Errorf("answered %q, want %q…", text, tt.want)
			}
			reveals(t, m, text, dir)
			if s, _ := m.Stats(); s.Requests[tt.count] != 1 {
				t.Errorf("counted %v, want one %s", s.Requests, tt.count)
			}
			names(t, m)
		})
	}
	if _, err := os.Stat(proof); err == nil {
		t.Error("code was executed")
	}
}

// reveals checks that an answer says nothing of this machine.
func reveals(t testing.TB, m *manager.Manager, text string, secrets ...string) {
	t.Helper()
	cwd, _ := os.Getwd()
	_, here, _, _ := runtime.Caller(0)
	address := strings.TrimPrefix(m.Address(), "unix:")
	for _, secret := range append(secrets, cwd, filepath.Dir(here), ".go", address, string(m.AuthKey()), fmt.Sprintf("%x", m.AuthKey()), "goroutine") {
		if strings.Contains(text, secret) {
			t.Errorf("%q reveals %q", text, secret)
		}
	}
}

// memoBomb is a list that contains a list twice, that contains a list twice …
func memoBomb() []byte {
	b := []byte("\x80\x04]\x94")
	for i := range 60 {
		b = append(b, ']', 0x94, '(', 'h', byte(i), 'h', byte(i), 'e')
	}
	return append(b, '.')
}

// TestBadNames tracks names that are none. None is taken, and nothing happens to
// the files that they could mean.
func TestBadNames(t *testing.T) {
	dir := shmtest.TempDir(t)
	sub := filepath.Join(dir, "blocks")
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	m := start(t, &manager.Options{Dir: sub})
	files := map[string]string{}
	for _, name := range []string{"../victim", "sem.victim", ".shm-lease.0123456789abcdef", ".shm-keep.x", "..", ".", "", "/", "//x", "a/b", "x\x00y", strings.Repeat("n", 300)} {
		if path := filepath.Join(sub, name); !strings.ContainsAny(name, "\x00") && len(name) < 100 && strings.Contains(name, "victim") {
			if err := os.WriteFile(path, []byte("theirs"), 0o600); err != nil {
				t.Fatal(err)
			}
			files[name] = path
		}
		text := traceback(t, exchange(t, m, request(t, nil, "track_segment", name)))
		if !strings.HasPrefix(text, "ValueError: ") {
			t.Errorf("track_segment %q: %q", name, text)
		}
		reveals(t, m, text, dir)
	}
	if got := names(t, m); len(got) > 0 {
		t.Errorf("it tracks %q", got)
	}
	if err := m.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	for name, path := range files {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestNoBlocks tracks names that something else has.
func TestNoBlocks(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("blocks are no files")
	}
	dir := shmtest.TempDir(t)
	victim := filepath.Join(dir, "victim")
	sub := filepath.Join(dir, "blocks")
	made := []error{
		os.WriteFile(victim, []byte("theirs"), 0o600), os.Mkdir(sub, 0o700),
		os.Mkdir(filepath.Join(sub, "directory"), 0o700), os.Symlink(victim, filepath.Join(sub, "link")),
	}
	l, err := net.Listen("unix", filepath.Join(sub, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, err := range made {
		if err != nil {
			t.Fatal(err)
		}
	}
	m := start(t, &manager.Options{Dir: sub})
	for _, name := range []string{"directory", "link", "socket"} {
		exchange(t, m, request(t, nil, "track_segment", name))
		v := exchange(t, m, request(t, nil, "release_segment", name))
		reveals(t, m, traceback(t, v), dir)
		exchange(t, m, request(t, nil, "track_segment", name))
	}
	if err := m.Shutdown(t.Context()); err == nil {
		t.Error("Shutdown does not say that these are no blocks")
	}
	for _, path := range []string{victim, filepath.Join(sub, "directory"), filepath.Join(sub, "link"), filepath.Join(sub, "socket")} {
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
}

// TestTwoRequests sends two at once: the first is answered, as Python's server
// does.
func TestTwoRequests(t *testing.T) {
	m := start(t, nil)
	c, err := connDial(t, m)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SendBytes(request(t, nil, "number_of_objects")); err != nil {
		t.Fatal(err)
	}
	if err := c.SendBytes(request(t, nil, "debug_info")); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"[#RETURN 0]", "[#RETURN ]"} { // in turn
		if v, err := c.Recv(); err != nil || fmt.Sprint(v) != want {
			t.Errorf("got %v, %v, not %s", v, err, want)
		}
	}
	_ = c.Close()
	eventually(t, m, func(s manager.Stats) bool { return s.Conns == 0 && s.Requests["number_of_objects"] == 1 })
}

// TestSession speaks as a proxy does, to objects that are not there.
func TestSession(t *testing.T) {
	m := start(t, &manager.Options{RequestTimeout: shmtest.Patience / 3})
	c, err := connDial(t, m)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ask := func(message []byte) []byte {
		t.Helper()
		if err := c.SendBytes(message); err != nil {
			t.Fatal(err)
		}
		b, err := c.RecvBytes()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if v, err := manager.Unmarshal(ask(request(t, nil, "accept_connection", "MainProcess"))); fmt.Sprint(v) != "[#RETURN <nil>]" {
		t.Fatalf("got %v, %v", v, err)
	}
	for _, ident := range []any{"7f00", nil, 1, "7f01"} {
		want := fmt.Sprintf("KeyError: %v: ", ident)
		if text := traceback(t, ask(request(t, ident, "get"))); !strings.HasPrefix(text, want) {
			t.Errorf("got %q, want %q", text, want)
		}
	}
	if s, _ := m.Stats(); s.Requests["object"] != 4 || s.Requests["accept_connection"] != 1 || s.Conns != 1 {
		t.Errorf("Stats: %+v", s)
	}
	// What is no request ends it.
	if text := traceback(t, ask([]byte("garbage"))); !strings.HasPrefix(text, "ValueError: not a request") {
		t.Errorf("got %q", text)
	}
	if _, err := c.Recv(); err == nil {
		t.Error("it goes on")
	}
	// An idle one does not hold up the end.
	idle, err := connDial(t, m)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	if err := idle.SendBytes(request(t, nil, "accept_connection", "MainProcess")); err != nil {
		t.Fatal(err)
	}
	if _, err := idle.Recv(); err != nil {
		t.Fatal(err)
	}
	if err := m.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestStalled lets a client ask for much and take nothing of the answer: that
// ends, and holds up nobody.
func TestStalled(t *testing.T) {
	m := start(t, &manager.Options{RequestTimeout: 3 * time.Second})
	for i := range 1500 {
		name := fmt.Sprintf("%s-%0200d", shmtest.Name(nil), i)
		exchange(t, m, request(t, nil, "track_segment", name))
	}
	c, err := connDial(t, m)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SendBytes(request(t, nil, "list_segments")); err != nil {
		t.Fatal(err)
	}
	eventually(t, m, func(s manager.Stats) bool { return s.Requests["list_segments"] == 1 })
	if got := names(t, m); len(got) != 1500 {
		t.Errorf("%d blocks", len(got))
	}
	eventually(t, m, func(s manager.Stats) bool { return s.Conns == 0 })
}

// TestCrowd has a thousand clients at once.
func TestCrowd(t *testing.T) {
	const clients = 1000
	m := start(t, nil)
	names(t, m) // whatever is made once
	runtime.GC()
	var before, with, after runtime.MemStats
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	held := make([]*conn.Conn, clients)
	for i := range held {
		c, err := connDial(t, m)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		held[i] = c
	}
	eventually(t, m, func(s manager.Stats) bool { return s.Conns == clients })
	runtime.GC()
	runtime.ReadMemStats(&with)
	// Both ends are in this process.
	each := int64(with.HeapAlloc+with.StackInuse-before.HeapAlloc-before.StackInuse) / clients
	t.Logf("%d bytes of heap and stack for each client, both ends", each)
	if each > 64<<10 {
		t.Errorf("a client costs %d bytes", each)
	}
	// All ask at the same time.
	errs := make(chan error, clients)
	for _, c := range held {
		go func() {
			err := c.SendBytes(request(t, nil, "dummy"))
			if err == nil {
				_, err = c.Recv()
			}
			errs <- err
		}()
	}
	for range clients {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	for _, c := range held {
		c.Close()
	}
	clear(held)
	eventually(t, m, func(s manager.Stats) bool { return s.Conns == 0 })
	for end := time.Now().Add(shmtest.Patience); runtime.NumGoroutine() > goroutines+5; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), goroutines)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if left := int64(after.HeapAlloc) - int64(before.HeapAlloc); left > 16<<20 {
		t.Errorf("%d bytes are left", left)
	}
}

// TestStrangers counts those that do not get in, and tells them nothing.
func TestStrangers(t *testing.T) {
	m := start(t, &manager.Options{Address: "tcp:127.0.0.1:0"})
	raw, err := net.Dial("tcp", strings.TrimPrefix(m.Address(), "tcp:"))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, err := raw.Write([]byte("\x00\x00\x00\x05wrong")); err != nil {
		t.Fatal(err)
	}
	var heard bytes.Buffer
	_, _ = heard.ReadFrom(raw) // until it hangs up
	if got := heard.Bytes(); !bytes.HasSuffix(got, []byte("\x00\x00\x00\x09#FAILURE#")) || len(got) != 4+59+4+9 {
		t.Errorf("a stranger hears %q", got)
	}
	eventually(t, m, func(s manager.Stats) bool { return s.Refused == 1 && s.Accepted == 0 })
}
