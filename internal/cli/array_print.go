package cli

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/npy"
)

// What NumPy prints unless told otherwise.
const (
	printThreshold = 1000 // arrays of more elements are shortened
	printEdge      = 3    // to so many at both ends of each axis
	printPrecision = 8
	printWidth     = 75
)

// A grid is the elements of an array that are printed: all, or those at the ends
// of each axis. values are in C order.
type grid struct {
	shape  []int // of the whole array
	kept   []int // how many along each axis are in values
	dtype  *npy.DType
	values []any
}

// text lays the elements out as print does in NumPy 2.3 and later.
func (g *grid) text() string {
	if len(g.shape) == 0 {
		return scalarText(g.dtype, g.values[0])
	}
	if slices.Contains(g.shape, 0) {
		return "[]"
	}
	return g.lines(formatter(g.dtype, g.values), 0, g.values, " ", printWidth)
}

// lines is NumPy's _formatArray: indent stands before each line, and width is what
// there is up to the brackets that will be closed.
func (g *grid) lines(format func(any) string, axis int, values []any, indent string, width int) string {
	n := g.kept[axis]
	each := len(values) / n
	short := n < g.shape[axis]
	var out strings.Builder
	if axis < len(g.shape)-1 {
		for i := range n {
			if i > 0 {
				out.WriteString(strings.Repeat("\n", len(g.shape)-1-axis))
			}
			if short && i == n/2 {
				out.WriteString(indent + "..." + strings.Repeat("\n", len(g.shape)-1-axis))
			}
			out.WriteString(indent + g.lines(format, axis+1, values[i*each:(i+1)*each], indent+" ", width-1))
		}
		return "[" + out.String()[len(indent):] + "]"
	}
	line := indent
	add := func(word string) {
		// Words of several lines are only made by text with line breaks in it,
		// and repr writes those as \n.
		if utf8.RuneCountInString(line)+utf8.RuneCountInString(word) > width-1 && len(line) > len(indent) {
			out.WriteString(strings.TrimRight(line, " ") + "\n")
			line = indent
		}
		line += word
	}
	for i, v := range values {
		if short && i == n/2 {
			add("...")
			line += " "
		}
		add(format(v))
		if i < n-1 {
			line += " "
		}
	}
	return "[" + (out.String() + line)[len(indent):] + "]"
}

// formatter returns what writes each of these values, all in one width.
func formatter(d *npy.DType, values []any) func(any) string {
	switch {
	case d.Elem != nil:
		var flat []any
		var flatten func(v any, depth int)
		flatten = func(v any, depth int) {
			if depth == 0 {
				flat = append(flat, v)
				return
			}
			for _, e := range v.([]any) {
				flatten(e, depth-1)
			}
		}
		for _, v := range values {
			flatten(v, len(d.Shape))
		}
		return subFormatter(d, formatter(d.Elem, flat))
	case d.IsStruct():
		return structFormatter(d, func(i int) func(any) string {
			column := make([]any, len(values))
			for k, v := range values {
				column[k] = v.([]any)[i]
			}
			return formatter(&d.Fields[i].Type, column)
		})
	}
	switch d.Kind {
	case 'b':
		return func(v any) string {
			if v.(bool) {
				return " True"
			}
			return "False"
		}
	case 'f':
		return floatFormatter(d, values, func(v any) float64 { return v.(float64) }, false)
	case 'c':
		part := d.Part()
		re := floatFormatter(part, values, func(v any) float64 { return real(v.(complex128)) }, false)
		im := floatFormatter(part, values, func(v any) float64 { return imag(v.(complex128)) }, true)
		return func(v any) string {
			text := im(v)
			end := len(strings.TrimRight(text, " "))
			return re(v) + text[:end] + "j" + text[end:]
		}
	case 'S', 'U':
		return layout.PyReprItem
	}
	width := 0
	for _, v := range values {
		width = max(width, len(valueText(d, v)))
	}
	return func(v any) string { return padLeft(valueText(d, v), width) }
}

// valueText writes what has only one form, in an array.
func valueText(d *npy.DType, v any) string {
	switch v := v.(type) {
	case int64:
		return strconv.FormatInt(v, 10)
	case uint64:
		return strconv.FormatUint(v, 10)
	case float64: // bfloat16
		return shortFloat(d, v)
	case npy.Time:
		if v.Span && v.N != npy.NaT {
			return strconv.FormatInt(v.N, 10)
		}
		return "'" + v.String() + "'"
	case []byte:
		// As NumPy has bytes that are no text, every one as its number.
		out := []byte("b'")
		for _, b := range v {
			out = append(out, '\\', 'x', "0123456789abcdef"[b>>4], "0123456789abcdef"[b&15])
		}
		return string(append(out, '\''))
	}
	return ""
}

