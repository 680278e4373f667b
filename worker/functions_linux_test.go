package worker_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/list"
	"github.com/sharedmem/shm/ring"
	"github.com/sharedmem/shm/worker"
)

// suite has the functions that [conform] calls: each is to do the same in every language.
type suite struct {
	Echo   worker.Function[string, string]
	Sum    worker.Function[[]int64, int64]
	Fail   worker.Function[string, string]                 // fails with the text
	Crash  worker.Function[string, string]                 // panics, or raises, with the text
	Exit   worker.Function[int64, int64]                   // ends the process with the status
	Kill   worker.Function[int64, int64]                   // kills it with the signal
	Loop   worker.Function[string, string]                 // writes "begun" into the named block, then loops for ever
	Print  worker.Function[string, string]                 // writes it to stdout and stderr
	Zeros  worker.Function[int64, []byte]                  // so many
	PID    worker.Function[int64, int64]                   // of the process
	Blank  worker.Function[*shm.Block, int64]              // sums the bytes and makes them 0
	Make   worker.Function[int64, *shm.Block]              // creates one of so many bytes, all 7
	List   worker.Function[*list.List, int64]              // item 0, to which it adds 1
	Scale  worker.Function[*array.Array[float64], float64] // the sum; doubles the elements
	Matrix worker.Function[int64, *array.Array[float64]]   // n by n, with element i, j = 10 i + j
	Fork   worker.Function[string, string]                 // leaves a process that lives on, with all descriptors
	Close  worker.Function[string, string]                 // closes all descriptors from 3 on

	Layout list.Layout // of the lists that it knows; Scale and Matrix may be missing
}

type pair struct{ A, B int64 }

type tree struct {
	Name     string
	Children []*tree
	Sizes    map[string]float64
	When     time.Time
	Any      any
}

type handles struct {
	Block *shm.Block
	List  *list.List
	Ring  *ring.Queue
	Array *array.Array[int32]
}

var goSuite = suite{
	Echo: worker.Func("echo", func(_ context.Context, s string) (string, error) { return s, nil }),
	Sum: worker.Func("sum", func(_ context.Context, v []int64) (sum int64, err error) {
		for _, n := range v {
			sum += n
		}
		return sum, nil
	}),
	Fail:  worker.Func("fail", func(_ context.Context, s string) (string, error) { return "", errors.New(s) }),
	Crash: worker.Func("crash", func(_ context.Context, s string) (string, error) { panic(s) }),
	Exit:  worker.Func("exit", func(_ context.Context, n int64) (int64, error) { os.Exit(int(n)); return 0, nil }),
	Kill: worker.Func("kill", func(ctx context.Context, n int64) (int64, error) {
		_ = syscall.Kill(os.Getpid(), syscall.Signal(n))
		<-ctx.Done()
		return 0, nil
	}),
	Loop: worker.Func("loop", func(_ context.Context, name string) (string, error) {
		if err := begun(name); err != nil {
			return "", err
		}
		for i := 0; ; i++ {
		}
	}),
	Print: worker.Func("print", func(_ context.Context, s string) (string, error) {
		fmt.Print(s)
		fmt.Fprint(os.Stderr, s)
		return "", nil
	}),
	Zeros: worker.Func("zeros", func(_ context.Context, n int64) ([]byte, error) { return make([]byte, n), nil }),
	PID:   worker.Func("pid", func(context.Context, int64) (int64, error) { return int64(os.Getpid()), nil }),
	Blank: worker.Func("blank", func(_ context.Context, b *shm.Block) (sum int64, err error) {
		err = b.Do(func(p []byte) error {
			for i := range p {
				sum += int64(p[i])
				p[i] = 0
			}
			return nil
		})
		return sum, err
	}),
	Make: worker.Func("make", func(_ context.Context, n int64) (*shm.Block, error) {
		b, err := shm.Create(testName(), int(n), nil)
		if err != nil {
			return nil, err
		}
		for i := range b.Bytes() {
			b.Bytes()[i] = 7
		}
		return b, nil
	}),
	List: worker.Func("list", func(_ context.Context, l *list.List) (int64, error) {
		n, err := l.Int(0)
		return n, errors.Join(err, l.SetInt(0, n+1))
	}),
	Scale: worker.Func("scale", func(_ context.Context, a *array.Array[float64]) (sum float64, err error) {
		for i, v := range a.All() {
			sum += v
			a.Set(2*v, i...)
		}
		return sum, nil
	}),
	Matrix: worker.Func("matrix", func(_ context.Context, n int64) (*array.Array[float64], error) {
		a, err := array.Create[float64](testName(), []int{int(n), int(n)}, nil)
		if err != nil {
			return nil, err
		}
		for i := range a.All() {
			a.Set(float64(10*i[0]+i[1]), i...)
		}
		return a, nil
	}),
	Fork: worker.Func("fork", func(context.Context, string) (string, error) {
		return "", forkSleeper()
	}),
	Close: worker.Func("close", func(context.Context, string) (string, error) {
		for fd := 3; fd < 64; fd++ {
			_ = syscall.Close(fd)
		}
		runtime.GC()
		select {}
	}),
}

