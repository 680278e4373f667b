package topic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/step"
)

// Latest is a value that some set and others read, each time as it is now: state, where a
// [Subscriber] is for events. Nobody waits for anybody, readers need no place
// among the participants, and somebody who dies while setting it leaves the value
// before.
//
// It is a topic, of which only the last message matters; subscribers may read it as well.
// Its methods may be called by several goroutines at once.
type Latest struct {
	*Topic

	mu sync.Mutex
	p  *Publisher
}

// How many slots there are by default. While one is read, all others have to be set before
// the reader has to begin again. Of many publishers each may be about to set one.
const (
	latestSlots     = 4
	latestSlotsMany = 16
)

// CreateLatest makes one in a new block. SlotSize is how large it may be. Slots is 4 by
// default, 16 with ManyPublishers: more than publish at once. Policy is Overwrite.
//
// Errors: as Create; errors.ErrUnsupported for another Policy.
func CreateLatest(name string, opts *Options) (*Latest, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.Policy != Overwrite {
		return nil, fmt.Errorf("create topic %q: Latest with %v: %w", name, o.Policy, errors.ErrUnsupported)
	}
	if o.Slots == 0 {
		o.Slots = latestSlots
		if o.ManyPublishers {
			o.Slots = latestSlotsMany
		}
	}
	t, err := Create(name, &o)
	if err != nil {
		return nil, err
	}
	return &Latest{Topic: t}, nil
}

// OpenLatest opens one that exists: any topic with the policy Overwrite.
//
// Errors: as Open; ErrOptions for another policy.
func OpenLatest(name string, opts *OpenOptions) (*Latest, error) {
	t, err := Open(name, opts)
	if err != nil {
		return nil, err
	}
	if t.wait {
		return nil, errors.Join(t.party.Fail("open topic", fmt.Errorf("%w: Policy is %v, not %v", ErrOptions, Wait, Overwrite)), t.Close())
	}
	return &Latest{Topic: t}, nil
}

// Set makes v the value. The first call makes this Latest a publisher.
//
// Errors: as Topic.Publisher and Publisher.Publish.
func (l *Latest) Set(v []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.p == nil {
		p, err := l.Publisher()
		if err != nil {
			return err
		}
		l.p = p
	}
	return l.p.Publish(v)
}

// Get copies the value into buf. n is its length, and version how often it had been set,
// this time included; 0 if never.
//
// Errors: io.ErrShortBuffer, with the length that is needed; ErrOverwritten if as many of
// many publishers as there are slots are setting it just now, or died one after the other
// while they did; shm.ErrFormat if it is damaged; os.ErrClosed.
func (l *Latest) Get(buf []byte) (n int, version uint64, err error) {
	release, err := l.party.Acquire()
	if err != nil {
		return 0, 0, l.party.Fail("get", err)
	}
	defer release()
	n, version, err = l.get(buf)
	return n, version, l.party.Fail("get", err)
}

func (l *Latest) get(buf []byte) (n int, version uint64, err error) {
	c := l.core
	for range c.patience() {
		t, err := c.tail()
		if err != nil {
			return 0, 0, err
		}
		pos := t
		for first := c.oldest(t); ; pos-- {
			if pos == first {
				break
			}
			at := c.slot(pos - 1)
			w := c.words[at].Load()
			if c.ahead(w, pos-1) > 0 {
				break // others have come around; look again
			}
			if c.ahead(w, pos-1) < 0 || w&stateMask != stateFull {
				continue
			}
			n := c.words[at+1].Load()
			long := n > uint64(min(c.room, len(buf)))
			if !long {
				c.copyOut(buf[:n], at)
			}
			switch {
			case step.LoadLast(&c.words[at]) != w:
			case n > uint64(c.room):
				return 0, 0, garbage("the length of a message", n)
			case long:
				return int(n), pos, fmt.Errorf("a value of %d bytes: %w", n, io.ErrShortBuffer)
			default:
				l.party.Shadow.Taken()
				return int(n), pos, nil
			}
			break
		}
		// Nothing at all in the last lap, and nobody has come further meanwhile.
		again, err := c.tail()
		switch {
		case err != nil || t == 0 && again == 0:
			return 0, 0, err
		case pos == c.oldest(t) && again == t:
			return 0, 0, ErrOverwritten
		}
	}
	return 0, 0, fmt.Errorf("%w: it is set all the time", shm.ErrFormat)
}

// Changed waits until the version is another than after, and then is Get. Each call takes
// a place among the participants while it waits.
//
// Errors: as Get; as Topic.Subscriber; io.EOF if nobody is left who sets it,
// ErrPeerGone if the last one died; ctx's.
func (l *Latest) Changed(ctx context.Context, buf []byte, after uint64) (n int, version uint64, err error) {
	n, version, err = l.Get(buf)
	if err != nil || version != after {
		return n, version, err
	}
	s, err := l.Subscriber()
	if err != nil {
		return 0, after, err
	}
	defer func() {
		if e := s.Close(); err == nil {
			err = e
		}
	}()
	for {
		// Before the wait: it may have been set before we were there.
		if n, version, err = l.Get(buf); err != nil || version != after {
			return n, version, err
		}
		err = s.LeaseContext(ctx, func([]byte) error { return nil })
		if err != nil && !errors.Is(err, ErrOverwritten) {
			return 0, after, err
		}
	}
}
