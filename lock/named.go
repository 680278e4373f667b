package lock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/guard"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/lease"
	"github.com/sharedmem/shm/internal/platform/mem"
	"github.com/sharedmem/shm/internal/platform/wait"
)

// A semaphore of glibc's sem_open on 64-bit machines is a file sem.NAME beside the
// blocks, of 32 bytes (struct new_sem in its internaltypes.h, found by looking at
// the files as well):
//
//	 0  4  value
//	 4  4  how many wait
//	 8  4  128: between processes
//	12    zeros
const (
	namedPrefix = "sem."
	namedSize   = 32
	namedShared = 0x80
	namedMax    = math.MaxInt32 // SEM_VALUE_MAX
)

// SemaphoreOptions are the choices of [OpenSemaphore].
type SemaphoreOptions struct {
	Create    bool        // make it if it does not exist
	Exclusive bool        // with Create: fs.ErrExist if it does
	Mode      fs.FileMode // permission bits of a new one, exactly; 0 means 0600
	Initial   int         // permits of a new one
}

// NamedSemaphore is a POSIX named semaphore, the C library's: C programs open the
// same one with sem_open("/name"), and Python has its multiprocessing.Semaphore and Lock
// in such. All methods may be called by several goroutines at once.
//
// What glibc does not have it has not: nobody is told that a holder has died.
type NamedSemaphore struct {
	name  string
	mem   []byte
	value *atomic.Uint32 // both halves of both, on its first eight bytes
	both  *atomic.Uint64

	guard guard.Guard
	id    mem.ID
	local *local
}

// namedLocals has what the handles of this process on one semaphore share.
var (
	namedMu     sync.Mutex
	namedLocals = map[mem.ID]*namedLocal{}
)

type namedLocal struct {
	local *local
	refs  int
}

func localOf(id mem.ID) *local {
	namedMu.Lock()
	defer namedMu.Unlock()
	n := namedLocals[id]
	if n == nil {
		n = &namedLocal{local: newLocal()}
		namedLocals[id] = n
	}
	n.refs++
	return n.local
}

func dropLocal(id mem.ID) {
	namedMu.Lock()
	defer namedMu.Unlock()
	if n := namedLocals[id]; n.refs > 1 {
		n.refs--
		return
	}
	delete(namedLocals, id)
}

// OpenSemaphore opens the semaphore with this name, with or without C's slash in
// front. nil opts open an existing one. A new one appears under its name only
// when it is complete, and stays until [UnlinkSemaphore].
//
// Errors: shm.ErrName, fs.ErrNotExist, fs.ErrExist, fs.ErrPermission, shm.ErrSize
// for a bad Initial, shm.ErrFormat if the file is no semaphore of glibc's,
// errors.ErrUnsupported but on Linux with 64 bits.
func OpenSemaphore(name string, opts *SemaphoreOptions) (*NamedSemaphore, error) {
	var o SemaphoreOptions
	if opts != nil {
		o = *opts
	}
	file, err := semaphoreName(name)
	if err == nil {
		err = semaphoresHere()
	}
	if err == nil && (o.Initial < 0 || o.Initial > namedMax) {
		err = fmt.Errorf("%w: %d permits", shm.ErrSize, o.Initial)
	}
	var obj *mem.Object
	if err == nil {
		obj, err = openOrCreate(file, &o)
	}
	if err != nil {
		return nil, &shm.Error{Op: "open semaphore", Name: name, Err: err}
	}
	defer obj.Close()
	s := &NamedSemaphore{name: strings.TrimPrefix(name, "/"), id: obj.ID}
	if err := s.lay(obj); err != nil {
		return nil, &shm.Error{Op: "open semaphore", Name: name, Err: err}
	}
	return s, nil
}

func semaphoresHere() error {
	if err := wait.Supported(); err != nil {
		return err
	}
	if strconv.IntSize != 64 {
		return fmt.Errorf("the C library has another layout on 32 bits: %w", errors.ErrUnsupported)
	}
	return nil
}

func semaphoreName(name string) (string, error) {
	short := strings.TrimPrefix(name, "/")
	switch {
	case short == "", strings.ContainsAny(short, "/\x00"), !utf8.ValidString(short):
		return "", fmt.Errorf("%w: a semaphore's name is one path element of UTF-8", shm.ErrName)
	case len(namedPrefix)+len(short) > mem.NameMax:
		return "", fmt.Errorf("%w: it has %d bytes, %d are possible", shm.ErrName, len(short), mem.NameMax-len(namedPrefix))
	}
	return namedPrefix + short, nil
}

func openOrCreate(file string, o *SemaphoreOptions) (*mem.Object, error) {
	for {
		if !o.Create || !o.Exclusive {
			obj, err := mem.Open("", file, false)
			if err == nil || !o.Create || !errors.Is(err, fs.ErrNotExist) {
				return obj, err
			}
		}
		obj, err := makeSemaphore(file, o)
		if err == nil || o.Exclusive || !errors.Is(err, fs.ErrExist) {
			return obj, err
		}
		// Somebody else was first.
	}
}

func makeSemaphore(file string, o *SemaphoreOptions) (*mem.Object, error) {
	mode := uint32(o.Mode.Perm())
	if mode == 0 {
		mode = 0o600
	}
	var drop func()
	obj, err := mem.New("", file, func() (name string, err error) {
		name, drop, err = lease.For("").Temp()
		return name, err
	}, namedSize, mode, 0)
	if drop != nil {
		defer drop()
	}
	if err != nil {
		return nil, err
	}
	var first [16]byte
	binary.NativeEndian.PutUint32(first[layout.LowHalf:], uint32(o.Initial))
	binary.NativeEndian.PutUint32(first[8:], namedShared)
	if err = obj.WriteAt(first[:], 0); err == nil {
		err = obj.Publish(file)
	}
	if err != nil {
		obj.Discard()
		return nil, err
	}
	return obj, nil
}

