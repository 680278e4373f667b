package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/npy"
)

// maxElement is how large one element may be to be shown: they are copied one by
// one, and a header may promise elements of gigabytes.
const maxElement = 16 << 20

// elements are those of an array of any type in a block, or of a part of it. They
// are copied before they are looked at, as the block may become smaller, and from
// its file, since looking at a hole in the mapping would fill it with memory.
type elements struct {
	ctx   context.Context
	name  string
	from  io.ReaderAt
	close func()

	head  *npy.Header
	size  int64 // of the block
	raw   bool  // its type comes from the command line
	dtype npy.DType
	off   int64 // where the one with all indices 0 begins
	dims  []axis
	done  func(bytes int64) // for a progress bar, nil without

	window []byte // bytes that were read ahead, from windowAt on
	windowAt,
	ended int64 // where the last read ended
}

// axis is how many elements there are, and how many bytes from one to the next.
type axis struct {
	n    int
	step int64
}

// arrayFlags say how to take the bytes of a block without a header, and which
// part of the array is meant.
type arrayFlags struct {
	dtype, shape, order, field, index string
	offset                            int64
}

func (f *arrayFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.dtype, "dtype", "", "the block has no header: its elements are of this `TYPE`, in NumPy's words")
	flags.StringVar(&f.shape, "shape", "", "with --dtype: the length of each axis, as `480,640`; one may be -1 (default: one axis)")
	flags.StringVar(&f.order, "order", "C", "with --dtype: C, or F for Fortran's `ORDER`")
	flags.Var(newValue(&f.offset, "SIZE", "0", parseSize), "offset", "with --dtype: where the elements begin")
	flags.StringVar(&f.field, "field", "", "only this `FIELD` of each element, x or pos.x")
	flags.StringVar(&f.index, "index", "", "only this part: `INDEX` as in Python, 3 or 10:20,::2")
}

