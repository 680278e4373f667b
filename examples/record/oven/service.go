package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/sharedmem/shm/list"
)

// serve keeps the record and shows it when Enter is pressed, until ^C or the end
// of the input.
func serve(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	name := flags.String("name", "record", "of the record")
	layout := flags.String("layout", "3.9", "3.8: for Python 3.8, which reads no other")
	_ = flags.Parse(args) // it exits itself

	o := &list.Options{Concurrent: true} // several workers change it
	if *layout == "3.8" {
		o.Layout = list.Python38
	}
	l, err := list.Create(*name, []any{
		fieldName:        "oven 3",
		fieldCount:       0,
		fieldTemperature: nil,
		// None at first; text keeps the slot that it was made with.
		fieldError:   list.Room(63),
		fieldEnabled: false,
	}, o)
	if err != nil {
		return err
	}
	defer l.Unlink()
	defer l.Close()
	// Whoever still has the record when it has lost its name sees why.
	defer func() { _ = l.SetNil(fieldName) }()

	enter := make(chan bool)
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			enter <- true
		}
		close(enter)
	}()
	for {
		fmt.Println(l) // as Python's print does
		select {
		case <-ctx.Done():
			return nil
		case more := <-enter:
			if !more {
				return nil
			}
		}
	}
}
