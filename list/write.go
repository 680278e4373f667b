package list

import (
	"fmt"
	"math"
	"os"
	"sync/atomic"

	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/layout"
)

// Set changes item i to v, which is anything that [Create] takes; its type may be
// another than before, its slot stays as it is. It is safe beside Close and a
// block that another process makes smaller.
//
// Errors: ErrIndex, ErrType, ErrRange, ErrText, ErrTooLong (text and bytes have
// room for as many bytes as the slot was made for), fs.ErrPermission if the list was
// opened ReadOnly, shm.ErrFormat, shm.ErrTruncated, os.ErrClosed; for a
// Concurrent list ErrBusy. The item is unchanged then.
func (l *List) Set(i int, v any) error {
	x, err := valueOf(v)
	if _, ok := v.(Room); ok && err == nil {
		err = fmt.Errorf("%w: an item's room cannot be changed", ErrType)
	}
	if err != nil {
		return l.item("set", i, err)
	}
	return l.set(i, &x)
}

// SetInt changes item i to an int. If it was one already it takes some
// nanoseconds, and must not run beside Close; if another process makes the
// block smaller, it faults. See [List.Set] for a way without these risks, and
// for the errors.
func (l *List) SetInt(i int, v int64) error {
	// scalar, without its call.
	if !l.readOnly && !l.block.Closed() && l.quick.holds(i, formatInt) {
		if w := l.quick.slot(i); w != nil {
			layout.StoreRelease(w, uint64(v))
			return nil
		}
	}
	x := intValue(v)
	return l.set(i, &x)
}

// SetFloat changes item i to a float, bit by bit. The same holds as for
// [List.SetInt].
func (l *List) SetFloat(i int, v float64) error {
	if w := l.scalar(i, formatFloat); w != nil && !l.readOnly {
		layout.StoreRelease(w, math.Float64bits(v))
		return nil
	}
	x := floatValue(v)
	return l.set(i, &x)
}

// SetBool changes item i to a bool. The same holds as for [List.SetInt].
func (l *List) SetBool(i int, v bool) error {
	x := boolValue(v)
	if w := l.scalar(i, formatBool); w != nil && !l.readOnly {
		layout.StoreRelease(w, x.word)
		return nil
	}
	return l.set(i, &x)
}

// SetText changes item i to text. See [List.Set].
func (l *List) SetText(i int, v string) error {
	return l.set(i, &value{kind: kindText, s: v})
}

// SetBytes changes item i to bytes. See [List.Set].
func (l *List) SetBytes(i int, v []byte) error {
	return l.set(i, &value{kind: kindBytes, b: v})
}

// SetNil changes item i to nil, Python's None. See [List.Set].
func (l *List) SetNil(i int) error { return l.set(i, &value{}) }

func (l *List) set(i int, v *value) error {
	err := v.check()
	switch {
	case err != nil:
	case l.readOnly:
		err = errReadOnly
	default:
		err = l.block.Do(func([]byte) error { return l.store(i, v) })
	}
	return l.item("set", i, err)
}

// store is set without protection.
func (l *List) store(i int, v *value) error {
	if l.concurrent {
		return l.change(i, func() (value, bool, error) { return *v, true, nil })
	}
	lo, hi, err := l.slot(i)
	if err != nil {
		return err
	}
	old := l.words[l.form+i].Load()
	format, err := v.format(old, hi-lo, l.exact)
	if err != nil {
		return err
	}
	code := &l.raw[l.shape.Codes+i]
	// Python takes an item for None whatever else there is, as long as its code
	// says so. So that goes first, and what says otherwise last: then a reader finds
	// None, and never half a value, on the way from or to None.
	if v.kind == kindNil {
		*code = codeNil
	}
	crash.Point("store:begun")
	if v.kind < kindText {
		layout.StoreRelease(&l.words[l.data+lo/8], v.word)
	} else {
		v.put(l.slotBytes(l.data, lo, hi))
	}
	crash.Point("store:value")
	if format != old {
		layout.StoreRelease(&l.words[l.form+i], format)
	}
	crash.Point("store:format")
	// On arm64 a plain store may overtake the ones above, but not a load that
	// comes after them.
	l.words[l.form+i].Load()
	*code = v.kind.code()
	return nil
}

// AddInt adds delta to item i, which must be an int, and returns the sum. It is
// atomic between all processes that use this library: none of their additions
// is lost. (Python reads and assigns in two steps, between which others' additions get lost.)
// The same holds as for [List.Int].
//
// Errors: ErrRange if the sum is no int64, ErrType if the item is no int, and
// those of Set. The item is unchanged then.
func (l *List) AddInt(i int, delta int64) (int64, error) {
	var sum int64
	err := l.update("add to", i, func(old int64) (int64, bool, error) {
		sum = old + delta
		if (sum < old) != (delta < 0) {
			return 0, false, fmt.Errorf("%w: %d + %d", ErrRange, old, delta)
		}
		return sum, true, nil
	})
	if err != nil {
		return 0, err
	}
	return sum, nil
}

// CompareAndSwapInt changes item i, which must be an int, to new if it is old,
// and tells whether it was. It is atomic as AddInt is, with the same errors.
func (l *List) CompareAndSwapInt(i int, old, new int64) (swapped bool, err error) {
	err = l.update("swap", i, func(now int64) (int64, bool, error) {
		swapped = now == old
		return new, swapped, nil
	})
	return swapped && err == nil, err
}

// update changes an int atomically to what next makes of it.
func (l *List) update(op string, i int, next func(int64) (int64, bool, error)) error {
	if l.readOnly {
		return l.item(op, i, errReadOnly)
	}
	if l.block.Closed() {
		return l.item(op, i, os.ErrClosed)
	}
	if !l.concurrent {
		for {
			// Each time anew: it may be text by now.
			w, err := l.intWord(i)
			if err != nil {
				return l.item(op, i, err)
			}
			old := w.Load()
			v, ok, err := next(int64(old))
			if err != nil || !ok || w.CompareAndSwap(old, uint64(v)) {
				return l.item(op, i, err)
			}
		}
	}
	return l.item(op, i, l.block.Do(func([]byte) error {
		return l.change(i, func() (value, bool, error) {
			lo, hi, err := l.slot(i)
			if err != nil {
				return value{}, false, err
			}
			// Nobody else writes to the list now, but for Python.
			old, _, err := l.readPhase(i, lo, hi, 0, kindInt.only(), nil)
			if err == nil && old.kind != kindInt {
				err = wrongType(old.kind, kindInt)
			}
			if err != nil {
				return value{}, false, err
			}
			v, ok, err := next(int64(old.word))
			return intValue(v), ok, err
		})
	}))
}

// intWord returns where the int lies that item i is, if the list is not concurrent.
func (l *List) intWord(i int) (*atomic.Uint64, error) {
	if w := l.scalar(i, formatInt); w != nil {
		return w, nil
	}
	lo, hi, err := l.slot(i)
	if err != nil {
		return nil, err
	}
	k, _, _, _, err := l.kind(i, hi-lo)
	if err == nil && k != kindInt {
		err = wrongType(k, kindInt)
	}
	return &l.words[l.data+lo/8], err
}
