// Package manager is Python's SharedMemoryManager: a server that owns blocks
// and lists, made through it by several processes, and removes them all when it
// is shut down. Server and clients can each be in Go or in Python, CPython 3.8
// to 3.15.
//
//	m, err := manager.Start(ctx, nil)
//	if err != nil {
//		return err
//	}
//	defer m.Shutdown(ctx)
//	b, err := m.Create(ctx, 1<<20)
//	l, err := m.CreateList(ctx, []any{"camera 0", 0, nil})
//
// and in Python, which has been told address and key (see [conn.PythonAddress]):
//
//	m = SharedMemoryManager(address="/run/cams", authkey=key)
//	m.connect()
//	b = m.SharedMemory(1 << 20)
//
// Start serves beside the program, Options.Process in a process of its own,
// Serve in the foreground. Connect is for the others. Wait waits for the end.
//
// # Who owns a block
//
// The client makes it, with its own permissions, and names it to the server; no
// memory goes over the wire. When Create returns, the server owns it, with its
// lease (see [shm.Create]).
//
//	what happens                     what becomes of the blocks
//	their maker ends, is killed      stay
//	it is killed within Create       goes, or the server's
//	Shutdown, by any client          all go; those that are gone are reported
//	Release                          this one goes
//	SIGTERM to Options.Process       all go
//	the server is killed             go with the next sweep: the next process's first
//	                                 Create, or shm.Prune
//	a block that another process     stays, and Shutdown reports it
//	of this library owns is tracked
//	a Python client ends             its own resource tracker removes those that it has
//	                                 made, unless told not to: docs/python.md
//
// Mappings outlive names: who has a block open keeps it until Close. A server of
// Python's owns its blocks in no such way; what happens when it is killed is
// Python's resource tracker's business.
//
// # Security
//
// Whoever has the key can make the server remove blocks that its user may
// remove, and end it. The key is never sent, see package conn. Other users
// cannot reach a Unix socket's file; Options.Conn.CheckPeer asks the system who
// it is at any Unix socket. On TCP nothing is encrypted, and it
// makes sense on one machine only: the blocks are the client's machine's.
//
// Requests are read as a closed subset of pickles, which cannot run code; they
// are limited in size, time and number by [Options]; answers name no file of
// ours; what is wrong is counted in [Stats]. What a server says to a client is
// read with the same care.
//
// # What is not here
//
// A BaseManager's objects: register and create, proxies, and so SyncManager's
// dict, list, Queue, Lock, Event and Namespace. A Python client that asks for one
// gets a RemoteError at once. For such state between Go and Python take a
// list (package list), or messages (package conn); docs/python.md has the table.
//
// # Systems
//
// On Windows a block goes with the last process that has it open, whatever a
// manager tracks; Options.Process is errors.ErrUnsupported; and the sockets are
// TCP, which Python's clients there take as well as its named pipes. Elsewhere
// than on Linux there are no abstract addresses. Where the system has no leases
// (see package shm), a killed server's blocks stay.
package manager
