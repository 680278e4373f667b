package shm_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

// The tests in this file hold between processes on every system. SHM_TEST_DIR
// makes them use a directory, as all must on systems without a place of their
// own.
var testDir = os.Getenv("SHM_TEST_DIR")

// keepsUnowned says that a block stays when nobody has it open.
const keepsUnowned = runtime.GOOS != "windows"

func init() {
	// platform-open NAME opens the block, answers its first byte and writes 2
	// there; holds it until told to go.
	shmtest.Register("platform-open", func(args []string) int {
		b, err := shm.Open(args[0], &shm.OpenOptions{Dir: testDir})
		if err != nil {
			return report(err)
		}
		shmtest.Say("%d bytes, %d", b.Size(), b.Bytes()[0])
		b.Bytes()[0] = 2
		shmtest.Say("written")
		shmtest.Await("go")
		return report(b.Close())
	})
	// platform-try NAME says what Create and Open have against the name.
	shmtest.Register("platform-try", func(args []string) int {
		b, err := shm.Create(args[0], 1, &shm.CreateOptions{Dir: testDir})
		if err == nil {
			b.Close()
			b.Unlink()
		}
		shmtest.Say("exists %v", errors.Is(err, fs.ErrExist))
		b, err = shm.Open(args[0], &shm.OpenOptions{Dir: testDir})
		if err == nil {
			b.Close()
		}
		shmtest.Say("missing %v", errors.Is(err, fs.ErrNotExist))
		return 0
	})
	// platform-once NAME calls OpenOrCreate, whose init waits in the middle, and
	// says whether the block is complete.
	shmtest.Register("platform-once", func(args []string) int {
		shmtest.Say("trying")
		b, err := shm.OpenOrCreate(args[0], onceSize, &shm.CreateOptions{Dir: testDir}, func(b *shm.Block) error {
			clear(b.Bytes())
			shmtest.Say("init")
			shmtest.Await("go")
			copy(b.Bytes(), bytes.Repeat([]byte{1}, onceSize))
			return nil
		})
		if err != nil {
			return report(err)
		}
		shmtest.Say("complete %v", bytes.Count(b.Bytes(), []byte{1}) == onceSize)
		shmtest.Await("end")
		return report(errors.Join(b.Close(), b.Unlink()))
	})
}

const onceSize = 100_000

