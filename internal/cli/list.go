package cli

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/layout"
	"github.com/sharedmem/shm/list"
)

func init() { verbs = append(verbs, newList) }

// listFlags are the flags of list.
type listFlags struct {
	create, verify bool
	from           string // with create: a file of JSON
	as             itemType
	opts           list.Options
}

func newList(a *app) *cobra.Command {
	var f listFlags
	f.opts.Block.Lifetime = shm.Persistent
	cmd := &cobra.Command{
		Use:   "list NAME [INDEX [VALUE]]",
		Short: "Show, change and make lists: Python's ShareableList",
		Long: `Print the items of a list, Python's ShareableList, one a line: as Python's repr
writes them, so that 1, '1' and b'1' differ. With INDEX, print that item alone:
text as it is and with a newline, bytes as they are without one. (On a terminal,
where either could do harm, as repr writes it.) With VALUE, change the item.
INDEX counts from 0, a negative one from the end.

VALUE is an int, a float or text by what it looks like, whatever the item was:
  None, none, null, nil           None
  True, true, False, false        a bool
  42, -7                          an int
  1.5, 1e3, .5, inf, -inf, nan    a float
  'text', "text", b'bytes'        as in Python, with its escapes: \n, \x1b, \u00e9
  anything else                   text as it is: also 007, +1, 1.2.3 and yes
So what is printed can be given back. With --type, VALUE is of that type, and
text and bytes are taken as they are. Before text that begins with a dash put --.

An item can change its type, but its room is what the list was made with: any
number, bool or None fits, text and bytes only up to that.

--create makes a list of VALUEs, or of a JSON array, or of what --json printed,
in a file. It stays until somebody removes it. --exact keeps zeros at the end of
text and bytes, for lists that Python does not change; --concurrent lets several
processes of this module change one item at once; Python reads both.`,
		Example: `  shm list --create state 'camera 0' 42 1.5 None
  shm list state
  n=$(shm list state 1)
  shm list state -1 True
  shm list state 0 --type text 007
  shm list --verify state
  shm list state --json | shm list --create copy --from -
  shm list state --json | jq -r '.items[] | select(.type == "bytes").value | @base64d'`,
		Args: func(cmd *cobra.Command, args []string) error {
			return a.checkList(cmd, &f, unshield(args))
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 || f.create {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return a.completeNames(cmd, args, prefix)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			args = unshield(args)
			dir, err := a.place()
			if err != nil {
				return err
			}
			name := args[0]
			if name == "" {
				return fmt.Errorf("%w: it is empty", shm.ErrName)
			}
			switch {
			case f.create:
				f.opts.Block.Dir = string(dir)
				return a.createList(cmd.Context(), dir, name, args[1:], &f)
			case f.verify:
				return a.verifyList(dir, name)
			case len(args) == 1:
				return a.printItems(cmd.Context(), dir, name)
			case len(args) == 2:
				return a.printItem(dir, name, args[1])
			}
			return a.setItem(dir, name, args[1], args[2], f.as)
		},
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{err, cmd.CommandPath() + " --help   (put -- before a value that begins with a dash)"}
	})
	flags := cmd.Flags()
	flags.BoolVar(&f.create, "create", false, "make a list of VALUEs")
	flags.BoolVar(&f.verify, "verify", false, "check the whole list and say what is wrong")
	flags.Var(newValue(&f.as, "TYPE", "", parseItemType), "type", "what VALUE is: int, float, bool, text, bytes or nil")
	flags.StringVar(&f.from, "from", "", "with --create: the items are JSON in `FILE`, - is standard input")
	flags.Var(newValue(&f.opts.Block.Mode, "MODE", "0600", parseMode), "mode", "with --create: permission bits, whatever the umask")
	flags.Var(newValue(&f.opts.Layout, "PYTHON", "3.9", parseLayout), "layout", "with --create: 3.9 (and later), or 3.8, which no other Python reads")
	flags.BoolVar(&f.opts.Exact, "exact", false, "with --create: keep zeros at the end of text and bytes")
	flags.BoolVar(&f.opts.Concurrent, "concurrent", false, "with --create: for several that change one item at once")
	return cmd
}

