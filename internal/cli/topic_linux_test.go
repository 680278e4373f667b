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
	"github.com/sharedmem/shm/topic"
)

// What follows a topic from outside shows what was kept and what comes, and says how many
// were overwritten in between: it and the publisher account for the same messages.
func TestTopicFollow(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	q, err := topic.Create(shmtest.Name(t), &topic.Options{Slots: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Unlink()
	defer q.Close()
	p, err := q.Publisher()
	if err != nil {
		t.Fatal(err)
	}
	publish := func(from, to int) {
		for i := from; i < to; i++ {
			if err := p.Publish(fmt.Append(nil, i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	publish(0, 10)
	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	ended := make(chan int)
	var errs strings.Builder
	go func() {
		ended <- Run(ctx, []string{"topic", "tail", "--follow", "--json", "-n", "2", q.Name()}, strings.NewReader(""), in, &errs)
	}()
	next := uint64(8)
	for lines := bufio.NewScanner(out); next < 1000 && lines.Scan(); {
		var d messageDoc
		if err := json.Unmarshal(lines.Bytes(), &d); err != nil || d.Position == nil || d.Text == nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		if *d.Position != next+d.Missed || *d.Text != fmt.Sprint(*d.Position) {
			t.Errorf("%s, where message %d was due", lines.Text(), next)
		}
		if next = *d.Position + 1; next == 10 {
			publish(10, 1000)
		}
	}
	cancel()
	go io.Copy(io.Discard, out)
	if status := <-ended; status != exitInterrupted || errs.String() != "shm: interrupted\n" {
		t.Errorf("status %d, %q", status, errs.String())
	}
	in.Close()
}
