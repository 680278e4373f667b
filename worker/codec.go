package worker

import (
	"bytes"
	"encoding"
	"encoding/binary"
	"encoding/gob"
	"errors"
	"fmt"
	"math"
	"reflect"
	"sync"

	"github.com/sharedmem/shm/internal/layout"
)

// Values travel between processes of one program, so that both sides know their types,
// and nothing but the values is sent: what is free of pointers as it lies in memory,
// the rest piece by piece. gob, which describes types, would have to do so in every
// message, or keep a stream for each worker whose beginning must not be lost; a job may be
// taken back, though, and given to another worker. It is used for interfaces only,
// where the type is part of the value.

const (
	// depthMax bounds pointers to pointers; what is nested deeper goes in circles.
	depthMax = 1000
	// bulk is from what length on bytes are not gathered but copied straight to where the
	// message is written.
	bulk = 8 << 10
)

// codec is how values of one type travel.
type codec[T any] struct{ plan *plan }

// codecFor returns the codec of T, and an error that says which part of it cannot
// travel. The codec is usable in either case, and repeats the error.
func codecFor[T any]() (codec[T], error) {
	p := planFor(reflect.TypeFor[T]())
	return codec[T]{p}, p.err
}

func (c codec[T]) encode(p *payload, v T) error {
	if c.plan.err != nil {
		return c.plan.err
	}
	if c.plan.raw {
		b := layout.Bytes([]T{v}) // which is a copy of our own
		if len(b) <= inlineMax {
			p.data = b
			return nil
		}
		return p.fill([][]byte{b}, len(b))
	}
	e := encoder{p: p}
	if err := c.plan.encode(&e, reflect.ValueOf(&v).Elem()); err != nil {
		p.release()
		return err
	}
	return e.finish()
}

func (c codec[T]) decode(r *reply) (v T, err error) {
	if c.plan.err != nil {
		return v, c.plan.err
	}
	done, err := r.hold()
	if err != nil {
		return v, err
	}
	defer done()
	if c.plan.raw {
		var one [1]T
		b := layout.Bytes(one[:])
		if len(b) != len(r.data) {
			return v, fmt.Errorf("%w: %d bytes for a %T", errData, len(r.data), v)
		}
		copy(b, r.data)
		return one[0], nil
	}
	d := decoder{data: r.data, r: r}
	err = c.plan.decode(&d, reflect.ValueOf(&v).Elem())
	if err == nil && len(d.data) > 0 {
		err = fmt.Errorf("%w: %d bytes too many for a %T", errData, len(d.data), v)
	}
	if err != nil {
		d.undo()
		var zero T
		return zero, err
	}
	r.opened = append(r.opened, d.opened...)
	return v, nil
}

// errData says that bytes are no value of the type that they should be. Only a child
// whose memory was overwritten sends such.
var errData = fmt.Errorf("%w: the bytes of a value are damaged", ErrProtocol)

// encoder gathers a value. Long pieces are not copied until finish.
type encoder struct {
	p     *payload
	data  []byte
	parts [][]byte // in order, before data; long ones are the caller's own memory
	total int      // of parts
	depth int
}

func (e *encoder) uint(v uint64) { e.data = binary.AppendUvarint(e.data, v) }

// bytes adds b, which stays as it is until finish.
func (e *encoder) bytes(b []byte) {
	if len(b) < bulk {
		e.data = append(e.data, b...)
		return
	}
	e.total += len(e.data) + len(b)
	e.parts = append(e.parts, e.data, b)
	e.data = nil
}

// finish makes one message of it, in memory that is to be handed over if it is long.
func (e *encoder) finish() error {
	if e.parts == nil && len(e.data) <= inlineMax {
		e.p.data = e.data
		return nil
	}
	return e.p.fill(append(e.parts, e.data), e.total+len(e.data))
}

// enter goes one step deeper, which leave undoes.
func (e *encoder) enter(t reflect.Type) error {
	if e.depth++; e.depth > depthMax {
		return fmt.Errorf("a %v %w: it holds itself, or %d steps lead to its end", t, ErrEncode, depthMax)
	}
	return nil
}

type decoder struct {
	data   []byte
	r      *reply
	depth  int
	opened []handle
}

// undo closes what was opened for a value that turned out damaged.
func (d *decoder) undo() {
	for _, h := range d.opened {
		_ = h.Close()
	}
}

