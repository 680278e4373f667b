// Child works in the block that it was started with. child.py does the same.
package main

import (
	"bytes"
	"fmt"
	"log"
	"os"

	"github.com/sharedmem/shm"
)

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal("child: ", err)
	}
}

func run() error {
	f := os.NewFile(3, "block")
	b, err := shm.FromFile(f, nil)
	f.Close() // the mapping is enough
	if err != nil {
		return err
	}
	defer b.Close()
	return b.Do(func(p []byte) error {
		question, _, _ := bytes.Cut(p, []byte{0})
		if string(question) != "what is the answer?" {
			return fmt.Errorf("what is the meaning of %q?", question)
		}
		copy(p[len(p)/2:], "42")
		return nil
	})
}
