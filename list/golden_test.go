package list_test

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/list"
)

// golden is a list that CPython made, and what it read from it.
type golden struct {
	Name, Python, Literal, Hex, Format string
	Readback                           json.RawMessage // a list of reprs, or the repr of one where it is long
}

func (g *golden) bytes(t testing.TB) []byte {
	t.Helper()
	b, err := hex.DecodeString(g.Hex)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func vectors(t testing.TB) (out []golden) {
	t.Helper()
	raw, err := os.ReadFile("../testdata/vectors/shareable_list_golden.json")
	if err == nil {
		err = json.Unmarshal(raw, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 90 {
		t.Fatalf("only %d vectors", len(out))
	}
	return out
}

// blockOf makes a block with these bytes.
func blockOf(t testing.TB, b []byte) *shm.Block {
	t.Helper()
	block, err := shm.Create(shmtest.Name(t), len(b), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = block.Unlink() })
	copy(block.Bytes(), b)
	return block
}

// TestGoldenRead opens what Python made.
func TestGoldenRead(t *testing.T) {
	for _, g := range vectors(t) {
		t.Run(g.Python+" "+g.Name, func(t *testing.T) {
			l, err := list.FromBlock(blockOf(t, g.bytes(t)))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			if want := list.Layout(list.Python39); strings.HasPrefix(g.Python, "3.8") && l.Layout() == want {
				t.Errorf("layout %v", l.Layout())
			}
			if err := l.Verify(); err != nil {
				t.Error(err)
			}
			t.Log(l)
		})
	}
}
