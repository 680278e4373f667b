//go:build linux

package topic

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
// where publishers wait, payloads are plain memory, and nothing but the slots' words and
// the cursors orders them.
func TestHeap(t *testing.T) {
	for _, policy := range []Policy{Overwrite, Wait} {
		for _, many := range []bool{false, true} {
			for _, slots := range []int{2, 32} {
				t.Run(fmt.Sprintf("%v-%v-%d", policy, many, slots), func(t *testing.T) {
					heap(t, Options{SlotSize: 32, Slots: slots, Participants: 8, Policy: policy, ManyPublishers: many})
				})
			}
		}
	}
}

func onHeap(t *testing.T, o Options) *Topic {
	g, err := o.geometry()
	if err != nil {
		t.Fatal(err)
	}
	mem := layout.Bytes(make([]uint64, g.size()/8))
	if err := format(mem, g); err != nil {
		t.Fatal(err)
	}
	return overHeap(t, mem, 1<<8, func(uint64) bool { return true })
}

func overHeap(t *testing.T, mem []byte, me uint64, alive func(uint64) bool) *Topic {
	c, g, err := newCore(mem)
	if err != nil {
		t.Fatal(err)
	}
	tp := &Topic{core: c, options: g.options()}
	tp.party.Here(tp.structure(), me, new(atomic.Uint32), alive)
	return tp
}

func heap(t *testing.T, o Options) {
	tp := onHeap(t, o)
	np := 1
	if o.ManyPublishers {
		np = 3
	}
	const each = 2000
	var publishers, subscribers sync.WaitGroup
	for i := range 3 {
		s, err := tp.Subscriber()
		if err != nil {
			t.Fatal(err)
		}
		subscribers.Go(func() {
			var missed uint64
			n := 0
			whole := func(p []byte) error {
				n++
				v := binary.LittleEndian.Uint64(p)
				for ; len(p) >= 8; p = p[8:] {
					if binary.LittleEndian.Uint64(p) != v {
						return fmt.Errorf("torn: %x", p)
					}
				}
				return nil
			}
			var b [32]byte
			for k := i; ; k++ {
				var err error
				// In place only what nobody writes to.
				if o.Policy == Wait && k%2 == 0 {
					err = s.Lease(whole)
				} else {
					var m int
					if m, err = s.Receive(b[:]); err == nil {
						err = whole(b[:m])
					}
				}
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Error(err)
					return
				}
				missed += s.Missed()
			}
			if o.Policy == Wait && missed != 0 || n+int(missed) != np*each && np == 1 || n+int(missed) < np*each {
				t.Errorf("%d came, %d were missed of %d", n, missed, np*each)
			}
		})
	}
	for range np {
		p, err := tp.Publisher()
		if err != nil {
			t.Fatal(err)
		}
		publishers.Go(func() {
			var m [32]byte
			for i := range uint64(each) {
				n := 8 + 8*int(i%4)
				for k := 0; k < n; k += 8 {
					binary.LittleEndian.PutUint64(m[k:], i+1)
				}
				if err := p.Publish(m[:n]); err != nil {
					t.Error(err)
					return
				}
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	publishers.Wait()
	subscribers.Wait()
}

// A value that is set all the time is read whole, and never an older one after a newer.
func TestHeapLatest(t *testing.T) {
	l := &Latest{Topic: onHeap(t, Options{SlotSize: 64, Slots: 4, Participants: 4})}
	var set, get sync.WaitGroup
	var stop atomic.Bool
	for range 2 {
		get.Go(func() {
			last := uint64(0)
			var b [64]byte
			for !stop.Load() {
				n, version, err := l.Get(b[:])
				if err != nil || version < last || (n != 64) != (version == 0) {
					t.Error(n, version, last, err)
					return
				}
				last = version
				for k := 0; k < n; k += 8 {
					if v := binary.LittleEndian.Uint64(b[k:]); v != version {
						t.Errorf("version %d has %d", version, v)
						return
					}
				}
			}
		})
	}
	set.Go(func() {
		var b [64]byte
		for i := range uint64(5000) {
			for k := 0; k < 64; k += 8 {
				binary.LittleEndian.PutUint64(b[k:], i+1)
			}
			if err := l.Set(b[:]); err != nil {
				t.Error(err)
			}
		}
	})
	set.Wait()
	stop.Store(true)
	get.Wait()
}

// Laps are 48 bits: after 2⁴⁸ of them all goes on.
func TestLapsWrap(t *testing.T) {
	for _, o := range []Options{{}, {ManyPublishers: true}, {Policy: Wait}, {Policy: Wait, ManyPublishers: true}} {
		o.SlotSize, o.Slots = 16, 4
		tp := onHeap(t, o)
		// As if 2⁴⁸-3 laps had been.
		start := uint64(1<<48-3) * 4
		for i := range uint64(4) {
			tp.words[tp.slot(i)].Store(tp.lap(start-4) | stateVoid)
		}
		tp.hdr.tail.Store(start)
		p, err := tp.Publisher()
		if err != nil {
			t.Fatal(err)
		}
		s, err := tp.Subscriber()
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			if ok, err := p.TryPublish([]byte{byte(i)}); !ok || err != nil {
				t.Fatal(i, ok, err)
			}
			var b [16]byte
			if n, ok, err := s.TryReceive(b[:]); n != 1 || b[0] != byte(i) || !ok || err != nil || s.Missed() != 0 {
				t.Fatal(i, n, ok, err)
			}
		}
	}
}
