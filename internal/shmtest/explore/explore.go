// Package explore runs the real code of an algorithm over shared memory in would-be
// processes, and tries how their steps can lie between each other.
//
// Each goroutine of theirs is a coroutine that stops before every operation on a word
// that is watched, every sleep, wake and question who is alive; an [Explorer] picks who
// goes on, who dies and whose context ends. It is internal/step's Scheduler and takes
// Point for crash.Hook; a package's tests with the build tag shmcrash set both, and
// say in a [Scenario] who does what and what has to hold.
//
// The explorer stands for the kernel: who sleeps wakes when somebody wakes it or its
// bell rings, and never else. So a lost wake shows as a deadlock, which the
// backstop would only hide. A death is told of in two steps that come as late as
// the explorer likes: the lease is no longer locked, then the bells ring.
//
// It stands for the processor as well: what is stored by StoreRelease may, in a
// scenario with Late, be seen by others only after later loads of the same
// goroutine, as on amd64, where a store waits in a buffer until the next locked
// instruction. Buffers are drained in order, also a dead goroutine's.
//
// The schedules are enumerated depth first, those with few preemptions first, as
// nearly all defects need few (Musuvathi and Qadeer, 2007); then drawn at random
// with many.
package explore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Scenario is who does what, and what has to hold.
type Scenario struct {
	Name            string
	Deaths, Cancels int
	Late            bool // stores may be seen late

	// Begin makes memory, processes and goroutines anew. Nothing in it is a step.
	Begin func(e *Explorer)

	// Died, if not nil, is called when p dies, before its goroutines end.
	Died func(p *Process)

	// End looks at what is left when all goroutines have come to their ends.
	End func(e *Explorer)
}

// Explorer runs schedules.
type Explorer struct {
	Passed map[string]int // how often each named point was passed
	Ran    int            // how many scenarios were run

	scenario *Scenario
	procs    []*Process
	threads  []*Thread
	now      *Thread // who runs, or ran last
	asleep   []*Thread
	told     []func()       // what is still to be told of deaths
	words    map[any]string // those whose operations are steps
	bound    int            // preemptions that are left in this schedule
	deaths   int
	cancels  int
	steps    int
	doomed   *Process // dies next
	err      error

	trail  []choice
	at     int
	random *rand.Rand // nil: depth first
	stays  int        // percentage of steps after which the same goes on, at random
	log    []string
	logged bool
}

type choice struct{ took, of int }

// Process is a would-be process.
type Process struct {
	ID   uint64
	Bell *atomic.Uint32

	e     *Explorer
	crew  int
	dead  bool
	known bool // that it is dead
}

// Thread is one of its goroutines.
type Thread struct {
	*Process
	Name      string
	Context   context.Context // ends when the explorer says so
	Impatient bool            // gives up where it would sleep

	next  func() (struct{}, bool)
	stop  func()
	yield func(struct{}) bool
	ctx   *ending

	done, sleeping, dying bool
	on                    []*atomic.Uint32
	ready                 func() bool // not nil: it waits for another of its process
	late                  []store     // what it has stored and others do not see
}

type store struct {
	w *atomic.Uint64
	v uint64
}

// ending is a context that ends when the explorer says so, with no goroutine.
type ending struct {
	context.Context
	done chan struct{}
	err  error
}

func (c *ending) Done() <-chan struct{}        { return c.done }
func (c *ending) Err() error                   { return c.err }
func (c *ending) AfterFunc(func()) func() bool { return func() bool { return true } }
func (c *ending) Deadline() (time.Time, bool)  { return time.Time{}, false }

func (c *ending) end() {
	c.err = context.Canceled
	close(c.done)
}

type killed struct{}

const mostSteps = 4000

// Watch makes the operations on word, an *atomic.Uint64 or *atomic.Uint32, steps.
func (e *Explorer) Watch(word any, name string) { e.words[word] = name }

// Note writes a line into the log of a schedule that has failed.
func (e *Explorer) Note(format string, args ...any) {
	if e.logged {
		e.log = append(e.log, fmt.Sprintf(format, args...))
	}
}

