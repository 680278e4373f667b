package topic

import (
	"os"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/party"
	"github.com/sharedmem/shm/internal/platform/wait"
	"github.com/sharedmem/shm/internal/step"
)

// Info is what a topic looked like at one moment, from outside.
type Info struct {
	Options      Options // what it was made with; Block and Waiting are zero
	Stats        Stats
	Participants []Participant

	// Elsewhere says that those who use it have their leases in another place: whether
	// they live cannot be known, and Open will refuse.
	Elsewhere bool
}

// Participant is one who publishes or subscribes, or died and was not yet missed.
type Participant struct {
	Role   string    `json:"role"` // "publisher" or "subscriber"
	Owner  shm.Owner `json:"owner"`
	Behind uint64    `json:"behind"` // of a subscriber: how many messages it has still to read, about
}

// Describe says what is in a block that a topic lies in, without taking part: it
// changes nothing, and a block opened read-only will do. What it says may be
// past when it returns.
//
// Errors: shm.ErrFormat if it is no topic, os.ErrClosed, errors.ErrUnsupported where there
// are no topics.
func Describe(b *shm.Block) (Info, error) {
	var i Info
	c, g, release, err := onlook(b)
	if err != nil {
		return i, &shm.Error{Op: "describe topic", Name: b.Name(), Err: err}
	}
	defer release()
	i.Options, i.Stats = g.options(), c.stats()
	var owner func(*party.Entry) shm.Owner
	owner, i.Elsewhere = party.Owners(b, g.place)
	tail, _ := c.tail()
	for k := range c.entries {
		e := &c.entries[k]
		p := Participant{Role: "publisher"}
		switch e.Role() {
		case publisher:
		case subscriber:
			p.Role = "subscriber"
			if n := tail - e.cursor.Load(); int64(n) > 0 {
				p.Behind = n
			}
		default:
			continue
		}
		p.Owner = owner(&e.Entry)
		i.Participants = append(i.Participants, p)
	}
	return i, nil
}

// onlook is a look at a topic that takes no part in it.
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

// Message is one that lies in a topic.
type Message struct {
	Number uint64 // how many were published before it
	Data   []byte // a copy
}

// Peek copies the messages that lie in the topic, oldest first, from number from on.
// next is the number behind the last: from there on nothing had been published. Those
// that were overwritten are not there.
//
// As [Describe], it looks from outside, and does not wait.
//
// Errors: as Describe; shm.ErrFormat if the topic is damaged.
func Peek(b *shm.Block, from uint64) (messages []Message, next uint64, err error) {
	fail := func(err error) ([]Message, uint64, error) {
		return messages, from, &shm.Error{Op: "look into topic", Name: b.Name(), Err: err}
	}
	c, _, release, err := onlook(b)
	if err != nil {
		return fail(err)
	}
	defer release()
	tail, err := c.tail()
	if err != nil {
		return fail(err)
	}
	for pos := max(from, c.oldest(tail)); int64(tail-pos) > 0; pos++ {
		at := c.slot(pos)
		w := c.words[at].Load()
		if c.ahead(w, pos) != 0 || w&stateMask != stateFull {
			if c.ahead(w, pos) == 0 && w&stateMask == stateWriting {
				return messages, pos, nil // it is still to come
			}
			continue
		}
		n := c.words[at+1].Load()
		var p []byte
		if n <= uint64(c.room) {
			p = make([]byte, n)
			c.copyOut(p, at)
		}
		switch {
		case step.LoadLast(&c.words[at]) != w: // overwritten meanwhile
		case n > uint64(c.room):
			return fail(garbage("the length of a message", n))
		default:
			messages = append(messages, Message{Number: pos, Data: p})
		}
	}
	return messages, max(from, tail), nil
}
