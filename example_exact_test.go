//go:build !darwin

package shm_test

// Examples that tell a block's exact size, which macOS rounds up to a page.

import (
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strings"

	"github.com/sharedmem/shm"
)

func ExampleCreateFrom() {
	// The block is exactly as long as what was read.
	b, err := shm.CreateFrom("", strings.NewReader("any io.Reader, or a file"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	fmt.Println(b.Size())
	// Output: 24
}

// ReadAt and WriteAt copy. They are the way to begin with: safe beside Close,
// and a block that shrinks under them is an error.
func ExampleBlock_ReadAt() {
	b, err := shm.Create("", 32, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	if _, err := b.WriteAt([]byte("copied in"), 10); err != nil {
		log.Fatal(err)
	}

	p := make([]byte, 9)
	n, err := b.ReadAt(p, 10)
	fmt.Printf("%d %q %v\n", n, p, err)
	_, err = b.ReadAt(p, 30)
	fmt.Println(errors.Is(err, io.EOF))

	_ = b.Close()
	_, err = b.ReadAt(p, 10)
	fmt.Println(errors.Is(err, os.ErrClosed))
	// Output:
	// 9 "copied in" <nil>
	// true
	// true
}

func ExampleBlock_WriteAt() {
	b, err := shm.Create("", 8, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	// What does not fit is not begun.
	n, err := b.WriteAt([]byte("too long for it"), 0)
	fmt.Println(n, errors.Is(err, shm.ErrSize))
	// Output: 0 true
}

// Do works in place, and Close waits for it.
func ExampleBlock_Do() {
	b, err := shm.Create("", 8, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	err = b.Do(func(p []byte) error {
		for i := range p {
			p[i] = byte(i * i)
		}
		fmt.Printf("%d\n", p)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: [0 1 4 9 16 25 36 49]
}
