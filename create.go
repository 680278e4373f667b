package shm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/lease"
	"github.com/sharedmem/shm/internal/platform/mem"
	"github.com/sharedmem/shm/internal/tracker"
)

// Create makes a block of size bytes, all zero, and maps it. With name "" it
// finds a fresh one: "psm_" ("wnsm_" on Windows) and 8 hex digits.
//
// The memory is reserved now, so that a full /dev/shm or a cgroup's limit is
// ErrNoSpace here and not a SIGBUS later; see CreateOptions.Sparse. Before that,
// Create looks at what the file system and every memory limit above this process
// leave; another process may use that up before the reservation is done, and
// then the kernel kills somebody instead of refusing.
//
// The block appears under its name only when it is complete. If Create fails,
// nothing is left of it.
//
// The first Create of a process in a directory also removes the blocks of dead
// owners there.
//
// Errors: ErrName, ErrSize, ErrNoSpace, fs.ErrExist, fs.ErrPermission,
// errors.ErrUnsupported.
func Create(name string, size int, opts *CreateOptions) (*Block, error) {
	b, err := create("create", name, opts, sized(size), nil)
	return b, err
}

// CreateFrom makes a block that holds what r has until its end, and is exactly
// that long. From an *os.File the bytes are moved by the kernel where it can.
//
// Errors: those of Create, ErrSize if r is empty, and r's own.
func CreateFrom(name string, r io.Reader, opts *CreateOptions) (*Block, error) {
	return create("create", name, opts, filled(r), nil)
}

// CreateWith is Create for a block that is not empty at first: init, if not
// nil, fills it before its name appears, so that no other process sees it half
// made. (On macOS and Windows others may.) If init fails there is no block, and
// the error wraps init's. The block given to init must not be closed there.
//
// Errors: those of Create, and init's.
func CreateWith(name string, size int, opts *CreateOptions, init func(*Block) error) (*Block, error) {
	return create("create", name, opts, sized(size), init)
}

// OpenOrCreate opens the block if it exists and creates it otherwise, whoever
// else tries the same at the same time. init, if not nil, is called in the
// process that creates it, on the new block, before its name appears: no other
// process sees it half made. (On macOS and Windows processes of this library
// wait for each other, others may see it early.) If init fails there is no
// block, and the error wraps init's.
//
// Errors: those of Create and Open; ErrSize if the block exists but is smaller
// than size.
func OpenOrCreate(name string, size int, opts *CreateOptions, init func(*Block) error) (*Block, error) {
	const op = "open or create"
	o := options(opts)
	if name == "" {
		return create(op, name, &o, sized(size), init)
	}
	if err := checkSize(size); err != nil {
		return nil, wrap(op, name, err)
	}
	clean, err := cleanName(name)
	if err != nil {
		return nil, wrap(op, name, err)
	}
	leave, err := mem.Exclusive(o.Dir, clean)
	if err != nil {
		return nil, wrap(op, clean, err)
	}
	defer leave()
	for {
		b, err := Open(name, &OpenOptions{Prefault: o.Prefault, Dir: o.Dir})
		if errors.Is(err, mem.ErrEmpty) {
			// Python makes a name before it gives it a size, some microseconds later.
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			b, err = Wait(ctx, name, &OpenOptions{Prefault: o.Prefault, Dir: o.Dir})
			cancel()
		}
		switch {
		case err == nil && b.size < size:
			b.Close()
			return nil, wrap(op, name, fmt.Errorf("%w: the block exists and has %d bytes, %d were asked for", ErrSize, b.size, size))
		case !errors.Is(err, fs.ErrNotExist):
			return b, err
		}
		if b, err = create(op, name, &o, sized(size), init); !errors.Is(err, errTaken) {
			return b, err
		}
	}
}

