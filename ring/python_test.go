//go:build linux && (amd64 || arm64)

package ring_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/ring"
)

// What a Python of these tests knows.
const pythonRing = `
import random
import shm_ring
from parties import *
from shm_ring import Ring, PeerGone, Taken
name = sys.argv[1]

def produce(frm, n, seed):
    rnd, i = random.Random(seed), 0
    with ring.sender() as s:
        while i < n:
            how = rnd.randrange(4)
            p = message(frm, i, rnd.randrange(16, ring.max_message))
            if how == 0:
                s.send(p)
            elif how == 1:
                with s.reserve(len(p)) as room:
                    room[:] = p
            elif how == 2:
                try:
                    with s.reserve(len(p)):
                        raise KeyError
                except KeyError:
                    continue
            else:
                batch = [p] + [message(frm, i + k, 20) for k in range(1, min(5, n - i))]
                i += s.send_batch(batch) - 1
            i += 1

def consume(seed):
    rnd, last, n = random.Random(seed), {}, 0
    with ring.receiver() as r:
        while True:
            try:
                how = rnd.randrange(3)
                if how == 0:
                    got = [parse(r.receive())]
                elif how == 1:
                    with r.lease() as view:
                        got = [parse(view)]
                else:
                    got = [parse(p) for p in r.receive_batch(7)]
            except EOFError:
                return n
            for frm, number in got:
                if last.get(frm, -1) >= number:
                    raise AssertionError("%d of %d after %d" % (number, frm, last[frm]))
                last[frm] = number
                n += 1
`

func startRing(t *testing.T, py shmtest.Python, name string) shmtest.Driven {
	d := shmtest.StartDriven(t, py, pythonRing, name)
	d.Do("ring = Ring(name)", "None")
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

// Go and Python send and receive together, in all modes, in rings so small that they
// wrap all the time.
func TestPython(t *testing.T) {
	const each = 300
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		modes(t, func(t *testing.T, o ring.Options) {
			o.SlotSize, o.Slots, o.MaxMessage = 32, 16, 200
			for _, pythonSends := range []bool{true, false} {
				q := create(t, o)
				p := startRing(t, py, q.Name())
				sum := 0
				if pythonSends {
					var rs []*ring.Receiver
					for range 1 + int(ring.One-o.Receivers) {
						rs = append(rs, receiverOf(t, q))
					}
					n := 1
					if o.Senders == ring.Many {
						n = 2
						p.Send(fmt.Sprintf("both((produce, 1, %d, 1), (produce, 2, %d, 2))", each, each))
					} else {
						p.Send(fmt.Sprintf("produce(1, %d, 1)", each))
					}
					counts := make(chan int)
					for _, r := range rs {
						go func() {
							n := 0
							last := map[uint32]uint32{}
							for m, err := range r.All() {
								from, number, perr := parse(m)
								if err = errors.Join(err, perr); err != nil || last[from] > number {
									t.Error(from, number, err)
								}
								last[from] = number
								n++
							}
							counts <- n
						}()
					}
					for range rs {
						sum += <-counts
					}
					p.Expect("None")
					for _, r := range rs {
						if err := r.Close(); err != nil {
							t.Error(err)
						}
					}
					if sum != n*each {
						t.Errorf("%d came of %d", sum, n*each)
					}
				} else {
					s := senderOf(t, q)
					p.Send("consume(3)")
					for i := range uint32(each) {
						if err := s.Send(message(9, i, 16+int(i*37%184))); err != nil {
							t.Fatal(err)
						}
					}
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					p.Expect(strconv.Itoa(each))
					sum = each
				}
				st, err := q.Stats()
				if err != nil || st.Sent != uint64(sum) || st.Received != uint64(sum) || st.HighWater == 0 || st.HighWater > 16 || st.Pending != 0 {
					t.Errorf("%+v %v", st, err)
				}
				p.Do("{k: v for k, v in ring.stats().items() if k not in ('waits', 'high_water')}",
					fmt.Sprintf("{'sent': %d, 'received': %d, 'lost': 0, 'redelivered': 0, 'pending': 0, 'senders': 0, 'receivers': 0}", sum, sum))
				p.Do("ring.close()", "None")
				p.End()
			}
		})
	})
}

