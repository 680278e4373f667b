package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/platform/proc"
	"github.com/sharedmem/shm/ring"
)

func init() { verbs = append(verbs, newRing) }

func newRing(a *app) *cobra.Command {
	return rings.verbs(&cobra.Command{
		Short: "Make, look at and use rings: queues of messages",
		Long: `Make and look at rings, the queues of package ring, and send and receive messages by
them, as one more process among those that do. Linux only.`,
		Example: `  shm ring create jobs --max-message 4K
  shm ring pub jobs <jobs.txt               each line is a message
  shm ring sub jobs | while read -r job; do ./run "$job"; done
  shm ring stat jobs                        how full it is, and who takes part
  shm ring tail jobs                        what lies in it; takes nothing`,
	}, newRingCreate(a), newRingLs(a), newRingStat(a), newRingTail(a), newRingPub(a), newRingSub(a))
}

var rings = queueKind[*ring.Queue]{
	name:     "ring",
	describe: describeRing,
	open: func(name string, o shm.OpenOptions) (*ring.Queue, error) {
		return ring.Open(name, &ring.OpenOptions{Block: o})
	},
	sender: func(q *ring.Queue) (func(context.Context, []byte) error, int, io.Closer, error) {
		s, err := q.Sender()
		if err != nil {
			return nil, 0, nil, err
		}
		return s.SendContext, q.Options().MaxMessage, s, nil
	},
	columns: []string{"FOR", ">SLOTS", ">ROOM", ">USED", ">SENDERS", ">RECEIVERS", ">SENT", ">RECEIVED"},
	heading: "          USED               SENT/s RECEIVED/s  SENDERS RECEIVERS",
	longer:  "--max-message",
	others:  "more",
}

// ringDoc is how --json shows a ring.
type ringDoc struct {
	queueHead
	MaxMessage  int  `json:"max_message"`
	OneSender   bool `json:"one_sender"`
	OneReceiver bool `json:"one_receiver"`
	Discard     bool `json:"discard"`
	Most        int  `json:"most_participants"`
	ring.Stats
	Participants []ring.Participant `json:"participants"`
	Elsewhere    bool               `json:"elsewhere,omitempty"`
}

func describeRing(b *shm.Block) (queueDoc, error) {
	i, err := ring.Describe(b)
	o := i.Options
	return &ringDoc{
		queueHead: queueHead{SlotSize: o.SlotSize, Slots: o.Slots}, MaxMessage: o.MaxMessage,
		OneSender: o.Senders == ring.One, OneReceiver: o.Receivers == ring.One, Discard: o.AfterDeath == ring.Discard,
		Most: o.Participants, Stats: i.Stats, Participants: append([]ring.Participant{}, i.Participants...), Elsewhere: i.Elsewhere,
	}, err
}

// sides is "many to one".
func (d *ringDoc) sides() string {
	many := map[bool]string{true: "one", false: "many"}
	return many[d.OneSender] + " to " + many[d.OneReceiver]
}

func (d *ringDoc) percent() int { return d.Pending * 100 / d.Slots }

func (d *ringDoc) facts(a *app, seen []proc.Holder) *facts {
	var f facts
	f.line("for", "%s, %d participants at most", d.sides(), d.Most)
	f.line("room", "%d slots of %s, messages of up to %s", d.Slots, a.size(int64(d.SlotSize)), a.size(int64(d.MaxMessage)))
	f.line("used", "%s %d slots of %d (%d%%), once %d", bar(uint64(d.Pending), uint64(d.Slots), 20), d.Pending, d.Slots, d.percent(), d.HighWater)
	f.line("messages", "%d sent, %d received", d.Sent, d.Received)
	dead := "go to others, marked"
	if d.Discard {
		dead = "are dropped"
	}
	f.line("dead", "what dead receivers had: %d given back, %d dropped; they %s", d.Redelivered, d.Lost, dead)
	f.line("slept", "%d times", d.Waits)
	who := map[string][]string{}
	for _, p := range d.Participants {
		who[p.Role] = append(who[p.Role], takerText(p.Owner, seen))
	}
	f.line("senders", "%s", allText(who["sender"]))
	f.line("receivers", "%s", allText(who["receiver"]))
	return f.elsewhere(d.Elsewhere)
}

func (d *ringDoc) cells(a *app) []any {
	used := cell{usedStyle(d.percent()), fmt.Sprintf("%d%%", d.percent())}
	return []any{d.sides(), d.Slots, a.size(int64(d.SlotSize)), used, d.Senders, d.Receivers, d.Sent, d.Received}
}

