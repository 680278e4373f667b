package pickle_test

import (
	"errors"
	"math"
	"math/big"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/sharedmem/shm/internal/pickle"
)

// isOurs reports whether an error is one of the three kinds.
func isOurs(err error) bool {
	return errors.Is(err, pickle.ErrSyntax) || errors.Is(err, pickle.ErrForbidden) || errors.Is(err, pickle.ErrLimit)
}

// same is reflect.DeepEqual, but a NaN is itself.
func same(a, b any) bool {
	if reflect.DeepEqual(a, b) {
		return true
	}
	all := func(a, b []any) bool {
		if len(a) != len(b) {
			return false
		}
		for i := range a {
			if !same(a[i], b[i]) {
				return false
			}
		}
		return true
	}
	if reflect.TypeOf(a) != reflect.TypeOf(b) {
		return false
	}
	switch a := a.(type) {
	case float64:
		return math.Float64bits(a) == math.Float64bits(b.(float64))
	case tuple:
		return all(a, b.(tuple))
	case []any:
		return all(a, b.([]any))
	case pickle.Set:
		return all(a, b.(pickle.Set))
	case pickle.FrozenSet:
		return all(a, b.(pickle.FrozenSet))
	case dict:
		b := b.(dict)
		if len(a) != len(b) {
			return false
		}
		for i := range a {
			if !same(a[i].Key, b[i].Key) || !same(a[i].Value, b[i].Value) {
				return false
			}
		}
		return true
	case *pickle.Call:
		b := b.(*pickle.Call)
		return same(a.Func, b.Func) && all(a.Args, b.Args) && a.New == b.New && same(a.State, b.State) && a.HasState == b.HasState
	}
	return false
}

// measure counts what is in a value by walking it, and so itself depends on
// the limits to hold.
func measure(v any) (depth, values, size int) {
	values = 1
	in := func(list ...any) {
		depth = max(depth, 1)
		for _, x := range list {
			d, n, s := measure(x)
			depth = max(depth, d+1)
			values += n
			size += s
		}
	}
	switch v := v.(type) {
	case string:
		size = len(v)
	case []byte:
		size = len(v)
	case pickle.ByteArray:
		size = len(v)
	case tuple:
		in(v...)
	case []any:
		in(v...)
	case pickle.Set:
		in(v...)
	case pickle.FrozenSet:
		in(v...)
	case dict:
		in()
		for _, p := range v {
			in(p.Key, p.Value)
		}
	case *pickle.Call:
		in(v.Func, v.Args)
		if v.HasState {
			in(v.State)
		}
	}
	return depth, values, size
}

// What decodes is within the limits, and is the same when it was written and
// read again; the recognisers take everything.
func FuzzUnmarshal(f *testing.F) {
	for _, v := range vectors(f) {
		for _, b := range v.pickles(f) {
			f.Add(b)
		}
	}
	f.Add([]byte(laughs(9)))
	f.Add([]byte("\x80\x05(\x8fK\x01\x90K\x01\x91\x96" + u64(1) + "ae."))
	f.Add([]byte("(lI1\naL2L\naF1.5\naI01\naV\\u20ac\nac_codecs\nencode\n(V\xe9\nVlatin1\ntRac__builtin__\nset\n((lI1\natRa."))
	f.Add([]byte("ccopy_reg\n_reconstructor\n(cmultiprocessing.managers\nToken\nc__builtin__\nobject\nNtR(VObj\nV/tmp\nV7f\ntb."))
	f.Fuzz(func(t *testing.T, b []byte) {
		o := &pickle.Options{Globals: pickle.ManagerGlobals, MaxBytes: 1 << 16, MaxDepth: 20, MaxItems: 1 << 12}
		v, err := pickle.Unmarshal(b, o)
		if err != nil {
			if v != nil || !isOurs(err) || len(err.Error()) > 1<<10 {
				t.Fatalf("%#v, %v", v, err)
			}
			return
		}
		if depth, values, size := measure(v); depth > o.MaxDepth || values > o.MaxItems || size > o.MaxBytes {
			t.Fatalf("%d levels, %d values, %d bytes", depth, values, size)
		}
		again, err := pickle.Marshal(v, &pickle.EncodeOptions{MaxDepth: o.MaxDepth})
		if err != nil {
			t.Fatalf("%#v: %v", v, err)
		}
		w, err := pickle.Unmarshal(again, &pickle.Options{Globals: pickle.ManagerGlobals})
		if err != nil || !same(v, w) {
			t.Fatalf("%#v came back as %#v, %v", v, w, err)
		}
		if name, size, isList, ok := pickle.Handle(v); ok && !isList {
			if !same(v, pickle.SharedMemory(name, size)) {
				t.Fatalf("%#v is taken for a block", v)
			}
		} else if ok && !same(v, pickle.ShareableList(name)) && !same(v, pickle.ForkingShareableList(name)) {
			t.Fatalf("%#v is taken for a list", v)
		}
		if typeid, address, id, ok := pickle.AsToken(v); ok && !same(v, pickle.Token(typeid, address, id)) {
			t.Fatalf("%#v is taken for a token", v)
		}
		pickle.AsException(v)
	})
}

// What is written is read as the same. Large values are in TestEdges: here the
// minimizer would take all the time for them.
func FuzzRoundTrip(f *testing.F) {
	f.Add(uint64(1), "text", []byte("bytes"), int64(-1), 1.5)
	f.Add(uint64(2), "", []byte{}, int64(math.MinInt64), math.NaN())
	f.Add(uint64(3), "\U0010ffff", make([]byte, 300), int64(math.MaxInt64), math.Inf(-1))
	f.Fuzz(func(t *testing.T, seed uint64, text string, raw []byte, n int64, x float64) {
		text = strings.ToValidUTF8(text, "\ufffd")
		v := tuple{
			text, append([]byte{}, raw...), append(pickle.ByteArray{}, raw...), n, x, nil, seed%2 == 0,
			dict{{Key: text, Value: raw[:len(raw):len(raw)]}, {Key: tuple{n, x}, Value: []any{n}}},
			pickle.SharedMemory(text, int(uint32(n)>>1)), pickle.Token(text, raw, text), pickle.Exception("KeyError", text, n),
			random{rand.New(rand.NewPCG(seed, uint64(n))), false}.value(3),
		}
		if bits := new(big.Int).SetBytes(raw); len(raw) > 8 && len(raw) < 1<<10 && bits.BitLen() > 64 {
			v = append(v, bits, new(big.Int).Neg(bits))
		}
		b, err := pickle.Marshal(v, nil)
		if err != nil {
			t.Fatal(err)
		}
		w, err := pickle.Unmarshal(b, managerOptions)
		if err != nil || !same(v, w) {
			t.Fatalf("%#v came back as %#v, %v", v, w, err)
		}
	})
}

func TestEdges(t *testing.T) {
	for _, v := range append(edges(), objects()...) {
		b, err := pickle.Marshal(v, nil)
		if err != nil {
			t.Fatal(err)
		}
		if w, err := pickle.Unmarshal(b, managerOptions); err != nil || !same(v, w) {
			t.Errorf("%.200s came back as %.200s, %v", literal(v), literal(w), err)
		}
	}
}
