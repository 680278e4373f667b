//go:build shmcrash && linux

package topic_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/topic"
)

// These tests kill publishers and subscribers, at each named step and at random ones. A
// publisher writes down beside the topic, in a block of words that outlives it, what it
// is about to publish and what it has published. The test itself subscribes all the
// time, and judges: nothing torn, nothing twice, each publisher's messages in order; with
// the policy Wait all of them, else as many missed as it was told.
//
// They run in directories of their own, where nobody else sweeps dead leases.

const (
	mostPublishers = 1 << 11
	perPublisher   = 400
)

type journal struct {
	begun, done []uint64 // by publisher: how many messages were begun, and published
}

func openJournal(b *shm.Block) (*journal, error) {
	w, err := shm.Slice[uint64](b, 0, 2*mostPublishers)
	if err != nil {
		return nil, err
	}
	return &journal{w[:mostPublishers], w[mostPublishers:]}, nil
}

func openBoth(args []string) (*topic.Topic, *journal, error) {
	dir, name, tally := args[0], args[1], args[2]
	tp, err := topic.Open(name, &topic.OpenOptions{Block: shm.OpenOptions{Dir: dir}})
	if err != nil {
		return nil, nil, err
	}
	b, err := shm.Open(tally, &shm.OpenOptions{Dir: dir})
	if err != nil {
		return nil, nil, err
	}
	j, err := openJournal(b)
	return tp, j, err
}

// patient calls join until the place of one that was just killed is free: the kernel
// lets go of a dead process's lease a moment after its death can be seen.
func patient[T any](join func() (T, error)) (T, error) {
	for {
		v, err := join()
		if !errors.Is(err, topic.ErrTaken) {
			return v, err
		}
		time.Sleep(100 * time.Microsecond)
	}
}

func init() {
	shmtest.Register("kill-publisher", func(args []string) int {
		tp, j, err := openBoth(args)
		if err != nil {
			return complain(err)
		}
		id, _ := strconv.Atoi(args[3])
		p, err := patient(tp.Publisher)
		if err != nil {
			return complain(err)
		}
		r := rand.New(rand.NewPCG(uint64(id), 2))
		for i := range perPublisher {
			if r.IntN(10) == 0 {
				m, err := p.Reserve(10)
				if err != nil {
					return complain(err)
				}
				m[0]++
				if err := p.Abort(); err != nil {
					return complain(err)
				}
			}
			m := message(uint32(id), uint32(i), 16+r.IntN(tp.Options().SlotSize-15))
			atomic.StoreUint64(&j.begun[id], uint64(i+1))
			switch r.IntN(3) {
			case 0:
				err = p.Publish(m)
			case 1:
				var b []byte
				if b, err = p.Reserve(len(m)); err == nil {
					err = p.Commit(copy(b, m))
				}
			case 2:
				_, err = p.PublishBatch([][]byte{m})
			}
			if err != nil {
				return complain(err)
			}
			atomic.StoreUint64(&j.done[id], uint64(i+1))
		}
		return report(tp.Close())
	})
	shmtest.Register("kill-subscriber", func(args []string) int {
		tp, _, err := openBoth(args)
		if err != nil {
			return complain(err)
		}
		r := rand.New(rand.NewPCG(uint64(os.Getpid()), 2))
		for {
			s, err := tp.Subscriber(topic.From(r.IntN(3)))
			if err != nil {
				return complain(err)
			}
			c := newTally()
			for k := range 200 {
				if err := receiveOne(s, k, c.plain); gone(err) {
					continue
				} else if err != nil {
					return complain(err)
				}
			}
			if err := s.Close(); err != nil {
				return complain(err)
			}
		}
	})
	// Joins, publishes and receives nothing, and leaves: passes the points of the table.
	shmtest.Register("kill-guest", func(args []string) int {
		tp, _, err := openBoth(args)
		if err != nil {
			return complain(err)
		}
		for range 10 {
			s, err := tp.Subscriber()
			if err != nil {
				return complain(err)
			}
			if err := s.Close(); err != nil {
				return complain(err)
			}
		}
		return report(tp.Close())
	})
	// One of two publishers is overtaken by the other in the middle of a message.
	shmtest.Register("kill-overtaken", func(args []string) int {
		tp, _, err := openBoth(args)
		if err != nil {
			return complain(err)
		}
		slow, err := tp.Publisher()
		if err != nil {
			return complain(err)
		}
		fast, err := tp.Publisher()
		if err != nil {
			return complain(err)
		}
		for range 4 {
			m, err := slow.Reserve(16)
			if err != nil {
				return complain(err)
			}
			clear(m)
			for range 2 * tp.Options().Slots {
				if err := fast.Publish(nil); err != nil {
					return complain(err)
				}
			}
			if err := slow.Commit(16); err != nil {
				return complain(err)
			}
		}
		return report(tp.Close())
	})
}

