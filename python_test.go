//go:build linux

package shm_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

// family is a program for the Pythons of these tests: HOW NAME….
const family = `
import json, multiprocessing, os, subprocess, sys, time
from multiprocessing import resource_tracker, shared_memory

def attach(name):
    block = shared_memory.SharedMemory(name)
    block.buf[0] += 1
    return block

def say(*words):
    print(*words, flush=True)

def hear():
    return sys.stdin.readline().strip()

def forked(name, first):
    block = attach(name) if first else None
    pid = os.fork()
    if pid == 0:
        attach(name).close()
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0

def run(method, name):
    p = multiprocessing.get_context(method).Process(target=attach, args=(name,))
    p.start()
    p.join()
    assert p.exitcode == 0, p.exitcode

def again(*args):
    return [sys.executable, __file__] + list(args)

def started(env=()):
    fd = resource_tracker.getfd()
    return subprocess.Popen(json.loads(os.environ["GO_CHILD"]), pass_fds=[fd], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, universal_newlines=True, bufsize=1,
                            env=dict(os.environ, SHM_TRACKER_FD=str(fd)))

def main(how, name, *rest):
    if how == "exit":
        block = attach(name)
    elif how == "kill":
        block = attach(name)
        os.kill(os.getpid(), 9)
    elif how == "all": # ways to have another process open it, and this one
        forked(name, False)
        for method in rest:
            run(method, name)
        forked(name, True)
        subprocess.run(again("exit", name), check=True, close_fds=True)
    elif how == "orphan": # a grand-child that begins when its parent is gone
        r, w = os.pipe()
        subprocess.Popen(again("after", name, str(r)), pass_fds=[r])
    elif how == "after":
        os.close(1)
        os.read(int(rest[0]), 1) # its writer is our parent
        block = attach(name)
    elif how == "make": # blocks, and a grand-child
        blocks = [shared_memory.SharedMemory(n, create=True, size=100) for n in (name,) + rest]
        child = subprocess.Popen(again("hold", name))
        say("made", os.getpid())
        hear()
    elif how == "hold":
        block = attach(name)
        say("held", os.getpid())
        hear()
    elif how == "stay":
        say("ready", os.getpid())
        while True:
            line = hear().split()
            if not line:
                break
            block = attach(line[1]) if line[0] == "attach" else shared_memory.SharedMemory(line[1], create=True, size=100)
            say("done")
    elif how == "pool":
        ctx = multiprocessing.get_context("spawn")
        lock = ctx.Lock()
        pool = ctx.Pool(2)
        assert pool.map(abs, [-1, -2, -3]) == [1, 2, 3]
        say(lock._semlock.name, pool._inqueue._rlock._semlock.name)
        os.kill(os.getpid(), 9)
    elif how == "go": # the parent of a Go program
        child = started()
        say(child.stdout.readline().strip())
        for line in iter(hear, ""):
            if line == "py-attach":
                block = attach(name)
                say("done")
            elif line == "py-unlink":
                block.unlink()
                say("done")
            elif line == "kill-tracker":
                os.kill(resource_tracker._resource_tracker._pid, 9)
                os.waitpid(resource_tracker._resource_tracker._pid, os.WNOHANG)
                say("done")
            else:
                child.stdin.write(line + "\n")
                say(child.stdout.readline().strip())
        child.stdin.close()
        child.wait()

if __name__ == "__main__":
    main(*sys.argv[1:])
`

func init() {
	// tracked COMMAND…: runs it with a tracker of ours, and passes on what it is
	// given. A process of its own, so that its tracker's standard error is the
	// test's, and so that it can be killed.
	shmtest.Register("tracked", func(args []string) int {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		release, err := shm.TrackPython(cmd)
		if err != nil {
			return report(err)
		}
		err = cmd.Start()
		release()
		if err != nil {
			return report(err)
		}
		_ = cmd.Wait()
		return cmd.ProcessState.ExitCode()
	})
	// under-python NAME: creates a Tracked block as the child of a Python program.
	shmtest.Register("under-python", func(args []string) int {
		b, err := shm.Create(args[0], 100, &shm.CreateOptions{Lifetime: shm.Tracked})
		if err != nil {
			shmtest.Say("%v", err)
			return 1
		}
		shmtest.Say("ready")
		for {
			var err error
			switch shmtest.Hear() {
			case "unlink":
				err = b.Unlink()
			case "unlink-name":
				err = shm.Unlink(args[0])
			case "disown":
				err = b.Disown()
			}
			if errors.Is(err, fs.ErrNotExist) {
				shmtest.Say("gone")
			} else {
				shmtest.Say("%v", err)
			}
		}
	})
}

