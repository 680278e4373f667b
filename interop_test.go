package shm_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

// The tests in this file run beside every CPython of the machine and hold the
// two to the same behaviour, in both directions.

func init() {
	// Its first Create sweeps, as that of every process does.
	shmtest.Register("interop-create", func(args []string) int {
		b, err := shm.Create(args[0], 10, nil)
		if err == nil {
			err = errors.Join(b.Close(), b.Unlink())
		}
		return report(err)
	})
	shmtest.Register("interop-own", func(args []string) int {
		if _, err := shm.Create(args[0], 10, nil); err != nil {
			return report(err)
		}
		shmtest.Say("ready")
		shmtest.Await("go")
		return 0
	})
	shmtest.Register("interop-open", func(args []string) int {
		if _, err := shm.Open(args[0], nil); err != nil {
			return report(err)
		}
		shmtest.Say("ready")
		shmtest.Await("go")
		return 0
	})
}

func report(err error) int {
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	return 0
}

// eachPython runs f beside every Python, several at a time.
func eachPython(t *testing.T, f func(t *testing.T, py shmtest.Python)) {
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.Version, func(t *testing.T) {
			t.Parallel()
			f(t, py)
		})
	}
}

// unlinks says why a test of unlinking and of trackers means nothing here.
func unlinks(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("on Windows Unlink does nothing, in Python as well, and there is no resource tracker")
	}
}

// mustOpen and mustCreate close the block with the test.
func mustOpen(t *testing.T, name string) *shm.Block {
	t.Helper()
	b, err := shm.Open(name, &shm.OpenOptions{Dir: place()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func mustCreate(t *testing.T, name string, size int, opts *shm.CreateOptions) *shm.Block {
	t.Helper()
	b, err := shm.Create(name, size, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.Close()
		b.Unlink() // what the test has unlinked already gives an error
	})
	return b
}

// wantSize compares with what was asked for: Linux gives exactly that, macOS to
// everybody and Windows to attachers whole pages.
func wantSize(t *testing.T, who string, got, asked int64) {
	t.Helper()
	if got != asked && (runtime.GOOS == "linux" || got < asked || got > asked+64<<10) {
		t.Errorf("%s sees %d bytes of %d", who, got, asked)
	}
}

func wantException(t *testing.T, err error, class string, errno int) {
	t.Helper()
	var e *shmtest.PythonError
	if !errors.As(err, &e) || e.Class != class || e.Errno != errno {
		t.Errorf("Python's error is %v, want %s with errno %d", err, class, errno)
	}
}

func wantGone(t *testing.T, name string) {
	t.Helper()
	b, err := shm.Open(name, nil)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of a name that should be gone: %v", err)
	}
	if err == nil {
		b.Close()
	}
}

// exchange writes on each side and reads on the other.
func exchange(t *testing.T, b *shm.Block, p *shmtest.PythonProcess) {
	t.Helper()
	if _, err := b.WriteAt([]byte("from Go\x00"), 1); err != nil {
		t.Error(err)
	}
	if got := p.Must("read", shmtest.Args{"off": 0, "n": 9}).Data; string(got) != "\x00from Go\x00" {
		t.Errorf("Python reads %q", got)
	}
	p.Must("write", shmtest.Args{"off": 50, "data": shmtest.Hex("from Python\xff")})
	got := make([]byte, 13)
	if _, err := b.ReadAt(got, 50); err != nil || string(got) != "from Python\xff\x00" {
		t.Errorf("Go reads %q, %v", got, err)
	}
	// The last byte of each is the same byte.
	b.Bytes()[99] = 42
	if got := p.Must("read", shmtest.Args{"off": 99, "n": 1}).Data; !bytes.Equal(got, []byte{42}) {
		t.Errorf("Python reads %d at the end", got)
	}
	p.Must("write", shmtest.Args{"off": 99, "data": "07"})
	if got := b.Bytes()[99]; got != 7 {
		t.Errorf("Go reads %d at the end", got)
	}
}

func TestInteropGoCreates(t *testing.T) {
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		name := shmtest.Name(t)
		b := mustCreate(t, name, 100, nil)
		p := shmtest.StartPython(t, py)
		seen := p.Must("attach", shmtest.Args{"name": name})
		if seen.Name != b.Name() || b.Name() != name {
			t.Errorf("named %q in Go, %q in Python", b.Name(), seen.Name)
		}
		wantSize(t, "Python", seen.Size, 100)
		if runtime.GOOS != "windows" && seen.Repr != b.String() {
			t.Errorf("Python prints %s, we %s", seen.Repr, b)
		}
		exchange(t, b, p)

		unlinks(t)
		p.Must("unlink", nil)
		wantGone(t, name)
		word := []byte("still here")
		if _, err := b.WriteAt(word, 20); err != nil {
			t.Error(err)
		}
		if got := p.Must("read", shmtest.Args{"off": 20, "n": 10}).Data; !bytes.Equal(got, word) {
			t.Errorf("after unlink Python reads %q", got)
		}
		_, err := p.Call("unlink", nil)
		wantException(t, err, "FileNotFoundError", 2)
		if err := b.Unlink(); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Unlink of what Python has unlinked: %v", err)
		}
		p.Must("close", nil)
		if stderr := p.Exit(); stderr != "" {
			t.Errorf("Python's standard error: %s", stderr)
		}
	})
}

