package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/platform/wait"
)

// PoolOptions are the choices of [NewPool]; nil and the zero value mean the defaults.
type PoolOptions struct {
	// Options are how each worker is started.
	Options

	// Timeout is how long one job may run, for ever by default. Then its context ends, after
	// Grace its worker is killed, and the job has failed with ErrTimeout.
	Timeout time.Duration

	// Retries is how often a job is run again whose worker died or that took too long. A
	// job with retries may run more than once; it is reported once. An error that
	// the function returns is an answer, and is not retried.
	Retries int

	// MaxJobs and MaxMemory replace a worker that has done so many jobs, or that occupies
	// so many bytes after one. (Memory is looked at every 20 ms.)
	MaxJobs   int
	MaxMemory int64

	// Pending is how many jobs may be on their way at once before Submit waits and Map
	// asks for no more inputs: 32 for each worker by default.
	Pending int

	// Progress is called when jobs have ended, by one goroutine at a time, and not for
	// each if they end faster than it returns; but the last state is always told.
	Progress func(Stats)

	single bool // it is a Process: its one worker has no successor
}

// Stats are counts since the pool was made.
type Stats struct {
	Workers  int    `json:"workers"`  // that live now
	Busy     int    `json:"busy"`     // of them, those that have jobs
	Pending  int    `json:"pending"`  // jobs not ended
	Done     uint64 `json:"done"`     // jobs whose function returned a value
	Failed   uint64 `json:"failed"`   // all others that have ended
	Retried  uint64 `json:"retried"`  // runs beyond the first
	Started  uint64 `json:"started"`  // workers, ever
	Died     uint64 `json:"died"`     // of them, those that ended unasked
	Killed   uint64 `json:"killed"`   // those that the pool killed: for a job that was timed out or cancelled and did not end, or by Kill
	Recycled uint64 `json:"recycled"` // and those that were replaced for their age or size
}

// Pool is n worker processes for each kind of program that it is used for: one for
// all functions of Func together, and one for each Python script and interpreter. They
// are started with the first job for them, or by [Ready].
//
// A pool's functions and methods may be called by several goroutines at once. It has to be
// closed.
type Pool struct {
	n     int
	opts  PoolOptions
	ctx   context.Context // ends with the pool: what is being started gives up
	end   context.CancelFunc
	ring  *bell
	start chan struct{} // holds one for each worker that is being started

	open    atomic.Int64           // jobs that are not over
	links   atomic.Pointer[[]link] // of all members
	lead    sync.Mutex             // of the waiter that looks for results
	leading atomic.Bool            // there is one
	asleep  atomic.Bool            // it sleeps, or is about to
	spin    spinner                // its own
	pumped  chan struct{}          // the pump has ended
	undo    func() bool            // takes Kill off the context
	told    chan struct{}          // progress: something has changed
	telling sync.WaitGroup

	mu      sync.Mutex
	changed sync.Cond // a task is over, or a worker gone, while closing
	groups  map[program]*group
	recent  *group          // the one that was used last
	room    []chan struct{} // of those who wait to submit a job
	members map[link]*member
	timer   *time.Timer
	due     time.Time // when it fires
	stats   Stats
	closing bool
	early   map[link]deathNote // of workers that died before they were members
	hiring  sync.WaitGroup
	last    *Death
	closed  sync.Once
}

// group is the workers for one program, and the jobs that wait for them.
type group struct {
	program  program
	members  []*member
	starting int
	queue    []*task
	vain     int          // workers in a row that died before they had begun a job
	failed   time.Time    // when one could not be started
	ready    []chan error // of those who wait for all to be started
}

// member is one worker.
type member struct {
	link
	g        *group
	tasks    []*task // sent and not over, in the order in which they are worked on
	sent     int
	since    time.Time // when the first of them began, at the latest; with Timeout
	killAt   time.Time // zero, or when it has had its grace
	doomed   *task     // for which; nil if it is to stop
	looked   time.Time // at its memory
	retiring bool
	stopped  bool
	killed   bool
	last     uint64 // counts up with each use: who worked last may still spin
}

// deathNote is what died says.
type deathNote struct {
	d     *Death
	begun func(id uint64) bool
}

// task is a job with what becomes of it. Fields are the pool's lock's, until over.
type task struct {
	job
	to       target
	p        *Pool
	m        *member // nil while it waits in the queue
	runs     int
	canceled error // why it is to end
	timeout  bool
	called   bool // who submits it waits for it, and does nothing else before
	leads    bool // and has the pool's lead
	over     atomic.Bool
	ended    chan struct{} // made by the first who has to wait; closed when over
	tell     func()        // called when over, with the pool's lock
	result   *reply
	worker   int // PID
}

var jobIDs atomic.Uint64

