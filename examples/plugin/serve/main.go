// Serve answers HTTP requests with the help of a library in C that crashes and hangs at times. The
// library is in workers, so what it does to its process, it does not do to the server.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/sharedmem/shm/worker"
)

// call is the keyword arguments of the function in plugin.py.
type call struct {
	Lib  string `py:"lib"`
	Text []byte `py:"text"`
}

const maxText = 1 << 20

func main() {
	worker.Main() // in a worker this is all that main does

	log.SetFlags(0)
	address := flag.String("address", "127.0.0.1:8080", "where to listen")
	python := flag.String("python", "", "which `interpreter`; python3 of the PATH by default")
	library := flag.String("lib", "libreverse.so", "the compiled library")
	script := flag.String("script", "plugin.py", "what calls it")
	timeout := flag.Duration("timeout", time.Second, "how long one call may take")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := serve(ctx, *address, *python, *library, *script, *timeout)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context, address, python, library, script string, timeout time.Duration) error {
	library, err := filepath.Abs(library)
	if err != nil {
		return err
	}
	reverse := worker.Python[call, []byte](script, "reverse", &worker.PythonOptions{Interpreter: python, Keywords: true})
	died := uint64(0)
	pool, err := worker.NewPool(ctx, 2, &worker.PoolOptions{
		Options: worker.Options{Grace: 200 * time.Millisecond}, // C does not hear when it is asked to stop
		Timeout: timeout,
		Retries: 1, // one death may be an accident
		Progress: func(s worker.Stats) {
			if n := s.Died + s.Killed; n > died {
				died = n
				log.Printf("processes of the plugin that have died: %d", died)
			}
		},
	})
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := worker.Ready(ctx, pool, reverse); err != nil { // now, not at the first request
		return err
	}

	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Printf("listening on http://%s\n", l.Addr())
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxText))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		out, err := worker.Call(r.Context(), pool, reverse, call{library, text})
		if err != nil {
			log.Printf("%.40q: %v", text, err)
			what, status := answer(err)
			http.Error(w, what, status)
			return
		}
		_, _ = w.Write(append(out, '\n')) // a client that has gone away
	})}
	context.AfterFunc(ctx, func() { _ = server.Close() }) // Serve returns
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// answer is what the client is told, and nothing of how we are made inside.
func answer(err error) (what string, status int) {
	if errors.Is(err, worker.ErrTimeout) {
		return "it takes too long", http.StatusGatewayTimeout
	}
	if _, ok := errors.AsType[*worker.Death](err); ok {
		return "it crashes, twice", http.StatusBadGateway
	}
	return "it does not work", http.StatusInternalServerError
}
