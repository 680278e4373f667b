//go:build linux

package topic_test

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/topic"
)

// Whatever lies in the memory, no call panics or reads beyond, TryX returns, and a wait
// ends with its context.
func FuzzHostile(f *testing.F) {
	f.Add([]byte{}, uint16(0), uint8(0))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, uint16(16), uint8(1))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1}, uint16(192), uint8(2))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, uint16(4160), uint8(3))
	f.Add([]byte{2, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff}, uint16(8192), uint8(0))
	f.Add([]byte{1, 0, 1, 0, 0, 0, 0, 0}, uint16(8192), uint8(3))
	f.Add([]byte{3, 0, 9, 0, 0, 0, 0, 0, 1}, uint16(8192), uint8(2))
	f.Fuzz(func(t *testing.T, junk []byte, at uint16, mode uint8) {
		o := topic.Options{SlotSize: 16, Slots: 4, Participants: 8, Policy: topic.Policy(mode & 1), ManyPublishers: mode&2 != 0}
		tp := create(t, o)
		p, s := publisherOf(t, tp), subscriberOf(t, tp)
		mem := tp.Block().Bytes()
		if err := p.Publish(message(1, 2, 16)); err != nil {
			t.Fatal(err)
		}
		if mode&8 != 0 {
			if _, err := p.Reserve(16); err != nil {
				t.Fatal(err)
			}
		}
		if off := int(at) % len(mem); mode&64 == 0 {
			copy(mem[off:], junk)
		} else {
			for i, b := range junk { // spread over the words of slots and header
				mem[(off+i*61)%len(mem)] ^= b
			}
		}
		if mode&8 != 0 {
			_ = p.Commit(10)
		}
		buf := make([]byte, 64)
		try := func(tp *topic.Topic, p *topic.Publisher, s *topic.Subscriber) {
			for range 6 {
				_, _ = p.TryPublish(buf[:16])
				_, _, _ = s.TryReceive(buf)
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			defer cancel()
			for range 6 {
				if p.PublishContext(ctx, buf[:10]) != nil {
					break
				}
			}
			for range 6 {
				if err := s.LeaseContext(ctx, func(p []byte) error { _ = append([]byte(nil), p...); return nil }); err != nil && !errors.Is(err, topic.ErrOverwritten) {
					break
				}
			}
			if _, err := tp.Stats(); err != nil {
				t.Fatal(err)
			}
			_, _ = topic.Describe(tp.Block())
			_, _, _ = topic.Peek(tp.Block(), 0)
		}
		try(tp, p, s)
		// Junk in the table's lock that names nobody is a dead process's.
		again, err := topic.Open(tp.Name(), nil)
		if err != nil {
			if !errors.Is(err, shm.ErrFormat) && !errors.Is(err, errors.ErrUnsupported) {
				t.Fatal(err)
			}
			return
		}
		defer again.Close()
		p2, err := again.Publisher()
		if err != nil {
			p2 = p
		}
		s2, err := again.Subscriber(topic.Oldest)
		if err != nil {
			return
		}
		try(again, p2, s2)
		if l, err := topic.OpenLatest(tp.Name(), nil); err == nil {
			_, _, _ = l.Get(buf)
			_ = l.Close()
		}
	})
}

// Headers that cannot be.
func TestHostileHeader(t *testing.T) {
	tp := create(t, topic.Options{})
	mem := tp.Block().Bytes()
	for off, values := range map[int][]uint64{
		0:  {0, 1},
		8:  {2, 1 | 4<<32, 1 | 16<<32, 1 << 31},
		16: {0, 7, 47, 1 << 41, 1<<64 - 1, 56},
		24: {0, 1, 3, 1 << 11, 1 << 31, 1 << 63},
		32: {0, 63, 128, 1<<64 - 64},
		40: {0, 1, 4097, 1 << 60},
		64: {0, 2},
	} {
		old := binary.LittleEndian.Uint64(mem[off:])
		for _, v := range values {
			binary.LittleEndian.PutUint64(mem[off:], v)
			if again, err := topic.Open(tp.Name(), nil); !errors.Is(err, shm.ErrFormat) {
				t.Errorf("%#x at %d: %v", v, off, err)
				if err == nil {
					again.Close()
				}
			}
		}
		binary.LittleEndian.PutUint64(mem[off:], old)
	}
	binary.LittleEndian.PutUint64(mem[48:], 1<<63)
	_, err := topic.Open(tp.Name(), nil)
	mustBe(t, err, errors.ErrUnsupported)
}

