//go:build linux && (amd64 || arm64)

package topic_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/topic"
)

// What a Python of these tests knows.
const pythonTopic = `
import random
import shm_topic
from parties import *
from shm_topic import Topic, PeerGone, Taken, Overwritten
name = sys.argv[1]

def produce(frm, n, seed):
    rnd, i = random.Random(seed), 0
    with topic.publisher() as p:
        while i < n:
            how = rnd.randrange(4)
            m = message(frm, i, rnd.randrange(16, topic.max_message))
            if how == 0:
                p.publish(m)
            elif how == 1:
                with p.reserve(len(m)) as room:
                    room[:] = m
            elif how == 2 and topic._one:  # of many, what is given back counts as missed, if it is not come to in time
                try:
                    with p.reserve(len(m)):
                        raise KeyError
                except KeyError:
                    continue
            else:
                batch = [m] + [message(frm, i + k, 20) for k in range(1, min(5, n - i))]
                i += p.publish_batch(batch) - 1
            i += 1

def consume(s, seed):
    "How many came, and were missed."
    rnd, last, n, lost = random.Random(seed), {}, 0, 0
    while True:
        try:
            how = rnd.randrange(3)
            if how == 0:
                got = [s.receive()]
            elif how == 1:
                try:
                    with s.lease() as view:
                        got = [bytes(view)]
                except Overwritten:
                    continue  # in the next missed, with those before it; the last message is never overwritten
            else:
                got = s.receive_batch(7)
        except EOFError:
            return n, lost
        lost += s.missed
        for m in got:
            frm, number = parse(m)
            if last.get(frm, -1) >= number or number - last.get(frm, -1) - 1 > lost:
                raise AssertionError("%d of %d after %d, %d missed" % (number, frm, last.get(frm, -1), lost))
            last[frm] = number
            n += 1
`

func startTopic(t *testing.T, py shmtest.Python, name string) shmtest.Driven {
	d := shmtest.StartDriven(t, py, pythonTopic, name)
	d.Do("topic = Topic(name)", "None")
	return d
}

func eachPython(t *testing.T, run func(t *testing.T, py shmtest.Python)) {
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.String(), func(t *testing.T) {
			t.Parallel()
			run(t, py)
		})
	}
}

// Go and Python publish and subscribe together, in topics of all kinds, so small that they
// wrap all the time: every message comes, whole and in order, or is counted as missed.
func TestPython(t *testing.T) {
	const each = 300
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		modes(t, func(t *testing.T, o topic.Options) {
			o.SlotSize, o.Slots = 56, 16
			for _, pythonPublishes := range []bool{true, false} {
				tp := create(t, o)
				p, q := startTopic(t, py, tp.Name()), startTopic(t, py, tp.Name())
				n := each
				q.Do("s = topic.subscriber()", "None")
				s := subscriberOf(t, tp)
				seen := newTally()
				end := goes(func() error { return receiveAll(s, 0, seen.take) })
				q.Send("consume(s, 5)")
				if pythonPublishes && o.ManyPublishers {
					n = 2 * each
					there := publisherOf(t, tp) // one may have ended before the other has begun
					p.Do(fmt.Sprintf("both((produce, 1, %d, 1), (produce, 2, %d, 2))", each, each), "None")
					mustBe(t, there.Close(), nil)
				} else if pythonPublishes {
					p.Do(fmt.Sprintf("produce(1, %d, 1)", each), "None")
				} else {
					pub := publisherOf(t, tp)
					if err := errors.Join(publishAll(pub, 3, each), pub.Close()); err != nil {
						t.Fatal(err)
					}
				}
				mustBe(t, <-end, io.EOF)
				var came, missed int
				line := q.Line()
				if _, err := fmt.Sscanf(line, "(%d, %d)", &came, &missed); err != nil {
					t.Fatal(line, q.Stderr())
				}
				for who, sum := range map[string]int{"Go": seen.n + int(seen.missed), "Python": came + missed} {
					if sum != n && (!o.ManyPublishers || o.Policy == topic.Wait || sum < n) {
						t.Errorf("%s counts %d of %d", who, sum, n)
					}
				}
				if o.Policy == topic.Wait && (seen.missed != 0 || missed != 0) {
					t.Errorf("%d and %d were missed", seen.missed, missed)
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				q.Do("s.close()", "None")
				q.Do("{k: v for k, v in topic.stats().items() if k in ('published', 'publishers', 'subscribers')}",
					fmt.Sprintf("{'published': %d, 'publishers': 0, 'subscribers': 0}", n))
				for _, d := range []shmtest.Driven{p, q} {
					d.Do("topic.close()", "None")
					d.End()
				}
			}
		})
	})
}

