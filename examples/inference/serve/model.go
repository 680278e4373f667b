package main

import (
	"context"
	"errors"
	"math"
	"os"
	"slices"
	"sync"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/worker"
)

// The network: so many numbers in, hidden units, classes out.
const (
	inputs  = 256
	hidden  = 1024
	classes = 10
)

type matrix = *array.Array[float32]

// call is the keyword arguments of infer in model.py. All of them are memory that both sides
// have; only their names travel.
type call struct {
	X             matrix `py:"x"`
	Probabilities matrix `py:"probabilities"`
	First         matrix `py:"first"`
	Second        matrix `py:"second"`
}

// request is one row.
type request struct {
	x      []float32
	answer chan<- answered
}

type answered struct {
	answer
	err error
}

// model has the workers, and the memory in which they compute.
type model struct {
	pool          *worker.Pool
	infer         worker.Function[call, struct{}]
	first, second matrix // the weights: once, however many workers there are
	made          []matrix
	requests      chan request
	stop          context.CancelFunc
	batches       sync.WaitGroup
}

func newModel(ctx context.Context, o *options) (_ *model, err error) {
	m := &model{requests: make(chan request, o.batch)}
	ctx, m.stop = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			err = errors.Join(err, m.close())
		}
	}()
	m.infer = worker.Python[call, struct{}](o.script, "infer", &worker.PythonOptions{Interpreter: o.python, Keywords: true})
	m.pool, err = worker.NewPool(ctx, o.workers, &worker.PoolOptions{
		// There is a process for each core already, and NumPy would start as many threads in each.
		Options: worker.Options{Env: append(os.Environ(), "OPENBLAS_NUM_THREADS=1"), Stderr: os.Stderr},
		Retries: 1, // the same result is computed again
	})
	if err != nil {
		return nil, err
	}
	if m.first, err = m.weights(inputs, hidden); err != nil {
		return nil, err
	}
	if m.second, err = m.weights(hidden, classes); err != nil {
		return nil, err
	}
	if err := worker.Ready(ctx, m.pool, m.infer); err != nil { // now, not at the first request
		return nil, err
	}
	// As many batches as workers. What comes while all of them are away waits, and makes
	// the next one larger; an idle server makes nobody wait for company.
	for range o.workers {
		x, err := m.matrix(o.batch, inputs)
		if err != nil {
			return nil, err
		}
		p, err := m.matrix(o.batch, classes)
		if err != nil {
			return nil, err
		}
		m.batches.Go(func() { m.serve(ctx, x, p) })
	}
	return m, nil
}

// matrix makes an array, which goes with this process however that ends.
func (m *model) matrix(rows, columns int) (matrix, error) {
	a, err := array.Create[float32]("", []int{rows, columns}, &shm.CreateOptions{Lifetime: shm.Tracked})
	if err == nil {
		m.made = append(m.made, a)
	}
	return a, err
}

// weights makes some that nobody had to train.
func (m *model) weights(rows, columns int) (matrix, error) {
	a, err := m.matrix(rows, columns)
	if err != nil {
		return nil, err
	}
	for i := range rows {
		for j := range columns {
			a.Set(float32(math.Sin(float64(1+i*columns+j*j))/math.Sqrt(float64(rows))), i, j)
		}
	}
	return a, nil
}

// ask has one row computed.
func (m *model) ask(ctx context.Context, x []float32) (answer, error) {
	got := make(chan answered, 1)
	select {
	case m.requests <- request{x, got}:
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
	select {
	case a := <-got:
		return a.answer, a.err
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
}

// serve computes one batch after the other, in memory of its own.
func (m *model) serve(ctx context.Context, x, p matrix) {
	var batch []request
	for {
		batch = batch[:0]
		select {
		case r := <-m.requests:
			batch = append(batch, r)
		case <-ctx.Done():
			return
		}
		for more := true; more && len(batch) < x.Shape()[0]; {
			select {
			case r := <-m.requests:
				batch = append(batch, r)
			default:
				more = false
			}
		}
		for i, r := range batch {
			copy(x.Row(i), r.x)
		}
		n := len(batch)
		_, err := worker.Call(ctx, m.pool, m.infer, call{x.Slice(0, n), p.Slice(0, n), m.first, m.second})
		for i, r := range batch {
			a := answered{err: err}
			if err == nil {
				row := slices.Clone(p.Row(i)) // the memory is the next batch's
				a.answer = answer{slices.Index(row, slices.Max(row)), row, n}
			}
			r.answer <- a
		}
	}
}

// close ends the workers and removes everything.
func (m *model) close() (err error) {
	m.stop()
	m.batches.Wait()
	if m.pool != nil {
		err = m.pool.Close()
	}
	for _, a := range m.made {
		err = errors.Join(err, a.Unlink(), a.Close())
	}
	return err
}
