package topic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"

	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/party"
	"github.com/sharedmem/shm/internal/step"
)

// From says where a new subscriber begins.
type From uint8

// Where a new subscriber begins.
const (
	Now    From = iota // with what is published from now on
	Newest             // with the last message, if there is one
	Oldest             // with the oldest message that is kept
)

func (f From) String() string {
	switch f {
	case Now:
		return "Now"
	case Newest:
		return "Newest"
	case Oldest:
		return "Oldest"
	}
	return fmt.Sprintf("From(%d)", uint8(f))
}

// Subscriber reads what is published in a topic. It is for one goroutine at a time (a
// second one gets ErrBusy, as far as that can be noticed); only Close may be called
// beside the others.
type Subscriber struct {
	*part
	joined  uint64 // what was there before was not promised to us
	begun   bool   // something was received
	skipped uint64 // messages that were overwritten since the last that was received
	missed  uint64 // and before that one
	counted uint64 // how many messages were received when we last looked how far we are behind

	// The message that was found, at pos.
	word uint64
	n    int

	spare []byte
}

// Subscriber makes this process, or one more goroutine of it, a subscriber that begins
// where from says; the last counts, and Now if there is none.
//
// Errors: shm.ErrNoSpace if all participants are there; errors.ErrUnsupported for another
// From; shm.ErrFormat if the topic is damaged; os.ErrClosed.
func (t *Topic) Subscriber(from ...From) (*Subscriber, error) {
	begin := Now
	if len(from) > 0 {
		begin = from[len(from)-1]
	}
	fail := func(err error) (*Subscriber, error) { return nil, t.party.Fail("join as subscriber", err) }
	if begin > Oldest {
		return fail(fmt.Errorf("%v: %w", begin, errors.ErrUnsupported))
	}
	pt, err := t.join(subscriber, func() (uint64, error) { return t.start(begin) })
	if err != nil {
		return fail(err)
	}
	s := &Subscriber{part: pt}
	if err := s.seat.Enter(); err != nil {
		return fail(err)
	}
	// From here on publishers that wait look at our cursor, but for who is just about to
	// claim a slot; and whatever they do before ends less than a lap from where they are
	// now.
	t.hdr.joins.Add(1)
	if s.joined, err = t.core.tail(); err == nil && begin == Now {
		s.pos = s.joined
		step.StoreRelease(&s.e.cursor, s.pos)
	}
	s.seat.Exit()
	if err != nil {
		return fail(errors.Join(err, s.seat.Close()))
	}
	return s, nil
}

// start returns the position where a new subscriber begins.
func (c *core) start(from From) (uint64, error) {
	t, err := c.tail()
	if err != nil || from == Now {
		return t, err
	}
	first := c.oldest(t)
	if from == Oldest {
		return first, nil
	}
	for pos := t; pos > first; pos-- {
		w := c.words[c.slot(pos-1)].Load()
		if ahead := c.ahead(w, pos-1); ahead > 0 || ahead == 0 && w&stateMask == stateFull {
			return pos - 1, nil
		}
	}
	return t, nil
}

// find looks for the next message; not ok if there is none. If there is, it is at
// pos, and may be overwritten from now on.
func (s *Subscriber) find() (ok bool, err error) {
	c := s.core
	for range c.patience() {
		at := c.slot(s.pos)
		w := c.words[at].Load()
		switch ahead := c.ahead(w, s.pos); {
		case ahead == 0:
			switch w & stateMask {
			case stateFull:
				n := c.words[at+1].Load()
				if n > uint64(c.room) {
					if !s.still(w) {
						continue
					}
					return false, garbage("the length of a message", n)
				}
				s.word, s.n = w, int(n)
				return true, nil
			case stateWriting:
				return false, nil
			case stateVoid, stateBlocked:
				s.move(s.pos + 1)
			default:
				return false, garbage("a slot's word", w)
			}
		case ahead == -1:
			return false, nil
		case ahead < 0:
			return false, garbage("a slot's word", w)
		default:
			if err := s.overrun(w, ahead); err != nil {
				return false, err
			}
		}
	}
	return false, nil // the publishers are much faster
}

