//go:build shmcrash && linux

package ring

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/party"
	"github.com/sharedmem/shm/internal/shmtest/explore"
	"github.com/sharedmem/shm/internal/step"
)

// These tests run the real code of senders and receivers in would-be processes on
// one small ring over the heap; package explore tries how their steps can lie.

// model is what is true of the ring.
type model struct {
	*explore.Explorer
	mem   []byte
	g     geometry
	parts []*would
	clock int
	tale  map[byte]*story
	lost  int  // messages that dead receivers had in their hands
	calm  bool // nobody is told to give up: the calls without a context will do
	gone  int  // messages of calls that copy in which somebody died, perhaps after it gave the slot back
}

// story is what became of a message.
type story struct {
	begun, sent int // when sending it began, and was over; 0: never
	given, came int // when the call began that received it without a flag, and was over
	plain       int // how often it came so
	again       int // and how often flagged
}

// would is a would-be sender or receiver.
type would struct {
	*explore.Thread
	m    *model
	q    *Queue
	s    *Sender
	r    *Receiver
	next byte   // the next message that it sends
	last []byte // what came last of each sender
	hand byte   // what it is reading

	copying int // messages at most of a call that copies, also while taking note of what it gave
}

const perSender = 16 // messages, at most

func (m *model) now() int {
	m.clock++
	return m.clock
}

func (m *model) story(id byte) *story {
	if m.tale[id] == nil {
		m.tale[id] = &story{}
	}
	return m.tale[id]
}

// open opens the ring in p.
func (m *model) open(p *explore.Process) *Queue {
	c, _, err := newCore(m.mem)
	if err != nil {
		panic(err)
	}
	q := &Queue{core: c}
	q.party.Here(q.structure(), p.ID, p.Bell, m.Alive)
	q.party.Ways = party.Sleep
	h := c.hdr
	m.Watch(step.Raw64(&h.epoch), "epoch")
	m.Watch(step.Raw64(&h.again), "again")
	m.Watch(step.Raw64(&h.tally), "tally")
	m.Watch(step.Raw64(&h.tail), "tail")
	m.Watch(step.Raw64(&h.head), "head")
	m.Watch(step.Raw32(&h.filled), "filled")
	m.Watch(step.Raw32(&h.freed), "freed")
	table, peers := h.Words()
	m.Watch(step.Raw64(table), "table")
	m.Watch(step.Raw64(peers), "peers")
	for i := range c.entries {
		e := &c.entries[i]
		m.Watch(step.Raw64(&e.seen), fmt.Sprintf("seen of %d", i))
		m.Watch(step.Raw64(&e.lost), fmt.Sprintf("lost of %d", i))
		m.Watch(step.Raw64(&e.redelivered), fmt.Sprintf("redelivered of %d", i))
		owner, state := e.Words()
		m.Watch(step.Raw64(owner), fmt.Sprintf("owner of %d", i))
		m.Watch(step.Raw64(state), fmt.Sprintf("state of %d", i))
	}
	for i := range int(m.g.slots) {
		length := i
		if !c.direct {
			length = i*c.step + 1
			m.Watch(step.Raw64(&c.words[i*c.step]), fmt.Sprintf("word of %d", i))
		}
		m.Watch(step.Raw64(&c.words[length]), fmt.Sprintf("length of %d", i))
	}
	return q
}

// act is what a participant does.
type act func(w *would)

type scenario struct {
	name            string
	o               Options
	fenced          bool
	senders         [][]act // by process
	receivers       [][]act
	joined          bool // they are there when it begins
	deaths, cancels int
}

// scenario makes s one for the explorer.
func (m *model) scenario(s scenario) explore.Scenario {
	g, err := s.o.geometry()
	if err != nil {
		panic(err)
	}
	if s.fenced {
		g.flags |= flagFenced
	}
	mem := layout.Bytes(make([]uint64, g.size()/8))
	return explore.Scenario{Name: s.name, Deaths: s.deaths, Cancels: s.cancels, Late: true, Begin: func(*explore.Explorer) {
		clear(mem)
		if err := format(mem, g); err != nil {
			panic(err)
		}
		m.mem, m.g, m.calm = mem, g, s.cancels == 0
		m.parts, m.clock, m.tale, m.lost, m.gone = nil, 0, map[byte]*story{}, 0, 0
		for i, crews := range [][][]act{s.senders, s.receivers} {
			for _, crew := range crews {
				p := m.Process()
				q := m.open(p)
				for _, a := range crew {
					m.does(p, q, i == 0, s.joined, a)
				}
			}
		}
	}, Died: func(p *explore.Process) {
		for _, w := range m.parts {
			if w.Process == p && w.hand != 0 {
				m.lost++
			}
			if w.Process == p {
				m.gone += w.copying
			}
		}
	}, End: func(*explore.Explorer) { m.end(s.o) }}
}

