// Package list is Python's ShareableList: a list of fixed length whose items are
// integers, floats, bools, text, bytes or nil, in one block of shared memory,
// byte for byte as CPython 3.8 to 3.15 lays it out. Either side makes it, and
// either opens it by name.
//
//	l, err := list.Create("state", []any{"camera 0", 0, 0.0, nil}, nil)
//	if err != nil {
//		return err
//	}
//	defer l.Unlink()
//	defer l.Close()
//	err = l.SetInt(1, 42)
//	name, err := l.Text(0)
//
// and in Python, where nobody but its maker removes it (docs/python.md):
//
//	l = ShareableList(name="state")
//	l[1], l[0]
//
// An item may change its value and its type, but not its slot: text and bytes
// can be as long as the slot was made for, all else fits into any.
//
// # Three ways to an item
//
// At and Set take and return any type, and are safe beside Close and a block
// that another process makes smaller; so are Ints, Floats, SetInts, SetFloats,
// Snapshot, All, Count, Index, Format, Verify and String, which go through many
// items. Int, SetInt and the others for single items of one type are the quick
// way: valid until Close, which must not run beside them, and a block that shrinks makes them
// fault. What lies in the block is another process's to write: each access
// checks what it reads, whatever Open found, and answers with [shm.ErrFormat].
//
// # Several processes
//
// Python's layout has no room for a lock. On it, between processes of this
// library (and the goroutines of one):
//
//   - an int, float or bool is read whole, and what was stored before it is seen by
//     who sees it;
//   - AddInt and CompareAndSwapInt are atomic;
//   - changing an item from nil or to nil is seen at once and whole, so that nil
//     can mean "not there yet";
//   - a change of the type, or of text or bytes, may be seen half done: as a
//     mixture of both values, or as [shm.ErrFormat]. A process that dies in the
//     middle leaves it so, until the next Set.
//
// CPython clears an item's eight bytes and its format before it fills them, so
// that a reader may see 0 on the way from one number to another, or
// [shm.ErrFormat] in the worst case; its list[i] += 1 is a read and a write, which lose what
// others did in between; and as a reader it looks at format and value first and at
// the code last, so that it may see False, 0.0 or an error on the way from or to nil.
//
// Options.Concurrent makes a list, the same list to Python, in which that does
// not happen between processes of this library: whatever the type, each
// reader sees the old or the new value; readers never wait; who changes the same
// item waits for the other one; and when a process dies in the middle, the old
// or the new value is there. It takes 32 bytes and a second slot for each item, and
// some hundred nanoseconds a change. Python's changes are seen, torn as they are, and undone if they hit an item
// in which a process of ours has died.
//
// # Systems
//
// Lists are the same everywhere. Where blocks grow to whole pages (macOS,
// Windows), the rest of the last page is zeros. All of it is in the machine's byte order.
package list
