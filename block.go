package shm

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/sharedmem/shm/internal/guard"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/platform/mem"
)

// Block is one mapping of a named (or anonymous) block of memory. Opening the
// same name twice gives two mappings of the same memory. All methods may be
// called by several goroutines at once; what they read and write in the memory
// is not synchronised by it.
//
// A Block must be closed; dropping it leaves it mapped.
type Block struct {
	name, dir string
	size      int
	readOnly  bool
	anonymous bool
	id        mem.ID

	mem   []byte
	guard guard.Guard
	raw   atomic.Bool // somebody may hold a pointer that Close does not know of

	mu    sync.Mutex
	file  io.Closer // an anonymous block's *os.File; on Windows the handle that keeps the name
	hooks []closeHook
	late  bool // Close has called the hooks
}

type closeHook struct {
	busy    func() error
	closing func()
}

// OnClose is for packages that have something in the block, as locks are. When
// Close is called it first asks busy of each: if one returns an error, Close
// returns it and the block stays open. Then it calls closing of each, once, which
// wakes those who wait in the block. Either may be nil.
//
// Errors: os.ErrClosed.
func (b *Block) OnClose(busy func() error, closing func()) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.late || b.guard.Closed() {
		return &Error{"attach to", b.name, os.ErrClosed}
	}
	b.hooks = append(b.hooks, closeHook{busy, closing})
	return nil
}

// Identity is a comparable value that two Blocks of one process have in common
// if, and as long as, they are the same memory.
type Identity struct {
	id        mem.ID
	name, dir string
}

// Identity tells this memory from any other.
func (b *Block) Identity() Identity {
	if b.id != (mem.ID{}) {
		return Identity{id: b.id}
	}
	return Identity{name: b.name, dir: b.dir} // Windows knows no identities
}

// Name returns the block's name without the leading slash, "" if it is
// anonymous. It stays readable after Close.
func (b *Block) Name() string { return b.name }

// Size returns the block's size in bytes, as it was when this process created
// or opened it. It stays readable after Close.
func (b *Block) Size() int { return b.size }

// ReadOnly tells whether this process opened the block for reading only.
func (b *Block) ReadOnly() bool { return b.readOnly }

// Closed tells whether Close has begun. It costs a nanosecond.
func (b *Block) Closed() bool { return b.guard.Closed() }

// String returns what Python's repr does: SharedMemory('psm_1a2b3c4d', size=4096).
func (b *Block) String() string {
	return fmt.Sprintf("SharedMemory(%s, size=%d)", layout.PyRepr(b.name), b.size)
}

// Ref returns the block's name as a value.
func (b *Block) Ref() Ref { return Ref{Name: b.name, Dir: b.dir} }

// Bytes returns the memory itself, Size bytes, shared with every process that
// has the block open. It is valid until Close; a later access faults. If the
// block was opened ReadOnly, so does writing. If another process makes the
// block smaller, so does access beyond. After Close it returns nil. See Do for
// a way without these risks.
func (b *Block) Bytes() []byte {
	if !b.handOut() {
		return nil
	}
	return b.mem
}

// handOut notes that raw memory leaves the house; false after Close.
func (b *Block) handOut() bool {
	if b.raw.Load() {
		return !b.guard.Closed()
	}
	// Inside the guard, so that Close sees the note or we see the closing.
	if !b.guard.Enter() {
		return false
	}
	b.raw.Store(true)
	b.guard.Leave()
	return true
}

// Do calls fn with the block's bytes. p is valid only until fn returns; Close
// waits for that, so calling Close inside fn never returns. If another process
// has made the block smaller and fn touches what is gone, fn ends there and Do
// returns ErrTruncated. After Close it returns os.ErrClosed. Other errors are
// fn's own.
func (b *Block) Do(fn func(p []byte) error) error {
	if !b.guard.Enter() {
		return &Error{"access", b.name, os.ErrClosed}
	}
	defer b.guard.Leave()
	return b.tolerate(fn)
}

// tolerate calls fn and turns a fault within the block into ErrTruncated. Any
// other fault goes on as the panic that it is.
func (b *Block) tolerate(fn func(p []byte) error) (err error) {
	// The setting is this goroutine's; it costs some 10 ns in all.
	old := debug.SetPanicOnFault(true)
	defer func() {
		if r := recover(); r != nil {
			if !b.truncated(r) {
				debug.SetPanicOnFault(old)
				panic(r)
			}
			err = &Error{"access", b.name, ErrTruncated}
		}
		debug.SetPanicOnFault(old)
	}()
	return fn(b.mem)
}

// truncated tells whether what was recovered is a fault on a page of ours that
// the file does not reach any more.
func (b *Block) truncated(r any) bool {
	fault, ok := r.(interface{ Addr() uintptr })
	if !ok {
		return false
	}
	off, ours := layout.FaultOffset(b.mem, fault.Addr(), os.Getpagesize())
	// Writing to read-only memory faults as well, and is the caller's mistake.
	return ours && !(b.readOnly && b.readable(off))
}

