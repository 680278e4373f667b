package lease

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/sharedmem/shm/internal/platform/mem"
	"github.com/sharedmem/shm/internal/platform/wait"
)

// Pin returns an ID of this process that other processes can ask [Alive]
// about, and keeps it until release is called, whatever becomes of the blocks
// in the lease. The ID goes into words in shared memory, to say who is at work
// there; it is never 0 and never another process's.
//
// On Windows, which has no lease files, a named section stands for the lease:
// it exists as long as its process does.
func (l *Lease) Pin() (id uint64, release func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if mem.UnlinkIsNothing {
		id = newID()
		o, err := mem.New("", hidden(kindLease, id, 0), nil, 1, 0, 0)
		if err != nil {
			return 0, nil, err
		}
		return id, func() { _ = o.Close() }, nil
	}
	if err := l.open(); err != nil {
		return 0, nil, err
	}
	inc := l.inc
	inc.live++
	return inc.id, func() { l.unpin(inc) }, nil
}

// Alive tells whether the process that pinned id for dir lives. An ID that
// nobody ever had is a dead one's. The error says that it cannot be known:
// another user's lease cannot be looked at. fs.ErrPermission then.
func Alive(dir string, id uint64) (bool, error) {
	ldir := ""
	if !mem.UnlinkIsNothing {
		var err error
		if ldir, err = mem.LeaseDir(absolute(dir)); err != nil {
			return false, err
		}
	}
	o, err := mem.Open(ldir, hidden(kindLease, id, 0), true)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, mem.ErrNotRegular), errors.Is(err, mem.ErrEmpty):
		// A lease is complete and locked before it has its name, where the
		// system can do that; where it cannot, nobody knows its ID before.
		return false, nil
	case err != nil:
		return false, err
	}
	defer o.Close()
	if mem.UnlinkIsNothing {
		return true, nil
	}
	locked, err := o.Locked()
	for nap := 20 * time.Microsecond; err == nil && locked && ended(o); nap *= 2 {
		if nap > ending {
			return false, nil
		}
		// Not time.Sleep, to which a millisecond is the least if all is idle.
		_ = wait.Any(nap, wait.On{Word: new(atomic.Uint32), Private: true})
		locked, err = o.Locked()
	}
	return locked, err
}

// ending is how long a dead process's lock may last, once the kernel has said that
// its guard is dead: other threads of it may have some instructions to go. The lock
// drops with the last of them, unless a C library forked: then the child, which
// has every descriptor but not the guard, would keep its dead parent alive.
const ending = 10 * time.Millisecond

// ended tells whether o is the lease of a member (member.go) whose guard died.
func ended(o *mem.Object) bool {
	b, err := o.ReadAll(lifeOffset + 4)
	return err == nil && len(b) == lifeOffset+4 && binary.NativeEndian.Uint32(b[lifeOffset:])&wait.OwnerDied != 0
}

// Place identifies where the leases for dir lie. A process for which it is
// another one cannot be asked about, and cannot ask.
func Place(dir string) ([2]uint64, error) { return mem.Place(absolute(dir)) }

// AliveShort is Alive for whoever has room only for the upper half of an ID. Of
// two leases with the same half, one in four thousand million, it is enough that one lives.
func AliveShort(dir string, half uint32) (bool, error) {
	leases, _, err := scan(absolute(dir), nil)
	if err != nil {
		return true, err
	}
	for _, f := range leases {
		if uint32(f.id>>32) == half {
			if alive, err := Alive(dir, f.id); alive || err != nil {
				return alive, err
			}
		}
	}
	return false, nil
}
