//go:build !linux

package proc

import (
	"os"
	"syscall"
)

// Executable returns the path of this program.
func Executable() (string, error) { return os.Executable() }

// CloseFrom does nothing: no system but Linux lets us close what we do not
// know without breaking its own run-time's descriptors.
func CloseFrom(int) {}

// Mortal returns nil: no other system does this for a parent.
func Mortal() *syscall.SysProcAttr { return nil }
