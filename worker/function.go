package worker

import (
	"context"
	"fmt"
	"sync"
)

// Function is a function that runs in other processes: one of this program, made by
// [Func], or one of a Python script, made by [Python]. Either is used in the same ways.
// It is a small value, may be copied, and used by several goroutines at once. The
// zero Function is none, and using it panics.
type Function[In, Out any] struct{ c *callable[In, Out] }

// Name returns the name that Func was given, or the Python function's.
func (f Function[In, Out]) Name() string { return f.c.name }

// target is what a job is for, without its types.
type target struct {
	name    string
	program program
}

// callable is a Function. err, if not nil, is why it can never run: it is
// returned by everything that tries to.
type callable[In, Out any] struct {
	target
	err    error
	encode func(*payload, In) error
	decode func(*reply) (Out, error)
}

// registry has the Go functions of this program by name, as a child finds them.
var registry = struct {
	sync.Mutex
	m map[string]runner
}{m: map[string]runner{}}

// runner runs a function in a child: it decodes the argument, and encodes what the
// function returns. An error is the function's, or wraps ErrEncode.
type runner func(ctx context.Context, in *reply, out *payload) error

// Func registers f under a name and returns the Function by which it is called. It is
// for variables of a package, which the child, being this program, has as well:
//
//	var hash = worker.Func("hash", func(ctx context.Context, path string) ([32]byte, error) { … })
//
// f runs in children only. Its context ends when the job is cancelled or takes too
// long, and when the parent dies, just before this process does. An error is returned
// as text (see [Failure]); a panic is the job's failure and not the worker's end, but for
// one in another goroutine. A worker runs one function at a time.
//
// The package documentation says what may be In and Out. A type that may not is an error
// of all calls, ErrEncode.
//
// Func panics if the name is empty, longer than 255 bytes or taken, as that is a mistake in
// the program.
func Func[In, Out any](name string, f func(ctx context.Context, in In) (Out, error)) Function[In, Out] {
	if f == nil || name == "" || len(name) > nameMax {
		panic("worker: Func needs a name of up to 255 bytes and a function")
	}
	in, err := codecFor[In]()
	out, outErr := codecFor[Out]()
	if err == nil {
		err = outErr
	}
	registry.Lock()
	defer registry.Unlock()
	if registry.m[name] != nil {
		panic(fmt.Sprintf("worker: two functions named %q", name))
	}
	registry.m[name] = func(ctx context.Context, r *reply, p *payload) error {
		v, err := in.decode(r)
		if err != nil {
			return err
		}
		got, err := f(ctx, v)
		if err != nil {
			return err
		}
		return out.encode(p, got)
	}
	return Function[In, Out]{&callable[In, Out]{
		target: target{name: name, program: self},
		err:    err, encode: in.encode, decode: out.decode,
	}}
}
