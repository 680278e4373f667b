package manager_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/conn"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/list"
	"github.com/sharedmem/shm/manager"
)

// Sessions between Go and every CPython of the machine, in both roles.

func eachPython(t *testing.T, f func(t *testing.T, py shmtest.Python)) {
	if runtime.GOOS == "windows" {
		// Python's is at a named pipe there, and its blocks go with their users.
		t.Skip("not for Windows")
	}
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.Version, func(t *testing.T) {
			t.Parallel()
			f(t, py)
		})
	}
}

// partner is a Python program that has managers.
type partner struct {
	*shmtest.PythonProcess
	t testing.TB
}

func newPartner(t testing.TB, py shmtest.Python) *partner {
	t.Helper()
	return &partner{shmtest.StartPython(t, py), t}
}

// exception is one that a step has raised.
type exception struct{ class, text string }

func (e *exception) Error() string { return e.class + ": " + e.text }

// try has Python do one step; see peer.py.
func (p *partner) try(what, key string, args ...any) (any, error) {
	p.t.Helper()
	r := p.Must("managers", shmtest.Args{"steps": [][]any{append([]any{what, key}, args...)}})
	var results [][]any
	if err := json.Unmarshal(r.Results, &results); err != nil {
		p.t.Fatalf("%s: %v", r.Results, err)
	}
	switch got := results[0]; len(got) {
	case 1:
		return got[0], nil
	case 3:
		return nil, &exception{got[1].(string), got[2].(string)}
	default:
		p.t.Fatalf("%s: %v", what, got)
		return nil, nil
	}
}

// do is try for what has to succeed.
func (p *partner) do(what, key string, args ...any) any {
	p.t.Helper()
	v, err := p.try(what, key, args...)
	if err != nil {
		p.t.Fatalf("%s: %s %v: %v", p.Python, what, args, err)
	}
	return v
}

// forget has Python's own tracker forget blocks that are a manager's.
func (p *partner) forget(names ...string) {
	p.t.Helper()
	for _, name := range names {
		p.Must("unregister", shmtest.Args{"name": name})
	}
}

// toJSON is an address of ours as peer.py takes it.
func toJSON(t testing.TB, address string) any {
	t.Helper()
	a, err := conn.PythonAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	if b, ok := a.([]byte); ok {
		return string(b)
	}
	return a
}

