// Service makes pictures and has worker.py look at them. The pictures stay
// where they are: only "there is one" and "done" travel through a socket.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"

	"github.com/sharedmem/shm"
)

const width, height = 640, 480

// header stands at the beginning of the block, the pixels follow it. worker.py
// reads it as struct "<QIIQBB6x": fields at multiples of their size, as C has
// it, and the gap at the end spelled out.
type header struct {
	Number        uint64 // which picture this is
	Width, Height uint32

	// What the worker finds.
	Sum                uint64
	Darkest, Brightest uint8
	_                  [6]byte
}

// headerSize is 32, as struct.Struct("<QIIQBB6x").size in Python.
var headerSize = int(reflect.TypeFor[header]().Size())

// frame is the block, seen as what it holds.
type frame struct {
	*header
	pixels []uint8
}

func main() {
	log.SetFlags(0)
	name := flag.String("name", "frames", "of the block; the socket is NAME.sock in the folder for temporary files")
	frames := flag.Int("frames", 5, "how many each worker gets")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := serve(ctx, *name, *frames); err != nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context, name string, frames int) error {
	b, err := shm.Create(name, headerSize+width*height, &shm.CreateOptions{
		KeepName: true, // workers may be careless, see the README
		Prefault: true, // no page faults while pictures are made
	})
	if err != nil {
		return err
	}
	defer b.Unlink()
	defer b.Close()
	var f frame
	if f.header, err = shm.At[header](b, 0); err != nil {
		return err
	}
	if f.pixels, err = shm.Slice[uint8](b, headerSize, width*height); err != nil {
		return err
	}
	f.Width, f.Height = width, height

	l, err := net.Listen("unix", filepath.Join(os.TempDir(), name+".sock"))
	if err != nil {
		return err
	}
	// At ^C Accept returns, and the block is removed by the lines above. After a
	// kill -9 it is removed by the next program that creates a block.
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()
	fmt.Println("waiting for workers:", b)
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f.work(conn, frames); err != nil {
			fmt.Println("a worker failed:", err)
		}
		conn.Close()
	}
}

// work has one worker look at some frames.
func (f frame) work(conn net.Conn, frames int) error {
	for range frames {
		sum := f.draw()
		// A byte in each direction. Whoever has it may touch the block: what was
		// stored before a write to a socket is seen after the read from it.
		answer := make([]byte, 1)
		if _, err := conn.Write([]byte{'f'}); err != nil {
			return err
		}
		if _, err := conn.Read(answer); err != nil {
			return err
		}
		if f.Sum != sum { // the worker may be wrong about what it found
			return errors.New("it cannot add")
		}
		fmt.Printf("frame %d: mean %.1f, from %d to %d\n", f.Number, float64(f.Sum)/width/height, f.Darkest, f.Brightest)
	}
	return nil
}

// draw makes the next picture, in place, and returns the sum of its pixels.
func (f frame) draw() (sum uint64) {
	f.Number++
	for y := range height {
		for x := range width {
			v := uint8(uint64(x*y/1024) + f.Number)
			f.pixels[y*width+x] = v
			sum += uint64(v)
		}
	}
	return sum
}