// NewPool makes a pool of n workers, which ends as by [Pool.Kill] when ctx does.
//
// Errors: ErrNoMain; shm.ErrSize if n is not positive; errors.ErrUnsupported.
func NewPool(ctx context.Context, n int, opts *PoolOptions) (*Pool, error) {
	p := &Pool{n: n, groups: map[program]*group{}, members: map[link]*member{},
		early: map[link]deathNote{}, pumped: make(chan struct{}),
		start: make(chan struct{}, max(4, 2*cores)),
	}
	if opts != nil {
		p.opts = *opts
	}
	o := &p.opts
	o.Options = o.withDefaults(n > 1)
	if n < 1 || o.Retries < 0 || o.MaxJobs < 0 || o.MaxMemory < 0 || o.Pending < 0 {
		return nil, &Error{Op: "start", Function: "pool", Err: fmt.Errorf("%w: %d workers, or an option that is negative", shm.ErrSize, n)}
	}
	if o.Pending == 0 {
		o.Pending = 2 * depth * n
	}
	if err := wait.Supported(); err != nil {
		return nil, &Error{Op: "start", Function: "pool", Err: err}
	}
	var err error
	if p.ring, err = newBell(); err != nil {
		return nil, &Error{Op: "start", Function: "pool", Err: err}
	}
	p.spin.waiting = o.Waiting
	p.changed.L = &p.mu
	p.links.Store(&[]link{})
	p.ctx, p.end = context.WithCancel(context.Background())
	p.timer = time.AfterFunc(time.Hour, p.tick)
	p.timer.Stop()
	go p.pump()
	if o.Progress != nil {
		p.told = make(chan struct{}, 1)
		p.telling.Go(p.progress)
	}
	p.undo = context.AfterFunc(ctx, func() { p.terminate(context.Cause(ctx)) })
	return p, nil
}

func (o Options) withDefaults(shared bool) Options {
	if o.Grace <= 0 {
		o.Grace = defaultGrace
	}
	o.Limits, o.CPUs = slices.Clone(o.Limits), slices.Clone(o.CPUs)
	if shared {
		o.Stdout, o.Stderr = oneByOne(o.Stdout), oneByOne(o.Stderr)
	}
	return o
}

// oneByOne makes a writer one that several processes' output may be copied to.
func oneByOne(w io.Writer) io.Writer {
	if _, file := w.(*os.File); w == nil || file {
		return w
	}
	return &lockedWriter{w: w}
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// bell is part of [host].
func (p *Pool) bell() *bell { return p.ring }

// submit hands in a task, and waits for its place among those that are pending.
func (p *Pool) submit(ctx context.Context, t *task) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.closing && int(p.open.Load()) >= p.opts.Pending {
		c := make(chan struct{})
		p.room = append(p.room, c)
		p.mu.Unlock()
		var err error
		select {
		case <-c:
		case <-ctx.Done():
			err = ctx.Err()
		}
		p.mu.Lock()
		if err != nil {
			if i := slices.Index(p.room, c); i >= 0 {
				p.room = slices.Delete(p.room, i, i+1)
			} else {
				p.makeRoom() // for the next one, as this was for us
			}
			return err
		}
	}
	if p.closing {
		return os.ErrClosed
	}
	p.open.Add(1)
	if t.called && p.lead.TryLock() {
		t.leads = true
		p.leading.Store(true)
	}
	t.id = jobIDs.Add(1)
	t.name, t.p = t.to.name, p
	g := p.group(t.to.program)
	switch m := g.idlest(p); {
	case m != nil:
		p.give(m, t)
	case p.opts.single && p.last != nil:
		p.finish(t, nil, &reply{err: p.last})
	default:
		g.queue = append(g.queue, t)
	}
	p.staff(g)
	return nil
}

// makeRoom lets one more submit.
func (p *Pool) makeRoom() {
	if len(p.room) > 0 {
		close(p.room[0])
		p.room = p.room[1:]
	}
}

func (p *Pool) group(of program) *group {
	if p.recent != nil && p.recent.program == of {
		return p.recent
	}
	g := p.groups[of]
	if g == nil {
		g = &group{program: of}
		p.groups[of] = g
	}
	p.recent = g
	return g
}

// idlest returns the worker that is to have the next job, nil if all have their fill.
// Of those who have nothing to do it is the one that worked last.
func (g *group) idlest(p *Pool) (best *member) {
	for _, m := range g.members {
		if !m.open(p) {
			continue
		}
		if best == nil || len(m.tasks) < len(best.tasks) || len(m.tasks) == len(best.tasks) && m.last > best.last {
			best = m
		}
	}
	return best
}

// open tells whether the worker takes another job.
func (m *member) open(p *Pool) bool {
	// The room is less than tasks suggest where some were withdrawn and not passed yet.
	return !m.retiring && m.room() > 0 && m.killAt.IsZero() && (p.opts.MaxJobs == 0 || m.sent < p.opts.MaxJobs)
}