// does has another goroutine of p join, if that is still to be done, and do a.
func (m *model) does(p *explore.Process, q *Queue, sends, joined bool, a act) {
	w := &would{m: m, q: q, next: byte(len(m.parts)*perSender + 1), last: make([]byte, 16)}
	m.parts = append(m.parts, w)
	join := func() (err error) {
		if sends {
			w.s, err = q.Sender()
		} else {
			w.r, err = q.Receiver()
		}
		return err
	}
	if joined {
		if err := join(); err != nil {
			panic(err)
		}
	}
	w.Thread = p.Go(func(*explore.Thread) {
		if !joined {
			if err := join(); err != nil {
				if !errors.Is(err, ErrTaken) {
					m.Fail("%s cannot join: %v", w.Name, err)
				}
				return
			}
		}
		a(w)
	})
}

// What they do.

// message is n bytes that are all id.
func message(id byte, n int) []byte { return slices.Repeat([]byte{id}, n) }

// send sends one message in the way how; false if it was not.
func (w *would) send(how func(id byte) error) bool {
	id := w.next
	w.next++
	st := w.m.story(id)
	st.begun = w.m.now()
	switch err := how(id); {
	case err == nil:
		st.sent = w.m.now()
		w.m.Note("%s has sent %d", w.Name, id)
		return true
	case w.over(err):
		delete(w.m.tale, id) // it must not come
	}
	return false
}

// over tells whether err is a way to end, and fails if not.
func (w *would) over(err error) bool {
	switch {
	case errors.Is(err, context.Canceled) && w.Cancelled():
	case errors.Is(err, io.EOF), errors.Is(err, ErrPeerGone), errors.Is(err, io.ErrClosedPipe):
		w.m.Note("%s: %v", w.Name, err)
	default:
		w.m.Fail("%s: %v", w.Name, err)
		return false
	}
	return true
}

func (w *would) close() {
	var err error
	if w.s != nil {
		err = w.s.Close()
	} else {
		err = w.r.Close()
	}
	if err != nil {
		w.m.Fail("%s cannot close: %v", w.Name, err)
	}
}

// sends sends n messages, each of size bytes, and closes.
func sends(n, size int) act {
	return func(w *would) {
		for range n {
			if !w.send(func(id byte) error {
				if w.m.calm {
					return w.s.Send(message(id, size))
				}
				return w.s.SendContext(w.Context, message(id, size))
			}) {
				break
			}
		}
		w.close()
	}
}

// insists sends two messages, waits for both to have come, and closes.
func insists(w *would) {
	for range 2 {
		w.send(func(id byte) error { return w.s.Send(message(id, 8)) })
	}
	w.m.Until(func() bool {
		for _, s := range w.m.tale {
			if s.came == 0 {
				return false
			}
		}
		return true
	})
	w.close()
}

// writes sends n messages as sends does, in place, in two halves, and gives one back in between.
func writes(n, size int) act {
	return func(w *would) {
		for i := range n {
			if !w.send(func(id byte) error {
				p, err := w.s.ReserveContext(w.Context, size)
				if err == nil && i == 1 {
					w.Pause()
					if err = w.s.Abort(); err == nil {
						p, err = w.s.ReserveContext(w.Context, size)
					}
				}
				if err != nil {
					return err
				}
				copy(p[:size/2], message(id, size/2))
				w.Pause()
				copy(p[size/2:], message(id, size))
				return w.s.Commit(size)
			}) {
				break
			}
		}
		w.close()
	}
}

