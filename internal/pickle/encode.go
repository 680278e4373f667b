package pickle

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"math/big"
	"reflect"
	"slices"
	"unicode/utf8"
)

// EncodeOptions change what Marshal does.
type EncodeOptions struct {
	// Convert returns what to write for v, a value of a type that Marshal does
	// not know. If not ok, v's kind decides.
	Convert func(v any) (w any, ok bool)

	MaxBytes int // length of the pickle; 0: 64 MiB
	MaxDepth int // containers and calls in one another; 0: 100
}

// Marshal returns v as a pickle of protocol 4, byte for byte as CPython's
// pickler in C writes it, if no object is in v twice. That pickler refers back
// to an object it has written. Go's strings and slices have no identity, so they
// are written anew each time; only classes and the names of their modules are
// referred to, of which Python always has one.
//
// It takes the types in the package's table, all kinds of int, uint and float,
// []string, map[string]any (in the order of the keys), other types whose
// underlying type is one of these, and slices of all of them. A nil o means
// defaults.
func Marshal(v any, o *EncodeOptions) ([]byte, error) {
	e := encoder{out: make([]byte, 0, 128), frame: -1}
	if o != nil {
		e.EncodeOptions = *o
	}
	e.MaxBytes = cmp.Or(e.MaxBytes, defaultBytes)
	e.MaxDepth = cmp.Or(e.MaxDepth, defaultDepth)
	e.out = append(e.out, opProto, 4)
	e.save(v)
	e.write(opStop)
	e.endFrame()
	if len(e.out) > e.MaxBytes {
		e.fail(ErrLimit, "more than %d bytes", e.MaxBytes)
	}
	if e.err != nil {
		return nil, e.err
	}
	return e.out, nil
}

type encoder struct {
	EncodeOptions

	out   []byte
	frame int  // where the header of the open frame is, or -1
	bare  bool // what is written gets no frame
	depth int

	memoized int
	classes  map[Global]int // their numbers in the memo
	modules  map[string]int
	err      error
}

func (e *encoder) fail(kind error, format string, args ...any) {
	if e.err == nil {
		e.err = fmt.Errorf("pickle: %w: %s", kind, fmt.Sprintf(format, args...))
	}
}

// CPython collects opcodes in frames of at least frameSize bytes, the last one
// excepted. What is as long itself gets none, nor do fewer than frameMin bytes.
const (
	frameSize   = 64 << 10
	frameMin    = 4
	frameHeader = 9
)

// batch is how many items CPython appends at once.
const batch = 1000

func (e *encoder) write(b ...byte) {
	if e.frame < 0 && !e.bare {
		e.frame = len(e.out)
		e.out = append(e.out, make([]byte, frameHeader)...)
	}
	e.out = append(e.out, b...)
}

func (e *encoder) endFrame() {
	if e.frame < 0 {
		return
	}
	body := e.out[e.frame+frameHeader:]
	if len(body) < frameMin {
		e.out = append(e.out[:e.frame], body...)
	} else {
		e.out[e.frame] = opFrame
		binary.LittleEndian.PutUint64(e.out[e.frame+1:], uint64(len(body)))
	}
	e.frame = -1
}

// counted writes the opcode for data of its length, and data.
func counted[T string | []byte](e *encoder, short, long, long8 byte, data T) {
	if len(data) > e.MaxBytes-len(e.out) {
		e.fail(ErrLimit, "more than %d bytes", e.MaxBytes)
		return
	}
	e.bare = len(data) >= frameSize
	if e.bare {
		e.endFrame()
	}
	switch n := uint64(len(data)); {
	case n <= 0xff:
		e.write(short, byte(n))
	case n <= math.MaxUint32:
		e.write(binary.LittleEndian.AppendUint32([]byte{long}, uint32(n))...)
	default:
		e.write(binary.LittleEndian.AppendUint64([]byte{long8}, n)...)
	}
	e.out = append(e.out, data...)
	e.bare = false
	e.memoize()
}

func (e *encoder) memoize() (index int) {
	e.write(opMemoize)
	e.memoized++
	return e.memoized - 1
}

func (e *encoder) get(index int) {
	e.boundary()
	if index <= 0xff {
		e.write(opBinGet, byte(index))
	} else {
		e.write(binary.LittleEndian.AppendUint32([]byte{opLongBinGet}, uint32(index))...)
	}
}

