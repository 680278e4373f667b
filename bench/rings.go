package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedmem/shm/ring"
)

// A ringWay is one of the ways to use a ring between two processes.
type ringWay struct {
	what    string // copy, batch, place, echo
	size    int
	waiting ring.Waiting
	many    bool // two senders here and two receivers there
	apart   bool // each side keeps to a processor of its own
}

// options are those of the ring: slots that messages fit in, and 4 MiB at most.
func (w ringWay) options() *ring.Options {
	o := &ring.Options{SlotSize: w.size, Slots: max(4, min(1024, 4<<20/w.size)), Senders: ring.One, Receivers: ring.One, Waiting: w.waiting}
	if w.many {
		o.Senders, o.Receivers = ring.Many, ring.Many
	}
	return o
}

// processors are all that may be used, and the one of this number among them.
func processors(number int) (all, one unix.CPUSet) {
	_ = unix.SchedGetaffinity(0, &all)
	for i, n := 0, 0; i < 1024; i++ {
		if all.IsSet(i) {
			if n == number {
				one.Set(i)
			}
			n++
		}
	}
	return all, one
}

// apart keeps this process on the processor of this number; back undoes it. All its threads:
// were it only one, that its goroutine is locked to, each Gosched would change threads.
func apart(number int) (back func()) {
	all, one := processors(number)
	if all.Count() < 2 {
		return func() {}
	}
	set := func(to *unix.CPUSet) {
		threads, _ := os.ReadDir("/proc/self/task")
		for _, t := range threads {
			if id, err := strconv.Atoi(t.Name()); err == nil {
				_ = unix.SchedSetaffinity(id, to)
			}
		}
	}
	set(&one)
	return func() { set(&all) }
}

const batchSize = 64

// give sends n messages, which are p.
func (w ringWay) give(s *ring.Sender, p []byte, n int) (err error) {
	batch := slices.Repeat([][]byte{p}, batchSize)
	for i := 0; i < n && err == nil; i++ {
		switch w.what {
		case "batch":
			_, err = s.SendBatch(batch[:min(batchSize, n-i)])
			i += batchSize - 1
		case "place":
			var m []byte
			if m, err = s.Reserve(w.size); err == nil {
				m[0]++
				err = s.Commit(w.size)
			}
		default:
			err = s.Send(p)
		}
	}
	return err
}

// take receives n, into p; batches are of short ones.
func (w ringWay) take(r *ring.Receiver, p []byte, n int) (err error) {
	var bufs [batchSize][]byte
	if w.what == "batch" {
		for i := range bufs {
			bufs[i] = make([]byte, w.size)
		}
	}
	for i := 0; i < n && err == nil; i++ {
		switch w.what {
		case "batch":
			var k int
			k, err = r.ReceiveBatch(bufs[:min(batchSize, n-i)])
			i += k - 1
		case "place":
			err = r.Lease(func(m []byte) error { p[0] += m[0]; return nil })
		default:
			_, err = r.Receive(p)
		}
	}
	return err
}

// rings has the rings of one way, and the process at their other ends.
type rings struct {
	way     ringWay
	there   *ring.Queue
	back    *ring.Queue
	senders []*ring.Sender
	echoes  *ring.Receiver
	other   *peer
	p, p2   []byte // what is sent, by either of two
}

func newRings(e *env, w ringWay) (_ *rings, err error) {
	g := &rings{way: w, p: make([]byte, w.size), p2: make([]byte, w.size)}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	name := fmt.Sprintf("ring-%s-%d-%d-%v", w.what, w.size, w.waiting, w.many)
	if g.there, err = ring.Create(e.block(name), w.options()); err != nil {
		return nil, err
	}
	if g.back, err = ring.Create(e.block(name+"-back"), w.options()); err != nil {
		return nil, err
	}
	if g.echoes, err = g.back.Receiver(); err != nil {
		return nil, err
	}
	for range 2 {
		s, err := g.there.Sender()
		if err != nil {
			return nil, err
		}
		if g.senders = append(g.senders, s); !w.many {
			break
		}
	}
	if g.other, err = child("ring", g.there.Name(), g.back.Name(), w.what, fmt.Sprint(w.size), fmt.Sprint(w.waiting), fmt.Sprint(w.many), fmt.Sprint(w.apart)); err != nil {
		return nil, err
	}
	_, err = g.other.ask("0")
	return g, err
}

func (g *rings) close() {
	if g.other != nil {
		g.other.stop()
	}
	for _, q := range []*ring.Queue{g.there, g.back} {
		if q != nil {
			_, _ = q.Unlink(), q.Close()
		}
	}
}

