// Attach opens the array that create made, shows it, and changes its last
// element. attach.py does the same.
package main

import (
	"fmt"
	"log"
	"os"

	"github.com/sharedmem/shm/array"
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
	// existing_shm = SharedMemory(name, track=False)
	// c = np.ndarray((6,), np.int64, existing_shm.buf)
	c, err := array.Open[int64](name, []int{6}, nil)
	if err != nil {
		return err
	}
	defer c.Close()

	fmt.Println(c.Data())
	c.Set(888, c.Len()-1) // c[-1] = 888
	fmt.Println(c.Data())
	return nil
}
