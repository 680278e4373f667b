package worker_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/big"
	"os"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/list"
	"github.com/sharedmem/shm/ring"
	"github.com/sharedmem/shm/worker"
)

// What functions of Go do that others cannot.
func TestGo(t *testing.T) {
	ctx := t.Context()
	p := newPool(t, 1, nil)
	t.Run("values", func(t *testing.T) {
		in := &tree{Name: "a", Children: []*tree{nil, {Name: "b", Any: int64(3)}, {}}, Sizes: map[string]float64{"x": 1, "y": math.Inf(1)},
			When: time.Now().Round(0), Any: "text"}
		out, err := worker.Call(ctx, p, same, in)
		if err != nil {
			t.Fatal(err)
		}
		if !out.When.Equal(in.When) {
			t.Error(out.When)
		}
		out.When = in.When
		if !reflect.DeepEqual(in, out) {
			t.Errorf("%+v", out)
		}
		if out, err := worker.Call(ctx, p, same, nil); out != nil || err != nil {
			t.Error(out, err)
		}
		if out, err := worker.Call(ctx, p, nan, nil); err != nil || len(out) != 1 || !math.IsNaN(out[0]) {
			t.Error(out, err)
		}
		if out, err := worker.Call(ctx, p, factorial, 100); err != nil || out.Cmp(new(big.Int).MulRange(1, 100)) != 0 {
			t.Error(out, err)
		}
	})
	t.Run("handles", func(t *testing.T) {
		b, err := shm.Anonymous(10, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		l, err := list.Create(shmtest.Name(t), []any{1}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		defer l.Unlink()
		q, err := ring.Create(shmtest.Name(t), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		defer q.Unlink()
		a, err := array.Create[int32](shmtest.Name(t), []int{2}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		defer a.Unlink()
		r, err := q.Receiver()
		if err != nil {
			t.Fatal(err)
		}
		out, err := worker.Call(ctx, p, hold, handles{b, l, q, a})
		if err != nil {
			t.Fatal(err)
		}
		n, _ := l.Int(0)
		if b.Bytes()[0] != 1 || n != 2 || a.At(0) != 3 {
			t.Error(b.Bytes()[0], n, a.At(0))
		}
		m, err := r.Receive(make([]byte, 100))
		if m != 1 || err != nil {
			t.Error(m, err)
		}
		if out.Block.Bytes()[0] != 1 || out.List.Ref() != l.Ref() || out.Ring.Name() != q.Name() || out.Array.At(0) != 3 {
			t.Errorf("%+v", out)
		}
		if err := errors.Join(out.Block.Close(), out.List.Close(), out.Ring.Close(), out.Array.Close()); err != nil {
			t.Error(err)
		}
		if info, err := shm.Stat(l.Ref().Name); err != nil || info.Owner.PID != os.Getpid() {
			t.Errorf("what was only passed on has another owner: %+v, %v", info, err)
		}
		if out, err := worker.Call(ctx, p, hold, handles{}); err != nil || out != (handles{}) {
			t.Errorf("%+v, %v", out, err)
		}
		all, err := worker.Call(ctx, p, anon, 100)
		if err != nil || len(all) != 100 {
			t.Fatal(len(all), err)
		}
		for i, b := range all {
			if b.Bytes()[0] != byte(i) {
				t.Errorf("block %d has %d", i, b.Bytes()[0])
			}
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}
		heap, err := array.Over([]int32{1}, []int{1})
		if err != nil {
			t.Fatal(err)
		}
		_, err = worker.Call(ctx, p, hold, handles{Array: heap})
		want(t, err, worker.ErrEncode, "hold")
		gone, err := shm.Create(shmtest.Name(t), 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer gone.Close()
		if err := gone.Unlink(); err != nil {
			t.Fatal(err)
		}
		_, err = worker.Call(ctx, p, hold, handles{Block: gone})
		want(t, err, fs.ErrNotExist, "hold", gone.Name())
	})
	t.Run("errors", func(t *testing.T) {
		_, err := worker.Call(ctx, p, missing, "")
		if f := wantFailure(t, err, "missing", "open x"); f.Type != "*fs.PathError" || !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, syscall.ENOENT) || errors.Is(err, fs.ErrExist) {
			t.Errorf("%#v", f)
		}
		_, err = worker.Call(ctx, p, goexit, "")
		wantFailure(t, err, "goexit", "goroutine")
		_, err = worker.Call(ctx, p, goSuite.Fail, strings.Repeat("long", 100000))
		wantFailure(t, err, "fail", "longlong")
		_, err = worker.Call(ctx, p, channel, "")
		want(t, err, worker.ErrEncode, "channel", "chan")
		_, err = worker.Call(ctx, p, secret, "")
		want(t, err, worker.ErrEncode, "secret", "struct")
		loop := &tree{Name: "loop"}
		loop.Children = []*tree{loop}
		_, err = worker.Call(ctx, p, same, loop)
		want(t, err, worker.ErrEncode, "same", "itself")
		_, err = worker.Call(ctx, p, same, &tree{Any: struct{ X int }{1}})
		want(t, err, worker.ErrEncode, "same", "registered")
		if n := p.Stats().Started; n != 1 {
			t.Errorf("%d workers were started", n)
		}
		_, err = worker.Call(ctx, p, other, "")
		if d := wantDeath(t, err, "other", 2, 0); !strings.Contains(d.Crash, "elsewhere") || !strings.Contains(d.Crash, "goroutine") {
			t.Errorf("%q", d.Crash)
		}
	})
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		var j *worker.Job[string]
		looping(t, func(name string) {
			var err error
			if j, err = worker.Submit(ctx, p, patient, name); err != nil {
				t.Fatal(err)
			}
		})
		before := p.Stats().Died
		cancel()
		_, err := j.Wait()
		want(t, err, context.Canceled, "patient")
		if after := p.Stats().Died; after != before {
			t.Error("a function that gave up cost its worker")
		}
	})
	t.Run("options", func(t *testing.T) {
		dir := t.TempDir()
		q := newPool(t, 1, &worker.PoolOptions{Options: worker.Options{Env: append(os.Environ(), "WORKER_TEST=x"), Dir: dir}})
		if got, err := worker.Call(ctx, q, environ, "WORKER_TEST"); err != nil || !reflect.DeepEqual(got, []string{"x", dir}) {
			t.Error(got, err)
		}
	})
	t.Run("many", func(t *testing.T) {
		q := newPool(t, 40, nil)
		if err := worker.Ready(ctx, q, add); err != nil {
			t.Fatal(err)
		}
		i := int64(0)
		for out, err := range worker.Map(ctx, q, add, make([]pair, 2000)) {
			if out != 0 || err != nil {
				t.Fatal(out, err)
			}
			i++
		}
		if s := q.Stats(); i != 2000 || s.Workers != 40 {
			t.Errorf("%d, %+v", i, s)
		}
	})
	t.Run("descriptors", func(t *testing.T) {
		var old syscall.Rlimit
		if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: 40, Max: old.Max}); err != nil {
			t.Fatal(err)
		}
		q := newPool(t, 30, nil)
		err := worker.Ready(ctx, q, add)
		if rerr := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old); rerr != nil {
			t.Fatal(rerr)
		}
		want(t, err, syscall.EMFILE, "add", "ulimit -n")
		if sum, err := worker.Call(ctx, q, add, pair{1, 2}); sum != 3 || err != nil {
			t.Error(sum, err)
		}
	})
}

