package conn

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"sync"
)

// Digest is a hash function of the handshake, by Python's name for it.
type Digest string

// The digests that CPython knows. Those up to 3.11 know MD5 only.
const (
	MD5      Digest = "md5"
	SHA256   Digest = "sha256"
	SHA384   Digest = "sha384"
	SHA3_256 Digest = "sha3_256"
	SHA3_384 Digest = "sha3_384"
)

var hashes = map[Digest]func() hash.Hash{
	MD5:      md5.New,
	SHA256:   sha256.New,
	SHA384:   sha512.New384,
	SHA3_256: func() hash.Hash { return sha3.New256() },
	SHA3_384: func() hash.Hash { return sha3.New384() },
}

const (
	challenge = "#CHALLENGE#"
	welcome   = "#WELCOME#"
	failure   = "#FAILURE#"

	// maxHandshake is the longest frame of a handshake.
	maxHandshake = 256

	// nonce is the random part of our challenges. With the name of a digest
	// before it no challenge of ours can be taken for one of the old form,
	// which is told by its length of 20 bytes.
	nonce = 40
)

// mac returns the digest d of message with key.
func mac(d Digest, key, message []byte) []byte {
	h := hmac.New(hashes[d], key)
	h.Write(message)
	return h.Sum(nil)
}

// cutDigest splits {sha256}… into its digest and the rest.
func cutDigest(p []byte) (d Digest, rest []byte, ok bool) {
	if len(p) == 0 || p[0] != '{' {
		return "", nil, false
	}
	name, rest, ok := bytes.Cut(p[1:], []byte{'}'})
	d = Digest(name)
	return d, rest, ok && hashes[d] != nil
}

// answerTo returns what proves to the sender of message that we have the key.
func (s *settings) answerTo(message []byte) ([]byte, error) {
	d, _, ok := cutDigest(message)
	switch legacy := len(message) == md5.Size || len(message) == 20; {
	case legacy && s.allows(MD5):
		return mac(MD5, s.key, message), nil
	case legacy:
		return nil, fmt.Errorf("%w: the peer wants MD5, as CPython before 3.12 does, and Options.Digests is without it", ErrAuth)
	case !ok:
		return nil, fmt.Errorf("%w: a challenge in no known form", ErrAuth)
	case !s.allows(d):
		return nil, fmt.Errorf("%w: the peer wants %s, which Options.Digests is without", ErrAuth, d)
	}
	return append([]byte("{"+d+"}"), mac(d, s.key, message)...), nil
}

func (s *settings) allows(d Digest) bool { return slices.Contains(s.Digests, d) }

// proves tells whether answer shows that its sender has the key. The peer may
// choose another digest than we asked for: old ones do not see that we asked.
func (s *settings) proves(answer, message []byte) bool {
	d, got, ok := MD5, answer, true
	if len(answer) != md5.Size {
		d, got, ok = cutDigest(answer)
	}
	// hmac.Equal takes the same time wherever the two differ.
	return ok && s.allows(d) && hmac.Equal(got, mac(d, s.key, message))
}

// handshake authenticates both sides to each other; the one that listens asks
// first. The caller limits its time.
//
// Each side sends what is due from it in Python's order, but does not wait for
// what it need not have: each waiting is one for another process to wake up. The
// one that dials sends its challenge with its answer (early), the one that
// listens its answer with its welcome, if the challenge has come by then.
func (c *Conn) handshake(s *settings, listener bool) error {
	frames := c.in.max
	c.in.max = maxHandshake
	defer func() { c.in.max = frames }()
	// What was due before a mistake of the peer's is sent nevertheless.
	defer func() { _ = c.out.flush() }()

	if listener {
		message, forget, err := c.ask(s)
		defer forget()
		if err == nil {
			err = c.judge(s, message)
		}
		if err == nil {
			err = c.prove(s, false)
		}
		if err == nil {
			err = c.verdict()
		}
		return err
	}

	early := c.early()
	if err := c.prove(s, early); err != nil {
		return err
	}
	if !early {
		if err := c.verdict(); err != nil {
			return err
		}
	}
	message, forget, err := c.ask(s)
	defer forget()
	if err == nil && early {
		err = c.verdict()
	}
	if err == nil {
		err = c.judge(s, message)
	}
	return err
}

