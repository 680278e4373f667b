package npy

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/sharedmem/shm/internal/layout"
)

// Value reads the element at the beginning of p, which has at least d.Size
// bytes: of any type, in either byte order, aligned or not. It is
//
//	bool, int64, uint64     of b, i, u
//	float64, complex128     of f and c, whatever their size, and of bfloat16
//	string, []byte          of U and S, without the zeros at their end, and of V
//	Time                    of M and m
//	[]any                   of a structure's fields, and of a sub-array's first axis; none if it has no bytes
func (d *DType) Value(p []byte) any {
	switch {
	case d.Elem != nil:
		return subValues(d.Elem, d.Shape, p[:d.Size])
	case d.IsStruct():
		v := make([]any, len(d.Fields))
		for i := range d.Fields {
			f := &d.Fields[i]
			v[i] = f.Type.Value(p[f.Offset:])
		}
		return v
	case d.Name == "bfloat16":
		return d.Float()(p)
	}
	switch d.Kind {
	case 'b':
		return p[0] != 0
	case 'i':
		return d.Int()(p)
	case 'u':
		return d.bits()(p)
	case 'f':
		return d.Float()(p)
	case 'c':
		half := d.Part()
		f := half.Float()
		return complex(f(p), f(p[half.Size:]))
	case 'M', 'm':
		return Time{int64(d.bits()(p)), d.Unit, d.Kind == 'm'}
	case 'U':
		return d.text(p)
	case 'S':
		n := d.Size
		for n > 0 && p[n-1] == 0 {
			n--
		}
		return slices.Clone(p[:n])
	}
	return slices.Clone(p[:d.Size])
}

func subValues(elem *DType, shape []int, p []byte) any {
	if len(shape) == 0 {
		return elem.Value(p)
	}
	if len(p) == 0 {
		return []any{} // of elements without bytes a header may promise any number
	}
	v := make([]any, shape[0])
	for i := range v {
		n := len(p) / shape[0]
		v[i] = subValues(elem, shape[1:], p[i*n:(i+1)*n])
	}
	return v
}

func (d *DType) text(p []byte) string {
	runes := make([]rune, d.Size/4)
	for i := range runes {
		if u := p[4*i:]; d.Big {
			runes[i] = rune(binary.BigEndian.Uint32(u))
		} else {
			runes[i] = rune(binary.LittleEndian.Uint32(u))
		}
	}
	for len(runes) > 0 && runes[len(runes)-1] == 0 {
		runes = runes[:len(runes)-1]
	}
	return string(runes) // what is no character becomes U+FFFD
}

// Part is the type of a complex number's real and imaginary part.
func (d *DType) Part() *DType { return &DType{Kind: 'f', Size: d.Size / 2, Big: d.Big} }

// bits returns how to read the bits of a number of up to 8 bytes.
func (d *DType) bits() func(p []byte) uint64 {
	switch {
	case d.Size == 1:
		return func(p []byte) uint64 { return uint64(p[0]) }
	case d.Size == 2 && d.Big:
		return func(p []byte) uint64 { return uint64(binary.BigEndian.Uint16(p)) }
	case d.Size == 2:
		return func(p []byte) uint64 { return uint64(binary.LittleEndian.Uint16(p)) }
	case d.Size == 4 && d.Big:
		return func(p []byte) uint64 { return uint64(binary.BigEndian.Uint32(p)) }
	case d.Size == 4:
		return func(p []byte) uint64 { return uint64(binary.LittleEndian.Uint32(p)) }
	case d.Size == 8 && d.Big:
		return binary.BigEndian.Uint64
	case d.Size == 8:
		return binary.LittleEndian.Uint64
	}
	return nil
}

// Int returns how to read an i, M or m, nil for other types.
func (d *DType) Int() func(p []byte) int64 {
	if d.Kind != 'i' && d.Kind != 'M' && d.Kind != 'm' {
		return nil
	}
	read, drop := d.bits(), 64-8*d.Size
	return func(p []byte) int64 { return int64(read(p)<<drop) >> drop }
}

// Uint returns how to read a u, nil for other types.
func (d *DType) Uint() func(p []byte) uint64 {
	if d.Kind != 'u' {
		return nil
	}
	return d.bits()
}

