package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/edsrzf/mmap-go"
	"github.com/sharedmem/shm"
	"golang.org/x/sys/unix"
)

const page = 4096

// create is the first promise: a block of one page, from nothing to nothing.
func create(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "Create, close and unlink 4 KiB", Text: `One block from nothing to nothing, nobody touching it. C does open, ftruncate, mmap, munmap, close and unlink. We do more: the memory is reserved (a page is
allocated and cleared), the block has no name until it is complete (O_TMPFILE and linkat), and its owner's journal has it before it has a name and no longer when it is gone. "C, reserving" is C with fallocate instead of
ftruncate: the part of the difference that is the kernel's. CPython is held to its default, where the resource tracker hears of every block (up to 3.12 there is no other). "Untracked" is track=False, or before 3.13 the
usual patch: it has no target, as C itself is only about twice as fast as that. What CPython takes by default depends on how soon the tracker gets a processor: on a busy machine it is several times as much.`}
	ways := []way{
		loop(ours, func() error { return createOnce(e.block("ours"), nil) }),
		loop("shm, sparse", func() error { return createOnce(e.block("sparse"), &shm.CreateOptions{Sparse: true}) }),
		loop("shm, persistent", func() error {
			return createOnce(e.block("persistent"), &shm.CreateOptions{Lifetime: shm.Persistent})
		}),
		loop("Go, plain system calls", func() error { return rawCreate(e.path(e.block("raw"))) }),
		loop("Go, mmap-go", func() error { return mmapGoCreate(e.path(e.block("mmapgo"))) }),
	}
	if e.c != nil {
		ways = append(ways, e.c.way("C", "create", e.path(e.block("c")), page),
			e.c.way("C, reserving", "reserve", e.path(e.block("c")), page))
	}
	for i, p := range e.pythons {
		name := e.block(fmt.Sprint("py", i))
		ways = append(ways, p.way(p.name, "create", name, page), p.way(p.name+", untracked", "create-untracked", name, page))
	}
	var err error
	if r.Rows, err = e.rounds(ctx, ways); err != nil {
		return nil, err
	}
	r.atMost(ours, "C", 2.2)
	for _, p := range e.pythons {
		r.faster(ours, p.name, 2)
	}
	r.Missing = e.missing
	return r, nil
}

func createOnce(name string, o *shm.CreateOptions) error {
	b, err := shm.Create(name, page, o)
	if err != nil {
		return err
	}
	return errors.Join(b.Close(), b.Unlink())
}

// remove is for the end of a case; what it leaves, [env.clean] reports.
func remove(b *shm.Block) { _ = errors.Join(b.Close(), b.Unlink()) }