func subFormatter(d *npy.DType, format func(any) string) func(any) string {
	n := 1
	for _, k := range d.Shape {
		n *= k
	}
	var list func(v any, depth int) string
	list = func(v any, depth int) string {
		if depth == len(d.Shape) {
			return format(v)
		}
		items := v.([]any)
		var parts []string
		for i, e := range items {
			if n > printThreshold && len(items) > 2*printEdge && i >= printEdge && i < len(items)-printEdge {
				if i == printEdge {
					parts = append(parts, "...")
				}
				continue
			}
			parts = append(parts, list(e, depth+1))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return func(v any) string { return list(v, 0) }
}

func structFormatter(d *npy.DType, field func(i int) func(any) string) func(any) string {
	formats := make([]func(any) string, len(d.Fields))
	for i := range formats {
		formats[i] = field(i)
	}
	return func(v any) string {
		var parts []string
		for i, e := range v.([]any) {
			parts = append(parts, formats[i](e))
		}
		text := strings.Join(parts, ", ")
		if len(parts) == 1 {
			text += ","
		}
		return "(" + text + ")"
	}
}

// scalarText writes the one element of an array without axes, as str does.
func scalarText(d *npy.DType, v any) string {
	if d.IsStruct() {
		return structFormatter(d, func(i int) func(any) string {
			t := &d.Fields[i].Type
			inner := t
			if t.Elem != nil {
				inner = t.Elem
			}
			if inner.Kind == 'f' || inner.IsStruct() {
				format := func(v any) string { return scalarText(inner, v) }
				if t.Elem != nil {
					return subFormatter(t, format)
				}
				return format
			}
			format := formatter(t, []any{v.([]any)[i]})
			return func(v any) string { return strings.TrimLeft(format(v), " ") }
		})(v)
	}
	switch v := v.(type) {
	case bool:
		if v {
			return "True"
		}
		return "False"
	case string:
		return v
	case float64:
		return shortFloat(d, v)
	case complex128:
		part := d.Part()
		im := strings.TrimSuffix(shortFloat(part, imag(v)), ".0") + "j"
		if real(v) == 0 && !math.Signbit(real(v)) {
			return im
		}
		if im[0] != '-' {
			im = "+" + im
		}
		return "(" + strings.TrimSuffix(shortFloat(part, real(v)), ".0") + im + ")"
	case npy.Time:
		return v.String()
	case []byte:
		if d.Kind == 'S' {
			return layout.PyReprItem(v)
		}
	}
	return valueText(d, v)
}

// shortFloat writes one number as Python does: with as few digits as tell it from
// all others of its type.
func shortFloat(d *npy.DType, f float64) string {
	if text, ok := notFinite(f); ok {
		return text
	}
	digits := shortest(d, f)
	abs, most := math.Abs(f), 1e16
	switch d.Size {
	case 2:
		most = 1e3
	case 4:
		most = 1e6
	}
	if abs != 0 && (abs < 1e-4 || abs >= most) {
		return strings.Replace(digits, ".e", "e", 1)
	}
	text := positional(digits)
	if strings.HasSuffix(text, ".") {
		text += "0"
	}
	return text
}

func notFinite(f float64) (string, bool) {
	switch {
	case math.IsNaN(f):
		return "nan", true
	case math.IsInf(f, 1):
		return "inf", true
	case math.IsInf(f, -1):
		return "-inf", true
	}
	return "", false
}

// shortest writes a number with as few digits as tell it from its neighbours, as
// "d.ddde±xx" always with a point.
func shortest(d *npy.DType, f float64) string {
	var text string
	switch d.Size {
	case 4:
		text = strconv.FormatFloat(f, 'e', -1, 32)
	case 2:
		// strconv knows no numbers of 16 bits: the first number of digits does
		// that leads back.
		back := func(x float64) float64 { return float64(array.Float16Of(float32(x)).Float32()) }
		if d.Name != "" {
			back = func(x float64) float64 { return float64(array.BFloat16Of(float32(x)).Float32()) }
		}
		for n := 0; ; n++ {
			text = strconv.FormatFloat(f, 'e', n, 64)
			if x, err := strconv.ParseFloat(text, 64); err == nil && back(x) == f || n == 17 {
				break
			}
		}
	default:
		text = strconv.FormatFloat(f, 'e', -1, 64)
	}
	if !strings.Contains(text, ".") {
		text = strings.Replace(text, "e", ".e", 1)
	}
	return text
}

// positional writes "d.ddde±xx" without the exponent.
func positional(text string) string {
	mantissa, e, _ := strings.Cut(text, "e")
	exp, err := strconv.Atoi(e)
	if err != nil {
		return text
	}
	sign := ""
	if mantissa[0] == '-' {
		sign, mantissa = "-", mantissa[1:]
	}
	digits := mantissa[:1] + mantissa[2:]
	switch point := exp + 1; {
	case point <= 0:
		return sign + "0." + strings.Repeat("0", -point) + strings.TrimRight(digits, "0") // of 0 nothing is left
	case point >= len(digits):
		return sign + digits + strings.Repeat("0", point-len(digits)) + "."
	default:
		return sign + digits[:point] + "." + strings.TrimRight(digits[point:], "0")
	}
}

// decimal writes f without exponent and at most printPrecision digits behind the
// point, and scientific with one: least digits behind the point at least.
func decimal(d *npy.DType, f float64) string {
	text := positional(shortest(d, f))
	if _, frac, _ := strings.Cut(text, "."); len(frac) > printPrecision {
		text = strings.TrimRight(strconv.FormatFloat(f, 'f', printPrecision, 64), "0")
	}
	return text
}

func scientific(d *npy.DType, f float64, least int) string {
	text := shortest(d, f)
	mantissa, exp, _ := strings.Cut(text, "e")
	_, frac, _ := strings.Cut(mantissa, ".")
	switch {
	case len(frac) > printPrecision:
		text = strconv.FormatFloat(f, 'e', printPrecision, 64)
		mantissa, exp, _ = strings.Cut(text, "e")
		mantissa = strings.TrimRight(mantissa, "0")
		_, frac, _ = strings.Cut(mantissa, ".")
	case len(frac) < least:
		// More digits than the shortest has are those of the number itself.
		text = strconv.FormatFloat(f, 'e', least, 64)
		mantissa, exp, _ = strings.Cut(text, "e")
		frac = strings.Repeat("0", least)
	}
	return mantissa + strings.Repeat("0", max(0, least-len(frac))) + "e" + exp
}

// floatFormatter is NumPy's FloatingFormat: all numbers with an exponent or none,
// and their points one under the other.
func floatFormatter(d *npy.DType, values []any, number func(any) float64, plus bool) func(any) string {
	lo, hi := math.Inf(1), 0.0
	var finite []float64
	infinite, below := false, plus
	for _, v := range values {
		f := number(v)
		if math.IsNaN(f) || math.IsInf(f, 0) {
			infinite, below = true, below || math.IsInf(f, -1)
			continue
		}
		finite = append(finite, f)
		if f != 0 {
			lo, hi = min(lo, math.Abs(f)), max(hi, math.Abs(f))
		}
	}
	exponents := hi > 0 && useExponents(d, lo, hi)
	signed := func(f float64, text string) string {
		if plus && !math.Signbit(f) {
			return "+" + text
		}
		return text
	}
	left, right, frac, exp := 0, 0, 0, 0
	for _, f := range finite {
		text := decimal(d, f)
		if exponents {
			text = scientific(d, f, 0)
		}
		text, e, _ := strings.Cut(signed(f, text), "e")
		whole, part, _ := strings.Cut(text, ".")
		left, frac, exp = max(left, len(whole)), max(frac, len(part)), max(exp, len(e))
	}
	right = frac
	if exponents {
		right += 1 + exp
	}
	if infinite {
		longest := 3
		if below {
			longest = 4
		}
		left = max(left, 3-(right+1), longest-(right+1))
	}
	return func(v any) string {
		f := number(v)
		if text, ok := notFinite(f); ok {
			if plus && text[0] != '-' {
				text = "+" + text
			}
			return padLeft(text, left+right+1)
		}
		if exponents {
			text := signed(f, scientific(d, f, frac))
			// An exponent of two digits among those of three.
			if m, e, _ := strings.Cut(text, "e"); len(e) < exp {
				text = m + "e" + e[:1] + strings.Repeat("0", exp-len(e)) + e[1:]
			}
			whole, _, _ := strings.Cut(text, ".")
			return strings.Repeat(" ", left-len(whole)) + text
		}
		text := signed(f, decimal(d, f))
		whole, part, _ := strings.Cut(text, ".")
		return strings.Repeat(" ", left-len(whole)) + text + strings.Repeat(" ", right-len(part))
	}
}

// useExponents decides on the smallest and largest number but 0, with the
// arithmetic of their own type, as NumPy does.
func useExponents(d *npy.DType, lo, hi float64) bool {
	switch d.Size {
	case 2:
		half := func(f float64) float64 { return float64(array.Float16Of(float32(f)).Float32()) }
		return hi >= 1e3 || lo < half(1e-4) || half(hi/lo) > 1e3
	case 4:
		return hi >= 1e6 || lo < float64(float32(1e-4)) || float32(hi)/float32(lo) > 1e3
	}
	return hi >= 1e8 || lo < 1e-4 || hi/lo > 1e3
}

func padLeft(s string, width int) string {
	return strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s))) + s
}
