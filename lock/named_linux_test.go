package lock_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/lock"
)

// Named semaphores are the C library's: whoever made one, all can use it.

// partner is a program in another language. Its arguments are what it is to do:
//
//	make NAME N      makes a semaphore with N permits
//	echo A B N       waits for A and posts B, N times
//	wait A           says "waits", and waits for A
const partnerC = `
#include <fcntl.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static sem_t *get(const char *name) {
	sem_t *s = sem_open(name, 0);
	if (s == SEM_FAILED) { perror(name); exit(1); }
	return s;
}

int main(int argc, char **argv) {
	if (strcmp(argv[1], "make") == 0) {
		if (sem_open(argv[2], O_CREAT | O_EXCL, 0600, atoi(argv[3])) == SEM_FAILED) { perror(argv[2]); return 1; }
		return 0;
	}
	sem_t *a = get(argv[2]);
	puts("waits");
	fflush(stdout);
	if (strcmp(argv[1], "wait") == 0)
		return sem_wait(a);
	sem_t *b = get(argv[3]);
	for (int i = atoi(argv[4]); i > 0; i--)
		if (sem_wait(a) || sem_post(b)) { perror("echo"); return 1; }
	return 0;
}
`

const partnerPython = `
import sys, _multiprocessing
S, top = _multiprocessing.SemLock, 2**31 - 1
get = lambda name: S._rebuild(0, 1, top, name)
what, a = sys.argv[1:3]
if what == "make":
    S(1, int(sys.argv[3]), top, a, False)
    sys.exit()
a = get(a)
print("waits", flush=True)
if what == "wait":
    a.acquire()
    sys.exit()
b = get(sys.argv[3])
for _ in range(int(sys.argv[4])):
    a.acquire()
    b.release()
`

func needNamed(t *testing.T) {
	t.Helper()
	native(t)
	if strconv.IntSize != 64 {
		t.Skip("the C library's semaphores have another layout on 32 bits")
	}
}

func TestNamedC(t *testing.T) {
	needNamed(t)
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		shmtest.Skip(t, "gcc", err.Error())
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "partner")
	if err := os.WriteFile(program+".c", []byte(partnerC), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(gcc, "-O2", "-o", program, program+".c", "-pthread").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	talk(t, func(args ...string) *exec.Cmd { return exec.Command(program, args...) })
}

func TestNamedPython(t *testing.T) {
	needNamed(t)
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.Version, func(t *testing.T) {
			t.Parallel()
			talk(t, func(args ...string) *exec.Cmd {
				return py.Cmd(context.Background(), append([]string{"-c", partnerPython}, args...)...)
			})
		})
	}
}

