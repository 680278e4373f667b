package worker

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/platform/peer"
	"github.com/sharedmem/shm/internal/platform/wait"
)

// sentinel is a child's argv[0], as ps shows it. Its descriptors:
//
//	3  the socket          4  the block of its jobs          5  its parent's bell
const (
	sentinel = "shm-worker"
	socketFD = 3
	areaFD   = 4
	bellFD   = 5
)

// mainCalled says that a child of this program would come to Main.
var mainCalled atomic.Bool

// Main makes this process what it was started as. In a worker it runs jobs until the
// parent has no more, and does not return: the process ends. In any other process it
// returns at once.
//
// Call it first in main, and in a test first in TestMain: whatever stands before it
// happens in every worker, too. Without it there are no workers, [ErrNoMain]. Functions
// have to be registered by then, which variables of packages are.
//
// In a worker os.Args has only a name, and signal SIGINT, which a terminal sends to
// all of its processes, is left to the parent.
func Main() {
	mainCalled.Store(true)
	if len(os.Args) == 0 || os.Args[0] != sentinel {
		return
	}
	conn, ok := peer.Inherited(socketFD)
	if !ok {
		return
	}
	buf := make([]byte, peer.Message)
	n, _, err := peer.Receive(conn, buf)
	if err != nil || n == 0 || buf[0] != frameHello {
		_ = conn.Close() // nobody is there any more, or it is not us whom they mean
		if err != nil {
			os.Exit(1)
		}
		return
	}
	if err := serve(conn, buf[1:n]); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child is this process as a worker.
type child struct {
	conn *net.UnixConn
	area *area
	bell *bell
	spin spinner
	seq  uint64 // of the slot to look at
	stop atomic.Bool
	over chan error // the loop has ended

	funcs     map[string]runner          // as registered when Main was called
	in        reply                      // of the job that has begun
	out       payload                    // its result
	current   atomic.Pointer[jobContext] // its
	cancelled atomic.Uint64              // the last job that was to be

	mu      sync.Mutex
	files   map[uint64][]*os.File // that have come for jobs
	arrived chan struct{}         // gets one with each arrival
	offered map[uint64][]offer    // results whose blocks are not taken yet
}

func serve(conn *net.UnixConn, text []byte) error {
	var h hello
	if err := json.Unmarshal(text, &h); err != nil || h.Version != version {
		return fmt.Errorf("%w: version %d (%w)", ErrProtocol, h.Version, err)
	}
	c := &child{conn: conn, seq: 1, over: make(chan error, 1),
		spin: spinner{waiting: h.Waiting}, files: map[uint64][]*os.File{}, offered: map[uint64][]offer{},
		arrived: make(chan struct{}, 1)}
	registry.Lock()
	c.funcs = maps.Clone(registry.m)
	registry.Unlock()
	f := os.NewFile(areaFD, "jobs")
	var err error
	if c.area, err = openArea(f); err != nil {
		return err
	}
	// What the run-time has to say at a crash goes to the end of the block as well, where
	// the parent finds it. The block does not grow, so no more than fits is written.
	if _, err := f.Seek(tailOff, 0); err != nil {
		return err
	}
	if err := debug.SetCrashOutput(f, debug.CrashOptions{}); err != nil {
		return err
	}
	b := os.NewFile(bellFD, "bell")
	block, err := shm.FromFile(b, nil)
	if err == nil {
		c.bell, err = bellIn(block)
	}
	if err = errors.Join(err, f.Close(), b.Close()); err != nil {
		return err
	}
	// Not ignored, as that would be inherited by what functions start.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	crash.Point("worker:started")
	if err := peer.Send(conn, frame(frameReady, 0), nil); err != nil {
		return err
	}
	go c.listen()
	go c.loop()
	return <-c.over
}

// listen hears what the parent has to say beside jobs. When it is gone, so is this
// process: whatever the function does, since it runs on another thread.
func (c *child) listen() {
	buf := make([]byte, peer.Message)
	for {
		n, files, err := peer.Receive(c.conn, buf)
		if err != nil {
			c.orphaned()
		}
		kind, seq := parseFrame(buf[:n])
		c.mu.Lock()
		switch kind {
		case frameFiles:
			c.files[seq] = append(c.files[seq], files...)
			select {
			case c.arrived <- struct{}{}:
			default:
			}
		case frameCancel:
			// The store first, as in call, whose order is the other one: one of them sees
			// what the other has done.
			c.cancelled.Store(seq)
			if ctx := c.current.Load(); ctx != nil && ctx.seq == seq {
				ctx.cancel()
			}
		case frameTaken:
			for _, o := range c.offered[seq] {
				o.made.Given()
			}
			delete(c.offered, seq)
			c.rouse() // the loop may be about to end, but for this
		case frameStop:
			c.stop.Store(true)
			c.rouse()
		}
		c.mu.Unlock()
	}
}

// rouse has the loop look again, if it sleeps or is about to.
func (c *child) rouse() {
	c.area.wake.Add(2)
	wait.Wake(c.area.wake, 1<<30)
}

// orphaned ends the process whose parent has gone, and removes what that has not taken.
func (c *child) orphaned() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ctx := c.current.Load(); ctx != nil {
		ctx.cancel()
	}
	for _, all := range c.offered {
		for _, o := range all {
			o.drop()
		}
	}
	os.Exit(1)
}

