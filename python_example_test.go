package shm_test

import (
	"fmt"
	"log"
	"os"
	"os/exec"

	"github.com/sharedmem/shm"
)

// A Python program that opens a block without further ado takes it away when it
// exits. Under a tracker of ours it does not.
func ExampleTrackPython() {
	b, err := shm.Create("", 100, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()

	cmd := exec.Command("python3", "-c", `
import sys
from multiprocessing import shared_memory
shared_memory.SharedMemory(sys.argv[1]).buf[0] = 42
`, b.Name())
	cmd.Stderr = os.Stderr
	release, err := shm.TrackPython(cmd)
	if err != nil {
		log.Fatal(err)
	}
	defer release()
	if err := cmd.Run(); err != nil {
		log.Fatal(err)
	}

	_, err = shm.Stat(b.Name())
	fmt.Println(b.Bytes()[0], err) // 42 <nil>
}
