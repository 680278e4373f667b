// Child makes a result in shared memory, gives it up, tells its name on standard
// output, and ends. Nothing of the result is copied.
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/sharedmem/shm"
)

// Result is what is told about a result: where it lies and how to read it.
type Result struct {
	Squares shm.Ref
	Count   int
}

func main() {
	log.SetFlags(0)
	if err := run(1000); err != nil {
		log.Fatal("child: ", err)
	}
}

func run(n int) error {
	b, err := shm.Create("", 8*n, nil)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := fill(b, n); err != nil {
		_ = b.Unlink()
		return err
	}
	// Until here the result was ours: had we been killed, it would have been
	// removed. From here on it is nobody's and stays.
	if err := b.Disown(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(Result{b.Ref(), n})
}

func fill(b *shm.Block, n int) error {
	squares, err := shm.Slice[uint64](b, 0, n)
	for i := range squares {
		squares[i] = uint64(i) * uint64(i)
	}
	return err
}
