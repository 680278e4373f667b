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
	"github.com/sharedmem/shm/internal/platform/proc"
	"github.com/sharedmem/shm/ring"
)

func init() { verbs = append(verbs, newRing) }

func newRing(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ring",
		Short: "Make, look at and use rings: queues of messages",
		Long: `Make and look at rings, the queues of package ring, and send and receive messages by
them, as one more process among those that do. Linux only.`,
		Example: `  shm ring create jobs --max-message 4K
  shm ring pub jobs <jobs.txt               each line is a message
  shm ring sub jobs | while read -r job; do ./run "$job"; done
  shm ring stat jobs                        how full it is, and who takes part
  shm ring tail jobs                        what lies in it; takes nothing`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("there is no verb ring %q", args[0]), "shm ring --help"}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newRingCreate(a), newRingLs(a), newRingStat(a), newRingTail(a), newRingPub(a), newRingSub(a))
	return cmd
}

// ringDoc is how --json shows a ring.
type ringDoc struct {
	Name        string `json:"name,omitempty"` // of a block that has its own
	Dir         string `json:"dir,omitempty"`
	SlotSize    int    `json:"slot_size"`
	Slots       int    `json:"slots"`
	MaxMessage  int    `json:"max_message"`
	OneSender   bool   `json:"one_sender"`
	OneReceiver bool   `json:"one_receiver"`
	Discard     bool   `json:"discard"`
	Most        int    `json:"most_participants"`
	ring.Stats
	Participants []ring.Participant `json:"participants"`
	Elsewhere    bool               `json:"elsewhere,omitempty"`
}

// ringOf looks at the ring in a block.
func ringOf(dir, name string) (*ringDoc, error) {
	b, err := shm.Open(name, &shm.OpenOptions{ReadOnly: true, Dir: dir})
	if err != nil {
		return nil, err
	}
	defer b.Close()
	i, err := ring.Describe(b)
	if err != nil {
		return nil, err
	}
	o := i.Options
	return &ringDoc{
		Dir: dir, SlotSize: o.SlotSize, Slots: o.Slots, MaxMessage: o.MaxMessage,
		OneSender: o.Senders == ring.One, OneReceiver: o.Receivers == ring.One, Discard: o.AfterDeath == ring.Discard,
		Most: o.Participants, Stats: i.Stats, Participants: append([]ring.Participant{}, i.Participants...), Elsewhere: i.Elsewhere,
	}, nil
}

// sides is "many to one".
func (d *ringDoc) sides() string {
	many := map[bool]string{true: "one", false: "many"}
	return many[d.OneSender] + " to " + many[d.OneReceiver]
}

func (d *ringDoc) percent() int { return d.Pending * 100 / d.Slots }

// lines are what a person wants to know, of a block whose holders are seen.
func (d *ringDoc) lines(a *app, seen []proc.Holder) (what, text []string) {
	line := func(w, format string, args ...any) {
		what, text = append(what, w), append(text, fmt.Sprintf(format, args...))
	}
	line("for", "%s, %d participants at most", d.sides(), d.Most)
	line("room", "%d slots of %s, messages of up to %s", d.Slots, a.size(int64(d.SlotSize)), a.size(int64(d.MaxMessage)))
	line("used", "%s %d slots of %d (%d%%), once %d", bar(uint64(d.Pending), uint64(d.Slots), 20), d.Pending, d.Slots, d.percent(), d.HighWater)
	line("messages", "%d sent, %d received", d.Sent, d.Received)
	dead := "go to others, marked"
	if d.Discard {
		dead = "are dropped"
	}
	line("dead", "what dead receivers had: %d given back, %d dropped; they %s", d.Redelivered, d.Lost, dead)
	line("slept", "%d times", d.Waits)
	for _, role := range []string{"sender", "receiver"} {
		var who []string
		for _, p := range d.Participants {
			if p.Role == role {
				who = append(who, takerText(p.Owner, seen))
			}
		}
		line(role+"s", "%s", cmp.Or(strings.Join(who, "; "), "none"))
	}
	if d.Elsewhere {
		line("note", elsewhereText)
	}
	return what, text
}

