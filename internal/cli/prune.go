package cli

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/lease"
	"github.com/sharedmem/shm/internal/platform/mem"
	"github.com/sharedmem/shm/internal/platform/proc"
)

func init() { verbs = append(verbs, newPrune) }

// foreignAge is how old a foreign block must be unless the user says otherwise.
// One that nobody holds may be on its way from one process to the next.
const foreignAge = time.Hour

// pruned is one line of what prune did or would do.
type pruned struct {
	blockDoc
	Removed bool   `json:"removed"`
	Why     string `json:"why,omitempty"` // it was not removed
}

func newPrune(a *app) *cobra.Command {
	var foreign, dryRun, yes bool
	older := foreignAge
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove what dead processes left",
		Long: `Remove the blocks of this module's programs whose owner is dead. A living
owner's are safe, in whatever container it runs.

--foreign removes, after a question, what other programs left, Python's among
them: blocks that no process has open or mapped, older than --older-than. Nobody
but you knows whether such a block still waits for its reader. The kernel is
asked about each block at the moment of its removal, so that even a holder that
this user cannot see keeps it.`,
		Example: `  shm prune
  shm prune --foreign --dry-run
  shm prune --foreign --older-than 3d --yes`,
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !foreign && cmd.Flags().Changed("older-than") {
				return usageError{errors.New("--older-than goes with --foreign: what dead owners of ours left has no use at any age"), "shm prune --foreign --older-than 2h"}
			}
			dir, err := a.place()
			if err != nil {
				return err
			}
			if !foreign {
				return a.pruneOurs(dir, dryRun)
			}
			return a.pruneForeign(dir, older, dryRun, yes)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&foreign, "foreign", false, "remove what other programs left instead")
	f.Var(newValue(&older, "AGE", "1h", parseDuration), "older-than", "with --foreign: only blocks of that age, such as 10m, 2h, 3d")
	f.BoolVarP(&dryRun, "dry-run", "n", false, "only say what would be removed")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

func (a *app) pruneOurs(dir shm.Dir, dryRun bool) error {
	var blocks []shm.Info
	var err error
	if dryRun {
		if blocks, err = dir.List(); err != nil {
			return a.listHint(err)
		}
		blocks = slices.DeleteFunc(blocks, func(b shm.Info) bool {
			return b.Foreign || b.Owner == shm.Owner{} || b.Owner.Alive || b.Lifetime == shm.Persistent
		})
	} else {
		// Some may have been removed before the error; they are worth saying.
		blocks, err = dir.Prune()
	}
	slices.SortFunc(blocks, sortings["name"])
	done := make([]pruned, len(blocks))
	for i, b := range blocks {
		done[i] = pruned{docOf(b), !dryRun, ""}
	}
	return cmp.Or(a.printPruned(done, dryRun), err)
}

func (a *app) pruneForeign(dir shm.Dir, older time.Duration, dryRun, yes bool) error {
	blocks, err := dir.List()
	if err != nil {
		return a.listHint(err)
	}
	now := time.Now()
	blocks = slices.DeleteFunc(blocks, func(b shm.Info) bool {
		// A file system that does not tell ages leaves no ground to judge on.
		return !b.Foreign || b.Created.IsZero() || now.Sub(b.Created) < older
	})
	seen, err := scanFor(blocks)
	if err != nil {
		return err
	}
	blocks = slices.DeleteFunc(blocks, func(b shm.Info) bool { return len(holdersOf(seen, b)) > 0 })
	slices.SortFunc(blocks, sortings["name"])
	// What could not be looked into is no obstacle yet: the kernel's answer about
	// each block counts for more, where it gives one.
	list := make([]pruned, len(blocks))
	unsure := 0
	for i, b := range blocks {
		list[i].blockDoc = docOf(b)
		release, err := a.claim(b, seen)
		if errors.Is(err, errUnsure) {
			unsure++
		}
		if err != nil {
			list[i].Why = err.Error()
		} else {
			release()
		}
	}
	if dryRun {
		return a.printPruned(list, true)
	}
	free := slices.DeleteFunc(slices.Clone(list), func(p pruned) bool { return p.Why != "" })
	if len(free) > 0 && !yes {
		if a.json || !isTerminal(a.stdin) || !isTerminal(a.stderr) {
			return hint(fmt.Errorf("prune --foreign would remove %s and has no terminal to ask on", a.count(free)),
				"shm prune%s --foreign --dry-run, then the same with --yes", a.placeFlags())
		}
		if err := a.printPruned(list, true); err != nil {
			return err
		}
		if !a.ask(fmt.Sprintf("Remove %s?", a.count(free))) {
			return errors.New("nothing was removed")
		}
	}
	var errs []error
	if unsure > 0 {
		errs = append(errs, hint(fmt.Errorf("%d of these are not this user's to judge", unsure), "sudo shm prune%s --foreign --dry-run", a.placeFlags()))
	}
	for i, b := range blocks {
		if list[i].Why != "" {
			continue
		}
		if err := a.removeForeign(b, seen); err != nil {
			list[i].Why = err.Error()
			errs = append(errs, fmt.Errorf("%s: %w", printable(b.Name), err))
		} else {
			list[i].Removed = true
		}
	}
	return cmp.Or(a.printPruned(list, false), errors.Join(errs...))
}

