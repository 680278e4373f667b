//go:build !linux && !darwin && !freebsd

package peer

import "errors"

func of(int) (Cred, error) { return Cred{}, errors.ErrUnsupported }

func private(int) error { return errors.ErrUnsupported }
