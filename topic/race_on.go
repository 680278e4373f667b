//go:build race

package topic

import "encoding/binary"

// What a subscriber copies may be overwritten meanwhile: it sees that afterwards, and
// throws the copy away. The race detector does not know that, so here each word is an
// atomic access of its own. Where publishers wait nothing is overwritten, and the
// copies are plain ones.

// copyIn copies a message into the slot that begins at word at.
func (c *core) copyIn(at int, p []byte) {
	if c.wait {
		copy(c.bytes[at*8+slotHeader:], p)
		return
	}
	var w [8]byte
	for i := 0; i < len(p); i += 8 {
		copy(w[:], p[i:])
		c.words[at+slotHeader/8+i/8].Store(binary.NativeEndian.Uint64(w[:]))
	}
}

// copyOut copies a message out of it.
func (c *core) copyOut(p []byte, at int) {
	if c.wait {
		copy(p, c.bytes[at*8+slotHeader:])
		return
	}
	var w [8]byte
	for i := 0; i < len(p); i += 8 {
		binary.NativeEndian.PutUint64(w[:], c.words[at+slotHeader/8+i/8].Load())
		copy(p[i:], w[:])
	}
}
