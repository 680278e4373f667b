package lock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/lease"
	"github.com/sharedmem/shm/internal/platform/wait"
)

// Info is what a [State] or [RWState] looked like at one moment.
type Info struct {
	Offset int    `json:"offset"` // in the block
	Kind   string `json:"kind"`   // "Mutex", "RWMutex", "Cond", "Event", "Barrier", "Once" or "Semaphore"

	// State says it in words:
	//
	//	Mutex, RWMutex  free; held; held for reading; held, not mended; owner
	//	                died; not recoverable
	//	Event           set; not set; the same with "automatic, " in front
	//	Once            not done; being done; owner died; done
	//	Barrier         2 of 5 have come; broken
	//	Semaphore       3 permits
	//	Cond            signalled 7 times
	State string `json:"state"`

	// Count is a number of permits, of those who have come to a Barrier, or of a
	// Cond's signals; Parties how many a Barrier is for.
	Count   int64 `json:"count,omitempty"`
	Parties int64 `json:"parties,omitempty"`

	// Holders are the processes that hold it, that of a dead owner if nobody has
	// taken over yet; of a Barrier those that take part and can be named. PID is 0 if the
	// lease is gone or cannot be read.
	Holders []shm.Owner `json:"holders,omitempty"`

	// Waiting says that a process waits, other than the holder, or did a moment ago.
	// It is not known of a Cond and of an Event.
	Waiting bool `json:"waiting,omitempty"`

	// Elsewhere says that those who use it have their leases in another place:
	// whether the Holders live cannot be known, and NewMutex and the like will refuse.
	Elsewhere bool `json:"elsewhere,omitempty"`
}

// scanned is how far Find looks, a bound on what a block can make it do.
const scanned = 1 << 20

// Describe says what is at byte off of the block, without taking part: it
// changes nothing, and a block opened read-only will do. What it says may be
// past when it returns.
//
// Errors: shm.ErrFormat if there is no State that was ever used, shm.ErrSize if off is
// not in the block or no multiple of 8, os.ErrClosed, shm.ErrTruncated,
// errors.ErrUnsupported where there are no locks.
func Describe(b *shm.Block, off int) (Info, error) {
	fail := func(err error) (Info, error) {
		return Info{}, &shm.Error{Op: "describe", Name: b.Name(), Err: err}
	}
	if err := wait.Supported(); err != nil {
		return fail(err)
	}
	if off < 0 || off%8 != 0 || off > b.Size()-stateSize {
		return fail(fmt.Errorf("%w: offset %d", shm.ErrSize, off))
	}
	var p [rwStateSize]byte
	n, err := b.ReadAt(p[:min(len(p), b.Size()-off)], int64(off))
	if err != nil && !errors.Is(err, io.EOF) {
		return Info{}, err
	}
	s, ok := parse(p[:n])
	if !ok {
		return fail(fmt.Errorf("%w: at offset %d is no lock that was ever used", shm.ErrFormat, off))
	}
	w := onlooker{place: placeIn(b), dir: b.Ref().Dir}
	return w.describe(s, off), nil
}

// Find describes the States in the first mebibyte of the block, wherever they
// lie, in order. It goes by their stamps, which other bytes could bear by
// chance or somebody's will: a guess for people, as [Describe] is.
//
// Errors: os.ErrClosed, shm.ErrTruncated, errors.ErrUnsupported where there are no locks.
func Find(b *shm.Block) ([]Info, error) {
	if err := wait.Supported(); err != nil {
		return nil, &shm.Error{Op: "look for locks", Name: b.Name(), Err: err}
	}
	p := make([]byte, min(scanned+rwStateSize, b.Size()))
	n, err := read(b, p)
	if err != nil {
		return nil, err
	}
	p = p[:n]
	w := onlooker{place: placeIn(b), dir: b.Ref().Dir}
	var out []Info
	for off := 0; off <= min(scanned, len(p)-stateSize); {
		s, ok := parse(p[off:min(len(p), off+rwStateSize)])
		if !ok || !s.plausible() {
			off += 8
			continue
		}
		out = append(out, w.describe(s, off))
		off += s.size()
	}
	return out, nil
}

