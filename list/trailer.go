package list

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/lease"
)

// Behind what Python knows of, at the next multiple of 8, lists made with
// Options.Exact or Concurrent have a trailer:
//
//	 0  8  "SHM\x00LIST"
//	 8  4  version, 1
//	12  4  flags: 1 exact, 2 concurrent
//	16  8  number of items
//	24  8  bytes of data
//	32 16  device and inode of the directory with the leases, or zero
//	48 16  zero
//	64     if concurrent: a record of 32 bytes for each item,
//	       then spare slots, laid out as the slots are
const (
	trailerMagic   = "SHM\x00LIST"
	trailerVersion = 1
	trailerHeader  = 64
	recordSize     = 32

	flagExact      = 1
	flagConcurrent = 2
)

// record guards one item of a concurrent list. Its value lies in the list, as
// Python knows it, and in the spare slot; phase says which of the two is whole:
//
//	even  the list's. The spare slot may be half written.
//	odd   the spare one. The list's may be half written.
//
// It only ever grows, by one. Who changes the item is its owner meanwhile:
//
//	owner = 0 → ID of its lease
//	spare slot, format, code = the new value
//	phase + 1                                   from here on the new value counts
//	list's slot, format, code = the same
//	phase + 1
//	owner = 0
//
// So wherever an owner dies, one whole value is there, the old or the new one,
// and readers, who never look at owner, have nothing to wait for. The next
// writer takes over from a dead owner by replacing its ID, and if phase is odd
// copies the spare slot again.
//
// A reader copies the value that counts and takes it only if phase has not
// changed: what it copied was not written to meanwhile, as an owner writes to the list's
// slot only while phase is odd, and to the spare one while it is even.
//
// Go's memory model knows nothing of other processes. What we rely on is that
// atomic operations order everything before a store and after a load, on amd64
// and arm64; and where that does not suffice it says so below.
type record struct {
	phase atomic.Uint64
	owner atomic.Uint64
	form  atomic.Uint64 // format and code that go with the spare slot
	code  atomic.Uint64
}

// trailer is what a List has of its trailer.
type trailer struct {
	concurrent bool
	records    []record
	spare      int // where the spare slots begin, in words

	pinning sync.Mutex
	id      atomic.Uint64 // of our lease; 0 before the first change
	unpin   func()        // nil as well
	dir     string        // of the block, and so of the leases
	place   [2]uint64     // where they have to be
}

// An empty list of 3.8's ends at byte 8; that it is empty shows in the zero where
// one of 3.9 has its first offset.
func trailerStart(s layout.ListShape) int { return max((s.End+7)&^7, 16) }

// trailerEnd is the size of a block with trailer; not ok beyond the address space.
func trailerEnd(s layout.ListShape, concurrent bool) (size int, ok bool) {
	size = trailerStart(s) + trailerHeader
	if concurrent {
		const most = int(^uint(0) >> 1)
		if s.Items > (most-size)/recordSize || s.DataLen > most-size-recordSize*s.Items {
			return 0, false
		}
		size += recordSize*s.Items + s.DataLen
	}
	return size, true
}

func (p *plan) writeTrailer(b []byte, dir string) error {
	t := b[trailerStart(p.shape):]
	copy(t, trailerMagic)
	flags := uint32(0)
	if p.exact {
		flags |= flagExact
	}
	if p.shared {
		flags |= flagConcurrent
	}
	binary.LittleEndian.PutUint32(t[8:], trailerVersion)
	binary.LittleEndian.PutUint32(t[12:], flags)
	binary.LittleEndian.PutUint64(t[16:], uint64(p.shape.Items))
	binary.LittleEndian.PutUint64(t[24:], uint64(p.shape.DataLen))
	// Records begin as zeros: phase even, nobody's.
	if !p.shared {
		return nil
	}
	place, err := lease.Place(dir)
	binary.LittleEndian.PutUint64(t[32:], place[0])
	binary.LittleEndian.PutUint64(t[40:], place[1])
	return err
}

