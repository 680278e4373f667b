package cli

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"

	"github.com/sharedmem/shm/internal/platform/mem"
)

// A style is a terminal's escape sequence for a colour or weight.
type style string

const (
	plain  style = ""
	bold   style = "\x1b[1m"
	dim    style = "\x1b[2m"
	red    style = "\x1b[31m"
	green  style = "\x1b[32m"
	yellow style = "\x1b[33m"

	reset = "\x1b[0m"
)

// isTerminal says whether stream is a terminal that knows escape sequences.
func isTerminal(stream any) bool {
	f := file(stream)
	return f != nil && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// coloured says whether to colour what goes to stream. https://no-color.org
// lets the user's explicit wish win over the variable.
func (a *app) coloured(stream any) bool {
	switch a.color {
	case "always":
		return true
	case "never":
		return false
	}
	return os.Getenv("NO_COLOR") == "" && isTerminal(stream)
}

// paint styles a text for stdout, or leaves it alone where colour is off.
func (a *app) paint(s style, text string) string {
	if s == plain || text == "" || !a.coloured(a.stdout) {
		return text
	}
	return string(s) + text + reset
}

// size writes a number of bytes the way the flags ask for.
func (a *app) size(n int64) string {
	if a.exact {
		return strconv.FormatInt(n, 10)
	}
	return mem.Size(n)
}

// age writes how long ago t was, in one unit: "12s", "3m", "5h", "9d".
func age(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := max(now.Sub(t), 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// printable returns a name as it is, or quoted if it holds something that a
// terminal could take for a command or a reader for the end of the name: the
// names in a shared directory are chosen by anybody.
func printable(name string) string {
	ok := name != "" && utf8.ValidString(name) && !strings.HasPrefix(name, `"`)
	for _, r := range name {
		ok = ok && unicode.IsPrint(r)
	}
	if ok && strings.TrimSpace(name) == name {
		return name
	}
	return strconv.Quote(name)
}

// oneLine keeps a message on one line and free of escape sequences, since
// names and arguments appear in messages.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, strings.TrimSpace(s))
}

// shellQuote writes an argument so that it can be pasted into a shell.
func shellQuote(s string) string {
	safe := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:@%+=,", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !safe(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// writeJSON writes the one document of a command that was given --json.
func (a *app) writeJSON(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// A cell is a table's text with a colour.
type cell struct {
	style style
	text  string
}

// table collects rows and writes them in aligned columns, two spaces apart.
// text/tabwriter would count colours as width.
type table struct {
	a     *app
	right []bool
	rows  [][]cell
}

// newTable begins a table with its headings. A heading that begins with ">"
// makes its column flush right. Empty headings throughout leave the line out.
func (a *app) newTable(headings ...string) *table {
	t := &table{a: a, right: make([]bool, len(headings))}
	row, empty := make([]cell, len(headings)), true
	for i, h := range headings {
		h, t.right[i] = strings.CutPrefix(h, ">")
		row[i] = cell{bold, h}
		empty = empty && h == ""
	}
	if !empty {
		t.rows = append(t.rows, row)
	}
	return t
}

// row adds a line. Cells are of type cell, or anything fmt can print.
func (t *table) row(cells ...any) {
	row := make([]cell, len(t.right))
	for i, c := range cells {
		if cl, ok := c.(cell); ok {
			row[i] = cl
		} else {
			row[i].text = fmt.Sprint(c)
		}
	}
	t.rows = append(t.rows, row)
}

// flush writes the table to stdout.
func (t *table) flush() error {
	width := make([]int, len(t.right))
	for _, row := range t.rows {
		for i, c := range row {
			width[i] = max(width[i], utf8.RuneCountInString(c.text))
		}
	}
	w := bufio.NewWriter(t.a.stdout)
	for _, row := range t.rows {
		for i, c := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c.text))
			text := t.a.paint(c.style, c.text)
			switch {
			case t.right[i]:
				text = pad + text
			case i < len(row)-1 && !blank(row[i+1:]):
				text += pad
			}
			if i > 0 && !blank(row[i:]) {
				w.WriteString("  ")
			} else if i > 0 {
				break // no blanks at the ends of lines
			}
			w.WriteString(text)
		}
		w.WriteByte('\n')
	}
	return w.Flush()
}

func blank(row []cell) bool {
	for _, c := range row {
		if c.text != "" {
			return false
		}
	}
	return true
}
