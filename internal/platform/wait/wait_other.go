//go:build !linux

package wait

import (
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
)

// Supported returns errors.ErrUnsupported here. Windows' WaitOnAddress and
// macOS's __ulock_wait without private interfaces do not reach other processes; and
// neither tells of an owner's death.
func Supported() error {
	return fmt.Errorf("waiting between processes on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// Any returns errors.ErrUnsupported.
func Any(time.Duration, ...On) error { return Supported() }

// One returns errors.ErrUnsupported.
func One(*atomic.Uint32, uint32) error { return Supported() }

// Wake wakes nobody.
func Wake(*atomic.Uint32, int) int { return 0 }

// WakePrivate wakes nobody.
func WakePrivate(*atomic.Uint32, int) int { return 0 }

// Guard returns errors.ErrUnsupported.
func Guard(*atomic.Uint32) (leave func(), err error) { return func() {}, Supported() }

// Fences reports false.
func Fences() bool { return false }

// Fence does nothing.
func Fence() {}

// FencesAll reports false.
func FencesAll() bool { return false }

// FenceAll does nothing.
func FenceAll() {}