func named(t *testing.T, name string, opts *lock.SemaphoreOptions) *lock.NamedSemaphore {
	t.Helper()
	s, err := lock.OpenSemaphore(name, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func unlink(t *testing.T, name string) {
	t.Helper()
	t.Cleanup(func() {
		if err := lock.UnlinkSemaphore(name); err != nil {
			t.Error(err)
		}
	})
}

// talk has a word with a partner: each made one of the two semaphores.
func talk(t *testing.T, partner func(args ...string) *exec.Cmd) {
	ours, theirs := shmtest.Name(t)+".a", shmtest.Name(t)+".b"
	if out, err := partner("make", "/"+theirs, "2").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	unlink(t, theirs)
	a, b := named(t, ours, &lock.SemaphoreOptions{Create: true, Exclusive: true}), named(t, theirs, nil)
	unlink(t, ours)
	for range 2 {
		if ok, err := b.TryWait(); !ok || err != nil {
			t.Fatal("a permit of what the other made", ok, err)
		}
	}
	if ok, err := b.TryWait(); ok || err != nil {
		t.Fatal(ok, err)
	}
	const n = 1000
	p := shmtest.StartCommand(t, partner("echo", "/"+ours, "/"+theirs, strconv.Itoa(n)))
	p.Expect("waits")
	done := make(chan error, 1)
	go func() {
		for range n {
			if err := errors.Join(a.Post(), b.Wait()); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	check(t, promptly(t, done))
	if st := p.Wait(); st != 0 {
		t.Fatal(st, p.Stderr())
	}
	for _, s := range []*lock.NamedSemaphore{a, b} {
		if v, err := s.Value(); v != 0 || err != nil {
			t.Errorf("%d permits are left of %s: %v", v, s.Name(), err)
		}
	}

	// One that waits and is killed leaves its mark there, which does no harm.
	for range 3 {
		p := shmtest.StartCommand(t, partner("wait", "/"+ours))
		p.Expect("waits")
		go func() { done <- a.Wait() }()
		untilAsleep(t, 1)
		p.Kill()
		check(t, a.Post())
		check(t, promptly(t, done))
	}
}

func TestNamed(t *testing.T) {
	if strconv.IntSize != 64 {
		t.Skip("the C library's semaphores have another layout on 32 bits")
	}
	name := shmtest.Name(t)
	if _, err := lock.OpenSemaphore(name, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what does not exist: %v", err)
	}
	if err := lock.UnlinkSemaphore(name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unlink what does not exist: %v", err)
	}
	s := named(t, name, &lock.SemaphoreOptions{Create: true, Initial: 2, Mode: 0o640})
	unlink(t, name)
	same := named(t, "/"+name, &lock.SemaphoreOptions{Create: true, Initial: 7})
	if v, err := same.Value(); v != 2 || err != nil || same.Name() != name {
		t.Errorf("%s has %d permits, want 2: %v", same.Name(), v, err)
	}
	if _, err := lock.OpenSemaphore(name, &lock.SemaphoreOptions{Create: true, Exclusive: true}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Exclusive: %v", err)
	}
	fi, err := os.Stat("/dev/shm/sem." + name)
	if err != nil || fi.Mode() != 0o640 || fi.Size() != 32 {
		t.Errorf("%v %v", fi, err)
	}
	full := named(t, name+".full", &lock.SemaphoreOptions{Create: true, Initial: 1<<31 - 1})
	unlink(t, name+".full")
	if err := full.Post(); !errors.Is(err, shm.ErrSize) {
		t.Errorf("a permit too many: %v", err)
	}

	for _, bad := range []string{"", "/", "a/b", "/a/b", "nul\x00", "\xff", strings.Repeat("x", 252)} {
		if _, err := lock.OpenSemaphore(bad, &lock.SemaphoreOptions{Create: true}); !errors.Is(err, shm.ErrName) {
			t.Errorf("%q: %v, want ErrName", bad, err)
		}
		if err := lock.UnlinkSemaphore(bad); !errors.Is(err, shm.ErrName) {
			t.Errorf("unlink %q: %v, want ErrName", bad, err)
		}
	}
	if _, err := lock.OpenSemaphore(name, &lock.SemaphoreOptions{Initial: -1}); !errors.Is(err, shm.ErrSize) {
		t.Errorf("-1 permits: %v", err)
	}

	// A file that is no semaphore.
	for i, content := range []string{"x", strings.Repeat("\x00", 16), strings.Repeat("\x00", 32), strings.Repeat("x", 4096)} {
		other := name + ".f" + strconv.Itoa(i)
		if err := os.WriteFile("/dev/shm/sem."+other, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		unlink(t, other)
		if _, err := lock.OpenSemaphore(other, nil); !errors.Is(err, shm.ErrFormat) {
			t.Errorf("a file of %d bytes: %v, want ErrFormat", len(content), err)
		}
	}

	// Unlinked, it is there for those who have it, and another may take its name.
	if err := lock.UnlinkSemaphore(name); err != nil {
		t.Fatal(err)
	}
	next := named(t, name, &lock.SemaphoreOptions{Create: true})
	check(t, s.Wait())
	check(t, same.Wait())
	if v, err := next.Value(); v != 0 || err != nil {
		t.Error(v, err)
	}
}