// Words and lengths of slots, and a tail, that cannot be.
func TestHostileSlots(t *testing.T) {
	modes(t, func(t *testing.T, o topic.Options) {
		for _, bad := range []struct {
			name         string
			word, length uint64
		}{
			{"no state", 1<<16 | 7, 0},
			{"a lap long ago", 0xfffe << 48, 0},
			{"a lap that no position has", 0x7fff << 48, 0},
			{"too long", 1<<16 | 2, 49},
			{"much too long", 1<<16 | 2, 1 << 63},
		} {
			tp := create(t, o)
			s := subscriberOf(t, tp)
			mem := tp.Block().Bytes()[4096+64*128:]
			binary.LittleEndian.PutUint64(mem, bad.word)
			binary.LittleEndian.PutUint64(mem[8:], bad.length)
			buf := make([]byte, 64)
			if _, _, err := s.TryReceive(buf); !errors.Is(err, shm.ErrFormat) {
				t.Fatalf("%s: %v", bad.name, err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			_, err := s.ReceiveContext(ctx, buf)
			mustBe(t, err, shm.ErrFormat)
			cancel()
		}
		tp := create(t, o)
		binary.LittleEndian.PutUint64(tp.Block().Bytes()[192:], 1<<40)
		_, err := tp.Publisher()
		mustBe(t, err, shm.ErrFormat)
		_, err = tp.Subscriber()
		mustBe(t, err, shm.ErrFormat)
		if st, err := tp.Stats(); err != nil || st.Publishers != 0 || st.Subscribers != 0 {
			t.Errorf("%+v %v", st, err)
		}
	})
}

// A stopped publisher of many in the middle of a message: the others do not wait, and
// subscribers go on after a lap.
func TestStopped(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	tp := create(t, topic.Options{Slots: 4, ManyPublishers: true})
	slow, fast, s := publisherOf(t, tp), publisherOf(t, tp), subscriberOf(t, tp)
	m, err := slow.Reserve(4)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if ok, err := fast.TryPublish([]byte{byte(i)}); !ok || err != nil {
			t.Fatal(i, ok, err)
		}
		if i == 2 {
			if _, ok, err := s.TryReceive(make([]byte, 8)); ok || err != nil {
				t.Fatal("received what comes after a message that is being written", ok, err)
			}
		}
	}
	last := -1
	for {
		var b [8]byte
		n, ok, err := s.TryReceive(b[:])
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		if n != 1 || int(b[0]) <= last || s.Missed() == 0 && last >= 0 && int(b[0]) != last+1 {
			t.Fatal(n, b[0], last, s.Missed())
		}
		last = int(b[0])
	}
	if last != 19 {
		t.Fatal(last)
	}
	// What it was writing is as good as overwritten, and the slot is used again.
	copy(m, "slow")
	if err := slow.Commit(4); err != nil {
		t.Fatal(err)
	}
	if err := slow.Publish([]byte("next")); err != nil {
		t.Fatal(err)
	}
	if m := received(t, s); string(m) != "next" || s.Missed() != 0 {
		t.Fatal(string(m), s.Missed())
	}
	for i := range 8 {
		if err := slow.Publish([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
		if m := received(t, s); int(m[0]) != i || s.Missed() != 0 {
			t.Fatal(m, s.Missed())
		}
	}
}
