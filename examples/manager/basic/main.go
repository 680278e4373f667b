// Basic makes two lists and a block through a manager, and leaves them there.
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
	key, err := hex.DecodeString(os.Getenv("MANAGER_KEY"))
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	m, err := manager.Connect(ctx, "unix:"+os.Getenv("MANAGER_ADDRESS"), key)
	if err != nil {
		log.Fatal(err)
	}
	numbers, err := m.CreateList(ctx, []any{2, 3, 5, 7})
	if err != nil {
		log.Fatal(err)
	}
	defer numbers.Close()
	words, err := m.CreateList(ctx, []any{"shared", "between", "two"})
	if err != nil {
		log.Fatal(err)
	}
	defer words.Close()
	raw, err := m.Create(ctx, 128)
	if err != nil {
		log.Fatal(err)
	}
	defer raw.Close()
	for _, v := range []any{numbers, words, raw} {
		fmt.Println(v)
	}
}
