//go:build linux

package ring_test

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/ring"
)

// A call is when it began and returned, by a clock that all processes read, and the
// message that it sent or received: 0 if TryReceive found nothing.
type call struct{ id, from, to uint64 }

type history struct{ sent, received, nothing []call }

// linear tells whether there is an order of the calls, each at a moment between its
// beginning and its return, in which a queue would have done the same. For messages that are
// all different it is enough that none of a few patterns is there (Henzinger, Sezgin and
// Vafeiadis, 2013), so no order has to be searched.
//
// Finding nothing is no such operation here: a receiver stops at a place that a
// sender has claimed, and has not yet committed to, though later ones are full. So it is
// allowed as long as such a sender is in its call.
func (h *history) linear() error {
	sent, received := map[uint64]call{}, map[uint64]call{}
	for _, s := range h.sent {
		sent[s.id] = s
	}
	for _, r := range h.received {
		switch s, ok := sent[r.id]; {
		case !ok || r.to < s.from:
			return fmt.Errorf("%x was received before it was sent", r.id)
		case received[r.id] != call{}:
			return fmt.Errorf("%x was received twice", r.id)
		}
		received[r.id] = r
	}
	for _, a := range h.sent {
		ra, gone := received[a.id]
		for _, b := range h.sent {
			rb, ok := received[b.id]
			if a.to < b.from && ok && (!gone || rb.to < ra.from) {
				return fmt.Errorf("%x was sent before %x and received after it", a.id, b.id)
			}
		}
		for _, e := range h.nothing {
			if a.to >= e.from || gone && ra.from <= e.to {
				continue
			}
			excused := false
			for _, b := range h.sent {
				excused = excused || b.from < a.to && b.to > e.from && b.id != a.id
			}
			if !excused {
				return fmt.Errorf("nothing was found from %d to %d, and %x was there from %d on", e.from, e.to, a.id, a.to)
			}
		}
	}
	return nil
}

func TestLinearJudges(t *testing.T) {
	for name, tt := range map[string]struct {
		h    history
		good bool
	}{
		"one after the other": {history{[]call{{1, 1, 2}, {2, 3, 4}}, []call{{1, 5, 6}, {2, 7, 8}}, nil}, true},
		"the wrong way round": {history{[]call{{1, 1, 2}, {2, 3, 4}}, []call{{2, 5, 6}, {1, 7, 8}}, nil}, false},
		"sent at once":        {history{[]call{{1, 1, 4}, {2, 2, 3}}, []call{{2, 5, 6}, {1, 7, 8}}, nil}, true},
		"received at once":    {history{[]call{{1, 1, 2}, {2, 3, 4}}, []call{{2, 5, 8}, {1, 6, 7}}, nil}, true},
		"left behind":         {history{[]call{{1, 1, 2}, {2, 3, 4}}, []call{{2, 5, 6}}, nil}, false},
		"before it was sent":  {history{[]call{{1, 5, 6}}, []call{{1, 1, 2}}, nil}, false},
		"while it was sent":   {history{[]call{{1, 1, 6}}, []call{{1, 2, 3}}, nil}, true},
		"never sent":          {history{nil, []call{{1, 1, 2}}, nil}, false},
		"twice":               {history{[]call{{1, 1, 2}}, []call{{1, 3, 4}, {1, 5, 6}}, nil}, false},
		"nothing there":       {history{[]call{{1, 1, 2}}, []call{{1, 3, 4}}, []call{{0, 5, 6}}}, true},
		"it was there":        {history{[]call{{1, 1, 2}}, []call{{1, 5, 6}}, []call{{0, 3, 4}}}, false},
		"behind another":      {history{[]call{{1, 1, 9}, {2, 2, 3}}, []call{{1, 10, 11}, {2, 12, 13}}, []call{{0, 4, 5}}}, true},
	} {
		if err := tt.h.linear(); (err == nil) != tt.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func now() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts)
	return uint64(ts.Nano())
}

// callLog is a participant's part of a history, in a block.
type callLog []uint64

const logSize = 1 << 14 // words

func logOf(b *shm.Block, i int) (callLog, error) { return shm.Slice[uint64](b, i*logSize*8, logSize) }

func (l callLog) note(id, from uint64) {
	if n := l[0]; n < (logSize-1)/3 {
		copy(l[1+3*n:], []uint64{id, from, now()})
		l[0]++
	}
}

