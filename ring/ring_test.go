//go:build linux

package ring_test

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
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/ring"
)

func create(t testing.TB, o ring.Options) *ring.Queue {
	t.Helper()
	q, err := ring.Create(shmtest.Name(t), &o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = q.Unlink()
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	return q
}

func senderOf(t testing.TB, q *ring.Queue) *ring.Sender {
	t.Helper()
	s, err := q.Sender()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func receiverOf(t testing.TB, q *ring.Queue) *ring.Receiver {
	t.Helper()
	r, err := q.Receiver()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustBe(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

// modes are all combinations of sides.
func modes(t *testing.T, run func(t *testing.T, o ring.Options)) {
	for _, s := range []ring.Side{ring.One, ring.Many} {
		for _, r := range []ring.Side{ring.One, ring.Many} {
			t.Run(fmt.Sprintf("%v-%v", s, r), func(t *testing.T) { run(t, ring.Options{Senders: s, Receivers: r}) })
		}
	}
}

// message is of n bytes, with a sender, a number and a sum over all of it.
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

// Random calls by one goroutine, beside a dull queue.
func TestModel(t *testing.T) {
	modes(t, func(t *testing.T, o ring.Options) {
		for seed := range uint64(40 / slower) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			o.SlotSize = 8 + 8*rnd.IntN(8)
			o.Slots = 2 << rnd.IntN(4)
			o.MaxMessage = 1 + rnd.IntN(o.SlotSize*o.Slots)
			q := create(t, o)
			ns, nr := 1, 1
			if o.Senders == ring.Many {
				ns = 3
			}
			if o.Receivers == ring.Many {
				nr = 3
			}
			model(t, rnd, q, ns, nr)
		}
	})
}

func model(t *testing.T, rnd *rand.Rand, q *ring.Queue, ns, nr int) {
	o := q.Options()
	var ss []*ring.Sender
	var rs []*ring.Receiver
	for range ns {
		ss = append(ss, senderOf(t, q))
	}
	for range nr {
		rs = append(rs, receiverOf(t, q))
	}
	slots := func(n int) int { return max(1, (n+o.SlotSize-1)/o.SlotSize) }
	type kept struct {
		p     []byte
		slots int
		void  bool
	}
	var queue []kept
	used := func() (n int) {
		for _, k := range queue {
			n += k.slots
		}
		return n
	}
	pop := func() {
		for len(queue) > 0 && queue[0].void {
			queue = queue[1:]
		}
	}
	some := func() bool {
		return slices.ContainsFunc(queue, func(k kept) bool { return !k.void })
	}
	fits := func(n int) bool { return used()+slots(n) <= o.Slots }
	number := byte(0)
	fresh := func() []byte {
		p := make([]byte, rnd.IntN(o.MaxMessage+1))
		for i := range p {
			number++
			p[i] = number
		}
		return p
	}
	for step := range 400 {
		i, j := rnd.IntN(ns), rnd.IntN(nr)
		s, r := ss[i], rs[j]
		switch rnd.IntN(8) {
		case 0, 1:
			p := fresh()
			ok, err := s.TrySend(p)
			if err != nil || ok != fits(len(p)) {
				t.Fatalf("step %d: TrySend of %d: %v %v, %d used", step, len(p), ok, err, used())
			}
			if ok {
				queue = append(queue, kept{p, slots(len(p)), false})
			}
		case 2:
			var ps [][]byte
			for range rnd.IntN(3) {
				p := fresh()
				if !fits(len(p)) {
					break
				}
				ps = append(ps, p)
				queue = append(queue, kept{p, slots(len(p)), false})
			}
			if n, err := s.SendBatch(ps); n != len(ps) || err != nil {
				t.Fatal(step, n, err)
			}
		case 3:
			p := fresh()
			m, err := s.TryReserve(len(p))
			if err != nil || (m != nil) != fits(len(p)) {
				t.Fatalf("step %d: TryReserve of %d: %v %v", step, len(p), m != nil, err)
			}
			if m == nil {
				continue
			}
			if _, err := s.TrySend(nil); !errors.Is(err, ring.ErrBusy) {
				t.Fatal(err)
			}
			copy(m, p)
			if rnd.IntN(3) == 0 {
				if err := s.Abort(); err != nil {
					t.Fatal(err)
				}
				if o.Senders == ring.Many {
					queue = append(queue, kept{nil, slots(len(p)), true})
				}
				continue
			}
			n := rnd.IntN(len(p) + 1)
			if err := s.Commit(n); err != nil {
				t.Fatal(err)
			}
			k := slots(len(p))
			if o.Senders == ring.One && o.Receivers == ring.One {
				k = slots(n) // the others were never taken
			}
			queue = append(queue, kept{p[:n], k, false})
		case 4, 5:
			pop()
			buf := make([]byte, rnd.IntN(o.MaxMessage+1))
			n, ok, err := r.TryReceive(buf)
			switch {
			case len(queue) == 0:
				if ok || err != nil {
					t.Fatal(step, ok, err)
				}
			case len(queue[0].p) > len(buf):
				if !errors.Is(err, io.ErrShortBuffer) || ok {
					t.Fatal(step, ok, err)
				}
			case !ok || err != nil || !bytes.Equal(buf[:n], queue[0].p) || r.Redelivered():
				t.Fatalf("step %d: %v %v %x, want %x", step, ok, err, buf[:n], queue[0].p)
			default:
				queue = queue[1:]
			}
		case 6:
			if !some() {
				continue
			}
			pop()
			want := errors.New("the caller's")
			if err := r.Lease(func(p []byte) error {
				if !bytes.Equal(p, queue[0].p) {
					t.Fatalf("step %d: %x, want %x", step, p, queue[0].p)
				}
				if _, _, err := r.TryReceive(nil); !errors.Is(err, ring.ErrBusy) {
					t.Fatal(err)
				}
				return want
			}); !errors.Is(err, want) {
				t.Fatal(err)
			}
			queue = queue[1:]
		case 7:
			if !some() {
				continue
			}
			bufs := make([][]byte, 1+rnd.IntN(4))
			n, err := r.ReceiveBatch(bufs)
			if err != nil || n == 0 {
				t.Fatal(err)
			}
			for k := range n {
				pop()
				if !bytes.Equal(bufs[k], queue[0].p) {
					t.Fatalf("step %d: %x, want %x", step, bufs[k], queue[0].p)
				}
				queue = queue[1:]
			}
			if n < len(bufs) {
				if pop(); len(queue) > 0 {
					t.Fatalf("step %d: %d of a batch of %d, and there are more", step, n, len(bufs))
				}
			}
		}
		// Now and then somebody leaves, and another comes.
		if rnd.IntN(20) == 0 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := s.TrySend(nil); !errors.Is(err, os.ErrClosed) {
				t.Fatal(err)
			}
			ss[i] = senderOf(t, q)
		}
		if rnd.IntN(20) == 0 {
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			rs[j] = receiverOf(t, q)
		}
	}
	for _, s := range ss {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for pop(); len(queue) > 0; pop() {
		buf := make([]byte, o.MaxMessage)
		n, err := rs[0].Receive(buf)
		if err != nil || !bytes.Equal(buf[:n], queue[0].p) {
			t.Fatal(err)
		}
		queue = queue[1:]
	}
	if _, err := rs[0].Receive(nil); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	st, err := q.Stats()
	if err != nil || st.Sent != st.Received || st.Pending != 0 && nr == 1 || st.Senders != 0 || st.Receivers != nr {
		t.Fatalf("%+v %v", st, err)
	}
}

// Goroutines with all ways of sending and receiving at once: every message comes once,
// whole, and for each receiver in its sender's order.
func TestHammer(t *testing.T) {
	modes(t, func(t *testing.T, o ring.Options) {
		for _, w := range []ring.Waiting{ring.Adaptive, ring.Spin, ring.Sleep} {
			for _, slots := range []int{2, 64} {
				t.Run(fmt.Sprint(w, slots), func(t *testing.T) {
					o.Waiting, o.Slots, o.SlotSize, o.MaxMessage = w, slots, 32, 50
					hammer(t, create(t, o), 3000/slower)
				})
			}
		}
	})
}

func hammer(t *testing.T, q *ring.Queue, each int) {
	shmtest.Deadline(t, shmtest.Patience)
	o := q.Options()
	ns, nr := 1, 1
	if o.Senders == ring.Many {
		ns = 3
	}
	if o.Receivers == ring.Many {
		nr = 3
	}
	var senders, receivers sync.WaitGroup
	got := make([]atomic.Uint32, ns*each)
	var rs []*ring.Receiver
	for range nr {
		rs = append(rs, receiverOf(t, q))
	}
	for i := range ns {
		s := senderOf(t, q)
		senders.Go(func() {
			if err := sendAll(s, uint32(i), each); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	for i, r := range rs {
		receivers.Go(func() {
			last := map[uint32]int{}
			take := func(p []byte) error {
				from, number, err := parse(p)
				if err != nil {
					return err
				}
				if before, ok := last[from]; ok && int(number) <= before {
					return fmt.Errorf("from %d came %d after %d", from, number, before)
				}
				last[from] = int(number)
				if got[int(from)*each+int(number)].Add(1) != 1 {
					return fmt.Errorf("from %d came %d twice", from, number)
				}
				return nil
			}
			if err := receiveAll(r, i, take); !errors.Is(err, io.EOF) {
				t.Error(err)
			}
		})
	}
	senders.Wait()
	receivers.Wait()
	for i := range got {
		if got[i].Load() != 1 {
			t.Fatalf("message %d of sender %d is missing", i%each, i/each)
		}
	}
}

func sendAll(s *ring.Sender, from uint32, n int) error {
	for i := 0; i < n; i++ {
		p := message(from, uint32(i), 16+i%35)
		var err error
		switch i % 4 {
		case 0:
			err = s.Send(p)
		case 1:
			var m []byte
			if m, err = s.Reserve(len(p)); err == nil {
				err = s.Commit(copy(m, p))
			}
		case 2:
			batch := [][]byte{p}
			for ; len(batch) < 5 && i+1 < n; i++ {
				batch = append(batch, message(from, uint32(i+1), 16+i%35))
			}
			_, err = s.SendBatch(batch)
		case 3:
			err = s.SendContext(context.Background(), p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func receiveAll(r *ring.Receiver, how int, take func([]byte) error) error {
	buf := make([]byte, 64)
	bufs := make([][]byte, 7)
	for i := how; ; i++ {
		var n int
		var err error
		switch i % 3 {
		case 0:
			if n, err = r.Receive(buf); err == nil {
				err = take(buf[:n])
			}
		case 1:
			err = r.Lease(take)
		case 2:
			n, err = r.ReceiveBatch(bufs)
			for k := 0; k < n && err == nil; k++ {
				err = take(bufs[k])
			}
		}
		if err != nil {
			return err
		}
	}
}

func TestOptions(t *testing.T) {
	q := create(t, ring.Options{SlotSize: 60, Slots: 100, Senders: ring.One})
	if o := q.Options(); o.SlotSize != 64 || o.Slots != 128 || o.MaxMessage != 60 || o.Senders != ring.One || o.Receivers != ring.Many {
		t.Errorf("%+v", o)
	}
	if _, err := ring.Create(q.Name(), nil); !errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	_, err := ring.Open(q.Name(), &ring.OpenOptions{Options: &ring.Options{SlotSize: 60, Slots: 100}})
	if mustBe(t, err, ring.ErrOptions); !strings.Contains(err.Error(), "Senders is One, not Many") {
		t.Error(err)
	}
	_, err = ring.OpenOrCreate(q.Name(), &ring.Options{SlotSize: 60, Senders: ring.One})
	if mustBe(t, err, ring.ErrOptions); !strings.Contains(err.Error(), "Slots is 128, not 1024") {
		t.Error(err)
	}
	again, err := ring.OpenOrCreate(q.Name(), &ring.Options{SlotSize: 60, Slots: 100, Senders: ring.One})
	if err != nil {
		t.Fatal(err)
	}
	s := senderOf(t, again)
	_, err = q.Sender()
	mustBe(t, err, ring.ErrTaken)
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	mustBe(t, s.Send(nil), os.ErrClosed)
	senderOf(t, q)
	if err := senderClose(q); err == nil {
		t.Error("a second sender came")
	}
	for _, bad := range []ring.Options{
		{SlotSize: -1}, {Slots: -1}, {Slots: 1<<30 + 1}, {MaxMessage: -1}, {SlotSize: 8, Slots: 2, MaxMessage: 17}, {Participants: 1}, {Participants: 5000},
		{SlotSize: 1 << 30, Slots: 1 << 30},
	} {
		_, err := ring.Create(shmtest.Name(t), &bad)
		mustBe(t, err, shm.ErrSize)
	}
	_, err = ring.Create(shmtest.Name(t), &ring.Options{Senders: 7})
	mustBe(t, err, errors.ErrUnsupported)
	_, err = ring.Open(q.Name(), &ring.OpenOptions{Block: shm.OpenOptions{ReadOnly: true}})
	mustBe(t, err, fs.ErrPermission)
	few := create(t, ring.Options{Participants: 2})
	senderOf(t, few)
	r := receiverOf(t, few)
	_, err = few.Receiver()
	mustBe(t, err, shm.ErrNoSpace)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	receiverOf(t, few)
}

func senderClose(q *ring.Queue) error {
	s, err := q.Sender()
	if err == nil {
		return s.Close()
	}
	return err
}

func TestEnds(t *testing.T) {
	modes(t, func(t *testing.T, o ring.Options) {
		o.Slots = 2
		q := create(t, o)
		r, s := receiverOf(t, q), senderOf(t, q)
		buf := make([]byte, 48)
		for range 2 {
			if err := s.Send([]byte("last")); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if n, err := r.Receive(buf); err != nil || string(buf[:n]) != "last" {
				t.Fatal(err)
			}
		}
		if _, err := r.Receive(buf); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if _, ok, err := r.TryReceive(buf); ok || !errors.Is(err, io.EOF) {
			t.Fatal(ok, err)
		}
		// Another sender comes.
		s = senderOf(t, q)
		if err := s.Send([]byte("more")); err != nil {
			t.Fatal(err)
		}
		if n, err := r.Receive(buf); err != nil || string(buf[:n]) != "more" {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := s.Send([]byte("kept")); err != nil {
				t.Fatal(err)
			}
		}
		mustBe(t, s.Send(nil), io.ErrClosedPipe)
		_, err := s.TrySend(nil)
		mustBe(t, err, io.ErrClosedPipe)
		r = receiverOf(t, q)
		if n, err := r.Receive(buf); err != nil || string(buf[:n]) != "kept" {
			t.Fatal(err)
		}
	})
}

// Close, of whatever, and contexts end every wait, promptly.
func TestWaitsEnd(t *testing.T) {
	for _, w := range []ring.Waiting{ring.Adaptive, ring.Spin, ring.Sleep} {
		t.Run(fmt.Sprint(w), func(t *testing.T) {
			shmtest.Deadline(t, shmtest.Patience)
			q := create(t, ring.Options{Slots: 2, Waiting: w})
			waits := map[string]func(ctx context.Context) (end func() error, wait func() error){
				"receive": func(ctx context.Context) (func() error, func() error) {
					r := receiverOf(t, q)
					return r.Close, func() error { _, err := r.ReceiveContext(ctx, make([]byte, 48)); return err }
				},
				"lease": func(ctx context.Context) (func() error, func() error) {
					r := receiverOf(t, q)
					return r.Close, func() error { return r.LeaseContext(ctx, func([]byte) error { return nil }) }
				},
			}
			sends := map[string]func(ctx context.Context) (end func() error, wait func() error){
				"send": func(ctx context.Context) (func() error, func() error) {
					s := senderOf(t, q)
					return s.Close, func() error { return s.SendContext(ctx, nil) }
				},
				"reserve": func(ctx context.Context) (func() error, func() error) {
					s := senderOf(t, q)
					return s.Close, func() error { _, err := s.ReserveContext(ctx, 1); return err }
				},
			}
			run := func(waits map[string]func(context.Context) (func() error, func() error)) {
				for name, make := range waits {
					ctx, cancel := context.WithCancel(context.Background())
					end, wait := make(ctx)
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
					end, wait = make(context.Background())
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
			s := senderOf(t, q)
			run(waits)
			r := receiverOf(t, q)
			for range 2 {
				if err := s.Send(nil); err != nil {
					t.Fatal(err)
				}
			}
			run(sends)
			full := goes(func() error { return s.Send(nil) })
			time.Sleep(time.Millisecond)
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
			mustBe(t, <-full, os.ErrClosed)
			_, err := r.Receive(nil)
			mustBe(t, err, os.ErrClosed)
			_, err = q.Sender()
			mustBe(t, err, os.ErrClosed)
			_, err = q.Stats()
			mustBe(t, err, os.ErrClosed)
		})
	}
}

func goes(f func() error) chan error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return done
}

// Close of the Queue beside calls that never stop: no fault, and each ends.
func TestCloseBeside(t *testing.T) {
	for range 30 {
		q := create(t, ring.Options{Slots: 8})
		var wg sync.WaitGroup
		for range 2 {
			s, r := senderOf(t, q), receiverOf(t, q)
			wg.Go(func() {
				for s.Send([]byte("x")) == nil {
				}
			})
			wg.Go(func() {
				for r.Lease(func(p []byte) error { _ = p[0]; return nil }) == nil {
				}
			})
		}
		time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		_ = q.Unlink()
	}
}

func TestAll(t *testing.T) {
	q := create(t, ring.Options{Slots: 4})
	s, r := senderOf(t, q), receiverOf(t, q)
	go func() {
		for i := range 100 {
			if err := s.Send([]byte{byte(i)}); err != nil {
				t.Error(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	n := 0
	for p, err := range r.All() {
		if err != nil || int(p[0]) != n {
			t.Fatal(p, err)
		}
		if n++; n == 50 {
			break
		}
	}
	for p, err := range r.All() {
		if err != nil || int(p[0]) != n {
			t.Fatal(p, err)
		}
		n++
	}
	if n != 100 {
		t.Fatal(n)
	}
}

func TestTyped(t *testing.T) {
	type point struct {
		X, Y float64
		N    int32
	}
	q := create(t, ring.Options{Slots: 4})
	if _, err := ring.Of[*int](q); !errors.Is(err, shm.ErrFormat) {
		t.Error(err)
	}
	if _, err := ring.Of[[100]byte](q); !errors.Is(err, shm.ErrSize) {
		t.Error(err)
	}
	p, err := ring.Of[point](q)
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Sender()
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.Receiver()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(point{1, 2, 3}); err != nil {
		t.Fatal(err)
	}
	if ok, err := s.TrySend(point{4, 5, 6}); !ok || err != nil {
		t.Fatal(err)
	}
	if v, err := r.Receive(); v != (point{1, 2, 3}) || err != nil {
		t.Fatal(v, err)
	}
	if v, ok, err := r.TryReceive(); v != (point{4, 5, 6}) || !ok || err != nil {
		t.Fatal(v, err)
	}
	if v, ok, err := r.TryReceive(); ok || err != nil {
		t.Fatal(v, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.SendContext(ctx, point{0, 1, 2}); err != nil {
		t.Fatal(err)
	}
	if v, err := r.ReceiveContext(ctx); v != (point{0, 1, 2}) || err != nil {
		t.Fatal(v, err)
	}
	cancel()
	if v, err := r.ReceiveContext(ctx); v != (point{}) || !errors.Is(err, context.Canceled) {
		t.Fatal(v, err)
	}
	if err := s.SendContext(ctx, point{0, 1, 2}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	// What is no T is taken.
	for _, m := range []string{"short", strings.Repeat("long", 10), "short", strings.Repeat("long", 10)} {
		if err := s.Sender.Send([]byte(m)); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		_, err = r.Receive()
		mustBe(t, err, shm.ErrFormat)
		_, _, err = r.TryReceive()
		mustBe(t, err, shm.ErrFormat)
	}
	if err := errors.Join(s.Send(point{7, 8, 9}), s.Close()); err != nil {
		t.Fatal(err)
	}
	for v, err := range r.All() {
		if v != (point{7, 8, 9}) || err != nil {
			t.Fatal(v, err)
		}
	}
}

// A message of a mebibyte goes through a ring of small slots.
func TestLarge(t *testing.T) {
	modes(t, func(t *testing.T, o ring.Options) {
		o.SlotSize, o.Slots, o.MaxMessage = 1000, 2048, 1<<20
		q := create(t, o)
		s, r := senderOf(t, q), receiverOf(t, q)
		go func() {
			for i := range uint32(20) {
				if err := s.Send(message(1, i, 1<<20-int(i))); err != nil {
					t.Error(err)
				}
			}
			_ = s.Close()
		}()
		next := uint32(0)
		for p, err := range r.All() {
			if err != nil {
				t.Fatal(err)
			}
			if _, n, err := parse(p); n != next || err != nil {
				t.Fatal(n, err)
			}
			next++
		}
		if next != 20 {
			t.Fatal(next)
		}
		s = senderOf(t, q)
		mustBe(t, s.Send(make([]byte, 1<<20+1)), shm.ErrSize)
	})
}

func TestNotify(t *testing.T) {
	shmtest.Deadline(t, shmtest.Patience)
	q := create(t, ring.Options{Slots: 8})
	s, r := senderOf(t, q), receiverOf(t, q)
	f, err := r.Notify()
	if err != nil {
		t.Fatal(err)
	}
	if again, err := r.Notify(); again != f || err != nil {
		t.Fatal(err)
	}
	go func() {
		for i := range 1000 {
			if err := s.Send([]byte{byte(i)}); err != nil {
				t.Error(err)
			}
		}
		_ = s.Close()
	}()
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
	for n := 0; ; {
		if _, err := unix.Poll(fds, -1); err == unix.EINTR {
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		var b [48]byte
		k, ok, err := r.TryReceive(b[:])
		for ; ok; k, ok, err = r.TryReceive(b[:]) {
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
}

func TestFormat(t *testing.T) {
	name := shmtest.Name(t)
	b, err := shm.Create(name, 8192, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	_, err = ring.Open(name, nil)
	mustBe(t, err, shm.ErrFormat)
	_, err = ring.Open(shmtest.Name(t), nil)
	mustBe(t, err, fs.ErrNotExist)
}
