package shm

import (
	"fmt"
	"io/fs"
	"os/exec"

	"github.com/sharedmem/shm/internal/crash"
	"github.com/sharedmem/shm/internal/lease"
	"github.com/sharedmem/shm/internal/platform/mem"
	"github.com/sharedmem/shm/internal/tracker"
)

// TrackPython makes the Pythons that cmds start use a resource tracker of ours
// in place of their own, which remove blocks that their processes merely opened.
// Call it before the commands are started, and release when they have been, or
// will not be.
//
//	cmd := exec.Command("python3", "worker.py", b.Name())
//	release, err := shm.TrackPython(cmd)
//	if err != nil { … }
//	defer release()
//	err = cmd.Run()
//
// The tracker is a process of this program, as Tracked's is: one for all cmds,
// which are a family, as processes of Python's multiprocessing are. It removes
// blocks and semaphores that were made after its start, were not unlinked, and
// are nobody's, when the last of the family is gone, milliseconds later, however
// they and this process ended. It leaves alone what was there before, what
// processes of this library own, and Persistent blocks. What a program outside
// of the family makes later and the family opens, it cannot tell from the
// family's own: it goes, as it goes with CPython's tracker, unless it is in a
// journal of ours or has been marked Persistent. If the tracker is killed, Pythons
// start their own, and what was registered till then stays.
//
// It reaches CPython 3.8 and later, the commands themselves, shells that start
// them, children of multiprocessing, and subprocesses of those at any depth, by
// two environment variables: PYTHONPATH, which it puts a path in front of, and
// SHM_TRACKER. No file is made. What ignores or changes PYTHONPATH is not
// reached and has a tracker of its own as ever: python -I, -E or -S, another
// user's processes (sudo), another PID namespace (containers), and subprocesses
// with a new environment. joblib's loky has a second tracker of its own.
//
// It sets the Env of cmds, and appends to their ExtraFiles.
//
// Errors: errors.ErrUnsupported anywhere but on Linux with /proc; there use
// CPython 3.13's track=False, or the lines that docs/python.md has for older
// ones. fs.ErrInvalid for a command that has been started.
func TrackPython(cmds ...*exec.Cmd) (release func(), err error) {
	const op = "track python"
	for _, cmd := range cmds {
		if cmd.Process != nil {
			return nil, wrap(op, "", fmt.Errorf("%s has been started already: %w", cmd.Path, fs.ErrInvalid))
		}
	}
	t, err := tracker.ForPythons()
	if err != nil {
		return nil, wrap(op, "", err)
	}
	for _, cmd := range cmds {
		t.Prepare(cmd)
	}
	return t.Release, nil
}

// pythonTracker returns the tracker of the Python program that started this
// process if it is to have the block: nil if not, or if there is none or it is
// dead. name is "" for a fresh one.
func (o *CreateOptions) pythonTracker(name string) (*tracker.Sender, error) {
	// It knows only the system's place, and not what a second link is.
	if o.Lifetime != Tracked || o.Dir != "" || o.KeepName || mem.UnlinkIsNothing {
		return nil, nil
	}
	s, err := tracker.FromPython()
	if s == nil || err != nil {
		return nil, err
	}
	if _, err := (tracker.Line{Name: name}).Append(nil); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrName, err)
	}
	if err := s.Send(tracker.Probe, ""); err != nil {
		return nil, nil
	}
	return s, nil
}

// handOver moves a new block from our journal to Python's tracker. It is
// registered only now that it has its name: had another block had it, that one
// would have been unregistered. Till then the journal sees to it that a death
// leaves nothing for ever.
func handOver(b *Block, s *tracker.Sender, l *lease.Lease) {
	if err := s.Send(tracker.Register, b.name); err != nil {
		_ = tracker.Watch(l) // it died just now; without ours the block is as Owned
		return
	}
	crash.Point("pytracker:registered")
	k := keyOf(b.dir, b.name, b.id)
	owned.Lock()
	own := owned.m[k]
	if own != nil {
		owned.m[k] = &ownership{python: s}
	}
	owned.Unlock()
	if own == nil { // unlinked by its name meanwhile
		_ = s.Send(tracker.Unregister, b.name)
		return
	}
	own.slot.Forget()
}
