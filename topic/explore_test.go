//go:build shmcrash && linux

package topic

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

// These tests run the real code of publishers and subscribers in would-be processes on
// one small topic over the heap; package explore tries how their steps can lie. Each word
// of a message is a step of its own, so that it can be torn.

// model is what is true of the topic.
type model struct {
	*explore.Explorer
	mem   []byte
	g     geometry
	parts []*would
	next  byte            // the next message
	sent  map[uint64]byte // by position, as far as their publishers know
	begun map[byte]bool
	came  map[uint64]byte // by position, as far as subscribers have seen
}

// would is a would-be publisher or subscriber.
type would struct {
	*explore.Thread
	m   *model
	t   *Topic
	p   *Publisher
	s   *Subscriber
	pos uint64 // of a subscriber: everything before has been received or missed

	closed bool
}

const size = 16

// open opens the topic in p.
func (m *model) open(p *explore.Process) *Topic {
	c, g, err := newCore(m.mem)
	if err != nil {
		panic(err)
	}
	t := &Topic{core: c, options: g.options()}
	t.party.Here(t.structure(), p.ID, p.Bell, m.Alive)
	t.party.Ways = party.Sleep
	h := c.hdr
	m.Watch(step.Raw64(&h.joins), "joins")
	m.Watch(step.Raw64(&h.tail), "tail")
	m.Watch(step.Raw32(&h.filled), "filled")
	m.Watch(step.Raw32(&h.freed), "freed")
	table, peers := h.Words()
	m.Watch(step.Raw64(table), "table")
	m.Watch(step.Raw64(peers), "peers")
	for i := range c.entries {
		e := &c.entries[i]
		m.Watch(step.Raw64(&e.cursor), fmt.Sprintf("cursor of %d", i))
		owner, state := e.Words()
		m.Watch(step.Raw64(owner), fmt.Sprintf("owner of %d", i))
		m.Watch(step.Raw64(state), fmt.Sprintf("state of %d", i))
	}
	for i := range int(m.g.slots) {
		for k, name := range []string{"word", "length", "first half", "second half"} {
			m.Watch(step.Raw64(&c.words[i*c.step+k]), fmt.Sprintf("%s of %d", name, i))
		}
	}
	return t
}

// act is what a participant does.
type act func(w *would)

type crew = []act

type scenario struct {
	name            string
	o               Options
	fenced          bool
	publishers      []crew // by process
	subscribers     []crew
	joined          bool // they are there when it begins
	deaths, cancels int
}

// scenario makes s one for the explorer.
func (m *model) scenario(s scenario) explore.Scenario {
	s.o.SlotSize, s.o.Slots, s.o.Participants = size, 2, 5
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
		m.mem, m.g = mem, g
		m.parts, m.next, m.sent, m.begun, m.came = nil, 1, map[uint64]byte{}, map[byte]bool{}, map[uint64]byte{}
		for i, crews := range [][]crew{s.publishers, s.subscribers} {
			for _, crew := range crews {
				p := m.Process()
				t := m.open(p)
				for _, a := range crew {
					m.does(p, t, i == 0, s.joined, a)
				}
			}
		}
	}, End: func(*explore.Explorer) { m.end() }}
}

// does has another goroutine of p join, if that is still to be done, and do a.
func (m *model) does(p *explore.Process, t *Topic, publishes, joined bool, a act) {
	w := &would{m: m, t: t}
	m.parts = append(m.parts, w)
	if joined {
		if err := w.join(publishes, Now); err != nil {
			panic(err)
		}
	}
	w.Thread = p.Go(func(*explore.Thread) {
		if !joined {
			if err := w.join(publishes, Now); err != nil {
				if !errors.Is(err, ErrTaken) {
					m.Fail("%s cannot join: %v", w.Name, err)
				}
				return
			}
		}
		a(w)
	})
}

func (w *would) join(publishes bool, from From) (err error) {
	if publishes {
		w.p, err = w.t.Publisher()
		return err
	}
	if w.s, err = w.t.Subscriber(from); err == nil {
		w.pos = w.s.pos
	}
	return err
}

// What they do.

func message(id byte) []byte { return slices.Repeat([]byte{id}, size) }

// publish publishes one message in the way how; false if that was the end.
func (w *would) publish(how func(m []byte) error) bool {
	id := w.m.next
	w.m.next++
	w.m.begun[id] = true
	if err := how(message(id)); err != nil {
		delete(w.m.begun, id) // it must not come
		return w.over(err)
	}
	w.m.Note("%s has published %d", w.Name, id)
	w.m.sent[w.p.pos-1] = id
	return true
}

