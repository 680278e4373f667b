//go:build linux

package shm_test

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/platform/mem"
	"github.com/sharedmem/shm/internal/shmtest"
)

// The helper "owner" creates blocks and says so: owner NAME [tracked|keep|…]
// [DIR]. Then it does what it is told, a line at a time.
func init() {
	shmtest.Register("owner", func(args []string) int {
		o := &shm.CreateOptions{}
		switch args[1] {
		case "tracked":
			o.Lifetime = shm.Tracked
		case "persistent":
			o.Lifetime = shm.Persistent
		case "keep":
			o.KeepName = true
		}
		o.Dir = place()
		if len(args) > 2 {
			o.Dir = args[2]
		}
		b, err := shm.Create(args[0], 4096, o)
		if err != nil {
			shmtest.Say("%v", err)
			return 1
		}
		shmtest.Say("ready")
		for {
			var err error
			switch cmd := shmtest.Hear(); cmd {
			case "disown":
				err = b.Disown()
			case "unlink":
				err = b.Unlink()
			case "close":
				err = b.Close()
			case "child": // that outlives us and must not keep our lease alive
				c := exec.Command("sleep", "1000")
				err = c.Start()
				shmtest.Say("%d", c.Process.Pid)
			case "exec":
				err = syscall.Exec("/bin/sleep", []string{"sleep", "1000"}, os.Environ())
			case "exit":
				return 0
			}
			if err != nil {
				shmtest.Say("%v", err)
			} else {
				shmtest.Say("done")
			}
		}
	})
	shmtest.Register("adopter", func(args []string) int {
		b, err := shm.Open(args[0], &shm.OpenOptions{Dir: place()})
		if err == nil {
			err = b.Adopt()
		}
		if err != nil {
			shmtest.Say("%v", err)
			return 1
		}
		shmtest.Say("adopted")
		shmtest.Hear()
		return 0
	})
	shmtest.Register("pruner", func([]string) int {
		infos, err := shm.Dir(place()).Prune()
		for _, i := range infos {
			shmtest.Say("%s", i.Name)
		}
		return report(err)
	})
}

func owner(t *testing.T, name, how string, dir ...string) *shmtest.Process {
	t.Helper()
	p := shmtest.Start(t, "owner", append([]string{name, how}, dir...)...)
	p.Expect("ready")
	return p
}

// alone gives the test a directory of its own in /dev/shm: elsewhere the other
// test programs that run now may sweep before it does.
func alone(t *testing.T) {
	t.Helper()
	dir := filepath.Join("/dev/shm", shmtest.Name(t))
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777|fs.ModeSticky)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SHM_TEST_DIR", dir) // helper processes inherit it
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
}

// file is the path of a block.
func file(name string) string { return filepath.Join(cmp.Or(place(), "/dev/shm"), name) }

func stat(name string) (shm.Info, error) { return shm.Dir(place()).Stat(name) }

func exists(t *testing.T, name string) bool {
	t.Helper()
	_, err := stat(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return err == nil
}

func pruned(t *testing.T, name string) bool {
	t.Helper()
	infos, err := shm.Dir(place()).Prune()
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(infos, func(i shm.Info) bool { return i.Name == name && !i.Owner.Alive })
}

// gone waits until the name has gone, as the kernel reports it.
func gone(t *testing.T, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), shmtest.Patience)
	defer cancel()
	w, err := mem.Watch(place(), name, mem.Vanishes)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	for exists(t, name) {
		select {
		case <-w.C:
		case <-ctx.Done():
			t.Fatalf("%s is still there", name)
		}
	}
}

func TestOwnerDies(t *testing.T) {
	alone(t)
	name, other, kept := shmtest.Name(t), shmtest.Name(t), shmtest.Name(t)
	p := owner(t, name, "owned")
	living := owner(t, other, "owned")
	stays := owner(t, kept, "persistent")

	info, err := stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if info.Owner.PID != p.PID() || !info.Owner.Alive || info.Lifetime != shm.Owned || info.Foreign {
		t.Fatalf("a living owner's block: %+v", info)
	}
	if pruned(t, name) || !exists(t, name) {
		t.Fatal("a living owner's block was removed")
	}
	p.Kill()
	stays.Kill()
	if info, err = stat(name); err != nil || info.Owner.PID != p.PID() || info.Owner.Alive {
		t.Fatalf("a dead owner's block: %+v %v", info, err)
	}
	// The first Create of any process removes it.
	q := owner(t, shmtest.Name(t), "owned")
	if exists(t, name) {
		t.Fatal("a dead owner's block outlived another process's first Create")
	}
	if !exists(t, other) || !exists(t, kept) {
		t.Fatal("a living owner's or a persistent block went with it")
	}
	for _, p := range []*shmtest.Process{living, q} {
		p.Send("unlink")
		p.Expect("done")
	}
	if info, err = stat(kept); err != nil || info.Lifetime != shm.Persistent || info.Owner != (shm.Owner{}) {
		t.Fatalf("a persistent block: %+v %v", info, err)
	}
	if err := shm.Dir(place()).Unlink(kept); err != nil {
		t.Fatal(err)
	}
}

