package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/sharedmem/shm"
)

// This file is what stands between pools and children: a pool knows a child by a link,
// whatever language it is written in, and a link knows the pool by a host.

// program is what a child executes, this program or a Python with a script. It is
// the key by which a pool finds workers for a function, so equal programs must
// be equal by ==.
type program interface {
	// start starts a child and returns when it takes jobs. If ctx ends or the child does
	// before that, nothing is left of it, and the error says what to do. After a
	// nil error the link calls h.
	start(ctx context.Context, o *Options, h host) (link, error)
}

// link is one running child. The pool calls its methods with its own lock held: they
// never wait for the child, and never call the host, but for poll.
type link interface {
	pid() int

	// room is how many jobs send takes now. It does not count what the child works on.
	room() int

	// send gives the child a job, which it begins after those that it was sent
	// before. If that cannot be done, with memory or descriptors used up, say, the error is
	// the job's, and the child as before. A child that has died meanwhile is no
	// error; then died says that the job did not begin.
	send(j *job) error

	// withdraw takes back a job if the child has not begun it. A link that cannot know
	// returns false.
	withdraw(id uint64) bool

	// cancel asks the function, if it is running, to give up: its context ends. What
	// comes of it is a result as any other, or nothing; the pool kills what takes too long.
	cancel(id uint64)

	// poll calls h.done for results that have come meanwhile, if that is how this link
	// learns of them, and reports whether there were any. The pool's lock is not held.
	poll() bool

	// stop has the child end when it has done what it was sent. kill ends it at once.
	// Either way died follows.
	stop()
	kill()
}

// host is who started a child. It may be called by any goroutine, but by one at a time
// for each link.
type host interface {
	// done says what came of a job; once for each. r is the host's from then on.
	done(l link, id uint64, r *reply)

	// died says that the child is gone, waited for, and has left nothing; the last
	// call. begun reports whether it had begun a job that has no result: that one
	// is charged with the death. d.Code is 0 after a regular stop.
	died(l link, d *Death, begun func(id uint64) bool)

	// bell is what a child rings that leaves results in shared memory, to be polled.
	bell() *bell
}

// job is a function and its argument on their way to a child.
type job struct {
	id   uint64 // never 0, and not used again in this process
	name string // of the function
	in   payload
}

// inlineMax is how long a value may be that travels among the jobs. Longer ones get a block
// without a name, which is handed over by descriptor.
const inlineMax = 64<<10 - 1024

// payload is a value made bytes: its sender's side.
type payload struct {
	data  []byte
	block *shm.Block // holds size bytes in place of data, if they are many
	size  int
	files []*os.File // travel as descriptors

	keywords bool // for Python: the value is keyword arguments

	// A child gives away what it returns.
	give    bool
	offers  []offer
	handles []handle // blocks and what lies in them: in a child closed once they are sent
}

// fill stores the parts in a block of their own: the one copy that is made of them here.
func (p *payload) fill(parts [][]byte, size int) error {
	if size <= inlineMax {
		p.data = make([]byte, 0, size)
		for _, b := range parts {
			p.data = append(p.data, b...)
		}
		return nil
	}
	b, err := shm.Anonymous(size, nil)
	if err != nil {
		if errors.Is(err, syscall.ENOMEM) { // there is memory, but no room for it here
			err = fmt.Errorf("%w: %w (ulimit -v, or AddressSpace in Limits)", shm.ErrNoSpace, err)
		}
		return fmt.Errorf("a value of %d bytes %w: %w", size, ErrEncode, err)
	}
	f, err := b.File()
	if err != nil {
		_ = b.Close()
		return err
	}
	off := 0
	err = b.Do(func(m []byte) error {
		for _, p := range parts {
			off += copy(m[off:], p)
		}
		return nil
	})
	p.block, p.size = b, size
	p.files = append(p.files, f) // the last one
	return err
}

// release lets go of what the payload holds in this process: the receiver has it, or never
// will.
func (p *payload) release() {
	for _, f := range p.files {
		_ = f.Close()
	}
	if p.block != nil {
		_ = p.block.Close()
	}
	p.files, p.block = nil, nil
}

// reply is a value as bytes on the receiver's side: what came back for a job or, in
// a child, what came in.
type reply struct {
	data   []byte
	long   bool // in place of data, size bytes of what the last descriptor is of
	size   int
	files  []*os.File   // descriptors that came with it
	taken  []*shm.Block // that this process has become the owner of by it
	opened []handle     // by decode
	err    error        // if not nil there is no value; a *Failure if it is the function's
}

// drop removes what came with a result that nobody wants.
func (r *reply) drop() {
	r.release()
	for _, b := range r.taken {
		_ = b.Unlink()
	}
	r.taken = nil
}

// release closes descriptors: what they are of has been opened, or never will be.
func (r *reply) release() {
	for _, f := range r.files {
		_ = f.Close()
	}
	r.files = nil
}
