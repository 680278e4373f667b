package shm_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sharedmem/shm"
)

// The examples of this file run on every system; those that show what only
// Linux has are in example_linux_test.go. Names have this process's number in
// them, so that two test runs do not meet.

func unique(what string) string { return fmt.Sprintf("%s-%d", what, os.Getpid()) }

func Example() {
	// One process makes a block and fills it …
	b, err := shm.Create(unique("greeting"), 64, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	if _, err := b.WriteAt([]byte("hello"), 0); err != nil {
		log.Fatal(err)
	}

	// … another one opens it by its name. In Python this is
	// shared_memory.SharedMemory("greeting", track=False).
	peer, err := shm.Open(unique("greeting"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer peer.Close()
	p := make([]byte, 5)
	if _, err := peer.ReadAt(p, 0); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", p)
	// Output: hello
}

func ExampleCreate() {
	// Without a name the block gets a fresh one, as in Python.
	b, err := shm.Create("", 4096, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	prefix, digits, _ := strings.Cut(b.Name(), "_")
	fmt.Println(strings.HasSuffix(prefix, "sm"), len(digits), b.Size())
	// Output: true 8 4096
}

func ExampleOpen() {
	_, err := shm.Open(unique("nobody-made-this"), nil)
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	// Output: true
}

func ExampleOpenOptions() {
	b, err := shm.Create("", 4096, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()

	// All pages now rather than one by one at their first use, and no writing:
	// enough for a block that this user may read but not write.
	view, err := shm.Open(b.Name(), &shm.OpenOptions{ReadOnly: true, Prefault: true})
	if err != nil {
		log.Fatal(err)
	}
	defer view.Close()
	_, err = view.WriteAt([]byte("x"), 0)
	fmt.Println(errors.Is(err, fs.ErrPermission))
	// Output: true
}

func ExampleOpenOrCreate() {
	// Whichever process comes first makes and fills the table; the others find it
	// complete.
	for range 2 {
		b, err := shm.OpenOrCreate(unique("table"), 1024, nil, func(b *shm.Block) error {
			fmt.Println("filling it")
			_, err := b.WriteAt([]byte("ready"), 0)
			return err
		})
		if err != nil {
			log.Fatal(err)
		}
		defer b.Unlink()
		defer b.Close()
		_ = b.Do(func(p []byte) error {
			fmt.Printf("%s\n", p[:5])
			return nil
		})
	}
	// Output:
	// filling it
	// ready
	// ready
}

func ExampleWait() {
	made := make(chan *shm.Block)
	go func() { // stands for another process
		b, err := shm.Create(unique("late"), 16, nil)
		if err != nil {
			log.Fatal(err)
		}
		made <- b
	}()

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b, err := shm.Wait(ctx, unique("late"), nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("it is there")
	_ = b.Close()

	b = <-made
	_ = b.Close()
	_ = b.Unlink()
	// Output: it is there
}

func ExampleBlock() {
	b, err := shm.Create(unique("shown"), 4096, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink() // the name goes, and with the last mapping the memory
	defer b.Close()  // this process lets go
	fmt.Println(strings.Replace(b.String(), b.Name(), "NAME", 1))
	// Output: SharedMemory('NAME', size=4096)
}

// Acquire is Do for work that does not fit into one function.
func ExampleBlock_Acquire() {
	b, err := shm.Create("", 8, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()

	release, err := b.Acquire()
	if err != nil {
		log.Fatal(err)
	}
	closed := make(chan error)
	go func() { closed <- b.Close() }()
	<-b.Done() // Close has begun, and waits for us
	release()
	fmt.Println(<-closed)
	// Output: <nil>
}

// A struct without pointers lies in the block as C, ctypes and NumPy's
// structured types would lay it out.
func ExampleAt() {
	type header struct {
		Frames atomic.Uint64 // may be read and written by several processes at once
		Width  uint32
		Height uint32
	}
	b, err := shm.Create("", 4096, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	h, err := shm.At[header](b, 0)
	if err != nil {
		log.Fatal(err)
	}
	h.Width, h.Height = 640, 480
	h.Frames.Add(1)

	same, err := shm.Open(b.Name(), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer same.Close()
	h2, err := shm.At[header](same, 0)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(h2.Frames.Load(), h2.Width, h2.Height)

	// Pointers mean nothing in another process, so they are refused.
	_, err = shm.At[struct{ Label string }](b, 0)
	fmt.Println(errors.Is(err, shm.ErrFormat))
	// Output:
	// 1 640 480
	// true
}

func ExampleSlice() {
	b, err := shm.Create("", 4096, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	// The same bytes are np.frombuffer(shm.buf, np.float32, 1000, 96) in NumPy.
	v, err := shm.Slice[float32](b, 96, 1000)
	if err != nil {
		log.Fatal(err)
	}
	v[999] = 1.5
	fmt.Println(len(v), v[999])

	_, err = shm.Slice[float32](b, 96, 1001)
	fmt.Println(errors.Is(err, shm.ErrSize))
	// Output:
	// 1000 1.5
	// true
}

func ExampleOffset() {
	type state struct {
		Header [24]byte
		Count  uint64
	}
	b, err := shm.Create("", 256, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	s, err := shm.At[state](b, 128)
	if err != nil {
		log.Fatal(err)
	}
	off, err := shm.Offset(b, &s.Count)
	fmt.Println(off, err)
	// Output: 152 <nil>
}

// A Ref is how a block travels in messages between processes.
func ExampleRef() {
	b, err := shm.Create(unique("result"), 100, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()

	type message struct {
		Rows int
		Data shm.Ref
	}
	text, err := json.Marshal(message{Rows: 25, Data: b.Ref()})
	if err != nil {
		log.Fatal(err)
	}

	// In the other process:
	var m message
	if err := json.Unmarshal(text, &m); err != nil {
		log.Fatal(err)
	}
	data, err := m.Data.Open(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer data.Close()
	fmt.Println(m.Rows, data.Name() == b.Name())
	// Output: 25 true
}

func ExampleError() {
	_, err := shm.Create("a/b", 100, nil)
	fmt.Println(err)
	fmt.Println(errors.Is(err, shm.ErrName))
	if e, ok := errors.AsType[*shm.Error](err); ok {
		fmt.Println(e.Op, e.Name)
	}

	_, err = shm.Create("empty", 0, nil)
	fmt.Println(err)
	// Output:
	// shm: create "a/b": bad name: it has a slash: a name is one path element (use Dir for another directory)
	// true
	// create a/b
	// shm: create "empty": bad size: a block has at least one byte
}

func ExampleLifetime() {
	// It has a text, for flags and configuration.
	for _, l := range []shm.Lifetime{shm.Owned, shm.Tracked, shm.Persistent} {
		fmt.Println(l)
	}
	// Output:
	// owned
	// tracked
	// persistent
}