// early tells whether to send a challenge before the peer's verdict. A peer that
// rejects our answer closes the connection with the challenge unread, and over TCP
// the reset that follows may take its verdict away. What has arrived on a Unix
// socket can be read; of Windows' nobody promises that.
func (c *Conn) early() bool {
	_, unix := c.nc.(*net.UnixConn)
	return unix && runtime.GOOS != "windows"
}

// ask sends a challenge. forget is never nil.
func (c *Conn) ask(s *settings) (message []byte, forget func(), err error) {
	message = make([]byte, 0, 64)
	message = append(message, "{"+s.Digests[0]+"}"...)
	message = message[:len(message)+nonce]
	rand.Read(message[len(message)-nonce:])
	forget = remember(c, message)
	return message, forget, hungUp(c.out.frame(append([]byte(challenge), message...)))
}

// judge has the peer show that it has the key.
func (c *Conn) judge(s *settings, message []byte) error {
	answer, err := c.in.append(nil)
	switch {
	case errors.Is(err, ErrFrame) || errors.Is(err, ErrTooLarge):
	case err != nil:
		return hungUp(err)
	case s.proves(answer, message):
		c.out.hold = c.in.complete()
		return hungUp(c.out.frame([]byte(welcome)))
	default:
		err = fmt.Errorf("%w: the digest received was wrong", ErrAuth)
	}
	// All that a stranger is told. If even that fails, the reason is still err.
	_ = c.out.frame([]byte(failure))
	return err
}

// prove shows the peer that we have the key; hold says that more is to be sent.
func (c *Conn) prove(s *settings, hold bool) error {
	frame, err := c.in.append(nil)
	if err != nil {
		return hungUp(err)
	}
	message, ok := bytes.CutPrefix(frame, []byte(challenge))
	if !ok {
		return fmt.Errorf("%w: got no challenge where one was due", ErrAuth)
	}
	if err := c.reflected(message); err != nil {
		return err
	}
	answer, err := s.answerTo(message)
	if err != nil {
		return err
	}
	c.out.hold = hold
	return hungUp(c.out.frame(answer))
}

// verdict hears whether that was right.
func (c *Conn) verdict() error {
	verdict, err := c.in.append(nil)
	switch {
	case err != nil:
		return hungUp(err)
	case string(verdict) != welcome:
		return fmt.Errorf("%w: the digest sent was rejected", ErrAuth)
	}
	return nil
}

// hungUp says io.ErrUnexpectedEOF for an end that comes between two frames: a
// handshake is to be finished.
func hungUp(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("the peer hung up: %w", io.ErrUnexpectedEOF)
	}
	return err
}

// outstanding has the challenges of this process that nobody has answered yet,
// each with the addresses of the end that sent it.
//
// A peer without the key could relay a challenge of one of our connections to
// us over another, and our answer back. So none of our own is ever answered,
// but for one case: that a program talks to itself, as tests do.
var outstanding = struct {
	sync.Mutex
	ends map[string]ends
}{ends: map[string]ends{}}

// ends are the addresses of a socket, as the system has them.
type ends struct{ local, remote string }

func endsOf(c *Conn) ends {
	return ends{c.nc.LocalAddr().String(), c.nc.RemoteAddr().String()}
}

func remember(c *Conn, message []byte) (forget func()) {
	key := string(message)
	outstanding.Lock()
	defer outstanding.Unlock()
	outstanding.ends[key] = endsOf(c)
	return func() {
		outstanding.Lock()
		defer outstanding.Unlock()
		delete(outstanding.ends, key)
	}
}

// reflected returns an error if message, which came from c's peer, is a
// challenge of ours that did not come straight from this process.
func (c *Conn) reflected(message []byte) error {
	outstanding.Lock()
	asker, ours := outstanding.ends[string(message)]
	outstanding.Unlock()
	if !ours {
		return nil
	}
	here := endsOf(c)
	if (asker == ends{here.remote, here.local}) && !c.otherProcess() {
		return nil
	}
	return fmt.Errorf("%w: the peer's challenge is one of our own", ErrAuth)
}

// otherProcess tells whether the other end is certainly not in this process.
// For TCP the addresses alone say where it is. The end of a Unix socket that
// dialed has none, and the file of the other may be another one by now.
func (c *Conn) otherProcess() bool {
	if _, unix := c.nc.(*net.UnixConn); !unix {
		return false
	}
	p, err := peerOf(c.nc)
	return err == nil && p.PID != 0 && p.PID != os.Getpid()
}