// Float returns how to read whatever is a number as the nearest float64: b, i,
// u, f, bfloat16, and M and m, whose NaT is NaN. It is nil for other types.
func (d *DType) Float() func(p []byte) float64 {
	read := d.bits()
	switch d.Kind {
	case 'b':
		return func(p []byte) float64 {
			if p[0] != 0 {
				return 1
			}
			return 0
		}
	case 'u':
		return func(p []byte) float64 { return float64(read(p)) }
	case 'i':
		read := d.Int()
		return func(p []byte) float64 { return float64(read(p)) }
	case 'M', 'm':
		return func(p []byte) float64 {
			if n := int64(read(p)); n != NaT {
				return float64(n)
			}
			return math.NaN()
		}
	case 'f':
		switch {
		case d.Size == 8 && !d.Big: // what most arrays are, in one call and not two
			return func(p []byte) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(p)) }
		case d.Size == 4 && !d.Big:
			return func(p []byte) float64 { return float64(math.Float32frombits(binary.LittleEndian.Uint32(p))) }
		case d.Size == 8:
			return func(p []byte) float64 { return math.Float64frombits(read(p)) }
		case d.Size == 4:
			return func(p []byte) float64 { return float64(math.Float32frombits(uint32(read(p)))) }
		case d.Size == 2:
			return func(p []byte) float64 { return half(uint16(read(p))) }
		}
		// A long double is what the C compiler made it: x87's on Intel's machines,
		// and IEEE's quadruple precision on the others. A header does not say.
		if d.Size == 12 || !d.Big && (runtime.GOARCH == "amd64" || runtime.GOARCH == "386") {
			return func(p []byte) float64 { return extended(d.little(p)) }
		}
		return func(p []byte) float64 { return quadruple(d.little(p)) }
	case 'V':
		if d.Name == "bfloat16" {
			return func(p []byte) float64 { return float64(math.Float32frombits(uint32(read(p)) << 16)) }
		}
	}
	return nil
}

// little returns an element's bytes with the lowest first.
func (d *DType) little(p []byte) []byte {
	p = p[:d.Size]
	if d.Big {
		p = slices.Clone(p)
		slices.Reverse(p)
	}
	return p
}

// half reads IEEE's half precision.
func half(h uint16) float64 {
	exp, frac := int(h>>10)&0x1f, float64(h&0x3ff)
	f := math.Ldexp(frac, -24)
	switch {
	case exp == 0x1f && frac != 0:
		return math.NaN()
	case exp == 0x1f:
		f = math.Inf(1)
	case exp > 0:
		f = math.Ldexp(1024+frac, exp-25)
	}
	if h>>15 != 0 {
		return -f
	}
	return f
}

// extended reads x87's 80 bits.
func extended(p []byte) float64 {
	m, se := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint16(p[8:])
	return longDouble(se, m, m<<1 != 0)
}

// quadruple reads IEEE's 128 bits. The lowest are left away but for whether there
// is one, which rounding wants to know.
func quadruple(p []byte) float64 {
	lo, hi := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])
	m := hi<<16>>1 | lo>>49
	if lo<<15 != 0 {
		m |= 1
	}
	se := uint16(hi >> 48)
	if se<<1 != 0 {
		m |= 1 << 63
	}
	return longDouble(se, m, hi<<16 != 0 || lo != 0)
}

// longDouble is m×2^(e-63) with the sign and exponent in se; fraction says for
// the largest exponent that it is NaN.
func longDouble(se uint16, m uint64, fraction bool) float64 {
	f := math.Ldexp(float64(m), int(se&0x7fff)-16383-63)
	if se&0x7fff == 0x7fff {
		if f = math.Inf(1); fraction {
			f = math.NaN()
		}
	}
	if se>>15 != 0 {
		return -f
	}
	return f
}

// NaT is the number of a Time that is none.
const NaT = math.MinInt64

// Time is a datetime64 or timedelta64: a number of units, for a moment since 1970.
type Time struct {
	N    int64
	Unit string
	Span bool // a timedelta64
}

// split divides the unit into how often and what: "25s".
func (t Time) split() (times int64, unit string) {
	unit = strings.TrimLeft(t.Unit, "0123456789")
	times, err := strconv.ParseInt(t.Unit[:len(t.Unit)-len(unit)], 10, 64)
	if err != nil || times == 0 {
		times = 1
	}
	return times, unit
}

// decimals is how many digits behind a second's point a unit has.
var decimals = map[string]int{"s": 0, "ms": 3, "us": 6, "ns": 9, "ps": 12, "fs": 15, "as": 18}

// String writes a moment as NumPy does, ISO 8601 as far as the unit goes, and
// a span as the number and its unit.
func (t Time) String() string {
	times, unit := t.split()
	hi, n := bits.Mul64(uint64(max(t.N, -t.N)), uint64(times))
	switch {
	case t.N == NaT:
		return "NaT"
	case t.Span || unit == "" || unit == "generic" || hi != 0 || n > math.MaxInt64:
		return strings.TrimSpace(strconv.FormatInt(t.N, 10) + " " + t.Unit)
	}
	count := int64(n)
	if t.N < 0 {
		count = -count
	}
	switch unit {
	case "Y":
		return fmt.Sprintf("%04d", 1970+count)
	case "M":
		y, m := floorDiv(count, 12)
		return fmt.Sprintf("%04d-%02d", 1970+y, m+1)
	case "W":
		return date(7 * count)
	case "D":
		return date(count)
	case "h":
		d, h := floorDiv(count, 24)
		return fmt.Sprintf("%sT%02d", date(d), h)
	case "m":
		d, m := floorDiv(count, 24*60)
		return fmt.Sprintf("%sT%02d:%02d", date(d), m/60, m%60)
	}
	digits := decimals[unit]
	perSecond := int64(1)
	for range digits {
		perSecond *= 10
	}
	s, frac := floorDiv(count, perSecond)
	d, s := floorDiv(s, 24*60*60)
	text := fmt.Sprintf("%sT%02d:%02d:%02d", date(d), s/3600, s/60%60, s%60)
	if digits > 0 {
		text += fmt.Sprintf(".%0*d", digits, frac)
	}
	return text
}

