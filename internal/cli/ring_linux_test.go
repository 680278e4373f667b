package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/ring"
)

// What follows a ring shows what comes, and ends when it is interrupted.
func TestRingFollow(t *testing.T) {
	shmtest.Deadline(t, 4*shmtest.Patience)
	q, err := ring.Create(shmtest.Name(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Unlink()
	defer q.Close()
	s, err := q.Sender()
	if err != nil {
		t.Fatal(err)
	}
	for i, verb := range []string{"tail --follow --json", "stat --follow --json", "stat --follow", "sub --follow"} {
		ctx, cancel := context.WithCancel(t.Context())
		out, in := io.Pipe()
		ended := make(chan int)
		var errs strings.Builder
		go func() {
			ended <- Run(ctx, append(append([]string{"ring"}, strings.Fields(verb)...), q.Name()), strings.NewReader(""), in, &errs)
		}()
		if err := s.Send(fmt.Appendf(nil, "message %d", i)); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for want := ""; lines.Scan(); {
			line := lines.Text()
			switch i {
			case 0:
				want = `{"text":"message 0","position":0}`
			case 1:
				// The first look may have been before our message.
				var d ringDoc
				if err := json.Unmarshal([]byte(line), &d); err != nil || d.Name != q.Name() || d.Sent != 1 && d.Sent != 2 || d.Senders != 1 {
					t.Errorf("%s: %v", line, err)
				}
				if d.Sent == 2 {
					want = line
				}
			case 2:
				if want = line; !strings.HasPrefix(line, "[") {
					want = "a line of figures"
				}
			case 3:
				want = "message 3"
			}
			if line == want {
				break
			}
		}
		cancel()
		go io.Copy(io.Discard, out)
		if status := <-ended; status != exitInterrupted || errs.String() != "shm: interrupted\n" {
			t.Errorf("%s: status %d, %q", verb, status, errs.String())
		}
		in.Close()
	}
}

// A terminal is shown no bytes that it could take for commands.
func TestRingTerminal(t *testing.T) {
	q, err := ring.Create(shmtest.Name(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Unlink()
	defer q.Close()
	s, err := q.Sender()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{"plain ä\t", "\x1b[2J", "\xff"} {
		if err := s.Send([]byte(m)); err != nil {
			t.Fatal(err)
		}
	}
	term := openTerminal(t)
	if status := Run(t.Context(), []string{"ring", "tail", q.Name()}, strings.NewReader(""), term.tty, io.Discard); status != 0 {
		t.Error(status)
	}
	term.await(t, `plain ä[\t ]+\r\n"\\x1b\[2J"\r\n"\\xff"\r\n$`)
}
