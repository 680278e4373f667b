package conn

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sharedmem/shm/internal/shmtest"
)

var secret = []byte("secret")

func newTestSettings(t testing.TB, key []byte, opts *Options) *settings {
	t.Helper()
	s, err := newSettings(key, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestVectors answers the challenges that CPython was asked.
func TestVectors(t *testing.T) {
	for _, version := range []string{"3.8.18", "3.13.0"} {
		data, err := os.ReadFile("../testdata/vectors/golden_messages_" + version + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var vectors []struct {
			Kind, Name     string
			Key            shmtest.Hex `json:"key_hex"`
			Challenge      shmtest.Hex `json:"challenge_hex"`
			ChallengeFrame shmtest.Hex `json:"challenge_frame"`
			Response       shmtest.Hex `json:"response_hex"`
			Error          string
		}
		if err := json.Unmarshal(data, &vectors); err != nil {
			t.Fatal(err)
		}
		seen := 0
		for _, v := range vectors {
			if v.Kind != "auth" {
				continue
			}
			seen++
			name := version + " " + v.Name
			s := newTestSettings(t, []byte("x"), nil)
			s.key = v.Key // also the empty one, which newSettings refuses

			r := reader{src: bytes.NewReader(v.ChallengeFrame), max: maxHandshake}
			frame, err := r.append(nil)
			if message, ok := bytes.CutPrefix(frame, []byte(challenge)); err != nil || !ok || !bytes.Equal(message, v.Challenge) {
				t.Errorf("%s: the frame has %x, %v", name, frame, err)
			}
			if v.Response != nil && !s.proves(v.Response, v.Challenge) {
				t.Errorf("%s: Python's answer is not accepted", name)
			}
			answer, err := s.answerTo(v.Challenge)
			if _, prefixed, _ := cutDigest(v.Challenge); version == "3.8.18" && (prefixed != nil || v.Error != "" || err != nil) {
				// That one takes everything for a challenge of its own form.
				continue
			}
			if v.Error != "" {
				if !errors.Is(err, ErrAuth) {
					t.Errorf("%s: answered %x, %v; Python says %s", name, answer, err, v.Error)
				}
			} else if err != nil || !bytes.Equal(answer, v.Response) {
				t.Errorf("%s: answered %x, %v; Python %x", name, answer, err, v.Response)
			}
		}
		if seen < 5 {
			t.Errorf("%s: only %d vectors", version, seen)
		}
	}
}

func TestProves(t *testing.T) {
	s := newTestSettings(t, secret, nil)
	message := []byte("{sha256}" + strings.Repeat("x", 40))
	for _, d := range s.Digests {
		good := append([]byte("{"+d+"}"), mac(d, secret, message)...)
		if !s.proves(good, message) {
			t.Errorf("%s is not accepted", d)
		}
		for i := range good {
			bad := bytes.Clone(good)
			bad[i] ^= 1
			if s.proves(bad, message) {
				t.Errorf("%s with another byte %d is accepted", d, i)
			}
		}
		if s.proves(good[:len(good)-1], message) || s.proves(append(good, 0), message) {
			t.Errorf("%s of another length is accepted", d)
		}
	}
	raw := mac(MD5, secret, message)
	if !s.proves(raw, message) || s.proves(append(raw, 0, 0, 0, 0), message) {
		t.Error("MD5 without its name: 16 bytes, and no others, are right")
	}
}

func TestChallengesDiffer(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		var out bytes.Buffer
		c := newConn(&fakeConn{in: strings.NewReader(""), out: &out}, 1)
		if err := c.handshake(newTestSettings(t, secret, nil), true); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
		if seen[out.String()] {
			t.Fatal("the same challenge twice: answers could be replayed")
		}
		seen[out.String()] = true
	}
	if n := len(outstanding.ends); n != 0 {
		t.Errorf("%d challenges are still remembered", n)
	}
}

// TestJoined counts what wakes a peer that has sent its challenge with its answer:
// welcome and answer come in one write.
func TestJoined(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	s := newTestSettings(t, secret, nil)
	here, peer := net.Pipe() // a Write there is one Read, or more, never less
	defer peer.Close()
	c := newConn(here, 100)
	result := make(chan error, 1)
	go func() { result <- c.handshake(s, true) }()
	frames := reader{src: peer, max: maxHandshake}
	asked, err := frames.append(nil)
	if err != nil {
		t.Fatal(err)
	}
	message := []byte("{sha256}" + strings.Repeat("x", 40))
	var out bytes.Buffer
	w := writer{dst: &out, hold: true}
	answer, err := s.answerTo(bytes.TrimPrefix(asked, []byte(challenge)))
	if err == nil {
		err = errors.Join(w.frame(answer), w.frame([]byte(challenge+string(message))))
	}
	if err == nil {
		_, err = peer.Write(out.Bytes())
	}
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 256)
	n, err := peer.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	answer, err = s.answerTo(message)
	if err != nil {
		t.Fatal(err)
	}
	want := append(appendHead(nil, uint64(len(welcome))), welcome...)
	want = append(appendHead(want, uint64(len(answer))), answer...)
	if !bytes.Equal(buf[:n], want) {
		t.Errorf("one write is %q, want %q", buf[:n], want)
	}
	if err := (&writer{dst: peer}).frame([]byte(welcome)); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// fakeConn is a peer that has said everything.
type fakeConn struct {
	net.Conn
	in  io.Reader
	out io.Writer
}

func (f *fakeConn) Read(p []byte) (int, error)  { return f.in.Read(p) }
func (f *fakeConn) Write(p []byte) (int, error) { return f.out.Write(p) }
func (*fakeConn) Close() error                  { return nil }
func (*fakeConn) LocalAddr() net.Addr           { return &net.UnixAddr{Name: "here"} }
func (*fakeConn) RemoteAddr() net.Addr          { return &net.UnixAddr{Name: "there"} }

func (*fakeConn) SetReadDeadline(time.Time) error  { return nil }
func (*fakeConn) SetWriteDeadline(time.Time) error { return nil }

// session is one of testdata/sessions.txt.
type session struct {
	name     string
	listener bool
	opts     Options
	steps    []string
	want     string
}

func readSessions(t *testing.T) (out []session) {
	t.Helper()
	data, err := os.ReadFile("testdata/sessions.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "-- "); ok {
			out = append(out, session{name: strings.TrimSuffix(name, " --")})
			continue
		}
		if len(out) == 0 || line == "" {
			continue
		}
		s := &out[len(out)-1]
		verb, rest, _ := strings.Cut(line, " ")
		switch verb {
		case "listener", "dialer":
			s.listener = verb == "listener"
		case "digests":
			for d := range strings.SplitSeq(rest, ",") {
				s.opts.Digests = append(s.opts.Digests, Digest(d))
			}
		case "timeout":
			if s.opts.HandshakeTimeout, err = time.ParseDuration(rest); err != nil {
				t.Fatal(err)
			}
		case "<", "<?", ">", ">>":
			s.steps = append(s.steps, line)
		case "=":
			s.want = rest
		default:
			t.Fatalf("sessions.txt: %q", line)
		}
	}
	return out
}

func TestSessions(t *testing.T) {
	sessions := readSessions(t)
	if len(sessions) < 40 {
		t.Errorf("only %d sessions", len(sessions))
	}
	for _, s := range sessions {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			shmtest.Deadline(t, shmtest.Patience)
			result := make(chan error, 1)
			var peer net.Conn
			if s.listener {
				s.opts.Refused = func(_ net.Addr, err error) { result <- err }
				l := mustListen(t, newAddress(t, native()), secret, &s.opts)
				network, name, _ := parseAddress(l.Addr())
				var err error
				if peer, err = net.Dial(network, name); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel() // Accept returns before the Listener is closed
				go func() {
					if c, err := l.AcceptContext(ctx); err == nil {
						t.Cleanup(func() { c.Close() })
						result <- nil
					}
				}()
			} else {
				network, name, _ := parseAddress(newAddress(t, native()))
				l, err := net.Listen(network, name)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				go func() {
					c, err := Dial(t.Context(), network+":"+l.Addr().String(), secret, &s.opts)
					if err == nil {
						t.Cleanup(func() { c.Close() })
					}
					result <- err
				}()
				if peer, err = l.Accept(); err != nil {
					t.Fatal(err)
				}
			}
			defer peer.Close()
			play(t, peer, s.steps)

			err := <-result
			want, known := map[string]error{
				"ok": nil, "ErrAuth": ErrAuth, "ErrFrame": ErrFrame, "ErrTooLarge": ErrTooLarge,
				"ErrUnexpectedEOF": io.ErrUnexpectedEOF, "ErrDeadlineExceeded": os.ErrDeadlineExceeded,
			}[s.want]
			if !known {
				t.Fatalf("sessions.txt: = %s", s.want)
			}
			if !errors.Is(err, want) {
				t.Errorf("error %v, want %s", err, s.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error has the key: %v", err)
			}
		})
	}
}

