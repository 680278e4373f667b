package cli

import (
	"bufio"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/internal/npy"
)

func init() { verbs = append(verbs, newArray) }

// maxPrinted is how many elements array prints: thousands of lines. --json has no
// such limit.
const maxPrinted = 1 << 20

func newArray(a *app) *cobra.Command {
	var f arrayFlags
	var all bool
	cmd := &cobra.Command{
		Use:   "array NAME [INDEX]",
		Short: "Show the elements of an array as NumPy prints them",
		Long: `Print the array in a block as NumPy would: of more than 1000 elements the first
and last three along each axis. INDEX picks a part, as in Python: 3 or
'10:20, ::2' or '..., 0'; --field a field of structures. --all prints every
element, and --json writes the values of all of them, picked or not.

A block that begins with a .npy header says what it holds. For others, of raw
elements, say it: --dtype in NumPy's words ('<f4', float32, "[('x','<i4')]") and
--shape; without, all that fits is one axis.

In JSON, complex numbers are [real, imaginary], structures objects, times text
and spans of time numbers, NaT null; bytes are text, or {"base64": …} where they
are not UTF-8; the floats that JSON lacks are "nan", "inf" and "-inf".`,
		Example: `  shm array weights
  shm array frames '-1, 100:110, ::20'
  shm array points --field x 0:10
  shm array cam0 --dtype '<u2' --shape 480,640 --offset 4096
  shm array weights --json | jq '.values[0]'`,
		ValidArgsFunction: a.completeNames,
		Args:              between(1, 2, "a name, and perhaps one index in quotes"),
		RunE: func(cmd *cobra.Command, args []string) error {
			args = unshield(args)
			if len(args) == 2 {
				if f.index != "" {
					return usageError{fmt.Errorf("an index twice: %s and --index %s", args[1], f.index), cmd.CommandPath() + " --help"}
				}
				f.index = args[1]
			}
			e, err := a.openElements(cmd.Context(), args[0], &f)
			if err != nil {
				return err
			}
			defer e.close()
			if a.json {
				return a.arrayJSON(e)
			}
			return a.printArray(e, all)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "print every element")
	return cmd
}

// between checks the number of arguments as exactly does.
func between(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return usageError{fmt.Errorf("%s wants %s", cmd.Name(), what), cmd.CommandPath() + " --help"}
		}
		return nil
	}
}

func (a *app) printArray(e *elements, all bool) error {
	g, err := e.grid(all)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(a.stdout)
	w.WriteString(printable(e.name) + ": " + e.about() + "\n" + g.text() + "\n")
	return w.Flush()
}

// grid reads the elements that are printed.
func (e *elements) grid(all bool) (*grid, error) {
	g := &grid{shape: e.shape(), dtype: &e.dtype}
	short := e.count() > printThreshold && !all
	n := 1
	for _, k := range g.shape {
		if short && k > 2*printEdge {
			k = 2 * printEdge
		}
		g.kept = append(g.kept, k)
		n *= k
		if n > maxPrinted {
			return nil, hint(fmt.Errorf("%s: more than %d elements of the shape %s to print", printable(e.name), maxPrinted, npy.PyShape(g.shape)),
				"shm array %s 0   (a part), or --json", shellQuote(e.name))
		}
	}
	g.values = make([]any, 0, n)
	buf := make([]byte, e.dtype.Size)
	idx := make([]int, len(g.kept))
	for range n {
		off := e.off
		for k, i := range idx {
			if g.kept[k] < g.shape[k] && i >= printEdge {
				i += g.shape[k] - g.kept[k]
			}
			off += int64(i) * e.dims[k].step
		}
		if err := e.read(buf, off); err != nil {
			return nil, err
		}
		g.values = append(g.values, e.dtype.Value(buf))
		for k := len(idx) - 1; k >= 0; k-- {
			if idx[k]++; idx[k] < g.kept[k] {
				break
			}
			idx[k] = 0
		}
	}
	return g, nil
}

// arrayDoc is how --json shows what an array is.
type arrayDoc struct {
	DType    string `json:"dtype"`
	ItemSize int    `json:"item_size"`
	Shape    []int  `json:"shape"`
}

