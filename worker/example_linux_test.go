package worker_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/worker"
)

// In a program these are variables of a package, and worker.Main() is the first line of main.
var (
	upper = worker.Func("upper", func(_ context.Context, s string) (string, error) { return strings.ToUpper(s), nil })

	fill = worker.Func("fill", func(_ context.Context, b *shm.Block) (int, error) {
		return b.WriteAt([]byte("from the worker"), 0)
	})

	divide = worker.Func("divide", func(_ context.Context, v [2]int) (int, error) {
		if v[1] == 13 {
			os.Exit(13)
		}
		return v[0] / v[1], nil
	})

	write = worker.Func("write", func(_ context.Context, name string) (int, error) {
		return 0, os.WriteFile(name, make([]byte, 1<<20), 0o600)
	})

	deaf = worker.Func("forever", func(context.Context, struct{}) (struct{}, error) {
		for {
			time.Sleep(time.Hour)
		}
	})
)

func ExampleMap() {
	ctx := context.Background()
	pool, err := worker.NewPool(ctx, 2, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	for s, err := range worker.Map(ctx, pool, upper, []string{"in", "this", "order"}) {
		fmt.Println(s, err)
	}
	// Output:
	// IN <nil>
	// THIS <nil>
	// ORDER <nil>
}

func ExampleMapUnordered() {
	ctx := context.Background()
	pool, err := worker.NewPool(ctx, 2, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	words := []string{"in", "any", "order"}
	for r := range worker.MapUnordered(ctx, pool, upper, slices.Values(words)) {
		if r.Err != nil {
			log.Fatal(r.Err)
		}
		words[r.Index] = r.Value
	}
	fmt.Println(words)
	// Output: [IN ANY ORDER]
}

// A block is not copied: the worker writes to the memory that we see.
func ExampleStart() {
	b, err := shm.Anonymous(100, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Close()
	p, err := worker.Start(context.Background(), fill, b, &worker.Options{Nice: 1})
	if err != nil {
		log.Fatal(err)
	}
	n, err := p.Wait()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", b.Bytes()[:n])
	// Output: from the worker
}

func ExampleSubmit() {
	ctx := context.Background()
	pool, err := worker.NewPool(ctx, 2, &worker.PoolOptions{Timeout: time.Minute, Retries: 1})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	job, err := worker.Submit(ctx, pool, upper, "meanwhile")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("something else")
	fmt.Println(job.Wait())
	// Output:
	// something else
	// MEANWHILE <nil>
}

func ExampleError() {
	ctx := context.Background()
	pool, err := worker.NewPool(ctx, 1, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	for _, v := range [][2]int{{1, 0}, {1, 13}, {26, 2}} {
		n, err := worker.Call(ctx, pool, divide, v)
		if f, ok := errors.AsType[*worker.Failure](err); ok {
			fmt.Println("failed:", f.Type, f.Text)
		} else if d, ok := errors.AsType[*worker.Death](err); ok {
			fmt.Println("died: exit status", d.Code)
		} else {
			fmt.Println(n, err)
		}
	}
	s := pool.Stats()
	fmt.Println(s.Done, "done,", s.Failed, "failed,", s.Died, "died")
	// Output:
	// failed: panic runtime error: integer divide by zero
	// died: exit status 13
	// 13 <nil>
	// 1 done, 2 failed, 1 died
}

func ExampleStats() {
	ctx := context.Background()
	pool, err := worker.NewPool(ctx, 1, &worker.PoolOptions{
		Options: worker.Options{Grace: time.Millisecond}, // for a function that does not look at its context
		Timeout: 100 * time.Millisecond,
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	_, err = worker.Call(ctx, pool, deaf, struct{}{})
	fmt.Println("took too long:", errors.Is(err, worker.ErrTimeout))
	s := pool.Stats()
	fmt.Println(s.Failed, "failed,", s.Died, "died by itself, some were killed:", s.Killed > 0)
	// Output:
	// took too long: true
	// 1 failed, 0 died by itself, some were killed: true
}

func ExampleResult() {
	ctx := context.Background()
	pool, err := worker.NewPool(ctx, 2, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	questions := [][2]int{{12, 4}, {1, 0}, {12, 3}}
	answers := make([]string, len(questions))
	for r := range worker.MapUnordered(ctx, pool, divide, questions) {
		answers[r.Index] = fmt.Sprint(r.Value)
		if r.Err != nil {
			answers[r.Index] = "none"
		}
	}
	fmt.Println(answers)
	// Output: [3 none 4]
}

// A function that writes more than it may has an error, and only its own process is limited.
func ExampleLimit() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	p, err := worker.Start(context.Background(), write, filepath.Join(dir, "file"),
		&worker.Options{Limits: []worker.Limit{{Resource: worker.FileSize, Max: 1000}}})
	if err != nil {
		log.Fatal(err)
	}
	_, err = p.Wait()
	fmt.Println(errors.Is(err, syscall.EFBIG))
	// Output: true
}

// A script is a file, or as here part of the program, which may embed it.
func ExamplePython() {
	const script = `
def longest(words):
    return max(words, key=len)
`
	longest := worker.Python[[]string, string]("words", "longest", &worker.PythonOptions{Source: script})
	p, err := worker.Start(context.Background(), longest, []string{"a", "list", "of", "words"}, nil)
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Println("words <nil>") // as there is no Python here
		return
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(p.Wait())
	// Output: words <nil>
}
