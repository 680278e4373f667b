package shm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/sharedmem/shm/internal/platform/mem"
)

// Open maps a block that some process, in whatever language, created. Its size
// is whatever the block has. If Open fails, nothing happens to the block.
//
// Errors: ErrName, fs.ErrNotExist, fs.ErrPermission (see OpenOptions.ReadOnly),
// ErrNoSpace (with Prefault), ErrSize for a block that its creator has not
// given a size yet (see Wait), ErrFormat if the name belongs to something that
// is not shared memory, such as a symbolic link.
func Open(name string, opts *OpenOptions) (*Block, error) {
	const op = "open"
	var o OpenOptions
	if opts != nil {
		o = *opts
	}
	clean, err := cleanName(name)
	if err != nil {
		return nil, wrap(op, name, err)
	}
	b, err := open(clean, &o)
	if err != nil {
		return nil, wrap(op, clean, sizeOf(formatOf(err)))
	}
	return b, nil
}

func open(name string, o *OpenOptions) (*Block, error) {
	obj, err := mem.Open(o.Dir, name, o.ReadOnly)
	if err != nil {
		return nil, err
	}
	defer obj.Close()
	p, err := obj.Map(o.Prefault)
	if err != nil {
		return nil, err
	}
	b := &Block{name: name, dir: o.Dir, size: len(p), readOnly: o.ReadOnly, id: obj.ID, mem: p}
	b.keep(obj)
	return b, nil
}

// formatOf makes the error about other kinds of files one about the format.
func formatOf(err error) error {
	if errors.Is(err, mem.ErrNotRegular) {
		return fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return err
}

// keep takes over from obj what the block needs as long as it is open: on
// Windows the handle, which keeps the name alive.
func (b *Block) keep(obj *mem.Object) { b.file = obj.Keep() }

// Wait opens the block as soon as it exists, and returns at once if it does. It
// returns the context's error when ctx ends first, and otherwise what Open
// returns. Any number of goroutines may wait; they cost no threads.
//
// On Linux the kernel tells of new names; elsewhere, and where the kernel has no
// inotify instance left for this user, Wait looks again at growing intervals of
// 1 to 50 ms.
func Wait(ctx context.Context, name string, opts *OpenOptions) (*Block, error) {
	const op = "wait"
	b, err := Open(name, opts)
	if !missing(err) {
		return b, err
	}
	dir := ""
	if opts != nil {
		dir = opts.Dir
	}
	name = strings.TrimPrefix(name, "/") // checked by Open
	wake, stop, err := watch(dir, name)
	if err != nil {
		return nil, wrap(op, name, err)
	}
	defer stop()
	for {
		b, err := Open(name, opts)
		if !missing(err) {
			return b, err
		}
		select {
		case <-ctx.Done():
			return nil, wrap(op, name, ctx.Err())
		case <-wake():
		}
	}
}

// missing tells whether waiting may help.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, mem.ErrEmpty)
}

// watch returns a function that gives the channel on which the next reason to
// look again arrives.
func watch(dir, name string) (wake func() <-chan struct{}, stop func(), err error) {
	w, err := mem.Watch(dir, name, mem.Appears)
	if err == nil {
		return func() <-chan struct{} { return w.C }, w.Stop, nil
	}
	// Without a directory there is nothing to wait for; every other failure, such
	// as too many inotify instances of this user (128 by default), only costs time.
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	pause := time.Millisecond
	return func() <-chan struct{} {
		c := make(chan struct{})
		time.AfterFunc(pause, func() { close(c) })
		pause = min(2*pause, 50*time.Millisecond)
		return c
	}, func() {}, nil
}

// Ref is the name of a block as a value: it travels in JSON, gob, flags and
// environment variables, and Open gives the block. Its text is the name, or for
// a block in a directory of its own the path.
type Ref struct {
	Name string
	Dir  string // "" is the system's place
	Kind string // "list" if it is a list's; no part of the text
}

// Open opens the block; Dir in opts is ignored.
func (r Ref) Open(opts *OpenOptions) (*Block, error) {
	var o OpenOptions
	if opts != nil {
		o = *opts
	}
	o.Dir = r.Dir
	return Open(r.Name, &o)
}

// String returns the text that Set and UnmarshalText accept.
func (r Ref) String() string {
	if r.Dir == "" {
		return r.Name
	}
	return r.Dir + "/" + r.Name
}

// Set makes *Ref a flag.Value. ErrName for what cannot be a block's name.
func (r *Ref) Set(text string) error {
	var ref Ref
	ref.Name = text
	// A backslash is part of a name on Windows, where there is no Dir.
	if i := strings.LastIndexByte(text, '/'); i > 0 {
		ref.Dir, ref.Name = text[:i], text[i+1:]
	}
	name, err := cleanName(ref.Name)
	if err != nil {
		return wrap("parse", text, err)
	}
	ref.Name = name
	*r = ref
	return nil
}

// MarshalText returns String's text.
func (r Ref) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText does what Set does.
func (r *Ref) UnmarshalText(text []byte) error { return r.Set(string(text)) }