// What a Python makes is what Go makes, and each call of Python's does as it says.
func TestPythonCalls(t *testing.T) {
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		name := shmtest.Name(t)
		p := shmtest.StartDriven(t, py, pythonTopic, name)
		p.Do("Topic(name)", "FileNotFoundError")
		p.Do("topic = Topic.create(name, slot_size=20, slots=3, participants=3)", "None")
		t.Cleanup(func() { _ = shm.Unlink(name) })
		p.Do("Topic.create(name, policy='maybe')", "ValueError")
		p.Do("Topic.create(name)", "FileExistsError")
		tp, err := topic.Open(name, &topic.OpenOptions{Options: &topic.Options{SlotSize: 20, Slots: 3, Participants: 3}})
		if err != nil {
			t.Fatal(err)
		}
		defer tp.Close()
		p.Do("topic.latest()", "(None, 0)")
		p.Do("p = topic.publisher()", "None")
		p.Do("topic.publisher()", "Taken")
		if _, err := tp.Publisher(); !errors.Is(err, topic.ErrTaken) {
			t.Error(err)
		}
		s := subscriberOf(t, tp)
		p.Do("p.publish(bytes(25))", "ValueError")
		p.Do("p.publish('text')", "TypeError")
		p.Do("p.publish_batch([b'%d' % i for i in range(10)])", "10")
		buf := make([]byte, 24)
		if n, err := s.Receive(buf); err != nil || string(buf[:n]) != "7" || s.Missed() != 7 {
			t.Error(n, err, s.Missed())
		}
		p.Do("topic.latest()", "(b'9', 10)")
		p.Do("topic.subscriber('never')", "ValueError")
		p.Do("s = topic.subscriber('oldest')", "None")
		p.Do("topic.subscriber()", "OSError") // three are there
		p.Do("s.number, s.receive(), s.receive(), s.number", "(6, b'6', b'7', 8)")
		p.Do("lease = s.lease(); view = lease.__enter__()", "None")
		p.Do("s.receive()", "RuntimeError")
		p.Do("bytes(view), view.readonly, lease.__exit__(None, None, None)", "(b'8', True, None)")
		p.Do("lease = s.lease(); view = lease.__enter__(); p.publish_batch([b'x'] * 4)", "None")
		p.Do("lease.__exit__(None, None, None)", "Overwritten")
		p.Do("s.receive(), s.missed, s.number", "(b'x', 1, 11)")
		p.Do("s.receive_batch(9), s.receive(timeout=0), s.receive(timeout=0.01), s.receive_batch(9, timeout=0)", "([b'x', b'x', b'x'], None, None, [])")
		p.Do("room = p.reserve(24); room.buf[:5] = b'hello'", "None")
		p.Do("p.publish(b'')", "RuntimeError")
		p.Do("room.commit(5), topic.latest()", "(None, (b'hello', 15))")
		p.Do("p.close(); t = topic.subscriber('newest')", "None")
		p.Do("list(s), list(t)", "([b'hello'], [b'hello'])")
		p.Do("s.receive()", "EOFError")
		p.Do("topic.unlink(); topic.close()", "None")
		p.Do("topic.latest()", "ValueError")

		// A value that is being overwritten everywhere is not one that never was.
		p.Do("t = Topic.create(name, slots=2, many_publishers=True); t.unlink(); p, q = t.publisher(), t.publisher()", "None")
		p.Do("p.publish(b'a'), t.latest()", "(True, (b'a', 1))")
		p.Do("rooms = p.reserve(1), q.reserve(1)", "None")
		p.Do("t.latest()", "Overwritten")
		p.Do("[room.abort() for room in rooms], t.close()", "([None, None], None)")
		p.End()
	})
}

