// Attach opens the list that create made, shows what is in it, and changes it.
// attach.py does the same.
package main

import (
	"errors"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/sharedmem/shm/list"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: attach NAME")
	}
	if err := run(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(name string) error {
	l, err := list.Open(name, nil) // ShareableList(name=name), in either layout
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Println(l) // as Python shows it

	// for item in l
	for _, item := range l.All() {
		fmt.Printf("%T ", item)
	}
	fmt.Println()

	// An item may become another number, or text that fits into its slot …
	if err := l.SetFloat(2, -78.5); err != nil {
		return err
	}
	if err := l.Set(2, "dry ice"); err != nil {
		return err
	}
	// … but nothing longer. What it was it still is.
	err = l.Set(2, "carbon dioxide")
	if !errors.Is(err, list.ErrTooLong) {
		return fmt.Errorf("too much went in: %w", err)
	}
	fmt.Println(err)
	ice, err := l.Text(2)
	if err != nil {
		return err
	}
	fmt.Println(ice)

	// len(l), l.index(42), l.count(42)
	at, err := l.Index(42)
	if err != nil {
		return err
	}
	n, err := l.Count(42)
	if err != nil {
		return err
	}
	fmt.Println(l.Len(), at, n)

	// The zero at the end, first as it is, then kept by a mark.
	plain, err := l.Text(7)
	if err != nil {
		return err
	}
	marked, err := l.Text(8)
	if err != nil {
		return err
	}
	fmt.Println(len(plain), len(strings.TrimSuffix(marked, "$")))

	_, err = l.AddInt(6, 1)
	return err
}
