package cli

import (
	"errors"
	"fmt"
	"go/format"
	"io"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/npy"
)

func init() { verbs = append(verbs, newDescribe) }

func newDescribe(a *app) *cobra.Command {
	var lang, dtype string
	cmd := &cobra.Command{
		Use:   "describe NAME | --dtype TYPE",
		Short: "Declare an array's elements in C, ctypes, NumPy and Go",
		Long: `Print how C, Python's ctypes, NumPy and Go declare the elements of the array in a
block, or a type in NumPy's words, so that all of them lay out the same bytes:
holes are fields of their own. --lang prints one of them, ready to be pasted.

Go lays fields out only where their alignment allows; where it cannot, its part
says why.`,
		Example: `  shm describe points
  shm describe points --lang c > points.h
  shm describe --dtype "[('x', '<f4'), ('n', '<i8')]" --lang go
  shm describe points --json | jq -r .numpy`,
		ValidArgsFunction: a.completeNames,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 == (dtype != "") {
				return usageError{errors.New("describe wants a name, or --dtype"), cmd.CommandPath() + " --help"}
			}
			if lang != "" && !slices.Contains(langs, lang) {
				return usageError{fmt.Errorf("--lang %q is not %s", lang, strings.Join(langs, ", ")), cmd.CommandPath() + " --help"}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			name := "element"
			var d *npy.DType
			if dtype != "" {
				var err error
				if d, err = npy.ParseSpelling(dtype); err != nil {
					return usageError{err, `--dtype '<f4', or "[('x', '<i4'), ('y', '<f8')]"`}
				}
			} else {
				e, err := a.openElements(cmd.Context(), args[0], &arrayFlags{order: "C"})
				if err != nil {
					return err
				}
				e.close()
				d, name = &e.head.Type, args[0]
			}
			return a.describe(name, d, lang)
		},
	}
	cmd.Flags().StringVar(&lang, "lang", "", "only this `LANGUAGE`: c, ctypes, numpy or go")
	cmd.Flags().StringVar(&dtype, "dtype", "", "describe this `TYPE` in place of a block's")
	return cmd
}

// describeDoc is how --json shows the declarations.
type describeDoc struct {
	DType   string `json:"dtype"`
	Size    int    `json:"item_size"`
	C       string `json:"c"`
	Ctypes  string `json:"ctypes"`
	NumPy   string `json:"numpy"`
	Go      string `json:"go,omitempty"`
	GoError string `json:"go_error,omitempty"` // why there is none
}

var langs = []string{"c", "ctypes", "numpy", "go"}

func (a *app) describe(name string, d *npy.DType, lang string) error {
	decl := npy.Declare(name, d)
	goSource, err := goDeclaration(name, d)
	doc := describeDoc{DType: d.String(), Size: d.Size, C: decl.C, Ctypes: decl.Ctypes, NumPy: decl.NumPy, Go: goSource}
	if err != nil {
		doc.GoError = err.Error()
	}
	if a.json {
		return a.writeJSON(doc)
	}
	source := map[string]string{"c": doc.C, "ctypes": doc.Ctypes, "numpy": doc.NumPy, "go": doc.Go}
	if lang != "" {
		if lang == "go" && err != nil {
			return hint(fmt.Errorf("no declaration in Go of %s: %w", d.String(), err), "--lang c")
		}
		_, err := io.WriteString(a.stdout, source[lang])
		return err
	}
	if err != nil {
		source["go"] = "// Go cannot declare it: " + err.Error() + "\n"
	}
	for i, l := range langs {
		if i > 0 {
			fmt.Fprintln(a.stdout)
		}
		title := map[string]string{"c": "C", "ctypes": "Python, ctypes", "numpy": "Python, NumPy", "go": "Go"}[l]
		fmt.Fprintf(a.stdout, "%s\n\n%s", a.paint(bold, "== "+title+" =="), source[l])
	}
	return nil
}

// goWriter collects the declarations of structures in structures, inner ones
// first.
type goWriter struct {
	types   []string
	imports map[string]bool
	used    map[string]bool
}

// goDeclaration writes d as the Go type that package array matches with it.
func goDeclaration(name string, d *npy.DType) (string, error) {
	w := &goWriter{imports: map[string]bool{}, used: map[string]bool{}}
	name = goName(name, "Element")
	text, _, err := w.typeOf(name, d)
	if err != nil {
		return "", err
	}
	if text != name { // a plain type, which may have no name
		w.types = append(w.types, "type "+name+" = "+text)
	}
	var out strings.Builder
	for _, path := range []string{"time", "github.com/sharedmem/shm/array"} {
		if w.imports[path] {
			fmt.Fprintf(&out, "import %q\n", path)
		}
	}
	if out.Len() > 0 {
		out.WriteByte('\n')
	}
	source, err := format.Source([]byte(out.String() + strings.Join(w.types, "\n\n") + "\n"))
	return string(source), err
}

