//go:build linux

package ring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sharedmem/shm/internal/layout"
)

// The algorithm over memory of the Go heap, where the race detector sees each access:
// payloads are plain memory, and nothing but the slots' words orders them.
func TestHeap(t *testing.T) {
	for _, o := range []Options{
		{Senders: One, Receivers: One}, {Senders: Many, Receivers: One}, {Senders: One, Receivers: Many}, {Senders: Many, Receivers: Many},
	} {
		for _, slots := range []int{2, 32} {
			t.Run(fmt.Sprintf("%v-%v-%d", o.Senders, o.Receivers, slots), func(t *testing.T) {
				o.SlotSize, o.Slots, o.MaxMessage, o.Participants = 16, slots, 32, 8
				heap(t, o)
			})
		}
	}
}

func onHeap(t *testing.T, o Options) (*Queue, []byte) {
	g, err := o.geometry()
	if err != nil {
		t.Fatal(err)
	}
	mem := layout.Bytes(make([]uint64, g.size()/8))
	if err := format(mem, g); err != nil {
		t.Fatal(err)
	}
	return overHeap(t, mem, 1<<8, func(uint64) bool { return true }), mem
}

func overHeap(t *testing.T, mem []byte, me uint64, alive func(uint64) bool) *Queue {
	c, _, err := newCore(mem)
	if err != nil {
		t.Fatal(err)
	}
	q := &Queue{core: c}
	q.party.Here(q.structure(), me, new(atomic.Uint32), alive)
	return q
}

func heap(t *testing.T, o Options) {
	q, _ := onHeap(t, o)
	ns, nr := 1, 1
	if !q.oneSender {
		ns = 3
	}
	if !q.oneReceiver {
		nr = 3
	}
	const each = 2000
	var senders, receivers sync.WaitGroup
	var sum atomic.Uint64
	for range nr {
		r, err := q.Receiver()
		if err != nil {
			t.Fatal(err)
		}
		receivers.Go(func() {
			for {
				err := r.Lease(func(p []byte) error {
					v := binary.LittleEndian.Uint64(p)
					for ; len(p) >= 8; p = p[8:] {
						if binary.LittleEndian.Uint64(p) != v {
							return fmt.Errorf("torn: %x", p)
						}
					}
					sum.Add(v)
					return nil
				})
				if errors.Is(err, io.EOF) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range ns {
		s, err := q.Sender()
		if err != nil {
			t.Fatal(err)
		}
		senders.Go(func() {
			var p [32]byte
			for i := range uint64(each) {
				n := 8 + 8*int(i%4)
				for k := 0; k < n; k += 8 {
					binary.LittleEndian.PutUint64(p[k:], i+1)
				}
				if err := s.Send(p[:n]); err != nil {
					t.Error(err)
					return
				}
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	senders.Wait()
	receivers.Wait()
	if want := uint64(ns) * each * (each + 1) / 2; sum.Load() != want {
		t.Errorf("%d, want %d", sum.Load(), want)
	}
}

// Laps are 32 bits: after 2³² of them all goes on, and in a direct ring after 2⁶⁴ slots.
func TestLapsWrap(t *testing.T) {
	for _, side := range []Side{One, Many} {
		q, _ := onHeap(t, Options{Senders: side, Receivers: side, SlotSize: 16, Slots: 4, MaxMessage: 64})
		// As if 2³²-3 laps had been.
		start := uint64(1<<32-3) * 4
		if q.direct {
			start = 1<<64 - 12
		}
		for i := range uint64(4) {
			q.words[q.slot(i)].Store(q.lap(start))
		}
		q.hdr.tail.Store(start)
		q.hdr.head.Store(start)
		s, err := q.Sender()
		if err != nil {
			t.Fatal(err)
		}
		r, err := q.Receiver()
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			p := make([]byte, 1+i%60)
			p[0] = byte(i)
			if ok, err := s.TrySend(p); !ok || err != nil {
				t.Fatal(i, ok, err)
			}
			var b [64]byte
			if n, ok, err := r.TryReceive(b[:]); n != len(p) || b[0] != byte(i) || !ok || err != nil {
				t.Fatal(i, n, ok, err)
			}
		}
	}
}

// Hints may be behind by laps: who comes finds where it is.
func TestHintsBehind(t *testing.T) {
	for _, side := range []Side{One, Many} {
		q, _ := onHeap(t, Options{Senders: Many, Receivers: side, SlotSize: 16, Slots: 4, MaxMessage: 48})
		for i := range 60 {
			s, err := q.Sender()
			if err != nil {
				t.Fatal(err)
			}
			r, err := q.Receiver()
			if err != nil {
				t.Fatal(err)
			}
			p := make([]byte, 1+i%48)
			p[0] = byte(i)
			for range 1 + i%2 {
				if ok, err := s.TrySend(p[:1+i%16]); !ok || err != nil {
					t.Fatal(i, ok, err)
				}
			}
			var b [64]byte
			for range 1 + i%2 {
				if n, ok, err := r.TryReceive(b[:]); n != 1+i%16 || b[0] != byte(i) || !ok || err != nil {
					t.Fatal(i, n, ok, err)
				}
			}
			if ok, err := s.TrySend(p); !ok || err != nil {
				t.Fatal(i, ok, err)
			}
			if n, ok, err := r.TryReceive(b[:]); n != len(p) || !ok || err != nil {
				t.Fatal(i, n, ok, err)
			}
			tail, head := q.hdr.tail.Load(), q.hdr.head.Load()
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if err := r.Close(); err != nil {
				t.Fatal(err)
			}
			if i < 6 { // as if they had died before they moved them
				q.hdr.tail.Store(min(tail, 1))
				q.hdr.head.Store(min(head, 1))
			}
		}
	}
}
