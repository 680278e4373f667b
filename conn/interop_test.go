package conn

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

// python is a running testdata/peer.py.
type python struct {
	t *testing.T
	*shmtest.Process
}

func startPython(t *testing.T, py shmtest.Python) python {
	t.Helper()
	return python{t, shmtest.StartCommand(t, py.Cmd(t.Context(), "testdata/peer.py"))}
}

// begin has Python do op; end has its answer. In between it waits for us.
func (p python) begin(op string, args shmtest.Args) {
	p.t.Helper()
	request := shmtest.Args{"op": op}
	for k, v := range args {
		request[k] = v
	}
	line, err := json.Marshal(request)
	if err != nil {
		p.t.Fatal(err)
	}
	p.Send(string(line))
}

func (p python) end() (result any, exception string) {
	p.t.Helper()
	var answer struct {
		Result         any
		Error, Message string
	}
	if err := json.Unmarshal([]byte(p.Line()), &answer); err != nil {
		p.t.Fatal(err)
	}
	if answer.Error != "" {
		return nil, answer.Error + ": " + answer.Message
	}
	return answer.Result, ""
}

func (p python) must(op string, args shmtest.Args) any {
	p.t.Helper()
	p.begin(op, args)
	result, exception := p.end()
	if exception != "" {
		p.t.Fatalf("%s: %s", op, exception)
	}
	return result
}

// jsonAddress is an address as testdata/peer.py takes it.
func jsonAddress(t *testing.T, address string) any {
	t.Helper()
	a, err := PythonAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	if b, ok := a.([]byte); ok {
		return "@" + string(b[1:])
	}
	return a
}

// ourAddress undoes jsonAddress.
func ourAddress(t *testing.T, a any) string {
	t.Helper()
	switch x := a.(type) {
	case []any:
		a = Tuple{x[0], int64(x[1].(float64))}
	case string:
		a = strings.Replace(x, "@", "\x00", 1)
	}
	address, err := FromPython(a)
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// eachPython runs f beside every Python and for every kind of address.
func eachPython(t *testing.T, f func(t *testing.T, p python, kind string)) {
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.Version, func(t *testing.T) {
			t.Parallel()
			p := startPython(t, py) // one for all kinds: starting it takes the time
			eachKind(t, func(t *testing.T, kind string) {
				p.t = t
				f(t, p, kind)
				p.must("close", nil)
			})
		})
	}
}

// talk sends everything both ways.
func talk(t *testing.T, p python, c *Conn) {
	t.Helper()
	for _, n := range []int{0, 1, 16384, 16385, 1 << 20} {
		p.begin("count", nil)
		if err := c.SendBytes(bytes.Repeat([]byte{'x'}, n)); err != nil {
			t.Fatal(err)
		}
		if got, exception := p.end(); got != float64(n) {
			t.Errorf("Python got %v bytes of %d: %s", got, n, exception)
		}
		p.begin("fill", shmtest.Args{"n": n})
		got, err := c.RecvBytes()
		if err != nil || len(got) != n || bytes.Count(got, []byte{'x'}) != n {
			t.Errorf("got %d bytes of %d, %v", len(got), n, err)
		}
		if _, exception := p.end(); exception != "" {
			t.Error(exception)
		}
	}
	for _, tt := range []struct {
		v    any
		repr string
		back any
	}{
		{nil, "None", nil},
		{[]any{true, -1, 2.5, "ä", []byte("b")}, "[True, -1, 2.5, 'ä', b'b']", []any{true, int64(-1), 2.5, "ä", []byte("b")}},
		{Tuple{1, Tuple{}}, "(1, ())", Tuple{int64(1), Tuple{}}},
		{map[string]any{"a": Tuple{"x", 1}}, "{'a': ('x', 1)}", Dict{{Key: "a", Value: Tuple{"x", int64(1)}}}},
		{ByteArray("x"), "bytearray(b'x')", ByteArray("x")},
	} {
		p.begin("recv", nil)
		if err := c.Send(tt.v); err != nil {
			t.Fatal(err)
		}
		if got, exception := p.end(); got != tt.repr {
			t.Errorf("Python got %v of %v: %s", got, tt.v, exception)
		}
		p.begin("send", shmtest.Args{"value": tt.repr})
		if got, err := c.Recv(); err != nil || !reflect.DeepEqual(got, tt.back) {
			t.Errorf("got %#v of %s, %v", got, tt.repr, err)
		}
		if _, exception := p.end(); exception != "" {
			t.Error(exception)
		}
	}
	// The end.
	p.must("close", nil)
	if got, err := c.RecvBytes(); err != io.EOF { //nolint:errorlint // users compare
		t.Errorf("after the end %q, %v", got, err)
	}
}

