package manager

import "github.com/sharedmem/shm/internal/pickle"

// InDir makes a client's Create make its blocks in dir, where nobody else
// sweeps.
func InDir(m *Manager, dir string) *Manager {
	m.opts.Dir = dir
	return m
}

// Marshal and Unmarshal are what client and server use.
func Marshal(v any) ([]byte, error) { return pickle.Marshal(v, nil) }

func Unmarshal(b []byte) (any, error) {
	return pickle.Unmarshal(b, &pickle.Options{Globals: pickle.ManagerGlobals})
}
