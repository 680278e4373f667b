// Serve answers HTTP requests by a network that Python computes with NumPy. Requests that come while
// all workers are busy are computed together.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	"github.com/sharedmem/shm/worker"
)

func main() {
	worker.Main() // in a worker this is all that main does

	log.SetFlags(0)
	var o options
	flag.StringVar(&o.address, "address", "127.0.0.1:8080", "where to listen")
	flag.StringVar(&o.python, "python", "", "an `interpreter` that has NumPy; python3 of the PATH by default")
	flag.StringVar(&o.script, "script", "model.py", "what computes")
	flag.IntVar(&o.workers, "n", 1, "how many `processes` compute")
	flag.IntVar(&o.batch, "batch", 64, "how many `requests` are computed together at most")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := o.serve(ctx)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

type options struct {
	address, python, script string
	workers, batch          int
}

// answer is what a client gets.
type answer struct {
	Class         int       `json:"class"`
	Probabilities []float32 `json:"probabilities"`
	Batch         int       `json:"batch"` // how many were computed together
}

func (o *options) serve(ctx context.Context) (err error) {
	m, err := newModel(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.close()) }()
	l, err := net.Listen("tcp", o.address)
	if err != nil {
		return err
	}
	fmt.Printf("listening on http://%s\n", l.Addr())
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var x []float32
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&x); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if len(x) != inputs {
			http.Error(w, fmt.Sprintf("%d numbers, please, not %d", inputs, len(x)), http.StatusBadRequest)
			return
		}
		a, err := m.ask(r.Context(), x)
		if err != nil {
			log.Print(err)
			http.Error(w, "the model does not work", http.StatusBadGateway)
			return
		}
		_ = json.NewEncoder(w).Encode(a) // a client that has gone away
	})}
	context.AfterFunc(ctx, func() { _ = server.Close() }) // Serve returns
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