// thorough tells whether to try everything with this Python: with the oldest,
// and with each whose tracker is of another kind. Starting Pythons takes long.
func thorough(py shmtest.Python) bool { return py.Minor == 8 || py.Minor == 13 || py.Minor == 15 }

// script writes the program to a file, which spawn needs.
func script(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "family.py")
	if err := os.WriteFile(path, []byte(family), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// tracked starts the program under a tracker of ours.
func tracked(t *testing.T, py shmtest.Python, args ...string) *shmtest.Process {
	t.Helper()
	return shmtest.StartCommand(t, trackedCommand(t, py, args...))
}

func trackedCommand(t *testing.T, py shmtest.Python, args ...string) *exec.Cmd {
	t.Helper()
	cmd := shmtest.Command(t, "tracked", append([]string{py.Path, script(t)}, args...)...)
	cmd.Env = append(cmd.Env, py.Env...)
	return cmd
}

// quiet waits for all of the family and its tracker, none of which may have had
// anything to say.
func quiet(t *testing.T, p *shmtest.Process) {
	t.Helper()
	if _, stderr := p.WaitAll(); stderr != "" {
		t.Errorf("standard error: %s", stderr)
	}
}

func pidOf(t *testing.T, p *shmtest.Process, word string) int {
	t.Helper()
	line := p.Line()
	pid, err := strconv.Atoi(strings.TrimPrefix(line, word+" "))
	if err != nil {
		t.Fatalf("got %q, want %s and a PID", line, word)
	}
	return pid
}

// Whoever opens a block of ours, in whatever way, and however he ends, leaves it
// there and says nothing.
func TestTrackPythonSpares(t *testing.T) {
	shmtest.Deadline(t, 4*shmtest.Patience)
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		name := shmtest.Name(t)
		b := mustCreate(t, name, 100, nil)
		// Fork comes before and after the first use of the tracker.
		methods := "fork spawn forkserver fork"
		if strings.HasSuffix(py.Version, "*") {
			methods = "fork spawn fork" // its forkserver needs an os.readinto, which the interpreter lacks
		}
		for how, opened := range map[string]int{
			"all " + name + " " + methods: 4 + len(strings.Fields(methods)),
			"kill " + name:                1,
			"orphan " + name:              1,
		} {
			b.Bytes()[0] = 0
			p := tracked(t, py, strings.Fields(how)...)
			quiet(t, p)
			if status := p.Wait(); status != 0 && !strings.HasPrefix(how, "kill") {
				t.Errorf("%s: status %d", how, status)
			}
			if got := int(b.Bytes()[0]); got != opened {
				t.Errorf("%s: opened %d times, want %d", how, got, opened)
			}
			if !exists(t, name) {
				t.Fatalf("%s: the block is gone", how)
			}
		}
	})
}

// What a killed Python has made goes when the last of its family does, and not
// before. What is somebody's stays.
func TestTrackPythonRemoves(t *testing.T) {
	shmtest.Deadline(t, 4*shmtest.Patience)
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		made, adopted := shmtest.Name(t), shmtest.Name(t)
		p := tracked(t, py, "make", made, adopted)
		var pids []int
		for range 2 {
			switch word, pid, _ := strings.Cut(p.Line(), " "); word {
			case "made", "held":
				pids = append(pids, atoi(pid))
			}
		}
		b := mustOpen(t, adopted)
		if err := b.Adopt(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Unlink() })
		// One of the two is the grand-child, and each keeps the tracker waiting.
		p.Kill()
		kill(t, pids[0])
		if !exists(t, made) {
			t.Error("the block is gone before the last of the family")
		}
		kill(t, pids[1])
		quiet(t, p)
		wantGone(t, made)
		if !exists(t, adopted) {
			t.Error("a block that we have adopted is gone")
		}
	})
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	dead(t, pid)
}

