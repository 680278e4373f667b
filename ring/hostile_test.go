//go:build linux

package ring_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/ring"
)

// Whatever lies in the memory, no call panics or reads beyond, TryX returns, and a wait
// ends with its context.
func FuzzHostile(f *testing.F) {
	f.Add([]byte{}, uint16(0), uint8(0))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, uint16(16), uint8(1))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1}, uint16(192), uint8(2))
	f.Add([]byte{2, 0, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff}, uint16(8192), uint8(3))
	f.Add([]byte{1, 0, 1, 0, 0, 0, 0, 0}, uint16(8192), uint8(3))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 1}, uint16(4096), uint8(3))
	f.Fuzz(func(t *testing.T, junk []byte, at uint16, mode uint8) {
		o := ring.Options{SlotSize: 16, Slots: 4, MaxMessage: 64, Participants: 8,
			Senders: ring.Side(mode & 1), Receivers: ring.Side(mode >> 1 & 1), AfterDeath: ring.AfterDeath(mode >> 2 & 1)}
		q := create(t, o)
		s, r := senderOf(t, q), receiverOf(t, q)
		mem := q.Block().Bytes()
		damage := func() {
			if off := int(at) % len(mem); mode&64 == 0 {
				copy(mem[off:], junk)
			} else {
				for i, b := range junk { // spread over the words of slots and header
					mem[(off+i*61)%len(mem)] ^= b
				}
			}
		}
		if err := s.Send(message(1, 2, 16)); err != nil {
			t.Fatal(err)
		}
		if mode&8 != 0 {
			if _, err := s.Reserve(40); err != nil {
				t.Fatal(err)
			}
		}
		damage()
		if mode&8 != 0 {
			_ = s.Commit(30)
		}
		buf := make([]byte, 64)
		try := func(q *ring.Queue, s *ring.Sender, r *ring.Receiver) {
			for range 6 {
				_, _ = s.TrySend(buf[:20])
				_, _, _ = r.TryReceive(buf)
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			defer cancel()
			for range 6 {
				if s.SendContext(ctx, buf[:40]) != nil {
					break
				}
			}
			for range 6 {
				if r.LeaseContext(ctx, func(p []byte) error { _ = append([]byte(nil), p...); return nil }) != nil {
					break
				}
			}
			if _, err := q.Stats(); err != nil {
				t.Fatal(err)
			}
		}
		try(q, s, r)
		// Junk in the table's lock that names nobody is a dead process's.
		again, err := ring.Open(q.Name(), nil)
		if err != nil {
			if !errors.Is(err, shm.ErrFormat) && !errors.Is(err, errors.ErrUnsupported) {
				t.Fatal(err)
			}
			return
		}
		defer again.Close()
		s2, err := again.Sender()
		if err != nil {
			return
		}
		r2, err := again.Receiver()
		if err != nil {
			return
		}
		try(again, s2, r2)
	})
}

// Headers that cannot be.
func TestHostileHeader(t *testing.T) {
	q := create(t, ring.Options{})
	mem := q.Block().Bytes()
	for off, values := range map[int][]uint64{
		0:  {0, 1},
		8:  {1, 3, 2 | 16<<32, 1 << 31},
		16: {0, 7, 1 << 41, 1<<64 - 1, 56},
		24: {0, 1, 3, 1 << 11, 1 << 31, 1 << 63},
		32: {0, 63, 128, 1<<64 - 64},
		40: {0, 48*1024 + 1, 1<<64 - 1},
		48: {0, 1, 4097, 1 << 60},
		64: {0, 2},
	} {
		old := binary.LittleEndian.Uint64(mem[off:])
		for _, v := range values {
			binary.LittleEndian.PutUint64(mem[off:], v)
			if again, err := ring.Open(q.Name(), nil); !errors.Is(err, shm.ErrFormat) {
				t.Errorf("%#x at %d: %v", v, off, err)
				if err == nil {
					again.Close()
				}
			}
		}
		binary.LittleEndian.PutUint64(mem[off:], old)
	}
	binary.LittleEndian.PutUint64(mem[56:], 1<<63)
	_, err := ring.Open(q.Name(), nil)
	mustBe(t, err, errors.ErrUnsupported)
}

