package cli

import (
	"bytes"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"math"
	"strings"

	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/math/fixed"
)

// What is left free around a drawing, for its numbers.
const (
	sheetLeft, sheetRight = 80, 90
	sheetTop, sheetBottom = 30, 50
)

// A sheet is a page to draw on, y down, in pixels.
type sheet interface {
	line(x1, y1, x2, y2 int)
	curve(columns []span, x, y, w int, height func(float64) int) // from x on, w wide
	image(img image.Image, x, y, w, h int)
	text(x, y int, anchor anchor, s string) // y is the line the letters stand on
	write(w io.Writer) error
}

// anchor is which end of a text lies where it is put.
type anchor int

const (
	textStart anchor = iota
	textMiddle
	textEnd
)

var (
	ink  = color.NRGBA{0x20, 0x20, 0x20, 255}
	blue = color.NRGBA{0x1f, 0x77, 0xb4, 255}
)

// draw lays a plot out on a sheet, the same for all kinds of them.
func (p *plot) draw(s sheet, width, height int) {
	left, top := sheetLeft, sheetTop
	w, h := max(width-sheetLeft-sheetRight, 1), max(height-sheetTop-sheetBottom, 1)
	const letter = 7 // wide
	s.text(left, top-12, textStart, clipped(p.title, max((width-left)/letter, 1)))
	if p.columns != nil {
		lo, hi := p.bounds()
		y := func(f float64) int { return int(math.Round((1 - (f/2-lo/2)/(hi/2-lo/2)) * float64(h-1))) }
		s.curve(p.columns, left, top, w, y)
		at, text := ticks(lo, hi, max(h/60, 1))
		if p.number(lo) != human(lo) {
			text = p.number
		}
		for _, v := range at {
			s.line(left-5, top+y(v), left, top+y(v))
			s.text(left-8, top+y(v)+4, textEnd, clipped(text(v), (sheetLeft-8)/letter))
		}
	} else {
		h, w = fitInto(p.h, p.w, h, w)
		s.image(p.picture(), left, top, w, h)
		p.axis(s, p.h, h, func(at int, label string) {
			s.line(left-5, top+at, left, top+at)
			s.text(left-8, top+at+4, textEnd, label)
		})
		if !p.colour {
			p.bar(s, left+w+16, top, h)
		}
	}
	s.line(left, top, left, top+h)
	s.line(left, top+h, left+w, top+h)
	n := p.n
	if p.columns == nil {
		n = p.w
	}
	p.axis(s, n, w, func(at int, label string) {
		s.line(left+at, top+h, left+at, top+h+5)
		s.text(left+at, top+h+18, textMiddle, label)
	})
	s.text(left, top+h+36, textStart, clipped(p.note(), max((width-left)/letter, 1)))
}

// axis marks indices along so many pixels.
func (p *plot) axis(s sheet, n, room int, mark func(at int, label string)) {
	at, _ := ticks(0, float64(n-1), max(room/80, 1))
	for _, v := range at {
		if v != math.Trunc(v) {
			continue
		}
		x := 0
		switch {
		case p.columns == nil: // the middle of a pixel of the array
			x = int((v + 0.5) / float64(n) * float64(room))
		case n > 1:
			x = int(v / float64(n-1) * float64(room-1))
		default:
			x = room / 2
		}
		mark(x, fmt.Sprintf("%d", int(v)))
	}
}

// bar shows what colours the numbers have.
func (p *plot) bar(s sheet, x, y, h int) {
	img := image.NewNRGBA(image.Rect(0, 0, 1, 64))
	for i := range 64 {
		img.SetNRGBA(0, i, viridis(1-float64(i)/63))
	}
	s.image(img, x, y, 12, h)
	room := (sheetRight - 32) / 7
	s.text(x+16, y+10, textStart, clipped(p.number(p.hi), room))
	s.text(x+16, y+h, textStart, clipped(p.number(p.lo), room))
}

