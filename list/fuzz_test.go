package list_test

import (
	"bytes"
	"errors"
	"math"
	"slices"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/list"
)

// fuzzSeeds adds lists of CPython's, of ours and bad ones.
func fuzzSeeds(f *testing.F, add func(image []byte)) {
	for _, g := range vectors(f) {
		if b := g.bytes(f); len(b) <= maxFuzz {
			add(b)
		}
	}
	for _, o := range []*list.Options{plain, python38, exact, concurrent, {Layout: list.Python38, Exact: true, Concurrent: true}} {
		add(forge(f, o).b)
	}
	for _, c := range hostile() {
		h := forge(f, c.o)
		c.spoil(h)
		add(h.b)
	}
}

// maxFuzz is the largest block: what goes wrong does so in small ones.
const maxFuzz = 1 << 12

// fuzzList opens a list in a block with these bytes; nil if it is none.
func fuzzList(t *testing.T, image []byte) *list.List {
	if len(image) == 0 || len(image) > maxFuzz {
		return nil
	}
	b, err := shm.Anonymous(len(image), nil)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	copy(b.Bytes(), image)
	l, err := list.FromBlock(b)
	if err != nil {
		mustBe(t, err, shm.ErrFormat)
		b.Close()
		return nil
	}
	t.Cleanup(func() { l.Close() })
	if l.Len() > len(image)/25 {
		t.Fatalf("%d items in %d bytes", l.Len(), len(image))
	}
	return l
}

// Whatever the bytes, each method answers or refuses, and writes nowhere but
// where it should. A list that Verify finds good can be read, and made again.
func FuzzOpen(f *testing.F) {
	fuzzSeeds(f, func(image []byte) { f.Add(image) })
	f.Fuzz(func(t *testing.T, image []byte) {
		l := fuzzList(t, image)
		if l == nil {
			return
		}
		if l.Verify() == nil {
			if items, err := l.Snapshot(); err == nil {
				again, err := list.Create("", items, &list.Options{Layout: l.Layout(), Exact: true})
				if err != nil {
					t.Fatal(err)
				}
				defer again.Unlink()
				defer again.Close()
				back, err := again.Snapshot()
				if err != nil || !slices.EqualFunc(items, back, sameValue) {
					t.Fatalf("%v became %v, %v", items, back, err)
				}
			} else {
				// Its text is all that Verify does not look at.
				mustBe(t, err, list.ErrText)
			}
		}
		useAll(t, l)
	})
}

func sameValue(a, b any) bool {
	switch a := a.(type) {
	case float64:
		b, ok := b.(float64)
		return ok && math.Float64bits(a) == math.Float64bits(b)
	case []byte:
		b, ok := b.([]byte)
		return ok && bytes.Equal(a, b)
	}
	return a == b
}

// A good list behaves as a slice does, whatever is done to it; a bad one stays
// within its bounds.
func FuzzOps(f *testing.F) {
	ops := []byte("\x00\x00\x01\x11\x05\x42\x21\x00\x07\x31\x07a\x41\x03\x00\x52\x30\x99\x63\x05\x08\x70\x00\x00\x84\x13\x05\x25\x00\x02")
	fuzzSeeds(f, func(image []byte) { f.Add(image, ops) })
	f.Fuzz(func(t *testing.T, image, ops []byte) {
		l := fuzzList(t, image)
		if l == nil || l.Len() == 0 {
			return
		}
		want, err := l.Snapshot()
		good := err == nil && l.Verify() == nil
		for ; len(ops) >= 3; ops = ops[3:] {
			i := int(ops[1]) % l.Len()
			if good {
				fuzzOp(t, l, ops[0], i, ops[2], want)
			} else {
				fuzzOp(t, l, ops[0], i, ops[2], nil)
			}
		}
		if !good {
			return
		}
		got, err := l.Snapshot()
		if err != nil || !slices.EqualFunc(got, want, sameValue) {
			t.Fatalf("%v, %v, want %v", got, err, want)
		}
		if err := l.Verify(); err != nil {
			t.Fatal(err)
		}
	})
}

// fuzzOp changes item i in one of all ways, and want alike, if that is known.
func fuzzOp(t *testing.T, l *list.List, op byte, i int, arg byte, want []any) {
	known := want != nil
	if !known {
		want = make([]any, l.Len())
	}
	// Without a zero at the end, which a list may keep or not.
	long := bytes.Repeat([]byte{'a' + arg%26}, int(arg))
	var err error
	now := want[i]
	switch op % 10 {
	case 0:
		now, err = int64(arg)-128, l.SetInt(i, int64(arg)-128)
	case 1:
		now, err = float64(arg)/2, l.SetFloat(i, float64(arg)/2)
	case 2:
		now, err = arg&1 != 0, l.SetBool(i, arg&1 != 0)
	case 3:
		now, err = string(long), l.SetText(i, string(long))
	case 4:
		now, err = long, l.SetBytes(i, long)
	case 5:
		now, err = nil, l.SetNil(i)
	case 6:
		var sum int64
		if sum, err = l.AddInt(i, math.MaxInt64/int64(arg|1)); err == nil {
			now = sum
			if old, ok := want[i].(int64); known && (!ok || old+math.MaxInt64/int64(arg|1) != sum) {
				t.Fatalf("%v + … = %d", want[i], sum)
			}
		}
	case 7:
		var swapped bool
		if swapped, err = l.CompareAndSwapInt(i, int64(arg)-128, 7); swapped {
			if known && want[i] != int64(arg)-128 {
				t.Fatalf("%v was taken for %d", want[i], int64(arg)-128)
			}
			now = int64(7)
		}
	case 8:
		n := min(int(arg), l.Len()-i)
		if err = l.SetInts(i, make([]int64, n)); err == nil {
			for k := range n {
				want[i+k] = int64(0)
			}
			return
		}
	case 9:
		n := min(int(arg), l.Len()-i)
		if err = l.SetFloats(i, make([]float64, n)); err == nil {
			for k := range n {
				want[i+k] = 0.0
			}
			return
		}
	}
	if err == nil {
		want[i] = now
	}
	switch {
	case known:
		among(t, "change", err, nil, list.ErrTooLong, list.ErrType, list.ErrRange)
		if got, err := l.At(i); err != nil || !sameValue(got, want[i]) {
			t.Fatalf("after op %d item %d is %v, %v, want %v", op%10, i, got, err, want[i])
		}
	default:
		among(t, "change", err, writeErrors...)
	}
}
