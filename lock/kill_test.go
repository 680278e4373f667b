//go:build shmcrash && linux

package lock_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/lock"
)

// These tests kill processes that use all primitives of one block at once: at
// each named point, and at random. What each lock guards is changed in two steps, so
// that it is torn if two are in at once, or if a death there goes untold. They
// run in directories of their own, where nobody else sweeps dead leases.

// doomed is the place of who is to die at a point; TestKillRandom has none.
const doomed = 5

// watchdog is how long a living process may take for one round after another's death.
const watchdog = 5 * time.Second

// arena is the block. Its workers have places, which those have who come after them.
type arena struct {
	Mutex  lock.State
	M      pair
	RW     lock.RWState
	R      pair
	Sem    lock.State
	Auto   lock.State
	Manual lock.State
	Guard  lock.State // of the Cond
	Cond   lock.State
	News   pair // what the Cond is for
	Meet   lock.State
	Once   [onces]lock.State
	Did    [onces]did

	Posted, Taken atomic.Int64
	Epoch         atomic.Int64 // which Once is used
	Stop          atomic.Uint32
	Place         [8]struct {
		Born   atomic.Int64 // the number of the worker that is ready
		Rounds atomic.Int64
		_      [6]int64
	}
}

const onces = 1 << 14

// did is what a Once did: a change in two steps, and who was told that it is done.
type did struct {
	begun, ended, told atomic.Int64
}

// pair is whole if both are the same.
type pair struct{ a, b atomic.Int64 }

func (p *pair) whole() error {
	if a, b := p.a.Load(), p.b.Load(); a != b {
		return fmt.Errorf("torn: %d, %d", a, b)
	}
	return nil
}

func (p *pair) mend() { p.b.Store(p.a.Load()) }

// change is for who holds what guards p.
func (p *pair) change() error {
	if err := p.whole(); err != nil {
		return err
	}
	a := p.a.Add(1)
	if a%8 == 0 {
		linger()
	}
	if b := p.b.Add(1); a != b {
		return fmt.Errorf("somebody else was in: %d, %d", a, b)
	}
	return nil
}

// linger lets others come to wait, which they seldom do for a few instructions.
func linger() { time.Sleep(50 * time.Microsecond) }

// worker is a process's handles on an arena.
type worker struct {
	*arena
	block        *shm.Block
	mutex, guard *lock.Mutex
	rw           *lock.RWMutex
	sem          *lock.Semaphore
	auto, manual *lock.Event
	cond         *lock.Cond
	meet         *lock.Barrier
	once         *lock.Once
	epoch        int64
}

func newWorker(b *shm.Block) (*worker, error) {
	a, err := shm.At[arena](b, 0)
	if err != nil {
		return nil, err
	}
	w := &worker{arena: a, block: b, epoch: -1}
	var errs []error
	at := func(st *lock.State) int {
		off, err := shm.Offset(b, st)
		errs = append(errs, err)
		return off
	}
	note := func(err error) { errs = append(errs, err) }
	w.mutex, err = lock.NewMutex(b, at(&a.Mutex))
	note(err)
	w.guard, err = lock.NewMutex(b, at(&a.Guard))
	note(err)
	off, err := shm.Offset(b, &a.RW)
	note(err)
	w.rw, err = lock.NewRWMutex(b, off)
	note(err)
	w.sem, err = lock.NewSemaphore(b, at(&a.Sem), 1)
	note(err)
	w.auto, err = lock.NewAutoEvent(b, at(&a.Auto))
	note(err)
	w.manual, err = lock.NewEvent(b, at(&a.Manual))
	note(err)
	w.cond, err = lock.NewCond(b, at(&a.Cond))
	note(err)
	w.meet, err = lock.NewBarrier(b, at(&a.Meet), 2)
	note(err)
	return w, errors.Join(errs...)
}

// hold calls f with m held, and mends p before if a dead owner left it.
func hold(ctx context.Context, m interface {
	LockContext(context.Context) error
	MarkConsistent() error
	Unlock() error
}, p *pair, f func() error) error {
	err := m.LockContext(ctx)
	if errors.Is(err, lock.ErrOwnerDied) {
		p.mend()
		err = m.MarkConsistent()
	}
	if err != nil {
		return err
	}
	return errors.Join(f(), m.Unlock())
}

