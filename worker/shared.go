package worker

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/platform/wait"
	"github.com/sharedmem/shm/ring"
)

// Jobs and results lie in a block of the worker's own, which docs/format.md describes: a ring
// of slots, in each a job and later, in its place, the result. A slot's word has the
// job's number in this block, and how far it is:
//
//	parent   free → queued            send: what the job is lies in the slot before that
//	parent   queued → withdrawn       withdraw, by a swap: either it or the child has the job
//	child    queued → begun           by a swap
//	child    begun → done             the result lies in the slot before that
//
// The child takes the slots in order, so a death is the matter of the one that has begun. The
// block is thrown away with the child, and nothing in it has to be mended.
//
// This is no package ring, as what is sent there cannot be taken back: jobs that wait
// behind a long one are given to workers that have nothing to do.
const (
	magic   = 0x0031_6b72_6f77_6d68 // "hmwork1\0"
	depth   = 16                    // slots, and so jobs on their way to one child
	stride  = 64<<10 + 128          // of the slots; no power of two, for the sake of caches
	headOff = 0
	wakeOff = 64
	slotOff = 128
	tailOff = slotOff + depth*stride // where the run-time writes why it crashed

	crashMax  = 64 << 10
	blockSize = tailOff + crashMax

	// A slot's words; the value's bytes follow.
	wordState  = 0
	wordFlags  = 1  // flagX, and above them how many descriptors come by the socket
	wordSize   = 2  // of the value: in the slot, or in the block that is the last descriptor
	wordExtra  = 3  // bytes of offers behind the value
	slotHeader = 32 // so a short value is in the cache line that has come for the state
	nameMax    = 255
)

const (
	flagBlock  = 1 << 0 // the value is in a block
	flagFailed = 1 << 1 // it is a Failure
	flagFiles  = 8      // shift of the number of descriptors
)

// A slot's state, below the job's number.
const (
	slotFree = iota
	slotQueued
	slotBegun
	slotDone
	slotWithdrawn
	stateBits = 3
	stateMask = 1<<stateBits - 1
)

// area is the block, on either side.
type area struct {
	block *shm.Block
	wake  *atomic.Uint32
	slots [depth]slot
	head  []atomic.Uint64
	crash []byte
}

type slot struct {
	words []atomic.Uint64
	data  []byte
}

func mapArea(b *shm.Block) (*area, error) {
	if b.Size() != blockSize {
		return nil, fmt.Errorf("%w: a block of %d bytes", ErrProtocol, b.Size())
	}
	p := b.Bytes()
	a := &area{block: b, crash: p[tailOff:]}
	var err error
	if a.wake, err = layout.At[atomic.Uint32](p, wakeOff); err != nil {
		return nil, err
	}
	if a.head, err = layout.Slice[atomic.Uint64](p, headOff, 4); err != nil {
		return nil, err
	}
	for i := range a.slots {
		off := slotOff + i*stride
		words, err := layout.Slice[atomic.Uint64](p, off, slotHeader/8)
		if err != nil {
			return nil, err
		}
		a.slots[i] = slot{words, p[off+slotHeader : off+stride]}
	}
	return a, nil
}

// newArea makes the block of a new child.
func newArea() (*area, error) {
	// Pages that no job ever needs are never occupied.
	b, err := shm.Anonymous(blockSize, &shm.CreateOptions{Sparse: true})
	if err != nil {
		return nil, err
	}
	a, err := mapArea(b)
	if err != nil {
		_ = b.Close()
		return nil, err
	}
	a.head[1].Store(depth)
	a.head[0].Store(magic)
	return a, nil
}

// openArea is newArea's counterpart in the child.
func openArea(f *os.File) (*area, error) {
	b, err := shm.FromFile(f, nil)
	if err != nil {
		return nil, err
	}
	a, err := mapArea(b)
	if err == nil && (a.head[0].Load() != magic || a.head[1].Load() != depth) {
		err = fmt.Errorf("%w: parent and child are not the same program", ErrProtocol)
	}
	return a, err
}

func (a *area) slot(seq uint64) *slot { return &a.slots[seq%depth] }

// put stores a message in a slot, but for its state. A value is where it is
// allowed to be: encoder.finish and fill see to it.
func (s *slot) put(name string, p *payload, flags uint64, extra []byte) bool {
	flags |= uint64(len(p.files)) << flagFiles
	b, n := s.data, 0
	if name != "" {
		b[0] = byte(len(name))
		n = 1 + copy(b[1:], name)
	}
	size := len(p.data)
	if p.block != nil {
		flags |= flagBlock
		size = p.size
	}
	if n+len(p.data)+len(extra) > len(b) {
		return false
	}
	n += copy(b[n:], p.data)
	copy(b[n:], extra)
	layout.StoreRelease(&s.words[wordFlags], flags)
	layout.StoreRelease(&s.words[wordSize], uint64(size))
	layout.StoreRelease(&s.words[wordExtra], uint64(len(extra)))
	return true
}

