//go:build shmcrash && linux

package shm_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/shmtest"
)

// These tests kill processes between two steps: at every named point once, in
// every role that passes it, and then at random. They need the build tag that
// compiles the points in, and run in directories of their own, so that nothing
// else sweeps there.

func init() {
	// life does in DIR all that can be done with blocks, names beginning with
	// PREFIX, so that it passes every point of a creator.
	shmtest.Register("life", func(args []string) int {
		dir, prefix := args[0], args[1]
		shmtest.Say("ready")
		shmtest.Await("go")
		for i := 0; ; i++ {
			if err := life(dir, fmt.Sprintf("%s-%d", prefix, i)); err != nil {
				shmtest.Say("%v", err)
				return 1
			}
			if len(args) > 2 { // once
				return 0
			}
		}
	})
	shmtest.Register("sweep", func(args []string) int {
		_, err := shm.Dir(args[0]).Prune()
		return report(err)
	})
	shmtest.Register("tracked-owner", func(args []string) int {
		if _, err := shm.Create(args[1], 100, &shm.CreateOptions{Dir: args[0], Lifetime: shm.Tracked}); err != nil {
			shmtest.Say("%v", err)
			return 1
		}
		shmtest.Say("ready")
		shmtest.Hear()
		return 0
	})
	shmtest.Register("unlinker", func(args []string) int {
		b, err := shm.Open(args[1], &shm.OpenOptions{Dir: args[0]})
		if err == nil {
			err = b.Unlink()
		}
		return report(err)
	})
}

func life(dir, name string) error {
	o := &shm.CreateOptions{Dir: dir}
	a, err := shm.Create(name+"a", 5000, o)
	if err != nil {
		return err
	}
	o.KeepName = true
	b, err := shm.Create(name+"b", 5000, o)
	if err != nil {
		return err
	}
	// Somebody's tracker takes the kept name away; it comes back.
	if err := os.Remove(filepath.Join(dir, name+"b")); err != nil {
		return err
	}
	c, err := shm.Wait(context.Background(), name+"b", &shm.OpenOptions{Dir: dir})
	if err != nil {
		return err
	}
	if err := errors.Join(a.Disown(), a.Adopt(), a.Close(), a.Unlink(), b.Close(), b.Unlink(), c.Close()); err != nil {
		return err
	}
	return nil
}

// crashing sets the point at which a helper dies, in its environment.
func crashing(t *testing.T, point string, n int, helper string, args ...string) *shmtest.Process {
	cmd := shmtest.Command(t, helper, args...)
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, fmt.Sprintf("SHM_CRASH=%s:%d", point, n))
	return shmtest.StartCommand(t, cmd)
}

func privateDir(t *testing.T) string {
	alone(t)
	return place()
}

// nothingLeft sweeps and fails the test unless the directory holds just keep. A
// block that its owner had disowned when it died, in the middle of a handover,
// is nobody's and stays, as Disown says; that is the one exception, and the
// block must be marked so.
func nothingLeft(t *testing.T, dir string, keep ...string) {
	t.Helper()
	if _, err := shm.Dir(dir).Prune(); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		// A lease of this process is its own matter.
		if slices.Contains(keep, e.Name()) || leaseLockedIn(dir, e.Name()) {
			continue
		}
		i, err := shm.Dir(dir).Stat(e.Name())
		if err == nil && i.Lifetime == shm.Persistent && !i.Foreign && strings.HasSuffix(i.Name, "a") {
			if err := shm.Dir(dir).Unlink(i.Name); err != nil {
				t.Error(err)
			}
			continue
		}
		t.Errorf("%s is left", e.Name())
	}
	for _, k := range keep {
		if _, err := os.Stat(filepath.Join(dir, k)); err != nil {
			t.Errorf("a living or foreign block is gone: %v", err)
		}
	}
}

