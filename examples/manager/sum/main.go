// Sum has two processes each sum half of a list. The command of its arguments is
// what does that: sum COMMAND [ARG…].
package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"log"
	"os"
	"os/exec"
	"strings"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/manager"
)

func main() {
	total, err := sum(context.Background(), os.Args[1:])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the sum is", total)
}

func sum(ctx context.Context, command []string) (total int64, err error) {
	m, err := manager.Start(ctx, nil)
	if err != nil {
		return 0, err
	}
	// Python's with: whatever happens, the blocks go.
	defer func() {
		if e := m.Shutdown(ctx); err == nil {
			err = e
		}
	}()
	items := make([]any, 2000)
	for i := range items {
		items[i] = i
	}
	l, err := m.CreateList(ctx, items)
	if err != nil {
		return 0, err
	}
	defer l.Close()

	var halves [2]*exec.Cmd
	var said [2]bytes.Buffer
	for i, from := range []string{"0", "1000"} {
		args := append(command[1:len(command):len(command)], l.Ref().Name, from)
		halves[i] = exec.CommandContext(ctx, command[0], args...)
		halves[i].Env = append(os.Environ(),
			"MANAGER_ADDRESS="+strings.TrimPrefix(m.Address(), "unix:"),
			"MANAGER_KEY="+hex.EncodeToString(m.AuthKey()))
		halves[i].Stdout, halves[i].Stderr = &said[i], os.Stderr
		if err := halves[i].Start(); err != nil {
			return 0, err
		}
		defer halves[i].Process.Kill() // if it has ended this does nothing
	}
	for i, half := range halves {
		if err := half.Wait(); err != nil {
			return 0, err
		}
		// It has left its result in a block, and said which.
		b, err := shm.Open(strings.TrimSpace(said[i].String()), nil)
		if err != nil {
			return 0, err
		}
		result, err := shm.At[int64](b, 0)
		if err != nil {
			return 0, err
		}
		total += *result
		b.Close()
	}
	return total, nil
}
