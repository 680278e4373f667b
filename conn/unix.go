package conn

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/sharedmem/shm/internal/platform/peer"
)

// freshAddress returns an address that nobody uses, and what removes its
// directory.
func freshAddress() (address string, remove func(), err error) {
	if runtime.GOOS == "windows" {
		return "tcp:127.0.0.1:0", func() {}, nil // Python has no Unix sockets there
	}
	parent := os.TempDir()
	if len(parent) > 60 {
		parent = "/tmp" // the name of a socket has room for some 100 bytes
	}
	dir, err := os.MkdirTemp(parent, "shm-") // mode 0700
	if err != nil {
		return "", nil, err
	}
	return "unix:" + filepath.Join(dir, "socket"), func() { _ = os.Remove(dir) }, nil
}

// listenFile listens at the Unix socket path, which only this user can reach.
// remove removes the file if it is still that socket's.
func listenFile(path string) (l net.Listener, remove func(), err error) {
	// The program may change its directory before it closes the Listener.
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, nil, err
	}
	l, err = listenPrivate(path)
	if err != nil {
		if _, serr := os.Lstat(path); serr == nil {
			l, err = replaceStale(path)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	made, err := os.Lstat(path)
	if err != nil {
		l.Close()
		return nil, nil, err
	}
	return l, func() {
		if now, err := os.Lstat(abs); err == nil && os.SameFile(made, now) {
			_ = os.Remove(abs)
		}
	}, nil
}

// tooLong adds the likely reason to what the system says of a path that is too
// long for a socket, which is "invalid argument".
func tooLong(path string, err error) error {
	if errors.Is(err, syscall.EINVAL) && len(path) > 100 {
		return fmt.Errorf("%w: a path of %d bytes is too long for a socket: %w", ErrAddress, len(path), err)
	}
	return err
}

// listenPrivate makes the socket path. It appears there only when it listens,
// so that whoever finds it deaf can tell that it is dead, and when nobody else
// may connect. (The umask would see to that, but it is the whole process's.)
// The system's lists, such as ss, show the name that it had before.
func listenPrivate(path string) (net.Listener, error) {
	if runtime.GOOS == "windows" {
		return bind(path, nil) // modes mean nothing, and no link can be made
	}
	aside := fmt.Sprintf("%s.%06x", path, rand.Uint32()>>8)
	l, err := bind(aside, peer.Private)
	if errors.Is(err, errors.ErrUnsupported) {
		return listenAside(path)
	}
	if err != nil {
		return nil, tooLong(path, err)
	}
	info, err := os.Lstat(aside)
	if err != nil || info.Mode().Perm()&^0o600 == 0 {
		return publish(l, aside, path)
	}
	// This system has ignored peer.Private. Whoever is connected by now gets no
	// answer.
	if err := errors.Join(os.Remove(aside), l.Close()); err != nil {
		return nil, err
	}
	return listenAside(path)
}

// listenAside does the same by way of a directory that others may not enter.
func listenAside(path string) (net.Listener, error) {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(dir) }()
	aside := filepath.Join(dir, "s")
	l, err := bind(aside, nil)
	if err != nil {
		return nil, tooLong(aside, err)
	}
	return publish(l, aside, path)
}

// publish gives the file of l its mode and its name.
func publish(l net.Listener, aside, path string) (net.Listener, error) {
	err := os.Chmod(aside, 0o600) // a umask can have taken even that away
	if err == nil {
		err = moveNew(aside, path)
	}
	if err != nil {
		return nil, errors.Join(err, os.Remove(aside), l.Close())
	}
	return l, nil
}

func bind(path string, control func(network, address string, c syscall.RawConn) error) (net.Listener, error) {
	lc := net.ListenConfig{Control: control}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	// It would remove whatever has the name by then.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	return l, nil
}

// moveNew gives a file another name that must be free: fs.ErrExist.
func moveNew(from, to string) error {
	err := os.Link(from, to)
	if err == nil {
		return os.Remove(from)
	}
	if errors.Is(err, fs.ErrExist) {
		return err
	}
	// Not every file system links sockets. Rename would replace a file that
	// appears right now.
	if _, err := os.Lstat(to); err == nil {
		return &fs.PathError{Op: "rename", Path: to, Err: fs.ErrExist}
	}
	return os.Rename(from, to)
}

// replaceStale is listenPrivate where a dead server has left its socket;
// fs.ErrExist if it is not dead.
func replaceStale(path string) (net.Listener, error) {
	if err := stale(path); err != nil {
		return nil, err
	}
	// Another server may have come to the same conclusion, and its new socket
	// may be what has the name by now. So only one at a time removes one, after
	// another look.
	release, ok, err := peer.Lock(path + ".lock")
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("somebody begins to listen at %s: %w", path, fs.ErrExist)
	}
	defer release()
	if err := stale(path); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return listenPrivate(path)
}

// stale returns nil if path is a socket at which nobody listens, or nothing.
func stale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is no socket: %w", path, fs.ErrExist)
	case !deaf(path):
		return fmt.Errorf("somebody listens at %s: %w", path, fs.ErrExist)
	}
	return nil
}

// deaf tells whether nobody listens at path. In doubt somebody does.
func deaf(path string) bool {
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}