// over tells whether err is a way to end, and fails if not.
func (w *would) over(err error) bool {
	switch {
	case errors.Is(err, context.Canceled) && w.Cancelled():
	case errors.Is(err, io.EOF), errors.Is(err, ErrPeerGone):
		w.m.Note("%s: %v", w.Name, err)
	default:
		w.m.Fail("%s: %v", w.Name, err)
	}
	return false
}

func (w *would) close() {
	w.closed = true
	var err error
	if w.p != nil {
		err = w.p.Close()
	} else {
		err = w.s.Close()
	}
	if err != nil {
		w.m.Fail("%s cannot close: %v", w.Name, err)
	}
}

// publishes publishes n messages, and closes.
func publishes(n int) act {
	return func(w *would) {
		for range n {
			if !w.publish(func(m []byte) error { return w.p.PublishContext(w.Context, m) }) {
				break
			}
		}
		w.close()
	}
}

// writes does the same in place, in two halves, and gives one back in between.
func writes(n int) act {
	return func(w *would) {
		for i := range n {
			if !w.publish(func(m []byte) error {
				_, err := w.p.ReserveContext(w.Context, size)
				if err == nil && i == 1 {
					w.Pause()
					if err = w.p.Abort(); err == nil {
						_, err = w.p.ReserveContext(w.Context, size)
					}
				}
				if err != nil {
					return err
				}
				// As by copy, but what is plainly stored comes after the stores before, too.
				at := w.t.slot(w.p.pos)
				w.t.copyIn(at, m[:size/2])
				w.Pause()
				w.t.copyIn(at, m)
				return w.p.Commit(size)
			}) {
				break
			}
		}
		w.close()
	}
}

// givesBack publishes a message, and gives as many back as there are slots while somebody
// may wait for them: who waits for that one needs it to pass them.
func givesBack(w *would) {
	w.publish(func(m []byte) error { return w.p.Publish(m) })
	for range 2 {
		_, err := w.p.ReserveContext(w.Context, size)
		if err == nil {
			w.Pause()
			err = w.p.Abort()
		}
		if err != nil {
			w.over(err)
		}
	}
	w.publish(func(m []byte) error { return w.p.Publish(m) })
	w.close()
}

// batch publishes n messages at once, and closes.
func batch(n int) act {
	return func(w *would) {
		w.batch(n)
		w.close()
	}
}

// stays does not close before all subscribers have: nobody hears of its messages otherwise.
func stays(n int) act {
	return func(w *would) {
		w.batch(n)
		w.m.Until(func() bool {
			return !slices.ContainsFunc(w.m.parts, func(o *would) bool { return o.s != nil && !o.closed })
		})
		w.close()
	}
}

func (w *would) batch(n int) {
	var ms [][]byte
	for range n {
		ms = append(ms, message(w.m.next))
		w.m.begun[w.m.next] = true
		w.m.next++
	}
	from := w.p.pos
	got, err := w.p.PublishBatchContext(w.Context, ms)
	if err != nil && !w.over(err) && !w.Cancelled() {
		return
	}
	for i, m := range ms {
		switch {
		case i >= got:
			delete(w.m.begun, m[0])
		case w.t.one:
			w.m.sent[from+uint64(i)] = m[0]
		}
	}
}

// took judges what was received just now.
func (w *would) took(p []byte) {
	m := w.m
	if len(p) != size || !slices.Equal(p, message(p[0])) {
		m.Fail("%s receives a torn message: %d", w.Name, p)
		return
	}
	id, pos, missed := p[0], w.s.pos-1, w.s.Missed()
	m.Note("%s receives %d at %d, %d missed", w.Name, id, pos, missed)
	if !m.begun[id] {
		m.Fail("%s receives %d, which was not published", w.Name, id)
	}
	if s, ok := m.sent[pos]; ok && s != id {
		m.Fail("%s receives %d at %d, where %d was published", w.Name, id, pos, s)
	}
	if c, ok := m.came[pos]; ok && c != id {
		m.Fail("%s receives %d at %d, where another received %d", w.Name, id, pos, c)
	}
	m.came[pos] = id
	w.passes(pos, missed)
	w.pos = pos + 1
}

