//go:build !race && !shmcrash

package topic

// copyIn copies a message into the slot that begins at word at.
func (c *core) copyIn(at int, p []byte) { copy(c.bytes[at*8+slotHeader:], p) }

// copyOut copies a message out of it.
func (c *core) copyOut(p []byte, at int) { copy(p, c.bytes[at*8+slotHeader:]) }
