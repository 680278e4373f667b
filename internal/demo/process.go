package demo

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/platform/wait"
	"github.com/sharedmem/shm/worker"
)

// job is what a worker counts in place.
type job struct {
	Text   *shm.Block `py:"text"`
	Result *shm.Block `py:"result"`
	Part   int        `py:"part"`
	Slot   int        `py:"slot"`
}

var counting = worker.Func("shm demo", func(ctx context.Context, j job) (struct{}, error) {
	return struct{}{}, workShared(ctx, j.Text, j.Result, j.Part, j.Slot)
})

// countOne has one worker count one part, by package worker; where there is none, by a command that
// opens the blocks by their names.
func (r *run) countOne(ctx context.Context, part, slot int) error {
	python := slot == r.Workers
	if r.commands || wait.Supported() != nil || python && !strings.HasPrefix(r.interpreter.version, "Python ") {
		args := []string{r.text.Name(), r.result.Name(), strconv.Itoa(part), strconv.Itoa(slot)}
		if python {
			return runWorker(r.interpreter.command(ctx, workerPython, args...), nil, &r.cpu)
		}
		return runWorker(r.Worker(ctx, args...), nil, &r.cpu)
	}
	f := counting
	if python {
		f = worker.Python[job, struct{}]("worker.py", "work", &worker.PythonOptions{
			Interpreter: r.interpreter.path, Keywords: true, Source: workerPython})
	}
	p, err := worker.Start(ctx, f, job{r.text, r.result, part, slot}, nil)
	if err != nil {
		return err
	}
	_, err = p.Wait()
	if s := p.State(); s != nil {
		r.cpu.Add(int64(s.UserTime() + s.SystemTime()))
	}
	if e, ok := errors.AsType[*worker.Error](err); ok {
		return e.Err // which worker it was is said elsewhere
	}
	return err
}
