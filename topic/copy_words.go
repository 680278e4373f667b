//go:build race || shmcrash

package topic

import (
	"encoding/binary"

	"github.com/sharedmem/shm/internal/step"
)

// What a subscriber copies may be overwritten meanwhile: it sees that afterwards, and
// throws the copy away. The race detector does not know that, so here each word is an
// atomic access of its own; and for the explorer of interleavings it is a step.

// copyIn copies a message into the slot that begins at word at.
func (c *core) copyIn(at int, p []byte) {
	var w [8]byte
	for i := 0; i < len(p); i += 8 {
		copy(w[:], p[i:])
		step.StoreRelease(&c.words[at+slotHeader/8+i/8], binary.NativeEndian.Uint64(w[:]))
	}
}

// copyOut copies a message out of it.
func (c *core) copyOut(p []byte, at int) {
	var w [8]byte
	for i := 0; i < len(p); i += 8 {
		binary.NativeEndian.PutUint64(w[:], c.words[at+slotHeader/8+i/8].Load())
		copy(p[i:], w[:])
	}
}
