package cli

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

// What a key is, by file and by environment, is the same.
func TestAuthKey(t *testing.T) {
	path := filepath.Join(shmtest.TempDir(t), "key")
	for _, c := range []struct{ text, want string }{
		{"secret", "secret"}, {"secret\n", "secret"}, {"secret\r\n\n", "secret"}, {"two\nlines\n", "two\nlines"},
		{" spaces \t", " spaces \t"}, {"\xff\xfe\n", "\xff\xfe"}, {"\n", ""}, {"", ""},
	} {
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("SHM_TEST_KEY", c.text)
		for _, flags := range []keyFlags{{file: path}, {env: "SHM_TEST_KEY"}} {
			if runtime.GOOS == "windows" && flags.env != "" && strings.Contains(c.text, "\xff") {
				continue // its environment is Unicode
			}
			key, err := flags.read()
			if (err != nil) != (c.want == "") || string(key.bytes) != c.want {
				t.Errorf("%+v with %q: %q, %v", flags, c.text, key.bytes, err)
			}
			if err != nil && !strings.Contains(err.Error(), "empty") {
				t.Errorf("%+v with %q: %v", flags, c.text, err)
			}
		}
	}
	// A new one is long, no other one's, and for nobody else.
	if err := createKeyFile(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file that is there: %v", err)
	}
	seen := map[string]bool{}
	for range 2 {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if err := createKeyFile(path); err != nil {
			t.Fatal(err)
		}
		key, err := (&keyFlags{file: path}).read()
		if err != nil || len(key.bytes) != 64 || seen[string(key.bytes)] {
			t.Errorf("%q, %v", key.bytes, err)
		}
		seen[string(key.bytes)] = true
	}
}

// What is no manager, or does not answer, is said to be so, and in time.
func TestManagerStrangers(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	t.Setenv(authKeyEnv, "secret")
	for _, c := range []struct {
		name, want string
		serve      func(net.Conn)
	}{
		{"silent", "no answer within 50ms\ntry: --timeout", func(c net.Conn) { c.Read(make([]byte, 1)) }},
		{"gone", "it hung up\ntry: shm manager ls", func(net.Conn) {}},
		{"garbage", "", func(c net.Conn) { c.Write([]byte("SSH-2.0-OpenSSH_9.2\r\n")) }},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				nc, err := l.Accept()
				if err != nil {
					return
				}
				c.serve(nc)
				nc.Close()
			}
		}()
		timeout := "10s"
		if c.name == "silent" {
			timeout = "50ms"
		}
		status, out, errs := run(t, "", "manager", "ls", "--timeout", timeout, "--address", "tcp:"+l.Addr().String())
		if status != exitFailure || out != "" || !strings.Contains(errs, c.want) {
			t.Errorf("%s: status %d, %q, %s", c.name, status, out, errs)
		}
		l.Close()
		<-done
		// And when nobody listens any more.
		status, _, errs = run(t, "", "manager", "ls", "--address", "tcp:"+l.Addr().String())
		if status != exitFailure || !strings.Contains(errs, "try: shm serve --address tcp:") {
			t.Errorf("closed: status %d, %s", status, errs)
		}
	}
}

// shm manager is a client of Python's managers too.
func TestManagerOfPython(t *testing.T) {
	blockDir(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*shmtest.Patience)
	defer cancel()
	const server = `
from multiprocessing.managers import SharedMemoryManager
server = SharedMemoryManager(address=("127.0.0.1", 0), authkey=b"secret").get_server()
print("tcp:%s:%d" % server.address, flush=True)
server.serve_forever()
`
	t.Setenv(authKeyEnv, "secret")
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.String(), func(t *testing.T) {
			p := shmtest.StartCommand(t, py.Cmd(ctx, "-c", server))
			address := p.Line()
			manager := func(want int, verb string, args ...string) string {
				t.Helper()
				status, out, errs := run(t, "", append([]string{"manager", "--address", address, verb}, args...)...)
				if status != want {
					t.Errorf("manager %s %v: status %d: %s", verb, args, status, errs)
				}
				return strings.TrimSpace(out + errs)
			}
			a, b := manager(0, "create", "4K"), manager(0, "create", "--list", "1", "two")
			shmtest.Watch(a)
			shmtest.Watch(b)
			if out := manager(0, "ls"); !strings.Contains(out, a+"  4.0 KiB\n"+b) {
				t.Errorf("ls: %s", out)
			}
			manager(0, "release", a)
			if _, err := shm.Stat(a); err == nil {
				t.Errorf("%s is still there", a)
			}
			if out := manager(exitFailure, "release", a); !strings.Contains(out, "no such block") {
				t.Errorf("released twice: %s", out)
			}
			// Python's server stops its shutdown at the first block that is missing.
			c := manager(0, "create", "4K")
			shmtest.Watch(c)
			if err := shm.Unlink(b); err != nil {
				t.Fatal(err)
			}
			if out := manager(exitFailure, "shutdown"); !strings.Contains(out, "it has not ended: ") || !strings.HasSuffix(out, "try: the same again") {
				t.Errorf("shutdown: %s", out)
			}
			manager(0, "shutdown")
			if _, err := shm.Stat(c); err == nil {
				t.Errorf("%s is still there", c)
			}
			if status, errs := p.WaitAll(); status != 0 {
				t.Errorf("status %d: %s", status, errs)
			}
		})
	}
}