func (s *NamedSemaphore) lay(obj *mem.Object) error {
	if obj.Size != namedSize {
		return fmt.Errorf("%w: a file of %d bytes, where a semaphore of glibc's has %d", shm.ErrFormat, obj.Size, namedSize)
	}
	p, err := obj.Map(false)
	if err != nil {
		return err
	}
	shared, err := layout.At[uint32](p, 8)
	if err == nil && *shared != namedShared {
		err = fmt.Errorf("%w: it is no semaphore of glibc's on 64 bits", shm.ErrFormat)
	}
	if err == nil {
		s.both, err = layout.At[atomic.Uint64](p, 0)
	}
	if err == nil {
		s.value, err = layout.At[atomic.Uint32](p, layout.LowHalf)
	}
	if err != nil {
		_ = mem.Unmap(p)
		return err
	}
	s.mem, s.local = p, localOf(s.id)
	return nil
}

// Name returns the semaphore's name without a slash.
func (s *NamedSemaphore) Name() string { return s.name }

func (s *NamedSemaphore) fail(op string, err error) error {
	if err == nil {
		return nil
	}
	return &shm.Error{Op: op + " semaphore", Name: s.name, Err: err}
}

// Value returns how many permits there are now.
//
// Errors: os.ErrClosed.
func (s *NamedSemaphore) Value() (int, error) {
	if !s.guard.Enter() {
		return 0, s.fail("look at", os.ErrClosed)
	}
	defer s.guard.Leave()
	return int(uint32(s.both.Load())), nil
}

// TryWait takes a permit if there is one, and reports whether it did.
//
// Errors: os.ErrClosed.
func (s *NamedSemaphore) TryWait() (bool, error) {
	if !s.guard.Enter() {
		return false, s.fail("wait for", os.ErrClosed)
	}
	defer s.guard.Leave()
	return s.take(0), nil
}

// take takes a permit, and away from those who wait.
func (s *NamedSemaphore) take(away uint64) bool {
	for {
		w := s.both.Load()
		if uint32(w) == 0 {
			return false
		}
		if s.both.CompareAndSwap(w, w-1-away<<32) {
			s.local.shadow.acquire()
			return true
		}
	}
}

// Wait takes a permit.
//
// Errors: os.ErrClosed, shm.ErrTruncated.
func (s *NamedSemaphore) Wait() error { return s.WaitContext(context.Background()) }

// WaitContext is Wait until ctx is done; then the error is its.
func (s *NamedSemaphore) WaitContext(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return s.fail("wait for", err)
	}
	if !s.guard.Enter() {
		return s.fail("wait for", os.ErrClosed)
	}
	defer s.guard.Leave()
	if s.take(0) {
		return nil
	}
	return s.fail("wait for", s.wait(ctx))
}

func (s *NamedSemaphore) wait(ctx context.Context) error {
	select {
	case s.local.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.guard.Done():
		return os.ErrClosed
	}
	defer func() { <-s.local.turn }()
	// One goroutine of the process sleeps, and stop gets it out of there.
	me := &sleeper{}
	undo := func() bool { return true }
	if ctx.Done() != nil {
		undo = context.AfterFunc(ctx, me.wake)
	}
	defer undo()
	left := make(chan struct{})
	defer close(left)
	go func() {
		select {
		case <-s.guard.Done():
			me.wake()
		case <-left:
		}
	}()

	s.both.Add(1 << 32)
	for {
		if s.take(1) {
			return nil
		}
		err := wait.Any(0, wait.On{Word: s.value, Value: 0}, wait.On{Word: &me.stop, Private: true})
		switch {
		case err != nil:
			return shm.ErrTruncated
		case s.guard.Closed():
			err = os.ErrClosed
		default:
			err = ctx.Err()
		}
		if err == nil {
			continue
		}
		// What woke us may have been for another.
		if w := s.both.Add(^uint64(1<<32 - 1)); uint32(w) > 0 && w>>32 > 0 {
			wait.Wake(s.value, 1)
		}
		return err
	}
}

// Post adds a permit, and wakes one who waits.
//
// Errors: shm.ErrSize if there are too many, os.ErrClosed.
func (s *NamedSemaphore) Post() error {
	if !s.guard.Enter() {
		return s.fail("post", os.ErrClosed)
	}
	defer s.guard.Leave()
	s.local.shadow.release()
	for {
		w := s.both.Load()
		if uint32(w) >= namedMax {
			return s.fail("post", fmt.Errorf("%w: %d permits are the most", shm.ErrSize, namedMax))
		}
		if s.both.CompareAndSwap(w, w+1) {
			if w>>32 != 0 {
				wait.Wake(s.value, 1)
			}
			return nil
		}
	}
}

// Close lets go of the semaphore in this process; those who wait return
// os.ErrClosed. It stays under its name. Closing again returns nil.
func (s *NamedSemaphore) Close() error {
	if !s.guard.Close() {
		return nil
	}
	err := mem.Unmap(s.mem)
	dropLocal(s.id) // after, as its ID may be another's as soon as nobody has it
	return s.fail("close", err)
}

// UnlinkSemaphore takes the name away. Those who have it open go on.
//
// Errors: shm.ErrName, fs.ErrNotExist, fs.ErrPermission, errors.ErrUnsupported.
func UnlinkSemaphore(name string) error {
	file, err := semaphoreName(name)
	if err == nil {
		err = semaphoresHere()
	}
	if err == nil {
		err = mem.Unlink("", file)
	}
	if err != nil {
		return &shm.Error{Op: "unlink semaphore", Name: name, Err: err}
	}
	return nil
}
