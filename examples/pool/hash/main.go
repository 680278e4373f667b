// Hash prints SHA-256 sums of the files in trees as sha256sum does, but has several processes
// compute them, so that a file which kills its process costs no other its sum.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"time"

	"github.com/sharedmem/shm/worker"
)

func main() {
	worker.Main() // in a worker this is all that main does

	log.SetFlags(0)
	var o options
	flag.IntVar(&o.processes, "n", runtime.NumCPU(), "how many `processes` compute")
	flag.IntVar(&o.retries, "retries", 1, "how `often` a file is tried again whose process died")
	flag.DurationVar(&o.timeout, "timeout", 0, "how long one file may take; 0 is for ever")
	flag.BoolVar(&o.quiet, "q", false, "print the totals only and, to a terminal, the progress")
	flag.BoolVar(&o.compare, "compare", false, "compute everything once more in one process, and compare")
	flag.StringVar(&o.poison, "poison", "", "files of this `name` kill the process that reads them")
	flag.Parse()
	if flag.NArg() == 0 {
		log.Fatal("usage: hash [FLAG...] PATH...")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := o.run(ctx, flag.Args())
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

type options struct {
	processes, retries int
	timeout            time.Duration
	quiet, compare     bool
	poison             string
}

func (o *options) run(ctx context.Context, roots []string) error {
	files, err := find(roots)
	if err != nil {
		return err
	}
	jobs := make([]job, len(files))
	for i, path := range files {
		jobs[i] = job{path, o.poison != "" && filepath.Base(path) == o.poison}
	}
	if o.compare {
		if _, err := alone(ctx, jobs); err != nil { // so that nobody has to read from the disk
			return err
		}
	}
	together, err := o.together(ctx, jobs)
	if err != nil || !o.compare {
		return err
	}
	single, err := alone(ctx, jobs)
	if err != nil {
		return err
	}
	fmt.Println("this one alone:", single)
	if !bytes.Equal(single.lines.Sum(nil), together.lines.Sum(nil)) {
		return errors.New("the sums differ; has a file changed meanwhile?")
	}
	fmt.Printf("the same, and %.2f times as fast together\n", single.took.Seconds()/together.took.Seconds())
	return nil
}

// find returns the files in the trees, in the order of their names. What is named itself
// may be a pipe.
func find(roots []string) (files []string, err error) {
	for _, root := range roots {
		err = errors.Join(err, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && (d.Type().IsRegular() || path == root && !d.IsDir()) {
				files = append(files, path)
			}
			return err
		}))
	}
	return files, err
}

// together has a pool of processes compute, and prints the sums in the order of the files.
func (o *options) together(ctx context.Context, jobs []job) (*total, error) {
	pool, err := worker.NewPool(ctx, o.processes, &worker.PoolOptions{
		Options:  worker.Options{Stderr: os.Stderr},
		Retries:  o.retries,
		Timeout:  o.timeout,
		Progress: o.progress(len(jobs)),
	})
	if err != nil {
		return nil, err
	}
	defer pool.Close()

	t := newTotal()
	var failed []error
	out := bufio.NewWriter(os.Stdout)
	i := 0
	for d, err := range worker.Map(ctx, pool, hashed, jobs) {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s has no sum: %w", jobs[i].Path, err))
		} else if line := t.add(jobs[i], d); !o.quiet {
			fmt.Fprint(out, line)
		}
		i++
	}
	t.took = time.Since(t.start)
	if err := pool.Close(); err != nil { // and all of the progress has been told
		return nil, err
	}
	s := pool.Stats()
	fmt.Fprintf(out, "%d processes: %v\n", o.processes, t)
	if s.Died > 0 {
		fmt.Fprintf(out, "%d of the processes died, files were tried again: %d\n", s.Died, s.Retried)
	}
	return t, errors.Join(append(failed, out.Flush())...)
}

// progress returns what shows the progress on a terminal.
func (o *options) progress(files int) func(worker.Stats) {
	if info, err := os.Stderr.Stat(); err != nil || !o.quiet || info.Mode()&fs.ModeCharDevice == 0 {
		return nil
	}
	var last time.Time
	return func(s worker.Stats) {
		done := int(s.Done + s.Failed)
		if now := time.Now(); done == files || now.Sub(last) > 100*time.Millisecond {
			last = now
			fmt.Fprintf(os.Stderr, "\r%d of %d files, %d processes, %d died ", done, files, s.Workers, s.Died)
		}
		if done == files {
			fmt.Fprintln(os.Stderr)
		}
	}
}
