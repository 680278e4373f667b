package list

import (
	"encoding/binary"
	"fmt"
	"iter"
	"sync/atomic"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/layout"
)

// Ints copies items i to i+len(dst)-1, which must be ints, into dst. It is safe
// beside Close and a block that another process makes smaller, and the way to
// read many: it takes a few nanoseconds for each.
//
// What others change meanwhile may be seen or not; each item is seen whole.
//
// Errors: ErrType for an item of another type (dst is filled up to it), and
// those of [List.At].
func (l *List) Ints(i int, dst []int64) error {
	return l.getWords(i, layout.Words(dst), kindInt, formatInt)
}

// Floats is [List.Ints] for floats.
func (l *List) Floats(i int, dst []float64) error {
	return l.getWords(i, layout.Words(dst), kindFloat, formatFloat)
}

// SetInts changes items i to i+len(src)-1 to the ints in src, each as
// [List.Set] does. It is the way to write many. After an error the items before
// the one in the message are set.
func (l *List) SetInts(i int, src []int64) error {
	return l.setWords(i, layout.Words(src), kindInt, formatInt)
}

// SetFloats is [List.SetInts] for floats.
func (l *List) SetFloats(i int, src []float64) error {
	return l.setWords(i, layout.Words(src), kindFloat, formatFloat)
}

// inside tells whether the list has n items from item i on.
func (l *List) inside(op string, i, n int) error {
	if i >= 0 && n <= l.Len()-i {
		return nil
	}
	return l.fail(op, fmt.Errorf("items %d to %d: %w: the list has %d", i, i+n-1, ErrIndex, l.Len()))
}

// scalars calls some with runs of words that hold items of one format, and other
// with each item that is special in any way, for items i to i+n-1. Both get the
// item's place among them. Call within Do.
func (l *List) scalars(i, n int, format uint64, some func(at int, words []atomic.Uint64) error, other func(at int) error) error {
	for at := 0; at < n; {
		// Some at a time, which are still in the cache when some looks at them.
		from, run := l.quick.run(i+at, min(n-at, 512), format)
		if run > 0 {
			if err := some(at, l.quick.slots[from:from+run]); err != nil {
				return err
			}
			at += run
			continue
		}
		if err := other(at); err != nil {
			return err
		}
		at++
	}
	return nil
}

// run says how many items from item i on, at most n, have this format and codeValue,
// in slots of a word each that lie one after the other, from word from on. Most
// often slots lie so.
func (q *quick) run(i, n int, format uint64) (from, run int) {
	if len(q.forms) == 0 {
		return 0, 0
	}
	end := q.table[i].Load() // of the slot before
	if end&7 != 0 || end/8 >= uint64(len(q.slots)) {
		return 0, 0
	}
	from = int(end / 8)
	n = min(n, len(q.slots)-from) // more cannot lie inside
	forms, codes, ends := q.forms[i:i+n], q.codes[i:i+n], q.table[i+1:i+n+1]
	// Four with one branch; which of them it was is for the loop below. (codeValue
	// is 0.)
	for len(forms) >= 4 && len(codes) >= 4 && len(ends) >= 4 {
		if forms[0].Load()^format|forms[1].Load()^format|forms[2].Load()^format|forms[3].Load()^format|
			ends[0].Load()^(end+8)|ends[1].Load()^(end+16)|ends[2].Load()^(end+24)|ends[3].Load()^(end+32)|
			uint64(binary.NativeEndian.Uint32(codes)) != 0 {
			break
		}
		forms, codes, ends = forms[4:], codes[4:], ends[4:]
		end += 4 * 8
		run += 4
	}
	for k := range forms {
		end += 8
		if forms[k].Load() != format || codes[k] != codeValue || ends[k].Load() != end {
			break
		}
		run++
	}
	return from, run
}

func (l *List) getWords(i int, dst []uint64, k kind, format uint64) error {
	const op = "get"
	if err := l.inside(op, i, len(dst)); err != nil {
		return err
	}
	return l.block.Do(func([]byte) error {
		one := func(at int) error {
			v, _, err := l.read(i+at, k.only(), nil)
			if err == nil && v.kind != k {
				err = wrongType(v.kind, k)
			}
			dst[at] = v.word
			return l.item(op, i+at, err)
		}
		return l.scalars(i, len(dst), format, func(at int, words []atomic.Uint64) error {
			to := dst[at : at+len(words)]
			for k := range words {
				to[k] = words[k].Load()
				if to[k] == 0 && !l.isZero(&words[k], i+at+k) {
					if err := one(at + k); err != nil {
						return err
					}
				}
			}
			return nil
		}, one)
	})
}

func (l *List) setWords(i int, src []uint64, k kind, format uint64) error {
	const op = "set"
	if err := l.inside(op, i, len(src)); err != nil {
		return err
	}
	if l.readOnly {
		return l.item(op, i, errReadOnly)
	}
	return l.block.Do(func([]byte) error {
		return l.scalars(i, len(src), format, func(at int, words []atomic.Uint64) error {
			for k := range words {
				layout.StoreRelease(&words[k], src[at+k])
			}
			return nil
		}, func(at int) error {
			return l.item(op, i+at, l.store(i+at, &value{kind: k, word: src[at]}))
		})
	})
}

