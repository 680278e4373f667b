//go:build linux

package shm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

func init() {
	shmtest.Register("stale", func(args []string) int {
		b, err := shm.Create(args[0], 4096, nil)
		if err != nil {
			return report(err)
		}
		p := b.Bytes()
		b.Close()
		b.Unlink()
		// Many new mappings: without retirement one of them gets p's address.
		for range 200 {
			c, err := shm.Anonymous(4096, nil)
			if err != nil {
				return report(err)
			}
			c.Bytes()[0] = 42
		}
		shmtest.Say("ready")
		shmtest.Await("go")
		shmtest.Say("read %d", p[0]) // must not come this far
		return 0
	})
	// small-tmpfs mounts a file system of 1 MiB in a mount namespace of its own.
	shmtest.Register("small-tmpfs", func(args []string) int {
		return report(smallTmpfs(args[0], args[1]))
	})
	shmtest.Register("in-cgroup", func(args []string) int {
		shmtest.Await("go") // we are in it now
		_, err := shm.Create(args[0], 256<<20, nil)
		if err == nil {
			shm.Unlink(args[0])
		}
		shmtest.Say("%v, %v", errors.Is(err, shm.ErrNoSpace), err)
		_, err = shm.Anonymous(256<<20, nil)
		shmtest.Say("%v, %v", errors.Is(err, shm.ErrNoSpace), err)
		_, err = shm.CreateFrom(args[0], io.LimitReader(zeros{}, 256<<20), nil)
		if err == nil {
			shm.Unlink(args[0])
		}
		shmtest.Say("%v, %v", errors.Is(err, shm.ErrNoSpace), err)
		b, err := shm.Create(args[0], 1<<20, nil)
		if err == nil {
			err = errors.Join(b.Close(), b.Unlink())
		}
		shmtest.Say("%v", err)
		return 0
	})
	shmtest.Register("fd-user", func(args []string) int {
		b, err := shm.FromFile(os.NewFile(3, "fd"), nil)
		if err != nil {
			return report(err)
		}
		b.Bytes()[1] = b.Bytes()[0] + 1
		f, err := b.File()
		if err != nil {
			return report(err)
		}
		if err := f.Truncate(1); !errors.Is(err, fs.ErrPermission) {
			shmtest.Say("the seal does not hold: %v", err)
			return 1
		}
		shmtest.Say("done")
		return 0
	})
	shmtest.Register("creator-later", func(args []string) int {
		shmtest.Say("ready")
		shmtest.Await("go")
		b, err := shm.Create(args[0], 100, nil)
		if err != nil {
			return report(err)
		}
		shmtest.Await("exit")
		return report(b.Unlink())
	})
}

var sink byte // keeps the compiler from removing a read

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestStaleAccessFaults(t *testing.T) {
	p := shmtest.Start(t, "stale", shmtest.Name(t))
	p.Expect("ready")
	p.Send("go")
	if status := p.Wait(); status == 0 || !strings.Contains(p.Stderr(), "SIGSEGV") {
		t.Fatalf("a stale access ended with %d: %s", status, p.Stderr())
	}
}

func TestTruncatedByPeer(t *testing.T) {
	if emulated {
		t.Skip("qemu-user does not say where a fault was")
	}
	name := shmtest.Name(t)
	b := create(t, name, 8*4096, nil)
	r, err := shm.Open(name, &shm.OpenOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := os.Truncate("/dev/shm/"+name, 4096); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 8*4096)
	for _, m := range []*shm.Block{b, r} {
		if n, err := m.ReadAt(p[:4096], 0); n != 4096 || err != nil {
			t.Fatal(n, err)
		}
		_, err := m.ReadAt(p, 0)
		mustBe(t, err, shm.ErrTruncated)
		mustBe(t, m.Do(func(p []byte) error { sink = p[4096*5]; return errors.New("read on") }), shm.ErrTruncated)
	}
	_, err = b.WriteAt(p, 0)
	mustBe(t, err, shm.ErrTruncated)
	// A fault in one block inside another's Do is the right one's.
	whole := create(t, shmtest.Name(t), 4096, nil)
	err = b.Do(func(outer []byte) error {
		err := whole.Do(func([]byte) error { sink = outer[4096*5]; return nil })
		return errors.Join(errors.New("not reached"), err)
	})
	mustBe(t, err, shm.ErrTruncated)
	// Writing to what was opened for reading is another fault, the caller's.
	func() {
		defer func() {
			if e, ok := recover().(error); !ok || errors.Is(e, shm.ErrTruncated) {
				t.Errorf("writing to a read-only block: %v", e)
			}
		}()
		err := r.Do(func(p []byte) error { p[0] = 1; return nil })
		t.Errorf("writing to a read-only block: %v", err)
	}()
}