// What a Python makes is what Go makes, and each call of Python's does as it says.
func TestPythonCalls(t *testing.T) {
	shmtest.Deadline(t, 4*shmtest.Patience)
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		name := shmtest.Name(t)
		p := shmtest.StartDriven(t, py, pythonRing, name)
		p.Do("Ring(name)", "FileNotFoundError")
		p.Do("ring = Ring.create(name, slot_size=20, slots=3, max_message=90, senders='one', after_death='discard', participants=3)", "None")
		t.Cleanup(func() { _ = shm.Unlink(name) })
		p.Do("Ring.create(name)", "FileExistsError")
		for _, bad := range []string{"slots=0", "slots=1 << 40", "max_message=10**9", "participants=1", "senders='two'", "directory='/nowhere'"} {
			p.Do("Ring.create(name + 'x', "+bad+")", map[bool]string{true: "FileNotFoundError", false: "ValueError"}[strings.HasPrefix(bad, "dir")])
		}
		p.Do("Ring.create('a/b')", "ValueError")
		want := ring.Options{SlotSize: 20, Slots: 3, MaxMessage: 90, Senders: ring.One, AfterDeath: ring.Discard, Participants: 3}
		q, err := ring.Open(name, &ring.OpenOptions{Options: &want})
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		if info, err := shm.Stat(name); err != nil || info.Lifetime != shm.Persistent || info.Mode != 0o600 {
			t.Errorf("%+v %v", info, err)
		}

		p.Do("s = ring.sender()", "None")
		p.Do("ring.sender()", "Taken")
		if _, err := q.Sender(); !errors.Is(err, ring.ErrTaken) {
			t.Error(err)
		}
		r := receiverOf(t, q)
		p.Do("c = ring.receiver()", "None")
		p.Do("ring.receiver()", "OSError") // three are there
		p.Do("s.send(bytes(91))", "ValueError")
		p.Do("s.send('text')", "TypeError")
		p.Do("s.send(memoryview(b'abcdef')[::2].tobytes())", "True")
		p.Do("c.receive()", "b'ace'")
		p.Do("s.send(b'x' * 90), s.send(b'', timeout=0), s.send(b'', timeout=0.01)", "(True, False, False)")
		p.Do("lease = c.lease(); view = lease.__enter__()", "None")
		p.Do("c.receive()", "RuntimeError")
		p.Do("c.close()", "RuntimeError")
		p.Do("view == b'x' * 90, view.readonly, lease.__exit__(None, None, None)", "(True, True, False)")
		p.Do("bytes(view)", "ValueError")
		p.Do("c.receive(timeout=0), c.receive(timeout=0.01), c.receive_batch(3, timeout=0)", "(None, None, [])")
		p.Do("room = s.reserve(24); room.buf[:5] = b'hello'", "None")
		p.Do("s.send(b'')", "RuntimeError")
		p.Do("room.commit(25)", "ValueError")
		p.Do("room.commit(5)", "None")
		p.Do("room.commit(5)", "RuntimeError")
		p.Do("room = s.reserve(20); room.abort(); s.send(b'two'); s.send_batch([b'3', bytearray(b'4')])", "None")
		buf := make([]byte, 90)
		if n, err := r.Receive(buf); err != nil || string(buf[:n]) != "hello" {
			t.Error(n, err)
		}
		p.Do("c.receive_batch(10)", "[b'two', b'3', b'4']")

		// Who waits is told when it is closed, and ^C ends a wait.
		p.Do(`exec("def waits():\n  global heard\n  try: c.receive()\n  except ValueError: heard = 'closed'")`, "None")
		before, err := q.Stats() // calls with a timeout have slept already
		if err != nil {
			t.Fatal(err)
		}
		p.Do("thread = threading.Thread(target=waits); thread.start()", "None")
		sleepers(t, q, before.Waits+1)
		p.Do("c.receive()", "RuntimeError")
		p.Do("[c.close(), thread.join(), heard][-1]", "closed")
		p.Do("c.receive()", "ValueError")
		p.Do("c = ring.receiver()", "None")
		p.Do(`exec("def interrupted():\n  signal.signal(signal.SIGALRM, signal.default_int_handler)\n  signal.setitimer(signal.ITIMER_REAL, 0.05)\n  try: c.receive()\n  except KeyboardInterrupt: return 'interrupted'")`, "None")
		p.Do("interrupted()", "interrupted")

		// A child has nothing of its parent's.
		p.Do(`exec("def fork():\n  warnings.simplefilter('ignore', DeprecationWarning)\n  pid = os.fork()\n  if pid: return os.waitpid(pid, 0)[1]\n  try: s.send(b'')\n  except ValueError:\n    s.close(); ring.close()\n    with Ring(name) as again: os._exit(again.stats()['senders'] - 1)\n  os._exit(2)")`, "None")
		p.Do("fork()", "0")

		// Ends.
		p.Do("c.close(); s.send(b'last')", "None")
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		p.Do("s.send(b''), s.send(b''), s.send(b'')", "(True, True, True)")
		p.Do("s.send(b'')", "BrokenPipeError")
		p.Do("s.close(); c = ring.receiver()", "None")
		p.Do("list(c), c.redelivered", "([b'last', b'', b'', b''], False)")
		p.Do("c.receive()", "EOFError")
		p.Do("ring.unlink()", "None")
		p.Do("ring.unlink()", "FileNotFoundError")
		p.Do("ring.close(); ring.close()", "None")
		p.Do("ring.stats()", "ValueError")
		p.End()
	})
}

