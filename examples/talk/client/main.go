// Program client asks a server some questions: client ADDRESS
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/conn"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: client ADDRESS")
	}
	if err := run(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(address string) error {
	c, err := conn.Dial(context.Background(), address, []byte("secret password"), nil)
	if err != nil {
		return err
	}
	defer c.Close()

	b, err := shm.Create("", 4096, nil)
	if err != nil {
		return err
	}
	defer b.Unlink()
	defer b.Close()
	if _, err := b.WriteAt([]byte("howdy"), 0); err != nil {
		return err
	}
	for _, question := range []any{[]any{1, 1, 2, 3, 5, 8}, b, "how are you"} {
		if err := c.Send(question); err != nil {
			return err
		}
		answer, err := c.Recv()
		if err != nil {
			return err
		}
		fmt.Println(answer)
	}
	return nil
}
