//go:build unix && !aix

package mem

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sharedmem/shm/internal/crash"
)

// Object is an open shared memory object: a descriptor and what the system
// said of it when it was made or opened. It is not for concurrent use.
type Object struct {
	Stat
	fd       int
	dir      string
	hidden   string // the name it has until Publish, where O_TMPFILE is not to be had
	named    bool
	readOnly bool
	flags    int
	fresh    bool   // made here just now, so that its pages are not there yet
	system   string // its name in the system's own place, where that is no directory
	beside   func() // lets go of what stands for the lock there; nil if not taken
}

// New makes an object of size bytes, reserved unless flags has Sparse, with
// exactly the permission bits of mode. It has no name that others see, except
// where the system cannot do that (see Named). temp gives a hidden name that New
// may ask for on the way, where the system needs one; whoever finds it left over
// may remove it. With size 0 the object is to be filled through Grow and File,
// and given its size by Truncate.
//
// Errors: NoSpaceError; fs.ErrExist where the name is given at once.
func New(dir, name string, temp func() (string, error), size int64, mode uint32, flags int) (*Object, error) {
	if dir == "" && !systemIsDir {
		return newSystem(name, size, mode, flags)
	}
	dir = resolve(dir)
	o := &Object{fd: -1, dir: dir, flags: flags, fresh: true}
	var err error
	if o.fd, o.hidden, err = openUnnamed(dir, temp, mode); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("the directory %s is missing (CreateOptions.Dir names another): %w", dir, err)
		}
		return nil, inodesError(dir, size, err)
	}
	if err := o.init(size, mode); err != nil {
		o.Discard()
		return nil, err
	}
	return o, nil
}

// init sizes and reserves a fresh object and makes its mode exact.
func (o *Object) init(size int64, mode uint32) error {
	if size > 0 {
		if err := o.Grow(0, size); err != nil {
			return err
		}
	}
	if err := fstat(o.fd, &o.Stat); err != nil {
		return err
	}
	// The umask has taken bits away from what open was given. Setting it to
	// zero around the open would race with every other thread.
	if uint32(o.Mode) != mode {
		if err := unix.Fchmod(o.fd, mode); err != nil {
			return os.NewSyscallError("fchmod", err)
		}
		o.Mode = fs.FileMode(mode)
	}
	return nil
}

// Grow makes the object at least size bytes long and reserves the memory from
// offset from on, unless the object is sparse.
func (o *Object) Grow(from, size int64) error {
	if o.flags&Sparse != 0 {
		if err := unix.Ftruncate(o.fd, size); err != nil {
			return sizeError(o.dir, size, os.NewSyscallError("ftruncate", err))
		}
		return nil
	}
	return reserve(o.fd, o.dir, from, size)
}

// Truncate sets the size of an object that nobody else sees yet.
func (o *Object) Truncate(size int64) error {
	if err := ignoringEINTR(func() error { return unix.Ftruncate(o.fd, size) }); err != nil {
		return os.NewSyscallError("ftruncate", err)
	}
	o.Size = size
	return nil
}

// sizeError turns the errors by which file systems refuse a size into one.
func sizeError(dir string, size int64, err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EFBIG) || errors.Is(err, unix.EDQUOT) {
		free, _ := freeSpace(dir)
		return &NoSpaceError{Asked: size, Free: free, Where: resolve(dir)}
	}
	return err
}

// inodesError explains the same error from a call that needs no bytes.
func inodesError(dir string, size int64, err error) error {
	if errors.Is(err, unix.ENOSPC) {
		return &NoSpaceError{Asked: size, Free: -1, Where: dir + ", which has as many files as it can (see df -i)"}
	}
	return err
}

// Named tells whether the object already has its public name.
func (o *Object) Named() bool { return o.named }

// Publish gives the object its name; fs.ErrExist if another has it.
func (o *Object) Publish(name string) error {
	if o.named {
		return nil
	}
	if err := o.Link(name); err != nil {
		return err
	}
	o.named = true
	if o.hidden != "" {
		// Should this fail, the sweeper of our lease takes the hidden name away.
		_ = unix.Unlink(path(o.dir, o.hidden))
		o.hidden = ""
	}
	return nil
}

