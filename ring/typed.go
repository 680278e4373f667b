package ring

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"reflect"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/layout"
)

// Typed is a ring of values of one type: each message is one, in the machine's own
// bytes, as [shm.At] has them.
type Typed[T any] struct{ *Queue }

// Of makes a ring one of T. T must be free of pointers.
//
// Errors: shm.ErrFormat for another T; shm.ErrSize if one is longer than
// MaxMessage.
func Of[T any](q *Queue) (*Typed[T], error) {
	t := reflect.TypeFor[T]()
	switch {
	case layout.HasPointers(t):
		return nil, q.party.Fail("open ring", fmt.Errorf("%w: %v holds a pointer of this process", shm.ErrFormat, t))
	case t.Size() > uintptr(q.limit):
		return nil, q.party.Fail("open ring", fmt.Errorf("%w: %v has %d bytes; MaxMessage is %d", shm.ErrSize, t, t.Size(), q.limit))
	}
	return &Typed[T]{q}, nil
}

// TypedSender is a [Sender] of T.
type TypedSender[T any] struct {
	*Sender
	v [1]T
	p []byte // its bytes
}

// TypedReceiver is a [Receiver] of T.
type TypedReceiver[T any] struct {
	*Receiver
	v [1]T
	p []byte
}

// Sender is [Queue.Sender].
func (q *Typed[T]) Sender() (*TypedSender[T], error) {
	s, err := q.Queue.Sender()
	if err != nil {
		return nil, err
	}
	t := &TypedSender[T]{Sender: s}
	t.p = layout.Bytes(t.v[:])
	return t, nil
}

// Receiver is [Queue.Receiver].
func (q *Typed[T]) Receiver() (*TypedReceiver[T], error) {
	r, err := q.Queue.Receiver()
	if err != nil {
		return nil, err
	}
	t := &TypedReceiver[T]{Receiver: r}
	t.p = layout.Bytes(t.v[:])
	return t, nil
}

// Send is [Sender.Send].
func (s *TypedSender[T]) Send(v T) error {
	s.v[0] = v
	return s.Sender.Send(s.p)
}

// SendContext is [Sender.SendContext].
func (s *TypedSender[T]) SendContext(ctx context.Context, v T) error {
	s.v[0] = v
	return s.Sender.SendContext(ctx, s.p)
}

// TrySend is [Sender.TrySend].
func (s *TypedSender[T]) TrySend(v T) (bool, error) {
	s.v[0] = v
	return s.Sender.TrySend(s.p)
}

// value is what was received, if it is a T.
func (r *TypedReceiver[T]) value(n int, err error) (T, error) {
	if err == nil && n != len(r.p) {
		err = r.fail(fmt.Errorf("%w: a message of %d bytes, a %v has %d", shm.ErrFormat, n, reflect.TypeFor[T](), len(r.p)))
	}
	if err != nil {
		var zero T
		return zero, err
	}
	return r.v[0], nil
}

// receive calls get with room for a T; for a longer message, which would stay for ever,
// once more with room for the longest.
func (r *TypedReceiver[T]) receive(get func(buf []byte) (n int, ok bool, err error)) (v T, ok bool, err error) {
	n, ok, err := get(r.p)
	if errors.Is(err, io.ErrShortBuffer) {
		long := make([]byte, r.limit)
		n, ok, err = get(long)
		copy(r.p, long[:n]) // another may have taken the long one, and this is a T
	}
	if !ok && err == nil {
		return v, false, nil
	}
	v, err = r.value(n, err)
	return v, err == nil, err
}

// Receive is [Receiver.Receive]. A message that is no T is taken, and
// shm.ErrFormat.
func (r *TypedReceiver[T]) Receive() (T, error) { return r.ReceiveContext(context.Background()) }

// ReceiveContext is [Receiver.ReceiveContext].
func (r *TypedReceiver[T]) ReceiveContext(ctx context.Context) (T, error) {
	v, _, err := r.receive(func(buf []byte) (int, bool, error) {
		n, err := r.Receiver.ReceiveContext(ctx, buf)
		return n, err == nil, err
	})
	return v, err
}

// TryReceive is [Receiver.TryReceive].
func (r *TypedReceiver[T]) TryReceive() (v T, ok bool, err error) {
	return r.receive(r.Receiver.TryReceive)
}

// All yields values as they come, and ends when all senders have closed. Another error
// is yielded once and ends it as well.
func (r *TypedReceiver[T]) All() iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for {
			v, err := r.Receive()
			if errors.Is(err, io.EOF) || !yield(v, err) || err != nil {
				return
			}
		}
	}
}
