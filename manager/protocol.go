package manager

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sharedmem/shm/conn"
	"github.com/sharedmem/shm/internal/pickle"
)

// The methods of a Python manager's server itself. Those of the objects that a
// BaseManager can hold besides are answered with an error: there are none here.
const (
	methodDummy    = "dummy"
	methodTrack    = "track_segment"
	methodRelease  = "release_segment"
	methodList     = "list_segments"
	methodShutdown = "shutdown"
	methodCount    = "number_of_objects"
	methodDebug    = "debug_info"
	methodSession  = "accept_connection"
	methodCreate   = "create"
	methodIncref   = "incref"
	methodDecref   = "decref"
	methodMethods  = "get_methods"
)

// The kinds of replies.
const (
	kindReturn         = "#RETURN"
	kindError          = "#ERROR"
	kindTraceback      = "#TRACEBACK"
	kindUnserializable = "#UNSERIALIZABLE"
)

// request is (ident, method, args, kwds): ident is None for the server, else
// an object's ID.
type request struct {
	ident  any
	method string
	args   pickle.Tuple
	kwds   pickle.Dict

	hungUp bool // in place of a request
}

var errRequest = errors.New("not a request of multiprocessing.managers")

// parseRequest reads a pickle from a peer that has the key, and may be wrong
// nevertheless.
func parseRequest(b []byte, maxBytes int) (request, error) {
	v, err := pickle.Unmarshal(b, &pickle.Options{Globals: pickle.ManagerGlobals, MaxBytes: maxBytes})
	if err != nil {
		return request{}, fmt.Errorf("%w: %w", errRequest, err)
	}
	t, ok := v.(pickle.Tuple)
	if !ok || len(t) != 4 {
		return request{}, errRequest
	}
	r := request{ident: t[0]}
	var okMethod, okArgs, okKwds bool
	r.method, okMethod = t[1].(string)
	r.args, okArgs = t[2].(pickle.Tuple)
	r.kwds, okKwds = t[3].(pickle.Dict)
	if !okMethod || !okArgs || !okKwds {
		return request{}, errRequest
	}
	return r, nil
}

// nothing is an error if the method was given arguments.
func (r *request) nothing() error {
	if n := len(r.args) + len(r.kwds); n != 0 {
		return fmt.Errorf("TypeError: %s takes no arguments, not %d", r.method, n)
	}
	return nil
}

// name is the one argument of those methods that take a block's name.
func (r *request) name() (string, error) {
	if len(r.args) != 1 || len(r.kwds) != 0 {
		return "", fmt.Errorf("TypeError: %s takes one name, not %d arguments", r.method, len(r.args)+len(r.kwds))
	}
	s, ok := r.args[0].(string)
	if !ok {
		return "", fmt.Errorf("TypeError: %s takes a name, not a %T", r.method, r.args[0])
	}
	return s, nil
}

// keyOffer is the keyword argument with which our clients tell our servers where
// a block is that they are to take over. Python's servers never see it.
const keyOffer = "offer"

// segment is name for track_segment, which may come with an offer.
func (r *request) segment() (name, offer string, err error) {
	if len(r.kwds) == 1 && r.kwds[0].Key == keyOffer {
		if text, ok := r.kwds[0].Value.(string); ok {
			r.kwds, offer = nil, text
		}
	}
	name, err = r.name()
	return name, offer, err
}

// send sends a request to the server.
func send(ctx context.Context, c *conn.Conn, method string, kwds pickle.Dict, args ...any) error {
	b, err := pickle.Marshal(pickle.Tuple{nil, method, pickle.Tuple(args), kwds}, nil)
	if err != nil {
		return err
	}
	return c.SendBytesContext(ctx, b)
}

// reply sends an answer.
func reply(c *conn.Conn, kind string, v any) error {
	b, err := pickle.Marshal(pickle.Tuple{kind, v}, nil)
	if err != nil {
		return err
	}
	return c.SendBytes(b)
}

// RemoteError is what the server says went wrong there: Python's RemoteError,
// or an exception. Text is the server's, often a traceback of Python's, and not
// to be trusted.
type RemoteError struct {
	Kind string // "#TRACEBACK", "#ERROR" or "#UNSERIALIZABLE"
	Text string
}

func (e *RemoteError) Error() string { return "the manager's server answers: " + e.Text }

// result reads an answer.
func result(b []byte, maxBytes int) (any, error) {
	v, err := pickle.Unmarshal(b, &pickle.Options{Globals: pickle.ManagerGlobals, MaxBytes: maxBytes})
	if err != nil {
		return nil, fmt.Errorf("the manager's answer: %w", err)
	}
	t, ok := v.(pickle.Tuple)
	if !ok || len(t) != 2 {
		return nil, errors.New("the manager's answer is no reply of multiprocessing.managers")
	}
	switch kind := t[0]; kind {
	case kindReturn:
		return t[1], nil
	case kindTraceback, kindUnserializable:
		text, _ := t[1].(string)
		return nil, &RemoteError{kind.(string), lastLine(text)}
	case kindError:
		return nil, &RemoteError{kindError, exceptionText(t[1])}
	default:
		return nil, fmt.Errorf("the manager's answer is of the unknown kind %q", fmt.Sprint(kind))
	}
}

// exceptionText is a pickled exception as Python prints its last line.
func exceptionText(v any) string {
	class, args, ok := pickle.AsException(v)
	switch {
	case !ok:
		return fmt.Sprint(v)
	case len(args) == 0:
		return class
	case len(args) == 1:
		return fmt.Sprintf("%s: %v", class, args[0])
	case len(args) == 3:
		// An OSError: number, text and file.
		return fmt.Sprintf("%s: [Errno %v] %v: %v", class, args[0], args[1], args[2])
	}
	return fmt.Sprintf("%s: %v", class, args)
}

// lastLine is what a traceback says; what stands before it are places in files.
func lastLine(s string) string {
	s = strings.TrimRight(s, "\n")
	return s[strings.LastIndexByte(s, '\n')+1:]
}
