package proc

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// What was inherited goes, and what is this process's own stays, the run-time's descriptors above all.
func TestCloseFrom(t *testing.T) {
	const from = 700 // so that nobody else's are concerned
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	inherited, err := unix.FcntlInt(r.Fd(), unix.F_DUPFD, from)
	if err != nil {
		t.Fatal(err)
	}
	own, err := unix.FcntlInt(r.Fd(), unix.F_DUPFD_CLOEXEC, from)
	if err != nil {
		t.Fatal(err)
	}
	CloseFrom(from)
	if err := unix.Close(inherited); !errors.Is(err, unix.EBADF) {
		t.Errorf("an inherited descriptor is still open: %v", err)
	}
	if err := unix.Close(own); err != nil {
		t.Errorf("one of our own was closed: %v", err)
	}
}