// boundary ends the frame if it is long enough, and enforces the limit.
func (e *encoder) boundary() {
	if e.frame >= 0 && len(e.out)-e.frame-frameHeader >= frameSize {
		e.endFrame()
	}
	if len(e.out) > e.MaxBytes {
		e.fail(ErrLimit, "more than %d bytes", e.MaxBytes)
	}
}

// save writes one value. Like CPython it ends frames only here.
func (e *encoder) save(v any) {
	if e.boundary(); e.err != nil {
		return
	}
	switch v := v.(type) {
	case nil:
		e.write(opNone)
	case bool:
		if v {
			e.write(opTrue)
		} else {
			e.write(opFalse)
		}
	case int:
		e.int(int64(v))
	case int64:
		e.int(v)
	case *big.Int:
		e.bigInt(v)
	case float64:
		e.write(binary.BigEndian.AppendUint64([]byte{opBinFloat}, math.Float64bits(v))...)
	case string:
		e.text(v)
	case []byte:
		counted(e, opShortBinBytes, opBinBytes, opBinBytes8, v)
	case ByteArray:
		// Protocol 4 has no opcode for it: this is bytearray(bytes).
		e.save(Global{"builtins", "bytearray"})
		if len(v) == 0 {
			e.write(opEmptyTuple)
		} else {
			e.save([]byte(v))
			e.write(opTuple1)
			e.memoize()
		}
		e.write(opReduce)
		e.memoize()
	case Global:
		e.global(v)
	case Tuple, []any, []string, Dict, map[string]any, Set, FrozenSet, *Call:
		e.deeper(v, e.container)
	default:
		e.other(v)
	}
}

// deeper calls write for a value in which are others. The limit also ends what
// contains itself.
func (e *encoder) deeper(v any, write func(v any)) {
	if e.depth++; e.depth > e.MaxDepth {
		e.fail(ErrLimit, "more than %d levels", e.MaxDepth)
	} else {
		write(v)
	}
	e.depth--
}

func (e *encoder) container(v any) {
	switch v := v.(type) {
	case Tuple:
		e.tuple(v)
	case []any:
		e.list(len(v), func(i int) any { return v[i] })
	case []string:
		e.list(len(v), func(i int) any { return v[i] })
	case Dict:
		e.dict(v)
	case map[string]any:
		d := make(Dict, 0, len(v))
		for _, key := range slices.Sorted(maps.Keys(v)) {
			d = append(d, Pair{key, v[key]})
		}
		e.dict(d)
	case Set:
		e.write(opEmptySet)
		e.memoize()
		e.batches(len(v), opAddItems, func(i int) { e.save(v[i]) })
	case FrozenSet:
		e.write(opMark)
		for _, x := range v {
			e.save(x)
		}
		e.write(opFrozenSet)
		e.memoize()
	case *Call:
		if v == nil {
			e.fail(ErrForbidden, "a nil *Call")
			return
		}
		e.call(v)
	}
}

// other writes a value of a type of somebody else's.
func (e *encoder) other(v any) {
	if e.Convert != nil {
		if w, ok := e.Convert(v); ok {
			e.deeper(w, e.save) // or Convert might never end
			return
		}
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Bool:
		e.save(r.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		e.int(r.Int())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		e.bigInt(new(big.Int).SetUint64(r.Uint()))
	case reflect.Float32, reflect.Float64:
		e.save(r.Float())
	case reflect.String:
		e.text(r.String())
	case reflect.Slice:
		if r.Type().Elem().Kind() == reflect.Uint8 {
			e.save(r.Bytes())
			return
		}
		e.deeper(v, func(v any) {
			e.list(r.Len(), func(i int) any { return r.Index(i).Interface() })
		})
	case reflect.Map:
		if m := reflect.TypeFor[map[string]any](); r.CanConvert(m) {
			e.save(r.Convert(m).Interface())
			return
		}
		fallthrough
	default:
		e.fail(ErrForbidden, "a %T", v)
	}
}

func (e *encoder) int(i int64) {
	switch {
	case i >= 0 && i <= 0xff:
		e.write(opBinInt1, byte(i))
	case i >= 0 && i <= 0xffff:
		e.write(opBinInt2, byte(i), byte(i>>8))
	case int64(int32(i)) == i:
		e.write(binary.LittleEndian.AppendUint32([]byte{opBinInt}, uint32(i))...)
	default:
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], uint64(i))
		e.long(b[:])
	}
}

