package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/platform/proc"
	"github.com/sharedmem/shm/topic"
)

func init() { verbs = append(verbs, newTopic) }

func newTopic(a *app) *cobra.Command {
	return topics.verbs(&cobra.Command{
		Short: "Make, look at and use topics: messages that every subscriber reads",
		Long: `Make and look at topics, those of package topic, and publish and subscribe, as one
more process among those that do. Linux only.`,
		Example: `  shm topic create prices
  shm topic pub prices <prices.csv          each line is a message
  shm topic tail -f prices                  the last ones, and what comes; disturbs nobody
  shm topic sub prices --from oldest        as a subscriber
  shm topic latest prices                   the last message alone
  shm topic stat prices                     who takes part, and who is slow`,
	}, newTopicCreate(a), newTopicLs(a), newTopicStat(a), newTopicTail(a), newTopicPub(a), newTopicSub(a), newTopicLatest(a))
}

var topics = queueKind[*topic.Topic]{
	name:     "topic",
	describe: describeTopic,
	open: func(name string, o shm.OpenOptions) (*topic.Topic, error) {
		return topic.Open(name, &topic.OpenOptions{Block: o})
	},
	sender: func(t *topic.Topic) (func(context.Context, []byte) error, int, io.Closer, error) {
		p, err := t.Publisher()
		if err != nil {
			return nil, 0, nil, err
		}
		return p.PublishContext, t.Options().SlotSize, p, nil
	},
	columns: []string{"POLICY", ">SLOTS", ">ROOM", ">PUBLISHERS", ">SUBSCRIBERS", ">PUBLISHED", ">RECEIVED", ">MISSED"},
	heading: "PUBLISHED/s RECEIVED/s   MISSED/s PUBLISHERS SUBSCRIBERS   FURTHEST BEHIND",
	longer:  "--slot-size",
	slow:    "   (it says who is slow)",
	others:  "another",
}

// topicDoc is how --json shows a topic.
type topicDoc struct {
	queueHead
	Policy string `json:"policy"`
	Many   bool   `json:"many_publishers"`
	Most   int    `json:"most_participants"`
	topic.Stats
	Participants []topic.Participant `json:"participants"`
	Elsewhere    bool                `json:"elsewhere,omitempty"`
}

func describeTopic(b *shm.Block) (queueDoc, error) {
	i, err := topic.Describe(b)
	o := i.Options
	return &topicDoc{
		queueHead: queueHead{SlotSize: o.SlotSize, Slots: o.Slots}, Policy: strings.ToLower(o.Policy.String()), Many: o.ManyPublishers, Most: o.Participants,
		Stats: i.Stats, Participants: append([]topic.Participant{}, i.Participants...), Elsewhere: i.Elsewhere,
	}, err
}

func (d *topicDoc) facts(a *app, seen []proc.Holder) *facts {
	var f facts
	publishers, policy := "one publisher", "subscribers are not waited for"
	if d.Many {
		publishers = "many publishers"
	}
	if d.Policy == "wait" {
		policy = "subscribers are waited for"
	}
	f.line("for", "%s; %s; %d participants at most", publishers, policy, d.Most)
	f.line("room", "%d messages of up to %s", d.Slots, a.size(int64(d.SlotSize)))
	f.line("messages", "%d published, %d kept; %d received and %d missed, by all subscribers together", d.Published, d.Kept, d.Received, d.Missed)
	f.line("behind", "%d messages at most", d.HighWater)
	f.line("slept", "%d times", d.Waits)
	who := map[string][]string{}
	for _, p := range d.Participants {
		text := takerText(p.Owner, seen)
		if p.Behind > 0 {
			text += fmt.Sprintf(", %d behind", p.Behind)
		}
		who[p.Role] = append(who[p.Role], text)
	}
	f.line("publishers", "%s", allText(who["publisher"]))
	f.line("subscribers", "%s", allText(who["subscriber"]))
	return f.elsewhere(d.Elsewhere)
}

func (d *topicDoc) cells(a *app) []any {
	missed := cell{text: fmt.Sprint(d.Missed)}
	if d.Missed > 0 {
		missed.style = yellow
	}
	return []any{d.Policy, d.Slots, a.size(int64(d.SlotSize)), d.Publishers, d.Subscribers, d.Published, d.Received, missed}
}

func (d *topicDoc) since(a *app, before queueDoc) string {
	was, _ := before.(*topicDoc)
	behind := uint64(0)
	for _, p := range d.Participants {
		behind = max(behind, p.Behind)
	}
	return fmt.Sprintf("%11d %10d %10d %10d %11d   %s", d.Published-was.Published, d.Received-was.Received, d.Missed-was.Missed, d.Publishers, d.Subscribers,
		a.paint(usedStyle(int(min(behind, uint64(d.Slots))*100/uint64(d.Slots))), fmt.Sprintf("%s %d", bar(behind, uint64(d.Slots), 10), behind)))
}

func newTopicCreate(a *app) *cobra.Command {
	var o topic.Options
	var wait bool
	slot := int64(48)
	cmd := topics.newCreate(a, &cobra.Command{
		Long: `Make an empty topic and print its name. It stays until somebody removes it.
Publishers overwrite the oldest message, and subscribers that are slow learn how many
they missed; with --wait publishers wait for them.`,
		Example: `  shm topic create prices
  shm topic create audit --wait --many-publishers --slot-size 1K`,
	}, &o.Block, func(name string) (*topic.Topic, error) {
		o.SlotSize = int(slot)
		if wait {
			o.Policy = topic.Wait
		}
		return topic.Create(name, &o)
	})
	f := cmd.Flags()
	f.Var(newValue(&slot, "SIZE", "48", parseSize), "slot-size", "the longest message")
	f.IntVar(&o.Slots, "slots", 1024, "how many messages are kept, rounded up to a power of two")
	f.BoolVar(&wait, "wait", false, "publishers wait for slow subscribers")
	f.BoolVar(&o.ManyPublishers, "many-publishers", false, "for more than one publisher")
	f.IntVar(&o.Participants, "participants", 64, "how many publishers and subscribers there may be at once")
	return cmd
}