// batch sends n messages at once, and closes.
func batch(n, size int) act {
	return func(w *would) {
		var ps [][]byte
		first := w.next
		for range n {
			w.m.story(w.next).begun = w.m.now()
			ps = append(ps, message(w.next, size))
			w.next++
		}
		got, err := w.s.SendBatchContext(w.Context, ps)
		if err != nil && !w.over(err) {
			return
		}
		for i := range n {
			if i < got {
				w.m.story(first + byte(i)).sent = w.m.now()
			} else {
				delete(w.m.tale, first+byte(i))
			}
		}
		w.close()
	}
}

// came takes note of a message that was received, while it can still change.
func (w *would) came(p []byte, since int) {
	m := w.m
	if len(p) == 0 {
		m.Fail("%s receives nothing", w.Name)
		return
	}
	id := p[0]
	w.hand = id
	st := m.tale[id]
	if st == nil {
		m.Fail("%s receives %d, which was not sent", w.Name, id)
		return
	}
	for range 2 {
		if !slices.Equal(p, message(id, len(p))) {
			m.Fail("%s receives a torn message: %d", w.Name, p)
		}
		w.Pause()
	}
	if w.r.Redelivered() {
		m.Note("%s receives %d, which was given to another", w.Name, id)
		st.again++
		return
	}
	m.Note("%s receives %d", w.Name, id)
	if from := id / perSender; id <= w.last[from] {
		m.Fail("%s receives %d after %d", w.Name, id, w.last[from])
	} else {
		w.last[from] = id
	}
	st.plain++
	st.given, st.came = since, m.now()
}

// takes receives n messages, n < 0 for all, and closes.
func takes(n int) act {
	return func(w *would) {
		for ; n != 0; n-- {
			since := w.m.now()
			err := w.r.LeaseContext(w.Context, func(p []byte) error {
				w.came(p, since)
				return nil
			})
			w.hand = 0
			if err != nil {
				w.over(err)
				w.m.complete(err)
				break
			}
		}
		w.close()
	}
}

// copies receives all, one by one and in batches by turns.
func copies(w *would) {
	bufs := make([][]byte, 2)
	for i := 0; ; i++ {
		for k := range bufs {
			bufs[k] = make([]byte, 64)
		}
		since, n, err := w.m.now(), 1, error(nil)
		if w.copying = 1 + i%2; w.copying == 1 {
			var size int
			if w.m.calm {
				size, err = w.r.Receive(bufs[0])
			} else {
				size, err = w.r.ReceiveContext(w.Context, bufs[0])
			}
			bufs[0] = bufs[0][:size]
		} else {
			n, err = w.r.ReceiveBatchContext(w.Context, bufs)
		}
		if err != nil {
			w.over(err)
			w.m.complete(err)
			break
		}
		for _, p := range bufs[:n] {
			w.came(p, since)
		}
		w.hand, w.copying = 0, 0
	}
	w.hand, w.copying = 0, 0
	w.close()
}

// receives receives all, one by one.
func receives(w *would) {
	for {
		p, since := make([]byte, 64), w.m.now()
		n, err := w.r.Receive(p)
		if err != nil {
			w.over(err)
			w.m.complete(err)
			break
		}
		w.came(p[:n], since)
		w.hand = 0
	}
	w.close()
}

// complete is called when a receiver has found an end: if it is an orderly one, and nobody
// else receives, whatever was sent has come.
func (m *model) complete(err error) {
	if !errors.Is(err, io.EOF) {
		return
	}
	receivers := 0
	for _, w := range m.parts {
		if w.r != nil {
			receivers++
		}
		if w.Dead() {
			return // what it had may come again
		}
	}
	for id, a := range m.tale {
		// Another may have taken it, and not have come to say so.
		if receivers == 1 && a.sent != 0 && a.plain == 0 {
			m.Fail("an end, and %d was sent and is still to come", id)
		}
	}
}

// tries receives without waiting, some times.
func tries(w *would) {
	for range 4 {
		var p [64]byte
		since := w.m.now()
		w.copying = 1
		n, ok, err := w.r.TryReceive(p[:])
		if err != nil {
			w.over(err)
			break
		}
		if ok {
			w.came(p[:n], since)
			w.hand = 0
		}
		w.copying = 0
	}
	w.copying = 0
	w.close()
}

