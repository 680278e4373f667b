package topic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"reflect"
	"sync"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/layout"
)

// Typed is a topic of values of one type: each message is one, in the machine's own
// bytes, as [shm.At] has them.
type Typed[T any] struct{ *Topic }

// Of makes a topic one of T. T must be free of pointers.
//
// Errors: shm.ErrFormat for another T; shm.ErrSize if one is longer than
// SlotSize.
func Of[T any](t *Topic) (*Typed[T], error) {
	if err := fits[T](t); err != nil {
		return nil, err
	}
	return &Typed[T]{t}, nil
}

// fits says whether a T is a message of t.
func fits[T any](t *Topic) error {
	switch v := reflect.TypeFor[T](); {
	case layout.HasPointers(v):
		return t.party.Fail("open topic", fmt.Errorf("%w: %v holds a pointer of this process", shm.ErrFormat, v))
	case v.Size() > uintptr(t.room):
		return t.party.Fail("open topic", fmt.Errorf("%w: %v has %d bytes; SlotSize is %d", shm.ErrSize, v, v.Size(), t.room))
	}
	return nil
}

// TypedPublisher is a [Publisher] of T.
type TypedPublisher[T any] struct {
	*Publisher
	v [1]T
	p []byte // its bytes
}

// TypedSubscriber is a [Subscriber] of T.
type TypedSubscriber[T any] struct {
	*Subscriber
	v []T    // room for the longest message, of which the first is a T
	p []byte // its bytes
}

// Publisher is [Topic.Publisher].
func (t *Typed[T]) Publisher() (*TypedPublisher[T], error) {
	p, err := t.Topic.Publisher()
	if err != nil {
		return nil, err
	}
	typed := &TypedPublisher[T]{Publisher: p}
	typed.p = layout.Bytes(typed.v[:])
	return typed, nil
}

// Subscriber is [Topic.Subscriber].
func (t *Typed[T]) Subscriber(from ...From) (*TypedSubscriber[T], error) {
	s, err := t.Topic.Subscriber(from...)
	if err != nil {
		return nil, err
	}
	size := max(int(reflect.TypeFor[T]().Size()), 1)
	v := make([]T, 1+s.room/size)
	return &TypedSubscriber[T]{Subscriber: s, v: v, p: layout.Bytes(v)}, nil
}

// Publish is [Publisher.Publish].
func (p *TypedPublisher[T]) Publish(v T) error {
	p.v[0] = v
	return p.Publisher.Publish(p.p)
}

// PublishContext is [Publisher.PublishContext].
func (p *TypedPublisher[T]) PublishContext(ctx context.Context, v T) error {
	p.v[0] = v
	return p.Publisher.PublishContext(ctx, p.p)
}

// TryPublish is [Publisher.TryPublish].
func (p *TypedPublisher[T]) TryPublish(v T) (bool, error) {
	p.v[0] = v
	return p.Publisher.TryPublish(p.p)
}

// value is what was received, if it is a T.
func (s *TypedSubscriber[T]) value(n int, err error) (T, error) {
	if size := len(s.p) / len(s.v); err == nil && n != size {
		err = s.fail(fmt.Errorf("%w: a message of %d bytes, a %v has %d", shm.ErrFormat, n, reflect.TypeFor[T](), size))
	}
	if err != nil {
		var zero T
		return zero, err
	}
	return s.v[0], nil
}

// Receive is [Subscriber.Receive]. A message that is no T is taken, and
// shm.ErrFormat.
func (s *TypedSubscriber[T]) Receive() (T, error) { return s.value(s.Subscriber.Receive(s.p)) }

// ReceiveContext is [Subscriber.ReceiveContext].
func (s *TypedSubscriber[T]) ReceiveContext(ctx context.Context) (T, error) {
	return s.value(s.Subscriber.ReceiveContext(ctx, s.p))
}

// TryReceive is [Subscriber.TryReceive].
func (s *TypedSubscriber[T]) TryReceive() (v T, ok bool, err error) {
	n, ok, err := s.Subscriber.TryReceive(s.p)
	if !ok {
		return v, false, err
	}
	v, err = s.value(n, err)
	return v, err == nil, err
}

// All yields values as they come, and ends when all publishers have closed. Another error
// is yielded once and ends it as well.
func (s *TypedSubscriber[T]) All() iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for {
			v, err := s.Receive()
			if errors.Is(err, io.EOF) || !yield(v, err) || err != nil {
				return
			}
		}
	}
}

// TypedLatest is a [Latest] of T.
type TypedLatest[T any] struct {
	*Latest
	mu sync.Mutex
	v  [1]T
	p  []byte
}

// LatestOf makes a Latest one of T. T must be free of pointers.
//
// Errors: as Of.
func LatestOf[T any](l *Latest) (*TypedLatest[T], error) {
	if err := fits[T](l.Topic); err != nil {
		return nil, err
	}
	t := &TypedLatest[T]{Latest: l}
	t.p = layout.Bytes(t.v[:])
	return t, nil
}

// Set is [Latest.Set].
func (l *TypedLatest[T]) Set(v T) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.v[0] = v
	return l.Latest.Set(l.p)
}

// Get is [Latest.Get]; before the first Set, the zero T. A value that is no T is
// shm.ErrFormat.
func (l *TypedLatest[T]) Get() (T, uint64, error) {
	var v [1]T
	return l.value(&v, func(p []byte) (int, uint64, error) { return l.Latest.Get(p) })
}

// Changed is [Latest.Changed].
func (l *TypedLatest[T]) Changed(ctx context.Context, after uint64) (T, uint64, error) {
	var v [1]T
	return l.value(&v, func(p []byte) (int, uint64, error) { return l.Latest.Changed(ctx, p, after) })
}

func (l *TypedLatest[T]) value(v *[1]T, get func([]byte) (int, uint64, error)) (T, uint64, error) {
	n, version, err := get(layout.Bytes(v[:]))
	if version != 0 && (err == nil || errors.Is(err, io.ErrShortBuffer)) && n != len(l.p) {
		err = l.party.Fail("get", fmt.Errorf("%w: a value of %d bytes, a %v has %d", shm.ErrFormat, n, reflect.TypeFor[T](), len(l.p)))
	}
	if err != nil {
		var zero T
		return zero, version, err
	}
	return v[0], version, nil
}
