package ring

import (
	"fmt"
	"math/bits"
	"sync/atomic"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/party"
	"github.com/sharedmem/shm/internal/step"
)

// What lies in shared memory; docs/format.md has the bytes.
const (
	magic   = "SHM\x00RING"
	version = 2

	headerSize = 4096
	entrySize  = 128
	slotHeader = 16 // a slot's word, and the length of the message
	line       = 64

	flagOneSender   = 1
	flagOneReceiver = 2
	flagDiscard     = 4
	flagFenced      = 8 // who is about to sleep has all participants pass a barrier
	flagsKnown      = 15

	maxSlots = 1 << 30
	maxParts = 1 << 12
	maxSpan  = 1<<16 - 1

	tableOffset = 128 // of header.Header
)

type header struct {
	magic    [8]byte
	version  uint32
	flags    uint32
	slotSize uint64
	slots    uint64
	stride   uint64
	limit    uint64 // bytes of the longest message
	parts    uint64 // entries in the table
	place    uint64 // where the leases are
	ready    step.Uint64
	_        [56]byte

	party.Header
	epoch step.Uint64 // counts recoveries after which there are messages behind the head
	again step.Uint64 // of a direct ring: a receiver that died may have had all before this position
	tally step.Uint64 // of a direct ring: what a recovery has a counter be, doubled and one; 0
	_     [24]byte

	// Hints, but in a direct ring. Each on its own line, as are the words to sleep on.
	tail step.Uint64
	_    [56]byte
	head step.Uint64
	_    [56]byte

	filled step.Uint32 // receivers sleep here
	_      [60]byte
	freed  step.Uint32 // senders sleep here
	_      [60]byte
}

// entry is one participant. Its counters go on from one owner to the next, so that the
// sum over the table is the ring's, whoever died when.
type entry struct {
	party.Entry

	// Only the owner writes these, with plain stores, on a line that nobody else reads
	// but for statistics.
	seen        step.Uint64 // of a single receiver: it may have read all before this position
	sent        step.Uint64
	received    step.Uint64
	waits       step.Uint64
	high        step.Uint64
	lost        step.Uint64
	redelivered step.Uint64
	_           [8]byte
}

const (
	sender   = party.Giver
	receiver = party.Taker
)

// A slot's word is, from the top,
//
//	32 bits  lap: how often the slot has been used up, modulo 2³²
//	16 bits  span: how many slots the message takes, this being the first
//	12 bits  the participant that is at work, by its place in the table
//	 1 bit   the message was given to a receiver that died
//	 3 bits  state
//
// One compare-and-swap so names the lap and the owner together: there is no
// instruction at which a slot is somebody's and nobody knows whose.
const (
	stateFree    = 0 // zeros are free in lap 0
	stateWriting = 1
	stateFull    = 2
	stateReading = 3
	stateVoid    = 4 // nothing there: its sender died, or thought better of it
	stateMask    = 7

	flagAgain = 8

	partShift = 4
	partMask  = (maxParts - 1) << partShift
	spanShift = 16
	spanMask  = maxSpan << spanShift
	lapShift  = 32
	lapMask   = 0xffffffff << lapShift
)

func spanOf(w uint64) int { return int(w & spanMask >> spanShift) }
func partOf(w uint64) int { return int(w & partMask >> partShift) }

// core is a ring in memory: what of the algorithm needs nothing but that.
type core struct {
	hdr     *header
	entries []entry
	words   []step.Uint64  // all slots; the word of slot i is words[i*step]
	bytes   []byte         // the same; of a direct ring the payloads
	low     *atomic.Uint32 // the half of hdr.table that futexes look at

	mask  uint64 // slots - 1
	shift uint   // position >> shift is the lap
	step  int    // words from slot to slot; of a direct ring they are lengths, and it is 1
	room  int    // bytes of payload in a slot
	limit int
	short int // bytes of the longest message that is quick: in one slot, and copied at once

	oneSender, oneReceiver, discard, fenced bool
	direct                                  bool // both are one: see direct.go
}

