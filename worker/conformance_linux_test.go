package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/list"
	"github.com/sharedmem/shm/worker"
)

func TestConformance(t *testing.T) { conform(t, goSuite) }

// newPool makes a pool that is closed with the test, and says when that does not end.
func newPool(t testing.TB, n int, o *worker.PoolOptions) *worker.Pool {
	t.Helper()
	p, err := worker.NewPool(context.Background(), n, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if s := p.Stats(); s.Workers != 0 || s.Busy != 0 || s.Pending != 0 {
			t.Errorf("left of the pool: %+v", s)
		}
	})
	return p
}

// want fails the test unless err wraps target and names the function.
func want(t testing.TB, err, target error, function string, texts ...string) *worker.Error {
	t.Helper()
	e, ok := errors.AsType[*worker.Error](err)
	if !ok || target != nil && !errors.Is(err, target) || e.Function != function {
		t.Fatalf("%s: got %v (%T), want %v", function, err, err, target)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %q is not in %q", function, text, err)
		}
	}
	return e
}

func wantDeath(t testing.TB, err error, function string, code int, signal syscall.Signal) *worker.Death {
	t.Helper()
	d, ok := errors.AsType[*worker.Death](err)
	if e := want(t, err, nil, function); !ok || d.Code != code || d.Signal != signal || e.PID == 0 {
		t.Fatalf("%s: got %v, want status %d, signal %v", function, err, code, signal)
	}
	return d
}

func wantFailure(t testing.TB, err error, function string, texts ...string) *worker.Failure {
	t.Helper()
	f, ok := errors.AsType[*worker.Failure](err)
	if want(t, err, nil, function, texts...); !ok {
		t.Fatalf("%s: got %v, want a Failure", function, err)
	}
	return f
}

// looping starts Loop by call, and returns when it runs.
func looping(t testing.TB, call func(name string)) {
	t.Helper()
	b, err := shm.Create(shmtest.Name(t), 8, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = b.Unlink(), b.Close() })
	call(b.Name())
	for end := time.Now().Add(shmtest.Patience); ; time.Sleep(time.Millisecond) {
		p := make([]byte, 5)
		if _, err := b.ReadAt(p, 0); err != nil {
			t.Fatal(err)
		} else if string(p) == "begun" {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the function does not begin")
		}
	}
}

// alive tells whether a process is there and no zombie.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(b, []byte(") Z "))
}