// errUnsure is wrapped where it cannot be found out whether a block is free.
var errUnsure = errors.New("run as root")

// claim makes sure that no process holds b and, where the kernel can, that none
// gets it until release is called. Where the kernel does not answer, what the
// scan saw must do, and only if it saw everything.
func (a *app) claim(b shm.Info, seen *proc.Snapshot) (release func(), err error) {
	if me := os.Geteuid(); me != 0 && b.UID != me {
		// Nor can it be told whether such a block is foreign at all: the marks and
		// journals that would say so may be out of reach as well.
		return nil, fmt.Errorf("belongs to %s: %w", userName(b.UID), errUnsure)
	}
	f, err := proc.Claim(pathOf(b))
	switch {
	case err == nil:
		return func() { f.Close() }, nil
	case errors.Is(err, proc.ErrHeld):
		return nil, errors.New("held by a process that cannot be seen from here")
	case errors.Is(err, fs.ErrNotExist):
		return nil, errors.New("gone meanwhile")
	case !errors.Is(err, errors.ErrUnsupported):
		return nil, err
	case !seen.Complete() || proc.InContainer():
		return nil, fmt.Errorf("may be held by a process that cannot be looked into: %w", errUnsure)
	}
	return func() {}, nil
}

// removeForeign removes b unless somebody holds it now, or its name has gone to
// another block. It needs no memory, so a full /dev/shm does not stop it.
func (a *app) removeForeign(b shm.Info, seen *proc.Snapshot) error {
	release, err := a.claim(b, seen)
	if err != nil {
		return err
	}
	defer release()
	now, err := mem.Lookup(b.Dir, b.Name)
	if err != nil {
		return err
	}
	if now.Dev != b.Device || now.Ino != b.Inode {
		return errors.New("another block has the name now")
	}
	removed, err := mem.Remove(b.Dir, b.Name, now.ID, lease.Parking())
	if err == nil && !removed {
		err = errors.New("gone meanwhile")
	}
	return err
}

// ask puts a question on the terminal; only a clear yes is one.
func (a *app) ask(question string) bool {
	fmt.Fprintf(a.stderr, "%s [y/N] ", question)
	line, _ := bufio.NewReader(a.stdin).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return true
	}
	return false
}

// count is "3 blocks, 12.0 MiB".
func (a *app) count(list []pruned) string {
	var bytes int64
	for _, p := range list {
		bytes += p.Resident
	}
	s := "blocks"
	if len(list) == 1 {
		s = "block"
	}
	return fmt.Sprintf("%d %s, %s", len(list), s, a.size(bytes))
}

func (a *app) printPruned(list []pruned, dryRun bool) error {
	if a.json {
		return a.writeJSON(struct {
			DryRun bool     `json:"dry_run"`
			Blocks []pruned `json:"blocks"`
		}{dryRun, append([]pruned{}, list...)})
	}
	if len(list) == 0 {
		fmt.Fprintln(a.stderr, "nothing to remove")
		return nil
	}
	t := a.newTable("NAME", ">RESIDENT", "OWNER", ">AGE", "")
	now := time.Now()
	for _, p := range list {
		said := cell{green, "removed"}
		switch {
		case p.Why != "":
			said = cell{yellow, "stays: " + oneLine(p.Why)}
		case dryRun:
			said = cell{plain, "would be removed"}
		}
		t.row(printable(p.Name), a.size(p.Resident), ownerCell(p.Info), age(p.Info.Created, now), said)
	}
	return t.flush()
}
