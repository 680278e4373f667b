// Package lease says who owns which block, so that what a dead process owned
// can be removed and nothing else ever is.
//
// Each process that owns blocks in a directory keeps one lease file there,
// under a hidden name, locked as long as the process lives: the kernel drops
// the lock at death, however it comes, and neither a reused PID nor a PID
// namespace can deceive it. The file is also a journal: a slot for each block,
// with its name and identity, written before the name appears.
//
// [Sweep] takes the lease of a dead process, removes those blocks that still
// are what the journal says, and then the lease. It believes a journal only
// about blocks of the user to whom the lease itself belongs, since anybody may
// put a file into the directory.
//
// Every other hidden name carries the lease's ID, so that it can be removed
// with it: the second links of kept names, names parked on the way to removal,
// and the temporary names of systems without O_TMPFILE.
package lease

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/platform/mem"
	"github.com/sharedmem/shm/internal/platform/proc"
)

// Hidden names: Prefix, kind, ID in 16 hex digits and, but for the lease
// itself, a number.
const (
	kindLease = "lease"
	kindKeep  = "keep" // a second link to the block of slot n
	kindGone  = "gone" // the block of slot n, on its way out
	kindNew   = "new"  // an object that has no name yet, number n
)

func hidden(kind string, id uint64, n int) string {
	s := fmt.Sprintf("%s%s.%016x", mem.Prefix, kind, id)
	if kind != kindLease {
		s += "." + strconv.Itoa(n)
	}
	return s
}

// parseHidden undoes hidden; not ok for any other name.
func parseHidden(name string) (kind string, id uint64, ok bool) {
	rest, ok := strings.CutPrefix(name, mem.Prefix)
	if !ok {
		return "", 0, false
	}
	part := strings.Split(rest, ".")
	if len(part) < 2 || len(part[1]) != 16 {
		return "", 0, false
	}
	id, err := strconv.ParseUint(part[1], 16, 64)
	switch part[0] {
	case kindLease:
		return kindLease, id, err == nil && len(part) == 2
	case kindKeep, kindGone, kindNew:
		return part[0], id, err == nil && len(part) == 3
	}
	return "", 0, false
}

// Lease is this process's lease in one directory. Its methods may be called
// by any goroutine.
type Lease struct {
	dir string // as the caller names it: where the blocks are

	mu    sync.Mutex
	inc   *incarnation
	seq   int     // numbers hidden names
	spare float64 // removals at once that are left
	spent time.Time
	timer *time.Timer
	tell  func(dir string, id uint64)

	spared atomic.Pointer[giver]
}

// incarnation is the lease file itself. A lease with nothing in it loses its
// file; the next file has another ID, so that whoever still looks at the old
// one does not take it for the new.
type incarnation struct {
	id    uint64
	dir   string // where the lease file is
	obj   *mem.Object
	bytes []byte
	live  int // slots in use, and pins
	free  []int
	next  int // first slot never used
}

var (
	leasesMu sync.Mutex
	leases   = map[string]*Lease{}
)

// For returns this process's lease for the blocks of dir. The first call for a
// directory sweeps it.
func For(dir string) *Lease {
	dir = absolute(dir)
	leasesMu.Lock()
	l := leases[dir]
	first := l == nil
	if first {
		l = &Lease{dir: dir, spare: maxSpare}
		leases[dir] = l
	}
	leasesMu.Unlock()
	if first {
		// What cannot be removed now (another user's, say) is no reason not to
		// create; Prune reports it.
		_, _ = Sweep(dir)
	}
	return l
}

// absolute makes dir good for a process whose working directory changes.
func absolute(dir string) string {
	if dir != "" {
		if abs, err := filepath.Abs(dir); err == nil {
			return abs
		}
	}
	return dir
}

// OnIncarnation calls f now if there is a lease file, and for each later one
// before anything is recorded in it. There is one f; it is called with the
// lease locked.
func (l *Lease) OnIncarnation(f func(dir string, id uint64)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tell = f
	if l.inc != nil {
		f(l.dir, l.inc.id)
	}
}

// Is tells whether id is that of this process's lease file.
func (l *Lease) Is(id uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.inc != nil && l.inc.id == id
}

// open makes sure that there is a lease file. Call with l.mu held.
func (l *Lease) open() error {
	if l.inc != nil {
		return nil
	}
	err := l.make()
	for try := 0; try < 3 && errors.Is(err, fs.ErrNotExist); try++ {
		// Without O_TMPFILE there is a moment before the lock in which a sweeper
		// takes the new file for a dead process's. It does so once.
		err = l.make()
	}
	return err
}

func (l *Lease) make() error {
	dir, err := mem.LeaseDir(l.dir)
	if err != nil {
		return err
	}
	id := newID()
	o, err := mem.New(dir, hidden(kindLease, id, 0), func() (string, error) { return hidden(kindNew, id, 0), nil }, firstSize, 0o600, 0)
	if err != nil {
		return err
	}
	// Nobody has it for long: where asking for a lock takes it for a moment, a
	// sweeper may be asking.
	err = o.LockWait()
	var p []byte
	if err == nil {
		p, err = o.Map(false)
	}
	if err != nil {
		o.Discard()
		return err
	}
	crash.Point("lease:locked")
	putHeader(p, Header{
		ID: id, PID: os.Getpid(), Namespace: proc.PIDNamespace(),
		Start: ownStart(), Created: time.Now().UnixNano(),
	})
	if err := o.Publish(hidden(kindLease, id, 0)); err != nil {
		_ = mem.Unmap(p)
		o.Discard()
		return err
	}
	crash.Point("lease:published")
	l.inc = &incarnation{id: id, dir: dir, obj: o, bytes: p}
	if l.tell != nil {
		l.tell(l.dir, id)
	}
	return nil
}

