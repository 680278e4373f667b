package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/platform/proc"
	"github.com/sharedmem/shm/topic"
)

func init() { verbs = append(verbs, newTopic) }

func newTopic(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "topic",
		Short: "Make, look at and use topics: messages that every subscriber reads",
		Long: `Make and look at topics, those of package topic, and publish and subscribe, as one
more process among those that do. Linux only.`,
		Example: `  shm topic create prices
  shm topic pub prices <prices.csv          each line is a message
  shm topic tail -f prices                  the last ones, and what comes; disturbs nobody
  shm topic sub prices --from oldest        as a subscriber
  shm topic latest prices                   the last message alone
  shm topic stat prices                     who takes part, and who is slow`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("there is no verb topic %q", args[0]), "shm topic --help"}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newTopicCreate(a), newTopicLs(a), newTopicStat(a), newTopicTail(a), newTopicPub(a), newTopicSub(a), newTopicLatest(a))
	return cmd
}

// topicDoc is how --json shows a topic.
type topicDoc struct {
	Name     string `json:"name,omitempty"` // of a block that has its own
	Dir      string `json:"dir,omitempty"`
	SlotSize int    `json:"slot_size"`
	Slots    int    `json:"slots"`
	Policy   string `json:"policy"`
	Many     bool   `json:"many_publishers"`
	Most     int    `json:"most_participants"`
	topic.Stats
	Participants []topic.Participant `json:"participants"`
	Elsewhere    bool                `json:"elsewhere,omitempty"`
}

// topicOf looks at the topic in a block.
func topicOf(dir, name string) (*topicDoc, error) {
	b, err := shm.Open(name, &shm.OpenOptions{ReadOnly: true, Dir: dir})
	if err != nil {
		return nil, err
	}
	defer b.Close()
	i, err := topic.Describe(b)
	if err != nil {
		return nil, err
	}
	o := i.Options
	return &topicDoc{
		Dir: dir, SlotSize: o.SlotSize, Slots: o.Slots, Policy: strings.ToLower(o.Policy.String()), Many: o.ManyPublishers, Most: o.Participants,
		Stats: i.Stats, Participants: append([]topic.Participant{}, i.Participants...), Elsewhere: i.Elsewhere,
	}, nil
}

func (d *topicDoc) called(name string) { d.Name = name }

func (d *topicDoc) heading() string {
	return "PUBLISHED/s RECEIVED/s   MISSED/s PUBLISHERS SUBSCRIBERS   FURTHEST BEHIND"
}

func (d *topicDoc) since(a *app, before statDoc) string {
	was, _ := before.(*topicDoc)
	behind := uint64(0)
	for _, p := range d.Participants {
		behind = max(behind, p.Behind)
	}
	return fmt.Sprintf("%11d %10d %10d %10d %11d   %s", d.Published-was.Published, d.Received-was.Received, d.Missed-was.Missed, d.Publishers, d.Subscribers,
		a.paint(usedStyle(int(min(behind, uint64(d.Slots))*100/uint64(d.Slots))), fmt.Sprintf("%s %d", bar(behind, uint64(d.Slots), 10), behind)))
}

// lines are what a person wants to know, of a block whose holders are seen.
func (d *topicDoc) lines(a *app, seen []proc.Holder) (what, text []string) {
	line := func(w, format string, args ...any) {
		what, text = append(what, w), append(text, fmt.Sprintf(format, args...))
	}
	who, policy := "one publisher", "who do not wait for subscribers"
	if d.Many {
		who = "many publishers"
	}
	if d.Policy == "wait" {
		policy = "who wait for subscribers"
	}
	line("for", "%s, %s; %d participants at most", who, policy, d.Most)
	line("room", "%d messages of up to %s", d.Slots, a.size(int64(d.SlotSize)))
	line("messages", "%d published, %d kept; %d received and %d missed, by all subscribers together", d.Published, d.Kept, d.Received, d.Missed)
	line("behind", "%d messages at most", d.HighWater)
	line("slept", "%d times", d.Waits)
	for _, role := range []string{"publisher", "subscriber"} {
		var who []string
		for _, p := range d.Participants {
			if p.Role != role {
				continue
			}
			s := takerText(p.Owner, seen)
			if p.Behind > 0 {
				s += fmt.Sprintf(", %d behind", p.Behind)
			}
			who = append(who, s)
		}
		line(role+"s", "%s", cmp.Or(strings.Join(who, "; "), "none"))
	}
	if d.Elsewhere {
		line("note", elsewhereText)
	}
	return what, text
}