// bystanders puts into dir what no death and no sweep may touch: a foreign
// block, a persistent one, and one of a living owner.
func bystanders(t *testing.T, dir string) []string {
	foreign, lasting, living := shmtest.Name(t), shmtest.Name(t), shmtest.Name(t)
	if err := os.WriteFile(filepath.Join(dir, foreign), []byte("foreign"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := owner(t, living, "owned", dir)
	t.Cleanup(p.Kill)
	b, err := shm.Create(lasting, 10, &shm.CreateOptions{Dir: dir, Lifetime: shm.Persistent})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return []string{foreign, lasting, living}
}

// TestKillAtEveryPoint counts the deaths at each point: none may be zero.
func TestKillAtEveryPoint(t *testing.T) {
	hits := map[string]int{}
	died := func(t *testing.T, point string, p *shmtest.Process) {
		p.Wait()
		if ws, ok := p.Cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL {
			hits[point]++
		} else {
			t.Errorf("the process did not die at %s but ended with %v: %s", point, p.Cmd.ProcessState, p.Stderr())
		}
	}
	points := slices.DeleteFunc(slices.Clone(crash.Points), func(p string) bool {
		// Those of other packages, and those at which python_test.go kills.
		role, _, _ := strings.Cut(p, ":")
		return slices.Contains([]string{"set", "store", "pytracker", "manager", "lock", "unlock", "rwlock", "cond", "event", "once", "sem", "barrier", "party", "ring", "topic", "worker", "pool", "pyproc"}, role)
	})
	for _, point := range points {
		t.Run(strings.ReplaceAll(point, ":", "-"), func(t *testing.T) {
			dir := privateDir(t)
			keep := bystanders(t, dir)
			switch role, _, _ := strings.Cut(point, ":"); {
			case role == "cleaner":
				name := shmtest.Name(t)
				p := crashing(t, point, 1, "tracked-owner", dir, name)
				if point == "cleaner:started" {
					// The clean-up process dies at birth: Create says so and leaves
					// nothing.
					if line := p.Line(); !strings.Contains(line, "clean-up process did not start") {
						t.Fatalf("Create said %s", line)
					}
					p.Wait()
					hits[point]++
					break
				}
				p.Expect("ready")
				c := cleanerOf(t, p.PID())
				p.Kill()
				dead(t, c) // init's child now
				if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
					t.Errorf("the clean-up process did not die at %s", point)
				}
				hits[point]++
			case role == "sweep":
				dead := owner(t, shmtest.Name(t), "keep", dir)
				dead.Kill()
				died(t, point, crashing(t, point, 1, "sweep", dir))
			case point == "remove:parked":
				// A bystander's Unlink, and then a sweeper's.
				name := shmtest.Name(t)
				dead := owner(t, name, "owned", dir)
				died(t, point, crashing(t, point, 1, "unlinker", dir, name))
				dead.Kill()
				dead = owner(t, shmtest.Name(t), "owned", dir)
				dead.Kill()
				died(t, point, crashing(t, point, 1, "sweep", dir))
			default:
				// The first time that a point is passed and the second: in the middle
				// of a life with other blocks about.
				for n := 1; n <= 2; n++ {
					p := crashing(t, point, n, "life", dir, shmtest.Name(t))
					p.Expect("ready")
					p.Send("go")
					died(t, point, p)
				}
			}
			nothingLeft(t, dir, keep...)
			// And all works on.
			if err := life(dir, shmtest.Name(t)); err != nil {
				t.Error(err)
			}
			nothingLeft(t, dir, keep...)
		})
	}
	for _, point := range points {
		if hits[point] == 0 {
			t.Errorf("nobody died at %s", point)
		}
	}
	t.Logf("deaths: %v", hits)
}

// TestKillAttacher: an attacher's death changes nothing for anybody.
func TestKillAttacher(t *testing.T) {
	name := shmtest.Name(t)
	b := create(t, name, 100, nil)
	for range 10 {
		p := shmtest.Start(t, "opener", name)
		p.Expect("ready")
		p.Kill()
		if pruned(t, name) || !exists(t, name) {
			t.Fatal("an attacher's death took the block away")
		}
	}
	b.Bytes()[0]++
}

func init() {
	shmtest.Register("opener", func(args []string) int {
		b, err := shm.Open(args[0], &shm.OpenOptions{Dir: place()})
		if err != nil {
			return report(err)
		}
		b.Bytes()[1]++
		shmtest.Say("ready")
		shmtest.Hear()
		return 0
	})
}

// TestKillAll kills creator, attacher and clean-up process at once.
func TestKillAll(t *testing.T) {
	for range 5 {
		dir := privateDir(t)
		keep := bystanders(t, dir)
		name := shmtest.Name(t)
		p := shmtest.Start(t, "tracked-owner", dir, name)
		p.Expect("ready")
		attacher := shmtest.Start(t, "opener", name)
		attacher.Expect("ready")
		c := cleanerOf(t, p.PID())
		var wg sync.WaitGroup
		for _, pid := range []int{c, p.PID(), attacher.PID()} {
			wg.Go(func() { syscall.Kill(pid, syscall.SIGKILL) })
		}
		wg.Wait()
		p.Kill()
		attacher.Kill()
		dead(t, c)
		nothingLeft(t, dir, keep...)
	}
}

// TestKillRandom kills lives and sweepers at random points, several at a time
// in one directory, SHM_KILLS times.
func TestKillRandom(t *testing.T) {
	kills := shmtest.Kills(t, 200)
	dir := privateDir(t)
	keep := bystanders(t, dir)
	// In batches, as a test holds the pipes of its processes until it ends.
	const batch = 300
	for from := 0; from < kills; from += batch {
		t.Run(itoa(from), func(t *testing.T) {
			var left atomic.Int64
			left.Store(int64(min(batch, kills-from)))
			var wg sync.WaitGroup
			for w := range 3 {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(uint64(from), uint64(w)))
					for left.Add(-1) >= 0 && !t.Failed() {
						killOne(t, dir, r)
					}
				})
			}
			wg.Wait()
		})
	}
	nothingLeft(t, dir, keep...)
}

// killOne kills a life at a random step and, now and then, a sweeper.
func killOne(t *testing.T, dir string, r *rand.Rand) {
	p := crashing(t, "*", 1+r.IntN(60), "life", dir, shmtest.Name(t))
	p.Expect("ready")
	p.Send("go")
	p.Wait()
	if ws, ok := p.Cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !ws.Signaled() {
		t.Errorf("a life ended by itself: %s", p.Stderr())
	}
	if r.IntN(3) == 0 {
		crashing(t, "*", 1+r.IntN(6), "sweep", dir).Wait()
	}
}