// sleepers waits until n calls have slept on q.
func sleepers(t *testing.T, q *ring.Queue, n uint64) {
	t.Helper()
	shmtest.Deadline(t, shmtest.Patience)
	for {
		if st, err := q.Stats(); err != nil || st.Waits >= n {
			return
		}
	}
}

// A receiver in Python is something that selectors wait for.
func TestPythonSelector(t *testing.T) {
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		for _, side := range []ring.Side{ring.Many, ring.One} {
			selectPython(t, py, side)
		}
	})
}

func selectPython(t *testing.T, py shmtest.Python, side ring.Side) {
	q := create(t, ring.Options{SlotSize: 24, Slots: 8, Senders: side, Receivers: side})
	p, s := startRing(t, py, q.Name()), senderOf(t, q)
	p.Do("r = ring.receiver(); sel = selectors.DefaultSelector()", "None")
	p.Do("sel.register(r, selectors.EVENT_READ).fd == r.fileno(), r.receive(timeout=0), sel.select(0)", "(True, None, [])")
	for range 3 {
		p.Send("len(sel.select())")
		if err := s.Send([]byte("hello")); err != nil {
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
		if err := s.Send([]byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	mustBe(t, s.Close(), nil)
	if line := p.Line(); line != strconv.Itoa(n) {
		t.Fatal(line, p.Stderr())
	}
	p.Do("r.close(), r.close()", "(None, None)")
	p.Do("r.fileno()", "ValueError")
	p.Do("r = ring.receiver(); f = r.fileno(); r.receive(timeout=0)", "EOFError")
	p.Do("ring.close()", "None") // with a thread that waits
	p.End()
}

// What is no ring, or a damaged one, is an error and nothing worse.
func TestPythonFormat(t *testing.T) {
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		q := create(t, ring.Options{SlotSize: 16, Slots: 4, MaxMessage: 64, Receivers: ring.One})
		p := startRing(t, py, q.Name())
		mem := q.Block().Bytes()
		for _, c := range []struct {
			off   int
			value uint64
			want  string
		}{
			{0, 1, "ValueError"}, {8, 1, "ValueError"}, {8, 2 | 16<<32, "ValueError"}, {16, 17, "ValueError"}, {16, 1 << 50, "ValueError"},
			{24, 5, "ValueError"}, {24, 1 << 29, "ValueError"}, {32, 8, "ValueError"}, {40, 65, "ValueError"}, {40, 0, "ValueError"},
			{48, 5000, "ValueError"}, {56, 1, "OSError"}, {64, 0, "ValueError"},
		} {
			old := binary.LittleEndian.Uint64(mem[c.off:])
			binary.LittleEndian.PutUint64(mem[c.off:], c.value)
			p.Do("Ring(name)", c.want)
			binary.LittleEndian.PutUint64(mem[c.off:], old)
		}
		small, err := shm.Create(shmtest.Name(t), 100, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer small.Unlink()
		defer small.Close()
		p.Do(fmt.Sprintf("Ring(%q)", small.Name()), "ValueError")

		const slot0 = 4096 + 8192 // 64 entries
		p.Do("s, r = ring.sender(), ring.receiver()", "None")
		for _, w := range []uint64{
			2,                       // full, and takes no slots
			2 | 5<<16,               // more than there are
			5 | 1<<16, 7 | 0xfff<<4, // states that there are not
			2 | 1<<16,         // its length is too much, below
			2 | 1<<16 | 7<<32, // seven laps ahead
		} {
			binary.LittleEndian.PutUint64(mem[slot0:], w)
			binary.LittleEndian.PutUint64(mem[slot0+8:], 17)
			want := "ValueError"
			if w>>32 != 0 {
				want = "None" // used up since, so there is nothing
			}
			p.Do("r.receive(timeout=0)", want)
		}
		// Random words everywhere behind the header: each call returns.
		rnd := []string{"s.send(b'x', timeout=0)", "r.receive(timeout=0)", "r.receive_batch(9, timeout=0)", "s.send(b'x' * 60, timeout=0)"}
		x := uint64(88172645463325252)
		for i := range 200 {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
			off := 128 + int(x%60)*8
			if i%2 == 0 {
				off = slot0 + int(x%32)*8
			}
			if off >= 128 && off < 192 {
				off = 192 // the table's word and peers have their own meaning
			}
			binary.LittleEndian.PutUint64(mem[off:], x*uint64(i%3)>>(i%60))
			p.Send(rnd[i%len(rnd)])
			p.Line()
		}
		p.Kill()
	})
}

// Whoever dies, the others hear of it, and what it had comes again.
func TestPythonDeath(t *testing.T) {
	eachPython(t, func(t *testing.T, py shmtest.Python) {
		q := create(t, ring.Options{Slots: 2, SlotSize: 48})
		r := receiverOf(t, q)
		for i := range 2 {
			p := startRing(t, py, q.Name())
			p.Do("s = ring.sender(); s.send(b'kept'); room = s.reserve(9)", "None")
			if n, err := r.Receive(make([]byte, 48)); n != 4 || err != nil {
				t.Fatal(n, err)
			}
			got := goes(func() error { _, err := r.Receive(nil); return err })
			sleepers(t, q, 1)
			if i == 0 {
				p.Kill()
			} else {
				p.End() // to end without close is to die
			}
			mustBe(t, <-got, ring.ErrPeerGone)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}

		// A Python had a message; Go gets it again, marked.
		s := senderOf(t, q)
		p := startRing(t, py, q.Name())
		p.Do("r = ring.receiver(); lease = r.lease()", "None")
		for _, m := range []string{"one", "two"} {
			if err := s.Send([]byte(m)); err != nil {
				t.Fatal(err)
			}
		}
		p.Do("bytes(lease.__enter__())", "b'one'")
		got := goes(func() error { return s.Send([]byte("three")) })
		p.Kill()
		mustBe(t, <-got, ring.ErrPeerGone)
		r = receiverOf(t, q)
		buf := make([]byte, 48)
		for _, want := range []string{"one", "two"} {
			if n, err := r.Receive(buf); err != nil || string(buf[:n]) != want || r.Redelivered() != (want == "one") {
				t.Error(n, err, r.Redelivered(), want)
			}
		}
		if err := errors.Join(r.Close(), s.Close()); err != nil {
			t.Fatal(err)
		}

		// And the other way round.
		s = senderOf(t, q)
		taker := shmtest.Start(t, "taker", q.Name())
		taker.Expect("ready")
		p = startRing(t, py, q.Name())
		if err := s.Send([]byte("again")); err != nil {
			t.Fatal(err)
		}
		taker.Expect("has it")
		p.Do("r = ring.receiver()", "None")
		p.Send("r.receive(), r.redelivered")
		taker.Kill()
		p.Expect("(b'again', True)")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		guest := shmtest.Start(t, "guest", q.Name())
		guest.Expect("ready")
		p.Send("r.receive()")
		guest.Kill()
		p.Expect("PeerGone")
		p.Do("ring.close()", "None")
		p.End()
		if _, err := shm.Prune(); err != nil {
			t.Error(err)
		}
	})
}

// pythonSteps is what is killed. In the journal: how many were begun, and sent; then by
// message: how often it came, and how often flagged.
const pythonSteps = `
def sends():
    with Ring(name) as ring, retry(ring.sender, Taken) as s:
        def count(n, f):
            put(0, get(0) + n)
            f()
            put(1, get(1) + n)
        def reserved():
            with s.reserve(20) as room:
                room[:] = message(0, 5, 20)
        s.reserve(90).abort()
        count(1, lambda: s.send(message(0, 0, 16)))
        count(1, lambda: s.send(message(0, 1, 100)))
        count(3, lambda: s.send_batch([message(0, 2, 90), message(0, 3, 20), message(0, 4, 20)]))
        count(1, reserved)

def receives():
    def came(p, r):
        i = 2 + 2 * parse(p)[1]
        put(i, get(i) + 1)
        put(i + 1, get(i + 1) + r.redelivered)
    with Ring(name) as ring, retry(ring.receiver, Taken) as r:
        came(r.receive(), r)
        with r.lease() as view:
            came(view, r)
        for p in r.receive_batch(2):
            came(p, r)
`

// A Python killed between any two of its stores leaves a ring that works, with
// everything that it had sent and nothing torn, and Go goes on.
func TestKillPython(t *testing.T) {
	pythons := shmtest.Pythons(t)
	pythons = slices.CompactFunc([]shmtest.Python{pythons[0], pythons[len(pythons)-1]}, func(a, b shmtest.Python) bool { return a.Minor == b.Minor })
	for _, py := range pythons {
		for _, side := range []ring.Side{ring.Many, ring.One} {
			for _, what := range []string{"sends", "receives"} {
				t.Run(fmt.Sprintf("%v %v %s", py, side, what), func(t *testing.T) {
					t.Parallel()
					killPython(t, py, what, ring.Options{SlotSize: 32, Slots: 16, MaxMessage: 128, Senders: side, Receivers: side})
				})
			}
		}
	}
}

func killPython(t *testing.T, py shmtest.Python, what string, o ring.Options) {
	q := create(t, o)
	p := shmtest.StartDriven(t, py, pythonRing+pythonSteps, q.Name())
	const messages = 6
	buf := make([]byte, 128)
	// feed fills the ring for those who receive.
	feed := func() {
		if what == "sends" {
			return
		}
		s := retry(t, q.Sender)
		for i := range uint32(4) {
			if err := s.Send(message(0, i, 16+30*int(i))); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// drain gives how often each message comes out now, and how often flagged.
	drain := func() (came, again [messages]int) {
		s := retry(t, q.Sender) // whose leaving is an orderly end
		r := retry(t, q.Receiver)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for {
			n, err := r.Receive(buf)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			_, number, err := parse(buf[:n])
			if err != nil {
				t.Fatal(err)
			}
			came[number]++
			if r.Redelivered() {
				again[number]++
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		return came, again
	}
	feed()
	p.Do(fmt.Sprintf("at = plan(shm_ring, %s, name)", what), "None")
	drain()
	p.Send("' '.join(map(str, at))")
	var hits, total int
	steps := strings.Fields(p.Line())
	for i, at := range steps {
		if i%slower != 0 {
			continue
		}
		feed()
		p.Send(fmt.Sprintf("die(shm_ring, %s, %s)", what, at))
		total++
		switch line := p.Line(); line {
		case "(True, 9)":
			hits++
		case "(False, 0)": // less had to be done than in the rehearsal
		default:
			t.Fatalf("at step %s: %s\n%s", at, line, p.Stderr())
		}
		p.Send("[get(i) for i in range(14)]")
		var j [14]int
		for i, f := range strings.Fields(strings.Trim(strings.ReplaceAll(p.Line(), ",", " "), "[]")) {
			j[i], _ = strconv.Atoi(f)
		}
		came, again := drain()
		for i := range messages {
			switch {
			case what == "sends" && (came[i] > 1 || again[i] != 0 || i < j[1] && came[i] != 1 || i >= j[0] && came[i] != 0):
				t.Errorf("killed at step %s, %d begun, %d sent: came %v", at, j[0], j[1], came)
			case what == "receives" && i < 4 && j[2+2*i]+came[i] == 0 && !vanishes(j, i):
				t.Errorf("killed at step %s: message %d is lost; %v, %v", at, i, j, came)
			case what == "receives" && (came[i] > 1 || j[2+2*i]+came[i]-again[i] > 1):
				t.Errorf("killed at step %s: message %d came again and was not marked; %v, %v, %v", at, i, j, came, again)
			}
		}
		if t.Failed() {
			t.Fatal(p.Stderr())
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
	if st, err := q.Stats(); err != nil || st.Senders != 0 || st.Receivers != 0 {
		t.Errorf("%+v %v", st, err)
	}
}

// vanishes tells of messages that Python had taken out of the ring, and its program
// had not yet been given: received is received.
func vanishes(j [14]int, i int) bool {
	// One by one by receive and lease; 2 and 3 come in one batch.
	switch i {
	case 0:
		return j[4] == 0
	case 2, 3:
		return j[2] != 0 && j[4] != 0
	}
	return false
}

// retry joins, as soon as the kernel has let go of who was killed.
func retry[T any](t *testing.T, join func() (T, error)) T {
	t.Helper()
	for {
		p, err := join()
		if !errors.Is(err, ring.ErrTaken) {
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
	}
}

// Pythons of random fates beside Go: nothing that was sent is lost, and Go never hangs.
func TestKillPythonBusy(t *testing.T) {
	rounds := max(3, shmtest.Kills(t, 0)/10) // a Python takes its time to start
	pythons := shmtest.Pythons(t)
	py := pythons[len(pythons)-1]
	q := create(t, ring.Options{SlotSize: 32, Slots: 16, MaxMessage: 100})
	s := senderOf(t, q)
	r := receiverOf(t, q)
	seen := map[uint32]map[uint32]bool{}
	drained := goes(func() error {
		for p, err := range r.All() {
			if err != nil {
				return err
			}
			from, number, err := parse(p)
			if err != nil {
				return err
			}
			if seen[from] == nil {
				seen[from] = map[uint32]bool{}
			}
			if seen[from][number] && !r.Redelivered() {
				return fmt.Errorf("%d of %d again, unmarked", number, from)
			}
			seen[from][number] = true
		}
		return nil
	})
	sent := make([]int, rounds)
	for i := range rounds {
		p := startRing(t, py, q.Name())
		p.Do("s = ring.sender()", "None")
		p.Do(`exec("def run(frm):\n  for i in range(10**6):\n    s.send(message(frm, i, 16 + i % 80))\n    print(i, flush=True)")`, "None")
		p.Send(fmt.Sprintf("run(%d)", i))
		for want := range 30 + 17*i%50 {
			if got := p.Line(); got != strconv.Itoa(want) {
				t.Fatal(got)
			}
			sent[i] = want + 1
		}
		p.Kill()
		if err := s.Send(message(uint32(rounds), uint32(i), 50)); err != nil {
			t.Fatal(err)
		}
	}
	// Whoever is last to go, in the table, says which end it is.
	for st, err := q.Stats(); st.Senders > 1; st, err = q.Stats() {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	if len(seen[uint32(rounds)]) != rounds {
		t.Errorf("%d of ours came", len(seen[uint32(rounds)]))
	}
	for i, n := range sent {
		for k := range n {
			if !seen[uint32(i)][uint32(k)] {
				t.Errorf("message %d of Python %d is lost", k, i)
			}
		}
	}
	t.Logf("%d Pythons were killed", rounds)
	if _, err := shm.Prune(); err != nil {
		t.Error(err)
	}
}