// Positions and lengths of a direct ring that cannot be; the error says which.
func TestHostileDirect(t *testing.T) {
	const tail, head, lengths = 192, 256, 4096 + 64*128
	for _, c := range []struct {
		off   int
		value uint64
		what  string
	}{
		{tail, 5, "the tail"}, {tail, 1 << 63, "the tail"}, {tail, 1<<64 - 1, "the tail"},
		{head, 7, "the head"}, {head, 1 << 63, "the head"}, {head, 1<<64 - 2, "the head"},
		{lengths, 65, "length"}, {lengths, 1 << 40, "length"}, {lengths, 1<<64 - 1, "length"},
		{lengths, 64, "length"}, // would be longer than what was sent
	} {
		q := create(t, ring.Options{Senders: ring.One, Receivers: ring.One, SlotSize: 16, Slots: 4, MaxMessage: 64})
		s, r := senderOf(t, q), receiverOf(t, q)
		if _, err := s.SendBatch([][]byte{[]byte("one"), []byte("two")}); err != nil {
			t.Fatal(err)
		}
		binary.LittleEndian.PutUint64(q.Block().Bytes()[c.off:], c.value)
		var err error
		if c.off == head {
			_, err = s.SendBatch([][]byte{{1}, {2}, {3}})
			_, again := s.TrySend(nil)
			mustBe(t, again, shm.ErrFormat)
		} else {
			_, _, err = r.TryReceive(make([]byte, 64))
			_, batch := r.ReceiveBatch(make([][]byte, 2))
			mustBe(t, batch, shm.ErrFormat)
			mustBe(t, r.Lease(func([]byte) error { return nil }), shm.ErrFormat)
			if _, _, peek := ring.Peek(q.Block(), 0); !errors.Is(peek, shm.ErrFormat) {
				t.Errorf("Peek with %#x at %d: %v", c.value, c.off, peek)
			}
		}
		if mustBe(t, err, shm.ErrFormat); !strings.Contains(err.Error(), c.what) {
			t.Errorf("%#x at %d: %v", c.value, c.off, err)
		}
	}
}

// Words of slots that cannot be.
func TestHostileSlots(t *testing.T) {
	modes(t, func(t *testing.T, o ring.Options) {
		if o.Senders == ring.One && o.Receivers == ring.One {
			return // it has none
		}
		for _, w := range []uint64{
			5 << 32,              // of a lap to come
			1<<16 | 7,            // of no state
			2,                    // no slot
			0xffff<<16 | 2,       // more than there are
			1<<16 | 2 | 77<<32,   // full in another lap
			0xfffffffe00000000,   // free in one long ago
			1<<16 | 2 | 0xabc<<4, // full, and too long
		} {
			q := create(t, o)
			s, r := senderOf(t, q), receiverOf(t, q)
			mem := q.Block().Bytes()[4096+64*128:]
			binary.LittleEndian.PutUint64(mem, w)
			binary.LittleEndian.PutUint64(mem[8:], 1<<40)
			_, _, rerr := r.TryReceive(make([]byte, 64))
			_, serr := s.TrySend(nil)
			if !errors.Is(rerr, shm.ErrFormat) && !errors.Is(serr, shm.ErrFormat) && w>>32 == 0 {
				t.Errorf("%#x: %v, %v", w, rerr, serr)
			}
		}
	})
}

// Somebody holds the table of participants and lives: others can close all the same,
// and nothing else stops.
func TestHostileTable(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	q := create(t, ring.Options{Slots: 2})
	s, r := senderOf(t, q), receiverOf(t, q)
	p := shmtest.Start(t, "guest", q.Name())
	p.Expect("ready")
	mem := q.Block().Bytes()
	// The guest's own entry has its ID.
	binary.LittleEndian.PutUint64(mem[128:], binary.LittleEndian.Uint64(mem[4096+2*128:]))
	if err := s.Send([]byte("x")); err != nil {
		t.Fatal(err)
	}
	var b [48]byte
	if _, err := r.Receive(b[:]); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := r.TryReceive(b[:]); ok || err != nil {
		t.Fatal(ok, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err := r.ReceiveContext(ctx, b[:])
	mustBe(t, err, context.DeadlineExceeded)
	// Its death ends it.
	got := goes(func() error { _, err := q.Sender(); return err })
	p.Kill()
	if err := <-got; err != nil {
		t.Fatal(err)
	}
}

func init() {
	shmtest.Register("guest", func(args []string) int {
		q, err := ring.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		if _, err := q.Sender(); err != nil {
			return complain(err)
		}
		shmtest.Say("ready")
		shmtest.Hear()
		return 0
	})
	// Receives everything and says what came in between; args: ring, number of messages
	// after which it dies in the middle, 0 for never.
	shmtest.Register("consumer", func(args []string) int {
		q, err := ring.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		r, err := q.Receiver()
		if err != nil {
			return complain(err)
		}
		shmtest.Say("ready")
		last := map[uint32]int64{}
		n := 0
		for {
			err := r.Lease(func(p []byte) error {
				from, number, err := parse(p)
				if err != nil {
					return err
				}
				if before, ok := last[from]; ok && int64(number) <= before {
					return errors.New("out of order")
				}
				last[from] = int64(number)
				n++
				return nil
			})
			if errors.Is(err, io.EOF) {
				shmtest.Say("%d", n)
				return report(q.Close())
			}
			if err != nil {
				return complain(err)
			}
		}
	})
	shmtest.Register("producer", func(args []string) int {
		q, err := ring.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		s, err := q.Sender()
		if err != nil {
			return complain(err)
		}
		shmtest.Say("ready")
		shmtest.Await("go")
		if err := sendAll(s, uint32(args[1][0]), 20000); err != nil {
			return complain(err)
		}
		return report(q.Close())
	})
}

func report(err error) int {
	if err != nil {
		return complain(err)
	}
	return 0
}
