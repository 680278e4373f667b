package cli

import (
	"fmt"
	"image/color"
	"math"
	"os"
	"strings"
	"unicode/utf8"
)

// canvas draws a plot with characters: of w columns and h lines in all.
type canvas struct {
	w, h   int
	ascii  bool
	colour bool
}

const (
	// gutterLine is what the numbers beside a line take.
	gutterLine = 12
	// shades are from dark to bright, for images without colours.
	shades      = " ░▒▓█"
	shadesASCII = " .:-=+*#%@"
)

// gutter is the columns left of the drawing.
func (c *canvas) gutter(e *elements) int {
	if len(e.dims) == 1 {
		return gutterLine
	}
	return len(fmt.Sprint(max(e.dims[0].n-1, 0))) + 2
}

// across is how many points lie side by side: two in a character of Braille.
func (c *canvas) across(room int) int {
	if c.ascii {
		return room
	}
	return 2 * room
}

// down is how many points lie one above the other in a character.
func (c *canvas) down() int {
	if c.ascii {
		return 1
	}
	return 4
}

// halves says whether a character holds two pixels, one above the other.
func (c *canvas) halves() bool { return c.colour && !c.ascii }

// fit is the size of an image in pixels. A character is twice as high as wide.
func (c *canvas) fit(h, w, room int) (rows, cols int) {
	lines := max(c.h-2, 1)
	rows, cols = fitInto(h, w, 2*lines, room)
	if !c.halves() {
		rows = max(1, (rows+1)/2)
	}
	return rows, cols
}

func (c *canvas) draw(p *plot, room int) string {
	var out strings.Builder
	out.WriteString(p.title + "\n")
	if p.columns != nil {
		c.line(&out, p, room)
	} else {
		c.image(&out, p, room)
	}
	if note := p.note(); note != "" {
		out.WriteString(note + "\n")
	}
	return out.String()
}

// line draws points, then puts them into characters.
func (c *canvas) line(out *strings.Builder, p *plot, room int) {
	lines := max(c.h-4, 2)
	w, h := c.across(room), lines*c.down()
	dots := make([]bool, w*h)
	lo, hi := p.bounds()
	y := func(f float64) int {
		return h - 1 - min(max(int(math.Round((f/2-lo/2)/(hi/2-lo/2)*float64(h-1))), 0), h-1)
	}
	strokes(p.columns, w, y, func(x1, y1, x2, y2 int) {
		bresenham(x1, y1, x2, y2, func(x, y int) { dots[y*w+x] = true })
	})

	labels := make([]string, lines)
	at, text := ticks(lo, hi, max(lines/3, 2))
	if c := p.number(lo); c != human(lo) {
		text = p.number
	}
	for _, v := range at {
		labels[y(v)/c.down()] = clipped(text(v), gutterLine-2)
	}
	axis, corner, dash := "│", "└", "─"
	if c.ascii {
		axis, corner, dash = "|", "+", "-"
	}
	for row := range lines {
		tick := axis
		if labels[row] != "" && !c.ascii {
			tick = "┤"
		}
		text := make([]rune, room)
		for col := range room {
			text[col] = c.character(dots, w, row, col)
		}
		fmt.Fprintf(out, "%s %s%s\n", padLeft(labels[row], gutterLine-2), tick, c.painted(strings.TrimRight(string(text), " \u2800")))
	}
	fmt.Fprintf(out, "%s%s%s\n", strings.Repeat(" ", gutterLine-1), corner, strings.Repeat(dash, room))
	fmt.Fprintf(out, "%s%s\n", strings.Repeat(" ", gutterLine), endLabels(p.n, room))
}

// painted colours a line's characters.
func (c *canvas) painted(s string) string {
	if !c.colour || s == "" {
		return s
	}
	return string(green) + s + reset
}

// character is what stands for some points.
func (c *canvas) character(dots []bool, w, row, col int) rune {
	if c.ascii {
		if dots[row*w+col] {
			return '*'
		}
		return ' '
	}
	// The bits of Braille: down the left, then the right, and the lowest two last.
	bits := [4][2]rune{{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}}
	r := rune(0x2800)
	for y := range 4 {
		for x := range 2 {
			if dots[(4*row+y)*w+2*col+x] {
				r |= bits[y][x]
			}
		}
	}
	return r
}

// endLabels is the first and last index, at the ends of an axis.
func endLabels(n, room int) string {
	last := fmt.Sprint(n - 1)
	if n == 1 || len(last)+3 > room {
		return "0"
	}
	return "0" + padLeft(last, room-1)
}