const elsewhereText = "its users keep their leases in another place, so who lives is unknown, and nobody can join from here"

// takerText names one who takes part.
func takerText(o shm.Owner, seen []proc.Holder) string {
	text := ownerText(o, seen)
	if !o.Alive {
		text += ", dead"
	}
	return text
}

// completeKind completes arguments to the names of blocks of a kind.
func (a *app) completeKind(kind string) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		names, directive := a.completeNames(cmd, args, prefix)
		dir, err := a.place()
		if err != nil {
			return nil, directive
		}
		return slices.DeleteFunc(names, func(name string) bool {
			i, err := dir.Stat(name)
			return err != nil || i.Kind != kind
		}), directive
	}
}

// ofKind lists the blocks of a kind that fit the patterns, by name.
func (a *app) ofKind(cmd *cobra.Command, kind string, patterns []string) (shm.Dir, []shm.Info, error) {
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
		if i, err := dir.Stat(b.Name); err == nil && i.Kind == kind {
			found = append(found, i)
		}
	}
	slices.SortFunc(found, func(x, y shm.Info) int { return strings.Compare(x.Name, y.Name) })
	return dir, found, nil
}

func newRingCreate(a *app) *cobra.Command {
	var o ring.Options
	var one, only, discard bool
	var slot, most int64 = 48, 0
	o.Block.Lifetime = shm.Persistent
	cmd := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Make a ring",
		Long: `Make an empty ring and print its name. It stays until somebody removes it.
A message longer than a slot takes several in a row.`,
		Example: `  shm ring create jobs
  shm ring create frames --slots 64 --slot-size 64K --max-message 4M --one-sender --one-receiver`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError{fmt.Errorf("ring create wants one name, not %d", len(args)), cmd.CommandPath() + " --help"}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
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
			o.Block.Dir = string(dir)
			o.SlotSize, o.MaxMessage = int(slot), int(most)
			if one {
				o.Senders = ring.One
			}
			if only {
				o.Receivers = ring.One
			}
			if discard {
				o.AfterDeath = ring.Discard
			}
			q, err := ring.Create(name, &o)
			if errors.Is(err, shm.ErrSize) {
				return usageError{err, cmd.CommandPath() + " --help"}
			}
			if err != nil {
				return a.existsHint(err, name)
			}
			name = q.Name()
			if err := q.Close(); err != nil {
				return err
			}
			return a.printMade(dir, name)
		},
	}
	f := cmd.Flags()
	f.Var(newValue(&slot, "SIZE", "48", parseSize), "slot-size", "how many bytes of a message a slot has room for")
	f.IntVar(&o.Slots, "slots", 1024, "how many there are, rounded up to a power of two")
	f.Var(newValue(&most, "SIZE", "that of a slot", parseSize), "max-message", "the longest message")
	f.BoolVar(&one, "one-sender", false, "for one sender, which is faster")
	f.BoolVar(&only, "one-receiver", false, "for one receiver, which is faster")
	f.BoolVar(&discard, "discard", false, "drop what a receiver had that died, rather than give it to another")
	f.IntVar(&o.Participants, "participants", 64, "how many senders and receivers there may be at once")
	f.Var(newValue(&o.Block.Mode, "MODE", "0600", parseMode), "mode", "permission bits, whatever the umask")
	return cmd
}

