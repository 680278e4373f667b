package pickle_test

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/big"
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sharedmem/shm/internal/pickle"
	"github.com/sharedmem/shm/internal/shmtest"
)

//go:embed testdata/peer.py
var peer string

// interpreter is a running testdata/peer.py.
type interpreter struct {
	*shmtest.Process
	t *testing.T
}

func startPeer(t *testing.T, py shmtest.Python) *interpreter {
	t.Helper()
	return &interpreter{shmtest.StartCommand(t, py.Cmd(context.Background(), "-c", peer)), t}
}

// ask has Python do op.
func (p *interpreter) ask(op string, args ...string) (answer struct {
	Error   string
	Same    bool
	Repr    string
	Pickles []shmtest.Hex // by protocol
}) {
	p.t.Helper()
	request, err := json.Marshal(append([]string{op}, args...))
	if err != nil {
		p.t.Fatal(err)
	}
	p.Send(string(request))
	line := p.Line()
	if err := json.Unmarshal([]byte(line), &answer); err != nil || answer.Error != "" {
		p.t.Fatalf("%s %.300q: answered %.300q", op, args, line)
	}
	return answer
}

// literal writes v as Python source.
func literal(v any) string {
	in := func(open string, list []any, end string) string {
		var s strings.Builder
		for _, x := range list {
			s.WriteString(literal(x) + ", ")
		}
		return open + s.String() + end
	}
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		if v {
			return "True"
		}
		return "False"
	case float64:
		switch {
		case math.IsNaN(v):
			return "nan"
		case math.IsInf(v, 0):
			return strings.TrimSuffix(fmt.Sprint(v), "Inf") + "inf" // after a sign
		}
		return strconv.FormatFloat(v, 'e', -1, 64)
	case string:
		var s strings.Builder
		for _, r := range v {
			if r < 0x7f && r >= '0' && r != '\\' {
				s.WriteRune(r)
			} else {
				fmt.Fprintf(&s, `\U%08x`, r)
			}
		}
		return "'" + s.String() + "'"
	case []byte:
		return "bytes.fromhex('" + hex.EncodeToString(v) + "')"
	case pickle.ByteArray:
		return "bytearray.fromhex('" + hex.EncodeToString(v) + "')"
	case tuple:
		return in("(", v, ")")
	case []any:
		return in("[", v, "]")
	case pickle.Set:
		return in("set([", v, "])")
	case pickle.FrozenSet:
		return in("frozenset([", v, "])")
	case dict:
		var s strings.Builder
		for _, p := range v {
			s.WriteString(literal(p.Key) + ": " + literal(p.Value) + ", ")
		}
		return "{" + s.String() + "}"
	case *pickle.Call:
		if typeid, address, id, ok := pickle.AsToken(v); ok {
			return in("Token(", []any{typeid, address, id}, ")")
		}
		class, args, _ := pickle.AsException(v)
		return in(class+"(", args, ")")
	}
	return fmt.Sprint(v) // ints
}

// random makes values. Python has one object for every str and bytes of a
// character and less, and writes it once; distinct leaves those out.
type random struct {
	*rand.Rand
	distinct bool
}

func (r random) int() any {
	x := r.Uint64() >> r.IntN(64)
	switch r.IntN(4) {
	case 0:
		edges := []int64{0, 255, 256, 65535, 65536, 1<<31 - 1, 1 << 31, -1 << 31, -1<<31 - 1, -1, -128, -129, 127, 128, math.MaxInt64, math.MinInt64}
		return edges[r.IntN(len(edges))]
	case 1:
		big := new(big.Int).Lsh(big.NewInt(1), uint(63+r.IntN(2100)))
		if r.IntN(2) == 0 {
			big.Sub(big, bigOne)
		} else if big.BitLen() > 64 {
			big.Neg(big)
		}
		if big.IsInt64() {
			return big.Int64()
		}
		return big
	case 2:
		return -int64(x >> 1)
	}
	return int64(x >> 1)
}

var bigOne = big.NewInt(1)