func (b *Block) readable(off int) (ok bool) {
	defer func() { ok = recover() == nil }()
	probe.Store(uint32(b.mem[off]))
	return true
}

// probe keeps the compiler from removing the read.
var probe atomic.Uint32

// Acquire keeps the memory mapped until release is called, for code that works
// in it over a longer time than one Do. Close waits for the release. release
// may be called more than once. After Close the error is os.ErrClosed.
//
// Acquire does not protect against another process making the block smaller.
func (b *Block) Acquire() (release func(), err error) {
	if !b.guard.Enter() {
		return nil, &Error{"acquire", b.name, os.ErrClosed}
	}
	b.raw.Store(true)
	var once atomic.Bool
	return func() {
		if once.CompareAndSwap(false, true) {
			b.guard.Leave()
		}
	}, nil
}

// ReadAt copies from the block, from byte off on, as io.ReaderAt says: fewer
// than len(p) bytes come with io.EOF.
//
// Errors: io.EOF, ErrSize for a negative offset, ErrTruncated, os.ErrClosed.
func (b *Block) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &Error{"read", b.name, fmt.Errorf("%w: offset %d is negative", ErrSize, off)}
	}
	if off >= int64(b.size) {
		if b.guard.Closed() {
			return 0, &Error{"read", b.name, os.ErrClosed}
		}
		return 0, io.EOF
	}
	n := min(len(p), b.size-int(off))
	err := b.Do(func(m []byte) error {
		copy(p[:n], m[off:])
		return nil
	})
	if err != nil {
		return 0, err
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt copies into the block, from byte off on. What does not fit is not
// begun: then nothing is written.
//
// Errors: ErrSize outside the block, fs.ErrPermission if it was opened
// ReadOnly, ErrTruncated, os.ErrClosed.
func (b *Block) WriteAt(p []byte, off int64) (int, error) {
	if b.readOnly {
		return 0, &Error{"write", b.name, fmt.Errorf("opened read-only: %w", fs.ErrPermission)}
	}
	if off < 0 || off > int64(b.size) || len(p) > b.size-int(off) {
		return 0, &Error{"write", b.name,
			fmt.Errorf("%w: %d bytes at offset %d, the block has %d", ErrSize, len(p), off, b.size)}
	}
	err := b.Do(func(m []byte) error {
		copy(m[off:], p)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Done returns a channel that is closed when Close begins: who waits on this
// block gives up then.
func (b *Block) Done() <-chan struct{} { return b.guard.Done() }

// Close lets go of the memory in this process. It waits for calls of Do and
// Acquire in flight; what Bytes, At and Slice returned must not be used any
// more, and faults. The block itself stays, and so does its ownership as long
// as this process lives. Closing again returns nil. If this process holds a lock
// in the block (package lock), Close returns that as an error and does nothing.
func (b *Block) Close() error {
	if !b.guard.Closed() {
		b.mu.Lock()
		hooks := b.hooks
		for _, h := range hooks {
			if h.busy != nil {
				if err := h.busy(); err != nil {
					b.mu.Unlock()
					return wrap("close", b.name, err)
				}
			}
		}
		b.hooks, b.late = nil, true
		b.mu.Unlock()
		for _, h := range hooks {
			if h.closing != nil {
				h.closing()
			}
		}
	}
	if !b.guard.Close() {
		return nil
	}
	free := mem.Unmap
	if b.raw.Load() {
		free = mem.Retire
	}
	err := free(b.mem)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file != nil {
		if cerr := b.file.Close(); err == nil {
			err = cerr
		}
		b.file = nil
	}
	return wrap("close", b.name, err)
}

// File returns a descriptor of the block's memory, to hand to another process
// through exec.Cmd.ExtraFiles or a Unix socket's SCM_RIGHTS, where FromFile
// makes a Block of it. It is the caller's to close.
//
// An anonymous block keeps its descriptor. A named one keeps none, so it is
// opened anew by its name: fs.ErrNotExist if the name is not this block's any
// more. errors.ErrUnsupported on Windows.
func (b *Block) File() (*os.File, error) {
	if !b.guard.Enter() {
		return nil, &Error{"file", b.name, os.ErrClosed}
	}
	defer b.guard.Leave()
	if b.anonymous {
		b.mu.Lock()
		defer b.mu.Unlock()
		file, ok := b.file.(*os.File)
		if !ok {
			return nil, wrap("file", "", errors.ErrUnsupported)
		}
		o, err := mem.FromFile(file, b.readOnly)
		if err != nil {
			return nil, wrap("file", b.name, err)
		}
		defer o.Close()
		f, err := o.File(file.Name())
		return f, wrap("file", b.name, err)
	}
	o, err := mem.Reopen(b.dir, b.name, b.id, b.readOnly)
	if err != nil {
		return nil, wrap("file", b.name, err)
	}
	defer o.Close()
	f, err := o.File(b.name)
	return f, wrap("file", b.name, err)
}