// plain judges a message of anybody's, of whom the first may be any; an empty one is
// of those who fill a topic, nil was overwritten.
func (c *tally) plain(p []byte, missed uint64) error {
	c.missed += missed
	if len(p) == 0 {
		c.n++
		return nil
	}
	from, number, err := parse(p)
	if err != nil {
		if bytes.Equal(p, make([]byte, 16)) {
			return nil // of one that was overtaken, or died so
		}
		return err
	}
	if before, ok := c.last[from]; ok && int(number) <= before {
		return fmt.Errorf("from %d came %d after %d", from, number, before)
	}
	c.last[from] = int(number)
	c.n++
	return nil
}

// gone tells that nobody publishes now. Somebody will: the test sees to it, and nobody
// waits for those who are not there, so this looks again.
func gone(err error) bool {
	if errors.Is(err, io.EOF) || errors.Is(err, topic.ErrPeerGone) {
		time.Sleep(200 * time.Microsecond)
		return true
	}
	return false
}

// arena is a topic, its journal, a directory for both, and a subscriber that sees all.
type arena struct {
	t       *testing.T
	dir     string
	tp      *topic.Topic
	j       *journal
	args    []string
	ids     int
	watcher *topic.Subscriber
	seen    map[uint32]int // by publisher: the number of the next message
	came    int            // since the last settle
	missed  uint64
	from    uint64 // the watcher's Number then
	stop    chan struct{}
	stopped chan error
}

