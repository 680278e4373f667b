package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/party"
	"github.com/sharedmem/shm/internal/platform/proc"
)

// What rings and topics have in common: their verbs.

// queueKind is rings or topics; Q is one that this command takes part in.
type queueKind[Q closer] struct {
	name     string // of the verb, and of the kind of block
	describe func(b *shm.Block) (queueDoc, error)
	open     func(name string, o shm.OpenOptions) (Q, error)
	// sender joins as one who sends, messages of up to limit bytes.
	sender func(q Q) (send func(context.Context, []byte) error, limit int, end io.Closer, err error)

	columns []string // of ls, between NAME and AGE
	heading string   // of stat --follow

	// In what is said of errors:
	longer string // the flag of create for longer messages
	slow   string // what stat says when it took too long
	others string // who may come after the last
}

// queueDoc is how --json shows a ring or topic: a *ringDoc or *topicDoc.
type queueDoc interface {
	head() *queueHead
	facts(a *app, seen []proc.Holder) *facts // what a person wants to know, of a block whose holders are seen
	cells(a *app) []any                      // of ls
	since(a *app, before queueDoc) string    // a line of figures, of stat --follow
}

// queueHead is what a ringDoc and a topicDoc begin with.
type queueHead struct {
	Name     string `json:"name,omitempty"` // of a block that has its own
	Dir      string `json:"dir,omitempty"`
	SlotSize int    `json:"slot_size"`
	Slots    int    `json:"slots"`
}

func (h *queueHead) head() *queueHead { return h }

// facts are lines for people: what it is, and what is to be said of it.
type facts struct{ what, text []string }

func (f *facts) line(what, format string, args ...any) {
	f.what, f.text = append(f.what, what), append(f.text, fmt.Sprintf(format, args...))
}

// elsewhere adds what cannot be known.
func (f *facts) elsewhere(so bool) *facts {
	if so {
		f.line("note", "its users keep their leases in another place, so who lives is unknown, and nobody can join from here")
	}
	return f
}

// takerText names one who takes part.
func takerText(o shm.Owner, seen []proc.Holder) string {
	text := ownerText(o, seen)
	if !o.Alive {
		text += ", dead"
	}
	return text
}

// allText names several.
func allText(takers []string) string { return cmp.Or(strings.Join(takers, "; "), "none") }

// usedStyle warns of what is nearly full.
func usedStyle(percent int) style {
	switch {
	case percent >= 90:
		return red
	case percent >= 50:
		return yellow
	}
	return plain
}

// look looks at what is in a block, from outside.
func (k *queueKind[Q]) look(dir, name string) (queueDoc, error) {
	b, err := shm.Open(name, &shm.OpenOptions{ReadOnly: true, Dir: dir})
	if err != nil {
		return nil, err
	}
	defer b.Close()
	d, err := k.describe(b)
	if err != nil {
		return nil, err
	}
	d.head().Dir = dir
	return d, nil
}

// verbs completes cmd to the verb that has the others below it.
func (k *queueKind[Q]) verbs(cmd *cobra.Command, below ...*cobra.Command) *cobra.Command {
	cmd.Use = k.name
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usageError{fmt.Errorf("there is no verb %s %q", k.name, args[0]), "shm " + k.name + " --help"}
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.AddCommand(below...)
	return cmd
}

// completeNames completes arguments to the names of blocks of this kind.
func (k *queueKind[Q]) completeNames(a *app) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		names, directive := a.completeNames(cmd, args, prefix)
		dir, err := a.place()
		if err != nil {
			return nil, directive
		}
		return slices.DeleteFunc(names, func(name string) bool {
			i, err := dir.Stat(name)
			return err != nil || i.Kind != k.name
		}), directive
	}
}

