package npy

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/sharedmem/shm/internal/layout"
)

// ErrDType says that a NumPy type is not known here, or not the one expected.
var ErrDType = errors.New("bad dtype")

// DType is a NumPy dtype: what one element of an array is.
type DType struct {
	Kind byte // NumPy's letter: b i u f c S U V M m; 'V' with Fields is a structure
	Size int  // bytes of an element, padding included
	Big  bool // big-endian

	Unit string // of M and m: "ns", "25s"; "" is none
	Name string // "bfloat16" for a V that is more than bytes, from a Go type only

	Fields []Field // of a structure, in the order of their offsets

	Elem  *DType // of a sub-array; Kind is then 0
	Shape []int  // of a sub-array
}

// Field is a member of a structure.
type Field struct {
	Name   string
	Title  string // NumPy's second name of a field
	Offset int
	Type   DType
}

// IsStruct reports whether d is a structure, which may have no fields.
func (d *DType) IsStruct() bool { return d.Kind == 'V' && d.Fields != nil }

// Pad is how many of a structure's bytes belong to no field.
func (d *DType) Pad() int {
	n := d.Size
	for _, f := range d.Fields {
		n -= f.Type.Size
	}
	return n
}

// parseDType understands the descr of a header: a string, or a list of
// tuples, one for each field.
func parseDType(v any) (DType, error) {
	switch v := v.(type) {
	case string:
		return ParseType(v)
	case list:
		return parseFields(v)
	case tuple:
		// A sub-array, as (type, shape).
		if len(v) != 2 {
			break
		}
		d, err := parseDType(v[0])
		if err != nil {
			return DType{}, err
		}
		return subArray(d, v[1])
	}
	return DType{}, fmt.Errorf("%w: neither a string nor a list of fields", ErrDType)
}

// ParseType understands a type's short name, as in dtype.str: "<f8", "|S5",
// "<M8[ns]".
func ParseType(s string) (DType, error) {
	bad := func(why string) (DType, error) {
		return DType{}, fmt.Errorf("%w %s: %s", ErrDType, layout.PyRepr(clip(s)), why)
	}
	text, order := s, byte('=')
	if text != "" && strings.IndexByte("<>|=", text[0]) >= 0 {
		order, text = text[0], text[1:]
	}
	if text == "?" {
		text = "b1"
	}
	if text == "" {
		return bad("empty")
	}
	d := DType{Kind: text[0], Big: order == '>' || order != '<' && BigEndian}
	digits, unit, _ := strings.Cut(text[1:], "[")
	n := 0
	if digits != "" {
		var err error
		// Atoi takes signs, which NumPy does not write.
		if n, err = strconv.Atoi(digits); err != nil || digits[0] < '0' || digits[0] > '9' || n > math.MaxInt32 {
			return bad("no size")
		}
	}
	d.Size = n
	ok := false
	switch d.Kind {
	case 'b':
		ok = n == 1
	case 'i', 'u':
		ok = n == 1 || n == 2 || n == 4 || n == 8
	case 'f':
		ok = n == 2 || n == 4 || n == 8 || n == 12 || n == 16
	case 'c':
		ok = n == 8 || n == 16 || n == 24 || n == 32
	case 'S', 'a', 'V':
		if d.Kind == 'a' {
			d.Kind = 'S'
		}
		ok, d.Big = true, false
	case 'U':
		if ok = n <= math.MaxInt32/4; ok {
			d.Size = 4 * n
		}
	case 'M', 'm':
		if ok = n == 8; ok && unit != "" {
			u, found := strings.CutSuffix(unit, "]")
			if ok = found && isUnit(u); ok {
				d.Unit = u
			}
			unit = ""
		}
	case 'O':
		return bad("Python objects are pointers of their process; only numbers, bytes, text, times and structures of them can be shared")
	}
	if !ok || unit != "" {
		return bad("unknown")
	}
	if d.Size == 1 {
		d.Big = false
	}
	return d, nil
}

// isUnit recognises NumPy's units of time: "ns", "25s", "s/100" is not one that
// a dtype keeps.
func isUnit(u string) bool {
	u = strings.TrimLeft(u, "0123456789")
	return slices.Contains([]string{"Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns", "ps", "fs", "as", "generic"}, u)
}

