// Package conn is Python's multiprocessing.connection: messages over a socket,
// between processes that know a common key. A [Listener] here serves Python's
// Client, [Dial] reaches Python's Listener, and two Go programs talk the same
// way. It is what managers speak.
//
//	l, err := conn.Listen("unix:/run/app/socket", key, nil)
//	if err != nil {
//		return err
//	}
//	defer l.Close()
//	c, err := l.Accept() // its peer has the key
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//	v, err := c.Recv()
//
// and in Python
//
//	with Client("/run/app/socket", authkey=key) as c:
//		c.send(["frame", 7, SharedMemory("cam0")])
//
// which arrives as []any{"frame", int64(7), shm.Ref{Name: "cam0"}}.
//
// # Addresses
//
//	unix:/path       a Unix socket's file                   Python: "/path"
//	unix:@name       a name without a file, Linux only      b"\0name"
//	tcp:host:port    port 0: the system's choice            ("host", port)
//	"" (Listen)      a fresh Unix socket                    None
//
// Anybody on the machine may connect to an abstract name or a TCP port; only the
// key keeps them out. The file of a Unix socket is for its user alone, from its
// first moment on.
//
// # Messages
//
// [Conn.SendBytes] and [Conn.RecvBytes] are Python's send_bytes and recv_bytes.
// [Conn.Send] and [Conn.Recv] are send and recv, for plain values and handles of
// shared memory: there is a table at Send. Python's recv runs whatever code the
// peer likes. Ours runs nothing, and knows nothing but these values.
//
// # How long things live
//
// A Listener and a Conn live until Close, which wakes everybody who waits on
// them with os.ErrClosed. A message that RecvBytes returned is the caller's; one
// to be sent is the caller's again when the call returns. Deadlines and
// contexts end each call; one that ends inside a message leaves the Conn
// broken in that direction, see [ErrBroken], since nobody knows where the next
// begins.
//
// # Security
//
// Both sides show each other that they have the key, and neither sends it: the
// one that listens asks first. What is said afterwards is neither encrypted
// nor signed, so over a network anybody on the way can read and change it; use
// a tunnel. Without a key (nil) nothing works unless Options.NoAuth asks for
// it; an empty one is always an error.
//
// Handshakes run beside Accept, each with a time limit, a few at a time
// ([Options].MaxPending), in frames of up to 256 bytes. A peer that fails is told
// "#FAILURE#" and no more. MACs are compared in constant time, challenges are
// fresh random numbers, and one that this process has asked is never answered
// by it. (Only by itself: the two ends of the socket must both be here. A
// program that reaches itself through a translation of addresses does not.)
// CPython up to 3.11 needs HMAC-MD5; Options.Digests can do without.
// Longer frames than Options.MaxFrame are refused, and memory is taken as the
// bytes come. Options.CheckPeer looks at the process behind a Unix socket.
//
// # Differences per system
//
// Abstract names are Linux's. [Conn.Peer] and CheckPeer work on Linux, macOS and
// FreeBSD. On Windows Python has no Unix sockets but named pipes, which this
// package has not, so that TCP is what the two have in common; files of Unix
// sockets have no mode there, and one that a dead server left has to be
// removed by hand. What a system lacks returns [errors.ErrUnsupported].
package conn
