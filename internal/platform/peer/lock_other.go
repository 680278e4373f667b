//go:build !linux && !darwin && !freebsd && !openbsd && !netbsd && !dragonfly

package peer

import "errors"

// Lock has no lock to take here.
func Lock(string) (release func(), ok bool, err error) { return nil, false, errors.ErrUnsupported }