func newRingLs(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "ls [PATTERN…]",
		Short: "List rings",
		Long: `List the rings that this user may see: for how many, how full, who is there, and
how many messages have passed. PATTERN is a name with * ? [a-z], in quotes.`,
		Example: `  shm ring ls
  shm ring ls --json | jq '.rings[] | select(.receivers == 0) | .name'`,
		ValidArgsFunction: a.completeKind("ring"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, blocks, err := a.ofKind(cmd, "ring", args)
			if err != nil {
				return err
			}
			docs := []*ringDoc{} // not null in JSON
			t := a.newTable("NAME", "FOR", ">SLOTS", ">ROOM", ">USED", ">SENDERS", ">RECEIVERS", ">SENT", ">RECEIVED", ">AGE")
			var errs []error
			for _, b := range blocks {
				d, err := ringOf(b.Dir, b.Name)
				if err != nil {
					if !errors.Is(err, fs.ErrNotExist) {
						errs = append(errs, err)
					}
					continue
				}
				d.Name = b.Name
				docs = append(docs, d)
				t.row(printable(b.Name), d.sides(), d.Slots, a.size(int64(d.SlotSize)), cell{usedStyle(d.percent()), fmt.Sprintf("%d%%", d.percent())},
					d.Senders, d.Receivers, d.Sent, d.Received, age(b.Created, time.Now()))
			}
			switch {
			case a.json:
				err = a.writeJSON(map[string]any{"dir": placeName(dir), "rings": docs})
			case len(docs) == 0:
				fmt.Fprintf(a.stderr, "no rings in %s\n", placeName(dir))
			default:
				err = t.flush()
			}
			return errors.Join(append(errs, err)...)
		},
	}
}

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

func newRingStat(a *app) *cobra.Command {
	return a.newStat("ring", `Show what a ring was made for, how full it is, how many messages have passed, and
which processes send and receive. With --follow, a line each second until ^C.`,
		`  shm ring stat jobs
  shm ring stat --follow jobs
  shm ring stat --json jobs | jq '.rings[0].participants[].owner.pid'`,
		func(dir, name string) (statDoc, error) { d, err := ringOf(dir, name); return d, err })
}

// statDoc is what stat shows: a *ringDoc or *topicDoc.
type statDoc interface {
	called(name string)
	lines(a *app, seen []proc.Holder) (what, text []string)
	heading() string
	since(a *app, before statDoc) string // a line of figures below the heading
}

func (d *ringDoc) called(name string) { d.Name = name }

func (d *ringDoc) heading() string {
	return "          USED               SENT/s RECEIVED/s  SENDERS RECEIVERS"
}

func (d *ringDoc) since(a *app, before statDoc) string {
	was, _ := before.(*ringDoc)
	used := fmt.Sprintf("%s %3d%%", bar(uint64(d.Pending), uint64(d.Slots), 20), d.percent())
	return fmt.Sprintf("%s %9d %10d %8d %9d", a.paint(usedStyle(d.percent()), used), d.Sent-was.Sent, d.Received-was.Received, d.Senders, d.Receivers)
}

// newStat makes the verb stat of a kind of blocks, that of looks at.
func (a *app) newStat(kind, long, example string, of func(dir, name string) (statDoc, error)) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:               "stat NAME…",
		Short:             "Show how full a " + kind + " is, what passed, and who takes part",
		Long:              long,
		Example:           example,
		ValidArgsFunction: a.completeKind(kind),
		Args:              atLeast(1, "a name"),
		RunE: func(cmd *cobra.Command, names []string) error {
			dir, err := a.place()
			if err != nil {
				return err
			}
			if follow {
				if len(names) > 1 {
					return usageError{errors.New("--follow wants one name"), cmd.CommandPath() + " --follow " + shellQuote(names[0])}
				}
				return a.followStat(cmd.Context(), dir, kind, names[0], of)
			}
			var blocks []shm.Info
			docs := []statDoc{} // not null in JSON
			var errs []error
			for _, name := range names {
				b, err := dir.Stat(name)
				var d statDoc
				if err == nil {
					d, err = of(string(dir), name)
				}
				if err != nil {
					errs = append(errs, a.otherKind(dir, name, kind, err))
					continue
				}
				d.called(b.Name)
				blocks, docs = append(blocks, b), append(docs, d)
			}
			if err := a.printStats(kind, blocks, docs); err != nil {
				return err
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "write a line each second until ^C")
	return cmd
}