// item is a part of a frame.
var item = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|\S+`)

// play is the peer's side of a session.
func play(t *testing.T, peer net.Conn, steps []string) {
	t.Helper()
	frames := reader{src: peer, max: maxHandshake}
	var ours, theirs []byte // the challenges
	build := func(items string, got []byte) []byte {
		var out []byte
		for _, it := range item.FindAllString(items, -1) {
			before, after, _ := strings.Cut(it, ":")
			switch {
			case it[0] == '"':
				s, err := strconv.Unquote(it)
				if err != nil {
					t.Fatalf("%s: %v", it, err)
				}
				out = append(out, s...)
			case it == "nonce":
				if len(got) < len(out)+nonce {
					t.Fatalf("got %q, want %s", got, items)
				}
				out = append(out, got[len(out):len(out)+nonce]...)
			case it == "echo":
				out = append(out, ours...)
			case before == "mac":
				d, key, other := strings.Cut(after, ":")
				if !other {
					key = string(secret)
				}
				out = append(out, mac(Digest(d), []byte(key), ours)...)
			case before == "digest":
				out = append(out, mac(Digest(after), secret, theirs)...)
			default:
				count, b, _ := strings.Cut(it, "*")
				n, err := strconv.Atoi(count)
				if err != nil {
					t.Fatalf("%s: %v", it, err)
				}
				v, err := hex.DecodeString(b)
				if err != nil {
					t.Fatalf("%s: %v", it, err)
				}
				out = append(out, bytes.Repeat(v, n)...)
			}
		}
		return out
	}
	for _, step := range steps {
		verb, items, _ := strings.Cut(step, " ")
		switch {
		case step == "< EOF":
			if rest, err := io.ReadAll(peer); err != nil && !isReset(err) || len(rest) > 0 || frames.w > frames.r {
				t.Errorf("%s: got %q %q, %v", step, frames.buf[frames.r:frames.w], rest, err)
			}
		case step == "> EOF":
			if err := peer.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
				t.Fatal(err)
			}
		case verb == "<?" && (peer.LocalAddr().Network() != "unix" || runtime.GOOS == "windows"):
		case verb == "<" || verb == "<?":
			got, err := frames.append(nil)
			if err != nil {
				t.Fatalf("%s: %v", step, err)
			}
			if want := build(items, got); !bytes.Equal(got, want) {
				t.Fatalf("%s: got %q, want %q", step, got, want)
			}
			if m, ok := bytes.CutPrefix(got, []byte(challenge)); ok {
				ours = m
			}
		default:
			p := build(items, nil)
			if _, m, ok := bytes.Cut(p, []byte(challenge)); ok {
				theirs = m
			}
			if verb == ">" {
				p = append(appendHead(nil, uint64(len(p))), p...)
			}
			if _, err := peer.Write(p); err != nil {
				t.Fatalf("%s: %v", step, err)
			}
		}
	}
}

// isReset tells the error of a connection that was closed with something
// unread in it.
func isReset(err error) bool {
	return strings.Contains(err.Error(), "reset") || strings.Contains(err.Error(), "forcibly")
}

// TestEndless sends a frame without end to a Listener and to a Dial.
func TestEndless(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	refusal := make(chan error, 1)
	l := mustListen(t, newAddress(t, native()), secret, &Options{Refused: func(_ net.Addr, err error) { refusal <- err }})
	network, name, _ := parseAddress(l.Addr())
	peer, err := net.Dial(network, name)
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if _, err = peer.Write([]byte("\x7f\xff\xff\xff")); err != nil {
		t.Fatal(err)
	}
	sent := 0
	for err == nil && sent < 100<<20 {
		var n int
		n, err = peer.Write(make([]byte, 1<<16))
		sent += n
	}
	if err == nil {
		t.Errorf("%d bytes of one frame were taken", sent)
	}
	if err := <-refusal; !errors.Is(err, ErrTooLarge) {
		t.Errorf("refused because of %v", err)
	}
}

// TestReplay sends what an honest client sent once more.
func TestReplay(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	refusal := make(chan error, 1)
	l := mustListen(t, newAddress(t, native()), secret, &Options{Refused: func(_ net.Addr, err error) { refusal <- err }})
	network, name, _ := parseAddress(l.Addr())

	// The honest client goes through an eavesdropper.
	tapNetwork, tapName, _ := parseAddress(newAddress(t, native()))
	tap, err := net.Listen(tapNetwork, tapName)
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	helper := startDialer(t, network+":"+tap.Addr().String())
	honest, err := tap.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer honest.Close()
	server, err := net.Dial(network, name)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go io.Copy(honest, server)
	var heard bytes.Buffer
	copied := make(chan bool)
	go func() {
		io.Copy(io.MultiWriter(server, &heard), honest)
		close(copied)
	}()
	c := mustAccept(t, l)
	if p, err := c.RecvBytes(); err != nil || string(p) != "hello" {
		t.Fatalf("got %q, %v", p, err)
	}
	helper.Send("end")
	helper.Wait()
	<-copied

	again, err := net.Dial(network, name)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if _, err := again.Write(heard.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := <-refusal; !errors.Is(err, ErrAuth) {
		t.Errorf("refused because of %v", err)
	}
	said, _ := io.ReadAll(again) // a reset, as we have sent more than was read
	if bytes.Contains(said, []byte(welcome)) {
		t.Errorf("the replay was answered with %q", said)
	}
}

func init() {
	shmtest.Register("dialer", func(args []string) int {
		c, err := Dial(context.Background(), args[0], secret, nil)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if err := c.SendBytes([]byte("hello")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		shmtest.Await("end")
		c.Close()
		return 0
	})
}

// startDialer runs a client in a process of its own: within this one a relay
// would be taken for reflection.
func startDialer(t *testing.T, address string) *shmtest.Process {
	t.Helper()
	return shmtest.Start(t, "dialer", address)
}

// TestReflection relays our Listener's challenge to our own Dial, whose answer
// would open the Listener.
func TestReflection(t *testing.T) {
	for _, kind := range []string{"tcp", native()} {
		t.Run(kind, func(t *testing.T) {
			shmtest.Deadline(t, shmtest.Patience)
			refusal := make(chan error, 1)
			l := mustListen(t, newAddress(t, kind), secret, &Options{Refused: func(_ net.Addr, err error) { refusal <- err }})
			network, name, _ := parseAddress(l.Addr())
			victim, err := net.Dial(network, name)
			if err != nil {
				t.Fatal(err)
			}
			defer victim.Close()

			_, name, _ = parseAddress(newAddress(t, kind))
			bait, err := net.Listen(network, name)
			if err != nil {
				t.Fatal(err)
			}
			defer bait.Close()
			result := make(chan error, 1)
			go func() {
				_, err := Dial(t.Context(), network+":"+bait.Addr().String(), secret, nil)
				result <- err
			}()
			caught, err := bait.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer caught.Close()

			p := make([]byte, 4+59) // a challenge
			if _, err := io.ReadFull(victim, p); err != nil {
				t.Fatal(err)
			}
			if _, err := caught.Write(p); err != nil {
				t.Fatal(err)
			}
			if err := <-result; !errors.Is(err, ErrAuth) || !strings.Contains(err.Error(), "our own") {
				t.Errorf("Dial: %v", err)
			}
			if said, err := io.ReadAll(caught); len(said) > 0 {
				t.Errorf("the challenge was answered with %q, %v", said, err)
			}
			victim.Close()
			if err := <-refusal; !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("refused because of %v", err)
			}
		})
	}
}

// TestReflectionAtListener does the same the other way round: our Dial's
// challenge comes to our Listener, from a peer that has the key.
func TestReflectionAtListener(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	var out bytes.Buffer
	s := newTestSettings(t, secret, nil)
	asked := newConn(&fakeConn{}, 1)
	message := []byte("{sha256}" + strings.Repeat("x", 40))
	defer remember(asked, message)()
	c := newConn(&fakeConn{
		in:  strings.NewReader("\x00\x00\x00\x3b" + challenge + string(message)),
		out: &out,
	}, 100)
	if err := c.prove(s, false); !errors.Is(err, ErrAuth) || out.Len() > 0 {
		t.Errorf("%v, answered %q", err, out.Bytes())
	}
}

// TestSelf: what is refused to others, a program may do with itself.
func TestSelf(t *testing.T) {
	eachKind(t, func(t *testing.T, kind string) {
		l := mustListen(t, newAddress(t, kind), key, nil)
		mustDial(t, l.Addr(), key, nil)
		mustAccept(t, l)
	})
}

func TestKeys(t *testing.T) {
	address := newAddress(t, "tcp")
	for _, tt := range []struct {
		name string
		key  []byte
		opts *Options
		want error
	}{
		{"no key", nil, nil, ErrKey},
		{"no key, other options", nil, &Options{MaxFrame: 1}, ErrKey},
		{"an empty key", []byte{}, nil, ErrKey},
		{"an empty key and NoAuth", []byte{}, &Options{NoAuth: true}, ErrKey},
		{"a key and NoAuth", key, &Options{NoAuth: true}, ErrKey},
	} {
		if l, err := Listen(address, tt.key, tt.opts); !errors.Is(err, tt.want) {
			t.Errorf("Listen with %s: %v, %v", tt.name, l, err)
		}
		if c, err := Dial(t.Context(), address, tt.key, tt.opts); !errors.Is(err, tt.want) {
			t.Errorf("Dial with %s: %v, %v", tt.name, c, err)
		}
	}
	for _, opts := range []*Options{
		{MaxFrame: -1}, {MaxPending: -1}, {HandshakeTimeout: -1}, {Digests: []Digest{}}, {Digests: []Digest{"sha1"}},
	} {
		if l, err := Listen(address, key, opts); err == nil {
			t.Errorf("Listen with %+v", opts)
			l.Close()
		}
	}
	// The caller may do with the key what it likes.
	own := slices.Clone(key)
	l := mustListen(t, address, own, nil)
	clear(own)
	mustDial(t, l.Addr(), key, nil)

	l = mustListen(t, address, nil, &Options{NoAuth: true})
	mustDial(t, l.Addr(), nil, &Options{NoAuth: true})
	mustAccept(t, l)
}

// FuzzHandshake is a peer without the key, in both roles.
func FuzzHandshake(f *testing.F) {
	frame := func(parts ...string) (out []byte) {
		for _, p := range parts {
			out = append(appendHead(out, uint64(len(p))), p...)
		}
		return out
	}
	f.Add(frame("#CHALLENGE#{sha256}"+strings.Repeat("x", 40), welcome, "{md5}"+strings.Repeat("x", 16)), false)
	f.Add(frame("#CHALLENGE#"+strings.Repeat("x", 20), welcome, strings.Repeat("x", 16)), false)
	f.Add(frame("{sha3_384}"+strings.Repeat("x", 48), "#CHALLENGE#{md5}xxxx"), true)
	f.Add(frame(welcome), true)
	f.Add([]byte("\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x01\x00"), true)
	s := newTestSettings(f, secret, nil)
	f.Fuzz(func(t *testing.T, in []byte, listener bool) {
		var out bytes.Buffer
		c := newConn(&fakeConn{in: bytes.NewReader(in), out: &out}, 1<<20)
		err := c.handshake(s, listener)
		if err == nil {
			t.Fatal("a peer without the key is in")
		}
		if !errors.Is(err, ErrAuth) && !errors.Is(err, ErrFrame) && !errors.Is(err, ErrTooLarge) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("error %v", err)
		}
		// What it may learn: a challenge, an answer to its own, and a verdict.
		r := reader{src: &out, max: maxHandshake}
		for {
			p, err := r.append(nil)
			if err == io.EOF { //nolint:errorlint // as append promises
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			_, _, digest := cutDigest(p)
			if !bytes.HasPrefix(p, []byte(challenge+"{sha256}")) && string(p) != failure && len(p) != 16 && !digest {
				t.Errorf("it said %q", p)
			}
			if listener && (len(p) == 16 || digest) {
				t.Errorf("it answered a stranger's challenge with %q", p)
			}
		}
	})
}