func floorDiv(n, by int64) (q, rest int64) {
	q, rest = n/by, n%by
	if rest < 0 {
		q, rest = q-1, rest+by
	}
	return q, rest
}

// date writes the day so many days after 1970-01-01. It is no time.Time, which
// does not reach as far as NumPy's years.
func date(days int64) string {
	// Years are counted from the first of March of the year 0, so that the day of
	// a leap year is the last; 400 years have 146097 days.
	era, day := floorDiv(days+719468, 146097)
	year := (day - day/1460 + day/36524 - day/146096) / 365
	day -= 365*year + year/4 - year/100
	month := (5*day + 2) / 153
	day -= (153*month + 2) / 5
	year += 400 * era
	if month += 3; month > 12 {
		month, year = month-12, year+1
	}
	return fmt.Sprintf("%04d-%02d-%02d", year, month, day+1)
}

// names are what people call types; the short ones ParseType knows.
var names = map[string]string{"bool": "?", "int8": "i1", "int16": "i2", "int32": "i4", "int64": "i8", "uint8": "u1", "uint16": "u2",
	"uint32": "u4", "uint64": "u8", "float16": "f2", "float32": "f4", "float64": "f8", "complex64": "c8", "complex128": "c16"}

// ParseSpelling understands all that String writes, and what people write:
// "<f4", "float32", "[('x', '<i4'), ('y', '<f8', (3,))]", "{'names': …}".
func ParseSpelling(s string) (*DType, error) {
	s = strings.TrimSpace(s)
	if s == "bfloat16" {
		return &DType{Kind: 'V', Size: 2, Big: BigEndian, Name: s}, nil
	}
	if short, ok := names[s]; ok {
		s = short
	}
	var d DType
	var err error
	if s == "" || strings.IndexByte("[({'\"", s[0]) < 0 {
		d, err = ParseType(s)
	} else {
		var v any
		if v, err = parseLiteral(s); err == nil {
			v, err = undict(v)
		}
		if err == nil {
			d, err = parseDType(v)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s is no NumPy type: %w", layout.PyRepr(clip(s)), err)
	}
	if d.IsStruct() && len(d.Fields) == 0 {
		return nil, fmt.Errorf("%s is no NumPy type: %w: no fields", layout.PyRepr(clip(s)), ErrDType)
	}
	return &d, nil
}

// undict turns the long form of structures, which has names, formats, offsets
// and itemsize, into the form of headers, where holes are fields without a name.
func undict(v any) (any, error) {
	var err error
	switch v := v.(type) {
	case list:
		out := make(list, len(v))
		for i := range v {
			if out[i], err = undict(v[i]); err != nil {
				return nil, err
			}
		}
		return out, nil
	case tuple:
		out := make(tuple, len(v))
		for i := range v {
			if out[i], err = undict(v[i]); err != nil {
				return nil, err
			}
		}
		return out, nil
	case dict:
		return fieldsOf(v)
	}
	return v, nil
}

func fieldsOf(d dict) (any, error) {
	var names, formats, offsets list
	size, ok := -1, true
	for _, e := range d {
		is := true
		switch e.key {
		case "names":
			names, is = e.value.(list)
		case "formats":
			formats, is = e.value.(list)
		case "offsets":
			offsets, is = e.value.(list)
		case "itemsize":
			size, is = e.value.(int)
		case "aligned", "titles":
		default:
			is = false
		}
		ok = ok && is
	}
	if !ok || len(names) == 0 || len(names) != len(formats) || len(offsets) != len(names) {
		return nil, fmt.Errorf("%w: it wants the lists names, formats and offsets, of one length, and perhaps itemsize", ErrDType)
	}
	type field struct {
		at, size int
		t        tuple
	}
	fields := make([]field, len(names))
	for i := range names {
		format, err := undict(formats[i])
		if err != nil {
			return nil, err
		}
		t, err := parseDType(format)
		if err != nil {
			return nil, err
		}
		at, ok := offsets[i].(int)
		if !ok || at < 0 || at > math.MaxInt32 {
			return nil, fmt.Errorf("%w: a bad offset of field %d", ErrDType, i)
		}
		fields[i] = field{at, t.Size, tuple{names[i], format}}
	}
	slices.SortStableFunc(fields, func(a, b field) int { return a.at - b.at })
	var out list
	end := 0
	pad := func(to int) error {
		if to < end {
			return fmt.Errorf("%w: fields that share bytes", ErrDType)
		}
		if to > end {
			out = append(out, tuple{"", fmt.Sprintf("|V%d", to-end)})
		}
		return nil
	}
	for _, f := range fields {
		if err := pad(f.at); err != nil {
			return nil, err
		}
		out, end = append(out, f.t), f.at+f.size
	}
	if size >= 0 {
		if err := pad(size); err != nil {
			return nil, fmt.Errorf("%w: an itemsize of %d for fields of %d bytes", ErrDType, size, end)
		}
	}
	return out, nil
}