// openTrailer looks for a trailer. Call within Do.
func (l *List) openTrailer() error {
	at := trailerStart(l.shape)
	if len(l.raw)-at < trailerHeader || string(l.raw[at:at+len(trailerMagic)]) != trailerMagic {
		return nil // Python's
	}
	t := l.raw[at:]
	version, flags := binary.LittleEndian.Uint32(t[8:]), binary.LittleEndian.Uint32(t[12:])
	// Writing to a list without knowing all its rules would break the others'.
	if version != trailerVersion || flags&^(flagExact|flagConcurrent) != 0 {
		return fmt.Errorf("%w: the list's trailer is of version %d with flags %#x, this program knows version %d: it is older than the one that made the list, or the block is damaged",
			shm.ErrFormat, version, flags, trailerVersion)
	}
	if binary.LittleEndian.Uint64(t[16:]) != uint64(l.shape.Items) || binary.LittleEndian.Uint64(t[24:]) != uint64(l.shape.DataLen) {
		return fmt.Errorf("%w: the list and its trailer differ in length", shm.ErrFormat)
	}
	end, ok := trailerEnd(l.shape, flags&flagConcurrent != 0)
	if !ok || end > len(l.raw) {
		return fmt.Errorf("%w: the list's trailer ends beyond the block", shm.ErrFormat)
	}
	l.exact = flags&flagExact != 0
	if flags&flagConcurrent == 0 {
		return nil
	}
	var err error
	if l.records, err = shm.Slice[record](l.block, at+trailerHeader, l.shape.Items); err != nil {
		return err
	}
	l.spare = (at + trailerHeader + recordSize*l.shape.Items) / 8
	l.place = [2]uint64{binary.LittleEndian.Uint64(t[32:]), binary.LittleEndian.Uint64(t[40:])}
	l.concurrent = true
	return nil
}

// me returns the ID that this process puts into owner. It pins a lease the first
// time, so that who only reads has none.
func (l *List) me() (uint64, error) {
	if id := l.id.Load(); id != 0 {
		return id, nil
	}
	l.pinning.Lock()
	defer l.pinning.Unlock()
	if id := l.id.Load(); id != 0 {
		return id, nil
	}
	// Who looks for leases elsewhere, because it got the block as a descriptor or
	// sees another file system there, would take the others for dead, and they it.
	switch place, err := lease.Place(l.dir); {
	case err != nil:
		return 0, fmt.Errorf("no lease to change items with: %w", err)
	case l.place != [2]uint64{} && place != l.place:
		return 0, fmt.Errorf("the list's processes have their leases elsewhere; open it by the name and directory it was made with: %w", errors.ErrUnsupported)
	}
	id, unpin, err := lease.For(l.dir).Pin()
	if err != nil {
		return 0, fmt.Errorf("no lease to change items with: %w", err)
	}
	l.unpin = unpin
	l.id.Store(id)
	return id, nil
}

// leave gives the lease back. Call when nothing can be changed any more.
func (l *List) leave() {
	l.pinning.Lock()
	defer l.pinning.Unlock()
	if l.unpin != nil {
		l.unpin()
		l.unpin = nil
	}
}

// change gives item i of a concurrent list the value that next returns, which
// may look at the present one in the list, or leaves it if that is not ok. It
// waits while others change the same item. Call within Do.
func (l *List) change(i int, next func() (v value, ok bool, err error)) error {
	lo, hi, err := l.slot(i)
	if err != nil {
		return err
	}
	if err := l.own(i, lo, hi); err != nil {
		return err
	}
	defer l.disown(i)
	v, ok, err := next()
	if !ok || err != nil {
		return err
	}
	format, err := v.format(l.words[l.form+i].Load(), hi-lo, l.exact)
	if err != nil {
		return err
	}
	if v.kind < kindText {
		hi = lo + 8 // Python leaves the rest alone, too
	}
	r := &l.records[i]
	v.put(l.slotBytes(l.spare, lo, hi))
	crash.Point("set:half-spare")
	layout.StoreRelease(&r.form, format)
	layout.StoreRelease(&r.code, uint64(v.kind.code()))
	crash.Point("set:spare")
	r.phase.Add(1) // pairs with the loads in readShared
	crash.Point("set:counts")
	l.settle(i, lo, hi)
	return nil
}

// settle brings what lies in the spare slot into the list. Call as the owner,
// with phase odd.
func (l *List) settle(i, lo, hi int) {
	r := &l.records[i]
	// phase became odd by an atomic store, but on arm64 plain stores may overtake
	// one. They do not overtake a load that acquires, nor that the atomic store.
	r.phase.Load()
	format, code := r.form.Load(), byte(r.code.Load())
	// In the order of store, for Python, which reads without looking at phase.
	if code == codeNil {
		l.raw[l.shape.Codes+i] = code
	}
	copy(l.slotBytes(l.data, lo, hi), l.slotBytes(l.spare, lo, hi))
	crash.Point("set:half")
	layout.StoreRelease(&l.words[l.form+i], format)
	l.raw[l.shape.Codes+i] = code
	crash.Point("set:copied")
	r.phase.Add(1) // pairs with the loads in readShared
}