// ownStart tells this process from others that had its PID; 0 if unknown. Only
// people read it: liveness is the lock's matter.
var ownStart = sync.OnceValue(func() uint64 {
	t, err := proc.StartTime(os.Getpid())
	if err != nil {
		return 0
	}
	return t
})

// newID leaves the lowest four bits free, for those who put an ID into a word
// and want a flag beside it (packages lock and ring).
func newID() uint64 {
	var b [8]byte
	for {
		rand.Read(b[:]) // never fails since Go 1.24
		if id := binary.LittleEndian.Uint64(b[:]) &^ 0xf; id != 0 {
			return id
		}
	}
}

// Temp returns a hidden name for an object that is being made. It pins the
// lease until release is called, as a crash would leave the name behind.
func (l *Lease) Temp() (name string, release func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.open(); err != nil {
		return "", func() {}, err
	}
	inc := l.inc
	inc.live++
	l.seq++
	return hidden(kindNew, inc.id, l.seq), func() { l.unpin(inc) }, nil
}

// Slot is a block's place in the journal.
type Slot struct {
	l   *Lease
	inc *incarnation
	n   int // -1 once forgotten
}

// Record puts a block into the journal. From then on its name will be removed
// when this process dies, if it is still this block's.
func (l *Lease) Record(rec Record) (*Slot, error) { return l.record(rec, stateValid) }

func (l *Lease) record(rec Record, state uint32) (*Slot, error) {
	if err := rec.check(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.open(); err != nil {
		return nil, err
	}
	inc := l.inc
	n := inc.next
	if len(inc.free) > 0 {
		n = inc.free[len(inc.free)-1]
	}
	if err := inc.grow(n); err != nil {
		return nil, err
	}
	if n == inc.next {
		inc.next++
	} else {
		inc.free = inc.free[:len(inc.free)-1]
	}
	inc.live++
	putRecord(inc.slot(n), rec, state)
	return &Slot{l: l, inc: inc, n: n}, nil
}

// grow makes room for slot n. The mapping may move: nobody else in this
// process points into it.
func (inc *incarnation) grow(n int) error {
	size := int64(len(inc.bytes))
	need := slotOffset(n) + slotSize
	if int64(need) <= size {
		return nil
	}
	if size*2 > maxSize {
		return fmt.Errorf("this process owns %d blocks already, which is the limit: %w", n, mem.ErrNoSpace)
	}
	if err := inc.obj.Grow(size, size*2); err != nil {
		return err
	}
	inc.obj.Size = size * 2
	p, err := inc.obj.Map(false)
	if err != nil {
		return err
	}
	old := inc.bytes
	inc.bytes = p
	return mem.Unmap(old)
}

func (inc *incarnation) slot(n int) []byte {
	off := slotOffset(n)
	return inc.bytes[off : off+slotSize : off+slotSize]
}

// Keep returns the hidden name for the block's second link.
func (s *Slot) Keep() string { return hidden(kindKeep, s.inc.id, s.n) }

// Parking returns a hidden name for removing a block that this process does
// not own. It has no lease, so that any sweeper may remove it.
func Parking() string { return hidden(kindGone, newID(), 0) }

// Forget takes the block out of the journal. It may be called more than once.
func (s *Slot) Forget() {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	if s.n < 0 {
		return
	}
	clearRecord(s.inc.slot(s.n))
	crash.Point("forget:freed")
	s.inc.free = append(s.inc.free, s.n)
	s.n = -1
	s.l.release(s.inc)
}

func (l *Lease) unpin(inc *incarnation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.release(inc)
}

// A lease file without blocks is removed at once, so that a program that
// cleans up after itself leaves nothing. But making and removing it costs more
// than a small block, so a loop of create and unlink may do so only
// sparesPerSecond times a second; else it stays until it has been idle.
const (
	maxSpare        = 16
	sparesPerSecond = 50
	idle            = 50 * time.Millisecond
)

// release counts one use of inc less. Call with l.mu held.
func (l *Lease) release(inc *incarnation) {
	inc.live--
	if inc.live > 0 || l.inc != inc {
		return
	}
	now := time.Now()
	l.spare = min(maxSpare, l.spare+now.Sub(l.spent).Seconds()*sparesPerSecond)
	l.spent = now
	if l.spare >= 1 {
		l.spare--
		l.drop()
		return
	}
	if l.timer == nil {
		l.timer = time.AfterFunc(idle, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.timer = nil
			if l.inc != nil && l.inc.live == 0 {
				l.drop()
			}
		})
	}
}

// drop removes the lease file. Call with l.mu held and nothing in the journal.
func (l *Lease) drop() {
	inc := l.inc
	l.inc = nil
	// Only we and, after our death, a sweeper use this name.
	_ = mem.Unlink(inc.dir, hidden(kindLease, inc.id, 0))
	crash.Point("lease:unlinked")
	_ = mem.Unmap(inc.bytes)
	_ = inc.obj.Close()
}