// Anonymous makes a block without a name: nothing can be left behind. It
// travels as a descriptor (File, FromFile) and lives as long as any process has
// it open or mapped. It is sealed against resizing, so that no peer can turn
// an access into a fault. Of opts only Sparse, Prefault and HugePages count.
//
// Errors: ErrSize, ErrNoSpace; errors.ErrUnsupported where the system has no
// memory files.
func Anonymous(size int, opts *CreateOptions) (*Block, error) {
	const op = "create anonymous"
	o := options(opts)
	if err := checkSize(size); err != nil {
		return nil, wrap(op, "", err)
	}
	obj, err := mem.Anonymous(int64(size), o.flags())
	if err != nil {
		return nil, wrap(op, "", err)
	}
	defer obj.Close()
	return anonymous(op, obj, o.Prefault)
}

// FromFile maps the memory behind a descriptor that another process passed on:
// an anonymous block, or any regular file. f remains the caller's and may be
// closed. If f was opened for reading only, ask for ReadOnly.
//
// Errors: fs.ErrPermission, ErrSize for an empty file; errors.ErrUnsupported on
// Windows.
func FromFile(f *os.File, opts *OpenOptions) (*Block, error) {
	const op = "open file"
	var o OpenOptions
	if opts != nil {
		o = *opts
	}
	obj, err := mem.FromFile(f, o.ReadOnly)
	if err != nil {
		return nil, wrap(op, "", sizeOf(formatOf(err)))
	}
	defer obj.Close()
	b, err := anonymous(op, obj, o.Prefault)
	if err == nil {
		b.readOnly = o.ReadOnly
	}
	return b, err
}

func anonymous(op string, obj *mem.Object, prefault bool) (*Block, error) {
	p, err := obj.Map(prefault)
	if err != nil {
		return nil, wrap(op, "", err)
	}
	b := &Block{size: len(p), id: obj.ID, mem: p, anonymous: true}
	f, err := obj.File("shm")
	switch {
	case err == nil:
		b.file = f
	case !errors.Is(err, errors.ErrUnsupported): // Windows: only this process can use it
		_ = mem.Unmap(p)
		return nil, wrap(op, "", err)
	}
	return b, nil
}

// options copies what a caller gave, so that it does not change under us.
func options(opts *CreateOptions) CreateOptions {
	if opts == nil {
		return CreateOptions{}
	}
	return *opts
}

func (o *CreateOptions) flags() (flags int) {
	if o.Sparse {
		flags |= mem.Sparse
	}
	if o.HugePages {
		flags |= mem.HugePages
	}
	return flags
}

func (o *CreateOptions) check() error {
	switch {
	case o.Mode&^fs.ModePerm != 0:
		return fmt.Errorf("mode %v has more than permission bits: %w", o.Mode, errors.ErrUnsupported)
	case o.Lifetime < Owned || o.Lifetime > Persistent:
		return fmt.Errorf("%v: %w", o.Lifetime, errors.ErrUnsupported)
	case o.KeepName && o.Lifetime == Persistent:
		return fmt.Errorf("KeepName needs an owner to keep it, a persistent block has none: %w", errors.ErrUnsupported)
	}
	return mem.BadOptions(o.Dir, o.KeepName, o.Lifetime == Persistent)
}

// content is what the memory of a new block is made of: size zeros, or what a
// reader holds.
type content struct {
	size int
	from io.Reader
}

func sized(size int) content { return content{size: size} }

func filled(r io.Reader) content { return content{from: r} }

// costly tells that making it takes much longer than asking whether the name is
// taken.
func (c content) costly() bool { return c.from != nil || c.size >= 1<<20 }

func (c content) check() error {
	if c.from != nil {
		return nil
	}
	return checkSize(c.size)
}

// object makes the memory, before it has a name.
func (c content) object(name string, o *CreateOptions, temp func() (string, error)) (*mem.Object, error) {
	if c.from != nil {
		return mem.NewFrom(o.Dir, name, temp, c.from, uint32(o.Mode), o.flags())
	}
	return mem.New(o.Dir, name, temp, int64(c.size), uint32(o.Mode), o.flags())
}

