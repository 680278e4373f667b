// Follower reads all quotes of the market, as they come, and says at the end what it saw.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/topic"
)

// quote as in exchange.
type quote struct {
	Number uint64
	Symbol [8]byte
	Cents  int64
	Sent   int64
}

func main() {
	log.SetFlags(0)
	name := flag.String("name", "market", "of the topic")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *name); err != nil && ctx.Err() == nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, name string) error {
	// It may be started before the exchange.
	b, err := shm.Wait(ctx, name, nil)
	if err != nil {
		return err
	}
	b.Close()
	t, err := topic.Open(name, nil)
	if err != nil {
		return err
	}
	defer t.Close()
	quotes, err := topic.Of[quote](t)
	if err != nil {
		return err
	}
	s, err := quotes.Subscriber()
	if err != nil {
		return err
	}
	var took []time.Duration
	var missed, first uint64
	defer context.AfterFunc(ctx, func() { _ = s.Close() })() // which ends the waiting
	for q, err := range s.All() {
		if err != nil {
			return err
		}
		missed += s.Missed()
		// What was missed since we came is known exactly: the numbers agree.
		if len(took) == 0 {
			first = q.Number - missed
		}
		if q.Number != first+uint64(len(took))+missed {
			return errors.New("a gap that nobody told of")
		}
		took = append(took, time.Since(time.Unix(0, q.Sent)))
	}
	slices.SortFunc(took, cmp.Compare[time.Duration])
	fmt.Printf("follower: received %d from %d on, missed %d", len(took), first, missed)
	if n := len(took); n > 0 {
		fmt.Printf("; from exchange to here half of them within %v, 99 of 100 within %v", took[n/2], took[n*99/100])
	}
	fmt.Println()
	return nil
}