func TestOwnerLeavesQuietly(t *testing.T) {
	alone(t)
	name := shmtest.Name(t)
	p := owner(t, name, "owned")
	p.Send("close")
	p.Expect("done")
	if pruned(t, name) || !exists(t, name) {
		t.Fatal("Close gave up ownership or the block")
	}
	p.Send("unlink")
	p.Expect("done")
	p.Send("exit")
	if p.Wait() != 0 {
		t.Fatal(p.Stderr())
	}
	// A process that unlinked all that it owned leaves no lease.
	for _, f := range hidden(t) {
		if info, err := os.Stat(f); err == nil {
			locked := leaseLocked(t, f)
			if !locked {
				t.Errorf("%s is left (%v)", f, info.ModTime())
			}
		}
	}
}

func hidden(t *testing.T) []string {
	t.Helper()
	f, err := filepath.Glob(file(".shm-lease.*"))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func leaseLocked(t *testing.T, f string) bool {
	t.Helper()
	return leaseLockedIn(place(), filepath.Base(f))
}

func leaseLockedIn(dir, name string) bool {
	o, err := mem.Open(dir, name, false)
	if err != nil {
		return true // gone meanwhile: another test's
	}
	defer o.Close()
	locked, err := o.Locked()
	return locked || err != nil
}

// A name that has passed to another block is not the dead owner's any more.
func TestSuccessorIsSpared(t *testing.T) {
	alone(t)
	name := shmtest.Name(t)
	p := owner(t, name, "owned")
	p.Kill()
	path := file(name)
	if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte("successor"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if pruned(t, name) || !exists(t, name) {
		t.Fatal("the successor was removed")
	}
	if i, _ := stat(name); !i.Foreign {
		t.Fatalf("the successor is taken for ours: %+v", i)
	}
	os.Remove(path)
}

func TestReplace(t *testing.T) {
	alone(t)
	name := shmtest.Name(t)
	p := owner(t, name, "owned")
	create(t, shmtest.Name(t), 1, nil) // so that the first Create's sweep is over
	_, err := shm.Create(name, 10, &shm.CreateOptions{Replace: true, Dir: place()})
	mustBe(t, err, fs.ErrExist)
	p.Kill()
	_, err = shm.Create(name, 10, &shm.CreateOptions{Dir: place()})
	mustBe(t, err, fs.ErrExist)
	b := create(t, name, 10, &shm.CreateOptions{Replace: true, Dir: place()})
	if b.Size() != 10 {
		t.Fatal(b)
	}
	// What nobody owns is not for taking.
	left := owner(t, shmtest.Name(t)+"p", "persistent")
	left.Kill()
	keptName := left.Cmd.Args[len(left.Cmd.Args)-2]
	_, err = shm.Create(keptName, 10, &shm.CreateOptions{Replace: true, Dir: place()})
	mustBe(t, err, fs.ErrExist)
	shm.Dir(place()).Unlink(keptName)
}

func TestDisownAdopt(t *testing.T) {
	alone(t)
	name := shmtest.Name(t)
	p := owner(t, name, "owned")
	b := mustOpen(t, name)
	mustBe(t, b.Adopt(), shm.ErrOwned)
	mustBe(t, b.Disown(), shm.ErrOwned)
	p.Send("disown")
	p.Expect("done")
	p.Kill()
	if pruned(t, name) {
		t.Fatal("a disowned block was removed")
	}
	if i, err := stat(name); err != nil || i.Lifetime != shm.Persistent || i.Foreign {
		t.Fatalf("a disowned block: %+v %v", i, err)
	}
	if err := errors.Join(b.Adopt(), b.Adopt()); err != nil {
		t.Fatal(err)
	}
	if i, err := stat(name); err != nil || i.Owner.PID != os.Getpid() || !i.Owner.Alive {
		t.Fatalf("an adopted block: %+v %v", i, err)
	}
	a := shmtest.Start(t, "adopter", name)
	if line := a.Line(); !strings.Contains(line, "living process") {
		t.Fatal(line)
	}
	if err := b.Disown(); err != nil {
		t.Fatal(err)
	}
	a = shmtest.Start(t, "adopter", name)
	a.Expect("adopted")
	a.Kill()
	if !pruned(t, name) {
		t.Fatal("the adopter's death did not free the block")
	}
	mustBe(t, b.Adopt(), fs.ErrNotExist)
	mustBe(t, b.Disown(), fs.ErrNotExist)
	mustBe(t, b.Unlink(), fs.ErrNotExist)
}

// Adopting what a dead owner left saves it from the sweep.
func TestAdoptFromTheDead(t *testing.T) {
	alone(t)
	name := shmtest.Name(t)
	p := owner(t, name, "owned")
	b := mustOpen(t, name)
	create(t, shmtest.Name(t), 1, nil)
	p.Kill()
	if err := b.Adopt(); err != nil {
		t.Fatal(err)
	}
	if pruned(t, name) || !exists(t, name) {
		t.Fatal("an adopted block was swept with its first owner's lease")
	}
	if err := b.Unlink(); err != nil {
		t.Fatal(err)
	}
}

func TestOneAdopterWins(t *testing.T) {
	alone(t)
	for range 3 {
		name := shmtest.Name(t)
		p := owner(t, name, "persistent")
		p.Kill()
		var adopters []*shmtest.Process
		for range 4 {
			adopters = append(adopters, shmtest.Start(t, "adopter", name))
		}
		won := 0
		for _, a := range adopters {
			if line := a.Line(); line == "adopted" {
				won++
			} else if !strings.Contains(line, "living process") {
				t.Fatal(line)
			}
		}
		if won != 1 {
			t.Fatalf("%d of 4 adopted the block", won)
		}
		for _, a := range adopters {
			a.Kill()
		}
		if !pruned(t, name) {
			t.Fatal("nobody owned it")
		}
	}
}

func TestTracked(t *testing.T) {
	noEmulator(t)
	name := shmtest.Name(t)
	p := owner(t, name, "tracked")
	if i, err := stat(name); err != nil || i.Lifetime != shm.Tracked {
		t.Fatalf("%+v %v", i, err)
	}
	p.Kill()
	gone(t, name)
}

// The clean-up process is killed: another one takes its place.
func TestTrackedCleanerKilled(t *testing.T) {
	alone(t)
	noEmulator(t)
	name := shmtest.Name(t)
	p := owner(t, name, "tracked")
	old := cleanerOf(t, p.PID())
	// It restarts one that has run for a second; else at the next Tracked block.
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.Kill()
	dead(t, old)
	// Another one may be quicker, or be at it: then it has the lease locked, and we pass it over.
	ctx, cancel := context.WithTimeout(t.Context(), shmtest.Patience)
	defer cancel()
	for exists(t, name) && !pruned(t, name) {
		if ctx.Err() != nil {
			t.Fatal("the block outlived owner, clean-up process and sweep")
		}
		runtime.Gosched()
	}
}

// A clean-up process is asked to end by all the signals that a terminal or a
// shutdown sends, and stays.
func TestTrackedCleanerIgnoresSignals(t *testing.T) {
	noEmulator(t)
	name := shmtest.Name(t)
	p := owner(t, name, "tracked")
	c := cleanerOf(t, p.PID())
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		if err := syscall.Kill(c, s); err != nil {
			t.Fatal(err)
		}
	}
	p.Kill()
	gone(t, name)
}

// dead waits until a process that is not our child, and was killed, is gone or a
// zombie. Until then it may hold the lock of a lease that it was sweeping.
func dead(t *testing.T, pid int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), shmtest.Patience)
	defer cancel()
	for {
		b, err := os.ReadFile("/proc/" + itoa(pid) + "/stat")
		if err != nil || strings.HasPrefix(string(b[strings.LastIndexByte(string(b), ')')+1:]), " Z") {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("process %d lives on", pid)
		}
		runtime.Gosched()
	}
}

