package conn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sharedmem/shm/internal/shmtest"
)

func TestAddresses(t *testing.T) {
	for _, tt := range []struct {
		address       string
		network, name string
		want          error
	}{
		{address: "unix:/tmp/x", network: "unix", name: "/tmp/x"},
		{address: "unix:a:b", network: "unix", name: "a:b"},
		{address: "tcp:localhost:80", network: "tcp", name: "localhost:80"},
		{address: "tcp:[::1]:0", network: "tcp", name: "[::1]:0"},
		{address: "tcp::5000", network: "tcp4", name: ":5000"},
		{address: `pipe:\\.\pipe\x`, want: errors.ErrUnsupported},
		{address: "unix:", want: ErrAddress},
		{address: "unix:@", want: ErrAddress},
		{address: "unix:a\x00b", want: ErrAddress},
		{address: "tcp:localhost", want: ErrAddress},
		{address: "tcp:localhost:http", want: ErrAddress},
		{address: "tcp:localhost:65536", want: ErrAddress},
		{address: "tcp:localhost:+1", want: ErrAddress},
		{address: "tcp:::1:80", want: ErrAddress},
		{address: "/tmp/x", want: ErrAddress},
		{address: "udp:localhost:80", want: ErrAddress},
	} {
		network, name, err := parseAddress(tt.address)
		if network != tt.network || name != tt.name || !errors.Is(err, tt.want) {
			t.Errorf("%q: %q %q, %v", tt.address, network, name, err)
		}
		if tt.want != nil {
			if _, err := Dial(t.Context(), tt.address, key, nil); !errors.Is(err, tt.want) {
				t.Errorf("Dial %q: %v", tt.address, err)
			}
			if _, err := Listen(tt.address, key, nil); !errors.Is(err, tt.want) {
				t.Errorf("Listen %q: %v", tt.address, err)
			}
		}
	}
	if _, err := Dial(t.Context(), "", key, nil); !errors.Is(err, ErrAddress) {
		t.Errorf("Dial without an address: %v", err)
	}
	if runtime.GOOS != "linux" {
		if _, err := Listen("unix:@x", key, nil); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("an abstract name: %v", err)
		}
	}
}

func TestPythonAddresses(t *testing.T) {
	for _, tt := range []struct {
		ours   string
		python any
		back   string // "" if as before
	}{
		{"unix:/tmp/x", "/tmp/x", ""},
		{"unix:./@x", "./@x", ""},
		{"unix:@x", []byte("\x00x"), ""},
		{"tcp:127.0.0.1:5000", Tuple{"127.0.0.1", int64(5000)}, ""},
		{"tcp:[::1]:5000", Tuple{"::1", int64(5000)}, ""},
		{"", "\x00x", "unix:@x"},
		{"", "@x", "unix:./@x"},
		{"", []byte("/tmp/x"), "unix:/tmp/x"},
		{"", `\\.\pipe\x`, `pipe:\\.\pipe\x`},
		{"unix:a\x00b", nil, ""},
		{"nowhere", nil, ""},
		{"", "", ""},
		{"", nil, ""},
		{"", int64(1), ""},
		{"", Tuple{"x"}, ""},
		{"", Tuple{"x", "y"}, ""},
		{"", Tuple{"x", int64(-1)}, ""},
		{"", Tuple{"x", int64(1 << 20)}, ""},
	} {
		if runtime.GOOS != "linux" && strings.Contains(tt.ours+tt.back, ":@") {
			continue
		}
		if tt.ours != "" {
			got, err := PythonAddress(tt.ours)
			if fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", tt.python) || (err == nil) != (tt.python != nil) {
				t.Errorf("%q is to Python %#v, %v", tt.ours, got, err)
			}
			if tt.python == nil {
				continue
			}
		}
		want := tt.back
		if want == "" {
			want = tt.ours
		}
		if got, err := FromPython(tt.python); got != want || (err == nil) != (want != "") {
			t.Errorf("Python's %#v is %q, %v", tt.python, got, err)
		}
	}
}