func newArena(t *testing.T, o topic.Options) *arena {
	dir := filepath.Join("/dev/shm", shmtest.Name(t))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	o.Block.Dir = dir
	tp, err := topic.Create("topic", &o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := shm.Create("journal", 16*mostPublishers, &shm.CreateOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	j, err := openJournal(b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _, _, _ = tp.Unlink(), b.Unlink(), tp.Close(), b.Close()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	a := &arena{t: t, dir: dir, tp: tp, j: j, args: []string{dir, "topic", "journal"}, seen: map[uint32]int{}}
	a.watcher = subscriberOf(t, tp)
	a.watch()
	return a
}

// watch has the watcher read until rest.
func (a *arena) watch() {
	stop, stopped := make(chan struct{}), make(chan error, 1)
	a.stop, a.stopped = stop, stopped
	go func() {
		buf := make([]byte, 128)
		for {
			last := false // all that is to be read was there before this look
			select {
			case <-stop:
				last = true
			default:
			}
			n, ok, err := a.watcher.TryReceive(buf)
			switch {
			case ok:
				err = a.judge(buf[:n])
			case err == nil || errors.Is(err, io.EOF) || errors.Is(err, topic.ErrPeerGone):
				if err = nil; last {
					stopped <- nil
					return
				}
				time.Sleep(50 * time.Microsecond)
			}
			if err != nil {
				stopped <- err
				return
			}
		}
	}()
}

// rest has the watcher stop when it has all that is there.
func (a *arena) rest() {
	a.t.Helper()
	close(a.stop)
	if err := <-a.stopped; err != nil {
		a.t.Fatal(err)
	}
}

func (a *arena) judge(p []byte) error {
	a.came++
	missed := a.watcher.Missed()
	a.missed += missed
	if len(p) == 0 || bytes.Equal(p, make([]byte, 16)) {
		return nil
	}
	from, number, err := parse(p)
	if err != nil {
		return err
	}
	next := a.seen[from]
	switch gap := int(number) - next; {
	case gap < 0:
		return fmt.Errorf("of publisher %d came message %d after %d", from, number, next-1)
	case gap > 0 && uint64(gap) > a.missed:
		return fmt.Errorf("of publisher %d came message %d after %d, and only %d were missed", from, number, next-1, a.missed)
	case uint64(number) >= atomic.LoadUint64(&a.j.begun[from]):
		return fmt.Errorf("of publisher %d came message %d, which was not published", from, number)
	}
	a.seen[from] = int(number) + 1
	return nil
}

// next is the number of a new publisher. None is used again: late subscribers may see the
// messages of those before.
func (a *arena) next() string {
	a.ids++
	return strconv.Itoa(a.ids - 1)
}

// settle publishes a last message, waits until the watcher has it, and judges.
func (a *arena) settle() {
	t := a.t
	t.Helper()
	p, err := patient(a.tp.Publisher)
	if err != nil {
		t.Fatal(err)
	}
	last := a.next()
	id, _ := strconv.Atoi(last)
	a.j.begun[id] = 1
	if err := p.Publish(message(uint32(id), 0, 16)); err != nil {
		t.Fatal(err)
	}
	a.j.done[id] = 1
	a.rest()
	if a.seen[uint32(id)] != 1 {
		t.Error("the last message did not come")
	}
	o := a.tp.Options()
	if passed := a.watcher.Number() - a.from; !o.ManyPublishers && passed != uint64(a.came)+a.missed {
		t.Errorf("%d came and %d were missed, of %d", a.came, a.missed, passed)
	}
	if o.Policy == topic.Wait {
		if a.missed != 0 {
			t.Errorf("%d were missed, and publishers wait", a.missed)
		}
		for id := range a.ids {
			begun, done := a.j.begun[id], a.j.done[id]
			if n := uint64(a.seen[uint32(id)]); n < done || n > begun {
				t.Errorf("of publisher %d, which began %d and published %d, came %d", id, begun, done, n)
			}
		}
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	st, err := a.tp.Stats()
	if err != nil || st.Publishers != 0 || st.Subscribers != 1 {
		t.Errorf("%+v %v", st, err)
	}
	if _, err := shm.Dir(a.dir).Prune(); err != nil {
		t.Error(err)
	}
	a.came, a.missed, a.from = 0, 0, a.watcher.Number()
	a.watch()
}

func killOptions(o topic.Options) topic.Options {
	o.SlotSize, o.Slots = 64, 8
	return o
}

// Who passes which point.
var (
	publishing  = []string{"claimed", "reserved", "written", "published", "aborted", "party:waiting", "party:woken", "party:waking"}
	subscribing = []string{"moved", "copied", "party:waiting", "party:woken", "party:waking"}
	visiting    = []string{"party:locked", "party:unlocking", "party:joining", "party:joined", "party:leaving", "party:left"}
	recovering  = []string{"party:relocked", "party:recovering", "voided", "party:recovered", "party:buried"}
	overtaking  = []string{"blocked", "unblocked", "claimed", "published"}
)

// At every point, in every mode, in every role that passes it.
func TestKillAtEveryPoint(t *testing.T) {
	hits := map[string]int{}
	modes(t, func(t *testing.T, o topic.Options) {
		shmtest.Deadline(t, 5*shmtest.Patience)
		a := newArena(t, killOptions(o))
		each := func(points []string, ns []int, kill func(point string, n int) bool) {
			for _, p := range points {
				if !strings.Contains(p, ":") {
					p = "topic:" + p
				}
				for _, n := range ns {
					if kill(p, n) {
						hits[p]++
					}
					if t.Failed() {
						t.Fatalf("at %s:%d", p, n)
					}
				}
			}
		}
		each(publishing, []int{1, 3}, a.killPublisher)
		each(subscribing, []int{1, 3}, a.killSubscriber)
		each(visiting, []int{1, 2}, a.killGuest)
		each(recovering, []int{1}, a.killRecoverer)
		if o.ManyPublishers && o.Policy == topic.Overwrite {
			each(overtaking, []int{1, 3, 12}, func(point string, n int) bool {
				hit := shmtest.Crashing(t, point, n, "kill-overtaken", a.args...).Killed()
				a.settle()
				return hit
			})
		}
	})
	for _, p := range crash.Points {
		if (strings.HasPrefix(p, "topic:") || strings.HasPrefix(p, "party:")) && hits[p] == 0 {
			t.Errorf("nobody died at %s", p)
		}
	}
	t.Logf("deaths: %v", hits)
}

func (a *arena) with(helper string) []string {
	if helper == "kill-publisher" {
		return append(slices.Clone(a.args), a.next())
	}
	return a.args
}

func (a *arena) begin(helper string) *shmtest.Process {
	return shmtest.Start(a.t, helper, a.with(helper)...)
}

func (a *arena) crash(point string, n int, helper string) *shmtest.Process {
	return shmtest.Crashing(a.t, point, n, helper, a.with(helper)...)
}

// killPublisher kills one while subscribers wait; another publisher comes after it.
func (a *arena) killPublisher(point string, n int) (hit bool) {
	s := a.begin("kill-subscriber")
	hit = a.crash(point, n, "kill-publisher").Killed()
	if p := a.begin("kill-publisher"); p.Wait() != 0 {
		a.t.Fatal(p.Stderr())
	}
	s.Kill()
	a.settle()
	return hit
}

// killSubscriber kills one while a publisher goes on.
func (a *arena) killSubscriber(point string, n int) (hit bool) {
	s := a.crash(point, n, "kill-subscriber")
	died := make(chan bool, 1)
	go func() { died <- s.Killed() }()
	for range 3 {
		if p := a.begin("kill-publisher"); p.Wait() != 0 {
			a.t.Fatal(p.Stderr())
		}
		select {
		case hit = <-died:
			if !hit {
				a.t.Fatal(s.Stderr())
			}
			a.settle()
			return true
		default:
		}
	}
	_ = s.Cmd.Process.Kill()
	<-died
	a.settle()
	return false
}

func (a *arena) killGuest(point string, n int) bool {
	hit := a.crash(point, n, "kill-guest").Killed()
	a.settle()
	return hit
}

// killRecoverer kills who recovers what a dead one left; settle recovers after that. The
// watcher rests, as it would be who does it.
func (a *arena) killRecoverer(point string, n int) (hit bool) {
	a.rest()
	for _, dead := range []struct{ helper, point string }{
		{"kill-guest", "party:locked"}, {"kill-publisher", "topic:claimed"}, {"kill-subscriber", "party:waiting"},
	} {
		if p := a.crash(dead.point, 1, dead.helper); !p.Killed() {
			a.t.Fatal(p.Stderr())
		}
		hit = a.crash(point, n, "kill-guest").Killed() || hit
	}
	a.watch()
	a.settle()
	return hit
}

// TestKillRandom kills publishers and subscribers at random steps, several at a time,
// SHM_KILLS times.
func TestKillRandom(t *testing.T) {
	kills := shmtest.Kills(t, 200)
	total := 0
	for seed := uint64(1); total < kills && !t.Failed(); seed++ {
		modes(t, func(t *testing.T, o topic.Options) { total += randomKills(t, seed, killOptions(o)) })
	}
	t.Logf("%d killed", total)
}

func randomKills(t *testing.T, seed uint64, o topic.Options) int {
	shmtest.Deadline(t, 5*shmtest.Patience)
	a := newArena(t, o)
	rnd := rand.New(rand.NewPCG(seed, 3))
	publishers := 1
	if o.ManyPublishers {
		publishers = 2
	}
	var dead atomic.Int64
	for range 2 {
		var all sync.WaitGroup
		run := func(helper string, processes [][]string) {
			seed := rnd.Uint64()
			all.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, 4))
				for _, args := range processes {
					p := a.start(rnd, helper, args)
					timer := time.AfterFunc(time.Duration(5+rnd.IntN(60))*time.Millisecond, func() { _ = p.Cmd.Process.Kill() })
					switch {
					case p.Killed():
						dead.Add(1)
					case p.Cmd.ProcessState.ExitCode() != 0:
						t.Error(p.Stderr())
					}
					timer.Stop()
				}
			})
		}
		for range 2 {
			run("kill-subscriber", slices.Repeat([][]string{a.args}, 4))
		}
		for range publishers {
			var processes [][]string
			for range 4 {
				processes = append(processes, a.with("kill-publisher"))
			}
			run("kill-publisher", processes)
		}
		all.Wait()
		a.settle()
	}
	return int(dead.Load())
}

func (a *arena) start(rnd *rand.Rand, helper string, args []string) *shmtest.Process {
	if rnd.IntN(2) == 0 {
		return shmtest.Crashing(a.t, "*", 1+rnd.IntN(2000), helper, args...)
	}
	return shmtest.Start(a.t, helper, args...)
}