// checkList finds out whether arguments and flags make sense together.
func (a *app) checkList(cmd *cobra.Command, f *listFlags, args []string) error {
	bad := func(hint, format string, args ...any) error {
		return usageError{fmt.Errorf(format, args...), hint}
	}
	help := cmd.CommandPath() + " --help"
	has := cmd.Flags().Changed
	if len(args) == 0 {
		// It once was another name for ls.
		return bad("shm ls"+a.placeFlags()+", or "+help, "list wants the name of a list")
	}
	name := shellQuote(args[0])
	switch {
	case f.create && f.verify:
		return bad(help, "--create and --verify exclude each other")
	case f.create && has("from") && len(args) > 1:
		return bad(help, "--from %s has the items, so that there can be no VALUE", printable(f.from))
	case f.create && has("from") && has("type"):
		return bad(help, "--type is for VALUEs; JSON has types of its own")
	case f.create && !has("from") && len(args) == 1:
		return bad("shm list --create "+name+" 42 text None", "a list without items stays without: there is no VALUE")
	case f.create:
		return nil
	case f.verify && len(args) > 1:
		return bad("shm list --verify "+name, "--verify wants a name alone")
	case len(args) > 3:
		return bad("shm list "+name+" INDEX 'a b'   (quotes keep a value together)", "list wants NAME, INDEX and one VALUE, not %d", len(args)-2)
	case has("type") && len(args) < 3:
		return bad("shm list "+name+" INDEX VALUE --type "+f.as.String(), "--type is for a VALUE, and there is none")
	}
	for _, flag := range []string{"from", "mode", "layout", "exact", "concurrent"} {
		if has(flag) {
			return bad("shm list --create "+name+" VALUE…", "--%s is for --create", flag)
		}
	}
	if len(args) > 1 {
		if _, err := strconv.Atoi(args[1]); err != nil {
			return bad("shm list"+a.placeFlags()+" "+name, "%q is no INDEX such as 0 or -1", args[1])
		}
	}
	return nil
}

// shield stands before negative numbers among the arguments of a verb while cobra
// looks at them, which would take them for flags. No argument of a process has
// a zero in it.
const shield = "\x00"

var negative = regexp.MustCompile(`^-([0-9.].*|inf)$`)

// shielded returns args with negative numbers protected, if the verb is one that
// takes some. It is never nil.
func shielded(root *cobra.Command, args []string) []string {
	out := append([]string{}, args...)
	verb, _, err := root.Find(args)
	if err != nil || verb.Name() != "list" && verb.Name() != "array" && verb.Name() != "plot" {
		return out
	}
	for i, arg := range args {
		if arg == "--" {
			break
		}
		if negative.MatchString(arg) && (i == 0 || !wantsValue(verb, args[i-1])) {
			out[i] = shield + arg
		}
	}
	return out
}

// wantsValue says whether the argument after arg is the value of a flag.
func wantsValue(verb *cobra.Command, arg string) bool {
	name, ok := strings.CutPrefix(arg, "--")
	if !ok {
		return false
	}
	flag := verb.Flag(name)
	return flag != nil && flag.NoOptDefVal == ""
}

func unshield(args []string) []string {
	out := make([]string, len(args))
	for i, arg := range args {
		out[i] = strings.TrimPrefix(arg, shield)
	}
	return out
}

// listDoc is how --json shows what a list is.
type listDoc struct {
	Count      int    `json:"count"`
	Layout     string `json:"layout"`
	Exact      bool   `json:"exact"`
	Concurrent bool   `json:"concurrent"`
}

func listDocOf(l *list.List) listDoc {
	return listDoc{l.Len(), l.Layout().String(), l.Exact(), l.Concurrent()}
}

func (d listDoc) String() string {
	s := fmt.Sprintf("%d items, Python %s layout", d.Count, d.Layout)
	if d.Count == 1 {
		s = strings.Replace(s, "items", "item", 1)
	}
	if d.Exact {
		s += ", exact"
	}
	if d.Concurrent {
		s += ", concurrent"
	}
	return s
}

// listOf says what the list in a block is.
func listOf(b shm.Info) (*listDoc, error) {
	l, err := list.Open(b.Name, &shm.OpenOptions{ReadOnly: true, Dir: b.Dir})
	if err != nil {
		return nil, err
	}
	d := listDocOf(l)
	return &d, l.Close()
}

// openList opens a list, or says what there is instead.
func (a *app) openList(dir shm.Dir, name string, readOnly bool) (*list.List, error) {
	l, err := list.Open(name, &shm.OpenOptions{ReadOnly: readOnly, Dir: string(dir)})
	return l, a.otherKind(dir, name, "list", err)
}