func TestStrangeFiles(t *testing.T) {
	target := shmtest.Name(t)
	victim := create(t, target, 100, nil)
	link, dir, fifo, sock := shmtest.Name(t), shmtest.Name(t), shmtest.Name(t), shmtest.Name(t)
	at := func(name string) string { return "/dev/shm/" + name }
	l, err := net.Listen("unix", at(sock))
	if err := errors.Join(err, os.Symlink(at(target), at(link)), os.Mkdir(at(dir), 0o700), unix.Mkfifo(at(fifo), 0o600)); err != nil {
		t.Fatal(err)
	}
	defer func() {
		l.Close()
		for _, n := range []string{link, dir, fifo} {
			os.Remove(at(n))
		}
	}()
	for _, name := range []string{link, dir, fifo, sock} {
		for _, ro := range []bool{false, true} {
			_, err := shm.Open(name, &shm.OpenOptions{ReadOnly: ro})
			mustBe(t, err, shm.ErrFormat)
		}
		_, err := shm.Create(name, 10, nil)
		mustBe(t, err, fs.ErrExist)
		_, err = shm.Create(name, 10, &shm.CreateOptions{Replace: true})
		mustBe(t, err, fs.ErrExist)
		_, err = shm.OpenOrCreate(name, 10, nil, nil)
		mustBe(t, err, shm.ErrFormat)
		_, err = shm.Stat(name)
		mustBe(t, err, shm.ErrFormat)
		mustBe(t, shm.Unlink(name), shm.ErrFormat)
		_, err = shm.Wait(t.Context(), name, nil)
		mustBe(t, err, shm.ErrFormat)
		if _, err := os.Lstat(at(name)); err != nil {
			t.Fatal("it was removed:", err)
		}
	}
	if !exists(t, victim.Name()) {
		t.Fatal("the link was followed")
	}
	infos, err := shm.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		if slices.Contains([]string{link, dir, fifo, sock}, i.Name) {
			t.Errorf("List has %s", i.Name)
		}
	}
}

func TestEmptyBlock(t *testing.T) {
	name := shmtest.Name(t)
	f, err := os.Create("/dev/shm/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	_, err = shm.Open(name, nil)
	mustBe(t, err, shm.ErrSize)
	if !strings.Contains(err.Error(), "Wait") {
		t.Fatal(err)
	}
	// What Python does: the name first, then the size.
	got := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), shmtest.Patience)
		defer cancel()
		b, err := shm.Wait(ctx, name, nil)
		if err == nil {
			err = b.Close()
		}
		got <- err
	}()
	if err := f.Truncate(100); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Fatal(err)
	}
}

func TestWait(t *testing.T) {
	name := shmtest.Name(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := shm.Wait(ctx, name, nil)
	mustBe(t, err, context.Canceled)
	ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err = shm.Wait(ctx, name, nil)
	mustBe(t, err, context.DeadlineExceeded)

	p := shmtest.Start(t, "creator-later", name)
	p.Expect("ready")
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			b, err := shm.Wait(t.Context(), name, nil)
			if err != nil {
				t.Error(err)
				return
			}
			b.Close()
		})
	}
	p.Send("go")
	wg.Wait()
	p.Send("exit")
	if p.Wait() != 0 {
		t.Fatal(p.Stderr())
	}
}

