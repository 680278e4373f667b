//go:build linux

package ring_test

import (
	"errors"
	"fmt"
	"io"
	"log"

	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/ring"
)

func Example() {
	q, err := ring.Create(shmtest.Name(nil), &ring.Options{SlotSize: 100, Slots: 16})
	if err != nil {
		log.Fatal(err)
	}
	defer q.Close()
	defer q.Unlink()

	// Usually in another process, which has opened it by its name.
	s, err := q.Sender()
	if err != nil {
		log.Fatal(err)
	}
	r, err := q.Receiver()
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		defer s.Close()
		for _, word := range []string{"from", "one", "to", "the", "other"} {
			if err := s.Send([]byte(word)); err != nil {
				log.Print(err)
			}
		}
	}()
	for p, err := range r.All() {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s ", p)
	}
	// Output: from one to the other
}

// A look at a ring without taking part.
func ExampleDescribe() {
	q, err := ring.Create(shmtest.Name(nil), &ring.Options{Senders: ring.One})
	if err != nil {
		log.Fatal(err)
	}
	defer q.Close()
	defer q.Unlink()
	if _, err := q.Receiver(); err != nil {
		log.Fatal(err)
	}
	i, err := ring.Describe(q.Block())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("for senders: %v, for receivers: %v\n", i.Options.Senders, i.Options.Receivers)
	for _, p := range i.Participants {
		fmt.Printf("one %s, alive: %v\n", p.Role, p.Owner.Alive)
	}
	// Output:
	// for senders: One, for receivers: Many
	// one receiver, alive: true
}

// Writing a message where it is read.
func ExampleSender_Reserve() {
	q, err := ring.Create(shmtest.Name(nil), &ring.Options{SlotSize: 1 << 16, Slots: 4, Senders: ring.One, Receivers: ring.One})
	if err != nil {
		log.Fatal(err)
	}
	defer q.Close()
	defer q.Unlink()
	s, err := q.Sender()
	if err != nil {
		log.Fatal(err)
	}
	r, err := q.Receiver()
	if err != nil {
		log.Fatal(err)
	}

	frame, err := s.Reserve(1 << 16)
	if err != nil {
		log.Fatal(err)
	}
	n := copy(frame, "a picture") // or let a camera write there
	if err := s.Commit(n); err != nil {
		log.Fatal(err)
	}
	err = r.Lease(func(p []byte) error {
		fmt.Printf("%s, %d bytes\n", p, len(p))
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: a picture, 9 bytes
}

// Values of a type in place of bytes.
func ExampleOf() {
	type trade struct {
		Price, Volume float64
	}
	q, err := ring.Create(shmtest.Name(nil), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer q.Close()
	defer q.Unlink()
	trades, err := ring.Of[trade](q)
	if err != nil {
		log.Fatal(err)
	}
	s, err := trades.Sender()
	if err != nil {
		log.Fatal(err)
	}
	r, err := trades.Receiver()
	if err != nil {
		log.Fatal(err)
	}
	if err := s.Send(trade{101.5, 3}); err != nil {
		log.Fatal(err)
	}
	t, err := r.Receive()
	fmt.Println(t, err)
	if err := s.Close(); err != nil {
		log.Fatal(err)
	}
	_, err = r.Receive()
	fmt.Println(errors.Is(err, io.EOF))
	// Output:
	// {101.5 3} <nil>
	// true
}
