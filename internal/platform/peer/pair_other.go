//go:build !unix

package peer

import (
	"errors"
	"fmt"
	"os"
)

// Pair has no sockets here that a child could be given.
func Pair() (a, b *os.File, err error) {
	return nil, nil, fmt.Errorf("a socket for a child: %w", errors.ErrUnsupported)
}

// Shut has no such sockets here.
func Shut(*os.File) error { return errors.ErrUnsupported }
