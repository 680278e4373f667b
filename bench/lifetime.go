package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/sharedmem/shm"
	"golang.org/x/sys/unix"
)

// roleArg as the first argument makes this program one of its own children.
const roleArg = "-as"

// child starts this program in a role, as a peer that answers lines.
func child(args ...string) (*peer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return startPeer("child "+args[0], append([]string{self, roleArg}, args...)...)
}

// role is the main function of a child.
func role(args []string) error {
	if len(args) == 0 {
		return errors.New("no role")
	}
	switch args[0] {
	case "cycles":
		return roleCycles(args[1], args[2], args[3])
	case "tracked":
		return roleTracked(args[1])
	case "hold":
		return roleHold(args[1])
	case "wait":
		return roleWait(args[1])
	case "contend":
		return roleContend(os.Stdin, os.Stdout)
	case "lock":
		return roleLock(args[1], os.Stdin, os.Stdout)
	case "ring":
		return roleRing(args[1:], os.Stdin, os.Stdout)
	case "burn":
		return roleBurn(os.Stdin)
	case "topic":
		return roleTopic(args[1], args[2], args[3], os.Stdin, os.Stdout)
	case "gob":
		return roleGob(os.Stdin, os.Stdout)
	case "echo":
		return roleEcho(os.Stdin, os.Stdout, args[1])
	}
	return fmt.Errorf("no role %q", args[0])
}

// A usage is what a process holds after so many cycles.
type usage struct {
	Cycles   int
	Resident float64 // bytes
	Virtual  float64 // bytes
	Maps     int     // mappings, as /proc/self/maps counts them
	Files    int     // open descriptors
}

func measureUsage(cycles int) usage {
	debug.FreeOSMemory() // what is left then is not waiting for the collector
	status := read("/proc/self/status")
	kib := func(key string) float64 {
		v, _ := strconv.ParseFloat(match(key+`:\s*(\d+) kB`, status), 64)
		return v * 1024
	}
	files, _ := os.ReadDir("/proc/self/fd")
	return usage{cycles, kib("VmRSS"), kib("VmSize"), strings.Count(read("/proc/self/maps"), "\n"), len(files)}
}

// roleCycles does many cycles and prints what it held on the way.
func roleCycles(name, how, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(os.Stdout)
	for i := range n + 1 {
		if i%(n/50) == 0 {
			if err := enc.Encode(measureUsage(i)); err != nil {
				return err
			}
		}
		b, err := shm.Create(name, page, nil)
		if err != nil {
			return err
		}
		if how == "raw" {
			b.Bytes()[0] = 1
		}
		if err := errors.Join(b.Close(), b.Unlink()); err != nil {
			return err
		}
	}
	return nil
}

// cycles is the promise that nothing accumulates.
func cycles(ctx context.Context, e *env) (*Result, error) {
	const mib = 1 << 20
	n := 100_000
	if e.quick {
		n = 50_000
	}
	r := &Result{Title: fmt.Sprintf("%d cycles of create, close and unlink", n), Text: `What the process holds after so many blocks, in a process of its own, after a collection each time. With raw memory handed out, the addresses of up to 4096 closed blocks stay reserved
(no memory, only addresses: 16 MiB for blocks of a page) so that a stale pointer faults instead of reaching another block; then the oldest is used again, and nothing grows any more. The verdict is about the last nine tenths, when the program has
its working size and the reserve is full: resident memory may grow by half a MiB in them, which is the noise of the Go heap and less than six bytes a cycle, virtual memory by one MiB.`}
	r.Facts = [][]string{{"", "after", "resident", "virtual", "mappings", "descriptors"}}
	for _, v := range []struct{ how, what string }{{"plain", "nothing handed out"}, {"raw", "Bytes handed out"}} {
		p, err := child("cycles", e.block("cycles-"+v.how), v.how, strconv.Itoa(n))
		if err != nil {
			return nil, err
		}
		var us []usage
		for p.out.Scan() {
			var u usage
			if err := json.Unmarshal(p.out.Bytes(), &u); err != nil {
				return nil, err
			}
			us = append(us, u)
		}
		if err := p.cmd.Wait(); err != nil {
			return nil, fmt.Errorf("%w: %s", err, p.errs.String())
		}
		first, warm, last := us[0], us[len(us)/10], us[len(us)-1]
		for _, u := range []usage{first, warm, us[len(us)/2], last} {
			r.Facts = append(r.Facts, []string{v.what, fmt.Sprint(u.Cycles), fmt.Sprintf("%.1f MiB", u.Resident/mib), fmt.Sprintf("%.1f MiB", u.Virtual/mib), fmt.Sprint(u.Maps), fmt.Sprint(u.Files)})
		}
		r.below("resident memory grown, "+v.what, (last.Resident-warm.Resident)/mib, 0.5, "MiB")
		r.below("virtual memory grown, "+v.what, (last.Virtual-warm.Virtual)/mib, 1, "MiB")
		resident, virtual := series{name: "resident"}, series{name: "virtual, more than at the start"}
		for _, u := range us {
			resident.add(float64(u.Cycles), u.Resident/mib)
			virtual.add(float64(u.Cycles), (u.Virtual-first.Virtual)/mib)
		}
		r.plots = append(r.plots, lineChart("cycles-"+v.how, "create, close, unlink: "+v.what, "cycles", "MiB", []series{resident, virtual}))
	}
	return r, nil
}