// TestPrivate looks at the file of a socket in both ways of making it.
func TestPrivate(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no permission bits")
	}
	for name, make := range map[string]func(path string) (net.Listener, error){
		"mode of the socket": listenPrivate,
		"moved":              listenAside,
	} {
		path := filepath.Join(shmtest.TempDir(t), "s")
		l, err := make(path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != 0o600 || info.Mode().Type() != fs.ModeSocket {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
		if c, err := net.Dial("unix", path); err != nil {
			t.Errorf("%s: %v", name, err)
		} else {
			c.Close()
		}
		if l, err := make(path); err == nil {
			t.Errorf("%s: a second one", name)
			l.Close()
		}
		if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
			t.Errorf("%s: left %v", name, entries)
		}
	}
}

func TestTaken(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Python has no Unix sockets on Windows")
	}
	dir := shmtest.TempDir(t)
	path := filepath.Join(dir, "s")
	address := "unix:" + path

	// A live one.
	l := mustListen(t, address, key, nil)
	if _, err := Listen(address, key, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("at a name in use: %v", err)
	}
	mustDial(t, address, key, nil)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	wantEmpty(t, dir)

	// A dead one.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	l = mustListen(t, address, key, nil)
	mustDial(t, address, key, nil)

	// One that was replaced by somebody is not ours to remove.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	// Nor is a file to replace.
	if _, err := Listen(address, key, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("at a file: %v", err)
	}
	if p, err := os.ReadFile(path); string(p) != "precious" {
		t.Errorf("the file has %q, %v", p, err)
	}
	os.Remove(path)
	wantEmpty(t, dir)

	if _, err := Listen("unix:"+filepath.Join(dir, "no", "s"), key, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in no directory: %v", err)
	}
	if _, err := Listen("unix:"+filepath.Join(dir, strings.Repeat("x", 200)), key, nil); !errors.Is(err, ErrAddress) {
		t.Errorf("at a long path: %v", err)
	}
	wantEmpty(t, dir)
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("%s has %v, %v", dir, entries, err)
	}
}

// TestTakeover has many want the place of a dead server. One gets it.
func TestTakeover(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Python has no Unix sockets on Windows")
	}
	dir := shmtest.TempDir(t)
	path := filepath.Join(dir, "s")
	for range 20 {
		dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		dead.SetUnlinkOnClose(false)
		dead.Close()
		var wg sync.WaitGroup
		var mu sync.Mutex
		var got []*Listener
		for range 8 {
			wg.Go(func() {
				l, err := Listen("unix:"+path, key, nil)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					got = append(got, l)
				}
			})
		}
		wg.Wait()
		if len(got) != 1 {
			t.Errorf("%d have the name", len(got))
		} else if c, err := Dial(t.Context(), "unix:"+path, key, nil); err != nil {
			t.Error(err)
		} else {
			c.Close()
		}
		for _, l := range got {
			l.Close()
		}
		wantEmpty(t, dir)
	}
}

func TestFreshAddress(t *testing.T) {
	a, b := mustListen(t, "", key, nil), mustListen(t, "", key, nil)
	if a.Addr() == b.Addr() {
		t.Errorf("both are at %s", a.Addr())
	}
	mustDial(t, a.Addr(), key, nil)
	if path, ok := strings.CutPrefix(a.Addr(), "unix:"); ok {
		if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("its directory: %v, %v", info.Mode(), err)
		}
		a.Close()
		if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("its directory after Close: %v", err)
		}
	}
}