// Fail ends the schedule, and the test.
func (e *Explorer) Fail(format string, args ...any) {
	if e.err == nil {
		e.err = fmt.Errorf(format, args...)
	}
}

// Process makes a process.
func (e *Explorer) Process() *Process {
	p := &Process{e: e, ID: uint64(len(e.procs)+1) << 32, Bell: new(atomic.Uint32)}
	e.procs = append(e.procs, p)
	return p
}

// Dead tells whether p has died.
func (p *Process) Dead() bool { return p.dead }

func (p *Process) String() string { return fmt.Sprintf("P%x", p.ID>>32) }

// Go makes a goroutine of p that does run.
func (p *Process) Go(run func(t *Thread)) *Thread {
	e := p.e
	t := &Thread{Process: p, ctx: &ending{Context: context.Background(), done: make(chan struct{})}}
	t.Context = t.ctx
	t.Name = fmt.Sprintf("%v.%d", p, p.crew)
	p.crew++
	t.next, t.stop = iter.Pull(func(yield func(struct{}) bool) {
		t.yield = yield
		defer func() {
			t.done = true
			if r := recover(); r != nil {
				if _, ok := r.(killed); !ok {
					e.Fail("%s: %v\n%s", t.Name, r, debug.Stack())
				}
			}
		}()
		run(t)
	})
	e.threads = append(e.threads, t)
	return t
}

func (t *Thread) String() string {
	if t == nil {
		return "nobody"
	}
	return t.Name
}

// Pause lets others go on, or die.
func (t *Thread) Pause() {
	if !t.dying && !t.yield(struct{}{}) {
		panic(killed{})
	}
}

// Doom has t's process die here, in every schedule.
func (t *Thread) Doom() {
	t.e.doomed = t.Process
	t.Pause()
}

// Dying tells that t's process is dead, and t only unwinds its stack.
func (t *Thread) Dying() bool { return t.dying }

// Cancelled tells whether t's context has ended.
func (t *Thread) Cancelled() bool { return t.ctx.err != nil }

// Asleep tells whether t sleeps.
func (t *Thread) Asleep() bool { return t.sleeping && !t.done }

// What follows makes it a step.Scheduler.

// Step stops the goroutine that is about to touch a word.
func (e *Explorer) Step(word any, change bool) bool {
	t := e.now
	if t == nil {
		return true
	}
	if t.dying {
		return false
	}
	name, watched := e.words[word]
	if !watched {
		if change {
			e.drain(t)
		}
		return true
	}
	t.Pause()
	if change {
		e.drain(t)
	}
	if e.logged {
		verb := "looks at"
		if change {
			verb = "changes"
		}
		var v uint64
		switch w := word.(type) {
		case *atomic.Uint64:
			v = w.Load()
		case *atomic.Uint32:
			v = uint64(w.Load())
		}
		e.Note("%s %s %s: %#x", t.Name, verb, name, v)
	}
	return true
}

// Load returns what the goroutine that runs has stored, if others do not see it yet.
func (e *Explorer) Load(w *atomic.Uint64) (uint64, bool) {
	if t := e.now; t != nil {
		for _, s := range slices.Backward(t.late) {
			if s.w == w {
				return s.v, true
			}
		}
	}
	return 0, false
}

// Release stores v, perhaps later than it seems.
func (e *Explorer) Release(w *atomic.Uint64, v uint64) {
	t := e.now
	if t == nil {
		w.Store(v)
		return
	}
	if t.dying {
		return
	}
	name, watched := e.words[w]
	if !watched {
		w.Store(v)
		return
	}
	t.Pause()
	if len(t.late) > 0 || e.scenario.Late && (e.random != nil || e.bound > 0) && e.choose(2, 1) == 1 {
		if len(t.late) == 0 {
			e.bound--
		}
		t.late = append(t.late, store{w, v})
		e.Note("%s stores to %s, for later: %#x", t.Name, name, v)
		return
	}
	e.Note("%s stores to %s: %#x", t.Name, name, v)
	w.Store(v)
}

// drain has everybody see what t has stored.
func (e *Explorer) drain(t *Thread) {
	for _, s := range t.late {
		e.Note("  all see what %s stored: %#x", t.Name, s.v)
		s.w.Store(s.v)
	}
	t.late = nil
}

