//go:build unix && !aix

package mem

import (
	"os"

	"golang.org/x/sys/unix"
)

// Place identifies the directory in which the leases for dir lie: processes for
// which it is the same see each other's leases.
func Place(dir string) (place [2]uint64, err error) {
	dir, err = LeaseDir(dir)
	if err != nil {
		return place, err
	}
	var st unix.Stat_t
	if err := ignoringEINTR(func() error { return unix.Stat(dir, &st) }); err != nil {
		return place, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	return [2]uint64{uint64(st.Dev), uint64(st.Ino)}, nil
}
