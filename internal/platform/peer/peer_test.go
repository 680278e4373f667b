package peer

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

func TestOf(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if runtime.GOOS != "windows" {
		l, err = net.Listen("unix", filepath.Join(shmtest.TempDir(t), "s"))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial(l.Addr().Network(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, c := range []net.Conn{a, b} {
		cred, err := Of(c.(syscall.Conn))
		if errors.Is(err, errors.ErrUnsupported) && runtime.GOOS != "linux" {
			continue
		}
		if err != nil || cred.UID != os.Geteuid() || cred.GID != os.Getegid() || cred.PID != 0 && cred.PID != os.Getpid() {
			t.Errorf("%v: %+v, %v", c.LocalAddr(), cred, err)
		}
	}
	a.Close()
	if cred, err := Of(a.(syscall.Conn)); err == nil {
		t.Errorf("of a closed socket: %+v", cred)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(shmtest.TempDir(t), "lock")
	release, ok, err := Lock(path)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("no locks here")
	}
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if _, ok, err := Lock(path); ok || err != nil {
		t.Errorf("a second time: %v, %v", ok, err)
	}
	release()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
	// What a dead holder has left is no obstacle.
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if release, ok, err = Lock(path); err != nil || !ok {
		t.Fatal(ok, err)
	}
	release()
	if _, ok, err := Lock(filepath.Join(path, "x")); ok || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in no directory: %v, %v", ok, err)
	}
}
