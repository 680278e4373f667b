package conn

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/pickle"
)

// What Python has and Go has not.
type (
	Tuple     = pickle.Tuple     // a tuple; in Go a slice
	Dict      = pickle.Dict      // a dict in its order
	Pair      = pickle.Pair      // a key of a Dict and its value
	ByteArray = pickle.ByteArray // a bytearray
	Set       = pickle.Set       // a set; what is in it twice stays so
	FrozenSet = pickle.FrozenSet // a frozenset
)

var (
	// ErrSyntax says that a message is no pickle. It was received; the Conn
	// goes on.
	ErrSyntax = pickle.ErrSyntax

	// ErrForbidden is for a value that is not among those of Send and Recv. A
	// pickle that would have Python run code is refused so.
	ErrForbidden = pickle.ErrForbidden

	// ErrLimit is for a value with too many parts (1 << 20), in too many levels
	// (100) or, received, with more text than MaxFrame.
	ErrLimit = pickle.ErrLimit
)

// Send sends a value; Python's recv returns its equal, and so does Recv. It
// can be of these types, and of types made of them:
//
//	Go                           Python      Recv returns
//	nil                          None        nil
//	bool                         bool        bool
//	int…, uint…, *big.Int        int         int64, *big.Int beyond
//	float32, float64             float       float64
//	string                       str         string
//	[]byte, ByteArray            bytes, bytearray
//	[]any and other slices       list        []any
//	Tuple                        tuple       Tuple
//	map[string]any, Dict         dict        Dict
//	Set, FrozenSet               set, frozenset
//	shm.Ref, *shm.Block,         SharedMemory, or
//	*list.List                   ShareableList       shm.Ref
//
// A handle is sent by name; the receiver opens the memory. Python does so
// while it receives, and its resource tracker may then think that the block is
// its own: docs/python.md. So the block has to live until then. A block with a
// Dir of its own cannot be sent.
//
// Errors: those of SendBytes, ErrForbidden and ErrLimit for the value, of which
// nothing is sent then.
func (c *Conn) Send(v any) error { return c.SendContext(context.Background(), v) }

// SendContext is Send until ctx ends, whose error it returns then.
func (c *Conn) SendContext(ctx context.Context, v any) error {
	var refused error
	p, err := pickle.Marshal(v, &pickle.EncodeOptions{
		MaxBytes: math.MaxInt,
		Convert: func(v any) (any, bool) {
			h, ok, err := handle(v)
			if err != nil {
				refused = err
			}
			return h, ok
		},
	})
	if refused != nil {
		err = refused
	}
	if err != nil {
		return wrap("send", err)
	}
	return c.SendBytesContext(ctx, p)
}

// Recv waits for a value that Send or Python's send sent. The table at Send
// says what comes of which. Whatever the peer sends, nothing is run, opened or
// created, and it is never more than the limits allow.
//
// Errors: those of RecvBytes; ErrSyntax, ErrForbidden and ErrLimit for a
// message that was received, but is no value: the next one may be.
func (c *Conn) Recv() (any, error) { return c.RecvContext(context.Background()) }

// RecvContext is Recv until ctx ends, whose error it returns then.
func (c *Conn) RecvContext(ctx context.Context) (any, error) {
	p, err := c.RecvBytesContext(ctx)
	if err != nil {
		return nil, err
	}
	v, err := pickle.Unmarshal(p, &pickle.Options{Globals: pickle.HandleGlobals, MaxBytes: c.in.max})
	if err == nil {
		v, err = refs(v)
	}
	if err != nil {
		return nil, wrap("receive", err)
	}
	return v, nil
}

// handle returns what Python pickles for v, if v is a handle of shared memory.
func handle(v any) (call any, ok bool, err error) {
	var ref shm.Ref
	size := 0 // Python does not use it
	switch v := v.(type) {
	case shm.Ref:
		ref = v
	case *shm.Ref:
		if v == nil {
			return nil, false, nil
		}
		ref = *v
	case *shm.Block:
		if v == nil {
			return nil, false, nil
		}
		ref, size = v.Ref(), v.Size()
	case interface{ Ref() shm.Ref }: // *list.List
		ref = v.Ref()
	default:
		return nil, false, nil
	}
	switch {
	case ref.Name == "":
		return nil, false, fmt.Errorf("%w: a block without a name", ErrForbidden)
	case ref.Dir != "":
		return nil, false, fmt.Errorf("%w: block %q is in a directory of its own", ErrForbidden, ref.Name)
	case ref.Kind == "list":
		return pickle.ForkingShareableList(ref.Name), true, nil
	}
	return pickle.SharedMemory(ref.Name, size), true, nil
}

// refs returns v with a shm.Ref for each handle in it. What is shared in v is
// small even when counted each time; Unmarshal has seen to that.
func refs(v any) (any, error) {
	each := func(vs []any) (err error) {
		for i := range vs {
			if vs[i], err = refs(vs[i]); err != nil {
				return err
			}
		}
		return nil
	}
	var err error
	switch v := v.(type) {
	case *pickle.Call:
		name, _, isList, ok := pickle.Handle(v)
		if !ok {
			return nil, fmt.Errorf("%w: an object that is no handle", ErrForbidden)
		}
		return newRef(name, isList)
	case pickle.Global:
		return nil, fmt.Errorf("%w: the class %s.%s", ErrForbidden, v.Module, v.Name)
	case Tuple:
		err = each(v)
	case []any:
		err = each(v)
	case Set:
		err = each(v)
	case FrozenSet:
		err = each(v)
	case Dict:
		for i := range v {
			if v[i].Key, err = refs(v[i].Key); err == nil {
				v[i].Value, err = refs(v[i].Value)
			}
			if err != nil {
				break
			}
		}
	}
	if err != nil {
		return nil, err
	}
	return v, nil
}

// newRef checks a name that came from a stranger.
func newRef(name string, isList bool) (any, error) {
	// Set would take what stands before a slash for a directory.
	if strings.ContainsRune(strings.TrimPrefix(name, "/"), '/') {
		return nil, fmt.Errorf("%w: a block named %q", ErrForbidden, name)
	}
	var ref shm.Ref
	if err := ref.Set(name); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForbidden, err)
	}
	if isList {
		ref.Kind = "list"
	}
	return ref, nil
}