// run has n messages go there, and back if they are echoed. each is called with the time
// of each.
func (g *rings) run(n int, each func(time.Duration)) (time.Duration, error) {
	if g.way.apart {
		defer apart(0)()
	}
	if _, err := g.other.ask("%d", n); err != nil {
		return 0, err
	}
	start := time.Now()
	switch {
	case g.way.what == "echo":
		for at := start; n > 0; n-- {
			if err := g.senders[0].Send(g.p); err != nil {
				return 0, err
			}
			if _, err := g.echoes.Receive(g.p); err != nil {
				return 0, err
			}
			if each != nil {
				now := time.Now()
				each(now.Sub(at))
				at = now
			}
		}
	case g.way.many:
		second := make(chan error, 1)
		go func() { second <- g.way.give(g.senders[1], g.p2, n/2) }()
		if err := errors.Join(g.way.give(g.senders[0], g.p, n-n/2), <-second); err != nil {
			return 0, err
		}
	default:
		if err := g.way.give(g.senders[0], g.p, n); err != nil {
			return 0, err
		}
	}
	_, err := g.other.answer() // the last one has come
	return time.Since(start), err
}

// roleRing is the process at the other ends.
func roleRing(args []string, in io.Reader, out io.Writer) error {
	w := ringWay{what: args[2]}
	if _, err := fmt.Sscan(strings.Join(args[3:], " "), &w.size, (*uint8)(&w.waiting), &w.many, &w.apart); err != nil {
		return err
	}
	open := &ring.OpenOptions{Waiting: w.waiting}
	there, err := ring.Open(args[0], open)
	if err != nil {
		return err
	}
	defer there.Close()
	back, err := ring.Open(args[1], open)
	if err != nil {
		return err
	}
	defer back.Close()
	var receivers []*ring.Receiver
	for range 2 {
		r, err := there.Receiver()
		if err != nil {
			return err
		}
		if receivers = append(receivers, r); !w.many {
			break
		}
	}
	s, err := back.Sender()
	if err != nil {
		return err
	}
	if w.apart {
		defer apart(1)()
	}
	p, p2 := make([]byte, w.size), make([]byte, w.size)
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var n int
		if _, err := fmt.Sscan(lines.Text(), &n); err != nil {
			return err
		}
		fmt.Fprintln(out, "ready")
		if n == 0 {
			continue
		}
		switch {
		case w.what == "echo":
			for ; n > 0 && err == nil; n-- {
				if _, err = receivers[0].Receive(p); err == nil {
					err = s.Send(p)
				}
			}
		case w.many:
			second := make(chan error, 1)
			go func() { second <- w.take(receivers[1], p2, n/2) }()
			err = errors.Join(w.take(receivers[0], p, n-n/2), <-second)
		default:
			err = w.take(receivers[0], p, n)
		}
		if err != nil {
			return err
		}
		fmt.Fprintln(out, "done")
	}
	return nil
}

// measure runs ways of rings beside those of others; ways without a run are C's where there
// is none.
func (e *env) measure(ctx context.Context, r *Result, ours map[string]ringWay, order []string, theirs ...way) (err error) {
	var ways []way
	for _, label := range order {
		g, err := newRings(e, ours[label])
		if err != nil {
			return err
		}
		defer g.close()
		ways = append(ways, way{label, func(n int) (time.Duration, error) { return g.run(n, nil) }})
	}
	for _, w := range theirs {
		if w.run != nil {
			ways = append(ways, w)
		}
	}
	r.Rows, err = e.rounds(ctx, ways)
	r.Missing = append(r.Missing, e.missing...)
	return err
}

// cWay is a verb of the C peer's.
func (e *env) cWay(label, verb string, size int) way {
	if e.c == nil {
		return way{}
	}
	return e.c.way(label, verb, e.path(e.block("ring-c")), size)
}

// ringEcho is a message there and back.
func ringEcho(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "Rings: 64 bytes there and back", Text: `Between two processes, by two rings. Spinning: nobody sleeps, and each side keeps to a processor of its own, as in C: a ring of one sender and one receiver with indices on lines of
their own, which no death is to come near. Sleeping: nobody spins; C is a bare futex word, with no message in it; each side keeps to a processor as well, since where the kernel puts the two is most of the time. Adaptive is the default: spins for as long as that was of use lately, then sleeps.
Others' messages are of 64 bytes, too, copied in and out, by two queues, and nothing of theirs that was to survive a death. Boost.Interprocess's message_queue and all of Python's sleep; Python's Pipe is send_bytes, the queues pickle. Aeron's two processes spin,
and its media driver's thread wants a processor as well.`}
	const spinning, sleeping = "ring, spinning", "ring, sleeping"
	ours := map[string]ringWay{
		spinning:         {what: "echo", size: 64, waiting: ring.Spin, apart: true},
		sleeping:         {what: "echo", size: 64, waiting: ring.Sleep, apart: true},
		"ring, adaptive": {what: "echo", size: 64},
	}
	others, stop := e.others(ctx, r, "echo", queueMakers)
	defer stop()
	if err := e.measure(ctx, r, ours, []string{spinning, sleeping, "ring, adaptive"}, slices.Concat([]way{
		e.cWay("C, spinning", "ring-echo", 64), e.cWay("C, futex", "pingpong-apart", page),
		e.cWay("C, pipe", "pipe-echo", 64), e.cWay("C, Unix socket", "unix-echo", 64),
	}, others, e.pythonWays("echo"))...); err != nil {
		return nil, err
	}
	r.atMost(spinning, "C, spinning", 1.3)
	r.atMost(sleeping, "C, futex", 1.2)
	r.atMost("ring, adaptive", "C, pipe", 1)

	g, err := newRings(e, ours[spinning])
	if err != nil {
		return nil, err
	}
	defer g.close()
	var took []float64
	for range e.count {
		if _, err := g.run(20000, func(d time.Duration) { took = append(took, float64(d)) }); err != nil {
			return nil, err
		}
	}
	r.Facts = [][]string{{"one by one, spinning", "50 %", "99 %", "99.9 %"},
		{"ring", timeText(quantile(took, 0.5)), timeText(quantile(took, 0.99)), timeText(quantile(took, 0.999))}}
	r.below("the 99th of a hundred, spinning, by the median", quantile(took, 0.99)/quantile(took, 0.5), 3, "×")
	return r, nil
}