// loop runs jobs. A function that ends its goroutine ends the loop, and another begins.
func (c *child) loop() {
	ended := false
	defer func() {
		if !ended {
			go c.loop()
		}
	}()
	for c.next() {
		c.run()
	}
	ended = true
	// What was returned by the last ones may still have to be taken.
	for {
		v := c.area.wake.Load()
		c.mu.Lock()
		n := len(c.offered)
		c.mu.Unlock()
		if n == 0 {
			break
		}
		c.sleep(v)
	}
	c.over <- nil
}

// next waits for a job and begins it; false at the end.
func (c *child) next() bool {
	for looks, limit := 0, c.spin.limit(); ; {
		switch c.begin() {
		case slotBegun:
			if looks > 0 && looks <= limit {
				c.spin.found(looks)
			}
			return true
		case slotWithdrawn:
			continue
		}
		if c.stop.Load() {
			return false
		}
		if looks++; looks <= limit || limit < 0 {
			c.spin.pause()
			continue
		}
		if looks == limit+1 {
			c.spin.missed()
		}
		v := drowse(c.area.wake)
		crash.Point("worker:waiting")
		if s := c.begin(); s == slotBegun {
			return true
		} else if s == slotFree && !c.stop.Load() {
			c.sleep(v)
		}
	}
}

func (c *child) sleep(v uint32) {
	if err := wait.One(c.area.wake, v); err != nil {
		c.over <- fmt.Errorf("the memory of the jobs is gone: %w", err)
		select {}
	}
}

// begin takes the next slot if there is a job in it, and passes over withdrawn ones.
func (c *child) begin() int {
	w := &c.area.slot(c.seq).words[wordState]
	v := w.Load()
	switch seq := v >> stateBits; {
	case seq > c.seq || seq == c.seq && v&stateMask == slotWithdrawn:
		c.seq++
		return slotWithdrawn
	case seq != c.seq || v&stateMask != slotQueued:
		return slotFree
	}
	if !w.CompareAndSwap(v, c.seq<<stateBits|slotBegun) {
		return slotWithdrawn // a moment ago; looked at again
	}
	crash.Point("worker:begun")
	return slotBegun
}

// run does what lies in the slot that has begun.
func (c *child) run() {
	seq := c.seq
	s := c.area.slot(seq)
	out := &c.out
	*out = payload{give: true}
	returned := false
	defer func() {
		if !returned {
			// A panic is recovered where it comes from; this is the end of the goroutine.
			c.answer(s, &payload{}, &Failure{Type: "runtime.Goexit", Text: "the function ended its goroutine"})
		}
	}()
	err := c.call(s, seq, out)
	returned = true
	crash.Point("worker:returned")
	c.answer(s, out, err)
}