func TestInteropPythonCreates(t *testing.T) {
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		p := shmtest.StartPython(t, py)
		for _, name := range []any{nil, shmtest.Name(t)} {
			made := p.Must("create", shmtest.Args{"name": name, "size": 100})
			b := mustOpen(t, made.Name)
			if b.Name() != made.Name {
				t.Errorf("named %q in Python, %q in Go", made.Name, b.Name())
			}
			wantSize(t, "Go", int64(b.Size()), 100)
			if runtime.GOOS != "windows" && b.String() != made.Repr {
				t.Errorf("Python prints %s, we %s", made.Repr, b)
			}
			exchange(t, b, p)
			if runtime.GOOS == "windows" {
				continue // no unlinking, and no listing
			}
			if runtime.GOOS == "linux" {
				info, err := shm.Stat(made.Name)
				if err != nil || !info.Foreign || info.Owner.PID != 0 || info.Size != 100 {
					t.Errorf("Stat: %+v, %v", info, err)
				}
			}

			// Go lets go of it, and it stays; Go unlinks it, and it goes.
			if err := b.Close(); err != nil {
				t.Error(err)
			}
			p.Must("attach", shmtest.Args{"name": made.Name, "block": "again"})
			p.Must("close", shmtest.Args{"block": "again"})
			if err := shm.Unlink(made.Name); err != nil {
				t.Error(err)
			}
			_, err := p.Call("attach", shmtest.Args{"name": made.Name})
			wantException(t, err, "FileNotFoundError", 2)
			_, err = p.Call("unlink", nil)
			wantException(t, err, "FileNotFoundError", 2)
			if err := shm.Unlink(made.Name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("second Unlink: %v", err)
			}
			// Else its tracker complains that the name is gone.
			p.Must("unregister", shmtest.Args{"name": made.Name})
		}
		if stderr := p.Exit(); stderr != "" {
			t.Errorf("Python's standard error: %s", stderr)
		}
	})
}

