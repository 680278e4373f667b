package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/platform/proc"
	"github.com/sharedmem/shm/lock"
)

func init() { verbs = append(verbs, newLock) }

// lockBlockSize is the size of a block that "shm lock" makes; its lock is at 0.
const lockBlockSize = 4096

// ownerDiedEnv tells a command under a lock that the last holder died.
const ownerDiedEnv = "SHM_OWNER_DIED"

// What a State and an RWState occupy (docs/format.md).
const (
	stateSize   = 64
	rwStateSize = 1024
)

type lockOptions struct {
	nonblock, shared, strict bool

	wait     time.Duration // -1 is for ever
	conflict int
	offset   int
}

func newLock(a *app) *cobra.Command {
	o := lockOptions{wait: -1}
	cmd := &cobra.Command{
		Use:   "lock [flags] NAME [--] COMMAND [ARG…]",
		Short: "Run a command under a lock, as flock does",
		Long: `Run COMMAND while holding the lock in block NAME, which is made if it does not
exist and then stays until it is removed. Programs take part with package lock:
a new block has an RWMutex at offset 0. With --offset it is the Mutex or RWMutex
there, in a block of any kind; shm info NAME shows those that it has.

If the last holder died holding the lock, that is said on standard error and COMMAND
runs with SHM_OWNER_DIED=1: it is to mend what was left half done, and the lock is
as good as new afterwards; with --strict only if COMMAND succeeds, else nobody
gets it any more. With --shared many hold the lock at once, but none while somebody
holds it alone; after a death COMMAND runs alone even so.

The holder is shm, not COMMAND. When shm is killed, so is COMMAND, not the processes
that it started. The exit status is the command's; 128 and the number of the signal that
ended it; 126 if it cannot be run, 127 if it is not there; -E's if the lock was
not to be had. Signals are passed on as by shm exec. Linux only.`,
		Example: `  shm lock deploy -- ./deploy.sh            one at a time
  shm lock -n nightly -- ./backup.sh        or not at all, if one is running
  shm lock -w 30s -E 75 db -- ./migrate     75: not within half a minute
  shm lock -s config -- ./read-config       beside other readers
  shm lock --offset 64 cam0 -- ./calibrate  the lock that a program has there`,
		ValidArgsFunction: a.completeNames,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 && args[1] == "--" {
				args = slices.Delete(slices.Clone(args), 1, 2)
			}
			if err := atLeast(2, "a block's name and a command")(cmd, args); err != nil {
				return err
			}
			if strings.HasPrefix(args[1], "-") {
				return usageError{fmt.Errorf("%s stands behind the name, where the command is expected", args[1]), "shm lock [flags] NAME -- COMMAND"}
			}
			if o.conflict < 0 || o.conflict > 255 {
				return usageError{fmt.Errorf("-E %d is no exit status, which are 0 to 255", o.conflict), "shm lock --help"}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[1] == "--" {
				args = slices.Delete(args, 1, 2)
			}
			return a.lock(cmd.Context(), args[0], args[1:], o)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false) // what follows the name is the command's
	f.BoolVarP(&o.nonblock, "nonblock", "n", false, "do not wait for the lock")
	f.VarP(newValue(&o.wait, "DURATION", "for ever", parseWait), "wait", "w", "wait so long for the lock: 30s, 5m; seconds without a unit")
	f.BoolVarP(&o.shared, "shared", "s", false, "hold it for reading, together with others")
	f.IntVarP(&o.conflict, "conflict-exit-code", "E", 1, "exit status `N` if the lock is not to be had")
	f.IntVar(&o.offset, "offset", 0, "the lock lies at byte `OFF` of the block")
	f.BoolVar(&o.strict, "strict", false, "after a holder's death, the lock is good again only if COMMAND succeeds")
	return cmd
}

// parseWait reads a duration, or seconds as flock has them.
func parseWait(s string) (time.Duration, error) {
	if n, err := strconv.ParseFloat(s, 64); err == nil && n >= 0 && n < math.MaxInt64/1e9 {
		return time.Duration(n * 1e9), nil
	}
	return parseDuration(s)
}

// locker is a Mutex or an RWMutex.
type locker interface {
	LockContext(ctx context.Context) error
	TryLock() (bool, error)
	MarkConsistent() error
	Unlock() error
}

func (a *app) lock(ctx context.Context, name string, args []string, o lockOptions) error {
	cmd := a.command(args)
	if cmd.Err != nil {
		return startError("lock "+shellQuote(name)+" --", args[0], cmd.Err)
	}
	dir, err := a.place()
	if err != nil {
		return err
	}
	b, m, err := a.openLock(dir, name, o)
	if err != nil {
		return err
	}
	defer b.Close()

	unlock, died, err := a.acquire(ctx, b, m, o)
	if err != nil {
		return err
	}
	if died {
		fmt.Fprintf(a.stderr, "shm: the last holder of %s died holding it: what it guards may be half done, and %s is to mend it\n",
			printable(b.Name()), printable(args[0]))
		cmd.Env = append(os.Environ(), ownerDiedEnv+"=1")
	}
	// The command must not go on under a lock that its holder's death has freed. The
	// kernel goes by the thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = proc.Mortal()
	err = a.run(ctx, "lock "+shellQuote(name)+" --", cmd, func() {})
	if died && (err == nil || !o.strict) {
		if err := m.MarkConsistent(); err != nil {
			return errors.Join(err, unlock())
		}
	} else if died {
		fmt.Fprintf(a.stderr, "shm: %s did not succeed, so the lock is given up; when all is mended: shm rm %s%s\n",
			printable(args[0]), shellQuote(b.Name()), a.placeFlags())
	}
	return errors.Join(err, unlock())
}

// openLock opens the block and the lock in it, and makes them if need be.
func (a *app) openLock(dir shm.Dir, name string, o lockOptions) (*shm.Block, locker, error) {
	for {
		b, err := shm.Open(name, &shm.OpenOptions{Dir: string(dir)})
		if errors.Is(err, fs.ErrNotExist) && o.offset == 0 {
			// Stamped before others see it, who would not know which kind it is to be.
			b, err = shm.CreateWith(name, lockBlockSize, &shm.CreateOptions{Lifetime: shm.Persistent, Dir: string(dir)},
				func(b *shm.Block) error { _, err := lock.NewRWMutex(b, 0); return err })
			if errors.Is(err, fs.ErrExist) {
				continue
			}
		}
		if err != nil {
			return nil, nil, err
		}
		m, err := a.lockIn(b, o)
		if err != nil {
			b.Close()
			return nil, nil, err
		}
		return b, m, nil
	}
}

// lockIn makes a handle on the lock in b.
func (a *app) lockIn(b *shm.Block, o lockOptions) (locker, error) {
	look := "shm info " + shellQuote(b.Name()) + a.placeFlags() + "   (it shows the locks there)"
	info, err := lock.Describe(b, o.offset)
	switch {
	case errors.Is(err, shm.ErrSize):
		return nil, hint(fmt.Errorf("%s has %d bytes, and at offset %d no room for a lock; offsets are multiples of 8", printable(b.Name()), b.Size(), o.offset), "%s", look)
	case errors.Is(err, shm.ErrFormat):
		// Not used yet, or no lock at all. It is ours to begin only if nothing is there.
		size := stateSize
		info.Kind = "Mutex"
		if o.shared {
			size, info.Kind = rwStateSize, "RWMutex"
		}
		room := make([]byte, size)
		if n, err := b.ReadAt(room, int64(o.offset)); n < size || slices.ContainsFunc(room, func(c byte) bool { return c != 0 }) {
			if err == nil {
				err = fmt.Errorf("at offset %d of %s is something else than a lock", o.offset, printable(b.Name()))
			}
			return nil, hint(err, "%s", look)
		}
	case err != nil:
		return nil, err
	}
	var m locker
	switch {
	case info.Kind == "RWMutex":
		m, err = lock.NewRWMutex(b, o.offset)
	case info.Kind != "Mutex":
		return nil, hint(fmt.Errorf("at offset %d of %s is a %s, which is not for locking", o.offset, printable(b.Name()), info.Kind), "%s", look)
	case o.shared:
		return nil, hint(fmt.Errorf("at offset %d of %s is a Mutex, which only one can hold", o.offset, printable(b.Name())), "shm lock without --shared, or another NAME")
	default:
		m, err = lock.NewMutex(b, o.offset)
	}
	return m, err
}

// acquire takes the lock as o says.
func (a *app) acquire(ctx context.Context, b *shm.Block, m locker, o lockOptions) (unlock func() error, died bool, err error) {
	if o.wait >= 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.wait)
		defer cancel()
	}
	once := o.nonblock || o.wait == 0
	got := true
	if rw, ok := m.(*lock.RWMutex); ok && o.shared {
		if once {
			got, err = rw.TryRLock()
		} else {
			err = rw.RLockContext(ctx)
		}
		if err == nil && got {
			return rw.RUnlock, false, nil
		}
	}
	// After a death readers do not get it: somebody has to mend, and alone.
	if got && (err == nil || errors.Is(err, lock.ErrOwnerDied)) {
		if once {
			got, err = m.TryLock()
		} else {
			err = m.LockContext(ctx)
		}
	}
	switch {
	case errors.Is(err, lock.ErrOwnerDied):
		return m.Unlock, true, nil
	case errors.Is(err, context.DeadlineExceeded) || err == nil && !got:
		return nil, false, statusError{hint(a.conflict(b, o), "shm info %s%s", shellQuote(b.Name()), a.placeFlags()), o.conflict}
	case errors.Is(err, lock.ErrNotRecoverable):
		return nil, false, hint(err, "shm rm %s%s   (when what it guards is mended: the next one makes a new lock)", shellQuote(b.Name()), a.placeFlags())
	case err != nil:
		return nil, false, err
	}
	return m.Unlock, false, nil
}

