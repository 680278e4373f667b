package conn

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"

	"github.com/sharedmem/shm/internal/platform/peer"
)

// Options are the choices of [Listen] and [Dial]; nil and the zero value mean
// the defaults. The struct is copied on entry.
type Options struct {
	// NoAuth leaves out the handshake: whoever can connect is in. The key must
	// be nil then. Both sides have to do the same.
	NoAuth bool

	// Digests are what the handshake may use, the one we ask for first. nil
	// means SHA256, SHA384, SHA3_256, SHA3_384 and MD5. CPython up to 3.11 knows
	// MD5 alone: without it those are refused. The key is not in danger from
	// MD5 as it is used here (HMAC), but policies may forbid it.
	Digests []Digest

	// MaxFrame is the longest frame that is received, in bytes; 0 means 64 MiB.
	// Memory is taken as the bytes come, not as they are announced.
	MaxFrame int

	// HandshakeTimeout is how long a peer may take until it is authenticated;
	// 0 means 10 s. For Dial it counts from the moment of being connected.
	HandshakeTimeout time.Duration

	// MaxPending is how many peers a Listener keeps that are not authenticated
	// or that Accept has not returned yet; 0 means 128. When one more comes, the
	// one that has been unauthenticated longest is closed if that is more than
	// a second; else the new one waits in the system's queue. So peers that say
	// nothing hold up others for a second at most, and a rush of honest ones is
	// served in turn.
	MaxPending int

	// CheckPeer decides by the process at the other end of a Unix socket,
	// before the handshake; an error refuses it. [SameUser] is such a function.
	// Listen and Dial return errors.ErrUnsupported if the address is no Unix
	// socket or the system cannot tell.
	CheckPeer func(Peer) error

	// Refused, if it is not nil, is told of each peer that a Listener does not
	// let in, and why: ErrAuth, ErrFrame, ErrTooLarge, ErrBusy,
	// os.ErrDeadlineExceeded, io.ErrUnexpectedEOF, CheckPeer's error or the
	// system's. remote is nil when the system failed to accept one at all. It is
	// called from several goroutines at once, for which Close waits: so it must
	// not call Close.
	Refused func(remote net.Addr, err error)
}

const (
	defaultMaxFrame   = 64 << 20
	defaultMaxPending = 128
	defaultHandshake  = 10 * time.Second
)

// settings are the options as they are used, with the key.
type settings struct {
	Options
	key []byte // nil: no authentication
}

func newSettings(key []byte, opts *Options) (*settings, error) {
	s := &settings{}
	if opts != nil {
		s.Options = *opts
	}
	switch {
	case key != nil && len(key) == 0:
		return nil, fmt.Errorf("%w: it is empty", ErrKey)
	case key == nil && !s.NoAuth:
		return nil, fmt.Errorf("%w: there is none; to do without authentication, set Options.NoAuth", ErrKey)
	case key != nil && s.NoAuth:
		return nil, fmt.Errorf("%w: there is one, and Options.NoAuth as well", ErrKey)
	}
	s.key = slices.Clone(key)
	if s.MaxFrame < 0 || s.MaxPending < 0 || s.HandshakeTimeout < 0 {
		return nil, errors.New("a limit in Options is negative")
	}
	if s.MaxFrame == 0 {
		s.MaxFrame = defaultMaxFrame
	}
	if s.MaxPending == 0 {
		s.MaxPending = defaultMaxPending
	}
	if s.HandshakeTimeout == 0 {
		s.HandshakeTimeout = defaultHandshake
	}
	if s.Digests == nil {
		s.Digests = []Digest{SHA256, SHA384, SHA3_256, SHA3_384, MD5}
	}
	s.Digests = slices.Clone(s.Digests)
	if len(s.Digests) == 0 {
		return nil, errors.New("Options.Digests is empty")
	}
	for _, d := range s.Digests {
		if hashes[d] == nil {
			return nil, fmt.Errorf("Options.Digests: there is no %q", d)
		}
	}
	return s, nil
}

// Peer is the process at the other end of a Unix socket, as the system saw it
// when it connected, or when it began to listen.
type Peer struct {
	PID int // 0 if the system does not say, or it is of a namespace we do not see
	UID int
	GID int
}

// SameUser is an [Options].CheckPeer: it refuses every user but ours, even root.
func SameUser(p Peer) error {
	if uid := os.Geteuid(); p.UID != uid {
		return fmt.Errorf("peer is user %d, not %d: %w", p.UID, uid, os.ErrPermission)
	}
	return nil
}

// peerOf asks the system; errors.ErrUnsupported if it does not know.
func peerOf(nc net.Conn) (Peer, error) {
	u, ok := nc.(*net.UnixConn)
	if !ok {
		return Peer{}, fmt.Errorf("credentials of a peer that is not at a Unix socket: %w", errors.ErrUnsupported)
	}
	cred, err := peer.Of(u)
	return Peer(cred), err
}

// checkPeer asks CheckPeer, if there is one.
func (s *settings) checkPeer(nc net.Conn) error {
	if s.CheckPeer == nil {
		return nil
	}
	p, err := peerOf(nc)
	if err != nil {
		return err
	}
	return s.CheckPeer(p)
}
