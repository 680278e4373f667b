package conn

import (
	"encoding/hex"
	"errors"
	"math/big"
	"reflect"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/pickle"
	"github.com/sharedmem/shm/internal/shmtest"
)

func TestValues(t *testing.T) {
	a, b := pair(t, nil)
	large := new(big.Int).Lsh(big.NewInt(1), 100)
	type celsius float32
	for _, tt := range []struct{ send, want any }{
		{nil, nil},
		{true, true},
		{-7, int64(-7)},
		{uint8(200), int64(200)},
		{large, large},
		{1.5, 1.5},
		{celsius(36.5), 36.5},
		{"grüße", "grüße"},
		{[]byte("raw"), []byte("raw")},
		{ByteArray("raw"), ByteArray("raw")},
		{[]int{1, 2}, []any{int64(1), int64(2)}},
		{Tuple{}, Tuple{}},
		{Tuple{"a", nil, []any{1}}, Tuple{"a", nil, []any{int64(1)}}},
		{map[string]any{"b": 2, "a": 1}, Dict{{Key: "a", Value: int64(1)}, {Key: "b", Value: int64(2)}}},
		{Dict{{Key: 1, Value: "x"}}, Dict{{Key: int64(1), Value: "x"}}},
		{Set{"x"}, Set{"x"}},
		{FrozenSet{"x"}, FrozenSet{"x"}},
		{shm.Ref{Name: "x"}, shm.Ref{Name: "x"}},
		{&shm.Ref{Name: "x", Kind: "list"}, shm.Ref{Name: "x", Kind: "list"}},
		{[]shm.Ref{{Name: "x"}}, []any{shm.Ref{Name: "x"}}},
		{Dict{{Key: "k", Value: Tuple{shm.Ref{Name: "x"}}}}, Dict{{Key: "k", Value: Tuple{shm.Ref{Name: "x"}}}}},
	} {
		if err := a.Send(tt.send); err != nil {
			t.Errorf("Send %#v: %v", tt.send, err)
			continue
		}
		if got, err := b.Recv(); err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("sent %#v, got %#v, %v, want %#v", tt.send, got, err, tt.want)
		}
	}
}

func TestHandles(t *testing.T) {
	a, b := pair(t, nil)
	block, err := shm.Create(shmtest.Name(t), 100, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer block.Unlink()
	defer block.Close()
	if err := a.Send(Tuple{block, listHandle{"x"}}); err != nil {
		t.Fatal(err)
	}
	p, err := b.RecvBytes()
	if err != nil {
		t.Fatal(err)
	}
	want, err := pickle.Marshal(Tuple{pickle.SharedMemory(block.Name(), block.Size()), pickle.ForkingShareableList("x")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if string(p) != string(want) {
		t.Errorf("sent %q, want %q", p, want)
	}
	if err := a.SendBytes(p); err != nil {
		t.Fatal(err)
	}
	got, err := b.Recv()
	refs, ok := got.(Tuple)
	if err != nil || !ok || len(refs) != 2 || refs[1] != any(shm.Ref{Name: "x", Kind: "list"}) {
		t.Fatalf("got %v, %v", got, err)
	}
	again, err := refs[0].(shm.Ref).Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

// listHandle is what package list's List is to this one.
type listHandle struct{ name string }

func (l listHandle) Ref() shm.Ref { return shm.Ref{Name: l.name, Kind: "list"} }

func TestUnsendable(t *testing.T) {
	a, b := pair(t, nil)
	cyclic := make([]any, 1)
	cyclic[0] = cyclic
	var noBlock *shm.Block
	for _, tt := range []struct {
		v    any
		want error
	}{
		{make(chan int), ErrForbidden},
		{struct{}{}, ErrForbidden},
		{[]any{func() {}}, ErrForbidden},
		{"\xff", ErrForbidden},
		{noBlock, ErrForbidden},
		{shm.Ref{}, ErrForbidden},
		{shm.Ref{Name: "x", Dir: "/tmp"}, ErrForbidden},
		{cyclic, ErrLimit},
	} {
		if err := a.Send(tt.v); !errors.Is(err, tt.want) {
			t.Errorf("Send of a %T: %v", tt.v, err)
		}
	}
	// Nothing of it was sent.
	if err := a.Send("next"); err != nil {
		t.Fatal(err)
	}
	if v, err := b.Recv(); v != "next" || err != nil {
		t.Errorf("%v, %v", v, err)
	}
}

func TestUnreceivable(t *testing.T) {
	a, b := pair(t, &Options{MaxFrame: 1 << 20})
	marshal := func(v any) string {
		p, err := pickle.Marshal(v, nil)
		if err != nil {
			t.Fatal(err)
		}
		return string(p)
	}
	for _, tt := range []struct {
		name, pickle string
		want         error
	}{
		{"nothing", "", ErrSyntax},
		{"garbage", "hello, world", ErrSyntax},
		{"half a pickle", marshal("hello")[:10], ErrSyntax},
		{"os.system('true')", "cos\nsystem\n(S'true'\ntR.", ErrForbidden},
		{"os.system('true'), protocol 4", "\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", ErrForbidden},
		{"eval", "cbuiltins\neval\n(V1\ntR.", ErrForbidden},
		{"a class", marshal(pickle.Global{Module: "functools", Name: "partial"}), ErrForbidden},
		{"a class in a list", marshal([]any{pickle.Global{Module: "functools", Name: "partial"}}), ErrForbidden},
		{"a class in a dict", marshal(Dict{{Key: pickle.Global{Module: "functools", Name: "partial"}, Value: 1}}), ErrForbidden},
		{"a partial of nothing", marshal(&pickle.Call{Func: pickle.Global{Module: "functools", Name: "partial"}, Args: Tuple{}}), ErrForbidden},
		{"create=True", marshal(&pickle.Call{
			Func: pickle.Global{Module: "multiprocessing.shared_memory", Name: "SharedMemory"}, Args: Tuple{"x", true, 10},
		}), ErrForbidden},
		{"a block in a directory", marshal(pickle.SharedMemory("../etc/passwd", 1)), ErrForbidden},
		{"a block at a path", marshal(pickle.SharedMemory("/etc/passwd", 1)), ErrForbidden},
		{"a block with a NUL", marshal(pickle.SharedMemory("a\x00b", 1)), ErrForbidden},
		{"a block without a name", marshal(pickle.SharedMemory("", 1)), ErrForbidden},
		{"a list with a bad name", marshal(Tuple{pickle.ShareableList("a/b")}), ErrForbidden},
	} {
		if err := a.SendBytes([]byte(tt.pickle)); err != nil {
			t.Fatal(err)
		}
		if v, err := b.Recv(); !errors.Is(err, tt.want) {
			t.Errorf("%s, %s: %#v, %v", tt.name, hex.EncodeToString([]byte(tt.pickle)), v, err)
		}
	}
	// The Conn has not suffered.
	if err := a.Send("next"); err != nil {
		t.Fatal(err)
	}
	if v, err := b.Recv(); v != "next" || err != nil {
		t.Errorf("%v, %v", v, err)
	}
}
