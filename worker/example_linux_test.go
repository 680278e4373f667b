package worker_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"slices"
	"strings"
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