func (r random) bytes() []byte {
	n := r.IntN(40)
	switch k := r.IntN(1000); {
	case k < 30:
		n = 254 + r.IntN(4)
	case k == 30:
		n = 1<<16 - 2 + r.IntN(4)
	}
	if r.distinct {
		n = max(n, 2)
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func (r random) text() string {
	var s strings.Builder
	alphabet := []rune("ab\\\x00\n\r\x1a'\"uU0é\u00ff\u0100€\ufffd\ue000😀\U0010ffff")
	for _, b := range r.bytes() {
		s.WriteRune(alphabet[int(b)%len(alphabet)])
	}
	return s.String()
}

// hashable makes what may be a key. Keys differ, or Python would drop some.
func (r random) hashable(k int) any {
	switch r.IntN(4) {
	case 0:
		return fmt.Sprint("key", k, r.text())
	case 1:
		return append([]byte{1, byte(k), byte(k >> 8)}, r.bytes()...)
	case 2:
		return tuple{int64(k), r.text(), nil}
	}
	return int64(k)
}

func (r random) value(depth int) any {
	kinds := 13
	if depth == 0 {
		kinds = 7
	}
	n := r.IntN(5)
	if r.IntN(300) == 0 {
		n = 990 + r.IntN(20)
		depth = min(depth, 1)
	}
	list := func(make func(k int) any) []any {
		out := []any{}
		for k := range n {
			out = append(out, make(k))
		}
		return out
	}
	some := func(int) any { return r.value(depth - 1) }
	switch r.IntN(kinds) {
	case 0:
		return nil
	case 1:
		return r.IntN(2) == 0
	case 2, 3:
		return r.int()
	case 4:
		f := []float64{0, math.Copysign(0, -1), math.Inf(1), math.Inf(-1), 1.5, 5e-324, math.MaxFloat64, r.NormFloat64(), 1e16, 123456789}
		return f[r.IntN(len(f))]
	case 5:
		return r.text()
	case 6:
		return r.bytes()
	case 7:
		if r.distinct {
			return pickle.ByteArray("ab") // its class would be shared, the value not
		}
		return pickle.ByteArray(r.bytes())
	case 8:
		return tuple(list(some))
	case 9:
		return list(some)
	case 10:
		d := dict{}
		for k := range n {
			d = append(d, pickle.Pair{Key: r.hashable(k), Value: some(k)})
		}
		return d
	case 11:
		if r.distinct {
			return some(0) // Python chooses the order of sets
		}
		return pickle.Set(list(func(k int) any { return r.hashable(k) }))
	}
	if r.distinct {
		return some(0)
	}
	return pickle.FrozenSet(list(func(k int) any { return r.hashable(k) }))
}

// edges are values at the edges of the format: batches, frames, lengths.
func edges() (out []any) {
	for _, n := range []int{0, 1, 2, 3, 4, 1000, 1001} {
		list, d := []any{}, dict{}
		for k := range n {
			list = append(list, int64(k))
			d = append(d, pickle.Pair{Key: int64(k), Value: fmt.Sprint("value", k)})
		}
		out = append(out, list, tuple(list), d, pickle.Set(list), pickle.FrozenSet(list))
	}
	for _, n := range []int{2, 255, 256, 65535, 65536} {
		text, raw := strings.Repeat("t", n), bytes.Repeat([]byte("b"), n)
		out = append(out, text, raw, pickle.ByteArray(raw),
			tuple{"before", text, "behind"}, []any{int64(1), raw, int64(2), text, "cc", raw[1:]})
	}
	// Frames end between values when they are long enough.
	many := []any{}
	for k := range 5000 {
		many = append(many, fmt.Sprint("a text, number ", k))
	}
	return append(out, many, tuple{many[:2000], tuple(many[2000:]), dict{{Key: "many", Value: many[:3000:3000]}}},
		pickle.ByteArray{}, tuple{pickle.ByteArray("ab"), pickle.ByteArray("cd"), pickle.ByteArray{}})
}

// objects are what only the allow-list of managers has.
func objects() []any {
	return []any{
		pickle.Token("Obj", "/tmp/s", "7f00"),
		pickle.Token("Obj", []byte("\x00abstract"), "7f00"),
		tuple{pickle.Token("Obj", tuple{"127.0.0.1", i(50000)}, "7f00"), pickle.Token("Other", "/tmp/s", "7f01")},
		pickle.Exception("ValueError"),
		[]any{pickle.Exception("ValueError", "one"), pickle.Exception("KeyError", i(1), 2.5), pickle.Exception("ValueError", "two")},
		pickle.Exception("multiprocessing.managers.RemoteError", "text"),
		pickle.Exception("multiprocessing.context.AuthenticationError", "digest sent was rejected"),
		pickle.Exception("UnicodeDecodeError", "utf-8", []byte("\xff\xfe"), i(0), i(1), "invalid start byte"),
	}
}

// sorted has the elements of sets in an order of ours.
func sorted(v any) any {
	all := func(list []any) []any {
		out := []any{}
		for _, x := range list {
			out = append(out, sorted(x))
		}
		return out
	}
	order := func(list []any) []any {
		byLiteral := map[string]any{}
		for _, x := range list {
			byLiteral[literal(x)] = x
		}
		out := []any{}
		for _, key := range slices.Sorted(maps.Keys(byLiteral)) {
			out = append(out, byLiteral[key])
		}
		return out
	}
	switch v := v.(type) {
	case tuple:
		return tuple(all(v))
	case []any:
		return all(v)
	case pickle.Set:
		return pickle.Set(order(all(v)))
	case pickle.FrozenSet:
		return pickle.FrozenSet(order(all(v)))
	case dict:
		d := dict{}
		for _, p := range v {
			d = append(d, pickle.Pair{Key: p.Key, Value: sorted(p.Value)})
		}
		return d
	}
	return v
}

// TestPython: what we write is for Python what it should be, and what Python
// makes of that in every protocol is for us what it was.
func TestPython(t *testing.T) {
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.String(), func(t *testing.T) {
			t.Parallel()
			p := startPeer(t, py)
			check := func(v any, exact bool) {
				t.Helper()
				b, err := pickle.Marshal(v, nil)
				if err != nil {
					t.Fatalf("%.500s: %v", literal(v), err)
				}
				answer := p.ask("value", hex.EncodeToString(b), literal(v))
				if !answer.Same {
					t.Errorf("%.500s is for Python %.500s", literal(v), answer.Repr)
				}
				if len(answer.Pickles) < 6 {
					t.Fatalf("%d protocols", len(answer.Pickles))
				}
				want := sorted(v)
				for protocol, raw := range answer.Pickles {
					got, err := pickle.Unmarshal(raw, managerOptions)
					if err != nil || !reflect.DeepEqual(sorted(got), want) {
						t.Errorf("protocol %d: %.500s comes back as %.500s, %v", protocol, literal(v), literal(got), err)
					}
				}
				if exact && !bytes.Equal(b, answer.Pickles[4]) {
					t.Errorf("Marshal(%.500s) is not what Python writes:\n%swant\n%s", literal(v), dump(b), dump(answer.Pickles[4]))
				}
			}
			for _, v := range edges() {
				check(v, true) // of sets, too: small ints are in their own order
			}
			for _, v := range objects() {
				check(v, true)
			}
			for n := range 80 {
				seed := rand.Uint64()
				r := random{rand.New(rand.NewPCG(seed, 0)), n%2 == 0}
				if check(r.value(4), r.distinct); t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
		})
	}
}

// dump shows where two pickles may differ.
func dump(b []byte) string { return hex.Dump(b[:min(len(b), 1<<10)]) }

// TestPythonHandles: handles are Python's own, in every form, and Python takes
// ours.
func TestPythonHandles(t *testing.T) {
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.String(), func(t *testing.T) {
			p := startPeer(t, py)
			for _, op := range []string{"handle", "shareable"} {
				name := shmtest.Name(t)
				answer := p.ask(op, name)
				if len(answer.Pickles) < 7 {
					t.Fatalf("%d pickles", len(answer.Pickles))
				}
				for protocol, raw := range answer.Pickles {
					v, err := pickle.Unmarshal(raw, &pickle.Options{Globals: pickle.HandleGlobals})
					if err != nil {
						t.Fatalf("%s, protocol %d: %v", op, protocol, err)
					}
					got, size, isList, ok := pickle.Handle(v)
					if got != name || !ok || isList != (op == "shareable") || !isList && size != 4096 {
						t.Errorf("%s, protocol %d: %q, %d, %v, %v", op, protocol, got, size, isList, ok)
					}
				}
				ours := []*pickle.Call{pickle.SharedMemory(name, 4096)}
				want := fmt.Sprintf("SharedMemory('%s', size=4096)", name)
				if op == "shareable" {
					ours = []*pickle.Call{pickle.ShareableList(name), pickle.ForkingShareableList(name)}
					want = fmt.Sprintf("ShareableList([1, 'two'], name='%s')", name)
				}
				for _, v := range ours {
					b, err := pickle.Marshal(v, nil)
					if err != nil {
						t.Fatal(err)
					}
					if answer := p.ask("attach", hex.EncodeToString(b)); answer.Repr != want {
						t.Errorf("ours is for Python %s, want %s", answer.Repr, want)
					}
				}
				p.ask("unlink")
			}
			p.CloseInput()
			if status, stderr := p.WaitAll(); status != 0 || stderr != "" {
				t.Errorf("exit status %d, %s", status, stderr)
			}
		})
	}
}

// TestPythonExceptions: the allow-list has all there are.
func TestPythonExceptions(t *testing.T) {
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.String(), func(t *testing.T) {
			names := strings.Fields(startPeer(t, py).ask("exceptions").Repr)
			if len(names) < 50 {
				t.Fatalf("Python has only %q", names)
			}
			for _, name := range names {
				if !pickle.ManagerGlobals("builtins", name) {
					t.Errorf("%s is not allowed", name)
				}
			}
		})
	}
}