// Fence has everybody see what anybody has stored.
func (e *Explorer) Fence() {
	t := e.now
	if t == nil || t.dying {
		return
	}
	t.Pause()
	e.Note("%s has all pass a barrier", t.Name)
	for _, t := range e.threads {
		e.drain(t)
	}
}

// Point takes note of a named point.
func (e *Explorer) Point(name string) {
	t := e.now
	if t == nil || t.dying {
		return
	}
	e.Passed[name]++
	// For others of its process; nothing that processes share happens here.
	if t.crew > 1 {
		t.Pause()
	}
	e.Note("%s %s", t.Name, name)
}

// Wake wakes n of those who sleep on w.
func (e *Explorer) Wake(w *atomic.Uint32, n int) int {
	t := e.now
	if t == nil || t.dying {
		return 0
	}
	t.Pause()
	e.drain(t)
	e.Note("%s wakes %d", t.Name, n)
	woken := 0
	for ; n > 0; n-- {
		var on []*Thread
		for _, t := range e.asleep {
			if slices.Contains(t.on, w) {
				on = append(on, t)
			}
		}
		if len(on) == 0 {
			break
		}
		i := 0
		if n < len(on) {
			i = e.choose(len(on), -1)
		}
		e.rouse(on[i])
		woken++
	}
	return woken
}

func (e *Explorer) rouse(t *Thread) {
	if i := slices.Index(e.asleep, t); i >= 0 {
		e.asleep = slices.Delete(e.asleep, i, i+1)
		t.sleeping = false
		e.Note("  %s is awake", t.Name)
	}
}

// Sleep sleeps until one of words is woken, if they have these values.
func (e *Explorer) Sleep(words []*atomic.Uint32, values []uint32) error {
	t := e.now
	if t == nil {
		return errors.New("would sleep for ever")
	}
	if t.dying {
		return nil
	}
	t.Pause()
	e.drain(t)
	for i, w := range words {
		if w.Load() != values[i] {
			e.Note("%s does not sleep", t.Name)
			return nil
		}
	}
	if t.Impatient {
		e.Note("%s gives up", t.Name)
		t.ctx.end()
		t.Impatient = false
		return nil
	}
	e.Note("%s sleeps", t.Name)
	t.on = words
	t.sleeping = true
	e.asleep = append(e.asleep, t)
	t.Pause()
	return nil
}

// Until waits until another goroutine of the process has made ready true.
func (e *Explorer) Until(ready func() bool) {
	t := e.now
	if t == nil || t.dying || ready() {
		return
	}
	e.Note("%s waits for its own process", t.Name)
	t.ready = ready
	t.Pause()
	t.ready = nil
}

// Alive tells whether the process id is known to live; what it says may be old.
func (e *Explorer) Alive(id uint64) bool {
	t := e.now
	if t != nil {
		t.Pause()
	}
	alive := false
	for _, p := range e.procs {
		if p.ID == id {
			alive = !p.known
		}
	}
	if t != nil {
		e.Note("%s finds P%x alive: %v", t.Name, id>>32, alive)
		t.Pause()
	}
	return alive
}

// choose picks one of n; seldom is the first that a random schedule takes
// seldom, -1 for none.
func (e *Explorer) choose(n, seldom int) int {
	if e.random != nil {
		switch r := e.random.IntN(100); {
		case seldom < 0:
			return e.random.IntN(n)
		case r < e.stays:
			return 0
		case seldom > 0 && (r < e.stays+(100-e.stays)*7/8 || seldom >= n):
			return e.random.IntN(seldom)
		case seldom < n:
			return seldom + e.random.IntN(n-seldom)
		}
		return 0
	}
	if e.at == len(e.trail) {
		e.trail = append(e.trail, choice{0, n})
	}
	c := e.trail[e.at]
	if c.of != n {
		panic(fmt.Sprintf("not deterministic: %d of %d, now of %d", c.took, c.of, n))
	}
	e.at++
	return c.took
}

