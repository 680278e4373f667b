//go:build shmcrash && linux

package lock

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/lease"
	"github.com/sharedmem/shm/internal/shmtest/explore"
	"github.com/sharedmem/shm/internal/step"
)

// These tests run the real code of Mutex and RWMutex in would-be processes, each
// with a room, a queue and an ID of its own, on one State; package explore tries
// how their steps can lie.

// model is what is true of the lock.
type model struct {
	*explore.Explorer
	block   *shm.Block
	st      *state
	kind    kind
	threads []*thread

	writer  *thread // is between Lock and Unlock
	readers map[*thread]int
	due     bool // the last holder died, and nobody has mended
	broken  bool // somebody is giving it back, or has, without mending

	// Readers that slept when the last writer gave it back: they come next.
	owed []*thread
}

type process struct {
	*explore.Process
	mutex *Mutex
	rw    *RWMutex
}

type thread struct {
	*explore.Thread
	process *process
	e       *model
	sawDue  bool // an owner died in its time
	reading bool // in RLock
}

func (e *model) join() *process {
	p := &process{Process: e.Process()}
	r := &room{block: e.block, member: &lease.Member{ID: p.ID, Bell: p.Bell}, me: p.ID,
		places: map[int]place{}, sleepers: map[*sleeper]struct{}{}}
	r.done = r.guard.Done()
	low, err := shm.At[atomic.Uint32](e.block, 8+layout.LowHalf)
	if err != nil {
		panic(err)
	}
	h := &handle{room: r, st: e.st, low: low, local: newLocal()}
	e.Watch(step.Raw64(&e.st.word), "word")
	switch e.kind {
	case kindMutex:
		p.mutex = mutexOn(h)
	case kindRW:
		if p.rw, err = rwMutexOn(h, e.block); err != nil {
			panic(err)
		}
		e.Watch(step.Raw64(&e.st.aux), "aux")
		for i := range 5 {
			e.Watch(step.Raw64(&p.rw.slots[i]), "slot")
		}
	}
	return p
}

func (e *model) does(p *process, run func(*thread)) *thread {
	t := &thread{process: p, e: e}
	t.Thread = p.Go(func(*explore.Thread) { run(t) })
	e.threads = append(e.threads, t)
	return t
}

// scenario makes s one for the explorer.
func (e *model) scenario(s scenario) explore.Scenario {
	return explore.Scenario{Name: s.name, Deaths: s.deaths, Cancels: s.cancels, Begin: func(*explore.Explorer) {
		clear(e.block.Bytes())
		e.kind = s.kind
		e.threads, e.writer, e.readers, e.due, e.broken, e.owed = nil, nil, map[*thread]int{}, false, false, nil
		for _, crew := range s.crews {
			p := e.join()
			for _, run := range crew {
				e.does(p, run)
			}
		}
	}, Died: e.died, End: func(*explore.Explorer) {
		// Who comes afterwards finds it usable.
		p := e.join()
		for _, run := range s.after {
			if !p.Alone(func(x *explore.Thread) {
				x.Name = "who comes afterwards"
				run(&thread{Thread: x, process: p, e: e, sawDue: e.due})
			}) {
				e.Fail("it is not usable any more: %#x", step.Raw64(&e.st.word).Load())
			}
		}
	}}
}

