package conn_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/conn"
)

var key = []byte("a secret that both sides have")

func Example() {
	l, err := conn.Listen("", key, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()

	// In Python: Client(address, authkey=key).send(["frame", 7, SharedMemory("cam0")])
	go func() {
		c, err := conn.Dial(context.Background(), l.Addr(), key, nil)
		if err != nil {
			log.Fatal(err)
		}
		defer c.Close()
		if err := c.Send([]any{"frame", 7, shm.Ref{Name: "cam0"}}); err != nil {
			log.Fatal(err)
		}
	}()

	c, err := l.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	v, err := c.Recv()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(v)
	_, err = c.Recv()
	fmt.Println(err)
	// Output:
	// [frame 7 cam0]
	// EOF
}

// together returns both ends of a connection.
func together() (a, b *conn.Conn) {
	l, err := conn.Listen("tcp:127.0.0.1:0", key, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	a, err = conn.Dial(context.Background(), l.Addr(), key, nil)
	if err != nil {
		log.Fatal(err)
	}
	b, err = l.Accept()
	if err != nil {
		log.Fatal(err)
	}
	return a, b
}

func ExampleConn() {
	a, b := together()
	defer a.Close()
	defer b.Close()

	// Messages stay apart, and one buffer does for all.
	for _, s := range []string{"one", "two", ""} {
		if err := a.SendBytes([]byte(s)); err != nil {
			log.Fatal(err)
		}
	}
	buf := make([]byte, 0, 100)
	for range 3 {
		p, err := b.AppendBytes(buf[:0])
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%q\n", p)
	}
	// Output:
	// "one"
	// "two"
	// ""
}

func ExampleListener() {
	// Peers that do not have the key never come out of Accept; Refused hears of
	// them.
	refused := make(chan error)
	l, err := conn.Listen("tcp:127.0.0.1:0", key, &conn.Options{
		Refused: func(_ net.Addr, err error) { refused <- err },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	_, err = conn.Dial(context.Background(), l.Addr(), []byte("a guess"), nil)
	fmt.Println(errors.Is(err, conn.ErrAuth), errors.Is(<-refused, conn.ErrAuth))

	// What Python's Client takes for the address.
	python := l.PythonAddress().(conn.Tuple)
	fmt.Println(len(python), python[0])
	// Output:
	// true true
	// 2 127.0.0.1
}

func ExampleOptions() {
	l, err := conn.Listen("", key, &conn.Options{
		Digests:  []conn.Digest{conn.SHA256}, // no MD5, so no CPython before 3.12
		MaxFrame: 1 << 10,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	a, err := conn.Dial(context.Background(), l.Addr(), key, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer a.Close()
	b, err := l.Accept()
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	if err := a.SendBytes(make([]byte, 1<<10+1)); err != nil {
		log.Fatal(err)
	}
	_, err = b.RecvBytes()
	fmt.Println(err)
	// Output: conn: receive: frame too large: 1025 bytes, the limit is 1024
}

func ExampleDigest() {
	_, err := conn.Listen("", key, &conn.Options{Digests: []conn.Digest{"sha1"}})
	fmt.Println(err)
	// Output: conn: listen: Options.Digests: there is no "sha1"
}

func ExamplePeer() {
	// Only the key and the user's own processes.
	_, err := conn.Listen("tcp:127.0.0.1:0", key, &conn.Options{CheckPeer: func(p conn.Peer) error {
		if p.PID == 1 {
			return errors.New("not you")
		}
		return conn.SameUser(p)
	}})
	fmt.Println(errors.Is(err, errors.ErrUnsupported)) // TCP does not tell who is there
	// Output: true
}

func ExampleConn_Send() {
	a, b := together()
	defer a.Close()
	defer b.Close()
	if err := a.Send(map[string]any{"n": 1, "shape": conn.Tuple{480, 640}}); err != nil {
		log.Fatal(err)
	}
	v, err := b.Recv()
	if err != nil {
		log.Fatal(err)
	}
	d := v.(conn.Dict) // in Python's order
	shape, _ := d.Get("shape")
	fmt.Println(len(d), d[0], shape)
	// Output: 2 {n 1} [480 640]
}

func ExampleTuple() {
	// Python tells tuples and lists apart, and so do Send and Recv.
	a, b := together()
	defer a.Close()
	defer b.Close()
	for _, v := range []any{conn.Tuple{1, 2}, []any{1, 2}, conn.Set{1, 2}} {
		if err := a.Send(v); err != nil {
			log.Fatal(err)
		}
		got, err := b.Recv()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%T %v\n", got, got)
	}
	// Output:
	// pickle.Tuple [1 2]
	// []interface {} [1 2]
	// pickle.Set [1 2]
}

func ExamplePythonAddress() {
	python, err := conn.PythonAddress("tcp:localhost:5000")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(python)
	ours, err := conn.FromPython("/run/app/socket")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ours)
	// Output:
	// [localhost 5000]
	// unix:/run/app/socket
}
