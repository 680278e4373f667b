package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/sharedmem/shm/conn"
)

const (
	smallMessage = 64
	largeMessage = 1 << 20
)

// authKey is what peer.py calls KEY.
var authKey = []byte("the key of these benchmarks")

// conn64 is what a message costs.
func conn64(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "conn: a message of 64 bytes, there and back", Text: `To another process, which sends it back, and so again and again over one connection, with one goroutine at either end. "A bare socket" is package net: Write of 64 bytes and ReadFull of as many,
with no length before them. What both wait for is the kernel's waking of the other process, which is most of the figure and most of its spread. CPython is Client and Listener, with the default pickle left out: send_bytes and recv_bytes.`}
	peers, err := startEchoes(e)
	defer peers.stop()
	if err != nil {
		return nil, err
	}
	message := make([]byte, smallMessage)
	fill(message)
	var ways []way
	for _, network := range []string{"unix", "tcp"} {
		c, err := conn.Dial(ctx, peers.conn[network], authKey, nil)
		if err != nil {
			return nil, err
		}
		defer c.Close()
		bare, err := net.Dial(network, peers.bare[network])
		if err != nil {
			return nil, err
		}
		defer bare.Close()
		buf := make([]byte, smallMessage)
		suffix := tcpSuffix(network)
		ways = append(ways, loop("conn"+suffix, func() error {
			if err := c.SendBytes(message); err != nil {
				return err
			}
			got, err := c.AppendBytes(buf[:0])
			if err == nil && len(got) != len(message) {
				err = fmt.Errorf("%d bytes came back", len(got))
			}
			return err
		}), loop("a bare socket"+suffix, func() error {
			if _, err := bare.Write(message); err != nil {
				return err
			}
			_, err := io.ReadFull(bare, buf)
			return err
		}))
	}
	for i, p := range e.pythons {
		for _, network := range []string{"unix", "tcp"} {
			ways = append(ways, p.way(p.name+tcpSuffix(network), "roundtrip", peers.python[i][network], smallMessage))
		}
	}
	if r.Rows, err = e.rounds(ctx, ways); err != nil {
		return nil, err
	}
	r.atMost("conn", "a bare socket", 1.2)
	r.Missing = e.missing
	return r, nil
}

// connMiB is what bytes cost.
func connMiB(ctx context.Context, e *env) (*Result, error) {
	r := &Result{Title: "conn: messages of 1 MiB, one way", Text: `One after the other to another process, and at the end an empty one that it answers when it has all of them; the time of that is in the figure. It receives each into the same memory, with AppendBytes; RecvBytes
makes new memory for each. "A bare socket" is package net: Write of 1 MiB, and ReadFull of it into the same memory. CPython writes the length and the message one after the other, and
over TCP sometimes waits 40 ms between the two until the other side's kernel acknowledges the first.`}
	peers, err := startEchoes(e)
	defer peers.stop()
	if err != nil {
		return nil, err
	}
	message := make([]byte, largeMessage)
	fill(message)
	var ways []way
	var closers []io.Closer
	defer func() {
		for _, c := range closers {
			c.Close()
		}
	}()
	send := func(what, address string) error {
		c, err := conn.Dial(ctx, address, authKey, nil)
		if err != nil {
			return err
		}
		closers = append(closers, c)
		ways = append(ways, each(what, func(n int) error {
			for range n {
				if err := c.SendBytes(message); err != nil {
					return err
				}
			}
			if err := c.SendBytes(nil); err != nil {
				return err
			}
			_, err := c.RecvBytes()
			return err
		}))
		return nil
	}
	for _, network := range []string{"unix", "tcp"} {
		suffix := tcpSuffix(network)
		if err := send("conn"+suffix, peers.conn[network]); err != nil {
			return nil, err
		}
		bare, err := net.Dial(network, peers.sink[network])
		if err != nil {
			return nil, err
		}
		closers = append(closers, bare)
		ways = append(ways, each("a bare socket"+suffix, func(n int) error {
			if err := binary.Write(bare, binary.LittleEndian, uint64(n)); err != nil {
				return err
			}
			for range n {
				if _, err := bare.Write(message); err != nil {
					return err
				}
			}
			_, err := bare.Read(make([]byte, 1))
			return err
		}))
		if network == "unix" {
			if err := send("conn, RecvBytes", peers.fresh); err != nil {
				return nil, err
			}
		}
	}
	for i, p := range e.pythons {
		for _, network := range []string{"unix", "tcp"} {
			ways = append(ways, p.way(p.name+tcpSuffix(network), "stream", peers.python[i][network], largeMessage))
		}
	}
	if r.Rows, err = e.rounds(ctx, ways); err != nil {
		return nil, err
	}
	r.faster("conn", "a bare socket", 0.9)
	r.Facts = [][]string{{"", "throughput"}}
	for _, row := range r.Rows {
		r.Facts = append(r.Facts, []string{row.Name, fmt.Sprintf("%.2f GiB/s", largeMessage/float64(1<<30)/(row.Median/1e9))})
	}
	r.Missing = e.missing
	return r, nil
}

// tcpSuffix tells the rows over TCP from the others.
func tcpSuffix(network string) string {
	if network == "tcp" {
		return ", TCP"
	}
	return ""
}

