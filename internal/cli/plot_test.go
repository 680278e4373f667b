package cli

import (
	"bytes"
	"encoding/xml"
	"image/color"
	"image/png"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// plotOf draws an array with characters.
func plotOf(t *testing.T, data []byte, c canvas) string {
	t.Helper()
	e := elementsOf(t, data, &arrayFlags{order: "C"})
	room := c.w - c.gutter(e)
	p, err := (&app{}).newPlot(e, c.across(room), func(h, w int) (int, int) { return c.fit(h, w, room) })
	if err != nil {
		t.Fatal(err)
	}
	return c.draw(p, room)
}

func TestPlotLine(t *testing.T) {
	line := npyOver(t, []float64{0, 1, 2, math.NaN(), 2, 1, math.Inf(1), 0}, 8)
	want := `x: <f8, shape (8,)
         2 |  *     *
         1 | * *     *
           | . .
         0 |*          *
           +---------
            0       7
`
	got := plotOf(t, line, canvas{w: 20, h: 8, ascii: true})
	// A slope may be drawn in more than one way; the gaps, the ends and the labels may not.
	rows := strings.Split(got, "\n")
	if !strings.HasPrefix(got, strings.SplitAfter(want, "\n")[0]) || !strings.HasPrefix(rows[1], "         2 |") || !strings.HasPrefix(rows[4], "         0 |*") ||
		!strings.HasSuffix(rows[4], "*") || !strings.HasSuffix(got, "\nmin 0, max 2, 2 NaN or infinite\n") {
		t.Errorf("%s", got)
	}
	for _, row := range rows[1:5] {
		r := []rune(row + strings.Repeat(" ", 12))
		if cells := r[12:20]; cells[3] != ' ' || cells[6] != ' ' {
			t.Errorf("no gap at 3 and 6: %s", row)
		}
	}
	// Of a hundred points in a column all that is seen is the smallest and largest.
	spikes := make([]float64, 10_000)
	spikes[1234], spikes[8765] = 1, -1
	got = plotOf(t, npyOver(t, spikes, len(spikes)), canvas{w: 60, h: 12, ascii: true})
	rows = strings.Split(got, "\n")
	if strings.Count(rows[1], "*") != 1 || strings.Count(rows[8], "*") != 1 {
		t.Errorf("no spikes:\n%s", got)
	}
	for _, row := range rows[:len(rows)-1] {
		if len(row) > 60 {
			t.Errorf("%d columns: %s", len(row), row)
		}
	}
	got = plotOf(t, npyOver(t, spikes, len(spikes)), canvas{w: 60, h: 12})
	for _, row := range strings.Split(got, "\n") {
		if utf8.RuneCountInString(row) > 60 || strings.Contains(row, "\x1b") {
			t.Errorf("%q", row)
		}
	}
	if !strings.ContainsRune(got, '⠀') && !strings.ContainsAny(got, "⡇⢸⠤⣀⠒⠉") {
		t.Errorf("no Braille:\n%s", got)
	}
	for _, flat := range [][]byte{npyOver(t, []int32{7}, 1), npyOver(t, []float64{0, 0, 0}, 3), npyOver(t, []float64{-math.MaxFloat64, math.MaxFloat64}, 2), npyOver(t, []uint64{math.MaxUint64, math.MaxUint64}, 2)} {
		if got := plotOf(t, flat, canvas{w: 40, h: 10, ascii: true}); !strings.Contains(got, "*") {
			t.Errorf("nothing drawn:\n%s", got)
		}
	}
}

func TestPlotImage(t *testing.T) {
	ramp := make([]float32, 8*8)
	for i := range ramp {
		ramp[i] = float32(i % 8)
	}
	ramp[0] = float32(math.NaN())
	file := npyOver(t, ramp, 8, 8)
	got := plotOf(t, file, canvas{w: 11, h: 6, ascii: true})
	rows := strings.Split(got, "\n")
	if rows[1] != "0  :-+*#%@" && !strings.HasSuffix(rows[1], "@") || !strings.Contains(got, "min 0, max 7, 1 NaN or infinite") || !strings.Contains(got, "[  ..::--==++**##%%@@] 7") {
		t.Errorf("%s", got)
	}
	t.Setenv("COLORTERM", "")
	if got := plotOf(t, file, canvas{w: 11, h: 6, colour: true}); !strings.Contains(got, "\x1b[38;5;") || !strings.Contains(got, "▀") || !strings.Contains(got, "\x1b[48;5;") {
		t.Errorf("%q", got)
	}
	t.Setenv("COLORTERM", "truecolor")
	if got := plotOf(t, file, canvas{w: 11, h: 6, colour: true}); !strings.Contains(got, "\x1b[48;2;253;231;37m") {
		t.Errorf("%q", got)
	}
	pixels := make([]uint8, 4*4*3)
	for i := range 4 * 4 {
		pixels[3*i] = 255 // red
	}
	if got := plotOf(t, npyOver(t, pixels, 4, 4, 3), canvas{w: 11, h: 6, colour: true}); !strings.Contains(got, "\x1b[38;2;255;0;0m") || strings.Contains(got, "min") {
		t.Errorf("%q", got)
	}
}

// Means and extremes do not depend on how the elements lie.
func TestPlotReduces(t *testing.T) {
	values := make([]float64, 97*131)
	for i := range values {
		values[i] = float64(i)
	}
	e := elementsOf(t, npyOver(t, values, 97, 131), &arrayFlags{order: "C"})
	p, err := (&app{}).newPlot(e, 0, func(h, w int) (int, int) { return 10, 20 })
	if err != nil {
		t.Fatal(err)
	}
	for row := range p.rows {
		for col := range p.cols {
			sum, n := 0.0, 0.0
			for y := upTo(row, 97, 10); y < upTo(row+1, 97, 10); y++ {
				for x := upTo(col, 131, 20); x < upTo(col+1, 131, 20); x++ {
					sum += values[131*y+x]
					n++
				}
			}
			if c := p.cells[row*20+col]; c.n != n || math.Abs(c.value(0)-sum/n) > 1e-9 {
				t.Fatalf("cell %d, %d: %v of %v, want %v of %v", row, col, c.value(0), c.n, sum/n, n)
			}
		}
	}
	e = elementsOf(t, npyOver(t, values, len(values)), &arrayFlags{order: "C", index: "::-1"})
	if p, err = (&app{}).newPlot(e, 100, nil); err != nil {
		t.Fatal(err)
	}
	for i, s := range p.columns {
		lo, hi := upTo(i, len(values), 100), upTo(i+1, len(values), 100)-1
		if top := float64(len(values) - 1); s.first != top-float64(lo) || s.last != top-float64(hi) || s.lo != s.last || s.hi != s.first {
			t.Fatalf("column %d: %+v", i, s)
		}
	}
}

// The files are what their suffix says, whole, and never half written.
func TestPlotFile(t *testing.T) {
	dir := blockDir(t)
	out := t.TempDir()
	ramp := make([]float64, 6*6)
	for i := range ramp {
		ramp[i] = float64(i)
	}
	for name, data := range map[string][]byte{"line<&>": npyOver(t, ramp, 36), "image": npyOver(t, ramp, 6, 6)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, ext := range []string{".png", ".svg"} {
			path := filepath.Join(out, "x"+ext)
			args := []string{"--dir", dir, "plot", name, "-o", path, "--replace", "--width", "400", "--height", "300"}
			if status, _, errs := run(t, "", args...); status != 0 {
				t.Fatal(errs)
			}
			if status, _, errs := run(t, "", "--dir", dir, "plot", name, "-o", path); status != exitFailure || !strings.Contains(errs, "exists") {
				t.Errorf("once more: %d, %s", status, errs)
			}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if ext == ".svg" {
				d := xml.NewDecoder(bytes.NewReader(data))
				seen := map[string]int{}
				var text strings.Builder
				for {
					tok, err := d.Token()
					if tok == nil {
						if err.Error() != "EOF" {
							t.Errorf("%s: %v", name, err)
						}
						break
					}
					switch tok := tok.(type) {
					case xml.StartElement:
						seen[tok.Name.Local]++
					case xml.CharData:
						text.Write(tok)
					}
				}
				if seen["text"] < 5 || !strings.Contains(text.String(), name+": <f8") || seen["image"] != map[string]int{"image": 2}[name] {
					t.Errorf("%s: %v, %q", name, seen, text.String())
				}
				continue
			}
			img, err := png.Decode(bytes.NewReader(data))
			if err != nil || img.Bounds().Dx() != 400 || img.Bounds().Dy() != 300 {
				t.Fatalf("%v, %v", img, err)
			}
			if name == "image" { // 6 times as large as fits: 220 pixels, 36 each
				for i := range 6 {
					want := viridis(float64(7*i) / 35)
					if got := color.NRGBAModel.Convert(img.At(sheetLeft+36*i+18, sheetTop+36*i+18)); got != want {
						t.Errorf("pixel %d, %[1]d: %v, want %v", i, got, want)
					}
				}
			}
		}
	}
	left, err := os.ReadDir(out)
	if err != nil || len(left) != 2 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestTicks(t *testing.T) {
	for _, c := range []struct {
		lo, hi float64
		want   string
	}{
		{0, 1, "0.0 0.2 0.4 0.6 0.8 1.0"}, {-1, 1, "-1.0 -0.5 0.0 0.5 1.0"}, {0, 100, "0 20 40 60 80 100"}, {3, 4, "3.0 3.2 3.4 3.6 3.8 4.0"},
		{0, 2e9, "0 5e+08 1e+09 1.5e+09 2e+09"}, {0.001, 0.002, "0.0010 0.0012 0.0014 0.0016 0.0018 0.0020"}, {5, 5, "5"}, {0, math.Inf(1), "0"},
	} {
		at, text := ticks(c.lo, c.hi, 5)
		var got []string
		for _, v := range at {
			got = append(got, text(v))
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%g to %g: %s, want %s", c.lo, c.hi, s, c.want)
		}
	}
	if at, _ := ticks(-math.MaxFloat64, math.MaxFloat64, 5); len(at) == 0 || len(at) > 7 {
		t.Errorf("%v", at)
	}
}

// The characters are those that the locale has.
func TestPlotLocale(t *testing.T) {
	dir := blockDir(t)
	if err := os.WriteFile(filepath.Join(dir, "a"), npyOver(t, []float64{1, 2, 3}, 3), 0o600); err != nil {
		t.Fatal(err)
	}
	for locale, ascii := range map[string]bool{"C": true, "en_US.UTF-8": false, "de_DE.utf8": false, "": true, "ru_RU.KOI8-R": true} {
		t.Setenv("LC_ALL", "")
		t.Setenv("LC_CTYPE", "")
		t.Setenv("LANG", locale)
		status, out, errs := run(t, "", "--dir", dir, "plot", "a")
		if status != 0 || strings.Contains(out, "│") == ascii || ascii && len(out) != utf8.RuneCountInString(out) {
			t.Errorf("%s: %d %s\n%s", locale, status, errs, out)
		}
	}
}
