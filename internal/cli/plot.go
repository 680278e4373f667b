package cli

import (
	"cmp"
	"errors"
	"fmt"
	"image/color"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sharedmem/shm/internal/npy"
)

func init() { verbs = append(verbs, newPlot) }

// maxPixels is how wide or high a picture may be.
const maxPixels = 8192

func newPlot(a *app) *cobra.Command {
	var f arrayFlags
	var out string
	var width, height int
	var ascii, replace bool
	cmd := &cobra.Command{
		Use:   "plot NAME [INDEX]",
		Short: "Draw an array: one axis as a line, two as an image",
		Long: `Draw an array to the terminal, or with -o into a PNG or SVG file: one axis as a
line, two as an image, and a uint8 array of the shape (height, width, 3 or 4) in
its own colours. INDEX picks a part as in Python, --field a field of structures;
raw elements need --dtype and --shape, as for shm array. Of complex numbers it is
the magnitude.

What has more points than there is room is reduced as it is read: a line to the
smallest and largest of each column, an image to the means of its cells. NaN and
infinite numbers are gaps.`,
		Example: `  shm plot signal
  shm plot frames '-1'
  shm plot points --field temperature -o t.svg
  shm plot cam0 --dtype u1 --shape 480,640,3 -o frame.png`,
		ValidArgsFunction: a.completeNames,
		Args:              between(1, 2, "a name, and perhaps one index in quotes"),
		RunE: func(cmd *cobra.Command, args []string) error {
			args = unshield(args)
			usage := func(format string, v ...any) error {
				return usageError{fmt.Errorf(format, v...), cmd.CommandPath() + " --help"}
			}
			ext := strings.ToLower(filepath.Ext(out))
			switch {
			case a.json:
				return usageError{errors.New("plot draws, and has no --json"), "shm array --json " + shellQuote(args[0])}
			case len(args) == 2 && f.index != "":
				return usage("an index twice: %s and --index %s", args[1], f.index)
			case out != "" && ext != ".png" && ext != ".svg":
				return usage("-o %s ends neither in .png nor in .svg", out)
			case width < 0 || height < 0 || width > maxPixels || height > maxPixels:
				return usage("--width and --height are from 1 to %d", maxPixels)
			}
			if len(args) == 2 {
				f.index = args[1]
			}
			e, err := a.openElements(cmd.Context(), args[0], &f)
			if err != nil {
				return err
			}
			defer e.close()
			if out == "" {
				return a.plotTerminal(e, width, height, ascii || !a.utf8Terminal())
			}
			return a.plotFile(e, cmp.Or(width, 800), cmp.Or(height, 500), out, ext, replace)
		},
	}
	f.add(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&out, "output", "o", "", "write a PNG or SVG `FILE`, by its suffix")
	flags.BoolVar(&replace, "replace", false, "with -o: replace the file if it exists")
	flags.IntVar(&width, "width", 0, "columns of the terminal, or pixels of the file")
	flags.IntVar(&height, "height", 0, "lines of the terminal, or pixels of the file")
	flags.BoolVar(&ascii, "ascii", false, "draw with ASCII (default where the locale is not UTF-8)")
	return cmd
}

// utf8Terminal says whether the locale has the characters that plots are made of.
func (a *app) utf8Terminal() bool {
	if runtime.GOOS == "windows" {
		return true
	}
	locale := strings.ToLower(cmp.Or(os.Getenv("LC_ALL"), os.Getenv("LC_CTYPE"), os.Getenv("LANG")))
	return strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8")
}

// A plot is what is drawn of an array, reduced to the room there is.
type plot struct {
	title   string
	lo, hi  float64 // of all finite numbers
	gaps    int     // numbers that are none, or infinite
	number  func(float64) string
	columns []span // of a line
	n       int    // its points

	h, w   int        // of an image, in the array
	rows   int        // cells of it that were kept
	cols   int        //
	cells  []cellMean // rows*cols of them
	colour bool       // the cells are colours
}