// A subscriber in Python is something that selectors wait for.
func TestPythonSelector(t *testing.T) {
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		tp := create(t, topic.Options{SlotSize: 24, Slots: 8, Policy: topic.Wait})
		p, s := startTopic(t, py, tp.Name()), publisherOf(t, tp)
		p.Do("r = topic.subscriber(); sel = selectors.DefaultSelector()", "None")
		p.Do("sel.register(r, selectors.EVENT_READ).fd == r.fileno(), r.receive(timeout=0), sel.select(0)", "(True, None, [])")
		for range 3 {
			p.Send("len(sel.select())")
			if err := s.Publish([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			if line := p.Line(); line != "1" {
				t.Fatal(line, p.Stderr())
			}
			p.Do("r.receive(timeout=0), len(sel.select(0)), r.receive(timeout=0), sel.select(0)", "(b'hello', 1, None, [])")
		}
		p.Do("sel.unregister(r).fd == r.fileno()", "True")
		const n = 300
		p.Send("selected(r)")
		for range n {
			if err := s.Publish([]byte("hello")); err != nil {
				t.Fatal(err)
			}
		}
		mustBe(t, s.Close(), nil)
		if line := p.Line(); line != strconv.Itoa(n) {
			t.Fatal(line, p.Stderr())
		}
		p.Do("r.close(), r.close()", "(None, None)")
		p.Do("r.fileno()", "ValueError")
		p.Do("r = topic.subscriber(); f = r.fileno(); r.receive(timeout=0)", "EOFError")
		p.Do("topic.close()", "None") // with a thread that waits
		p.End()
	})
}

// What is no topic, or a damaged one, is an error and nothing worse.
func TestPythonFormat(t *testing.T) {
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		for _, many := range []bool{false, true} {
			tp := create(t, topic.Options{SlotSize: 16, Slots: 4, ManyPublishers: many})
			p := startTopic(t, py, tp.Name())
			mem := tp.Block().Bytes()
			for _, c := range []struct {
				off   int
				value uint64
				want  string
			}{
				{0, 1, "ValueError"}, {8, 2, "ValueError"}, {8, 1 | 4<<32, "ValueError"}, {16, 17, "ValueError"}, {24, 5, "ValueError"}, {24, 1 << 29, "ValueError"},
				{32, 8, "ValueError"}, {40, 1, "ValueError"}, {48, 1, "OSError"}, {64, 0, "ValueError"},
			} {
				old := binary.LittleEndian.Uint64(mem[c.off:])
				binary.LittleEndian.PutUint64(mem[c.off:], c.value)
				p.Do("Topic(name)", c.want)
				binary.LittleEndian.PutUint64(mem[c.off:], old)
			}
			const slot0 = 4096 + 8192 // 64 entries
			p.Do("p, s = topic.publisher(), topic.subscriber()", "None")
			for _, w := range []uint64{1<<16 | 4, 1<<16 | 2} {
				binary.LittleEndian.PutUint64(mem[slot0:], w)
				binary.LittleEndian.PutUint64(mem[slot0+8:], 17) // more than a slot has
				p.Do("s.receive(timeout=0)", "ValueError")
			}
			p.Do("topic.latest()", "ValueError")
			// Random words everywhere behind the header: each call returns.
			calls := []string{"p.publish(b'x', timeout=0)", "s.receive(timeout=0)", "s.receive_batch(9, timeout=0)", "topic.latest()"}
			x := uint64(88172645463325252)
			for i := range 200 {
				x ^= x << 13
				x ^= x >> 7
				x ^= x << 17
				off := slot0 + int(x%32)*8
				if i%2 != 0 {
					off = 192
				}
				binary.LittleEndian.PutUint64(mem[off:], x*uint64(i%3)>>(i%60))
				p.Send(calls[i%len(calls)])
				p.Line()
			}
			p.Kill()
		}
	})
}

