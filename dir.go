package shm

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/lease"
	"github.com/sharedmem/shm/internal/platform/mem"
)

// Dir is a directory in which blocks lie: "" is the system's place, anything
// else what CreateOptions.Dir was for those blocks.
type Dir string

// Unlink takes the name away, whatever block has it. See Block.Unlink for when
// a name comes back.
//
// Errors: ErrName, fs.ErrNotExist, fs.ErrPermission, ErrFormat if the name is
// not a block's. On Windows it does nothing and returns nil.
func Unlink(name string) error { return Dir("").Unlink(name) }

// Stat describes one block without mapping it.
//
// Errors: ErrName, fs.ErrNotExist, fs.ErrPermission, ErrFormat if the name is
// not a block's.
func Stat(name string) (Info, error) { return Dir("").Stat(name) }

// List describes every block on this machine that this user may see, in no
// particular order. It changes nothing. Names of ours that are hidden, the C
// library's semaphores, and what is not a regular file are no blocks.
//
// On macOS, where the system keeps no list, it returns the blocks that leases
// of this library name; on Windows errors.ErrUnsupported.
func List() ([]Info, error) { return Dir("").List() }

// Prune removes the blocks of owners that have died, and says which. It never
// touches a block that no journal of this library names, such as Python's, nor
// one whose name has passed to another block. The infos are those from before.
// If some could not be removed, the error says why and the rest is gone.
func Prune() ([]Info, error) { return Dir("").Prune() }

// Unlink is [Unlink] in d.
func (d Dir) Unlink(name string) error {
	const op = "unlink"
	clean, err := cleanName(name)
	if err != nil {
		return wrap(op, name, err)
	}
	if mem.UnlinkIsNothing {
		return nil
	}
	s, err := mem.Lookup(string(d), clean)
	if err != nil {
		return wrap(op, clean, formatOf(err))
	}
	own := take(keyOf(string(d), clean, s.ID))
	if own != nil && own.keep != nil {
		own.keep.stop()
	}
	err = mem.Unlink(string(d), clean)
	if own != nil {
		own.unlinked(clean, err == nil)
	}
	return wrap(op, clean, err)
}

// Stat is [Stat] in d.
func (d Dir) Stat(name string) (Info, error) {
	const op = "stat"
	clean, err := cleanName(name)
	if err != nil {
		return Info{}, wrap(op, name, err)
	}
	s, err := mem.Lookup(string(d), clean)
	if err != nil {
		return Info{}, wrap(op, clean, formatOf(err))
	}
	owners, err := lease.ReadOwners(string(d))
	if err != nil {
		return Info{}, wrap(op, clean, err)
	}
	info := d.info(s, owners)
	info.Kind = d.kind(s)
	return info, nil
}

// List is [List] in d.
func (d Dir) List() ([]Info, error) {
	blocks, owners, err := lease.List(string(d))
	if errors.Is(err, errors.ErrUnsupported) && owners != nil && !mem.UnlinkIsNothing {
		// macOS: what the journals name is all that can be known.
		for _, own := range owners {
			if s, err := mem.Lookup(string(d), own.Name); err == nil {
				blocks = append(blocks, s)
			}
		}
		err = nil
	}
	infos := make([]Info, 0, len(blocks))
	for _, s := range blocks {
		if !strings.HasPrefix(s.Name, "sem.") {
			infos = append(infos, d.info(s, owners))
		}
	}
	return infos, wrap("list", "", err)
}

// Prune is [Prune] in d.
func (d Dir) Prune() ([]Info, error) {
	removed, err := lease.Sweep(string(d))
	var infos []Info
	for _, r := range removed {
		infos = append(infos, d.info(r.Stat, lease.Owners{
			{ID: r.Stat.ID, UID: r.Stat.UID}: {Owner: r.Owner, Record: r.Record},
		}))
	}
	return infos, wrap("prune", "", err)
}

func (d Dir) info(s mem.Stat, owners lease.Owners) Info {
	info := Info{
		Name: s.Name, Dir: string(d), Size: s.Size, Resident: s.Resident,
		Mode: s.Mode & fs.ModePerm, UID: s.UID, Lifetime: Persistent,
		Device: s.Dev, Inode: s.Ino,
	}
	if s.Birth != 0 {
		info.Created = time.Unix(0, s.Birth)
	}
	own, ok := owners.Of(s)
	if !ok {
		// Another user's leases cannot be read, so nothing can be said of his blocks.
		euid := os.Geteuid()
		info.Foreign = (euid == 0 || s.UID == euid) && mem.LookupMark(string(d), s.Name) != Persistent.String()
		if mem.UnlinkIsNothing {
			info.Lifetime = Owned // by all who have it open
		}
		return info
	}
	info.Lifetime = Owned
	if own.Tracked {
		info.Lifetime = Tracked
	}
	info.KeepName = own.Keep
	info.Owner = Owner{PID: own.PID, Alive: own.Alive, Lease: own.Lease}
	return info
}

// kind looks into the block, if we may.
func (d Dir) kind(s mem.Stat) string {
	o, err := mem.Open(string(d), s.Name, true)
	if err != nil {
		return ""
	}
	defer o.Close()
	read := func(off int64, n int) []byte {
		b := make([]byte, n)
		m, err := o.ReadAt(b, off)
		if err != nil {
			return nil
		}
		return b[:m]
	}
	return layout.Kind(read(0, layout.KindPrefix), o.Size, read)
}
