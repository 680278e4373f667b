package cli

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/platform/mem"
	"github.com/sharedmem/shm/internal/platform/proc"
)

func init() { verbs = append(verbs, newDf) }

// dfMost is how many objects of a kind df lists; the rest is in --all.
const dfMost = 10

func newDf(a *app) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "df",
		Short: "Say where the memory went",
		Long: `Reconcile what the file system of shared memory says is in use with what uses
it: blocks, other files, and memory whose name has been removed while processes
still hold it, which no listing shows. The same for the machine's shared memory
as a whole: memfds, System V segments, memory shared by inheritance, and other
tmpfs. What nobody accounts for is shown as unexplained. Last come the limits:
the machine's and those of the control groups above this process.

Bytes are those that occupy memory. Where processes could not be looked into,
what they hold is among the unexplained; root sees all.`,
		Example: `  shm df
  sudo shm df --all
  shm df --json | jq .used.unexplained`,
		Args: exactly(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			dir, err := a.place()
			if err != nil {
				return err
			}
			doc, err := a.account(dir)
			if err != nil {
				return a.listHint(err)
			}
			if a.json {
				return a.writeJSON(doc)
			}
			return a.printAccount(doc, all)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "list every object, not only the largest")
	return cmd
}

// dfDoc is what df --json writes. All numbers but counts are bytes.
type dfDoc struct {
	Dir        string `json:"dir"`
	FileSystem string `json:"file_system"` // tmpfs, or what else it is
	Size       int64  `json:"size"`        // 0: no limit of its own
	Free       int64  `json:"free"`
	Inodes     int64  `json:"inodes"` // 0: no limit
	FreeInodes int64  `json:"free_inodes"`

	Used usedDoc `json:"used"`
	// Held is memory on this file system that has no name any more.
	Held []heldDoc `json:"held"`

	Machine machineDoc `json:"machine"`
	Memfds  []heldDoc  `json:"memfds"`
	Shared  []heldDoc  `json:"shared"`
	SysV    []segment  `json:"sysv"`
	Mounts  []mountDoc `json:"mounts"` // other file systems in memory

	Limits  []limitDoc `json:"limits"` // tightest first; absent with --pid
	Refused int        `json:"refused_processes"`
	// Partial says that processes may exist that cannot even be counted.
	Partial bool `json:"partial"`
}

// usedDoc says what the file system's use consists of.
type usedDoc struct {
	All         int64 `json:"all"`
	BlockCount  int   `json:"block_count"`
	Blocks      int64 `json:"blocks"`
	OtherCount  int   `json:"other_count"`
	Others      int64 `json:"others"` // semaphores, leases, other programs' folders
	HeldCount   int   `json:"held_count"`
	Held        int64 `json:"held"`
	Unexplained int64 `json:"unexplained"`
}

// machineDoc says what the machine's shared memory consists of.
type machineDoc struct {
	All         int64 `json:"all"` // Shmem of /proc/meminfo, and what of it may be swapped out
	Here        int64 `json:"here"`
	Memfds      int64 `json:"memfds"`
	SysV        int64 `json:"sysv"`
	Shared      int64 `json:"shared"`
	Mounts      int64 `json:"mounts"`
	Unexplained int64 `json:"unexplained"`
}

type heldDoc struct {
	Name     string        `json:"name"`
	Size     int64         `json:"size"`
	Resident int64         `json:"resident"`
	Guess    bool          `json:"guess"` // only mappings could be seen: as much or more
	Holders  []proc.Holder `json:"holders"`
}

type mountDoc struct {
	Point string `json:"point"`
	Used  int64  `json:"used"`
	Size  int64  `json:"size"`
}

type limitDoc struct {
	Where string `json:"where"`
	Max   int64  `json:"max"`
	Used  int64  `json:"used"`
	Free  int64  `json:"free"`
}

