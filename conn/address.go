package conn

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"strings"
)

// parseAddress splits an address into what package net wants.
func parseAddress(address string) (network, name string, err error) {
	kind, name, _ := strings.Cut(address, ":")
	fault := func(why string) error { return fmt.Errorf("%w %q: %s", ErrAddress, address, why) }
	switch kind {
	case "unix":
		switch {
		case name == "" || name == "@":
			return "", "", fault("the name is missing")
		case strings.ContainsRune(name, 0):
			return "", "", fault("a NUL in the name; an abstract name begins with @")
		case name[0] == '@' && runtime.GOOS != "linux" && runtime.GOOS != "android":
			// Package net would bind a file of that name.
			return "", "", fmt.Errorf("abstract name %q: %w", name, errors.ErrUnsupported)
		}
		return kind, name, nil
	case "tcp":
		_, port, err := net.SplitHostPort(name)
		if err != nil {
			return "", "", fault("it must be tcp:host:port")
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
			return "", "", fault("the port must be a number up to 65535")
		}
		if strings.HasPrefix(name, ":") {
			// Python means IPv4 by an empty host, and knows nothing else.
			return "tcp4", name, nil
		}
		return "tcp", name, nil
	case "pipe":
		return "", "", fmt.Errorf("named pipe %q: %w", name, errors.ErrUnsupported)
	}
	return "", "", fault("it begins neither with unix: nor with tcp:")
}

// PythonAddress returns address, in this package's form, as Python's Client,
// Listener and managers take it: a string for the path of a Unix socket,
// []byte for an abstract name, as Python's own servers report it, and a [Tuple]
// of host and port. Python has no IPv6 there.
func PythonAddress(address string) (any, error) {
	_, name, err := parseAddress(address)
	switch {
	case err != nil:
		return nil, wrap("address", err)
	case strings.HasPrefix(address, "tcp:"):
		host, port, err := net.SplitHostPort(name)
		if err != nil {
			return nil, wrap("address", err)
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			return nil, wrap("address", err)
		}
		return Tuple{host, int64(n)}, nil
	case name[0] == '@':
		return append([]byte{0}, name[1:]...), nil
	}
	return name, nil
}

// FromPython returns a Python address, as [Conn.Recv] has it, in this
// package's form.
func FromPython(address any) (string, error) {
	var out string
	switch a := address.(type) {
	case []byte:
		return FromPython(string(a))
	case string:
		switch {
		case strings.HasPrefix(a, `\\`):
			out = "pipe:" + a
		case strings.HasPrefix(a, "\x00"):
			out = "unix:@" + a[1:]
		case strings.HasPrefix(a, "@"):
			out = "unix:./" + a // to Python no more than a name
		default:
			out = "unix:" + a
		}
	case Tuple:
		if len(a) == 2 {
			host, ok1 := a[0].(string)
			port, ok2 := a[1].(int64)
			if ok1 && ok2 {
				out = "tcp:" + net.JoinHostPort(host, strconv.FormatInt(port, 10))
			}
		}
	}
	if out == "" {
		return "", wrap("address", fmt.Errorf("%w: %v is none of Python's", ErrAddress, address))
	}
	if !strings.HasPrefix(out, "pipe:") {
		if _, _, err := parseAddress(out); err != nil {
			return "", wrap("address", err)
		}
	}
	return out, nil
}
