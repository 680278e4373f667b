package worker

import (
	"context"
	"errors"
	"iter"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"
)

// task makes a job of a call. Its error is the caller's fault, or of a lack of memory.
func (f Function[In, Out]) task(in In) (*task, error) {
	if f.c.err != nil {
		return nil, &Error{Op: "encode", Function: f.c.name, Err: f.c.err}
	}
	t := &task{to: f.c.target}
	if err := f.c.encode(&t.in, in); err != nil {
		t.in.release()
		return nil, &Error{Op: "encode", Function: f.c.name, Err: err}
	}
	return t, nil
}

// result makes a value of what came of a task that is over. Once for each.
func (f Function[In, Out]) result(t *task) (out Out, err error) {
	r := t.result
	fail := func(op string, err error) (Out, error) {
		var zero Out
		r.drop()
		return zero, &Error{Op: op, Function: f.c.name, PID: t.worker, Err: err}
	}
	if s, ok := errors.AsType[*startError](r.err); ok {
		return fail("start", s.error)
	}
	if r.err != nil {
		return fail("run", r.err)
	}
	if out, err = f.c.decode(r); err != nil {
		return fail("decode", err)
	}
	r.release()
	return out, nil
}

// Job is a call that was submitted to a pool. Its methods may be called by several
// goroutines at once.
type Job[Out any] struct {
	t      *task
	result func() (Out, error)
	undo   func() bool
}

// Submit gives the pool a job, and returns without waiting for it. If Pending jobs are on
// their way it waits first until one of them is over. in may be changed when it returns;
// blocks in it have to stay until the job is over.
//
// When ctx ends, so does the job, with ctx's error: at once if no worker has begun it, else
// when the function returns, whose own context ends, or has been killed after Grace.
//
// Errors, all of them *Error: ErrEncode, ErrNoMain, os.ErrClosed, ctx's.
func Submit[In, Out any](ctx context.Context, p *Pool, f Function[In, Out], in In) (*Job[Out], error) {
	t, err := f.task(in)
	if err != nil {
		return nil, err
	}
	if err := p.enter(ctx, t); err != nil {
		return nil, &Error{Op: "run", Function: f.c.name, Err: err}
	}
	j := &Job[Out]{t: t, result: sync.OnceValues(func() (Out, error) { return f.result(t) })}
	if ctx.Done() != nil {
		j.undo = context.AfterFunc(ctx, func() { p.cancel(t, context.Cause(ctx)) })
	}
	return j, nil
}

// enter submits a task when there is room for it.
func (p *Pool) enter(ctx context.Context, t *task) error {
	err := ctx.Err()
	if err == nil {
		err = p.submit(ctx, t)
	}
	if err != nil {
		t.in.release()
	}
	return err
}

// Wait waits until the job is over and returns what the function returned. Blocks in
// that are the caller's to close and, if the worker created them, to unlink. Waiting again
// returns the same.
//
// Errors, all of them *[Error]: a *[Failure] if the function failed, a *[Death] if its
// worker died, ErrTimeout, ErrEncode, os.ErrClosed after Kill, or the error of
// Submit's context.
func (j *Job[Out]) Wait() (Out, error) {
	j.t.wait()
	if j.undo != nil {
		j.undo()
	}
	return j.result()
}

// Done returns a channel that is closed when the job is over.
func (j *Job[Out]) Done() <-chan struct{} { return j.t.end() }

// Call is Submit and Wait in one, and faster than the two: for one small job at a time the
// worker has its answer ready before anybody has gone to sleep.
//
// Errors: those of Submit and Wait.
func Call[In, Out any](ctx context.Context, p *Pool, f Function[In, Out], in In) (Out, error) {
	t, err := f.task(in)
	if err == nil {
		t.called = f.c.program == self
		if err = p.enter(ctx, t); err != nil {
			err = &Error{Op: "run", Function: f.c.name, Err: err}
		}
	}
	if err != nil {
		var zero Out
		return zero, err
	}
	if ctx.Done() != nil {
		undo := context.AfterFunc(ctx, func() { p.cancel(t, context.Cause(ctx)) })
		defer undo()
	}
	t.wait()
	return f.result(t)
}

// Ready starts the workers for f, which the first job would do otherwise, and returns when all
// of them are there.
//
// Errors: those of starting one, ErrNoMain among them; ctx's, os.ErrClosed.
func Ready[In, Out any](ctx context.Context, p *Pool, f Function[In, Out]) error {
	fail := func(err error) error { return &Error{Op: "start", Function: f.c.name, Err: err} }
	if f.c.err != nil {
		return fail(f.c.err)
	}
	p.mu.Lock()
	if p.closing {
		p.mu.Unlock()
		return fail(os.ErrClosed)
	}
	g := p.group(f.c.program)
	g.failed = time.Time{}
	p.staff(g)
	if g.starting == 0 {
		p.mu.Unlock()
		return nil
	}
	c := make(chan error, 1)
	g.ready = append(g.ready, c)
	p.mu.Unlock()
	select {
	case err := <-c:
		if err != nil {
			return fail(err)
		}
		return nil
	case <-ctx.Done():
		return fail(ctx.Err())
	}
}

// Result is what came of one of several inputs.
type Result[Out any] struct {
	Index int // of the input, counted from 0
	Value Out
	Err   error
}

