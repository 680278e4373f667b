//go:build !linux

package mem

import "errors"

// Watcher tells of changes to one name, where the system does.
type Watcher struct{ C <-chan struct{} }

// What Watch reports on Linux.
const (
	Appears = 1 << iota
	Vanishes
)

// Watch returns errors.ErrUnsupported: kqueue tells of files and not of names
// that do not exist yet, and the system's own place is no directory.
func Watch(dir, name string, events uint32) (*Watcher, error) { return nil, errors.ErrUnsupported }

// Stop does nothing.
func (s *Watcher) Stop() {}
