package party

import (
	"context"
	"os"
	"sync/atomic"

	"github.com/sharedmem/shm/internal/step"
)

// notifier makes a pipe readable when there may be something to take.
type notifier struct {
	in, out *os.File
	raised  atomic.Bool
	found   func() (nothing func() bool)
	empty   chan func() bool
	ended   chan struct{}
}

// Notify returns a file that is readable as long as there may be something to take:
// from the beginning, and again and again until Attempt finds nothing. It is readable too at
// an end and when s is closed. Every call returns the same.
//
// found is called by Attempt when that has found nothing, and returns how to find out
// beside other calls of s whether there is nothing still.
func (s *Seat) Notify(found func() (nothing func() bool)) (*os.File, error) {
	if s.notifier != nil {
		return s.notifier.out, nil
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	n := &notifier{in: in, out: out, found: found, empty: make(chan func() bool, 1), ended: make(chan struct{})}
	n.raise()
	go n.run(s)
	s.notifier = n
	return out, nil
}

func (n *notifier) raise() {
	n.raised.Store(true)
	_, _ = n.in.Write([]byte{1})
}

// lower makes it unreadable, as nothing was found.
func (n *notifier) lower() {
	if !n.raised.Load() {
		return
	}
	var b [1]byte
	if _, err := n.out.Read(b[:]); err == nil {
		n.raised.Store(false)
		n.empty <- n.found()
	}
}

func (n *notifier) close() {
	if n == nil {
		return
	}
	<-n.ended
	_ = n.in.Close() // readable for good, as at the end of a file
}

// run waits, each time that nothing was found, until that may have changed.
func (n *notifier) run(s *Seat) {
	defer close(n.ended)
	p := s.party
	f := p.Filled
	stop := context.Context(closeContext{context.Background(), p})
	for {
		var nothing func() bool
		select {
		case nothing = <-n.empty:
		case <-s.done:
			return
		}
		for {
			bell := p.bell.Load()
			if p.check(stop, s, false) != nil {
				return
			}
			v := f.Load()
			if v&Sleeping == 0 && !f.CompareAndSwap(v, v|Sleeping) {
				continue
			}
			if p.Fenced {
				step.FenceAll()
			}
			if !nothing() || p.End(p.Header.Peers(), s.Role) != nil {
				break
			}
			if p.sleep(stop, s, f, v|Sleeping, bell) != nil {
				return
			}
		}
		n.raise()
	}
}
