// Parent makes a block without a name and hands it to a child through exec: as
// descriptor 3. The child is whatever command it is given.
package main

import (
	"fmt"
	"log"
	"os"
	"os/exec"

	"github.com/sharedmem/shm"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("usage: parent COMMAND [ARGUMENT...]")
	}
	if err := run(os.Args[1:]); err != nil {
		log.Fatal(err)
	}
}

func run(command []string) error {
	b, err := shm.Anonymous(1<<20, nil)
	if err != nil {
		return err
	}
	defer b.Close()
	if _, err := b.WriteAt([]byte("what is the answer?"), 0); err != nil {
		return err
	}

	f, err := b.File()
	if err != nil {
		return err
	}
	child := exec.Command(command[0], command[1:]...)
	child.ExtraFiles = []*os.File{f} // the first of them is descriptor 3 there
	child.Stderr = os.Stderr
	err = child.Run()
	f.Close()
	if err != nil {
		return err
	}

	answer := make([]byte, 2)
	if _, err := b.ReadAt(answer, 1<<19); err != nil {
		return err
	}
	fmt.Printf("the child says %s\n", answer)
	return nil
}
