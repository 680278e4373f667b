package pickle

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// Options are what Unmarshal allows. The limits' zero values are defaults.
type Options struct {
	// Globals tells whether a class or function may be named; nil: none may.
	// Python 2's names, which the protocols 0 to 2 use, come as Python 3's.
	Globals func(module, name string) bool

	MaxBytes int // length of the input, and of all text and bytes of the value; 0: 64 MiB
	MaxDepth int // containers and calls in one another; 0: 100
	MaxItems int // values, counted one by one; 0: 1 << 20
}

// Unmarshal returns the value of a pickle of any protocol, 0 to 5. It keeps no
// reference to b. A nil o means defaults.
func Unmarshal(b []byte, o *Options) (any, error) {
	d := decoders.Get().(*decoder)
	defer func() {
		*d = decoder{} // the pool keeps nobody's values
		decoders.Put(d)
	}()
	d.in, d.stack, d.memo = b, d.room[:0:8], d.room[8:8]
	if o != nil {
		d.Options = *o
	}
	d.MaxBytes = cmp.Or(d.MaxBytes, defaultBytes)
	d.MaxDepth = cmp.Or(d.MaxDepth, defaultDepth)
	d.MaxItems = min(cmp.Or(d.MaxItems, defaultItems), math.MaxInt32)
	if len(b) > d.MaxBytes {
		return nil, fmt.Errorf("pickle: %w: %d bytes, more than %d", ErrLimit, len(b), d.MaxBytes)
	}
	for d.err == nil {
		d.at, d.op = d.pos, opStop
		if d.pos == len(b) {
			d.fail(ErrSyntax, "missing")
		} else if d.op = d.byte(); d.op == opStop {
			return d.stop()
		} else {
			d.step()
		}
	}
	return nil, d.err
}

var decoders = sync.Pool{New: func() any { return new(decoder) }}

// decoder is Python's pickle machine. The first error stays; methods return
// something harmless after it.
type decoder struct {
	Options

	in    []byte
	pos   int // of the next byte
	frame int // end of the last frame that began
	at    int // where the opcode at work is
	op    byte
	proto byte

	stack  []item
	marks  []int // lengths of the stack at each MARK
	memo   []item
	room   [16]item // where both begin: most messages need no more
	made   int      // values pushed
	copied int64    // bytes made of others by makers
	err    error
}

// item is a value on the stack or in the memo. The numbers are those of the
// value as if nothing in it were shared.
type item struct {
	v      any    // as in the result, or an *open, or a maker
	depth  int32  // 0 if it is no container
	values uint32 // never 0, but in a place of the memo that has nothing
	bytes  int64
}

// open is a container or Call that opcodes may still change, until it is put
// into another one. No pickler changes it later unless it contains itself. So
// there is no cycle, and no other way to make one than to change it later.
type open struct {
	item
	placed bool
}

// maker is a function that we run, because without it the older protocols have
// no bytes and no sets. It cannot be part of the result.
type maker Global

var makers = map[maker]bool{
	{"_codecs", "encode"}:     true,
	{"builtins", "bytes"}:     true,
	{"builtins", "bytearray"}: true,
	{"builtins", "set"}:       true,
	{"builtins", "frozenset"}: true,
}

var (
	// The protocols 0 and 1 make objects with reconstructor, for want of NEWOBJ.
	reconstructor = Global{"copyreg", "_reconstructor"}
	object        = Global{"builtins", "object"}
)

func (d *decoder) fail(kind error, format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("pickle: %w: %s at byte %d: %s", kind, opName(d.op), d.at, fmt.Sprintf(format, args...))
	}
}

func (d *decoder) stop() (any, error) {
	top := d.place(d.pop(1)[0])
	switch {
	case len(d.stack) > 0 || len(d.marks) > 0:
		d.fail(ErrSyntax, "more than one value")
	case d.pos < len(d.in):
		d.fail(ErrSyntax, "%d more bytes behind the end", len(d.in)-d.pos)
	}
	if d.err != nil {
		return nil, d.err
	}
	return top.v, nil
}

