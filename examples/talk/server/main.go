// Program server answers whoever connects: numbers with their sum, a block of
// shared memory with what lies in it. It ends when its first client is done.
//
//	server [ADDRESS]
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/conn"
)

func main() {
	address := "" // a fresh one
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	if err := run(address); err != nil {
		log.Fatal(err)
	}
}

func run(address string) error {
	// Real programs have the key from a file that only they may read.
	l, err := conn.Listen(address, []byte("secret password"), nil)
	if err != nil {
		return err
	}
	defer l.Close()
	fmt.Println(l.Addr())

	c, err := l.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		question, err := c.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		fmt.Printf("got a %s\n", kind(question))
		if err := c.Send(answer(question)); err != nil {
			return err
		}
	}
}

func kind(v any) string {
	switch v.(type) {
	case []any:
		return "list"
	case shm.Ref:
		return "SharedMemory"
	}
	return "str"
}

func answer(v any) any {
	switch v := v.(type) {
	case []any:
		var sum int64
		for _, x := range v {
			n, _ := x.(int64)
			sum += n
		}
		return sum
	case shm.Ref:
		b, err := v.Open(nil) // only the name has travelled
		if err != nil {
			return err.Error()
		}
		defer b.Close()
		text := make([]byte, b.Size())
		if _, err := b.ReadAt(text, 0); err != nil {
			return err.Error()
		}
		text, _, _ = bytes.Cut(text, []byte{0})
		return string(text)
	}
	return "pardon?"
}