func TestAccept(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	l := mustListen(t, newAddress(t, native()), key, nil)
	ctx, cancel := context.WithCancel(t.Context())
	results := make(chan error)
	go func() { _, err := l.AcceptContext(ctx); results <- err }()
	cancel()
	if err := <-results; !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	go func() { _, err := l.Accept(); results <- err }()
	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-results; !errors.Is(err, os.ErrClosed) {
		t.Errorf("during Close: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestCloseHangsUp: Close ends what Accept has not returned, and nothing else.
func TestCloseHangsUp(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	l := mustListen(t, newAddress(t, native()), key, &Options{
		Refused: func(_ net.Addr, err error) { t.Errorf("Close was told: %v", err) },
	})
	a := mustDial(t, l.Addr(), key, nil)
	accepted := mustAccept(t, l)
	waiting := mustDial(t, l.Addr(), key, nil)
	network, name, _ := parseAddress(l.Addr())
	silent, err := net.Dial(network, name)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if _, err := silent.Read(make([]byte, 1)); err != nil { // it is asked for its key
		t.Fatal(err)
	}
	l.Close()
	if _, err := waiting.RecvBytes(); err == nil {
		t.Error("a peer that was not accepted stays connected")
	}
	if _, err := io.Copy(io.Discard, silent); err != nil && !isReset(err) {
		t.Error(err)
	}
	if err := a.SendBytes([]byte("hi")); err != nil {
		t.Error(err)
	}
	if p, err := accepted.RecvBytes(); string(p) != "hi" || err != nil {
		t.Errorf("%q, %v", p, err)
	}
}

// TestSilentPeers fills a Listener with peers that say nothing. Others get in.
func TestSilentPeers(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	var refused atomic.Int32
	l := mustListen(t, newAddress(t, native()), key, &Options{MaxPending: 3, Refused: func(_ net.Addr, err error) {
		if errors.Is(err, ErrBusy) { // the others hang up themselves, in the end
			refused.Add(1)
		}
	}})
	network, name, _ := parseAddress(l.Addr())
	var silent []net.Conn
	began := time.Now() // the grace of the oldest begins later, however slow we are
	for range 3 {
		c, err := net.Dial(network, name)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		silent = append(silent, c)
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	mustDial(t, l.Addr(), key, nil)
	if took := time.Since(began); took < grace/2 {
		t.Errorf("a peer had to go after %v, before its grace was over", took)
	}
	mustAccept(t, l)
	// The oldest is it that had to go.
	if _, err := io.Copy(io.Discard, silent[0]); err != nil && !isReset(err) {
		t.Error(err)
	}
	l.Close() // waits for Refused
	if n := refused.Load(); n != 1 {
		t.Errorf("%d were refused", n)
	}
}

func TestSlowPeersDoNotStall(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	l := mustListen(t, newAddress(t, native()), key, nil)
	network, name, _ := parseAddress(l.Addr())
	for range 100 {
		c, err := net.Dial(network, name)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	// There is room for 28 more at a time.
	for range 100 {
		mustDial(t, l.Addr(), key, nil).Close()
		mustAccept(t, l).Close()
	}
}

func TestCheckPeer(t *testing.T) {
	if _, err := Listen("tcp:127.0.0.1:0", key, &Options{CheckPeer: SameUser}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("over TCP: %v", err)
	}
	if !slices.Contains([]string{"linux", "darwin", "freebsd"}, runtime.GOOS) {
		t.Skip("the system does not tell")
	}
	eachKind(t, func(t *testing.T, kind string) {
		if kind == "tcp" {
			a, _ := pairAt(t, kind)
			if _, err := a.Peer(); !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("Peer over TCP: %v", err)
			}
			return
		}
		shmtest.Deadline(t, shmtest.Patience)
		l := mustListen(t, newAddress(t, kind), key, &Options{CheckPeer: SameUser})
		p := shmtest.Start(t, "dialer-sesame", l.Addr())
		c := mustAccept(t, l)
		if peer, err := c.Peer(); err != nil || peer != (Peer{p.PID(), os.Getuid(), os.Getgid()}) {
			t.Errorf("peer is %v, %v", peer, err)
		}
		p.Send("end")
		p.Wait()

		strange := errors.New("I do not like its face")
		refusal := make(chan error, 1)
		l = mustListen(t, newAddress(t, kind), key, &Options{
			CheckPeer: func(Peer) error { return strange },
			Refused:   func(_ net.Addr, err error) { refusal <- err },
		})
		if _, err := Dial(t.Context(), l.Addr(), key, nil); err == nil {
			t.Error("Dial was let in")
		}
		if err := <-refusal; !errors.Is(err, strange) {
			t.Errorf("refused because of %v", err)
		}
		if _, err := Dial(t.Context(), l.Addr(), key, &Options{CheckPeer: func(p Peer) error {
			if p.PID != os.Getpid() {
				t.Errorf("the server is %v", p)
			}
			return strange
		}}); !errors.Is(err, strange) {
			t.Errorf("Dial: %v", err)
		}
	})
	if err := SameUser(Peer{UID: os.Geteuid() + 1}); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("another user: %v", err)
	}
}

func init() {
	shmtest.Register("dialer-sesame", func(args []string) int {
		c, err := Dial(context.Background(), args[0], key, nil)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		shmtest.Await("end")
		c.Close()
		return 0
	})
}

func pairAt(t *testing.T, kind string) (dialed, accepted *Conn) {
	t.Helper()
	l := mustListen(t, newAddress(t, kind), key, nil)
	return mustDial(t, l.Addr(), key, nil), mustAccept(t, l)
}

// TestManyClients has a thousand at once, of which each says something.
func TestManyClients(t *testing.T) {
	clients := 1000
	if raceEnabled || os.Getenv("SHM_QEMU") != "" {
		clients = 200
	}
	shmtest.Deadline(t, 2*shmtest.Patience)
	// A busy machine needs more than the grace for so many handshakes: none has to go for another.
	l := mustListen(t, newAddress(t, native()), key, &Options{
		MaxPending: clients, HandshakeTimeout: shmtest.Patience,
		Refused: func(_ net.Addr, err error) { t.Errorf("refused: %v", err) },
	})
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc + m.StackInuse)
	}
	before := heap()
	var accepted, dialed sync.WaitGroup
	conns := make([]*Conn, clients)
	accepted.Go(func() {
		for range clients {
			c, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			accepted.Go(func() {
				for {
					v, err := c.Recv()
					if err != nil {
						c.Close()
						return
					}
					if err := c.Send(v); err != nil {
						t.Error(err)
					}
				}
			})
		}
	})
	for i := range clients {
		dialed.Go(func() {
			c, err := Dial(t.Context(), l.Addr(), key, &Options{HandshakeTimeout: shmtest.Patience})
			if err != nil {
				t.Error(err)
				return
			}
			conns[i] = c
			if err := c.Send(i); err != nil {
				t.Error(err)
			}
			if v, err := c.Recv(); v != int64(i) || err != nil {
				t.Errorf("got %v, %v", v, err)
			}
		})
	}
	dialed.Wait()
	// Both ends are in this process: twice the buffers, and a goroutine.
	if each := (heap() - before) / int64(clients); each > 40<<10 {
		t.Errorf("a connection costs %d bytes", each)
	} else {
		t.Logf("%d connections, %d bytes each, both ends", clients, each)
	}
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
	accepted.Wait()
}

// TestNothingStays opens and ends connections in every way, and counts what is
// left of them.
func TestNothingStays(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	round := func() {
		for _, kind := range []string{native(), "tcp"} {
			l, err := Listen(newAddress(t, kind), key, &Options{HandshakeTimeout: shmtest.Patience / 3})
			if err != nil {
				t.Fatal(err)
			}
			c, err := Dial(t.Context(), l.Addr(), key, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Dial(t.Context(), l.Addr(), []byte("wrong"), nil); !errors.Is(err, ErrAuth) {
				t.Fatal(err)
			}
			a, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			late, err := Dial(t.Context(), l.Addr(), key, nil) // for nobody
			if err != nil {
				t.Fatal(err)
			}
			network, name, _ := parseAddress(l.Addr())
			silent, err := net.Dial(network, name)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			result := make(chan error)
			go func() { _, err := c.RecvContext(ctx); result <- err }()
			cancel()
			<-result
			l.Close()
			for _, c := range []io.Closer{c, a, late, silent} {
				c.Close()
			}
		}
	}
	round() // the runtime's own descriptors
	files, goroutines := open(), runtime.NumGoroutine()
	for range 10 {
		round()
	}
	// A goroutine is counted for a moment after its last statement.
	for end := time.Now().Add(shmtest.Patience / 2); runtime.NumGoroutine() > goroutines && time.Now().Before(end); {
		runtime.Gosched()
	}
	if now := runtime.NumGoroutine(); now > goroutines {
		stacks := make([]byte, 1<<20)
		t.Errorf("%d goroutines have become %d\n%s", goroutines, now, stacks[:runtime.Stack(stacks, true)])
	}
	// On Windows a thread that the runtime starts meanwhile has some, too; what we
	// leaked would be one a round.
	if now := open(); now >= files+10 {
		t.Errorf("%d descriptors have become %d", files, now)
	}
	outstanding.Lock()
	defer outstanding.Unlock()
	if n := len(outstanding.ends); n > 0 {
		t.Errorf("%d challenges are still remembered", n)
	}
}
