//go:build shmcrash && linux

package ring_test

import (
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
	"syscall"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/ring"
)

// These tests kill senders and receivers, at each named step and at random ones. What
// each did it writes into a journal beside the ring, a block of words that outlives it:
//
//	sender    about to send n, then: n is sent
//	receiver  for each message: how often it came, and how often flagged
//
// They run in directories of their own, where nobody else sweeps dead leases.

const (
	mostSenders = 1 << 10
	perSender   = 1 << 9
)

type journal struct {
	block *shm.Block
	begun []uint64 // by sender: how many messages were begun
	sent  []uint64 // and how many were sent
	came  []byte   // by message: how often it came, and with 16, 32 …: flagged
}

func openJournal(b *shm.Block) (*journal, error) {
	w, err := shm.Slice[uint64](b, 0, 2*mostSenders)
	if err != nil {
		return nil, err
	}
	return &journal{b, w[:mostSenders], w[mostSenders:], b.Bytes()[16*mostSenders:]}, nil
}

const journalSize = 16*mostSenders + mostSenders*perSender

// note writes down a message before it is given back to the ring as read.
func (j *journal) note(p []byte, again bool) error {
	from, number, err := parse(p)
	if err != nil {
		return err
	}
	c := &j.came[int(from)*perSender+int(number)]
	if again {
		*c += 16
	} else {
		*c++
	}
	return nil
}

func openBoth(args []string) (*ring.Queue, *journal, error) {
	dir, name, tally := args[0], args[1], args[2]
	q, err := ring.Open(name, &ring.OpenOptions{Block: shm.OpenOptions{Dir: dir}})
	if err != nil {
		return nil, nil, err
	}
	b, err := shm.Open(tally, &shm.OpenOptions{Dir: dir})
	if err != nil {
		return nil, nil, err
	}
	j, err := openJournal(b)
	return q, j, err
}

func init() {
	shmtest.Register("kill-sender", func(args []string) int {
		q, j, err := openBoth(args)
		if err != nil {
			return complain(err)
		}
		id, _ := strconv.Atoi(args[3])
		s, err := q.Sender()
		if err != nil {
			return complain(err)
		}
		r := rand.New(rand.NewPCG(uint64(id), 2))
		for i := 0; i < perSender; i++ {
			if r.IntN(10) == 0 {
				m, err := s.Reserve(10)
				if gone(err) {
					i--
					continue
				}
				if err != nil {
					return complain(err)
				}
				m[0]++
				if err := s.Abort(); err != nil {
					return complain(err)
				}
			}
			p := message(uint32(id), uint32(i), 16+r.IntN(q.Options().MaxMessage-15))
			j.begun[id] = uint64(i + 1)
			switch r.IntN(3) {
			case 0:
				err = s.Send(p)
			case 1:
				var m []byte
				if m, err = s.Reserve(len(p)); err == nil {
					err = s.Commit(copy(m, p))
				}
			case 2:
				_, err = s.SendBatch([][]byte{p})
			}
			if gone(err) {
				i--
				continue
			}
			if err != nil {
				return complain(err)
			}
			j.sent[id] = uint64(i + 1)
		}
		if err := q.Close(); err != nil {
			return complain(err)
		}
		return 0
	})
	shmtest.Register("kill-receiver", func(args []string) int {
		q, j, err := openBoth(args)
		if err != nil {
			return complain(err)
		}
		r, err := q.Receiver()
		if err != nil {
			return complain(err)
		}
		for {
			err = r.Lease(func(p []byte) error { return j.note(p, r.Redelivered()) })
			if err != nil && !gone(err) {
				return complain(err)
			}
		}
	})
	// joins, receives nothing and leaves: passes the points of the table.
	shmtest.Register("kill-guest", func(args []string) int {
		q, _, err := openBoth(args)
		if err != nil {
			return complain(err)
		}
		for range 10 {
			s, err := q.Sender()
			if err != nil {
				return complain(err)
			}
			if err := s.Close(); err != nil {
				return complain(err)
			}
		}
		_ = q.Close()
		return 0
	})
}