func (l callLog) calls() (some, nothing []call) {
	for i := range l[0] {
		c := call{l[1+3*i], l[2+3*i], l[3+3*i]}
		if c.id == 0 {
			nothing = append(nothing, c)
		} else {
			some = append(some, c)
		}
	}
	return some, nothing
}

const linearEach = 500

func linearSend(q *ring.Queue, l callLog, as uint64) error {
	s, err := q.Sender()
	if err != nil {
		return err
	}
	p := make([]uint64, 1)
	for i := range uint64(linearEach) {
		p[0] = as<<32 | i + 1
		from := now()
		if err := s.Send(layout.Bytes(p)); err != nil {
			return err
		}
		l.note(p[0], from)
	}
	return s.Close()
}

func linearReceive(q *ring.Queue, l callLog) error {
	r, err := q.Receiver()
	if err != nil {
		return err
	}
	p := make([]uint64, 1)
	for i := 0; ; i++ {
		from := now()
		ok := true
		if i%4 == 0 {
			_, ok, err = r.TryReceive(layout.Bytes(p))
		} else {
			_, err = r.Receive(layout.Bytes(p))
		}
		switch {
		case errors.Is(err, io.EOF):
			return r.Close()
		case err != nil:
			return err
		case ok:
			l.note(p[0], from)
		default:
			l.note(0, from)
		}
	}
}

func linear(q *ring.Queue, l callLog, i int, how string) error {
	if how == "send" {
		return linearSend(q, l, uint64(i+1))
	}
	return linearReceive(q, l)
}

func init() {
	// args: ring, journal, number, and how: send or receive
	shmtest.Register("linear", func(args []string) int {
		q, err := ring.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		b, err := shm.Open(args[1], nil)
		if err != nil {
			return complain(err)
		}
		i, _ := strconv.Atoi(args[2])
		l, err := logOf(b, i)
		if err != nil {
			return complain(err)
		}
		return report(errors.Join(linear(q, l, i, args[3]), q.Close()))
	})
}

// What goroutines and processes do at once with one ring for many, a queue could have
// done one by one.
func TestLinear(t *testing.T) {
	shmtest.Deadline(t, 5*shmtest.Patience)
	for _, slots := range []int{2, 16} {
		for _, in := range []string{"goroutines", "processes"} {
			t.Run(fmt.Sprintf("%s-%d", in, slots), func(t *testing.T) {
				q := create(t, ring.Options{SlotSize: 8, Slots: slots})
				b, err := shm.Create(shmtest.Name(t)+"j", 6*logSize*8, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer b.Unlink()
				defer b.Close()
				// Until all have sent there is no end, because of this one.
				last := senderOf(t, q)
				var senders, receivers sync.WaitGroup
				var logs [6]callLog
				for i := range logs {
					if logs[i], err = logOf(b, i); err != nil {
						t.Fatal(err)
					}
					group, how := &senders, "send"
					if i >= len(logs)/2 {
						group, how = &receivers, "receive"
					}
					if in == "processes" {
						p := shmtest.Start(t, "linear", q.Name(), b.Name(), strconv.Itoa(i), how)
						group.Go(func() {
							if st := p.Wait(); st != 0 {
								t.Error(st, p.Stderr())
							}
						})
						continue
					}
					group.Go(func() {
						if err := linear(q, logs[i], i, how); err != nil {
							t.Error(err)
						}
					})
				}
				senders.Wait()
				if err := last.Close(); err != nil {
					t.Fatal(err)
				}
				receivers.Wait()
				var h history
				for i, l := range logs {
					some, nothing := l.calls()
					if i < len(logs)/2 {
						h.sent = append(h.sent, some...)
					} else {
						h.received, h.nothing = append(h.received, some...), append(h.nothing, nothing...)
					}
				}
				if n := linearEach * len(logs) / 2; len(h.sent) != n || len(h.received) != n {
					t.Errorf("%d sent, %d received, of %d", len(h.sent), len(h.received), n)
				}
				if err := h.linear(); err != nil {
					t.Error(err)
				}
				t.Logf("%d sent, %d received, nothing found %d times", len(h.sent), len(h.received), len(h.nothing))
			})
		}
	}
}