func (e *model) died(p *explore.Process) {
	w := step.Raw64(&e.st.word).Load()
	owns := w != wordBroken && owner(w) == p.ID && (w&flagPending == 0 || w&flagDied != 0)
	if e.writer != nil && e.writer.Process == p {
		e.writer = nil
		if !owns {
			e.Fail("a holder's word is %#x", w)
		}
	}
	for _, t := range e.threads {
		if t.Process == p {
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
}

// What the threads do.

func (t *thread) entered(err error) {
	e := t.e
	if e.writer != nil || len(e.readers) > 0 {
		e.Fail("%s writes while %v does, and %d read", t.Name, e.writer, len(e.readers))
	}
	if died := errors.Is(err, ErrOwnerDied); died != e.due || e.broken {
		e.Fail("%s gets %v; an owner died: %v; not recoverable: %v", t.Name, err, e.due, e.broken)
	}
	for _, r := range e.owed {
		if r.sawDue || r.Cancelled() {
			continue // no grant outlives the death of who gives it
		}
		e.Fail("%s writes before %s, which waited for the last one", t.Name, r.Name)
	}
	e.Note("%s holds it: %v", t.Name, err)
	e.writer = t
}

// given reports whether err means that the lock is held, and what else it may be.
func (t *thread) given(err error) bool {
	switch {
	case err == nil || errors.Is(err, ErrOwnerDied):
		return true
	case errors.Is(err, ErrNotRecoverable) && t.e.broken:
	case errors.Is(err, context.Canceled) && t.Cancelled():
	default:
		t.e.Fail("%s gets %v", t.Name, err)
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
	if t.process.rw != nil {
		return t.process.rw
	}
	return t.process.mutex
}

// writes takes the lock for writing, mends and gives it back.
func writes(t *thread) {
	if err := t.lock().LockContext(t.Context); t.given(err) {
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
	if err := t.lock().LockContext(t.Context); t.given(err) {
		t.hold(err, false)
	}
}

func impatient(t *thread) {
	t.Impatient = true
	writes(t)
}

// dies takes it and dies writing, in every schedule.
func dies(t *thread) {
	if err := t.lock().LockContext(t.Context); t.given(err) {
		t.entered(err)
		t.Doom()
	}
}

func (t *thread) hold(err error, mend bool) {
	e := t.e
	t.entered(err)
	t.Pause()
	if errors.Is(err, ErrOwnerDied) {
		if !mend {
			e.broken = true
		} else if err := t.lock().MarkConsistent(); err != nil {
			e.Fail("%s cannot mend: %v", t.Name, err)
		} else {
			e.due = false
		}
	}
	t.Pause()
	if e.writer != t {
		e.Fail("%s does not hold it alone", t.Name)
	}
	e.writer = nil
	e.owed = e.owed[:0]
	for _, r := range e.threads {
		if r.reading && r.Asleep() && !e.due {
			e.owed = append(e.owed, r)
		}
	}
	if err := t.lock().Unlock(); err != nil {
		e.Fail("%s cannot unlock: %v", t.Name, err)
	}
}

func reads(t *thread) {
	t.reading = true
	err := t.process.rw.RLockContext(t.Context)
	t.reading = false
	t.e.owed = slices.DeleteFunc(t.e.owed, func(o *thread) bool { return o == t })
	t.read(err)
}

func tryRead(t *thread) {
	if ok, err := t.process.rw.TryRLock(); ok || err != nil {
		t.read(err)
	}
}

func (t *thread) read(err error) {
	e := t.e
	if errors.Is(err, ErrOwnerDied) {
		if !t.sawDue {
			e.Fail("%s gets %v, and nobody has died", t.Name, err)
		}
		writes(t) // as a program would, to mend
		return
	}
	if !t.given(err) {
		return
	}
	if e.writer != nil || e.due {
		e.Fail("%s reads while %v writes; torn: %v", t.Name, e.writer, e.due)
	}
	e.Note("%s reads", t.Name)
	e.readers[t]++
	t.Pause()
	if e.writer != nil {
		e.Fail("%s writes while %s reads", e.writer.Name, t.Name)
	}
	delete(e.readers, t)
	if err := t.process.rw.RUnlock(); err != nil {
		e.Fail("%s cannot unlock: %v", t.Name, err)
	}
}

func twice(f func(*thread)) func(*thread) {
	return func(t *thread) {
		f(t)
		f(t)
	}
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

// TestKillExplore runs every scenario for its share of the time.
func TestKillExplore(t *testing.T) {
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
	e := &model{Explorer: explore.New(), block: b, st: st}
	defer func(n int) { cores = n }(cores)
	cores = 1 // nobody spins: it would be a look more
	step.Explored, crash.Hook = e, e.Point
	defer func() { step.Explored, crash.Hook = nil, nil }()
	var all []explore.Scenario
	for _, s := range scenarios {
		all = append(all, e.scenario(s))
	}
	e.Run(t, all, explore.Budget(t))
	if t.Failed() || e.Ran < len(all) { // -run may name one
		return
	}
	for _, p := range crash.Points {
		if role, _, _ := strings.Cut(p, ":"); (role == "lock" || role == "unlock" || role == "rwlock") && e.Passed[p] == 0 {
			t.Errorf("nobody passed %s", p)
		}
	}
}