func newTopicCreate(a *app) *cobra.Command {
	var o topic.Options
	var wait bool
	slot := int64(48)
	o.Block.Lifetime = shm.Persistent
	cmd := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Make a topic",
		Long: `Make an empty topic and print its name. It stays until somebody removes it.
Publishers overwrite the oldest message, and subscribers that are slow learn how many
they missed; with --wait publishers wait for them.`,
		Example: `  shm topic create prices
  shm topic create audit --wait --many-publishers --slot-size 1K`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError{fmt.Errorf("topic create wants one name, not %d", len(args)), cmd.CommandPath() + " --help"}
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
			o.Block.Dir, o.SlotSize = string(dir), int(slot)
			if wait {
				o.Policy = topic.Wait
			}
			t, err := topic.Create(name, &o)
			if errors.Is(err, shm.ErrSize) {
				return usageError{err, cmd.CommandPath() + " --help"}
			}
			if err != nil {
				return a.existsHint(err, name)
			}
			name = t.Name()
			if err := t.Close(); err != nil {
				return err
			}
			return a.printMade(dir, name)
		},
	}
	f := cmd.Flags()
	f.Var(newValue(&slot, "SIZE", "48", parseSize), "slot-size", "the longest message")
	f.IntVar(&o.Slots, "slots", 1024, "how many messages are kept, rounded up to a power of two")
	f.BoolVar(&wait, "wait", false, "publishers wait for slow subscribers")
	f.BoolVar(&o.ManyPublishers, "many-publishers", false, "for more than one publisher")
	f.IntVar(&o.Participants, "participants", 64, "how many publishers and subscribers there may be at once")
	f.Var(newValue(&o.Block.Mode, "MODE", "0600", parseMode), "mode", "permission bits, whatever the umask")
	return cmd
}

func newTopicLs(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "ls [PATTERN…]",
		Short: "List topics",
		Long: `List the topics that this user may see: what publishers do when subscribers are
slow, how many messages are kept, who is there, and what has passed. PATTERN is a name
with * ? [a-z], in quotes.`,
		Example: `  shm topic ls
  shm topic ls --json | jq '.topics[] | select(.missed > 0) | .name'`,
		ValidArgsFunction: a.completeKind("topic"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, blocks, err := a.ofKind(cmd, "topic", args)
			if err != nil {
				return err
			}
			docs := []*topicDoc{} // not null in JSON
			t := a.newTable("NAME", "POLICY", ">SLOTS", ">ROOM", ">PUBLISHERS", ">SUBSCRIBERS", ">PUBLISHED", ">RECEIVED", ">MISSED", ">AGE")
			var errs []error
			for _, b := range blocks {
				d, err := topicOf(b.Dir, b.Name)
				if err != nil {
					if !errors.Is(err, fs.ErrNotExist) {
						errs = append(errs, err)
					}
					continue
				}
				d.Name = b.Name
				docs = append(docs, d)
				missed := cell{text: fmt.Sprint(d.Missed)}
				if d.Missed > 0 {
					missed.style = yellow
				}
				t.row(printable(b.Name), d.Policy, d.Slots, a.size(int64(d.SlotSize)), d.Publishers, d.Subscribers, d.Published, d.Received, missed, age(b.Created, time.Now()))
			}
			switch {
			case a.json:
				err = a.writeJSON(map[string]any{"dir": placeName(dir), "topics": docs})
			case len(docs) == 0:
				fmt.Fprintf(a.stderr, "no topics in %s\n", placeName(dir))
			default:
				err = t.flush()
			}
			return errors.Join(append(errs, err)...)
		},
	}
}

func newTopicStat(a *app) *cobra.Command {
	return a.newStat("topic", `Show what a topic was made for, what has passed, and which processes publish and
subscribe, each with how far it is behind. With --follow, a line each second until ^C.`,
		`  shm topic stat prices
  shm topic stat --follow prices
  shm topic stat --json prices | jq '.topics[0].participants[] | select(.behind > 100)'`,
		func(dir, name string) (statDoc, error) { d, err := topicOf(dir, name); return d, err })
}

