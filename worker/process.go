package worker

import (
	"context"
	"os"
	"sync"
)

// Process is one call in a process of its own. Its methods may be called by several
// goroutines at once.
type Process[Out any] struct {
	pool   *Pool
	job    *Job[Out]
	pid    int
	cancel context.CancelFunc
	wait   func() (Out, error)
	gone   chan struct{}
}

// Start starts a worker that runs f once, and returns when f has its argument. When ctx
// ends f's own context does, and after Grace the process is killed. It is gone, too, when this
// process is, however that ends.
//
// Errors, all of them *[Error]: what keeps a process from being started, ErrNoMain among it;
// ErrEncode; ctx's.
func Start[In, Out any](ctx context.Context, f Function[In, Out], in In, opts *Options) (*Process[Out], error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	pool, err := NewPool(context.Background(), 1, &PoolOptions{Options: o, Pending: 1, MaxJobs: 1, single: true})
	if err != nil {
		return nil, err
	}
	p := &Process[Out]{pool: pool, gone: make(chan struct{})}
	fail := func(err error) (*Process[Out], error) {
		pool.Kill()
		return nil, err
	}
	if err := Ready(ctx, pool, f); err != nil {
		return fail(err)
	}
	pool.mu.Lock()
	for l := range pool.members {
		p.pid = l.pid()
	}
	pool.mu.Unlock()
	ctx, p.cancel = context.WithCancel(ctx)
	if p.job, err = Submit(ctx, pool, f, in); err != nil {
		p.cancel()
		return fail(err)
	}
	go func() {
		<-p.job.Done()
		_ = pool.Close()
		close(p.gone)
	}()
	p.wait = sync.OnceValues(func() (Out, error) {
		p.job.t.wait()
		// Before the process is gone, as what it returns may be its own until we have it.
		out, err := p.job.Wait()
		<-p.gone
		p.cancel()
		return out, err
	})
	return p, nil
}

// PID returns the process's ID.
func (p *Process[Out]) PID() int { return p.pid }

// Wait waits for the end of the process and returns what the function returned. See
// [Job.Wait] for the errors, and for blocks.
func (p *Process[Out]) Wait() (Out, error) { return p.wait() }

// Done returns a channel that is closed when the process is gone.
func (p *Process[Out]) Done() <-chan struct{} { return p.gone }

// State returns how the process ended, with the processor time and the memory that it took, as in
// [os/exec.Cmd]; nil before it is gone.
func (p *Process[Out]) State() *os.ProcessState {
	select {
	case <-p.gone:
	default:
		return nil
	}
	p.pool.mu.Lock()
	defer p.pool.mu.Unlock()
	if p.pool.last == nil {
		return nil
	}
	return p.pool.last.state
}

// Stop ends the function's context, and kills the process if that does not return within
// Grace. It does not wait for that; Wait returns context.Canceled.
func (p *Process[Out]) Stop() { p.cancel() }

// Kill ends the process at once. Wait returns os.ErrClosed, if it was not over.
func (p *Process[Out]) Kill() { p.pool.terminate(os.ErrClosed) }
