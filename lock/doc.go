// Package lock has locks that lie in shared memory and work between processes,
// any of which may die at any instruction.
//
//	type shared struct {
//		Lock    lock.State
//		Balance int64
//	}
//	s, err := shm.At[shared](b, 0)     // all zeros at first: ready
//	m, err := lock.NewMutex(b, 0)      // where s.Lock lies; shm.Offset finds it
//
//	switch err := m.Lock(); {
//	case errors.Is(err, lock.ErrOwnerDied): // held, and its last holder died holding it
//		repair(s)
//		err = m.MarkConsistent()
//	case err != nil:
//		return err
//	}
//	s.Balance++
//	err = m.Unlock()
//
// # What there is
//
//	Mutex      one at a time
//	RWMutex    many readers or one writer; neither starves the other
//	Cond       wait for a change of what a Mutex guards
//	Event      a flag to wait for: manual reset (all pass) or automatic (one does)
//	Barrier    wait until so many have come
//	Once       do something once among all processes
//	Semaphore  count permits
//	NamedSemaphore  the C library's sem_open: shared with C and Python
//
// Each but the last lies in a [State] of 64 bytes, an [RWMutex] in an [RWState].
// Zeros are ready for use; the first handle made stamps what it is, and another kind
// there is shm.ErrFormat. Handles are cheap, any number of them may be made on one
// State, by any process that has the block open, and they need no closing: they end
// with their block. docs/format.md has the bytes.
//
// # Who owns, and what death does
//
// A lock is held by a process, as a sync.Mutex is held by the program and not by
// a goroutine: another goroutine of the process may unlock it. In the
// word stands the ID of the process's lease, which is never used again, so that a
// reused PID, another PID namespace or a zombie deceives nobody.
//
// Death is noticed by the kernel and told to all within a millisecond or so (in
// docs/benchmarks.md). Then
//
//	Mutex      the next Lock succeeds with ErrOwnerDied
//	RWMutex    after a writer's death the same; a dead reader is forgotten
//	Cond       a dead waiter takes no signal with it: the others wake, and look
//	Event      the same; an automatic event that the dead one had passed is used
//	Barrier    ErrBroken for all, until Reset, if it had taken part
//	Once       the next caller does it
//	Semaphore  a dead waiter takes no permit with it; one that held permits keeps
//	           them, as nobody can know whose they are. Use a Mutex for ownership.
//
// [Mutex.MarkConsistent] says that the data is mended. A lock that is given back without
// it is ErrNotRecoverable for everybody, for good, as with POSIX's robust mutexes.
//
// All this holds between processes of one user, with one place for leases (a
// container with its own /dev/shm has its own: errors.ErrUnsupported). Locks work
// between users as well, but the death of another user's process is noticed only
// by that user and root.
//
// # Waiting
//
// Lock waits for as long as it takes; TryLock does not; LockContext until its
// context is done, whose error it returns. Of all goroutines that wait for one
// lock, one at a time occupies a thread; sleeping holds up neither the garbage
// collector nor, for more than a moment, other goroutines.
//
// Close of the block ends every wait with os.ErrClosed. Close of a block in which this
// process holds a lock is an error, ErrHeld. A call that begins at the very
// moment of Close may find the memory gone, as with all quick access to a block:
// an uncontended Lock would take twice as long if it had to count itself in and out.
//
// The race detector sees what these locks order within one process; between
// processes it sees nothing.
//
// # Systems
//
// Linux has everything; before 5.16 and in emulators without futex_waitv those who
// wait look every few milliseconds. Elsewhere all constructors return
// errors.ErrUnsupported: no other system both reaches other processes and
// tells of their death.
package lock
