package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/pyproc"
)

// PythonOptions are the choices of [Python]; nil and the zero value mean the defaults.
type PythonOptions struct {
	// Interpreter is the Python to use, CPython 3.8 or newer: a program ("python3.11",
	// "/usr/bin/python3"), a version ("3.12", "3.12.1": pyenv's, or python3.12 of PATH), or
	// the directory of a virtual or conda environment. "" is the virtual environment
	// that is active (VIRTUAL_ENV), or python3 of PATH.
	Interpreter string

	// Keywords calls f(**in) in place of f(in): the fields of a struct, or the
	// items of a map, are keyword arguments.
	Keywords bool

	// Source is the text of the script, if it is no file but embedded in the program. Its name
	// is then what tracebacks call it, and Python looks for modules only where its own
	// are and PYTHONPATH says.
	Source string
}

// Python returns the Function that calls a function of a Python script: a file, if its
// name ends in ".py", or else a module, as "package.module", which is looked for in
// [Options].Dir and where Python has its own. A file is loaded once per worker, as by
// multiprocessing: what stands under if __name__ == "__main__" is not run. function may
// have dots in it, for methods of classes or objects in the module.
//
//	var embed = worker.Python[string, *array.Array[float32]]("model.py", "embed", nil)
//
// A worker is a child of Python's multiprocessing, started as its spawn starts them.
// parent_process() is this process. Nothing has to be installed there but NumPy, and
// that only where there are arrays. Its standard input is the null device. Blocks that it
// merely opens stay, and those that it makes and leaves are removed when it is gone.
//
// The function is called with one argument, with none if In is struct{}. Values become
//
//	Go                                    Python           Out may be
//	nil, nil pointers                     None             any, pointers, slices, maps
//	bool, numbers, *big.Int               bool, int,       the same; what does not fit the type
//	                                      float, complex     is an error
//	string                                str              string
//	[]byte                                bytes            []byte
//	slices, arrays; conn.Tuple            list; tuple      slices and arrays, of sets as well
//	maps, structs                         dict             maps; structs, of dataclasses and named tuples as well
//	*shm.Block                            SharedMemory     *shm.Block
//	*list.List                            ShareableList    *list.List
//	*array.Array[T]                       numpy.ndarray    *array.Array[T]
//	shm.Ref                               either           shm.Ref
//
// and what pointers and interfaces hold. Fields are named as in Go, or as in their tag
// `py:"x"`, and `py:"-"` leaves one out; of a result's names case does not count, and what the
// struct has not is passed over. An Out of any receives an int64 or *big.Int, float64,
// string, []byte, []any, conn.Tuple, conn.Dict, or a handle; one of struct{} nothing.
//
// Arrays are the same memory on both sides, views and .npy files too. In Python an array
// argument may be kept; a SharedMemory or ShareableList is closed when nobody refers to it.
// A SharedMemory or ShareableList that the function has made and returns becomes the
// receiver's to close and unlink. A NumPy array that it returns is copied into a block of
// its own, unless it lies in an array argument: then it is that memory. There is no moment
// at which nobody would remove what has been made.
//
// An exception is a [*Failure] with its class, text and traceback; [errors.Is] finds
// fs.ErrNotExist in a FileNotFoundError, and so on. sys.exit, like os._exit and crashes, is a
// [*Death], whose Crash is the end of standard error if Options.Stderr is nil. When a
// job is cancelled or takes too long, KeyboardInterrupt is raised in the function. What
// cannot be sent is ErrEncode, and one value may have 1 GiB, arrays and blocks aside.
//
// Functions of one script and interpreter share the workers of a pool. What keeps a worker
// from being started is an error of all their jobs, and of Ready: no such interpreter
// (fs.ErrNotExist), one that is too old, an exception of the script.
//
// Linux only, with /proc.
func Python[In, Out any](script, function string, opts *PythonOptions) Function[In, Out] {
	var o PythonOptions
	if opts != nil {
		o = *opts
	}
	c := &callable[In, Out]{target: target{name: function, program: pythonProgram{script, o.Source, o.Interpreter}}}
	if script == "" || function == "" {
		c.err = fmt.Errorf("worker.Python needs a script and a function: %w", fs.ErrInvalid)
	}
	c.encode = func(p *payload, in In) (err error) {
		p.keywords = o.Keywords
		p.data, p.files, err = pyproc.Encode(in, o.Keywords)
		return encodeError(err)
	}
	c.decode = func(r *reply) (out Out, err error) {
		used, err := pyproc.Decode(r.data, &out)
		for _, b := range r.taken {
			if err == nil && !used[b.Name()] {
				_ = b.Unlink() // nobody has its name
			}
		}
		return out, encodeError(err)
	}
	return Function[In, Out]{c}
}

