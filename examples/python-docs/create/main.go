// Create makes a block, fills it, waits while somebody else works on it, shows
// what has become of it, and removes it. create.py does the same.
package main

import (
	"fmt"
	"log"
	"os"

	"github.com/sharedmem/shm"
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
	b, err := shm.Create(name, 64, nil) // shm_a = SharedMemory(name, create=True, size=64)
	if err != nil {
		return err
	}
	defer b.Unlink() // shm_a.unlink()
	defer b.Close()  // shm_a.close()

	// Bytes: buffer[:4] = bytearray([22, 33, 44, 55]); buffer[4] = 100
	if _, err := b.WriteAt([]byte{22, 33, 44, 55, 100}, 0); err != nil {
		return err
	}
	// Numbers, in place: shm_a.buf[16:].cast("q"), or NumPy's int64.
	numbers, err := shm.Slice[int64](b, 16, 6)
	if err != nil {
		return err
	}
	copy(numbers, []int64{1, 1, 2, 3, 5, 8})

	fmt.Println(b.Name())
	fmt.Fprintln(os.Stderr, "Now run attach with this name elsewhere, and then press Enter here.")
	_, _ = fmt.Scanln() // an empty line is an error to it

	five := make([]byte, 5)
	if _, err := b.ReadAt(five, 0); err != nil {
		return err
	}
	fmt.Println(string(five), numbers)
	return nil
}
