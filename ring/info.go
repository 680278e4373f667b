package ring

import (
	"os"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/party"
	"github.com/sharedmem/shm/internal/platform/wait"
)

// Info is what a ring looked like at one moment, from outside.
type Info struct {
	Options      Options // what it was made with; Block and Waiting are zero
	Stats        Stats
	Participants []Participant

	// Elsewhere says that those who use it have their leases in another place: whether
	// they live cannot be known, and Open will refuse.
	Elsewhere bool
}

// Participant is one who sends or receives, or died and was not yet missed.
type Participant struct {
	Role  string    `json:"role"` // "sender" or "receiver"
	Owner shm.Owner `json:"owner"`
}

// Describe says what is in a block that a ring lies in, without taking part: it
// changes nothing, and a block opened read-only will do. What it says may be
// past when it returns.
//
// Errors: shm.ErrFormat if it is no ring, os.ErrClosed, errors.ErrUnsupported where there are
// no rings.
func Describe(b *shm.Block) (Info, error) {
	var i Info
	c, g, release, err := onlook(b)
	if err != nil {
		return i, &shm.Error{Op: "describe ring", Name: b.Name(), Err: err}
	}
	defer release()
	i.Options, i.Stats = g.options(), c.stats()
	var owner func(*party.Entry) shm.Owner
	owner, i.Elsewhere = party.Owners(b, g.place)
	for k := range c.entries {
		e := &c.entries[k]
		p := Participant{Role: "sender"}
		switch e.Role() {
		case sender:
		case receiver:
			p.Role = "receiver"
		default:
			continue
		}
		p.Owner = owner(&e.Entry)
		i.Participants = append(i.Participants, p)
	}
	return i, nil
}

// onlook is a look at a ring that takes no part in it.
func onlook(b *shm.Block) (*core, geometry, func(), error) {
	if err := wait.Supported(); err != nil {
		return nil, geometry{}, nil, err
	}
	release, err := b.Acquire()
	if err != nil {
		return nil, geometry{}, nil, os.ErrClosed
	}
	c, g, err := newCore(b.Bytes())
	if err != nil {
		release()
		return nil, geometry{}, nil, err
	}
	return c, g, release, nil
}

// Message is one that lies in a ring.
type Message struct {
	Position    uint64 // where it lies, in slots since the ring was made
	Data        []byte // a copy
	Taken       bool   // a receiver has it, and has not finished
	Redelivered bool   // a receiver had it and died
}

// Peek copies the messages that lie in the ring, oldest first, from position from on,
// and takes none. next is the position behind the last: from there on nothing
// had been sent. Messages that were received meanwhile, or before, are not there.
//
// As [Describe], it looks from outside, and does not wait. To see all that is sent, be a
// receiver, or use a topic.
//
// Errors: as Describe; shm.ErrFormat if the ring is damaged.
func Peek(b *shm.Block, from uint64) (messages []Message, next uint64, err error) {
	c, _, release, err := onlook(b)
	if err != nil {
		return nil, from, &shm.Error{Op: "look into ring", Name: b.Name(), Err: err}
	}
	defer release()
	if c.direct {
		messages, next, err := c.peekDirect(from)
		if err != nil {
			err = &shm.Error{Op: "look into ring", Name: b.Name(), Err: err}
		}
		return messages, next, err
	}
	// What dead receivers had lies behind the head, and may for a whole lap.
	pos := c.hdr.head.Load()
	if back := min(pos, c.mask); int64(from-(pos-back)) < 0 {
		from = pos - back
	}
	pos = from
	// A bound, as the words are somebody else's.
	for range 4 * (c.mask + 1) {
		at := c.slot(pos)
		w := c.words[at].Load()
		ahead, state := c.ahead(w, pos), w&stateMask
		switch {
		case ahead < 0 || ahead == 0 && state == stateFree:
			return messages, pos, nil
		case ahead > 0:
			pos++
			continue
		}
		span, err := c.span(w)
		if err != nil {
			return messages, pos, &shm.Error{Op: "look into ring", Name: b.Name(), Err: err}
		}
		if state == stateFull || state == stateReading {
			n := c.words[at+1].Load()
			m := Message{Position: pos, Taken: state == stateReading, Redelivered: w&flagAgain != 0}
			if n <= uint64(c.limit) && n <= span*uint64(c.room) {
				m.Data = make([]byte, n)
				c.copyOut(pos, m.Data)
			}
			// The copy is of this message if the word is the same after all of it; a look as
			// rare as this one can have the kernel see to that order.
			wait.Fence()
			now := c.words[at].Load()
			switch {
			case now == w && m.Data == nil:
				return messages, pos, &shm.Error{Op: "look into ring", Name: b.Name(), Err: garbage("the length of a message", n)}
			case now == w:
				messages = append(messages, m)
			case c.ahead(now, pos) == 0:
				continue // taken, or given back: the message is there still
			}
		}
		pos += span
	}
	return messages, pos, nil
}
