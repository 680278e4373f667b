package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/topic"
)

// topics is a topic that this process publishes in, and processes that subscribe.
type topics struct {
	there, back *topic.Topic
	p           *topic.Publisher
	echoes      *topic.Subscriber
	others      []*peer
}

// newTopics has subscribers that read, or echo what comes if there is a topic back.
func newTopics(e *env, name string, subscribers int, echo bool, o topic.Options) (_ *topics, err error) {
	g := &topics{}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	o.SlotSize = 64
	if g.there, err = topic.Create(e.block("topic-"+name), &o); err != nil {
		return nil, err
	}
	back := ""
	if echo {
		back = e.block("topic-" + name + "-back")
		if g.back, err = topic.Create(back, &o); err != nil {
			return nil, err
		}
		if g.echoes, err = g.back.Subscriber(); err != nil {
			return nil, err
		}
	}
	for range subscribers {
		other, err := child("topic", g.there.Name(), back, fmt.Sprint(int(o.Waiting)))
		if err != nil {
			return nil, err
		}
		g.others = append(g.others, other)
		if echo {
			continue // it is asked for each round
		}
		if _, err := other.ask("ready?"); err != nil {
			return nil, err
		}
	}
	g.p, err = g.there.Publisher()
	return g, err
}

func (g *topics) close() {
	for _, t := range []*topic.Topic{g.there, g.back} {
		if t != nil {
			_, _ = t.Unlink(), t.Close()
		}
	}
	for _, o := range g.others {
		o.stop()
	}
}

// echo publishes n messages, and waits for each one's echo.
func (g *topics) echo(n int) (time.Duration, error) {
	defer apart(0)()
	if _, err := g.others[0].ask("%d", n); err != nil {
		return 0, err
	}
	p := make([]byte, 64)
	start := time.Now()
	for range n {
		if err := g.p.Publish(p); err != nil {
			return 0, err
		}
		if _, err := g.echoes.Receive(p); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

// publish publishes n messages and returns the processor's time for them: what the publisher
// has of the clock's depends on how many subscribers there are for each processor.
func (g *topics) publish(n int) (time.Duration, error) {
	p := make([]byte, 64)
	for range 1 << 14 { // whoever sleeps is awake then
		if err := g.p.Publish(p); err != nil {
			return 0, err
		}
	}
	start, err := processorTime()
	for range n {
		if err := g.p.Publish(p); err != nil {
			return 0, err
		}
	}
	end, err2 := processorTime()
	return end - start, errors.Join(err, err2)
}

// processorTime is what this process has had so far.
func processorTime() (time.Duration, error) {
	var u unix.Rusage
	err := unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), err
}

// roleTopic reads a topic until its publisher is gone, or, if another has a name, echoes
// into that as many messages as each line asks for. Between those it waits for nothing:
// who spins would take a processor from what is measured then.
func roleTopic(name, back, waiting string, in io.Reader, out io.Writer) error {
	var w topic.Waiting
	if _, err := fmt.Sscan(waiting, (*uint8)(&w)); err != nil {
		return err
	}
	open := func(name string) (*topic.Topic, error) { return topic.Open(name, &topic.OpenOptions{Waiting: w}) }
	t, err := open(name)
	if err != nil {
		return err
	}
	defer func() { _ = t.Close() }()
	s, err := t.Subscriber()
	if err != nil {
		return err
	}
	lines, m := bufio.NewScanner(in), make([]byte, 64)
	if back != "" {
		b, err := open(back)
		if err != nil {
			return err
		}
		defer func() { _ = b.Close() }()
		p, err := b.Publisher()
		if err != nil {
			return err
		}
		defer apart(1)()
		for lines.Scan() {
			var n int
			if _, err := fmt.Sscan(lines.Text(), &n); err != nil {
				return err
			}
			fmt.Fprintln(out, "ready")
			for range n {
				if _, err := s.Receive(m); err != nil {
					return err
				}
				if err := p.Publish(m); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if !lines.Scan() {
		return nil
	}
	fmt.Fprintln(out, "ready")
	go func() { // its end is ours
		for lines.Scan() {
		}
		_ = t.Close()
	}()
	for {
		switch _, err := s.Receive(m); {
		case errors.Is(err, os.ErrClosed):
			return nil
		case err != nil:
			return err
		}
	}
}

// topicPublish is what a message costs its publisher.
func topicPublish(ctx context.Context, e *env) (_ *Result, err error) {
	r := &Result{Title: "Topics: publishing 64 bytes", Text: `The processor's time that a message takes its publisher, with subscribers in other processes, which copy what they can and miss the rest (Overwrite), or are waited for (Wait). Not the clock's, as there may be more
subscribers than processors, and the publisher then has its share of those only. One subscriber should leave it 15 million messages per second.`}
	const alone, one, four = "Overwrite, alone", "Overwrite, one subscriber", "Overwrite, four subscribers"
	var ways []way
	for _, c := range []struct {
		label       string
		subscribers int
		o           topic.Options
	}{
		{alone, 0, topic.Options{}}, {one, 1, topic.Options{}}, {four, 4, topic.Options{}},
		{"Overwrite, many publishers, alone", 0, topic.Options{ManyPublishers: true}},
		{"Wait, one subscriber", 1, topic.Options{Policy: topic.Wait}}, {"Wait, four subscribers", 4, topic.Options{Policy: topic.Wait}},
	} {
		g, err := newTopics(e, fmt.Sprintf("%v-%d-%v", c.o.Policy, c.subscribers, c.o.ManyPublishers), c.subscribers, false, c.o)
		if err != nil {
			return nil, err
		}
		defer g.close()
		ways = append(ways, way{c.label, g.publish})
	}
	if r.Rows, err = e.rounds(ctx, ways); err != nil {
		return nil, err
	}
	r.faster(four, alone, 0.8)
	r.perSecond("messages per second")
	return r, nil
}

// topicEcho is a message there and back, by two topics.
func topicEcho(ctx context.Context, e *env) (_ *Result, err error) {
	r := &Result{Title: "Topics: 64 bytes there and back", Text: `Between two processes, by two topics, each keeping to a processor of its own. Sleeping: nobody spins; C is a bare futex word, with no message in it. Adaptive is the default: spins for as long as that was of use lately, then sleeps. Others that
publish are as in the case of rings: they copy messages of 64 bytes in and out, too.`}
	var ways []way
	for _, w := range []topic.Waiting{topic.Spin, topic.Sleep, topic.Adaptive} {
		label := [...]string{"topic, adaptive", "topic, spinning", "topic, sleeping"}[w]
		g, err := newTopics(e, fmt.Sprintf("echo-%d", w), 1, true, topic.Options{Slots: 64, Waiting: w})
		if err != nil {
			return nil, err
		}
		defer g.close()
		ways = append(ways, way{label, g.echo})
	}
	if e.c != nil {
		name := e.block("topic-c")
		b, err := shm.Create(name, 4096, nil)
		if err != nil {
			return nil, err
		}
		defer remove(b)
		ways = append(ways, e.c.way("C, futex", "pingpong-apart", e.path(name), 4096))
	}
	others, stop := e.others(ctx, r, "echo", topicMakers)
	defer stop()
	if r.Rows, err = e.rounds(ctx, append(ways, others...)); err != nil {
		return nil, err
	}
	r.Missing = append(r.Missing, e.missing...)
	r.atMost("topic, sleeping", "C, futex", 1.2)
	return r, nil
}