// cleanerOf returns the PID of the process's clean-up process.
func cleanerOf(t *testing.T, pid int) int {
	t.Helper()
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, s := range stats {
		b, err := os.ReadFile(s)
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		args, _ := os.ReadFile(filepath.Join(filepath.Dir(s), "cmdline"))
		if len(f) > 1 && f[1] == itoa(pid) && strings.HasPrefix(string(args), "shm-cleaner") {
			return atoi(filepath.Base(filepath.Dir(s)))
		}
	}
	t.Fatalf("process %d has no clean-up process", pid)
	return 0
}

func noEmulator(t *testing.T) {
	if os.Getenv("SHM_QEMU") != "" {
		t.Skip("under an emulator a program cannot execute itself again")
	}
}

func TestKeepName(t *testing.T) {
	name := shmtest.Name(t)
	b := create(t, name, 100, &shm.CreateOptions{KeepName: true})
	b.Bytes()[0] = 5
	if i, err := stat(name); err != nil || !i.KeepName {
		t.Fatalf("%+v %v", i, err)
	}
	if err := shm.Dir(place()).Unlink(name); err != nil { // by name, but by the owner
		t.Fatal(err)
	}
	if exists(t, name) {
		t.Fatal("the owner could not unlink the name")
	}

	b = create(t, name, 100, &shm.CreateOptions{KeepName: true})
	b.Bytes()[0] = 6
	b.Close() // ownership stays
	for range 20 {
		if err := os.Remove(file(name)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), shmtest.Patience)
		o, err := shm.Wait(ctx, name, &shm.OpenOptions{Dir: place()})
		cancel()
		if err != nil {
			t.Fatal("the name did not come back:", err)
		}
		if o.Bytes()[0] != 6 {
			t.Fatal("another block came back")
		}
		o.Close()
	}
	if err := b.Unlink(); err != nil {
		t.Fatal(err)
	}
	if exists(t, name) {
		t.Fatal("the owner's Unlink was undone")
	}
	_, err := shm.Create(name, 1, &shm.CreateOptions{KeepName: true, Lifetime: shm.Persistent})
	mustBe(t, err, errors.ErrUnsupported)
}

