package peer

import (
	"net"
	"os"
)

// Message is the longest message that Receive is meant for, and MaxFiles the most
// descriptors that come with one.
const (
	Message  = 4 << 10
	MaxFiles = 64
)

// Messages returns the two ends of a new socket that keeps messages apart, as those of
// Pair do not: one to use here, one for a child to inherit, which calls [Inherited]. Linux only; elsewhere
// errors.ErrUnsupported.
func Messages() (here *net.UnixConn, there *os.File, err error) { return messages() }

// Inherited returns the socket that a parent has left at descriptor fd; not ok if there
// is none. No child of ours inherits it in its turn.
func Inherited(fd int) (c *net.UnixConn, ok bool) { return inherited(fd) }

// Send sends a message, and descriptors with it, at most MaxFiles.
func Send(c *net.UnixConn, p []byte, files []*os.File) error { return send(c, p, files) }

// Receive receives a message into p and the descriptors that came with it, which are the
// caller's. At the end the error is io.EOF.
func Receive(c *net.UnixConn, p []byte) (n int, files []*os.File, err error) { return receive(c, p) }
