package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/lock"
)

// lockPage is a block with one of each lock that is measured.
type lockPage struct {
	Mutex, Ping, Pong, Sem lock.State
	Count                  int64
}

// handles are a process's on a lockPage.
type handles struct {
	block      *shm.Block
	page       *lockPage
	mutex      *lock.Mutex
	ping, pong *lock.Semaphore
	sem        *lock.Semaphore
}

func openLocks(b *shm.Block) (*handles, error) {
	h := &handles{block: b}
	var err error
	if h.page, err = shm.At[lockPage](b, 0); err != nil {
		return nil, err
	}
	at := func(s *lock.State) int {
		off, err2 := shm.Offset(b, s)
		err = errors.Join(err, err2)
		return off
	}
	sem := func(s *lock.State, n int) *lock.Semaphore {
		l, err2 := lock.NewSemaphore(b, at(s), n)
		err = errors.Join(err, err2)
		return l
	}
	m, err2 := lock.NewMutex(b, at(&h.page.Mutex))
	h.mutex, err = m, errors.Join(err, err2)
	h.ping, h.pong, h.sem = sem(&h.page.Ping, 0), sem(&h.page.Pong, 0), sem(&h.page.Sem, 1)
	return h, err
}

// add locks, counts and unlocks, n times.
func (h *handles) add(n int) error {
	for range n {
		if err := h.mutex.Lock(); err != nil {
			return err
		}
		h.page.Count++
		if err := h.mutex.Unlock(); err != nil {
			return err
		}
	}
	return nil
}

