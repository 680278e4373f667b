package lock_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/lock"
)

func ExampleDescribe() {
	b, err := shm.Create("", 4096, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	m, err := lock.NewMutex(b, 64)
	if err != nil {
		log.Fatal(err)
	}
	if err := m.Lock(); err != nil {
		log.Fatal(err)
	}
	info, err := lock.Describe(b, 64)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(info.Kind, info.State, len(info.Holders), info.Holders[0].PID == os.Getpid())
	if err := m.Unlock(); err != nil {
		log.Fatal(err)
	}
	info, err = lock.Describe(b, 64)
	fmt.Println(info.State, err)
	// Output:
	// Mutex held 1 true
	// free <nil>
}

func ExampleFind() {
	b, err := shm.Create("", 4096, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	if _, err := lock.NewSemaphore(b, 128, 3); err != nil {
		log.Fatal(err)
	}
	if _, err := lock.NewMutex(b, 1000); err != nil {
		log.Fatal(err)
	}
	found, err := lock.Find(b)
	if err != nil {
		log.Fatal(err)
	}
	for _, i := range found {
		fmt.Printf("%d: %s, %s\n", i.Offset, i.Kind, i.State)
	}
	// Output:
	// 128: Semaphore, 3 permits
	// 1000: Mutex, free
}

// one describes what is at off, and fails the test if that cannot be.
func one(t *testing.T, b *shm.Block, off int) lock.Info {
	t.Helper()
	i, err := lock.Describe(b, off)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// Every state that there is a word for.
func TestDescribe(t *testing.T) {
	name := shmtest.Name(t)
	b, err := shm.Create(name, 8192, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	want := func(off int, state string, holders int) lock.Info {
		t.Helper()
		i := one(t, b, off)
		if i.State != state || len(i.Holders) != holders || i.Offset != off || i.Elsewhere {
			t.Errorf("at %d: %+v, want %q with %d holders", off, i, state, holders)
		}
		return i
	}

	// A holder that dies, and what becomes of its lock.
	p := shmtest.Start(t, "mutex-hold", name, "0")
	p.Expect("waits")
	p.Expect("held")
	if i := want(0, "held", 1); i.Holders[0].PID != p.PID() || !i.Holders[0].Alive || i.Waiting || i.Kind != "Mutex" {
		t.Errorf("%+v", i)
	}
	p.Kill()
	if i := want(0, "owner died", 1); i.Holders[0].PID != p.PID() || i.Holders[0].Alive {
		t.Errorf("%+v", i)
	}
	if _, err := shm.Prune(); err != nil {
		t.Error(err)
	}
	if i := want(0, "owner died", 1); i.Holders[0].PID != 0 { // whoever it was
		t.Errorf("%+v", i)
	}
	m, err := lock.NewMutex(b, 0)
	must(t, err)
	if err := m.Lock(); !errors.Is(err, lock.ErrOwnerDied) {
		t.Fatal(err)
	}
	want(0, "held, not mended", 1)
	must(t, m.Unlock())
	want(0, "not recoverable", 0)

	// Somebody who waits.
	m, err = lock.NewMutex(b, 64)
	must(t, err)
	must(t, m.Lock())
	p = shmtest.Start(t, "mutex-hold", name, "64")
	p.Expect("waits")
	for deadline := time.Now().Add(shmtest.Patience); !one(t, b, 64).Waiting; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", one(t, b, 64))
		}
	}
	must(t, m.Unlock())
	p.Expect("held")
	p.Send("end")
	p.Wait()
	want(64, "free", 0)

	rw, err := lock.NewRWMutex(b, 1024)
	must(t, err)
	want(1024, "free", 0)
	must(t, rw.RLock())
	if i := want(1024, "held for reading", 1); i.Holders[0].PID != os.Getpid() {
		t.Errorf("%+v", i)
	}
	must(t, rw.RUnlock(), rw.Lock())
	want(1024, "held", 1)
	must(t, rw.Unlock())

	e, err := lock.NewEvent(b, 128)
	must(t, err)
	want(128, "not set", 0)
	must(t, e.Set())
	want(128, "set", 0)
	_, err = lock.NewAutoEvent(b, 192)
	must(t, err)
	want(192, "automatic, not set", 0)

	s, err := lock.NewSemaphore(b, 256, 2)
	must(t, err)
	must(t, s.Post())
	if i := want(256, "3 permits", 0); i.Count != 3 {
		t.Errorf("%+v", i)
	}

	bar, err := lock.NewBarrier(b, 320, 2)
	must(t, err)
	came := make(chan error, 1)
	go func() { _, err := bar.Wait(); came <- err }()
	for deadline := time.Now().Add(shmtest.Patience); one(t, b, 320).Count != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", one(t, b, 320))
		}
	}
	if i := want(320, "1 of 2 have come", 1); i.Parties != 2 || !i.Waiting || i.Holders[0].PID != os.Getpid() {
		t.Errorf("%+v", i)
	}
	_, err = bar.Wait()
	must(t, err, <-came)

	o, err := lock.NewOnce(b, 384)
	must(t, err)
	want(384, "not done", 0)
	must(t, o.Do(func() error { want(384, "being done", 1); return nil }))
	want(384, "done", 0)

	c, err := lock.NewCond(b, 448)
	must(t, err)
	must(t, c.Signal(), c.Broadcast())
	if i := want(448, "signalled 2 times", 0); i.Count != 2 {
		t.Errorf("%+v", i)
	}

	found, err := lock.Find(b)
	must(t, err)
	var at []int
	for _, i := range found {
		at = append(at, i.Offset)
	}
	if fmt.Sprint(at) != "[0 64 128 192 256 320 384 448 1024]" {
		t.Error(at)
	}

	ro, err := shm.Open(name, &shm.OpenOptions{ReadOnly: true})
	must(t, err)
	defer ro.Close()
	if i := one(t, ro, 1024); i.Kind != "RWMutex" {
		t.Errorf("%+v", i)
	}
	for _, off := range []int{-8, 4, 8192, 8192 - 56} {
		if _, err := lock.Describe(b, off); !errors.Is(err, shm.ErrSize) {
			t.Errorf("offset %d: %v", off, err)
		}
	}
	if _, err := lock.Describe(b, 4096); !errors.Is(err, shm.ErrFormat) {
		t.Error(err)
	}
}