// still reports whether the word of the message that was found is w, after all that has
// been read of it.
func (s *Subscriber) still(w uint64) bool { return step.LoadLast(&s.words[s.slot(s.pos)]) == w }

// overrun goes on where there is something to read again: our slot's word w is some laps
// ahead. Not with the oldest message, which would be gone as soon.
func (s *Subscriber) overrun(w uint64, laps int64) error {
	c := s.core
	if !s.begun && int64(s.joined-s.pos) > 0 {
		s.move(s.pos + 1) // it was not promised
		return nil
	}
	if laps >= 1<<(62-c.shift) {
		return garbage("a slot's word", w)
	}
	tail := s.pos + uint64(laps)<<c.shift
	if w&stateMask != stateWriting && w&stateMask != stateBlocked {
		tail++
	}
	t, err := c.tail()
	if err != nil {
		return err
	}
	if int64(t-tail) > 0 {
		tail = t
	}
	next := tail - (c.mask + 1) + (c.mask+1)/4
	if int64(next-s.pos) < 1 {
		next = s.pos + 1
	}
	s.lose(next - s.pos)
	s.move(next)
	if c.mask+1 > s.e.high.Load() {
		step.StoreRelease(&s.e.high, c.mask+1)
	}
	return nil
}

// lose counts n messages that were overwritten before they were read.
func (s *Subscriber) lose(n uint64) {
	s.skipped += n
	step.StoreRelease(&s.e.missed, s.e.missed.Load()+n)
}

// move is to have done with everything before pos. Publishers that wait hear of it.
func (s *Subscriber) move(pos uint64) {
	c := s.core
	s.pos = pos
	cursor := &s.e.cursor
	switch {
	case !c.wait || s.t.party.Quiet:
		step.StoreRelease(cursor, pos)
	default:
		cursor.Store(pos)
	}
	crash.Point("topic:moved")
	if c.wait && c.hdr.freed.Load()&party.Sleeping != 0 {
		s.t.party.Wake(&c.hdr.freed)
	}
}

// received is to have done with the message that was found.
func (s *Subscriber) received() {
	s.begun = true
	n := s.e.received.Load() + 1
	step.StoreRelease(&s.e.received, n)
	s.move(s.pos + 1)
	s.t.party.Shadow.Taken()
	if n-s.counted >= 64 {
		s.counted = n
		if behind := s.hdr.tail.Load() - s.pos; behind <= s.mask && behind > s.e.high.Load() {
			step.StoreRelease(&s.e.high, behind)
		}
	}
}

// attempts is how often a reader that is overtaken begins again before it lets others have
// the processor, or gives up if it does not wait.
const attempts = 16

// take copies the next message into buf, which grows if it may, and returns the message;
// not ok if there is none. One longer than buf stays, with io.ErrShortBuffer.
func (s *Subscriber) take(buf []byte, grow bool) (m []byte, ok bool, err error) {
	for range attempts {
		if ok, err = s.find(); !ok {
			return nil, false, err
		}
		m = buf
		switch {
		case s.n <= cap(buf) && grow:
		case s.n <= len(buf):
		case grow:
			m = make([]byte, s.n)
		case s.still(s.word):
			return nil, false, fmt.Errorf("a message of %d bytes: %w", s.n, io.ErrShortBuffer)
		default:
			continue
		}
		m = m[:s.n]
		s.copyOut(m, s.slot(s.pos))
		crash.Point("topic:copied")
		if s.still(s.word) {
			s.missed, s.skipped = s.skipped, 0
			s.received()
			return m, true, nil
		}
	}
	return nil, false, nil
}

// await calls look until it finds something.
func (s *Subscriber) await(ctx context.Context, look func() (bool, error)) error {
	var w party.Waiter
	for {
		ok, err := look()
		if ok || err != nil {
			s.seat.Over(&w)
			return err
		}
		if err := s.seat.Pause(ctx, &w, &s.hdr.filled); err != nil {
			return err
		}
	}
}

