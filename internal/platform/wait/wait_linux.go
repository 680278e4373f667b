package wait

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	sysWaitv = 449 // the same number on every architecture

	futexWait = 0
	futexWake = 1

	futex2U32     = 2
	futex2Private = 128
)

// slice is how long those sleep who cannot sleep on several words at once:
// before Linux 5.16, under old seccomp filters and in emulators. They look
// every so often instead.
const slice = 5 * time.Millisecond

// waitv is the kernel's struct futex_waitv.
type waitv struct {
	val      uint64
	addr     uint64
	flags    uint32
	reserved uint32
}

// oldKernel makes the newer calls fail as older kernels do, for tests.
var oldKernel = os.Getenv("SHM_TEST_OLD_KERNEL") != ""

// hasWaitv asks with no words at all, which a kernel that knows the call calls
// invalid.
var hasWaitv = sync.OnceValue(func() bool {
	_, _, errno := unix.Syscall6(sysWaitv, 0, 0, 0, 0, 0, 0)
	return errno == unix.EINVAL && !oldKernel
})

// Supported returns nil where processes can wait for each other.
func Supported() error { return nil }

// Any sleeps until one of the words changes or is woken, at most for timeout.
// It may return early for no reason. The error is EFAULT if a word's memory is
// gone.
//
// The call is one that the Go scheduler knows of: a raw one would hold up the
// garbage collector for as long as the other process likes (measured: until it
// woke us). Time is absolute, since a relative one starts anew with each signal.
func Any(timeout time.Duration, on ...On) error {
	if timeout <= 0 || timeout > Backstop {
		timeout = Backstop
	}
	if !hasWaitv() {
		return first(min(timeout, slice), on[0])
	}
	ns := clock() + int64(timeout)
	until := [2]int64{ns / 1e9, ns % 1e9} // struct __kernel_timespec, on 32 bits too
	var list [4]waitv
	for i, w := range on {
		list[i] = waitv{val: uint64(w.Value), addr: uint64(uintptr(unsafe.Pointer(w.Word))), flags: futex2U32}
		if w.Private {
			list[i].flags |= futex2Private
		}
	}
	_, _, errno := unix.Syscall6(sysWaitv, uintptr(unsafe.Pointer(&list[0])), uintptr(len(on)), 0,
		uintptr(unsafe.Pointer(&until)), unix.CLOCK_MONOTONIC, 0)
	runtime.KeepAlive(on)
	return fault(errno)
}

// started is one moment by Go's clock and by the kernel's, whose call costs as much
// as the half of a sleep; Go's, which runs as fast, does not enter the kernel.
var started = sync.OnceValue(func() (s struct {
	at time.Time
	ns int64
}) {
	var now unix.Timespec
	s.at = time.Now()
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) == nil {
		s.ns = now.Nano()
	}
	return s
})

// clock is CLOCK_MONOTONIC.
func clock() int64 {
	s := started()
	return s.ns + int64(time.Since(s.at))
}

// One is Any for one word of shared memory and without an end, for those whom a wake that
// is lost costs no more than time: somebody else looks now and then. Arming and disarming a timer
// is a tenth of what it takes to be woken.
func One(w *atomic.Uint32, value uint32) error {
	return futex(futexWait, On{Word: w, Value: value}, nil)
}

// first sleeps on one word only.
func first(timeout time.Duration, on On) error {
	op := uintptr(futexWait)
	if on.Private {
		op |= futex2Private
	}
	ts := unix.NsecToTimespec(int64(timeout))
	return futex(op, on, &ts)
}

func futex(op uintptr, on On, ts *unix.Timespec) error {
	_, _, errno := unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(on.Word)), op, uintptr(on.Value),
		uintptr(unsafe.Pointer(ts)), 0, 0)
	return fault(errno)
}

func fault(errno unix.Errno) error {
	if errno == unix.EFAULT {
		return errno
	}
	return nil
}

// Wake wakes at most n of those who sleep on w, in any process, and returns how
// many it were. The call does not sleep, and so is a raw one.
func Wake(w *atomic.Uint32, n int) int { return wake(w, n, futexWake) }

// WakePrivate is Wake for a word of this process's own memory.
func WakePrivate(w *atomic.Uint32, n int) int { return wake(w, n, futexWake|futex2Private) }

func wake(w *atomic.Uint32, n, op int) int {
	r, _, errno := unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(w)), uintptr(op), uintptr(n), 0, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(r)
}

// robust is the kernel's struct robust_list_head, with the only entry that the
// list ever has. It must not be on a stack, as those move.
type robust struct {
	head, offset, pending uintptr
	node                  uintptr
}

// lists keeps what the kernel knows the addresses of.
var lists sync.Map

// Guard gives w to the calling thread, which the caller has locked to its
// goroutine: from now on w is not zero, and if the process dies, or only this
// thread, the kernel sets OwnerDied in it and wakes one who sleeps on it. leave
// takes w back and stores 0; call it on the same thread.
//
// The error says that the system has no robust lists; w is then not zero all
// the same.
//
// The entry is this process's own word and no lock's. A lock's would be judged
// by thread IDs, and those of two PID namespaces are the same: it was tried, and the
// death of one process took a lock away from the other.
func Guard(w *atomic.Uint32) (leave func(), err error) {
	l := &robust{}
	lists.Store(l, nil)
	l.head, l.node = uintptr(unsafe.Pointer(&l.node)), uintptr(unsafe.Pointer(&l.head))
	l.offset = uintptr(unsafe.Pointer(w)) - l.head
	errno := unix.ENOSYS
	if !oldKernel {
		_, _, errno = unix.RawSyscall(unix.SYS_SET_ROBUST_LIST, uintptr(unsafe.Pointer(l)), unsafe.Sizeof([3]uintptr{}), 0)
	}
	if errno != 0 {
		err = errors.New("no robust list: " + errno.Error())
	}
	// After the list: who dies before this store has never been seen.
	w.Store(uint32(unix.Gettid()) | Waiters)
	return func() {
		w.Store(0)
		l.head = uintptr(unsafe.Pointer(&l.head)) // empty; the kernel looks again when the thread ends
	}, err
}

// membarrier(2)'s commands.
const (
	barrierGlobal          = 1 << 1
	barrierRegisterGlobal  = 1 << 2
	barrierPrivate         = 1 << 3
	barrierRegisterPrivate = 1 << 4
)

// Fences reports whether Fence does what it says.
var Fences = sync.OnceValue(func() bool {
	_, _, errno := unix.RawSyscall(unix.SYS_MEMBARRIER, barrierRegisterPrivate, 0, 0)
	return errno == 0
})

// Fence has every thread of this process pass a full memory barrier, wherever it
// is. So one side of a handshake that is nearly always the other one's, such as
// Close beside calls in flight, can pay for both.
func Fence() {
	if Fences() {
		_, _, _ = unix.RawSyscall(unix.SYS_MEMBARRIER, barrierPrivate, 0, 0)
	}
}

// FencesAll reports whether FenceAll does what it says, and registers this process
// as one that it reaches.
var FencesAll = sync.OnceValue(func() bool {
	_, _, errno := unix.RawSyscall(unix.SYS_MEMBARRIER, barrierRegisterGlobal, 0, 0)
	return errno == 0
})

// FenceAll is Fence for the threads of all processes that have asked FencesAll.
func FenceAll() {
	if FencesAll() {
		_, _, _ = unix.RawSyscall(unix.SYS_MEMBARRIER, barrierGlobal, 0, 0)
	}
}
