package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/sharedmem/shm/list"
)

// errEnded says that the service is gone.
var errEnded = errors.New("the service has ended")

// work makes pieces and counts them, while the panel has switched the oven on
// and there is a temperature.
func work(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("work", flag.ExitOnError)
	name := flags.String("name", "record", "of the record")
	pieces := flags.Int("pieces", math.MaxInt, "how many to make")
	_ = flags.Parse(args) // it exits itself

	l, err := list.Wait(ctx, *name, nil)
	if err != nil {
		return err
	}
	defer l.Close()
	for range *pieces {
		err := ready(ctx, l)
		if err == nil {
			err = makePiece(l)
		}
		if errors.Is(err, errEnded) {
			fmt.Println(err)
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ready waits until there is something to do.
func ready(ctx context.Context, l *list.List) error {
	for said := ""; ; {
		why, err := obstacle(l)
		if why == "" || err != nil {
			return errors.Join(err, ctx.Err())
		}
		if why != said {
			fmt.Println("waiting:", why)
			said = why
		}
		// Nothing in a list wakes anybody up.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// obstacle says what there is to wait for; "" if nothing.
func obstacle(l *list.List) (string, error) {
	gone, err := l.IsNil(fieldName)
	if err != nil {
		return "", err
	}
	if gone {
		return "", errEnded
	}
	temperature, err := look(l, fieldTemperature)
	if err != nil {
		return "", err
	}
	// Zero is no temperature, but what CPython leaves there for a moment.
	if kelvin, ok := temperature.(float64); !ok || kelvin == 0 {
		return "no temperature yet", nil
	}
	enabled, err := look(l, fieldEnabled)
	if enabled != true {
		return "switched off", err
	}
	return "", nil
}

// makePiece makes a piece; some break.
func makePiece(l *list.List) error {
	n, err := l.AddInt(fieldCount, 1) // n is this worker's alone
	if err != nil || n%100 != 0 {
		return err
	}
	return l.SetText(fieldError, fmt.Sprintf("piece %d broke in worker %d", n, os.Getpid()))
}
