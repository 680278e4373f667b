package main

import (
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed peers/boost peers/aeron peers/iceoryx2
var peerSources embed.FS

// A maker is how to make a peer that sends messages between two processes: not every machine
// has what that takes.
type maker struct {
	name  string // that of its folder in peers/, but for capitals
	build string // for a shell, in a copy of that folder
	run   string // the same, and what follows says which end it is
	// The build takes minutes, and what it needs of registries: it is only made if -peers
	// says so, and then kept.
	kept bool
	warm int // how many messages there are before any that are measured, until all is compiled
	ways []makerWay
}

// A makerWay is one of the ways that such a peer has.
type makerWay struct {
	label, kind string
	apart       string // how, "echo" or "copy", each end is kept to a processor of its own, where that helps it
}

var (
	queueMakers = append([]maker{boost}, topicMakers...)
	topicMakers = []maker{aeron, iceoryx2}

	boost = maker{
		name: "Boost", build: "g++ -O2 -pthread -o peer peer.cpp -lrt", run: "./peer",
		ways: []makerWay{{"Boost, message_queue", "queue", ""}, {"Boost, spsc_queue, spinning", "spsc", "echo copy"}},
	}
	aeron = maker{
		name: "Aeron", kept: true, warm: 20000,
		build: "mvn -q dependency:copy -Dartifact=io.aeron:aeron-all:1.51.0 -DoutputDirectory=. && javac -cp aeron-all-1.51.0.jar Peer.java",
		run:   "java --add-opens=java.base/jdk.internal.misc=ALL-UNNAMED -XX:+UseSerialGC -cp aeron-all-1.51.0.jar:. Peer",
		ways:  []makerWay{{"Aeron IPC 1.51, spinning", "", "echo"}},
	}
	iceoryx2 = maker{
		name: "iceoryx2", kept: true,
		build: "cargo build -q --release && mv target/release/peer . && rm -r target", run: "./peer",
		ways: []makerWay{{"iceoryx2 0.10, spinning", "", "echo copy"}},
	}
)

// folder returns where the peer is, built.
func (m *maker) folder(ctx context.Context, e *env) (string, error) {
	sources, err := fs.Sub(peerSources, "peers/"+strings.ToLower(m.name))
	if err != nil {
		return "", err
	}
	folder := filepath.Join(e.tmp, m.name)
	if m.kept {
		sum := sha256.New()
		err := fs.WalkDir(sources, ".", func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			p, err := fs.ReadFile(sources, path)
			fmt.Fprintln(sum, m.build, path, len(p))
			sum.Write(p)
			return err
		})
		if err != nil {
			return "", err
		}
		if folder, err = os.UserCacheDir(); err != nil {
			return "", err
		}
		folder = filepath.Join(folder, "shm-bench", fmt.Sprintf("%s-%x", m.name, sum.Sum(nil)[:8]))
	}
	if _, err := os.Stat(folder); err == nil {
		return folder, nil
	}
	if m.kept && !e.peers {
		return "", errors.New("not built: run it once with -peers")
	}
	if err := os.MkdirAll(filepath.Dir(folder), 0o700); err != nil {
		return "", err
	}
	// Under its name only when it is complete.
	building, err := os.MkdirTemp(filepath.Dir(folder), m.name+"-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(building) }()
	if err := os.CopyFS(building, sources); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", m.build)
	cmd.Dir = building
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", complaint(err, string(out))
	}
	return folder, os.Rename(building, folder)
}

// complaint adds to err the line of a compiler's output that says most.
func complaint(err error, out string) error {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	for _, line := range lines {
		if l := strings.ToLower(line); strings.Contains(l, "error") || strings.Contains(l, "not found") {
			return fmt.Errorf("%w: %s", err, line)
		}
	}
	if lines[0] == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, lines[0])
}

// Ends are two processes that send messages, started and told by us what to do.
type ends struct{ first, second *peer }

// patience is for processes that do not answer, and would spin for ever.
const patience = time.Minute

func (m *maker) start(e *env, folder, mode string, w makerWay) (_ *ends, err error) {
	p := &ends{}
	defer func() {
		if err != nil {
			p.stop()
		}
	}()
	name := e.block(fmt.Sprintf("peer-%s%s-%s", m.name, w.kind, mode))
	start := func(end string, processor int) (*peer, error) {
		// exec, so that what is started is what is kept to a processor, and killed.
		other, err := startPeer(w.label, "sh", "-c", `cd "$0" && exec `+m.run+` "$@"`, folder, end, mode, name, e.tmp, w.kind)
		if err == nil && strings.Contains(w.apart, mode) {
			keepTo(processor, other.cmd.Process.Pid)
		}
		return other, err
	}
	if p.first, err = start("first", 0); err != nil {
		return p, err
	}
	off := p.watch()
	_, err = p.first.ask("0")
	if off(); err != nil {
		return p, err
	}
	if p.second, err = start("second", 1); err != nil {
		return p, err
	}
	if _, err = p.run(0); err == nil {
		_, err = p.run(m.warm)
	}
	return p, err
}

// watch kills both if it is not called off in time.
func (p *ends) watch() (off func()) {
	t := time.AfterFunc(patience, func() {
		for _, end := range []*peer{p.first, p.second} {
			if end != nil {
				_ = end.cmd.Process.Kill()
			}
		}
	})
	return func() { t.Stop() }
}

// run has n messages go there, and back if that is their way.
func (p *ends) run(n int) (time.Duration, error) {
	defer p.watch()()
	if _, err := p.second.ask("%d", n); err != nil { // it is ready
		return 0, err
	}
	start := time.Now()
	if _, err := p.first.ask("%d", n); err != nil {
		return 0, err
	}
	_, err := p.second.answer() // the last one has come
	return time.Since(start), err
}

// stop ends both, the first last: it has what they share.
func (p *ends) stop() {
	defer p.watch()()
	for _, end := range []*peer{p.second, p.first} {
		if end != nil {
			end.stop()
		}
	}
}

// keepTo keeps a process that has just begun to the processor of a number.
func keepTo(number, pid int) {
	if all, one := processors(number); all.Count() > 1 {
		_ = unix.SchedSetaffinity(pid, &one)
	}
}

// others are the ways of peers that send messages of 64 bytes, echo or copy, as far as they
// can be had here; r says which cannot. The caller stops them.
func (e *env) others(ctx context.Context, r *Result, mode string, makers []maker) (ways []way, stop func()) {
	var all []*ends
	for _, m := range makers {
		folder, err := m.folder(ctx, e)
		if err != nil {
			r.Missing = append(r.Missing, m.name+": "+err.Error())
			continue
		}
		for _, w := range m.ways {
			p, err := m.start(e, folder, mode, w)
			if err != nil {
				r.Missing = append(r.Missing, err.Error())
				continue
			}
			all = append(all, p)
			ways = append(ways, way{w.label, p.run})
		}
	}
	return ways, func() {
		for _, p := range all {
			p.stop()
		}
	}
}

// pythonWays are those of multiprocessing. The newest Python is enough: what they take is the
// kernel's more than the version's.
func (e *env) pythonWays(mode string) (ways []way) {
	if len(e.pythons) == 0 {
		return nil
	}
	p := e.pythons[len(e.pythons)-1]
	for _, kind := range []string{"Queue", "SimpleQueue", "Pipe"} {
		ways = append(ways, p.way(p.name+", "+kind, mode+kind, "-", 64))
	}
	return ways
}
