package shm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/lease"
	"github.com/sharedmem/shm/internal/platform/mem"
	"github.com/sharedmem/shm/internal/tracker"
)

// ErrOwned says that a living process owns the block.
var ErrOwned = errors.New("a living process owns the block")

// ownership is what this process has of a block that it owns. It outlives the
// Block's Close.
type ownership struct {
	slot   *lease.Slot     // nil if it is with Python's tracker
	python *tracker.Sender // nil if it is in our journal
	keep   *keeper         // nil unless the name is kept
}

// owned finds ownerships by name and identity: of a Block, or of a name to be
// unlinked.
var owned = struct {
	sync.Mutex
	m map[ownedKey]*ownership
}{m: map[ownedKey]*ownership{}}

type ownedKey struct {
	dir, name string
	id        mem.ID
}

func keyOf(dir, name string, id mem.ID) ownedKey {
	if dir != "" {
		if abs, err := filepath.Abs(dir); err == nil {
			dir = abs
		}
	}
	return ownedKey{dir, name, id}
}

// take removes and returns the ownership, nil if there is none.
func take(k ownedKey) *ownership {
	owned.Lock()
	defer owned.Unlock()
	own := owned.m[k]
	delete(owned.m, k)
	return own
}

// publishOwned gives obj its name with this process as its owner: the journal
// comes first, then the second link, then the name.
func publishOwned(b *Block, obj *mem.Object, o *CreateOptions, l *lease.Lease) error {
	own := &ownership{}
	var err error
	own.slot, err = l.Record(lease.Record{Name: b.name, ID: b.id, Tracked: o.Lifetime == Tracked, Keep: o.KeepName})
	if err != nil {
		return err
	}
	if o.KeepName {
		if own.keep, err = keepName(o.Dir, b.name, obj, own.slot.Keep()); err != nil {
			own.slot.Forget()
			return err
		}
		crash.Point("create:kept")
	}
	if err := publish(obj, b.name); err != nil {
		own.drop(b.name)
		return err
	}
	if own.keep != nil {
		own.keep.start()
	}
	owned.Lock()
	owned.m[keyOf(b.dir, b.name, b.id)] = own
	owned.Unlock()
	return nil
}

// drop ends the ownership and leaves the block's name alone.
func (own *ownership) drop(name string) {
	if own.keep != nil {
		own.keep.stop()
	}
	own.forget(name)
}

// forget takes the block off the list of what is removed after our death.
func (own *ownership) forget(name string) {
	if own.python != nil {
		_ = own.python.Send(tracker.Unregister, name) // a dead one has forgotten it
		return
	}
	own.slot.Forget()
}

// unlinked is forget after an attempt to take the name away. If somebody else
// did so first, and told Python's tracker, that would complain of hearing it
// again.
func (own *ownership) unlinked(name string, removed bool) {
	if removed || own.python == nil {
		own.forget(name)
	}
}

// keeper restores a name that somebody else unlinks, from a second link.
type keeper struct {
	dir, name, hidden string
	watch             *mem.Watcher
	running           bool
	quit, done        chan struct{}
}

func keepName(dir, name string, obj *mem.Object, hidden string) (*keeper, error) {
	w, err := mem.Watch(dir, name, mem.Vanishes)
	if err != nil {
		return nil, fmt.Errorf("KeepName cannot watch the name: %w", err)
	}
	if err := obj.Link(hidden); err != nil {
		w.Stop()
		return nil, fmt.Errorf("KeepName: %w", err)
	}
	return &keeper{dir: dir, name: name, hidden: hidden, watch: w,
		quit: make(chan struct{}), done: make(chan struct{})}, nil
}

func (k *keeper) start() {
	k.running = true
	go func() {
		defer close(k.done)
		for {
			select {
			case <-k.quit:
				return
			case <-k.watch.C:
			}
			crash.Point("keep:vanished")
			// If another block has the name by now, it may keep it: its end will
			// wake us again.
			_ = mem.LinkFrom(k.dir, k.hidden, k.name)
		}
	}()
}

