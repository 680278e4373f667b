package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/sharedmem/shm"
	"golang.org/x/sys/unix"
)

// copying is ReadAt and WriteAt against copy.
func copying(ctx context.Context, e *env) (*Result, error) {
	const size = 1 << 20
	r := &Result{Title: "Copy 1 MiB in and out", Text: `ReadAt and WriteAt against copy between the same heap memory and the same mapping: what the safe way costs beyond the copy. They count themselves in, so that Close waits, and turn a fault (a
peer made the block smaller) into an error.`}
	b, err := shm.Create(e.block("copy"), size, &shm.CreateOptions{Prefault: true})
	if err != nil {
		return nil, err
	}
	defer remove(b)
	heap, mapped := make([]byte, size), b.Bytes()
	fill(heap)
	check := func(n int, err error) error {
		if err == nil && n != size {
			err = fmt.Errorf("%d bytes of %d", n, size)
		}
		return err
	}
	r.Rows, err = e.rounds(ctx, []way{
		loop("WriteAt", func() error { return check(b.WriteAt(heap, 0)) }),
		loop("copy into the mapping", func() error { return check(copy(mapped, heap), nil) }),
		loop("ReadAt", func() error { return check(b.ReadAt(heap, 0)) }),
		loop("copy out of the mapping", func() error { return check(copy(heap, mapped), nil) }),
	})
	if err != nil {
		return nil, err
	}
	r.atMost("ReadAt", "copy out of the mapping", 1.1)
	r.atMost("WriteAt", "copy into the mapping", 1.1)
	return r, nil
}

// access is computing in the memory itself.
func access(ctx context.Context, e *env) (*Result, error) {
	const size = 8 << 20
	r := &Result{Title: "Work on 8 MiB in place", Text: `The sum of a []uint64 of 8 MiB, in order and at random, as shm.Slice gives it and on the heap. The time is that of one sum of all 1 048 576 elements. The third memory is private and mapped by page like a
block, for the machines where the heap gets huge pages and /dev/shm does not.`}
	b, err := shm.Create(e.block("access"), size, &shm.CreateOptions{Prefault: true})
	if err != nil {
		return nil, err
	}
	defer remove(b)
	private, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Munmap(private) }()
	if err := unix.Madvise(private, unix.MADV_NOHUGEPAGE); err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: a kernel without huge pages
		return nil, err
	}
	mapped, err := shm.Slice[uint64](b, 0, size/8)
	if err != nil {
		return nil, err
	}
	var ways []way
	for _, m := range []struct {
		what string
		p    []uint64
	}{{"shm.Slice", mapped}, {"heap", make([]uint64, size/8)}, {"private mapping", words(private)}} {
		for i := range m.p {
			m.p[i] = uint64(i)
		}
		ways = append(ways, loop(m.what+", in order", func() error { return sum(m.p) }),
			loop(m.what+", at random", func() error { return sumRandom(m.p) }))
	}
	if r.Rows, err = e.rounds(ctx, ways); err != nil {
		return nil, err
	}
	// "At the speed of the heap" is a bound of 1.1 here: two heap slices of
	// one program differ by more than one percent, too.
	r.atMost("shm.Slice, in order", "heap, in order", 1.1)
	r.atMost("shm.Slice, at random", "heap, at random", 1.1)
	return r, nil
}

func sum(p []uint64) error {
	var s uint64
	for _, v := range p {
		s += v
	}
	return checkSum(s, len(p))
}

// sumRandom visits every element once, in the order of a linear congruential
// generator of full period, which costs an instruction or two and no memory.
func sumRandom(p []uint64) error {
	var s uint64
	i, mask := 0, len(p)-1 // the length is a power of two
	for range p {
		i = (i*1_664_525 + 1_013_904_223) & mask
		s += p[i]
	}
	return checkSum(s, len(p))
}

func checkSum(s uint64, n int) error {
	if want := uint64(n) * uint64(n-1) / 2; s != want {
		return fmt.Errorf("sum %d, want %d", s, want)
	}
	return nil
}

// calls is what the ways to the bytes cost by the call.
func calls(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "One call", Text: `What each way to eight bytes of a block costs. The safe ways are for whole pieces of work, not for single words; the raw ones are meant to be called once and kept. No target.`}
	b, err := shm.Create(e.block("calls"), page, &shm.CreateOptions{Prefault: true})
	if err != nil {
		return nil, err
	}
	defer remove(b)
	var p [8]byte
	word, err := shm.At[uint64](b, 0)
	if err != nil {
		return nil, err
	}
	r.Rows, err = e.rounds(ctx, []way{
		loop("a word through a pointer of At", func() error { *word++; return nil }),
		loop("Do with a function that does nothing", func() error { return b.Do(func([]byte) error { return nil }) }),
		loop("Acquire and release", func() error {
			release, err := b.Acquire()
			if err == nil {
				release()
			}
			return err
		}),
		loop("ReadAt of 8 bytes", func() error { _, err := b.ReadAt(p[:], 0); return err }),
		loop("WriteAt of 8 bytes", func() error { _, err := b.WriteAt(p[:], 0); return err }),
		loop("Bytes", func() error { runtime.KeepAlive(b.Bytes()); return nil }),
		loop("At[uint64]", func() error { _, err := shm.At[uint64](b, 8); return err }),
		loop("Slice[uint64]", func() error { _, err := shm.Slice[uint64](b, 0, 16); return err }),
	})
	return r, err
}

func fill(p []byte) {
	for i := range p {
		p[i] = byte(i)
	}
}

// words is p as numbers.
func words(p []byte) []uint64 {
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(p))), len(p)/8)
}
