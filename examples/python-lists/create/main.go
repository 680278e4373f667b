// Create makes a list, waits while somebody else works on it, shows what has
// become of it, and removes it. create.py does the same.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"

	"github.com/sharedmem/shm/list"
)

func main() {
	log.SetFlags(0)
	layout := flag.String("layout", "3.9", "3.8: for Python 3.8, which reads no other")
	exact := flag.Bool("exact", false, "keep the zeros at the end of text and bytes")
	flag.Parse()
	o := &list.Options{Exact: *exact}
	if *layout == "3.8" {
		o.Layout = list.Python38
	}
	if err := run(flag.Arg(0), o); err != nil { // "": a fresh name
		log.Fatal(err)
	}
}

func run(name string, o *list.Options) error {
	l, err := list.Create(name, []any{
		"howdy", []byte("HoWdY"), -273.154, 100, nil, true, 42,
		"?\x00",  // loses its zero, unless -exact
		"?\x00$", // keeps it, at the price of a mark that readers drop
	}, o)
	if err != nil {
		return err
	}
	defer l.Unlink()
	defer l.Close()

	fmt.Println(l.Ref().Name)
	fmt.Fprintln(os.Stderr, "Now run attach with this name elsewhere, and then press Enter here.")
	_, _ = fmt.Scanln() // an empty line is an error to it

	fmt.Println(l)
	return nil
}