// picture is the image, a pixel for each cell; gaps are transparent.
func (p *plot) picture() image.Image {
	img := image.NewNRGBA(image.Rect(0, 0, p.cols, p.rows))
	for y := range p.rows {
		for x := range p.cols {
			if c, ok := p.at(y, x); ok {
				img.SetNRGBA(x, y, c)
			}
		}
	}
	return img
}

type pngSheet struct{ img *image.NRGBA }

func newPNGSheet(w, h int) *pngSheet {
	s := &pngSheet{image.NewNRGBA(image.Rect(0, 0, w, h))}
	draw.Draw(s.img, s.img.Bounds(), image.White, image.Point{}, draw.Src)
	return s
}

func (s *pngSheet) line(x1, y1, x2, y2 int) {
	bresenham(x1, y1, x2, y2, func(x, y int) { s.img.Set(x, y, ink) })
}

func (s *pngSheet) curve(columns []span, left, top, w int, height func(float64) int) {
	strokes(columns, w, height, func(x1, y1, x2, y2 int) {
		bresenham(x1, y1, x2, y2, func(x, y int) {
			s.img.Set(left+x, top+y, blue)
			s.img.Set(left+x, top+y+1, blue) // two pixels thick
		})
	})
}

func (s *pngSheet) image(img image.Image, left, top, w, h int) {
	b := img.Bounds()
	big := image.NewNRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			big.Set(x, y, img.At(x*b.Dx()/w, y*b.Dy()/h))
		}
	}
	draw.Draw(s.img, image.Rect(left, top, left+w, top+h), big, image.Point{}, draw.Over)
}

func (s *pngSheet) text(x, y int, a anchor, text string) {
	d := font.Drawer{Dst: s.img, Src: image.NewUniform(ink), Face: basicfont.Face7x13}
	x -= d.MeasureString(text).Round() * int(a) / 2
	d.Dot = fixed.P(x, y)
	d.DrawString(text)
}

func (s *pngSheet) write(w io.Writer) error { return png.Encode(w, s.img) }

type svgSheet struct {
	w, h int
	body bytes.Buffer
}

func newSVGSheet(w, h int) *svgSheet { return &svgSheet{w: w, h: h} }

func (s *svgSheet) line(x1, y1, x2, y2 int) {
	fmt.Fprintf(&s.body, "<path d=\"M%d %dL%d %d\" stroke=\"#202020\"/>\n", x1, y1, x2, y2)
}

func (s *svgSheet) curve(columns []span, left, top, w int, height func(float64) int) {
	s.body.WriteString(`<path fill="none" stroke="#1f77b4" stroke-width="1.5" stroke-linejoin="round" stroke-linecap="round" d="`)
	strokes(columns, w, height, func(x1, y1, x2, y2 int) {
		fmt.Fprintf(&s.body, "M%d %dL%d %d", left+x1, top+y1, left+x2, top+y2)
	})
	s.body.WriteString("\"/>\n")
}

func (s *svgSheet) image(img image.Image, x, y, w, h int) {
	var data bytes.Buffer
	if err := png.Encode(&data, img); err != nil {
		return // into memory it does not fail
	}
	fmt.Fprintf(&s.body, "<image x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" preserveAspectRatio=\"none\" style=\"image-rendering:pixelated\" href=\"data:image/png;base64,%s\"/>\n",
		x, y, w, h, base64.StdEncoding.EncodeToString(data.Bytes()))
}

func (s *svgSheet) text(x, y int, a anchor, text string) {
	var escaped strings.Builder
	if err := xml.EscapeText(&escaped, []byte(text)); err != nil {
		return // into memory it does not fail
	}
	fmt.Fprintf(&s.body, "<text x=\"%d\" y=\"%d\" text-anchor=\"%s\">%s</text>\n", x, y, [...]string{"start", "middle", "end"}[a], escaped.String())
}

func (s *svgSheet) write(w io.Writer) error {
	_, err := fmt.Fprintf(w, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %[1]d %[2]d\" font-family=\"monospace\" font-size=\"11.5\" fill=\"#202020\">\n"+
		"<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n%s</svg>\n", s.w, s.h, s.body.Bytes())
	return err
}
