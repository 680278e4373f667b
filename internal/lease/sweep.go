package lease

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/platform/mem"
)

// Removed is a block that Sweep took away.
type Removed struct {
	Stat  mem.Stat // as it was
	Owner Owner
	Record
}

// Owner says whose lease names a block.
type Owner struct {
	Header
	Lease string // the ID as the lease file's name has it
	Alive bool
}

func ownerOf(h Header, alive bool) Owner { return Owner{h, fmt.Sprintf("%016x", h.ID), alive} }

// Sweep removes what the dead owners of dir left, and only that, and says what
// it removed. Leases of other users are passed over unless we are root, since
// nothing of theirs could be removed anyway.
//
// Sweepers do not get in each other's way: each dead lease is locked by one.
func Sweep(dir string) ([]Removed, error) {
	var out []Removed
	var errs []error
	leases, rest, err := scan(dir, nil)
	if err != nil {
		return nil, err
	}
	known := map[uint64]bool{}
	for _, l := range leases {
		known[l.id] = true
		removed, err := sweepOne(dir, l, rest[l.id])
		out = append(out, removed...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	// Hidden names without a lease: an Unlink by somebody who owned nothing was
	// killed half-way. The list was read before the leases were looked for, and
	// a lease is there before and after its hidden names are: so one whose
	// lease is missing has no living maker.
	for id, names := range rest {
		if known[id] || leaseExists(dir, id) {
			continue
		}
		names = slices.DeleteFunc(names, func(s mem.Stat) bool { return inUse(dir, s.Name) })
		if err := unlinkHidden(dir, names, os.Geteuid()); err != nil {
			errs = append(errs, err)
		}
	}
	return out, errors.Join(errs...)
}

// found is a lease file in a listing.
type found struct {
	name string
	id   uint64
}

// scan lists the leases of dir and, by lease, the other hidden names, and calls
// block, if it is not nil, with everything else.
func scan(dir string, block func(mem.Stat)) (leases []found, rest map[uint64][]mem.Stat, err error) {
	rest = map[uint64][]mem.Stat{}
	if mem.UnlinkIsNothing {
		return nil, rest, nil // the system removes what nobody has open: no leases
	}
	ldir, err := mem.LeaseDir(dir)
	if err != nil {
		return nil, nil, err
	}
	// Blocks and leases lie together, but where the system's place is no directory.
	blocks := block != nil && mem.Listed(dir)
	want := func(name string) bool { return blocks || strings.HasPrefix(name, mem.Prefix) }
	err = mem.Entries(ldir, want, func(s mem.Stat) {
		switch kind, id, ok := parseHidden(s.Name); {
		case ok && kind == kindLease:
			leases = append(leases, found{s.Name, id})
		case ok:
			rest[id] = append(rest[id], s)
		case !strings.HasPrefix(s.Name, mem.Prefix):
			block(s)
		}
	})
	return leases, rest, err
}

// inUse tells whether a hidden name is that of a lease being made, where the
// system cannot make one without a name: it is locked before it is a lease.
func inUse(dir, name string) bool {
	ldir, err := mem.LeaseDir(dir)
	if err != nil {
		return true
	}
	o, err := mem.Open(ldir, name, true)
	if err != nil {
		return false
	}
	defer o.Close()
	locked, err := o.Locked()
	return locked || err != nil
}

func leaseExists(dir string, id uint64) bool {
	ldir, err := mem.LeaseDir(dir)
	if err != nil {
		return true
	}
	_, err = mem.Lookup(ldir, hidden(kindLease, id, 0))
	return !errors.Is(err, fs.ErrNotExist)
}

// mayJudge tells whether this user may act on leases of uid.
func mayJudge(uid int) bool {
	e := os.Geteuid()
	return e == 0 || e == uid
}

func sweepOne(dir string, l found, hiddenNames []mem.Stat) ([]Removed, error) {
	ldir, err := mem.LeaseDir(dir)
	if err != nil {
		return nil, err
	}
	o, err := mem.Open(ldir, l.name, false)
	if err != nil {
		if errors.Is(err, mem.ErrEmpty) {
			err = nil // being made on a system without O_TMPFILE; or hostile
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, mem.ErrNotRegular) {
			err = nil // gone, another user's, or bait
		}
		return nil, err
	}
	defer o.Close()
	if !mayJudge(o.UID) {
		return nil, nil
	}
	if ok, err := o.LockToSweep(); !ok {
		return nil, err // alive, or being swept by another
	}
	crash.Point("sweep:locked")
	// Another sweeper may have been here between our opening and locking.
	if now, err := mem.Lookup(ldir, l.name); err != nil || now.ID != o.ID {
		return nil, nil
	}
	b, err := o.ReadAll(maxSize)
	if err != nil {
		return nil, err
	}
	h, records, err := decode(b)
	claimed := false
	if err != nil {
		// Of a newer version, perhaps: its own kind will know what to do.
		return nil, fmt.Errorf("%s: %w", l.name, err)
	}
	var out []Removed
	var errs []error
	var elsewhere Owners // what passes is in the journal of somebody else, too
	for _, r := range records {
		s, err := mem.Lookup(dir, r.Name)
		if err != nil || s.ID != r.ID || s.UID != o.UID && o.UID != 0 {
			continue // gone, or another's by now, or never its owner's to give away
		}
		if r.passing {
			// Read under our lock: see Take.
			if elsewhere == nil {
				if elsewhere, err = ownersBut(dir, l.id); err != nil {
					return out, err
				}
			}
			if other, ok := elsewhere.Of(s); ok && other.Alive {
				claimed = true
				continue
			}
		}
		ok, err := mem.Remove(dir, r.Name, r.ID, hidden(kindGone, l.id, r.n))
		if err != nil {
			errs = append(errs, err)
		}
		if ok {
			out = append(out, Removed{Stat: s, Owner: ownerOf(h, false), Record: r.Record})
			crash.Point("sweep:removed")
		}
	}
	if err := unlinkHidden(dir, hiddenNames, o.UID); err != nil {
		errs = append(errs, err)
	}
	crash.Point("sweep:hidden")
	if len(errs) > 0 || claimed {
		// The lease stays for who can do better, or comes when it is clear whose
		// the block has become: the other one may be giving it up just now.
		return out, errors.Join(errs...)
	}
	err = mem.Unlink(ldir, l.name)
	crash.Point("sweep:unlinked")
	return out, err
}

// unlinkHidden removes hidden names that belong to uid.
func unlinkHidden(dir string, names []mem.Stat, uid int) error {
	var errs []error
	ldir, err := mem.LeaseDir(dir)
	if err != nil {
		return err
	}
	for _, s := range names {
		if s.UID != uid {
			continue
		}
		if err := mem.Unlink(ldir, s.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Await waits until the lease id of dir is nobody's: its owner is dead, or has
// removed it. It occupies a thread.
func Await(dir string, id uint64) {
	ldir, err := mem.LeaseDir(dir)
	if err != nil {
		return
	}
	o, err := mem.Open(ldir, hidden(kindLease, id, 0), false)
	if err != nil {
		return
	}
	_ = o.AwaitUnlocked()
	_ = o.Close()
}

// Owned is what a lease says of a block.
type Owned struct {
	Owner
	Record
}

// Key finds a block's owner: the block's identity, and its user, since a lease
// is believed only about blocks of its own user (or if it is root's; see Of).
type Key struct {
	mem.ID
	UID int
}

// Owners is what all leases of a directory say.
type Owners map[Key]Owned

// Of returns who owns the block s.
func (o Owners) Of(s mem.Stat) (Owned, bool) {
	own, ok := o[Key{s.ID, s.UID}]
	if !ok {
		own, ok = o[Key{s.ID, 0}]
	}
	return own, ok && own.Name == s.Name
}

// ReadOwners reads every lease of dir that we may read. It changes nothing.
func ReadOwners(dir string) (Owners, error) { return ownersBut(dir, 0) }

// ownersBut is ReadOwners without the lease id.
func ownersBut(dir string, id uint64) (Owners, error) {
	leases, _, err := scan(dir, nil)
	if err != nil {
		return nil, err
	}
	leases = slices.DeleteFunc(leases, func(f found) bool { return f.id == id })
	return readOwners(dir, leases)
}

// List returns the blocks of dir and what the leases say of them. It changes
// nothing. The error is errors.ErrUnsupported, with the owners, where the system
// keeps no list.
func List(dir string) ([]mem.Stat, Owners, error) {
	var blocks []mem.Stat
	leases, _, err := scan(dir, func(s mem.Stat) { blocks = append(blocks, s) })
	if err != nil {
		return nil, nil, err
	}
	owners, err := readOwners(dir, leases)
	if err == nil && !mem.Listed(dir) {
		err = errors.ErrUnsupported
	}
	return blocks, owners, err
}

func readOwners(dir string, leases []found) (Owners, error) {
	out := Owners{}
	// For reading only: the file system may be mounted so, or the user be another.
	err := readLeases(dir, leases, true, func(o *mem.Object, _ found, h Header, records []slotRecord) error {
		alive, err := o.Locked()
		owner := ownerOf(h, alive)
		for _, r := range records {
			// While a block is handed over, two leases may name it: the living
			// one counts.
			k := Key{r.ID, o.UID}
			if old, ok := out[k]; !ok || !old.Alive {
				out[k] = Owned{Owner: owner, Record: r.Record}
			}
		}
		return err
	})
	return out, err
}

// Claims says what the leases of other processes say of the block s: which living
// one owns it, and whether a dead one's journal names it.
func (l *Lease) Claims(s mem.Stat) (living *Owner, dead bool, err error) {
	leases, _, err := scan(l.dir, nil)
	if err != nil {
		return nil, false, err
	}
	// Ours may be long, and knows nothing that its process does not.
	leases = slices.DeleteFunc(leases, func(f found) bool { return l.Is(f.id) })
	err = readLeases(l.dir, leases, true, func(o *mem.Object, _ found, h Header, records []slotRecord) error {
		if o.UID != s.UID && o.UID != 0 {
			return nil // not its to own
		}
		for _, r := range records {
			if r.ID != s.ID || r.Name != s.Name {
				continue
			}
			alive, err := o.Locked()
			if err != nil {
				return err
			}
			if dead = dead || !alive; alive {
				own := ownerOf(h, true)
				living = &own
			}
		}
		return nil
	})
	return living, dead, err
}

// readLeases calls f with every one of leases that can be opened and read.
func readLeases(dir string, leases []found, readOnly bool, f func(*mem.Object, found, Header, []slotRecord) error) error {
	if len(leases) == 0 {
		return nil
	}
	ldir, err := mem.LeaseDir(dir)
	if err != nil {
		return err
	}
	for _, l := range leases {
		o, err := mem.Open(ldir, l.name, readOnly)
		if err != nil {
			continue // gone, or not ours to read
		}
		if b, err := o.ReadAll(maxSize); err == nil {
			if h, records, err := decode(b); err == nil {
				if err := f(o, l, h, records); err != nil {
					o.Close()
					return err
				}
			}
		}
		o.Close()
	}
	return nil
}

// Disclaim takes the block out of the journals of dead owners, so that no
// sweep removes it any more. errBusy if a sweeper is at work on one of them, or
// if its owner is alive: then the block is not for having.
func (l *Lease) Disclaim(id mem.ID) error {
	leases, _, err := scan(l.dir, nil)
	if err != nil {
		return err
	}
	return readLeases(l.dir, leases, false, func(o *mem.Object, f found, _ Header, records []slotRecord) error {
		if l.Is(f.id) || !mayJudge(o.UID) {
			return nil
		}
		for _, r := range records {
			if r.Record.ID != id {
				continue
			}
			if ok, err := o.LockToSweep(); err != nil {
				return err
			} else if !ok {
				return errBusy
			}
			if err := o.WriteAt(make([]byte, 4), int64(slotOffset(r.n))); err != nil {
				return err
			}
		}
		return nil
	})
}

var errBusy = errors.New("it is just being removed")