// conflict says why the lock was not to be had.
func (a *app) conflict(b *shm.Block, o lockOptions) error {
	text := printable(b.Name()) + " is locked"
	if i, err := lock.Describe(b, o.offset); err == nil && len(i.Holders) > 0 {
		text += ", " + i.State + " by " + ownersText(i, nil)
	}
	return errors.New(text)
}

// locksOf describes the locks in a block; nil where there are none, or none
// can be seen.
func locksOf(b shm.Info) []lock.Info {
	block, err := shm.Open(b.Name, &shm.OpenOptions{ReadOnly: true, Dir: b.Dir})
	if err != nil {
		return nil
	}
	defer block.Close()
	found, err := lock.Find(block)
	if err != nil {
		return nil
	}
	return found
}

// lockText is "Mutex at 64: held by 123 camd; somebody waits".
func lockText(i lock.Info, seen []proc.Holder) string {
	s := fmt.Sprintf("%s at %d: %s", i.Kind, i.Offset, i.State)
	switch who := ownersText(i, seen); {
	case who == "":
	case i.Kind == "Barrier":
		s += "; " + who + " take part"
	case strings.HasPrefix(i.State, "owner died"):
		s += " (" + who + "); the next one gets it"
	default:
		s += " by " + who
	}
	if i.Waiting {
		s += "; somebody waits"
	}
	if i.Elsewhere {
		s += "; its users keep their leases in another place, so who lives is unknown"
	}
	return s
}

// ownersText names the holders of a lock, with the names that seen has.
func ownersText(i lock.Info, seen []proc.Holder) string {
	var parts []string
	for _, h := range i.Holders {
		parts = append(parts, ownerText(h, seen))
	}
	return strings.Join(parts, ", ")
}

// ownerText names one, "123 camd", as far as it can be named.
func ownerText(h shm.Owner, seen []proc.Holder) string {
	if h.PID == 0 {
		return "a process of lease " + h.Lease
	}
	text := strconv.Itoa(h.PID)
	if k := slices.IndexFunc(seen, func(s proc.Holder) bool { return s.PID == h.PID }); k >= 0 && h.Alive {
		text += " " + printable(seen[k].Name)
	}
	return text
}