// step does what one opcode says.
func (d *decoder) step() {
	switch d.op {
	case opProto:
		if d.proto = d.byte(); d.proto > 5 {
			d.fail(ErrSyntax, "protocol %d", d.proto)
		} else if d.at > 0 {
			d.fail(ErrSyntax, "not at the beginning")
		}
	case opFrame:
		n := d.uint(8)
		if d.at < d.frame {
			d.fail(ErrSyntax, "in a frame")
		} else if left := len(d.in) - d.pos; n > uint64(left) {
			d.fail(ErrSyntax, "announces %d bytes, %d are left", n, left)
		} else {
			d.frame = d.pos + int(n)
		}
	case opMark:
		d.count()
		d.marks = append(d.marks, len(d.stack))

	case opNone:
		d.push(item{})
	case opTrue, opFalse:
		d.push(item{v: d.op == opTrue})
	case opInt, opLong:
		d.intText(string(d.line()))
	case opBinInt:
		d.push(item{v: int64(int32(d.uint(4)))})
	case opBinInt1:
		d.push(item{v: int64(d.byte())})
	case opBinInt2:
		d.push(item{v: int64(d.uint(2))})
	case opLong1:
		d.long(d.uint(1))
	case opLong4:
		d.long(d.uint(4))
	case opFloat:
		s := string(d.line())
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || strings.ContainsAny(s, "_xX") { // Go's syntax is wider
			d.fail(ErrSyntax, "%.40q is no float", s)
		}
		d.push(item{v: f})
	case opBinFloat:
		d.push(item{v: math.Float64frombits(binary.BigEndian.Uint64(d.take(8)))})

	case opUnicode:
		d.text(d.unescape(d.line()))
	case opShortBinUnicode:
		d.text(d.take(d.uint(1)))
	case opBinUnicode:
		d.text(d.take(d.uint(4)))
	case opBinUnicode8:
		d.text(d.take(d.uint(8)))
	case opShortBinBytes:
		d.bytes(d.take(d.uint(1)))
	case opBinBytes:
		d.bytes(d.take(d.uint(4)))
	case opBinBytes8:
		d.bytes(d.take(d.uint(8)))
	case opByteArray8:
		b := d.take(d.uint(8))
		d.push(item{v: append(ByteArray{}, b...), bytes: int64(len(b))})

	case opEmptyTuple:
		d.push(item{v: Tuple{}, depth: 1})
	case opTuple1:
		d.tuple(d.pop(1))
	case opTuple2:
		d.tuple(d.pop(2))
	case opTuple3:
		d.tuple(d.pop(3))
	case opTuple:
		d.tuple(d.popMark())
	case opFrozenSet:
		c := item{values: 1, depth: 1}
		c.v = FrozenSet(d.join(&c, []any{}, d.popMark()))
		d.push(c)
	case opEmptyList:
		d.push(item{v: newOpen([]any{})})
	case opEmptySet:
		d.push(item{v: newOpen(Set{})})
	case opEmptyDict:
		d.push(item{v: newOpen(Dict{})})
	case opList:
		o := newOpen([]any{})
		d.extend(o, d.popMark())
		d.push(item{v: o})
	case opDict:
		o := newOpen(Dict{})
		d.extend(o, d.popMark())
		d.push(item{v: o})
	case opAppend:
		items := d.pop(1)
		d.extend(d.opened(), items)
	case opSetItem:
		items := d.pop(2)
		d.extend(d.opened(), items)
	case opAppends, opSetItems, opAddItems:
		items := d.popMark()
		d.extend(d.opened(), items)

	case opGlobal:
		module := string(d.line())
		d.global(module, string(d.line()))
	case opStackGlobal:
		names := d.pop(2)
		module, ok1 := names[0].v.(string)
		name, ok2 := names[1].v.(string)
		if !ok1 || !ok2 {
			d.fail(ErrSyntax, "names that are not text")
		}
		d.global(module, name)
	case opReduce, opNewObj:
		both := d.pop(2)
		d.call(both[0], both[1])
	case opBuild:
		state := d.pop(1)[0]
		o := d.opened()
		if c, ok := o.v.(*Call); !ok || c.HasState {
			d.fail(ErrForbidden, "state for a %T", o.v)
		} else if c.State, c.HasState = d.into(&o.item, state), true; o.placed {
			d.fail(ErrForbidden, "an object within itself, or changed later")
		}

	case opMemoize:
		d.put(uint64(len(d.memo)))
	case opPut:
		d.put(d.index())
	case opBinPut:
		d.put(d.uint(1))
	case opLongBinPut:
		d.put(d.uint(4))
	case opGet:
		d.get(d.index())
	case opBinGet:
		d.get(d.uint(1))
	case opLongBinGet:
		d.get(d.uint(4))

	default:
		d.fail(ErrForbidden, "outside the subset")
	}
}

// zeros is what the input has after an error.
var zeros [8]byte

