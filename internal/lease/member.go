package lease

import (
	"cmp"
	"errors"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/platform/mem"
	"github.com/sharedmem/shm/internal/platform/wait"
)

// Processes that wait for each other (packages lock and ring) are members of their
// directory, by two words in the header of their leases:
//
//	56  4  life: not zero while the process is a member. The kernel sets
//	       wait.OwnerDied when it dies.
//	60  4  bell: counts up, and is woken, when its process should look again at
//	       what it waits for.
//
// Whoever waits sleeps on its word and on its own bell. Members watch each other
// in a ring, ordered by the IDs of their leases: each has a thread, its guard,
// that sleeps on the next one's life. When that ends the guard rings everybody's
// bell, and each of those who wait finds out whether the dead one is what it waits
// for, or was to wake it. So a death between any two instructions of any member is
// noticed by all, and none has to know beforehand whose.
//
// The way not taken is to sleep on the life of the lock's owner: the owner changes
// while one sleeps, and nobody may be left who watches the last one; all would
// have to be woken with each change.
const (
	lifeOffset = 56
	bellOffset = 60
)

// Member is this process among those who wait for each other in a directory.
type Member struct {
	ID   uint64         // names this process in shared words; see [Alive]
	Bell *atomic.Uint32 // changes when somebody has died

	l     *Lease
	refs  int
	unpin func()
	own   *page
	stop  atomic.Bool
	done  chan struct{}
}

// page is the mapped lease of a member.
type page struct {
	id         uint64
	life, bell *atomic.Uint32
	bytes      []byte
}

func (p *page) close() { _ = mem.Unmap(p.bytes) }

func (p *page) ring() {
	p.bell.Add(1)
	wait.Wake(p.bell, 1<<30)
}

// members are this process's, by the leases.
var (
	membersMu sync.Mutex
	members   = map[*Lease]*Member{}
)

// Join makes this process a member of dir. Each Join needs one Leave; they count.
//
// Errors: errors.ErrUnsupported where the system has no such thing.
func Join(dir string) (*Member, error) {
	if err := wait.Supported(); err != nil {
		return nil, err
	}
	l := For(dir)
	membersMu.Lock()
	defer membersMu.Unlock()
	if m := members[l]; m != nil {
		m.refs++
		return m, nil
	}
	id, unpin, err := l.Pin()
	if err != nil {
		return nil, err
	}
	own, err := openPage(l.dir, id)
	if err != nil {
		unpin()
		return nil, err
	}
	m := &Member{ID: id, Bell: own.bell, l: l, refs: 1, unpin: unpin, own: own, done: make(chan struct{})}
	ready := make(chan struct{})
	go m.guard(ready)
	<-ready
	members[l] = m
	return m, nil
}

// Leave ends what Join began.
func (m *Member) Leave() {
	membersMu.Lock()
	defer membersMu.Unlock()
	if m.refs--; m.refs > 0 {
		return
	}
	delete(members, m.l)
	m.stop.Store(true)
	m.own.ring()
	<-m.done
	m.own.close()
	m.unpin()
}

// guard is the thread that this process's life hangs on, and that watches the
// next member's.
func (m *Member) guard(ready chan<- struct{}) {
	defer close(m.done)
	// Never unlocked: the thread ends with the goroutine, and its list with it.
	runtime.LockOSThread()
	// Without a robust list the others find out by their looking now and then.
	leave, _ := wait.Guard(m.own.life)
	// The member before this one has to watch us from now on, and learns it here.
	if before, _, err := m.neighbours(nil); err == nil && before != nil {
		before.ring()
		before.close()
	}
	close(ready)
	known := map[uint64]bool{} // members, true as long as they lived when last seen
	for {
		bell := m.own.bell.Load()
		if m.stop.Load() {
			break
		}
		before, next, err := m.neighbours(known)
		if before != nil {
			before.close()
		}
		on := []wait.On{{Word: m.own.bell, Value: bell}}
		if err == nil && next != nil {
			if life := next.life.Load(); life != 0 && life&wait.OwnerDied == 0 {
				on = append(on, wait.On{Word: next.life, Value: life})
			}
		}
		_ = wait.Any(0, on...)
		if next != nil {
			if next.life.Load()&wait.OwnerDied != 0 {
				// Who is told before the process's other threads are gone would take it for
				// alive, or wait for that one by one.
				_, _ = Alive(m.l.dir, next.id)
			}
			next.close()
		}
	}
	leave()
	wait.Wake(m.own.life, 1<<30)
}

// neighbours returns the living members before and after this one, nil if it is
// alone, for the caller to close. It rings for each death that known does not
// know of yet.
func (m *Member) neighbours(known map[uint64]bool) (before, next *page, err error) {
	leases, _, err := scan(m.l.dir, nil)
	if err != nil {
		return nil, nil, err
	}
	slices.SortFunc(leases, func(a, b found) int { return cmp.Compare(a.id, b.id) })
	var living []*page
	died, seen := false, map[uint64]bool{}
	for _, f := range leases {
		if f.id == m.ID {
			continue
		}
		p, err := openPage(m.l.dir, f.id)
		if err != nil {
			continue // another user's, or just gone
		}
		life := p.life.Load()
		alive := life != 0 && life&wait.OwnerDied == 0
		if alive {
			// The word may be from before a restart of the machine, or from a system
			// without robust lists.
			alive, err = Alive(m.l.dir, f.id)
			alive = alive || err != nil
		}
		seen[f.id] = true
		lived, old := known[f.id]
		died = died || !alive && life != 0 && (lived || !old)
		if known != nil {
			known[f.id] = alive
		}
		if alive {
			living = append(living, p)
		} else {
			p.close()
		}
	}
	for id, lived := range known {
		if !seen[id] {
			died = died || lived
			delete(known, id)
		}
	}
	// After the look, so that who is found alive in it and dies later has a guard
	// that knows it, and who is found dead is told of.
	if known != nil && died {
		for _, p := range living {
			p.ring()
		}
		m.own.bell.Add(1)
		wait.Wake(m.own.bell, 1<<30)
	}
	if len(living) == 0 {
		return nil, nil, nil
	}
	i, _ := slices.BinarySearchFunc(living, m.ID, func(p *page, id uint64) int { return cmp.Compare(p.id, id) })
	b, n := (i-1+len(living))%len(living), i%len(living)
	for k, p := range living {
		if k != b && k != n {
			p.close()
		}
	}
	before, next = living[b], living[n]
	if b == n {
		// One mapping each, as each is closed.
		if next, err = openPage(m.l.dir, before.id); err != nil {
			next = nil
		}
	}
	return before, next, nil
}

// openPage maps the lease id of dir.
func openPage(dir string, id uint64) (*page, error) {
	ldir, err := mem.LeaseDir(dir)
	if err != nil {
		return nil, err
	}
	o, err := mem.Open(ldir, hidden(kindLease, id, 0), false)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	// A file of another user's could be made shorter under us.
	if o.Size < firstSize || o.UID != os.Geteuid() {
		return nil, errors.New("no lease of ours")
	}
	b, err := o.Map(false)
	if err != nil {
		return nil, err
	}
	p := &page{id: id, bytes: b}
	if p.life, err = layout.At[atomic.Uint32](b, lifeOffset); err == nil {
		p.bell, err = layout.At[atomic.Uint32](b, bellOffset)
	}
	if err != nil || string(b[:8]) != magic {
		p.close()
		return nil, errors.Join(err, errors.New("no lease of ours"))
	}
	return p, nil
}
