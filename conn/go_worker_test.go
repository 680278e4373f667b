package conn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	peer "github.com/sharedmem/shm/interop/python"
)

func init() {
	// The Go side of docs/python.md.
	shmtest.Register("go-worker", func([]string) int {
		c, err := FromFile(os.Stdin, nil)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer c.Close()
		for {
			v, err := c.Recv()
			if errors.Is(err, io.EOF) {
				return 0
			}
			if err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			answer := Tuple{nil, nil}
			if result, err := serveCall(v); err != nil {
				answer[0] = err.Error()
			} else {
				answer[1] = result
			}
			if err := c.Send(answer); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
	})
}

func serveCall(v any) (any, error) {
	call, ok := v.(Tuple)
	if !ok || len(call) != 2 {
		return nil, errors.New("not a call")
	}
	args, _ := call[1].(Tuple)
	switch call[0] {
	case "add":
		a, ok1 := args[0].(int64)
		b, ok2 := args[1].(int64)
		if !ok1 || !ok2 {
			return nil, errors.New("add wants two ints")
		}
		return a + b, nil
	case "sum": // of a block's bytes
		ref, ok := args[0].(shm.Ref)
		if !ok {
			return nil, errors.New("sum wants a SharedMemory")
		}
		b, err := ref.Open(nil)
		if err != nil {
			return nil, err
		}
		defer b.Close()
		n := 0
		err = b.Do(func(p []byte) error {
			for _, c := range p {
				n += int(c)
			}
			return nil
		})
		return n, err
	case "exit":
		os.Exit(7)
	}
	return nil, fmt.Errorf("no function %v", call[0])
}

// A Python program starts a Go worker with what docs/python.md shows.
func TestPythonStartsGo(t *testing.T) {
	if runtime.GOOS == "windows" {
		shmtest.Skip(t, "socketpair", "a child cannot be given a socket as its standard input")
	}
	doc, err := os.ReadFile("../docs/python.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), "```python\n"+peer.GoWorker+"```\n") {
		t.Error("docs/python.md does not show interop/python/go_worker.py as it is")
	}
	program := peer.GoWorker + `
import sys
from multiprocessing import shared_memory

with GoWorker(*sys.argv[1:]) as w:
    print(w.call("add", 2, 40))
    block = shared_memory.SharedMemory(create=True, size=4)
    block.buf[:] = b"\1\2\3\4"
    print(w.call("sum", block))
    block.close()
    block.unlink()
    for args in ("add", 1, "x"), ("none",), ("exit",):
        try:
            w.call(*args)
        except RuntimeError as e:
            print(e)
`
	for _, py := range shmtest.Pythons(t) {
		t.Run(py.String(), func(t *testing.T) {
			helper := shmtest.Command(t, "go-worker")
			cmd := py.Cmd(context.Background(), append([]string{"-c", program}, helper.Args...)...)
			cmd.Env = append(helper.Env, py.Env...)
			p := shmtest.StartCommand(t, cmd)
			for _, want := range []string{"42", "10", "add wants two ints", "no function none", "the Go worker has ended: 7"} {
				p.Expect(want)
			}
			if status := p.Wait(); status != 0 {
				t.Errorf("status %d: %s", status, p.Stderr())
			}
		})
	}
}