func TestListAndStat(t *testing.T) {
	dir := t.TempDir()
	d := shm.Dir(dir)
	var want []string
	for i := range 20 {
		o := &shm.CreateOptions{Dir: dir, Lifetime: []shm.Lifetime{shm.Owned, shm.Persistent}[i%2]}
		b := create(t, shmtest.Name(t), 1000*(i+1), o)
		want = append(want, b.Name())
		info, err := d.Stat(b.Name())
		if err != nil || info.Size != int64(b.Size()) || info.Lifetime != o.Lifetime || info.Dir != dir ||
			info.UID != os.Getuid() || info.Mode != 0o600 || info.Kind != "empty" {
			t.Fatalf("%+v %v", info, err)
		}
	}
	for _, name := range []string{"sem.mine", ".shm-keep.0000000000000000.0", "foreign"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("some text"), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	want = append(want, "foreign")
	infos, err := d.List()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range infos {
		got = append(got, i.Name)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("List has %q, want %q", got, want)
	}
	if i, err := d.Stat("foreign"); err != nil || !i.Foreign || i.Kind != "text" || i.Mode != 0o640 {
		t.Fatalf("%+v %v", i, err)
	}
	if err := d.Unlink("foreign"); err != nil {
		t.Fatal(err)
	}
	_, err = d.Stat("foreign")
	mustBe(t, err, fs.ErrNotExist)
	_, err = shm.Dir(filepath.Join(dir, "missing")).List()
	mustBe(t, err, fs.ErrNotExist)
	_, err = shm.Create("x", 1, &shm.CreateOptions{Dir: filepath.Join(dir, "missing")})
	mustBe(t, err, fs.ErrNotExist)
}

func TestSmallTmpfs(t *testing.T) {
	if os.Geteuid() != 0 {
		shmtest.Skip(t, "root", "mounting a file system needs root")
	}
	dir := t.TempDir()
	cmd := shmtest.Command(t, "small-tmpfs", dir, shmtest.Name(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	p := shmtest.StartCommand(t, cmd)
	if p.Wait() != 0 {
		t.Fatal(p.Stderr())
	}
}

func smallTmpfs(dir, name string) error {
	if err := unix.Mount("shmtest", dir, "tmpfs", 0, "size=1m"); err != nil {
		return err
	}
	o := &shm.CreateOptions{Dir: dir}
	var errs []error
	check := func(what string, ok bool, err error) {
		if !ok {
			errs = append(errs, errors.New(what+": "+errString(err)))
		}
	}
	for _, size := range []int{4 << 20, 1<<20 + 1, 1 << 30} {
		_, err := shm.Create(name, size, o)
		check("too large", errors.Is(err, shm.ErrNoSpace) && strings.Contains(err.Error(), "iB free in "+dir), err)
	}
	_, err := shm.CreateFrom(name, io.LimitReader(zeros{}, 2<<20), o)
	check("too long a stream", errors.Is(err, shm.ErrNoSpace), err)
	// As long as a pipe's stream fits, it is put, though it was not known to.
	b, err := shm.CreateFrom(name, io.LimitReader(zeros{}, 700<<10), o)
	check("a stream that fits", err == nil, err)
	if err == nil {
		check("close", b.Close() == nil && b.Unlink() == nil, nil)
	}
	// Up to the brim, until not even a lease has room; then all can be listed,
	// removed and pruned.
	var blocks []*shm.Block
	for {
		b, err := shm.Create("", 16<<10, o)
		if err != nil {
			check("full", errors.Is(err, shm.ErrNoSpace), err)
			break
		}
		blocks = append(blocks, b)
	}
	check("how many fit", len(blocks) > 50 && len(blocks) < 64, nil)
	sp, err := shm.Create(name, 4<<20, &shm.CreateOptions{Dir: dir, Sparse: true})
	check("sparse", err == nil, err)
	if err == nil {
		if !emulated { // nor does it pass on madvise
			_, err = shm.Open(name, &shm.OpenOptions{Dir: dir, Prefault: true})
			check("prefault of what cannot be had", errors.Is(err, shm.ErrNoSpace), err)
			_, err = sp.WriteAt(bytes.Repeat([]byte{1}, 4<<20), 0)
			check("writing to what cannot be had", errors.Is(err, shm.ErrTruncated), err)
		}
	}
	infos, err := shm.Dir(dir).List()
	check("list when full", len(infos) == len(blocks)+1, err)
	_, err = shm.Dir(dir).Prune()
	check("prune when full", err == nil, err)
	for _, b := range append(blocks, sp) {
		if err := errors.Join(b.Close(), b.Unlink()); err != nil {
			check("unlink", false, err)
		}
	}
	return errors.Join(errs...)
}

func errString(err error) string {
	if err == nil {
		return "no error"
	}
	return err.Error()
}

// A block that does not fit into the memory cgroup is refused: without looking
// first, the kernel kills whoever reserves it.
func TestSmallCgroup(t *testing.T) {
	join := smallCgroup(t, 128<<20)
	p := shmtest.Start(t, "in-cgroup", shmtest.Name(t))
	if err := join(p.PID()); err != nil {
		t.Fatal(err)
	}
	p.Send("go")
	for _, what := range []string{"Create", "Anonymous", "CreateFrom"} {
		if line := p.Line(); !strings.HasPrefix(line, "true, ") || !strings.Contains(line, "cgroup") {
			t.Errorf("%s: %s", what, line)
		}
	}
	p.Expect("<nil>")
	if p.Wait() != 0 {
		t.Fatal(p.Stderr())
	}
}

// smallCgroup makes a memory cgroup below ours and returns how to put a process
// into it.
func smallCgroup(t *testing.T, limit int) (join func(pid int) error) {
	t.Helper()
	if os.Geteuid() != 0 {
		shmtest.Skip(t, "root", "making a cgroup needs root")
	}
	write := func(file string, n int) error { return os.WriteFile(file, []byte(itoa(n)), 0) }
	self, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(self)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for _, try := range []struct{ base, max string }{
			{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"},
			{"/sys/fs/cgroup", "memory.max"},
		} {
			if v1 := part[1] == "memory"; v1 != (try.max == "memory.limit_in_bytes") || !v1 && part[0] != "0" {
				continue
			}
			// Version 2 does not allow processes and limits for children in one
			// group, but for the root: there then.
			for _, parent := range []string{part[2], "/"} {
				dir := filepath.Join(try.base, parent, shmtest.Name(t))
				if os.Mkdir(dir, 0o700) != nil {
					continue
				}
				t.Cleanup(func() {
					for errors.Is(os.Remove(dir), unix.EBUSY) {
					}
				})
				if write(filepath.Join(dir, try.max), limit) == nil {
					return func(pid int) error { return write(filepath.Join(dir, "cgroup.procs"), pid) }
				}
			}
		}
	}
	shmtest.Skip(t, "cgroup", "no memory cgroup can be made here")
	return nil
}

func TestAnonymous(t *testing.T) {
	b, err := shm.Anonymous(10_000, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if b.Name() != "" || b.Size() != 10_000 || b.String() != "SharedMemory('', size=10000)" {
		t.Fatal(b)
	}
	b.Bytes()[0] = 41
	f, err := b.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, err := range []error{f.Truncate(1), f.Truncate(1 << 20)} {
		if !errors.Is(err, fs.ErrPermission) {
			t.Fatal("a sealed block was resized:", err)
		}
	}
	// Through exec.
	cmd := shmtest.Command(t, "fd-user")
	cmd.ExtraFiles = []*os.File{f}
	shmtest.StartCommand(t, cmd).Expect("done")
	if b.Bytes()[1] != 42 {
		t.Fatal("the child wrote elsewhere")
	}
	// Through a socket.
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET, 0)
	if err != nil {
		t.Fatal(err)
	}
	oob := make([]byte, unix.CmsgSpace(4))
	if err := unix.Sendmsg(fds[0], []byte{0}, unix.UnixRights(int(f.Fd())), nil, 0); err != nil {
		t.Fatal(err)
	}
	_, n, _, _, err := unix.Recvmsg(fds[1], make([]byte, 1), oob, 0)
	if err != nil {
		t.Fatal(err)
	}
	msgs, _ := unix.ParseSocketControlMessage(oob[:n])
	got, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		t.Fatal(err)
	}
	received := os.NewFile(uintptr(got[0]), "received")
	c, err := shm.FromFile(received, nil)
	if err := errors.Join(err, received.Close(), unix.Close(fds[0]), unix.Close(fds[1])); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Size() != 10_000 || c.Bytes()[1] != 42 {
		t.Fatal(c)
	}
	for _, err := range []error{b.Unlink(), b.Disown(), b.Adopt()} {
		mustBe(t, err, errors.ErrUnsupported)
	}
}

func TestFile(t *testing.T) {
	b := create(t, shmtest.Name(t), 100, nil)
	b.Bytes()[9] = 9
	f, err := b.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := shm.FromFile(f, &shm.OpenOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.Size() != 100 || c.Bytes()[9] != 9 {
		t.Fatal(c)
	}
	_, err = c.WriteAt([]byte{1}, 0)
	mustBe(t, err, fs.ErrPermission)
	ro, err := os.Open("/dev/shm/" + b.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	_, err = shm.FromFile(ro, nil)
	mustBe(t, err, fs.ErrPermission)
	if err := b.Unlink(); err != nil {
		t.Fatal(err)
	}
	_, err = b.File()
	mustBe(t, err, fs.ErrNotExist)
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	_, err = shm.FromFile(null, &shm.OpenOptions{ReadOnly: true})
	mustBe(t, err, shm.ErrFormat)
}

// A failed Open must leave the block as it was: CPython unlinks it then.
func TestFailedOpenIsHarmless(t *testing.T) {
	if emulated {
		t.Skip("qemu-user knows no limit on the address space")
	}
	name := shmtest.Name(t)
	b := create(t, name, 64<<20, &shm.CreateOptions{Sparse: true})
	b.Bytes()[0] = 1
	p := shmtest.Start(t, "open-without-memory", name)
	p.Expect("cannot allocate memory")
	if p.Wait() != 0 {
		t.Fatal(p.Stderr())
	}
	if !exists(t, name) || b.Bytes()[0] != 1 {
		t.Fatal("a failed Open harmed the block")
	}
}

func init() {
	shmtest.Register("open-without-memory", func(args []string) int {
		statm, err := os.ReadFile("/proc/self/statm")
		if err != nil {
			return report(err)
		}
		var pages uint64
		if _, err := fmt.Sscan(string(statm), &pages); err != nil {
			return report(err)
		}
		// Room for the run-time, which may need some at any moment, but not for the
		// block.
		limit := pages*uint64(os.Getpagesize()) + 16<<20
		if err := unix.Setrlimit(unix.RLIMIT_AS, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
			return report(err)
		}
		_, err = shm.Open(args[0], nil)
		if !errors.Is(err, unix.ENOMEM) {
			shmtest.Say("%v", err)
			return 1
		}
		shmtest.Say("cannot allocate memory")
		return 0
	})
}
