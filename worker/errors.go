package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/sharedmem/shm"
)

var (
	// ErrNoMain says that the program has not called [Main], so that its children
	// would run the whole program again instead of one function of it.
	ErrNoMain = errors.New("the program does not call worker.Main first in main (in a test: first in TestMain)")

	// ErrTimeout says that a job took longer than [PoolOptions.Timeout].
	ErrTimeout = fmt.Errorf("the job took longer than the pool's Timeout: %w", os.ErrDeadlineExceeded)

	// ErrEncode says that a value cannot travel to a worker, or back from it.
	ErrEncode = errors.New("cannot be sent between processes")

	// ErrProtocol says that a worker does not say what workers say: its function
	// has closed or written to descriptors that are not its own.
	ErrProtocol = errors.New("the worker broke the protocol")
)

// Error is what went wrong with a function in a worker. Err tells more:
//
//   - a [Failure] if the function returned an error, panicked or raised an exception
//   - a [Death] if the worker's process ended before the function did
//   - ErrTimeout, ErrEncode, ErrProtocol, or the context's error
type Error struct {
	Op       string // "start", "encode", "run" or "decode"
	Function string
	PID      int // of the worker, 0 if there was none
	Err      error
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "worker: %s %s", e.Op, e.Function)
	if e.PID != 0 {
		fmt.Fprintf(&b, " (PID %d)", e.PID)
	}
	return b.String() + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// Failure is how a function ended that returned an error, panicked or raised an
// exception. The worker lives on.
//
// The error itself stays in the worker; its text and type come back, and
// [errors.Is] finds in it those of the values of packages shm, context, io, io/fs, os
// and errors that the original wrapped, and a syscall.Errno.
type Failure struct {
	Type  string // "*fs.PathError", "panic", "ValueError"
	Text  string
	Trace string // of a panic or exception: stack or traceback

	is    []error
	errno syscall.Errno
}

// panicType is the Type of the Failure of a panic.
const panicType = "panic"

func (f *Failure) Error() string {
	text := f.Text
	if f.Trace != "" {
		if f.Type != "" {
			text = f.Type + ": " + text
		}
		text += "\n" + strings.TrimSuffix(f.Trace, "\n")
	}
	return text
}

// Is reports whether target is one of the well-known values that the function's error
// wrapped.
func (f *Failure) Is(target error) bool {
	if e, ok := target.(syscall.Errno); ok {
		return e != 0 && e == f.errno
	}
	return slices.Contains(f.is, target)
}

// known are the errors that a Failure remembers by their place here. Parent and child
// are one program, so the places agree.
var known = []error{
	context.Canceled, context.DeadlineExceeded, io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe,
	fs.ErrInvalid, fs.ErrPermission, fs.ErrExist, fs.ErrNotExist, fs.ErrClosed,
	os.ErrDeadlineExceeded, os.ErrProcessDone, errors.ErrUnsupported,
	shm.ErrName, shm.ErrSize, shm.ErrNoSpace, shm.ErrFormat, shm.ErrTruncated, shm.ErrOwned,
	ErrEncode, ErrNoMain,
}

// failureOf keeps of err what can travel.
func failureOf(err error) *Failure {
	f := &Failure{Type: fmt.Sprintf("%T", err), Text: err.Error()}
	for _, k := range known {
		if errors.Is(err, k) {
			f.is = append(f.is, k)
		}
	}
	f.errno, _ = errors.AsType[syscall.Errno](err)
	return f
}

// Death is how a worker's process ended while it had work.
type Death struct {
	Code   int            // its exit status, -1 if a signal ended it
	Signal syscall.Signal // 0 if it exited

	// Crash is what Go's run-time said of a panic or fault that ended the whole
	// process: the text and the stacks of its goroutines.
	Crash string
	// Hint says what may be the cause and what to do.
	Hint string

	state *os.ProcessState
}

func (d *Death) Error() string {
	text := fmt.Sprintf("the worker's process ended with exit status %d", d.Code)
	if d.Signal != 0 {
		text = fmt.Sprintf("the worker's process was ended by signal %d (%v)", int(d.Signal), d.Signal)
	}
	if d.Hint != "" {
		text += "; " + d.Hint
	}
	if d.Crash != "" {
		text += "\n" + strings.TrimSuffix(d.Crash, "\n")
	}
	return text
}

// textMax is how much of a text travels, of which there may be two.
const textMax = 24 << 10

// appendFailure writes what parseFailure reads.
func appendFailure(b []byte, err error) []byte {
	f, ok := errors.AsType[*Failure](err)
	if !ok {
		f = failureOf(err)
	}
	var mask uint64
	for i, k := range known {
		if slices.Contains(f.is, k) {
			mask |= 1 << i
		}
	}
	e := encoder{data: b}
	e.text(clip(f.Type))
	e.text(clip(f.Text))
	e.text(clip(f.Trace))
	e.uint(mask)
	e.uint(uint64(f.errno))
	return e.data
}

func clip(s string) string {
	if len(s) <= textMax {
		return s
	}
	return strings.ToValidUTF8(s[:textMax], "") + "…"
}

func parseFailure(b []byte) error {
	d := decoder{data: b}
	f := &Failure{}
	var err error
	for _, s := range []*string{&f.Type, &f.Text, &f.Trace} {
		if err == nil {
			*s, err = d.text()
		}
	}
	if err != nil {
		return err
	}
	mask, err := d.uint()
	if err != nil {
		return err
	}
	for i, k := range known {
		if mask&(1<<i) != 0 {
			f.is = append(f.is, k)
		}
	}
	errno, err := d.uint()
	f.errno = syscall.Errno(errno)
	if err != nil {
		return err
	}
	return f
}