// call calls the function, with the context that cancel ends.
func (c *child) call(s *slot, seq uint64, out *payload) (err error) {
	ctx := &jobContext{seq: seq}
	c.current.Store(ctx)
	if c.cancelled.Load() == seq {
		ctx.cancel()
	}
	in := &c.in
	*in = reply{}
	defer func() {
		if r := recover(); r != nil {
			f := &Failure{}
			if e, ok := r.(error); ok {
				f = failureOf(e)
			}
			f.Type, f.Text, f.Trace = panicType, fmt.Sprint(r), string(debug.Stack())
			err = f
		}
		c.current.Store(nil)
		ctx.cancel() // for what the function leaves running
		in.release()
		// What was opened for the function ends with it, but for what it returns: that
		// is closed when it is sent.
		for _, h := range in.opened {
			_ = h.Close()
		}
	}()
	m, err := s.get(true)
	if err != nil {
		return err
	}
	f := c.funcs[string(m.name)]
	if f == nil { // registered late
		registry.Lock()
		f = registry.m[string(m.name)]
		registry.Unlock()
	}
	if f == nil {
		return fmt.Errorf("%w: this process knows no function %q; register it in a variable of a package, before Main", ErrProtocol, m.name)
	}
	in.files = c.take(seq, m.files)
	in.fill(m)
	return f(ctx, in, out)
}

// take waits for the descriptors of a job, which are on their way.
func (c *child) take(seq uint64, n int) []*os.File {
	for n > 0 {
		c.mu.Lock()
		if files := c.files[seq]; len(files) >= n {
			delete(c.files, seq)
			c.mu.Unlock()
			return files
		}
		c.mu.Unlock()
		<-c.arrived
	}
	return nil
}

// answer stores the result, or why there is none, and tells the parent.
func (c *child) answer(s *slot, out *payload, failed error) {
	seq := c.seq
	c.seq++
	if failed == nil {
		failed = c.give(s, seq, out)
	}
	if failed != nil {
		out.dropOffers()
		p := payload{data: appendFailure(nil, failed)}
		s.put("", &p, flagFailed, nil)
	}
	out.release()
	for _, h := range out.handles {
		_ = h.Close()
	}
	crash.Point("worker:written")
	s.words[wordState].Store(seq<<stateBits | slotDone)
	crash.Point("worker:done")
	c.bell.ring()
}

// give stores a result and sends what does not fit.
func (c *child) give(s *slot, seq uint64, out *payload) error {
	extra := appendOffers(nil, out.offers)
	if len(out.offers) > 0 {
		c.mu.Lock()
		c.offered[seq] = out.offers
		c.mu.Unlock()
		crash.Point("worker:offered")
	}
	if !s.put("", out, 0, extra) {
		c.mu.Lock()
		delete(c.offered, seq)
		c.mu.Unlock()
		return fmt.Errorf("a result with %d blocks %w", len(out.offers), ErrEncode)
	}
	return sendFiles(c.conn, seq, out.files)
}

// dropOffers removes what a function made for a result that could not be sent: nobody
// else will.
func (p *payload) dropOffers() {
	for _, o := range p.offers {
		o.drop()
	}
	p.offers = nil
}

// drop takes back a block and removes it.
func (o offer) drop() {
	o.made.Kept()
	if b, err := o.ref.Open(nil); err == nil {
		_, _ = b.Unlink(), b.Close()
	}
}

// sendFiles sends descriptors ahead of the message that they belong to.
func sendFiles(conn *net.UnixConn, seq uint64, files []*os.File) error {
	for len(files) > 0 {
		n := min(len(files), peer.MaxFiles)
		if err := peer.Send(conn, frame(frameFiles, seq), files[:n]); err != nil {
			return fmt.Errorf("descriptors %w: %w", ErrEncode, err)
		}
		files = files[n:]
	}
	return nil
}

// fill makes r hold the bytes of a message.
func (r *reply) fill(m message) {
	r.data, r.long, r.size = m.data, m.flags&flagBlock != 0, m.size
}

// hold makes r.data the bytes of a long value, until done is called.
func (r *reply) hold() (done func(), err error) {
	if !r.long {
		return func() {}, nil
	}
	if len(r.files) == 0 {
		return nil, errData
	}
	b, err := shm.FromFile(r.files[len(r.files)-1], nil)
	if err != nil {
		return nil, err
	}
	if r.size > b.Size() {
		_ = b.Close()
		return nil, errData
	}
	r.data = b.Bytes()[:r.size]
	return func() {
		r.data = nil
		_ = b.Close()
	}, nil
}
