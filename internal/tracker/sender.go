package tracker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"

	"github.com/sharedmem/shm/internal/platform/proc"
)

// FDEnv names the descriptor that a Python program has passed to this process:
// what its resource_tracker.getfd() returns.
const FDEnv = "SHM_TRACKER_FD"

// Sender writes lines to the tracker of the Python program that started us.
type Sender struct {
	f  *os.File
	id os.FileInfo
}

// given is looked at before main, while every open descriptor is an inherited
// one. Later a pipe of this program's own may have the number.
var given = sync.OnceValues(func() (*Sender, error) { return inherit(os.Getenv(FDEnv)) })

func init() { _, _ = given() }

func inherit(text string) (*Sender, error) {
	if text == "" {
		return nil, nil
	}
	fd, err := strconv.Atoi(text)
	if err != nil || fd < 3 || !proc.TakesLines(fd) {
		return nil, fmt.Errorf("%s is %.40q, which is no inherited pipe that can be written to: the Python program "+
			"must pass the descriptor as well (pass_fds), or not set the variable: %w", FDEnv, text, fs.ErrInvalid)
	}
	f := os.NewFile(uintptr(fd), "resource_tracker")
	id, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return &Sender{f, id}, nil
}

// FromPython returns the tracker of the Python program that started us, nil if
// we were given none. The error says that we were given something else.
func FromPython() (*Sender, error) { return given() }

var errOther = errors.New("the descriptor of Python's resource tracker has been closed")

// Send writes one line, about a block if it has a name. ErrPlain for a name that
// cannot be written; any other error means that the tracker cannot be reached.
func (s *Sender) Send(cmd, name string) error {
	l := Line{Cmd: cmd, Name: "/" + name, Type: SharedMemory}
	if cmd == Probe {
		l.Name, l.Type = "0", "noop"
	}
	b, err := l.Append(nil)
	if err != nil {
		return err
	}
	// Were the number another file's by now, that file would get the line.
	if id, err := s.f.Stat(); err != nil || !os.SameFile(id, s.id) {
		return errOther
	}
	_, err = s.f.Write(b)
	return err
}
