package cli

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// What rings and topics have in common: messages from standard input and to
// standard output.

// framing says where one message ends and the next begins.
type framing struct {
	binary, whole bool
	file          string
	count         int
}

const framingHelp = `A message is a line, without its end. With --binary it is any bytes, and before
each stands its length in 4 bytes, little-endian: struct.pack("<I", n) in Python.`

func (f *framing) forInput(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.binary, "binary", false, "messages are bytes, each with its length in 4 bytes before it")
	cmd.Flags().BoolVar(&f.whole, "whole", false, "all of the input is one message")
	cmd.Flags().StringVar(&f.file, "file", "", "read `FILE` instead of standard input")
}

func (f *framing) forOutput(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.binary, "binary", false, "write bytes, each message with its length in 4 bytes before it")
	cmd.Flags().IntVarP(&f.count, "count", "n", 0, "end after `N` messages")
}

func (f *framing) check(cmd *cobra.Command) error {
	switch {
	case f.binary && f.whole:
		return usageError{errors.New("--binary and --whole exclude each other"), cmd.CommandPath() + " --help"}
	case f.count < 0 || f.count == 0 && cmd.Flags().Changed("count"):
		return usageError{fmt.Errorf("--count %d is not a number of messages", f.count), cmd.CommandPath() + " --help"}
	}
	return nil
}

// eachMessage calls send with each message of the input, of at most limit bytes, until
// there are no more. number counts from 1.
func (a *app) eachMessage(ctx context.Context, f *framing, limit int, send func(number int, p []byte) error) error {
	in := a.stdin
	if f.file != "" {
		file, err := os.Open(f.file)
		if err != nil {
			return hint(err, "ls -l %s", shellQuote(f.file))
		}
		defer file.Close()
		in = file
	} else if isTerminal(in) {
		fmt.Fprintln(a.stderr, "reading messages from the terminal; ^D ends")
	}
	type item struct {
		p   []byte
		err error
	}
	items := make(chan item)
	quit := make(chan struct{})
	defer close(quit)
	// Nothing ends a read from a terminal, so that it is another goroutine's.
	go func() {
		next := f.reader(in, limit)
		for {
			p, err := next()
			select {
			case items <- item{p, err}:
			case <-quit:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for n := 1; ; n++ {
		select {
		case i := <-items:
			if errors.Is(i.err, io.EOF) {
				return nil
			}
			if i.err != nil {
				return fmt.Errorf("message %d: %w", n, i.err)
			}
			if err := send(n, i.p); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// errTooLong says that a message of the input is longer than may be.
var errTooLong = errors.New("it is longer than messages may be here")

// reader returns what reads the next message, in memory of its own; io.EOF at the end.
func (f *framing) reader(in io.Reader, limit int) func() ([]byte, error) {
	r := bufio.NewReaderSize(in, 64<<10)
	switch {
	case f.binary:
		return func() ([]byte, error) {
			var head [4]byte
			if _, err := io.ReadFull(r, head[:]); err != nil {
				return nil, cutOff(err, io.EOF)
			}
			n := binary.LittleEndian.Uint32(head[:])
			if int64(n) > int64(limit) {
				return nil, fmt.Errorf("%w: %d bytes, not %d", errTooLong, n, limit)
			}
			p := make([]byte, n)
			_, err := io.ReadFull(r, p)
			return p, cutOff(err, io.ErrUnexpectedEOF)
		}
	case f.whole:
		read := false
		return func() ([]byte, error) {
			if read {
				return nil, io.EOF
			}
			read = true
			p, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
			if len(p) > limit {
				err = fmt.Errorf("%w: more than %d bytes", errTooLong, limit)
			}
			return p, err
		}
	}
	return func() ([]byte, error) {
		var p []byte
		for {
			part, err := r.ReadSlice('\n')
			p = append(p, part...)
			n := len(p)
			if err == nil {
				n--
			}
			switch {
			case n > limit:
				return nil, fmt.Errorf("%w: a line of more than %d bytes", errTooLong, limit)
			case err == nil, errors.Is(err, io.EOF) && n > 0:
				return p[:n], nil
			case !errors.Is(err, bufio.ErrBufferFull):
				return nil, err
			}
		}
	}
}

// cutOff says of an end in the middle that it is none.
func cutOff(err, atStart error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) && !errors.Is(atStart, io.EOF) {
		return errors.New("the input ends in the middle of it")
	}
	return err
}

// messageDoc is how --json shows a message, one document a line.
type messageDoc struct {
	Text        *string `json:"text,omitempty"`
	Base64      *string `json:"base64,omitempty"` // of what is no text
	Position    *uint64 `json:"position,omitempty"`
	Missed      uint64  `json:"missed,omitempty"`
	Taken       bool    `json:"taken,omitempty"`
	Redelivered bool    `json:"redelivered,omitempty"`
}

// putMessage writes one message. d has what --json shows beside it.
func (a *app) putMessage(f *framing, p []byte, d messageDoc) error {
	if d.Missed > 0 && !a.json {
		fmt.Fprintf(a.stderr, "shm: %d messages were missed\n", d.Missed)
	}
	switch {
	case a.json:
		if utf8.Valid(p) {
			text := string(p)
			d.Text = &text
		} else {
			text := base64.StdEncoding.EncodeToString(p)
			d.Base64 = &text
		}
		return a.putLine(d)
	case f.binary:
		_, err := a.stdout.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(p))), p...))
		return err
	}
	if isTerminal(a.stdout) {
		p = []byte(harmless(string(p)))
	}
	_, err := a.stdout.Write(append(append([]byte(nil), p...), '\n'))
	return err
}

// putLine writes a document on a line of its own.
func (a *app) putLine(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// harmless quotes what a terminal could take for a command.
func harmless(s string) string {
	for _, r := range s {
		if r == utf8.RuneError || r != '\t' && !strconv.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	return s
}

// bar draws how much of something is used.
func bar(part, all uint64, width int) string {
	if all == 0 {
		return ""
	}
	full := int(min(part, all) * uint64(width) / all)
	if full == 0 && part > 0 {
		full = 1
	}
	b := make([]byte, width)
	for i := range b {
		b[i] = ' '
		if i < full {
			b[i] = '#'
		}
	}
	return "[" + string(b) + "]"
}
