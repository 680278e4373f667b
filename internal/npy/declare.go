package npy

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"unicode"

	"github.com/sharedmem/shm/internal/layout"
)

// Declaration is a type in the words of other languages.
type Declaration struct{ C, Ctypes, NumPy string }

// Declare writes d for other languages. Every hole is a field of its own there,
// so that nothing rests on how a compiler pads; and structures in a structure
// come first, as C and Python want them.
func Declare(name string, d *DType) Declaration {
	w := &declarer{used: map[string]bool{}}
	name = identifier(name, "element")
	c, dims, ct := w.typeOf(name, d)
	if !d.IsStruct() {
		w.c = append(w.c, fmt.Sprintf("typedef %s %s%s;", c, name, dims))
		w.ct = append(w.ct, fmt.Sprintf("%s = %s", name, ct))
	}
	return Declaration{
		C:      "#include <stdint.h>\n\n" + strings.Join(w.c, "\n\n") + "\n",
		Ctypes: "import ctypes\n\n" + strings.Join(w.ct, "\n\n") + "\n",
		NumPy:  "import numpy\n\n" + name + " = numpy.dtype(" + npyArgument(d) + ")\n",
	}
}

func npyArgument(d *DType) string {
	if d.IsStruct() {
		return d.spell()
	}
	return layout.PyRepr(d.String())
}

type declarer struct {
	c, ct []string
	used  map[string]bool // names of structures
}

// typeOf returns d's name in C, what follows the name of a thing of that type
// ("[4]"), and its name in ctypes.
func (w *declarer) typeOf(name string, d *DType) (c, dims, ct string) {
	order := func(c, ct string) (string, string, string) {
		if d.Big != BigEndian && d.Size > 1 {
			ct += ".__ctype_be__"
			if BigEndian {
				ct = strings.TrimSuffix(ct, "be__") + "le__"
			}
			c += " /* of the other byte order */"
		}
		return c, "", ct
	}
	array := func(n int, c, ct string) (string, string, string) {
		return c, fmt.Sprintf("[%d]", n), fmt.Sprintf("%s * %d", ct, n)
	}
	bits := 8 * d.Size
	switch {
	case d.Elem != nil:
		c, dims, ct = w.typeOf(name, d.Elem)
		outer := ""
		for _, n := range slices.Backward(d.Shape) {
			if strings.Contains(ct, " * ") {
				ct = "(" + ct + ")"
			}
			ct = fmt.Sprintf("%s * %d", ct, n)
			outer = fmt.Sprintf("[%d]", n) + outer
		}
		return c, outer + dims, ct
	case d.IsStruct():
		name = free(w.used, name)
		w.structure(name, d)
		return "struct " + name, "", name
	case d.Kind == 'b':
		return order("_Bool", "ctypes.c_bool")
	case d.Kind == 'i':
		return order(fmt.Sprintf("int%d_t", bits), fmt.Sprintf("ctypes.c_int%d", bits))
	case d.Kind == 'u':
		return order(fmt.Sprintf("uint%d_t", bits), fmt.Sprintf("ctypes.c_uint%d", bits))
	case d.Kind == 'f' && d.Size == 4:
		return order("float", "ctypes.c_float")
	case d.Kind == 'f' && d.Size == 8:
		return order("double", "ctypes.c_double")
	case d.Kind == 'f' && d.Size == 2, d.Name == "bfloat16":
		return order("uint16_t /* the bits of a "+map[bool]string{true: "bfloat16", false: "half"}[d.Kind == 'V']+" */", "ctypes.c_uint16")
	case d.Kind == 'c' && d.Size == 8:
		return array(2, "float", "ctypes.c_float") // C has complex types, ctypes only from 3.14 on
	case d.Kind == 'c' && d.Size == 16:
		return array(2, "double", "ctypes.c_double")
	case d.Kind == 'M' || d.Kind == 'm':
		c, dims, ct = order("int64_t", "ctypes.c_int64")
		what := "a moment"
		if d.Kind == 'm' {
			what = "a duration"
		}
		if d.Unit != "" {
			what += " in " + d.Unit
		}
		return c + " /* " + what + " */", dims, ct
	case d.Kind == 'U':
		return array(d.Size/4, "uint32_t", "ctypes.c_uint32")
	case d.Kind == 'S':
		return array(d.Size, "char", "ctypes.c_char")
	}
	return array(d.Size, "uint8_t", "ctypes.c_uint8")
}

func (w *declarer) structure(name string, d *DType) {
	var c, ct strings.Builder
	fmt.Fprintf(&c, "struct %s {\n", name)
	fmt.Fprintf(&ct, "class %s(ctypes.Structure):\n    _layout_ = \"ms\"\n    _pack_ = 1\n    _fields_ = [\n", name)
	used, pads := map[string]bool{}, 0
	field := func(fname, ctype, dims, cttype string) {
		fmt.Fprintf(&c, "\t%s %s%s;\n", ctype, fname, dims)
		fmt.Fprintf(&ct, "        (%s, %s),\n", layout.PyRepr(fname), cttype)
	}
	pad := func(n int) {
		if n > 0 {
			name := free(used, fmt.Sprintf("_pad%d", pads))
			field(name, "uint8_t", fmt.Sprintf("[%d]", n), fmt.Sprintf("ctypes.c_uint8 * %d", n))
			pads++
		}
	}
	end := 0
	for i := range d.Fields {
		f := &d.Fields[i]
		pad(f.Offset - end)
		end = f.Offset + f.Type.Size
		fname := free(used, identifier(f.Name, fmt.Sprintf("f%d", i)))
		ctype, dims, cttype := w.typeOf(name+"_"+fname, &f.Type)
		field(fname, ctype, dims, cttype)
	}
	pad(d.Size - end)
	fmt.Fprintf(&c, "} __attribute__((packed));\n_Static_assert(sizeof(struct %s) == %d, \"%s\");", name, d.Size, name)
	fmt.Fprintf(&ct, "    ]\n\nassert ctypes.sizeof(%s) == %d", name, d.Size)
	w.c, w.ct = append(w.c, c.String()), append(w.ct, ct.String())
}

// free makes a name that is not used yet, and notes it.
func free(used map[string]bool, name string) string {
	for used[name] {
		name += "_"
	}
	used[name] = true
	return name
}

// identifier makes a name that C and Python take, from any that NumPy had.
func identifier(s, or string) string {
	s = strings.Map(func(r rune) rune {
		if r == '_' || r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return r
		}
		return '_'
	}, s)
	switch {
	case strings.Trim(s, "_") == "":
		return or
	case s[0] >= '0' && s[0] <= '9' || reserved()[s]:
		return "_" + s
	}
	return s
}

// reserved are the words of C and Python that are no names.
var reserved = sync.OnceValue(func() map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(`False None True alignas alignof and as assert async auto await bool break case char class const constexpr continue
	def default del do double elif else enum except extern finally float for from global goto if import in inline int is
	lambda long nonlocal not nullptr or pass raise register restrict return short signed sizeof static static_assert
	struct switch thread_local try typedef typeof typeof_unqual union unsigned void volatile while with yield`) {
		m[w] = true
	}
	return m
})