// parseFields understands [(name, type), (name, type, shape), …], where a name
// may be (title, name), and ” with bytes is padding.
func parseFields(fields list) (DType, error) {
	d := DType{Kind: 'V', Fields: []Field{}}
	seen := map[string]bool{}
	for i, v := range fields {
		bad := func(err error) (DType, error) { return DType{}, fmt.Errorf("field %d: %w", i, err) }
		t, ok := v.(tuple)
		if !ok || len(t) < 2 || len(t) > 3 {
			return bad(fmt.Errorf("%w: no tuple of name, type and perhaps shape", ErrDType))
		}
		f := Field{Offset: d.Size}
		switch name := t[0].(type) {
		case string:
			f.Name = name
		case tuple:
			if len(name) != 2 {
				return bad(fmt.Errorf("%w: a name of %d parts", ErrDType, len(name)))
			}
			var ok1, ok2 bool
			f.Title, ok1 = name[0].(string)
			f.Name, ok2 = name[1].(string)
			if !ok1 || !ok2 {
				return bad(fmt.Errorf("%w: its name is no string", ErrDType))
			}
		default:
			return bad(fmt.Errorf("%w: its name is no string", ErrDType))
		}
		var err error
		if f.Type, err = parseDType(t[1]); err != nil {
			return bad(fmt.Errorf("%s: %w", layout.PyRepr(clip(f.Name)), err))
		}
		if len(t) == 3 {
			if f.Type, err = subArray(f.Type, t[2]); err != nil {
				return bad(fmt.Errorf("%s: %w", layout.PyRepr(clip(f.Name)), err))
			}
		}
		if f.Type.Size > math.MaxInt32-d.Size { // as an int may have 32 bits
			return bad(fmt.Errorf("%w: an element of more than 2 GiB", ErrDType))
		}
		d.Size += f.Type.Size
		if f.Name == "" && f.Type.Kind == 'V' && !f.Type.IsStruct() {
			continue
		}
		if seen[f.Name] {
			return bad(fmt.Errorf("%w: a second field %s", ErrDType, layout.PyRepr(clip(f.Name))))
		}
		seen[f.Name] = true
		d.Fields = append(d.Fields, f)
	}
	return d, nil
}

func subArray(d DType, shape any) (DType, error) {
	var dims tuple
	switch v := shape.(type) {
	case tuple:
		dims = v
	case int:
		dims = tuple{v}
	default:
		return DType{}, fmt.Errorf("%w: a shape that is no tuple", ErrDType)
	}
	if len(dims) == 0 {
		return d, nil
	}
	if len(dims) > MaxDims {
		return DType{}, fmt.Errorf("%w: a sub-array of %d dimensions", ErrDType, len(dims))
	}
	sub := DType{Elem: &d, Size: d.Size}
	for _, v := range dims {
		n, ok := v.(int)
		if !ok || n < 0 || n > math.MaxInt32 || n > 0 && sub.Size > math.MaxInt32/n {
			return DType{}, fmt.Errorf("%w: a sub-array of bad shape", ErrDType)
		}
		sub.Size *= n
		sub.Shape = append(sub.Shape, n)
	}
	if d.Elem != nil { // arrays of arrays are to NumPy arrays of more dimensions
		sub.Elem, sub.Shape = d.Elem, append(sub.Shape, d.Shape...)
		if len(sub.Shape) > MaxDims {
			return DType{}, fmt.Errorf("%w: a sub-array of %d dimensions", ErrDType, len(sub.Shape))
		}
	}
	return sub, nil
}

// clip keeps messages short, whatever a header says.
func clip(s string) string {
	if len(s) > 40 {
		return strings.ToValidUTF8(s[:40], "") + "…"
	}
	return s
}

// String is d as NumPy spells it, and takes it as np.dtype(…), quotes aside:
// dtype.str for a plain type, and str(dtype) for a structure.
func (d *DType) String() string {
	if d.Kind != 0 && !d.IsStruct() {
		return d.short(true)
	}
	return d.spell()
}

