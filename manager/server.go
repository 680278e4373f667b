package manager

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/conn"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/lease"
)

// server keeps the list of tracked blocks and owns them.
type server struct {
	opts     Options
	listener *conn.Listener

	mu       sync.Mutex
	segments []string              // as tracked, in order; a name may be there twice
	blocks   map[string]*shm.Block // those that could be opened; closed, for their identity
	closing  bool                  // nothing is tracked any more
	stopped  bool                  // nothing is waited for any more
	conns    map[*conn.Conn]bool   // true: its peer is about to hang up
	stats    Stats
	failed   error // what Wait returns

	adopting sync.RWMutex // locked while everything is removed
	handlers sync.WaitGroup
	done     chan struct{} // closed when everything is over
}

// maxPending is more than a Listener's own default, as each request of
// Python's is a connection: when many clients come at once on a busy machine, honest ones take
// longer than the second after which it may close them for others.
const maxPending = 1024

func listen(o *Options) (*server, error) {
	s := &server{
		opts:   *o,
		blocks: map[string]*shm.Block{}, conns: map[*conn.Conn]bool{},
		stats: Stats{Requests: map[string]uint64{}},
		done:  make(chan struct{}),
	}
	co := o.Conn
	if co.MaxPending == 0 {
		co.MaxPending = maxPending
	}
	if co.MaxFrame == 0 || co.MaxFrame > o.MaxRequest {
		co.MaxFrame = o.MaxRequest // no memory for what would be refused
	}
	co.Refused = func(remote net.Addr, err error) {
		s.mu.Lock()
		s.stats.Refused++
		s.mu.Unlock()
		if o.Conn.Refused != nil {
			o.Conn.Refused(remote, err)
		}
	}
	var err error
	s.listener, err = conn.Listen(o.Address, o.AuthKey, &co)
	return s, err
}

// serve answers until shutdown.
func (s *server) serve() {
	for {
		c, err := s.listener.Accept()
		if err != nil {
			if !s.isClosing() {
				s.fail(errors.Join(err, s.shutdown())) // the listener is gone for a reason of its own
			}
			break
		}
		s.mu.Lock()
		over := len(s.conns) >= s.opts.MaxConns
		if !over && !s.closing {
			s.conns[c] = false
			s.stats.Accepted++
			s.handlers.Add(1)
			go s.handle(c)
		} else {
			s.stats.Refused++
		}
		closing := s.closing
		s.mu.Unlock()
		if over || closing {
			if s.opts.Conn.Refused != nil {
				s.opts.Conn.Refused(c.RemoteAddr(), conn.ErrBusy)
			}
			_ = c.Close()
		}
	}
	s.handlers.Wait()
	close(s.done)
}

func (s *server) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// fail notes what Wait returns.
func (s *server) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = errors.Join(s.failed, err)
}

// handover is how long shutdown waits for a client that has its answer and is
// to hang up, and for answers that a client does not take.
const handover = time.Second

// await sets how long the connection may take for what comes next, 0 for as
// long as it likes. leaving tells that its peer is about to hang up.
func (s *server) await(c *conn.Conn, d time.Duration, leaving bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = leaving
	var until time.Time
	if d > 0 {
		until = time.Now().Add(d)
	}
	_ = c.SetDeadline(until)
	if s.stopped {
		cut(c, leaving)
	}
}

// cut has a connection end. Answers that are on their way arrive.
func cut(c *conn.Conn, leaving bool) {
	soon := time.Now().Add(handover)
	_ = c.SetWriteDeadline(soon)
	if !leaving {
		soon = time.Now()
	}
	_ = c.SetReadDeadline(soon)
}

