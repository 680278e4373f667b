// Package shm shares named blocks of memory between processes.
//
// A block made here can be opened by any process on the machine that may read
// it, in Go or in Python: the names, sizes and bytes are those of CPython's
// multiprocessing.shared_memory.SharedMemory. Nothing is copied and no broker
// runs in between.
//
//	b, err := shm.Create("cam0", 1<<20, nil) // reserved now, removed when we are gone
//	if err != nil {
//		return err
//	}
//	defer b.Unlink()
//	defer b.Close()
//	pixels, err := shm.Slice[uint16](b, 0, 640*480)
//
// and in another process, whatever its language,
//
//	b, err := shm.Open("cam0", nil)          // shared_memory.SharedMemory("cam0")
//
// # How long memory lives
//
// There are three ways to the bytes, safest first. [Block.ReadAt] and
// [Block.WriteAt] copy, and are safe beside Close. [Block.Do] and
// [Block.Acquire] are scoped: Close waits for them. [Block.Bytes], [At] and
// [Slice] are raw: what they return is valid until Close, and keeping to that
// is the caller's business. A stale raw pointer faults; it never reaches
// another block, because the addresses of a block that handed out raw memory
// are not used again (up to 4096 blocks or 256 GiB of them, oldest reused first).
//
// The garbage collector never unmaps memory: a Block that is dropped without
// Close stays mapped until the process ends.
//
// # Who removes a block
//
// Only its owner: the process that created it, until [Block.Disown] or
// [Block.Adopt] hand it on. A process that merely opened a block never removes
// it by leaving. See [Lifetime] for what happens when an owner dies.
//
// # Differences per system
//
// On Linux everything here holds. On macOS a name has at most 30 characters,
// the size is rounded up to a page, and a block is visible under its name for
// a moment before it is complete. On Windows a block dies with its last handle
// in any process, Unlink does nothing, and an attacher sees the size rounded up
// to a page. What a system lacks returns an error that wraps
// [errors.ErrUnsupported]; docs/platforms.md has the table.
package shm