// rawCreate is C's six calls from Go: what the language itself costs.
func rawCreate(path string) error {
	fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	if err := unix.Ftruncate(fd, page); err != nil {
		return err
	}
	p, err := unix.Mmap(fd, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	return errors.Join(unix.Munmap(p), unix.Close(fd), unix.Unlink(path))
}

func mmapGoCreate(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := f.Truncate(page); err != nil {
		return err
	}
	m, err := mmap.Map(f, mmap.RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(m.Unmap(), f.Close(), os.Remove(path))
}

// attach is opening what is there.
func attach(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "Attach and close 4 KiB", Text: `Opening a block that exists, and letting go of it, nobody touching it. C does open, fstat, mmap, munmap and close. With raw memory handed out, Close keeps the addresses reserved, which is one more system call than giving them back. CPython as above.`}
	name := e.block("attach")
	b, err := shm.Create(name, page, nil)
	if err != nil {
		return nil, err
	}
	defer remove(b)
	ways := []way{
		loop(ours, func() error {
			b, err := shm.Open(name, nil)
			if err != nil {
				return err
			}
			return b.Close()
		}),
		loop("shm, read-only", func() error {
			b, err := shm.Open(name, &shm.OpenOptions{ReadOnly: true})
			if err != nil {
				return err
			}
			return b.Close()
		}),
		loop("shm, raw memory handed out", func() error {
			b, err := shm.Open(name, nil)
			if err != nil {
				return err
			}
			b.Bytes() // its addresses are now retired by Close instead of given back
			return b.Close()
		}),
		loop("Go, plain system calls", func() error { return rawAttach(e.path(name)) }),
		loop("Go, mmap-go", func() error { return mmapGoAttach(e.path(name)) }),
	}
	if e.c != nil {
		ways = append(ways, e.c.way("C", "attach", e.path(name), page))
	}
	for _, p := range e.pythons {
		ways = append(ways, p.way(p.name, "attach", name, page), p.way(p.name+", untracked", "attach-untracked", name, page))
	}
	if r.Rows, err = e.rounds(ctx, ways); err != nil {
		return nil, err
	}
	r.atMost(ours, "C", 1.5)
	for _, p := range e.pythons {
		r.faster(ours, p.name, 2.5)
	}
	r.Missing = e.missing
	return r, nil
}

func rawAttach(path string) error {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	p, err := unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	return errors.Join(unix.Munmap(p), unix.Close(fd))
}

func mmapGoAttach(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	m, err := mmap.Map(f, mmap.RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(m.Unmap(), f.Close())
}

// listing is List over many blocks, in a folder of their own and beside
// whatever else there is.
func listing(ctx context.Context, e *env) (*Result, error) {
	count := 10_000
	if e.quick {
		count = 2_000
	}
	r := &Result{Title: fmt.Sprintf("List %d blocks", count), Text: `All blocks of this process, which owns them, so that each has an entry in a journal; in a folder of their own, and in /dev/shm with whatever else is there. The peer is what anybody would
write: os.ReadDir and an Lstat of each, which tells names, sizes and modes, but neither owners nor lifetimes.`}
	dir, err := os.MkdirTemp(shmDir, e.prefix+"dir-")
	if err != nil {
		return nil, err
	}
	var ways []way
	for _, place := range []struct{ what, dir string }{{"own folder", dir}, {shmDir, ""}} {
		for i := range count {
			b, err := shm.Create(e.block(fmt.Sprint("list-", i)), page, &shm.CreateOptions{Dir: place.dir})
			if err != nil {
				return nil, err
			}
			defer remove(b)
			if err := b.Close(); err != nil { // not mapped, so that 10 000 are no burden
				return nil, err
			}
		}
		path := place.dir
		if path == "" {
			path = shmDir
		}
		ways = append(ways, loop("shm.List, "+place.what, func() error {
			infos, err := shm.Dir(place.dir).List()
			if err == nil && len(infos) < count {
				err = fmt.Errorf("%d blocks of %d", len(infos), count)
			}
			return err
		}), loop("ReadDir and Lstat, "+place.what, func() error {
			entries, err := os.ReadDir(path)
			for _, f := range entries {
				if _, err := os.Lstat(filepath.Join(path, f.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
					return err
				}
			}
			return err
		}))
	}
	if r.Rows, err = e.rounds(ctx, ways); err != nil {
		return nil, err
	}
	for _, row := range []string{"shm.List, own folder", "shm.List, " + shmDir} {
		r.below(row, r.row(row).Median/1e6, 50, "ms")
	}
	return r, nil
}

// prefault is attaching to much memory that is there already.
func prefault(ctx context.Context, e *env) (*Result, error) {
	const size = 64 << 20
	r := &Result{Title: "Attach to a resident 64 MiB block", Text: `Until every page is mapped: with Prefault, and by touching one byte of each page after a plain Open. The target is against storing, which faults once for every page. A read fault maps the 15 pages around it as well (the kernel's
fault_around_bytes), so that reading in order gains little from Prefault. Closing is not counted, as it costs all the same. The second row also stores into the pages that Prefault mapped, to show what that left to do.`}
	name := e.block("large")
	b, err := shm.Create(name, size, &shm.CreateOptions{Prefault: true})
	if err != nil {
		return nil, err
	}
	defer remove(b)
	open := func(what string, o *shm.OpenOptions, touch func(p []byte)) way {
		return timed(what, func() (time.Duration, error) {
			start := time.Now()
			b, err := shm.Open(name, o)
			if err != nil {
				return 0, err
			}
			if touch != nil {
				touch(b.Bytes())
			}
			took := time.Since(start)
			return took, b.Close()
		})
	}
	eager := &shm.OpenOptions{Prefault: true}
	ways := []way{
		open("shm, Prefault", eager, nil),
		open("shm, Prefault, then storing", eager, touchWrite),
		open("shm, reading each page", nil, touchRead),
		open("shm, storing into each page", nil, touchWrite),
	}
	if e.c != nil {
		ways = append(ways, e.c.way("C, MAP_POPULATE", "populate", e.path(name), size))
	}
	if r.Rows, err = e.rounds(ctx, ways); err != nil {
		return nil, err
	}
	r.faster("shm, Prefault", "shm, storing into each page", 5)
	return r, nil
}

func touchWrite(p []byte) {
	for i := 0; i < len(p); i += page {
		p[i] = 1 // not ++, whose read would fault first, and map 16 pages at once
	}
}

func touchRead(p []byte) {
	var sum byte
	for i := 0; i < len(p); i += page {
		sum += p[i]
	}
	runtime.KeepAlive(sum) // else the compiler drops the reads
}
