//go:build linux && (amd64 || arm64 || riscv64)

package lock_test

// Examples of what has a layout on 64-bit machines only.

import (
	"fmt"
	"log"
	"os"

	"github.com/sharedmem/shm/lock"
)

// In C: sem_t *s = sem_open(name, 0). In Python posix_ipc.Semaphore(name), or what
// multiprocessing makes.
func ExampleNamedSemaphore() {
	name := fmt.Sprintf("/example-%d", os.Getpid())
	s, err := lock.OpenSemaphore(name, &lock.SemaphoreOptions{Create: true})
	if err != nil {
		log.Fatal(err)
	}
	defer lock.UnlinkSemaphore(name)
	defer s.Close()
	if err := s.Post(); err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Value())
	fmt.Println(s.Wait())
	fmt.Println(s.TryWait())
	// Output:
	// 1 <nil>
	// <nil>
	// false <nil>
}

func ExampleSemaphoreOptions() {
	name := fmt.Sprintf("/example-options-%d", os.Getpid())
	s, err := lock.OpenSemaphore(name, &lock.SemaphoreOptions{
		Create:    true,
		Exclusive: true,  // not one that is there
		Mode:      0o660, // for the group as well, whatever the umask
		Initial:   4,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer lock.UnlinkSemaphore(name)
	defer s.Close()
	fmt.Println(s.Value())
	// Output: 4 <nil>
}
