//go:build shmcrash && linux

package lock

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

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/lease"
	"github.com/sharedmem/shm/internal/platform/wait"
)

// These tests run the real code of Mutex and RWMutex in would-be processes, each
// with a room, a queue and an ID of its own, on one State. Each of their goroutines
// is a coroutine that stops before every operation on a word, every sleep, wake
// and question who is alive; an explorer picks who goes on, who dies and whose
// context ends.
//
// It stands for the kernel: who sleeps wakes when somebody wakes it or its bell
// rings, and never else. So a lost wake shows as a deadlock, which the
// backstop would only hide. A death is told of in two steps that come as late as
// the explorer likes: the lease is no longer locked, then the bells ring.
//
// The schedules are enumerated depth first, those with few preemptions first, as
// nearly all defects need few (Musuvathi and Qadeer, 2007); then drawn at random
// with many.

type explorer struct {
	block *shm.Block
	st    *state
	words []*word64 // those whose operations are steps

	procs   []*process
	threads []*thread
	now     *thread // who runs, or ran last
	asleep  []*thread
	told    []func() // what is still to be told of deaths
	bound   int      // preemptions that are left in this schedule
	deaths  int
	cancels int
	steps   int
	doomed  *process // dies next
	err     error

	trail  []choice
	at     int
	random *rand.Rand // nil: depth first
	stays  int        // percentage of steps after which the same goes on, at random
	log    []string
	logged bool
	passed map[string]int // named points

	// What is true of the lock.
	writer  *thread // is between Lock and Unlock
	readers map[*thread]int
	due     bool // the last holder died, and nobody has mended
	broken  bool // somebody is giving it back, or has, without mending

	// Readers that slept when the last writer gave it back: they come next.
	owed []*thread
}

type choice struct{ took, of int }

type process struct {
	id    uint64
	room  *room
	mutex *Mutex
	rw    *RWMutex
	crew  int
	dead  bool
	known bool // that it is dead
}

