package main

import (
	_ "embed"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"text/template"
)

//go:embed benchmarks.md.tmpl
var documentText string

// document is docs/benchmarks.md.
var document = template.Must(template.New("").Funcs(template.FuncMap{
	"time": timeText, "verdict": Verdict.cells, "row": tableRow, "rule": tableRule, "join": strings.Join,
	"wrap": func(s string) string { return strings.Join(strings.Fields(s), " ") },
}).Parse(documentText))

// print is a result for people who wait.
func (r *Result) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "\n%s\n", r.Title)
	for _, row := range r.Rows {
		fmt.Fprintf(t, "%s\t%s\t(%s to %s)\t\n", row.Name, timeText(row.Median), timeText(row.Low), timeText(row.High))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, row := range r.Facts {
		fmt.Fprintf(t, "%s\t\n", strings.Join(row, "\t"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, v := range r.Verdicts {
		fmt.Fprintf(t, "  %s\t\n", strings.Join(v.cells(), "\t"))
	}
	for _, m := range r.Missing {
		fmt.Fprintf(t, "not measured: %s\n", m)
	}
	return t.Flush()
}

// cells are a verdict's: ours, peer, their figures, what is asked, whether it
// holds.
func (v Verdict) cells() []string {
	holds := "yes"
	if !v.Holds {
		holds = "**no**"
	}
	if v.Peer == "" {
		return []string{v.Ours, "", fmt.Sprintf("%.1f %s", v.Ratio, v.Unit), fmt.Sprintf("≤ %g %s", v.Limit, v.Unit), holds}
	}
	ours, peer := v.Ours+", "+timeText(v.OursTime), v.Peer+", "+timeText(v.PeerTime)
	if v.Faster {
		return []string{ours, peer, fmt.Sprintf("%.2f× as fast", v.Ratio), fmt.Sprintf("≥ %g×", v.Limit), holds}
	}
	return []string{ours, peer, fmt.Sprintf("%.2f× the time", v.Ratio), fmt.Sprintf("≤ %g×", v.Limit), holds}
}

// Misses are the verdicts that do not hold, each with its case's title.
func (r Report) Misses() (s []string) {
	for _, result := range r.Results {
		for _, v := range result.Verdicts {
			if !v.Holds {
				c := v.cells()
				against := ""
				if v.Peer != "" {
					against = " against " + v.Peer
				}
				s = append(s, fmt.Sprintf("%s: %s%s, %s where %s was asked", result.Title, v.Ours, against, c[2], c[3]))
			}
		}
	}
	return s
}

// Spread is how far the rounds of a way lie apart, from the 10th to the 90th
// percentile, in percent of their median: the median of all ways.
func (r Report) Spread() float64 {
	var all []float64
	for _, result := range r.Results {
		for _, row := range result.Rows {
			all = append(all, 100*(row.High-row.Low)/row.Median)
		}
	}
	return quantile(all, 0.5)
}

// HasSpread tells rows that were measured in rounds from what has none.
func (r Result) HasSpread() bool { return len(r.Rows) > 0 }

// First is the row that the others are set beside.
func (r Result) First() float64 {
	if len(r.Rows) == 0 {
		return math.NaN()
	}
	return r.Rows[0].Median
}

// Ratio is row's time as a multiple of the first row's.
func (r Result) Ratio(row Row) string {
	if row.Median == r.First() {
		return "1"
	}
	return fmt.Sprintf("%.2f", row.Median/r.First())
}

// Figures are the names of the plots of a case.
func (r Result) Figures() (names []string) {
	for _, f := range r.plots {
		names = append(names, f.name)
	}
	return names
}

// write writes docs/benchmarks.md and its plots.
func (r Report) write(docs string) error {
	folder := filepath.Join(docs, "benchmarks")
	// Plots of cases that are no more shall not stay.
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	if err := targetChart(r.Results).save(folder); err != nil {
		return err
	}
	for _, result := range r.Results {
		if len(result.plots) == 0 && len(result.Rows) > 0 {
			result.plots = []figure{rowChart(result.ID, result.Title, result.Rows)}
		}
		for _, f := range result.plots {
			if err := f.save(folder); err != nil {
				return err
			}
		}
	}
	f, err := os.Create(filepath.Join(docs, "benchmarks.md"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := document.Execute(f, r); err != nil {
		return err
	}
	return f.Close()
}

func tableRow(cells []string) string { return "| " + strings.Join(cells, " | ") + " |" }

func tableRule(cells []string) string {
	return "|" + strings.Repeat(" --- |", len(cells))
}

// unitOf is the unit that makes a time of ns nanoseconds readable, and how
// many of them it has.
func unitOf(ns float64) (string, float64) {
	switch {
	case ns >= 1e9:
		return "s", 1e9
	case ns >= 1e6:
		return "ms", 1e6
	case ns >= 1e3:
		return "µs", 1e3
	}
	return "ns", 1
}

// timeText writes nanoseconds with three digits.
func timeText(ns float64) string {
	unit, scale := unitOf(ns)
	return digits(ns/scale) + " " + unit
}

func digits(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func bytesText(n float64) string {
	units := []string{"B", "KiB", "MiB", "GiB"}
	i := 0
	for ; math.Abs(n) >= 1024 && i < len(units)-1; i++ {
		n /= 1024
	}
	if n == math.Trunc(n) {
		return fmt.Sprintf("%.0f %s", n, units[i])
	}
	return fmt.Sprintf("%.1f %s", n, units[i])
}