// typeOf returns d's Go type and its alignment.
func (w *goWriter) typeOf(name string, d *npy.DType) (text string, align int, err error) {
	bad := func(format string, args ...any) (string, int, error) { return "", 0, fmt.Errorf(format, args...) }
	if d.Elem != nil {
		text, align, err = w.typeOf(name, d.Elem)
		for _, n := range slices.Backward(d.Shape) {
			text = fmt.Sprintf("[%d]%s", n, text)
		}
		return text, align, err
	}
	if d.IsStruct() {
		align, err = w.structure(name, d)
		return name, align, err
	}
	if d.Size == 0 {
		return bad("%s has no bytes", d)
	}
	if d.Big != npy.BigEndian && d.Size > 1 && d.Kind != 'S' && d.Kind != 'V' {
		return bad("%s is in the other byte order than this machine's", d)
	}
	bits := 8 * d.Size
	switch d.Kind {
	case 'b':
		return "bool", 1, nil
	case 'i':
		return fmt.Sprintf("int%d", bits), d.Size, nil
	case 'u':
		return fmt.Sprintf("uint%d", bits), d.Size, nil
	case 'f':
		switch d.Size {
		case 2:
			w.imports["github.com/sharedmem/shm/array"] = true
			return "array.Float16", 2, nil
		case 4, 8:
			return fmt.Sprintf("float%d", bits), d.Size, nil
		}
		return bad("%s is a long double, which Go has not", d)
	case 'c':
		if d.Size > 16 {
			return bad("%s is made of long doubles, which Go has not", d)
		}
		return fmt.Sprintf("complex%d", bits), d.Size / 2, nil
	case 'M':
		if d.Unit == "ns" {
			w.imports["github.com/sharedmem/shm/array"] = true
			return "array.Time", 8, nil
		}
		return w.time(d), 8, nil
	case 'm':
		if d.Unit == "ns" {
			w.imports["time"] = true
			return "time.Duration", 8, nil
		}
		return w.time(d), 8, nil
	case 'U':
		return fmt.Sprintf("[%d]rune", d.Size/4), 4, nil
	case 'V':
		if d.Name == "bfloat16" {
			w.imports["github.com/sharedmem/shm/array"] = true
			return "array.BFloat16", 2, nil
		}
	}
	return fmt.Sprintf("[%d]byte", d.Size), 1, nil
}

// time declares a type for times of another unit than the nanoseconds that Go has.
func (w *goWriter) time(d *npy.DType) string {
	what := "Moment"
	if d.Kind == 'm' {
		what = "Span"
	}
	name := what + goName(d.Unit, "")
	if !w.used[name] {
		w.used[name] = true
		w.types = append(w.types, fmt.Sprintf("type %s int64\n\nfunc (%[1]s) NumPyDType() string { return %q }", name, d.String()))
	}
	return name
}

func (w *goWriter) structure(name string, d *npy.DType) (int, error) {
	var lines []string
	end, most := 0, 1
	pad := func(n int) {
		if n > 0 {
			lines = append(lines, fmt.Sprintf("\t_ [%d]byte", n))
		}
	}
	names := map[string]bool{}
	for i := range d.Fields {
		f := &d.Fields[i]
		field := goName(f.Name, fmt.Sprintf("F%d", i))
		for names[field] {
			field += "_"
		}
		names[field] = true
		text, align, err := w.typeOf(name+field, &f.Type)
		if err != nil {
			return 0, fmt.Errorf("field %s: %w", layout.PyRepr(f.Name), err)
		}
		if f.Offset%align != 0 {
			return 0, fmt.Errorf("the field %s begins at byte %d, and a %s at a multiple of %d; np.dtype(…, align=True) lays fields out as Go does",
				layout.PyRepr(f.Name), f.Offset, text, align)
		}
		most = max(most, align)
		pad(f.Offset - end)
		end = f.Offset + f.Type.Size
		tag := ""
		if !strings.EqualFold(field, f.Name) {
			tag = " " + goTag(f.Name)
		}
		lines = append(lines, "\t"+field+" "+text+tag)
	}
	if d.Size%most != 0 {
		return 0, fmt.Errorf("an element has %d bytes, which is no multiple of %d, as a struct with its fields is; np.dtype(…, align=True) lays fields out as Go does",
			d.Size, most)
	}
	pad(d.Size - end)
	w.types = append(w.types, fmt.Sprintf("type %s struct { // %d bytes\n%s\n}", name, d.Size, strings.Join(lines, "\n")))
	return most, nil
}

// goTag writes the tag that holds NumPy's name.
func goTag(name string) string {
	tag := fmt.Sprintf("npy:%q", name)
	if strings.Contains(tag, "`") {
		return fmt.Sprintf("%q", tag)
	}
	return "`" + tag + "`"
}

// goName makes an exported name of any.
func goName(s, or string) string {
	s = strings.Map(func(r rune) rune {
		if r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) {
			return r
		}
		return '_'
	}, s)
	if strings.Trim(s, "_") == "" {
		return or
	}
	first := []rune(s)
	if upper := unicode.ToUpper(first[0]); unicode.IsUpper(upper) {
		first[0] = upper
		return string(first)
	}
	return "X" + string(first)
}