// newCreate completes cmd to the verb create: create makes one, its block as block says.
func (k *queueKind[Q]) newCreate(a *app, cmd *cobra.Command, block *shm.CreateOptions, create func(name string) (Q, error)) *cobra.Command {
	block.Lifetime = shm.Persistent
	cmd.Use = "create [NAME]"
	cmd.Short = "Make a " + k.name
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usageError{fmt.Errorf("%s create wants one name, not %d", k.name, len(args)), cmd.CommandPath() + " --help"}
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name := ""
		if len(args) == 1 {
			if name = args[0]; name == "" {
				return fmt.Errorf("%w: it is empty", shm.ErrName)
			}
		}
		dir, err := a.place()
		if err != nil {
			return err
		}
		block.Dir = string(dir)
		q, err := create(name)
		if errors.Is(err, shm.ErrSize) {
			return usageError{err, cmd.CommandPath() + " --help"}
		}
		return a.finish(dir, name, q, err)
	}
	cmd.Flags().Var(newValue(&block.Mode, "MODE", "0600", parseMode), "mode", "permission bits, whatever the umask")
	return cmd
}

// newLs completes cmd to the verb ls.
func (k *queueKind[Q]) newLs(a *app, cmd *cobra.Command) *cobra.Command {
	cmd.Use = "ls [PATTERN…]"
	cmd.Short = "List " + k.name + "s"
	cmd.ValidArgsFunction = k.completeNames(a)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir, blocks, err := k.find(a, cmd, args)
		if err != nil {
			return err
		}
		docs := []queueDoc{} // not null in JSON
		t := a.newTable(slices.Concat([]string{"NAME"}, k.columns, []string{">AGE"})...)
		var errs []error
		for _, b := range blocks {
			d, err := k.look(b.Dir, b.Name)
			if err != nil {
				if !errors.Is(err, fs.ErrNotExist) {
					errs = append(errs, err)
				}
				continue
			}
			d.head().Name = b.Name
			docs = append(docs, d)
			t.row(slices.Concat([]any{printable(b.Name)}, d.cells(a), []any{age(b.Created, time.Now())})...)
		}
		switch {
		case a.json:
			err = a.writeJSON(map[string]any{"dir": placeName(dir), k.name + "s": docs})
		case len(docs) == 0:
			fmt.Fprintf(a.stderr, "no %ss in %s\n", k.name, placeName(dir))
		default:
			err = t.flush()
		}
		return errors.Join(append(errs, err)...)
	}
	return cmd
}

// find lists the blocks that fit the patterns, by name.
func (k *queueKind[Q]) find(a *app, cmd *cobra.Command, patterns []string) (shm.Dir, []shm.Info, error) {
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			return "", nil, usageError{fmt.Errorf("%q is not a pattern: a [ has no ]", p), cmd.CommandPath() + " --help"}
		}
	}
	dir, err := a.place()
	if err != nil {
		return "", nil, err
	}
	blocks, err := dir.List()
	if err != nil {
		return dir, nil, a.listHint(err)
	}
	var found []shm.Info
	for _, b := range blocks {
		fits := len(patterns) == 0
		for _, p := range patterns {
			ok, _ := path.Match(p, b.Name)
			fits = fits || ok || p == b.Name
		}
		if !fits {
			continue
		}
		// Only Stat looks into a block. One that has gone meanwhile is no matter.
		if i, err := dir.Stat(b.Name); err == nil && i.Kind == k.name {
			found = append(found, i)
		}
	}
	slices.SortFunc(found, func(x, y shm.Info) int { return strings.Compare(x.Name, y.Name) })
	return dir, found, nil
}

// newStat completes cmd to the verb stat.
func (k *queueKind[Q]) newStat(a *app, cmd *cobra.Command) *cobra.Command {
	var follow bool
	cmd.Use = "stat NAME…"
	cmd.Short = "Show how full a " + k.name + " is, what passed, and who takes part"
	cmd.ValidArgsFunction = k.completeNames(a)
	cmd.Args = atLeast(1, "a name")
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		dir, err := a.place()
		if err != nil {
			return err
		}
		if follow {
			if len(names) > 1 {
				return usageError{errors.New("--follow wants one name"), cmd.CommandPath() + " --follow " + shellQuote(names[0])}
			}
			return k.followStat(cmd.Context(), a, dir, names[0])
		}
		var blocks []shm.Info
		docs := []queueDoc{} // not null in JSON
		var errs []error
		for _, name := range names {
			b, err := dir.Stat(name)
			var d queueDoc
			if err == nil {
				d, err = k.look(string(dir), name)
			}
			if err != nil {
				errs = append(errs, a.otherKind(dir, name, k.name, err))
				continue
			}
			d.head().Name = b.Name
			blocks, docs = append(blocks, b), append(docs, d)
		}
		if err := k.printStats(a, blocks, docs); err != nil {
			return err
		}
		return errors.Join(errs...)
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "write a line each second until ^C")
	return cmd
}

