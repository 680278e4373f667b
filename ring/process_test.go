//go:build linux

package ring_test

import (
	"errors"
	"io"
	"strconv"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/ring"
)

// All four modes between processes.
func TestProcesses(t *testing.T) {
	modes(t, func(t *testing.T, o ring.Options) {
		o.Slots, o.SlotSize, o.MaxMessage = 64, 32, 64
		q := create(t, o)
		ns, nr := 1, 1
		if o.Senders == ring.Many {
			ns = 2
		}
		if o.Receivers == ring.Many {
			nr = 2
		}
		var ss, rs []*shmtest.Process
		for i := range ns {
			ss = append(ss, shmtest.Start(t, "producer", q.Name(), string(rune('a'+i))))
			ss[i].Expect("ready")
		}
		for i := range nr {
			rs = append(rs, shmtest.Start(t, "consumer", q.Name()))
			rs[i].Expect("ready")
		}
		for _, s := range ss {
			s.Send("go")
		}
		sum := 0
		for _, p := range rs {
			n, err := strconv.Atoi(p.Line())
			if err != nil {
				t.Fatal(err, p.Stderr())
			}
			sum += n
		}
		for _, p := range append(ss, rs...) {
			if st := p.Wait(); st != 0 {
				t.Error(st, p.Stderr())
			}
		}
		if sum != ns*20000 {
			t.Errorf("%d came", sum)
		}
		st, err := q.Stats()
		if err != nil || st.Sent != uint64(sum) || st.Received != uint64(sum) || st.HighWater == 0 || st.HighWater > 64 {
			t.Errorf("%+v %v", st, err)
		}
	})
}

// A peer dies while we wait for it: we hear of it.
func TestPeerGone(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	q := create(t, ring.Options{Slots: 2, Senders: ring.One, Receivers: ring.One})
	r := receiverOf(t, q)
	for range 3 {
		p := shmtest.Start(t, "guest", q.Name())
		p.Expect("ready")
		got := goes(func() error { _, err := r.Receive(nil); return err })
		start := time.Now()
		p.Kill()
		mustBe(t, <-got, ring.ErrPeerGone)
		t.Logf("heard after %v", time.Since(start))
		if _, _, err := r.TryReceive(nil); !errors.Is(err, ring.ErrPeerGone) {
			t.Fatal(err)
		}
		if _, err := shm.Prune(); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	s := senderOf(t, q)
	p := shmtest.Start(t, "taker", q.Name())
	p.Expect("ready")
	for range 2 {
		if err := s.Send([]byte("kept")); err != nil {
			t.Fatal(err)
		}
	}
	p.Expect("has it")
	got := goes(func() error { return s.Send(nil) })
	p.Kill()
	mustBe(t, <-got, ring.ErrPeerGone)
	// What it had comes again, and only that is marked.
	r = receiverOf(t, q)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, again := range []bool{true, false} {
		if n, err := r.Receive(make([]byte, 48)); n != 4 || err != nil || r.Redelivered() != again {
			t.Fatal(n, err, r.Redelivered(), again)
		}
	}
	if _, err := r.Receive(nil); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}

func init() {
	// Takes a message and keeps it.
	shmtest.Register("taker", func(args []string) int {
		q, err := ring.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		r, err := q.Receiver()
		if err != nil {
			return complain(err)
		}
		shmtest.Say("ready")
		return report(r.Lease(func([]byte) error {
			shmtest.Say("has it")
			shmtest.Hear()
			return nil
		}))
	})
}
