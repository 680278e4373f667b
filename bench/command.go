package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// command is the shm command moving much data, beside cat.
func command(ctx context.Context, e *env) (*Result, error) {
	size, count := int64(1)<<30, max(3, e.count/6)
	if e.quick {
		size, count = 64<<20, 3
	}
	r := &Result{Title: fmt.Sprintf("shm put and shm cat, %s", bytesText(float64(size))), Text: `A whole command each: its start, its transfer, its end. "To a file" is cat into a file beside the blocks, on the same file system; the source is a file there as well, so that no disk is in the way. In a
pipe the data comes from, or goes to, another cat. No target.`}
	program := filepath.Join(e.tmp, "shm")
	if out, err := exec.CommandContext(ctx, "go", "build", "-C", "..", "-o", program, "./cmd/shm").CombinedOutput(); err != nil {
		r.Missing = append(r.Missing, fmt.Sprintf("the command: %v %s", err, out))
		return r, nil
	}
	dir, err := os.MkdirTemp(shmDir, e.prefix+"command-")
	if err != nil {
		return nil, err
	}
	source, file, name := filepath.Join(dir, "source"), filepath.Join(dir, "file"), e.block("command")
	if err := writeSource(source, size); err != nil {
		return nil, err
	}
	// Words, not fmt: the shell gets them as positional parameters.
	sh := func(script string) error {
		cmd := exec.CommandContext(ctx, "sh", "-c", script, "sh", program, source, file, name)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", script, err, out)
		}
		return nil
	}
	step := func(what, before, script string) way {
		return timed(what, func() (time.Duration, error) {
			if err := sh(before); err != nil {
				return 0, err
			}
			start := time.Now()
			if err := sh(script); err != nil {
				return 0, err
			}
			took := time.Since(start)
			if info, err := os.Stat(e.path(name)); err == nil && info.Size() != size {
				return 0, fmt.Errorf("the block has %d bytes", info.Size())
			}
			return took, nil
		})
	}
	const gone = `rm -f "$3"; "$1" rm "$4" 2>/dev/null || true`
	const there = gone + `; "$1" put "$4" <"$2"`
	quick := *e
	quick.count, quick.round = count, 0 // each way once a round, as once takes long enough
	r.Rows, err = quick.rounds(ctx, []way{
		step("shm put, from a file", gone, `"$1" put "$4" <"$2"`),
		step("cat, from a file to a file", gone, `cat <"$2" >"$3"`),
		step("shm put, from a pipe", gone, `cat "$2" | "$1" put "$4"`),
		step("cat, from a pipe to a file", gone, `cat "$2" | cat >"$3"`),
		step("shm cat, to a file", there, `"$1" cat "$4" >"$3"`),
		step("shm cat, to a pipe", there, `"$1" cat "$4" | cat >/dev/null`),
		step("cat, from a file to a pipe", there, `cat "$2" | cat >/dev/null`),
	})
	if err != nil {
		return nil, err
	}
	r.Facts = [][]string{{"", "throughput"}}
	for _, row := range r.Rows {
		r.Facts = append(r.Facts, []string{row.Name, fmt.Sprintf("%.2f GiB/s", float64(size)/(1<<30)/(row.Median/1e9))})
	}
	return r, nil
}

// writeSource makes a file of size bytes that no file system and no command
// takes for empty.
func writeSource(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	piece := make([]byte, 1<<20)
	fill(piece)
	for done := int64(0); done < size && err == nil; done += int64(len(piece)) {
		_, err = f.Write(piece)
	}
	return errors.Join(err, f.Close())
}
