// Half sums a thousand items of the list NAME, beginning with item FROM, and
// leaves the result in a block of the manager's: half NAME FROM.
package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"log"
	"os"
	"strconv"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/list"
	"github.com/sharedmem/shm/manager"
)

func main() {
	key, err := hex.DecodeString(os.Getenv("MANAGER_KEY"))
	if err != nil {
		log.Fatal(err)
	}
	from, err := strconv.Atoi(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	m, err := manager.Connect(ctx, "unix:"+os.Getenv("MANAGER_ADDRESS"), key)
	if err != nil {
		log.Fatal(err)
	}
	numbers, err := list.Open(os.Args[1], nil)
	if err != nil {
		log.Fatal(err)
	}
	defer numbers.Close()
	var sum int64
	for i := from; i < from+1000; i++ {
		n, err := numbers.Int(i)
		if err != nil {
			log.Fatal(err)
		}
		sum += n
	}
	b, err := m.Create(ctx, 8)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	result, err := shm.At[int64](b, 0)
	if err != nil {
		log.Fatal(err)
	}
	*result = sum
	fmt.Println(b.Name()) // it stays when we go: the manager owns it
}
