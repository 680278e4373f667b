package shm_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
)

// TestPickleVectors reads what Python pickled, and writes it.
func TestPickleVectors(t *testing.T) {
	n := 0
	for _, version := range []string{"3.8.18", "3.13.0"} {
		raw, err := os.ReadFile("testdata/vectors/golden_messages_" + version + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var cases []struct{ Kind, Name, Hex string }
		if err := json.Unmarshal(raw, &cases); err != nil {
			t.Fatal(err)
		}
		for _, c := range cases {
			want := shm.Ref{Name: "golden_seg"}
			if c.Kind == "pickle_ShareableList" {
				want = shm.Ref{Name: "golden_sl", Kind: "list"}
			} else if c.Kind != "pickle_SharedMemory" {
				continue
			}
			b, err := hex.DecodeString(c.Hex)
			if err != nil {
				t.Fatal(err)
			}
			var got shm.Ref
			if err := got.UnmarshalPickle(b); err != nil || got != want {
				t.Errorf("%s of %s: %+v, %v", c.Name, version, got, err)
			}
			if c.Name == "sl_proto4" {
				if out, err := want.MarshalPickle(); err != nil || !bytes.Equal(out, b) {
					t.Errorf("%s: %x, %v", c.Name, out, err)
				}
			}
			n++
		}
	}
	if n < 20 {
		t.Fatalf("only %d vectors", n)
	}
}

func TestPickleRefused(t *testing.T) {
	for _, bad := range []string{
		"", "\x80\x04N.", "\x80\x04\x8c\x01x.", "cos\nsystem\n(S'true'\ntR.",
		// SharedMemory with create=True
		"\x80\x04\x95F\x00\x00\x00\x00\x00\x00\x00\x8c\x1dmultiprocessing.shared_memory\x94\x8c\x0cSharedMemory\x94\x93\x94\x8c\x0agolden_seg\x94\x88K\x0a\x87\x94R\x94.",
	} {
		r := shm.Ref{Name: "as it was"}
		if err := r.UnmarshalPickle([]byte(bad)); !errors.Is(err, shm.ErrFormat) || r.Name != "as it was" {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, r := range []shm.Ref{{}, {Name: "a/b"}, {Name: "x", Dir: "/tmp"}} {
		if _, err := r.MarshalPickle(); !errors.Is(err, shm.ErrName) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	// A name that no block of ours can have.
	r := shm.Ref{Name: ".shm-x"}
	if _, err := r.MarshalPickle(); !errors.Is(err, shm.ErrName) {
		t.Error(err)
	}
}

// TestPicklePython has Python open what we pickled, and us what Python did.
func TestPicklePython(t *testing.T) {
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.Version, func(t *testing.T) {
			b := create(t, shmtest.Name(t), 4096, nil)
			copy(b.Bytes(), "hello")
			p, err := b.MarshalPickle()
			if err != nil {
				t.Fatal(err)
			}
			cmd := py.Cmd(t.Context(), "-c", `
import base64, pickle, sys
from multiprocessing import resource_tracker
block = pickle.loads(base64.b64decode(sys.argv[1]))
print(bytes(block.buf[:5]).decode(), base64.b64encode(pickle.dumps(block)).decode())
block.close()
resource_tracker.unregister(block._name, "shared_memory")
`, base64.StdEncoding.EncodeToString(p))
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			text, back, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
			if text != "hello" {
				t.Errorf("Python reads %q", text)
			}
			raw, err := base64.StdEncoding.DecodeString(back)
			if err != nil {
				t.Fatal(err)
			}
			var r shm.Ref
			if err := r.UnmarshalPickle(raw); err != nil || r.Name != b.Name() {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}

func FuzzUnmarshalPickle(f *testing.F) {
	p, err := shm.Ref{Name: "x", Kind: "list"}.MarshalPickle()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p)
	f.Fuzz(func(t *testing.T, b []byte) {
		var r shm.Ref
		if err := r.UnmarshalPickle(b); err != nil {
			return
		}
		again, err := r.MarshalPickle()
		if err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
		var s shm.Ref
		if err := s.UnmarshalPickle(again); err != nil || s != r {
			t.Fatalf("%+v came back as %+v, %v", r, s, err)
		}
	})
}
