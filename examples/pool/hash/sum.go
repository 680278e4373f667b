package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	"github.com/sharedmem/shm/worker"
)

// job is what a worker is told, and digest what it answers.
type (
	job struct {
		Path   string
		Poison bool
	}
	digest struct {
		Sum   [sha256.Size]byte
		Bytes int64
	}
)

// hashed is hashFile under a name, so that it can be called in another process.
var hashed = worker.Func("hash", hashFile)

// hashFile runs in a worker. What it does wrong, in a library in C perhaps, stays there.
func hashFile(ctx context.Context, j job) (d digest, err error) {
	if j.Poison {
		if p, err := os.FindProcess(os.Getpid()); err == nil {
			err = p.Kill()
			<-ctx.Done()
			return d, err
		}
	}
	f, err := os.Open(j.Path)
	if err != nil {
		return d, err
	}
	defer f.Close()
	h := sha256.New()
	if d.Bytes, err = io.Copy(h, f); err != nil {
		return d, err
	}
	h.Sum(d.Sum[:0])
	return d, ctx.Err()
}

// alone computes all sums in this process.
func alone(ctx context.Context, jobs []job) (*total, error) {
	t := newTotal()
	for _, j := range jobs {
		j.Poison = false // we are the only one
		d, err := hashFile(ctx, j)
		if err != nil {
			return nil, err
		}
		t.add(j, d)
	}
	t.took = time.Since(t.start)
	return t, nil
}

// total is what came of all files.
type total struct {
	start time.Time
	took  time.Duration
	files int
	bytes int64
	lines hash.Hash // the sum of all lines
}

func newTotal() *total { return &total{start: time.Now(), lines: sha256.New()} }

// add adds a file and returns its line.
func (t *total) add(j job, d digest) string {
	t.files++
	t.bytes += d.Bytes
	line := fmt.Sprintf("%x  %s\n", d.Sum, j.Path)
	t.lines.Write([]byte(line))
	return line
}

func (t *total) String() string {
	mb, s := float64(t.bytes)/1e6, t.took.Seconds()
	return fmt.Sprintf("%d files, %.1f MB in %.2f s, %.0f MB/s, sum of sums %x", t.files, mb, s, mb/s, t.lines.Sum(nil)[:8])
}