// Link gives the object one more name; fs.ErrExist if it is taken. On a tmpfs
// a second name counts as a file.
func (o *Object) Link(name string) error { return inodesError(o.dir, o.Size, o.linkTo(name)) }

// Discard undoes New: the object is closed and, if it has no public name,
// gone.
func (o *Object) Discard() {
	if o.hidden != "" {
		_ = unix.Unlink(path(o.dir, o.hidden))
	}
	if o.system != "" {
		_, _ = removeSystem(o.system, o.ID)
	}
	_ = o.Close()
}

// Open opens an object by name. It never follows a symbolic link, never waits
// (a FIFO would make it), and accepts only regular files.
//
// Errors: fs.ErrNotExist, fs.ErrPermission, ErrNotRegular, ErrEmpty.
func Open(dir, name string, readOnly bool) (*Object, error) {
	if dir == "" && !systemIsDir {
		return openSystem(name, readOnly)
	}
	flags := unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK
	if readOnly {
		flags |= unix.O_RDONLY
	} else {
		flags |= unix.O_RDWR
	}
	dir = resolve(dir)
	fd, err := open(path(dir, name), flags, 0)
	if err != nil {
		// A symlink gives ELOOP (EMLINK, EFTYPE on some BSDs), a directory EISDIR,
		// a socket ENXIO: none of them says what is wrong.
		if _, lerr := Lookup(dir, name); errors.Is(lerr, ErrNotRegular) {
			return nil, lerr
		}
		return nil, err
	}
	o := &Object{Stat: Stat{Name: name}, fd: fd, dir: dir, named: true, readOnly: readOnly}
	if err := o.check(); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return o, nil
}

func (o *Object) check() error {
	if err := fstat(o.fd, &o.Stat); err != nil {
		return err
	}
	if o.Size == 0 {
		return ErrEmpty
	}
	return nil
}

// FromFile makes an object of f's memory. f stays the caller's: it is
// duplicated. Directory and name are unknown.
func FromFile(f *os.File, readOnly bool) (*Object, error) {
	var fd int
	c, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	if cerr := c.Control(func(u uintptr) {
		fd, err = unix.FcntlInt(u, unix.F_DUPFD_CLOEXEC, 3)
	}); cerr != nil {
		return nil, cerr
	}
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	o := &Object{fd: fd, named: true, readOnly: readOnly}
	if err := o.check(); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return o, nil
}

// Reopen opens the object id by its name; fs.ErrNotExist if the name is gone or
// has passed to another.
func Reopen(dir, name string, id ID, readOnly bool) (*Object, error) {
	o, err := Open(dir, name, readOnly)
	if err != nil {
		return nil, err
	}
	if o.ID != id {
		o.Close()
		return nil, fs.ErrNotExist
	}
	return o, nil
}

// LinkFrom gives the object that has the name from one more name, to;
// fs.ErrExist if that is taken.
func LinkFrom(dir, from, to string) error {
	return link(path(resolve(dir), from), path(resolve(dir), to))
}

// Keep returns the handle that must stay open as long as the object is in use:
// none on Unix.
func (o *Object) Keep() io.Closer { return nil }

// UnlinkIsNothing tells that names cannot be taken away, and that objects go
// with their last handle.
const UnlinkIsNothing = false

// NewFrom is New for an object that holds, and is as long as, what r has.
func NewFrom(dir, name string, temp func() (string, error), r io.Reader, mode uint32, flags int) (*Object, error) {
	if dir == "" && !systemIsDir {
		b, err := readAll(r) // an object's size must be known there beforehand
		if err != nil {
			return nil, err
		}
		return newFilled(dir, name, temp, b, mode, flags)
	}
	o, err := New(dir, name, temp, 0, mode, flags&^Sparse)
	if err != nil {
		return nil, err
	}
	size, err := o.fill(r)
	if err == nil {
		if size == 0 {
			err = ErrEmpty
		} else {
			err = o.Truncate(size)
		}
	}
	if err != nil {
		o.Discard()
		return nil, err
	}
	o.flags = flags
	return o, nil
}