func newTopicTail(a *app) *cobra.Command {
	var f framing
	var follow bool
	cmd := &cobra.Command{
		Use:   "tail NAME",
		Short: "Show the last messages, and take no part",
		Long: `Write the last 10 messages that a topic keeps, or the last --count. With --follow,
those too that come later, until ^C. Nobody notices: this command looks some 50 times a
second, and says how many were overwritten in between. A subscriber (sub) is told of each
message at once.

` + framingHelp + `
With --json each message is a document on a line of its own.`,
		Example: `  shm topic tail prices
  shm topic tail -f -n 1 --json prices | jq .text`,
		ValidArgsFunction: a.completeKind("topic"),
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
			return a.otherKind(dir, args[0], "topic", a.tailTopic(cmd.Context(), b, &f, cmp.Or(f.count, 10), follow))
		},
	}
	f.forOutput(cmd)
	cmd.Flags().Lookup("count").Usage = "the last `N` messages (default 10)"
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with those that come later")
	return cmd
}

func (a *app) tailTopic(ctx context.Context, b *shm.Block, f *framing, last int, follow bool) error {
	tick := time.NewTicker(peekEvery)
	defer tick.Stop()
	messages, next, err := topic.Peek(b, 0)
	messages = messages[max(0, len(messages)-last):]
	expect := next
	if len(messages) > 0 {
		expect = messages[0].Number
	}
	for {
		for _, m := range messages {
			if err := a.putPublished(f, m.Data, m.Number, m.Number-expect); err != nil {
				return err
			}
			expect = m.Number + 1
		}
		if err != nil || !follow {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		messages, next, err = topic.Peek(b, next)
	}
}

// putPublished writes a message, and how many were missed before it.
func (a *app) putPublished(f *framing, p []byte, number, missed uint64) error {
	if missed > 0 && !a.json {
		fmt.Fprintf(a.stderr, "shm: %d messages were missed\n", missed)
	}
	return a.putMessage(f, p, messageDoc{Position: &number, Missed: missed})
}

// openTopic opens a topic to take part in it.
func (a *app) openTopic(name string) (*topic.Topic, error) {
	dir, err := a.place()
	if err != nil {
		return nil, err
	}
	t, err := topic.Open(name, &topic.OpenOptions{Block: shm.OpenOptions{Dir: string(dir)}})
	if errors.Is(err, fs.ErrNotExist) {
		err = hint(err, "shm topic create%s %s", a.placeFlags(), shellQuote(name))
	}
	return t, a.otherKind(dir, name, "topic", err)
}

// topicHint adds to an error of a topic what to do about it.
func (a *app) topicHint(err error, t *topic.Topic) error {
	stat := "shm topic stat" + a.placeFlags() + " " + shellQuote(t.Name())
	switch {
	case errors.Is(err, topic.ErrTaken), errors.Is(err, shm.ErrNoSpace):
		return hint(err, "%s   (it says who is there)", stat)
	case errors.Is(err, context.DeadlineExceeded):
		return hint(errors.New("it took too long"), "%s   (it says who is slow)", stat)
	case errors.Is(err, topic.ErrPeerGone):
		return hint(err, "%s   (another may come, and things go on)", stat)
	}
	return err
}

func newTopicPub(a *app) *cobra.Command {
	var f framing
	wait := time.Duration(-1)
	cmd := &cobra.Command{
		Use:   "pub NAME",
		Short: "Publish messages",
		Long: `Publish what comes from standard input, or --file, as messages. If the topic's
policy is wait, wait for slow subscribers.
` + framingHelp + `
When this command is the last publisher and ends, subscribers get the end after the
last message.`,
		Example: `  shm topic pub prices <prices.csv
  date | shm topic pub clock`,
		ValidArgsFunction: a.completeKind("topic"),
		Args:              exactly(1, "a name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd); err != nil {
				return err
			}
			t, err := a.openTopic(args[0])
			if err != nil {
				return err
			}
			defer t.Close()
			p, err := t.Publisher()
			if err != nil {
				return a.topicHint(err, t)
			}
			err = a.sendAll(cmd, &f, wait, t.Options().SlotSize, p.PublishContext)
			if errors.Is(err, errTooLong) {
				err = hint(err, "shm topic create --slot-size SIZE NAME, a topic with more room")
			}
			if err == nil {
				err = p.Close()
			}
			return a.topicHint(err, t)
		},
	}
	f.forInput(cmd)
	cmd.Flags().VarP(newValue(&wait, "DURATION", "for ever", parseWait), "wait", "w", "wait so long for subscribers, at each message: 30s, 5m")
	return cmd
}

