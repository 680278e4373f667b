package shm

import (
	"encoding"
	"fmt"
	"io/fs"
	"time"
)

// Lifetime says what happens to a block when its owner is gone. It says
// nothing about unlinking it deliberately, which anybody may do who may write
// to the directory.
//
// It is not Python's track=, which makes every attacher remove the block when
// it exits; docs/python.md maps the two.
type Lifetime int

const (
	// Owned, the default: when the owner's process is gone, however it went,
	// the block is removed by the next process that creates one, or by [Prune].
	// No helper process is needed.
	Owned Lifetime = iota

	// Tracked is Owned with a clean-up process beside it, started by the first
	// Tracked block, which removes what the owner leaves within milliseconds.
	// It is this program, executed again, as a process of its own session.
	//
	// If a Python program has started this one and passed on its resource
	// tracker's pipe, whose descriptor SHM_TRACKER_FD names, that tracker takes
	// the clean-up process's place: it removes the block when the last process
	// that shares it, Python's or ours, has gone. It takes no names with a colon
	// or beyond ASCII (ErrName). A value that is no such descriptor is an error of
	// Create. Blocks in a Dir or with KeepName have our clean-up process in any
	// case, and so has every block when Python's tracker is dead. docs/python.md
	// shows the Python side.
	Tracked

	// Persistent blocks stay until someone unlinks them or the machine restarts.
	Persistent
)

// String returns "owned", "tracked" or "persistent".
func (l Lifetime) String() string {
	switch l {
	case Owned:
		return "owned"
	case Tracked:
		return "tracked"
	case Persistent:
		return "persistent"
	}
	return fmt.Sprintf("Lifetime(%d)", int(l))
}

// MarshalText implements [encoding.TextMarshaler] with the text of String.
func (l Lifetime) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText accepts what String returns.
func (l *Lifetime) UnmarshalText(text []byte) error {
	for _, v := range []Lifetime{Owned, Tracked, Persistent} {
		if v.String() == string(text) {
			*l = v
			return nil
		}
	}
	return fmt.Errorf("shm: lifetime %q is not owned, tracked or persistent", text)
}

var (
	_ encoding.TextMarshaler   = Owned
	_ encoding.TextUnmarshaler = (*Lifetime)(nil)
)

// CreateOptions are the choices of [Create]; nil and the zero value mean the
// defaults. The struct is copied on entry.
type CreateOptions struct {
	// Mode is the block's exact permission bits, whatever the umask. 0 means
	// 0600. Bits beyond fs.ModePerm are an error. Ignored on Windows.
	Mode fs.FileMode

	// Lifetime says what happens when this process is gone.
	Lifetime Lifetime

	// KeepName brings the name back when somebody else unlinks it, as the
	// resource trackers of CPython up to 3.12 do when any process that attached
	// exits. For a moment the name is gone. A deliberate unlink looks the same
	// and is undone as well; only the owner's Unlink counts. Needs an owner
	// (Owned or Tracked). Linux only.
	KeepName bool

	// Replace takes over a name whose owner is dead. Without it, blocks of dead
	// owners are removed only by this process's first Create and by Prune.
	Replace bool

	// Sparse does not reserve the memory now. Touching it later may then kill
	// this process, or another one, with SIGBUS when memory has run out.
	Sparse bool

	// Prefault maps every page now rather than at its first use.
	Prefault bool

	// HugePages asks for huge pages. It is a wish: on Linux it does something
	// only where the tmpfs is mounted with huge=advise or huge=within_size.
	HugePages bool

	// Dir is a directory to use instead of the system's place for shared
	// memory, for machines without /dev/shm. Processes that are to share a
	// block give the same Dir. Not on Windows.
	Dir string
}

// OpenOptions are the choices of [Open]; nil and the zero value mean the
// defaults.
type OpenOptions struct {
	// ReadOnly maps the memory read-only, which suffices for blocks that this
	// user may read but not write. Writing to Bytes then faults.
	ReadOnly bool

	// Prefault maps every page now rather than at its first use. Where memory
	// has run out for a sparse block (Python's are all sparse), Open returns
	// ErrNoSpace instead of a fault later.
	Prefault bool

	// Dir is where the block was created, if its creator gave one.
	Dir string
}

// Info describes one block, as [Stat], [List] and [Prune] report it.
type Info struct {
	Name     string      `json:"name"`             // without the leading slash
	Dir      string      `json:"dir,omitempty"`    // "" is the system's place
	Size     int64       `json:"size"`             // bytes
	Resident int64       `json:"resident"`         // bytes of it that occupy memory now
	Mode     fs.FileMode `json:"mode"`             // permission bits
	UID      int         `json:"uid"`              // its user; -1 where the system does not say
	Created  time.Time   `json:"created"`          // zero where the system does not say
	Lifetime Lifetime    `json:"lifetime"`         // as its owner's journal says
	KeepName bool        `json:"keep_name"`        // its owner restores the name
	Owner    Owner       `json:"owner"`            // zero if nobody owns it or we may not know
	Kind     string      `json:"kind,omitempty"`   // what it holds, if that can be told; only Stat looks
	Foreign  bool        `json:"foreign"`          // no journal of ours names it and no mark of ours is on it; false where that cannot be known
	Device   uint64      `json:"device,omitempty"` // with Inode, its identity on Unix
	Inode    uint64      `json:"inode,omitempty"`
}

// Owner is the process that a block belongs to.
type Owner struct {
	PID   int    `json:"pid,omitempty"`   // in its own PID namespace; 0 if there is none
	Alive bool   `json:"alive"`           // as its lease says, which neither PID reuse nor namespaces deceive
	Lease string `json:"lease,omitempty"` // the owner's name for ever: never used again
}
