// Attach opens the block that create made, shows what is in it, and changes it.
// attach.py does the same.
package main

import (
	"fmt"
	"log"
	"os"

	"github.com/sharedmem/shm"
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
	// shm_b = SharedMemory(name, track=False): who only opens a block never
	// removes it, however this program ends.
	b, err := shm.Open(name, nil)
	if err != nil {
		return err
	}
	defer b.Close()

	// Do lends us the memory itself; ReadAt would copy.
	err = b.Do(func(p []byte) error {
		fmt.Printf("%d\n", p[:5])
		copy(p, "howdy")
		return nil
	})
	if err != nil {
		return err
	}
	numbers, err := shm.Slice[int64](b, 16, 6)
	if err != nil {
		return err
	}
	fmt.Println(numbers)
	numbers[5] = 888
	return nil
}