func TestKeepNameOwnerDies(t *testing.T) {
	alone(t)
	name := shmtest.Name(t)
	p := owner(t, name, "keep")
	info, err := stat(name)
	if err != nil {
		t.Fatal(err)
	}
	p.Kill()
	if err := os.Remove(file(name)); err != nil {
		t.Fatal(err)
	}
	if _, err := shm.Dir(place()).Prune(); err != nil {
		t.Fatal(err)
	}
	if f, err := filepath.Glob(file(".shm-*." + info.Owner.Lease + "*")); len(f) > 0 || err != nil {
		t.Errorf("%v is left, %v", f, err)
	}
}

// An owner in another PID namespace is as alive or dead as any other.
func TestPIDNamespace(t *testing.T) {
	alone(t)
	if os.Geteuid() != 0 || os.Getenv("SHM_QEMU") != "" {
		shmtest.Skip(t, "root", "making a PID namespace needs root")
	}
	name := shmtest.Name(t)
	cmd := shmtest.Command(t, "owner", name, "owned")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	p := shmtest.StartCommand(t, cmd)
	p.Expect("ready")
	i, err := stat(name)
	if err != nil || i.Owner.PID != 1 || !i.Owner.Alive {
		t.Fatalf("%+v %v", i, err)
	}
	if pruned(t, name) || !exists(t, name) {
		t.Fatal("a living owner in another PID namespace was taken for dead")
	}
	p.Kill()
	if !pruned(t, name) { // although a process with PID 1 lives
		t.Fatal("a dead owner in another PID namespace was taken for alive")
	}
}

// Children do not keep their parent's lease alive, nor does the program that
// an owner becomes by exec.
func TestLeaseEndsWithProgram(t *testing.T) {
	alone(t)
	name := shmtest.Name(t)
	p := owner(t, name, "owned")
	p.Send("child")
	child := atoi(p.Line())
	p.Expect("done")
	defer syscall.Kill(child, syscall.SIGKILL)
	p.Kill()
	if !pruned(t, name) {
		t.Fatal("a child kept the lease alive")
	}
	name = shmtest.Name(t)
	p = owner(t, name, "owned")
	p.Send("exec")
	ctx, cancel := context.WithTimeout(t.Context(), shmtest.Patience)
	defer cancel()
	for !pruned(t, name) { // until the exec has happened
		if ctx.Err() != nil {
			t.Fatal("exec kept the lease alive")
		}
	}
}

