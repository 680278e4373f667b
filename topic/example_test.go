//go:build linux

package topic_test

import (
	"fmt"
	"log"

	"github.com/sharedmem/shm/internal/shmtest"
	"github.com/sharedmem/shm/topic"
)

func Example() {
	t, err := topic.Create(shmtest.Name(nil), &topic.Options{SlotSize: 100, Slots: 16})
	if err != nil {
		log.Fatal(err)
	}
	defer t.Close()
	defer t.Unlink()

	// Usually in other processes, which have opened it by its name.
	s, err := t.Subscriber()
	if err != nil {
		log.Fatal(err)
	}
	p, err := t.Publisher()
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		defer p.Close()
		for _, word := range []string{"from", "one", "to", "all"} {
			if err := p.Publish([]byte(word)); err != nil {
				log.Print(err)
			}
		}
	}()
	for m, err := range s.All() {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s ", m)
	}
	// Output: from one to all
}

// A subscriber that is too slow is told so.
func ExampleSubscriber_Missed() {
	t, err := topic.Create(shmtest.Name(nil), &topic.Options{Slots: 4})
	if err != nil {
		log.Fatal(err)
	}
	defer t.Close()
	defer t.Unlink()
	s, err := t.Subscriber()
	if err != nil {
		log.Fatal(err)
	}
	p, err := t.Publisher()
	if err != nil {
		log.Fatal(err)
	}
	for i := range 10 {
		if err := p.Publish([]byte{'0' + byte(i)}); err != nil {
			log.Fatal(err)
		}
	}
	if err := p.Close(); err != nil {
		log.Fatal(err)
	}
	for m, err := range s.All() {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s, %d missed before it\n", m, s.Missed())
	}
	// Output:
	// 7, 7 missed before it
	// 8, 0 missed before it
	// 9, 0 missed before it
}

// Nothing is missed if publishers wait.
func ExamplePublisher_TryPublish() {
	t, err := topic.Create(shmtest.Name(nil), &topic.Options{Slots: 2, Policy: topic.Wait})
	if err != nil {
		log.Fatal(err)
	}
	defer t.Close()
	defer t.Unlink()
	s, err := t.Subscriber()
	if err != nil {
		log.Fatal(err)
	}
	p, err := t.Publisher()
	if err != nil {
		log.Fatal(err)
	}
	for range 3 {
		ok, err := p.TryPublish([]byte("tick"))
		fmt.Println(ok, err)
	}
	if err := s.Close(); err != nil { // nobody to wait for any more
		log.Fatal(err)
	}
	ok, err := p.TryPublish([]byte("tick"))
	fmt.Println(ok, err)
	// Output:
	// true <nil>
	// true <nil>
	// false <nil>
	// true <nil>
}

// Values of a type in place of bytes.
func ExampleOf() {
	type trade struct {
		Price, Volume float64
	}
	t, err := topic.Create(shmtest.Name(nil), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer t.Close()
	defer t.Unlink()
	trades, err := topic.Of[trade](t)
	if err != nil {
		log.Fatal(err)
	}
	p, err := trades.Publisher()
	if err != nil {
		log.Fatal(err)
	}
	if err := p.Publish(trade{101.5, 3}); err != nil {
		log.Fatal(err)
	}
	s, err := trades.Subscriber(topic.Newest)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(s.Receive())
	// Output: {101.5 3} <nil>
}

// A value as it is now.
func ExampleLatest() {
	l, err := topic.CreateLatest(shmtest.Name(nil), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	defer l.Unlink()
	type position struct{ X, Y float64 }
	where, err := topic.LatestOf[position](l)
	if err != nil {
		log.Fatal(err)
	}
	for i := range 3 {
		if err := where.Set(position{float64(i), 0.5}); err != nil {
			log.Fatal(err)
		}
	}

	// Usually in another process, by topic.OpenLatest.
	v, version, err := where.Get()
	fmt.Println(v, version, err)
	// Output: {2 0.5} 3 <nil>
}
