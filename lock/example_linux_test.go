package lock_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"
	"sync"
	"time"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/lock"
)

// A lock and what it guards lie side by side in a struct.
func ExampleMutex() {
	type account struct {
		Lock    lock.State
		Balance int64
		Before  int64 // the balance before a transfer that is under way, or -1
	}
	b, err := shm.Create("", 4096, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	a, err := shm.At[account](b, 0)
	if err != nil {
		log.Fatal(err)
	}
	m, err := lock.NewMutex(b, 0) // where a.Lock lies
	if err != nil {
		log.Fatal(err)
	}

	switch err := m.Lock(); {
	case err == nil:
	case errors.Is(err, lock.ErrOwnerDied): // held, and its last holder died holding it
		if a.Before >= 0 {
			a.Balance = a.Before
		}
		if err := m.MarkConsistent(); err != nil {
			log.Fatal(err)
		}
	default:
		log.Fatal(err)
	}
	a.Before = a.Balance
	a.Balance += 100
	a.Before = -1
	if err := m.Unlock(); err != nil {
		log.Fatal(err)
	}
	fmt.Println(a.Balance)
	// Output: 100
}

// Offset finds a State that is a field.
func ExampleState() {
	type table struct {
		Rows [4]struct {
			Lock  lock.State
			Value int64
		}
	}
	b, err := shm.Create("", 4096, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	t, err := shm.At[table](b, 0)
	if err != nil {
		log.Fatal(err)
	}
	off, err := shm.Offset(b, &t.Rows[2].Lock)
	if err != nil {
		log.Fatal(err)
	}
	m, err := lock.NewMutex(b, off)
	if err != nil {
		log.Fatal(err)
	}
	ok, err := m.TryLock()
	fmt.Println(off, ok, err)
	// A block is not closed while this process holds a lock in it.
	fmt.Println(errors.Is(b.Close(), lock.ErrHeld))
	if err := m.Unlock(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 144 true <nil>
	// true
}

func ExampleMutex_LockContext() {
	b, err := shm.Create("", 4096, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	m, err := lock.NewMutex(b, 0)
	if err != nil {
		log.Fatal(err)
	}
	if err := m.Lock(); err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	err = m.LockContext(ctx) // another goroutine's, or another process's
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	fmt.Println(m.Unlock())
	// Output:
	// true
	// <nil>
}

func ExampleRWMutex() {
	b, err := shm.Create("", 4096, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	m, err := lock.NewRWMutex(b, 0)
	if err != nil {
		log.Fatal(err)
	}
	if err := errors.Join(m.RLock(), m.RLock()); err != nil { // two readers
		log.Fatal(err)
	}
	ok, err := m.TryLock()
	fmt.Println("write beside readers:", ok, err)
	if err := errors.Join(m.RUnlock(), m.RUnlock()); err != nil {
		log.Fatal(err)
	}
	ok, err = m.TryLock()
	fmt.Println("write alone:", ok, err)
	if err := m.Unlock(); err != nil {
		log.Fatal(err)
	}
	// Output:
	// write beside readers: false <nil>
	// write alone: true <nil>
}

// An RWState is as large as it is for the slots of the processes that read.
func ExampleRWState() {
	type cache struct {
		Lock    lock.RWState
		Version int64
	}
	b, err := shm.Create("", 4096, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	c, err := shm.At[cache](b, 64)
	if err != nil {
		log.Fatal(err)
	}
	off, err := shm.Offset(b, &c.Lock)
	if err != nil {
		log.Fatal(err)
	}
	m, err := lock.NewRWMutex(b, off)
	if err != nil {
		log.Fatal(err)
	}
	if err := m.RLock(); err != nil {
		log.Fatal(err)
	}
	fmt.Println(off, c.Version)
	if err := m.RUnlock(); err != nil {
		log.Fatal(err)
	}
	// Output: 64 0
}

// Who waits looks in a loop: it may wake for no reason.
func ExampleCond() {
	b, err := shm.Create("", 4096, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	m, err := lock.NewMutex(b, 0)
	if err != nil {
		log.Fatal(err)
	}
	c, err := lock.NewCond(b, 64)
	if err != nil {
		log.Fatal(err)
	}
	stock, err := shm.At[int64](b, 128)
	if err != nil {
		log.Fatal(err)
	}
	go func() { // in another process, as a rule
		if err := m.Lock(); err != nil {
			log.Fatal(err)
		}
		*stock = 3
		if err := errors.Join(c.Signal(), m.Unlock()); err != nil {
			log.Fatal(err)
		}
	}()
	if err := m.Lock(); err != nil {
		log.Fatal(err)
	}
	for *stock == 0 {
		if err := c.Wait(m); err != nil {
			log.Fatal(err)
		}
	}
	*stock--
	fmt.Println(*stock, "left")
	if err := m.Unlock(); err != nil {
		log.Fatal(err)
	}
	// Output: 2 left
}

func ExampleEvent() {
	b, err := shm.Create("", 4096, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	ready, err := lock.NewEvent(b, 0)
	if err != nil {
		log.Fatal(err)
	}
	ok, err := ready.TryWait()
	fmt.Println(ok, err)
	if err := ready.Set(); err != nil {
		log.Fatal(err)
	}
	fmt.Println(ready.Wait(), ready.Wait()) // until Reset everybody passes
	// Output:
	// false <nil>
	// <nil> <nil>
}

func ExampleNewAutoEvent() {
	b, err := shm.Create("", 4096, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	work, err := lock.NewAutoEvent(b, 0)
	if err != nil {
		log.Fatal(err)
	}
	if err := work.Set(); err != nil {
		log.Fatal(err)
	}
	fmt.Println(work.TryWait()) // one passes
	fmt.Println(work.TryWait())
	// Output:
	// true <nil>
	// false <nil>
}

func ExampleBarrier() {
	b, err := shm.Create("", 4096, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	bar, err := lock.NewBarrier(b, 0, 3)
	if err != nil {
		log.Fatal(err)
	}
	parts := make([]string, 3)
	var wg sync.WaitGroup
	for i := range parts {
		wg.Go(func() {
			parts[i] = fmt.Sprint(i)
			n, err := bar.Wait()
			switch {
			case errors.Is(err, lock.ErrBroken):
				log.Fatal("a process that takes part has died")
			case err != nil:
				log.Fatal(err)
			}
			if n == 0 { // one of them
				fmt.Println("all parts are there:", strings.Join(parts, " "))
			}
		})
	}
	wg.Wait()
	// Output: all parts are there: 0 1 2
}

func ExampleOnce() {
	b, err := shm.Create("", 4096, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	for range 3 { // processes, as a rule
		o, err := lock.NewOnce(b, 0)
		if err != nil {
			log.Fatal(err)
		}
		err = o.Do(func() error {
			fmt.Println("the table is filled")
			return nil
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	// Output: the table is filled
}

func ExampleSemaphore() {
	b, err := shm.Create("", 4096, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer b.Unlink()
	defer b.Close()
	s, err := lock.NewSemaphore(b, 0, 2)
	if err != nil {
		log.Fatal(err)
	}
	for range 3 {
		fmt.Println(s.TryWait())
	}
	fmt.Println(s.Post(), s.Value())
	// Output:
	// true <nil>
	// true <nil>
	// false <nil>
	// <nil> 1
}