func (e *encoder) bigInt(x *big.Int) {
	switch {
	case x == nil:
		e.fail(ErrForbidden, "a nil *big.Int")
	case x.IsInt64():
		e.int(x.Int64())
	case x.BitLen()/8+1 > maxInt:
		e.fail(ErrLimit, "an int of %d bits", x.BitLen())
	default:
		b := make([]byte, x.BitLen()/8+1)
		if x.Sign() < 0 {
			x = new(big.Int).Add(x, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
		}
		e.long(x.FillBytes(b))
	}
}

// long writes an int in two's complement, given big-endian and in more bytes
// than it may need.
func (e *encoder) long(b []byte) {
	for len(b) > 1 && (b[0] == 0 && b[1] < 0x80 || b[0] == 0xff && b[1] >= 0x80) {
		b = b[1:]
	}
	slices.Reverse(b)
	if len(b) <= 0xff {
		e.write(opLong1, byte(len(b)))
	} else {
		e.write(binary.LittleEndian.AppendUint32([]byte{opLong4}, uint32(len(b)))...)
	}
	e.write(b...)
}

func (e *encoder) text(s string) {
	if !utf8.ValidString(s) {
		e.fail(ErrForbidden, "text that is not UTF-8")
		return
	}
	counted(e, opShortBinUnicode, opBinUnicode, opBinUnicode8, s)
}

func (e *encoder) tuple(t Tuple) {
	if len(t) == 0 {
		e.write(opEmptyTuple) // Python has only one, and does not memoize it
		return
	}
	if len(t) > 3 {
		e.write(opMark)
	}
	for _, v := range t {
		e.save(v)
	}
	switch len(t) {
	case 1:
		e.write(opTuple1)
	case 2:
		e.write(opTuple2)
	case 3:
		e.write(opTuple3)
	default:
		e.write(opTuple)
	}
	e.memoize()
}

func (e *encoder) list(n int, item func(i int) any) {
	e.write(opEmptyList)
	e.memoize()
	if n == 1 {
		e.save(item(0))
		e.write(opAppend)
		return
	}
	e.batches(n, opAppends, func(i int) { e.save(item(i)) })
}

func (e *encoder) dict(d Dict) {
	e.write(opEmptyDict)
	e.memoize()
	pair := func(i int) {
		e.save(d[i].Key)
		e.save(d[i].Value)
	}
	if len(d) == 1 {
		pair(0)
		e.write(opSetItem)
		return
	}
	e.batches(len(d), opSetItems, pair)
}

// batches writes n items, each batch between MARK and op.
func (e *encoder) batches(n int, op byte, item func(i int)) {
	for i := 0; i < n && e.err == nil; {
		e.write(opMark)
		for end := min(i+batch, n); i < end && e.err == nil; i++ {
			item(i)
		}
		e.write(op)
	}
	if op != opAppends && n > 0 && n%batch == 0 {
		// Of dicts and sets, CPython does not notice that a full batch was the last.
		e.write(opMark, op)
	}
}

func (e *encoder) global(g Global) {
	if i, ok := e.classes[g]; ok {
		e.get(i)
		return
	}
	if e.classes == nil {
		e.classes, e.modules = map[Global]int{}, map[string]int{}
	}
	if i, ok := e.modules[g.Module]; ok {
		e.get(i)
	} else {
		e.modules[g.Module] = e.memoized
		e.save(g.Module)
	}
	e.save(g.Name)
	e.write(opStackGlobal)
	e.classes[g] = e.memoize()
}

func (e *encoder) call(c *Call) {
	switch c.Func.(type) {
	case Global, *Call:
	default:
		e.fail(ErrForbidden, "a call of a %T", c.Func)
	}
	e.save(c.Func)
	e.save(c.Args)
	if c.New {
		e.write(opNewObj)
	} else {
		e.write(opReduce)
	}
	e.memoize()
	if c.HasState {
		e.save(c.State)
		e.write(opBuild)
	}
}
