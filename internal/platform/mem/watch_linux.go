package mem

import (
	"encoding/binary"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A user has 128 inotify instances in all, so each process uses one for each
// directory and set of events, however many names it watches there.
var watches struct {
	sync.Mutex
	m map[watchKey]*watch
}

type watchKey struct {
	dir  string
	mask uint32
}

type watch struct {
	key  watchKey
	file *os.File // inotify, read through the poller: it holds no thread
	subs map[string]map[*Watcher]bool
}

// Watcher tells of changes to one name. C gets a value after one or more of
// them; which, the receiver finds out by looking.
type Watcher struct {
	C    <-chan struct{}
	c    chan struct{}
	w    *watch
	name string
}

// What Watch reports.
const (
	// Appears: the name came up or the object was given a size (by Python,
	// which first makes a name and then sizes what it names).
	Appears = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_MODIFY | unix.IN_ATTRIB
	// Vanishes: the name was taken away.
	Vanishes = unix.IN_DELETE | unix.IN_MOVED_FROM
)

// Watch starts watching name in dir for the events Appears or Vanishes.
//
// A caller looks after Watch returned, then waits on C, then looks again: so it
// misses nothing.
func Watch(dir, name string, events uint32) (*Watcher, error) {
	key := watchKey{resolve(dir), events}
	watches.Lock()
	defer watches.Unlock()
	w := watches.m[key]
	if w == nil {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return nil, os.NewSyscallError("inotify_init1", err)
		}
		if _, err := unix.InotifyAddWatch(fd, key.dir, events|unix.IN_ONLYDIR); err != nil {
			unix.Close(fd)
			return nil, os.NewSyscallError("inotify_add_watch", err)
		}
		w = &watch{key: key, file: os.NewFile(uintptr(fd), "inotify"), subs: map[string]map[*Watcher]bool{}}
		if watches.m == nil {
			watches.m = map[watchKey]*watch{}
		}
		watches.m[key] = w
		go w.run()
	}
	c := make(chan struct{}, 1)
	s := &Watcher{C: c, c: c, w: w, name: name}
	if w.subs[name] == nil {
		w.subs[name] = map[*Watcher]bool{}
	}
	w.subs[name][s] = true
	return s, nil
}

// Stop ends the watching. C is not closed.
func (s *Watcher) Stop() {
	watches.Lock()
	defer watches.Unlock()
	// Closing takes the kernel some 10 ms (it waits for readers of its marks, an
	// RCU grace period), which no caller should wait for.
	delete(s.w.subs[s.name], s)
	if len(s.w.subs[s.name]) == 0 {
		delete(s.w.subs, s.name)
	}
	if len(s.w.subs) == 0 && watches.m[s.w.key] == s.w {
		delete(watches.m, s.w.key)
		go s.w.file.Close() // ends run
	}
}

func (w *watch) run() {
	buf := make([]byte, 16<<10)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return
		}
		watches.Lock()
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			mask := binary.NativeEndian.Uint32(b[4:])
			length := int(binary.NativeEndian.Uint32(b[12:]))
			name := b[unix.SizeofInotifyEvent : unix.SizeofInotifyEvent+length]
			for i, c := range name {
				if c == 0 {
					name = name[:i]
					break
				}
			}
			if mask&unix.IN_Q_OVERFLOW != 0 {
				for name := range w.subs {
					w.wake(name) // who knows: everybody looks
				}
			} else {
				w.wake(string(name))
			}
			b = b[unix.SizeofInotifyEvent+length:]
		}
		watches.Unlock()
	}
}

func (w *watch) wake(name string) {
	for s := range w.subs[name] {
		select {
		case s.c <- struct{}{}:
		default: // told already
		}
	}
}