func init() {
	// mutex-hold NAME OFF: waits for a Mutex and holds it until told to end.
	shmtest.Register("mutex-hold", func(args []string) int {
		b, err := shm.Open(args[0], nil)
		if err != nil {
			return complain(err)
		}
		off, _ := strconv.Atoi(args[1])
		m, err := lock.NewMutex(b, off)
		if err != nil {
			return complain(err)
		}
		shmtest.Say("waits")
		if err := m.Lock(); err != nil {
			return complain(err)
		}
		shmtest.Say("held")
		shmtest.Await("end")
		if err := errors.Join(m.Unlock(), b.Close()); err != nil {
			return complain(err)
		}
		return 0
	})
}

// What the bytes of others say is described in bounded time, and believed in
// nothing: stamps everywhere, and owners that nobody ever was.
func TestDescribeHostile(t *testing.T) {
	b, err := shm.Create("", 2<<20, nil)
	must(t, err)
	defer b.Unlink()
	defer b.Close()
	p := b.Bytes()
	_, err = lock.NewMutex(b, 0)
	must(t, err)
	place := binary.NativeEndian.Uint64(p[56:]) // so that all who are named are looked for
	random := rand.New(rand.NewPCG(1, 2))
	for i := 0; i+8 <= len(p); i += 8 {
		binary.NativeEndian.PutUint64(p[i:], random.Uint64())
	}
	if found, err := lock.Find(b); err != nil || len(found) != 0 {
		t.Errorf("in noise: %v %v", found, err)
	}
	for _, kind := range []uint64{2, 5, 1} { // those that name the most processes
		for off := 0; off+64 <= len(p); off += 64 {
			if kind == 2 && off%1024 != 0 {
				continue
			}
			binary.NativeEndian.PutUint64(p[off:], 'S'|'L'<<8|1<<16|kind<<24)
			clear(p[off+16 : off+24])
			if kind != 5 {
				clear(p[off+24 : off+56])
			}
			binary.NativeEndian.PutUint64(p[off+56:], place)
		}
		start := time.Now()
		found, err := lock.Find(b)
		t.Logf("kind %d: %d in %v", kind, len(found), time.Since(start))
		if err != nil || len(found) == 0 || len(found) > 1<<20/64+1 {
			t.Errorf("kind %d: %d %v", kind, len(found), err)
		}
		if took := time.Since(start); took > shmtest.Patience/5 {
			t.Errorf("kind %d: it took %v", kind, took)
		}
		for _, i := range found {
			if i.Kind == "" || strings.HasPrefix(i.Kind, "kind") || i.Elsewhere {
				t.Fatalf("%+v", i)
			}
		}
	}
}

func FuzzDescribe(f *testing.F) {
	f.Add(append([]byte{'S', 'L', 1, 1, 0, 0, 0, 0}, make([]byte, 56)...))
	f.Add(append([]byte{'S', 'L', 1, 2, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, make([]byte, 1008)...))
	f.Add([]byte{'S', 'L', 1, 7, 0, 0, 0, 0x20})
	b, err := shm.Create("", 4096, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { b.Close(); b.Unlink() })
	f.Fuzz(func(t *testing.T, p []byte) {
		clear(b.Bytes())
		copy(b.Bytes()[8:], p)
		i, err := lock.Describe(b, 8)
		if err == nil && (i.Kind == "" || i.State == "" || i.Count < 0 || i.Parties < 0 || len(i.Holders) > 128) {
			t.Errorf("%+v", i)
		}
		found, ferr := lock.Find(b)
		if ferr != nil {
			t.Error(ferr)
		}
		for _, i := range found {
			if i.Kind == "" || i.State == "" {
				t.Errorf("%+v", i)
			}
		}
		if err != nil && !errors.Is(err, shm.ErrFormat) {
			t.Error(err)
		}
	})
}