// read copies the block's beginning. By its file if it has one: touching the
// holes of a Sparse block in memory would fill them.
func read(b *shm.Block, p []byte) (int, error) {
	if f, err := b.File(); err == nil {
		defer f.Close()
		if n, err := f.ReadAt(p, 0); err == nil || errors.Is(err, io.EOF) {
			return n, nil
		}
	}
	n, err := b.ReadAt(p, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

const (
	stateSize   = 64
	rwStateSize = 1024
)

// words is a State that was copied, so that each word is one and the same
// however often it is looked at. On 32-bit machines the copy may have two halves of
// different moments; then a holder has no name.
type words struct {
	kind   kind
	param  uint32
	word   uint64
	aux    uint64
	slots  [8]uint32
	place  uint64
	reader [rwSlots]uint64
}

// parse reads a State of at least 64 bytes. Not ok if there is none.
func parse(p []byte) (s words, ok bool) {
	ne := binary.NativeEndian
	if len(p) < stateSize {
		return s, false
	}
	stamp := ne.Uint64(p)
	s.kind, s.param = kind(stamp>>24), uint32(stamp>>32)
	if stamp&0xffff != stampMagic || stamp>>16&0xff != stampVersion || s.kind < kindMutex || s.kind > kindSemaphore {
		return s, false
	}
	s.word, s.aux, s.place = ne.Uint64(p[8:]), ne.Uint64(p[16:]), ne.Uint64(p[56:])
	for i := range s.slots {
		s.slots[i] = ne.Uint32(p[24+4*i:])
	}
	if s.kind != kindRW {
		return s, true
	}
	if len(p) < rwStateSize {
		return s, false
	}
	for i := range s.reader {
		s.reader[i] = ne.Uint64(p[rwHeader+8*i:])
	}
	return s, true
}

func (s *words) size() int {
	if s.kind == kindRW {
		return rwStateSize
	}
	return stateSize
}

// plausible tells a State from other bytes that begin alike: what its kind does
// not use is zero, and who stamped it left its place at once.
func (s *words) plausible() bool {
	high, aux, slots := s.word>>32 == 0, s.aux == 0, s.slots == [8]uint32{}
	switch s.kind {
	case kindMutex, kindOnce:
		high = true
	case kindRW:
		high, aux = true, s.aux <= 1
	case kindBarrier:
		high, slots = true, true
	}
	var param uint32
	switch s.kind {
	case kindEvent:
		param = 1
	case kindBarrier:
		param = 1 << 30
	case kindSemaphore:
		param = semMax
	}
	return high && aux && slots && s.param <= param && (s.place>>63 == 1 || s.place == 0 && s.word == 0)
}

// onlooker finds out who the holders are.
type onlooker struct {
	dir   string
	place uint64 // 0 if unknown

	// The leases, read once and kept by ID and by its upper half, as hostile bytes
	// name a hundred thousand.
	asked bool
	ids   map[uint64]shm.Owner
	short map[uint32]shm.Owner
}

func placeIn(b *shm.Block) uint64 {
	p, err := placeOf(b)
	if err != nil {
		return 0
	}
	return p
}

func (o *onlooker) ask() {
	if o.asked {
		return
	}
	o.asked, o.ids, o.short = true, map[uint64]shm.Owner{}, map[uint32]shm.Owner{}
	census, _ := lease.Census(o.dir) // without it nobody is known
	for _, l := range census {
		own := shm.Owner{PID: l.PID, Alive: l.Alive, Lease: l.Lease}
		o.ids[l.ID] = own
		if old := o.short[short(l.ID)]; !old.Alive {
			o.short[short(l.ID)] = own
		}
	}
}

// holder returns the owner in a word.
func (o *onlooker) holder(w uint64, elsewhere bool) shm.Owner {
	if !elsewhere {
		o.ask()
		if own, ok := o.ids[owner(w)]; ok {
			return own
		}
	}
	return shm.Owner{Lease: fmt.Sprintf("%016x", owner(w)), Alive: elsewhere}
}

func (o *onlooker) describe(s words, off int) Info {
	i := Info{Offset: off, Kind: s.kind.String()}
	i.Elsewhere = s.place != 0 && s.place != o.place
	low := uint32(s.word)
	switch s.kind {
	case kindMutex, kindRW, kindOnce:
		o.describeOwned(&i, s)
	case kindCond:
		i.Count = int64(low)
		i.State = fmt.Sprintf("signalled %d times", low)
	case kindEvent:
		i.State = "not set"
		if low&eventSet != 0 {
			i.State = "set"
		}
		if s.param == 1 {
			i.State = "automatic, " + i.State
		}
	case kindSemaphore:
		i.Count = max(0, int64(s.param)+int64(int32(low)>>1))
		i.State = fmt.Sprintf("%d permits", i.Count)
		i.Waiting = low&semWaiters != 0 && i.Count == 0
	case kindBarrier:
		i.Parties, i.Count = int64(s.param), int64(s.word>>32)
		i.State = fmt.Sprintf("%d of %d have come", i.Count, i.Parties)
		if low&barrierBroken != 0 {
			i.State = "broken"
		}
		i.Waiting = i.Count > 0
		for _, half := range s.slots {
			if half == 0 || i.Elsewhere {
				continue
			}
			o.ask()
			if own, ok := o.short[half]; ok {
				i.Holders = append(i.Holders, own)
			}
		}
	}
	return i
}

// describeOwned is for what has an owner in its word.
func (o *onlooker) describeOwned(i *Info, s words) {
	free, held, done := "free", "held", "not recoverable"
	if s.kind == kindOnce {
		free, held, done = "not done", "being done", "done"
	}
	i.State = free
	for _, r := range s.reader {
		i.Waiting = i.Waiting || r&slotWant != 0
		if r&slotHeld == 0 {
			continue
		}
		// The dead do not read: the next writer will clear their slots.
		if own := o.holder(r, i.Elsewhere); own.Alive {
			i.Holders = append(i.Holders, own)
		}
	}
	reading := len(i.Holders) > 0
	if reading {
		i.State = "held for reading"
	}
	w := s.word
	switch {
	case w == wordBroken:
		i.State, i.Holders, i.Waiting = done, nil, false
		return
	case owner(w) == 0:
		return
	}
	i.Waiting = i.Waiting || w&flagWaiters != 0
	own := o.holder(w, i.Elsewhere)
	switch {
	case !own.Alive && w&flagPending != 0 && w&flagDied == 0:
		return // it has written nothing; it is as if it had never been
	case !own.Alive:
		i.State = "owner died"
	case w&flagPending != 0 && reading:
		i.Waiting = true // the writer itself, for the readers to leave
		return
	case w&flagDied != 0 && s.kind != kindOnce:
		i.State = held + ", not mended"
	default:
		i.State = held
	}
	i.Holders = slices.Insert(i.Holders, 0, own)
}
