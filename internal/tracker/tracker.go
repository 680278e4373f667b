// Package tracker removes what this process leaves behind as soon as it is
// gone: it starts a clean-up process, which waits for our death and then
// sweeps our leases. What is to be removed is not told to it; it stands in the
// journals of package lease. So nothing is lost if it is killed as well: then
// the next sweep does its work later.
//
// The clean-up process is this program, executed again. Its work begins in this
// package's init, before main and before the inits of packages that are
// initialised later; therefore this package imports little. A program is taken
// for a clean-up process only if its argv[0] says so and descriptor 3 is a pipe
// on which its parent says so as well.
package tracker

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/lease"
	"github.com/sharedmem/shm/internal/platform/proc"
)

const (
	sentinel = "shm-cleaner" // argv[0], as ps shows it
	hello    = "shm-cleaner 1"
	ready    = "ready\n"
)

func init() {
	if len(os.Args) > 0 && os.Args[0] == sentinel && proc.IsPipe(3) && proc.IsPipe(4) {
		clean()
	}
}

// cleaner is our clean-up process, once it has been asked for.
var cleaner struct {
	sync.Mutex
	pipe   *os.File // ours to write; its other end sees EOF when we are gone
	cmd    *exec.Cmd
	leases map[string]uint64 // what it has been told: directory → lease
	begun  time.Time
}

// Watch makes sure that a clean-up process runs and sweeps l when this process
// is gone.
func Watch(l *lease.Lease) error {
	cleaner.Lock()
	err := start()
	cleaner.Unlock()
	if err != nil {
		return err
	}
	l.OnIncarnation(tell)
	return nil
}

// start starts the clean-up process unless it runs. Call with cleaner locked.
func start() error {
	if cleaner.pipe != nil {
		return nil
	}
	w, cmd, err := launch("clean-up process", sentinel, hello, nil)
	if err != nil {
		return err
	}
	cleaner.pipe, cleaner.cmd, cleaner.begun = w, cmd, time.Now()
	if cleaner.leases == nil {
		cleaner.leases = map[string]uint64{}
	}
	for dir, id := range cleaner.leases {
		write(dir, id)
	}
	go wait(cmd, w)
	return nil
}

// launch executes this program again as what, which argv0 and the greeting tell
// it to be, and returns the pipe on which it listens. extra are its descriptors
// from 5 on.
func launch(what, argv0, greeting string, extra []*os.File) (w *os.File, cmd *exec.Cmd, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	readyR, readyW, err := os.Pipe()
	if err != nil {
		w.Close()
		return nil, nil, err
	}
	defer readyR.Close()
	exe, err := proc.Executable()
	if err != nil {
		return nil, nil, errors.Join(err, w.Close(), readyW.Close())
	}
	cmd = &exec.Cmd{
		Path: exe, Args: []string{argv0}, Dir: "/",
		// The environment is kept for the sake of what the loader needs.
		Env:         append(os.Environ(), "GOMAXPROCS=1"),
		ExtraFiles:  append([]*os.File{r, readyW}, extra...),
		SysProcAttr: proc.Detached(), // no terminal's ^C, no hang-up
	}
	if extra != nil {
		cmd.Stderr = os.Stderr // it may have something to say
	}
	err = cmd.Start()
	readyW.Close()
	if err != nil {
		w.Close()
		return nil, nil, fmt.Errorf("cannot start the %s: %w", what, err)
	}
	_, err = fmt.Fprintln(w, greeting)
	if err == nil {
		answer := make([]byte, len(ready))
		_ = readyR.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err = io.ReadFull(readyR, answer); err == nil && string(answer) != ready {
			err = errors.New("strange answer")
		}
	}
	if err != nil {
		w.Close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return nil, nil, fmt.Errorf("the %s did not start (it is this program executed again; "+
			"is the main program not written in Go?): %w: %w", what, errors.ErrUnsupported, err)
	}
	return w, cmd, nil
}

// wait reaps the clean-up process and starts another if it was killed; not at
// once again if it lasts no second, but then with the next Tracked block.
func wait(cmd *exec.Cmd, w *os.File) {
	_ = cmd.Wait()
	cleaner.Lock()
	defer cleaner.Unlock()
	w.Close()
	if cleaner.pipe == w {
		cleaner.pipe, cleaner.cmd = nil, nil
		if time.Since(cleaner.begun) > time.Second {
			_ = start()
		}
	}
}

// tell names a lease to the clean-up process.
func tell(dir string, id uint64) {
	cleaner.Lock()
	defer cleaner.Unlock()
	cleaner.leases[dir] = id
	if cleaner.pipe != nil {
		write(dir, id)
	}
}

// write sends one line. A clean-up process that does not read (stopped by a
// signal, say) must not stop us: it is killed, and another one started by wait.
// Call with cleaner locked.
func write(dir string, id uint64) {
	_ = cleaner.pipe.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := fmt.Fprintf(cleaner.pipe, "%016x %q\n", id, dir); err != nil {
		cleaner.cmd.Process.Kill()
	}
}

// clean is the clean-up process. It returns, and lets the program be what it
// otherwise is, if nobody speaks our language on the pipe.
func clean() {
	in := bufio.NewReader(os.NewFile(3, "pipe"))
	if line, err := in.ReadString('\n'); err != nil || strings.TrimSpace(line) != hello {
		return
	}
	proc.IgnoreSignals()
	proc.CloseFrom(5) // what our parent inherited is none of our business
	crash.Point("cleaner:started")
	out := os.NewFile(4, "pipe")
	_, _ = io.WriteString(out, ready)
	_ = out.Close()
	leases := map[string]uint64{}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			break
		}
		var id uint64
		var dir string
		if _, err := fmt.Sscanf(line, "%x %q", &id, &dir); err == nil {
			leases[dir] = id
		}
	}
	crash.Point("cleaner:owner-gone")
	for dir, id := range leases {
		// The pipe is closed a moment before the lock is dropped; and a child
		// that inherited both may still own everything.
		lease.Await(dir, id)
		_, _ = lease.Sweep(dir)
	}
	os.Exit(0)
}