// passes judges what is between what was received before and pos.
func (w *would) passes(pos, missed uint64) {
	m := w.m
	gap := pos - w.pos
	switch {
	case int64(gap) < 0:
		m.Fail("%s receives position %d after %d", w.Name, pos, w.pos-1)
	case w.t.one && gap != missed, gap < missed:
		m.Fail("%s is told that %d were missed, and it were %d", w.Name, missed, gap)
	case missed != 0 && w.t.wait:
		m.Fail("%s missed %d, and publishers wait", w.Name, missed)
	case missed == 0:
		for p := w.pos; p < pos; p++ {
			if id, ok := m.sent[p]; ok {
				m.Fail("%s passes over %d", w.Name, id)
			}
		}
	}
}

// receives receives until the end, in place or not, and closes.
func receives(inPlace bool) act {
	return func(w *would) {
		for {
			var b [size]byte
			p := b[:]
			var err error
			if inPlace {
				err = w.s.LeaseContext(w.Context, func(q []byte) error {
					copy(p, q[:size/2])
					w.Pause()
					copy(p[size/2:], q[size/2:])
					return nil
				})
			} else {
				var n int
				n, err = w.s.ReceiveContext(w.Context, p)
				p = p[:n]
			}
			if errors.Is(err, ErrOverwritten) {
				if w.t.wait {
					w.m.Fail("%s leases what is overwritten, and publishers wait", w.Name)
				}
				w.passes(w.s.pos-1, w.s.Missed())
				// The message itself is the first of those missed before the next.
				w.pos = w.s.pos - 1
				continue
			}
			if err != nil {
				if w.over(err); errors.Is(err, io.EOF) {
					for pos, id := range w.m.sent {
						if pos >= w.s.pos {
							w.m.Fail("%s is at the end, and %d at %d is still to come", w.Name, id, pos)
						}
					}
				}
				break
			}
			w.took(p)
		}
		w.close()
	}
}

// until receives until it has come to a position, and closes.
func until(pos uint64) act {
	return func(w *would) {
		for w.s.pos < pos {
			var b [size]byte
			if _, err := w.s.ReceiveContext(w.Context, b[:]); err != nil {
				w.over(err)
				break
			}
			w.took(b[:])
		}
		w.close()
	}
}

// leaves receives one message, and closes.
func leaves(w *would) {
	var b [size]byte
	if _, err := w.s.ReceiveContext(w.Context, b[:]); err != nil {
		w.over(err)
	} else {
		w.took(b[:])
	}
	w.close()
}

// tries receives without waiting, some times.
func tries(w *would) {
	for range 4 {
		var b [size]byte
		_, ok, err := w.s.TryReceive(b[:])
		if err != nil {
			w.over(err)
			break
		}
		if ok {
			w.took(b[:])
		}
	}
	w.close()
}

// late closes, comes again as one more, and begins with the oldest message: from the first
// that it receives on, none is missed where publishers wait.
func late(w *would) {
	w.close()
	if err := w.join(false, Oldest); err != nil {
		w.m.Fail("%s cannot join: %v", w.Name, err)
		return
	}
	begun := false
	for {
		var b [size]byte
		if _, err := w.s.ReceiveContext(w.Context, b[:]); err != nil {
			w.over(err)
			break
		}
		if !begun {
			w.pos = w.s.pos - 1 - w.s.Missed()
		}
		// A publisher that was just about to claim a slot did not know of us.
		if w.s.pos-2 < w.s.joined {
			w.pos = max(w.pos, w.s.pos-1-w.s.Missed())
		}
		begun = true
		w.took(b[:])
	}
	w.close()
}

// looks reads the latest value, some times.
func looks(w *would) {
	l := &Latest{Topic: w.t}
	last := uint64(0)
	for range 3 {
		var b [size]byte
		n, version, err := l.get(b[:])
		switch {
		case errors.Is(err, ErrOverwritten) && !w.t.one: // one dead and one at work, in two slots
			continue
		case err != nil:
			w.m.Fail("%s: %v", w.Name, err)
		case version < last || (n == 0) != (version == 0):
			w.m.Fail("%s sees version %d after %d, of %d bytes", w.Name, version, last, n)
		case n != 0 && !slices.Equal(b[:], message(b[0])):
			w.m.Fail("%s sees a torn value: %d", w.Name, b)
		}
		last = version
	}
	w.close()
}