// roleTracked prints what the first Tracked block of a process took, and what
// n more took each.
func roleTracked(count string) error {
	in := bufio.NewScanner(os.Stdin)
	for i := 0; in.Scan(); i++ {
		start := time.Now()
		b, err := shm.Create(in.Text()+strconv.Itoa(i), page, &shm.CreateOptions{Lifetime: shm.Tracked})
		if err != nil {
			return err
		}
		fmt.Println(time.Since(start).Nanoseconds())
		if err := errors.Join(b.Close(), b.Unlink()); err != nil {
			return err
		}
	}
	return nil
}

// tracked is what a clean-up process costs those who want one, and what
// finding instead of making costs.
func tracked(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "Tracked blocks, and OpenOrCreate", Text: `The first Tracked block of a process starts the clean-up process (this program, executed again) and waits until it is ready; later ones tell it over a pipe. Each figure of the first row is from a
process of its own. OpenOrCreate of a block that exists is an Open, beside a plain one. No target.`}
	var firsts []float64
	for i := range e.count {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		p, err := child("tracked", "1")
		if err != nil {
			return nil, err
		}
		answer, err := p.ask("%s", e.block(fmt.Sprintf("first-%d-", i)))
		p.stop()
		if err != nil {
			return nil, err
		}
		ns, err := strconv.ParseFloat(answer, 64)
		if err != nil {
			return nil, err
		}
		firsts = append(firsts, ns)
	}
	name := e.block("existing")
	b, err := shm.Create(name, page, nil)
	if err != nil {
		return nil, err
	}
	defer remove(b)
	rows, err := e.rounds(ctx, []way{
		loop("create, close, unlink: Tracked, later ones", func() error {
			return createOnce(e.block("tracked"), &shm.CreateOptions{Lifetime: shm.Tracked})
		}),
		loop("create, close, unlink: Owned", func() error { return createOnce(e.block("owned"), nil) }),
		loop("OpenOrCreate of one that exists, close", func() error {
			b, err := shm.OpenOrCreate(name, page, nil, nil)
			if err != nil {
				return err
			}
			return b.Close()
		}),
		loop("Open, close", func() error {
			b, err := shm.Open(name, nil)
			if err != nil {
				return err
			}
			return b.Close()
		}),
	})
	r.Rows = append([]Row{newRow("create: the first Tracked of a process", firsts)}, rows...)
	return r, err
}

// now is the monotonic clock that all processes of the machine share, which
// time.Time hides.
func now() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // a clock that every kernel has
	return t.Nano()
}

// roleWait waits for the blocks that it reads names of, and prints when it had
// them.
func roleWait(how string) error {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		fmt.Println("waiting")
		var b *shm.Block
		var err error
		if how == "Wait" {
			b, err = shm.Wait(context.Background(), in.Text(), nil)
		} else {
			var every time.Duration
			if every, err = time.ParseDuration(how); err != nil {
				return err
			}
			for {
				if b, err = shm.Open(in.Text(), nil); err == nil {
					break
				}
				time.Sleep(every)
			}
		}
		at := now()
		if err != nil {
			return err
		}
		fmt.Println(at)
		if err := b.Close(); err != nil {
			return err
		}
	}
	return nil
}

// waiting is how long after its creation another process has a block it waits
// for.
func waiting(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "Wait for a block", Text: `From just before the creator's Create until the waiting process has the block open, the creator's own work therefore included. Wait sleeps until the system says that the folder changed; the
others look again and again and sleep in between, as one does without it. No target.`}
	for _, how := range []string{"Wait", "1ms", "10ms"} {
		p, err := child("wait", how)
		if err != nil {
			return nil, err
		}
		label := how
		if how != "Wait" {
			label = "Open every " + how
		}
		samples, err := waitLatencies(ctx, e, p, how)
		p.stop()
		if err != nil {
			return nil, err
		}
		r.Rows = append(r.Rows, newRow(label, samples))
	}
	r.plots = append(r.plots, distribution("wait", "a block is there and the waiting process has it", r.Rows))
	return r, nil
}