// fill copies r into the object, which grows in pieces, each reserved before it
// is written: so running out is an error and not a signal.
func (o *Object) fill(r io.Reader) (size int64, err error) {
	room := int64(0) // reserved so far
	if length := lengthOf(r); length > 0 {
		if err := o.Grow(0, length); err != nil {
			return 0, err
		}
		f, err := o.File("shm")
		if err != nil {
			return 0, err
		}
		defer f.Close()
		// From file to file: the kernel copies by itself.
		if size, err = io.Copy(f, io.LimitReader(r, length)); err != nil || size < length {
			return size, err
		}
		room = length // and now it may have grown
	}
	// As much as a pipe may hold, and a processor's cache.
	buf := make([]byte, 256<<10)
	for {
		n, rerr := r.Read(buf)
		for size+int64(n) > room {
			if room, err = o.growBy(room); err != nil {
				return size, err
			}
		}
		if err := o.WriteAt(buf[:n], size); err != nil {
			return size, sizeError(o.dir, size+int64(n), err)
		}
		size += int64(n)
		if rerr == io.EOF {
			return size, nil
		}
		if rerr != nil {
			return size, rerr
		}
	}
}

// growBy reserves about as much again as size, or what of that can be had, and
// returns the new size. What is reserved and not used in the end is missing to
// others meanwhile.
func (o *Object) growBy(size int64) (int64, error) {
	for step := min(max(size, fillMin), fillMax); ; step /= 2 {
		err := o.Grow(size, size+step)
		if err == nil || step <= 4096 || !errors.Is(err, ErrNoSpace) {
			return size + step, err
		}
	}
}

// lengthOf returns how many bytes a regular file still has, 0 for other readers.
func lengthOf(r io.Reader) int64 {
	f, ok := r.(*os.File)
	if !ok {
		return 0
	}
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		return 0
	}
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0
	}
	return max(0, fi.Size()-at)
}

// How much of a stream of unknown length is reserved at a time.
const (
	fillMin = 256 << 10
	fillMax = 16 << 20
)

// Map maps the whole object. The mapping outlives Close.
//
// Prefault asks for every page now; NoSpaceError if there is no memory for
// them.
func (o *Object) Map(prefault bool) ([]byte, error) {
	p, err := mapShared(o.fd, o.Size, o.readOnly)
	if err != nil {
		return nil, err
	}
	if o.flags&HugePages != 0 {
		adviseHuge(p)
	}
	if prefault {
		// Writing makes the pages of fresh memory; for memory that is there already,
		// reading is three times faster and leaves a first store at 20 ns a page.
		if err := populate(p, o.fresh); err != nil {
			_ = Unmap(p)
			return nil, err
		}
	}
	return p, nil
}

// File gives the object's descriptor as a file of its own.
func (o *Object) File(name string) (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(o.fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Close closes the descriptor; mappings stay.
func (o *Object) Close() error {
	if o.fd < 0 {
		return nil
	}
	if o.beside != nil {
		o.beside()
		o.beside = nil
	}
	fd := o.fd
	o.fd = -1
	return os.NewSyscallError("close", unix.Close(fd))
}

// Lookup describes what has the name, without opening it.
//
// Errors: fs.ErrNotExist, fs.ErrPermission, ErrNotRegular.
func Lookup(dir, name string) (Stat, error) {
	if dir == "" && !systemIsDir {
		return lookupSystem(name)
	}
	s := Stat{Name: name}
	err := lstat(path(resolve(dir), name), &s)
	return s, err
}

// Remove takes name away if it still belongs to the object id, and reports
// whether it did. Between looking and unlinking, the name may pass to another
// object, and no system call unlinks by identity: so the name is first renamed
// to parking, a hidden name that nobody else uses, and looked at there. What
// turns out to be another's gets its name back. If we are killed in between,
// whoever finds the parked name removes it.
//
// With parking "" the name is looked at and unlinked, which leaves a gap of
// a microsecond and saves a fifth of the time of a small block's life: for the
// owner, whose name nobody else should be giving away.
func Remove(dir, name string, id ID, parking string) (bool, error) {
	if dir == "" && !systemIsDir {
		return removeSystem(name, id)
	}
	dir = resolve(dir)
	from, to := path(dir, name), path(dir, parking)
	if same, err := is(from, id); !same {
		return false, err
	}
	if parking == "" {
		err := unlink(from)
		return err == nil, err
	}
	if beforePark != nil {
		beforePark()
	}
	if err := rename(from, to); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return false, err
	}
	crash.Point("remove:parked")
	same, err := is(to, id)
	if same {
		return true, unlink(to)
	}
	// Taken from under us. Should its place be occupied already by yet another
	// one, there is no place to put it back to.
	if lerr := link(to, from); lerr != nil && err == nil {
		err = lerr
	}
	return false, errors.Join(err, unlink(to))
}

// beforePark lets a test act in the gap between looking and renaming.
var beforePark func()

// is tells whether the object at p is id; a missing one is not.
func is(p string, id ID) (bool, error) {
	var s Stat
	err := lstat(p, &s)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotRegular) {
		return false, nil
	}
	return err == nil && s.ID == id, err
}