func (d *ringDoc) since(a *app, before queueDoc) string {
	was, _ := before.(*ringDoc)
	used := fmt.Sprintf("%s %3d%%", bar(uint64(d.Pending), uint64(d.Slots), 20), d.percent())
	return fmt.Sprintf("%s %9d %10d %8d %9d", a.paint(usedStyle(d.percent()), used), d.Sent-was.Sent, d.Received-was.Received, d.Senders, d.Receivers)
}

func newRingCreate(a *app) *cobra.Command {
	var o ring.Options
	var one, only, discard bool
	var slot, most int64 = 48, 0
	cmd := rings.newCreate(a, &cobra.Command{
		Long: `Make an empty ring and print its name. It stays until somebody removes it.
A message longer than a slot takes several in a row.`,
		Example: `  shm ring create jobs
  shm ring create frames --slots 64 --slot-size 64K --max-message 4M --one-sender --one-receiver`,
	}, &o.Block, func(name string) (*ring.Queue, error) {
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
		return ring.Create(name, &o)
	})
	f := cmd.Flags()
	f.Var(newValue(&slot, "SIZE", "48", parseSize), "slot-size", "how many bytes of a message a slot has room for")
	f.IntVar(&o.Slots, "slots", 1024, "how many there are, rounded up to a power of two")
	f.Var(newValue(&most, "SIZE", "that of a slot", parseSize), "max-message", "the longest message")
	f.BoolVar(&one, "one-sender", false, "for one sender, which is faster")
	f.BoolVar(&only, "one-receiver", false, "for one receiver, which is faster")
	f.BoolVar(&discard, "discard", false, "drop what a receiver had that died, rather than give it to another")
	f.IntVar(&o.Participants, "participants", 64, "how many senders and receivers there may be at once")
	return cmd
}

func newRingLs(a *app) *cobra.Command {
	return rings.newLs(a, &cobra.Command{
		Long: `List the rings that this user may see: for how many, how full, who is there, and
how many messages have passed. PATTERN is a name with * ? [a-z], in quotes.`,
		Example: `  shm ring ls
  shm ring ls --json | jq '.rings[] | select(.receivers == 0) | .name'`,
	})
}

func newRingStat(a *app) *cobra.Command {
	return rings.newStat(a, &cobra.Command{
		Long: `Show what a ring was made for, how full it is, how many messages have passed, and
which processes send and receive. With --follow, a line each second until ^C.`,
		Example: `  shm ring stat jobs
  shm ring stat --follow jobs
  shm ring stat --json jobs | jq '.rings[0].participants[].owner.pid'`,
	})
}

func newRingTail(a *app) *cobra.Command {
	return rings.newTail(a, &cobra.Command{
		Short: "Show the messages that lie in a ring, and take none",
		Long: `Write the messages that lie in a ring, oldest first, and leave them there. With
--follow, those too that come later, until ^C. What a receiver takes before this
command has looked is not seen, and it looks some 50 times a second: to be shown
every message be a receiver, or use a topic.

` + framingHelp + `
With --json each message is a document on a line of its own.`,
		Example: `  shm ring tail jobs
  shm ring tail --follow --json jobs`,
	}, func(b *shm.Block, count int) func() ([]message, error) {
		from := uint64(0)
		return func() (found []message, err error) {
			messages, next, err := ring.Peek(b, from)
			from = next
			for _, m := range messages {
				found = append(found, message{m.Data, messageDoc{Position: &m.Position, Taken: m.Taken, Redelivered: m.Redelivered}})
				if count--; count == 0 {
					return found, io.EOF
				}
			}
			return found, err
		}
	})
}

func newRingPub(a *app) *cobra.Command {
	return rings.newPub(a, &cobra.Command{
		Short: "Send messages",
		Long: `Send what comes from standard input, or --file, as messages, and wait while the
ring is full. ` + framingHelp + `
When this command is the last sender and ends, receivers get the end after the
last message.`,
		Example: `  shm ring pub jobs <jobs.txt
  echo stop | shm ring pub -w 5s jobs
  shm ring pub frames --whole --file frame.png`,
	}, "wait so long for room for each message")
}

func newRingSub(a *app) *cobra.Command {
	return rings.newSub(a, &cobra.Command{
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
	}, "senders", func(q *ring.Queue) (receiving, error) {
		r, err := q.Receiver()
		return func(ctx context.Context, put func([]byte, messageDoc) error) error {
			return r.LeaseContext(ctx, func(p []byte) error { return put(p, messageDoc{Redelivered: r.Redelivered()}) })
		}, err
	})
}