// message is what get found in a slot. Its bytes are the slot's.
type message struct {
	name  []byte
	data  []byte
	extra []byte
	size  int
	flags uint64
	files int
}

// get reads each word once, and believes none.
func (s *slot) get(named bool) (m message, err error) {
	m.flags = s.words[wordFlags].Load()
	size, extra := s.words[wordSize].Load(), s.words[wordExtra].Load()
	m.files = int(min(m.flags>>flagFiles, 1<<20))
	b := s.data
	if named {
		n := int(b[0])
		m.name, b = b[1:1+n], b[1+n:]
	}
	if m.flags&flagBlock != 0 {
		m.size = int(size)
		size = 0
		if m.size < 0 || m.files == 0 {
			return m, errData
		}
	}
	if size > uint64(len(b)) || extra > uint64(len(b))-size {
		return m, errData
	}
	m.data, m.extra = b[:size], b[size:size+extra]
	return m, nil
}

// sleepBit in a word to sleep on says that somebody does, or is about to; above it is
// counted how often they were woken. See package ring. All stores are barriers here.
const sleepBit = 1

// wakeUp wakes those who sleep on w, and reports whether any do.
func wakeUp(w *atomic.Uint32) bool {
	for {
		v := w.Load()
		if v&sleepBit == 0 {
			return false
		}
		if w.CompareAndSwap(v, (v+2)&^sleepBit) {
			crash.Point("worker:waking")
			wait.Wake(w, 1<<30)
			return true
		}
	}
}

// calm takes the bit away: nobody sleeps on w, or somebody else looks for him.
func calm(w *atomic.Uint32) {
	for v := w.Load(); v&sleepBit != 0 && !w.CompareAndSwap(v, v&^sleepBit); v = w.Load() {
	}
}

// drowse sets the bit and returns the value to sleep on, after one more look.
func drowse(w *atomic.Uint32) uint32 {
	for {
		v := w.Load()
		if v&sleepBit != 0 || w.CompareAndSwap(v, v|sleepBit) {
			return v | sleepBit
		}
	}
}

// bell is what a child rings that has left a result, in a block that all children of a
// parent have: a word on which a waiter sleeps, and one for the pump. One
// of them is woken, not both.
type bell struct {
	block      *shm.Block
	lead, pump *atomic.Uint32
}

const (
	bellSize = 4096
	leadOff  = 64
)

func (b *bell) ring() {
	if !wakeUp(b.lead) {
		wakeUp(b.pump)
	}
}

func newBell() (*bell, error) {
	b, err := shm.Anonymous(bellSize, nil)
	if err != nil {
		return nil, err
	}
	return bellIn(b)
}

func bellIn(b *shm.Block) (*bell, error) {
	pump, err := shm.At[atomic.Uint32](b, 0)
	if err == nil {
		var lead *atomic.Uint32
		if lead, err = shm.At[atomic.Uint32](b, leadOff); err == nil {
			return &bell{b, lead, pump}, nil
		}
	}
	_ = b.Close()
	return nil, err
}

// spinner decides how long to look before sleeping, as package ring's waiting does and for
// its reasons: for about twice as long as was of use lately, and now and then as long as waking
// takes.
type spinner struct {
	waiting ring.Waiting
	spins   int
	tries   int
	spun    int
}

const (
	looksMax = 2000 // some 25 ns each
	retry    = 16
)

var cores = runtime.NumCPU()

// limit is for how many looks to spin, -1 for ever.
func (s *spinner) limit() int {
	switch {
	case s.waiting == ring.Spin:
		return -1
	case s.waiting == ring.Sleep || cores < 2:
		return 0
	case s.tries%retry == 0:
		return looksMax
	}
	return min(2*s.spins+4, looksMax)
}

// found takes note that it was there after so many looks, and missed that it was not.
func (s *spinner) found(looks int) {
	if d := looks - s.spins; d > 0 {
		s.spins += (d + 1) / 2
	} else {
		s.spins += d / 8
	}
}

func (s *spinner) missed() {
	s.spins -= (s.spins + 3) / 4
	s.tries++
}

// pause lets some nanoseconds pass.
func (s *spinner) pause() {
	for i := range 8 {
		s.spun = i
	}
}

// Frames on the socket: a letter, a job's number in the block, descriptors perhaps.
const (
	frameHello  = 'H' // to the child; then JSON
	frameReady  = 'R' // to the parent
	frameFiles  = 'F' // descriptors of a job or a result
	frameCancel = 'C'
	frameTaken  = 'T' // a result's blocks are the parent's now
	frameStop   = 'S'
)

func frame(kind byte, seq uint64) []byte {
	return binary.LittleEndian.AppendUint64([]byte{kind}, seq)
}

// parseFrame returns 0 for what is none.
func parseFrame(b []byte) (kind byte, seq uint64) {
	if len(b) != 9 {
		return 0, 0
	}
	return b[0], binary.LittleEndian.Uint64(b[1:])
}

// hello is what a child is told first.
type hello struct {
	Version int
	Waiting ring.Waiting
}

const version = 1
