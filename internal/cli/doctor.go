package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/platform/mem"
	"github.com/sharedmem/shm/internal/platform/proc"
)

func init() { verbs = append(verbs, newDoctor) }

func newDoctor(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Find what would get in the way of shared memory here",
		Long: `Look at the machine, or at the container that --pid names: is there a place for
shared memory, is it large enough, may this user use it, will the system take
blocks away, has something been left behind. Every finding comes with its
remedy. The exit status is 1 if there is something to do.`,
		Example: `  shm doctor
  shm doctor --json | jq -r '.findings[] | select(.level == "todo") | .remedy'`,
		Args: exactly(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			dir, err := a.place()
			if err != nil {
				return err
			}
			e := &examination{a: a, uid: os.Getuid()}
			e.examine(dir)
			return e.print()
		},
	}
}

// Levels of findings.
const (
	levelOK   = "ok"
	levelNote = "note" // worth knowing; nothing to do
	levelTodo = "todo"
)

type finding struct {
	Check  string `json:"check"`
	Level  string `json:"level"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// examination gathers findings.
type examination struct {
	a    *app
	uid  int
	list []finding
}

func (e *examination) ok(check, format string, args ...any) {
	e.list = append(e.list, finding{check, levelOK, fmt.Sprintf(format, args...), ""})
}

func (e *examination) note(check, remedy, format string, args ...any) {
	e.list = append(e.list, finding{check, levelNote, fmt.Sprintf(format, args...), remedy})
}

func (e *examination) todo(check, remedy, format string, args ...any) {
	e.list = append(e.list, finding{check, levelTodo, fmt.Sprintf(format, args...), remedy})
}

func (e *examination) print() error {
	bad := false
	for _, f := range e.list {
		bad = bad || f.Level == levelTodo
	}
	if e.a.json {
		if err := e.a.writeJSON(struct {
			OK       bool      `json:"ok"`
			Findings []finding `json:"findings"`
		}{!bad, e.list}); err != nil {
			return err
		}
	} else {
		t := e.a.newTable("", "")
		colours := map[string]style{levelOK: green, levelNote: plain, levelTodo: red}
		for _, f := range e.list {
			t.row(cell{colours[f.Level], f.Level}, f.Text)
			if f.Remedy != "" {
				t.row("", "try: "+f.Remedy)
			}
		}
		if err := t.flush(); err != nil {
			return err
		}
	}
	if bad {
		return errQuiet
	}
	return nil
}

// target is a folder for a remedy, as it is called where the remedy is to be
// used: inside the container of --pid.
func (e *examination) target(path string) string { return shellQuote(e.a.inside(path)) }

func (e *examination) examine(dir shm.Dir) {
	if runtime.GOOS == "linux" {
		path := string(cmp.Or(dir, "/dev/shm"))
		if !e.place(path) {
			return
		}
		e.size(path)
		if dir == "" {
			e.permissions(path)
		}
		e.removeIPC(dir)
		e.hugePages(path)
		e.processLimits()
	}
	e.leftovers(dir)
	if e.a.pid == 0 {
		e.trial(dir)
	}
}

// place says whether there is somewhere to put blocks.
func (e *examination) place(path string) bool {
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		remedy := "mkdir -m 1777 /dev/shm; mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs /dev/shm; or give programs another folder (CreateOptions.Dir, --dir)"
		if path != "/dev/shm" {
			remedy = "mkdir " + shellQuote(path)
		}
		e.todo("place", remedy, "%s is not there", printable(path))
		return false
	case err != nil:
		e.todo("place", "ls -ld "+shellQuote(path), "%s cannot be looked at: %v", printable(path), err)
		return false
	case !fi.IsDir():
		e.todo("place", "ls -ld "+shellQuote(path), "%s is no folder", printable(path))
		return false
	}
	m := mountOf(e.a.mounts(), e.a.inside(path))
	if _, ro := m.option("ro"); ro {
		e.todo("place", "mount -o remount,rw "+shellQuote(m.point), "%s is mounted read-only", printable(path))
	}
	space, err := mem.SpaceOf(path)
	if err == nil && !space.InMemory {
		e.todo("place", "mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "+e.target(path),
			"%s lies on a disk (%s): blocks there are slow, and stay when the machine restarts", printable(path), cmp.Or(m.kind, "unknown file system"))
	}
	return true
}

// dockerDefault is the size of /dev/shm that container engines give.
const dockerDefault = 64 << 20

// size says whether there is enough room, and whether it is more than there is
// behind it.
func (e *examination) size(path string) {
	a := e.a
	space, err := mem.SpaceOf(path)
	if err != nil {
		e.todo("size", "shm df", "the file system of %s does not answer: %v", printable(path), err)
		return
	}
	if space.InMemory {
		e.room(path, space, a.meminfo()["MemTotal"])
	}
	if space.Inodes > 0 && space.FreeInodes*20 < space.Inodes {
		e.todo("inodes", "shm ls"+a.placeFlags()+"; shm prune"+a.placeFlags()+"; or mount -o remount,nr_inodes=1M "+e.target(path),
			"%d of %d files are in use: soon no block can be made, however small", space.Inodes-space.FreeInodes, space.Inodes)
	}
	if space.Size > 0 && space.Free*10 < space.Size {
		e.todo("full", "shm df"+a.placeFlags()+"; shm prune"+a.placeFlags(), "%s is full to %d%%", printable(path), (space.Size-space.Free)*100/space.Size)
	}
	if a.pid != 0 || !space.InMemory {
		return
	}
	for _, l := range mem.Headroom(a.sys("/")) {
		if strings.HasPrefix(l.Where, "the machine") || l.Max <= 0 || space.Size > 0 && l.Max >= space.Size {
			continue
		}
		e.todo("cgroup", "raise the group's memory limit, or mount -o remount,size="+sizeOption(l.Max/2)+" "+e.target(path),
			"%s allows %s of memory, less than %s promises: who writes more is killed, not refused", printable(l.Where), a.size(l.Max), printable(path))
	}
}

// room judges the size of the tmpfs against the machine's memory.
func (e *examination) room(path string, space mem.Space, total int64) {
	a, remount := e.a, "mount -o remount,size=50% "+e.target(path)
	dockers := ""
	if space.Size == dockerDefault {
		dockers = ": it is what containers get unless told otherwise"
	}
	switch {
	case space.Size == 0:
		e.todo("size", remount, "%s has no limit: blocks can take all of the machine's memory", printable(path))
	case space.Size <= dockerDefault:
		e.todo("size", "docker run --shm-size=1g (compose: shm_size: 1gb; Kubernetes: an emptyDir with medium: Memory at /dev/shm); without a container: "+remount,
			"%s has %s, which is too small for most data%s", printable(path), a.size(space.Size), dockers)
	case total > 0 && space.Size < total/8:
		e.todo("size", remount, "%s has %s, little beside the machine's %s", printable(path), a.size(space.Size), a.size(total))
	case total > 0 && space.Size > total+total/64+a.meminfo()["SwapTotal"]:
		e.todo("size", remount, "%s promises %s, but the machine has %s: who writes more is killed, not refused", printable(path), a.size(space.Size), a.size(total))
	default:
		e.ok("size", "%s has %s, of which %s are free; the machine has %s", printable(path), a.size(space.Size), a.size(space.Free), a.size(total))
	}
}

// sizeOption writes a size for mount.
func sizeOption(n int64) string {
	if n >= 1<<30 {
		return fmt.Sprintf("%dm", n>>20)
	}
	return fmt.Sprintf("%dk", n>>10)
}

func (e *examination) permissions(path string) {
	fi, err := os.Stat(path)
	if err != nil {
		return // place has said so
	}
	const want = fs.ModeSticky | 0o777
	if got := fi.Mode() & (fs.ModeSticky | fs.ModePerm); got != want {
		bits := uint32(got.Perm())
		if got&fs.ModeSticky != 0 {
			bits |= 0o1000
		}
		what := "some users cannot make blocks"
		if bits == 0o777 {
			what = "any user can remove the blocks of all others"
		}
		e.todo("permissions", "chmod 1777 "+shellQuote(path), "%s has mode %04o rather than 1777: %s", printable(path), bits, what)
		return
	}
	e.ok("permissions", "%s has mode 1777", printable(path))
}

// firstUser is where the numbers of people begin, and those of services end.
const firstUser = 1000

func (e *examination) removeIPC(dir shm.Dir) {
	removes, where := e.a.removesIPC()
	switch {
	case dir != "" || e.a.pid != 0:
	case !removes:
		e.ok("RemoveIPC", "nobody removes the blocks of users who log out")
	case e.uid < firstUser:
		e.ok("RemoveIPC", "systemd removes the blocks of users who log out, but not those of this one (%s)", userName(e.uid))
	default:
		e.todo("RemoveIPC", `printf '[Login]\nRemoveIPC=no\n' | sudo tee /etc/systemd/logind.conf.d/shm.conf, then restart systemd-logind; or run the program as a system user`,
			"systemd removes all blocks of %s when that user's last session ends (RemoveIPC=yes, %s)", userName(e.uid), cmp.Or(where, "the default"))
	}
}

func (e *examination) hugePages(path string) {
	a := e.a
	m := mountOf(a.mounts(), a.inside(path))
	huge, ok := m.option("huge")
	if !ok || huge == "" {
		huge = "never"
	}
	// deny and force overrule every mount.
	global := ""
	for _, w := range strings.Fields(a.read("/sys/kernel/mm/transparent_hugepage/shmem_enabled")) {
		if strings.HasPrefix(w, "[") {
			global = strings.Trim(w, "[]")
		}
	}
	switch {
	case global == "":
		e.note("huge pages", "", "this kernel has no huge pages for shared memory: CreateOptions.HugePages does nothing")
	case global == "deny" || huge == "never" && global != "force":
		remedy := "mount -o remount,huge=advise " + shellQuote(m.point)
		if global == "deny" {
			remedy = "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled"
		}
		e.note("huge pages", remedy+"   (only if programs ask for them; first touch is then some 4 times faster)",
			"huge pages are off for %s (huge=%s, shmem_enabled %s): CreateOptions.HugePages does nothing", printable(path), huge, global)
	default:
		e.ok("huge pages", "huge pages can be had in %s (huge=%s, shmem_enabled %s)", printable(path), huge, global)
	}
}

// processLimits looks at what a process may have, which children of this shell
// inherit.
func (e *examination) processLimits() {
	before := len(e.list)
	// Every open block is a mapping, every one that Python opens a descriptor too.
	if n, ok := e.a.limit("Max open files"); ok && n < 1024 {
		e.todo("limits", "ulimit -n 4096", "a process may have %d files open: Python needs one for each block, and a few more", n)
	}
	if n, ok := e.a.limit("Max file size"); ok {
		e.todo("limits", "ulimit -f unlimited", "a process may make files of %s at most (ulimit -f), and so no larger block", e.a.size(n))
	}
	if n, ok := e.a.limit("Max address space"); ok {
		e.note("limits", "ulimit -v unlimited", "a process has %s of address space at most (ulimit -v), blocks included", e.a.size(n))
	}
	maps, err := strconv.ParseInt(strings.TrimSpace(e.a.read("/proc/sys/vm/max_map_count")), 10, 64)
	if err == nil && maps < 65530 {
		e.todo("limits", "sysctl vm.max_map_count=65530", "a process may have %d mappings, less than the system's default", maps)
	}
	if len(e.list) == before {
		e.ok("limits", "nothing limits the files, mappings and sizes of a process unusually")
	}
}

// leftovers looks for blocks whose owner is dead.
func (e *examination) leftovers(dir shm.Dir) {
	blocks, err := dir.List()
	if isUnsupported(err) {
		return
	}
	if err != nil {
		e.todo("leftovers", "ls -l "+shellQuote(placeName(dir)), "the blocks cannot be listed: %v", err)
		return
	}
	var dead []pruned
	foreign := 0
	for _, b := range blocks {
		switch {
		case b.Foreign:
			foreign++
		case b.Owner != shm.Owner{} && !b.Owner.Alive && b.Lifetime != shm.Persistent:
			dead = append(dead, pruned{blockDoc: docOf(b)})
		}
	}
	if len(dead) > 0 {
		e.todo("leftovers", "shm prune"+e.a.placeFlags(), "dead processes left %s", e.a.count(dead))
	} else {
		e.ok("leftovers", "no dead process of ours left a block")
	}
	if foreign > 0 {
		seen, err := scanFor(blocks)
		if err != nil || !seen.Complete() {
			return // who cannot see the holders cannot say
		}
		free := 0
		for _, b := range blocks {
			if b.Foreign && len(holdersOf(seen, b)) == 0 {
				free++
			}
		}
		if free > 0 && !proc.InContainer() {
			e.note("leftovers", "shm prune"+e.a.placeFlags()+" --foreign --dry-run", "%d blocks of other programs are held by no process", free)
		}
	}
}

// trial makes a block and removes it.
func (e *examination) trial(dir shm.Dir) {
	b, err := shm.Create("", 1, &shm.CreateOptions{Dir: string(dir)})
	if err == nil {
		err = errors.Join(b.Unlink(), b.Close())
	}
	if err != nil {
		e.todo("trial", cmp.Or(e.a.nextStep(err), "shm df"+e.a.placeFlags()), "a block cannot be made: %s", strings.TrimPrefix(err.Error(), "shm: "))
		return
	}
	e.ok("trial", "a block can be made and removed")
}