// kinds is what blocks of a kind seem to hold.
var kinds = map[string]string{
	"list": "a list", "npy": "a NumPy array", "arrow": "Arrow's data", "ring": "a ring", "topic": "a topic",
	"empty": "nothing but zeros", "text": "text",
}

// otherKind adds to an error about a block that is not of kind what it is instead.
func (a *app) otherKind(dir shm.Dir, name, kind string, err error) error {
	if !errors.Is(err, shm.ErrFormat) {
		return err
	}
	info, serr := dir.Stat(name)
	if serr != nil {
		return err
	}
	if info.Kind != "" && info.Kind != kind {
		err = fmt.Errorf("%w; it seems to hold %s", err, kinds[info.Kind])
	}
	return hint(err, "shm info%s %s", a.placeFlags(), shellQuote(name))
}

// itemDoc is how --json shows an item.
type itemDoc struct {
	Index  int             `json:"index"`
	Type   string          `json:"type,omitempty"`
	Value  json.RawMessage `json:"value,omitempty"`
	Format string          `json:"format,omitempty"`
	Error  string          `json:"error,omitempty"` // in place of what could not be read
}

// docOfItem describes an item; v is what the list gave, perhaps an error.
func (a *app) docOfItem(l *list.List, i int, v any) (d itemDoc, err error) {
	d.Index = i
	if format, err := l.Format(i); err == nil { // else the error says which it is
		d.Format = format
	}
	if bad, ok := v.(error); ok {
		d.Error = itemError(bad)
		return d, nil
	}
	d.Type = typeOf(v).String()
	d.Value, err = jsonValue(v)
	return d, err
}

// itemError is what is wrong with an item, without what its line says already.
func itemError(err error) string {
	text := err.Error()
	if e, ok := errors.AsType[*shm.Error](err); ok {
		text = e.Err.Error()
	}
	if rest, ok := strings.CutPrefix(text, "item "); ok {
		if _, rest, ok = strings.Cut(rest, ": "); ok {
			text = rest
		}
	}
	return oneLine(text)
}

