//go:build linux

package ring_test

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/ring"
)

// A look from outside sees all and changes nothing.
func TestDescribe(t *testing.T) {
	o := ring.Options{SlotSize: 16, Slots: 8, MaxMessage: 40, Participants: 4, Senders: ring.One}
	q := create(t, o)
	s := senderOf(t, q)
	r := receiverOf(t, q)
	guest := shmtest.Start(t, "taker", q.Name())
	guest.Expect("ready")
	for _, m := range []string{"a message of several slots", "short", "last"} {
		if err := s.Send([]byte(m)); err != nil {
			t.Fatal(err)
		}
	}
	guest.Expect("has it")
	b, err := shm.Open(q.Name(), &shm.OpenOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	info, err := ring.Describe(b)
	if err != nil {
		t.Fatal(err)
	}
	if info.Options != q.Options() || info.Stats.Sent != 3 || info.Stats.Senders != 1 || info.Stats.Receivers != 2 || info.Elsewhere {
		t.Errorf("%+v", info)
	}
	for i, want := range []ring.Participant{
		{Role: "sender", Owner: shm.Owner{PID: os.Getpid(), Alive: true}},
		{Role: "receiver", Owner: shm.Owner{PID: os.Getpid(), Alive: true}},
		{Role: "receiver", Owner: shm.Owner{PID: guest.PID(), Alive: true}},
	} {
		if i >= len(info.Participants) {
			t.Fatalf("%+v", info.Participants)
		}
		if p := info.Participants[i]; p.Role != want.Role || p.Owner.PID != want.Owner.PID || !p.Owner.Alive {
			t.Errorf("%+v, want %+v", p, want)
		}
	}
	look := func(from uint64, want ...ring.Message) (next uint64) {
		t.Helper()
		got, next, err := ring.Peek(b, from)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%+v %v", got, err)
		}
		for i, m := range got {
			if string(m.Data) != string(want[i].Data) || m.Taken != want[i].Taken || m.Redelivered != want[i].Redelivered {
				t.Errorf("%+v, want %+v", m, want[i])
			}
		}
		return next
	}
	long, short, last := ring.Message{Data: []byte("a message of several slots"), Taken: true}, ring.Message{Data: []byte("short")}, ring.Message{Data: []byte("last")}
	next := look(0, long, short, last)
	look(next)
	look(next-1, last)
	guest.Kill()
	got := goes(func() error { _, err := r.Receive(make([]byte, 40)); return err })
	mustBe(t, <-got, nil)
	// One of the two was had; which, is a matter of when the death is heard of.
	rest, _, err := ring.Peek(b, 0)
	if err != nil || len(rest) != 2 {
		t.Errorf("%+v %v", rest, err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Describe(b); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	if _, _, err := ring.Peek(b, 0); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	if info, err := shm.Stat(q.Name()); err != nil || info.Kind != "ring" {
		t.Errorf("%+v %v", info, err)
	}
	if _, err := shm.Prune(); err != nil {
		t.Error(err)
	}
}

// Beside those who send and receive it sees whole messages, in order.
func TestPeekBeside(t *testing.T) {
	modes(t, func(t *testing.T, o ring.Options) {
		o.SlotSize, o.Slots, o.MaxMessage = 16, 16, 70
		q := create(t, o)
		s, r := senderOf(t, q), receiverOf(t, q)
		const n = 20000 / slower
		sent := goes(func() error {
			for i := range uint32(n) {
				if err := s.Send(message(0, i, 16+int(i%50))); err != nil {
					return err
				}
			}
			return s.Close()
		})
		received := goes(func() error {
			for p, err := range r.All() {
				if _, _, perr := parse(p); errors.Join(err, perr) != nil {
					return errors.Join(err, perr)
				}
			}
			return nil
		})
		seen, last, from := 0, -1, uint64(0)
		for done := false; !done; {
			select {
			case err := <-received:
				mustBe(t, err, nil)
				done = true
			default:
			}
			got, next, err := ring.Peek(q.Block(), from)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range got {
				_, number, err := parse(m.Data)
				if err != nil || int(number) <= last {
					t.Fatal(err, number, last)
				}
				last = int(number)
			}
			seen, from = seen+len(got), next
		}
		mustBe(t, <-sent, nil)
		t.Logf("saw %d of %d", seen, n)
	})
}

// What lies in the memory is no matter: a look returns.
func TestDescribeHostile(t *testing.T) {
	q := create(t, ring.Options{SlotSize: 16, Slots: 4, MaxMessage: 64})
	mem := q.Block().Bytes()
	x := uint64(88172645463325252)
	for i := range 2000 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(mem[(int(x%uint64(len(mem)))+128*(i%40))%(len(mem)-8)&^7:], x>>(i%64))
		_, err := ring.Describe(q.Block())
		_, _, perr := ring.Peek(q.Block(), x)
		for _, err := range []error{err, perr} {
			if err != nil && !errors.Is(err, shm.ErrFormat) {
				t.Fatal(err)
			}
		}
	}
	// As it was, so that Close finds its table.
	clear(mem[128:192])
	clear(mem[4096:])
}