func (a *app) printStats(kind string, blocks []shm.Info, docs []statDoc) error {
	if a.json {
		return a.writeJSON(map[string]any{kind + "s": docs})
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
		what, text := d.lines(a, holdersOf(seen, blocks[i]))
		for k := range what {
			t.row(cell{bold, what[k] + ":"}, text[k])
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	return nil
}

// followEvery is how often stat --follow looks, and peekEvery how often tail does.
const (
	followEvery = time.Second
	peekEvery   = 20 * time.Millisecond
)

// followStat writes a line each second.
func (a *app) followStat(ctx context.Context, dir shm.Dir, kind, name string, of func(dir, name string) (statDoc, error)) error {
	before, err := of(string(dir), name)
	if err != nil {
		return a.otherKind(dir, name, kind, err)
	}
	if !a.json {
		fmt.Fprintln(a.stdout, a.paint(bold, before.heading()))
	}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		d, err := of(string(dir), name)
		if err != nil {
			return err
		}
		d.called(name)
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

func newRingTail(a *app) *cobra.Command {
	var f framing
	var follow bool
	cmd := &cobra.Command{
		Use:   "tail NAME",
		Short: "Show the messages that lie in a ring, and take none",
		Long: `Write the messages that lie in a ring, oldest first, and leave them there. With
--follow, those too that come later, until ^C. What a receiver takes before this
command has looked is not seen, and it looks some 50 times a second: to be shown
every message be a receiver, or use a topic.

` + framingHelp + `
With --json each message is a document on a line of its own.`,
		Example: `  shm ring tail jobs
  shm ring tail --follow --json jobs`,
		ValidArgsFunction: a.completeKind("ring"),
		Args:              exactly(1, "a name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd); err != nil {
				return err
			}
			dir, err := a.place()
			if err != nil {
				return err
			}
			b, err := shm.Open(args[0], &shm.OpenOptions{ReadOnly: true, Dir: string(dir)})
			if err != nil {
				return err
			}
			defer b.Close()
			return a.otherKind(dir, args[0], "ring", a.tailRing(cmd.Context(), b, &f, follow))
		},
	}
	f.forOutput(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with those that come later")
	return cmd
}

func (a *app) tailRing(ctx context.Context, b *shm.Block, f *framing, follow bool) error {
	tick := time.NewTicker(peekEvery)
	defer tick.Stop()
	n, from := 0, uint64(0)
	for {
		messages, next, err := ring.Peek(b, from)
		for _, m := range messages {
			if err := a.putMessage(f, m.Data, messageDoc{Position: &m.Position, Taken: m.Taken, Redelivered: m.Redelivered}); err != nil {
				return err
			}
			if n++; n == f.count {
				return nil
			}
		}
		if err != nil || !follow {
			return err
		}
		from = next
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// openRing opens a ring to take part in it.
func (a *app) openRing(name string) (*ring.Queue, error) {
	dir, err := a.place()
	if err != nil {
		return nil, err
	}
	q, err := ring.Open(name, &ring.OpenOptions{Block: shm.OpenOptions{Dir: string(dir)}})
	if errors.Is(err, fs.ErrNotExist) {
		err = hint(err, "shm ring create%s %s", a.placeFlags(), shellQuote(name))
	}
	return q, a.otherKind(dir, name, "ring", err)
}

// ringHint adds to an error of a ring what to do about it.
func (a *app) ringHint(err error, q *ring.Queue) error {
	stat := "shm ring stat" + a.placeFlags() + " " + shellQuote(q.Name())
	switch {
	case errors.Is(err, ring.ErrTaken), errors.Is(err, shm.ErrNoSpace):
		return hint(err, "%s   (it says who is there)", stat)
	case errors.Is(err, context.DeadlineExceeded):
		return hint(errors.New("it took too long"), "%s", stat)
	case errors.Is(err, io.ErrClosedPipe):
		// No wrapping: to report, a closed pipe is no failure.
		return hint(fmt.Errorf("%s is full, and all receivers have closed", printable(q.Name())), "shm ring sub%s %s", a.placeFlags(), shellQuote(q.Name()))
	case errors.Is(err, ring.ErrPeerGone):
		return hint(err, "%s   (more may come, and things go on)", stat)
	}
	return err
}

func newRingPub(a *app) *cobra.Command {
	var f framing
	wait := time.Duration(-1)
	cmd := &cobra.Command{
		Use:   "pub NAME",
		Short: "Send messages",
		Long: `Send what comes from standard input, or --file, as messages, and wait while the
ring is full. ` + framingHelp + `
When this command is the last sender and ends, receivers get the end after the
last message.`,
		Example: `  shm ring pub jobs <jobs.txt
  echo stop | shm ring pub -w 5s jobs
  shm ring pub frames --whole --file frame.png`,
		ValidArgsFunction: a.completeKind("ring"),
		Args:              exactly(1, "a name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd); err != nil {
				return err
			}
			q, err := a.openRing(args[0])
			if err != nil {
				return err
			}
			defer q.Close()
			s, err := q.Sender()
			if err != nil {
				return a.ringHint(err, q)
			}
			err = a.sendAll(cmd, &f, wait, q.Options().MaxMessage, s.SendContext)
			if errors.Is(err, errTooLong) {
				err = hint(err, "shm ring create --max-message SIZE NAME, a ring with more room")
			}
			if err == nil {
				err = s.Close()
			}
			return a.ringHint(err, q)
		},
	}
	f.forInput(cmd)
	cmd.Flags().VarP(newValue(&wait, "DURATION", "for ever", parseWait), "wait", "w", "wait so long for room for each message: 30s, 5m")
	return cmd
}

// sendAll sends each message of the input, waiting so long for each, and says how many it
// were, with --json or if it did not come to the end.
func (a *app) sendAll(cmd *cobra.Command, f *framing, wait time.Duration, limit int, send func(context.Context, []byte) error) error {
	n := 0
	err := a.eachMessage(cmd.Context(), f, limit, func(number int, p []byte) error {
		ctx, cancel := limited(cmd.Context(), wait)
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
	return err
}

// limited is ctx, with an end if wait is not negative.
func limited(ctx context.Context, wait time.Duration) (context.Context, context.CancelFunc) {
	if wait < 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, wait)
}

func newRingSub(a *app) *cobra.Command {
	var f framing
	var follow bool
	wait := time.Duration(-1)
	cmd := &cobra.Command{
		Use:   "sub NAME",
		Short: "Receive messages and write them",
		Long: `Receive messages and write each to standard output, until all senders have closed.
A message counts as received when it is written: should this command be killed
before, another receiver gets it. If none has come yet it waits for a sender; with
--follow it goes on waiting when all have gone.

` + framingHelp + `
With --json each message is a document on a line of its own.`,
		Example: `  shm ring sub jobs
  shm ring sub -n 1 -w 5s jobs              the next message, within five seconds
  shm ring sub --follow --json jobs | jq .text`,
		ValidArgsFunction: a.completeKind("ring"),
		Args:              exactly(1, "a name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd); err != nil {
				return err
			}
			q, err := a.openRing(args[0])
			if err != nil {
				return err
			}
			defer q.Close()
			r, err := q.Receiver()
			if err != nil {
				return a.ringHint(err, q)
			}
			return a.ringHint(a.subRing(cmd.Context(), r, &f, wait, follow), q)
		},
	}
	f.forOutput(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on when all senders have gone")
	cmd.Flags().VarP(newValue(&wait, "DURATION", "for ever", parseWait), "wait", "w", "wait so long for each message: 30s, 5m")
	return cmd
}

func (a *app) subRing(ctx context.Context, r *ring.Receiver, f *framing, wait time.Duration, follow bool) error {
	for n := 0; n < f.count || f.count == 0; {
		var wrote error
		until, cancel := limited(ctx, wait)
		err := r.LeaseContext(until, func(p []byte) error {
			n++
			wrote = a.putMessage(f, p, messageDoc{Redelivered: r.Redelivered()})
			return wrote
		})
		cancel()
		switch {
		case err == nil:
		case wrote != nil:
			return wrote
		case follow && (errors.Is(err, io.EOF) || errors.Is(err, ring.ErrPeerGone)):
			// Nothing tells of a sender who comes before it sends.
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
}
