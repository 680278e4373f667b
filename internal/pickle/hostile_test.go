package pickle_test

import (
	"encoding/binary"
	"errors"
	"math"
	"math/big"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/sharedmem/shm/internal/pickle"
)

// u32 and u64 are numbers as pickles have them.
func u32(n uint32) string { return string(binary.LittleEndian.AppendUint32(nil, n)) }
func u64(n uint64) string { return string(binary.LittleEndian.AppendUint64(nil, n)) }

// laughs is a tuple of n tuples, each with the one before ten times.
func laughs(n int) string {
	s := "\x80\x04(\x8c\x03lol\x94"
	for k := range n {
		s += "(" + strings.Repeat("h"+string(rune(k)), 10) + "t\x94"
	}
	return s + "t."
}

func TestRefused(t *testing.T) {
	syntax, forbidden, limit := pickle.ErrSyntax, pickle.ErrForbidden, pickle.ErrLimit
	for _, tt := range []struct {
		name, in string
		want     error
		text     string // part of the message
	}{
		{"nothing", "", syntax, "STOP at byte 0: missing"},
		{"no STOP", "\x80\x04N", syntax, "STOP at byte 3: missing"},
		{"STOP without a value", "\x80\x04.", syntax, "STOP at byte 2: too few values"},
		{"two values", "NN.", syntax, "more than one value"},
		{"a mark left", "N(.", syntax, "too few values"},
		{"a mark below", "(N.", syntax, "more than one"},
		{"trailing byte", "N.N", syntax, "STOP at byte 1: 1 more bytes"},
		{"protocol 6", "\x80\x06N.", syntax, "protocol 6"},
		{"protocol twice", "\x80\x04\x80\x04N.", syntax, "PROTO at byte 2"},
		{"no opcode", "\x80\x04\xff.", forbidden, "opcode 0xff at byte 2"},
		{"text, not a pickle", "GET / HTTP/1.1\r\n", forbidden, "PERSID at byte 9"},

		// Code.
		{"os.system", "cos\nsystem\n(S'id'\ntR.", forbidden, `GLOBAL at byte 0: "system" of module "os"`},
		{"posix.system", "\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94.", forbidden, "STACK_GLOBAL at byte 19"},
		{"eval", "\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", forbidden, `"eval" of module "builtins"`},
		{"eval of Python 2", "c__builtin__\neval\n.", forbidden, `"eval" of module "builtins"`},
		{"by way of an allowed module", "cfunctools\npartial.__init__\n.", forbidden, ""},
		{"INST", "(S'id'\nios\nsystem\n.", forbidden, "STRING"},
		{"INST without arguments", "(ios\nsystem\n.", forbidden, "INST at byte 1"},
		{"OBJ", "(o.", forbidden, "OBJ"},
		{"EXT1", "\x82\x01.", forbidden, "EXT1"},
		{"EXT4", "\x84\x01\x00\x00\x00.", forbidden, "EXT4"},
		{"PERSID", "Pid\n.", forbidden, "PERSID"},
		{"BINPERSID", "NQ.", forbidden, "BINPERSID"},
		{"NEWOBJ_EX", "\x80\x04N)}\x92.", forbidden, "NEWOBJ_EX"},
		{"out of band", "\x80\x05\x97.", forbidden, "NEXT_BUFFER"},
		{"calls None", "N)R.", forbidden, "REDUCE"},
		{"calls text", "\x8c\x01a)R.", forbidden, "REDUCE"},
		{"calls with no tuple", "cfunctools\npartial\nNR.", syntax, "arguments"},
		{"NEWOBJ of a call", "cfunctools\npartial\n)R)\x81.", forbidden, "NEWOBJ"},
		{"state of a list", "]Nb.", forbidden, "BUILD"},
		{"state of None", "NNb.", forbidden, "BUILD"},
		{"state twice", "cfunctools\npartial\n)RNbNb.", forbidden, "BUILD"},
		{"names that are numbers", "\x80\x04K\x01K\x02\x93.", syntax, "STACK_GLOBAL"},
		{"a function of ours as a value", "c__builtin__\nset\n.", forbidden, "builtins.set"},
		{"in a list", "]c__builtin__\nset\na.", forbidden, "builtins.set"},
		{"NEWOBJ of one", "c__builtin__\nset\n)\x81.", forbidden, "builtins.set"},
		{"bytearray(1 << 30)", "c__builtin__\nbytearray\nJ\x00\x00\x00\x40\x85R.", forbidden, "bytearray"},
		{"another codec", "c_codecs\nencode\n\x8c\x01a\x8c\x03zip\x86R.", forbidden, "encode"},
		{"not Latin-1", "c_codecs\nencode\nX\x03\x00\x00\x00\xe2\x82\xac\x8c\x06latin1\x86R.", syntax, "Latin-1"},
		{"_reconstructor of a list", "ccopy_reg\n_reconstructor\n(cmultiprocessing.managers\nToken\nc__builtin__\nobject\n]tR.", forbidden, "plain"},

		// Lengths and indices.
		{"str of 4 GiB", "X\xff\xff\xff\xffabc.", syntax, "BINUNICODE at byte 0: needs 4294967295 bytes, 4 of the input are left"},
		{"str of 2**64 - 1", "\x8d" + u64(math.MaxUint64) + ".", syntax, "18446744073709551615"},
		{"str of 2**63", "\x8d" + u64(1<<63) + ".", syntax, "BINUNICODE8"},
		{"bytes of 2**62", "\x8e" + u64(1<<62) + ".", syntax, "BINBYTES8"},
		{"bytearray of 2**40", "\x96" + u64(1<<40) + ".", syntax, "BYTEARRAY8"},
		{"int of 2 GiB", "\x8b" + u32(math.MaxInt32) + ".", limit, "LONG4"},
		{"int of -1 bytes", "\x8b" + u32(math.MaxUint32) + ".", limit, "LONG4"},
		{"int of many digits", "L" + strings.Repeat("9", 4302) + "L\n.", limit, "digits"},
		{"int that is none", "I1x\n.", syntax, "INT"},
		{"int in base 16", "I0x10\n.", syntax, "INT"},
		{"int with underscores", "L1_0L\n.", syntax, "LONG"},
		{"float that is none", "Fone\n.", syntax, "FLOAT"},
		{"float of Go's", "F0x1p-2\n.", syntax, "FLOAT"},
		{"float beyond the range", "F1e999\n.", syntax, "FLOAT"},
		{"line without end", "Vabc", syntax, "end of the line"},
		{"half an escape", "V\\u12\n.", syntax, "UNICODE"},
		{"escape beyond Unicode", "V\\U00110000\n.", syntax, "UNICODE"},
		{"GET of nothing", "g0\n.", syntax, "GET"},
		{"GET of no index", "Np0\ng-1\n.", syntax, "GET"},
		{"BINGET of nothing", "h\x00.", syntax, "BINGET at byte 0: nothing has the memo index 0"},
		{"LONG_BINGET of nothing", "N\x94j" + u32(math.MaxUint32) + ".", syntax, "LONG_BINGET"},
		{"a gap in the memo", "NNNN(tq\x02h\x01.", syntax, "BINGET"},
		{"huge LONG_BINPUT", "Nr" + u32(math.MaxUint32) + ".", limit, "LONG_BINPUT at byte 1: memo index 4294967295"},
		{"PUT beyond what came", "Np99\n.", limit, "PUT"},
		{"MEMOIZE of nothing", "\x94.", syntax, "MEMOIZE"},

		// Frames.
		{"frame beyond the end", "\x80\x04\x95" + u64(3) + "N.", syntax, "FRAME at byte 2: announces 3 bytes, 2 are left"},
		{"frame of 2**64 - 1", "\x80\x04\x95" + u64(math.MaxUint64) + "N.", syntax, "FRAME"},
		{"frame that ends in an opcode", "\x80\x04\x95" + u64(3) + "\x8c\x03abc.", syntax, "SHORT_BINUNICODE at byte 11: needs 3 bytes, 1 in the frame"},
		{"frame that ends in a line", "\x80\x04\x95" + u64(3) + "I11\n.", syntax, "INT"},
		{"frame in a frame", "\x80\x04\x95" + u64(11) + "\x95" + u64(2) + "N.", syntax, "in a frame"},

		// The stack.
		{"TUPLE2 of one", "N\x86.", syntax, "TUPLE2"},
		{"TUPLE2 beyond a mark", "N(N\x86.", syntax, "TUPLE2"},
		{"TUPLE without a mark", "Nt.", syntax, "TUPLE"},
		{"APPEND to nothing", "Na.", syntax, "APPEND"},
		{"APPEND to a dict", "}Na.", forbidden, "APPEND"},
		{"APPEND to a tuple", ")Na.", forbidden, "APPEND"},
		{"APPEND to a call", "cfunctools\npartial\n)RNa.", forbidden, "APPEND"},
		{"ADDITEMS to a list", "](N\x90.", forbidden, "ADDITEMS"},
		{"APPENDS to a set", "\x8f(Ne.", forbidden, "APPENDS"},
		{"SETITEMS of an odd number", "}(NNNu.", syntax, "without a value"},
		{"DICT of an odd number", "(NNNd.", syntax, "without a value"},

		// What contains itself.
		{"a list", "]\x94h\x00a.", forbidden, "within itself"},
		{"a list, by a tuple", "]\x94h\x00\x85a.", forbidden, "within itself"},
		{"a dict", "}\x94Nh\x00s.", forbidden, "within itself"},
		{"a set, by a call", "\x8f\x94(cfunctools\npartial\nh\x00\x85R\x90.", forbidden, "within itself"},
		{"a call, by its state", "cfunctools\npartial\n)R\x94h\x00b.", forbidden, "within itself"},
		{"a list changed later", "]\x94]h\x00ah\x00Na.", forbidden, "or changed later"},
		{"a list changed in its place", "(]\x94\x85h\x00Nat.", forbidden, "within itself"},

		// Too much.
		{"billion laughs", laughs(30), limit, "if none were shared"},
		{"a deep tuple", "N" + strings.Repeat("\x85", 101) + ".", limit, "more than 100 levels"},
		{"a deep list", strings.Repeat("]", 101) + strings.Repeat("a", 100) + ".", limit, "more than 100 levels"},
		{"a deep dict", strings.Repeat("}N", 101) + "N" + strings.Repeat("s", 101) + ".", limit, "levels"},
		{"deep calls", "cfunctools\npartial\n" + strings.Repeat(")R", 101) + ".", limit, "levels"},
		{"marks", strings.Repeat("(", 1<<20+1), limit, "more than 1048576 values"},
		{"values", "(" + strings.Repeat("N", 1<<20) + "t.", limit, "more than 1048576 values"},
		{"memo", "N" + strings.Repeat("\x94", 1<<20+1) + ".", limit, "memo index"},
		{"text again and again", "\x8d" + u64(1<<20) + strings.Repeat("a", 1<<20) + "\x94(" + strings.Repeat("h\x00", 64) + "t\x86.", limit, "bytes, if none were shared"},
		{"copies again and again", "\x8d" + u64(1<<20) + strings.Repeat("a", 1<<20) + "\x8c\x06latin1\x86\x94(" +
			strings.Repeat("c_codecs\nencode\nh\x00R", 64) + "t.", limit, "copied"},

		// Text.
		{"a lone surrogate", "\x8c\x03\xed\xa0\x80.", forbidden, "lone surrogate"},
		{"a lone surrogate behind text", "\x8c\x05\xc3\xa9\xed\xb2\x80.", forbidden, "lone surrogate"},
		{"a lone surrogate of protocol 0", "V\\ud800\n.", forbidden, "lone surrogate"},
		{"not UTF-8", "\x8c\x01\xff.", syntax, "UTF-8"},
		{"overlong", "\x8c\x02\xc0\x80.", syntax, "UTF-8"},
		{"half a character", "\x8c\x02\xe2\x82.", syntax, "UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v, err := pickle.Unmarshal([]byte(tt.in), managerOptions)
			if !errors.Is(err, tt.want) || v != nil || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("got %#v, %v, want %v with %q", v, err, tt.want, tt.text)
			}
			if len(err.Error()) > 300 {
				t.Errorf("the message has %d bytes", len(err.Error()))
			}
		})
	}
}

