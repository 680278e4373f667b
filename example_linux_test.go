package shm_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sharedmem/shm"
)

// An anonymous block has no name that could be left behind; its descriptor is
// what is handed on. See examples/passing-fd for the way through exec.
func ExampleAnonymous() {
	b, err := shm.Anonymous(4096, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	f, err := b.File() // for exec.Cmd.ExtraFiles or a Unix socket
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	// It is sealed: nobody can make it smaller and so turn an access into a fault.
	fmt.Println(f.Truncate(100) != nil)
	// Output: true
}

func ExampleFromFile() {
	made, err := shm.Anonymous(4096, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer made.Close()
	if _, err := made.WriteAt([]byte("no name"), 0); err != nil {
		log.Fatal(err)
	}
	f, err := made.File()
	if err != nil {
		log.Fatal(err)
	}

	// In the process that received f:
	got, err := shm.FromFile(f, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer got.Close()
	f.Close() // the block does not need it any more
	p := make([]byte, 7)
	if _, err := got.ReadAt(p, 0); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s, %d bytes\n", p, got.Size())
	// Output: no name, 4096 bytes
}

// A named block gives a descriptor, too.
func ExampleBlock_File() {
	b, err := shm.Create("", 100, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	f, err := b.File()
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	if err := b.Unlink(); err != nil { // the descriptor still leads to the memory
		log.Fatal(err)
	}
	fi, err := f.Stat()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(fi.Size())
	// Output: 100
}

// KeepName protects a block from the resource trackers of Python programs,
// which remove what their program merely opened.
func ExampleCreateOptions() {
	b, err := shm.Create("", 100, &shm.CreateOptions{
		Mode:     0o640, // exactly, whatever the umask
		KeepName: true,
		Prefault: true,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	info, err := shm.Stat(b.Name())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Mode, info.KeepName)

	// What such a tracker does:
	if err := os.Remove(filepath.Join("/dev/shm", b.Name())); err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	again, err := shm.Wait(ctx, b.Name(), nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("it is back")
	_ = again.Close()

	fmt.Println(b.Unlink()) // its owner's word counts
	// Output:
	// -rw-r----- true
	// it is back
	// <nil>
}

// A persistent block belongs to nobody and stays when its maker is gone.
func ExampleLifetime_persistent() {
	b, err := shm.Create("", 100, &shm.CreateOptions{Lifetime: shm.Persistent})
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	info, err := shm.Stat(b.Name())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Lifetime, info.Owner.PID)
	// Output: persistent 0
}

func ExampleInfo() {
	b, err := shm.CreateFrom("", strings.NewReader("some text\n"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	info, err := shm.Stat(b.Name())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Size, info.Mode, info.Lifetime, info.Kind, info.Foreign)
	// Output: 10 -rw------- owned text false
}

func ExampleList() {
	b, err := shm.Create("", 100, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	infos, err := shm.List()
	if err != nil {
		log.Fatal(err)
	}
	for _, info := range infos {
		if info.Name == b.Name() {
			fmt.Println(info.Size, info.Owner.PID == os.Getpid())
		}
	}
	// Output: 100 true
}

func ExampleOwner() {
	b, err := shm.Create("", 100, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	info, err := shm.Stat(b.Name())
	if err != nil {
		log.Fatal(err)
	}
	// Alive is what the kernel says of a lock, not a look at the PID.
	fmt.Println(info.Owner.PID == os.Getpid(), info.Owner.Alive, len(info.Owner.Lease))
	// Output: true true 16
}

// Prune removes what dead owners of this library left, and nothing else: here
// the owner lives, and the other file was made by nobody we know.
func ExamplePrune() {
	dir, err := os.MkdirTemp("", "blocks")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	b, err := shm.Create("mine", 100, &shm.CreateOptions{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	if err := os.WriteFile(filepath.Join(dir, "foreign"), []byte("x"), 0o600); err != nil {
		log.Fatal(err)
	}
	removed, err := shm.Dir(dir).Prune() // shm.Prune() in the system's place
	fmt.Println(len(removed), err)
	// Output: 0 <nil>
}

// Dir is for machines without /dev/shm, or blocks that are to be apart from
// everybody else's.
func ExampleDir() {
	dir, err := os.MkdirTemp("", "blocks")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	b, err := shm.Create("table", 100, &shm.CreateOptions{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()

	peer, err := shm.Open("table", &shm.OpenOptions{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer peer.Close()
	infos, err := shm.Dir(dir).List()
	if err != nil {
		log.Fatal(err)
	}
	for _, info := range infos {
		fmt.Println(info.Name, info.Size)
	}
	// Output: table 100
}

// A child that made a result disowns it and tells its parent the name; from
// Adopt on it goes when the parent goes. See examples/handover.
func ExampleBlock_Adopt() {
	child, err := shm.Create("", 100, nil)
	if err != nil {
		log.Fatal(err)
	}
	owner := func() int {
		info, err := shm.Stat(child.Name())
		if err != nil {
			log.Fatal(err)
		}
		return info.Owner.PID
	}
	fmt.Println("created:", owner() == os.Getpid())
	if err := child.Disown(); err != nil {
		log.Fatal(err)
	}
	_ = child.Close()
	fmt.Println("disowned:", owner())

	parent, err := shm.Open(child.Name(), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer parent.Unlink()
	defer parent.Close()
	if err := parent.Adopt(); err != nil {
		log.Fatal(err)
	}
	fmt.Println("adopted:", owner() == os.Getpid())
	// Output:
	// created: true
	// disowned: 0
	// adopted: true
}

// Disown leaves a block behind on purpose.
func ExampleBlock_Disown() {
	b, err := shm.Create("", 100, nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := b.Disown(); err != nil {
		log.Fatal(err)
	}
	_ = b.Close()
	info, err := shm.Stat(b.Name())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Lifetime)
	_ = shm.Unlink(b.Name())
	// Output: persistent
}

func ExampleUnlink() {
	b, err := shm.Create("", 100, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	if err := shm.Unlink(b.Name()); err != nil {
		log.Fatal(err)
	}
	_, err = shm.Open(b.Name(), nil)
	fmt.Println(err != nil)
	// The memory is there until the last process closes it.
	fmt.Println(len(b.Bytes()))
	// Output:
	// true
	// 100
}
