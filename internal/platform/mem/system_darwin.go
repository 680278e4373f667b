package mem

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
)

// NameMax is the longest name in bytes: PSHMNAMLEN less the slash. Names in a
// Dir could be longer, but a program should not find out by moving its blocks.
const NameMax = 30

// Anonymous makes an object without a name. macOS gives no object a size twice,
// so no peer can turn an access into a fault. It has a name for a moment; a
// process killed then leaves it behind.
func Anonymous(size int64, flags int) (*Object, error) {
	for {
		var b [8]byte
		rand.Read(b[:]) // never fails since Go 1.24
		o, err := newSystem("shm-anon-"+hex.EncodeToString(b[:]), size, 0o600, flags)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := unlinkSystem(o.system); err != nil {
			_ = o.Close()
			return nil, err
		}
		o.system = ""
		return o, nil
	}
}