// span is what one column of a line covers.
type span struct{ first, last, lo, hi float64 }

func (s span) empty() bool { return s.lo > s.hi }

// cellMean is what one cell of an image covers: one channel, or red, green, blue
// and alpha.
type cellMean struct {
	sum [4]float64
	n   float64
}

// value is the mean, NaN of nothing.
func (c *cellMean) value(k int) float64 { return c.sum[k] / c.n }

// isImage, isColour: what an array is drawn as.
func isColour(e *elements) bool {
	return len(e.dims) == 3 && (e.dims[2].n == 3 || e.dims[2].n == 4) && e.dtype.Kind == 'u' && e.dtype.Size == 1
}

// newPlot reads the array, and reduces it: a line to width columns, an image to a
// width and height that fit takes from its own.
func (a *app) newPlot(e *elements, width int, fit func(h, w int) (rows, cols int)) (*plot, error) {
	read := e.dtype.Float()
	if e.dtype.Kind == 'c' {
		part := e.dtype.Part()
		f := part.Float()
		read = func(p []byte) float64 { return math.Hypot(f(p), f(p[part.Size:])) }
	}
	switch {
	case e.dtype.IsStruct():
		return nil, hint(fmt.Errorf("%s holds structures, of which one field can be drawn", printable(e.name)), "%s", fieldHint(&e.dtype))
	case read == nil:
		return nil, hint(fmt.Errorf("%s holds %s, which are no numbers", printable(e.name), e.dtype.String()), "shm array%s %s", a.placeFlags(), shellQuote(e.name))
	case e.count() == 0:
		return nil, hint(fmt.Errorf("%s has no elements", printable(e.name)), "shm info%s %s", a.placeFlags(), shellQuote(e.name))
	case len(e.dims) == 0 || len(e.dims) > 2 && !isColour(e):
		return nil, hint(fmt.Errorf("%s has the shape %s, and a line has one axis, an image two", printable(e.name), npy.PyShape(e.shape())),
			"shm plot%s %s INDEX   (such as 0 or '..., 0', to have fewer axes)", a.placeFlags(), shellQuote(e.name))
	}
	p := &plot{title: printable(e.name) + ": " + e.about(), lo: math.Inf(1), hi: math.Inf(-1), number: func(f float64) string { return human(f) }}
	if e.dtype.Kind == 'M' {
		p.number = func(f float64) string { return npy.Time{N: int64(f), Unit: e.dtype.Unit}.String() }
	}
	var done atomic.Int64
	e.done = func(n int64) { done.Add(n) }
	stop := a.progress("read "+printable(e.name), int64(e.count())*int64(e.dtype.Size), done.Load)
	defer stop()
	var err error
	if len(e.dims) == 1 {
		err = p.readLine(e, read, width)
	} else {
		p.h, p.w, p.colour = e.dims[0].n, e.dims[1].n, len(e.dims) == 3
		p.rows, p.cols = fit(p.h, p.w)
		p.rows, p.cols = min(p.rows, p.h), min(p.cols, p.w)
		err = p.readImage(e, read)
	}
	if err != nil {
		return nil, err
	}
	if p.lo > p.hi {
		return nil, hint(fmt.Errorf("%s has no finite numbers to draw", printable(e.name)), "shm info%s %s", a.placeFlags(), shellQuote(e.name))
	}
	return p, nil
}

// see takes a number into account; it is false for a gap.
func (p *plot) see(f float64) bool {
	if f-f != 0 {
		p.gaps++
		return false
	}
	p.lo, p.hi = min(p.lo, f), max(p.hi, f)
	return true
}