func waitLatencies(ctx context.Context, e *env, p *peer, how string) (samples []float64, err error) {
	for i := range 3 * e.count {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		name := e.block(fmt.Sprintf("wait-%s-%d", how, i))
		if _, err := p.ask("%s", name); err != nil {
			return nil, err
		}
		// It says so before it waits; by now it does. The odd part keeps the
		// polling ones out of step with us.
		time.Sleep(12*time.Millisecond + time.Duration(i%10)*time.Millisecond)
		start := now()
		b, err := shm.Create(name, page, nil)
		if err != nil {
			return nil, err
		}
		if !p.out.Scan() {
			return nil, fmt.Errorf("%s ended", p.name)
		}
		at, err := strconv.ParseInt(p.out.Text(), 10, 64)
		if err = errors.Join(err, b.Close(), b.Unlink()); err != nil {
			return nil, err
		}
		samples = append(samples, float64(at-start))
	}
	return samples, nil
}

// roleHold creates a Tracked block and waits to be killed.
func roleHold(name string) error {
	if _, err := shm.Create(name, page, &shm.CreateOptions{Lifetime: shm.Tracked}); err != nil {
		return err
	}
	fmt.Println(os.Getpid())
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// killing is how long a block outlives its owner.
func killing(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "kill -9 until the block is gone", Text: `From the kill until the name is gone: a Tracked block of ours, and a block of CPython's, whose resource tracker does the same. The last figure of each row is the slowest kill of all. No target.`}
	r.Facts = [][]string{{"", "kills", "median", "90 %", "99 %", "slowest"}}
	type killed struct {
		what  string
		count int
		start func(name string) (*peer, error)
	}
	n := 3 * e.count
	all := []killed{{ours + ", Tracked", n, func(name string) (*peer, error) {
		p, err := child("hold", name)
		if err == nil && !p.out.Scan() {
			p.stop()
			err = errors.New(p.errs.String())
		}
		return p, err
	}}}
	for _, py := range e.pythons {
		all = append(all, killed{py.name, max(3, n/5), func(name string) (*peer, error) {
			p, err := startPeer(py.name, py.cmd.Path, "-c", peerPy)
			if err != nil {
				return nil, err
			}
			_, err = p.ask("hold %s %d 1", name, page)
			return p, err
		}})
	}
	for _, k := range all {
		var samples []float64
		for i := range k.count {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			name := e.block(fmt.Sprintf("kill-%d", i))
			p, err := k.start(name)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", k.what, err)
			}
			took, err := untilGone(p.cmd, e.path(name))
			// Its clean-up process holds the other end of standard error;
			// Wait returns when that is closed, that is, when it is gone too.
			p.stop()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", k.what, err)
			}
			samples = append(samples, float64(took))
		}
		r.Rows = append(r.Rows, newRow(k.what, samples))
		facts := []string{k.what, fmt.Sprint(k.count)}
		for _, q := range []float64{0.5, 0.9, 0.99, 1} {
			facts = append(facts, timeText(quantile(samples, q)))
		}
		r.Facts = append(r.Facts, facts)
	}
	r.plots = append(r.plots, distribution("kill", "kill -9 until the block is gone", r.Rows))
	return r, nil
}

// untilGone kills a process and returns how long path was there after that.
func untilGone(cmd *exec.Cmd, path string) (time.Duration, error) {
	// Asking the kernel to be told, not asking again and again, which would
	// take one of few processors from the one who removes.
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_DELETE|unix.IN_MOVED_FROM); err != nil {
		return 0, err
	}
	if _, err := os.Lstat(path); err != nil {
		return 0, err
	}
	start := time.Now()
	if err := cmd.Process.Kill(); err != nil {
		return 0, err
	}
	buf := make([]byte, 64<<10)
	for {
		if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
			return time.Since(start), nil
		} else if err != nil {
			return 0, err
		}
		left := 10*time.Second - time.Since(start)
		if left <= 0 {
			return 0, errors.New("the block is still there 10 s after its owner was killed")
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, int(left.Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return 0, err
		} else if n > 0 {
			if _, err := unix.Read(fd, buf); err != nil {
				return 0, err
			}
		}
	}
}
