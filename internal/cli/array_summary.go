package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/npy"
)

const (
	// summaryMost is how many bytes info looks through without being asked to:
	// a quarter of a second. People look before they read.
	summaryMost = 256 << 20
	// summaryFields is how many fields of a structure it looks at.
	summaryFields = 8
)

// npyDoc is how --json shows the array in a block.
type npyDoc struct {
	arrayDoc
	Order   string       `json:"order"`
	Offset  int          `json:"offset"`
	Version string       `json:"version"`
	Behind  int64        `json:"bytes_behind,omitempty"`
	Summary []summaryDoc `json:"summary,omitempty"` // of each field, or one; absent if not looked at
}

// summaryDoc says what the elements of an array, or one field of them, are.
type summaryDoc struct {
	Field   string          `json:"field,omitempty"`
	DType   string          `json:"dtype"`
	Count   int             `json:"count"`
	Min     json.RawMessage `json:"min,omitempty"`
	Max     json.RawMessage `json:"max,omitempty"`
	Mean    json.RawMessage `json:"mean,omitempty"`
	NaN     *int            `json:"nan,omitempty"`
	NaT     *int            `json:"nat,omitempty"`
	True    *int            `json:"true,omitempty"`
	Longest *int            `json:"longest,omitempty"`
}

// npyOf says what the array in a block is. force is --summary: nil if not given.
// texts say in words what doc.Summary does.
func (a *app) npyOf(ctx context.Context, b shm.Info, force *bool) (doc *npyDoc, texts []string, err error) {
	e, err := a.openElements(ctx, b.Name, &arrayFlags{order: "C"})
	if err != nil {
		return nil, nil, err
	}
	defer e.close()
	h := e.head
	doc = &npyDoc{arrayDoc: arrayDoc{h.Type.String(), h.Type.Size, h.Shape}, Order: "C", Offset: h.Offset,
		Version: fmt.Sprintf("%d.%d", h.Version[0], h.Version[1]), Behind: e.size - int64(h.Offset) - int64(h.Bytes())}
	if h.Fortran {
		doc.Order = "F"
	}
	if force != nil && !*force || force == nil && h.Bytes() > summaryMost {
		return doc, nil, nil
	}
	var done atomic.Int64
	e.done = func(n int64) { done.Add(n) }
	stop := a.progress("look through "+printable(b.Name), int64(h.Bytes()), done.Load)
	defer stop()
	doc.Summary, texts, err = summarise(e)
	return doc, texts, err
}

// lines are what info prints of it.
func (d *npyDoc) lines(a *app, b shm.Info, texts []string) (what, text []string) {
	line := func(w, format string, args ...any) {
		what, text = append(what, w), append(text, fmt.Sprintf(format, args...))
	}
	line("dtype", "%s", d.DType)
	axes := make([]string, len(d.Shape))
	n := 1
	for i, k := range d.Shape {
		axes[i] = strconv.Itoa(k)
		n *= k
	}
	line("shape", "%s: %d elements of %d bytes", npy.PyShape(d.Shape), n, d.ItemSize)
	order := "C: the last index changes fastest"
	if d.Order == "F" {
		order = "Fortran: the first index changes fastest"
	}
	line("order", "%s", order)
	begin := fmt.Sprintf("at byte %d (.npy %s)", d.Offset, d.Version)
	if d.Behind > 0 {
		begin += fmt.Sprintf(", %d bytes behind them", d.Behind)
	}
	line("elements", "%s", begin)
	switch {
	case d.Summary == nil && n > 0:
		line("values", "not looked at: shm info --summary%s %s", a.placeFlags(), shellQuote(b.Name))
	case len(d.Summary) == 1 && d.Summary[0].Field == "":
		line("values", "%s", texts[0])
	default:
		for i, s := range d.Summary {
			line("field "+printable(s.Field), "%s, %s", s.DType, texts[i])
		}
	}
	return what, text
}

// summariser looks at one field of all elements.
type summariser struct {
	doc    summaryDoc
	text   string    // the same in words
	dtype  npy.DType // of one value, where a field is an array
	offset int
	inner  int // how many of them a field has
	look   func(p []byte, at, step, n int)
	finish func()
}