// Map calls f with each input and yields what it returns, or the error, in the order
// of the inputs. inputs is a slice or an iter.Seq; of that no more is taken than Pending
// jobs ahead of what was yielded.
//
// Leaving the loop cancels the jobs that are not over, and waits until they are. When ctx
// ends its error is yielded once, and no more.
//
// Errors that are yielded: those of Submit and Wait. After that of an input the loop
// goes on with the next one.
func Map[In, Out any, Inputs ~[]In | ~func(yield func(In) bool)](ctx context.Context, p *Pool, f Function[In, Out], inputs Inputs) iter.Seq2[Out, error] {
	return func(yield func(Out, error) bool) {
		for r := range each(ctx, p, f, inputs, true) {
			if !yield(r.Value, r.Err) {
				return
			}
		}
	}
}

// MapUnordered is Map in the order in which jobs end. The Result of a context that ended has
// Index -1.
func MapUnordered[In, Out any, Inputs ~[]In | ~func(yield func(In) bool)](ctx context.Context, p *Pool, f Function[In, Out], inputs Inputs) iter.Seq[Result[Out]] {
	return each(ctx, p, f, inputs, false)
}

// puller returns a function that returns the next input.
func puller[In, Inputs any](inputs Inputs) (next func() (In, bool), stop func()) {
	var seq iter.Seq[In]
	switch in := any(inputs).(type) {
	case []In:
		return sliced(in)
	case iter.Seq[In]:
		seq = in
	default:
		v := reflect.ValueOf(inputs)
		if t := reflect.TypeFor[[]In](); v.Kind() == reflect.Slice {
			return sliced(v.Convert(t).Interface().([]In))
		}
		seq = v.Convert(reflect.TypeFor[iter.Seq[In]]()).Interface().(iter.Seq[In])
	}
	return iter.Pull(seq)
}

func sliced[In any](in []In) (func() (In, bool), func()) {
	return func() (v In, ok bool) {
		if len(in) == 0 {
			return v, false
		}
		v, in = in[0], in[1:]
		return v, true
	}, func() {}
}

// numbered is a task and the index of its input.
type numbered struct {
	i   int
	t   *task // nil if it could not be submitted
	err error
}

// stream has what Map has on its way.
type stream struct {
	p     *Pool
	rings bool // its workers do
	mu    sync.Mutex
	ended []numbered    // unordered: over, and not yielded
	more  chan struct{} // gets one when there is something in ended
}

func each[In, Out, Inputs any](ctx context.Context, p *Pool, f Function[In, Out], inputs Inputs, ordered bool) iter.Seq[Result[Out]] {
	return func(yield func(Result[Out]) bool) {
		next, stop := puller[In](inputs)
		defer stop()
		s := &stream{p: p, rings: f.c.program == self, more: make(chan struct{}, 1)}
		var open []numbered // submitted and not yielded, in the order of inputs
		defer func() { s.abandon(open) }()
		window := p.opts.Pending
		for i, more := 0, true; ; {
			for more && len(open) < window && ctx.Err() == nil {
				in, ok := next()
				if more = ok; !ok {
					break
				}
				n := numbered{i: i}
				i++
				if n.t, n.err = f.task(in); n.err == nil {
					if !ordered {
						n.t.tell = func() { s.tell(n) }
					}
					if err := p.enter(ctx, n.t); err != nil {
						n.t, n.err = nil, &Error{Op: "run", Function: f.c.name, Err: err}
					}
				}
				if n.t == nil && !ordered {
					s.tell(n)
				}
				open = append(open, n)
				if n.t != nil && len(open) >= depth && ordered && open[0].over() {
					break // somebody may be waiting for it
				}
			}
			if ctx.Err() == nil && len(open) == 0 {
				return
			}
			var n numbered
			var ok bool
			if ordered && len(open) > 0 {
				n, ok = open[0], s.first(ctx, open[0])
			} else if len(open) > 0 {
				n, ok = s.any(ctx)
			}
			if !ok {
				yield(Result[Out]{Index: -1, Err: &Error{Op: "run", Function: f.c.name, Err: context.Cause(ctx)}})
				return
			}
			at := 0
			if !ordered {
				at = slices.IndexFunc(open, func(o numbered) bool { return o.i == n.i })
			}
			if at == 0 {
				open = open[1:]
			} else {
				open = slices.Delete(open, at, at+1)
			}
			r := Result[Out]{Index: n.i, Err: n.err}
			if n.t != nil {
				r.Value, r.Err = f.result(n.t)
			}
			if !yield(r) {
				return
			}
		}
	}
}

func (n numbered) over() bool { return n.t == nil || n.t.over.Load() }

// first waits for the first task in order; not ok if ctx ends before.
func (s *stream) first(ctx context.Context, n numbered) bool {
	return ctx.Err() == nil && s.p.await(ctx, s.rings, n.over, func() <-chan struct{} { return n.t.end() }) == nil
}

// any waits for some task.
func (s *stream) any(ctx context.Context) (n numbered, ok bool) {
	take := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !ok && len(s.ended) > 0 { // once, however often it is called
			n, s.ended = s.ended[0], s.ended[1:]
			ok = true
		}
		return ok
	}
	for !ok {
		if ctx.Err() != nil {
			return n, false
		}
		if s.p.await(ctx, s.rings, take, func() <-chan struct{} { return s.more }) != nil {
			return n, false
		}
		if !ok {
			take()
		}
	}
	return n, true
}

func (s *stream) tell(n numbered) {
	s.mu.Lock()
	s.ended = append(s.ended, n)
	s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// abandon cancels what nobody wants any more, and waits for its end.
func (s *stream) abandon(open []numbered) {
	for _, n := range open {
		if n.t != nil {
			s.p.cancel(n.t, context.Canceled)
		}
	}
	for _, n := range open {
		if n.t != nil {
			n.t.wait()
			n.t.result.drop()
		}
	}
}