// Receive copies the next message into buf, waits for it if there is none, and
// returns its length.
//
// Errors: io.EOF if there is none and all publishers have closed; ErrPeerGone if there
// is none and the last publisher died (another may come: Receive may be called
// again after either); io.ErrShortBuffer, and the message stays; os.ErrClosed;
// shm.ErrFormat if the topic is damaged.
func (s *Subscriber) Receive(buf []byte) (int, error) { return s.receive(context.Background(), buf) }

// ReceiveContext is Receive until ctx is done; then the error is its.
func (s *Subscriber) ReceiveContext(ctx context.Context, buf []byte) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, s.t.party.Fail("receive", err)
	}
	return s.receive(ctx, buf)
}

func (s *Subscriber) receive(ctx context.Context, buf []byte) (int, error) {
	if err := s.seat.Enter(); err != nil {
		return 0, s.fail(err)
	}
	m, ok, err := s.take(buf, false)
	if !ok && err == nil {
		err = s.await(ctx, func() (ok bool, err error) {
			m, ok, err = s.take(buf, false)
			return ok, err
		})
	}
	s.seat.Exit()
	return len(m), s.fail(err)
}

// fail wraps an error; io.EOF is what its callers compare with.
func (s *Subscriber) fail(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return s.t.party.Fail("receive", err)
}

// TryReceive is Receive if there is a message now; ok says so.
func (s *Subscriber) TryReceive(buf []byte) (n int, ok bool, err error) {
	if err := s.seat.Enter(); err != nil {
		return 0, false, s.fail(err)
	}
	var m []byte
	ok, err = s.seat.Attempt(func() (ok bool, err error) {
		m, ok, err = s.take(buf, false)
		return ok, err
	})
	s.seat.Exit()
	return len(m), ok, s.fail(err)
}

// ReceiveBatch waits for a message, and takes all that are there then, at most
// len(bufs). Each of the first n elements of bufs becomes one message: its array
// is used if it is large enough. Missed is then that of all of them together.
//
// Errors: as Receive, for the first message.
func (s *Subscriber) ReceiveBatch(bufs [][]byte) (n int, err error) {
	return s.ReceiveBatchContext(context.Background(), bufs)
}

// ReceiveBatchContext is ReceiveBatch until ctx is done; then the error is its.
func (s *Subscriber) ReceiveBatchContext(ctx context.Context, bufs [][]byte) (n int, err error) {
	if err := ctx.Err(); err != nil || len(bufs) == 0 {
		return 0, s.t.party.Fail("receive", err)
	}
	if err := s.seat.Enter(); err != nil {
		return 0, s.fail(err)
	}
	missed := uint64(0)
	err = s.await(ctx, func() (ok bool, err error) {
		bufs[0], ok, err = s.taken(bufs[0])
		return ok, err
	})
	if err == nil {
		for ok := true; ok; {
			missed += s.missed
			if n++; n == len(bufs) {
				break
			}
			bufs[n], ok, _ = s.taken(bufs[n]) // a failure comes again
		}
		s.missed = missed
	}
	s.seat.Exit()
	return n, s.fail(err)
}

// taken takes a message into b's array if that is large enough, and returns b if there
// is none.
func (s *Subscriber) taken(b []byte) ([]byte, bool, error) {
	m, ok, err := s.take(b, true)
	if !ok {
		return b, false, err
	}
	return m, true, nil
}

// Lease waits for a message and calls fn with it, in place and without a copy. p is valid
// until fn returns, and must not be written to. The message is then done with,
// whatever fn returns, and Lease returns that.
//
// With the policy Overwrite the message may be overwritten while fn reads it, which so may
// see anything; Lease then returns ErrOverwritten, joined with fn's error, and what
// fn made of it is to be thrown away. That message counts among those that the next one's
// Missed tells of. With Wait it only happens to what was published before Subscriber
// returned.
//
// fn must not use this Subscriber. Close waits for it. Another process, if it is
// hostile, can change p meanwhile.
//
// Errors: as Receive; ErrOverwritten; fn's.
func (s *Subscriber) Lease(fn func(p []byte) error) error {
	return s.LeaseContext(context.Background(), fn)
}