// geometry is what a header says, copied once and checked.
type geometry struct {
	flags                          uint32
	slotSize, slots, stride, limit uint64
	parts, place                   uint64
}

func (g *geometry) start() uint64 {
	return headerSize + (entrySize*g.parts+headerSize-1)&^(headerSize-1)
}

func (g *geometry) size() uint64 { return g.start() + g.lengths() + g.slots*g.stride }

func (g *geometry) direct() bool {
	return g.flags&(flagOneSender|flagOneReceiver) == flagOneSender|flagOneReceiver
}

// lengths is how many bytes a direct ring has before its payloads for their lengths.
func (g *geometry) lengths() uint64 {
	if !g.direct() {
		return 0
	}
	return (8*g.slots + line - 1) &^ (line - 1)
}

// check says what is wrong with a geometry, for a memory of size bytes.
func (g *geometry) check(size int) error {
	switch {
	case g.flags&^flagsKnown != 0:
		return fmt.Errorf("%w: a ring with flags %#x that this program does not know", shm.ErrFormat, g.flags)
	case g.slots < 2 || g.slots > maxSlots || bits.OnesCount64(g.slots) != 1:
		return fmt.Errorf("%w: %d slots", shm.ErrFormat, g.slots)
	case g.slotSize < 8 || g.slotSize > 1<<40 || g.slotSize%8 != 0 || g.stride != g.strideOf():
		return fmt.Errorf("%w: slots of %d bytes every %d bytes", shm.ErrFormat, g.slotSize, g.stride)
	case g.limit < 1 || (g.limit-1)/g.slotSize >= min(g.slots, maxSpan):
		return fmt.Errorf("%w: messages of %d bytes in %d slots of %d", shm.ErrFormat, g.limit, g.slots, g.slotSize)
	case g.parts < 2 || g.parts > maxParts:
		return fmt.Errorf("%w: %d participants", shm.ErrFormat, g.parts)
	case uint64(size) < g.start() || uint64(size)-g.start() < g.lengths() || g.slots > (uint64(size)-g.start()-g.lengths())/g.stride:
		return fmt.Errorf("%w: a ring of %d bytes in a block of %d", shm.ErrFormat, g.size(), size)
	}
	return nil
}

func (g *geometry) strideOf() uint64 {
	if g.direct() {
		return g.slotSize
	}
	return (slotHeader + g.slotSize + line - 1) &^ (line - 1)
}

// format makes a ring of fresh memory, all zeros.
func format(mem []byte, g geometry) error {
	if err := g.check(len(mem)); err != nil {
		return err
	}
	h, err := layout.At[header](mem, 0)
	if err != nil {
		return err
	}
	copy(h.magic[:], magic)
	h.version, h.flags = version, g.flags
	h.slotSize, h.slots, h.stride, h.limit = g.slotSize, g.slots, g.stride, g.limit
	h.parts, h.place = g.parts, g.place
	h.ready.Store(1)
	return nil
}

