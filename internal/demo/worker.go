package demo

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sharedmem/shm"
)

// The arguments of a worker that is a command are the names of both blocks, a part and a slot; or
// none, and it counts what comes through its standard input; or copyOnly, and
// it does nothing with that.
const copyOnly = "copy-only"

//go:embed worker.py
var workerPython string

// ErrArgs is returned by Work for arguments that Run does not give.
var ErrArgs = errors.New("a worker wants TEXT RESULT PART SLOT, or nothing")

// Work is all that a worker does that is a command; see Options.Worker. It makes the process deaf
// to interrupts.
func Work(ctx context.Context, dir string, args []string, stdin io.Reader, stdout io.Writer) (err error) {
	// Ctrl-C reaches all processes of a terminal. Only the parent heeds it, and
	// then ends us; else it might see us fail first and report that rather than
	// the interruption.
	signal.Ignore(os.Interrupt)
	switch {
	case len(args) == 0:
		return workPiped(ctx, stdin, stdout)
	case len(args) == 1 && args[0] == copyOnly:
		// Both would rather copy in their own way, by less at a time.
		_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{stdin}, make([]byte, 1<<20))
		return err
	case len(args) != 4:
		return ErrArgs
	}
	part, err1 := strconv.Atoi(args[2])
	slot, err2 := strconv.Atoi(args[3])
	if err := cmp.Or(err1, err2); err != nil {
		return fmt.Errorf("%w: %w", ErrArgs, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		// The parent holds the other end and never writes: this returns when the
		// parent is gone, kill -9 included.
		_, _ = io.Copy(io.Discard, stdin)
		cancel()
	}()
	text, err := shm.Open(args[0], &shm.OpenOptions{ReadOnly: true, Dir: dir})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, text.Close()) }()
	results, err := shm.Open(args[1], &shm.OpenOptions{Dir: dir})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, results.Close()) }()
	return workShared(ctx, text, results, part, slot)
}

// workShared counts one part of the text block in place.
func workShared(ctx context.Context, text, results *shm.Block, part, slot int) error {
	start := time.Now()

	progress, err := progressWord(results, slot)
	if err != nil {
		return err
	}
	mine, err := resultSlot(results.Bytes(), slot)
	if err != nil {
		return err
	}
	x, err := decodeIndex(text.Bytes())
	if err != nil {
		return err
	}
	if part < 0 || part >= len(x.parts) {
		return fmt.Errorf("the text has no part %d", part)
	}
	c, err := x.countPart(ctx, text.Bytes()[x.text.off:][:x.text.n], x.parts[part],
		func(done uint64) { atomic.StoreUint64(progress, done) })
	if err != nil {
		return err
	}
	c.result(start).encode(mine)
	return nil
}

// result is what the counter found since start, as this process's result.
func (c *counter) result(start time.Time) *result {
	list := c.list()
	return &result{
		Tally: c.Tally, PID: os.Getpid(), Distinct: uint64(len(list)), List: list,
		Nanoseconds: uint64(time.Since(start)),
	}
}

// progressWord is the first word of a slot, shared with the one who draws the
// bar, hence atomic.
func progressWord(results *shm.Block, slot int) (*uint64, error) {
	at, err := slotExtent(results.Bytes(), slot)
	if err != nil {
		return nil, err
	}
	return shm.At[uint64](results, at.off)
}

// The same work by copying. The parent sends, all numbers of 64 bits,
//
//	the size of a slot, the number of pieces,
//	for each piece: bytes to skip before it, its length, 1 if a file begins there,
//	the part of the text, in one go
//
// and gets back a slot, cut after its list. Pieces are described beforehand
// rather than framed one by one, so that the text goes in writes as large as
// the pipe takes: the copying is to be as good as copying can be.

// sendPart is the parent's half.
func (x *index) sendPart(to io.Writer, text []byte, part extent, slot int) error {
	le := binary.LittleEndian
	head, n, at := make([]byte, 16, 4096), uint64(0), part.off
	for piece, begins := range x.pieces(text, part) {
		head = le.AppendUint64(head, uint64(piece.off-at))
		head = le.AppendUint64(head, uint64(piece.n))
		head = le.AppendUint64(head, map[bool]uint64{true: 1}[begins])
		at = piece.off + piece.n
		n++
	}
	le.PutUint64(head, uint64(slot))
	le.PutUint64(head[8:], n)
	if _, err := to.Write(head); err != nil {
		return err
	}
	_, err := to.Write(text[part.off:at])
	return err
}

// workPiped is the worker's half.
func workPiped(ctx context.Context, from io.Reader, to io.Writer) error {
	le := binary.LittleEndian
	start := time.Now()
	var b bytes.Buffer // grows with what comes, not with what is announced
	take := func(n uint64) ([]byte, error) {
		b.Reset()
		if got, _ := io.CopyN(&b, from, int64(n)); uint64(got) != n {
			return nil, fmt.Errorf("the text ended after %d bytes of %d", got, n)
		}
		return b.Bytes(), nil
	}
	head, err := take(16)
	if err != nil {
		return err
	}
	slot, n := le.Uint64(head), le.Uint64(head[8:])
	if slot < slotHead || slot > 1<<30 || n > 1<<30 {
		return fmt.Errorf("a slot of %d bytes and %d pieces cannot be", slot, n)
	}
	head, err = take(24 * n)
	if err != nil {
		return err
	}
	c := newCounter()
	for pieces := bytes.Clone(head); len(pieces) > 0; pieces = pieces[24:] {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := take(le.Uint64(pieces)); err != nil {
			return err
		}
		p, err := take(le.Uint64(pieces[8:]))
		if err != nil {
			return err
		}
		c.Files += le.Uint64(pieces[16:])
		c.count(p)
	}
	out := make([]byte, slot)
	c.result(start).encode(out)
	_, err = to.Write(out[:slotHead+le.Uint64(out[80:])])
	return err
}