// handle answers one connection, until its client hangs up or is silent for too
// long. Python's clients make one for each request.
func (s *server) handle(c *conn.Conn) {
	defer s.handlers.Done()
	defer func() {
		_ = c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	var last *lease.Taken // from this client, which has not gone on since
	for first := true; ; first = false {
		s.await(c, s.opts.RequestTimeout, false)
		r, ok := s.request(c, first)
		if last != nil {
			s.settle(last, r.hungUp)
		}
		if !ok {
			return
		}
		t, session := s.answer(c, r)
		if session {
			s.session(c)
			return
		}
		if last = t.taken; last != nil || t.block == nil {
			continue
		}
		if last, ok = s.handover(c, t.block); !ok {
			if last != nil {
				s.settle(last, true)
			}
			return
		}
	}
}

// refused is the answer to an offer, empty if it is taken.
const refused = "refused"

// handover takes over a block that the client owns until it has our answer. Then
// it offers the block, or gives it up and sends an empty message or dies: the
// block is for us to take. When we have it we say so with an empty message.
// Python's clients just hang up.
func (s *server) handover(c *conn.Conn, b *shm.Block) (last *lease.Taken, ok bool) {
	for {
		s.await(c, s.opts.RequestTimeout, true)
		offer, err := c.RecvBytes()
		if err != nil || len(offer) == 0 {
			return nil, s.adopt(b) && err == nil && c.SendBytes(nil) == nil
		}
		if last = s.take(b.Name(), string(offer)); last != nil {
			return last, c.SendBytes(nil) == nil
		}
		if c.SendBytes([]byte(refused)) != nil {
			return nil, false
		}
	}
}

// settle ends the taking of a block, of which the client has heard, unless it
// hung up instead of going on, and has not.
func (s *server) settle(t *lease.Taken, hungUp bool) {
	if !hungUp || !t.Withdrawn() {
		t.Settle()
		return
	}
	s.adopting.RLock()
	defer s.adopting.RUnlock()
	s.mu.Lock()
	s.untrack(t.Block.(*shm.Block).Name())
	s.mu.Unlock()
	t.Return()
}

// request receives a request. If it is none, the peer is told so, and ok is
// false. Of one that has had answers before, silence is no fault.
func (s *server) request(c *conn.Conn, first bool) (r request, ok bool) {
	b, err := c.RecvBytes()
	text := ""
	r.hungUp = err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
	switch {
	case !first && errors.Is(err, os.ErrDeadlineExceeded):
		return r, false
	case err == nil:
		if r, err = parseRequest(b, s.opts.MaxRequest); err == nil {
			return r, true
		}
		text = fmt.Sprintf("ValueError: %v\n", err)
	case err == io.EOF || s.isStopped(): //nolint:errorlint // conn says that it is io.EOF itself
		return r, false
	case errors.Is(err, conn.ErrTooLarge) || errors.Is(err, conn.ErrFrame):
		text = fmt.Sprintf("ValueError: %v\n", err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		text = "TimeoutError: no request came in time\n"
	}
	s.count("invalid")
	if text != "" { // else it is the system's, and names our socket
		_ = c.SetWriteDeadline(time.Now().Add(handover))
		_ = reply(c, kindTraceback, text)
	}
	return r, false
}

func (s *server) isStopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopped
}

// session answers requests to objects, of which there are none.
func (s *server) session(c *conn.Conn) {
	for {
		s.await(c, 0, false) // a program may think as long as it likes
		r, ok := s.request(c, false)
		if !ok {
			return
		}
		s.count("object")
		s.await(c, s.opts.RequestTimeout, false)
		if reply(c, kindTraceback, noObject(r)+"\n") != nil {
			return
		}
	}
}

func noObject(r request) string {
	return fmt.Sprintf("KeyError: %s: this manager holds shared memory only, and no objects", clip(fmt.Sprint(r.ident)))
}

// tracked is a block whose name is on the list now.
type tracked struct {
	block *shm.Block   // nil if there is none, or it could not be opened
	taken *lease.Taken // not nil if it is ours already
}

// answer does what a request asks for. It returns a block that has been
// tracked, and whether the connection goes on as a session.
func (s *server) answer(c *conn.Conn, r request) (t tracked, session bool) {
	var value any
	var err error
	if r.ident != nil {
		s.count("object")
		err = errors.New(noObject(r))
	} else {
		switch r.method {
		case methodDummy:
			err = r.nothing()
		case methodTrack:
			var name, offer string
			if name, offer, err = r.segment(); err == nil {
				t, err = s.track(name, offer)
			}
			if t.taken != nil {
				value = true
			}
		case methodRelease:
			var name string
			if name, err = r.name(); err == nil {
				err = s.release(name)
			}
		case methodList:
			if err = r.nothing(); err == nil {
				value = s.list()
			}
		case methodShutdown:
			if err = r.nothing(); err != nil {
				break
			}
			s.count(r.method)
			missing := s.removeAll()
			s.fail(missingError(missing))
			if len(missing) > 0 {
				value = missing // Python's clients do not look at it
			}
			_ = reply(c, kindReturn, value)
			s.stop()
			return t, false
		case methodCount:
			value, err = 0, r.nothing()
		case methodDebug:
			value, err = "", r.nothing()
		case methodSession:
			session = true
		case methodCreate:
			err = errors.New("TypeError: this manager makes no objects: it holds shared memory only. " +
				"Use SharedMemory and ShareableList, or a SyncManager of Python's")
		case methodIncref, methodDecref, methodMethods:
			err = errors.New("KeyError: this manager holds shared memory only, and no objects")
		default:
			s.count("unknown")
			_ = reply(c, kindTraceback, fmt.Sprintf("AssertionError: %q unrecognized\n", clip(r.method)))
			return t, false
		}
		s.count(r.method)
	}
	if err != nil {
		_ = reply(c, kindTraceback, err.Error()+"\n")
		return t, false
	}
	if err = reply(c, kindReturn, value); err != nil {
		session = false
	}
	return t, session
}

func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}