// LeaseContext is Lease with a wait until ctx is done; then the error is its.
func (s *Subscriber) LeaseContext(ctx context.Context, fn func(p []byte) error) error {
	if err := ctx.Err(); err != nil {
		return s.fail(err)
	}
	if err := s.seat.Enter(); err != nil {
		return s.fail(err)
	}
	defer s.seat.Exit()
	if err := s.await(ctx, s.find); err != nil {
		return s.fail(err)
	}
	whole := false
	defer func() {
		if !whole { // fn panicked, or was overtaken
			s.lose(1)
			s.move(s.pos + 1)
		}
	}()
	s.missed, s.skipped = s.skipped, 0
	err := fn(s.payload(s.slot(s.pos))[:s.n:s.n])
	if whole = s.still(s.word); !whole {
		return s.fail(errors.Join(ErrOverwritten, err))
	}
	s.received()
	return err
}

// Missed returns how many messages this Subscriber missed immediately before the last that
// it received, or leases (of a batch, before any), as they were overwritten. With one
// publisher that is exact; with many, a place in the order that was given up counts too, if
// it was not come to in time.
func (s *Subscriber) Missed() uint64 { return s.missed }

// Number returns the number of the next message, as far as is known: the first message
// of the topic has number 0, and what was missed counts, too. So after a message was
// received its own is one less.
func (s *Subscriber) Number() uint64 { return s.pos }

// All yields messages as they come, each valid until the next. With the policy Overwrite
// they are copies, with Wait they lie in place as in Lease. It ends when all
// publishers have closed. Another error is yielded once, with no message, and ends it as
// well.
func (s *Subscriber) All() iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for {
			more := false
			err := s.next(func(p []byte) error {
				more = yield(p, nil)
				return nil
			})
			switch {
			case errors.Is(err, io.EOF):
				return
			case err != nil:
				yield(nil, err)
				return
			case !more:
				return
			}
		}
	}
}

// next calls fn with the next message, in place if nobody can overwrite it.
func (s *Subscriber) next(fn func(p []byte) error) error {
	if s.wait && int64(s.pos-s.joined) >= 0 {
		return s.Lease(fn)
	}
	if s.spare == nil {
		s.spare = make([]byte, s.room)
	}
	n, err := s.Receive(s.spare)
	if err != nil {
		return err
	}
	return fn(s.spare[:n:n])
}

// Notify returns a file that is readable as long as there may be something to
// receive, for those who wait in a poll loop: when it is readable, call TryReceive
// until that finds nothing, which makes it unreadable until the next
// message comes. It is readable too when the last publisher goes and when the
// Subscriber is closed.
//
// Do not read from the file nor close it; it belongs to the Subscriber, and every call
// returns the same. A child process can be given it (exec.Cmd.ExtraFiles) or another
// one by a Unix socket: it may wait for it, while TryReceive has to be called
// here. The file costs a goroutine, which waits as Receive does.
//
// Errors: os.ErrClosed; the system's.
func (s *Subscriber) Notify() (*os.File, error) {
	if err := s.seat.Enter(); err != nil {
		return nil, s.fail(err)
	}
	defer s.seat.Exit()
	f, err := s.seat.Notify(s.nothing)
	return f, s.fail(err)
}

// nothing, called when there was nothing to receive, returns how to find out whether that
// is still so.
func (s *Subscriber) nothing() func() bool {
	c, pos := s.core, s.pos
	return func() bool {
		w := c.words[c.slot(pos)].Load()
		ahead := c.ahead(w, pos)
		return ahead < 0 || ahead == 0 && w&stateMask == stateWriting
	}
}

// Close ends this subscriber: a call that waits ends with os.ErrClosed. Closing again
// returns nil.
func (s *Subscriber) Close() error { return s.t.party.Fail("close subscriber", s.seat.Close()) }