// short is dtype.str. full writes the | that says that byte order is nothing
// to these; inside structures NumPy leaves it away.
func (d *DType) short(full bool) string {
	if d.Name != "" && full {
		return d.Name
	}
	if d.Kind == 'b' && !full {
		return "?"
	}
	var out []byte
	switch {
	case d.Kind == 'S' || d.Kind == 'V' || d.Size == 1:
		if full {
			out = append(out, '|')
		}
	case d.Big:
		out = append(out, '>')
	default:
		out = append(out, '<')
	}
	n := d.Size
	if d.Kind == 'U' {
		n /= 4
	}
	out = strconv.AppendInt(append(out, d.Kind), int64(n), 10)
	if d.Unit != "" {
		out = append(append(append(out, '['), d.Unit...), ']')
	}
	return string(out)
}

// spell is str(dtype) without the quotes around a plain type's.
func (d *DType) spell() string {
	var out strings.Builder
	switch {
	case d.Elem != nil:
		fmt.Fprintf(&out, "(%s, %s)", d.Elem.quoted(), PyShape(d.Shape))
	case d.Pad() == 0:
		out.WriteByte('[')
		for i, f := range d.Fields {
			if i > 0 {
				out.WriteString(", ")
			}
			t := &f.Type
			fmt.Fprintf(&out, "(%s, ", f.pyName())
			if t.Elem != nil {
				fmt.Fprintf(&out, "%s, %s)", t.Elem.quoted(), PyShape(t.Shape))
			} else {
				fmt.Fprintf(&out, "%s)", t.quoted())
			}
		}
		out.WriteByte(']')
	default:
		// With holes only the long form says where the fields lie.
		var names, formats, offsets, titles []string
		titled := ""
		for _, f := range d.Fields {
			if titles = append(titles, "None"); f.Title != "" {
				titles[len(titles)-1] = layout.PyRepr(f.Title)
				titled = ", 'titles': [%s]"
			}
			names = append(names, layout.PyRepr(f.Name))
			formats = append(formats, f.Type.quoted())
			offsets = append(offsets, strconv.Itoa(f.Offset))
		}
		if titled != "" {
			titled = fmt.Sprintf(titled, strings.Join(titles, ", "))
		}
		fmt.Fprintf(&out, "{'names': [%s], 'formats': [%s], 'offsets': [%s]%s, 'itemsize': %d}",
			strings.Join(names, ", "), strings.Join(formats, ", "), strings.Join(offsets, ", "), titled, d.Size)
	}
	return out.String()
}

func (d *DType) quoted() string {
	if d.Kind == 0 || d.IsStruct() {
		return d.spell()
	}
	return layout.PyRepr(d.short(false))
}

func (f *Field) pyName() string {
	if f.Title != "" {
		return "(" + layout.PyRepr(f.Title) + ", " + layout.PyRepr(f.Name) + ")"
	}
	return layout.PyRepr(f.Name)
}

// descr is d as it stands in a header, where padding is a field without a name.
func (d *DType) descr() string {
	switch {
	case d.Elem != nil:
		return "(" + d.Elem.descr() + ", " + PyShape(d.Shape) + ")"
	case !d.IsStruct():
		if d.Name != "" {
			// NumPy does not know the names of its guests' types; they store
			// this, and it loads as bytes.
			return fmt.Sprintf("'<V%d'", d.Size)
		}
		return layout.PyRepr(d.short(true))
	}
	var parts []string
	end := 0
	pad := func(n int) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("('', '|V%d')", n))
		}
	}
	for _, f := range d.Fields {
		pad(f.Offset - end)
		end = f.Offset + f.Type.Size
		if t := f.Type; t.Elem != nil {
			parts = append(parts, fmt.Sprintf("(%s, %s, %s)", f.pyName(), t.Elem.descr(), PyShape(t.Shape)))
		} else {
			parts = append(parts, fmt.Sprintf("(%s, %s)", f.pyName(), t.descr()))
		}
	}
	pad(d.Size - end)
	return "[" + strings.Join(parts, ", ") + "]"
}

// PyShape writes a shape as Python writes a tuple.
func PyShape(shape []int) string {
	out := []byte{'('}
	for i, n := range shape {
		if i > 0 {
			out = append(out, ", "...)
		}
		out = strconv.AppendInt(out, int64(n), 10)
	}
	if len(shape) == 1 {
		out = append(out, ',')
	}
	return string(append(out, ')'))
}
