package list

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/layout"
)

// plan is where everything goes in a list to be made.
type plan struct {
	items  []any
	chunks []int // where the slots of each chunk of items begin, in words
	shape  layout.ListShape
	size   int // of the block
	layout Layout
	exact  bool
	shared bool // concurrent
}

// chunk is how many items are worth a goroutine. Most of the time that a
// million of them take is the kernel's, which maps their pages one by one, and
// several processors share that.
const chunk = 1 << 14

// inChunks calls f with every chunk of n items, and returns one of its errors.
func inChunks(n int, f func(c, lo, hi int) error) error {
	var next atomic.Int64
	var failed error
	var once sync.Once
	work := func() {
		for {
			c := int(next.Add(1) - 1)
			lo := c * chunk
			if lo >= n {
				return
			}
			if err := f(c, lo, min(lo+chunk, n)); err != nil {
				once.Do(func() { failed = err })
				return
			}
		}
	}
	var others sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), (n+chunk-1)/chunk) - 1 {
		others.Go(work)
	}
	work()
	others.Wait()
	return failed
}

// newPlan checks the items and adds up their slots.
func newPlan(items []any, o *Options) (*plan, error) {
	if o.Layout != Python39 && o.Layout != Python38 {
		return nil, fmt.Errorf("%v: %w", o.Layout, errors.ErrUnsupported)
	}
	p := &plan{items: items, layout: o.Layout, exact: o.Exact, shared: o.Concurrent}
	p.chunks = make([]int, (len(items)+chunk-1)/chunk)
	err := inChunks(len(items), func(c, lo, hi int) error {
		words := 0
		for i, item := range items[lo:hi] {
			switch item.(type) {
			case int, int64, float64: // what large lists are made of, without a detour
				words++
				continue
			}
			v, err := valueOf(item)
			if err == nil {
				err = v.check()
			}
			if err != nil {
				return fmt.Errorf("item %d: %w", lo+i, err)
			}
			words += v.slot() / 8
		}
		p.chunks[c] = words
		return nil
	})
	if err != nil {
		return nil, err
	}
	words := 0
	for c, n := range p.chunks {
		p.chunks[c] = words
		words += n
	}
	var ok bool
	if words <= math.MaxInt/8 {
		p.shape, ok = layout.ShapeList(len(items), 8*words, o.Layout == Python38)
	}
	if ok {
		p.size, ok = p.end()
	}
	if !ok {
		return nil, fmt.Errorf("%w: %d items of %d words are beyond the address space", shm.ErrSize, len(items), words)
	}
	return p, nil
}

// end is the size of the block.
func (p *plan) end() (size int, ok bool) {
	if p.exact || p.shared {
		return trailerEnd(p.shape, p.shared)
	}
	return p.shape.End, true
}

var errChanged = errors.New("the items were changed while a list was made of them")

// write fills a block of zeros.
func (p *plan) write(b *shm.Block) error {
	words, err := shm.Slice[uint64](b, 0, b.Size()/8)
	if err != nil {
		return err
	}
	bytes := b.Bytes()
	s := p.shape
	to := target{
		table: words[1 : s.Data/8], data: words[s.Data/8 : s.Formats/8], forms: words[s.Formats/8 : s.Codes/8],
		slots: bytes[s.Data:s.Formats], codes: bytes[s.Codes:s.End],
	}
	err = inChunks(s.Items, func(c, lo, hi int) error {
		end := s.DataLen / 8
		if c+1 < len(p.chunks) {
			end = p.chunks[c+1]
		}
		return p.writeChunk(&to, lo, hi, p.chunks[c], end)
	})
	if err != nil {
		return err
	}
	if p.layout == Python39 {
		to.table[s.Items] = uint64(s.DataLen)
	}
	words[0] = uint64(s.Items)
	if p.exact || p.shared {
		return p.writeTrailer(bytes, b.Ref().Dir)
	}
	return nil
}

// target is the parts of a list that is being written.
type target struct {
	table, data, forms []uint64
	slots, codes       []byte // slots are data, as bytes
}

// writeChunk writes items lo to hi, whose slots are the words from off to end.
func (p *plan) writeChunk(to *target, lo, hi, off, end int) error {
	for i := lo; i < hi; i++ {
		size := 1
		if off == end {
			return errChanged
		}
		// As in newPlan. Their code is codeValue, which is 0.
		switch x := p.items[i].(type) {
		case int:
			to.data[off], to.forms[i] = uint64(x), formatInt
		case int64:
			to.data[off], to.forms[i] = uint64(x), formatInt
		case float64:
			to.data[off], to.forms[i] = math.Float64bits(x), formatFloat
		default:
			v, err := valueOf(x)
			if size = v.slot() / 8; err != nil || size > end-off {
				return errors.Join(errChanged, err)
			}
			v.put(to.slots[8*off : 8*(off+size)])
			if to.forms[i], err = v.format(0, 8*size, p.exact); err != nil {
				return err
			}
			to.codes[i] = v.kind.code()
		}
		to.table[i] = uint64(8 * off)
		if p.layout == Python38 {
			to.table[i] = uint64(8 * size)
		}
		off += size
	}
	if off != end {
		return errChanged
	}
	return nil
}
