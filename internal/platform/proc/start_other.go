//go:build !linux

package proc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
)

func startAs(*exec.Cmd, []int, int) error {
	return fmt.Errorf("processors and niceness of a child: %w", errors.ErrUnsupported)
}

// SetLimit returns errors.ErrUnsupported.
func SetLimit(int, Resource, uint64) error {
	return fmt.Errorf("resource limits of a child: %w", errors.ErrUnsupported)
}

// AwaitExit returns at once: Wait does it all.
func AwaitExit(*os.Process) {}

// Resident returns 0.
func Resident(int) int64 { return 0 }

// Exiting returns true.
func Exiting(int) bool { return true }
