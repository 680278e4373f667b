//go:build linux

package topic_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/topic"
)

func create(t testing.TB, o topic.Options) *topic.Topic {
	t.Helper()
	tp, err := topic.Create(shmtest.Name(t), &o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = tp.Unlink()
		if err := tp.Close(); err != nil {
			t.Error(err)
		}
	})
	return tp
}

func publisherOf(t testing.TB, tp *topic.Topic) *topic.Publisher {
	t.Helper()
	p, err := tp.Publisher()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func subscriberOf(t testing.TB, tp *topic.Topic, from ...topic.From) *topic.Subscriber {
	t.Helper()
	s, err := tp.Subscriber(from...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustBe(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

// modes are all kinds of topics.
func modes(t *testing.T, run func(t *testing.T, o topic.Options)) {
	for _, p := range []topic.Policy{topic.Overwrite, topic.Wait} {
		for _, many := range []bool{false, true} {
			name := p.String() + "-one"
			if many {
				name = p.String() + "-many"
			}
			t.Run(name, func(t *testing.T) { run(t, topic.Options{Policy: p, ManyPublishers: many}) })
		}
	}
}

// message is of n bytes, with a publisher, a number and a sum over all of it.
func message(from, number uint32, n int) []byte {
	p := make([]byte, max(n, 16))
	for i := range p {
		p[i] = byte(uint32(i)*7 + number)
	}
	binary.LittleEndian.PutUint32(p, from)
	binary.LittleEndian.PutUint32(p[4:], number)
	binary.LittleEndian.PutUint32(p[8:], uint32(len(p)))
	binary.LittleEndian.PutUint32(p[12:], 0)
	binary.LittleEndian.PutUint32(p[12:], crc32.ChecksumIEEE(p))
	return p
}

// parse checks a message.
func parse(p []byte) (from, number uint32, err error) {
	if len(p) < 16 {
		return 0, 0, fmt.Errorf("a message of %d bytes", len(p))
	}
	c := bytes.Clone(p)
	sum := binary.LittleEndian.Uint32(c[12:])
	binary.LittleEndian.PutUint32(c[12:], 0)
	if int(binary.LittleEndian.Uint32(c[8:])) != len(c) || crc32.ChecksumIEEE(c) != sum {
		return 0, 0, fmt.Errorf("torn: %x", p)
	}
	return binary.LittleEndian.Uint32(c), binary.LittleEndian.Uint32(c[4:]), nil
}

// dull is what a topic should be: all messages that ever were, nil for what was given up.
type dull struct {
	t     *testing.T
	wait  bool
	slots int
	all   [][]byte
	gone  int // messages before are overwritten
	subs  []*dullSubscriber
}

type dullSubscriber struct {
	s              *topic.Subscriber
	pos            int
	skipped        int
	joined, begun  int
	received, lost int
}

// room tells whether the next message need not wait.
func (d *dull) room() bool {
	for _, s := range d.subs {
		if d.wait && s.pos+d.slots <= len(d.all) {
			return false
		}
	}
	return true
}

// claim is to overwrite what lies in the next message's place.
func (d *dull) claim() { d.gone = max(d.gone, len(d.all)+1-d.slots) }

// next moves s to what it is to receive next, and returns it.
func (d *dull) next(s *dullSubscriber) ([]byte, bool) {
	for s.pos < len(d.all) {
		switch {
		case s.pos < d.gone && s.pos < s.joined && s.begun == 0:
			s.pos++
		case s.pos < d.gone:
			// The tail is where the last message that is committed ends.
			to := max(len(d.all)-d.slots+d.slots/4, s.pos+1)
			s.skipped += to - s.pos
			s.lost += to - s.pos
			s.pos = to
		case d.all[s.pos] == nil:
			s.pos++
		default:
			return d.all[s.pos], true
		}
	}
	return nil, false
}

func (s *dullSubscriber) took() (missed uint64) {
	s.pos++
	s.begun = 1
	s.received++
	missed, s.skipped = uint64(s.skipped), 0
	return missed
}

// Random calls by one goroutine, beside a dull topic.
func TestModel(t *testing.T) {
	modes(t, func(t *testing.T, o topic.Options) {
		for seed := range uint64(60 / slower) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			o.SlotSize = 8 + 8*rnd.IntN(8)
			o.Slots = 2 << rnd.IntN(5)
			tp := create(t, o)
			model(t, rnd, tp)
			if t.Failed() {
				t.Fatal("seed", seed)
			}
		}
	})
}

func model(t *testing.T, rnd *rand.Rand, tp *topic.Topic) {
	o := tp.Options()
	np := 1
	if o.ManyPublishers {
		np = 3
	}
	d := &dull{t: t, wait: o.Policy == topic.Wait, slots: o.Slots}
	var ps []*topic.Publisher
	for range np {
		ps = append(ps, publisherOf(t, tp))
	}
	subscribe := func() {
		from := topic.From(rnd.IntN(3))
		s := &dullSubscriber{s: subscriberOf(t, tp, from), joined: len(d.all)}
		switch from {
		case topic.Now:
			s.pos = len(d.all)
		case topic.Newest:
			s.pos = len(d.all)
			for i := len(d.all); i > max(len(d.all)-d.slots, 0); i-- {
				if d.all[i-1] != nil || i-1 < d.gone {
					s.pos = i - 1
					break
				}
			}
		case topic.Oldest:
			s.pos = max(len(d.all)-d.slots, 0)
		}
		d.subs = append(d.subs, s)
	}
	for range 3 {
		subscribe()
	}
	number := byte(0)
	fresh := func() []byte {
		p := make([]byte, rnd.IntN(o.SlotSize+1))
		for i := range p {
			number++
			p[i] = number
		}
		return p
	}
	published := 0
	for step := range 500 {
		i, j := rnd.IntN(np), rnd.IntN(len(d.subs))
		p, s := ps[i], d.subs[j]
		switch rnd.IntN(9) {
		case 0, 1:
			m := fresh()
			want := d.room()
			ok, err := p.TryPublish(m)
			if err != nil || ok != want {
				t.Fatalf("step %d: TryPublish: %v %v, want %v", step, ok, err, want)
			}
			if ok {
				d.claim()
				d.all = append(d.all, m)
				published++
			}
		case 2:
			var ms [][]byte
			for range rnd.IntN(5) {
				if !d.room() {
					break
				}
				d.claim()
				ms = append(ms, fresh())
				d.all = append(d.all, ms[len(ms)-1])
				published++
			}
			if n, err := p.PublishBatch(ms); n != len(ms) || err != nil {
				t.Fatal(step, n, err)
			}
		case 3:
			m := fresh()
			want := d.room()
			r, err := p.TryReserve(len(m))
			if err != nil || (r != nil) != want {
				t.Fatalf("step %d: TryReserve of %d: %v %v", step, len(m), r != nil, err)
			}
			if r == nil {
				continue
			}
			d.claim()
			if _, err := p.TryPublish(nil); !errors.Is(err, topic.ErrBusy) {
				t.Fatal(err)
			}
			copy(r, m)
			if rnd.IntN(3) == 0 {
				if err := p.Abort(); err != nil {
					t.Fatal(err)
				}
				if o.ManyPublishers {
					d.all = append(d.all, nil)
				}
				continue
			}
			n := rnd.IntN(len(m) + 1)
			if err := p.Commit(n); err != nil {
				t.Fatal(err)
			}
			d.all = append(d.all, m[:n])
			published++
		case 4, 5, 6:
			want, some := d.next(s)
			buf := make([]byte, rnd.IntN(o.SlotSize+1))
			n, ok, err := s.s.TryReceive(buf)
			switch {
			case !some:
				if ok || err != nil {
					t.Fatal(step, ok, err)
				}
			case len(want) > len(buf):
				if !errors.Is(err, io.ErrShortBuffer) || ok {
					t.Fatal(step, ok, err)
				}
			case !ok || err != nil || !bytes.Equal(buf[:n], want):
				t.Fatalf("step %d: %v %v %x, want %x", step, ok, err, buf[:n], want)
			default:
				if missed := s.took(); s.s.Missed() != missed || s.s.Number() != uint64(s.pos) {
					t.Fatalf("step %d: %d missed, want %d; number %d, want %d", step, s.s.Missed(), missed, s.s.Number(), s.pos)
				}
			}
		case 7:
			want, some := d.next(s)
			if !some {
				nothing(t, s.s)
				continue
			}
			mine := errors.New("the caller's")
			if err := s.s.Lease(func(p []byte) error {
				if !bytes.Equal(p, want) {
					t.Fatalf("step %d: %x, want %x", step, p, want)
				}
				if _, _, err := s.s.TryReceive(nil); !errors.Is(err, topic.ErrBusy) {
					t.Fatal(err)
				}
				return mine
			}); !errors.Is(err, mine) || errors.Is(err, topic.ErrOverwritten) {
				t.Fatal(err)
			}
			if missed := s.took(); s.s.Missed() != missed {
				t.Fatalf("step %d: %d missed, want %d", step, s.s.Missed(), missed)
			}
		case 8:
			if _, some := d.next(s); !some {
				nothing(t, s.s)
				continue
			}
			bufs := make([][]byte, 1+rnd.IntN(4))
			n, err := s.s.ReceiveBatch(bufs)
			if err != nil || n == 0 {
				t.Fatal(err)
			}
			missed := uint64(0)
			for k := range n {
				want, _ := d.next(s)
				if !bytes.Equal(bufs[k], want) {
					t.Fatalf("step %d: %x, want %x", step, bufs[k], want)
				}
				missed += s.took()
			}
			if s.s.Missed() != missed {
				t.Fatalf("step %d: %d missed, want %d", step, s.s.Missed(), missed)
			}
			if n < len(bufs) {
				if _, more := d.next(s); more {
					t.Fatalf("step %d: %d of a batch of %d, and there are more", step, n, len(bufs))
				}
			}
		}
		// Now and then somebody leaves, and another comes.
		if rnd.IntN(20) == 0 {
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := p.TryPublish(nil); !errors.Is(err, os.ErrClosed) {
				t.Fatal(err)
			}
			ps[i] = publisherOf(t, tp)
		}
		if rnd.IntN(20) == 0 {
			if err := s.s.Close(); err != nil {
				t.Fatal(err)
			}
			d.subs = append(d.subs[:j], d.subs[j+1:]...)
			subscribe()
		}
	}
	for _, p := range ps {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range d.subs {
		for want, some := d.next(s); some; want, some = d.next(s) {
			buf := make([]byte, o.SlotSize)
			n, err := s.s.Receive(buf)
			if err != nil || !bytes.Equal(buf[:n], want) {
				t.Fatalf("%x %v, want %x", buf[:n], err, want)
			}
			s.took()
			if d.wait && s.lost != 0 && s.pos > s.joined+d.slots {
				t.Fatal("something was missed, and publishers wait")
			}
		}
		if _, err := s.s.Receive(nil); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	st, err := tp.Stats()
	if err != nil || st.Published != uint64(published) || st.Publishers != 0 || st.Subscribers != len(d.subs) || st.HighWater > 2*uint64(o.Slots) {
		t.Fatalf("%+v %v, want %d published", st, err, published)
	}
}

func nothing(t *testing.T, s *topic.Subscriber) {
	t.Helper()
	if n, ok, err := s.TryReceive(nil); ok || err != nil {
		t.Fatal(n, ok, err)
	}
}

// Goroutines with all ways of publishing and receiving at once: every message comes to each
// subscriber once, whole, in its publisher's order, or is among those missed.
func TestHammer(t *testing.T) {
	modes(t, func(t *testing.T, o topic.Options) {
		for _, w := range []topic.Waiting{topic.Adaptive, topic.Spin, topic.Sleep} {
			for _, slots := range []int{2, 64} {
				t.Run(fmt.Sprint(w, slots), func(t *testing.T) {
					o.Waiting, o.Slots, o.SlotSize = w, slots, 56
					hammer(t, create(t, o), 3000/slower)
				})
			}
		}
	})
}

func hammer(t *testing.T, tp *topic.Topic, each int) {
	shmtest.Deadline(t, shmtest.Patience)
	np, ns := 1, 3
	if tp.Options().ManyPublishers {
		np = 3
	}
	var publishers, subscribers sync.WaitGroup
	for i := range ns {
		s := subscriberOf(t, tp)
		subscribers.Go(func() {
			seen := newTally()
			if err := receiveAll(s, i, seen.take); !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			if tp.Options().Policy == topic.Wait && seen.missed != 0 {
				t.Errorf("%d missed, and publishers wait", seen.missed)
			}
			if n := seen.n + int(seen.missed); n != np*each && np == 1 || n < np*each {
				t.Errorf("%d came, %d missed, and %d were published", seen.n, seen.missed, np*each)
			}
		})
	}
	for i := range np {
		p := publisherOf(t, tp)
		publishers.Go(func() {
			if err := publishAll(p, uint32(i), each); err != nil {
				t.Error(err)
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	publishers.Wait()
	subscribers.Wait()
}

// tally is what a subscriber has seen.
type tally struct {
	last   map[uint32]int
	n      int
	missed uint64
}

func newTally() *tally { return &tally{last: map[uint32]int{}} }

func (c *tally) take(p []byte, missed uint64) error {
	if p == nil {
		c.missed += missed
		return nil
	}
	from, number, err := parse(p)
	if err != nil {
		return err
	}
	before, ok := c.last[from]
	if !ok {
		before = -1
	}
	if int(number) <= before {
		return fmt.Errorf("from %d came %d after %d", from, number, before)
	}
	if gap := int(number) - before - 1; gap > int(c.missed+missed) {
		return fmt.Errorf("from %d came %d after %d, and only %d were missed", from, number, before, c.missed+missed)
	}
	c.last[from] = int(number)
	c.n++
	c.missed += missed
	return nil
}

func publishAll(p *topic.Publisher, from uint32, n int) error {
	for i := 0; i < n; i++ {
		m := message(from, uint32(i), 16+i%35)
		var err error
		switch i % 4 {
		case 0:
			err = p.Publish(m)
		case 1:
			var r []byte
			if r, err = p.Reserve(len(m)); err == nil {
				err = p.Commit(copy(r, m))
			}
		case 2:
			batch := [][]byte{m}
			for ; len(batch) < 5 && i+1 < n; i++ {
				batch = append(batch, message(from, uint32(i+1), 16+i%35))
			}
			_, err = p.PublishBatch(batch)
		case 3:
			err = p.PublishContext(context.Background(), m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func receiveAll(s *topic.Subscriber, how int, take func([]byte, uint64) error) error {
	for ; ; how++ {
		if err := receiveOne(s, how, take); err != nil {
			return err
		}
	}
}

// receiveOne receives in one of several ways; take gets what came and what was missed.
func receiveOne(s *topic.Subscriber, how int, take func([]byte, uint64) error) error {
	buf := make([]byte, 128)
	switch how % 3 {
	case 0:
		n, err := s.Receive(buf)
		if err != nil {
			return err
		}
		return take(buf[:n], s.Missed())
	case 1:
		var m []byte
		err := s.Lease(func(p []byte) error { m = bytes.Clone(p); return nil })
		if errors.Is(err, topic.ErrOverwritten) {
			return take(nil, s.Missed()) // and this one itself, which the next Missed counts
		} else if err != nil {
			return err
		}
		return take(m, s.Missed())
	}
	bufs := make([][]byte, 5)
	n, err := s.ReceiveBatch(bufs)
	if err != nil {
		return err
	}
	for i, m := range bufs[:n] {
		missed := s.Missed()
		if i > 0 {
			missed = 0
		}
		if err := take(m, missed); err != nil {
			return err
		}
	}
	return nil
}

func TestOptions(t *testing.T) {
	tp := create(t, topic.Options{SlotSize: 60, Slots: 100, Policy: topic.Wait})
	if o := tp.Options(); o.SlotSize != 64 || o.Slots != 128 || o.Policy != topic.Wait || o.ManyPublishers || o.Participants != 64 {
		t.Errorf("%+v", o)
	}
	if _, err := topic.Create(tp.Name(), nil); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	_, err := topic.Open(tp.Name(), &topic.OpenOptions{Options: &topic.Options{SlotSize: 60, Slots: 100}})
	if mustBe(t, err, topic.ErrOptions); !strings.Contains(err.Error(), "Policy is Wait, not Overwrite") {
		t.Error(err)
	}
	_, err = topic.OpenOrCreate(tp.Name(), &topic.Options{SlotSize: 60, Policy: topic.Wait})
	if mustBe(t, err, topic.ErrOptions); !strings.Contains(err.Error(), "Slots is 128, not 1024") {
		t.Error(err)
	}
	again, err := topic.OpenOrCreate(tp.Name(), &topic.Options{SlotSize: 60, Slots: 100, Policy: topic.Wait})
	if err != nil {
		t.Fatal(err)
	}
	p := publisherOf(t, again)
	_, err = tp.Publisher()
	mustBe(t, err, topic.ErrTaken)
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	mustBe(t, p.Publish(nil), os.ErrClosed)
	p = publisherOf(t, tp)
	mustBe(t, p.Publish(make([]byte, 65)), shm.ErrSize)
	mustBe(t, p.Commit(0), topic.ErrNotReserved)
	mustBe(t, p.Abort(), topic.ErrNotReserved)
	if _, err := p.Reserve(10); err != nil {
		t.Fatal(err)
	}
	mustBe(t, p.Commit(11), shm.ErrSize)
	if err := p.Commit(10); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []topic.Options{
		{SlotSize: -1}, {Slots: -1}, {Slots: 1<<30 + 1}, {Participants: 1}, {Participants: 5000}, {SlotSize: 1 << 30, Slots: 1 << 30},
	} {
		_, err := topic.Create(shmtest.Name(t), &bad)
		mustBe(t, err, shm.ErrSize)
	}
	_, err = topic.Create(shmtest.Name(t), &topic.Options{Policy: 7})
	mustBe(t, err, errors.ErrUnsupported)
	_, err = tp.Subscriber(7)
	mustBe(t, err, errors.ErrUnsupported)
	_, err = topic.Open(tp.Name(), &topic.OpenOptions{Block: shm.OpenOptions{ReadOnly: true}})
	mustBe(t, err, fs.ErrPermission)
	few := create(t, topic.Options{Participants: 2})
	publisherOf(t, few)
	s := subscriberOf(t, few)
	_, err = few.Subscriber()
	mustBe(t, err, shm.ErrNoSpace)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	subscriberOf(t, few)
}

func TestEnds(t *testing.T) {
	modes(t, func(t *testing.T, o topic.Options) {
		o.Slots = 4
		tp := create(t, o)
		s, p := subscriberOf(t, tp), publisherOf(t, tp)
		buf := make([]byte, 48)
		expect := func(s *topic.Subscriber, want string) {
			t.Helper()
			if n, err := s.Receive(buf); err != nil || string(buf[:n]) != want {
				t.Fatalf("%q %v, want %q", buf[:n], err, want)
			}
		}
		for range 2 {
			if err := p.Publish([]byte("last")); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			expect(s, "last")
		}
		if _, err := s.Receive(buf); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if _, ok, err := s.TryReceive(buf); ok || !errors.Is(err, io.EOF) {
			t.Fatal(ok, err)
		}
		// Another publisher comes.
		p = publisherOf(t, tp)
		if err := p.Publish([]byte("more")); err != nil {
			t.Fatal(err)
		}
		expect(s, "more")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		// Nobody is there, and nobody waits.
		for i := range 10 {
			if err := p.Publish([]byte{'0' + byte(i)}); err != nil {
				t.Fatal(err)
			}
		}
		expect(subscriberOf(t, tp, topic.Oldest), "6")
		expect(subscriberOf(t, tp, topic.Newest), "9")
		now := subscriberOf(t, tp)
		if _, ok, err := now.TryReceive(buf); ok || err != nil {
			t.Fatal(ok, err)
		}
		fresh := create(t, o)
		for _, from := range []topic.From{topic.Now, topic.Newest, topic.Oldest} {
			if _, ok, err := subscriberOf(t, fresh, from).TryReceive(buf); ok || err != nil {
				t.Fatal(from, ok, err)
			}
		}
	})
}

// What is leased is overwritten meanwhile.
func TestOverwritten(t *testing.T) {
	tp := create(t, topic.Options{Slots: 4})
	p, s := publisherOf(t, tp), subscriberOf(t, tp)
	for i := range 4 {
		if err := p.Publish([]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	mine := errors.New("mine")
	err := s.Lease(func(m []byte) error {
		if m[0] != 0 {
			t.Error(m)
		}
		if err := p.Publish([]byte{4}); err != nil {
			t.Error(err)
		}
		return mine
	})
	mustBe(t, err, topic.ErrOverwritten)
	mustBe(t, err, mine)
	if m := received(t, s); m[0] != 1 || s.Missed() != 1 {
		t.Error(m, s.Missed())
	}
	// A panic in fn leaves the subscriber as it should be.
	func() {
		defer func() { _ = recover() }()
		_ = s.Lease(func([]byte) error { panic("fn") })
	}()
	if m := received(t, s); m[0] != 3 || s.Missed() != 1 {
		t.Error(m, s.Missed())
	}
}

func received(t *testing.T, s *topic.Subscriber) []byte {
	t.Helper()
	buf := make([]byte, 64)
	n, err := s.Receive(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// Publishers that wait do so for the slowest, and until it is gone.
func TestSlowest(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	for _, many := range []bool{false, true} {
		tp := create(t, topic.Options{Policy: topic.Wait, Slots: 2, ManyPublishers: many})
		p, fast, slow := publisherOf(t, tp), subscriberOf(t, tp), subscriberOf(t, tp)
		for i := range 2 {
			if ok, err := p.TryPublish([]byte{byte(i)}); !ok || err != nil {
				t.Fatal(i, ok, err)
			}
			received(t, fast)
		}
		if ok, err := p.TryPublish(nil); ok || err != nil {
			t.Fatal(ok, err)
		}
		waits := goes(func() error { return p.Publish([]byte{2}) })
		received(t, slow)
		mustBe(t, <-waits, nil)
		waits = goes(func() error { return p.Publish([]byte{3}) })
		if err := slow.Close(); err != nil {
			t.Fatal(err)
		}
		mustBe(t, <-waits, nil)
		for i := range 2 {
			if m := received(t, fast); int(m[0]) != i+2 || fast.Missed() != 0 {
				t.Fatal(m)
			}
		}
	}
}

// Close, of whatever, and contexts end every wait, promptly.
func TestWaitsEnd(t *testing.T) {
	for _, w := range []topic.Waiting{topic.Adaptive, topic.Spin, topic.Sleep} {
		t.Run(fmt.Sprint(w), func(t *testing.T) {
			shmtest.Deadline(t, shmtest.Patience)
			tp := create(t, topic.Options{Slots: 2, Waiting: w, Policy: topic.Wait, ManyPublishers: true})
			type waits map[string]func(ctx context.Context) (end func() error, wait func() error)
			receives := waits{
				"receive": func(ctx context.Context) (func() error, func() error) {
					s := subscriberOf(t, tp)
					return s.Close, func() error { _, err := s.ReceiveContext(ctx, make([]byte, 48)); return err }
				},
				"batch": func(ctx context.Context) (func() error, func() error) {
					s := subscriberOf(t, tp)
					return s.Close, func() error { _, err := s.ReceiveBatchContext(ctx, make([][]byte, 2)); return err }
				},
				"lease": func(ctx context.Context) (func() error, func() error) {
					s := subscriberOf(t, tp)
					return s.Close, func() error { return s.LeaseContext(ctx, func([]byte) error { return nil }) }
				},
			}
			publishes := waits{
				"publish": func(ctx context.Context) (func() error, func() error) {
					p := publisherOf(t, tp)
					return p.Close, func() error { return p.PublishContext(ctx, nil) }
				},
				"batch": func(ctx context.Context) (func() error, func() error) {
					p := publisherOf(t, tp)
					return p.Close, func() error { _, err := p.PublishBatchContext(ctx, [][]byte{nil}); return err }
				},
				"reserve": func(ctx context.Context) (func() error, func() error) {
					p := publisherOf(t, tp)
					return p.Close, func() error { _, err := p.ReserveContext(ctx, 1); return err }
				},
			}
			run := func(waits waits) {
				for name, begin := range waits {
					ctx, cancel := context.WithCancel(context.Background())
					end, wait := begin(ctx)
					done := goes(wait)
					time.Sleep(time.Millisecond) // so that it likely sleeps; nothing depends on it
					cancel()
					if err := <-done; !errors.Is(err, context.Canceled) {
						t.Errorf("%s: %v", name, err)
					}
					if err := wait(); !errors.Is(err, context.Canceled) {
						t.Errorf("%s: %v", name, err)
					}
					if err := end(); err != nil {
						t.Error(err)
					}
					end, wait = begin(context.Background())
					done = goes(wait)
					time.Sleep(time.Millisecond)
					if err := end(); err != nil {
						t.Error(err)
					}
					if err := <-done; !errors.Is(err, os.ErrClosed) {
						t.Errorf("%s: %v", name, err)
					}
				}
			}
			p := publisherOf(t, tp)
			run(receives)
			// Of another Topic: Close ends all of its own at once, and who waits for a
			// subscriber may be told of that one's end first.
			other, err := topic.Open(tp.Name(), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			subscriberOf(t, other)
			s := subscriberOf(t, tp)
			for range 2 {
				if err := p.Publish(nil); err != nil {
					t.Fatal(err)
				}
			}
			run(publishes)
			full := goes(func() error { return p.Publish(nil) })
			time.Sleep(time.Millisecond)
			if err := tp.Close(); err != nil {
				t.Fatal(err)
			}
			mustBe(t, <-full, os.ErrClosed)
			_, err = s.Receive(nil)
			mustBe(t, err, os.ErrClosed)
			_, err = tp.Publisher()
			mustBe(t, err, os.ErrClosed)
			_, err = tp.Stats()
			mustBe(t, err, os.ErrClosed)
		})
	}
}

func goes(f func() error) chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

// Close of the Topic beside calls that never stop: no fault, and each ends.
func TestCloseBeside(t *testing.T) {
	for i := range 30 {
		tp := create(t, topic.Options{Slots: 8, ManyPublishers: true, Policy: topic.Policy(i % 2)})
		var wg sync.WaitGroup
		for range 2 {
			p, s := publisherOf(t, tp), subscriberOf(t, tp)
			wg.Go(func() {
				for p.Publish([]byte("x")) == nil {
				}
			})
			wg.Go(func() {
				for {
					err := s.Lease(func(p []byte) error { _ = p[0]; return nil })
					if err != nil && !errors.Is(err, topic.ErrOverwritten) {
						return
					}
				}
			})
		}
		time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
		if err := tp.Close(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		_ = tp.Unlink()
	}
}

func TestAll(t *testing.T) {
	modes(t, func(t *testing.T, o topic.Options) {
		o.Slots = 128
		tp := create(t, o)
		p, s := publisherOf(t, tp), subscriberOf(t, tp)
		go func() {
			for i := range 100 {
				if err := p.Publish([]byte{byte(i)}); err != nil {
					t.Error(err)
				}
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		}()
		n := 0
		for p, err := range s.All() {
			if err != nil || int(p[0]) != n {
				t.Fatal(p, err)
			}
			if n++; n == 50 {
				break
			}
		}
		for p, err := range s.All() {
			if err != nil || int(p[0]) != n {
				t.Fatal(p, err)
			}
			n++
		}
		if n != 100 {
			t.Fatal(n)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for _, err := range s.All() {
			mustBe(t, err, os.ErrClosed)
		}
	})
}

type point struct {
	X, Y float64
	N    int32
}

func TestTyped(t *testing.T) {
	tp := create(t, topic.Options{Slots: 4})
	if _, err := topic.Of[*int](tp); !errors.Is(err, shm.ErrFormat) {
		t.Error(err)
	}
	if _, err := topic.Of[[100]byte](tp); !errors.Is(err, shm.ErrSize) {
		t.Error(err)
	}
	points, err := topic.Of[point](tp)
	if err != nil {
		t.Fatal(err)
	}
	p, err := points.Publisher()
	if err != nil {
		t.Fatal(err)
	}
	s, err := points.Subscriber(topic.Oldest)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Publish(point{1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	if ok, err := p.TryPublish(point{4, 5, 6}); !ok || err != nil {
		t.Fatal(err)
	}
	if v, err := s.Receive(); v != (point{1, 2, 3}) || err != nil {
		t.Fatal(v, err)
	}
	if v, ok, err := s.TryReceive(); v != (point{4, 5, 6}) || !ok || err != nil {
		t.Fatal(v, err)
	}
	if v, ok, err := s.TryReceive(); ok || err != nil {
		t.Fatal(v, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := p.PublishContext(ctx, point{0, 1, 2}); err != nil {
		t.Fatal(err)
	}
	if v, err := s.ReceiveContext(ctx); v != (point{0, 1, 2}) || err != nil {
		t.Fatal(v, err)
	}
	cancel()
	if v, err := s.ReceiveContext(ctx); v != (point{}) || !errors.Is(err, context.Canceled) {
		t.Fatal(v, err)
	}
	if err := p.PublishContext(ctx, point{0, 1, 2}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	// What is no point is passed over, whether shorter or longer.
	for _, n := range []int{5, 48} {
		if err := p.Publisher.Publish(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		_, err = s.Receive()
		mustBe(t, err, shm.ErrFormat)
	}
	if err := errors.Join(p.Publish(point{7, 8, 9}), p.Close()); err != nil {
		t.Fatal(err)
	}
	for v, err := range s.All() {
		if v != (point{7, 8, 9}) || err != nil {
			t.Fatal(v, err)
		}
	}
}

func TestNotify(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	modes(t, func(t *testing.T, o topic.Options) {
		o.Slots = 2048 // so that none is missed
		tp := create(t, o)
		p, s := publisherOf(t, tp), subscriberOf(t, tp)
		f, err := s.Notify()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := s.Notify(); again != f || err != nil {
			t.Fatal(err)
		}
		go func() {
			for i := range 1000 {
				if err := p.Publish([]byte{byte(i)}); err != nil {
					t.Error(err)
				}
			}
			_ = p.Close()
		}()
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
		for n := 0; ; {
			if _, err := unix.Poll(fds, -1); err == unix.EINTR {
				continue
			} else if err != nil {
				t.Fatal(err)
			}
			var b [48]byte
			k, ok, err := s.TryReceive(b[:])
			for ; ok; k, ok, err = s.TryReceive(b[:]) {
				if k != 1 || b[0] != byte(n) {
					t.Fatal(k, b[0], n)
				}
				n++
			}
			if errors.Is(err, io.EOF) {
				if n != 1000 {
					t.Fatal(n)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestFormat(t *testing.T) {
	name := shmtest.Name(t)
	b, err := shm.Create(name, 8192, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	_, err = topic.Open(name, nil)
	mustBe(t, err, shm.ErrFormat)
	_, err = topic.Open(shmtest.Name(t), nil)
	mustBe(t, err, fs.ErrNotExist)
}
