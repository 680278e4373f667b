package conn

import (
	"fmt"
	"net"
	"os"

	"github.com/sharedmem/shm/internal/platform/peer"
)

// FromFile takes a stream socket that is there already: one that this process
// has inherited from whoever started it, in Python
//
//	ours, theirs = socket.socketpair()
//	subprocess.Popen([program], stdin=theirs)
//	c = multiprocessing.connection.Connection(ours.detach())
//
// and here conn.FromFile(os.Stdin, nil). f remains the caller's and may be
// closed. There is no handshake, as nobody else has the other end; of the
// options MaxFrame counts, and CheckPeer, for which whoever made the socket is
// at both ends.
//
// Errors: the system's if f is no such socket, CheckPeer's.
func FromFile(f *os.File, opts *Options) (*Conn, error) {
	o := Options{}
	if opts != nil {
		o = *opts
	}
	o.NoAuth = true
	s, err := newSettings(nil, &o)
	if err != nil {
		return nil, wrap("inherit", err)
	}
	nc, err := net.FileConn(f)
	if err != nil {
		return nil, wrap("inherit", err)
	}
	if err := s.checkPeer(nc); err != nil {
		nc.Close()
		return nil, wrap("inherit", err)
	}
	return newConn(nc, s.MaxFrame), nil
}

// ForChild returns the two ends of a new socket: one for this process, and one for
// a child, in exec.Cmd's ExtraFiles or as its standard input, where FromFile
// makes a Conn of it, or Python's multiprocessing.connection.Connection(fd).
// Close theirs when the child has been started.
//
// Errors: errors.ErrUnsupported on Windows, the system's.
func ForChild(opts *Options) (ours *Conn, theirs *os.File, err error) {
	a, theirs, err := peer.Pair()
	if err != nil {
		return nil, nil, wrap("make a socket", err)
	}
	defer a.Close()
	if ours, err = FromFile(a, opts); err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("conn: make a socket: %w", err)
	}
	return ours, theirs, nil
}
