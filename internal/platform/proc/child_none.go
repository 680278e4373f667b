//go:build !unix

package proc

import "syscall"

// IsPipe reports false: no clean-up process is needed where the system removes
// memory with its last handle.
func IsPipe(int) bool { return false }

// Detached returns nil.
func Detached() *syscall.SysProcAttr { return nil }

// IgnoreSignals does nothing.
func IgnoreSignals() {}
