package mem

import "errors"

// NameMax is the longest name in bytes: a file name's limit, less what the
// names of lock files have before it.
const NameMax = 240

// Anonymous returns errors.ErrUnsupported.
func Anonymous(size int64, flags int) (*Object, error) { return nil, errors.ErrUnsupported }