// printItems prints all items, as they come: there may be more than memory for
// their texts.
func (a *app) printItems(ctx context.Context, dir shm.Dir, name string) error {
	l, err := a.openList(dir, name, true)
	if err != nil {
		return err
	}
	defer l.Close()
	w := bufio.NewWriterSize(a.stdout, 64<<10)
	out := itemPrinter(&itemTable{a: a, w: w, name: name})
	if a.json {
		out = &itemArray{a: a, w: w, name: name, dir: dir}
	}
	if err := out.begin(l); err != nil {
		return err
	}
	bad := 0
	var failed error
	for i, v := range l.All() {
		err, isBad := v.(error)
		if isBad && (errors.Is(err, shm.ErrTruncated) || errors.Is(err, os.ErrClosed)) {
			failed = err // nothing comes after this
			break
		}
		if isBad {
			bad++
		}
		if err := out.item(l, i, v); err != nil {
			return err
		}
		if i%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if err := cmp.Or(out.end(), w.Flush(), failed); err != nil {
		return err
	}
	if bad > 0 {
		return a.verifyHint(fmt.Errorf("%d of the %d items of %s cannot be read", bad, l.Len(), printable(name)), name)
	}
	return nil
}

func (a *app) verifyHint(err error, name string) error {
	return hint(err, "shm list%s --verify %s", a.placeFlags(), shellQuote(name))
}

// itemPrinter writes items one after the other.
type itemPrinter interface {
	begin(l *list.List) error
	item(l *list.List, i int, v any) error
	end() error
}

// itemTable is what people read. It is no table, which would keep all rows to
// find out their widths.
type itemTable struct {
	a     *app
	w     *bufio.Writer
	name  string
	index int // width of the first column
	room  int // for values; 0 means as much as they need
}

func (t *itemTable) begin(l *list.List) error {
	about := listDocOf(l).String()
	if l.Len() == 0 {
		about += " (as any block that begins with zeros)"
	}
	fmt.Fprintf(t.w, "%s: %s\n", printable(t.name), about)
	if l.Len() == 0 {
		return nil
	}
	t.index = max(len("INDEX"), len(strconv.Itoa(l.Len()-1)))
	if isTerminal(t.a.stdout) {
		width, _, err := term.GetSize(int(file(t.a.stdout).Fd()))
		if err != nil || width <= 0 {
			width = 80
		}
		t.room = max(width-t.index-len("  float  "), 20)
	}
	_, err := fmt.Fprintf(t.w, "%s  %s  %s\n", t.a.paint(bold, strings.Repeat(" ", t.index-len("INDEX"))+"INDEX"), t.a.paint(bold, "TYPE "), t.a.paint(bold, "VALUE"))
	return err
}

func (t *itemTable) item(_ *list.List, i int, v any) error {
	kind, text, color := "", "", plain
	if err, ok := v.(error); ok {
		kind, text, color = "?", itemError(err), red
	} else {
		kind, text = typeOf(v).String(), layout.PyReprItem(v)
	}
	if t.room > 0 {
		text = clipped(text, t.room)
	}
	if color != plain { // asking for each whether to colour it would take longer than all else
		text = t.a.paint(color, text)
	}
	_, err := fmt.Fprintf(t.w, "%*d  %-5s  %s\n", t.index, i, kind, text)
	return err
}

func (t *itemTable) end() error { return nil }

// clipped cuts a text off so that it has room, with a sign.
func clipped(text string, room int) string {
	n := 0
	cut := 0
	for i := range text {
		if n == room-1 {
			cut = i
		}
		if n++; n > room {
			return text[:cut] + "…"
		}
	}
	return text
}

// itemArray is the JSON document, with an item a line.
type itemArray struct {
	a    *app
	w    *bufio.Writer
	name string
	dir  shm.Dir
	n    int
}

func (t *itemArray) begin(l *list.List) error {
	// The encoder wants the whole document, so it gets one without the items.
	var head strings.Builder
	e := json.NewEncoder(&head)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	err := e.Encode(struct {
		Name string `json:"name"`
		Dir  string `json:"dir,omitempty"`
		listDoc
	}{t.name, string(t.dir), listDocOf(l)})
	t.w.WriteString(strings.TrimSuffix(head.String(), "\n}\n") + ",\n  \"items\": [")
	return err
}

func (t *itemArray) item(l *list.List, i int, v any) error {
	doc, err := t.a.docOfItem(l, i, v)
	if err != nil {
		return err
	}
	text, err := compactJSON(doc)
	if err != nil {
		return err
	}
	if t.n++; t.n > 1 {
		t.w.WriteByte(',')
	}
	t.w.WriteString("\n    ")
	_, err = t.w.Write(text)
	return err
}

func (t *itemArray) end() error {
	if t.n > 0 {
		t.w.WriteString("\n  ")
	}
	_, err := t.w.WriteString("]\n}\n")
	return err
}

// indexIn turns an INDEX, which has been found to be a number, into Go's.
func (a *app) indexIn(l *list.List, name, text string) (int, error) {
	i, err := strconv.Atoi(text)
	if err != nil {
		return 0, err
	}
	at := i
	if i < 0 {
		at += l.Len()
	}
	if at >= 0 && at < l.Len() {
		return at, nil
	}
	err = fmt.Errorf("%s: %w: %d, but it has the items 0 to %d", printable(name), list.ErrIndex, i, l.Len()-1)
	if l.Len() == 0 {
		err = fmt.Errorf("%s: %w: %d, and it has no items", printable(name), list.ErrIndex, i)
	}
	return 0, hint(err, "shm list%s %s", a.placeFlags(), shellQuote(name))
}

func (a *app) printItem(dir shm.Dir, name, index string) error {
	l, err := a.openList(dir, name, true)
	if err != nil {
		return err
	}
	defer l.Close()
	i, err := a.indexIn(l, name, index)
	if err != nil {
		return err
	}
	v, err := l.At(i)
	switch {
	case errors.Is(err, shm.ErrFormat):
		return a.verifyHint(err, name)
	case err != nil:
		return err
	case a.json:
		return a.writeItem(l, i, v)
	}
	_, err = io.WriteString(a.stdout, bare(v, isTerminal(a.stdout)))
	return err
}

func (a *app) writeItem(l *list.List, i int, v any) error {
	doc, err := a.docOfItem(l, i, v)
	if err != nil {
		return err
	}
	return a.writeJSON(doc)
}

// bare is a value for programs, or for a terminal, where it must be no escape
// sequence.
func bare(v any, terminal bool) string {
	switch v := v.(type) {
	case []byte:
		if !terminal {
			return string(v)
		}
	case string:
		harmless := func(r rune) bool { return unicode.IsPrint(r) || r == '\n' || r == '\t' }
		if !terminal || strings.IndexFunc(v, func(r rune) bool { return !harmless(r) }) < 0 {
			return v + "\n"
		}
	}
	return layout.PyReprItem(v) + "\n"
}

func (a *app) setItem(dir shm.Dir, name, index, text string, as itemType) error {
	v, err := parseItem(text, as)
	if err != nil {
		return err
	}
	l, err := a.openList(dir, name, false)
	if err != nil {
		return err
	}
	defer l.Close()
	i, err := a.indexIn(l, name, index)
	if err != nil {
		return err
	}
	switch err := l.Set(i, v); {
	case errors.Is(err, list.ErrTooLong):
		return hint(err, "shm list --create%s NEW-NAME VALUE…   (a list's room is what it was made with)", a.placeFlags())
	case errors.Is(err, list.ErrBusy):
		return hint(err, "shm info%s %s   (it says who has it open)", a.placeFlags(), shellQuote(name))
	case errors.Is(err, shm.ErrFormat):
		return a.verifyHint(err, name)
	case err != nil:
		return err
	}
	if !a.json {
		return nil
	}
	now, err := l.At(i)
	if err != nil {
		return err
	}
	return a.writeItem(l, i, now)
}

func (a *app) createList(ctx context.Context, dir shm.Dir, name string, values []string, f *listFlags) error {
	items, err := a.itemsFrom(ctx, name, f.from)
	if err != nil {
		return err
	}
	for _, text := range values {
		v, err := parseItem(text, f.as)
		if err != nil {
			return err
		}
		items = append(items, v)
	}
	l, err := list.Create(name, items, &f.opts)
	switch {
	case errors.Is(err, list.ErrTooLong):
		return hint(err, "shm put %s FILE   (a block holds any bytes)", shellQuote(name))
	case err != nil:
		return a.existsHint(err, name)
	}
	if err := l.Close(); err != nil {
		return err
	}
	return a.printMade(dir, name)
}

// itemsFrom reads the items that --from means.
func (a *app) itemsFrom(ctx context.Context, name, path string) (items []any, err error) {
	if path == "" {
		return nil, nil
	}
	if path == "-" && isTerminal(a.stdin) {
		return nil, usageError{errors.New("standard input is a terminal, which has no JSON"), "shm list --create " + shellQuote(name) + " --from FILE"}
	}
	in, err := a.openInputs(ctx, name, []string{path})
	if err != nil {
		return nil, err
	}
	defer in.close()
	err = interruptible(ctx, func() (err error) {
		items, err = readItems(in)
		return err
	})
	if err != nil {
		items = nil
		if ctx.Err() == nil {
			err = hint(fmt.Errorf("%s: %w", printable(path), err), `[1, "text", {"type": "bytes", "value": "AAE="}], or what shm list NAME --json prints`)
		}
	}
	return items, err
}

// verifyList says whether a list is sound.
func (a *app) verifyList(dir shm.Dir, name string) error {
	l, err := a.openList(dir, name, true)
	if err != nil {
		return err
	}
	defer l.Close()
	errs := []error{l.Verify()}
	if errs[0] == nil {
		// It does not look at what text says.
		errs = a.badItems(l)
	}
	if a.json {
		doc := verifyDoc{Name: name, Dir: string(dir), OK: len(errs) == 0, listDoc: listDocOf(l), Errors: []string{}}
		for _, err := range errs {
			doc.Errors = append(doc.Errors, a.message(err))
		}
		if err := a.writeJSON(doc); err != nil {
			return err
		}
	}
	if len(errs) > 0 {
		last := &errs[len(errs)-1]
		*last = hint(*last, "shm list%s %s   (it prints what can be read)", a.placeFlags(), shellQuote(name))
		return errors.Join(errs...)
	}
	if !a.json {
		_, err = fmt.Fprintf(a.stdout, "%s: %s, all sound\n", printable(name), listDocOf(l))
	}
	return err
}

// verifyDoc is what --verify writes.
type verifyDoc struct {
	Name string `json:"name"`
	Dir  string `json:"dir,omitempty"`
	listDoc
	OK     bool     `json:"ok"`
	Errors []string `json:"errors"`
}

// badItems returns the errors of items that cannot be read, the first few.
func (a *app) badItems(l *list.List) (errs []error) {
	const most = 20
	n := 0
	for _, v := range l.All() {
		if err, ok := v.(error); ok {
			if n++; n <= most {
				errs = append(errs, err)
			}
		}
	}
	if n > most {
		errs = append(errs, fmt.Errorf("and %d more", n-most))
	}
	return errs
}