// end drains the ring and judges.
func (m *model) end(o Options) {
	p := m.Process()
	q := m.open(p)
	if !p.Alone(func(t *explore.Thread) {
		w := &would{Thread: t, m: m, q: q, last: make([]byte, 16), next: 15*perSender + 1}
		t.Name = "who comes afterwards"
		var err error
		// The sender first: from here on an end is an orderly one.
		if w.s, err = q.Sender(); err == nil {
			w.r, err = q.Receiver()
		}
		if err != nil {
			m.Fail("%s cannot join: %v", t.Name, err)
			return
		}
		// It empties the ring, fills it, empties it.
		for i, want := range []int{-1, int(m.g.slots)} {
			got := 0
			for {
				var p [64]byte
				since := m.now()
				n, ok, err := w.r.TryReceive(p[:])
				if err != nil {
					m.Fail("%s: %v", t.Name, err)
				}
				if !ok || err != nil {
					break
				}
				w.came(p[:n], since)
				got++
			}
			if want >= 0 && got != want {
				m.Fail("%d came of %d, one in each slot", got, want)
			}
			if i == 0 {
				for range m.g.slots {
					w.send(func(id byte) error {
						ok, err := w.s.TrySend(message(id, 8))
						if !ok && err == nil {
							err = errors.New("an empty ring is full")
						}
						return err
					})
				}
			}
		}
	}) {
		m.Fail("it is not usable any more")
	}
	missing, again := 0, 0
	for id, a := range m.tale {
		switch {
		case a.plain > 1:
			m.Fail("%d came %d times", id, a.plain)
		case a.again > 0 && o.AfterDeath == Discard:
			m.Fail("%d came again", id)
		case a.sent != 0 && a.plain+a.again == 0:
			missing++
			if o.AfterDeath != Discard && m.gone == 0 {
				m.Fail("%d was sent and did not come", id)
			}
		}
		again += a.again
		for other, b := range m.tale {
			if a.sent != 0 && a.sent < b.begun && b.came != 0 && b.came < a.given {
				m.Fail("%d was sent before %d, and came after it", id, other)
			}
		}
	}
	// What a dead receiver has not said that it has done with counts, whether it had told of it or not.
	if s := q.stats(); q.direct && m.gone == 0 && (int(s.Lost) < missing || int(s.Redelivered) < again || int(s.Lost+s.Redelivered) > m.deaths()) {
		m.Fail("%d are missing and %d came again; the ring counts %d and %d", missing, again, s.Lost, s.Redelivered)
	}
	if missing > m.lost+m.gone || again > m.deaths()+m.gone {
		m.Fail("%d are missing and %d came again; the dead had %d", missing, again, m.lost+m.gone)
	}
}

// deaths is how many have died that may have received something.
func (m *model) deaths() (n int) {
	for _, w := range m.parts {
		if w.r != nil && w.Dead() {
			n++
		}
	}
	return n
}

var (
	one1  = Options{Senders: One, Receivers: One}
	oneN  = Options{Senders: One, Receivers: Many}
	manyN = Options{Senders: Many, Receivers: Many}
	many1 = Options{Senders: Many, Receivers: One}
)

func sized(o Options, slots, longest int) Options {
	o.Slots, o.SlotSize, o.MaxMessage, o.Participants = slots, 8, longest, 4
	return o
}

func discard(o Options) Options {
	o.AfterDeath = Discard
	return o
}

var modes = map[string]Options{"1-1": one1, "1-n": oneN, "n-1": many1, "n-n": manyN}

type crew = []act

var (
	one  = []crew{{sends(3, 8)}}
	two  = []crew{{sends(2, 8)}, {sends(1, 8)}}
	all  = []crew{{takes(-1)}}
	both = []crew{{takes(-1)}, {takes(-1)}}
)