// encodeError makes what cannot travel an ErrEncode.
func encodeError(err error) error {
	if errors.Is(err, pyproc.ErrValue) {
		return fmt.Errorf("%w: %w", ErrEncode, err)
	}
	return err
}

// pythonProgram is the program of all functions of a script.
type pythonProgram struct{ script, source, interpreter string }

// pythonLink is a child that runs one.
type pythonLink struct{ *pyproc.Child }

func (p pythonProgram) start(ctx context.Context, o *Options, h host) (link, error) {
	interpreter, err := pyproc.Find(p.interpreter)
	if err != nil {
		return nil, err
	}
	script := p.script
	if strings.HasSuffix(script, ".py") && p.source == "" {
		// The child may be started elsewhere, and what it says of a missing file is
		// less than this.
		if script, err = filepath.Abs(script); err == nil {
			_, err = os.Stat(script)
		}
		if err != nil {
			return nil, fmt.Errorf("no Python script: %w", err)
		}
	}
	l := &pythonLink{}
	started := make(chan struct{}) // closed when l is complete
	l.Child, err = pyproc.Start(ctx, pyproc.Config{
		Interpreter: interpreter, Script: script, Source: p.source,
		Command: &exec.Cmd{Env: o.Env, Dir: o.Dir, Stderr: o.Stderr},
		Start: func(cmd *exec.Cmd) error {
			own := *o
			own.Env, own.Stdin, own.Stderr = cmd.Env, nil, cmd.Stderr
			return own.start(cmd)
		},
		Limit: o.limit,
		Done: func(r *pyproc.Result) {
			<-started
			h.done(l, r.ID, &reply{data: r.Pickle, taken: r.Made, err: pythonError(r.Err)})
		},
		Died: func(d *pyproc.Death) {
			<-started
			h.died(l, pythonDeath(d), func(id uint64) bool { return id == d.Begun })
		},
	})
	if err != nil {
		return nil, p.startError(err, interpreter)
	}
	close(started)
	return l, nil
}

// startError says what to do about a worker that could not be started.
func (p pythonProgram) startError(err error, interpreter string) error {
	if errors.Is(err, pyproc.ErrVersion) {
		return fmt.Errorf("%w; choose another by PythonOptions.Interpreter", err)
	}
	if e, ok := errors.AsType[*pyproc.EarlyDeath](err); ok {
		return fmt.Errorf("%s: %w", interpreter, e)
	}
	if e, ok := errors.AsType[*pyproc.Exception](err); ok {
		return fmt.Errorf("%s cannot be loaded by %s: %w", p.script, interpreter, pythonError(e))
	}
	return err
}

// classes are exceptions that have a counterpart here.
var classes = map[string]error{
	"FileNotFoundError": fs.ErrNotExist, "FileExistsError": fs.ErrExist, "PermissionError": fs.ErrPermission,
	"TimeoutError": os.ErrDeadlineExceeded, "KeyboardInterrupt": context.Canceled, "NotImplementedError": errors.ErrUnsupported,
	"MemoryError": shm.ErrNoSpace,
}

// pythonError makes a Failure of an exception.
func pythonError(err error) error {
	e, ok := errors.AsType[*pyproc.Exception](err)
	if !ok {
		return err
	}
	f := &Failure{Type: e.Class, Text: e.Text, Trace: e.Traceback}
	if e.NotSent {
		f.is = append(f.is, ErrEncode)
	}
	if known := classes[e.Class]; known != nil {
		f.is = append(f.is, known)
	}
	return f
}

func pythonDeath(d *pyproc.Death) *Death {
	out := deathOf(d.State)
	out.Crash = d.Said
	switch {
	case d.Err != nil:
		out.Hint = d.Err.Error()
	case d.Begun == 0:
	case out.Signal == syscall.SIGKILL:
		out.Hint = "which somebody sent: the kernel, if memory ran out or a limit was reached (see dmesg), or a person"
	case out.Signal != 0:
		out.Hint = "in the function or a library that it uses"
	default:
		out.Hint = "which the function called sys.exit or os._exit for, or closed descriptors that are not its own; raise an exception instead"
	}
	return out
}

func (l *pythonLink) pid() int   { return l.PID() }
func (l *pythonLink) room() int  { return l.Room() }
func (l *pythonLink) poll() bool { return false }
func (l *pythonLink) stop()      { l.Stop() }
func (l *pythonLink) kill()      { l.Kill() }

func (l *pythonLink) send(j *job) error {
	err := l.Send(&pyproc.Job{ID: j.id, Function: j.name, Keywords: j.in.keywords, Args: j.in.data})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrEncode, err)
	}
	return nil
}

func (l *pythonLink) withdraw(id uint64) bool { return l.Withdraw(id) }
func (l *pythonLink) cancel(id uint64)        { l.Cancel(id) }