// Unlink takes the name away, whatever has it (but no directory).
func Unlink(dir, name string) error {
	if dir == "" && !systemIsDir {
		return unlinkSystem(name)
	}
	if _, err := Lookup(dir, name); err != nil {
		return err
	}
	return unlink(path(resolve(dir), name))
}

// Entries calls each with every regular file in dir whose name is wanted, hidden
// ones included. Files that vanish meanwhile are passed over.
func Entries(dir string, want func(name string) bool, each func(Stat)) error {
	if !Listed(dir) {
		return errors.ErrUnsupported
	}
	d, err := os.Open(resolve(dir))
	if err != nil {
		return err
	}
	defer d.Close()
	// Paths relative to the directory's descriptor spare a path walk for each
	// of perhaps 10 000 entries.
	fd := int(d.Fd())
	for {
		names, err := d.Readdirnames(4096)
		for _, name := range names {
			s := Stat{Name: name}
			if want(name) && lstatAt(fd, name, &s) == nil {
				each(s)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Listed tells whether Entries works for dir: the system's place may keep no
// list.
func Listed(dir string) bool { return dir != "" || systemIsDir }

// ReadAll returns the object's bytes, up to limit of them. It reads rather than
// maps, since the object may be made smaller meanwhile.
func (o *Object) ReadAll(limit int64) ([]byte, error) {
	b := make([]byte, min(o.Size, limit))
	n, err := o.ReadAt(b, 0)
	return b[:n], err
}

// ReadAt reads into b from off on, less than asked for at the end.
func (o *Object) ReadAt(b []byte, off int64) (n int, err error) {
	for n < len(b) {
		m, err := unix.Pread(o.fd, b[n:], off+int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil && o.system != "" {
			return readMapped(o, b, off) // macOS cannot read what is no file
		}
		if err != nil {
			return n, os.NewSyscallError("read", err)
		}
		if m == 0 {
			break
		}
		n += m
	}
	return n, nil
}

// WriteAt writes all of b at off.
func (o *Object) WriteAt(b []byte, off int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(o.fd, b, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("write", err)
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

func resolve(dir string) string {
	if dir == "" {
		return SystemDir
	}
	return dir
}

func path(dir, name string) string { return dir + "/" + name }

// The system calls below retry when a signal interrupts them, as package os
// does: on some file systems (FUSE, NFS as Dir) even stat can be interrupted.

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

func open(p string, flags int, mode uint32) (fd int, err error) {
	err = ignoringEINTR(func() (e error) { fd, e = unix.Open(p, flags, mode); return })
	return fd, os.NewSyscallError("open", err)
}

func rename(from, to string) error {
	return os.NewSyscallError("rename", ignoringEINTR(func() error { return unix.Rename(from, to) }))
}

func link(from, to string) error {
	return os.NewSyscallError("link", ignoringEINTR(func() error { return unix.Link(from, to) }))
}

func unlink(p string) error {
	return os.NewSyscallError("unlink", ignoringEINTR(func() error { return unix.Unlink(p) }))
}

// writeZeros reserves memory on file systems without fallocate.
func writeZeros(fd int, from, size int64) error {
	zeros := make([]byte, 1<<20)
	for from < size {
		n, err := unix.Pwrite(fd, zeros[:min(size-from, int64(len(zeros)))], from)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}

// openHidden makes an object under a hidden name, for where no object can be
// made without one.
func openHidden(dir string, temp func() (string, error), mode uint32) (int, string, error) {
	name, err := temp()
	if err != nil {
		return -1, "", err
	}
	fd, err := open(path(dir, name), unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
	return fd, name, err
}