func (d *decoder) uint() (uint64, error) {
	v, n := binary.Uvarint(d.data)
	if n <= 0 {
		return 0, errData
	}
	d.data = d.data[n:]
	return v, nil
}

// count reads how many there are of something of which each takes a byte at least.
func (d *decoder) count() (int, error) {
	n, err := d.uint()
	if err != nil || n > uint64(len(d.data)) {
		return 0, errData
	}
	return int(n), nil
}

// bytes returns the next n bytes, which are not the caller's.
func (d *decoder) bytes(n int) ([]byte, error) {
	if n < 0 || n > len(d.data) {
		return nil, errData
	}
	b := d.data[:n:n]
	d.data = d.data[n:]
	return b, nil
}

func (d *decoder) text() (string, error) {
	n, err := d.count()
	if err != nil {
		return "", err
	}
	b, err := d.bytes(n)
	return string(b), err
}

// plan is how values of one type are written and read. Values are addressable.
type plan struct {
	raw    bool // as they lie in memory
	err    error
	encode func(*encoder, reflect.Value) error
	decode func(*decoder, reflect.Value) error
}

var plans struct {
	sync.Mutex
	m map[reflect.Type]*plan
}

func planFor(t reflect.Type) *plan {
	plans.Lock()
	defer plans.Unlock()
	if plans.m == nil {
		plans.m = map[reflect.Type]*plan{}
	}
	// A type that holds itself finds itself half made. Whether it can travel is then
	// decided by its other parts; and only if it can do all of them stay.
	fresh := map[reflect.Type]*plan{}
	p := makePlan(t, fresh)
	for t, q := range fresh {
		if p.err == nil {
			plans.m[t] = q
		}
	}
	if p.err != nil {
		p.err = fmt.Errorf("a %v %w: %w", t, ErrEncode, p.err)
	}
	return p
}

func makePlan(t reflect.Type, fresh map[reflect.Type]*plan) *plan {
	if p := plans.m[t]; p != nil {
		return p
	}
	if p := fresh[t]; p != nil {
		return p
	}
	p := &plan{}
	fresh[t] = p
	switch {
	case isHandle(t):
		p.encode, p.decode = handlePlan(t)
	case hasMethods[gob.GobEncoder, gob.GobDecoder](t):
		p.encode, p.decode = marshalPlan(t, func(v any) ([]byte, error) { return v.(gob.GobEncoder).GobEncode() },
			func(v any, b []byte) error { return v.(gob.GobDecoder).GobDecode(b) })
	case hasMethods[encoding.BinaryMarshaler, encoding.BinaryUnmarshaler](t):
		p.encode, p.decode = marshalPlan(t, func(v any) ([]byte, error) { return v.(encoding.BinaryMarshaler).MarshalBinary() },
			func(v any, b []byte) error { return v.(encoding.BinaryUnmarshaler).UnmarshalBinary(b) })
	case !layout.HasPointers(t):
		p.raw = true
		p.encode = func(e *encoder, v reflect.Value) error {
			e.bytes(layout.ValueBytes(v))
			return nil
		}
		size := int(t.Size())
		p.decode = func(d *decoder, v reflect.Value) error {
			b, err := d.bytes(size)
			copy(layout.ValueBytes(v), b)
			return err
		}
	default:
		p.kind(t, fresh)
	}
	return p
}

// hasMethods reports whether *t has both methods, so that an addressable t does.
func hasMethods[M, U any](t reflect.Type) bool {
	if t.Kind() == reflect.Pointer || t.Kind() == reflect.Interface {
		return false // what it points to has them
	}
	ptr := reflect.PointerTo(t)
	return ptr.Implements(reflect.TypeFor[M]()) && ptr.Implements(reflect.TypeFor[U]())
}

func marshalPlan(t reflect.Type, marshal func(any) ([]byte, error), unmarshal func(any, []byte) error) (func(*encoder, reflect.Value) error, func(*decoder, reflect.Value) error) {
	return func(e *encoder, v reflect.Value) error {
			b, err := marshal(v.Addr().Interface())
			if err != nil {
				return fmt.Errorf("a %v %w: %w", t, ErrEncode, err)
			}
			e.uint(uint64(len(b)))
			e.bytes(b)
			return nil
		}, func(d *decoder, v reflect.Value) error {
			n, err := d.count()
			if err != nil {
				return err
			}
			b, err := d.bytes(n)
			if err != nil {
				return err
			}
			// It may keep the bytes, which lie in memory that others use next.
			if err := unmarshal(v.Addr().Interface(), append([]byte(nil), b...)); err != nil {
				return fmt.Errorf("%w: %v: %w", errData, t, err)
			}
			return nil
		}
}

