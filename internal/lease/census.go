package lease

import (
	"fmt"

	"github.com/sharedmem/shm/internal/platform/mem"
)

// Census tells whose the leases of dir are, for people, by a look at each header
// and no journal. One of which nothing can be read, another user's, has its ID only
// and counts as alive: to call it dead would be worse. It changes nothing.
func Census(dir string) ([]Owner, error) {
	dir = absolute(dir)
	leases, _, err := scan(dir, nil)
	if err != nil {
		return nil, err
	}
	ldir, err := mem.LeaseDir(dir)
	if err != nil {
		return nil, err
	}
	out := make([]Owner, 0, len(leases))
	for _, f := range leases {
		out = append(out, look(ldir, f))
	}
	return out, nil
}

func look(ldir string, f found) Owner {
	unknown := Owner{Header{ID: f.id}, fmt.Sprintf("%016x", f.id), true}
	o, err := mem.Open(ldir, f.name, true)
	if err != nil {
		return unknown
	}
	defer o.Close()
	alive, err := o.Locked()
	if err != nil {
		return unknown
	}
	unknown.Alive = alive
	var b [slotSize]byte
	if n, err := o.ReadAt(b[:], 0); err == nil && n == len(b) {
		// A file that says it is another's lease is nobody's.
		if h, err := decodeHeader(b[:]); err == nil && h.ID == f.id {
			return ownerOf(h, alive)
		}
	}
	return unknown
}