var scenarios = func() (list []scenario) {
	for _, fenced := range []bool{true, false} {
		add := func(name string, o Options, senders, receivers []crew, deaths, cancels int) {
			if !fenced {
				name += ", not fenced"
			}
			list = append(list, scenario{name, o, fenced, senders, receivers, !strings.HasPrefix(name, "join"), deaths, cancels})
		}
		add("1-1", sized(one1, 2, 8), one, all, 0, 0)
		add("n-1", sized(many1, 2, 8), []crew{{sends(2, 8)}, {sends(2, 8)}}, all, 0, 0)
		add("1-n", sized(oneN, 2, 8), one, both, 0, 0)
		add("n-n", sized(manyN, 2, 8), []crew{{sends(2, 8)}, {sends(2, 8)}}, both, 0, 0)
		add("1-1, batch", sized(one1, 2, 8), []crew{{batch(3, 8)}}, all, 1, 0)
		add("n-n, batch", sized(manyN, 2, 8), []crew{{batch(2, 8)}, {batch(1, 8)}}, all, 1, 0)
		if !fenced {
			continue
		}
		// With a death at any step, fewer take part.
		for _, by := range []struct {
			name               string
			senders, receivers []crew
		}{
			{"1-1", one, all},
			{"n-1", two, all},
			{"1-n", one, both},
			{"n-n, two send", two, all},
			{"n-n, two receive", one, both},
		} {
			o := modes[by.name[:3]]
			add(by.name+", a death", sized(o, 2, 8), by.senders, by.receivers, 1, 0)
			add(by.name+", one gives up", sized(o, 2, 8), by.senders, by.receivers, 0, 1)
			add(by.name+", discard", discard(sized(o, 2, 8)), by.senders, by.receivers, 1, 0)
		}
		add("n-n, two deaths", sized(manyN, 2, 8), two, both, 2, 0)
		add("1-1, two deaths", sized(one1, 2, 8), one, all, 2, 0)
		add("1-1, discard, two deaths", discard(sized(one1, 2, 8)), one, all, 2, 0)
		add("1-1, batches, a death", sized(one1, 4, 8), []crew{{batch(5, 8)}}, []crew{{copies}}, 1, 0)
		add("1-1, long batch", sized(one1, 4, 24), []crew{{batch(3, 20)}}, []crew{{copies}}, 1, 0)
		add("1-1, a death, one gives up", sized(one1, 2, 8), one, all, 1, 1)
		add("1-1, copies", sized(one1, 2, 8), one, []crew{{copies}}, 0, 1)
		add("1-1, one by one", sized(one1, 2, 8), []crew{{sends(4, 8)}}, []crew{{receives}}, 0, 0)
		add("1-1, insists", sized(one1, 2, 8), []crew{{insists}}, []crew{{receives}}, 0, 0)
		add("n-1, copies", sized(many1, 2, 8), two, []crew{{copies}}, 0, 0)
		add("n-n, try", sized(manyN, 2, 8), one, []crew{{tries}, {takes(-1)}}, 1, 0)
		add("1-1, in place", sized(one1, 2, 8), []crew{{writes(2, 8)}}, all, 1, 0)
		add("n-n, in place", sized(manyN, 2, 8), []crew{{writes(2, 8)}, {sends(1, 8)}}, all, 1, 0)
		add("1-1, long", sized(one1, 4, 24), []crew{{sends(3, 24)}}, all, 1, 0)
		add("n-n, long", sized(manyN, 4, 24), []crew{{sends(1, 24)}, {sends(1, 16)}}, both, 1, 0)
		add("goroutines", sized(manyN, 2, 8), []crew{{sends(2, 8), sends(1, 8)}}, []crew{{takes(-1), takes(-1)}}, 1, 1)
		add("join, one", sized(one1, 2, 8), []crew{{sends(1, 8)}, {sends(1, 8)}}, []crew{{takes(1)}}, 1, 0)
		add("join, many", sized(manyN, 2, 8), []crew{{sends(1, 8)}, {sends(1, 8)}}, all, 1, 0)
	}
	return list
}()

// TestKillExplore runs every scenario for its share of the time.
func TestKillExplore(t *testing.T) {
	m := &model{Explorer: explore.New()}
	step.Explored, crash.Hook = m, m.Point
	defer func() { step.Explored, crash.Hook = nil, nil }()
	var list []explore.Scenario
	for _, s := range scenarios {
		list = append(list, m.scenario(s))
	}
	m.Run(t, list, explore.Budget(t))
	if t.Failed() || m.Ran < len(list) { // -run may name one
		return
	}
	for _, p := range crash.Points {
		if role, _, _ := strings.Cut(p, ":"); (role == "ring" || role == "party") && m.Passed[p] == 0 {
			t.Errorf("nobody passed %s", p)
		}
	}
}