// echoes are the processes that [conn64] and [connMiB] talk to. Where it says
// map, the key is "unix" or "tcp".
type echoes struct {
	conn   map[string]string // sends short messages back, takes long ones, and answers an empty one
	fresh  string            // as conn, but allocates for each message
	bare   map[string]string // sends what it gets back
	sink   map[string]string // reads a count and so many messages, and answers one byte
	steps  string            // says what the server of connDial says, as [stepBare] has it
	python []map[string]string

	running []*peer
}

// startEchoes starts one process of ours, and one of every CPython for every
// network. The caller stops them, also after an error.
func startEchoes(e *env) (*echoes, error) {
	all, err := startOurEcho(e)
	if err != nil {
		return all, err
	}
	for i, python := range e.pythons {
		at := map[string]string{}
		for network, wanted := range map[string]string{"unix": filepath.Join(e.tmp, fmt.Sprintf("echo-py%d", i)), "tcp": "127.0.0.1:0"} {
			p, err := startPeer(python.name, python.cmd.Path, "-c", peerPy)
			if err != nil {
				return all, err
			}
			all.running = append(all.running, p)
			if at[network], err = p.ask("echo %s 0 1", wanted); err != nil {
				return all, err
			}
		}
		all.python = append(all.python, at)
	}
	return all, nil
}

// startOurEcho starts only ours.
func startOurEcho(e *env) (*echoes, error) {
	all := &echoes{}
	p, err := child("echo", e.tmp)
	if err != nil {
		return all, err
	}
	all.running = append(all.running, p)
	answer, err := p.ask("where")
	if err != nil {
		return all, err
	}
	a := strings.Fields(answer)
	if len(a) != 8 {
		return all, fmt.Errorf("its addresses: %q", answer)
	}
	all.conn = map[string]string{"unix": a[0], "tcp": a[1]}
	all.fresh = a[2]
	all.bare = map[string]string{"unix": a[3], "tcp": a[4]}
	all.sink = map[string]string{"unix": a[5], "tcp": a[6]}
	all.steps = a[7]
	return all, nil
}

func (all *echoes) stop() {
	for _, p := range all.running {
		p.stop()
	}
}

// roleEcho is the other end of conn64 and connMiB. It prints where it listens:
// what echoes lists, in that order.
func roleEcho(in io.Reader, out io.Writer, dir string) error {
	var addresses []string
	listenConn := func(address string, fresh bool) error {
		l, err := conn.Listen(address, authKey, nil)
		if err != nil {
			return err
		}
		addresses = append(addresses, l.Addr())
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go echoConn(c, fresh)
			}
		}()
		return nil
	}
	listenBare := func(network, address string, serve func(net.Conn)) error {
		l, err := net.Listen(network, address)
		if err != nil {
			return err
		}
		addresses = append(addresses, l.Addr().String())
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go serve(c)
			}
		}()
		return nil
	}
	path := func(name string) string { return filepath.Join(dir, fmt.Sprintf("%s-%d", name, os.Getpid())) }
	const tcp = "127.0.0.1:0"
	err := errors.Join(
		listenConn("unix:"+path("conn"), false), listenConn("tcp:"+tcp, false),
		listenConn("unix:"+path("fresh"), true),
		listenBare("unix", path("bare"), echoBare), listenBare("tcp", tcp, echoBare),
		listenBare("unix", path("sink"), sinkBare), listenBare("tcp", tcp, sinkBare),
		listenBare("unix", path("steps"), func(c net.Conn) { _ = errors.Join(stepBare(c, true), c.Close()) }))
	if err != nil {
		return err
	}
	fmt.Fprintln(out, strings.Join(addresses, " "))
	_, err = io.Copy(io.Discard, in)
	return err
}

func echoConn(c *conn.Conn, fresh bool) {
	defer c.Close()
	buf := make([]byte, 0, largeMessage)
	for {
		var got []byte
		var err error
		if fresh {
			got, err = c.RecvBytes()
		} else {
			got, err = c.AppendBytes(buf)
		}
		if err == nil && len(got) <= smallMessage {
			err = c.SendBytes(got)
		}
		if err != nil {
			return
		}
	}
}

func echoBare(c net.Conn) {
	defer c.Close()
	buf := make([]byte, smallMessage)
	for {
		if _, err := io.ReadFull(c, buf); err != nil {
			return
		}
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

func sinkBare(c net.Conn) {
	defer c.Close()
	buf := make([]byte, largeMessage)
	var n uint64
	for binary.Read(c, binary.LittleEndian, &n) == nil {
		for range n {
			if _, err := io.ReadFull(c, buf); err != nil {
				return
			}
		}
		if _, err := c.Write([]byte{0}); err != nil {
			return
		}
	}
}

// stepBare exchanges as many messages as a connection of connDial does between
// ours, in the same order, of about the same length, as many at once, and with
// nothing to compute.
func stepBare(c net.Conn, server bool) error {
	buf := make([]byte, 2*smallMessage)
	for _, step := range []struct {
		fromServer bool
		messages   int
	}{
		{true, 1},              // challenge
		{false, 2},             // answer, challenge
		{true, 2},              // welcome, answer
		{false, 1}, {false, 1}, // welcome, request
		{true, 1}, // answer
	} {
		var err error
		if p := buf[:step.messages*smallMessage]; step.fromServer == server {
			_, err = c.Write(p)
		} else {
			_, err = io.ReadFull(c, p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