// advance makes trail the next one; false after the last.
func (e *Explorer) advance() bool {
	for i := len(e.trail) - 1; i >= 0; i-- {
		if e.trail[i].took+1 < e.trail[i].of {
			e.trail[i].took++
			e.trail = e.trail[:i+1]
			return true
		}
	}
	return false
}

// option is something that can happen next.
type option struct {
	run    *Thread
	drain  *Thread
	kill   *Process
	cancel *Thread
	tell   bool
}

func (t *Thread) runnable() bool {
	return !t.done && !t.sleeping && (t.ready == nil || t.ready())
}

// schedule runs one schedule.
func (e *Explorer) schedule(bound int) {
	s := e.scenario
	e.procs, e.threads, e.asleep, e.told, e.now, e.doomed = nil, nil, nil, nil, nil, nil
	clear(e.words)
	e.bound, e.deaths, e.cancels, e.steps, e.at, e.err, e.log = bound, s.Deaths, s.Cancels, 0, 0, nil, nil
	defer func() {
		for _, t := range e.threads {
			e.end(t)
		}
	}()
	s.Begin(e)
	var opts []option
	for e.err == nil {
		if p := e.doomed; p != nil {
			e.doomed, e.now = nil, nil
			e.kill(p)
		}
		if e.steps++; e.steps > mostSteps {
			e.Fail("no end after %d steps", e.steps)
			return
		}
		var seldom int
		if opts, seldom = e.options(opts[:0]); seldom == 0 {
			break
		}
		if len(opts) == 1 {
			e.take(opts[0])
			continue
		}
		o := opts[e.choose(len(opts), seldom)]
		if cur := e.now; cur != nil && cur.runnable() && (o.tell || o.drain != nil || o.run != nil && o.run != cur) {
			e.bound--
		}
		e.take(o)
	}
	if e.err != nil {
		return
	}
	for _, t := range e.threads {
		if !t.done {
			e.Fail("stuck: %s sleeps for ever", t.Name)
			return
		}
	}
	for len(e.told) > 0 {
		e.take(option{tell: true})
	}
	e.now = nil
	s.End(e)
}

// options appends what can happen next to opts; what comes from seldom on, only if there
// is something before.
func (e *Explorer) options(opts []option) (_ []option, seldom int) {
	cur := e.now
	going := cur != nil && cur.runnable()
	if going {
		opts = append(opts, option{run: cur})
	}
	if !going || e.bound > 0 {
		for _, t := range e.threads {
			if t != cur && t.runnable() {
				opts = append(opts, option{run: t})
			}
		}
		for _, t := range e.threads {
			if len(t.late) > 0 {
				opts = append(opts, option{drain: t})
			}
		}
		if len(e.told) > 0 {
			opts = append(opts, option{tell: true})
		}
	}
	if seldom = len(opts); seldom == 0 {
		return nil, 0
	}
	for _, p := range e.procs {
		// Of those who can run only the one that did: another can be picked first.
		if e.deaths > 0 && !p.dead && (going && cur.Process == p || e.idle(p)) {
			opts = append(opts, option{kill: p})
		}
	}
	for _, t := range e.threads {
		if e.cancels > 0 && !t.done && t.ctx.err == nil && (t == cur || t.sleeping || t.ready != nil) {
			opts = append(opts, option{cancel: t})
		}
	}
	return opts, seldom
}

// idle tells that p has gone on as far as it can, and is not at its end.
func (e *Explorer) idle(p *Process) bool {
	stays := false
	for _, t := range e.threads {
		if t.Process == p && !t.done {
			if t.runnable() {
				return false
			}
			stays = true
		}
	}
	return stays
}

func (e *Explorer) take(o option) {
	switch {
	case o.run != nil:
		e.now = o.run
		o.run.next()
		if o.run.done {
			e.drain(o.run)
		}
	case o.drain != nil:
		t := o.drain
		s := t.late[0]
		e.Note("  all see what %s stored: %#x", t.Name, s.v)
		s.w.Store(s.v)
		t.late = t.late[1:]
	case o.tell:
		f := e.told[0]
		e.told = e.told[1:]
		f()
	case o.cancel != nil:
		e.cancels--
		e.Note("%s is told to give up", o.cancel.Name)
		o.cancel.ctx.end()
		e.rouse(o.cancel)
	case o.kill != nil:
		e.deaths--
		e.kill(o.kill)
	}
}

