package topic

import (
	"fmt"
	"math/bits"
	"sync/atomic"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/party"
	"github.com/sharedmem/shm/internal/step"
)

// What lies in shared memory; docs/format.md has the bytes.
const (
	magic   = "SHM\x00TOPC"
	version = 1

	headerSize = 4096
	entrySize  = 128
	slotHeader = 16 // a slot's word, and the length of the message
	line       = 64

	flagOne    = 1 // one publisher
	flagWait   = 2 // publishers wait for subscribers
	flagFenced = 8 // who is about to sleep has all participants pass a barrier
	flagsKnown = 11

	maxSlots = 1 << 30
	maxParts = 1 << 12

	tableOffset = 128 // of header.Header
)

type header struct {
	magic    [8]byte
	version  uint32
	flags    uint32
	slotSize uint64
	slots    uint64
	stride   uint64
	parts    uint64 // entries in the table
	place    uint64 // where the leases are
	_        [8]byte
	ready    step.Uint64
	_        [56]byte

	party.Header
	joins step.Uint64 // counts subscribers that came; publishers that wait then look again
	_     [40]byte

	// Each on its own line, as are the words to sleep on.
	tail step.Uint64
	_    [56]byte

	filled step.Uint32 // subscribers sleep here
	_      [60]byte
	freed  step.Uint32 // publishers sleep here
	_      [60]byte
}

// entry is one participant. Its counters go on from one owner to the next, so that the
// sum over the table is the topic's, whoever died when.
type entry struct {
	party.Entry

	// Only the owner writes these, with plain stores. Publishers that wait read the
	// cursor, when they seem to have come as far as they may.
	cursor    step.Uint64 // of a subscriber: it has done with all before
	published step.Uint64
	received  step.Uint64
	missed    step.Uint64
	waits     step.Uint64
	high      step.Uint64
	_         [16]byte
}

const (
	publisher  = party.Giver
	subscriber = party.Taker
)

// A slot's word is, from the top,
//
//	48 bits  lap: how often the slot has been claimed, modulo 2⁴⁸
//	12 bits  the publisher, by its place in the table
//	 1 bit   0
//	 3 bits  state
//
// One store or compare-and-swap so names the position and whose it is.
const (
	stateVoid    = 0 // nothing there; zeros are void in lap 0, which nobody reads
	stateWriting = 1
	stateFull    = 2
	stateBlocked = 3 // void, but who wrote there a lap ago may do so still
	stateMask    = 7

	partShift = 4
	partMask  = (maxParts - 1) << partShift
	lapShift  = 16
)

func partOf(w uint64) int { return int(w & partMask >> partShift) }

// core is a topic in memory: what of the algorithm needs nothing but that.
type core struct {
	hdr     *header
	entries []entry
	words   []step.Uint64  // all slots; the word of slot i is words[i*step]
	bytes   []byte         // the same
	low     *atomic.Uint32 // the half of the table's word that futexes look at

	mask  uint64 // slots - 1
	shift uint   // position >> shift is the lap, less 1
	step  int    // words from slot to slot
	room  int    // bytes of payload in a slot

	one, wait, fenced bool
}

// geometry is what a header says, copied once and checked.
type geometry struct {
	flags                   uint32
	slotSize, slots, stride uint64
	parts, place            uint64
}

func (g *geometry) start() uint64 {
	return headerSize + (entrySize*g.parts+headerSize-1)&^(headerSize-1)
}

func (g *geometry) size() uint64 { return g.start() + g.slots*g.stride }

// check says what is wrong with a geometry, for a memory of size bytes.
func (g *geometry) check(size int) error {
	switch {
	case g.flags&^flagsKnown != 0:
		return fmt.Errorf("%w: a topic with flags %#x that this program does not know", shm.ErrFormat, g.flags)
	case g.slots < 2 || g.slots > maxSlots || bits.OnesCount64(g.slots) != 1:
		return fmt.Errorf("%w: %d slots", shm.ErrFormat, g.slots)
	case g.slotSize < 8 || g.slotSize > 1<<40 || g.slotSize%8 != 0 || g.stride != strideOf(g.slotSize):
		return fmt.Errorf("%w: slots of %d bytes every %d bytes", shm.ErrFormat, g.slotSize, g.stride)
	case g.parts < 2 || g.parts > maxParts:
		return fmt.Errorf("%w: %d participants", shm.ErrFormat, g.parts)
	case uint64(size) < g.start() || g.slots > (uint64(size)-g.start())/g.stride:
		return fmt.Errorf("%w: a topic of %d bytes in a block of %d", shm.ErrFormat, g.size(), size)
	}
	return nil
}

func strideOf(slotSize uint64) uint64 { return (slotHeader + slotSize + line - 1) &^ (line - 1) }

