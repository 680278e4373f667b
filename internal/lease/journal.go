package lease

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/platform/mem"
)

// The file, little-endian. The header takes the room of one slot:
//
//	 0  8  "SHMLEASE"
//	 8  4  version, 1
//	12  4  size of a slot, 320
//	16  8  ID of the lease
//	24  8  PID of the owner, in its own PID namespace
//	32  8  inode of that namespace, 0 if unknown
//	40  8  start time of the owner in clock ticks since boot, 0 if unknown
//	48  8  when the file was made, nanoseconds since 1970
//	56  8  life and bell of a member (member.go), zero otherwise
//	64     zero up to 320
//
// then slots:
//
//	 0  4  state: 0 free, 1 valid, 2 valid and on its way to another lease or
//	       from one; stored last when filling, first when freeing
//	 4  4  CRC-32C of bytes 8 to 320, for those who read beside the owner
//	 8  8  device
//	16  8  inode
//	24  8  birth, nanoseconds since 1970, 0 if the file system does not know
//	32  4  flags: 1 tracked, 2 the name is kept by a second link
//	36  4  length of the name
//	40 280 the name, zero-padded
const (
	magic     = "SHMLEASE"
	version   = 1
	slotSize  = 320
	nameMax   = 255
	firstSize = 4096

	// maxSize bounds what anybody can make us read by putting a file into the
	// directory. It has room for 200 000 blocks of one process, three times as
	// many as Linux lets a process map.
	maxSize = 64 << 20
)

const (
	flagTracked = 1 << iota
	flagKeep
)

// The states of a slot. One that passes may be in a second living journal as
// well, and a sweep has to look before it removes the block.
const (
	stateFree = iota
	stateValid
	statePassing
)

func slotOffset(n int) int { return (n + 1) * slotSize }

// Header says whose lease it is.
type Header struct {
	ID        uint64
	PID       int
	Namespace uint64
	Start     uint64
	Created   int64
}

// Record is what the journal says of one block.
type Record struct {
	Name    string
	ID      mem.ID
	Tracked bool
	Keep    bool
}

// castagnoli is made when it is needed: it takes a third of a millisecond, which each worker would
// take longer to start.
var castagnoli = sync.OnceValue(func() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) })

func putHeader(b []byte, h Header) {
	le := binary.LittleEndian
	copy(b, magic)
	le.PutUint32(b[8:], version)
	le.PutUint32(b[12:], slotSize)
	le.PutUint64(b[16:], h.ID)
	le.PutUint64(b[24:], uint64(h.PID))
	le.PutUint64(b[32:], h.Namespace)
	le.PutUint64(b[40:], h.Start)
	le.PutUint64(b[48:], uint64(h.Created))
}

func (r Record) check() error {
	switch {
	case r.Name == "" || len(r.Name) > nameMax:
		return fmt.Errorf("lease: a name of %d bytes", len(r.Name))
	case strings.ContainsAny(r.Name, "/\x00") || r.Name == "." || r.Name == ".." || strings.HasPrefix(r.Name, mem.Prefix):
		return fmt.Errorf("lease: the name %q is no block's", r.Name)
	}
	return nil
}

// putRecord fills a free slot.
func putRecord(slot []byte, r Record, as uint32) {
	le := binary.LittleEndian
	le.PutUint64(slot[8:], r.ID.Dev)
	le.PutUint64(slot[16:], r.ID.Ino)
	le.PutUint64(slot[24:], uint64(r.ID.Birth))
	var flags uint32
	if r.Tracked {
		flags |= flagTracked
	}
	if r.Keep {
		flags |= flagKeep
	}
	le.PutUint32(slot[32:], flags)
	le.PutUint32(slot[36:], uint32(len(r.Name)))
	clear(slot[40+copy(slot[40:], r.Name):])
	le.PutUint32(slot[4:], crc32.Checksum(slot[8:], castagnoli()))
	crash.Point("record:filled")
	// Pairs with nothing: a sweeper reads when we are dead. Being atomic keeps
	// the compiler from moving the stores above below it.
	state(slot).Store(as)
	crash.Point("record:valid")
}

func clearRecord(slot []byte) { state(slot).Store(stateFree) }

// state is the slot's first word. Slots are at multiples of 8 of a page.
func state(slot []byte) *atomic.Uint32 {
	w, err := layout.At[atomic.Uint32](slot, 0)
	if err != nil {
		panic(err)
	}
	return w
}

var errJournal = errors.New("not a lease of ours, or of another version")

// decode reads a lease file that may be hostile, damaged or being written. It
// returns the records that hold; a damaged slot is passed over.
func decode(b []byte) (Header, []slotRecord, error) {
	h, err := decodeHeader(b)
	if err != nil {
		return h, nil, err
	}
	var out []slotRecord
	for n := 0; slotOffset(n)+slotSize <= len(b); n++ {
		if r, state := decodeSlot(b[slotOffset(n) : slotOffset(n)+slotSize]); state != stateFree {
			out = append(out, slotRecord{n, state == statePassing, r})
		}
	}
	return h, out, nil
}

func decodeHeader(b []byte) (Header, error) {
	le := binary.LittleEndian
	if len(b) < slotSize || string(b[:8]) != magic || le.Uint32(b[8:]) != version || le.Uint32(b[12:]) != slotSize {
		return Header{}, errJournal
	}
	return Header{
		ID: le.Uint64(b[16:]), PID: int(int32(le.Uint64(b[24:]))), Namespace: le.Uint64(b[32:]),
		Start: le.Uint64(b[40:]), Created: int64(le.Uint64(b[48:])),
	}, nil
}

// decodeSlot returns the state of a slot and what it says; a damaged one is
// free.
func decodeSlot(slot []byte) (Record, uint32) {
	le := binary.LittleEndian
	state, size := le.Uint32(slot), le.Uint32(slot[36:])
	if state != stateValid && state != statePassing || size > nameMax || le.Uint32(slot[4:]) != crc32.Checksum(slot[8:], castagnoli()) {
		return Record{}, stateFree
	}
	flags := le.Uint32(slot[32:])
	r := Record{
		Name:    string(slot[40 : 40+size]),
		ID:      mem.ID{Dev: le.Uint64(slot[8:]), Ino: le.Uint64(slot[16:]), Birth: int64(le.Uint64(slot[24:]))},
		Tracked: flags&flagTracked != 0,
		Keep:    flags&flagKeep != 0,
	}
	if r.check() != nil {
		return Record{}, stateFree
	}
	return r, state
}

type slotRecord struct {
	n       int
	passing bool
	Record
}
