//go:build dragonfly || openbsd || solaris

package mem

import "golang.org/x/sys/unix"

// These systems do not say when a file was made, and have no attributes to mark
// one with.

func birth(*unix.Stat_t) int64 { return 0 }

// Mark does nothing on this system.
func (o *Object) Mark(string) {}

// MarkName does nothing on this system.
func MarkName(dir, name, text string) {}

// LookupMark returns "".
func LookupMark(dir, name string) string { return "" }
