package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sharedmem/shm/conn"
	"github.com/sharedmem/shm/manager"
)

// A managerServer is a manager's server in a process of its own, with a client
// of ours.
type managerServer struct {
	name   string // "Go" or "CPython 3.13"
	python *peer  // whose child it is; nil for ours
	client *manager.Manager
}

// startManagers starts one of ours and one of every CPython. The caller calls
// stop, also after an error.
func startManagers(ctx context.Context, e *env) (servers []managerServer, stop func() error, err error) {
	var stops []func() error
	stop = func() error {
		var errs []error
		for _, s := range stops {
			errs = append(errs, s())
		}
		return errors.Join(errs...)
	}
	m, err := manager.Start(ctx, &manager.Options{AuthKey: authKey, Process: true})
	if err != nil {
		return nil, stop, err
	}
	stops = append(stops, func() error { return m.Shutdown(context.WithoutCancel(ctx)) })
	servers = append(servers, managerServer{name: "Go", client: m})
	for i, p := range e.pythons {
		path := filepath.Join(e.tmp, fmt.Sprintf("manager-py%d", i))
		if _, err := p.ask("manager %s 0 1", path); err != nil {
			return nil, stop, err
		}
		stops = append(stops, func() error {
			_, err := p.ask("unmanage %s 0 1", path)
			return err
		})
		m, err := manager.Connect(ctx, "unix:"+path, authKey)
		if err != nil {
			return nil, stop, fmt.Errorf("%s: %w", p.name, err)
		}
		servers = append(servers, managerServer{name: p.name, python: p, client: m})
	}
	return servers, stop, nil
}

// path is the server's address as peer.py takes it.
func (s managerServer) path() string { return s.client.Address()[len("unix:"):] }

// pairs are a way for every client with a server that is asked for: ours with
// all of them, CPython's with its own and with ours.
func pairs(servers []managerServer, verb string, size int, ours func(*manager.Manager) func(n int) (time.Duration, error)) (ways []way) {
	for _, s := range servers {
		if s.python == nil {
			ways = append(ways, way{pair("Go", s.name), ours(s.client)})
			continue
		}
		ways = append(ways, s.python.way(pair(s.name, s.name), verb, s.path(), size),
			s.python.way(pair(s.name, "Go"), verb, servers[0].path(), size),
			way{pair("Go", s.name), ours(s.client)})
	}
	return ways
}

func pair(client, server string) string {
	return fmt.Sprintf("%s client, %s server", client, server)
}

// judgePairs adds the verdicts that the two cases of [pairs] have alike.
func (r *Result) judgePairs(e *env) {
	for _, p := range e.pythons {
		r.faster(pair("Go", "Go"), pair(p.name, p.name), 10)
	}
	r.Missing = e.missing
}

// perSecond adds a table of how many of them each way does in a second.
func (r *Result) perSecond(what string) {
	r.Facts = [][]string{{"", what}}
	for _, row := range r.Rows {
		r.Facts = append(r.Facts, []string{row.Name, fmt.Sprintf("%.0f", 1e9/row.Median)})
	}
}

// managerCreate is a block through a manager.
func managerCreate(ctx context.Context, e *env) (_ *Result, err error) {
	r := &Result{Title: "manager: Create 4 KiB", Text: `Creating the block, having the server track it, and closing it here; one after the other, or 16 goroutines or threads of one client at once; the server in another process. CPython connects with the key for each; a client of ours keeps its connection to a server of ours. Removing them is not in the figure: the client has the
server release all of them after each round. Our server owns a block when our client's Create returns, so that neither's death loses it; CPython's only knows its name. A client of ours says so to CPython's server as well and sees that it does not own the
block, which takes it a connection more; there is no target for that.`}
	servers, stop, err := startManagers(ctx, e)
	defer func() { err = errors.Join(err, stop()) }()
	if err != nil {
		return nil, err
	}
	creating := func(goroutines int) func(*manager.Manager) func(int) (time.Duration, error) {
		return func(m *manager.Manager) func(int) (time.Duration, error) {
			return func(n int) (time.Duration, error) {
				took, failed, err := creators(ctx, m, n, goroutines)
				return took, errors.Join(append(failed, err)...)
			}
		}
	}
	ways := pairs(servers, "managed", page, creating(1))
	const crowd = ", 16 at once"
	for _, s := range servers {
		label := pair(s.name, s.name) + crowd
		if s.python == nil {
			ways = append(ways, way{label, creating(16)(s.client)})
		} else {
			ways = append(ways, s.python.way(label, "managed16", s.path(), page))
		}
	}
	r.Rows, err = e.rounds(ctx, ways)
	if err != nil {
		return nil, err
	}
	r.judgePairs(e)
	for _, p := range e.pythons {
		r.atMost(pair(p.name, "Go"), pair(p.name, p.name), 1)
	}
	r.perSecond("blocks a second")
	return r, nil
}