// What Python opens of others stays if it was there before, is ours, or is
// Persistent.
func TestTrackPythonOthers(t *testing.T) {
	shmtest.Deadline(t, 4*shmtest.Patience)
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		before, ours, lasting := shmtest.Name(t), shmtest.Name(t), shmtest.Name(t)
		if err := os.WriteFile(file(before), make([]byte, 100), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(file(before)) })
		p := tracked(t, py, "stay", "")
		pid := pidOf(t, p, "ready")
		mustCreate(t, ours, 100, &shm.CreateOptions{Lifetime: shm.Tracked})
		mustCreate(t, lasting, 100, &shm.CreateOptions{Lifetime: shm.Persistent})
		for _, do := range []string{"attach " + before, "attach " + ours, "attach " + lasting} {
			p.Send(do)
			p.Expect("done")
		}
		kill(t, pid)
		quiet(t, p)
		for _, name := range []string{before, ours, lasting} {
			if !exists(t, name) {
				t.Errorf("%s is gone", name)
			}
		}
	})
}

func TestTrackPythonPool(t *testing.T) {
	shmtest.Deadline(t, 4*shmtest.Patience)
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		p := tracked(t, py, "pool", "")
		names := strings.Fields(strings.ReplaceAll(p.Line(), "/", "sem."))
		for _, name := range names {
			shmtest.Watch(name)
		}
		quiet(t, p)
		for _, name := range names {
			if _, err := os.Lstat(file(name)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the semaphore %s of a killed pool: %v", name, err)
			}
		}
		if len(names) != 2 {
			t.Errorf("%q", names)
		}
	})
}

// If our tracker is killed, Python goes on with one of its own.
func TestTrackPythonTrackerDies(t *testing.T) {
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		one, two := shmtest.Name(t), shmtest.Name(t)
		p := tracked(t, py, "stay", "")
		pid := pidOf(t, p, "ready")
		p.Send("create " + one)
		p.Expect("done")
		tracker := trackerOf(t, pid)
		kill(t, tracker)
		reaped(t, tracker) // a zombie's other threads may still have its pipe open
		p.Send("create " + two)
		p.Expect("done")
		p.CloseInput()
		_, stderr := p.WaitAll()
		if !strings.Contains(stderr, "died unexpectedly, relaunching") {
			t.Errorf("standard error: %s", stderr)
		}
		// The first is forgotten, as when CPython's own is killed.
		if err := shm.Unlink(one); err != nil {
			t.Error(err)
		}
		// 3.14 loses what it was about to say when it finds the tracker dead.
		if err := shm.Unlink(two); err == nil && py.Minor < 14 {
			t.Error("Python's own tracker has left a block")
		}
	})
}

// reaped waits until the process's parent has waited for it.
func reaped(t *testing.T, pid int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), shmtest.Patience)
	defer cancel()
	for syscall.Kill(pid, 0) == nil {
		if ctx.Err() != nil {
			t.Fatalf("process %d is still there", pid)
		}
		runtime.Gosched()
	}
}

// trackerOf finds the tracker by the environment of one of its Pythons.
func trackerOf(t *testing.T, pid int) int {
	t.Helper()
	env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		t.Fatal(err)
	}
	for e := range strings.SplitSeq(string(env), "\x00") {
		if path, ok := strings.CutPrefix(e, "SHM_TRACKER=/proc/"); ok {
			n, _, _ := strings.Cut(path, "/")
			return atoi(n)
		}
	}
	t.Fatal("no SHM_TRACKER")
	return 0
}

// Two commands are one family: what one makes lives as long as the other.
func TestTrackPythonTogether(t *testing.T) {
	pythons := shmtest.Pythons(t)
	name := shmtest.Name(t)
	path := script(t)
	first := pythons[0].Cmd(t.Context(), path, "stay", "")
	second := pythons[len(pythons)-1].Cmd(t.Context(), path, "stay", "")
	release, err := shm.TrackPython(first, second)
	if err != nil {
		t.Fatal(err)
	}
	a, b := shmtest.StartCommand(t, first), shmtest.StartCommand(t, second)
	release()
	release()
	pidOf(t, a, "ready")
	tracker := trackerOf(t, pidOf(t, b, "ready"))
	a.Send("create " + name)
	a.Expect("done")
	a.Kill()
	b.Send("attach " + name)
	b.Expect("done")
	if a.Stderr()+b.Stderr() != "" {
		t.Error(a.Stderr(), b.Stderr())
	}
	b.Kill()
	dead(t, tracker)
	wantGone(t, name)
}

