package manager_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/conn"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/list"
	"github.com/sharedmem/shm/manager"
)

// ownDir is a directory for blocks of this test alone, where the system has such.
func ownDir(t testing.TB) string {
	if runtime.GOOS == "windows" {
		return ""
	}
	return shmtest.TempDir(t)
}

func TestMain(m *testing.M) {
	shmtest.Sweep = func() { _, _ = shm.Prune() } // for processes that are killed
	shmtest.Main(m)
}

// start starts a manager that is gone, at the latest, when the test ends.
func start(t testing.TB, o *manager.Options) *manager.Manager {
	t.Helper()
	m, err := manager.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Shutdown(context.Background()) })
	return m
}

func connect(t testing.TB, m *manager.Manager) *manager.Manager {
	t.Helper()
	c, err := manager.Connect(t.Context(), m.Address(), m.AuthKey())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func create(t testing.TB, m *manager.Manager, size int) *shm.Block {
	t.Helper()
	b, err := m.Create(t.Context(), size)
	if err != nil {
		t.Fatal(err)
	}
	shmtest.Watch(b.Name())
	t.Cleanup(func() { b.Close() })
	return b
}

func names(t testing.TB, m *manager.Manager) []string {
	t.Helper()
	got, err := m.Blocks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func exists(t testing.TB, name string) bool {
	t.Helper()
	_, err := shm.Stat(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

// addresses are one of each kind that this system has.
func addresses(t testing.TB) map[string]string {
	out := map[string]string{"tcp": "tcp:127.0.0.1:0"}
	if runtime.GOOS != "windows" {
		out["unix"] = "unix:" + filepath.Join(shmtest.TempDir(t), "socket")
	}
	if runtime.GOOS == "linux" {
		out["abstract"] = "unix:@" + shmtest.Name(t)
	}
	return out
}

// canStart skips the test where a server has no process of its own.
func canStart(t *testing.T) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("a process is not handed its pipes on Windows")
	}
	if os.Getenv("SHM_QEMU") != "" {
		t.Skip("under an emulator a program cannot execute itself again")
	}
}

// modes are the two ways in which a server can run.
func modes(t *testing.T, f func(t *testing.T, o manager.Options)) {
	for _, process := range []bool{false, true} {
		t.Run(fmt.Sprintf("process=%v", process), func(t *testing.T) {
			if process {
				canStart(t)
			}
			f(t, manager.Options{Process: process})
		})
	}
}

func TestManager(t *testing.T) {
	modes(t, func(t *testing.T, o manager.Options) {
		for kind, address := range addresses(t) {
			t.Run(kind, func(t *testing.T) {
				o.Address = address
				m := start(t, &o)
				c := connect(t, m)
				var want []string

				b := create(t, c, 100)
				if b.Size() < 100 {
					t.Errorf("%v has not 100 bytes", b)
				}
				l, err := m.CreateList(t.Context(), []any{1, "two", nil})
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				shmtest.Watch(l.Block().Name())
				if v, err := l.At(1); v != "two" {
					t.Errorf("the list has %v, %v", v, err)
				}
				own, err := shm.Create(shmtest.Name(t), 50, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer own.Close()
				if err := c.Track(t.Context(), own); err != nil {
					t.Fatal(err)
				}
				want = append(want, b.Name(), l.Block().Name(), own.Name())
				if got := names(t, m); !slices.Equal(got, want) {
					t.Errorf("blocks %q, want %q", got, want)
				}
				if s, ok := m.Stats(); ok == o.Process {
					t.Errorf("Stats says %v", ok)
				} else if ok && (s.Blocks != 3 || s.Bytes < 150 || s.Accepted == 0 ||
					s.Requests["track_segment"] != 3 || s.Requests["dummy"] < 1 || s.Requests["list_segments"] != 1) {
					t.Errorf("Stats: %+v", s)
				}

				if err := c.Release(t.Context(), own.Name()); err != nil {
					t.Error(err)
				}
				if err := m.Release(t.Context(), own.Name()); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("releasing it again: %v", err)
				}
				if got := names(t, c); !slices.Equal(got, want[:2]) {
					t.Errorf("blocks %q, want %q", got, want[:2])
				}
				if err := c.Wait(); !errors.Is(err, errors.ErrUnsupported) {
					t.Errorf("a client's Wait: %v", err)
				}

				if err := m.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
				if err := m.Wait(); err != nil {
					t.Error(err)
				}
				if runtime.GOOS != "windows" { // there a block goes with its last user
					for _, name := range want {
						if exists(t, name) {
							t.Errorf("%s is still there", name)
						}
					}
				}
				if _, err := c.Blocks(t.Context()); err == nil {
					t.Error("it still answers")
				}
				if file, ok := strings.CutPrefix(m.Address(), "unix:/"); ok {
					if _, err := os.Lstat("/" + file); !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("its socket is still there: %v", err)
					}
				}
			})
		}
	})
}

func TestShutdownByClient(t *testing.T) {
	modes(t, func(t *testing.T, o manager.Options) {
		m := start(t, &o)
		name := create(t, m, 10).Name()
		if err := connect(t, m).Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := m.Wait(); err != nil {
			t.Error(err)
		}
		if runtime.GOOS != "windows" && exists(t, name) {
			t.Error("the block is still there")
		}
	})
}

// TestTwice shuts down what has been shut down.
func TestTwice(t *testing.T) {
	m := start(t, nil)
	for range 2 {
		if err := m.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestMissing(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("names cannot be taken away")
	}
	modes(t, func(t *testing.T, o manager.Options) {
		for _, who := range []string{"owner", "client"} {
			t.Run(who, func(t *testing.T) {
				m := start(t, &o)
				by := m
				if who == "client" {
					by = connect(t, m)
				}
				var all []string
				for range 5 {
					all = append(all, create(t, m, 10).Name())
				}
				for _, i := range []int{0, 3} {
					if err := shm.Unlink(all[i]); err != nil {
						t.Fatal(err)
					}
				}
				// It goes on, and says which.
				err := by.Shutdown(t.Context())
				if !errors.Is(err, fs.ErrNotExist) {
					t.Fatalf("Shutdown: %v", err)
				}
				for i, name := range all {
					if exists(t, name) {
						t.Errorf("block %d is still there", i)
					}
					if gone := i == 0 || i == 3; strings.Contains(err.Error(), name) != gone {
						t.Errorf("block %d, gone: %v, and the error: %v", i, gone, err)
					}
				}
				select {
				case <-ended(m):
				case <-time.After(shmtest.Patience):
					t.Error("it has not ended")
				}
			})
		}
	})
}

func ended(m *manager.Manager) <-chan error {
	done := make(chan error, 1)
	go func() { done <- m.Wait() }()
	return done
}

func TestServe(t *testing.T) {
	for _, how := range []string{"context", "client", "missing"} {
		t.Run(how, func(t *testing.T) {
			if how == "missing" && runtime.GOOS == "windows" {
				t.Skip("names cannot be taken away")
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ready := make(chan *manager.Manager, 1)
			served := make(chan error, 1)
			go func() {
				served <- manager.Serve(ctx, &manager.Options{Process: true}, func(m *manager.Manager) { ready <- m })
			}()
			m := <-ready
			name := create(t, m, 10).Name()
			var want error
			switch how {
			case "context":
				cancel()
			case "missing":
				want = fs.ErrNotExist
				if err := shm.Unlink(name); err != nil {
					t.Fatal(err)
				}
				fallthrough
			case "client":
				if err := connect(t, m).Shutdown(t.Context()); !errors.Is(err, want) {
					t.Errorf("Shutdown: %v", err)
				}
			}
			if err := <-served; !errors.Is(err, want) {
				t.Errorf("Serve: %v", err)
			}
			if runtime.GOOS != "windows" && exists(t, name) {
				t.Error("the block is still there")
			}
		})
	}
	if err := manager.Serve(t.Context(), &manager.Options{Address: "nonsense"}, nil); !errors.Is(err, conn.ErrAddress) {
		t.Errorf("Serve at no address: %v", err)
	}
}

func TestKeys(t *testing.T) {
	a, b := start(t, nil), start(t, nil)
	if len(a.AuthKey()) != 32 || bytes.Equal(a.AuthKey(), b.AuthKey()) {
		t.Error("keys are not fresh ones of 32 bytes")
	}
	a.AuthKey()[0]++ // a copy
	create(t, connect(t, a), 1)
	if _, err := manager.Start(t.Context(), &manager.Options{AuthKey: []byte{}}); err == nil {
		t.Error("an empty key is taken")
	}
	for _, key := range [][]byte{nil, {}} {
		if _, err := manager.Connect(t.Context(), a.Address(), key); err == nil {
			t.Errorf("connected with the key %#v", key)
		}
	}
	if _, err := manager.Connect(t.Context(), a.Address(), b.AuthKey()); !errors.Is(err, conn.ErrAuth) {
		t.Errorf("connected with another's key: %v", err)
	}
	key := []byte("sesame")
	c := start(t, &manager.Options{AuthKey: key})
	key[0] = 0
	if !bytes.Equal(c.AuthKey(), []byte("sesame")) {
		t.Error("the key is not copied")
	}
	eventually(t, a, func(s manager.Stats) bool { return s.Refused == 1 })
}

// eventually waits for what another goroutine of the server is about to note.
func eventually(t testing.TB, m *manager.Manager, ok func(manager.Stats) bool) {
	t.Helper()
	for end := time.Now().Add(shmtest.Patience); ; time.Sleep(time.Millisecond) {
		s, _ := m.Stats()
		if ok(s) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("Stats stay %+v", s)
		}
	}
}

func TestStartFails(t *testing.T) {
	modes(t, func(t *testing.T, o manager.Options) {
		o.Address = "nonsense"
		if _, err := manager.Start(t.Context(), &o); err == nil || !strings.Contains(err.Error(), "bad address") {
			t.Errorf("at no address: %v", err)
		}
		o.Address = ""
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := manager.Start(ctx, &o); !errors.Is(err, context.Canceled) {
			t.Errorf("with a context that has ended: %v", err)
		}
	})
	_, err := manager.Start(t.Context(), &manager.Options{
		Process: true, Conn: conn.Options{CheckPeer: conn.SameUser},
	})
	if !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a function for another process: %v", err)
	}
}

// TestContexts ends contexts in calls to a server that does not answer.
func TestContexts(t *testing.T) {
	l, err := conn.Listen("", []byte("key"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	answers := make(chan bool, 1)
	answers <- true
	go func() { // answers one request, and takes the others
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Recv()
			select {
			case <-answers:
				_ = c.Send(conn.Tuple{"#RETURN", nil})
			default:
				t.Cleanup(func() { c.Close() })
			}
		}
	}()
	m, err := manager.Connect(t.Context(), l.Addr(), []byte("key"))
	if err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func(ctx context.Context) error{
		"Blocks":     func(ctx context.Context) error { _, err := m.Blocks(ctx); return err },
		"Create":     func(ctx context.Context) error { _, err := m.Create(ctx, 10); return err },
		"CreateList": func(ctx context.Context) error { _, err := m.CreateList(ctx, []any{1}); return err },
		"Release":    func(ctx context.Context) error { return m.Release(ctx, "x") },
		"Shutdown":   func(ctx context.Context) error { return m.Shutdown(ctx) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
	m = start(t, &manager.Options{RequestTimeout: time.Hour})
	silent, err := connDial(t, m)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	// It would wait for ever; how long closing takes is the machine's affair.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := m.Shutdown(ctx); err != nil {
		t.Errorf("a silent client holds up Shutdown: %v", err)
	}
}

func connDial(t testing.TB, m *manager.Manager) (*conn.Conn, error) {
	return conn.Dial(t.Context(), m.Address(), m.AuthKey(), nil)
}

func TestLimits(t *testing.T) {
	t.Run("MaxBlocks", func(t *testing.T) {
		m := start(t, &manager.Options{MaxBlocks: 2})
		create(t, m, 10)
		b := create(t, m, 10)
		before := inShm(t)
		var remote *manager.RemoteError
		if _, err := m.Create(t.Context(), 10); !errors.As(err, &remote) || !strings.HasPrefix(remote.Text, "MemoryError") {
			t.Errorf("a third block: %v", err)
		}
		if _, err := m.CreateList(t.Context(), []any{1}); !errors.As(err, &remote) {
			t.Errorf("a list: %v", err)
		}
		if after := inShm(t); !slices.Equal(before, after) {
			t.Errorf("what was refused is still there: %q, before %q", after, before)
		}
		if err := m.Release(t.Context(), b.Name()); err != nil {
			t.Error(err)
		}
		create(t, m, 10)
	})
	t.Run("MaxConns", func(t *testing.T) {
		m := start(t, &manager.Options{MaxConns: 3})
		var held []*conn.Conn
		for range 3 {
			c, err := connDial(t, m)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			held = append(held, c)
		}
		eventually(t, m, func(s manager.Stats) bool { return s.Conns == 3 })
		if _, err := m.Blocks(t.Context()); err == nil {
			t.Error("a fourth connection is answered")
		}
		eventually(t, m, func(s manager.Stats) bool { return s.Refused == 1 })
		held[0].Close()
		eventually(t, m, func(s manager.Stats) bool { return s.Conns == 2 })
		names(t, m)
	})
	t.Run("MaxRequest", func(t *testing.T) {
		m := start(t, &manager.Options{MaxRequest: 500})
		create(t, m, 10)
		if err := m.Release(t.Context(), strings.Repeat("x", 600)); err == nil {
			t.Error("a request of more than 500 bytes is answered")
		}
		eventually(t, m, func(s manager.Stats) bool { return s.Requests["invalid"] == 1 })
	})
	t.Run("RequestTimeout", func(t *testing.T) {
		m := start(t, &manager.Options{RequestTimeout: 50 * time.Millisecond})
		c, err := connDial(t, m)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if v, err := c.Recv(); !reflect.DeepEqual(v, conn.Tuple{"#TRACEBACK", "TimeoutError: no request came in time\n"}) {
			t.Errorf("a silent client hears %v, %v", v, err)
		}
		if v, err := c.Recv(); err == nil {
			t.Errorf("and then %v", v)
		}
		eventually(t, m, func(s manager.Stats) bool { return s.Conns == 0 && s.Requests["invalid"] == 1 })
	})
}

// inShm lists the blocks of this process, where blocks are files.
func inShm(t testing.TB) (out []string) {
	t.Helper()
	infos, err := shm.List()
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		t.Fatal(err)
	}
	for _, i := range infos {
		if i.Owner.PID == os.Getpid() {
			out = append(out, i.Name)
		}
	}
	return out
}

// TestRaces creates and releases while the manager is shut down. Whatever comes
// first, nothing may be left, which TestMain's check sees.
func TestRaces(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	for round := range 5 {
		m := start(t, nil)
		var wg sync.WaitGroup
		ctx, cancel := context.WithTimeout(t.Context(), shmtest.Patience)
		for range 4 {
			wg.Go(func() {
				for {
					b, err := m.Create(ctx, 10)
					if err != nil {
						if ctx.Err() != nil {
							t.Errorf("round %d: %v", round, err)
						}
						return
					}
					shmtest.Watch(b.Name())
					_ = b.Close()
					if all, err := m.Blocks(ctx); err == nil && len(all) > 3 {
						_ = m.Release(ctx, all[0])
					}
				}
			})
		}
		eventually(t, m, func(s manager.Stats) bool { return s.Requests["track_segment"] > uint64(5*round) })
		// Blocks that another one has released in the meantime may be missing.
		if err := m.Shutdown(ctx); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		wg.Wait()
		cancel()
	}
}

// TestLists opens a list by its name, as another process would.
func TestLists(t *testing.T) {
	m := start(t, nil)
	l, err := connect(t, m).CreateList(t.Context(), []any{int64(1), "x", 2.5})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err := list.Open(l.Ref().Name, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if err := peer.Set(0, int64(2)); err != nil {
		t.Fatal(err)
	}
	if v, err := l.At(0); v != int64(2) {
		t.Errorf("got %v, %v", v, err)
	}
	if _, err := m.CreateList(t.Context(), []any{struct{}{}}); err == nil {
		t.Error("a list of what no list can have")
	}
}

// TestTrack is for blocks that a client makes itself.
func TestTrack(t *testing.T) {
	m := start(t, nil)
	b, err := shm.Create(shmtest.Name(t), 10, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.Unlink(); err != nil {
		t.Fatal(err)
	}
	if err := m.Track(t.Context(), b); runtime.GOOS != "windows" && !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a block without a name: %v", err)
	}
	if got := names(t, m); runtime.GOOS != "windows" && len(got) != 0 {
		t.Errorf("the manager has heard of it: %q", got)
	}
	if err := m.Release(t.Context(), b.Name()); runtime.GOOS != "windows" && !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("releasing it: %v", err)
	}
}

// TestTrackFails leaves a block as it was, if nobody hears of it.
func TestTrackFails(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("nobody owns blocks there")
	}
	m := start(t, &manager.Options{MaxBlocks: 1})
	first, err := m.Create(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	for _, lifetime := range []shm.Lifetime{shm.Owned, shm.Persistent} {
		b, err := shm.Create(shmtest.Name(t), 10, &shm.CreateOptions{Lifetime: lifetime})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Unlink()
		defer b.Close()
		if err := m.Track(t.Context(), b); err == nil {
			t.Error("more blocks than there may be")
		}
		info, err := shm.Stat(b.Name())
		if err != nil || info.Owner.Alive != (lifetime == shm.Owned) {
			t.Errorf("a block that is %v has the owner %+v now, %v", lifetime, info.Owner, err)
		}
	}
}