// connDial is a connection from its beginning to its end.
func connDial(ctx context.Context, e *env) (_ *Result, err error) {
	r := &Result{Title: "conn: connect, both prove that they have the key, one request, close", Text: `What any request to a manager's server takes, here the one that does nothing ("dummy"): manager.Connect, and CPython's SharedMemoryManager.connect. Up to CPython 3.11 the digest is MD5, from
3.12 on SHA-256, which is ours too. Eight messages go over the socket, and six times somebody waits for the other process; between ours four times, as some go out together. "A bare socket" is package net connecting and exchanging as many messages of 64 bytes in our order, without a length and
without a digest: what is left then is the kernel's and the Go scheduler's.`}
	servers, stop, err := startManagers(ctx, e)
	defer func() { err = errors.Join(err, stop()) }()
	if err != nil {
		return nil, err
	}
	peers, err := startOurEcho(e)
	defer peers.stop()
	if err != nil {
		return nil, err
	}
	ways := pairs(servers, "connect", 0, func(m *manager.Manager) func(int) (time.Duration, error) {
		return loop("", func() error {
			m, err := manager.Connect(ctx, m.Address(), authKey)
			if err != nil {
				return err
			}
			return m.Close()
		}).run
	})
	ways = append(ways, loop("a bare socket, Go and Go", func() error {
		c, err := net.Dial("unix", peers.steps)
		if err != nil {
			return err
		}
		return errors.Join(stepBare(c, false), c.Close())
	}))
	r.Rows, err = e.rounds(ctx, ways)
	if err != nil {
		return nil, err
	}
	r.judgePairs(e)
	r.perSecond("connections a second")
	return r, nil
}

// managerThousand is many clients at once.
func managerThousand(ctx context.Context, e *env) (_ *Result, err error) {
	const clients = 1000
	const mib = 1 << 20
	r := &Result{Title: "manager: 1 000 clients at once", Text: `A wave is 1 000 connections that are all there before the first asks for anything, then a request of each and its answer. They come from one process, of Go, which is part of the figure. CPython's server queues
16 at most, and refuses the next for the moment; so they come to it eight at a time, and to ours all at once. The memory is the server's (VmRSS), before the first wave and at the height of one. In the last row of ours 1 000 goroutines call Create at the same time.`}
	servers, stop, err := startManagers(ctx, e)
	defer func() { err = errors.Join(err, stop()) }()
	if err != nil {
		return nil, err
	}
	type seen struct{ before, first, second, last float64 }
	memory := make([]seen, len(servers))
	unserved := 0
	var why error // of the first
	var ways []way
	for i, s := range servers {
		pid, err := serverPID(ctx, s.client.Address())
		if err != nil {
			return nil, err
		}
		if memory[i].before, err = resident(pid); err != nil {
			return nil, err
		}
		dialers := clients
		if s.python != nil {
			dialers = 8
		}
		m := &memory[i]
		ways = append(ways, way{s.name + " server, a wave", func(n int) (took time.Duration, err error) {
			for range n {
				d, height, failed, err := wave(ctx, s.client.Address(), clients, dialers, pid)
				if err != nil {
					return 0, err
				}
				took += d
				if s.python == nil {
					unserved += len(failed)
					why = cmp.Or(why, errors.Join(failed[:min(1, len(failed))]...))
				}
				switch {
				case m.first == 0:
					m.first = height
				case m.second == 0:
					m.second = height
				}
				m.last = height
			}
			return took, nil
		}})
	}
	ways = append(ways, way{"Go server, 1 000 × Create", func(n int) (took time.Duration, err error) {
		for range n {
			d, failed, err := creators(ctx, servers[0].client, clients, clients)
			if err != nil {
				return 0, err
			}
			unserved += len(failed)
			why = cmp.Or(why, errors.Join(failed[:min(1, len(failed))]...))
			took += d
		}
		return took, nil
	}})
	if r.Rows, err = e.fewer().rounds(ctx, ways); err != nil {
		return nil, err
	}
	r.Facts = [][]string{{"server", "resident before", "first wave", "second", "last", "a client, in the first"}}
	for i, s := range servers {
		m := memory[i]
		r.Facts = append(r.Facts, []string{s.name, bytesText(m.before), bytesText(m.first), bytesText(m.second), bytesText(m.last), bytesText((m.first - m.before) / clients)})
	}
	r.below("clients without an answer", float64(unserved), 0, "clients")
	r.below("resident memory for 1 000 clients", (memory[0].last-memory[0].before)/mib, 64, "MiB")
	r.below("resident memory grown from the second wave to the last", (memory[0].last-memory[0].second)/mib, 8, "MiB")
	r.Missing = slices.Clone(e.missing)
	if why != nil {
		r.Missing = append(r.Missing, fmt.Sprintf("%d clients, of which the first: %v", unserved, why))
	}
	return r, nil
}