// Interpreters that have no shared memory, and modules that ours stands in front
// of, are none the worse for it.
func TestTrackPythonSitecustomize(t *testing.T) {
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		for what, source := range map[string]string{
			"works":     "chained = 42",
			"raises":    "raise ValueError('of its own')",
			"wants":     "import no_such_module",
			"is absent": "",
		} {
			if what != "works" && !thorough(py) {
				continue
			}
			dir := t.TempDir()
			if source != "" {
				if err := os.WriteFile(filepath.Join(dir, "sitecustomize.py"), []byte(source), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			program := "import sys; m = sys.modules.get('sitecustomize'); print(getattr(m, 'chained', 0), getattr(m, '__file__', '').startswith('/proc'), any('/proc/' in p for p in sys.path))"
			run := func(track bool) (stdout, stderr string) {
				cmd := py.Cmd(t.Context(), "-c", program)
				// The interpreter's own folder first, as a user would have it.
				path := dir
				for _, e := range py.Env {
					if v, ok := strings.CutPrefix(e, "PYTHONPATH="); ok {
						path = v + ":" + dir
					}
				}
				cmd.Env = append(cmd.Environ(), "PYTHONPATH="+path)
				var out, errs strings.Builder
				cmd.Stdout, cmd.Stderr = &out, &errs
				if track {
					release, err := shm.TrackPython(cmd)
					if err != nil {
						t.Fatal(err)
					}
					defer release()
				}
				if err := cmd.Run(); err != nil {
					t.Error(err)
				}
				return out.String(), errs.String()
			}
			out, errs := run(false)
			trackedOut, trackedErrs := run(true)
			// Without another one ours may stay in the list of modules.
			if what == "is absent" {
				trackedOut = strings.Replace(trackedOut, "True", "False", 1)
			}
			if out != trackedOut || errs != trackedErrs || what == "works" && !strings.HasPrefix(out, "42 ") || (what == "raises") != strings.Contains(errs, "of its own") {
				t.Errorf("a sitecustomize that %s: %q, %q; with the tracker %q, %q", what, out, errs, trackedOut, trackedErrs)
			}
		}
	})
}

func TestTrackPythonErrors(t *testing.T) {
	noEmulator(t)
	cmd := exec.Command("true")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	_, err := shm.TrackPython(cmd)
	mustBe(t, err, fs.ErrInvalid)

	// The variables of a tracker around are replaced, other paths kept.
	outer, inner := exec.Command("true"), exec.Command("true")
	outer.Env = []string{"PYTHONPATH=/a:/b"}
	release, err := shm.TrackPython(outer)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	inner.Env = outer.Env
	release, err = shm.TrackPython(inner)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	get := func(cmd *exec.Cmd, key string) (last string) {
		for _, e := range cmd.Env {
			if v, ok := strings.CutPrefix(e, key+"="); ok {
				last = v
			}
		}
		return last
	}
	path := strings.Split(get(inner, "PYTHONPATH"), ":")
	if len(path) != 3 || !slices.Equal(path[1:], []string{"/a", "/b"}) || !strings.HasPrefix(path[0], "/proc/") || path[0] == strings.Split(get(outer, "PYTHONPATH"), ":")[0] {
		t.Errorf("PYTHONPATH is %q", path)
	}
	if get(inner, "SHM_TRACKER") == get(outer, "SHM_TRACKER") {
		t.Error("the inner command has the outer tracker")
	}
}

// underPython starts a Python program, which starts a Go program, which creates
// a Tracked block.
func underPython(t *testing.T, py shmtest.Python, name string) *shmtest.Process {
	t.Helper()
	return shmtest.StartCommand(t, underPythonCommand(t, py, name))
}

func underPythonCommand(t *testing.T, py shmtest.Python, name string) *exec.Cmd {
	t.Helper()
	child := shmtest.Command(t, "under-python", name)
	args, err := json.Marshal(child.Args)
	if err != nil {
		t.Fatal(err)
	}
	cmd := py.Cmd(context.Background(), script(t), "go", name)
	cmd.Env = append(slices.Concat(child.Env, py.Env), "GO_CHILD="+string(args))
	return cmd
}