// stop returns when the name will not be restored any more.
func (k *keeper) stop() {
	close(k.quit)
	if k.running {
		<-k.done
	}
	k.watch.Stop()
	_ = mem.Unlink(k.dir, k.hidden)
	crash.Point("unlink:unkept")
}

// Unlink takes the block's name away, if it is still this block's; whoever has
// it open keeps the memory until Close. Any process that opened the block may
// call it, before or after Close. A name that its owner keeps (KeepName) comes
// back, unless the caller is the owner.
//
// Errors: fs.ErrNotExist if the name is gone or has passed to another block,
// fs.ErrPermission; errors.ErrUnsupported for an anonymous block. On Windows
// it does nothing and returns nil: a block goes with its last handle.
func (b *Block) Unlink() error {
	const op = "unlink"
	if b.anonymous {
		return wrap(op, "", errAnonymous)
	}
	if mem.UnlinkIsNothing {
		return nil
	}
	own := take(keyOf(b.dir, b.name, b.id))
	parking := ""
	if own == nil {
		parking = lease.Parking() // a bystander has to be more careful
	} else if own.keep != nil {
		own.keep.stop()
	}
	removed, err := mem.Remove(b.dir, b.name, b.id, parking)
	crash.Point("unlink:removed")
	if own != nil {
		own.unlinked(b.name, removed)
	}
	if err == nil && !removed {
		err = fs.ErrNotExist
	}
	return wrap(op, b.name, err)
}

// Disown gives the block up: nobody owns it then, and it stays until somebody
// adopts or unlinks it, as a Persistent one does. It may be called after Close.
// A child that has created a result disowns it and tells its parent the name,
// who adopts it.
//
// Errors: ErrOwned if another process owns it; fs.ErrNotExist if the name is
// gone; errors.ErrUnsupported for an anonymous block, and on Windows, where this
// process must keep the block open until the other one has it. Disowning what
// nobody owns does nothing.
func (b *Block) Disown() error {
	const op = "disown"
	if b.anonymous {
		return wrap(op, "", errAnonymous)
	}
	if mem.UnlinkIsNothing {
		return wrap(op, b.name, fmt.Errorf("a block goes with the last process that has it open: %w", errors.ErrUnsupported))
	}
	s, err := b.lookup()
	if err != nil {
		return wrap(op, b.name, err)
	}
	if own := take(keyOf(b.dir, b.name, b.id)); own != nil {
		mem.MarkName(b.dir, b.name, Persistent.String())
		own.drop(b.name)
		crash.Point("disown:forgotten")
		return nil
	}
	_, err = b.livingOwner(s)
	return wrap(op, b.name, err)
}

// Adopt makes this process the block's owner, as if it had created it with
// Lifetime Owned. It may be called after Close, and for any block of this
// user's that no living process of this library owns, one of Python's among
// them. Adopting what this process owns already does nothing.
//
// Errors: ErrOwned; fs.ErrNotExist if the name is gone or another block's;
// fs.ErrPermission for another user's block; errors.ErrUnsupported for an
// anonymous block.
func (b *Block) Adopt() error {
	const op = "adopt"
	if b.anonymous {
		return wrap(op, "", errAnonymous)
	}
	return wrap(op, b.name, b.adopt())
}