// serverPID asks the system who listens at a Unix socket.
func serverPID(ctx context.Context, address string) (int, error) {
	c, err := conn.Dial(ctx, address, authKey, nil)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	p, err := c.Peer()
	return p.PID, err
}

// resident is the memory of a process, in bytes.
func resident(pid int) (float64, error) {
	kib, err := strconv.ParseFloat(match(`VmRSS:\s*(\d+) kB`, read(fmt.Sprintf("/proc/%d/status", pid))), 64)
	return kib * 1024, err
}

// wave has many clients connect, and when all have, ask for something. height is
// the server's memory when all are connected; failed says why a client had no
// answer, for each that had none.
func wave(ctx context.Context, address string, clients, dialers, pid int) (took time.Duration, height float64, failed []error, err error) {
	conns := make([]*conn.Conn, clients)
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
	}()
	start := time.Now()
	failed = together(clients, dialers, func(i int) (err error) {
		conns[i], err = conn.Dial(ctx, address, authKey, nil)
		return err
	})
	took = time.Since(start)
	if height, err = resident(pid); err != nil {
		return 0, 0, nil, err
	}
	start = time.Now()
	failed = append(failed, together(clients, clients, func(i int) error {
		c := conns[i]
		if c == nil {
			return nil // it has been counted
		}
		if err := c.Send(conn.Tuple{nil, "dummy", conn.Tuple{}, conn.Dict{}}); err != nil {
			return err
		}
		v, err := c.Recv()
		if t, ok := v.(conn.Tuple); err == nil && (!ok || len(t) != 2 || t[0] != "#RETURN") {
			err = fmt.Errorf("its answer: %v", v)
		}
		return err
	})...)
	return took + time.Since(start), height, failed, ctx.Err()
}

// creators creates n blocks from so many goroutines, and closes them. Having the
// server remove them is not in the time. failed has an error for each that did
// not come to be.
func creators(ctx context.Context, m *manager.Manager, n, goroutines int) (took time.Duration, failed []error, err error) {
	names := make([]string, n)
	start := time.Now()
	failed = together(n, goroutines, func(i int) error {
		b, err := m.Create(ctx, page)
		if err != nil {
			return err
		}
		names[i] = b.Name()
		return b.Close()
	})
	took = time.Since(start)
	for _, name := range names {
		if name != "" {
			err = errors.Join(err, m.Release(ctx, name))
		}
	}
	return took, failed, errors.Join(err, ctx.Err())
}

// together calls f(0) to f(n-1) from so many goroutines, and returns the errors.
// One after the other they are called from here: handing numbers to a goroutine
// took longer than what is measured.
func together(n, goroutines int, f func(i int) error) (errs []error) {
	var next atomic.Int64
	var mu sync.Mutex
	work := func() {
		for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
			if err := f(int(i)); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		}
	}
	if goroutines == 1 {
		work()
		return errs
	}
	var wg sync.WaitGroup
	for range goroutines {
		wg.Go(work)
	}
	wg.Wait()
	return errs
}