type thread struct {
	*process
	e     *explorer
	name  string
	run   func(*thread)
	next  func() (struct{}, bool)
	stop  func()
	yield func(struct{}) bool

	done, sleeping, dying bool
	on                    []wait.On
	ready                 func() bool // not nil: it waits for another of its process
	ctx                   *ending
	sawDue                bool // an owner died in its time
	reading               bool // in RLock
	impatient             bool // gives up where it would sleep
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
func (t *thread) runnable() bool               { return !t.done && !t.sleeping && (t.ready == nil || t.ready()) }
func (e *explorer) note(f string, args ...any) {
	if e.logged {
		e.log = append(e.log, fmt.Sprintf(f, args...))
	}
}

type killed struct{}

// pause lets others go on, or die.
func (t *thread) pause() {
	if !t.dying && !t.yield(struct{}{}) {
		panic(killed{})
	}
}

func (e *explorer) fail(f string, args ...any) {
	if e.err == nil {
		e.err = fmt.Errorf(f, args...)
	}
}

// step, wake, sleep, until and alive make it a scheduler.

func (e *explorer) step(w *word64) {
	t := e.now
	if t == nil || t.dying {
		return
	}
	for i, k := range e.words {
		if k == w {
			t.pause()
			if e.logged {
				e.note("%s looks at word %d: %#x", t.name, i, w.v.Load())
			}
			return
		}
	}
}

func (e *explorer) point(name string) {
	e.passed[name]++
	t := e.now
	if t == nil || t.dying {
		return
	}
	// For others of its process; nothing that processes share happens here.
	if t.crew > 1 {
		t.pause()
	}
	e.note("%s %s", t.name, name)
}

func (e *explorer) wake(w *atomic.Uint32, n int) int {
	if e.now.dying {
		return 0
	}
	e.now.pause()
	e.note("%s wakes %d", e.now.name, n)
	woken := 0
	for ; n > 0; n-- {
		var on []*thread
		for _, t := range e.asleep {
			if slices.ContainsFunc(t.on, func(o wait.On) bool { return o.Word == w }) {
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

func (e *explorer) rouse(t *thread) {
	if i := slices.Index(e.asleep, t); i >= 0 {
		e.asleep = slices.Delete(e.asleep, i, i+1)
		t.sleeping = false
		e.note("  %s is awake", t.name)
	}
}

func (e *explorer) sleep(on []wait.On) error {
	t := e.now
	if t.dying {
		return nil
	}
	t.pause()
	for _, o := range on {
		if o.Word.Load() != o.Value {
			e.note("%s does not sleep", t.name)
			return nil
		}
	}
	if t.impatient {
		e.note("%s gives up", t.name)
		t.ctx.err = context.Canceled
		close(t.ctx.done)
		t.impatient = false
		return nil
	}
	e.note("%s sleeps", t.name)
	t.on = slices.Clone(on)
	t.sleeping = true
	e.asleep = append(e.asleep, t)
	t.pause()
	return nil
}

func (e *explorer) until(ready func() bool) {
	t := e.now
	if t == nil || t.dying || ready() {
		return
	}
	e.note("%s waits for its own process", t.name)
	t.ready = ready
	t.pause()
	t.ready = nil
}

func (e *explorer) alive(_ *room, owner uint64) bool {
	t := e.now
	t.pause()
	alive := false
	for _, p := range e.procs {
		if p.id == owner {
			alive = !p.known
		}
	}
	e.note("%s finds P%x alive: %v", t.name, owner>>32, alive)
	t.pause() // it may be old by now
	return alive
}

// choose picks one of n; weighted is the first that a random schedule takes
// seldom, -1 for none.
func (e *explorer) choose(n, seldom int) int {
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
func (e *explorer) advance() bool {
	for i := len(e.trail) - 1; i >= 0; i-- {
		if e.trail[i].took+1 < e.trail[i].of {
			e.trail[i].took++
			e.trail = e.trail[:i+1]
			return true
		}
	}
	return false
}

func (e *explorer) join(b *shm.Block, k kind) *process {
	p := &process{id: uint64(len(e.procs)+1) << 32}
	p.room = &room{block: b, member: &lease.Member{ID: p.id, Bell: new(atomic.Uint32)}, me: p.id,
		places: map[int]place{}, sleepers: map[*sleeper]struct{}{}}
	p.room.done = p.room.guard.Done()
	low, err := shm.At[atomic.Uint32](b, 8+layout.LowHalf)
	if err != nil {
		panic(err)
	}
	h := &handle{room: p.room, st: e.st, low: low, local: newLocal()}
	switch k {
	case kindMutex:
		p.mutex = mutexOn(h)
	case kindRW:
		if p.rw, err = rwMutexOn(h, b); err != nil {
			panic(err)
		}
		e.words = []*word64{&e.st.word, &e.st.aux}
		for i := range 5 {
			e.words = append(e.words, &p.rw.slots[i])
		}
	}
	e.procs = append(e.procs, p)
	return p
}

func (e *explorer) spawn(p *process, run func(*thread)) *thread {
	t := &thread{process: p, e: e, run: run, ctx: &ending{Context: context.Background(), done: make(chan struct{})}}
	t.name = fmt.Sprintf("P%x.%d", p.id>>32, p.crew)
	p.crew++
	t.next, t.stop = iter.Pull(func(yield func(struct{}) bool) {
		t.yield = yield
		defer func() {
			t.done = true
			if r := recover(); r != nil {
				if _, ok := r.(killed); !ok {
					e.fail("%s: %v\n%s", t.name, r, debug.Stack())
				}
			}
		}()
		t.run(t)
	})
	e.threads = append(e.threads, t)
	return t
}

// option is something that can happen next.
type option struct {
	run    *thread
	kill   *process
	cancel *thread
	tell   bool
}

// schedule runs one schedule of s.
func (e *explorer) schedule(s scenario, bound int) {
	clear(e.block.Bytes())
	e.procs, e.threads, e.asleep, e.told, e.now = nil, nil, nil, nil, nil
	e.words = []*word64{&e.st.word}
	e.bound, e.deaths, e.cancels, e.steps, e.at, e.err = bound, s.deaths, s.cancels, 0, 0, nil
	e.writer, e.readers, e.due, e.broken, e.owed, e.log = nil, map[*thread]int{}, false, false, nil, nil
	defer func() {
		for _, t := range e.threads {
			e.end(t)
		}
	}()
	for _, crew := range s.crews {
		p := e.join(e.block, s.kind)
		for _, run := range crew {
			e.spawn(p, run)
		}
	}
	e.doomed = nil
	var opts []option
	for e.err == nil {
		if p := e.doomed; p != nil {
			e.doomed, e.now = nil, nil
			e.kill(p)
		}
		if e.steps++; e.steps > 2000 {
			e.fail("no end after %d steps", e.steps)
			return
		}
		opts = opts[:0]
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
			if len(e.told) > 0 {
				opts = append(opts, option{tell: true})
			}
		}
		seldom := len(opts)
		if seldom == 0 {
			break
		}
		for _, p := range e.procs {
			// Of those who can run only the one that did: another can be picked first.
			if e.deaths > 0 && !p.dead && (going && cur.process == p || e.idle(p)) {
				opts = append(opts, option{kill: p})
			}
		}
		for _, t := range e.threads {
			if e.cancels > 0 && !t.done && t.ctx.err == nil && (t == cur || t.sleeping || t.ready != nil) {
				opts = append(opts, option{cancel: t})
			}
		}
		if len(opts) == 1 {
			e.take(opts[0])
			continue
		}
		o := opts[e.choose(len(opts), seldom)]
		if going && (o.tell || o.run != nil && o.run != cur) {
			e.bound--
		}
		e.take(o)
	}
	if e.err != nil {
		return
	}
	for _, t := range e.threads {
		if !t.done {
			e.fail("stuck: %s sleeps for ever; the word is %#x", t.name, e.st.word.v.Load())
			return
		}
	}
	e.inspect(s)
}

// idle tells that p has gone on as far as it can, and is not at its end.
func (e *explorer) idle(p *process) bool {
	stays := false
	for _, t := range e.threads {
		if t.process == p && !t.done {
			if t.runnable() {
				return false
			}
			stays = true
		}
	}
	return stays
}

func (e *explorer) take(o option) {
	switch {
	case o.run != nil:
		e.now = o.run
		o.run.next()
	case o.tell:
		f := e.told[0]
		e.told = e.told[1:]
		f()
	case o.cancel != nil:
		e.cancels--
		e.note("%s is told to give up", o.cancel.name)
		o.cancel.ctx.err = context.Canceled
		close(o.cancel.ctx.done)
		e.rouse(o.cancel)
	case o.kill != nil:
		e.deaths--
		e.kill(o.kill)
	}
}

func (e *explorer) end(t *thread) {
	e.now = t
	t.dying = true
	t.stop()
	t.done = true
	if i := slices.Index(e.asleep, t); i >= 0 {
		e.asleep = slices.Delete(e.asleep, i, i+1)
	}
	e.now = nil
}

func (e *explorer) kill(p *process) {
	e.note("P%x dies", p.id>>32)
	p.dead = true
	w := e.st.word.v.Load()
	owns := w != wordBroken && owner(w) == p.id && (w&flagPending == 0 || w&flagDied != 0)
	if e.writer != nil && e.writer.process == p {
		e.writer = nil
		if !owns {
			e.fail("a holder's word is %#x", w)
		}
	}
	for _, t := range e.threads {
		if t.process == p {
			e.end(t)
			delete(e.readers, t)
		}
	}
	e.owed = e.owed[:0] // it may have died giving to them
	if owns {
		e.due = true
		for _, t := range e.threads {
			t.sawDue = true
		}
	}
	e.told = append(e.told, func() {
		e.note("the lease of P%x is not locked any more", p.id>>32)
		p.known = true
	}, func() {
		e.note("the bells ring for P%x", p.id>>32)
		for _, o := range e.procs {
			o.room.member.Bell.Add(1)
			for _, t := range slices.Clone(e.asleep) {
				if t.process == o {
					e.rouse(t)
				}
			}
		}
	})
}

// inspect finds the lock usable by who comes afterwards.
func (e *explorer) inspect(s scenario) {
	for len(e.told) > 0 {
		e.take(option{tell: true})
	}
	p := e.join(e.block, s.kind)
	for _, run := range s.after {
		t := e.spawn(p, run)
		t.name = "who comes afterwards"
		t.sawDue = e.due
		for range 1000 {
			if t.done || t.sleeping {
				break
			}
			e.take(option{run: t})
		}
		if !t.done {
			e.fail("it is not usable any more: %#x", e.st.word.v.Load())
		}
	}
}

// What the threads do.

func (t *thread) entered(err error) {
	e := t.e
	if e.writer != nil || len(e.readers) > 0 {
		e.fail("%s writes while %v does, and %d read", t.name, e.writer, len(e.readers))
	}
	if died := errors.Is(err, ErrOwnerDied); died != e.due || e.broken {
		e.fail("%s gets %v; an owner died: %v; not recoverable: %v", t.name, err, e.due, e.broken)
	}
	for _, r := range e.owed {
		if r.sawDue || r.ctx.err != nil {
			continue // no grant outlives the death of who gives it
		}
		e.fail("%s writes before %s, which waited for the last one", t.name, r.name)
	}
	e.note("%s holds it: %v", t.name, err)
	e.writer = t
}

// given reports whether err means that the lock is held, and what else it may be.
func (t *thread) given(err error) bool {
	switch {
	case err == nil || errors.Is(err, ErrOwnerDied):
		return true
	case errors.Is(err, ErrNotRecoverable) && t.e.broken:
	case errors.Is(err, context.Canceled) && t.ctx.err != nil:
	default:
		t.e.fail("%s gets %v", t.name, err)
	}
	return false
}

type writeLock interface {
	LockContext(context.Context) error
	TryLock() (bool, error)
	Unlock() error
	MarkConsistent() error
}

func (t *thread) lock() writeLock {
	if t.rw != nil {
		return t.rw
	}
	return t.mutex
}

// writes takes the lock for writing, mends and gives it back.
func writes(t *thread) {
	if err := t.lock().LockContext(t.ctx); t.given(err) {
		t.hold(err, true)
	}
}

func tryWrite(t *thread) {
	ok, err := t.lock().TryLock()
	if ok {
		t.hold(err, true)
	} else if err != nil {
		t.given(err)
	}
}

// spoil writes, and does not mend.
func spoil(t *thread) {
	if err := t.lock().LockContext(t.ctx); t.given(err) {
		t.hold(err, false)
	}
}

func impatient(t *thread) {
	t.impatient = true
	writes(t)
}

// dies takes it and dies writing, in every schedule.
func dies(t *thread) {
	if err := t.lock().LockContext(t.ctx); t.given(err) {
		t.entered(err)
		t.e.doomed = t.process
		t.pause()
	}
}

func (t *thread) hold(err error, mend bool) {
	e := t.e
	t.entered(err)
	t.pause()
	if errors.Is(err, ErrOwnerDied) {
		if !mend {
			e.broken = true
		} else if err := t.lock().MarkConsistent(); err != nil {
			e.fail("%s cannot mend: %v", t.name, err)
		} else {
			e.due = false
		}
	}
	t.pause()
	if e.writer != t {
		e.fail("%s does not hold it alone", t.name)
	}
	e.writer = nil
	e.owed = e.owed[:0]
	for _, r := range e.asleep {
		if r.reading && !e.due {
			e.owed = append(e.owed, r)
		}
	}
	if err := t.lock().Unlock(); err != nil {
		e.fail("%s cannot unlock: %v", t.name, err)
	}
}

func reads(t *thread) {
	t.reading = true
	err := t.rw.RLockContext(t.ctx)
	t.reading = false
	t.e.owed = slices.DeleteFunc(t.e.owed, func(o *thread) bool { return o == t })
	t.read(err)
}

func tryRead(t *thread) {
	if ok, err := t.rw.TryRLock(); ok || err != nil {
		t.read(err)
	}
}

func (t *thread) read(err error) {
	e := t.e
	if errors.Is(err, ErrOwnerDied) {
		if !t.sawDue {
			e.fail("%s gets %v, and nobody has died", t.name, err)
		}
		writes(t) // as a program would, to mend
		return
	}
	if !t.given(err) {
		return
	}
	if e.writer != nil || e.due {
		e.fail("%s reads while %v writes; torn: %v", t.name, e.writer, e.due)
	}
	e.note("%s reads", t.name)
	e.readers[t]++
	t.pause()
	if e.writer != nil {
		e.fail("%s writes while %s reads", e.writer.name, t.name)
	}
	delete(e.readers, t)
	if err := t.rw.RUnlock(); err != nil {
		e.fail("%s cannot unlock: %v", t.name, err)
	}
}

func twice(f func(*thread)) func(*thread) {
	return func(t *thread) {
		f(t)
		f(t)
	}
}

func (t *thread) String() string {
	if t == nil {
		return "nobody"
	}
	return t.name
}

type scenario struct {
	name            string
	kind            kind
	crews           [][]func(*thread) // by process
	after           []func(*thread)
	deaths, cancels int
}

type crew = []func(*thread)

var (
	wr = []func(*thread){writes}
	rd = []func(*thread){reads}
)

var scenarios = []scenario{
	{"mutex 3", kindMutex, []crew{wr, wr, wr}, crew{writes}, 1, 0},
	{"mutex 2 twice", kindMutex, []crew{{twice(writes)}, {twice(writes)}}, crew{writes}, 1, 0},
	{"mutex 3, two deaths", kindMutex, []crew{wr, wr, wr}, crew{writes}, 2, 0},
	{"mutex give up", kindMutex, []crew{wr, wr, wr}, crew{writes}, 1, 1},
	{"mutex goroutines", kindMutex, []crew{{writes, writes}, wr}, crew{writes}, 1, 0},
	{"mutex try", kindMutex, []crew{wr, {tryWrite}, {writes, tryWrite}}, crew{writes}, 1, 0},
	{"mutex spoilt", kindMutex, []crew{wr, {spoil}, wr}, crew{writes}, 1, 0},
	{"rw 2 read 1 writes", kindRW, []crew{rd, rd, wr}, crew{reads, writes}, 1, 0},
	{"rw 1 reads 2 write", kindRW, []crew{rd, wr, wr}, crew{reads, writes}, 1, 0},
	{"rw twice", kindRW, []crew{{twice(reads)}, {twice(writes)}}, crew{reads, writes}, 1, 0},
	{"rw two deaths", kindRW, []crew{rd, wr, wr}, crew{reads, writes}, 2, 0},
	{"rw goroutines read", kindRW, []crew{{reads, reads}, wr}, crew{reads, writes}, 1, 0},
	{"rw goroutines both", kindRW, []crew{{reads, writes}, {reads, writes}}, crew{reads, writes}, 1, 0},
	{"rw give up", kindRW, []crew{rd, rd, wr}, crew{reads, writes}, 1, 1},
	{"rw writers give up", kindRW, []crew{rd, wr, wr}, crew{reads, writes}, 1, 1},
	{"rw try", kindRW, []crew{{tryRead}, {tryWrite}, rd, wr}, crew{reads, writes}, 1, 0},
	{"rw torn, give up", kindRW, []crew{rd, {dies}, {impatient}}, crew{reads, writes}, 0, 0},
	{"rw spoilt", kindRW, []crew{rd, {spoil}, wr}, crew{writes}, 1, 0},
}

// TestKillExplore runs every scenario for its share of SHM_EXPLORE, 10 s.
func TestKillExplore(t *testing.T) {
	total := 10 * time.Second
	if s := os.Getenv("SHM_EXPLORE"); s != "" {
		var err error
		if total, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	b, err := shm.Create("", 4096, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	st, err := shm.At[state](b, 0)
	if err != nil {
		t.Fatal(err)
	}
	passed := map[string]int{}
	e := &explorer{block: b, st: st, passed: passed}
	defer func(n int) { cores = n }(cores)
	cores = 1 // nobody spins: it would be a look more
	explored, crash.Hook = e, e.point
	defer func() { explored, crash.Hook = nil, nil }()
	ran := 0
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			ran++
			e.explore(t, s, total/time.Duration(len(scenarios)))
		})
	}
	if t.Failed() || ran < len(scenarios) { // -run may name one
		return
	}
	for _, p := range crash.Points {
		if role, _, _ := strings.Cut(p, ":"); (role == "lock" || role == "unlock" || role == "rwlock") && passed[p] == 0 {
			t.Errorf("nobody passed %s", p)
		}
	}
}

// draw begins a random schedule: some with many preemptions, some with few.
func (e *explorer) draw(seed uint64) {
	e.random = rand.New(rand.NewPCG(seed, 1))
	e.stays = []int{60, 85, 95}[seed%3]
}

func (e *explorer) explore(t *testing.T, s scenario, share time.Duration) {
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
		e.schedule(s, bound)
		e.logged = false
		t.Fatalf("%v\n%s", err, strings.Join(e.log, "\n"))
	}
	e.random = nil
	complete, runs := "none", 0
	for bound := range 6 {
		e.trail = nil
		n := 0
		for {
			e.schedule(s, bound)
			report(bound)
			n++
			if !e.advance() {
				complete = strconv.Itoa(bound)
				break
			}
			if n%64 == 0 && time.Since(start) > share*2/3 {
				break
			}
		}
		runs += n
		if time.Since(start) > share*2/3 {
			break
		}
	}
	drawn := 0
	for ; time.Since(start) < share; drawn++ {
		seed = uint64(drawn)
		e.draw(seed)
		e.schedule(s, 1<<30)
		report(1 << 30)
	}
	t.Logf("%d schedules, all with at most %s preemptions; %d at random", runs, complete, drawn)
	if runs < 100 {
		t.Errorf("only %d schedules in %v", runs, share)
	}
}