func TestPlatformShare(t *testing.T) {
	name := shmtest.Name(t)
	b := create(t, name, 10_000, &shm.CreateOptions{Dir: testDir})
	created := roundsCreator(10_000)
	if b.Size() != created {
		t.Errorf("created %d bytes, want %d", b.Size(), created)
	}
	if err := b.Do(func(p []byte) error { p[0] = 1; return nil }); err != nil {
		t.Fatal(err)
	}

	other := shmtest.Start(t, "platform-open", name)
	other.Expect(fmt.Sprintf("%d bytes, 1", rounds(10_000)))
	other.Expect("written")
	if err := b.Do(func(p []byte) error {
		if p[0] != 2 {
			t.Errorf("the other process's byte is %d here", p[0])
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}

	try := shmtest.Start(t, "platform-try", name)
	try.Expect("exists true")
	try.Expect("missing false")

	// As long as somebody has it open the name stays, and what it names.
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	try = shmtest.Start(t, "platform-try", name)
	try.Expect("exists true")
	try.Expect("missing false")
	again, err := shm.Open(name, &shm.OpenOptions{Dir: testDir, ReadOnly: true, Prefault: true})
	if err != nil {
		t.Fatal(err)
	}
	var first [1]byte
	if _, err := again.ReadAt(first[:], 0); err != nil || first[0] != 2 {
		t.Errorf("read %d, %v after the creator's Close", first[0], err)
	}
	_, err = again.WriteAt(first[:], 0)
	mustBe(t, err, fs.ErrPermission)
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}

	other.Send("go")
	if status := other.Wait(); status != 0 {
		t.Fatalf("the other process ended with %d: %s", status, other.Stderr())
	}
	_, err = shm.Dir(testDir).Stat(name)
	if keepsUnowned {
		if err != nil {
			t.Fatalf("the block is gone with its last user: %v", err)
		}
		if err := b.Unlink(); err != nil {
			t.Fatal(err)
		}
	} else if err := b.Unlink(); err != nil {
		t.Fatalf("Unlink does nothing here, and says %v", err)
	}
	_, err = shm.Dir(testDir).Stat(name)
	mustBe(t, err, fs.ErrNotExist)
	try = shmtest.Start(t, "platform-try", name)
	try.Expect("exists false")
	try.Expect("missing true")
}

// rounds is what an attacher sees of a block of size bytes, roundsCreator what
// its creator does.
func rounds(size int) int {
	if testDir == "" && (runtime.GOOS == "windows" || runtime.GOOS == "darwin") {
		page := os.Getpagesize()
		return (size + page - 1) / page * page
	}
	return size
}

func roundsCreator(size int) int {
	if runtime.GOOS == "windows" {
		return size
	}
	return rounds(size)
}

func TestPlatformInitOnce(t *testing.T) {
	name := shmtest.Name(t)
	first := shmtest.Start(t, "platform-once", name)
	first.Expect("trying")
	first.Expect("init")
	var others []*shmtest.Process
	for range 3 {
		p := shmtest.Start(t, "platform-once", name)
		p.Expect("trying")
		others = append(others, p)
	}
	first.Send("go")
	first.Expect("complete true")
	for _, p := range others {
		line := p.Line()
		// Where a block has no name before it is complete, nobody has to wait, and
		// several may make one of which the first is kept.
		if line == "init" && runtime.GOOS != "windows" && (runtime.GOOS != "darwin" || testDir != "") {
			p.Send("go")
			line = p.Line()
		}
		if line != "complete true" {
			t.Errorf("another process's block: %s", line)
		}
	}
	for _, p := range append(others, first) {
		p.Send("end")
		p.Wait() // Unlink works for one of them
	}
}

func TestPlatformInitKilled(t *testing.T) {
	if runtime.GOOS == "darwin" || runtime.GOOS == "freebsd" {
		t.Skip("the block of a process killed in init stays, as documented")
	}
	name := shmtest.Name(t)
	first := shmtest.Start(t, "platform-once", name)
	first.Expect("trying")
	first.Expect("init")
	next := shmtest.Start(t, "platform-once", name)
	next.Expect("trying")
	first.Kill()
	next.Expect("init")
	next.Send("go")
	next.Expect("complete true")
	next.Send("end")
	if status := next.Wait(); status != 0 {
		t.Fatalf("ended with %d: %s", status, next.Stderr())
	}
}

func TestPlatformUnsupported(t *testing.T) {
	name := shmtest.Name(t)
	refused := map[string]*shm.CreateOptions{}
	switch runtime.GOOS {
	case "linux":
	case "windows":
		refused["Persistent"] = &shm.CreateOptions{Lifetime: shm.Persistent}
		refused["Dir"] = &shm.CreateOptions{Dir: os.TempDir()}
		fallthrough
	default:
		refused["KeepName"] = &shm.CreateOptions{KeepName: true, Dir: testDir}
	}
	for what, o := range refused {
		_, err := shm.Create(name, 1, o)
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, o := range []*shm.CreateOptions{nil, {Lifetime: shm.Tracked}, {Sparse: true}, {Prefault: true}, {HugePages: true}, {Replace: true}, {Mode: 0o640}} {
		if o != nil && o.Lifetime == shm.Tracked && emulated {
			continue // the kernel cannot start the clean-up process, a program for another machine
		}
		withDir := shm.CreateOptions{Dir: testDir}
		if o != nil {
			withDir = *o
			withDir.Dir = testDir
		}
		b := create(t, "", 5000, &withDir)
		if n, err := b.WriteAt([]byte("end"), 4997); n != 3 || err != nil {
			t.Errorf("%+v: wrote %d, %v", o, n, err)
		}
	}

	a, err := shm.Anonymous(5000, nil)
	switch {
	case errors.Is(err, errors.ErrUnsupported) && runtime.GOOS != "linux" && runtime.GOOS != "windows" && runtime.GOOS != "darwin":
		return
	case err != nil:
		t.Fatal(err)
	}
	defer a.Close()
	if n, err := a.WriteAt([]byte("end"), 4997); n != 3 || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	f, err := a.File()
	if runtime.GOOS == "windows" {
		mustBe(t, err, errors.ErrUnsupported)
		_, err = shm.List()
		mustBe(t, err, errors.ErrUnsupported)
		b := create(t, name, 1, nil)
		_, err = b.File()
		mustBe(t, err, errors.ErrUnsupported)
		mustBe(t, b.Disown(), errors.ErrUnsupported)
		if err := b.Adopt(); err != nil {
			t.Errorf("everybody who has a block open owns it on Windows: %v", err)
		}
		if removed, err := shm.Prune(); err != nil || len(removed) > 0 {
			t.Errorf("Prune has nothing to do on Windows: %v, %v", removed, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	same, err := shm.FromFile(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer same.Close()
	if got := string(same.Bytes()[4997:5000]); got != "end" {
		t.Errorf("through the descriptor: %q", got)
	}
}

func TestPlatformNames(t *testing.T) {
	if runtime.GOOS != "windows" {
		return
	}
	for name, ok := range map[string]bool{
		`Local\` + shmtest.Name(t): true, `Local\`: false, `Global\`: false,
		`a\b`: false, `Local\a\b`: false, `\a`: false, `local\a`: false,
	} {
		b, err := shm.Create(name, 1, nil)
		if (err == nil) != ok {
			t.Errorf("%s: %v", name, err)
		}
		if !ok {
			mustBe(t, err, shm.ErrName)
			continue
		}
		// The prefix says where the name is, and that is where it is without.
		short, err := shm.Open(strings.TrimPrefix(name, `Local\`), nil)
		if err != nil {
			t.Error(err)
		} else {
			short.Close()
		}
		var ref shm.Ref
		if err := ref.Set(b.Ref().String()); err != nil || ref != b.Ref() {
			t.Errorf("%+v became %+v: %v", b.Ref(), ref, err)
		}
		b.Close()
	}
}
