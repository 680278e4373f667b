package main

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

//go:embed peers/peer.c
var peerC []byte

//go:embed peers/peer.py
var peerPy string

// A peer is a process of another language that does work when it is told to.
type peer struct {
	name string // for the tables: "C", "CPython 3.13"
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	errs strings.Builder
}

func startPeer(name string, argv ...string) (*peer, error) {
	p := &peer{name: name, cmd: exec.Command(argv[0], argv[1:]...)}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.in, p.out = in, bufio.NewScanner(out)
	p.cmd.Stderr = &p.errs
	return p, p.cmd.Start()
}

// ask sends a line and returns the answer's.
func (p *peer) ask(format string, args ...any) (string, error) {
	if _, err := fmt.Fprintf(p.in, format+"\n", args...); err != nil {
		p.stop()
		return "", fmt.Errorf("%s: %w %s", p.name, err, strings.TrimSpace(p.errs.String()))
	}
	return p.answer()
}

// answer returns the next line that it says.
func (p *peer) answer() (string, error) {
	if !p.out.Scan() {
		p.stop() // which also collects all that it still has to say
		return "", fmt.Errorf("%s ended: %s", p.name, strings.TrimSpace(p.errs.String()))
	}
	answer := p.out.Text()
	if what, bad := strings.CutPrefix(answer, "error: "); bad {
		return "", fmt.Errorf("%s: %s", p.name, what)
	}
	return answer, nil
}

// way is one verb of the peer's.
func (p *peer) way(label, verb, name string, size int) way {
	return way{label, func(n int) (time.Duration, error) {
		answer, err := p.ask("%s %s %d %d", verb, name, size, n)
		if err != nil {
			return 0, err
		}
		ns, err := strconv.ParseInt(answer, 10, 64)
		return time.Duration(ns), err
	}}
}

// stop ends the peer as the end of its input does, so that it can clean up.
func (p *peer) stop() {
	p.in.Close()
	_ = p.cmd.Wait() // one that was killed, or has just failed, ends with an error
}

// startC compiles and starts the C peer.
func startC(tmp string) (*peer, error) {
	source, program := filepath.Join(tmp, "peer.c"), filepath.Join(tmp, "peer")
	if err := os.WriteFile(source, peerC, 0o600); err != nil {
		return nil, err
	}
	if out, err := exec.Command("gcc", "-O2", "-Wall", "-pthread", "-o", program, source).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("gcc: %w %s", err, out)
	}
	return startPeer("C", program)
}

// startPythons starts a peer for every version of CPython asked for that can
// be found: on the PATH (where pyenv's shims are of no use, since one says
// python3.13 whatever is chosen), else among pyenv's.
func startPythons(versions ...string) (peers []*peer, missing []string) {
	for _, version := range versions {
		p, err := startPython(version)
		if err != nil {
			missing = append(missing, fmt.Sprintf("CPython %s: %v", version, err))
			continue
		}
		peers = append(peers, p)
	}
	return peers, missing
}

func startPython(version string) (*peer, error) {
	home, _ := os.UserHomeDir()
	found, _ := filepath.Glob(filepath.Join(home, ".pyenv/versions", version+".*", "bin/python3"))
	if path, err := exec.LookPath("python" + version); err == nil {
		found = append(found, path)
	}
	for _, python := range found {
		// A shim that cannot serve this version fails here.
		if out, err := exec.Command(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").Output(); err == nil && strings.TrimSpace(string(out)) == version {
			return startPeer("CPython "+version, python, "-c", peerPy)
		}
	}
	return nil, errors.New("not installed")
}
