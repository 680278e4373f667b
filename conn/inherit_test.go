package conn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/sharedmem/shm/internal/shmtest"
)

func init() {
	// A child whose standard input is the socket.
	shmtest.Register("inherit", func([]string) int {
		c, err := FromFile(os.Stdin, nil)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer c.Close()
		for {
			v, err := c.Recv()
			if err == io.EOF { //nolint:errorlint // as Recv says
				return 0
			}
			if err == nil {
				err = c.Send([]any{"heard", v})
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
	})
}

func TestForChild(t *testing.T) {
	ours, theirs, err := ForChild(nil)
	if errors.Is(err, errors.ErrUnsupported) && runtime.GOOS == "windows" {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	cmd := shmtest.Command(t, "inherit")
	cmd.Stdin, cmd.Stderr = theirs, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	for i := range 3 {
		if err := ours.Send(i); err != nil {
			t.Fatal(err)
		}
		v, err := ours.Recv()
		if got := fmt.Sprint(v); err != nil || got != fmt.Sprintf("[heard %d]", i) {
			t.Fatal(got, err)
		}
	}
	_ = fmt.Sprint(ours.LocalAddr(), ours.RemoteAddr())
	if err := ours.Close(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestFromFileRefuses(t *testing.T) {
	f, err := os.Create(filepath.Join(shmtest.TempDir(t), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if c, err := FromFile(f, nil); err == nil {
		c.Close()
		t.Error("took a file for a socket")
	}
	ours, theirs, err := ForChild(&Options{MaxFrame: 8})
	if errors.Is(err, errors.ErrUnsupported) && runtime.GOOS == "windows" {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	defer theirs.Close()
	no := errors.New("no")
	if c, err := FromFile(theirs, &Options{CheckPeer: func(Peer) error { return no }}); !errors.Is(err, no) && !errors.Is(err, errors.ErrUnsupported) {
		c.Close()
		t.Errorf("let in: %v", err)
	}
	c, err := FromFile(theirs, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SendBytes(make([]byte, 9)); err != nil {
		t.Fatal(err)
	}
	if _, err := ours.RecvBytesContext(context.Background()); !errors.Is(err, ErrTooLarge) {
		t.Errorf("of 9 bytes, %v", err)
	}
}