// asleep waits until somebody has slept on tp.
func asleep(t *testing.T, tp *topic.Topic) {
	t.Helper()
	shmtest.Deadline(t, shmtest.Patience)
	for {
		if st, err := tp.Stats(); err != nil || st.Waits > 0 {
			return
		}
	}
}

// Whoever dies, the others hear of it and go on.
func TestPythonDeath(t *testing.T) {
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		tp := create(t, topic.Options{Slots: 4, Policy: topic.Wait})
		s := subscriberOf(t, tp)
		p := startTopic(t, py, tp.Name())
		p.Do("p = topic.publisher(); p.publish(b'kept'); room = p.reserve(9)", "None")
		buf := make([]byte, 48)
		if n, err := s.Receive(buf); n != 4 || err != nil {
			t.Fatal(n, err)
		}
		got := goes(func() error { _, err := s.Receive(buf); return err })
		asleep(t, tp)
		p.Kill()
		mustBe(t, <-got, topic.ErrPeerGone)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}

		// A Python that does not read holds a publisher up until it dies.
		pub := publisherOf(t, tp)
		p = startTopic(t, py, tp.Name())
		p.Do("s = topic.subscriber()", "None")
		for range 4 {
			if err := pub.Publish([]byte("more")); err != nil {
				t.Fatal(err)
			}
		}
		if ok, err := pub.TryPublish(nil); ok || err != nil {
			t.Fatal(ok, err)
		}
		got = goes(func() error { return pub.Publish([]byte("goes on")) })
		p.Kill()
		mustBe(t, <-got, nil)
		p = startTopic(t, py, tp.Name())
		p.Do("topic.latest()", "(b'goes on', 6)")
		p.Do("s = topic.subscriber()", "None")
		p.Send("s.receive()")
		if err := errors.Join(pub.Publish([]byte("to you")), pub.Close()); err != nil {
			t.Fatal(err)
		}
		p.Expect("b'to you'")
		p.Do("s.receive()", "EOFError")
		p.Do("topic.close()", "None")
		p.End()
		if _, err := shm.Prune(); err != nil {
			t.Error(err)
		}
	})
}

// pythonSteps is what is killed. In the journal: how many were begun, and published.
const pythonSteps = `
def publishes():
    with Topic(name) as topic, retry(topic.publisher, Taken) as p:
        def count(n, f):
            put(0, get(0) + n)
            f()
            put(1, get(1) + n)
        def reserved():
            with p.reserve(20) as room:
                room[:] = message(0, 5, 20)
        p.reserve(30).abort()
        count(1, lambda: p.publish(message(0, 0, 16)))
        count(1, lambda: p.publish(message(0, 1, 48)))
        count(3, lambda: p.publish_batch([message(0, 2, 40), message(0, 3, 20), message(0, 4, 20)]))
        count(1, reserved)

def subscribes():
    with Topic(name) as topic, topic.subscriber("oldest") as s:
        for _ in range(2):
            put(0, parse(s.receive())[1] + 1)
        with s.lease() as view:
            put(0, parse(view)[1] + 1)
        for m in s.receive_batch(3):
            put(0, parse(m)[1] + 1)
`

// A Python killed between any two of its stores leaves a topic that works, with
// everything that it had published and nothing torn, and Go goes on.
func TestKillPython(t *testing.T) {
	pythons := shmtest.Pythons(t)
	pythons = slices.CompactFunc([]shmtest.Python{pythons[0], pythons[len(pythons)-1]}, func(a, b shmtest.Python) bool { return a.Minor == b.Minor })
	for _, py := range pythons {
		modes(t, func(t *testing.T, o topic.Options) {
			o.SlotSize, o.Slots = 48, 8
			for _, what := range []string{"publishes", "subscribes"} {
				t.Run(py.String()+" "+what, func(t *testing.T) {
					t.Parallel()
					killPython(t, py, what, o)
				})
			}
		})
	}
}