// arrayJSON writes the document as the elements come: there may be more than memory
// for their texts.
func (a *app) arrayJSON(e *elements) error {
	head, err := compactJSON(struct {
		Name string `json:"name"`
		arrayDoc
	}{e.name, arrayDoc{e.dtype.String(), e.dtype.Size, e.shape()}})
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(a.stdout, 64<<10)
	w.WriteString(string(head[:len(head)-1]) + `,"values":`)
	err = e.values(w)
	w.WriteString("}\n")
	return cmp.Or(w.Flush(), err)
}

// values writes all elements as lists in lists. After an error the brackets are
// closed, so that what came before can be read.
func (e *elements) values(w *bufio.Writer) error {
	var line []byte
	axes, open, first := len(e.dims), 0, true
	seen := make([]int, max(axes-1, 0)) // of the row before
	err := e.rows(func(idx []int, c chunk) error {
		differ := 0
		for differ < len(idx) && idx[differ] == seen[differ] {
			differ++
		}
		if !first && differ < len(idx) { // a new row
			for range axes - 1 - differ {
				w.WriteByte(']')
				open--
			}
			w.WriteString(",\n")
			first = true
		}
		copy(seen, idx)
		for ; open < axes; open++ {
			w.WriteByte('[')
		}
		for i := range c.n {
			if line = line[:0]; !first {
				line = append(line, ',')
			}
			first = false
			line = appendJSON(line, &e.dtype, e.dtype.Value(c.p[c.at+i*c.step:]))
			if _, err := w.Write(line); err != nil {
				return err
			}
		}
		return nil
	})
	if open == 0 && (axes > 0 && e.count() == 0 || err != nil) {
		w.WriteString("[]") // the shape says which axis has none
	}
	for ; open > 0; open-- {
		w.WriteByte(']')
	}
	return err
}

// appendJSON writes a value as --json has it.
func appendJSON(out []byte, d *npy.DType, v any) []byte {
	switch v := v.(type) {
	case bool:
		return strconv.AppendBool(out, v)
	case int64:
		return strconv.AppendInt(out, v, 10)
	case uint64:
		return strconv.AppendUint(out, v, 10)
	case float64:
		return append(out, jsonFloat(d, v)...)
	case complex128:
		part := d.Part()
		out = append(append(out, '['), jsonFloat(part, real(v))...)
		return append(append(append(out, ','), jsonFloat(part, imag(v))...), ']')
	case npy.Time:
		switch {
		case v.N == npy.NaT:
			return append(out, "null"...)
		case v.Span:
			return strconv.AppendInt(out, v.N, 10)
		}
		return append(out, jsonText(v.String())...)
	case string:
		return append(out, jsonText(v)...)
	case []byte:
		if d.Kind == 'S' && utf8.Valid(v) {
			return append(out, jsonText(string(v))...)
		}
		return fmt.Appendf(out, `{"base64":"%s"}`, base64.StdEncoding.EncodeToString(v))
	case []any:
		if d.Elem != nil {
			return appendList(out, d.Elem, v, len(d.Shape))
		}
		out = append(out, '{')
		for i, e := range v {
			if i > 0 {
				out = append(out, ',')
			}
			out = append(append(out, jsonText(d.Fields[i].Name)...), ':')
			out = appendJSON(out, &d.Fields[i].Type, e)
		}
		return append(out, '}')
	}
	return append(out, "null"...)
}

// appendList writes a sub-array of so many axes.
func appendList(out []byte, elem *npy.DType, v any, axes int) []byte {
	if axes == 0 {
		return appendJSON(out, elem, v)
	}
	out = append(out, '[')
	for i, e := range v.([]any) {
		if i > 0 {
			out = append(out, ',')
		}
		out = appendList(out, elem, e, axes-1)
	}
	return append(out, ']')
}

// jsonFloat writes a float with as few digits as its own type needs.
func jsonFloat(d *npy.DType, f float64) string {
	if text, ok := notFinite(f); ok {
		return `"` + text + `"`
	}
	switch d.Size {
	case 4:
		if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
			return strconv.FormatFloat(f, 'e', -1, 32)
		}
		return strconv.FormatFloat(f, 'f', -1, 32)
	case 2:
		return shortFloat(d, f)
	}
	text, err := json.Marshal(f)
	if err != nil {
		return "null"
	}
	return string(text)
}

func jsonText(s string) string {
	text, err := compactJSON(s)
	if err != nil {
		return layout.PyRepr(s)
	}
	return string(text)
}