// TestNoGlobals: without an allow-list there is none.
func TestNoGlobals(t *testing.T) {
	b, err := pickle.Marshal(pickle.SharedMemory("x", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []*pickle.Options{nil, {}} {
		if v, err := pickle.Unmarshal(b, o); !errors.Is(err, pickle.ErrForbidden) {
			t.Errorf("%#v, %v", v, err)
		}
	}
	b, err = pickle.Marshal(pickle.Token("x", "y", "z"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := pickle.Unmarshal(b, &pickle.Options{Globals: pickle.HandleGlobals}); !errors.Is(err, pickle.ErrForbidden) {
		t.Errorf("a token is taken for a handle: %#v, %v", v, err)
	}
}

// TestLimits has each limit hold and not hold by one.
func TestLimits(t *testing.T) {
	list := []any{"ab", []any{[]byte("cde")}}
	b, err := pickle.Marshal(list, nil)
	if err != nil {
		t.Fatal(err)
	}
	// Pushed are a list and a str; a list and bytes.
	for name, o := range map[string][2]pickle.Options{
		"bytes": {{MaxBytes: len(b)}, {MaxBytes: len(b) - 1}},
		"depth": {{MaxDepth: 2}, {MaxDepth: 1}},
		"items": {{MaxItems: 5}, {MaxItems: 4}}, // a mark among them
	} {
		if v, err := pickle.Unmarshal(b, &o[0]); err != nil || !reflect.DeepEqual(v, list) {
			t.Errorf("%s: %v, %v", name, v, err)
		}
		if v, err := pickle.Unmarshal(b, &o[1]); !errors.Is(err, pickle.ErrLimit) {
			t.Errorf("%s: %v, %v", name, v, err)
		}
	}
	for name, o := range map[string][2]pickle.EncodeOptions{
		"bytes": {{MaxBytes: len(b)}, {MaxBytes: len(b) - 1}},
		"depth": {{MaxDepth: 2}, {MaxDepth: 1}},
	} {
		if _, err := pickle.Marshal(list, &o[0]); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := pickle.Marshal(list, &o[1]); !errors.Is(err, pickle.ErrLimit) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestShared decodes what is shared as such.
func TestShared(t *testing.T) {
	// x = [1]; ([x, x], {0: x}), with a call shared as well.
	v, err := pickle.Unmarshal([]byte("](]\x94K\x01ah\x00ecfunctools\npartial\n)R\x94h\x01\x87."), managerOptions)
	if err != nil {
		t.Fatal(err)
	}
	top := v.(tuple)
	outer := top[0].([]any)
	if a, b := outer[0].([]any), outer[1].([]any); &a[0] != &b[0] {
		t.Error("a shared list is two")
	}
	if top[1].(*pickle.Call) != top[2].(*pickle.Call) {
		t.Error("a shared call is two")
	}
}

// TestDamaged cuts every vector at every byte, which must be an error, and flips
// every bit, which must be anything but a panic.
func TestDamaged(t *testing.T) {
	changed := 0
	for _, v := range vectors(t) {
		for name, b := range v.pickles(t) {
			for n := range b {
				if got, err := pickle.Unmarshal(b[:n:n], managerOptions); err == nil {
					t.Errorf("%s, the first %d bytes: %#v", name, n, got)
				}
			}
			want, err := pickle.Unmarshal(b, managerOptions)
			if err != nil {
				t.Fatal(err)
			}
			for bit := range 8 * len(b) {
				flipped := append([]byte{}, b...)
				flipped[bit/8] ^= 1 << (bit % 8)
				got, err := pickle.Unmarshal(flipped, managerOptions)
				if err == nil && !reflect.DeepEqual(got, want) {
					changed++
				}
			}
		}
	}
	if changed == 0 {
		t.Error("no bit changes a value: is it the value that is compared?")
	}
}

// TestMemory: what a short message announces costs nothing.
func TestMemory(t *testing.T) {
	for name, in := range map[string]string{
		"str":   "\x8d" + u64(1<<40),
		"frame": "\x80\x04\x95" + u64(1<<40),
		"int":   "\x8b" + u32(1<<30),
		"memo":  "Nr" + u32(1<<20-1),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range 100 {
			if _, err := pickle.Unmarshal([]byte(in), nil); err == nil {
				t.Fatalf("%s is accepted", name)
			}
		}
		runtime.ReadMemStats(&after)
		if n := (after.TotalAlloc - before.TotalAlloc) / 100; n > 16<<10 {
			t.Errorf("%s: %d bytes of input cost %d", name, len(in), n)
		}
	}
}

// TestMarshalRefuses has values that have no pickle, or none that Python would
// load.
func TestMarshalRefuses(t *testing.T) {
	self := []any{nil}
	self[0] = self
	twice := make(tuple, 2)
	twice[0], twice[1] = twice, twice
	for name, v := range map[string]any{
		"struct":            struct{}{},
		"channel":           make(chan int),
		"pointer":           new(int),
		"map with int keys": map[int]any{1: 1},
		"nil call":          (*pickle.Call)(nil),
		"nil big int":       (*big.Int)(nil),
		"call of text":      &pickle.Call{Func: "os.system"},
		"not UTF-8":         "\xff",
		"name not UTF-8":    pickle.Global{Module: "a", Name: "\xff"},
	} {
		if b, err := pickle.Marshal(v, nil); !errors.Is(err, pickle.ErrForbidden) {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	for name, v := range map[string]any{
		"list in itself":  self,
		"tuple in itself": twice,
		"huge int":        new(big.Int).Lsh(big.NewInt(1), 1<<17),
		"huge bytes":      make([]byte, 64<<20),
	} {
		if b, err := pickle.Marshal(v, nil); !errors.Is(err, pickle.ErrLimit) {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	again := func(v any) (any, bool) { return v, true }
	if _, err := pickle.Marshal(struct{}{}, &pickle.EncodeOptions{Convert: again}); !errors.Is(err, pickle.ErrLimit) {
		t.Errorf("Convert without end: %v", err)
	}
}