// summarise looks at all elements once, some at a time.
func summarise(e *elements) (docs []summaryDoc, texts []string, err error) {
	var all []*summariser
	if e.dtype.IsStruct() {
		for _, f := range e.dtype.Fields[:min(len(e.dtype.Fields), summaryFields)] {
			s := &summariser{doc: summaryDoc{Field: f.Name, DType: f.Type.String()}, dtype: f.Type, offset: f.Offset, inner: 1}
			if f.Type.Elem != nil {
				s.dtype, s.inner = *f.Type.Elem, f.Type.Size/max(f.Type.Elem.Size, 1)
			}
			all = append(all, s)
		}
	} else {
		all = []*summariser{{doc: summaryDoc{DType: e.dtype.String()}, dtype: e.dtype, inner: 1}}
	}
	for _, s := range all {
		s.begin()
		s.doc.Count = s.inner * e.count()
	}
	err = e.any(func(c chunk) error {
		for _, s := range all {
			if s.inner == 1 {
				s.look(c.p, c.at+s.offset, c.step, c.n)
				continue
			}
			for i := range c.n {
				s.look(c.p, c.at+i*c.step+s.offset, s.dtype.Size, s.inner)
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	for _, s := range all {
		if s.finish(); s.doc.Count == 0 {
			s.text = "none"
		}
		docs, texts = append(docs, s.doc), append(texts, s.text)
	}
	return docs, texts, nil
}

// mean adds numbers up without the sum's becoming larger than all of them: piece by
// piece into the mean so far.
type mean struct {
	n     float64
	value float64
}

func (m *mean) add(sum float64, n int) {
	if n == 0 {
		return
	}
	m.n += float64(n)
	if math.IsInf(m.value, 0) || math.IsInf(sum, 0) {
		m.value += sum // infinite from here on, or NaN where both signs meet
		return
	}
	m.value += (sum/float64(n) - m.value) * (float64(n) / m.n)
}

func (s *summariser) begin() {
	s.look, s.finish = func([]byte, int, int, int) {}, func() { s.text = "no summary of such bytes" }
	if s.dtype.IsStruct() || s.dtype.Elem != nil {
		s.finish = func() { s.text = "a structure: shm array --field " + shellQuote(s.doc.Field) }
		return
	}
	switch d := &s.dtype; d.Kind {
	case 'b':
		s.bools()
	case 'i':
		integers(s, d.Int(), func(v int64) string { return strconv.FormatInt(v, 10) }, math.MaxInt64, math.MinInt64)
	case 'u':
		integers(s, d.Uint(), func(v uint64) string { return strconv.FormatUint(v, 10) }, math.MaxUint64, 0)
	case 'f', 'V':
		if read := d.Float(); read != nil {
			s.floats(read)
		}
	case 'c':
		s.complexes()
	case 'M', 'm':
		s.times()
	case 'S', 'U':
		s.texts()
	}
}

func (s *summariser) bools() {
	yes := 0
	s.look = func(p []byte, at, step, n int) {
		for ; n > 0; n-- {
			if p[at] != 0 {
				yes++
			}
			at += step
		}
	}
	s.finish = func() {
		s.doc.True = &yes
		s.text = fmt.Sprintf("%d True, %d False", yes, s.doc.Count-yes)
	}
}

func integers[T int64 | uint64](s *summariser, read func([]byte) T, text func(T) string, lo, hi T) {
	var m mean
	s.look = func(p []byte, at, step, n int) {
		sum, k := 0.0, n
		for ; n > 0; n-- {
			v := read(p[at:])
			lo, hi = min(lo, v), max(hi, v)
			sum += float64(v)
			at += step
		}
		m.add(sum, k)
	}
	s.finish = func() {
		if s.doc.Count > 0 {
			s.doc.Min, s.doc.Max = json.RawMessage(text(lo)), json.RawMessage(text(hi))
			s.doc.Mean = json.RawMessage(jsonFloat(float64Type, m.value))
			s.text = fmt.Sprintf("min %s, max %s, mean %s", text(lo), text(hi), human(m.value))
		}
	}
}

var float64Type = &npy.DType{Kind: 'f', Size: 8}

// human writes a number with the digits that people look at.
func human(f float64) string { return strconv.FormatFloat(f, 'g', 6, 64) }

func (s *summariser) floats(read func([]byte) float64) {
	var m mean
	nan := 0
	lo, hi := math.Inf(1), math.Inf(-1)
	s.look = func(p []byte, at, step, n int) {
		sum, k := 0.0, n
		for ; n > 0; n-- {
			v := read(p[at:])
			at += step
			if v != v {
				nan++
				k--
				continue
			}
			if v < lo {
				lo = v
			}
			if v > hi {
				hi = v
			}
			sum += v
		}
		m.add(sum, k)
	}
	s.finish = func() {
		s.doc.NaN = &nan
		parts := []string{}
		if s.doc.Count > nan {
			s.doc.Min, s.doc.Max = json.RawMessage(jsonFloat(&s.dtype, lo)), json.RawMessage(jsonFloat(&s.dtype, hi))
			s.doc.Mean = json.RawMessage(jsonFloat(float64Type, m.value))
			parts = append(parts, "min "+human(lo), "max "+human(hi), "mean "+human(m.value))
		}
		s.text = strings.Join(append(parts, fmt.Sprintf("%d NaN", nan)), ", ")
	}
}

// complexes have no order, so that there is only the largest magnitude.
func (s *summariser) complexes() {
	part := s.dtype.Part()
	read := part.Float()
	var re, im mean
	nan, most := 0, 0.0
	s.look = func(p []byte, at, step, n int) {
		var sum complex128
		k := n
		for ; n > 0; n-- {
			x, y := read(p[at:]), read(p[at+part.Size:])
			at += step
			if x != x || y != y {
				nan++
				k--
				continue
			}
			sum += complex(x, y)
			most = max(most, math.Hypot(x, y))
		}
		re.add(real(sum), k)
		im.add(imag(sum), k)
	}
	s.finish = func() {
		s.doc.NaN = &nan
		parts := []string{}
		if s.doc.Count > nan {
			s.doc.Mean = json.RawMessage("[" + jsonFloat(float64Type, re.value) + "," + jsonFloat(float64Type, im.value) + "]")
			parts = append(parts, "largest magnitude "+human(most), fmt.Sprintf("mean %s%+.6gj", human(re.value), im.value))
		}
		s.text = strings.Join(append(parts, fmt.Sprintf("%d NaN", nan)), ", ")
	}
}

func (s *summariser) times() {
	read := s.dtype.Int()
	nat := 0
	lo, hi := int64(math.MaxInt64), int64(math.MinInt64)
	s.look = func(p []byte, at, step, n int) {
		for ; n > 0; n-- {
			v := read(p[at:])
			at += step
			if v == npy.NaT {
				nat++
				continue
			}
			lo, hi = min(lo, v), max(hi, v)
		}
	}
	s.finish = func() {
		s.doc.NaT = &nat
		parts := []string{}
		if s.doc.Count > nat {
			t := func(n int64) npy.Time { return npy.Time{N: n, Unit: s.dtype.Unit, Span: s.dtype.Kind == 'm'} }
			s.doc.Min, s.doc.Max = appendJSON(nil, &s.dtype, t(lo)), appendJSON(nil, &s.dtype, t(hi))
			parts = append(parts, "min "+t(lo).String(), "max "+t(hi).String())
		}
		s.text = strings.Join(append(parts, fmt.Sprintf("%d NaT", nat)), ", ")
	}
}

func (s *summariser) texts() {
	unit, size := 1, s.dtype.Size
	what := "bytes"
	if s.dtype.Kind == 'U' {
		unit, what = 4, "characters"
	}
	longest := 0
	s.look = func(p []byte, at, step, n int) {
		for ; n > 0; n-- {
			for k := size; k > longest*unit; k-- {
				if p[at+k-1] != 0 {
					longest = (k + unit - 1) / unit
				}
			}
			at += step
		}
	}
	s.finish = func() {
		s.doc.Longest = &longest
		s.text = fmt.Sprintf("longest has %d of %d %s", longest, size/unit, what)
	}
}

// npyError is what is wrong with an array, without what its line says already.
func (a *app) npyError(err error) string {
	if e, ok := errors.AsType[*shm.Error](err); ok {
		return oneLine(e.Err.Error())
	}
	return oneLine(a.message(err))
}