// account gathers all of it.
func (a *app) account(dir shm.Dir) (*dfDoc, error) {
	path := string(cmp.Or(dir, "/dev/shm"))
	blocks, err := dir.List()
	if err != nil {
		return nil, err
	}
	space, err := mem.SpaceOf(path)
	if err != nil {
		return nil, err
	}
	device, err := proc.Device(path)
	if err != nil {
		return nil, err
	}
	seen, err := proc.Scan(func(k proc.Key) bool { return k.Dev == device })
	if err != nil {
		return nil, err
	}
	isBlock := map[proc.Key]bool{}
	for _, b := range blocks {
		isBlock[keyOf(b)] = true
	}
	mounts := a.mounts()
	here := mountOf(mounts, a.inside(path))
	doc := &dfDoc{
		Dir: placeName(dir), FileSystem: here.kind,
		Size: space.Size, Free: space.Free, Inodes: space.Inodes, FreeInodes: space.FreeInodes,
		Memfds: []heldDoc{}, Shared: []heldDoc{}, Held: []heldDoc{}, Mounts: []mountDoc{}, SysV: a.segments(),
		Refused: seen.Refused, Partial: seen.HidesPIDs || proc.InContainer(),
	}
	doc.Used.All = space.Size - space.Free
	// The file system's numbers are about all of it, not only about dir.
	top := path
	if space.InMemory && here.point != "" {
		top = here.point
		if a.pid != 0 {
			top = fmt.Sprintf("/proc/%d/root%s", a.pid, top)
		}
	}
	named := namedFiles(top, device)
	for key, bytes := range named {
		if isBlock[key] {
			doc.Used.BlockCount++
			doc.Used.Blocks += bytes
		} else {
			doc.Used.OtherCount++
			doc.Used.Others += bytes
		}
	}
	for _, o := range seen.Objects {
		d := heldDoc{printable(strings.TrimSuffix(o.Name, " (deleted)")), o.Size, o.Resident, o.Guess, o.Holders}
		switch {
		case o.Kind == proc.Memfd:
			doc.Memfds = append(doc.Memfds, d)
			doc.Machine.Memfds += o.Resident
		case o.Kind == proc.Shared:
			d.Name = ""
			doc.Shared = append(doc.Shared, d)
			doc.Machine.Shared += o.Resident
		case o.Kind == proc.File && o.Links <= 0:
			// A link count that could not be had: then what the folder lists has a
			// name.
			if _, ok := named[o.Key]; ok {
				continue
			}
			doc.Held = append(doc.Held, d)
			doc.Used.HeldCount++
			doc.Used.Held += o.Resident
		}
	}
	for _, list := range [][]heldDoc{doc.Held, doc.Memfds, doc.Shared} {
		slices.SortFunc(list, func(x, y heldDoc) int {
			return cmp.Or(cmp.Compare(y.Resident, x.Resident), cmp.Compare(x.Name, y.Name))
		})
	}
	for _, m := range mounts {
		if a.pid != 0 || m.kind != "tmpfs" && m.kind != "devtmpfs" || m.point == here.point {
			continue
		}
		s, err := mem.SpaceOf(a.sys(m.point))
		if err == nil && s.InMemory && s.Size > s.Free {
			doc.Mounts = append(doc.Mounts, mountDoc{m.point, s.Size - s.Free, s.Size})
			doc.Machine.Mounts += s.Size - s.Free
		}
	}
	for _, s := range doc.SysV {
		doc.Machine.SysV += s.Resident
	}
	doc.Machine.All = a.meminfo()["Shmem"]
	if space.InMemory {
		doc.Machine.Here = doc.Used.All
	}
	if a.pid == 0 {
		for _, l := range mem.Headroom(a.sys("/")) {
			doc.Limits = append(doc.Limits, limitDoc(l))
		}
	}
	doc.reconcile(space.InMemory)
	return doc, nil
}

// reconcile works out what is left unexplained. It may be a little below zero,
// since the parts are looked at one after the other while the machine runs.
func (d *dfDoc) reconcile(inMemory bool) {
	u, m := &d.Used, &d.Machine
	if inMemory {
		u.Unexplained = u.All - u.Blocks - u.Others - u.Held
	}
	if m.All > 0 {
		m.Unexplained = m.All - m.Here - m.Memfds - m.SysV - m.Shared - m.Mounts
	}
}

// inside returns a path as the process of --pid sees it.
func (a *app) inside(path string) string {
	if a.pid == 0 {
		abs, err := filepath.Abs(path)
		if err != nil {
			return path
		}
		return abs
	}
	return strings.TrimPrefix(path, fmt.Sprintf("/proc/%d/root", a.pid))
}

// namedFiles returns what every file in and below dir occupies; one with several names
// is there once. Folders that may not be read are left out and so end among the
// unexplained.
func namedFiles(dir string, device uint64) map[proc.Key]int64 {
	files := map[proc.Key]int64{}
	all := func(string) bool { return true }
	note := func(s mem.Stat) {
		if s.Dev == device {
			files[proc.Key{Dev: s.Dev, Ino: s.Ino}] = s.Resident
		}
	}
	var walk func(dir string)
	walk = func(dir string) {
		_ = mem.Entries(dir, all, note)
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if e.IsDir() {
				sub := filepath.Join(dir, e.Name())
				// Not into what is mounted there.
				if d, err := proc.Device(sub); err == nil && d == device {
					walk(sub)
				}
			}
		}
	}
	walk(dir)
	return files
}

