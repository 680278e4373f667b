// Load asks serve as many times as it is told, by several clients at once, and says how long that took.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"slices"
	"sync"
	"time"
)

const inputs = 256

func main() {
	log.SetFlags(0)
	url := flag.String("url", "http://127.0.0.1:8080", "where serve listens")
	clients := flag.Int("c", 16, "how many `clients` ask at once")
	requests := flag.Int("n", 2000, "how many `requests` they have together")
	flag.Parse()
	if *clients < 1 || *requests < *clients {
		log.Fatal("load: at least one client, please, and a request for each")
	}
	http.DefaultTransport.(*http.Transport).MaxIdleConnsPerHost = *clients

	todo := make(chan int, *requests)
	for i := range *requests {
		todo <- i
	}
	close(todo)
	type outcome struct {
		took  []time.Duration
		batch int // sum of all
		err   error
	}
	outcomes := make([]outcome, *clients)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range outcomes {
		wg.Go(func() {
			o := &outcomes[i]
			for i := range todo {
				begun := time.Now()
				n, err := ask(*url, i)
				if err != nil {
					o.err = err
					return
				}
				o.took = append(o.took, time.Since(begun))
				o.batch += n
			}
		})
	}
	wg.Wait()
	took := time.Since(start)

	var all []time.Duration
	batch := 0
	for _, o := range outcomes {
		if o.err != nil {
			log.Fatal(o.err)
		}
		all = append(all, o.took...)
		batch += o.batch
	}
	slices.Sort(all)
	ms := func(q float64) float64 { return all[int(q*float64(len(all)-1))].Seconds() * 1e3 }
	fmt.Printf("%d requests by %d clients: %.0f a second, p50 %.2f ms, p99 %.2f ms, batches of %.1f\n",
		len(all), *clients, float64(len(all))/took.Seconds(), ms(0.5), ms(0.99), float64(batch)/float64(len(all)))
}

// ask sends a row that depends on i, and returns how many were computed with it.
func ask(url string, i int) (batch int, err error) {
	x := make([]float32, inputs)
	for k := range x {
		x[k] = float32((i*31+k*17)%97) / 97
	}
	body, err := json.Marshal(x)
	if err != nil {
		return 0, err
	}
	r, err := http.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, err
	}
	if r.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s: %s", r.Status, text)
	}
	var a struct{ Batch int }
	return a.Batch, json.Unmarshal(text, &a)
}
