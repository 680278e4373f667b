package conn

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
)

var (
	// ErrAuth says that one side could not show that it has the key, or did
	// not keep to the handshake. The message has what is known about it.
	ErrAuth = errors.New("authentication failed")

	// ErrKey says that the key given to Listen or Dial cannot be one: empty,
	// missing without Options.NoAuth, or there beside it.
	ErrKey = errors.New("bad key")

	// ErrAddress says that a text is no address. The message has the reason.
	ErrAddress = errors.New("bad address")

	// ErrFrame says that the peer sent something that is no frame: a negative
	// length. The Conn is of no use for receiving any more.
	ErrFrame = errors.New("bad frame")

	// ErrTooLarge says that the peer announced a frame beyond the limit, see
	// Options.MaxFrame. Nothing was allocated for it. The Conn is of no use for
	// receiving any more.
	ErrTooLarge = errors.New("frame too large")

	// ErrBroken says that an earlier call on this Conn ended inside a frame, by
	// a deadline, a context or an error, so that nobody knows where the next
	// frame begins. The message has that first error. Sending and receiving
	// break apart from each other.
	ErrBroken = errors.New("connection is broken")

	// ErrBusy says that a peer had to go, unauthenticated, because others came;
	// see Options.MaxPending. Only Options.Refused gets it.
	ErrBusy = errors.New("too many unauthenticated peers")
)

// wrap gives err the package's prefix. io.EOF stays what it is, as users
// compare with it.
func wrap(op string, err error) error {
	switch {
	case err == nil || err == io.EOF: //nolint:errorlint // a wrapped EOF is another matter
		return err
	case errors.Is(err, net.ErrClosed), errors.Is(err, io.ErrClosedPipe):
		err = os.ErrClosed
	}
	return fmt.Errorf("conn: %s: %w", op, err)
}