// newCore looks at the ring in mem.
func newCore(mem []byte) (*core, geometry, error) {
	var g geometry
	if len(mem) < headerSize {
		return nil, g, fmt.Errorf("%w: no ring: a block of %d bytes", shm.ErrFormat, len(mem))
	}
	h, err := layout.At[header](mem, 0)
	if err != nil {
		return nil, g, err
	}
	switch m, v := h.magic, h.version; {
	case string(m[:]) != magic:
		return nil, g, fmt.Errorf("%w: no ring", shm.ErrFormat)
	case v != version:
		return nil, g, fmt.Errorf("%w: a ring of version %d, this program knows %d; update the older program", shm.ErrFormat, v, version)
	case h.ready.Load() != 1:
		return nil, g, fmt.Errorf("%w: the ring is not complete", shm.ErrFormat)
	}
	g = geometry{flags: h.flags, slotSize: h.slotSize, slots: h.slots, stride: h.stride, limit: h.limit, parts: h.parts, place: h.place}
	if err := g.check(len(mem)); err != nil {
		return nil, g, err
	}
	c := &core{
		hdr: h, mask: g.slots - 1, shift: uint(bits.TrailingZeros64(g.slots)),
		step: int(g.stride / 8), room: int(g.slotSize), limit: int(g.limit),
		oneSender: g.flags&flagOneSender != 0, oneReceiver: g.flags&flagOneReceiver != 0, discard: g.flags&flagDiscard != 0,
		fenced: g.flags&flagFenced != 0, direct: g.direct(),
	}
	c.short = min(c.room, c.limit, piece)
	start, n := int(g.start()), int(g.slots*g.stride)
	payloads, words := start, n/8
	if c.direct {
		payloads, words, c.step = start+int(g.lengths()), int(g.slots), 1
	}
	if c.entries, err = layout.Slice[entry](mem, headerSize, int(g.parts)); err != nil {
		return nil, g, err
	}
	if c.words, err = layout.Slice[step.Uint64](mem, start, words); err != nil {
		return nil, g, err
	}
	if c.low, err = layout.At[atomic.Uint32](mem, tableOffset+layout.LowHalf); err != nil {
		return nil, g, err
	}
	c.bytes = mem[payloads : payloads+n : payloads+n]
	return c, g, nil
}

// lap returns the word of a slot that is free for position pos.
func (c *core) lap(pos uint64) uint64 { return pos >> c.shift << lapShift }

const nextLap = 1 << lapShift

// slot returns where in words the slot of pos begins.
func (c *core) slot(pos uint64) int { return int(pos&c.mask) * c.step }

// ahead tells how many laps the word w is ahead of position pos.
func (c *core) ahead(w, pos uint64) int32 {
	return int32(uint32(w>>lapShift) - uint32(pos>>c.shift))
}

// payload is the room in the slot that begins at word at.
func (c *core) payload(at int) []byte {
	from := at*8 + slotHeader
	return c.bytes[from : from+c.room : from+c.room]
}

// copyOut copies a message that begins at pos.
func (c *core) copyOut(pos uint64, buf []byte) {
	if c.direct {
		c.copyFrom(pos, buf)
		return
	}
	for ; len(buf) > 0; pos++ {
		n := copy(buf, c.payload(c.slot(pos)))
		buf = buf[n:]
	}
}

// span checks the span of a word that somebody else wrote.
func (c *core) span(w uint64) (uint64, error) {
	k := spanOf(w)
	if k < 1 || uint64(k) > c.mask+1 || w&stateMask > stateVoid {
		return 0, garbage("a slot's word", w)
	}
	return uint64(k), nil
}

func garbage(what string, w uint64) error {
	return fmt.Errorf("%w: %s is %#x", shm.ErrFormat, what, w)
}

// need returns how many slots a message of n bytes takes.
func (c *core) need(n int) int { return max(1, (n+c.room-1)/c.room) }

// free gives the slots of the message at pos back, the first one last: as long as it
// is not free nobody takes those behind it, whose words have not changed since they
// were free, and who dies in the middle leaves a whole message. w is what the first
// word has to be still.
func (c *core) free(pos, w uint64, span uint64) {
	for i := span - 1; i > 0; i-- {
		f := c.lap(pos + i)
		c.words[c.slot(pos+i)].CompareAndSwap(f, f+nextLap)
	}
	c.words[c.slot(pos)].CompareAndSwap(w, c.lap(pos)+nextLap)
}

// advance moves a hint forward to pos, not back.
func advance(hint *step.Uint64, pos uint64) {
	for {
		h := hint.Load()
		if int64(pos-h) <= 0 || hint.CompareAndSwap(h, pos) {
			return
		}
	}
}
