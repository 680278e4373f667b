package list_test

import (
	"errors"
	"fmt"
	"log"
	"strings"

	"github.com/sharedmem/shm/list"
)

// The examples run on every system. Their lists have fresh names, so that two
// test runs do not meet.

func Example() {
	// One process makes a list …
	l, err := list.Create("", []any{"camera 0", 0, 0.5, nil}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer l.Unlink()
	defer l.Close()

	// … another one opens it by its name. In Python this is
	// ShareableList(name=name).
	name := l.Ref().Name
	peer, err := list.Open(name, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer peer.Close()
	if err := peer.SetInt(1, 42); err != nil {
		log.Fatal(err)
	}
	if err := peer.Set(3, true); err != nil {
		log.Fatal(err)
	}

	v, err := l.At(1)
	fmt.Printf("%T %v %v\n", v, v, err)
	fmt.Println(strings.Replace(l.String(), name, "NAME", 1)) // as Python shows it
	// Output:
	// int64 42 <nil>
	// ShareableList(['camera 0', 42, 0.5, True], name='NAME')
}

// Text has room for as many bytes as its slot was made for.
func ExampleList_Set() {
	l, err := list.Create("", []any{"howdy", -273.154}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer l.Unlink()
	defer l.Close()

	for _, v := range []any{"dry ice", "grüezi", "carbon dioxide"} {
		err := l.Set(1, v)
		text, _ := l.Text(1)
		fmt.Println(text, errors.Is(err, list.ErrTooLong))
	}
	// Output:
	// dry ice false
	// grüezi false
	// grüezi true
}

func ExampleOptions_exact() {
	for _, exact := range []bool{false, true} {
		l, err := list.Create("", []any{"ends in zero\x00"}, &list.Options{Exact: exact})
		if err != nil {
			log.Fatal(err)
		}
		defer l.Unlink()
		defer l.Close()
		text, err := l.Text(0)
		if err != nil {
			log.Fatal(err)
		}
		format, err := l.Format(0)
		fmt.Printf("%q %s %v\n", text, format, err)
	}
	// Output:
	// "ends in zero" 16s <nil>
	// "ends in zero\x00" 13s <nil>
}

func ExampleOptions_concurrent() {
	const writers = 4
	l, err := list.Create("", []any{"", 0}, &list.Options{Concurrent: true})
	if err != nil {
		log.Fatal(err)
	}
	defer l.Unlink()
	defer l.Close()

	done := make(chan error)
	for w := range writers {
		go func() { // stands for another process
			var err error
			for n := 0; n < 100 && err == nil; n++ {
				err = l.SetText(0, strings.Repeat(string(rune('a'+w)), 7))
				if err == nil {
					_, err = l.AddInt(1, 1)
				}
			}
			done <- err
		}()
	}
	for range writers {
		if err := <-done; err != nil {
			log.Fatal(err)
		}
	}
	text, err := l.Text(0)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("one writer's:", text == strings.Repeat(text[:1], 7))
	n, err := l.Int(1)
	fmt.Println(n, err)
	// Output:
	// one writer's: true
	// 400 <nil>
}

// Python 3.8 reads no other layout than its own, and no other Python reads that.
// Open tells them apart.
func ExampleLayout() {
	for _, layout := range []list.Layout{list.Python39, list.Python38} {
		l, err := list.Create("", []any{1, 2, 3}, &list.Options{Layout: layout})
		if err != nil {
			log.Fatal(err)
		}
		defer l.Unlink()
		defer l.Close()
		peer, err := list.Open(l.Ref().Name, nil)
		if err != nil {
			log.Fatal(err)
		}
		defer peer.Close()
		fmt.Println(peer.Layout(), peer.Len())
	}
	// Output:
	// 3.9 3
	// 3.8 3
}

func ExampleList_AddInt() {
	l, err := list.Create("", []any{40, "forty"}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer l.Unlink()
	defer l.Close()

	fmt.Println(l.AddInt(0, 2))
	_, err = l.AddInt(0, 1<<63-1)
	fmt.Println(errors.Is(err, list.ErrRange))
	_, err = l.AddInt(1, 2)
	fmt.Println(errors.Is(err, list.ErrType))
	// Output:
	// 42 <nil>
	// true
	// true
}

// Ints is the way to read many, and SetInts to write them.
func ExampleList_Ints() {
	items := make([]any, 1000)
	for i := range items {
		items[i] = i
	}
	l, err := list.Create("", items, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer l.Unlink()
	defer l.Close()

	some := make([]int64, 3)
	if err := l.Ints(500, some); err != nil {
		log.Fatal(err)
	}
	fmt.Println(some)
	if err := l.SetInts(997, some); err != nil {
		log.Fatal(err)
	}
	fmt.Println(l.Int(999))
	fmt.Println(errors.Is(l.Ints(998, some), list.ErrIndex))
	// Output:
	// [500 501 502]
	// 502 <nil>
	// true
}

func ExampleList_All() {
	l, err := list.Create("", []any{"howdy", []byte("HoWdY"), -273.154, 100, nil, true}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer l.Unlink()
	defer l.Close()

	for i, v := range l.All() {
		switch v := v.(type) {
		case error: // this item cannot be read
			log.Fatal(v)
		case string, []byte:
			fmt.Printf("%d %T %q\n", i, v, v)
		default:
			fmt.Printf("%d %T %v\n", i, v, v)
		}
	}
	// Output:
	// 0 string "howdy"
	// 1 []uint8 "HoWdY"
	// 2 float64 -273.154
	// 3 int64 100
	// 4 <nil> <nil>
	// 5 bool true
}

// Items are compared as in Python, where 1, 1.0 and True are equal.
func ExampleList_Index() {
	l, err := list.Create("", []any{"1", []byte("1"), 1.0, 1, true}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer l.Unlink()
	defer l.Close()

	fmt.Println(l.Index(1))
	fmt.Println(l.Count(1))
	fmt.Println(l.Index("1"))
	_, err = l.Index(2)
	fmt.Println(errors.Is(err, list.ErrNotFound))
	// Output:
	// 2 <nil>
	// 3 <nil>
	// 0 <nil>
	// true
}
