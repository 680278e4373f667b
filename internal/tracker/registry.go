package tracker

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/lease"
	"github.com/sharedmem/shm/internal/platform/mem"
)

// maxNames bounds what the lines can make us remember. With names as long as
// they may be it is 100 MB.
const maxNames = 1 << 18

// registry is what a tracker remembers: as CPython's, a set of names of each
// type. Unlike CPython's, it removes at the end only what can be the family's
// own: a Python registers also what it merely opened.
type registry struct {
	dir string // "" but in tests
	// before is all that was there when the tracker began, before any Python of
	// the family. To compare times of birth would not do, as clocks are set back.
	before map[mem.ID]bool
	set    map[resource]object
	most   int // names it may hold: maxNames, but in tests
	lost   int // names beyond that
	bad    int // lines that say nothing
}

// resource is a member of the set, as the lines name it.
type resource struct{ rtype, name string }

// object is what had the name when it was registered.
type object struct {
	file string
	id   mem.ID
	// A name of which was only said that it would be made is looked at in the end: its
	// maker may have died before it could say more. file is its name then.
	expected bool
}

func newRegistry(dir string) (*registry, error) {
	r := &registry{dir: dir, before: map[mem.ID]bool{}, set: map[resource]object{}, most: maxNames}
	all := func(string) bool { return true }
	if err := mem.Entries(dir, all, func(s mem.Stat) { r.before[s.ID] = true }); err != nil {
		return nil, err
	}
	return r, nil
}

// read takes in lines until nobody has the pipe open for writing any more.
func (r *registry) read(in io.Reader) {
	r.bad += readLines(in, func(b []byte) {
		l, err := ParseLine(b)
		if err != nil || !r.take(l) {
			r.bad++
		}
	})
}

// take does what the line says, and tells whether it says something.
func (r *registry) take(l Line) bool {
	files := filesOf(l)
	if l.Cmd == Probe {
		return true
	}
	if len(files) == 0 {
		return false
	}
	k := resource{l.Type, l.Name}
	switch l.Cmd {
	case Register, Expect:
		if _, ok := r.set[k]; !ok && len(r.set) >= r.most {
			r.lost++
			return true
		}
		// Looked at now, and again each time: the name may pass to another object
		// that one of the family makes.
		o := r.look(files)
		// The writer has seen that the name is fresh. What has it now was made while the
		// line was on its way, and its maker may be dead already.
		if l.Cmd == Expect && o.file == "" {
			o = object{file: files[0], expected: true}
		}
		r.set[k] = o
	case Unregister:
		delete(r.set, k)
	default:
		return false
	}
	return true
}

// filesOf returns the names that a line's resource may have in the directory:
// none if it cannot be a resource. The C libraries drop leading slashes. A
// semaphore has a prefix with glibc and none with musl.
func filesOf(l Line) []string {
	name := strings.TrimLeft(l.Name, "/")
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") || strings.HasPrefix(name, mem.Prefix) {
		return nil
	}
	files := []string{name}
	switch l.Type {
	case SharedMemory:
	case Semaphore:
		files = []string{"sem." + name, name}
	default:
		return nil
	}
	return slices.DeleteFunc(files, func(f string) bool { return len(f) > mem.NameMax })
}

// look finds out which object it is; none if it is gone already.
func (r *registry) look(files []string) object {
	for _, f := range files {
		if s, err := mem.Lookup(r.dir, f); err == nil {
			return object{file: f, id: s.ID}
		}
	}
	return object{}
}

// clean removes what is still registered and can be the family's own. The
// errors say what should have been removed and was not; about more than a few
// they only tell how many.
func (r *registry) clean() []error {
	var errs []error
	more := 0
	for k, o := range r.set {
		if o.expected {
			o = r.look([]string{o.file})
		}
		if o.file == "" {
			continue
		}
		if err := r.remove(o); err != nil {
			if len(errs) < 10 {
				errs = append(errs, fmt.Errorf("cannot remove the %s %q: %w", k.rtype, k.name, err))
			} else {
				more++
			}
		}
		crash.Point("pytracker:removed")
	}
	if more > 0 {
		errs = append(errs, fmt.Errorf("and %d more", more))
	}
	if r.lost > 0 {
		errs = append(errs, fmt.Errorf("%d names were too many to remember; what they name stays", r.lost))
	}
	return errs
}

func (r *registry) remove(o object) error {
	if r.before[o.id] {
		return nil
	}
	s, err := mem.Lookup(r.dir, o.file)
	if err != nil || s.ID != o.id {
		return gone(err) // or the name is a successor's
	}
	if euid := os.Geteuid(); s.UID != euid && euid != 0 {
		return nil // one of the family has opened it, and could not have made it
	}
	// Who adopts the block has this lock while it writes its journal: so nobody
	// becomes the owner between the look into the journals and the removal. A
	// block that cannot be opened cannot be adopted either.
	if obj, err := mem.Reopen(r.dir, o.file, o.id, false); err == nil {
		defer obj.Close()
		if ok, err := obj.Lock(); err == nil && !ok {
			return nil
		}
	}
	owners, err := lease.ReadOwners(r.dir)
	if err != nil {
		return err
	}
	// A dead owner's is the next sweep's, which knows of second links as well.
	if _, owned := owners.Of(s); owned || mem.LookupMark(r.dir, o.file) != "" {
		return nil
	}
	_, err = mem.Remove(r.dir, o.file, o.id, lease.Parking())
	return gone(err)
}

// gone makes it no error that somebody else was faster.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, mem.ErrNotRegular) {
		return nil
	}
	return err
}
