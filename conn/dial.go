package conn

import (
	"context"
	"fmt"
	"net"
	"time"
)

// Dial connects to the server that listens at address, and authenticates the
// two to each other with the key that both have. The server may be a [Listener],
// a Python Listener or a Python manager.
//
// Errors: ErrAddress, ErrKey, ErrAuth, ErrFrame, ErrTooLarge,
// io.ErrUnexpectedEOF if the server hangs up during the handshake, a context's
// error, os.ErrDeadlineExceeded when HandshakeTimeout is over,
// errors.ErrUnsupported, CheckPeer's error, the system's.
func Dial(ctx context.Context, address string, authKey []byte, opts *Options) (*Conn, error) {
	c, err := dial(ctx, address, authKey, opts)
	if err != nil {
		return nil, wrap("dial", err)
	}
	return c, nil
}

func dial(ctx context.Context, address string, authKey []byte, opts *Options) (*Conn, error) {
	s, err := newSettings(authKey, opts)
	if err != nil {
		return nil, err
	}
	network, name, err := parseAddress(address)
	if err != nil {
		return nil, err
	}
	if err := s.canCheckPeers(network); err != nil {
		return nil, err
	}
	var d net.Dialer
	nc, err := d.DialContext(ctx, network, name)
	if err != nil {
		return nil, err
	}
	c := newConn(nc, s.MaxFrame)
	if network == "unix" {
		c.remote = &net.UnixAddr{Name: name, Net: network} // see listenPrivate
	}
	if err := c.greet(ctx, s, false); err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

// greet lets the peer pass: CheckPeer and the handshake, within their time.
func (c *Conn) greet(ctx context.Context, s *settings, listener bool) error {
	if err := s.checkPeer(c.nc); err != nil {
		return err
	}
	if s.key == nil {
		return nil
	}
	if err := c.nc.SetDeadline(time.Now().Add(s.HandshakeTimeout)); err != nil {
		return err
	}
	// The deadline of one direction ends both: a handshake never waits to send,
	// as its few bytes always find room.
	w, err := c.in.enter(ctx)
	if err != nil {
		return err
	}
	if err := c.in.leave(w, c.handshake(s, listener)); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	return c.nc.SetDeadline(time.Time{})
}