// strokes draws the columns of a line over so many points: each from its smallest to
// its largest, and to the next one, unless there is a gap.
func strokes(columns []span, w int, y func(float64) int, stroke func(x1, y1, x2, y2 int)) {
	x := func(i int) int {
		if len(columns) == 1 {
			return w / 2
		}
		return i * (w - 1) / (len(columns) - 1)
	}
	for i, s := range columns {
		if s.empty() {
			continue
		}
		stroke(x(i), y(s.lo), x(i), y(s.hi))
		if i > 0 && !columns[i-1].empty() {
			stroke(x(i-1), y(columns[i-1].last), x(i), y(s.first))
		}
	}
}

func bresenham(x1, y1, x2, y2 int, set func(x, y int)) {
	dx, dy := max(x2-x1, x1-x2), -max(y2-y1, y1-y2)
	sx, sy := 1, 1
	if x1 > x2 {
		sx = -1
	}
	if y1 > y2 {
		sy = -1
	}
	for err := dx + dy; ; {
		set(x1, y1)
		if x1 == x2 && y1 == y2 {
			return
		}
		e := 2 * err
		if e >= dy {
			err += dy
			x1 += sx
		}
		if e <= dx {
			err += dx
			y1 += sy
		}
	}
}

// image draws cells, which may be fewer than the pixels.
func (c *canvas) image(out *strings.Builder, p *plot, room int) {
	rows, cols := c.fit(p.h, p.w, room)
	per := 1
	if c.halves() {
		per = 2
	}
	gutter := len(fmt.Sprint(max(p.h-1, 0))) + 2
	lines := (rows + per - 1) / per
	for line := range lines {
		label := ""
		switch line {
		case 0:
			label = "0"
		case lines - 1:
			label = fmt.Sprint(p.h - 1)
		}
		out.WriteString(padLeft(label, gutter-1) + " ")
		var last string
		for x := range cols {
			col := x * p.cols / cols
			if !c.halves() {
				out.WriteRune(c.shade(p, line*p.rows/rows, col))
				continue
			}
			top, hasTop := p.at(2*line*p.rows/rows, col)
			var low color.NRGBA
			hasLow := false
			if 2*line+1 < rows {
				low, hasLow = p.at((2*line+1)*p.rows/rows, col)
			}
			seq, char := reset, " "
			switch {
			case hasTop && hasLow:
				seq, char = reset+foreground(top, 38)+foreground(low, 48), "▀"
			case hasTop:
				seq, char = reset+foreground(top, 38), "▀"
			case hasLow:
				seq, char = reset+foreground(low, 38), "▄"
			}
			if seq != last { // neighbours are often alike
				out.WriteString(seq)
				last = seq
			}
			out.WriteString(char)
		}
		if c.halves() {
			out.WriteString(reset)
		}
		out.WriteByte('\n')
	}
	fmt.Fprintf(out, "%s%s\n", strings.Repeat(" ", gutter), endLabels(p.w, cols))
	if !p.colour {
		out.WriteString(strings.Repeat(" ", gutter) + c.legend(p) + "\n")
	}
}

// legend is a bar of what the numbers from smallest to largest look like.
func (c *canvas) legend(p *plot) string {
	var bar strings.Builder
	const n = 20
	for i := range n {
		level := float64(i) / (n - 1)
		if c.halves() {
			bar.WriteString(foreground(viridis(level), 38) + "█")
		} else {
			bar.WriteRune(c.shadeOf(level))
		}
	}
	if c.halves() {
		bar.WriteString(reset)
	}
	return p.number(p.lo) + " [" + bar.String() + "] " + p.number(p.hi)
}

// shade is a cell without colour.
func (c *canvas) shade(p *plot, row, col int) rune {
	cell := &p.cells[row*p.cols+col]
	switch {
	case cell.n == 0:
		return ' '
	case p.colour:
		// How bright it looks, by the weights of BT.601.
		return c.shadeOf((0.299*cell.value(0) + 0.587*cell.value(1) + 0.114*cell.value(2)) / 255)
	}
	return c.shadeOf(p.level(cell.value(0)))
}

func (c *canvas) shadeOf(level float64) rune {
	set := shades
	if c.ascii {
		set = shadesASCII
	}
	n := utf8.RuneCountInString(set)
	return []rune(set)[min(int(level*float64(n)), n-1)]
}

// foreground is the sequence for a colour, 38 before and 48 behind a character:
// all of them where the terminal says that it knows them, else the nearest of 256.
func foreground(c color.NRGBA, what int) string {
	if t := os.Getenv("COLORTERM"); t == "truecolor" || t == "24bit" {
		return fmt.Sprintf("\x1b[%d;2;%d;%d;%dm", what, c.R, c.G, c.B)
	}
	six := func(v uint8) int { return (int(v)*5 + 127) / 255 }
	return fmt.Sprintf("\x1b[%d;5;%dm", what, 16+36*six(c.R)+6*six(c.G)+six(c.B))
}
