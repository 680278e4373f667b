// Capture takes pictures from files and has worker.py look at them. Each is decoded
// into a ring in shared memory, where the worker finds it; what the worker makes of it
// comes back by a second ring.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/sharedmem/shm/ring"
)

// A frame is a header and, behind it, 3 bytes for each pixel: struct "<QIIQ" in worker.py.
// Fields at multiples of their size, so C would have it alike.
type frame struct {
	Number        uint64
	Width, Height uint32
	Picture       uint64 // which file it is of
}

// A result is this header, "<QIIBBBBBB2x", and behind it a small grey picture.
type result struct {
	Number        uint64
	Width, Height uint32
	Mean          [3]uint8 // of red, green and blue
	Dark, Bright  uint8    // the darkest and brightest byte
	Again         uint8    // a worker had the frame before, and died
	_             [2]uint8
}

var frameSize, resultSize = binary.Size(frame{}), binary.Size(result{})

func main() {
	log.SetFlags(0)
	name := flag.String("name", "frames", "of the ring; that of the results is NAME.found")
	n := flag.Int("frames", 9, "how many to take")
	out := flag.String("out", "", "folder for the small pictures that come back")
	flag.Parse()
	files := flag.Args()
	if len(files) == 0 {
		files, _ = filepath.Glob("images/*")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *name, *n, *out, files); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, name string, n int, out string, files []string) error {
	pictures, err := load(files)
	if err != nil {
		return err
	}
	// Results first: who finds the frames finds them as well.
	found, err := ring.Create(name+".found", &ring.Options{SlotSize: 1008, Slots: 16, Receivers: ring.One})
	if err != nil {
		return err
	}
	defer found.Close()
	defer found.Unlink()
	// A picture of up to a slot's size lies in one piece, and is never copied.
	frames, err := ring.Create(name, &ring.Options{SlotSize: 16 << 10, Slots: 64, MaxMessage: 1 << 20, Senders: ring.One})
	if err != nil {
		return err
	}
	defer frames.Close()
	defer frames.Unlink()
	results, err := found.Receiver()
	if err != nil {
		return err
	}
	// Who sends here, too, never hears that the last worker has gone: another may come.
	if _, err := found.Sender(); err != nil {
		return err
	}
	fmt.Printf("%d frames for workers in %s\n", n, name)

	sent := make(chan error, 1)
	go func() { sent <- capture(ctx, frames, pictures, n) }()
	buf := make([]byte, 1008)
	seen := map[uint64]bool{}
	for len(seen) < n {
		k, err := results.ReceiveContext(ctx, buf)
		if err != nil {
			return err
		}
		var r result
		if _, err := binary.Decode(buf[:k], binary.LittleEndian, &r); err != nil || int(r.Width)*int(r.Height) != k-resultSize || r.Number >= uint64(n) {
			fmt.Println("a worker's result makes no sense") // it is another program's
			continue
		}
		if seen[r.Number] {
			continue // of one who died when it had sent this, but had not let go of the frame
		}
		seen[r.Number] = true
		fmt.Printf("frame %d, %s: mean %d, from %d to %d", r.Number, filepath.Base(files[r.Number%uint64(len(files))]), r.Mean, r.Dark, r.Bright)
		if r.Again != 0 {
			fmt.Print(", for the second time")
		}
		fmt.Println()
		if out != "" {
			small := &image.Gray{Pix: buf[resultSize:k], Stride: int(r.Width), Rect: image.Rect(0, 0, int(r.Width), int(r.Height))}
			if err := save(filepath.Join(out, fmt.Sprintf("%d.png", r.Number)), small); err != nil {
				return err
			}
		}
	}
	return <-sent
}

// capture sends n frames, and then closes, at which the workers end.
func capture(ctx context.Context, q *ring.Queue, pictures []image.Image, n int) error {
	s, err := q.Sender()
	if err != nil {
		return err
	}
	for i := range n {
		p := pictures[i%len(pictures)]
		b := p.Bounds()
		room, err := s.ReserveContext(ctx, frameSize+3*b.Dx()*b.Dy())
		if err != nil {
			return err
		}
		if _, err := binary.Encode(room, binary.LittleEndian, frame{uint64(i), uint32(b.Dx()), uint32(b.Dy()), uint64(i % len(pictures))}); err != nil {
			return err
		}
		// Here, into the ring, a camera's driver would write.
		draw.Draw(&rgb{room[frameSize:], b}, b, p, b.Min, draw.Src)
		if err := s.Commit(len(room)); err != nil {
			return err
		}
	}
	return s.Close()
}

// rgb is 3 bytes for each pixel, as an image to be drawn on.
type rgb struct {
	pix  []byte
	rect image.Rectangle
}

func (m *rgb) ColorModel() color.Model { return color.RGBAModel }
func (m *rgb) Bounds() image.Rectangle { return m.rect }

func (m *rgb) at(x, y int) []byte {
	return m.pix[3*((y-m.rect.Min.Y)*m.rect.Dx()+x-m.rect.Min.X):][:3]
}

func (m *rgb) At(x, y int) color.Color {
	p := m.at(x, y)
	return color.RGBA{p[0], p[1], p[2], 255}
}

func (m *rgb) Set(x, y int, c color.Color) {
	r, g, b, _ := c.RGBA()
	p := m.at(x, y)
	p[0], p[1], p[2] = byte(r>>8), byte(g>>8), byte(b>>8)
}

func load(files []string) ([]image.Image, error) {
	image.RegisterFormat("ppm", "P6", decodePPM, nil)
	var pictures []image.Image
	for _, file := range files {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		p, _, err := image.Decode(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		pictures = append(pictures, p)
	}
	if len(pictures) == 0 {
		return nil, fmt.Errorf("no pictures; name some, or run this in examples/frames")
	}
	return pictures, nil
}

// decodePPM reads the simplest of all formats.
func decodePPM(r io.Reader) (image.Image, error) {
	b := bufio.NewReader(r)
	var words [4]string // P6, width, height, 255
	for i := 0; i < len(words); {
		var w string
		if _, err := fmt.Fscan(b, &w); err != nil {
			return nil, err
		}
		if w[0] == '#' {
			if _, err := b.ReadString('\n'); err != nil {
				return nil, err
			}
			continue
		}
		words[i] = w
		i++
	}
	var w, h, most int
	if _, err := fmt.Sscan(words[1]+" "+words[2]+" "+words[3], &w, &h, &most); err != nil {
		return nil, err
	}
	if w < 1 || h < 1 || w > 1<<14 || h > 1<<14 || most != 255 {
		return nil, fmt.Errorf("a PPM of %dx%d, up to %d", w, h, most)
	}
	if _, err := b.ReadByte(); err != nil { // the one space behind the header
		return nil, err
	}
	m := &rgb{make([]byte, 3*w*h), image.Rect(0, 0, w, h)}
	_, err := io.ReadFull(b, m.pix)
	return m, err
}

func save(path string, m image.Image) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := png.Encode(f, m); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