// take returns the next n bytes of the input, or after an error up to 8 zeros.
func (d *decoder) take(n uint64) []byte {
	left := len(d.in) - d.pos
	inFrame := d.pos < d.frame
	if inFrame {
		left = d.frame - d.pos
	}
	if n > uint64(left) {
		where := "of the input"
		if inFrame {
			where = "in the frame"
		}
		d.fail(ErrSyntax, "needs %d bytes, %d %s are left", n, left, where)
	}
	if d.err != nil {
		return zeros[:min(n, uint64(len(zeros)))]
	}
	b := d.in[d.pos : d.pos+int(n)]
	d.pos += int(n)
	return b
}

func (d *decoder) byte() byte { return d.take(1)[0] }

// uint reads a little-endian number of n bytes.
func (d *decoder) uint(n uint64) (u uint64) {
	for i, b := range d.take(n) {
		u |= uint64(b) << (8 * i)
	}
	return u
}

// line reads up to a newline.
func (d *decoder) line() []byte {
	n := bytes.IndexByte(d.in[d.pos:], '\n')
	if n < 0 {
		d.fail(ErrSyntax, "no end of the line")
		return nil
	}
	line := d.take(uint64(n) + 1)
	if d.err != nil {
		return nil
	}
	return line[:n]
}

// index reads a line with an index of the memo.
func (d *decoder) index() uint64 {
	line := d.line()
	i, err := strconv.ParseUint(string(line), 10, 32)
	if err != nil {
		d.fail(ErrSyntax, "%.40q is no index", line)
	}
	return i
}

// count counts what the input has us make. It also bounds the stack.
func (d *decoder) count() {
	if d.made++; d.made > d.MaxItems {
		d.fail(ErrLimit, "more than %d values", d.MaxItems)
	}
}

func (d *decoder) push(it item) {
	it.values = max(it.values, 1)
	d.count()
	d.stack = append(d.stack, it)
}

func newOpen(v any) *open { return &open{item: item{v: v, depth: 1, values: 1}} }

// pop returns the n uppermost values, up to 3, which stay valid until the next
// push.
func (d *decoder) pop(n int) []item {
	floor := 0
	if len(d.marks) > 0 {
		floor = d.marks[len(d.marks)-1]
	}
	at := len(d.stack) - n
	if at < floor {
		d.fail(ErrSyntax, "too few values on the stack")
		return make([]item, n)
	}
	items := d.stack[at:]
	d.stack = d.stack[:at]
	return items
}

// top returns the uppermost value and leaves it there.
func (d *decoder) top() item {
	it := d.pop(1)[0]
	if d.err == nil {
		d.stack = d.stack[:len(d.stack)+1]
	}
	return it
}

// popMark returns the values above the last mark, as pop does.
func (d *decoder) popMark() []item {
	if len(d.marks) == 0 {
		d.fail(ErrSyntax, "no mark on the stack")
		return nil
	}
	at := d.marks[len(d.marks)-1]
	d.marks = d.marks[:len(d.marks)-1]
	items := d.stack[at:]
	d.stack = d.stack[:at]
	return items
}

// put gives the uppermost value a number.
func (d *decoder) put(i uint64) {
	top := d.top()
	// Picklers count, and spend more than a byte on each. So this is generous,
	// and yet no five bytes can ask for a memo of gigabytes.
	if i >= uint64(d.MaxItems) || i > uint64(d.at) {
		d.fail(ErrLimit, "memo index %d", i)
		return
	}
	for uint64(len(d.memo)) <= i {
		d.memo = append(d.memo, item{})
	}
	d.memo[i] = top
}

func (d *decoder) get(i uint64) {
	if i >= uint64(len(d.memo)) || d.memo[i].values == 0 {
		d.fail(ErrSyntax, "nothing has the memo index %d", i)
		return
	}
	d.push(d.memo[i])
}

// place returns it as what it will be in the result.
func (d *decoder) place(it item) item {
	switch v := it.v.(type) {
	case *open:
		v.placed = true
		return v.item
	case maker:
		d.fail(ErrForbidden, "%s.%s is no value", v.Module, v.Name)
	}
	return it
}

// into places it in the container c, counts it there and returns its value.
func (d *decoder) into(c *item, it item) any {
	it = d.place(it)
	c.depth = max(c.depth, it.depth+1)
	c.values += it.values
	c.bytes += it.bytes
	switch {
	case int(c.depth) > d.MaxDepth:
		d.fail(ErrLimit, "more than %d levels", d.MaxDepth)
	case c.values > uint32(d.MaxItems):
		d.fail(ErrLimit, "more than %d values, if none were shared", d.MaxItems)
	case c.bytes > int64(d.MaxBytes):
		d.fail(ErrLimit, "more than %d bytes, if none were shared", d.MaxBytes)
	}
	return it.v
}