func newTopicLs(a *app) *cobra.Command {
	return topics.newLs(a, &cobra.Command{
		Long: `List the topics that this user may see: what publishers do when subscribers are
slow, how many messages are kept, who is there, and what has passed. PATTERN is a name
with * ? [a-z], in quotes.`,
		Example: `  shm topic ls
  shm topic ls --json | jq '.topics[] | select(.missed > 0) | .name'`,
	})
}

func newTopicStat(a *app) *cobra.Command {
	return topics.newStat(a, &cobra.Command{
		Long: `Show what a topic was made for, what has passed, and which processes publish and
subscribe, each with how far it is behind. With --follow, a line each second until ^C.`,
		Example: `  shm topic stat prices
  shm topic stat --follow prices
  shm topic stat --json prices | jq '.topics[0].participants[] | select(.behind > 100)'`,
	})
}

func newTopicTail(a *app) *cobra.Command {
	cmd := topics.newTail(a, &cobra.Command{
		Short: "Show the last messages, and take no part",
		Long: `Write the last 10 messages that a topic keeps, or the last --count. With --follow,
those too that come later, until ^C. Nobody notices: this command looks some 50 times a
second, and says how many were overwritten in between. A subscriber (sub) is told of each
message at once.

` + framingHelp + `
With --json each message is a document on a line of its own.`,
		Example: `  shm topic tail prices
  shm topic tail -f -n 1 --json prices | jq .text`,
	}, func(b *shm.Block, count int) func() ([]message, error) {
		from, expect := uint64(0), uint64(0)
		last := cmp.Or(count, 10)
		return func() (found []message, err error) {
			messages, next, err := topic.Peek(b, from)
			if last > 0 { // the first time
				messages = messages[max(0, len(messages)-last):]
				last, expect = 0, next
				if len(messages) > 0 {
					expect = messages[0].Number
				}
			}
			from = next
			for _, m := range messages {
				found = append(found, message{m.Data, messageDoc{Position: &m.Number, Missed: m.Number - expect}})
				expect = m.Number + 1
			}
			return found, err
		}
	})
	cmd.Flags().Lookup("count").Usage = "the last `N` messages (default 10)"
	return cmd
}

func newTopicPub(a *app) *cobra.Command {
	return topics.newPub(a, &cobra.Command{
		Short: "Publish messages",
		Long: `Publish what comes from standard input, or --file, as messages. If the topic's
policy is wait, wait for slow subscribers.
` + framingHelp + `
When this command is the last publisher and ends, subscribers get the end after the
last message.`,
		Example: `  shm topic pub prices <prices.csv
  date | shm topic pub clock`,
	}, "wait so long for subscribers, at each message")
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
	var from topic.From
	cmd := topics.newSub(a, &cobra.Command{
		Short: "Subscribe, and write the messages",
		Long: `Write the messages that are published to standard output, until all publishers have
closed; if none has come yet, wait for one. With --follow go on waiting when all have
gone. How many were overwritten before they could be read is said on standard error.

` + framingHelp + `
With --json each message is a document on a line of its own.`,
		Example: `  shm topic sub prices
  shm topic sub --from oldest -n 5 prices
  shm topic sub --follow --json prices | jq .text`,
	}, "publishers", func(t *topic.Topic) (receiving, error) {
		s, err := t.Subscriber(from)
		buf := make([]byte, t.Options().SlotSize)
		return func(ctx context.Context, put func([]byte, messageDoc) error) error {
			n, err := s.ReceiveContext(ctx, buf)
			if err != nil {
				return err
			}
			number := s.Number() - 1
			return put(buf[:n], messageDoc{Position: &number, Missed: s.Missed()})
		}, err
	})
	cmd.Flags().Var(newValue(&from, "WHERE", "now", parseFrom), "from", "begin with what comes now, with the newest message, or the oldest that is kept")
	return cmd
}

func newTopicLatest(a *app) *cobra.Command {
	var f framing
	return topics.onlooker(a, &cobra.Command{
		Use:   "latest NAME",
		Short: "Show the last message, and take no part",
		Long: `Write the last message, as it is and without a line's end; with --json as a document.
For topics whose messages are states rather than events, topic.Latest above all.`,
		Example: `  shm topic latest clock
  shm topic latest --json prices | jq .position`,
	}, &f, func(_ context.Context, b *shm.Block) error {
		messages, _, err := topic.Peek(b, 0)
		if err != nil {
			return err
		}
		if len(messages) == 0 {
			return hint(fmt.Errorf("nothing was published in %s yet", printable(b.Name())), "shm topic sub%s -n 1 %s   (waits for it)", a.placeFlags(), shellQuote(b.Name()))
		}
		m := messages[len(messages)-1]
		if a.json || isTerminal(a.stdout) {
			return a.putMessage(&f, m.Data, messageDoc{Position: &m.Number})
		}
		_, err = a.stdout.Write(m.Data)
		return err
	})
}
