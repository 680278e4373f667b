package party

import (
	"context"
	"os"
	"sync/atomic"
	"time"

	"github.com/sharedmem/shm/internal/platform/wait"
	"github.com/sharedmem/shm/internal/step"
)

// Seat is one participant, for one goroutine at a time; only Close may be called beside
// other calls.
type Seat struct {
	Index int // in the table
	Role  Role
	party *Party
	entry *Entry

	Waits *step.Uint64 // counts how often it slept
	Leave func()       // what Close does before the place is given back; nil for nothing
	Show  func()       // what is to be done before sleeping; nil for nothing

	busy  step.Uint64 // a call is inside
	end   atomic.Bool // Close has begun
	plain bool

	done     chan struct{} // closed when Close begins
	idle     chan struct{} // a call has left after that
	closed   chan struct{} // closed when Close is over
	notifier *notifier
	spins    int // how many looks a wait may take before it sleeps
	tries    int // how often it slept
	retry    int // at how many it spins the longest again
	gap      int // from one such time to the next
	spun     int // where the empty loop stores
}

// Enter begins a call. Close beside it sees busy, or the call sees end: Close stores
// end, then has all threads pass a barrier, then looks at busy. So this side, which
// is the one that is taken a million times a second, needs no barrier of its own.
// Where threads cannot be fenced from afar both sides' stores are barriers.
//
// Errors: os.ErrClosed, ErrBusy.
func (s *Seat) Enter() error {
	switch s.Begin() {
	case Inside:
		return nil
	case Ended:
		s.Exit()
		return os.ErrClosed
	}
	if s.busy.Load() != 0 {
		if s.end.Load() {
			return os.ErrClosed
		}
		return ErrBusy
	}
	s.busy.Store(1)
	if s.end.Load() {
		s.Exit()
		return os.ErrClosed
	}
	return nil
}

// Begun is what came of [Seat.Begin].
type Begun uint8

// What came of it.
const (
	Outside Begun = iota // Enter knows why, or can
	Inside
	Ended // inside all the same: Exit is to follow
)

// Begin is Enter as it nearly always is, and so short that the compiler has it in its callers.
func (s *Seat) Begin() Begun {
	if s.busy.Load() != 0 || !s.plain {
		return Outside
	}
	step.StoreRelease(&s.busy, 1)
	if s.end.Load() {
		return Ended
	}
	return Inside
}

// Exit ends it. The argument is the same the other way round: Close sees that
// busy is 0, or we see end and tell it.
func (s *Seat) Exit() {
	if s.plain {
		step.StoreRelease(&s.busy, 0)
	} else {
		s.busy.Store(0)
	}
	if s.end.Load() {
		select {
		case s.idle <- struct{}{}:
		default:
		}
	}
}

// close gives up the place in the table, once the call in flight has ended.
func (s *Seat) close() error {
	p := s.party
	if s.end.Swap(true) {
		<-s.closed
		return nil
	}
	defer close(s.closed)
	close(s.done)
	p.wakeAll()
	wait.Fence()
	for s.busy.Load() != 0 {
		<-s.idle
	}
	s.notifier.close()
	if s.Leave != nil {
		s.Leave()
	}
	p.mu.Lock()
	delete(p.seats, s)
	p.mu.Unlock()
	// A living process that keeps the table from us, stopped by a debugger or
	// hostile, does not keep us from closing: the place is then a dead one's when
	// this process ends.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return p.withdraw(ctx, s)
}

// Close ends the participant. It and the Close of the whole block race: whoever is
// first closes it, the other waits in close.
func (s *Seat) Close() error {
	release, err := s.party.Acquire()
	if err != nil {
		<-s.closed
		return nil
	}
	defer release()
	return s.close()
}

// Attempt calls look until it says something, there is an end, or nobody has died since
// the last time it found nothing. It does not wait.
func (s *Seat) Attempt(look func() (bool, error)) (ok bool, err error) {
	p := s.party
	for range 3 {
		if ok, err = look(); ok || err != nil {
			return ok, err
		}
		heard := p.heard.Load()
		if err := p.check(context.Background(), s, true); err != nil {
			return false, err
		}
		// Those who are gone now have stored what they had to before they left: if there
		// is nothing after this look at them, there will be nothing.
		if end := s.ended(p.Header.Peers()); end != nil {
			if ok, err = look(); !ok && err == nil {
				err = end
			}
			break
		}
		if p.heard.Load() == heard {
			break
		}
	}
	if !ok && err == nil && s.notifier != nil {
		s.notifier.lower()
	}
	return ok, err
}