func (s *server) count(request string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Requests[request]++
}

// track notes a name, as Python's server does, whether there is such a block or
// not.
func (s *server) track(name, offer string) (t tracked, err error) {
	name = strings.TrimPrefix(name, "/")
	// Whoever releases it or removes all comes before or after.
	s.adopting.RLock()
	defer s.adopting.RUnlock()
	if offer != "" {
		if t.taken = lease.Blocks.Take(s.opts.Dir, "/"+name, offer); t.taken != nil {
			t.block = t.taken.Block.(*shm.Block)
		}
	}
	if t.block == nil {
		if t.block, err = s.open(name); errors.Is(err, shm.ErrName) {
			return t, fmt.Errorf("ValueError: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		err = errors.New("RuntimeError: the manager is shutting down")
	} else if len(s.segments) >= s.opts.MaxBlocks {
		err = fmt.Errorf("MemoryError: the manager tracks %d blocks, which is its limit", len(s.segments))
	} else {
		err = nil
	}
	if err != nil {
		if t.taken != nil {
			t.taken.Return()
		}
		return tracked{}, err
	}
	s.segments = append(s.segments, name)
	if t.block != nil {
		s.blocks[name] = t.block
	}
	crash.Point("manager:listed")
	return t, nil
}

// untrack takes a name off the list. Call with s.mu held.
func (s *server) untrack(name string) {
	if i := slices.Index(s.segments, name); i >= 0 {
		s.segments = slices.Delete(s.segments, i, i+1)
	}
	if !slices.Contains(s.segments, name) {
		delete(s.blocks, name)
	}
}

// take takes over a block that is tracked.
func (s *server) take(name, offer string) *lease.Taken {
	s.adopting.RLock()
	defer s.adopting.RUnlock()
	if s.isClosing() {
		return nil // it has come too late for removeAll, and stays its maker's
	}
	t := lease.Blocks.Take(s.opts.Dir, "/"+name, offer)
	if t == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blocks[name] = t.Block.(*shm.Block)
	return t
}

// open returns a block that is closed: its identity and name are all we want.
func (s *server) open(name string) (*shm.Block, error) {
	// Open takes one slash off, which has been done already.
	b, err := shm.Open("/"+name, &shm.OpenOptions{Dir: s.opts.Dir})
	if err != nil {
		return nil, err
	}
	return b, b.Close()
}

// adopt makes this process the block's owner, so that it goes with us, however
// we go.
func (s *server) adopt(b *shm.Block) bool {
	s.adopting.RLock()
	defer s.adopting.RUnlock()
	crash.Point("manager:adopting")
	// If it cannot be had, because somebody else owns it or it is another
	// user's, shutdown says so.
	if b.Adopt() != nil {
		return false
	}
	if s.isClosing() {
		_ = b.Unlink() // it has come too late for removeAll
	}
	return true
}

func (s *server) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.segments)
}

