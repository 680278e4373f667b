package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Plots are written as SVG by hand: bars and lines need little, a label that
// must end where its bar begins needs text-anchor, and the plotting packages
// place it by the widths of a font that the reader may not have.

// A figure is one plot.
type figure struct {
	name string
	svg  []byte
}

func (f figure) save(folder string) error {
	return os.WriteFile(filepath.Join(folder, f.name+".svg"), f.svg, 0o644)
}

const (
	oursColor = "#007d9c"
	peerColor = "#9aa5b1"
	goodColor = "#2e8b57"
	badColor  = "#c0392b"
	gridColor = "#d5dade"
	letter    = 6.6 // about the width of one, at the size used
)

var lineColors = []string{oursColor, "#d98a1f", "#6b4c9a", badColor}

// A canvas is a picture being written.
type canvas struct{ bytes.Buffer }

func newCanvas(width, height float64, title string) *canvas {
	c := &canvas{}
	fmt.Fprintf(c, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %[1]g %[2]g" font-family="Liberation Sans, DejaVu Sans, Arial, sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(c, `<rect width="100%%" height="100%%" fill="#fff"/>`+"\n")
	fmt.Fprintf(c, `<text x="%g" y="22" font-size="15" text-anchor="middle">%s</text>`+"\n", width/2, html.EscapeString(title))
	return c
}

// text's anchor is "start", "middle" or "end". The white seam keeps it legible
// on lines.
func (c *canvas) text(x, y float64, anchor, s string) {
	fmt.Fprintf(c, `<text x="%.1f" y="%.1f" text-anchor="%s" stroke="#fff" stroke-width="4" paint-order="stroke">%s</text>`+"\n", x, y, anchor, html.EscapeString(s))
}

func (c *canvas) line(x1, y1, x2, y2 float64, style string) {
	fmt.Fprintf(c, `<path d="M%.1f %.1fL%.1f %.1f" %s/>`+"\n", x1, y1, x2, y2, style)
}

func (c *canvas) finish(name string) figure {
	c.WriteString("</svg>\n")
	return figure{name, c.Bytes()}
}

// ticks of an axis from 0 to limit: about five, at round numbers.
func axisTicks(limit float64) (at []float64) {
	step := math.Pow(10, math.Floor(math.Log10(limit/5)))
	for _, m := range []float64{1, 2, 5, 10} {
		if limit/(m*step) <= 6 {
			step *= m
			break
		}
	}
	for i := 0; float64(i)*step <= limit*1.0001; i++ {
		at = append(at, float64(i)*step)
	}
	return at
}

// number writes a tick's value without the dust of floating point.
func number(v float64) string { return fmt.Sprintf("%.6g", v) }

// A bar is a line of a bar chart.
type bar struct {
	name, text, color string
	value             float64
	low, high         float64 // whiskers, if high > 0
}

// barChart draws bars from the left, the first on top; mark draws a line there
// if it is not 0.
func barChart(name, title, axis string, bars []bar, mark float64) figure {
	longest, written, limit := 0, 0, mark
	for _, b := range bars {
		longest, written = max(longest, len([]rune(b.name))), max(written, len([]rune(b.text)))
		limit = max(limit, b.value, b.high)
	}
	if limit <= 0 {
		limit = 1
	}
	const step, top = 24, 38
	left, plot, right := 16+letter*float64(longest), 420.0, 16+letter*float64(written)
	bottom := float64(top + step*len(bars))
	c := newCanvas(left+plot+right, bottom+46, title)
	x := func(v float64) float64 { return left + plot*v/limit }
	for _, t := range axisTicks(limit) {
		c.line(x(t), top, x(t), bottom, `stroke="`+gridColor+`"`)
		c.text(x(t), bottom+16, "middle", number(t))
	}
	c.text(left+plot/2, bottom+36, "middle", axis)
	if mark != 0 {
		c.line(x(mark), top-4, x(mark), bottom, `stroke="#000" stroke-dasharray="5 4"`)
	}
	for i, b := range bars {
		y := float64(top + step*i)
		fmt.Fprintf(c, `<rect x="%.1f" y="%.1f" width="%.1f" height="%d" fill="%s"/>`+"\n", left, y+4, max(1, x(b.value)-left), step-8, b.color)
		end := max(b.value, b.high)
		if b.high > 0 {
			c.line(x(b.low), y+step/2, x(b.high), y+step/2, `stroke="#333"`)
		}
		c.text(left-6, y+16, "end", b.name)
		c.text(x(end)+6, y+16, "start", b.text)
	}
	return c.finish(name)
}

// isOurs tells our rows from the peers', for their colour.
func isOurs(name string) bool {
	for _, prefix := range []string{"shm", "ReadAt", "WriteAt", "Do ", "Acquire", "Bytes", "At[", "Slice[", "a word", "create", "OpenOrCreate", "Open,", "Wait", "list.", "List."} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// rowChart shows the medians of a case, with the 10th and 90th percentile.
func rowChart(name, title string, rows []Row) figure {
	largest := 0.0
	for _, r := range rows {
		largest = max(largest, r.Median)
	}
	unit, scale := unitOf(largest)
	var bars []bar
	for _, r := range rows {
		b := bar{r.Name, timeText(r.Median), peerColor, r.Median / scale, r.Low / scale, r.High / scale}
		if isOurs(r.Name) {
			b.color = oursColor
		}
		bars = append(bars, b)
	}
	return barChart(name, title, unit+", median and 10 % to 90 % of the rounds; shorter is better", bars, 0)
}

// targetChart shows every verdict as the share of its allowance that is used
// up.
func targetChart(results []*Result) figure {
	var bars []bar
	for _, result := range results {
		for _, v := range result.Verdicts {
			share := v.Ratio / v.Limit
			if v.Faster {
				share = 1 / share
			}
			if v.Limit == 0 { // none allowed: 0 of it is within, any number beyond
				share = v.Ratio
				if share > 0 {
					share++
				}
			}
			c := v.cells()
			b := bar{name: result.ID + ": " + v.Ours, text: c[2] + ", asked " + c[3], color: badColor, value: max(0, share)}
			if v.Peer != "" {
				b.name += " / " + v.Peer
			}
			if v.Holds {
				b.color = goodColor
			}
			bars = append(bars, b)
		}
	}
	return barChart("targets", "How much of each allowance is used up", "share of the allowance; up to 1 holds, less is better", bars, 1)
}

// A series is a line of a plot.
type series struct {
	name string
	x, y []float64
}

func (s *series) add(x, y float64) { s.x, s.y = append(s.x, x), append(s.y, y) }

// lineChart draws series over common axes from 0.
func lineChart(name, title, xAxis, yAxis string, all []series) figure {
	const left, top, width, height = 64, 40, 600, 240
	xMax, yMax := 0.0, 0.0
	for _, s := range all {
		xMax, yMax = max(xMax, slices.Max(s.x)), max(yMax, slices.Max(s.y))
	}
	if xMax == 0 {
		xMax = 1
	}
	if yMax == 0 {
		yMax = 1
	}
	c := newCanvas(left+width+24, top+height+50+22*float64(len(all)), title)
	px := func(v float64) float64 { return left + width*v/xMax }
	py := func(v float64) float64 { return top + height - height*max(0, v)/yMax }
	for _, t := range axisTicks(xMax) {
		c.line(px(t), top, px(t), top+height, `stroke="`+gridColor+`"`)
		c.text(px(t), top+height+16, "middle", number(t))
	}
	for _, t := range axisTicks(yMax) {
		c.line(left, py(t), left+width, py(t), `stroke="`+gridColor+`"`)
		c.text(left-6, py(t)+4, "end", number(t))
	}
	c.text(left+width/2, top+height+36, "middle", xAxis)
	c.text(left, top-8, "end", yAxis)
	for i, s := range all {
		stroke := fmt.Sprintf(`fill="none" stroke="%s" stroke-width="2"`, lineColors[i%len(lineColors)])
		var path strings.Builder
		for j := range s.x {
			fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(j, 1)], px(s.x[j]), py(s.y[j]))
		}
		fmt.Fprintf(c, `<path d="%s" %s/>`+"\n", path.String(), stroke)
		y := float64(top + height + 56 + 22*i)
		c.line(left, y-4, left+24, y-4, stroke)
		c.text(left+32, y, "start", s.name)
	}
	return c.finish(name)
}

// distribution shows all samples of each row: how many were over by when.
func distribution(name, title string, rows []Row) figure {
	largest := 0.0
	for _, r := range rows {
		largest = max(largest, slices.Max(r.Samples))
	}
	unit, scale := unitOf(largest)
	var all []series
	for _, r := range rows {
		s := series{name: r.Name}
		for i, v := range slices.Sorted(slices.Values(r.Samples)) {
			s.add(v/scale, 100*float64(i+1)/float64(len(r.Samples)))
		}
		all = append(all, s)
	}
	return lineChart(name, title, unit+" after which so many were over", "%", all)
}