// What fails in Python fails here, for the same reason.
func TestInteropErrors(t *testing.T) {
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		p := shmtest.StartPython(t, py)
		missing, ours, theirs := shmtest.Name(t), shmtest.Name(t), shmtest.Name(t)
		b := mustCreate(t, ours, 10, nil)
		p.Must("create", shmtest.Args{"name": theirs, "size": 10, "block": "theirs"})

		_, err := p.Call("attach", shmtest.Args{"name": missing})
		wantException(t, err, "FileNotFoundError", 2)
		wantGone(t, missing)

		_, err = p.Call("create", shmtest.Args{"name": ours, "size": 20})
		wantException(t, err, "FileExistsError", 17)
		for _, name := range []string{ours, theirs, "/" + theirs} {
			var e *shm.Error
			_, err = shm.Create(name, 20, nil)
			if !errors.Is(err, fs.ErrExist) || !errors.As(err, &e) || e.Name != strings.TrimPrefix(name, "/") {
				t.Errorf("Create of the existing %s: %v", name, err)
			}
		}
		if seen := p.Must("stat", shmtest.Args{"block": "theirs"}); seen.Size < 10 || seen.Size == 20 {
			t.Errorf("a failed Create changed the block: %+v", seen)
		}
		if b.Size() == 20 {
			t.Errorf("Python's failed attempt changed ours: %v", b)
		}

		for _, size := range []int{0, -1} {
			_, err = p.Call("create", shmtest.Args{"name": missing, "size": size})
			wantException(t, err, "ValueError", 0)
			if _, err = shm.Create(missing, size, nil); !errors.Is(err, shm.ErrSize) {
				t.Errorf("Create of %d bytes: %v", size, err)
			}
		}
		if runtime.GOOS == "linux" {
			for name, errno := range map[string]int{missing + "/x": 22, strings.Repeat("x", 256): 36} {
				_, err = p.Call("create", shmtest.Args{"name": name, "size": 10})
				wantException(t, err, "OSError", errno)
				if _, err = shm.Create(name, 10, nil); !errors.Is(err, shm.ErrName) {
					t.Errorf("Create of %q: %v", name, err)
				}
			}
			// The longest name there is.
			long := missing + strings.Repeat("x", 255-len(missing))
			b := mustCreate(t, long, 10, nil)
			args := shmtest.Args{"name": long}
			if py.Minor >= 15 {
				args["track"] = false // its tracker counts the slash and takes 255 bytes with it
			}
			if seen := p.Must("attach", args); seen.Repr != b.String() {
				t.Errorf("Python prints %s, we %s", seen.Repr, b)
			}
			p.Must("unlink", nil)
		}
		wantGone(t, missing)
		p.Must("unlink", shmtest.Args{"block": "theirs"})
		if stderr := p.Exit(); stderr != "" {
			t.Errorf("Python's standard error: %s", stderr)
		}
	})
}

// A name with a slash in front is the same name, for Python as for us.
func TestInteropSlash(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere /x and x are different names for Python")
	}
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		name := shmtest.Name(t)
		b := mustCreate(t, "/"+name, 100, nil)
		p := shmtest.StartPython(t, py)
		if seen := p.Must("attach", shmtest.Args{"name": name}); seen.Name != b.Name() || seen.Repr != b.String() {
			t.Errorf("we have %v, Python %+v", b, seen)
		}
		exchange(t, b, p)
		p.Must("unlink", nil)
	})
}

// A Python process that attached takes the name away when it ends, by its
// resource tracker, if it does not ask for something else; KeepName brings it
// back.
func TestInteropTrackerExit(t *testing.T) {
	unlinks(t)
	const (
		gone = iota
		stays
		returns
	)
	for _, tt := range []struct {
		name       string
		keep       bool
		attach     shmtest.Args
		unregister bool
		minor      int // since which 3.x
		want       int
	}{
		{name: "plain", minor: 8, want: gone},
		{name: "unregister", unregister: true, minor: 8, want: stays},
		{name: "track=True", attach: shmtest.Args{"track": true}, minor: 13, want: gone},
		{name: "track=False", attach: shmtest.Args{"track": false}, minor: 13, want: stays},
		{name: "KeepName", keep: true, minor: 8, want: returns},
		{name: "KeepName,track=False", keep: true, attach: shmtest.Args{"track": false}, minor: 13, want: stays},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.keep && runtime.GOOS != "linux" {
				t.Skip("KeepName is for Linux only")
			}
			eachPython(t, func(t *testing.T, py shmtest.Python) {
				if py.Minor < tt.minor {
					return
				}
				name := shmtest.Name(t)
				b := mustCreate(t, name, 100, &shm.CreateOptions{KeepName: tt.keep})
				p := shmtest.StartPython(t, py)
				args := shmtest.Args{"name": name}
				for k, v := range tt.attach {
					args[k] = v
				}
				p.Must("attach", args)
				p.Must("write", shmtest.Args{"off": 3, "data": shmtest.Hex("hello")})
				if tt.unregister {
					p.Must("unregister", shmtest.Args{"name": name})
				}
				stderr := p.Exit()
				if warned := strings.Contains(stderr, "leaked shared_memory"); warned == (tt.want == stays) {
					t.Errorf("Python's standard error: %s", stderr)
				}

				switch tt.want {
				case gone:
					wantGone(t, name)
				case stays:
					mustOpen(t, name)
				case returns:
					ctx, cancel := context.WithTimeout(t.Context(), shmtest.Patience)
					defer cancel()
					again, err := shm.Wait(ctx, name, nil)
					if err != nil {
						t.Fatal(err)
					}
					defer again.Close()
					// The same memory, not only the same name.
					b.Bytes()[0] = 'x'
					if got := string(again.Bytes()[:8]); got != "x\x00\x00hello" || again.Size() != 100 {
						t.Errorf("the name that came back has %d bytes, %q", again.Size(), got)
					}
					// And once more: it is kept, not restored once.
					p := shmtest.StartPython(t, py)
					p.Must("attach", shmtest.Args{"name": name})
					p.Exit()
					third, err := shm.Wait(ctx, name, nil)
					if err != nil {
						t.Fatal(err)
					}
					third.Close()
					// The owner's own word counts.
					if err := b.Unlink(); err != nil {
						t.Error(err)
					}
					wantGone(t, name)
				}
				// Whatever became of the name, the memory is there.
				if got := string(b.Bytes()[3:8]); got != "hello" {
					t.Errorf("the block holds %q", got)
				}
			})
		})
	}
}

