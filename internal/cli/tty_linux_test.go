package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sharedmem/shm/internal/shmtest"
)

// terminal is a pseudo-terminal: what the command writes to tty is seen, and
// what type sends is what it reads there.
type terminal struct {
	tty  *os.File
	ours *os.File

	mu   sync.Mutex
	text bytes.Buffer
	more *sync.Cond
	gone bool
}

func openTerminal(t *testing.T) *terminal {
	t.Helper()
	t.Setenv("TERM", "xterm")
	t.Setenv("NO_COLOR", "")
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		shmtest.Skip(t, "pty", err.Error())
	}
	fd := int(ours.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		shmtest.Skip(t, "pty", err.Error())
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 100}); err != nil {
		t.Fatal(err)
	}
	term := &terminal{tty: tty, ours: ours}
	term.more = sync.NewCond(&term.mu)
	over := make(chan struct{})
	go func() {
		defer close(over)
		buf := make([]byte, 4096)
		for {
			n, err := ours.Read(buf)
			term.mu.Lock()
			term.text.Write(buf[:n])
			term.gone = err != nil
			term.more.Broadcast()
			term.mu.Unlock()
			if err != nil { // EIO, once the other side is closed
				return
			}
		}
	}()
	t.Cleanup(func() {
		tty.Close()
		<-over
		ours.Close()
	})
	return term
}

// await waits until a pattern has appeared.
func (term *terminal) await(t *testing.T, pattern string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	term.mu.Lock()
	defer term.mu.Unlock()
	for !re.Match(term.text.Bytes()) {
		if term.gone {
			t.Errorf("no %s in %q", pattern, term.text.Bytes())
			return
		}
		term.more.Wait()
	}
}

// A long transfer shows a bar on a terminal, and takes it away at the end.
func TestProgressBar(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	dir := privateDir(t)
	term := openTerminal(t)
	r, w := io.Pipe()
	status := make(chan int)
	go func() {
		status <- Run(context.Background(), []string{"--dir", dir, "put", "a"}, r, io.Discard, term.tty)
	}()
	io.WriteString(w, strings.Repeat("x", 2048))
	term.await(t, `\r\x1b\[Kput a 2\.0 KiB  `)
	w.Close()
	if s := <-status; s != 0 {
		t.Errorf("status %d", s)
	}
	io.WriteString(term.tty, "<end>")
	term.await(t, `\r\x1b\[K<end>$`)
	// Neither what is typed nor what is shown is disturbed by one.
	var out bytes.Buffer
	if s := Run(t.Context(), []string{"--dir", dir, "cat", "a"}, nil, &out, term.tty); s != 0 || out.Len() != 2048 {
		t.Errorf("status %d, %d bytes", s, out.Len())
	}
}

// Foreign blocks go after a question, and only if the answer is yes.
func TestQuestion(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	dir := privateDir(t)
	term := openTerminal(t)
	path := filepath.Join(dir, "theirs")
	for i, answer := range []string{"n\n", "\n", "yes\n"} {
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		status := make(chan int)
		go func() {
			status <- Run(context.Background(), []string{"--dir", dir, "prune", "--foreign", "--older-than", "0s"}, term.tty, io.Discard, term.tty)
		}()
		term.await(t, fmt.Sprintf(`(?s)(Remove 1 block, .*\? \[y/N\] .*){%d}`, i+1))
		if _, err := io.WriteString(term.ours, answer); err != nil {
			t.Fatal(err)
		}
		yes := answer == "yes\n"
		if s := <-status; (s == 0) != yes {
			t.Errorf("%q: status %d", answer, s)
		}
		if _, err := os.Stat(path); (err != nil) != yes {
			t.Errorf("%q: the block's file: %v", answer, err)
		}
	}
}

// Colour goes to terminals, unless it is unwanted.
func TestColour(t *testing.T) {
	term := openTerminal(t)
	for _, c := range []struct {
		flag, noColor, termType string
		want                    bool
	}{
		{"auto", "", "xterm", true}, {"auto", "1", "xterm", false}, {"auto", "", "dumb", false},
		{"never", "", "xterm", false}, {"always", "1", "dumb", true},
	} {
		t.Setenv("NO_COLOR", c.noColor)
		t.Setenv("TERM", c.termType)
		a := &app{stdout: term.tty, color: c.flag}
		if got := a.paint(bold, "x") != "x"; got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	if a := (&app{stdout: io.Discard, color: "auto"}); a.paint(bold, "x") != "x" {
		t.Error("colour where there is no terminal")
	}
}