func (a *app) printAccount(d *dfDoc, all bool) error {
	out := func(format string, args ...any) { fmt.Fprintf(a.stdout, format+"\n", args...) }
	if d.Size > 0 {
		out("%s: %s of %s, %s used (%d%%), %s free", d.Dir, cmp.Or(d.FileSystem, "file system"),
			a.size(d.Size), a.size(d.Used.All), d.Used.All*100/d.Size, a.size(d.Free))
	} else {
		out("%s: %s without a limit of its own", d.Dir, cmp.Or(d.FileSystem, "file system"))
	}
	if d.Inodes > 0 {
		s := fmt.Sprintf("%d of %d files and folders used", d.Inodes-d.FreeInodes, d.Inodes)
		if d.FreeInodes == 0 {
			s = a.paint(red, s+": no more can be made")
		}
		out("%s", s)
	}
	out("")
	t := a.newTable("USED BY", ">COUNT", ">BYTES")
	t.row("blocks", d.Used.BlockCount, a.size(d.Used.Blocks))
	t.row("other files", d.Used.OtherCount, a.size(d.Used.Others))
	t.row("removed, still held", d.Used.HeldCount, a.size(d.Used.Held))
	t.row("unexplained", "", a.unexplained(d.Used.Unexplained))
	if err := t.flush(); err != nil {
		return err
	}
	if err := a.printHeld("REMOVED, STILL HELD", d.Held, all); err != nil {
		return err
	}

	if d.Machine.All > 0 {
		out("")
		t = a.newTable("SHARED MEMORY OF THE MACHINE", ">COUNT", ">BYTES")
		t.row(d.Dir, "", a.size(d.Machine.Here))
		t.row("memfds", len(d.Memfds), a.size(d.Machine.Memfds))
		t.row("System V segments", len(d.SysV), a.size(d.Machine.SysV))
		t.row("shared by inheritance", len(d.Shared), a.size(d.Machine.Shared))
		for _, m := range d.Mounts {
			t.row(printable(m.Point), "", a.size(m.Used))
		}
		t.row("unexplained", "", a.unexplained(d.Machine.Unexplained))
		t.row(cell{bold, "together"}, "", cell{bold, a.size(d.Machine.All)})
		if err := t.flush(); err != nil {
			return err
		}
		if err := a.printHeld("MEMFD", d.Memfds, all); err != nil {
			return err
		}
		if all {
			if err := a.printHeld("SHARED BY INHERITANCE", d.Shared, all); err != nil {
				return err
			}
		}
		if err := a.printSegments(d.SysV, all); err != nil {
			return err
		}
	}
	if len(d.Limits) > 0 {
		out("")
		t = a.newTable("LIMIT", ">MAX", ">USED", ">FREE")
		for _, l := range d.Limits {
			t.row(printable(l.Where), a.size(l.Max), a.size(l.Used), a.size(l.Free))
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	a.explain(d)
	return nil
}

// noise is what may be unexplained without anybody asking: the parts are not
// looked at at one moment, and folders and kernel buffers take a page each.
const noise = 1 << 20

func (a *app) unexplained(n int64) cell {
	if n > noise {
		return cell{yellow, a.size(n)}
	}
	return cell{plain, a.size(max(n, 0))}
}

// explain says on stderr where the unexplained may be.
func (a *app) explain(d *dfDoc) {
	if d.Used.Unexplained <= noise && d.Machine.Unexplained <= noise {
		return
	}
	var why []string
	if d.Refused > 0 {
		why = append(why, fmt.Sprintf("with the processes that could not be looked into: %d", d.Refused))
	}
	if d.Partial {
		why = append(why, "with processes that cannot be seen from here, such as those outside this container")
	}
	why = append(why, "in descriptors on their way through a socket, in mounts of other containers, in the kernel's own use (graphics buffers)")
	fmt.Fprintln(a.stderr, "note: the unexplained may be", strings.Join(why, ", or "))
	if d.Refused > 0 && os.Geteuid() != 0 {
		fmt.Fprintln(a.stderr, "try: sudo shm df"+a.placeFlags())
	}
}

func (a *app) printHeld(heading string, list []heldDoc, all bool) error {
	if len(list) == 0 {
		return nil
	}
	fmt.Fprintln(a.stdout)
	t := a.newTable(heading, ">SIZE", ">RESIDENT", "HOLDERS")
	for i, h := range list {
		if i == dfMost && !all {
			t.row(fmt.Sprintf("… %d more: --all", len(list)-i))
			break
		}
		resident := a.size(h.Resident)
		if h.Guess {
			resident = "≥ " + resident
		}
		var who []string
		for _, p := range h.Holders {
			who = append(who, fmt.Sprintf("%d %s", p.PID, printable(p.Name)))
		}
		t.row(cmp.Or(h.Name, "-"), a.size(h.Size), resident, strings.Join(who, ", "))
	}
	return t.flush()
}

func (a *app) printSegments(list []segment, all bool) error {
	if len(list) == 0 {
		return nil
	}
	fmt.Fprintln(a.stdout)
	t := a.newTable("SYSTEM V SEGMENT", ">SIZE", ">RESIDENT", "USER", "CREATOR", "")
	slices.SortFunc(list, func(x, y segment) int { return cmp.Compare(y.Resident, x.Resident) })
	for i, s := range list {
		if i == dfMost && !all {
			t.row(fmt.Sprintf("… %d more: --all", len(list)-i))
			break
		}
		note := ""
		if s.Attached == 0 {
			note = fmt.Sprintf("attached by nobody: ipcrm -m %d", s.ID)
		}
		t.row(s.ID, a.size(s.Size), a.size(s.Resident), userName(int(s.UID)), s.Creator, note)
	}
	return t.flush()
}

// isUnsupported says that an error is about a thing this system does not have.
func isUnsupported(err error) bool { return errors.Is(err, errors.ErrUnsupported) }