func (p *plot) readLine(e *elements, read func([]byte) float64, width int) error {
	p.n = e.dims[0].n
	p.columns = make([]span, min(p.n, width))
	for i := range p.columns {
		p.columns[i] = span{lo: math.Inf(1), hi: math.Inf(-1)}
	}
	i, col, end := 0, -1, 0
	return e.rows(func(_ []int, c chunk) error {
		for k := range c.n {
			if i == end {
				col++
				end = upTo(col+1, p.n, len(p.columns))
			}
			i++
			f := read(c.p[c.at+k*c.step:])
			if !p.see(f) {
				continue
			}
			s := &p.columns[col]
			if s.empty() {
				s.first = f
			}
			s.last = f
			s.lo, s.hi = min(s.lo, f), max(s.hi, f)
		}
		return nil
	})
}

// upTo is where the part before the k-th of parts equal ones of n ends.
func upTo(k, n, parts int) int { return int(int64(k) * int64(n) / int64(parts)) }

func (p *plot) readImage(e *elements, read func([]byte) float64) error {
	p.cells = make([]cellMean, p.rows*p.cols)
	channels := 1
	if p.colour {
		channels = e.dims[2].n
	}
	i, y, x, channel := 0, 0, 0, 0
	row, endRow := 0, upTo(1, p.h, p.rows)
	col, endCol := 0, upTo(1, p.w, p.cols)
	return e.rows(func(_ []int, c chunk) error {
		for k := range c.n {
			f := read(c.p[c.at+k*c.step:])
			if p.see(f) {
				cell := &p.cells[row*p.cols+col]
				cell.sum[channel] += f
				if channel == 0 {
					cell.n++
				}
			}
			i++
			if channel++; channel < channels {
				continue
			}
			channel = 0
			if x++; x == endCol && x < p.w {
				col++
				endCol = upTo(col+1, p.w, p.cols)
			}
			if x < p.w {
				continue
			}
			x, col, endCol = 0, 0, upTo(1, p.w, p.cols)
			if y++; y == endRow && y < p.h {
				row++
				endRow = upTo(row+1, p.h, p.rows)
			}
		}
		return nil
	})
}

// at is the colour of a cell, and whether there is one.
func (p *plot) at(row, col int) (color.NRGBA, bool) {
	c := &p.cells[row*p.cols+col]
	if c.n == 0 {
		return color.NRGBA{}, false
	}
	if p.colour {
		out := color.NRGBA{uint8(c.value(0) + 0.5), uint8(c.value(1) + 0.5), uint8(c.value(2) + 0.5), 255}
		if c.sum[3] > 0 {
			out.A = uint8(c.value(3) + 0.5)
		}
		return out, true
	}
	return viridis(p.level(c.value(0))), true
}

// level is where between smallest and largest a number lies, from 0 to 1.
func (p *plot) level(f float64) float64 {
	if p.hi == p.lo {
		return 0.5
	}
	// Halved, as the difference of two numbers may be no number.
	return min(max((f/2-p.lo/2)/(p.hi/2-p.lo/2), 0), 1)
}

// viridis is matplotlib's colours, which get brighter all the way and which those
// who do not see all colours can tell apart: some of them, and between these lines.
func viridis(level float64) color.NRGBA {
	table := [...][3]float64{{68, 1, 84}, {72, 40, 120}, {62, 74, 137}, {49, 104, 142}, {38, 130, 142},
		{31, 158, 137}, {53, 183, 121}, {109, 205, 89}, {180, 222, 44}, {253, 231, 37}}
	at := level * float64(len(table)-1)
	i := min(int(at), len(table)-2)
	part := at - float64(i)
	mix := func(k int) uint8 { return uint8(table[i][k]*(1-part) + table[i+1][k]*part + 0.5) }
	return color.NRGBA{mix(0), mix(1), mix(2), 255}
}

