package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
)

func dropArray[T any](a *array.Array[T]) { _ = errors.Join(a.Close(), a.Unlink()) }

// startNumPy starts a peer whose Python has NumPy: one of those that
// interop/python/fetch_numpy.py makes, the newest first, or the PATH's.
func startNumPy() (*peer, error) {
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		home, _ := os.UserHomeDir()
		cache = filepath.Join(home, ".cache")
	}
	found, _ := filepath.Glob(filepath.Join(cache, "shm-interop", "env-*", "bin", "python3"))
	slices.Sort(found)
	slices.Reverse(found)
	for _, python := range append(found, "python3") {
		if out, err := exec.Command(python, "-c", "import sys, numpy; print('NumPy %s on %d.%d' % ((numpy.__version__,) + sys.version_info[:2]))").Output(); err == nil {
			return startPeer(string(out[:len(out)-1]), python, "-c", peerPy)
		}
	}
	return nil, errors.New("NumPy: not installed; interop/python/fetch_numpy.py fetches it")
}

func sumFloats(p []float64) func() error {
	return func() error {
		// Four sums, as one addition waits for the one before it.
		var a, b, c, d float64
		for p := p; len(p) >= 4; p = p[4:] {
			a += p[0]
			b += p[1]
			c += p[2]
			d += p[3]
		}
		if s := a + b + c + d; s < 0 {
			return fmt.Errorf("the sum is %g", s)
		}
		return nil
	}
}

// arraySum is going through a long array.
func arraySum(ctx context.Context, e *env) (*Result, error) {
	n := 10_000_000
	if e.quick {
		n = 1_000_000
	}
	r := &Result{Title: fmt.Sprintf("An array: the sum of %d float64", n), Text: `Over the slice that Data returns, which is the shared memory, over a slice of the Go heap, both summed up by the same loop (four sums at once), through Values, which goes by one element, and by NumPy's
a.sum() over the same block; NumPy adds with vector instructions, which Go's compiler does not.`}
	name := e.block("array-sum")
	a, err := array.CreateNPY[float64](name, []int{n}, nil)
	if errors.Is(err, shm.ErrNoSpace) {
		r.Missing = append(r.Missing, err.Error())
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	defer dropArray(a)
	heap := make([]float64, n)
	for i := range heap {
		heap[i] = rand.Float64()
	}
	copy(a.Data(), heap)
	ways := []way{
		loop("Array.Data", sumFloats(a.Data())),
		loop("heap slice", sumFloats(heap)),
		loop("Array.Values", func() error {
			var s float64
			for v := range a.Values() {
				s += v
			}
			runtime.KeepAlive(s)
			return nil
		}),
	}
	np, err := startNumPy()
	if err != nil {
		r.Missing = append(r.Missing, err.Error())
	} else {
		defer np.stop()
		ways = append(ways, np.way(np.name, "npsum", name, n))
	}
	if r.Rows, err = e.rounds(ctx, ways); err != nil {
		return nil, err
	}
	r.atMost("Array.Data", "heap slice", 1.05)
	return r, nil
}

// arrayAt is one element by its indices.
func arrayAt(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "An array: one element by its indices", Text: `Elements of a 1000 × 1000 array of float64, row by row in a loop that is in the figure: At and Set check both indices, and then the position once more. Beside it a row's slice, and the loop over a slice of
slices that Go programs have without this package.`}
	a, err := array.Create[float64](e.block("array-at"), []int{1000, 1000}, nil)
	if err != nil {
		return nil, err
	}
	defer dropArray(a)
	rows := make([][]float64, 1000)
	for i := range rows {
		rows[i] = make([]float64, 1000)
	}
	over := func(name string, f func(i, j int) float64) way {
		return each(name, func(n int) error {
			var s float64
			for k := range n {
				s += f(k/1000%1000, k%1000)
			}
			runtime.KeepAlive(s)
			return nil
		})
	}
	ways := []way{
		// Written out: a call of a function value would be in the figure.
		each("Array.At(i, j)", func(n int) error {
			var s float64
			for i := 0; n > 0; i = (i + 1) % 1000 {
				m := min(n, 1000)
				for j := range m {
					s += a.At(i, j)
				}
				n -= m
			}
			runtime.KeepAlive(s)
			return nil
		}),
		each("Array.Set(v, i, j)", func(n int) error {
			for i := 0; n > 0; i = (i + 1) % 1000 {
				m := min(n, 1000)
				for j := range m {
					a.Set(1, i, j)
				}
				n -= m
			}
			return nil
		}),
		each("Array.Row(i)[j]", func(n int) error {
			var s float64
			for i := 0; n > 0; i = (i + 1) % 1000 {
				m := min(n, 1000)
				for _, v := range a.Row(i)[:m] {
					s += v
				}
				n -= m
			}
			runtime.KeepAlive(s)
			return nil
		}),
		over("[][]float64, through a function", func(i, j int) float64 { return rows[i][j] }),
	}
	if r.Rows, err = e.rounds(ctx, ways); err != nil {
		return nil, err
	}
	r.below("Array.At(i, j)", r.row("Array.At(i, j)").Median, 4, "ns")
	return r, nil
}

