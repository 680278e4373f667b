package tracker

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// What a line of Python's resource trackers says. Processes write lines to one
// pipe, so a line is one write, and nobody answers.
//
//	REGISTER:/psm_1a2b3c4d:shared_memory
//	{"cmd":"REGISTER","rtype":"shared_memory","base64_name":"L3BzbV8xYTJiM2M0ZA=="}
const (
	Register   = "REGISTER"
	Unregister = "UNREGISTER"
	Probe      = "PROBE" // asks nothing but whether the pipe still has a reader

	// Expect is ours: a fresh name, which the writer is about to make. CPython registers
	// what it has made, a moment later.
	Expect = "EXPECT"

	SharedMemory = "shared_memory"
	Semaphore    = "semaphore"
)

// Line is one message. Name is a name's bytes, with Python's leading slash.
type Line struct{ Cmd, Name, Type string }

const (
	// maxLine is far more than any Python writes, whose lines are atomic writes.
	maxLine = 4096
	// atomicWrite is what POSIX promises a pipe takes in one piece.
	atomicWrite = 512
)

var (
	errLine = errors.New("not a line of a resource tracker's protocol")

	// ErrPlain says that the plain form of a line cannot carry a name.
	ErrPlain = errors.New("a name that Python's resource tracker cannot take")
)

// ParseLine reads a line of either form, with or without its newline. It
// accepts commands and types that it does not know, as what follows from them
// is the reader's matter.
func ParseLine(b []byte) (Line, error) {
	for _, c := range b {
		if c >= 0x80 {
			return Line{}, fmt.Errorf("%w: it is not ASCII", errLine)
		}
	}
	if bytes.HasPrefix(b, []byte("{")) {
		return parseJSON(b)
	}
	cmd, rest, ok := strings.Cut(string(bytes.TrimSpace(b)), ":")
	i := strings.LastIndexByte(rest, ':')
	if !ok || i < 0 {
		return Line{}, fmt.Errorf("%w: it has fewer than two colons", errLine)
	}
	return Line{Cmd: cmd, Name: rest[:i], Type: rest[i+1:]}, nil
}

func parseJSON(b []byte) (Line, error) {
	// A struct would match keys in capitals as well.
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		return Line{}, fmt.Errorf("%w: %w", errLine, err)
	}
	cmd, ok1 := fields["cmd"].(string)
	rtype, ok2 := fields["rtype"].(string)
	encoded, ok3 := fields["base64_name"].(string)
	if _, there := fields["base64_name"]; !ok1 || !ok2 || there && !ok3 {
		return Line{}, fmt.Errorf("%w: a field is missing or no text", errLine)
	}
	// Python encodes the bytes of the file's name, which need not be UTF-8.
	name, err := base64.URLEncoding.DecodeString(encoded)
	if err != nil {
		return Line{}, fmt.Errorf("%w: %w", errLine, err)
	}
	return Line{Cmd: cmd, Name: string(name), Type: rtype}, nil
}

// Append appends the line's plain form, which the trackers of all Pythons read
// but those of 3.13.10 and 3.14.1. ErrPlain for a name that it cannot carry to
// all of them: up to 3.13 they stumble over a colon.
func (l Line) Append(b []byte) ([]byte, error) {
	for _, c := range []byte(l.Name) {
		if c == '\n' || c == ':' || c >= 0x80 {
			return b, fmt.Errorf("%w: %q is in it", ErrPlain, c)
		}
	}
	line := append(b, l.Cmd+":"+l.Name+":"+l.Type+"\n"...)
	if n := len(line) - len(b); n > atomicWrite {
		return b, fmt.Errorf("%w: its line has %d bytes, and %d are written in one piece", ErrPlain, n, atomicWrite)
	}
	return line, nil
}

// readLines calls each with every line of r until its end, the last of which
// may lack its newline. A line that is too long is passed over, and bad counts
// it. What r holds never occupies more memory than one line.
func readLines(r io.Reader, each func([]byte)) (bad int) {
	in, ok := r.(*bufio.Reader)
	if !ok || in.Size() < maxLine {
		in = bufio.NewReaderSize(r, maxLine)
	}
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			bad++
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = in.ReadSlice('\n')
			}
		} else if len(line) > 0 {
			each(line)
		}
		if err != nil {
			return bad
		}
	}
}
