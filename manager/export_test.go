package manager

import "github.com/sharedmem/shm/internal/pickle"

// Marshal and Unmarshal are what client and server use.
func Marshal(v any) ([]byte, error) { return pickle.Marshal(v, nil) }

func Unmarshal(b []byte) (any, error) {
	return pickle.Unmarshal(b, &pickle.Options{Globals: pickle.ManagerGlobals})
}

// Plain has this process's clients talk to servers of ours as to Python's.
func Plain() { offering = false }