// join appends items of the container c to list.
func (d *decoder) join(c *item, list []any, items []item) []any {
	list = slices.Grow(list, len(items))
	for _, it := range items {
		list = append(list, d.into(c, it))
		if d.err != nil {
			break
		}
	}
	return list
}

func (d *decoder) tuple(items []item) {
	c := item{values: 1, depth: 1}
	c.v = Tuple(d.join(&c, make([]any, 0, len(items)), items))
	d.push(c)
}

// opened returns what is uppermost and may be changed.
func (d *decoder) opened() *open {
	o, ok := d.top().v.(*open)
	if !ok {
		d.fail(ErrForbidden, "changes what does not change")
		return new(open)
	}
	return o
}

// extend puts items into o, if the opcode is for such containers.
func (d *decoder) extend(o *open, items []item) {
	switch c := o.v.(type) {
	case []any:
		if d.op == opAppend || d.op == opAppends || d.op == opList {
			o.v = d.join(&o.item, c, items)
			break
		}
		d.fail(ErrForbidden, "on a list")
	case Set:
		if d.op == opAddItems {
			o.v = Set(d.join(&o.item, c, items))
			break
		}
		d.fail(ErrForbidden, "on a set")
	case Dict:
		if d.op != opSetItem && d.op != opSetItems && d.op != opDict {
			d.fail(ErrForbidden, "on a dict")
		} else if len(items)%2 != 0 {
			d.fail(ErrSyntax, "a key without a value")
		} else {
			c = slices.Grow(c, len(items)/2)
			for i := 0; i < len(items); i += 2 {
				c = append(c, Pair{d.into(&o.item, items[i]), d.into(&o.item, items[i+1])})
			}
			o.v = c
		}
	default:
		d.fail(ErrForbidden, "on a %T", o.v)
	}
	if o.placed {
		d.fail(ErrForbidden, "a container within itself, or changed later")
	}
}

// intText pushes what a line says. Before protocol 2 it says bools like this, too.
func (d *decoder) intText(s string) {
	if d.op == opInt && (s == "00" || s == "01") {
		d.push(item{v: s == "01"})
		return
	}
	if d.op == opLong {
		s = strings.TrimSuffix(s, "L")
	}
	if len(s) > maxDigits+1 {
		d.fail(ErrLimit, "an int of %d digits", len(s))
		return
	}
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		d.push(item{v: i})
	} else if x, ok := new(big.Int).SetString(s, 10); ok {
		d.push(item{v: x, bytes: int64(len(s))})
	} else {
		d.fail(ErrSyntax, "%.40q is no int", s)
	}
}

