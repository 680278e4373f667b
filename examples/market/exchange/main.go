// Exchange publishes the prices of a made-up market: each a quote in a topic, which any
// number of subscribers read; and, beside it, the state that all quotes add up to.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"os/signal"
	"time"

	"github.com/sharedmem/shm/topic"
)

// A quote is "<Q8sqq" in display.py. Fields at multiples of their size, so C would have
// it alike.
type quote struct {
	Number uint64
	Symbol [8]byte
	Cents  int64
	Sent   int64 // nanoseconds since 1970
}

// A board is "<Q4q" in display.py.
type board struct {
	Quotes uint64 // how many it is of
	Cents  [4]int64
}

var symbols = [4][8]byte{{'A', 'C', 'M', 'E'}, {'I', 'N', 'I', 'T', 'E', 'C', 'H'}, {'G', 'L', 'O', 'B', 'E', 'X'}, {'H', 'O', 'O', 'L', 'I'}}

func main() {
	log.SetFlags(0)
	name := flag.String("name", "market", "of the topic; that of the board is NAME.board")
	n := flag.Uint64("quotes", 20000, "how many to publish")
	rate := flag.Int("rate", 5000, "how many a second")
	wait := flag.Int("subscribers", 1, "begin when so many are there")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *name, *n, *rate, *wait); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, name string, n uint64, rate, wait int) error {
	// The state first: who finds the quotes finds it as well.
	l, err := topic.CreateLatest(name+".board", &topic.Options{SlotSize: 40})
	if err != nil {
		return err
	}
	defer l.Close()
	defer l.Unlink()
	state, err := topic.LatestOf[board](l)
	if err != nil {
		return err
	}
	// 1024 quotes are kept. A subscriber that is further behind misses some: the exchange
	// waits for nobody.
	t, err := topic.Create(name, &topic.Options{SlotSize: 32, Slots: 1024})
	if err != nil {
		return err
	}
	defer t.Close()
	defer t.Unlink()
	quotes, err := topic.Of[quote](t)
	if err != nil {
		return err
	}
	p, err := quotes.Publisher()
	if err != nil {
		return err
	}
	fmt.Printf("%d quotes in %s, %d a second, when %d subscribers are there\n", n, name, rate, wait)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	b := board{Cents: [4]int64{10000, 5000, 20000, 30000}}
	var started time.Time
	for b.Quotes < n {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if started.IsZero() {
			if st, err := t.Stats(); err != nil || st.Subscribers < wait {
				continue
			}
			started = time.Now()
		}
		for due := uint64(time.Since(started).Seconds() * float64(rate)); b.Quotes < min(due, n); b.Quotes++ {
			i := rand.IntN(len(symbols))
			b.Cents[i] = max(b.Cents[i]+rand.Int64N(21)-10, 1)
			if err := p.Publish(quote{b.Quotes, symbols[i], b.Cents[i], time.Now().UnixNano()}); err != nil {
				return err
			}
		}
		if err := state.Set(b); err != nil {
			return err
		}
	}
	if err := p.Close(); err != nil { // at which the subscribers end
		return err
	}
	st, err := t.Stats()
	fmt.Printf("%d published; all subscribers together received %d and missed %d\n", st.Published, st.Received, st.Missed)
	return err
}