// fromJSON is an address of peer.py's as ours.
func fromJSON(t testing.TB, v any) string {
	t.Helper()
	python := v
	switch a := v.(type) {
	case []any:
		python = conn.Tuple{a[0], int64(a[1].(float64))}
	case map[string]any:
		b, err := hex.DecodeString(a["bytes"].(string))
		if err != nil {
			t.Fatal(err)
		}
		python = b
	}
	address, err := conn.FromPython(python)
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// TestPythonClient serves Python programs.
func TestPythonClient(t *testing.T) {
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		p := newPartner(t, py)
		for kind, address := range addresses(t) {
			key := fmt.Appendf(nil, "key of %s \x00\xff", kind)
			m := start(t, &manager.Options{Address: address, AuthKey: key})
			where := toJSON(t, m.Address())

			if _, err := p.try("connect", kind, where, hex.EncodeToString([]byte("wrong"))); err == nil || err.(*exception).class != "AuthenticationError" { //nolint:errorlint // try's own
				t.Errorf("%s: with a wrong key: %v", kind, err)
			}
			p.do("connect", kind, where, hex.EncodeToString(key))
			block := p.do("memory", kind, 100).(string)
			sl := p.do("list", kind, []any{1, "two", nil, 2.5}).(string)
			shmtest.Watch(block)
			shmtest.Watch(sl)
			p.Must("write", shmtest.Args{"block": block, "off": 3, "data": shmtest.Hex("howdy")})

			b, err := shm.Open(block, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := string(b.Bytes()[3:8]); got != "howdy" {
				t.Errorf("%s: Go reads %q", kind, got)
			}
			b.Close()
			l, err := list.Open(sl, nil)
			if err != nil {
				t.Fatal(err)
			}
			if v, err := l.At(1); v != "two" {
				t.Errorf("%s: Go reads %v, %v", kind, v, err)
			}
			l.Close()

			// What Go has made Python finds.
			own := create(t, m, 50)
			copy(own.Bytes(), "from Go")
			p.Must("attach", shmtest.Args{"block": "own", "name": own.Name()})
			if r := p.Must("read", shmtest.Args{"block": "own", "off": 0, "n": 7}); string(r.Data) != "from Go" {
				t.Errorf("%s: Python reads %q", kind, r.Data)
			}
			p.Must("close", shmtest.Args{"block": "own"})
			p.forget(own.Name())

			want := []any{block, sl, own.Name()}
			if got := p.do("dispatch", kind, "list_segments"); !slices.Equal(got.([]any), want) {
				t.Errorf("%s: list_segments: %v, want %v", kind, got, want)
			}
			if got := p.do("dispatch", kind, "number_of_objects"); got != 0. {
				t.Errorf("%s: number_of_objects: %v", kind, got)
			}
			if got := p.do("dispatch", kind, "debug_info"); got != "" {
				t.Errorf("%s: debug_info: %v", kind, got)
			}
			p.do("dispatch", kind, "release_segment", own.Name())
			p.remote("FileNotFoundError", "dispatch", kind, "release_segment", gone(t, m))
			p.remote("ValueError", "dispatch", kind, "release_segment", own.Name())
			p.remote("AssertionError", "dispatch", kind, "frobnicate")
			p.remote("KeyError", "dispatch", kind, "incref", "7f00")
			p.remote("TypeError", "dispatch", kind, "create", "dict")
			session := p.do("session", kind, []any{"7f00", "get"}, []any{"7f01", "#GETVALUE"}).([]any)
			if len(session) != 3 || session[0] != nil {
				t.Errorf("%s: session: %v", kind, session)
			} else {
				for _, answer := range session[1:] {
					if a, ok := answer.([]any); !ok || len(a) != 3 || a[1] != "RemoteError" || !strings.Contains(a[2].(string), "KeyError") {
						t.Errorf("%s: session: %v", kind, answer)
					}
				}
			}

			// Types that a program registers are refused at once.
			for _, how := range []string{"registered", "sync"} {
				p.do(how, how, where, hex.EncodeToString(key))
				began := time.Now()
				p.remote("TypeError: this manager makes no objects", "make", how, "Thing")
				if how == "sync" {
					p.remote("TypeError: this manager makes no objects", "make", how, "dict")
				}
				if took := time.Since(began); took > shmtest.Patience/2 {
					t.Errorf("%s: a registered type is refused after %v", kind, took)
				}
			}

			p.do("dispatch", kind, "shutdown")
			select {
			case err := <-ended(m):
				if err != nil {
					t.Errorf("%s: %v", kind, err)
				}
			case <-time.After(shmtest.Patience):
				t.Fatalf("%s: it has not ended", kind)
			}
			for _, name := range []string{block, sl, own.Name()} {
				if exists(t, name) {
					t.Errorf("%s: %s is still there", kind, name)
				}
			}
			p.forget(block, sl)
		}
		if stderr := p.Exit(); stderr != "" {
			t.Errorf("Python complains: %s", stderr)
		}
	})
}

// remote expects a step to raise a RemoteError that says something.
func (p *partner) remote(says, what, key string, args ...any) {
	p.t.Helper()
	v, err := p.try(what, key, args...)
	var e *exception
	if !errors.As(err, &e) || e.class != "RemoteError" || !strings.Contains(e.text, "\n"+says) {
		p.t.Errorf("%s: %s %v: %v, %v, want RemoteError with %s", p.Python, what, args, v, err, says)
	}
}

// gone returns the name of a block that the manager tracks and that is gone.
func gone(t testing.TB, m *manager.Manager) string {
	t.Helper()
	name := create(t, m, 10).Name()
	if err := shm.Unlink(name); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestPythonLeaves shows what Python's tracker does to blocks of a manager that
// is not its child, and what keeps it from that.
func TestPythonLeaves(t *testing.T) {
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		m := start(t, nil)
		p := newPartner(t, py)
		p.do("connect", "m", toJSON(t, m.Address()), hex.EncodeToString(m.AuthKey()))
		taken, kept := p.do("memory", "m", 10).(string), p.do("memory", "m", 10).(string)
		shmtest.Watch(taken)
		shmtest.Watch(kept)
		p.forget(kept)
		if stderr := p.Exit(); !strings.Contains(stderr, "leaked") {
			t.Errorf("Python says %q of the block that it takes away", stderr)
		}
		if exists(t, taken) || !exists(t, kept) {
			t.Errorf("after the client's end: %v %v, want only the second", exists(t, taken), exists(t, kept))
		}
		err := m.Shutdown(t.Context())
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), taken) || strings.Contains(err.Error(), kept) {
			t.Errorf("Shutdown: %v", err)
		}
		if exists(t, kept) {
			t.Error("the second is still there")
		}
	})
}