func (e *Explorer) end(t *Thread) {
	e.drain(t)
	e.now = t
	t.dying = true
	t.stop()
	t.done = true
	if i := slices.Index(e.asleep, t); i >= 0 {
		e.asleep = slices.Delete(e.asleep, i, i+1)
	}
	e.now = nil
}

func (e *Explorer) kill(p *Process) {
	e.Note("%v dies", p)
	p.dead = true
	for _, t := range e.threads {
		if t.Process == p {
			e.drain(t)
		}
	}
	if e.scenario.Died != nil {
		e.scenario.Died(p)
	}
	for _, t := range e.threads {
		if t.Process == p {
			e.end(t)
		}
	}
	e.told = append(e.told, func() {
		e.Note("the lease of %v is not locked any more", p)
		p.known = true
	}, func() {
		e.Note("the bells ring for %v", p)
		for _, o := range e.procs {
			o.Bell.Add(1)
			for _, t := range slices.Clone(e.asleep) {
				if slices.Contains(t.on, o.Bell) {
					e.rouse(t)
				}
			}
		}
	})
}

// Alone has a goroutine of p do run, with nobody beside it; false if it does not come
// to an end.
func (p *Process) Alone(run func(t *Thread)) bool {
	e := p.e
	t := p.Go(run)
	for range mostSteps {
		if t.done || !t.runnable() {
			break
		}
		e.take(option{run: t})
	}
	e.now = nil
	return t.done
}

// Budget is how long all that is explored may take: SHM_EXPLORE, or 10 s.
func Budget(t testing.TB) time.Duration {
	s := os.Getenv("SHM_EXPLORE")
	if s == "" {
		return 10 * time.Second
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// Run runs each scenario as a test, for its share of the time.
func (e *Explorer) Run(t *testing.T, scenarios []Scenario, total time.Duration) {
	// Each schedule leaves its goroutines' stacks behind.
	defer debug.SetGCPercent(debug.SetGCPercent(1000))
	for i := range scenarios {
		t.Run(scenarios[i].Name, func(t *testing.T) {
			e.scenario = &scenarios[i]
			e.Ran++
			e.explore(t, total/time.Duration(len(scenarios)))
		})
	}
}

// New returns an explorer that has passed no point.
func New() *Explorer { return &Explorer{Passed: map[string]int{}, words: map[any]string{}} }

// draw begins a random schedule: some with many preemptions, some with few.
func (e *Explorer) draw(seed uint64) {
	e.random = rand.New(rand.NewPCG(seed, 1))
	e.stays = []int{60, 85, 95}[seed%3]
}

func (e *Explorer) explore(t *testing.T, share time.Duration) {
	start := time.Now()
	seed := uint64(1)
	report := func(bound int) {
		if e.err == nil {
			return
		}
		// Once more, with a note of every step.
		err := e.err
		e.logged = true
		if e.random != nil {
			e.draw(seed)
		}
		e.schedule(bound)
		e.logged = false
		t.Fatalf("%v\n%s", err, strings.Join(e.log, "\n"))
	}
	e.random = nil
	complete, runs := "none", 0
	for bound := range 6 {
		e.trail = nil
		n := 0
		for {
			e.schedule(bound)
			report(bound)
			n++
			if !e.advance() {
				complete = strconv.Itoa(bound)
				break
			}
			// On a machine that does something else meanwhile, some all the same.
			if n%64 == 0 && runs+n > 100 && time.Since(start) > share*2/3 {
				break
			}
		}
		runs += n
		if runs > 100 && time.Since(start) > share*2/3 {
			break
		}
	}
	drawn := 0
	for ; time.Since(start) < share; drawn++ {
		seed = uint64(drawn)
		e.draw(seed)
		e.schedule(1 << 30)
		report(1 << 30)
	}
	t.Logf("%d schedules, all with at most %s preemptions; %d at random", runs, complete, drawn)
	if runs < 100 {
		t.Errorf("only %d schedules in %v", runs, share)
	}
}