// long pushes the int of the next n bytes, in two's complement.
func (d *decoder) long(n uint64) {
	if n > maxInt {
		// LONG4's length has a sign; a negative one ends here as well.
		d.fail(ErrLimit, "an int of %d bytes", n)
		return
	}
	b := slices.Clone(d.take(n))
	slices.Reverse(b)
	x := new(big.Int).SetBytes(b)
	if len(b) > 0 && b[0] >= 0x80 {
		x.Sub(x, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	if x.IsInt64() {
		d.push(item{v: x.Int64()})
	} else {
		d.push(item{v: x, bytes: int64(n)})
	}
}

func (d *decoder) bytes(b []byte) {
	d.push(item{v: append([]byte{}, b...), bytes: int64(len(b))})
}

func (d *decoder) text(b []byte) {
	s := string(b)
	if !utf8.ValidString(s) {
		for i := 0; i < len(s); {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				// Python writes a lone surrogate as UTF-8 would have it, if it had any.
				if s[i] == 0xed && i+1 < len(s) && s[i+1] >= 0xa0 && s[i+1] < 0xc0 {
					d.fail(ErrForbidden, "a lone surrogate, which UTF-8 does not have")
				}
				break
			}
			i += n
		}
		d.fail(ErrSyntax, "text that is not UTF-8")
	}
	d.push(item{v: s, bytes: int64(len(s))})
}

// unescape decodes raw-unicode-escape, protocol 0's text: Latin-1, and \u or \U
// with 4 or 8 hexadecimal digits.
func (d *decoder) unescape(line []byte) []byte {
	out := make([]byte, 0, len(line))
	for i := 0; i < len(line); i++ {
		c := line[i]
		if c != '\\' || i+1 == len(line) {
			out = utf8.AppendRune(out, rune(c))
			continue
		}
		i++
		var digits int
		switch line[i] {
		case 'u':
			digits = 4
		case 'U':
			digits = 8
		default: // any other sequence is two characters
			out = utf8.AppendRune(append(out, c), rune(line[i]))
			continue
		}
		hex := string(line[i+1 : min(i+1+digits, len(line))])
		r, err := strconv.ParseUint(hex, 16, 32)
		switch {
		case err != nil || len(hex) < digits || r > utf8.MaxRune:
			d.fail(ErrSyntax, "%q is no character", `\`+string(line[i])+hex)
		case !utf8.ValidRune(rune(r)):
			d.fail(ErrForbidden, "a lone surrogate, which UTF-8 does not have")
		}
		if d.err != nil {
			return nil
		}
		out = utf8.AppendRune(out, rune(r))
		i += digits
	}
	return out
}

// global pushes a name, if it is allowed.
func (d *decoder) global(module, name string) {
	if d.proto < 3 {
		module, name = fixImport(module, name)
	}
	g := Global{module, name}
	switch {
	case makers[maker(g)]:
		d.push(item{v: maker(g)})
	case d.err == nil && d.Globals != nil && d.Globals(module, name):
		d.push(item{v: g, bytes: int64(len(module) + len(name))})
	default:
		d.fail(ErrForbidden, "%.80q of module %.80q", name, module)
	}
}

// fixImport returns the name that Python 3 has for one of Python 2: what
// _compat_pickle.py says of the names that our subset can have.
func fixImport(module, name string) (string, string) {
	switch module {
	case "__builtin__":
		return "builtins", name
	case "exceptions":
		if name == "StandardError" {
			name = "Exception"
		}
		return "builtins", name
	case "copy_reg":
		return "copyreg", name
	case "multiprocessing":
		switch name {
		case "AuthenticationError", "BufferTooShort", "ProcessError", "TimeoutError":
			return "multiprocessing.context", name
		}
	}
	return module, name
}

// call pushes a Call, or what a maker makes.
func (d *decoder) call(fn, args item) {
	args = d.place(args)
	argv, ok := args.v.(Tuple)
	if !ok {
		d.fail(ErrSyntax, "arguments that are a %T", args.v)
	}
	if m, ok := fn.v.(maker); ok && d.op == opReduce {
		d.make(m, argv, args)
		return
	}
	c := item{values: 1, depth: 1}
	call := &Call{Func: d.into(&c, fn), Args: argv, New: d.op == opNewObj}
	d.into(&c, args)
	switch f := call.Func.(type) {
	case Global:
		if f == reconstructor {
			// Of a plain class this is object.__new__, which is what NEWOBJ does.
			class, ok := Global{}, false
			if len(argv) == 3 && argv[1] == any(object) && argv[2] == nil {
				class, ok = argv[0].(Global)
			}
			if !ok {
				d.fail(ErrForbidden, "not of a plain class")
			}
			call = &Call{Func: class, Args: Tuple{}, New: true}
		}
	case *Call:
		if call.New {
			d.fail(ErrForbidden, "of what is no class")
		}
	default:
		d.fail(ErrForbidden, "calls a %T", f)
	}
	c.v = call
	d.push(item{v: &open{item: c}})
}

// make runs one of the makers, for such arguments as picklers give them.
func (d *decoder) make(m maker, argv Tuple, args item) {
	var arg any
	if len(argv) > 0 {
		arg = argv[0]
	}
	// The argument may be shared, but what is made of it is not.
	if d.copied += args.bytes; d.copied > int64(d.MaxBytes) {
		d.fail(ErrLimit, "more than %d bytes are copied", d.MaxBytes)
		return
	}
	text, isText := arg.(string)
	raw, isBytes := arg.([]byte)
	list, isList := arg.([]any)
	switch {
	case m.Name == "encode" && isText && len(argv) == 2 && argv[1] == any("latin1"):
		b := make([]byte, 0, len(text))
		for _, r := range text {
			if r > 0xff {
				d.fail(ErrSyntax, "%q is not in Latin-1", r)
				return
			}
			b = append(b, byte(r))
		}
		d.push(item{v: b, bytes: int64(len(b))})
	case m.Name == "bytes" && len(argv) == 0:
		d.push(item{v: []byte{}})
	case m.Name == "bytearray" && (len(argv) == 0 || isBytes && len(argv) == 1):
		d.push(item{v: append(ByteArray{}, raw...), bytes: int64(len(raw))})
	case m.Name == "set" && isList && len(argv) == 1:
		// Not a copy: what is placed does not change any more.
		d.push(item{v: Set(list), depth: args.depth - 1, values: args.values - 1, bytes: args.bytes})
	case m.Name == "frozenset" && isList && len(argv) == 1:
		d.push(item{v: FrozenSet(list), depth: args.depth - 1, values: args.values - 1, bytes: args.bytes})
	default:
		d.fail(ErrForbidden, "%s with such arguments", m.Name)
	}
}