func killPython(t *testing.T, py shmtest.Python, what string, o topic.Options) {
	tp := create(t, o)
	p := shmtest.StartDriven(t, py, pythonTopic+pythonSteps, tp.Name())
	const messages = 6
	// feed publishes six for those who subscribe.
	feed := func() {
		if what == "publishes" {
			return
		}
		pub := publisherOf(t, tp)
		for i := range uint32(messages) {
			if err := pub.Publish(message(0, i, 20+4*int(i))); err != nil {
				t.Fatal(err)
			}
		}
		if err := pub.Close(); err != nil {
			t.Fatal(err)
		}
	}
	feed()
	p.Do(fmt.Sprintf("at = plan(shm_topic, %s, name)", what), "None")
	p.Send("' '.join(map(str, at))")
	steps := strings.Fields(p.Line())
	every := 4 * slower
	if shmtest.EveryStep(t) {
		every = 1
	}
	skip := rand.IntN(every)
	hits, total := 0, 0
	for i, at := range steps {
		if i%every != skip {
			continue
		}
		feed()
		s := subscriberOf(t, tp)
		total++
		p.Send(fmt.Sprintf("die(shm_topic, %s, %s)", what, at))
		switch line := p.Line(); line {
		case "(True, 9)":
			hits++
		case "(False, 0)": // less had to be done than in the rehearsal
		default:
			t.Fatalf("at step %s: %s\n%s", at, line, p.Stderr())
		}
		p.Send("get(0), get(1)")
		var begun, done int
		if _, err := fmt.Sscanf(p.Line(), "(%d, %d)", &begun, &done); err != nil {
			t.Fatal(err)
		}
		// A publisher of ours can join and publish, and what it says comes last.
		var pub *topic.Publisher
		for {
			var err error
			if pub, err = tp.Publisher(); err == nil {
				break
			} else if !errors.Is(err, topic.ErrTaken) {
				t.Fatal(err)
			}
		}
		if err := pub.Publish(message(1, 0, 16)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 48)
		came := 0
		for last := false; !last; {
			n, err := s.Receive(buf)
			if err != nil {
				t.Fatal(err)
			}
			from, number, err := parse(buf[:n])
			if err != nil {
				t.Fatal(err)
			}
			if last = from == 1; !last {
				if int(number) != came {
					t.Errorf("killed at step %s: %d came in place of %d", at, number, came)
				}
				came++
			}
		}
		if what == "publishes" && (came < done || came > begun) {
			t.Errorf("killed at step %s: %d came, %d begun, %d published", at, came, begun, done)
		}
		if err := errors.Join(s.Close(), pub.Close()); err != nil || t.Failed() {
			t.Fatal(err, p.Stderr())
		}
	}
	t.Logf("killed at %d steps of %d, of %d that there are", hits, total, len(steps))
	if hits < total*9/10 {
		t.Error("too few were killed")
	}
	p.End()
	if _, err := shm.Prune(); err != nil {
		t.Error(err)
	}
	if st, err := tp.Stats(); err != nil || st.Publishers != 0 || st.Subscribers != 0 {
		t.Error(st, err)
	}
}

// Whoever follows a Python by the number sees no gap that was not said.
func TestPythonNumbers(t *testing.T) {
	py := shmtest.Pythons(t)[0]
	tp := create(t, topic.Options{Slots: 64})
	p := startTopic(t, py, tp.Name())
	p.Do("s = topic.subscriber()", "None")
	pub := publisherOf(t, tp)
	for i := range 200 {
		if err := pub.Publish([]byte(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	p.Do("m = s.receive()", "None")
	p.Do("int(m) == s.missed == s.number - 1, s.missed", "(True, 152)")
	p.Do("topic.close()", "None")
	p.End()
}