// TestPythonServer has Python serve Go: in a process of its own, as start does,
// and in the foreground.
func TestPythonServer(t *testing.T) {
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		for _, how := range []string{"start", "serve"} {
			p := newPartner(t, py)
			for kind, address := range addresses(t) {
				var where any
				if kind != "unix" || how == "serve" { // else Python chooses
					where = toJSON(t, address)
				}
				key := []byte("key \x00\xff of Python's")
				at := fromJSON(t, p.do(how, kind, where, hex.EncodeToString(key)))
				m, err := manager.Connect(t.Context(), at, key)
				if err != nil {
					t.Fatalf("%s at %s: %v", how, at, err)
				}
				if _, err := manager.Connect(t.Context(), at, []byte("wrong")); !errors.Is(err, conn.ErrAuth) {
					t.Errorf("with a wrong key: %v", err)
				}

				b := create(t, m, 100)
				copy(b.Bytes(), "from Go")
				l, err := m.CreateList(t.Context(), []any{1, "two"})
				if err != nil {
					t.Fatal(err)
				}
				shmtest.Watch(l.Block().Name())
				p.Must("attach", shmtest.Args{"block": "b", "name": b.Name()})
				if r := p.Must("read", shmtest.Args{"block": "b", "off": 0, "n": 7}); string(r.Data) != "from Go" {
					t.Errorf("Python reads %q", r.Data)
				}
				p.Must("close", shmtest.Args{"block": "b"})
				p.forget(b.Name())

				want := []string{b.Name(), l.Block().Name()}
				if got := names(t, m); !slices.Equal(got, want) {
					t.Errorf("blocks %q, want %q", got, want)
				}
				if err := m.Release(t.Context(), want[0]); err != nil {
					t.Error(err)
				}
				if err := m.Release(t.Context(), want[0]); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("releasing it again: %v", err)
				}
				if exists(t, want[0]) || !exists(t, want[1]) {
					t.Error("not the one was released, but the other")
				}
				l.Close()
				if err := m.Shutdown(t.Context()); err != nil {
					t.Errorf("Shutdown: %v", err)
				}
				if exists(t, want[1]) {
					t.Error("after Shutdown the list is still there")
				}
			}
			p.Exit()
		}
	})
}

// TestPythonMissing has Python's server stop at a block that is gone.
func TestPythonMissing(t *testing.T) {
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		p := newPartner(t, py)
		key := []byte("key")
		m, err := manager.Connect(t.Context(), fromJSON(t, p.do("start", "m", nil, hex.EncodeToString(key))), key)
		if err != nil {
			t.Fatal(err)
		}
		lost, after := gone(t, m), create(t, m, 10)
		var remote *manager.RemoteError
		if err := m.Shutdown(t.Context()); !errors.As(err, &remote) || !strings.Contains(remote.Text, lost) ||
			remote.Kind != "#TRACEBACK" || strings.Contains(err.Error(), ".py") {
			t.Errorf("Shutdown: %v", err)
		}
		if !exists(t, after.Name()) {
			t.Error("it has gone on; docs/python.md says that it does not")
		}
		// It has not ended. Without what is gone it does.
		if got := names(t, m); !slices.Equal(got, []string{after.Name()}) {
			t.Errorf("blocks %q", got)
		}
		if err := m.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown again: %v", err)
		}
		if exists(t, after.Name()) {
			t.Error("the block is still there")
		}
		p.Exit()
	})
}

// TestDigests has servers of ours that want what the Pythons have or have not.
func TestDigests(t *testing.T) {
	servers := map[string]*manager.Manager{}
	for name, digests := range map[string][]conn.Digest{
		"new": {conn.SHA256}, "old": {conn.MD5}, "both": {conn.MD5, conn.SHA256}, "another": {conn.SHA3_384, conn.SHA256, conn.MD5},
	} {
		servers[name] = start(t, &manager.Options{Conn: conn.Options{Digests: digests}})
	}
	t.Run("python", func(t *testing.T) {
		eachPython(t, func(t *testing.T, py shmtest.Python) {
			p := newPartner(t, py)
			for name, m := range servers {
				_, err := p.try("connect", name, toJSON(t, m.Address()), hex.EncodeToString(m.AuthKey()))
				// From 3.12 on it asks for SHA-256, and answers what it is asked.
				fits := name == "both" || name == "another" || name == "new" == (py.Minor >= 12)
				if (err == nil) != fits {
					t.Errorf("with a server of the %s kind: %v", name, err)
				}
			}
			p.Exit()
		})
	})
}