func TestPythonClient(t *testing.T) {
	eachPython(t, func(t *testing.T, p python, kind string) {
		refusals := make(chan error, 1)
		l := mustListen(t, newAddress(t, kind), key, &Options{Refused: func(_ net.Addr, err error) { refusals <- err }})
		at := shmtest.Args{"address": jsonAddress(t, l.Addr()), "key": hex.EncodeToString([]byte("wrong"))}
		p.begin("client", at)
		if _, exception := p.end(); exception != "AuthenticationError: digest sent was rejected" {
			t.Errorf("with a wrong key: %q", exception)
		}
		if err := <-refusals; !errors.Is(err, ErrAuth) {
			t.Errorf("a wrong key: %v", err)
		}
		at["key"] = hex.EncodeToString(key)
		p.must("client", at)
		talk(t, p, mustAccept(t, l))

		free := mustListen(t, newAddress(t, kind), nil, &Options{NoAuth: true})
		p.must("client", shmtest.Args{"address": jsonAddress(t, free.Addr()), "key": nil})
		talk(t, p, mustAccept(t, free))
	})
}

func TestPythonListener(t *testing.T) {
	eachPython(t, func(t *testing.T, p python, kind string) {
		at := shmtest.Args{"address": jsonAddress(t, newAddress(t, kind)), "key": hex.EncodeToString(key)}
		address := ourAddress(t, p.must("listen", at))

		p.begin("accept", nil)
		if _, err := Dial(t.Context(), address, []byte("wrong"), nil); !errors.Is(err, ErrAuth) {
			t.Errorf("with a wrong key: %v", err)
		}
		if _, exception := p.end(); exception != "AuthenticationError: digest received was wrong" {
			t.Errorf("Python let a wrong key in: %q", exception)
		}

		p.begin("accept", nil)
		c := mustDial(t, address, key, nil)
		if _, exception := p.end(); exception != "" {
			t.Fatal(exception)
		}
		talk(t, p, c)
	})
}

// TestPythonDigests lets every digest be asked for and used.
func TestPythonDigests(t *testing.T) {
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.Version, func(t *testing.T) {
			t.Parallel()
			p := startPython(t, py)
			for _, d := range []Digest{MD5, SHA256, SHA384, SHA3_256, SHA3_384} {
				l := mustListen(t, newAddress(t, "tcp"), key, &Options{Digests: []Digest{d}})
				p.begin("client", shmtest.Args{"address": jsonAddress(t, l.Addr()), "key": hex.EncodeToString(key)})
				_, exception := p.end()
				// Ours is the first challenge; Python's is always of SHA-256 or MD5.
				asked := SHA256
				if py.Minor < 12 {
					asked = MD5
				}
				if d == asked {
					if exception != "" {
						t.Errorf("with %s alone: %s", d, exception)
					}
				} else if exception == "" {
					t.Errorf("Python was let in with %s alone, and asks for %s", d, asked)
				}
				l.Close()

				l = mustListen(t, newAddress(t, "tcp"), key, &Options{Digests: []Digest{d, SHA256, MD5}})
				p.must("client", shmtest.Args{"address": jsonAddress(t, l.Addr()), "key": hex.EncodeToString(key)})
				l.Close()
				p.must("close", nil)
			}
		})
	}
}

func TestPythonHandles(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no Python there in our tests")
	}
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.Version, func(t *testing.T) {
			t.Parallel()
			p := startPython(t, py)
			// Python's own blocks, as its tracker removes what it thinks is its own.
			name, listName := shmtest.Name(t), shmtest.Name(t)+"l"
			l := mustListen(t, newAddress(t, "unix"), key, nil)
			p.must("client", shmtest.Args{"address": jsonAddress(t, l.Addr()), "key": hex.EncodeToString(key)})
			c := mustAccept(t, l)
			var refs []any
			for _, expr := range []string{
				`globals().setdefault("m", SharedMemory("` + name + `", True, 100))`,
				`globals().setdefault("l", ShareableList([1, "two"], name="` + listName + `"))`,
			} {
				p.begin("send", shmtest.Args{"value": expr})
				v, err := c.Recv()
				if _, exception := p.end(); exception != "" || err != nil {
					t.Fatal(exception, err)
				}
				refs = append(refs, v)
			}
			if want := []any{shm.Ref{Name: name}, shm.Ref{Name: listName, Kind: "list"}}; !reflect.DeepEqual(refs, want) {
				t.Errorf("got %#v", refs)
			}
			block, err := refs[0].(shm.Ref).Open(nil)
			if err != nil {
				t.Fatal(err)
			}
			defer block.Close()

			p.begin("recv", nil)
			if err := c.Send(Tuple{block, refs[1]}); err != nil {
				t.Fatal(err)
			}
			got, exception := p.end()
			want := "(SharedMemory('" + name + "', size=100), ShareableList([1, 'two'], name='" + listName + "'))"
			if got != want {
				t.Errorf("Python got %v: %s, want %s", got, exception, want)
			}
			p.must("send", shmtest.Args{"value": `[m.unlink(), l.shm.unlink()]`})
			p.CloseInput()
			if status, stderr := p.WaitAll(); status != 0 || stderr != "" {
				t.Errorf("Python ends with %d: %s", status, stderr)
			}
		})
	}
}