// unrun takes note that a task which was given to a worker has not begun there.
func (p *Pool) unrun(t *task) {
	if t.runs > 1 {
		p.stats.Retried--
	}
	t.runs--
}

// give sends a task to a worker.
func (p *Pool) give(m *member, t *task) {
	if t.runs++; t.runs > 1 {
		p.stats.Retried++
	}
	if !p.leading.Load() {
		drowse(p.ring.pump) // before it can be done: nobody else looks
	}
	if err := m.send(&t.job); err != nil {
		p.finish(t, m, &reply{err: err})
		return
	}
	t.m = m
	m.sent++
	m.last = t.id
	if len(m.tasks) == 0 {
		p.first(m)
	}
	m.tasks = append(m.tasks, t)
	if p.opts.MaxJobs > 0 && m.sent >= p.opts.MaxJobs {
		p.retire(m)
	}
}

// first takes note that a worker begins with another job.
func (p *Pool) first(m *member) {
	if p.opts.Timeout > 0 {
		m.since = time.Now()
		p.arm(m.since.Add(p.opts.Timeout))
	}
}

// retire has a worker end after what it has, and starts another.
func (p *Pool) retire(m *member) {
	if !m.retiring {
		m.retiring = true
		p.stats.Recycled++
		p.staff(m.g)
	}
}

// feed gives a worker more to do, and lets one go that is to have no more.
func (p *Pool) feed(m *member) {
	for len(m.g.queue) > 0 && m.open(p) {
		t := m.g.queue[0]
		m.g.queue[0] = nil
		m.g.queue = m.g.queue[1:]
		p.give(m, t)
	}
	if len(m.tasks) > 0 {
		return
	}
	if m.retiring {
		p.dismiss(m)
		return
	}
	if !m.open(p) {
		return
	}
	// Nothing to do: somebody may have more than one, behind a long one perhaps.
	var rich *member
	for _, o := range m.g.members {
		if len(o.tasks) > 1 && (rich == nil || len(o.tasks) > len(rich.tasks)) {
			rich = o
		}
	}
	if rich == nil {
		return
	}
	if t := rich.tasks[len(rich.tasks)-1]; rich.withdraw(t.id) {
		rich.tasks = rich.tasks[:len(rich.tasks)-1]
		t.m = nil
		p.unrun(t)
		p.give(m, t)
	}
}

func (p *Pool) dismiss(m *member) {
	if !m.stopped {
		m.stopped = true
		m.stop()
		m.killAt = time.Now().Add(p.opts.Grace)
		p.arm(m.killAt)
	}
}

// staff starts workers until there are enough.
func (p *Pool) staff(g *group) {
	if p.closing && len(g.queue) == 0 {
		return
	}
	have := g.starting
	for _, m := range g.members {
		if !m.retiring {
			have++
		}
	}
	if p.opts.single && p.stats.Started > 0 {
		return
	}
	// Where no more can be had each job would try again, for all that are missing.
	if have < p.n && len(g.members) > 0 && time.Since(g.failed) < time.Second {
		return
	}
	for ; have < p.n; have++ {
		g.starting++
		p.hiring.Add(1)
		go p.hire(g)
	}
}

// limited says what to do if there is too little of something to start a worker.
func limited(err error) error {
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.ENOMEM) {
		return fmt.Errorf("no more processes or descriptors, or no room to map what is shared with them; start fewer workers or raise the limit (ulimit -u, ulimit -n, ulimit -v): %w", err)
	}
	return err
}

// hire starts one worker.
func (p *Pool) hire(g *group) {
	defer p.hiring.Done()
	var l link
	var err error
	select {
	case p.start <- struct{}{}:
		if err = p.ctx.Err(); err == nil {
			l, err = g.program.start(p.ctx, &p.opts.Options, p)
			err = limited(err)
		}
		<-p.start
	case <-p.ctx.Done():
		err = os.ErrClosed
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	g.starting--
	if err != nil {
		g.failed = time.Now()
		if p.ctx.Err() != nil {
			err = os.ErrClosed
		}
		// Others may live, and do what there is to do. If not, nobody waits for ever.
		if g.starting == 0 && len(g.members) == 0 {
			queue := g.queue
			g.queue = nil
			for _, t := range queue {
				p.finish(t, nil, &reply{err: &startError{err}})
			}
		}
	} else {
		m := &member{link: l, g: g}
		g.members = append(g.members, m)
		p.members[l] = m
		p.relink()
		p.stats.Started++
		if early, ok := p.early[l]; ok {
			delete(p.early, l)
			p.bury(m, early.d, early.begun)
		} else {
			p.feed(m)
		}
		p.changed.Broadcast()
	}
	p.settle(g, err)
}
