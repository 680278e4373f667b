package worker

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// jobContext is the context of a function in a child: [context.WithCancel]'s, but that it
// makes no channel before somebody asks for one, which in a job of a microsecond is half of it.
type jobContext struct {
	seq  uint64
	err  atomic.Pointer[error]
	mu   sync.Mutex
	done chan struct{}
	undo []*func() // of AfterFunc
}

func (c *jobContext) Deadline() (time.Time, bool) { return time.Time{}, false }
func (c *jobContext) Value(any) any               { return nil }

func (c *jobContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err.Load() != nil {
			close(c.done)
		}
	}
	return c.done
}

func (c *jobContext) Err() error {
	if e := c.err.Load(); e != nil {
		return *e
	}
	return nil
}

// AfterFunc spares contexts that are derived from this one a goroutine each.
func (c *jobContext) AfterFunc(f func()) (stop func() bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err.Load() != nil {
		go f()
		return func() bool { return false }
	}
	p := &f
	c.undo = append(c.undo, p)
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		n := len(c.undo)
		c.undo = slices.DeleteFunc(c.undo, func(q *func()) bool { return p == q })
		return len(c.undo) < n
	}
}

func (c *jobContext) cancel() {
	err := context.Canceled
	if !c.err.CompareAndSwap(nil, &err) {
		return
	}
	c.mu.Lock()
	all := c.undo
	c.undo = nil
	if c.done != nil {
		close(c.done)
	}
	c.mu.Unlock()
	for _, f := range all {
		go (*f)()
	}
}
