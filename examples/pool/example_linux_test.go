package pool_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

// tree writes files and returns what hash says of them.
func tree(t *testing.T) (root string, lines []string) {
	t.Helper()
	root = shmtest.TempDir(t)
	for i := range 200 {
		path := filepath.Join(root, fmt.Sprintf("%02d", i/10), fmt.Sprintf("%03d", i))
		if i%10 == 0 {
			if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		text := strings.Repeat(path, i*i/7)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%x  %s", sha256.Sum256([]byte(text)), path))
	}
	return root, lines
}

// expect compares what hash says of the files, and returns what it says beyond.
func expect(t *testing.T, p *shmtest.Process, lines []string) (totals string) {
	t.Helper()
	for _, line := range lines {
		p.Expect(line)
	}
	return p.Line()
}

func TestHash(t *testing.T) {
	program := shmtest.Programs(t)
	root, lines := tree(t)
	for _, n := range []string{"1", "3"} {
		p := shmtest.StartCommand(t, exec.Command(program("hash"), "-n", n, "-compare", root))
		together, alone, same := expect(t, p, lines), p.Line(), p.Line()
		m := regexp.MustCompile(`^\d+ processes: 200 files, .* (sum of sums [0-9a-f]{16})$`).FindStringSubmatch(together)
		if m == nil || !strings.HasSuffix(alone, m[1]) || !strings.HasPrefix(same, "the same, and ") {
			t.Errorf("got\n%s\n%s\n%s", together, alone, same)
		}
		if status := p.Wait(); status != 0 {
			t.Errorf("status %d: %s", status, p.Stderr())
		}
	}
}

// A file that kills whoever reads it has no sum, and all others have theirs.
func TestPoison(t *testing.T) {
	program := shmtest.Programs(t)
	root, lines := tree(t)
	p := shmtest.StartCommand(t, exec.Command(program("hash"), "-n", "2", "-poison", "100", root))
	totals := expect(t, p, append(lines[:100:100], lines[101:]...))
	if !strings.HasPrefix(totals, "2 processes: 199 files, ") {
		t.Errorf("got %s", totals)
	}
	p.Expect("2 of the processes died, files were tried again: 1")
	if status, stderr := p.WaitAll(); status != 1 || !strings.HasPrefix(stderr, filepath.Join(root, "10", "100")+" has no sum: ") ||
		!strings.Contains(stderr, "signal 9") {
		t.Errorf("status %d: %s", status, stderr)
	}
}

// A process that is killed loses the file that it has begun, and another reads that.
func TestKilled(t *testing.T) {
	program := shmtest.Programs(t)
	shmtest.Deadline(t, 2*time.Minute)
	root, lines := tree(t)
	pipe := filepath.Join(root, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	p := shmtest.StartCommand(t, exec.Command(program("hash"), "-n", "1", pipe, filepath.Join(root, "00"), filepath.Join(root, "01")))
	open := func() *os.File {
		f, err := os.OpenFile(pipe, os.O_WRONLY, 0) // which waits for a reader
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	first := open()
	pid := onlyChild(t, p.PID())
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Until it is gone, it might still be the reader. Nothing tells us, who are not its parent.
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ; !errors.Is(unix.Kill(pid, 0), unix.ESRCH); <-tick.C {
	}
	// Not before there is another: who has opened it meanwhile would come to its end.
	second := open()
	first.Close()
	if _, err := second.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	second.Close()
	p.Expect(fmt.Sprintf("%x  %s", sha256.Sum256([]byte("hello")), pipe))
	if totals := expect(t, p, lines[:20]); !strings.HasPrefix(totals, "1 processes: 21 files, ") {
		t.Errorf("got %s", totals)
	}
	p.Expect("1 of the processes died, files were tried again: 1")
	if status := p.Wait(); status != 0 {
		t.Errorf("status %d: %s", status, p.Stderr())
	}
}

// onlyChild returns the PID of a process's worker.
func onlyChild(t *testing.T, parent int) (child int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		// PID (name) state parent …
		_, rest, _ := strings.Cut(string(text), ") ")
		var state string
		var pid, ppid int
		if _, err := fmt.Sscan(string(text), &pid); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscan(rest, &state, &ppid); err != nil {
			t.Fatal(err)
		}
		if ppid == parent {
			child = pid
		}
	}
	if child == 0 {
		t.Fatalf("process %d has no child", parent)
	}
	return child
}
