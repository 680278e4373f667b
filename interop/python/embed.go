// Package python carries the Python half of the interoperation tests, so that
// the tests of any package find it wherever they run.
package python

import "embed"

// Peer is peer.py: a program for python -c that does what it is told, line by
// line, with plain multiprocessing.shared_memory.
//
//go:embed peer.py
var Peer string

// Arrays is arrays.py: for peer.py's "run", what the tests of arrays say to NumPy.
//
//go:embed arrays.py
var Arrays string

// Lock is shm_lock.py: Python's side of package lock, for users to copy.
//
//go:embed shm_lock.py
var Lock string

// Modules has the modules for users to copy, shm_lock.py and its kin, as files; and
// parties.py, what the tests of rings and topics do with them.
//
//go:embed shm_*.py parties.py
var Modules embed.FS

// GoWorker is go_worker.py: how a Python program starts a Go worker, for users to
// copy.
//
//go:embed go_worker.py
var GoWorker string