// release takes a name off the list and removes the block.
func (s *server) release(name string) error {
	name = strings.TrimPrefix(name, "/")
	s.mu.Lock()
	tracked, b := slices.Contains(s.segments, name), s.blocks[name]
	s.mu.Unlock()
	if !tracked {
		return fmt.Errorf("ValueError: %q is not tracked", clip(name))
	}
	s.adopting.Lock() // else a track just answered may be what owns it
	err := s.remove(name, b)
	s.adopting.Unlock()
	if errors.Is(err, shm.ErrOwned) {
		return fmt.Errorf("PermissionError: %w", err) // it stays for shutdown to try again
	}
	s.mu.Lock()
	s.untrack(name)
	s.mu.Unlock()
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("FileNotFoundError: [Errno 2] No such file or directory: %q", "/"+clip(name))
	}
	if err != nil {
		return fmt.Errorf("OSError: %w", err)
	}
	return nil
}

// remove takes the name of a block away that is ours to remove.
func (s *server) remove(name string, b *shm.Block) (err error) {
	if b == nil {
		// It could not be opened when it was tracked, but may have come since.
		if b, err = s.open(name); err != nil {
			return err
		}
	}
	// What a living process of this library owns is that one's to remove, unless
	// it gives it to us.
	if err := b.Adopt(); errors.Is(err, shm.ErrOwned) {
		return err
	}
	return b.Unlink()
}

// removeAll removes every tracked block, and returns the names of those that
// were gone or not to be removed.
func (s *server) removeAll() (missing []string) {
	s.adopting.Lock()
	defer s.adopting.Unlock()
	s.mu.Lock()
	s.closing = true
	segments, blocks := s.segments, s.blocks
	s.segments, s.blocks = nil, map[string]*shm.Block{}
	s.mu.Unlock()
	seen := map[string]bool{}
	for _, name := range segments {
		if seen[name] {
			continue
		}
		seen[name] = true
		crash.Point("manager:removing")
		if err := s.remove(name, blocks[name]); err != nil {
			missing = append(missing, name)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Removed += len(seen) - len(missing)
	s.stats.Missing = append(s.stats.Missing, missing...)
	return missing
}

// stop ends serve: no more connections, and those that are there are cut off.
func (s *server) stop() {
	_ = s.listener.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	for c, leaving := range s.conns {
		cut(c, leaving)
	}
}

// shutdown is what the request of that name does.
func (s *server) shutdown() error {
	missing := s.removeAll()
	s.stop()
	return missingError(missing)
}

// MissingError reports blocks that a manager was to remove and that were gone,
// or another's by then. It is an fs.ErrNotExist.
type MissingError struct{ Names []string }

func (e *MissingError) Error() string {
	return "blocks that were gone, or are another's by now: " + strings.Join(e.Names, ", ")
}

// Unwrap returns fs.ErrNotExist.
func (e *MissingError) Unwrap() error { return fs.ErrNotExist }

func missingError(names []string) error {
	if len(names) == 0 {
		return nil
	}
	return &MissingError{names}
}

// Stats is what a server has done and holds.
type Stats struct {
	Blocks   int               // tracked now
	Bytes    int64             // in them
	Conns    int               // authenticated connections now
	Accepted uint64            // authenticated connections so far
	Refused  uint64            // connections that failed to authenticate, or were too many
	Requests map[string]uint64 // by method; "unknown", "invalid" and "object" for what is none

	// What the shutdown did, the request of a client or our own.
	Removed int      // blocks
	Missing []string // blocks that were gone, or not to be removed
}

func (s *server) snapshot() Stats {
	s.mu.Lock()
	st := s.stats
	st.Requests = map[string]uint64{}
	for k, v := range s.stats.Requests {
		st.Requests[k] = v
	}
	st.Conns = len(s.conns)
	st.Missing = slices.Clone(s.stats.Missing)
	segments, blocks := slices.Clone(s.segments), make(map[string]*shm.Block, len(s.blocks))
	for k, v := range s.blocks {
		blocks[k] = v
	}
	s.mu.Unlock()
	st.Blocks = len(segments)
	for _, name := range segments {
		if b := blocks[name]; b != nil {
			st.Bytes += int64(b.Size())
			delete(blocks, name) // once
		}
	}
	return st
}