// Snapshot returns all items, as At returns each. What others change meanwhile
// may be seen or not.
//
// Errors: those of At, for the first item that cannot be read.
func (l *List) Snapshot() ([]any, error) {
	out := make([]any, l.Len())
	at := 0
	err := l.block.Do(func([]byte) (err error) {
		var buf [64]byte
		for ; at < len(out); at++ {
			if out[at], err = l.any(at, buf[:0]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, l.item("get", at, err)
	}
	return out, nil
}

// All iterates over the items, as At returns each. It reads some at a time, at
// most 256 ahead, so that what is set meanwhile, by the loop's body as well, may
// be seen or not. An item that cannot be read comes as an error in place of its
// value, which no item is; if it is os.ErrClosed or shm.ErrTruncated it is the
// last.
func (l *List) All() iter.Seq2[int, any] {
	return func(yield func(int, any) bool) {
		var items [256]any
		ahead := 1 // more with each turn: who looks for the first few should not pay for all
		for i := 0; i < l.Len(); {
			n, err := l.some(i, items[:min(ahead, l.Len()-i)])
			ahead = min(2*ahead, len(items))
			for k := range n {
				if !yield(i+k, items[k]) {
					return
				}
			}
			i += n
			if err != nil {
				yield(i, l.item("get", i, err))
				return
			}
		}
	}
}

// some reads items from item i on, and says how many: fewer if they are long.
// The error is one after which nothing can be read.
func (l *List) some(i int, items []any) (n int, err error) {
	err = l.block.Do(func([]byte) error {
		var buf [64]byte
		for size := 0; n < len(items) && size < 1<<16; n++ {
			v, err := l.any(i+n, buf[:0])
			switch x := v.(type) {
			case string:
				size += len(x)
			case []byte:
				size += len(x)
			}
			if err != nil {
				v = l.item("get", i+n, err)
			}
			items[n] = v
		}
		return nil
	})
	return n, err
}

// Count returns how many items are equal to v, by Python's rules: numbers are
// compared by value whatever their types, so that 1, 1.0 and true are equal, and
// NaN is equal to nothing; text and bytes never are equal.
//
// Errors: ErrType if v is nothing that a list can hold, and those of [List.At].
func (l *List) Count(v any) (int, error) {
	n := 0
	err := l.search("count", v, func(int) bool { n++; return true })
	return n, err
}

// Index returns the first item equal to v, as Count compares.
//
// Errors: ErrNotFound, and those of Count.
func (l *List) Index(v any) (int, error) {
	at := -1
	err := l.search("find", v, func(i int) bool { at = i; return false })
	if err == nil && at < 0 {
		err = l.fail("find", fmt.Errorf("%w: %v", ErrNotFound, clip(fmt.Sprintf("%#v", v))))
	}
	return at, err
}

// search calls found with each item that is equal to v, until it returns false.
func (l *List) search(op string, v any, found func(i int) bool) error {
	want, err := valueOf(v)
	if err != nil {
		return l.fail(op, err)
	}
	if want.s != "" {
		want.b = []byte(want.s)
	}
	// What is of another kind need not be read, but numbers are all of a kind.
	kinds := want.kind.only()
	if want.kind >= kindInt && want.kind <= kindBool {
		kinds = kindInt.only() | kindFloat.only() | kindBool.only()
	}
	at := 0
	err = l.block.Do(func([]byte) error {
		var buf []byte
		for ; at < l.Len(); at++ {
			x, out, err := l.read(at, kinds, buf[:0])
			if err != nil {
				return err
			}
			buf = out
			if x.equal(&want) && !found(at) {
				return nil
			}
		}
		return nil
	})
	return l.item(op, at, err)
}

// Verify walks through the whole list and checks that each slot lies within the
// data, behind the one before it, and that each format and code are Python's
// and fit each other and the slot. It takes some nanoseconds an item. Open checks
// much less, and each access what concerns its item.
//
// A list that others change meanwhile may fail it once, if it is not Concurrent.
//
// Errors: shm.ErrFormat, which names the first bad item; shm.ErrTruncated,
// os.ErrClosed.
func (l *List) Verify() error {
	const op = "verify"
	at := 0
	err := l.block.Do(func([]byte) error {
		end := uint64(0)
		for ; at < l.Len(); at++ {
			if at < len(l.quick.forms) {
				if w := l.quick.forms[at].Load(); w == formatInt || w == formatFloat {
					if from, run := l.quick.run(at, l.Len()-at, w); run > 0 && 8*uint64(from) == end {
						end += 8 * uint64(run)
						at += run - 1
						continue
					}
				}
			}
			lo, hi, ok := l.span(at)
			if !ok || lo != end {
				return fmt.Errorf("%w: its slot would be bytes %d to %d of %d; the one before it ends at %d",
					shm.ErrFormat, int64(lo), int64(hi), l.shape.DataLen, end)
			}
			end = hi
			v, _, err := l.read(at, noKind, nil)
			if err != nil {
				return err
			}
			// A length beyond the slot is read as the slot's, but is no Python's.
			if n, sized := parseSized(v.form); sized && n > int(hi-lo) {
				return fmt.Errorf("%w: its format %q has more bytes than its slot, which has %d",
					shm.ErrFormat, formatText(v.form), hi-lo)
			}
		}
		at = -1
		if end != uint64(l.shape.DataLen) {
			return fmt.Errorf("%w: the last slot ends at %d of %d", shm.ErrFormat, end, l.shape.DataLen)
		}
		return nil
	})
	if at < 0 {
		return l.fail(op, err)
	}
	return l.item(op, at, err)
}