// end looks whether the topic is as good as new.
func (m *model) end() {
	p := m.Process()
	t := m.open(p)
	if !p.Alone(func(thread *explore.Thread) {
		thread.Name = "who comes afterwards"
		old := &would{Thread: thread, m: m, t: t}
		now := &would{Thread: thread, m: m, t: t}
		err := errors.Join(old.join(false, Oldest), now.join(false, Now), now.join(true, Now))
		if err != nil {
			m.Fail("%s cannot join: %v", thread.Name, err)
			return
		}
		old.pos = old.s.pos
		drain := func(w *would) (n int) {
			for {
				var b [size]byte
				_, ok, err := w.s.TryReceive(b[:])
				if err != nil {
					m.Fail("%s: %v", thread.Name, err)
				}
				if !ok || err != nil {
					return n
				}
				if n == 0 && w == old {
					old.pos = old.s.pos - 1 - old.s.Missed() // what is before was not promised
				}
				w.took(b[:])
				n++
			}
		}
		drain(old)
		for range 5 {
			now.publish(func(msg []byte) error {
				ok, err := now.p.TryPublish(msg)
				if !ok && err == nil {
					err = errors.New("all have read, and there is no room")
				}
				return err
			})
			if n := drain(now) + drain(old); n != 2 {
				m.Fail("%d came in place of 2", n)
			}
		}
	}) {
		m.Fail("it is not usable any more")
	}
	for pos, id := range m.came {
		for at, sent := range m.sent {
			if id == sent && at != pos {
				m.Fail("%d was published at %d and came at %d", id, at, pos)
			}
		}
	}
	if st := t.stats(); st.Publishers != 1 || st.Subscribers != 2 {
		m.Fail("%+v", st)
	}
}

var scenarios = func() (list []scenario) {
	one, many := []crew{{publishes(4)}}, []crew{{publishes(2)}, {publishes(2)}}
	reads, leases := crew{receives(false)}, crew{receives(true)}
	for _, fenced := range []bool{true, false} {
		add := func(name string, o Options, publishers, subscribers []crew, deaths, cancels int) {
			if o.Policy == Wait {
				name += ", wait"
			}
			if o.ManyPublishers {
				name += ", many"
			}
			if !fenced {
				name += ", not fenced"
			}
			list = append(list, scenario{name, o, fenced, publishers, subscribers, !strings.HasPrefix(name, "join"), deaths, cancels})
		}
		for _, policy := range []Policy{Overwrite, Wait} {
			o := Options{Policy: policy}
			n := Options{Policy: policy, ManyPublishers: true}
			add("plain", o, one, []crew{reads}, 0, 0)
			add("plain", n, many, []crew{reads}, 0, 0)
			add("batch", o, []crew{{batch(4)}}, []crew{reads}, 1, 0)
			add("stays", o, []crew{{stays(2)}}, []crew{{until(2)}}, 0, 0)
			add("two read", o, []crew{{publishes(3)}}, []crew{reads, leases}, 0, 0)
			if !fenced {
				continue
			}
			add("lease", o, one, []crew{leases}, 1, 0)
			add("lease", n, many, []crew{leases}, 1, 0)
			add("a death", o, []crew{{publishes(3)}}, []crew{reads, reads}, 1, 0)
			add("a death", n, many, []crew{reads}, 1, 0)
			add("one gives up", o, one, []crew{reads}, 0, 1)
			add("one gives up", n, many, []crew{reads}, 0, 1)
			add("one leaves", o, one, []crew{reads, {leaves}}, 0, 0)
			add("in place", o, []crew{{writes(3)}}, []crew{reads}, 1, 0)
			add("in place", n, []crew{{writes(2)}, {publishes(3)}}, []crew{reads}, 1, 0)
			add("batch", n, []crew{{batch(2)}, {batch(2)}}, []crew{reads}, 0, 0)
			add("try", o, one, []crew{{tries}}, 1, 0)
			add("gives back", n, []crew{{givesBack}}, []crew{reads}, 0, 0)
			add("late", o, []crew{{publishes(4)}}, []crew{{late}}, 0, 0)
			add("join", o, []crew{{publishes(2)}, {publishes(2)}}, []crew{reads}, 1, 0)
			add("join", n, []crew{{publishes(2)}, {publishes(2)}}, []crew{{tries}}, 1, 0)
			add("goroutines", n, []crew{{publishes(2), publishes(1)}}, []crew{{receives(false), receives(true)}}, 1, 1)
		}
		if fenced {
			add("latest", Options{}, one, []crew{{looks}}, 1, 0)
			add("latest", Options{ManyPublishers: true}, many, []crew{{looks}}, 1, 0)
			add("overtaken", Options{ManyPublishers: true}, []crew{{publishes(1)}, {publishes(5)}}, []crew{reads}, 1, 0)
		}
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
		if role, _, _ := strings.Cut(p, ":"); (role == "topic" || role == "party") && m.Passed[p] == 0 {
			t.Errorf("nobody passed %s", p)
		}
	}
}