// A block of Go's that Python's tracker has: it goes with the last of the family,
// unless somebody unlinks it, and nobody hears of that twice.
func TestUnderPython(t *testing.T) {
	shmtest.Deadline(t, 4*shmtest.Patience)
	const leaked = "leaked shared_memory"
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		for _, tt := range []struct {
			do, answers string
			kill, stays bool
			says        string
			less        bool // not with every Python
		}{
			{says: leaked, less: true},
			{kill: true, do: "py-attach", answers: "done", says: leaked},
			{do: "unlink unlink", answers: "<nil> gone"},
			{do: "unlink-name", answers: "<nil>", less: true},
			{do: "py-attach py-unlink unlink", answers: "done done gone"},
			{do: "disown", answers: "<nil>", stays: true, less: true},
			{do: "kill-tracker unlink", answers: "done <nil>", less: true},
		} {
			if tt.less && !thorough(py) {
				continue
			}
			name := shmtest.Name(t)
			p := underPython(t, py, name)
			p.Expect("ready")
			// No process of ours has it, and our journal has it no more.
			if info, err := shm.Stat(name); err != nil || info.Owner.PID != 0 {
				t.Errorf("owned by %+v, %v", info.Owner, err)
			}
			var answers []string
			for _, word := range strings.Fields(tt.do) {
				p.Send(word)
				answers = append(answers, p.Line())
			}
			if got := strings.Join(answers, " "); got != tt.answers {
				t.Errorf("%s: %s", tt.do, got)
			}
			if !strings.Contains(tt.do, "unlink") && !exists(t, name) {
				t.Errorf("%s: it has gone too early", tt.do)
			}
			if tt.kill {
				p.Kill()
			}
			p.CloseInput()
			_, stderr := p.WaitAll()
			if (stderr == "") != (tt.says == "") || !strings.Contains(stderr, tt.says) {
				t.Errorf("%s: standard error: %s", tt.do, stderr)
			}
			if exists(t, name) != tt.stays {
				t.Errorf("%s: it is there in the end: %v", tt.do, !tt.stays)
			}
			if tt.stays {
				if info, err := shm.Stat(name); err != nil || info.Foreign {
					t.Errorf("a disowned block: %+v, %v", info, err)
				}
				if err := shm.Unlink(name); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

// pythonless starts the Go child with a pipe of ours for Python's tracker.
func pythonless(t *testing.T, env string, names ...string) (p *shmtest.Process, tracker *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	cmd := shmtest.Command(t, "under-python", names...)
	cmd.ExtraFiles = []*os.File{w, r}
	cmd.Env = append(cmd.Env, "SHM_TRACKER_FD="+env)
	p = shmtest.StartCommand(t, cmd)
	w.Close()
	return p, r
}

// These are the very lines, and a name that they cannot carry is refused.
func TestUnderPythonLines(t *testing.T) {
	name := shmtest.Name(t)
	p, tracker := pythonless(t, "3", name)
	p.Expect("ready")
	p.Send("unlink")
	p.Expect("<nil>")
	p.Kill()
	got, err := io.ReadAll(tracker)
	if want := "PROBE:0:noop\nREGISTER:/" + name + ":shared_memory\nUNREGISTER:/" + name + ":shared_memory\n"; err != nil || string(got) != want {
		t.Errorf("the tracker got %q, %v", got, err)
	}
	for _, tt := range []struct{ env, name, want string }{
		{"3", name + ":x", "bad name"},
		{"3", name + "é", "bad name"},
		{"4", name, "SHM_TRACKER_FD"}, // the end for reading
		{"9", name, "SHM_TRACKER_FD"},
		{"1", name, "SHM_TRACKER_FD"},
		{"three", name, "SHM_TRACKER_FD"},
	} {
		p, tracker := pythonless(t, tt.env, tt.name)
		if line := p.Line(); !strings.HasPrefix(line, "shm: create ") || !strings.Contains(line, tt.want) {
			t.Errorf("SHM_TRACKER_FD=%s, %q: %s", tt.env, tt.name, line)
		}
		p.Wait()
		if got, err := io.ReadAll(tracker); len(got) > 0 || err != nil {
			t.Errorf("SHM_TRACKER_FD=%s, %q: the tracker got %q, %v", tt.env, tt.name, got, err)
		}
		wantGone(t, tt.name)
	}
}

// Without the tracker, and for what it cannot do, our clean-up process has the
// block.
func TestUnderPythonOurs(t *testing.T) {
	noEmulator(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	name := shmtest.Name(t)
	cmd := shmtest.Command(t, "under-python", name)
	cmd.ExtraFiles = []*os.File{w}
	cmd.Env = append(cmd.Env, "SHM_TRACKER_FD=3")
	r.Close() // dead
	p := shmtest.StartCommand(t, cmd)
	p.Expect("ready")
	if info, err := shm.Stat(name); err != nil || info.Lifetime != shm.Tracked || info.Owner.PID != p.PID() {
		t.Errorf("%+v, %v", info, err)
	}
	c := cleanerOf(t, p.PID())
	p.Kill()
	dead(t, c)
	wantGone(t, name)
}
