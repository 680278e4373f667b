package pickle_test

import (
	"testing"

	"github.com/sharedmem/shm/internal/pickle"
)

// The request that every connect of a manager's client makes, and its reply.
func BenchmarkRequest(b *testing.B) {
	request := request(nil, "dummy")
	raw, err := pickle.Marshal(request, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("Marshal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := pickle.Marshal(request, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Unmarshal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := pickle.Unmarshal(raw, managerOptions); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// A message that is mostly payload.
func BenchmarkBytes(b *testing.B) {
	data := make([]byte, 1<<20)
	raw, err := pickle.Marshal(data, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("Marshal", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if _, err := pickle.Marshal(data, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Unmarshal", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if _, err := pickle.Unmarshal(raw, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}
