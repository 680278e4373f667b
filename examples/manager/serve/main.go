// Serve is a manager that others make their blocks through. It ends, and they
// with it, when Enter is pressed.
package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"log"
	"os"

	"github.com/sharedmem/shm/manager"
)

func main() {
	// Arguments can be read by every user of the machine, the environment only by
	// this one.
	key, err := hex.DecodeString(os.Getenv("MANAGER_KEY"))
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	m, err := manager.Start(ctx, &manager.Options{Address: "unix:" + os.Getenv("MANAGER_ADDRESS"), AuthKey: key})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("ready")
	_, _ = fmt.Scanln()
	if err := m.Shutdown(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println("all blocks are removed")
}