func (b *Block) adopt() error {
	if mem.UnlinkIsNothing {
		return nil // every holder keeps the block alive
	}
	k := keyOf(b.dir, b.name, b.id)
	owned.Lock()
	mine := owned.m[k] != nil
	owned.Unlock()
	if mine {
		return nil
	}
	if s, err := b.lookup(); err != nil {
		return err
	} else if euid := os.Geteuid(); s.UID != euid && euid != 0 && s.UID >= 0 {
		return fmt.Errorf("it is the user's with ID %d: %w", s.UID, fs.ErrPermission)
	}
	// Two processes that adopt at once must not both succeed: one of them gets
	// the lock on the block's memory. It is held for some microseconds only.
	obj, err := mem.Reopen(b.dir, b.name, b.id, false)
	if err != nil {
		return err
	}
	defer obj.Close()
	if ok, err := obj.Lock(); err != nil {
		return err
	} else if !ok {
		return fmt.Errorf("%w: another one is adopting it", ErrOwned)
	}
	l := lease.For(b.dir)
	living, dead, err := l.Claims(obj.Stat)
	if err == nil && living != nil {
		err = fmt.Errorf("%w: PID %d", ErrOwned, living.PID)
	}
	if err != nil {
		return err
	}
	slot, err := l.Record(lease.Record{Name: b.name, ID: b.id})
	if err != nil {
		return err
	}
	crash.Point("adopt:recorded")
	// A dead owner's journal may still name it, and its sweeper be at work.
	if dead {
		if err := l.Disclaim(b.id); err != nil {
			slot.Forget()
			return fmt.Errorf("%w: %w", ErrOwned, err)
		}
	}
	if _, err := b.lookup(); err != nil {
		slot.Forget()
		return err
	}
	owned.Lock()
	owned.m[k] = &ownership{slot: slot}
	owned.Unlock()
	return nil
}

// How blocks go from a manager's clients to its server: see lease.Slot.Offer.
func init() {
	lease.Blocks.Offer = func(block any) *lease.Offered { return block.(*Block).offer() }
	lease.Blocks.Take = takeOffered
}

func (b *Block) offer() *lease.Offered {
	if b.anonymous || mem.UnlinkIsNothing {
		return nil
	}
	k := keyOf(b.dir, b.name, b.id)
	owned.Lock()
	defer owned.Unlock()
	own := owned.m[k]
	if own == nil || own.slot == nil {
		return nil
	}
	return &lease.Offered{
		Text: own.slot.Offer(),
		Kept: own.slot.Settle,
		Given: func() {
			if own := take(k); own != nil {
				own.drop(b.name)
			}
		},
	}
}

// takeOffered is Adopt for what another process offers. It looks at nothing but
// that one's journal, and does not map the block.
func takeOffered(dir, name, offer string) *lease.Taken {
	name, err := cleanName(name)
	if err != nil || mem.UnlinkIsNothing {
		return nil
	}
	obj, err := mem.Open(dir, name, false)
	if err != nil {
		return nil
	}
	defer obj.Close()
	if euid := os.Geteuid(); obj.UID != euid && euid != 0 || obj.Size > mem.SizeMax {
		return nil
	}
	// See adopt.
	if ok, err := obj.Lock(); !ok || err != nil {
		return nil
	}
	k := keyOf(dir, name, obj.ID)
	owned.Lock()
	mine := owned.m[k] != nil
	owned.Unlock()
	if mine {
		return nil
	}
	block, l := obj.Stat, lease.For(dir)
	slot, ok, err := l.Take(block, offer)
	if !ok || err != nil {
		return nil
	}
	owned.Lock()
	owned.m[k] = &ownership{slot: slot}
	owned.Unlock()
	b := &Block{name: name, dir: dir, size: int(block.Size), id: block.ID}
	b.guard.Close()
	return &lease.Taken{
		Block:     b,
		Settle:    slot.Settle,
		Withdrawn: func() bool { return l.Withdrawn(block, offer) },
		Return: func() {
			if own := take(k); own != nil {
				own.drop(name)
			}
		},
	}
}

// lookup finds the block under its name; fs.ErrNotExist if it is not there.
func (b *Block) lookup() (mem.Stat, error) {
	s, err := mem.Lookup(b.dir, b.name)
	if err == nil && s.ID != b.id {
		err = fmt.Errorf("the name is another block's now: %w", fs.ErrNotExist)
	}
	return s, err
}

// livingOwner returns ErrOwned if another living process owns the block, and
// whether this one does.
func (b *Block) livingOwner(s mem.Stat) (mine bool, err error) {
	owners, err := lease.ReadOwners(b.dir)
	if err != nil {
		return false, err
	}
	own, ok := owners.Of(s)
	if !ok || !own.Alive {
		return false, nil
	}
	if lease.For(b.dir).Is(own.Header.ID) {
		return true, nil
	}
	return false, fmt.Errorf("%w: PID %d", ErrOwned, own.PID)
}