// gone tells that nobody is at the other end now. Somebody will be: the test sees to
// it, and nobody waits for those who are not there, so this looks again.
func gone(err error) bool {
	if errors.Is(err, io.EOF) || errors.Is(err, ring.ErrPeerGone) || errors.Is(err, io.ErrClosedPipe) {
		time.Sleep(200 * time.Microsecond)
		return true
	}
	return false
}

func crashing(t *testing.T, point string, n int, helper string, args ...string) *shmtest.Process {
	cmd := shmtest.Command(t, helper, args...)
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, fmt.Sprintf("SHM_CRASH=%s:%d", point, n))
	return shmtest.StartCommand(t, cmd)
}

func killed(p *shmtest.Process) bool {
	p.Wait()
	ws, ok := p.Cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL
}

// arena is a ring, its journal, and a directory for both.
type arena struct {
	t      *testing.T
	dir    string
	q      *ring.Queue
	j      *journal
	args   []string
	sender int
}

func newArena(t *testing.T, o ring.Options) *arena {
	dir := filepath.Join("/dev/shm", shmtest.Name(t))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	o.Block.Dir = dir
	q, err := ring.Create("ring", &o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := shm.Create("journal", journalSize, &shm.CreateOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	j, err := openJournal(b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _, _, _ = q.Unlink(), b.Unlink(), q.Close(), b.Close()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return &arena{t: t, dir: dir, q: q, j: j, args: []string{dir, "ring", "journal"}}
}

// next is the number of a new sender.
func (a *arena) next() string {
	a.sender++
	return strconv.Itoa(a.sender - 1)
}

// settle drains the ring in this process and judges: each sender's messages are there,
// the sent ones all, at most one more, none torn, none twice but what a receiver had
// when it died, and that flagged.
func (a *arena) settle(deadReceivers int) {
	t := a.t
	t.Helper()
	s, err := a.q.Sender() // whose leaving is an orderly end
	if err != nil {
		t.Fatal(err)
	}
	r, err := a.q.Receiver()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for {
		err := r.Lease(func(p []byte) error { return a.j.note(p, r.Redelivered()) })
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	discard := a.q.Options().AfterDeath == ring.Discard
	missing, doubled := 0, 0
	for id := range a.sender {
		for n := range perSender {
			c := a.j.came[id*perSender+n]
			plain, again := c&15, c>>4
			switch {
			case uint64(n) >= a.j.begun[id] && c != 0:
				t.Errorf("message %d of sender %d came and was not sent", n, id)
			case plain > 1:
				t.Errorf("message %d of sender %d came %d times unflagged", n, id, plain)
			case again > 0 && discard:
				t.Errorf("message %d of sender %d came again", n, id)
			case uint64(n) < a.j.sent[id] && c == 0:
				missing++
				if !discard {
					t.Errorf("message %d of sender %d, which has sent %d, is missing", n, id, a.j.sent[id])
				}
			}
			if again > 0 {
				doubled += int(again)
			}
		}
	}
	if missing > deadReceivers || doubled > deadReceivers {
		t.Errorf("%d missing, %d came again, and only %d receivers died", missing, doubled, deadReceivers)
	}
	clear(a.j.came)
	clear(a.j.begun)
	clear(a.j.sent)
	a.sender = 0
	st, err := a.q.Stats()
	if err != nil || st.Senders != 0 || st.Receivers != 0 {
		t.Errorf("%+v %v", st, err)
	}
	if _, err := shm.Dir(a.dir).Prune(); err != nil {
		t.Error(err)
	}
}

func options(s, r ring.Side, d ring.AfterDeath) ring.Options {
	return ring.Options{SlotSize: 24, Slots: 8, MaxMessage: 100, Senders: s, Receivers: r, AfterDeath: d}
}

// Who passes which point.
var (
	sending    = []string{"claimed", "reserved", "written", "committed", "hinted", "aborted", "party:waiting", "party:woken", "party:waking"}
	receiving  = []string{"passed", "taken", "copied", "freeing", "freed", "party:waiting", "party:woken", "party:waking"}
	visiting   = []string{"party:locked", "party:unlocking", "party:joining", "party:joined", "party:leaving", "party:left"}
	recovering = []string{"party:relocked", "party:recovering", "voided", "tallied", "counted", "given-back", "discarded", "party:recovered", "party:buried"}
)

// At every point, in every mode, in every role that passes it.
func TestKillAtEveryPoint(t *testing.T) {
	hits := map[string]int{}
	modes(t, func(t *testing.T, o ring.Options) {
		for _, d := range []ring.AfterDeath{ring.Redeliver, ring.Discard} {
			if d == ring.Discard && o.Senders != o.Receivers {
				continue
			}
			t.Run(d.String(), func(t *testing.T) {
				shmtest.Deadline(t, 5*shmtest.Patience)
				a := newArena(t, options(o.Senders, o.Receivers, d))
				each := func(points []string, ns []int, kill func(point string, n int) bool) {
					for _, p := range points {
						if !strings.Contains(p, ":") {
							p = "ring:" + p
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
				each(sending, []int{1, 3}, a.killSender)
				each(receiving, []int{1, 3}, a.killReceiver)
				each(visiting, []int{1, 2}, a.killGuest)
				each(recovering, []int{1}, a.killRecoverer)
			})
		}
	})
	for _, p := range crash.Points {
		if (strings.HasPrefix(p, "ring:") || strings.HasPrefix(p, "party:")) && hits[p] == 0 {
			t.Errorf("nobody died at %s", p)
		}
	}
	t.Logf("deaths: %v", hits)
}

func (a *arena) begin(helper string) *shmtest.Process {
	args := a.args
	if helper == "kill-sender" {
		args = append(slices.Clone(args), a.next())
	}
	return shmtest.Start(a.t, helper, args...)
}

func (a *arena) crash(point string, n int, helper string) *shmtest.Process {
	args := a.args
	if helper == "kill-sender" {
		args = append(slices.Clone(args), a.next())
	}
	return crashing(a.t, point, n, helper, args...)
}

// killSender kills one while a receiver waits; another sender comes after it.
func (a *arena) killSender(point string, n int) (hit bool) {
	r := a.begin("kill-receiver")
	hit = killed(a.crash(point, n, "kill-sender"))
	if s := a.begin("kill-sender"); s.Wait() != 0 {
		a.t.Fatal(s.Stderr())
	}
	r.Kill()
	a.settle(1)
	return hit
}

// killReceiver kills one while a sender goes on; another receiver comes after it.
func (a *arena) killReceiver(point string, n int) (hit bool) {
	s := a.begin("kill-sender")
	r := a.crash(point, n, "kill-receiver")
	died, sent := make(chan bool, 1), make(chan int, 1)
	go func() { died <- killed(r) }()
	go func() { sent <- s.Wait() }()
	st := 0
	select {
	case hit = <-died:
		if !hit {
			a.t.Fatal(r.Stderr())
		}
		next := a.begin("kill-receiver")
		st = <-sent
		next.Kill()
	case st = <-sent:
		_ = r.Cmd.Process.Kill()
		<-died
	}
	if st != 0 {
		a.t.Fatal(s.Stderr())
	}
	a.settle(2)
	return hit
}

func (a *arena) killGuest(point string, n int) bool {
	hit := killed(a.crash(point, n, "kill-guest"))
	a.settle(0)
	return hit
}

// killRecoverer kills who recovers what a dead one left; settle recovers after that.
func (a *arena) killRecoverer(point string, n int) (hit bool) {
	for _, dead := range []struct{ helper, point string }{
		{"kill-guest", "party:locked"}, {"kill-sender", "ring:claimed"}, {"kill-sender", "ring:committed"}, {"kill-receiver", "ring:taken"},
	} {
		// The sender notices the receiver's death, and may be the one who recovers.
		recovered := make(chan bool, 1)
		var s *shmtest.Process
		if dead.helper == "kill-receiver" {
			s = a.crash(point, n, "kill-sender")
			go func() { recovered <- killed(s) }()
		}
		if p := a.crash(dead.point, 1, dead.helper); dead.point != "ring:claimed" || a.q.Options().Senders == ring.Many {
			killed(p)
		} else {
			p.Kill()
		}
		hit = killed(a.crash(point, n, "kill-guest")) || hit
		if s == nil {
			continue
		}
		select {
		case died := <-recovered:
			hit = hit || died
		default:
			_ = s.Cmd.Process.Kill()
			<-recovered
		}
	}
	a.settle(1)
	return hit
}

// TestKillRandom kills senders and receivers at random steps, several at a time,
// SHM_KILLS times.
func TestKillRandom(t *testing.T) {
	kills := shmtest.Kills(t, 200)
	seed := uint64(0)
	total := 0
	for total < kills && !t.Failed() {
		for _, s := range []ring.Side{ring.One, ring.Many} {
			for _, r := range []ring.Side{ring.One, ring.Many} {
				for _, d := range []ring.AfterDeath{ring.Redeliver, ring.Discard} {
					seed++
					t.Run(fmt.Sprintf("%v-%v-%v-%d", s, r, d, seed), func(t *testing.T) {
						total += randomKills(t, seed, options(s, r, d))
					})
				}
			}
		}
	}
	t.Logf("%d killed", total)
}

func randomKills(t *testing.T, seed uint64, o ring.Options) (total int) {
	shmtest.Deadline(t, 5*shmtest.Patience)
	a := newArena(t, o)
	rnd := rand.New(rand.NewPCG(seed, 3))
	ns, nr := 1, 1
	if o.Senders == ring.Many {
		ns = 2
	}
	if o.Receivers == ring.Many {
		nr = 2
	}
	var mu sync.Mutex
	dead := 0
	for range 2 {
		var wg sync.WaitGroup
		for range nr {
			seed := rnd.Uint64()
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, 4))
				for range 4 {
					p := a.start(rnd, "kill-receiver", a.args)
					if st := a.end(rnd, p); st {
						mu.Lock()
						dead++
						total++
						mu.Unlock()
					} else if p.Cmd.ProcessState.ExitCode() != 0 {
						t.Error(p.Stderr())
					}
				}
			})
		}
		for range ns {
			seed := rnd.Uint64()
			var ids []string
			for range 4 {
				ids = append(ids, a.next())
			}
			wg.Go(func() {
				rnd := rand.New(rand.NewPCG(seed, 5))
				for _, id := range ids {
					p := a.start(rnd, "kill-sender", append(slices.Clone(a.args), id))
					if st := a.end(rnd, p); st {
						mu.Lock()
						total++
						mu.Unlock()
					} else if p.Cmd.ProcessState.ExitCode() != 0 {
						t.Error(p.Stderr())
					}
				}
			})
		}
		wg.Wait()
		a.settle(dead)
		dead = 0
	}
	return total
}

func (a *arena) start(rnd *rand.Rand, helper string, args []string) *shmtest.Process {
	if rnd.IntN(2) == 0 {
		return crashing(a.t, "*", 1+rnd.IntN(2000), helper, args...)
	}
	return shmtest.Start(a.t, helper, args...)
}

// end lets p die by itself, or kills it from outside after a while.
func (a *arena) end(rnd *rand.Rand, p *shmtest.Process) (dead bool) {
	timer := time.AfterFunc(time.Duration(5+rnd.IntN(60))*time.Millisecond, func() { _ = p.Cmd.Process.Kill() })
	defer timer.Stop()
	return killed(p)
}