// A block of Python's goes as Python means it to: with its creator.
func TestInteropPythonCreatorEnds(t *testing.T) {
	unlinks(t)
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		for _, end := range []string{"exit", "kill"} {
			p := shmtest.StartPython(t, py)
			made := p.Must("create", shmtest.Args{"name": nil, "size": 100})
			b := mustOpen(t, made.Name)
			p.Must("write", shmtest.Args{"off": 0, "data": shmtest.Hex("hello")})
			if end == "exit" {
				p.Exit()
			} else {
				p.Kill()
				p.WaitAll()
			}
			wantGone(t, made.Name)
			if got := string(b.Bytes()[:5]); got != "hello" {
				t.Errorf("after %s: the mapping holds %q", end, got)
			}
		}
	})
}

// Python's blocks hold no lock and stand in no journal of ours: whether their
// maker lives cannot be told, so nothing of ours may ever remove them.
func TestInteropNeverSwept(t *testing.T) {
	unlinks(t)
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		p := shmtest.StartPython(t, py)
		live, orphan, heir := shmtest.Name(t), shmtest.Name(t), shmtest.Name(t)

		p.Must("create", shmtest.Args{"name": live, "size": 10, "block": "live"})

		// One whose maker is gone and left it there deliberately.
		maker := shmtest.StartPython(t, py)
		maker.Must("create", shmtest.Args{"name": orphan, "size": 10})
		maker.Must("unregister", shmtest.Args{"name": orphan})
		maker.Exit()
		t.Cleanup(func() { shm.Unlink(orphan) })

		// One under a name that a dead process of ours once owned, as its journal
		// still says.
		owner := shmtest.Start(t, "interop-own", heir)
		owner.Expect("ready")
		owner.Kill()
		if runtime.GOOS == "linux" {
			info, err := shm.Stat(heir)
			// Another test's sweep may be at it: between Stat's look at the block and
			// at the leases, both may have gone.
			if _, gone := shm.Stat(heir); err == nil && gone == nil && (info.Owner.PID != owner.PID() || info.Owner.Alive) {
				t.Errorf("Stat after the owner's death: %+v", info)
			}
		}
		// Another test's sweep may have been faster than we are.
		if err := shm.Unlink(heir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		p.Must("create", shmtest.Args{"name": heir, "size": 10, "block": "heir"})

		// One that a process of ours has merely opened, however that one ends.
		for _, end := range []string{"exit", "kill"} {
			opener := shmtest.Start(t, "interop-open", live)
			opener.Expect("ready")
			if end == "exit" {
				opener.Send("go")
				if status := opener.Wait(); status != 0 {
					t.Errorf("opener: status %d: %s", status, opener.Stderr())
				}
			}
			opener.Kill()
		}

		removed, err := shm.Prune()
		if err != nil {
			t.Error(err)
		}
		for _, info := range removed {
			if info.Name == live || info.Name == orphan || info.Name == heir {
				t.Errorf("Prune says it removed %+v", info)
			}
		}
		creator := shmtest.Start(t, "interop-create", shmtest.Name(t))
		if status := creator.Wait(); status != 0 {
			t.Errorf("creator: status %d: %s", status, creator.Stderr())
		}
		for _, name := range []string{live, orphan, heir} {
			mustOpen(t, name)
		}
		p.Must("unlink", shmtest.Args{"block": "live"})
		p.Must("unlink", shmtest.Args{"block": "heir"})
		if stderr := p.Exit(); stderr != "" {
			t.Errorf("Python's standard error: %s", stderr)
		}
	})
}