// ticks are round numbers from lo to hi, at most so many, and how to write them.
func ticks(lo, hi float64, most int) (at []float64, text func(float64) string) {
	raw := (hi/2 - lo/2) / float64(max(most, 1)) * 2
	if !(raw > 0) || math.IsInf(raw, 0) {
		return []float64{lo}, human
	}
	exp := math.Floor(math.Log10(raw))
	step := math.Pow(10, exp)
	for _, m := range []float64{1, 2, 5, 10} {
		if m*math.Pow(10, exp) >= raw*0.999 {
			step = m * math.Pow(10, exp)
			break
		}
	}
	digits := max(0, -int(math.Floor(math.Log10(step)+1e-9)))
	text = func(f float64) string { return fmt.Sprintf("%.*f", digits, f) }
	if abs := max(math.Abs(lo), math.Abs(hi)); abs >= 1e6 || digits > 6 {
		text = human
	}
	for i := math.Ceil(lo/step - 1e-9); len(at) <= most+1; i++ {
		v := i * step
		if v > hi+step*1e-9 {
			break
		}
		at = append(at, v+0) // no -0
	}
	return at, text
}

// bounds are what the vertical axis of a line covers: more than one number.
func (p *plot) bounds() (lo, hi float64) {
	if p.lo == p.hi {
		by := max(math.Abs(p.lo)/10, 1)
		if p.lo == 0 {
			by = 1
		}
		return p.lo - by, p.hi + by
	}
	return p.lo, p.hi
}

// note is the line below a plot.
func (p *plot) note() string {
	if p.colour {
		return ""
	}
	s := "min " + p.number(p.lo) + ", max " + p.number(p.hi)
	if p.gaps > 0 {
		s += fmt.Sprintf(", %d NaN or infinite", p.gaps)
	}
	return s
}

// plotFile writes a PNG or SVG file, which gets its name when it is complete.
func (a *app) plotFile(e *elements, width, height int, path, ext string, replace bool) error {
	if _, err := os.Lstat(path); err == nil && !replace {
		return hint(fmt.Errorf("%s exists", printable(path)), "--replace, or another name")
	}
	p, err := a.newPlot(e, max(width-sheetLeft-sheetRight, 1), func(h, w int) (int, int) {
		return fitInto(h, w, height-sheetTop-sheetBottom, width-sheetLeft-sheetRight)
	})
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".shm-plot-*")
	if err != nil {
		return err
	}
	err = func() error {
		var s sheet = newPNGSheet(width, height)
		if ext == ".svg" {
			s = newSVGSheet(width, height)
		}
		p.draw(s, width, height)
		return s.write(tmp)
	}()
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	err = cmp.Or(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// fitInto keeps the proportions of an image: the largest that fits, and if it is
// small, so many times as large.
func fitInto(h, w, roomH, roomW int) (rows, cols int) {
	roomH, roomW = max(roomH, 1), max(roomW, 1)
	if k := min(roomH/h, roomW/w); k > 0 {
		return h * k, w * k
	}
	scale := max(float64(h)/float64(roomH), float64(w)/float64(roomW))
	return max(1, min(roomH, int(float64(h)/scale+0.5))), max(1, min(roomW, int(float64(w)/scale+0.5)))
}

// plotTerminal draws with characters.
func (a *app) plotTerminal(e *elements, width, height int, ascii bool) error {
	if width == 0 || height == 0 {
		w, h := 80, 24
		if f := file(a.stdout); isTerminal(a.stdout) {
			if tw, th, err := term.GetSize(int(f.Fd())); err == nil && tw > 0 && th > 0 {
				w, h = tw, th
			}
		}
		// A line needs no more; of an image every line counts.
		if width == 0 {
			width = w
		}
		if height == 0 {
			height = max(h-4, 8)
			if len(e.dims) == 1 {
				height = min(height, 20)
			}
		}
	}
	c := canvas{w: width, h: height, ascii: ascii, colour: a.coloured(a.stdout)}
	room := max(width-c.gutter(e), 4)
	p, err := a.newPlot(e, c.across(room), func(h, w int) (int, int) { return c.fit(h, w, room) })
	if err != nil {
		return err
	}
	_, err = io.WriteString(a.stdout, c.draw(p, room))
	return err
}