// arrayOpen is opening one that describes itself.
func arrayOpen(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "An array: open and close", Text: "A block with a header, opened as an array, which reads and checks the header, and opened as the block that it is; each closed again."}
	name := e.block("array-open")
	a, err := array.CreateNPY[float64](name, []int{64, 64}, nil)
	if err != nil {
		return nil, err
	}
	defer dropArray(a)
	if r.Rows, err = e.rounds(ctx, []way{
		loop("array.OpenNPY", func() error {
			a, err := array.OpenNPY[float64](name, nil)
			if err != nil {
				return err
			}
			return a.Close()
		}),
		// Handing out raw memory costs at Close, for whoever does it.
		loop("shm.Open, Bytes", func() error {
			b, err := shm.Open(name, nil)
			if err != nil {
				return err
			}
			_ = b.Bytes()
			return b.Close()
		}),
	}); err != nil {
		return nil, err
	}
	r.atMost("array.OpenNPY", "shm.Open, Bytes", 2)
	return r, nil
}

// arrayHand is giving a large array to another process and having it back.
func arrayHand(ctx context.Context, e *env) (*Result, error) {
	size := 256 << 20
	if e.quick {
		size = 16 << 20
	}
	r := &Result{Title: fmt.Sprintf("An array: %s to Python and back", bytesText(float64(size))), Text: `From Go having the array to Go having it back, changed in one element by Python. In shared memory only the block's name travels, through a pipe; Python opens it anew each time. Beside it: the same array through a
pipe to Python and back through another, in pieces of 1 MiB. What it takes in shared memory does not depend on the size, but for very small blocks, which are mapped and unmapped faster.`}
	name, middle, small := e.block("array-hand"), e.block("array-hand-middle"), e.block("array-hand-small")
	a, err := array.CreateNPY[float64](name, []int{size / 8}, nil)
	if errors.Is(err, shm.ErrNoSpace) {
		r.Missing = append(r.Missing, err.Error())
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	defer dropArray(a)
	s, err := array.CreateNPY[float64](small, []int{16}, nil)
	if err != nil {
		return nil, err
	}
	defer dropArray(s)
	m, err := array.CreateNPY[float64](middle, []int{size / 16 / 8}, nil)
	if err != nil {
		return nil, err
	}
	defer dropArray(m)
	py, err := startNumPy()
	if err != nil {
		r.Missing = append(r.Missing, err.Error())
		return r, nil
	}
	defer py.stop()
	hand := func(label string, a *array.Array[float64]) way {
		return loop(label, func() error {
			before := a.At(1)
			if _, err := py.ask("nptouch %s 1 1", a.Block().Name()); err != nil {
				return err
			}
			if a.At(1) != before+1 {
				return errors.New("it was not changed by Python")
			}
			return nil
		})
	}
	pipes, err := startPipes(py.cmd.Path, size)
	if err != nil {
		return nil, err
	}
	defer pipes.stop()
	buf := make([]byte, size)
	ways := []way{
		// In turns, so that the first comes after the pipes, which leave nothing in the
		// caches: it should not be one of those that are compared.
		hand("shared memory, one page", s),
		hand("shared memory, a sixteenth", m),
		hand("shared memory", a),
		loop("through pipes", func() error { return pipes.turn(buf) }),
	}
	if r.Rows, err = e.fewer().rounds(ctx, ways); err != nil {
		return nil, err
	}
	r.faster("shared memory", "through pipes", 10)
	r.atMost("shared memory", "shared memory, a sixteenth", 1.2)
	return r, nil
}

// pipes is a Python process that gets an array through a pipe, makes one of NumPy
// of it, changes an element, and sends it back.
type pipes struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.Reader
}

const pipeSource = `
import sys, numpy
size = int(sys.argv[1])
a = numpy.empty(size // 8)
view = memoryview(a).cast("B")
while True:
    at = 0
    while at < size:
        n = sys.stdin.buffer.readinto(view[at:at + (1 << 20)])
        if not n:
            sys.exit()
        at += n
    a[1] += 1
    for at in range(0, size, 1 << 20):
        sys.stdout.buffer.write(view[at:at + (1 << 20)])
    sys.stdout.buffer.flush()
`

func startPipes(python string, size int) (*pipes, error) {
	p := &pipes{cmd: exec.Command(python, "-c", pipeSource, fmt.Sprint(size))}
	p.cmd.Stderr = os.Stderr
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.out, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	return p, p.cmd.Start()
}

func (p *pipes) turn(buf []byte) error {
	for at := 0; at < len(buf); at += 1 << 20 {
		if _, err := p.in.Write(buf[at:min(len(buf), at+1<<20)]); err != nil {
			return err
		}
	}
	_, err := io.ReadFull(p.out, buf)
	return err
}

func (p *pipes) stop() {
	p.in.Close()
	_ = p.cmd.Wait()
}