// asNobody starts a helper as another user, who owns nothing.
func asNobody(t *testing.T, helper string, args ...string) *shmtest.Process {
	t.Helper()
	if os.Geteuid() != 0 {
		shmtest.Skip(t, "root", "being another user needs root")
	}
	if os.Getenv("SHM_QEMU") != "" {
		t.Skip("the emulator would have to be copied as well")
	}
	// The test binary lies in a directory that others may not enter.
	bin := filepath.Join(t.TempDir(), "helper")
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(bin, exe, 0o755), os.Chmod(bin, 0o755)); err != nil {
		t.Fatal(err)
	}
	for d := filepath.Dir(bin); d != "/" && d != "/tmp"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := shmtest.Command(t, helper, args...)
	cmd.Path = bin
	// Nobody else's number: what a user has none left of, others of his may give back.
	user := uint32(1<<20 + os.Getpid())
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	return shmtest.StartCommand(t, cmd)
}

// Where the user has no inotify instance left, Wait looks again and again.
func TestWaitWithoutInotify(t *testing.T) {
	name := shmtest.Name(t)
	p := asNobody(t, "wait-uninformed", name)
	p.Expect("ready")
	create(t, name, 10, &shm.CreateOptions{Mode: 0o666})
	p.Expect("opened")
}

func init() {
	shmtest.Register("wait-uninformed", func(args []string) int {
		for {
			if _, err := unix.InotifyInit1(unix.IN_CLOEXEC); err != nil {
				break
			}
		}
		_, err := mem.Watch("", args[0], mem.Appears)
		if err == nil {
			shmtest.Say("there is another inotify instance")
			return 1
		}
		shmtest.Say("ready")
		b, err := shm.Wait(context.Background(), args[0], nil)
		if err != nil {
			return report(err)
		}
		shmtest.Say("opened")
		return report(b.Close())
	})
}

func TestOtherUser(t *testing.T) {
	alone(t)
	if os.Geteuid() != 0 {
		shmtest.Skip(t, "root", "being another user needs root")
	}
	name := shmtest.Name(t)
	p := owner(t, name, "owned")
	p.Kill()
	as := func(helper string, args ...string) *shmtest.Process { return asNobody(t, helper, args...) }
	pr := as("pruner")
	if status, _ := pr.WaitAll(); status != 0 {
		t.Fatalf("Prune by another user: %s", pr.Stderr())
	}
	if !exists(t, name) {
		t.Fatal("another user's Prune removed the block")
	}
	a := as("adopter", name)
	if line := a.Line(); !strings.Contains(line, "permission denied") {
		t.Fatal(line)
	}
	open := create(t, shmtest.Name(t), 10, &shm.CreateOptions{Mode: 0o666, Lifetime: shm.Persistent})
	a = as("adopter", open.Name())
	if line := a.Line(); !strings.Contains(line, "permission denied") || !strings.Contains(line, "ID 0") {
		t.Fatal(line)
	}
	// And root judges what is another user's.
	theirs := shmtest.Name(t)
	o := as("owner", theirs, "owned")
	o.Expect("ready")
	if pruned(t, theirs) {
		t.Fatal("a living owner's block was removed")
	}
	o.Kill()
	if !pruned(t, theirs) {
		t.Fatal("root's Prune passed over a dead user's block")
	}
}

func TestModeIsExact(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	for _, mode := range []fs.FileMode{0, 0o600, 0o640, 0o666, 0o444, 0o777} {
		b := create(t, shmtest.Name(t), 10, &shm.CreateOptions{Mode: mode})
		want := mode
		if want == 0 {
			want = 0o600
		}
		fi, err := os.Stat(file(b.Name()))
		if err != nil || fi.Mode() != want {
			t.Errorf("mode %v became %v, %v", mode, fi.Mode(), err)
		}
		if i, err := stat(b.Name()); err != nil || i.Mode != want {
			t.Errorf("Stat says %v, %v", i.Mode, err)
		}
	}
	_, err := shm.Create(shmtest.Name(t), 10, &shm.CreateOptions{Mode: 0o600 | fs.ModeSetuid})
	mustBe(t, err, errors.ErrUnsupported)
}
