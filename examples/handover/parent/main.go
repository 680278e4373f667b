// Parent starts the child it is told to start, adopts the result that the child
// leaves, and uses it.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/exec"

	"github.com/sharedmem/shm"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("usage: parent CHILD [ARGUMENT...]")
	}
	if err := run(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(command []string) error {
	child := exec.Command(command[0], command[1:]...)
	child.Stderr = os.Stderr
	out, err := child.Output()
	if err != nil {
		return err
	}
	var result struct {
		Squares shm.Ref
		Count   int
	}
	if err := json.Unmarshal(out, &result); err != nil {
		return err
	}
	b, err := result.Squares.Open(nil)
	if err != nil {
		return err
	}
	defer b.Unlink()
	defer b.Close()
	// From here on it goes when we go, kill -9 included.
	if err := b.Adopt(); err != nil {
		return err
	}

	// What a child tells is input: Slice checks that so many are there.
	squares, err := shm.Slice[uint64](b, 0, result.Count)
	if err != nil {
		return err
	}
	sum := uint64(0)
	for _, s := range squares {
		sum += s
	}
	fmt.Printf("%d squares in %s, together %d\n", len(squares), b.Name(), sum)
	fmt.Fprintln(os.Stderr, "Press Enter to end; meanwhile, see shm ls -l elsewhere.")
	_, _ = fmt.Scanln() // an empty line is an error to it
	return nil
}
