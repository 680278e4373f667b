// Create puts an array into shared memory, waits while somebody else works on
// it, shows what has become of it, and removes it. create.py does the same.
package main

import (
	"fmt"
	"log"
	"os"

	"github.com/sharedmem/shm/array"
)

func main() {
	log.SetFlags(0)
	name := "" // a fresh one
	if len(os.Args) > 1 {
		name = os.Args[1]
	}
	if err := run(name); err != nil {
		log.Fatal(err)
	}
}

func run(name string) error {
	// shm = SharedMemory(name, create=True, size=48); b = np.ndarray((6,), np.int64, shm.buf)
	b, err := array.Create[int64](name, []int{6}, nil)
	if err != nil {
		return err
	}
	defer b.Unlink() // shm.unlink()
	defer b.Close()  // del b; shm.close()

	copy(b.Data(), []int64{1, 1, 2, 3, 5, 8}) // b[:] = a[:]

	fmt.Println(b.Block().Name())
	fmt.Fprintln(os.Stderr, "Now run attach with this name elsewhere, and then press Enter here.")
	_, _ = fmt.Scanln() // an empty line is an error to it

	fmt.Println(b.Data())
	return nil
}
