// Oven is the service that keeps the record, and its workers. panel.py has the
// third part in it.
package main

import (
	"context"
	"errors"
	"log"
	"os"
	"os/signal"
)

func main() {
	log.SetFlags(0)
	parts := map[string]func(context.Context, []string) error{"serve": serve, "work": work}
	if len(os.Args) < 2 || parts[os.Args[1]] == nil {
		log.Fatal("usage: oven serve|work [FLAG...]")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := parts[os.Args[1]](ctx, os.Args[2:])
	stop()
	if err != nil && !errors.Is(err, context.Canceled) { // ^C
		log.Fatal(err)
	}
}
