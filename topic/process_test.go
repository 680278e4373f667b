//go:build linux

package topic_test

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/topic"
)

// All modes between processes.
func TestProcesses(t *testing.T) {
	const each = 10000
	modes(t, func(t *testing.T, o topic.Options) {
		o.Slots, o.SlotSize = 64, 56
		tp := create(t, o)
		np := 1
		if o.ManyPublishers {
			np = 2
		}
		var ps, ss []*shmtest.Process
		for i := range np {
			ps = append(ps, shmtest.Start(t, "producer", tp.Name(), string(rune('a'+i))))
			ps[i].Expect("ready")
		}
		for i := range 3 {
			ss = append(ss, shmtest.Start(t, "consumer", tp.Name()))
			ss[i].Expect("ready")
		}
		for _, p := range ps {
			p.Send("go")
		}
		came, missed := 0, 0
		for _, s := range ss {
			var n, m int
			if _, err := fmt.Sscan(s.Line(), &n, &m); err != nil {
				t.Fatal(err, s.Stderr())
			}
			if n+m != np*each && np == 1 || n+m < np*each || m != 0 && o.Policy == topic.Wait {
				t.Errorf("%d came and %d were missed of %d", n, m, np*each)
			}
			came += n
			missed += m
		}
		for _, p := range append(ps, ss...) {
			if st := p.Wait(); st != 0 {
				t.Error(st, p.Stderr())
			}
		}
		st, err := tp.Stats()
		if err != nil || st.Published != uint64(np*each) || st.Received != uint64(came) || st.Missed != uint64(missed) || st.HighWater == 0 || st.Kept != 64 {
			t.Errorf("%+v %v; %d came, %d were missed", st, err, came, missed)
		}
	})
}

func init() {
	shmtest.Register("producer", func(args []string) int {
		tp, err := topic.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		p, err := tp.Publisher()
		if err != nil {
			return complain(err)
		}
		shmtest.Say("ready")
		shmtest.Await("go")
		if err := publishAll(p, uint32(args[1][0]), 10000); err != nil {
			return complain(err)
		}
		return report(tp.Close())
	})
	// Receives everything and says how much that was, and how much it missed.
	shmtest.Register("consumer", func(args []string) int {
		tp, err := topic.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		s, err := tp.Subscriber()
		if err != nil {
			return complain(err)
		}
		shmtest.Say("ready")
		c := newTally()
		for how := 0; err == nil; how++ {
			err = receiveOne(s, how, c.take)
		}
		if !errors.Is(err, io.EOF) {
			return complain(err)
		}
		shmtest.Say("%d %d", c.n, c.missed)
		return report(tp.Close())
	})
	// Is there until it is killed, and publishes what it is told to.
	shmtest.Register("guest", func(args []string) int {
		tp, err := topic.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		if args[1] == "subscriber" {
			if _, err := tp.Subscriber(); err != nil {
				return complain(err)
			}
			shmtest.Say("ready")
			shmtest.Hear()
			return 0
		}
		p, err := tp.Publisher()
		if err != nil {
			return complain(err)
		}
		shmtest.Say("ready")
		for {
			m := shmtest.Hear()
			if err := p.Publish([]byte(m)); err != nil {
				return complain(err)
			}
			shmtest.Say("published")
		}
	})
}

// The last publisher dies while a subscriber waits: it hears of that, and of the next one.
func TestPeerGone(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	modes(t, func(t *testing.T, o topic.Options) {
		o.Slots = 2
		tp := create(t, o)
		s := subscriberOf(t, tp)
		for range 3 {
			p := shmtest.Start(t, "guest", tp.Name(), "publisher")
			p.Expect("ready")
			p.Send("hello")
			p.Expect("published")
			if m := received(t, s); string(m) != "hello" {
				t.Fatal(m)
			}
			got := goes(func() error { _, err := s.Receive(nil); return err })
			start := time.Now()
			p.Kill()
			mustBe(t, <-got, topic.ErrPeerGone)
			t.Logf("heard after %v", time.Since(start))
			if _, _, err := s.TryReceive(nil); !errors.Is(err, topic.ErrPeerGone) {
				t.Fatal(err)
			}
			if _, err := shm.Prune(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A subscriber dies while publishers wait for it: they go on.
func TestDeadSubscriber(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	for _, many := range []bool{false, true} {
		tp := create(t, topic.Options{Policy: topic.Wait, Slots: 2, ManyPublishers: many})
		p := publisherOf(t, tp)
		for range 3 {
			g := shmtest.Start(t, "guest", tp.Name(), "subscriber")
			g.Expect("ready")
			for range 2 {
				if ok, err := p.TryPublish(nil); !ok || err != nil {
					t.Fatal(ok, err)
				}
			}
			if ok, err := p.TryPublish(nil); ok || err != nil {
				t.Fatal(ok, err)
			}
			waits := goes(func() error { return p.Publish(nil) })
			start := time.Now()
			g.Kill()
			mustBe(t, <-waits, nil)
			t.Logf("went on after %v", time.Since(start))
			if _, err := shm.Prune(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