// create is the one way in which a named block comes into being.
func create(op, name string, opts *CreateOptions, c content, init func(*Block) error) (_ *Block, err error) {
	given := name
	defer func() { err = wrap(op, given, sizeOf(err)) }()
	o := options(opts)
	if err := errors.Join(o.check(), c.check()); err != nil {
		return nil, err
	}
	if o.Mode == 0 {
		o.Mode = 0o600
	}
	if name != "" {
		if name, err = cleanName(name); err != nil {
			return nil, err
		}
		given = name
	}
	own := lease.For(o.Dir)
	if o.Replace {
		if _, err := lease.Sweep(o.Dir); err != nil {
			return nil, err
		}
	}
	if name != "" && c.costly() {
		// Looking first spares the work; whoever comes in between is found out
		// when the name is given.
		if _, err := mem.Lookup(o.Dir, name); !errors.Is(err, fs.ErrNotExist) {
			return nil, taken(o.Dir, err)
		}
	}
	python, err := o.pythonTracker(name)
	if err != nil {
		return nil, err
	}
	if o.Lifetime == Tracked && python == nil && !mem.UnlinkIsNothing {
		if err := tracker.Watch(own); err != nil {
			return nil, err
		}
	}
	release := func() {}
	defer func() { release() }()
	temp := func() (name string, err error) {
		name, release, err = own.Temp()
		return name, err
	}
	for {
		b, err := build(name, &o, c, temp, init, own)
		if err == nil && python != nil {
			handOver(b, python, own)
		}
		// A name of ours was taken already where it is given at once. What came
		// from a reader is spent by then.
		if name == "" && errors.Is(err, errTaken) && c.from == nil {
			continue
		}
		return b, err
	}
}

// errTaken is fs.ErrExist, but not one that init returned.
var errTaken = fmt.Errorf("the name is taken: %w", fs.ErrExist)

func taken(dir string, err error) error {
	if err == nil || errors.Is(err, mem.ErrNotRegular) {
		return errTaken
	}
	return err
}

// build makes one block and gives it its name, a fresh one for "". Whatever
// fails or panics, nothing is left.
func build(name string, o *CreateOptions, c content, temp func() (string, error), init func(*Block) error, own *lease.Lease) (_ *Block, err error) {
	fresh := name == ""
	if fresh {
		name = freshName()
	}
	obj, err := c.object(name, o, temp)
	if err != nil {
		if errors.Is(err, fs.ErrExist) {
			err = errTaken
		}
		return nil, err
	}
	crash.Point("create:reserved")
	var b *Block
	done := false
	defer func() {
		if done {
			_ = obj.Close()
			return
		}
		obj.Discard()
		if b != nil {
			_ = b.Close()
		}
	}()
	p, err := obj.Map(o.Prefault)
	if err != nil {
		return nil, err
	}
	b = &Block{name: name, dir: o.Dir, size: len(p), id: obj.ID, mem: p}
	if init != nil {
		if err := init(b); err != nil {
			return nil, fmt.Errorf("init: %w", err)
		}
	}
	for {
		if o.Lifetime == Persistent || mem.UnlinkIsNothing {
			obj.Mark(Persistent.String())
			err = publish(obj, b.name)
		} else {
			err = publishOwned(b, obj, o, own)
		}
		if !fresh || obj.Named() || !errors.Is(err, errTaken) {
			break
		}
		b.name = freshName()
	}
	if err != nil {
		return nil, err
	}
	crash.Point("create:published")
	b.keep(obj)
	done = true
	return b, nil
}

func publish(obj *mem.Object, name string) error {
	err := obj.Publish(name)
	if errors.Is(err, fs.ErrExist) {
		return errTaken
	}
	return err
}

// sizeOf makes the errors about empty objects errors about size.
func sizeOf(err error) error {
	if errors.Is(err, mem.ErrEmpty) {
		return fmt.Errorf("%w: %w", ErrSize, err)
	}
	return err
}