func (w *worker) read(ctx context.Context) error {
	for {
		err := w.rw.RLockContext(ctx)
		if errors.Is(err, lock.ErrOwnerDied) {
			if err := hold(ctx, w.rw, &w.R, w.R.whole); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		// Two looks, as a writer might come in between.
		before := w.R.whole()
		if w.R.a.Load()%2 == 0 {
			linger()
		}
		return errors.Join(before, w.R.whole(), w.rw.RUnlock())
	}
}

// news changes what the Cond is for and says so.
func (w *worker) news(ctx context.Context, say func() error) error {
	return hold(ctx, w.guard, &w.News, func() error { return errors.Join(w.News.change(), say()) })
}

// await waits for news.
func (w *worker) await() error {
	return hold(context.Background(), w.guard, &w.News, func() error {
		for seen := w.News.a.Load(); w.News.a.Load() == seen; {
			err := w.cond.Wait(w.guard)
			if errors.Is(err, lock.ErrOwnerDied) {
				w.News.mend()
				err = w.guard.MarkConsistent()
			}
			if err != nil {
				return err
			}
		}
		return w.News.whole()
	})
}

func (w *worker) doOnce(fails bool) error {
	e := w.Epoch.Load() % onces
	if e != w.epoch {
		off, err := shm.Offset(w.block, &w.Once[e])
		if err != nil {
			return err
		}
		if w.once, err = lock.NewOnce(w.block, off); err != nil {
			return err
		}
		w.epoch = e
	}
	d := &w.Did[e]
	failure := errors.New("not now")
	err := w.once.Do(func() error {
		if d.told.Load() != 0 {
			return errors.New("done twice")
		}
		d.ended.Store(0)
		n := d.begun.Add(1)
		if fails {
			return failure
		}
		d.ended.Store(n)
		return nil
	})
	if errors.Is(err, failure) {
		return nil
	}
	if err != nil {
		return err
	}
	if d.ended.Load() == 0 || d.begun.Load() != d.ended.Load() {
		return fmt.Errorf("said to be done, after %d attempts and %d", d.begun.Load(), d.ended.Load())
	}
	d.told.Store(1)
	return nil
}

// round uses every primitive once or twice.
func (w *worker) round(n int) error {
	ctx := context.Background()
	if err := hold(ctx, w.mutex, &w.M, w.M.change); err != nil {
		return fmt.Errorf("Mutex: %w", err)
	}
	if err := w.read(ctx); err != nil {
		return fmt.Errorf("RWMutex, reading: %w", err)
	}
	if n%2 == 0 {
		if err := hold(ctx, w.rw, &w.R, w.R.change); err != nil {
			return fmt.Errorf("RWMutex, writing: %w", err)
		}
	}
	if err := w.sem.Wait(); err != nil {
		return err
	}
	w.Taken.Add(1)
	if n%3 != 0 {
		w.Posted.Add(1)
		if err := w.sem.Post(); err != nil {
			return err
		}
	}
	if n%2 == 0 {
		if err := w.auto.Set(); err != nil {
			return err
		}
	}
	if err := w.auto.Wait(); err != nil {
		return err
	}
	var err error
	switch n % 4 {
	case 0:
		err = w.manual.Set()
	case 2:
		err = w.manual.Reset()
	}
	if err := errors.Join(err, w.manual.Wait()); err != nil {
		return err
	}
	if n%3 == 0 {
		err = w.await()
	} else if n%2 == 0 {
		err = w.news(ctx, w.cond.Signal)
	} else {
		err = w.news(ctx, w.cond.Broadcast)
	}
	if err != nil {
		return fmt.Errorf("Cond: %w", err)
	}
	if _, err := w.meet.Wait(); errors.Is(err, lock.ErrBroken) {
		if err := w.meet.Reset(); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if err := w.doOnce(n%5 == 0); err != nil {
		return fmt.Errorf("Once: %w", err)
	}
	return nil
}

func init() {
	shmtest.Register("lock-worker", func(args []string) int {
		b, err := shm.Open(args[1], &shm.OpenOptions{Dir: args[0]})
		if err != nil {
			return complain(err)
		}
		w, err := newWorker(b)
		if err != nil {
			return complain(err)
		}
		place, _ := strconv.Atoi(args[2])
		number, _ := strconv.ParseInt(args[3], 10, 64)
		go func() { // ends with the test, whatever it waits for
			shmtest.Hear()
		}()
		p := &w.Place[place]
		p.Born.Store(number)
		for n := int(number); w.Stop.Load() == 0; n++ {
			if err := w.round(n); err != nil {
				return complain(err)
			}
			p.Rounds.Add(1)
		}
		if err := b.Close(); err != nil {
			return complain(err)
		}
		return 0
	})
}

// field is the test's side of an arena.
type field struct {
	*worker
	t       *testing.T
	dir     string
	number  int64
	places  map[int]*shmtest.Process
	born    map[int]int64
	fresh   bool  // with each tick something is to be done once, not only with each death
	given   int64 // permits
	ticking sync.WaitGroup
	end     chan struct{}
}

func privateDir(t *testing.T) string {
	dir := filepath.Join("/dev/shm", shmtest.Name(t))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func newField(t *testing.T, fresh bool) *field {
	dir := privateDir(t)
	b, err := shm.Create(shmtest.Name(t), 2<<20, &shm.CreateOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	w, err := newWorker(b)
	if err != nil {
		t.Fatal(err)
	}
	f := &field{worker: w, t: t, fresh: fresh, dir: dir, places: map[int]*shmtest.Process{}, born: map[int]int64{}, end: make(chan struct{})}
	f.ticking.Go(f.tick)
	return f
}

// tick gives what the dead have taken along: permits, events, news.
func (f *field) tick() {
	ticks := time.NewTicker(time.Millisecond)
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
		case <-f.end:
			return
		}
		err := f.news(context.Background(), f.cond.Broadcast)
		if f.fresh && f.Did[f.Epoch.Load()%onces].told.Load() != 0 {
			f.Epoch.Add(1)
		}
		if f.sem.Value() == 0 {
			f.given++
			err = errors.Join(err, f.sem.Post())
		}
		if err = errors.Join(err, f.auto.Set(), f.manual.Set()); err != nil {
			f.t.Error(err)
			return
		}
	}
}

// start puts a worker into place, to die at point if that is not "".
func (f *field) start(t *testing.T, place int, point string, n int) *shmtest.Process {
	f.number++
	cmd := shmtest.Command(t, "lock-worker", f.dir, f.block.Name(), strconv.Itoa(place), strconv.FormatInt(f.number, 10))
	if point != "" {
		cmd.Env = append(cmd.Env, fmt.Sprintf("SHM_CRASH=%s:%d", point, n))
	}
	p := shmtest.StartCommand(t, cmd)
	f.places[place], f.born[place] = p, f.number
	return p
}

func (f *field) ready(place int) bool { return f.Place[place].Born.Load() == f.born[place] }

// wait polls until ok, which the watchdog limits.
func (f *field) wait(t *testing.T, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	for start := time.Now(); !ok(); time.Sleep(50 * time.Microsecond) {
		if time.Since(start) > limit {
			f.stuck(t, what)
		}
	}
}

// stuck fails the test with what all processes are doing.
func (f *field) stuck(t *testing.T, what string) {
	t.Helper()
	for _, place := range slices.Sorted(maps.Keys(f.places)) {
		p := f.places[place]
		_ = p.Cmd.Process.Signal(syscall.SIGQUIT)
		_, dump := p.WaitAll()
		t.Logf("in place %d, after %d rounds: %.6000s", place, f.Place[place].Rounds.Load(), dump)
	}
	t.Fatalf("stuck: %s", what)
}

// after checks what a death has left: all others go round, nothing is torn. It
// returns how long the slowest of them took.
func (f *field) after(t *testing.T, death time.Time) time.Duration {
	t.Helper()
	was := map[int]int64{}
	for place := range f.places {
		if f.ready(place) {
			was[place] = f.Place[place].Rounds.Load()
		}
	}
	// The round that was on, and one from its beginning to its end.
	f.wait(t, "a living worker does not go round", watchdog, func() bool {
		for place, n := range was {
			if f.Place[place].Rounds.Load() < n+2 && (place != doomed || !gone(f.places[place])) {
				return false
			}
		}
		return true
	})
	took := time.Since(death)
	ctx, cancel := context.WithTimeout(context.Background(), watchdog)
	defer cancel()
	if err := errors.Join(
		hold(ctx, f.mutex, &f.M, f.M.change),
		f.read(ctx),
		hold(ctx, f.rw, &f.R, f.R.change),
		f.news(ctx, f.cond.Broadcast),
		f.doOnce(false),
	); err != nil {
		t.Errorf("after a death: %v", err)
		if ctx.Err() != nil {
			f.stuck(t, "the test itself")
		}
	}
	f.Epoch.Add(1)
	return took
}

// finish lets all workers end, and counts.
func (f *field) finish(t *testing.T, deaths int) {
	t.Helper()
	f.Stop.Store(1)
	// The last one would wait at the barrier for ever.
	left := make(chan struct{})
	var company sync.WaitGroup
	company.Go(func() {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() {
			<-left
			cancel()
		}()
		for ctx.Err() == nil {
			if _, err := f.meet.WaitContext(ctx); errors.Is(err, lock.ErrBroken) {
				_ = f.meet.Reset()
			}
		}
	})
	for place, p := range f.places {
		if st := p.Wait(); st != 0 {
			t.Errorf("the worker in place %d ended with %d: %s", place, st, p.Stderr())
		}
	}
	close(left)
	company.Wait()
	close(f.end)
	f.ticking.Wait()
	// A permit that is lost, or one too many, for each death at most.
	have, want := int64(f.sem.Value()), 1+f.given+f.Posted.Load()-f.Taken.Load()
	if d := have - want; d > int64(deaths) || -d > int64(deaths) {
		t.Errorf("%d permits, %d by the books, after %d deaths", have, want, deaths)
	}
	if err := f.block.Close(); err != nil {
		t.Error(err)
	}
	if err := f.block.Unlink(); err != nil {
		t.Error(err)
	}
	if _, err := shm.Dir(f.dir).Prune(); err != nil {
		t.Error(err)
	}
}

func quantiles(took []time.Duration) string {
	slices.Sort(took)
	at := func(q float64) time.Duration { return took[int(q*float64(len(took)-1))].Round(time.Microsecond) }
	return fmt.Sprintf("p50 %v, p99 %v, max %v", at(.5), at(.99), at(1))
}

func gone(p *shmtest.Process) bool { return p.Cmd.Process.Signal(syscall.Signal(0)) != nil }

func wasKilled(p *shmtest.Process) bool {
	p.Wait()
	ws, ok := p.Cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL
}

// needs says where another has to die so that somebody passes a point.
var needs = map[string]string{
	"lock:taken-over":  "lock:taken",
	"rwlock:forgotten": "rwlock:held",
	"rwlock:freed":     "rwlock:draining",
	"barrier:broken":   "barrier:come",
	"barrier:reset":    "barrier:come",
}

// TestKillAtEveryPoint kills a process at each named point of the locks, while
// others use the same ones, and counts: none may be missed.
func TestKillAtEveryPoint(t *testing.T) {
	f := newField(t, true)
	for place := range 3 {
		f.start(t, place, "", 0)
	}
	for place := range 3 {
		f.wait(t, "a worker does not begin", shmtest.Patience, func() bool { return f.ready(place) })
	}
	hits := map[string]int{}
	deaths := 0
	roles := []string{"lock", "unlock", "rwlock", "cond", "event", "once", "sem", "barrier"}
	for _, point := range crash.Points {
		role, _, _ := strings.Cut(point, ":")
		if !slices.Contains(roles, role) {
			continue
		}
		t.Run(strings.ReplaceAll(point, ":", "-"), func(t *testing.T) {
			for _, n := range []int{1, 3} {
				if point == "rwlock:slot" {
					n = 1 // a process takes one once
				}
				victim := f.start(t, doomed, point, n)
				began := time.Now()
				for !gone(victim) {
					if other := needs[point]; other != "" {
						fodder := f.start(t, doomed+1, other, 1+deaths%7)
						deaths++
						if !wasKilled(fodder) {
							t.Fatalf("no death at %s: %s", other, fodder.Stderr())
						}
						delete(f.places, doomed+1)
						f.after(t, time.Now())
					}
					time.Sleep(50 * time.Microsecond)
					if time.Since(began) > shmtest.Patience {
						f.stuck(t, "nobody dies at "+point)
					}
				}
				death := time.Now()
				deaths++
				if !wasKilled(victim) {
					t.Fatalf("no death at %s: %v, %s", point, victim.Cmd.ProcessState, victim.Stderr())
				}
				hits[point]++
				delete(f.places, doomed)
				f.after(t, death)
			}
		})
		if t.Failed() {
			return
		}
	}
	for _, point := range crash.Points {
		if role, _, _ := strings.Cut(point, ":"); slices.Contains(roles, role) && hits[point] == 0 {
			t.Errorf("nobody died at %s", point)
		}
	}
	f.finish(t, deaths)
	t.Logf("deaths: %v", hits)
}

// TestKillRandom kills SHM_KILLS processes at random while they use everything.
func TestKillRandom(t *testing.T) {
	n := shmtest.Kills(t, 100)
	const workers = 4
	f := newField(t, false)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	var took []time.Duration
	start := time.Now()
	// In batches, as a test holds the pipes of its processes until it ends.
	const batch = 300
	for from := 0; from < n && !t.Failed(); from += batch {
		t.Run(strconv.Itoa(from), func(t *testing.T) {
			for place := range workers {
				f.start(t, place, "", 0)
			}
			for range min(batch, n-from) {
				// Two at least are there besides the one that dies, and it does something.
				living := func() (n int) {
					for place := range workers {
						if f.ready(place) {
							n++
						}
					}
					return n
				}
				f.wait(t, "no workers", shmtest.Patience, func() bool { return living() >= 3 })
				place := r.IntN(workers)
				for !f.ready(place) {
					place = (place + 1) % workers
				}
				rounds := f.Place[place].Rounds.Load() + int64(r.IntN(3))
				f.wait(t, "the victim does not go round", watchdog, func() bool { return f.Place[place].Rounds.Load() >= rounds })
				for range r.IntN(20000) { // somewhere in its round
					_ = f.Stop.Load()
				}
				victim := f.places[place]
				death := time.Now()
				victim.Kill()
				if !wasKilled(victim) {
					t.Fatalf("a worker ended by itself: %v, %s", victim.Cmd.ProcessState, victim.Stderr())
				}
				f.start(t, place, "", 0)
				took = append(took, f.after(t, death))
				if t.Failed() {
					return
				}
			}
			if from+batch < n {
				for place, p := range f.places {
					p.Kill() // a whole generation at once
					delete(f.places, place)
				}
				return
			}
			f.finish(t, n+(n/batch+1)*workers)
		})
	}
	if t.Failed() {
		return
	}
	elapsed := time.Since(start)
	t.Logf("%d deaths in %v, %.0f a second", n, elapsed.Round(time.Millisecond), float64(n)/elapsed.Seconds())
	t.Logf("from a death until every other worker has gone round: %s", quantiles(took))
}

func init() {
	// holder takes something and keeps it until it dies.
	shmtest.Register("lock-holder", func(args []string) int {
		b, err := shm.Open(args[1], &shm.OpenOptions{Dir: args[0]})
		if err != nil {
			return complain(err)
		}
		w, err := newWorker(b)
		if err != nil {
			return complain(err)
		}
		switch args[2] {
		case "Mutex":
			err = w.mutex.Lock()
		case "writer":
			err = w.rw.Lock()
		case "reader":
			err = w.rw.RLock()
		case "Once":
			_ = w.doOnce(true)
			err = w.once.Do(func() error {
				shmtest.Say("held")
				shmtest.Hear()
				return nil
			})
		case "Barrier":
			go w.meet.Wait()
		}
		if err != nil {
			return complain(err)
		}
		shmtest.Say("held")
		shmtest.Hear()
		return 0
	})
}

// TestKillRecovery measures from kill -9 of a holder until who waits has the lock.
func TestKillRecovery(t *testing.T) {
	n := max(10, min(shmtest.Kills(t, 100)/10, 100))
	dir := privateDir(t)
	b, err := shm.Create(shmtest.Name(t), 2<<20, &shm.CreateOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	w, err := newWorker(b)
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	for _, tt := range []struct {
		name, holds string
		wait        func() error
		want        error
		clean       func() error
	}{
		{"Mutex", "Mutex", w.mutex.Lock, lock.ErrOwnerDied, func() error { return errors.Join(w.mutex.MarkConsistent(), w.mutex.Unlock()) }},
		{"writer after writer", "writer", w.rw.Lock, lock.ErrOwnerDied, func() error { return errors.Join(w.rw.MarkConsistent(), w.rw.Unlock()) }},
		{"reader after writer", "writer", w.rw.RLock, lock.ErrOwnerDied, func() error { return hold(ctx, w.rw, &w.R, w.R.whole) }},
		{"writer after reader", "reader", w.rw.Lock, nil, w.rw.Unlock},
		{"Once", "Once", func() error { return w.doOnce(false) }, nil, func() error { w.Epoch.Add(1); return nil }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var took []time.Duration
			for range n {
				p := shmtest.Start(t, "lock-holder", dir, b.Name(), tt.holds)
				p.Expect("held")
				got := make(chan error, 1)
				var done time.Time
				go func() {
					err := tt.wait()
					done = time.Now()
					got <- err
				}()
				// Time for it to fall asleep; if it has not, less is measured.
				time.Sleep(time.Millisecond)
				start := time.Now()
				p.Kill()
				select {
				case err := <-got:
					if !errors.Is(err, tt.want) {
						t.Fatal(err)
					}
				case <-time.After(watchdog):
					panic("stuck after a death") // with a dump of all goroutines
				}
				took = append(took, max(0, done.Sub(start)))
				if err := tt.clean(); err != nil {
					t.Fatal(err)
				}
			}
			t.Log(quantiles(took))
			// The backstop would bring everybody on after a second: then nobody was told.
			if p50 := took[len(took)/2]; p50 > 200*time.Millisecond {
				t.Errorf("half of them took more than %v", p50)
			}
		})
	}
}