// format makes a topic of fresh memory, all zeros.
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
	h.slotSize, h.slots, h.stride = g.slotSize, g.slots, g.stride
	h.parts, h.place = g.parts, g.place
	h.ready.Store(1)
	return nil
}

// newCore looks at the topic in mem.
func newCore(mem []byte) (*core, geometry, error) {
	var g geometry
	if len(mem) < headerSize {
		return nil, g, fmt.Errorf("%w: no topic: a block of %d bytes", shm.ErrFormat, len(mem))
	}
	h, err := layout.At[header](mem, 0)
	if err != nil {
		return nil, g, err
	}
	switch m, v := h.magic, h.version; {
	case string(m[:]) != magic:
		return nil, g, fmt.Errorf("%w: no topic", shm.ErrFormat)
	case v != version:
		return nil, g, fmt.Errorf("%w: a topic of version %d, this program knows %d; update the older program", shm.ErrFormat, v, version)
	case h.ready.Load() != 1:
		return nil, g, fmt.Errorf("%w: the topic is not complete", shm.ErrFormat)
	}
	g = geometry{flags: h.flags, slotSize: h.slotSize, slots: h.slots, stride: h.stride, parts: h.parts, place: h.place}
	if err := g.check(len(mem)); err != nil {
		return nil, g, err
	}
	c := &core{
		hdr: h, mask: g.slots - 1, shift: uint(bits.TrailingZeros64(g.slots)),
		step: int(g.stride / 8), room: int(g.slotSize),
		one: g.flags&flagOne != 0, wait: g.flags&flagWait != 0, fenced: g.flags&flagFenced != 0,
	}
	start, n := int(g.start()), int(g.slots*g.stride)
	if c.entries, err = layout.Slice[entry](mem, headerSize, int(g.parts)); err != nil {
		return nil, g, err
	}
	if c.words, err = layout.Slice[step.Uint64](mem, start, n/8); err != nil {
		return nil, g, err
	}
	if c.low, err = layout.At[atomic.Uint32](mem, tableOffset+layout.LowHalf); err != nil {
		return nil, g, err
	}
	c.bytes = mem[start : start+n : start+n]
	return c, g, nil
}

// lap returns position pos's lap, as a word has it.
func (c *core) lap(pos uint64) uint64 { return (pos>>c.shift + 1) << lapShift }

// slot returns where in words the slot of pos begins.
func (c *core) slot(pos uint64) int { return int(pos&c.mask) * c.step }

// ahead tells how many laps the word w is ahead of position pos.
func (c *core) ahead(w, pos uint64) int64 { return int64(w-c.lap(pos)) >> lapShift }

// payload is the room in the slot that begins at word at.
func (c *core) payload(at int) []byte {
	from := at*8 + slotHeader
	return c.bytes[from : from+c.room : from+c.room]
}

func garbage(what string, w uint64) error {
	return fmt.Errorf("%w: %s is %#x", shm.ErrFormat, what, w)
}

// patience is after how many steps of a search along the slots something is wrong.
func (c *core) patience() uint64 { return 2*c.mask + 1024 }

// tail returns the first position that nobody has claimed. While there are
// publishers it was that at some time during the call.
func (c *core) tail() (uint64, error) {
	t := c.hdr.tail.Load()
	for range c.patience() {
		w := c.words[c.slot(t)].Load()
		switch ahead := c.ahead(w, t); {
		case ahead == 0 && c.one && w&stateMask != stateFull:
			return t, nil // begun, and perhaps for ever
		case ahead >= 0:
			t++
		case ahead == -1:
			return t, nil
		default:
			return 0, garbage("the tail", t)
		}
		// The publishers are faster than this walk, but they tell where they are.
		if h := c.hdr.tail.Load(); int64(h-t) > 0 {
			t = h
			if c.one {
				return t, nil
			}
		}
	}
	return t, nil
}

// oldest returns the first position that may still be there if t is the tail.
func (c *core) oldest(t uint64) uint64 {
	if t <= c.mask {
		return 0
	}
	return t - c.mask - 1
}

// advance moves the tail forward to pos, not back.
func (c *core) advance(pos uint64) {
	hint := &c.hdr.tail
	for {
		h := hint.Load()
		if int64(pos-h) <= 0 || hint.CompareAndSwap(h, pos) {
			return
		}
	}
}

// void marks what a dead publisher was writing, one of many.
func (c *core) void(i int) {
	for at := 0; at < len(c.words); at += c.step {
		for {
			w := c.words[at].Load()
			if s := w & stateMask; s != stateWriting && s != stateBlocked || partOf(w) != i {
				break
			}
			// It may become blocked meanwhile, or blocked in the next lap, nothing else.
			if c.words[at].CompareAndSwap(w, w&^stateMask|stateVoid) {
				crash.Point("topic:voided")
				break
			}
		}
	}
}
