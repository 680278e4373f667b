// Package layout knows how bytes in shared memory are laid out: which Go types
// may be laid over them, and how Python writes names. With internal/platform it
// is the only place that uses unsafe.
package layout