// countShared lets n workers count the parts from firstPart on in place, each
// into the slot of its number. The last is Python if there are more than Go's.
func (r *run) countShared(ctx context.Context, n, firstPart int) ([]result, time.Duration, error) {
	start := time.Now()
	err := together(ctx, n, func(ctx context.Context, i int) error {
		return r.countOne(ctx, firstPart+i, i)
	})
	took := time.Since(start)
	if err != nil {
		return nil, 0, err
	}
	results := make([]result, n)
	for i := range results {
		slot, err := resultSlot(r.result.Bytes(), i)
		if err == nil {
			results[i], err = decodeResult(slot)
		}
		if err != nil {
			return nil, 0, fmt.Errorf("worker %d: %w", i+1, err)
		}
	}
	return results, took, nil
}

// countPiped lets n workers count the parts from firstPart on, sent to them
// through pipes.
func (r *run) countPiped(ctx context.Context, n, firstPart int) ([]result, time.Duration, error) {
	outputs := make([]bytes.Buffer, n)
	slot, err := resultSlot(r.result.Bytes(), 0)
	if err != nil {
		return nil, 0, err
	}
	start := time.Now()
	err = together(ctx, n, func(ctx context.Context, i int) error {
		cmd := r.Worker(ctx)
		cmd.Stdout = &outputs[i]
		return runWorker(cmd, func(to io.Writer) error {
			return r.index.sendPart(to, r.textBytes, r.index.parts[firstPart+i], len(slot))
		}, &r.cpu)
	})
	took := time.Since(start)
	if err != nil {
		return nil, 0, err
	}
	results := make([]result, n)
	for i := range results {
		if results[i], err = decodeResult(outputs[i].Bytes()); err != nil {
			return nil, 0, fmt.Errorf("worker %d: %w", i+1, err)
		}
	}
	return results, took, nil
}

// copyOnly sends what countPiped sends, to workers that throw it away.
func (r *run) copyOnly(ctx context.Context, n, firstPart int) (time.Duration, error) {
	start := time.Now()
	err := together(ctx, n, func(ctx context.Context, i int) error {
		return runWorker(r.Worker(ctx, copyOnly), func(to io.Writer) error {
			return r.index.sendPart(to, r.textBytes, r.index.parts[firstPart+i], slotHead)
		}, &r.cpu)
	})
	return time.Since(start), err
}

// together runs n of something at once; the first failure ends the others and
// is returned.
func together(ctx context.Context, n int, run func(ctx context.Context, i int) error) error {
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			if err := run(inner, i); err != nil {
				cancel(fmt.Errorf("worker %d: %w", i+1, err)) // only the first one counts
			}
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return context.Cause(inner)
}

// runWorker runs one worker to its end. Its standard input is a pipe that feed
// writes to or, without feed, that stays open as long as this process lives.
// The processor time that the worker took is added to cpu, in nanoseconds.
func runWorker(cmd *exec.Cmd, feed func(to io.Writer) error, cpu *atomic.Int64) error {
	var stderr lastBytes
	cmd.Stderr = &stderr
	// Python's resource tracker, a child of the worker, also holds stderr.
	cmd.WaitDelay = time.Second
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if feed != nil {
		// A failure here is that of the worker, who says more of it.
		_ = feed(stdin)
		stdin.Close()
	}
	err = cmd.Wait()
	cpu.Add(int64(cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()))
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		if len(stderr) > 0 {
			return fmt.Errorf("%v: %s", err, strings.TrimSpace(string(stderr)))
		}
		return err
	}
	return nil
}

// lastBytes keeps the end of what is written to it.
type lastBytes []byte

func (b *lastBytes) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	*b = (*b)[max(0, len(*b)-400):]
	return len(p), nil
}

// interpreter is a Python that can be a worker, or why there is none.
type interpreter struct {
	path, version string
	why           string
}

// command runs a program text. -I keeps out modules of the current folder that
// happen to be called like Python's own.
func (p interpreter) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, p.path, append([]string{"-I", "-c", program}, args...)...)
}

// findPython looks for a Python with multiprocessing.shared_memory, which came
// with 3.8 and which some builds leave out.
func findPython(ctx context.Context, wanted bool) interpreter {
	if !wanted {
		return interpreter{why: "not wanted"}
	}
	names := []string{"python3"}
	if runtime.GOOS == "windows" {
		names = []string{"python3", "python"} // and python3 may be a link to a shop
	}
	why := "there is no " + names[0] + " on the PATH"
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		// On the system's path, python3 may be a script that looks for the real
		// one, slowly: sys.executable is that.
		const ask = "import sys, multiprocessing.shared_memory as s; print(sys.executable); print(sys.implementation.name, *sys.version_info[:3])"
		out, err := interpreter{path: path}.command(ctx, ask).Output()
		if err != nil {
			why = path + " has no multiprocessing.shared_memory, which came with 3.8"
			continue
		}
		real, what, _ := strings.Cut(strings.ReplaceAll(string(out), "\r", ""), "\n")
		version := strings.Fields(what)
		if real == "" || len(version) != 4 {
			why = path + " does not say what it is"
			continue
		}
		name := map[string]string{"cpython": "Python", "pypy": "PyPy"}[version[0]]
		return interpreter{path: real, version: strings.TrimSpace(name + " " + strings.Join(version[1:], "."))}
	}
	return interpreter{why: why}
}