// ringCopy is one way.
func ringCopy(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "Rings: 64 bytes one way", Text: `One message after the other is copied in by one process and out by another; batches are of 64. The figure is for one message. C is as above. Two by two are two goroutines that send and two of
another process that receive, on two processors. The others are those of the case above.`}
	ours := map[string]ringWay{
		"ring":             {what: "copy", size: 64, apart: true},
		"ring, batches":    {what: "batch", size: 64, apart: true},
		"ring, two by two": {what: "copy", size: 64, many: true},
	}
	others, stop := e.others(ctx, r, "copy", queueMakers)
	defer stop()
	if err := e.measure(ctx, r, ours, []string{"ring", "ring, batches", "ring, two by two"}, slices.Concat([]way{
		e.cWay("C", "ring-copy", 64), e.cWay("C, batches", "ring-batch", 64),
		e.cWay("C, pipe", "pipe-copy", 64), e.cWay("C, Unix socket", "unix-copy", 64),
	}, others, e.pythonWays("copy"))...); err != nil {
		return nil, err
	}
	r.faster("ring", "C", 0.9)
	r.faster("ring, batches", "C, batches", 0.6)
	r.below("ring, two by two", r.row("ring, two by two").Median, 200, "ns")
	return r, nil
}

// ringLarge is large messages, copied.
func ringLarge(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "Rings: 64 KiB and 1 MiB one way", Text: `Copied in and copied out, by rings of 4 MiB.`}
	ours := map[string]ringWay{
		"ring, 64 KiB": {what: "copy", size: 1 << 16, apart: true},
		"ring, 1 MiB":  {what: "copy", size: 1 << 20, apart: true},
	}
	if err := e.measure(ctx, r, ours, []string{"ring, 64 KiB", "ring, 1 MiB"},
		e.cWay("C, 64 KiB", "ring-copy", 1<<16), e.cWay("C, 1 MiB", "ring-copy", 1<<20),
		e.cWay("C, pipe, 64 KiB", "pipe-copy", 1<<16), e.cWay("C, pipe, 1 MiB", "pipe-copy", 1<<20),
		e.cWay("C, Unix socket, 64 KiB", "unix-copy", 1<<16), e.cWay("C, Unix socket, 1 MiB", "unix-copy", 1<<20)); err != nil {
		return nil, err
	}
	r.faster("ring, 64 KiB", "C, 64 KiB", 0.9)
	r.faster("ring, 1 MiB", "C, 1 MiB", 0.9)
	return r, nil
}

// ringPlace is without copies.
func ringPlace(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "Rings: in place, whatever the size", Text: `Reserve, one byte written, Commit; Lease, one byte read: what a message costs when nothing of it is copied. The rings have 4 MiB, and 1024 slots at most.`}
	ours := map[string]ringWay{}
	var order []string
	for _, size := range []int{64, 4 << 10, 64 << 10} {
		label := "ring, " + bytesText(float64(size))
		ours[label] = ringWay{what: "place", size: size, apart: true}
		order = append(order, label)
	}
	if err := e.measure(ctx, r, ours, order); err != nil {
		return nil, err
	}
	r.atMost(order[2], order[0], 3)
	return r, nil
}

// ringLoaded is there and back while others want the processors as well.
func ringLoaded(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "Rings: there and back on busy processors", Text: `As above, the default, while twice as many processes as there are processors do nothing but use them. Whoever spins then keeps the other side from running.`}
	for range 2 * runtime.NumCPU() {
		p, err := child("burn")
		if err != nil {
			return nil, err
		}
		defer p.stop()
	}
	if err := e.measure(ctx, r, map[string]ringWay{"ring": {what: "echo", size: 64}}, []string{"ring"},
		e.cWay("C, pipe", "pipe-echo", 64)); err != nil {
		return nil, err
	}
	r.atMost("ring", "C, pipe", 1)
	return r, nil
}

// roleBurn uses a processor until its input ends.
func roleBurn(in io.Reader) error {
	go func() {
		for x := uint64(1); x != 0; x *= 3 { // it stays odd
		}
	}()
	_, err := io.Copy(io.Discard, in)
	return err
}