var factorial = worker.Func("factorial", func(_ context.Context, n int64) (*big.Int, error) { return new(big.Int).MulRange(1, n), nil })

// A slow function does not keep those behind it from being done by others.
func TestSteal(t *testing.T) {
	p := newPool(t, 2, &worker.PoolOptions{Options: worker.Options{Grace: 10 * time.Millisecond}})
	if err := worker.Ready(t.Context(), p, add); err != nil {
		t.Fatal(err)
	}
	looping(t, func(name string) {
		var all []*worker.Job[int64]
		for range 8 {
			j, err := worker.Submit(t.Context(), p, add, pair{})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, j)
		}
		if _, err := worker.Submit(t.Context(), p, goSuite.Loop, name); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			j, err := worker.Submit(t.Context(), p, add, pair{1, 1})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, j)
		}
		for _, j := range all {
			if _, err := j.Wait(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A job that takes too long only since its worker does not begin it is somebody else's to do, and
// not late for good.
func TestTimeoutBeforeBegin(t *testing.T) {
	p := newPool(t, 1, &worker.PoolOptions{Timeout: time.Second, Options: worker.Options{Grace: time.Millisecond}})
	if err := worker.Ready(t.Context(), p, add); err != nil {
		t.Fatal(err)
	}
	pid := p.PIDs()[0]
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(shmtest.Patience); ; time.Sleep(time.Millisecond) {
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err != nil {
			t.Fatal(err)
		} else if strings.Contains(string(stat), ") T ") {
			break
		}
		if time.Now().After(end) {
			t.Fatal("it does not stop")
		}
	}
	if sum, err := worker.Call(t.Context(), p, add, pair{1, 2}); sum != 3 || err != nil {
		t.Error(sum, err)
	}
	if s := p.Stats(); s.Killed == 0 || s.Done != 1 || s.Failed != 0 || s.Retried != 0 {
		t.Errorf("%+v", s)
	}
}

func TestFuncPanics(t *testing.T) {
	for _, name := range []string{"", "echo", strings.Repeat("x", 256)} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%.20q is registered", name)
				}
			}()
			worker.Func(name, func(context.Context, int) (int, error) { return 0, nil })
		}()
	}
	if _, err := worker.NewPool(t.Context(), 0, nil); !errors.Is(err, shm.ErrSize) {
		t.Error(err)
	}
}

// Many who wait at once have each their own result, however they wait; and who leads, and so looks
// for all, also learns of ends that no worker tells of.
func TestManyWait(t *testing.T) {
	shmtest.Deadline(t, 8*shmtest.Patience)
	for name, waiting := range map[string]ring.Waiting{"sleep": ring.Sleep, "adaptive": ring.Adaptive} {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, 2, &worker.PoolOptions{Options: worker.Options{Waiting: waiting, Grace: time.Millisecond}})
			var all sync.WaitGroup
			for i := range 8 {
				all.Go(func() {
					for k := range 200 {
						n := int64(i*1000 + k)
						if sum, err := worker.Call(t.Context(), p, add, pair{n, 1}); err != nil || sum != n+1 {
							t.Errorf("%d came back as %d, %v", n, sum, err)
							return
						}
					}
				})
			}
			all.Wait()
			// Both workers are busy for ever, and who leads waits for one of them.
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 4)
			for range 2 {
				looping(t, func(name string) {
					go func() {
						_, err := worker.Call(ctx, p, goSuite.Loop, name)
						ended <- err
					}()
				})
			}
			for range 2 { // these wait behind
				go func() {
					var err error
					for _, err = range worker.Map(ctx, p, add, []pair{{1, 2}}) {
					}
					ended <- err
				}()
			}
			cancel()
			for range 4 {
				if err := <-ended; !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}
			looping(t, func(name string) {
				go func() {
					_, err := worker.Call(t.Context(), p, goSuite.Loop, name)
					ended <- err
				}()
			})
			p.Kill()
			if err := <-ended; !errors.Is(err, os.ErrClosed) {
				t.Error(err)
			}
		})
	}
}