// kind makes the plan for what neither has methods of its own nor is free of pointers.
func (p *plan) kind(t reflect.Type, fresh map[reflect.Type]*plan) {
	switch t.Kind() {
	case reflect.String:
		p.encode = func(e *encoder, v reflect.Value) error {
			e.uint(uint64(v.Len()))
			e.bytes(layout.TextBytes(v.String()))
			return nil
		}
		p.decode = func(d *decoder, v reflect.Value) error {
			s, err := d.text()
			v.SetString(s)
			return err
		}
	case reflect.Slice:
		elem := makePlan(t.Elem(), fresh)
		p.err = elem.err
		p.slice(t, elem)
	case reflect.Array:
		elem := makePlan(t.Elem(), fresh)
		p.err = elem.err
		p.encode = func(e *encoder, v reflect.Value) error {
			for i := range v.Len() {
				if err := elem.encode(e, v.Index(i)); err != nil {
					return err
				}
			}
			return nil
		}
		p.decode = func(d *decoder, v reflect.Value) error {
			for i := range v.Len() {
				if err := elem.decode(d, v.Index(i)); err != nil {
					return err
				}
			}
			return nil
		}
	case reflect.Pointer:
		elem := makePlan(t.Elem(), fresh)
		p.err = elem.err
		p.pointer(t, elem)
	case reflect.Map:
		key, elem := makePlan(t.Key(), fresh), makePlan(t.Elem(), fresh)
		p.err = errors.Join(key.err, elem.err)
		p.maps(t, key, elem)
	case reflect.Struct:
		p.fields(t, fresh)
	case reflect.Interface:
		p.dynamic(t)
	default:
		p.err = fmt.Errorf("it holds a %v", t)
	}
}

// lengthPlus1 writes a length that may also be nil.
func (e *encoder) lengthPlus1(isNil bool, n int) {
	if isNil {
		e.uint(0)
		return
	}
	e.uint(uint64(n) + 1)
}

func (d *decoder) lengthPlus1() (isNil bool, n uint64, err error) {
	v, err := d.uint()
	return v == 0, v - 1, err
}

func (p *plan) slice(t reflect.Type, elem *plan) {
	size := uint64(t.Elem().Size())
	p.encode = func(e *encoder, v reflect.Value) error {
		e.lengthPlus1(v.IsNil(), v.Len())
		if elem.raw {
			e.bytes(layout.SliceBytes(v))
			return nil
		}
		if err := e.enter(t); err != nil {
			return err
		}
		for i := range v.Len() {
			if err := elem.encode(e, v.Index(i)); err != nil {
				return err
			}
		}
		e.depth--
		return nil
	}
	p.decode = func(d *decoder, v reflect.Value) error {
		isNil, n, err := d.lengthPlus1()
		if err != nil || isNil {
			return err
		}
		// Each element takes a byte at least, but for those that are nothing.
		if elem.raw && size == 0 {
			if n > math.MaxInt32 {
				return errData
			}
		} else if each := uint64(1); n > uint64(len(d.data)) || elem.raw && n > uint64(len(d.data))/max(size, each) {
			return errData
		}
		s := reflect.MakeSlice(t, int(n), int(n))
		v.Set(s)
		if elem.raw {
			b, err := d.bytes(int(n * size))
			copy(layout.SliceBytes(s), b)
			return err
		}
		if d.depth++; d.depth > depthMax {
			return errData
		}
		for i := range int(n) {
			if err := elem.decode(d, s.Index(i)); err != nil {
				return err
			}
		}
		d.depth--
		return nil
	}
}

func (p *plan) pointer(t reflect.Type, elem *plan) {
	p.encode = func(e *encoder, v reflect.Value) error {
		if v.IsNil() {
			e.uint(0)
			return nil
		}
		if err := e.enter(t); err != nil {
			return err
		}
		e.uint(1)
		err := elem.encode(e, v.Elem())
		e.depth--
		return err
	}
	p.decode = func(d *decoder, v reflect.Value) error {
		if there, err := d.uint(); err != nil || there == 0 {
			return err
		}
		if d.depth++; d.depth > depthMax {
			return errData
		}
		v.Set(reflect.New(t.Elem()))
		err := elem.decode(d, v.Elem())
		d.depth--
		return err
	}
}

