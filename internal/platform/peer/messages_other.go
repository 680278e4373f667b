//go:build !linux

package peer

import (
	"errors"
	"net"
	"os"
)

func messages() (*net.UnixConn, *os.File, error) { return nil, nil, errors.ErrUnsupported }

func inherited(int) (*net.UnixConn, bool) { return nil, false }

func send(*net.UnixConn, []byte, []*os.File) error { return errors.ErrUnsupported }

func receive(*net.UnixConn, []byte) (int, []*os.File, error) { return 0, nil, errors.ErrUnsupported }