// openElements opens the array in a block.
func (a *app) openElements(ctx context.Context, name string, f *arrayFlags) (*elements, error) {
	dir, err := a.place()
	if err != nil {
		return nil, err
	}
	b, err := shm.Open(name, &shm.OpenOptions{ReadOnly: true, Dir: string(dir)})
	if err != nil {
		return nil, err
	}
	e := &elements{ctx: ctx, name: name, from: b, size: int64(b.Size()), close: func() { b.Close() }}
	if file, err := b.File(); err == nil {
		e.from, e.close = file, func() { file.Close(); b.Close() }
	} else if !isUnsupported(err) {
		e.close()
		return nil, err
	}
	if err := e.open(a, f); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (e *elements) open(a *app, f *arrayFlags) (err error) {
	if f.dtype != "" {
		e.raw = true
		e.head, err = e.plan(f)
	} else if f.shape != "" || f.offset != 0 || f.order != "C" {
		return usageError{errors.New("--shape, --order and --offset are for arrays without a header, and want --dtype"), "--dtype '<f4'"}
	} else {
		e.head, err = e.header()
	}
	if err != nil {
		if errors.Is(err, npy.ErrHeader) || errors.Is(err, npy.ErrDType) {
			err = &shm.Error{Op: "read array", Name: e.name, Err: err}
		}
		if _, usage := errors.AsType[usageError](err); usage {
			return err
		}
		return hint(err, "shm array%s %s --dtype '<f4' --shape 480,640   (for elements without a header)", a.placeFlags(), shellQuote(e.name))
	}
	e.dtype, e.off = e.head.Type, int64(e.head.Offset)
	e.dims = e.axes(e.head.Shape, e.head.Fortran)
	if f.field != "" {
		if err := e.pick(f.field); err != nil {
			return err
		}
	}
	if f.index != "" {
		if err := e.cut(f.index); err != nil {
			return err
		}
	}
	// Elements without bytes fit any number of times, and would take forever.
	if n, ok := npy.Elements(e.shape(), 1); !ok || e.dtype.Size == 0 && n > maxPrinted {
		return hint(fmt.Errorf("%s: %s in the shape %s are too many elements to be shown", printable(e.name), e.dtype.String(), npy.PyShape(e.shape())),
			"shm describe%s %s", a.placeFlags(), shellQuote(e.name))
	}
	if e.dtype.Size > maxElement {
		return hint(fmt.Errorf("%s: one element has %s, too much to be shown", printable(e.name), a.size(int64(e.dtype.Size))),
			"shm cat%s --offset %d %s", a.placeFlags(), e.off, shellQuote(e.name))
	}
	return nil
}

// header reads the header and holds it against the block's size.
func (e *elements) header() (*npy.Header, error) {
	_, head, err := npy.Read(io.NewSectionReader(e.from, 0, e.size))
	if err != nil {
		return nil, err
	}
	return npy.Parse(head, int(e.size))
}

// plan makes a header from the command line.
func (e *elements) plan(f *arrayFlags) (*npy.Header, error) {
	usage := func(format string, args ...any) (*npy.Header, error) {
		return nil, usageError{fmt.Errorf(format, args...), "shm array --help"}
	}
	d, err := npy.ParseSpelling(f.dtype)
	if err != nil {
		return usage("--dtype: %w", err)
	}
	if d.Size == 0 {
		return usage("--dtype %s: elements without bytes", f.dtype)
	}
	h := &npy.Header{Type: *d, Shape: []int{-1}, Offset: int(f.offset)}
	switch f.order {
	case "C", "c":
	case "F", "f":
		h.Fortran = true
	default:
		return usage("--order %q is neither C nor F", f.order)
	}
	if f.offset > e.size {
		return usage("--offset %d: %s has %d bytes", f.offset, printable(e.name), e.size)
	}
	if f.shape != "" {
		if h.Shape, err = parseShape(f.shape); err != nil {
			return usage("%w", err)
		}
	}
	if open := slices.Index(h.Shape, -1); open >= 0 {
		h.Shape[open] = 1
		if n, ok := npy.Elements(h.Shape, d.Size); ok && n > 0 {
			h.Shape[open] = max(int(e.size-f.offset)/d.Size/n, 1) // of none nothing would be seen
		}
	}
	if d.Elem != nil { // NumPy takes its axes as the last ones of the array
		h.Shape, h.Type = append(h.Shape, d.Shape...), *d.Elem
	}
	n, ok := npy.Elements(h.Shape, h.Type.Size)
	if !ok || int64(n*h.Type.Size) > e.size-f.offset {
		return usage("elements of %s in the shape %s need more than the %d bytes that are there", h.Type.String(), npy.PyShape(h.Shape), e.size-f.offset)
	}
	return h, nil
}

func parseShape(s string) ([]int, error) {
	var shape []int
	for _, part := range strings.Split(strings.Trim(strings.TrimSpace(s), "(),"), ",") {
		part = strings.TrimSpace(part)
		if part == "" && len(shape) == 0 {
			continue // () is no axis
		}
		n, err := strconv.Atoi(part)
		if err != nil || n < -1 || n == -1 && slices.Contains(shape, -1) {
			return nil, fmt.Errorf("--shape %q is not the length of each axis, as 480,640", s)
		}
		shape = append(shape, n)
	}
	if len(shape) > npy.MaxDims {
		return nil, fmt.Errorf("--shape has %d axes, and NumPy has at most %d", len(shape), npy.MaxDims)
	}
	return shape, nil
}

// axes lays a shape out without gaps.
func (e *elements) axes(shape []int, fortran bool) []axis {
	dims := make([]axis, len(shape))
	step := int64(e.dtype.Size)
	for k := range dims {
		i := k
		if !fortran {
			i = len(dims) - 1 - k
		}
		dims[i] = axis{shape[i], step}
		step *= int64(max(shape[i], 1))
	}
	return dims
}

// pick narrows the elements to one of their fields.
func (e *elements) pick(path string) error {
	for _, name := range strings.Split(path, ".") {
		at := slices.IndexFunc(e.dtype.Fields, func(f npy.Field) bool { return f.Name == name })
		if at < 0 {
			at = slices.IndexFunc(e.dtype.Fields, func(f npy.Field) bool { return strings.EqualFold(f.Name, name) })
		}
		if at < 0 {
			return usageError{fmt.Errorf("--field %s: the elements have no field %s", path, printable(name)), fieldHint(&e.dtype)}
		}
		f := e.dtype.Fields[at]
		e.off, e.dtype = e.off+int64(f.Offset), f.Type
		if f.Type.Elem != nil {
			e.dtype = *f.Type.Elem
			e.dims = append(slices.Clone(e.dims), e.axes(f.Type.Shape, false)...)
		}
	}
	return nil
}

func fieldHint(d *npy.DType) string {
	if !d.IsStruct() {
		return "leave --field away: they are " + d.String()
	}
	var names []string
	for _, f := range d.Fields {
		names = append(names, "--field "+shellQuote(f.Name))
	}
	return strings.Join(names[:min(len(names), 8)], ", ")
}

// cut narrows the elements to an index as Python writes it.
func (e *elements) cut(index string) error {
	bad := func(format string, args ...any) error {
		return usageError{fmt.Errorf("index %q: %s", index, fmt.Sprintf(format, args...)), "an index such as 3 or '10:20, ::2', for the shape " + npy.PyShape(e.shape())}
	}
	text := strings.TrimSpace(index)
	if t, ok := strings.CutPrefix(text, "["); ok {
		if text, ok = strings.CutSuffix(t, "]"); !ok {
			return bad("a bracket is not closed")
		}
	}
	parts := strings.Split(text, ",")
	if len(parts) > 1 && strings.TrimSpace(parts[len(parts)-1]) == "" {
		parts = parts[:len(parts)-1]
	}
	var dims []axis
	k, dots := 0, false
	for i, part := range parts {
		part = strings.TrimSpace(part)
		if part == "..." {
			if dots {
				return bad("a second ...")
			}
			dots = true
			rest := len(e.dims) - k - (len(parts) - i - 1)
			if rest < 0 {
				return bad("more of them than the %d axes", len(e.dims))
			}
			dims = append(dims, e.dims[k:k+rest]...)
			k += rest
			continue
		}
		if k >= len(e.dims) {
			return bad("more of them than the %d axes", len(e.dims))
		}
		d := e.dims[k]
		k++
		if !strings.Contains(part, ":") {
			n, err := strconv.Atoi(part)
			if err != nil {
				return bad("%q is no number", part)
			}
			at := n
			if n < 0 {
				at += d.n
			}
			if at < 0 || at >= d.n {
				return bad("%d is out of range on axis %d with length %d", n, k-1, d.n)
			}
			e.off += int64(at) * d.step
			continue
		}
		start, n, step, err := parseSlice(part, d.n)
		if err != nil {
			return bad("%v", err)
		}
		if n > 0 {
			e.off += int64(start) * d.step
		}
		if n > 1 { // else the product may not fit
			d.step *= int64(step)
		}
		dims = append(dims, axis{n, d.step})
	}
	e.dims = append(dims, e.dims[k:]...)
	return nil
}

// parseSlice reads start:stop:step for an axis of length n, by Python's rules.
func parseSlice(s string, n int) (start, count, step int, err error) {
	parts := strings.Split(s, ":")
	if len(parts) > 3 {
		return 0, 0, 0, fmt.Errorf("%q is no slice", s)
	}
	number := func(i, absent int) int {
		if i >= len(parts) || strings.TrimSpace(parts[i]) == "" {
			return absent
		}
		v, perr := strconv.Atoi(strings.TrimSpace(parts[i]))
		// One that does not fit is as good as the largest that does.
		if perr != nil && !errors.Is(perr, strconv.ErrRange) {
			err = fmt.Errorf("%q is no number", parts[i])
		}
		return v
	}
	step = number(2, 1)
	lo, hi := 0, n // what bounds are cut to
	first, last := 0, n
	if step < 0 {
		lo, hi = -1, n-1
		first, last = n-1, -1
	}
	clip := func(i, absent int) int {
		if i >= len(parts) || strings.TrimSpace(parts[i]) == "" {
			return absent
		}
		v := number(i, 0)
		if v < 0 {
			v += n
		}
		return min(max(v, lo), hi)
	}
	start = clip(0, first)
	stop := clip(1, last)
	switch {
	case err != nil:
		return 0, 0, 0, err
	case step == 0:
		return 0, 0, 0, errors.New("a step of 0")
	case step > 0 && stop > start:
		count = (stop-start-1)/step + 1
	case step < 0 && stop < start:
		// -step may not exist.
		count = int(uint64(start-stop-1)/-uint64(step)) + 1
	}
	return start, count, step, nil
}

func (e *elements) shape() []int {
	shape := make([]int, len(e.dims))
	for i, d := range e.dims {
		shape[i] = d.n
	}
	return shape
}

// count is the number of elements.
func (e *elements) count() int {
	n := 1
	for _, d := range e.dims {
		n *= d.n
	}
	return n
}

// about describes the array: "<f4, shape (480, 640), C order".
func (e *elements) about() string {
	return fmt.Sprintf("%s, shape %s", e.dtype.String(), npy.PyShape(e.shape()))
}

// read fills p. What is read in small pieces, one behind the other, such as
// rows of three, is read ahead: each call of the system costs as much as
// copying kilobytes.
func (e *elements) read(p []byte, off int64) error {
	end := off + int64(len(p))
	near := off >= e.ended && off-e.ended < 4096
	e.ended = end
	at := off - e.windowAt
	if at >= 0 && end <= e.windowAt+int64(len(e.window)) {
		copy(p, e.window[at:])
		return nil
	}
	if near && len(p) < 4096 && end <= e.size {
		e.window = slices.Grow(e.window[:0], chunkBytes)[:min(chunkBytes, e.size-off)]
		e.windowAt = off
		if err := e.fill(e.window, off); err != nil {
			e.window = e.window[:0]
			return err
		}
		copy(p, e.window)
		return nil
	}
	return e.fill(p, off)
}

// fill fills p. Less than that is a block that has become smaller.
func (e *elements) fill(p []byte, off int64) error {
	if err := e.ctx.Err(); err != nil {
		return err
	}
	n, err := e.from.ReadAt(p, off)
	if n == len(p) {
		err = nil
	}
	if errors.Is(err, io.EOF) {
		err = &shm.Error{Op: "read", Name: e.name, Err: shm.ErrTruncated}
	}
	if e.done != nil {
		e.done(int64(n))
	}
	return err
}

// chunk is some elements at equal distances: n of them, of which the i-th begins at
// p[at+i*step].
type chunk struct {
	p           []byte
	at, step, n int
}

// chunkBytes is what is copied at once: it fits the processor's cache.
const chunkBytes = 128 << 10

// row copies n elements that lie step bytes apart and hands them to fn, some at a
// time; buf is kept for the next row.
func (e *elements) row(buf *[]byte, off int64, n int, step int64, fn func(c chunk) error) error {
	size := e.dtype.Size
	far := max(step, -step)
	most := n
	if far > 0 {
		most = 1 + int(max(0, (chunkBytes-int64(size))/far))
	}
	for n > 0 {
		k := min(n, most)
		span := int64(k-1)*far + int64(size)
		if int64(cap(*buf)) < span {
			*buf = make([]byte, span)
		}
		c := chunk{p: (*buf)[:span], step: int(step), n: k}
		from := off
		if k == 1 {
			c.step = 0 // it may be larger than an int, and is not used
		}
		if step < 0 && k > 1 {
			c.at = (k - 1) * int(far)
			from -= int64(c.at)
		}
		if err := e.read(c.p, from); err != nil {
			return err
		}
		if err := fn(c); err != nil {
			return err
		}
		n -= k
		off += int64(k) * step
	}
	return nil
}

// rows hands all elements to fn, in C order, with the indices of the axes but the
// last.
func (e *elements) rows(fn func(idx []int, c chunk) error) error {
	if e.count() == 0 {
		return nil
	}
	var buf []byte
	last := len(e.dims) - 1
	if last < 0 {
		return e.row(&buf, e.off, 1, 0, func(c chunk) error { return fn(nil, c) })
	}
	idx := make([]int, last)
	for {
		off := e.off
		for k, i := range idx {
			off += int64(i) * e.dims[k].step
		}
		if err := e.row(&buf, off, e.dims[last].n, e.dims[last].step, func(c chunk) error { return fn(idx, c) }); err != nil {
			return err
		}
		k := last - 1
		for ; k >= 0; k-- {
			if idx[k]++; idx[k] < e.dims[k].n {
				break
			}
			idx[k] = 0
		}
		if k < 0 {
			return nil
		}
	}
}

// any hands all elements to fn in whatever order they come fastest.
func (e *elements) any(fn func(c chunk) error) error {
	in := *e
	in.window = nil
	in.dims = slices.DeleteFunc(slices.Clone(e.dims), func(d axis) bool { return d.n == 1 })
	// The axis of the nearest neighbours last; and axes that run on become one.
	slices.SortStableFunc(in.dims, func(a, b axis) int { return compareAbs(b.step, a.step) })
	for k := len(in.dims) - 2; k >= 0; k-- {
		outer, inner := in.dims[k], in.dims[k+1]
		if outer.step == inner.step*int64(inner.n) {
			in.dims[k] = axis{outer.n * inner.n, inner.step}
			in.dims = slices.Delete(in.dims, k+1, k+2)
		}
	}
	return in.rows(func(_ []int, c chunk) error { return fn(c) })
}

func compareAbs(a, b int64) int {
	a, b = max(a, -a), max(b, -b)
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