// conform runs what holds for functions of every language.
func conform(t *testing.T, s suite) {
	ctx := t.Context()
	t.Run("process", func(t *testing.T) {
		p, err := worker.Start(ctx, s.Echo, "hällo\x00", nil)
		if err != nil {
			t.Fatal(err)
		}
		if p.PID() == os.Getpid() || p.PID() == 0 {
			t.Errorf("PID %d", p.PID())
		}
		for range 2 {
			if out, err := p.Wait(); out != "hällo\x00" || err != nil {
				t.Errorf("%q, %v", out, err)
			}
		}
		if alive(p.PID()) {
			t.Error("it is still there after Wait")
		}
		<-p.Done()
		if s := p.State(); s == nil || s.Pid() != p.PID() || !s.Exited() {
			t.Errorf("it ended as %v", s)
		}
	})
	t.Run("streams", func(t *testing.T) {
		var out, errs bytes.Buffer
		p, err := worker.Start(ctx, s.Print, "R\x00\x7f{}\n", &worker.Options{Stdout: &out, Stderr: &errs})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Wait(); err != nil || !strings.HasPrefix(out.String(), "R\x00") || !strings.HasPrefix(errs.String(), "R\x00") {
			t.Errorf("%v, %q, %q", err, &out, &errs)
		}
	})
	t.Run("map", func(t *testing.T) {
		p := newPool(t, 2, nil)
		var in [][]int64
		for i := range int64(500) {
			in = append(in, []int64{i, 2 * i})
		}
		i := int64(0)
		for out, err := range worker.Map(ctx, p, s.Sum, in) {
			if err != nil || out != 3*i {
				t.Fatal(i, out, err)
			}
			i++
		}
		seen := map[int]bool{}
		for r := range worker.MapUnordered(ctx, p, s.Sum, slices.Values(in)) {
			if r.Err != nil || r.Value != 3*int64(r.Index) || seen[r.Index] {
				t.Fatal(r)
			}
			seen[r.Index] = true
		}
		if st := p.Stats(); i != 500 || len(seen) != 500 || st.Done != 1000 || st.Failed != 0 {
			t.Errorf("%d, %d, %+v", i, len(seen), st)
		}
		for out, err := range worker.Map(ctx, p, s.Sum, in) {
			if err != nil || out != 0 {
				t.Error(out, err)
			}
			break
		}
		if n := p.Stats().Pending; n != 0 {
			t.Errorf("%d jobs are left of the loop that was left", n)
		}
	})
	t.Run("failure", func(t *testing.T) {
		p := newPool(t, 1, &worker.PoolOptions{Retries: 3})
		pid, err := worker.Call(ctx, p, s.PID, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = worker.Call(ctx, p, s.Fail, "no luck")
		wantFailure(t, err, s.Fail.Name(), "no luck")
		_, err = worker.Call(ctx, p, s.Crash, "bang")
		if f := wantFailure(t, err, s.Crash.Name(), "bang"); f.Trace == "" {
			t.Errorf("no trace in %q", err)
		}
		if again, err := worker.Call(ctx, p, s.PID, 0); again != pid || err != nil {
			t.Errorf("the worker has not lived on: %d, %d, %v", pid, again, err)
		}
		if st := p.Stats(); st.Retried != 0 || st.Failed != 2 {
			t.Errorf("%+v", st)
		}
	})
	t.Run("exit", func(t *testing.T) {
		p := newPool(t, 2, nil)
		for _, status := range []int64{0, 3} {
			_, err := worker.Call(ctx, p, s.Exit, status)
			wantDeath(t, err, s.Exit.Name(), int(status), 0)
		}
		_, err := worker.Call(ctx, p, s.Kill, int64(syscall.SIGKILL))
		wantDeath(t, err, s.Kill.Name(), -1, syscall.SIGKILL)
		if out, err := worker.Call(ctx, p, s.Echo, "x"); out != "x" || err != nil {
			t.Error(out, err)
		}
		if st := p.Stats(); st.Died != 3 || st.Failed != 3 {
			t.Errorf("%+v", st)
		}
		q, err := worker.Start(ctx, s.Exit, 5, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = q.Wait()
		wantDeath(t, err, s.Exit.Name(), 5, 0)
	})
	t.Run("retry", func(t *testing.T) {
		p := newPool(t, 1, &worker.PoolOptions{Retries: 2})
		_, err := worker.Call(ctx, p, s.Kill, int64(syscall.SIGKILL))
		wantDeath(t, err, s.Kill.Name(), -1, syscall.SIGKILL)
		if st := p.Stats(); st.Retried != 2 || st.Died != 3 || st.Failed != 1 {
			t.Errorf("%+v", st)
		}
	})
	t.Run("timeout", func(t *testing.T) {
		p := newPool(t, 2, &worker.PoolOptions{Timeout: 5 * time.Second, Options: worker.Options{Grace: 50 * time.Millisecond}})
		if err := worker.Ready(ctx, p, s.Loop); err != nil {
			t.Fatal(err)
		}
		var j *worker.Job[string]
		looping(t, func(name string) {
			var err error
			if j, err = worker.Submit(ctx, p, s.Loop, name); err != nil {
				t.Fatal(err)
			}
		})
		for i := range 50 { // some of them behind it
			if out, err := worker.Call(ctx, p, s.Echo, fmt.Sprint(i)); err != nil || out != fmt.Sprint(i) {
				t.Fatal(out, err)
			}
		}
		_, err := j.Wait()
		want(t, err, worker.ErrTimeout, s.Loop.Name())
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		if st := p.Stats(); st.Killed > 1 || st.Died != 0 { // Python's gives up
			t.Errorf("%+v", st)
		}
	})
	t.Run("cancel", func(t *testing.T) {
		p := newPool(t, 1, &worker.PoolOptions{Options: worker.Options{Grace: 50 * time.Millisecond}})
		ctx, cancel := context.WithCancel(ctx)
		var j *worker.Job[string]
		looping(t, func(name string) {
			var err error
			if j, err = worker.Submit(ctx, p, s.Loop, name); err != nil {
				t.Fatal(err)
			}
		})
		behind, err := worker.Submit(ctx, p, s.Echo, "never")
		if err != nil {
			t.Fatal(err)
		}
		after, err := worker.Submit(context.Background(), p, s.Echo, "later")
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		_, err = j.Wait()
		want(t, err, context.Canceled, s.Loop.Name())
		_, err = behind.Wait()
		want(t, err, context.Canceled, s.Echo.Name())
		if out, err := after.Wait(); out != "later" || err != nil {
			t.Error(out, err)
		}
		_, err = worker.Submit(ctx, p, s.Echo, "never")
		want(t, err, context.Canceled, s.Echo.Name())
	})
	t.Run("stop", func(t *testing.T) {
		for _, kill := range []bool{false, true} {
			var p *worker.Process[string]
			looping(t, func(name string) {
				var err error
				if p, err = worker.Start(ctx, s.Loop, name, &worker.Options{Grace: 20 * time.Millisecond}); err != nil {
					t.Fatal(err)
				}
			})
			why := context.Canceled
			if kill {
				p.Kill()
				why = os.ErrClosed
			} else {
				p.Stop()
			}
			_, err := p.Wait()
			want(t, err, why, s.Loop.Name())
			if alive(p.PID()) {
				t.Error("it is still there")
			}
		}
	})
	t.Run("big", func(t *testing.T) {
		p := newPool(t, 1, nil)
		for _, n := range []int{0, 1, 60 << 10, 63<<10 - 1, 63 << 10, 64 << 10, 1 << 20, 20 << 20} {
			if out, err := worker.Call(ctx, p, s.Zeros, int64(n)); err != nil || len(out) != n {
				t.Errorf("%d bytes: %d, %v", n, len(out), err)
			}
			in := strings.Repeat("ab", n/2)
			if out, err := worker.Call(ctx, p, s.Echo, in); err != nil || out != in {
				t.Errorf("%d bytes: %d, %v", n, len(out), err)
			}
			v := slices.Repeat([]int64{1}, n/8)
			if out, err := worker.Call(ctx, p, s.Sum, v); err != nil || out != int64(n/8) {
				t.Errorf("%d bytes: %d, %v", n, out, err)
			}
		}
	})
	t.Run("blocks", func(t *testing.T) { conformBlocks(t, s) })
	t.Run("recycle", func(t *testing.T) {
		p := newPool(t, 2, &worker.PoolOptions{MaxJobs: 10})
		pids := map[int64]int{}
		for pid, err := range worker.Map(ctx, p, s.PID, make([]int64, 100)) {
			if err != nil {
				t.Fatal(err)
			}
			pids[pid]++
		}
		for pid, n := range pids {
			if n > 10 {
				t.Errorf("%d jobs in process %d", n, pid)
			}
		}
		q := newPool(t, 1, &worker.PoolOptions{MaxMemory: 1})
		first, err := worker.Call(ctx, q, s.PID, 0)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := worker.Call(ctx, q, s.PID, 0); err != nil || second == first {
			t.Error("the worker is not replaced", first, second, err)
		}
	})
	t.Run("fork", func(t *testing.T) {
		p := newPool(t, 1, nil)
		if _, err := worker.Call(ctx, p, s.Fork, ""); err != nil {
			t.Fatal(err)
		}
		_, err := worker.Call(ctx, p, s.Exit, 4)
		wantDeath(t, err, s.Exit.Name(), 4, 0)
	})
	t.Run("close", func(t *testing.T) {
		p := newPool(t, 1, nil)
		_, err := worker.Call(ctx, p, s.Close, "")
		if d, ok := errors.AsType[*worker.Death](err); !ok || d.Hint == "" && d.Crash == "" {
			t.Errorf("got %v", err)
		}
		if out, err := worker.Call(ctx, p, s.Echo, "on"); out != "on" || err != nil {
			t.Error(out, err)
		}
	})
	t.Run("pending", func(t *testing.T) {
		p := newPool(t, 1, &worker.PoolOptions{Pending: 3, Options: worker.Options{Grace: 10 * time.Millisecond}})
		looping(t, func(name string) {
			if _, err := worker.Submit(ctx, p, s.Loop, name); err != nil {
				t.Fatal(err)
			}
		})
		for range 2 {
			if _, err := worker.Submit(ctx, p, s.Echo, ""); err != nil {
				t.Fatal(err)
			}
		}
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		defer cancel()
		_, err := worker.Submit(short, p, s.Echo, "")
		want(t, err, context.DeadlineExceeded, s.Echo.Name())
		var waiting sync.WaitGroup
		waiting.Go(func() {
			_, err := worker.Submit(ctx, p, s.Echo, "")
			want(t, err, os.ErrClosed, s.Echo.Name())
		})
		p.Kill()
		waiting.Wait()
	})
	t.Run("progress", func(t *testing.T) {
		var last worker.Stats
		p, err := worker.NewPool(ctx, 2, &worker.PoolOptions{Progress: func(s worker.Stats) { last = s }})
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range worker.Map(ctx, p, s.PID, make([]int64, 50)) {
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Close(); err != nil || last.Done != 50 {
			t.Errorf("%+v, %v", last, err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		_, err = worker.Call(ctx, p, s.Echo, "")
		want(t, err, os.ErrClosed, s.Echo.Name())
	})
	t.Run("context", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		p, err := worker.NewPool(ctx, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		var j *worker.Job[string]
		looping(t, func(name string) {
			if j, err = worker.Submit(context.Background(), p, s.Loop, name); err != nil {
				t.Fatal(err)
			}
		})
		cancel()
		_, err = j.Wait()
		want(t, err, context.Canceled, s.Loop.Name())
	})
	t.Run("options", func(t *testing.T) {
		p := newPool(t, 1, &worker.PoolOptions{Options: worker.Options{
			Nice: 1, CPUs: []int{0}, Limits: []worker.Limit{{worker.CoreSize, 0}, {worker.OpenFiles, 100}},
		}})
		pid, err := worker.Call(ctx, p, s.PID, 0)
		if err != nil {
			t.Fatal(err)
		}
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		limits, _ := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		own, _ := os.ReadFile("/proc/self/stat")
		if !bytes.Contains(status, []byte("Cpus_allowed_list:\t0\n")) {
			t.Errorf("%s", status)
		}
		open := strings.Join(strings.Fields(string(limits[bytes.Index(limits, []byte("Max open files")):]))[3:5], " ")
		if open != "100 100" {
			t.Errorf("%s\n%s", open, limits)
		}
		nice := func(stat []byte) string { return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')'):]))[17] }
		if nice(stat) == nice(own) {
			t.Errorf("niceness %s", nice(stat))
		}
		q := newPool(t, 1, &worker.PoolOptions{Options: worker.Options{CPUs: []int{100000}}})
		_, err = worker.Call(ctx, q, s.Echo, "")
		want(t, err, syscall.EINVAL, s.Echo.Name())
		r := newPool(t, 1, &worker.PoolOptions{Options: worker.Options{Dir: filepath.Join(t.TempDir(), "nowhere")}})
		_, err = worker.Call(ctx, r, s.Echo, "")
		want(t, err, os.ErrNotExist, s.Echo.Name())
	})
}

// owned waits until this process is the block's owner and nobody else is: the worker
// hears a moment later that it has been taken.
func owned(t *testing.T, b *shm.Block) {
	t.Helper()
	for end := time.Now().Add(shmtest.Patience); ; time.Sleep(time.Millisecond) {
		info, err := shm.Stat(b.Name())
		if err != nil {
			t.Fatal(err)
		}
		if info.Owner.PID == os.Getpid() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%v: owned by %+v", b, info.Owner)
		}
	}
}

