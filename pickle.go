package shm

import (
	"errors"
	"fmt"

	"github.com/sharedmem/shm/internal/pickle"
)

// maxPickle is far more than any handle has: names are at most 255 bytes.
const maxPickle = 64 << 10

// MarshalPickle returns a pickle that Python's pickle.loads makes a SharedMemory
// of, or a ShareableList if r.Kind is "list": so a handle can lie in a file, a
// database or a queue that Python reads. Python opens it as SharedMemory(name)
// does, tracking included; see docs/python.md.
//
// Errors: ErrName for a block in a directory of its own, which Python's module
// cannot open.
func (r Ref) MarshalPickle() ([]byte, error) { return r.pickle(0) }

// MarshalPickle is that of b.Ref, with the size, which Python does not need but
// writes as well.
func (b *Block) MarshalPickle() ([]byte, error) { return b.Ref().pickle(b.size) }

func (r Ref) pickle(size int) ([]byte, error) {
	const op = "pickle"
	name, err := cleanName(r.Name)
	if err == nil && r.Dir != "" {
		err = fmt.Errorf("%w: Python knows no block in the directory %s", ErrName, r.Dir)
	}
	if err != nil {
		return nil, wrap(op, r.Name, err)
	}
	v := pickle.SharedMemory(name, size)
	if r.Kind == "list" {
		v = pickle.ShareableList(name)
	}
	out, err := pickle.Marshal(v, nil)
	return out, wrap(op, name, err)
}

// UnmarshalPickle reads what MarshalPickle or Python's pickle.dumps wrote of a
// SharedMemory or a ShareableList, with any protocol. It executes nothing: any
// other pickle is an error, ErrFormat.
func (r *Ref) UnmarshalPickle(data []byte) error {
	v, err := pickle.Unmarshal(data, &pickle.Options{Globals: pickle.HandleGlobals, MaxBytes: maxPickle})
	if err != nil {
		return wrap("unpickle", "", fmt.Errorf("%w: %w", ErrFormat, err))
	}
	name, _, list, ok := pickle.Handle(v)
	if !ok {
		return wrap("unpickle", "", fmt.Errorf("%w: it is no handle of shared memory", ErrFormat))
	}
	name, err = cleanName(name)
	if err != nil {
		return wrap("unpickle", name, errors.Join(ErrFormat, err))
	}
	*r = Ref{Name: name}
	if list {
		r.Kind = "list"
	}
	return nil
}