// parseFrom reads where a subscriber begins.
func parseFrom(s string) (topic.From, error) {
	for _, from := range []topic.From{topic.Now, topic.Newest, topic.Oldest} {
		if s == strings.ToLower(from.String()) {
			return from, nil
		}
	}
	return 0, fmt.Errorf("%q is not now, newest or oldest", s)
}

func newTopicSub(a *app) *cobra.Command {
	var f framing
	var follow bool
	var from topic.From
	wait := time.Duration(-1)
	cmd := &cobra.Command{
		Use:   "sub NAME",
		Short: "Subscribe, and write the messages",
		Long: `Write the messages that are published to standard output, until all publishers have
closed; if none has come yet, wait for one. With --follow go on waiting when all have
gone. How many were overwritten before they could be read is said on standard error.

` + framingHelp + `
With --json each message is a document on a line of its own.`,
		Example: `  shm topic sub prices
  shm topic sub --from oldest -n 5 prices
  shm topic sub --follow --json prices | jq .text`,
		ValidArgsFunction: a.completeKind("topic"),
		Args:              exactly(1, "a name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd); err != nil {
				return err
			}
			t, err := a.openTopic(args[0])
			if err != nil {
				return err
			}
			defer t.Close()
			s, err := t.Subscriber(from)
			if err != nil {
				return a.topicHint(err, t)
			}
			return a.topicHint(a.subTopic(cmd.Context(), t, s, &f, wait, follow), t)
		},
	}
	f.forOutput(cmd)
	cmd.Flags().Var(newValue(&from, "WHERE", "now", parseFrom), "from", "begin with what comes now, with the newest message, or the oldest that is kept")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on when all publishers have gone")
	cmd.Flags().VarP(newValue(&wait, "DURATION", "for ever", parseWait), "wait", "w", "wait so long for each message: 30s, 5m")
	return cmd
}

func (a *app) subTopic(ctx context.Context, t *topic.Topic, s *topic.Subscriber, f *framing, wait time.Duration, follow bool) error {
	buf := make([]byte, t.Options().SlotSize)
	for n := 0; n < f.count || f.count == 0; {
		until, cancel := limited(ctx, wait)
		k, err := s.ReceiveContext(until, buf)
		cancel()
		switch {
		case err == nil:
			n++
			if err := a.putPublished(f, buf[:k], s.Number()-1, s.Missed()); err != nil {
				return err
			}
		case follow && (errors.Is(err, io.EOF) || errors.Is(err, topic.ErrPeerGone)):
			// Nothing tells of a publisher who comes before it publishes.
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

func newTopicLatest(a *app) *cobra.Command {
	var f framing
	cmd := &cobra.Command{
		Use:   "latest NAME",
		Short: "Show the last message, and take no part",
		Long: `Write the last message, as it is and without a line's end; with --json as a document.
For topics whose messages are states rather than events, topic.Latest above all.`,
		Example: `  shm topic latest clock
  shm topic latest --json prices | jq .position`,
		ValidArgsFunction: a.completeKind("topic"),
		Args:              exactly(1, "a name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := a.place()
			if err != nil {
				return err
			}
			b, err := shm.Open(args[0], &shm.OpenOptions{ReadOnly: true, Dir: string(dir)})
			if err != nil {
				return err
			}
			defer b.Close()
			messages, _, err := topic.Peek(b, 0)
			if err != nil {
				return a.otherKind(dir, args[0], "topic", err)
			}
			if len(messages) == 0 {
				return hint(fmt.Errorf("nothing was published in %s yet", printable(args[0])), "shm topic sub%s -n 1 %s   (waits for it)", a.placeFlags(), shellQuote(args[0]))
			}
			m := messages[len(messages)-1]
			if a.json || isTerminal(a.stdout) {
				return a.putMessage(&f, m.Data, messageDoc{Position: &m.Number})
			}
			_, err = a.stdout.Write(m.Data)
			return err
		},
	}
	return cmd
}