func conformBlocks(t *testing.T, s suite) {
	ctx := t.Context()
	p := newPool(t, 2, nil)
	b, err := shm.Create(shmtest.Name(t), 1000, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	defer b.Unlink()
	anonymous, err := shm.Anonymous(1000, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer anonymous.Close()
	for _, b := range []*shm.Block{b, anonymous} {
		for i := range b.Bytes() {
			b.Bytes()[i] = 3
		}
		if sum, err := worker.Call(ctx, p, s.Blank, b); sum < 3000 || err != nil {
			t.Errorf("%v: %d, %v", b, sum, err)
		}
		if b.Bytes()[999] != 0 {
			t.Errorf("%v is not shared", b)
		}
	}
	for range 20 {
		b, err := worker.Call(ctx, p, s.Make, 5000)
		if err != nil {
			t.Fatal(err)
		}
		if b.Size() < 5000 || b.Bytes()[4999] != 7 {
			t.Errorf("%v", b)
		}
		owned(t, b)
		if err := errors.Join(b.Unlink(), b.Close()); err != nil {
			t.Error(err)
		}
	}
	l, err := list.Create(shmtest.Name(t), []any{41, "x"}, &list.Options{Layout: s.Layout})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	defer l.Unlink()
	if n, err := worker.Call(ctx, p, s.List, l); n != 41 || err != nil {
		t.Error(n, err)
	}
	if n, err := l.Int(0); n != 42 || err != nil {
		t.Error(n, err)
	}
	if s.Scale != (worker.Function[*array.Array[float64], float64]{}) {
		conformArrays(t, s, p)
	}
	// What nobody takes is removed.
	for r := range worker.MapUnordered(ctx, p, s.Make, slices.Repeat([]int64{100}, 20)) {
		if err := errors.Join(r.Err, r.Value.Unlink(), r.Value.Close()); err != nil {
			t.Error(err)
		}
		break
	}
	p.Kill()
	if _, err := shm.Prune(); err != nil {
		t.Error(err)
	}
}

func conformArrays(t *testing.T, s suite, p *worker.Pool) {
	ctx := t.Context()
	a, err := array.Create[float64](shmtest.Name(t), []int{3, 4}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	defer a.Unlink()
	if err := a.Fill(1); err != nil {
		t.Fatal(err)
	}
	if sum, err := worker.Call(ctx, p, s.Scale, a.SliceAxis(1, 1, 3).Transpose()); sum != 6 || err != nil {
		t.Error(sum, err)
	}
	if a.At(2, 0) != 1 || a.At(2, 1) != 2 || a.At(0, 2) != 2 {
		t.Error(a.Data())
	}
	m, err := worker.Call(ctx, p, s.Matrix, 3)
	if err != nil {
		t.Fatal(err)
	}
	if m.At(2, 1) != 21 || !slices.Equal(m.Shape(), []int{3, 3}) {
		t.Error(m, m.Data())
	}
	if err := errors.Join(m.Unlink(), m.Close()); err != nil {
		t.Error(err)
	}
}