func (k *queueKind[Q]) printStats(a *app, blocks []shm.Info, docs []queueDoc) error {
	if a.json {
		return a.writeJSON(map[string]any{k.name + "s": docs})
	}
	if len(docs) == 0 {
		return nil
	}
	seen, err := scanFor(blocks)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	for i, d := range docs {
		if i > 0 {
			fmt.Fprintln(a.stdout)
		}
		t := a.newTable("", "")
		t.row(cell{bold, "name:"}, printable(blocks[i].Name))
		f := d.facts(a, holdersOf(seen, blocks[i]))
		for i, what := range f.what {
			t.row(cell{bold, what + ":"}, f.text[i])
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	return nil
}

// followStat writes a line each second.
func (k *queueKind[Q]) followStat(ctx context.Context, a *app, dir shm.Dir, name string) error {
	before, err := k.look(string(dir), name)
	if err != nil {
		return a.otherKind(dir, name, k.name, err)
	}
	if !a.json {
		fmt.Fprintln(a.stdout, a.paint(bold, k.heading))
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		d, err := k.look(string(dir), name)
		if err != nil {
			return err
		}
		d.head().Name = name
		if a.json {
			err = a.putLine(d)
		} else {
			_, err = fmt.Fprintln(a.stdout, d.since(a, before))
		}
		if err != nil {
			return err
		}
		before = d
	}
}

// verb completes cmd to a verb of messages, which f frames: run is to do it.
func (k *queueKind[Q]) verb(a *app, cmd *cobra.Command, f *framing, run func(cmd *cobra.Command, dir shm.Dir, name string) error) *cobra.Command {
	cmd.ValidArgsFunction = k.completeNames(a)
	cmd.Args = exactly(1, "a name")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := f.check(cmd); err != nil {
			return err
		}
		dir, err := a.place()
		if err != nil {
			return err
		}
		return a.otherKind(dir, args[0], k.name, run(cmd, dir, args[0]))
	}
	return cmd
}

// onlooker is verb, for those who take no part.
func (k *queueKind[Q]) onlooker(a *app, cmd *cobra.Command, f *framing, run func(ctx context.Context, b *shm.Block) error) *cobra.Command {
	return k.verb(a, cmd, f, func(cmd *cobra.Command, dir shm.Dir, name string) error {
		b, err := shm.Open(name, &shm.OpenOptions{ReadOnly: true, Dir: string(dir)})
		if err != nil {
			return err
		}
		defer b.Close()
		return run(cmd.Context(), b)
	})
}

// partaker is verb, for those who take part.
func (k *queueKind[Q]) partaker(a *app, cmd *cobra.Command, f *framing, run func(ctx context.Context, q Q) error) *cobra.Command {
	return k.verb(a, cmd, f, func(cmd *cobra.Command, dir shm.Dir, name string) error {
		q, err := k.open(name, shm.OpenOptions{Dir: string(dir)})
		if errors.Is(err, fs.ErrNotExist) {
			return hint(err, "shm %s create%s %s", k.name, a.placeFlags(), shellQuote(name))
		}
		if err != nil {
			return err
		}
		defer func() { _ = q.Close() }()
		return k.hint(a, run(cmd.Context(), q), q.Name())
	})
}

// hint adds to an error what to do about it.
func (k *queueKind[Q]) hint(a *app, err error, name string) error {
	verb := func(verb string) string {
		return "shm " + k.name + " " + verb + a.placeFlags() + " " + shellQuote(name)
	}
	switch {
	case errors.Is(err, party.ErrTaken), errors.Is(err, shm.ErrNoSpace):
		return hint(err, "%s   (it says who is there)", verb("stat"))
	case errors.Is(err, context.DeadlineExceeded):
		return hint(errors.New("it took too long"), "%s%s", verb("stat"), k.slow)
	case errors.Is(err, io.ErrClosedPipe):
		// No wrapping: to report, a closed pipe is no failure.
		return hint(fmt.Errorf("%s is full, and all receivers have closed", printable(name)), "%s", verb("sub"))
	case errors.Is(err, party.ErrPeerGone):
		return hint(err, "%s   (%s may come, and things go on)", verb("stat"), k.others)
	case errors.Is(err, errTooLong):
		return hint(err, "shm %s create %s SIZE NAME, a %[1]s with more room", k.name, k.longer)
	}
	return err
}

// peekEvery is how often those look again who wait and cannot be woken. Who commits wakes
// those who take part and sleep, by a system call: an onlooker that slept would have to
// write to the memory, be paid for by every message, and in a topic whose publishers
// wait could hold them up. And nothing tells of one who joins.
const peekEvery = 20 * time.Millisecond

// message is one that an onlooker is shown.
type message struct {
	data []byte
	doc  messageDoc
}

// newTail completes cmd to the verb tail. What peek returns is called again and again,
// for what is new since; io.EOF says that it is enough.
func (k *queueKind[Q]) newTail(a *app, cmd *cobra.Command, peek func(b *shm.Block, count int) func() ([]message, error)) *cobra.Command {
	var f framing
	var follow bool
	cmd.Use = "tail NAME"
	f.forOutput(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with those that come later")
	return k.onlooker(a, cmd, &f, func(ctx context.Context, b *shm.Block) error {
		tick := time.NewTicker(peekEvery)
		defer tick.Stop()
		for next := peek(b, f.count); ; {
			messages, err := next()
			for _, m := range messages {
				if err := a.putMessage(&f, m.data, m.doc); err != nil {
					return err
				}
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil || !follow {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick.C:
			}
		}
	})
}

// newPub completes cmd to the verb pub; each says what --wait does.
func (k *queueKind[Q]) newPub(a *app, cmd *cobra.Command, each string) *cobra.Command {
	var f framing
	wait := time.Duration(-1)
	cmd.Use = "pub NAME"
	f.forInput(cmd)
	cmd.Flags().VarP(newValue(&wait, "DURATION", "for ever", parseWait), "wait", "w", each+": 30s, 5m")
	return k.partaker(a, cmd, &f, func(ctx context.Context, q Q) error {
		send, limit, sender, err := k.sender(q)
		if err != nil {
			return err
		}
		n := 0
		err = a.eachMessage(ctx, &f, limit, func(number int, p []byte) error {
			ctx, cancel := limited(ctx, wait)
			defer cancel()
			err := send(ctx, p)
			if err == nil {
				n = number
			}
			return err
		})
		if a.json {
			if jerr := a.writeJSON(map[string]int{"sent": n}); err == nil {
				err = jerr
			}
		}
		if err != nil && n > 0 {
			fmt.Fprintf(a.stderr, "shm: %d messages were sent before\n", n)
		}
		if err != nil {
			return err
		}
		return sender.Close()
	})
}

// limited is ctx, with an end if wait is not negative.
func limited(ctx context.Context, wait time.Duration) (context.Context, context.CancelFunc) {
	if wait < 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, wait)
}

// receiving waits for the next message, and calls put with it.
type receiving func(ctx context.Context, put func([]byte, messageDoc) error) error

// newSub completes cmd to the verb sub, which joins as one who receives from senders, or
// what they are called.
func (k *queueKind[Q]) newSub(a *app, cmd *cobra.Command, senders string, join func(q Q) (receiving, error)) *cobra.Command {
	var f framing
	var follow bool
	wait := time.Duration(-1)
	cmd.Use = "sub NAME"
	f.forOutput(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on when all "+senders+" have gone")
	cmd.Flags().VarP(newValue(&wait, "DURATION", "for ever", parseWait), "wait", "w", "wait so long for each message: 30s, 5m")
	return k.partaker(a, cmd, &f, func(ctx context.Context, q Q) error {
		receive, err := join(q)
		if err != nil {
			return err
		}
		for n := 0; n < f.count || f.count == 0; {
			var wrote error
			until, cancel := limited(ctx, wait)
			err := receive(until, func(p []byte, d messageDoc) error {
				n++
				wrote = a.putMessage(&f, p, d)
				return wrote
			})
			cancel()
			switch {
			case err == nil:
			case wrote != nil:
				return wrote
			case follow && (errors.Is(err, io.EOF) || errors.Is(err, party.ErrPeerGone)):
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(peekEvery):
				}
			case errors.Is(err, io.EOF):
				return nil
			default:
				return err
			}
		}
		return nil
	})
}