// begun tells the test that a function runs.
func begun(name string) error {
	b, err := shm.Open(name, nil)
	if err != nil {
		return err
	}
	defer b.Close()
	_, err = b.WriteAt([]byte("begun"), 0)
	return err
}

// More functions of Go alone.
var (
	add     = worker.Func("add", func(_ context.Context, p pair) (int64, error) { return p.A + p.B, nil })
	same    = worker.Func("same", func(_ context.Context, t *tree) (*tree, error) { return t, nil })
	missing = worker.Func("missing", func(context.Context, string) (string, error) {
		return "", &fs.PathError{Op: "open", Path: "x", Err: syscall.ENOENT}
	})
	goexit  = worker.Func("goexit", func(context.Context, string) (string, error) { runtime.Goexit(); return "", nil })
	other   = worker.Func("other", func(context.Context, string) (string, error) { go panic("elsewhere"); select {} })
	channel = worker.Func("channel", func(context.Context, string) (chan int, error) { return nil, nil })
	secret  = worker.Func("secret", func(context.Context, string) (any, error) { return struct{ n int }{1}, nil })
	nan     = worker.Func("nan", func(_ context.Context, v []float64) ([]float64, error) { return append(v, math.NaN()), nil })
	hold    = worker.Func("hold", func(_ context.Context, h handles) (handles, error) {
		if h.Block != nil {
			_, _ = h.Block.WriteAt([]byte{1}, 0)
		}
		if h.List != nil {
			_ = h.List.SetInt(0, 2)
		}
		if h.Array != nil {
			h.Array.Set(3, 0)
		}
		if h.Ring != nil {
			s, err := h.Ring.Sender()
			if err != nil {
				return h, err
			}
			return h, errors.Join(s.Send([]byte("4")), s.Close())
		}
		return h, nil
	})
	patient = worker.Func("patient", func(ctx context.Context, name string) (string, error) {
		if err := begun(name); err != nil {
			return "", err
		}
		<-ctx.Done()
		return "gave up", ctx.Err()
	})
	anon = worker.Func("anonymous", func(_ context.Context, n int) ([]*shm.Block, error) {
		var all []*shm.Block
		for i := range n {
			b, err := shm.Anonymous(100, nil)
			if err != nil {
				return nil, err
			}
			b.Bytes()[0] = byte(i)
			all = append(all, b)
		}
		return all, nil
	})
	environ = worker.Func("environ", func(_ context.Context, key string) ([]string, error) {
		dir, err := os.Getwd()
		return []string{os.Getenv(key), dir}, err
	})
)

var names atomic.Int64

// testName is shmtest.Name in a worker, of which there are many with the same environment.
func testName() string {
	return fmt.Sprintf("%sw%d-%d", os.Getenv("SHMTEST_PREFIX"), os.Getpid(), names.Add(1))
}

// forkSleeper starts a process that has all of our descriptors.
func forkSleeper() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	files := []uintptr{0, 1, 2}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			files = append(files, uintptr(fd))
		}
	}
	_, err = syscall.ForkExec("/bin/sleep", []string{"sleep", "2"}, &syscall.ProcAttr{Env: os.Environ(), Files: files})
	return err
}