func (p *plan) maps(t reflect.Type, key, elem *plan) {
	p.encode = func(e *encoder, v reflect.Value) error {
		e.lengthPlus1(v.IsNil(), v.Len())
		if err := e.enter(t); err != nil {
			return err
		}
		k, x := reflect.New(t.Key()).Elem(), reflect.New(t.Elem()).Elem()
		for it := v.MapRange(); it.Next(); {
			k.SetIterKey(it)
			x.SetIterValue(it)
			if err := errors.Join(key.encode(e, k), elem.encode(e, x)); err != nil {
				return err
			}
			if e.parts != nil {
				e.settle() // k and x are used again
			}
		}
		e.depth--
		return nil
	}
	p.decode = func(d *decoder, v reflect.Value) error {
		isNil, n, err := d.lengthPlus1()
		if err != nil || isNil {
			return err
		}
		if d.depth++; d.depth > depthMax {
			return errData
		}
		if n > 1 && t.Key().Size() == 0 {
			return errData // there is only one such key
		}
		m := reflect.MakeMap(t)
		for range n {
			// One that says it has more than it has runs out of bytes.
			k, x := reflect.New(t.Key()).Elem(), reflect.New(t.Elem()).Elem()
			if err := key.decode(d, k); err != nil {
				return err
			}
			if err := elem.decode(d, x); err != nil {
				return err
			}
			if k.Comparable() {
				m.SetMapIndex(k, x)
			}
		}
		v.Set(m)
		d.depth--
		return nil
	}
}

// settle copies what was only referred to.
func (e *encoder) settle() {
	all := make([]byte, 0, e.total+len(e.data))
	for _, b := range e.parts {
		all = append(all, b...)
	}
	e.data = append(all, e.data...)
	e.parts, e.total = nil, 0
}

// fields are the exported ones, as in gob.
func (p *plan) fields(t reflect.Type, fresh map[reflect.Type]*plan) {
	type field struct {
		i    int
		plan *plan
	}
	var all []field
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		fp := makePlan(f.Type, fresh)
		if fp.err != nil {
			p.err = fmt.Errorf("field %s of %v: %w", f.Name, t, fp.err)
			return
		}
		all = append(all, field{i, fp})
	}
	if len(all) == 0 {
		p.err = fmt.Errorf("%v has no exported fields", t)
	}
	p.encode = func(e *encoder, v reflect.Value) error {
		for _, f := range all {
			if err := f.plan.encode(e, v.Field(f.i)); err != nil {
				return err
			}
		}
		return nil
	}
	p.decode = func(d *decoder, v reflect.Value) error {
		for _, f := range all {
			if err := f.plan.decode(d, v.Field(f.i)); err != nil {
				return err
			}
		}
		return nil
	}
}

// boxed is a value whose type travels with it.
type boxed struct{ V any }

// dynamic is an interface: gob knows the basic types, and those given to gob.Register.
func (p *plan) dynamic(t reflect.Type) {
	p.encode = func(e *encoder, v reflect.Value) error {
		if v.IsNil() {
			e.uint(0)
			return nil
		}
		var w bytes.Buffer
		if err := gob.NewEncoder(&w).Encode(boxed{v.Interface()}); err != nil {
			return fmt.Errorf("a %v in a %v %w: %w", v.Elem().Type(), t, ErrEncode, err)
		}
		e.uint(uint64(w.Len()))
		e.bytes(w.Bytes())
		return nil
	}
	p.decode = func(d *decoder, v reflect.Value) error {
		n, err := d.count()
		if err != nil || n == 0 {
			return err
		}
		b, err := d.bytes(n)
		if err != nil {
			return err
		}
		var x boxed
		if err := gob.NewDecoder(bytes.NewReader(b)).Decode(&x); err != nil {
			return fmt.Errorf("%w: a value for a %v: %w", ErrProtocol, t, err)
		}
		got := reflect.ValueOf(x.V)
		if !got.IsValid() || !got.Type().AssignableTo(t) {
			return errData
		}
		v.Set(got)
		return nil
	}
}