// lockUncontended is a lock that nobody else wants.
func lockUncontended(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "Locks: lock and unlock, alone", Text: `In a loop that is in the figure. C is glibc's mutex, process-shared and robust, and its semaphore, process-shared, both built by gcc -O2; sync.Mutex works within one process only, and survives nothing.`}
	b, err := shm.Create(e.block("lock"), 4096, nil)
	if err != nil {
		return nil, err
	}
	defer remove(b)
	h, err := openLocks(b)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var count int64
	ways := []way{
		each("lock.Mutex", h.add),
		each("sync.Mutex", func(n int) error {
			for range n {
				mu.Lock()
				count++
				mu.Unlock()
			}
			return nil
		}),
		each("lock.Semaphore", func(n int) error {
			for range n {
				if err := errors.Join(h.sem.Wait(), h.sem.Post()); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	if e.c != nil {
		path := e.path(e.block("lock-c"))
		ways = append(ways, e.c.way("C, robust mutex", "mutex", path, page), e.c.way("C, semaphore", "sem", path, page))
	}
	if r.Rows, err = e.rounds(ctx, ways); err != nil {
		return nil, err
	}
	r.atMost("lock.Mutex", "C, robust mutex", 1)
	r.atMost("lock.Mutex", "sync.Mutex", 1.5)
	r.atMost("lock.Semaphore", "C, semaphore", 1.2)
	r.Missing = append(r.Missing, e.missing...)
	return r, nil
}

// lockContended is a lock that two processes want all the time, and one that
// they hand to each other.
func lockContended(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "Locks: two processes", Text: `Contending: both lock, count and unlock as fast as they can; the figure is for one such turn of either. Handing over: each waits for a permit that the other gives, and gives one; the figure is for both
ways. C's is a bare futex word, which sleeps at once; ours looks for some microseconds before it sleeps, if that was of use lately.`}
	b, err := shm.Create(e.block("locks"), 4096, nil)
	if err != nil {
		return nil, err
	}
	defer remove(b)
	h, err := openLocks(b)
	if err != nil {
		return nil, err
	}
	other, err := child("lock", b.Name())
	if err != nil {
		return nil, err
	}
	defer other.stop()
	both := func(label, what string, ours func(n int) error) way {
		return way{label, func(n int) (time.Duration, error) {
			if _, err := fmt.Fprintf(other.in, "%s %d\n", what, n); err != nil {
				return 0, err
			}
			if !other.out.Scan() { // it is ready
				return 0, errors.New(other.errs.String())
			}
			start := time.Now()
			if err := ours(n); err != nil {
				return 0, err
			}
			if !other.out.Scan() {
				return 0, errors.New(other.errs.String())
			}
			return time.Since(start), nil
		}}
	}
	ways := []way{
		both("lock.Mutex, contending", "contend", func(n int) error { return h.add(n - n/2) }),
		both("lock.Semaphore, handing over", "hand", func(n int) error {
			for range n {
				if err := errors.Join(h.ping.Post(), h.pong.Wait()); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	if e.c != nil {
		path := e.path(e.block("locks-c"))
		ways = append(ways, e.c.way("C, robust mutex, contending", "contend", path, page), e.c.way("C, futex, handing over", "pingpong", path, page))
	}
	if r.Rows, err = e.rounds(ctx, ways); err != nil {
		return nil, err
	}
	r.faster("lock.Mutex, contending", "C, robust mutex, contending", 0.9)
	r.atMost("lock.Semaphore, handing over", "C, futex, handing over", 1.2)
	r.Missing = append(r.Missing, e.missing...)
	return r, nil
}

// roleLock is the other process of lockContended.
func roleLock(name string, in io.Reader, out io.Writer) error {
	b, err := shm.Open(name, nil)
	if err != nil {
		return err
	}
	defer b.Close()
	h, err := openLocks(b)
	if err != nil {
		return err
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var what string
		var n int
		if _, err := fmt.Sscan(lines.Text(), &what, &n); err != nil {
			return err
		}
		fmt.Fprintln(out, "ready")
		switch what {
		case "contend":
			err = h.add(n / 2)
		case "hand":
			for range n {
				if err = errors.Join(h.ping.Wait(), h.pong.Post()); err != nil {
					break
				}
			}
		case "hold":
			if err = h.mutex.Lock(); err == nil {
				fmt.Fprintln(out, "held")
			}
			continue
		}
		if err != nil {
			return err
		}
		fmt.Fprintln(out, "done")
	}
	return nil
}

// lockRecovery is how long after the owner's death the one who waits has the
// lock.
func lockRecovery(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "Locks: kill -9 of the owner until the next one has the lock", Text: `From the kill until Lock, which waits already, returns ErrOwnerDied in another process; and the same with glibc's robust mutex, whose owner is killed by a third process. The last figure of each row is the slowest of all.`}
	r.Facts = [][]string{{"", "kills", "median", "90 %", "99 %", "slowest"}}
	b, err := shm.Create(e.block("lock-kill"), 4096, nil)
	if err != nil {
		return nil, err
	}
	defer remove(b)
	h, err := openLocks(b)
	if err != nil {
		return nil, err
	}
	n := 6 * e.count
	var samples []float64
	for range n {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		took, err := recoverOnce(h)
		if err != nil {
			return nil, err
		}
		samples = append(samples, float64(took))
	}
	if _, err := shm.Prune(); err != nil {
		return nil, err
	}
	all := map[string][]float64{"lock.Mutex": samples}
	order := []string{"lock.Mutex"}
	if e.c != nil {
		var theirs []float64
		w := e.c.way("C, robust mutex", "recover", e.path(e.block("lock-kill-c")), page)
		for range n {
			took, err := w.run(1)
			if err != nil {
				return nil, err
			}
			theirs = append(theirs, float64(took))
		}
		all[w.name], order = theirs, append(order, w.name)
	}
	for _, name := range order {
		s := all[name]
		r.Rows = append(r.Rows, newRow(name, s))
		facts := []string{name, fmt.Sprint(len(s))}
		for _, q := range []float64{0.5, 0.9, 0.99, 1} {
			facts = append(facts, timeText(quantile(s, q)))
		}
		r.Facts = append(r.Facts, facts)
	}
	r.below("lock.Mutex", r.row("lock.Mutex").Median/1e6, 1, "ms")
	r.Missing = append(r.Missing, e.missing...)
	return r, nil
}

func recoverOnce(h *handles) (time.Duration, error) {
	p, err := child("lock", h.block.Name())
	if err != nil {
		return 0, err
	}
	defer p.stop()
	if _, err := p.ask("hold 1"); err != nil {
		return 0, err
	}
	if !p.out.Scan() {
		return 0, errors.New(p.errs.String())
	}
	type result struct {
		at  time.Time
		err error
	}
	got := make(chan result, 1)
	go func() {
		err := h.mutex.Lock()
		got <- result{time.Now(), err}
	}()
	// Until it says in the word that it sleeps. Nobody else may look there, but
	// LockContext of another goroutine that gives up is queued behind it.
	time.Sleep(2 * time.Millisecond)
	start := time.Now()
	if err := p.cmd.Process.Kill(); err != nil {
		return 0, err
	}
	select {
	case res := <-got:
		if !errors.Is(res.err, lock.ErrOwnerDied) {
			return 0, fmt.Errorf("after a kill: %w", res.err)
		}
		return res.at.Sub(start), errors.Join(h.mutex.MarkConsistent(), h.mutex.Unlock())
	case <-time.After(5 * time.Second):
		return 0, errors.New("stuck for 5 s after a kill")
	}
}
