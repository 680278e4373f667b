//go:build !linux

package proc

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

var errUnsupported = fmt.Errorf("proc: not on %s: %w", runtime.GOOS, errors.ErrUnsupported)

// PIDNamespace returns 0: there are no PID namespaces here.
func PIDNamespace() uint64 { return 0 }

// StartTime is not supported here.
func StartTime(pid int) (uint64, error) { return 0, errUnsupported }

// Dir is not supported here.
func Dir(pid int, dir string) (string, error) { return "", errUnsupported }

// Scan is not supported here.
func Scan(want func(Key) bool) (*Snapshot, error) { return nil, errUnsupported }

// Claim is not supported here.
func Claim(path string) (*os.File, error) { return nil, errUnsupported }

// Device is not supported here.
func Device(path string) (uint64, error) { return 0, errUnsupported }

// InContainer returns false: who has no PID namespaces sees all processes.
func InContainer() bool { return false }