// readShared is read for concurrent lists.
func (l *List) readShared(i, lo, hi int, want kinds, buf []byte) (value, []byte, error) {
	r := &l.records[i]
	for n := 0; ; n++ {
		phase := r.phase.Load()
		v, out, err := l.readPhase(i, lo, hi, phase, want, buf)
		// All that readPhase loaded it loaded atomically, so nothing of it can have
		// been loaded after this.
		if r.phase.Load() == phase {
			if err != nil && phase&1 == 0 && n < tries {
				// Python may be in the middle of changing it.
				if _, _, _, _, now := l.kind(i, hi-lo); now == nil {
					continue
				}
			}
			return v, out, err
		}
		if n < tries {
			continue
		}
		// Somebody changes a long item again and again, or is hostile.
		if l.readOnly {
			return value{}, buf, fmt.Errorf("%w all the time", ErrBusy)
		}
		if err := l.own(i, lo, hi); err != nil {
			return value{}, buf, err
		}
		defer l.disown(i)
		return l.readPhase(i, lo, hi, 0, want, buf)
	}
}

// readPhase reads what counts in a phase, if that lasts.
func (l *List) readPhase(i, lo, hi int, phase uint64, want kinds, buf []byte) (value, []byte, error) {
	var format uint64
	var code byte
	base := l.data
	if phase&1 == 0 {
		format = l.words[l.form+i].Load()
		var codes [8]byte // a byte cannot be loaded atomically
		putWord(codes[:], l.words[l.shape.Codes/8+i/8].Load())
		code = codes[i%8]
	} else {
		format, code = l.records[i].form.Load(), byte(l.records[i].code.Load())
		base = l.spare
	}
	k, size, err := kindOf(format, code, hi-lo)
	if err != nil || want&k.only() == 0 {
		return value{kind: k, form: format}, buf, err
	}
	words := l.words[base+lo/8 : base+hi/8]
	if k < kindText {
		return value{kind: k, word: words[0].Load()}, buf, nil
	}
	n := size
	if size == hi-lo { // else the length is exact
		for n > 0 && words[n/8-1].Load() == 0 {
			n -= 8
		}
	}
	out := buf
	for w := 0; w < (n+7)/8; w++ {
		out = appendWord(out, words[w].Load())
	}
	if len(out) > len(buf)+n {
		out = out[:len(buf)+n]
	}
	if size == hi-lo {
		out = out[:len(buf)+textLen(out[len(buf):])]
	}
	return value{kind: k, b: out[len(buf):]}, out, nil
}

// How long own waits for another process. It has the item for some hundred
// nanoseconds, unless it was interrupted in the middle. Whoever has it for
// longer than any machine is busy is stopped.
const patience = 5 * time.Second

// own makes this process the owner of an item, whose value then lies in the
// list. It ends with disown.
func (l *List) own(i, lo, hi int) error {
	me, err := l.me()
	if err != nil {
		return err
	}
	r := &l.records[i]
	if !r.owner.CompareAndSwap(0, me) {
		if err := l.await(r, me); err != nil {
			return err
		}
	}
	crash.Point("set:owned")
	if r.phase.Load()&1 != 0 { // the last owner died
		l.settle(i, lo, hi)
	}
	return nil
}

func (l *List) disown(i int) {
	crash.Point("set:done")
	l.records[i].owner.Store(0) // pairs with the compare-and-swap of the next one
}

// await waits until the item is nobody's, or a dead process's, and takes it.
func (l *List) await(r *record, me uint64) error {
	var since time.Time
	for n := 1; ; n++ {
		id := r.owner.Load()
		if id == 0 {
			if r.owner.CompareAndSwap(0, me) {
				return nil
			}
			continue
		}
		switch {
		case n < 100:
			// On another processor it takes no longer than this.
			continue
		case n < 200:
			// Its goroutine may be waiting for this one.
			runtime.Gosched()
			continue
		case since.IsZero():
			since = time.Now()
		case time.Since(since) > patience:
			return fmt.Errorf("%w for %v, now by that with the lease %016x; it may be stopped", ErrBusy, patience, id)
		}
		if l.block.Closed() {
			return os.ErrClosed
		}
		if id != me { // else another goroutine of this process, which lives as we do
			alive, err := lease.Alive(l.dir, id)
			if err == nil && !alive {
				crash.Point("set:dead-owner")
				if r.owner.CompareAndSwap(id, me) { // another heir may be faster
					return nil
				}
				continue
			}
		}
		// No futex, as this is no waiting for the work of others: the owner is in the
		// middle of storing some bytes and has lost its processor.
		time.Sleep(min(time.Duration(n-199)*10*time.Microsecond, time.Millisecond))
	}
}
