package worker

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/internal/lease"
	"github.com/sharedmem/shm/list"
	"github.com/sharedmem/shm/ring"
)

// Blocks, and what lies in them, travel as names, or as descriptors if they have none. The
// memory itself stays where it is.

// handle is what has to be closed.
type handle interface{ Close() error }

// view is what *array.Array[T] has of which T is not known here.
type view interface {
	handle
	Block() *shm.Block
	Place() array.Place
	Attach(b *shm.Block, p array.Place) error
}

var (
	blockType = reflect.TypeFor[*shm.Block]()
	listType  = reflect.TypeFor[*list.List]()
	queueType = reflect.TypeFor[*ring.Queue]()
	viewType  = reflect.TypeFor[view]()
)

func isHandle(t reflect.Type) bool {
	return t == blockType || t == listType || t == queueType || isView(t)
}

func isView(t reflect.Type) bool { return t.Kind() == reflect.Pointer && t.Implements(viewType) }

// How a block is named.
const (
	noBlock = iota
	namedBlock
	fileBlock
)

func handlePlan(t reflect.Type) (func(*encoder, reflect.Value) error, func(*decoder, reflect.Value) error) {
	encode := func(e *encoder, v reflect.Value) error {
		if v.IsNil() {
			e.uint(noBlock)
			return nil
		}
		h := v.Interface().(handle)
		b, ok := h.(*shm.Block)
		if !ok {
			b = h.(interface{ Block() *shm.Block }).Block()
		}
		if b == nil {
			return fmt.Errorf("%v %w: it is in this process's own memory; create it in a block", h, ErrEncode)
		}
		if err := e.block(b); err != nil {
			return err
		}
		if a, ok := h.(view); ok {
			p := a.Place()
			e.text(p.DType)
			e.uint(uint64(p.Offset))
			e.ints(p.Shape)
			e.ints(p.Strides)
		}
		e.p.handles = append(e.p.handles, h)
		return nil
	}
	decode := func(d *decoder, v reflect.Value) error {
		b, err := d.block()
		if err != nil || b == nil {
			return err
		}
		h, err := d.handle(t, b)
		if err != nil {
			_ = b.Close()
			return err
		}
		d.opened = append(d.opened, h)
		v.Set(reflect.ValueOf(h))
		return nil
	}
	return encode, decode
}

// handle makes of a block what lies in it.
func (d *decoder) handle(t reflect.Type, b *shm.Block) (handle, error) {
	switch t {
	case blockType:
		return b, nil
	case listType:
		return list.FromBlock(b)
	case queueType:
		// A ring is opened by the name and place it was made with.
		ref := b.Ref()
		q, err := ring.Open(ref.Name, &ring.OpenOptions{Block: shm.OpenOptions{Dir: ref.Dir}})
		if err != nil {
			return nil, err
		}
		return q, b.Close()
	}
	var p array.Place
	var err error
	if p.DType, err = d.text(); err != nil {
		return nil, err
	}
	off, err := d.uint()
	if err != nil {
		return nil, err
	}
	p.Offset = int(off)
	if p.Shape, err = d.ints(); err != nil {
		return nil, err
	}
	if p.Strides, err = d.ints(); err != nil {
		return nil, err
	}
	a := reflect.New(t.Elem()).Interface().(view)
	return a, a.Attach(b, p)
}

func (e *encoder) ints(v []int) {
	e.uint(uint64(len(v)))
	for _, n := range v {
		e.uint(uint64(n))
	}
}

func (d *decoder) ints() ([]int, error) {
	n, err := d.count()
	v := make([]int, n)
	for i := range v {
		if err == nil {
			var u uint64
			u, err = d.uint()
			v[i] = int(u)
		}
	}
	return v, err
}

func (e *encoder) text(s string) {
	e.uint(uint64(len(s)))
	e.data = append(e.data, s...)
}

// block names a block. In a child, which gives away what it returns, it also offers the
// block to the parent, if it is the child's own: see [lease.Slot.Offer]. So there
// is no moment at which nobody owns it.
func (e *encoder) block(b *shm.Block) error {
	readOnly := uint64(0)
	if b.ReadOnly() {
		readOnly = 1
	}
	ref := b.Ref()
	if ref.Name == "" {
		f, err := b.File()
		if err != nil {
			return err
		}
		e.uint(fileBlock)
		e.uint(readOnly)
		e.uint(uint64(len(e.p.files)))
		e.p.files = append(e.p.files, f)
		return nil
	}
	if b.Closed() {
		return fmt.Errorf("%v %w: it is closed", b, ErrEncode)
	}
	if ref.Dir != "" {
		dir, err := filepath.Abs(ref.Dir) // the child may be elsewhere
		if err != nil {
			return err
		}
		ref.Dir = dir
	}
	e.uint(namedBlock)
	e.uint(readOnly)
	e.text(ref.Name)
	e.text(ref.Dir)
	if e.p.give {
		if o := lease.Blocks.Offer(b); o != nil {
			e.p.offers = append(e.p.offers, offer{ref, o})
		}
	}
	return nil
}

func (d *decoder) block() (*shm.Block, error) {
	kind, err := d.uint()
	if err != nil || kind == noBlock {
		return nil, err
	}
	ro, err := d.uint()
	if err != nil {
		return nil, err
	}
	opts := &shm.OpenOptions{ReadOnly: ro != 0}
	switch kind {
	case namedBlock:
		name, err := d.text()
		if err != nil {
			return nil, err
		}
		dir, err := d.text()
		if err != nil {
			return nil, err
		}
		return shm.Ref{Name: name, Dir: dir}.Open(opts)
	case fileBlock:
		i, err := d.uint()
		if err != nil || i >= uint64(len(d.r.files)) {
			return nil, errors.Join(errData, err)
		}
		return shm.FromFile(d.r.files[i], opts)
	}
	return nil, errData
}

// offer is a block that a child gives to its parent.
type offer struct {
	ref  shm.Ref
	made *lease.Offered
}

// appendOffers writes what takeOffers reads.
func appendOffers(b []byte, offers []offer) []byte {
	e := encoder{data: b}
	for _, o := range offers {
		e.text(o.ref.Dir)
		e.text(o.ref.Name)
		e.text(o.made.Text)
	}
	return e.data
}

// takeOffers makes this process the owner of what a child offers. Not ok if one of them is not
// to be had; gone says that this is because the child has died, and its blocks with it.
func takeOffers(b []byte) (taken []*shm.Block, ok, gone bool) {
	d := decoder{data: b}
	for len(d.data) > 0 {
		dir, err1 := d.text()
		name, err2 := d.text()
		text, err3 := d.text()
		if errors.Join(err1, err2, err3) != nil {
			return taken, false, false
		}
		t := lease.Blocks.Take(dir, name, text)
		if t == nil {
			owner, _, _ := strings.Cut(text, ".")
			id, err := strconv.ParseUint(owner, 16, 64)
			if err != nil {
				return taken, false, false
			}
			alive, err := lease.Alive(dir, id)
			return taken, false, err == nil && !alive
		}
		t.Settle()
		taken = append(taken, t.Block.(*shm.Block))
	}
	return taken, true, false
}
