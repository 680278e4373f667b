package conn

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

var key = []byte("sesame")

// newAddress returns an address of a kind: "unix", "abstract" or "tcp".
func newAddress(t testing.TB, kind string) string {
	t.Helper()
	switch kind {
	case "unix":
		if runtime.GOOS == "windows" {
			t.Skip("Python has no Unix sockets on Windows")
		}
		return "unix:" + filepath.Join(shmtest.TempDir(t), "s")
	case "abstract":
		if runtime.GOOS != "linux" {
			t.Skip("only Linux has abstract names")
		}
		return "unix:@" + shmtest.Name(t)
	}
	return "tcp:127.0.0.1:0"
}

// eachKind runs f for every kind of address.
func eachKind(t *testing.T, f func(t *testing.T, kind string)) {
	for _, kind := range []string{"unix", "abstract", "tcp"} {
		t.Run(kind, func(t *testing.T) { f(t, kind) })
	}
}

// native is the kind of address that tests use which do not care.
func native() string {
	if runtime.GOOS == "windows" {
		return "tcp"
	}
	return "unix"
}

func mustListen(t testing.TB, address string, key []byte, opts *Options) *Listener {
	t.Helper()
	l, err := Listen(address, key, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func mustDial(t testing.TB, address string, key []byte, opts *Options) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), address, key, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func mustAccept(t testing.TB, l *Listener) *Conn {
	t.Helper()
	c, err := l.AcceptContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// pair returns the two ends of a connection.
func pair(t testing.TB, opts *Options) (dialed, accepted *Conn) {
	t.Helper()
	l := mustListen(t, newAddress(t, native()), key, opts)
	dialed = mustDial(t, l.Addr(), key, opts)
	return dialed, mustAccept(t, l)
}

// rawPair returns one end of a socket, and the other as a Conn without a
// handshake.
func rawPair(t testing.TB, maxFrame int) (net.Conn, *Conn) {
	t.Helper()
	network, name, err := parseAddress(newAddress(t, native()))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen(network, name)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c := newConn(nc, maxFrame)
	t.Cleanup(func() { raw.Close(); c.Close() })
	return raw, c
}

// open returns how many descriptors this process has, 0 where it cannot know.
func open() int {
	entries, _ := os.ReadDir("/proc/self/fd")
	return len(entries)
}
