package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path"
	"path/filepath"
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

func init() { verbs = append(verbs, newCreate, newLs, newInfo, newRm) }

// blockDoc is how --json shows a block. It is shm.Info with the mode in the
// octal that people know, and with what the command knows beyond it.
type blockDoc struct {
	shm.Info
	Mode    string        `json:"mode"`
	Created *time.Time    `json:"created,omitempty"`
	Path    string        `json:"path,omitempty"`
	Holders []proc.Holder `json:"holders,omitzero"` // absent if not asked for
	List    *listDoc      `json:"list,omitempty"`   // the same
	Array   *npyDoc       `json:"array,omitempty"`  // the same
	Locks   []lock.Info   `json:"locks,omitempty"`  // the same
	Ring    queueDoc      `json:"ring,omitempty"`   // the same
	Topic   queueDoc      `json:"topic,omitempty"`  // the same

	ArrayError string `json:"array_error,omitempty"` // why there is no array, or no summary
}

// docsOf describes blocks with their holders, and says how many processes could
// not be looked into, as far as seen, which may be nil, knows.
func docsOf(blocks []shm.Info, seen *proc.Snapshot) (docs []blockDoc, refused *int) {
	docs = []blockDoc{} // not null in JSON
	for _, b := range blocks {
		d := docOf(b)
		if seen != nil {
			d.Holders = holdersOf(seen, b)
		}
		docs = append(docs, d)
	}
	if seen != nil {
		refused = &seen.Refused
	}
	return docs, refused
}

func docOf(info shm.Info) blockDoc {
	d := blockDoc{Info: info, Mode: modeText(info.Mode), Path: pathOf(info)}
	if !info.Created.IsZero() {
		d.Created = &info.Created
	}
	return d
}

func modeText(m fs.FileMode) string { return fmt.Sprintf("%04o", m.Perm()) }

// pathOf returns the file that a block is, "" where blocks are no files.
func pathOf(info shm.Info) string {
	switch {
	case info.Dir != "":
		return filepath.Join(info.Dir, info.Name)
	case info.Inode != 0 && runtime.GOOS == "linux":
		return "/dev/shm/" + info.Name
	}
	return ""
}

// place is the directory the verbs work on.
func (a *app) place() (shm.Dir, error) {
	dir, err := a.where()
	return shm.Dir(dir), err
}

// placeName names a directory for people.
func placeName(dir shm.Dir) string {
	switch {
	case dir != "":
		return printable(string(dir))
	case runtime.GOOS == "linux":
		return "/dev/shm"
	}
	return "the system's shared memory"
}

// completeNames completes arguments to the names of blocks.
func (a *app) completeNames(_ *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
	dir, err := a.place()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	blocks, err := dir.List()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, b := range blocks {
		// The shell's protocol is one name a line.
		if strings.HasPrefix(b.Name, prefix) && printable(b.Name) == b.Name {
			names = append(names, b.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

func newCreate(a *app) *cobra.Command {
	var opts shm.CreateOptions
	opts.Lifetime = shm.Persistent
	cmd := &cobra.Command{
		Use:   "create [NAME] SIZE",
		Short: "Make a block of zeros",
		Long: `Make a block of SIZE bytes, all zero, and print its name. It stays until
somebody removes it. Its memory is reserved now, so that a full machine is an
error here rather than a crash later.

SIZE is a number of bytes or a number with K, M, G or T. Without NAME, the
block gets a new one such as psm_1a2b3c4d.`,
		Example: `  shm create cam0 4M
  shm create --mode 660 --sparse pool 64G
  name=$(shm create 1M)`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 || len(args) == 2 {
				return nil
			}
			return usageError{errors.New("create wants a name and a size"), "shm create cam0 4M"}
		},
		RunE: func(_ *cobra.Command, args []string) error {
			size, err := parseSize(args[len(args)-1])
			if err != nil {
				return usageError{err, "shm create cam0 4M"}
			}
			name := ""
			if len(args) == 2 {
				if name = args[0]; name == "" {
					return fmt.Errorf("%w: it is empty", shm.ErrName)
				}
			}
			if size > int64(^uint(0)>>1) {
				return fmt.Errorf("%w: %d is beyond the address space", shm.ErrSize, size)
			}
			dir, err := a.place()
			if err != nil {
				return err
			}
			opts.Dir = string(dir)
			b, err := shm.Create(name, int(size), &opts)
			return a.finish(dir, name, b, err)
		},
	}
	f := cmd.Flags()
	f.Var(newValue(&opts.Mode, "MODE", "0600", parseMode), "mode", "permission bits, whatever the umask")
	f.BoolVar(&opts.Sparse, "sparse", false, "do not reserve the memory now")
	f.BoolVar(&opts.HugePages, "huge", false, "ask for huge pages (see shm doctor)")
	f.BoolVar(&opts.Replace, "replace", false, "take over the name of a block whose owner is dead")
	return cmd
}

// closer is a block, or what lies in one.
type closer interface {
	Name() string
	Close() error
}

// finish ends the making of b, which was to have a name, and prints what that is now.
func (a *app) finish(dir shm.Dir, name string, b closer, err error) error {
	if err != nil {
		return a.existsHint(err, name)
	}
	name = b.Name()
	if err := b.Close(); err != nil {
		return err
	}
	return a.printMade(dir, name)
}

// printMade prints the name of a new block, or its document.
func (a *app) printMade(dir shm.Dir, name string) error {
	if !a.json {
		_, err := fmt.Fprintln(a.stdout, printable(name))
		return err
	}
	info, err := dir.Stat(name)
	if err != nil {
		return err
	}
	return a.writeJSON(docOf(info))
}

// existsHint adds to an error about a name that is taken what to do about it.
func (a *app) existsHint(err error, name string) error {
	if errors.Is(err, fs.ErrExist) {
		return hint(err, "shm info%s %s, or shm rm%[1]s %[2]s if nobody needs it", a.placeFlags(), shellQuote(name))
	}
	return err
}

// sortings are the orders that ls knows.
var sortings = map[string]func(a, b shm.Info) int{
	"name":     func(a, b shm.Info) int { return cmp.Compare(a.Name, b.Name) },
	"size":     func(a, b shm.Info) int { return cmp.Compare(b.Size, a.Size) },
	"resident": func(a, b shm.Info) int { return cmp.Compare(b.Resident, a.Resident) },
	"age":      func(a, b shm.Info) int { return b.Created.Compare(a.Created) },
}

func newLs(a *app) *cobra.Command {
	var long, reverse bool
	var order string
	cmd := &cobra.Command{
		Use:   "ls [PATTERN…]",
		Short: "List blocks",
		Long: `List the blocks that this user may see: name, size, how much of it occupies
memory, permissions, the process that owns it, what happens when that process
is gone, and age. Blocks that no program of this module made have the lifetime
"foreign": Python's, for example.

-l adds the user and the processes that have the block open or mapped.
PATTERN is a name with * ? [a-z], in quotes.`,
		Example: `  shm ls
  shm ls -l 'psm_*'
  shm ls --sort resident
  shm ls --json | jq '.blocks[] | select(.owner.alive | not) | .name'`,
		ValidArgsFunction: a.completeNames,
		RunE: func(_ *cobra.Command, args []string) error {
			less, ok := sortings[order]
			if !ok {
				return usageError{fmt.Errorf("--sort %q is not name, size, resident or age", order), "shm ls --help"}
			}
			for _, p := range args {
				if _, err := path.Match(p, ""); err != nil {
					return usageError{fmt.Errorf("%q is not a pattern: a [ has no ]", p), "shm ls --help"}
				}
			}
			dir, err := a.place()
			if err != nil {
				return err
			}
			blocks, err := dir.List()
			if err != nil {
				return a.listHint(err)
			}
			blocks = slices.DeleteFunc(blocks, func(b shm.Info) bool {
				return len(args) > 0 && !slices.ContainsFunc(args, func(p string) bool {
					ok, _ := path.Match(p, b.Name)
					return ok || p == b.Name
				})
			})
			slices.SortFunc(blocks, func(x, y shm.Info) int {
				c := cmp.Or(less(x, y), cmp.Compare(x.Name, y.Name))
				if reverse {
					c = -c
				}
				return c
			})
			return a.printList(dir, blocks, long)
		},
	}
	cmd.Flags().BoolVarP(&long, "long", "l", false, "show users and holders as well")
	cmd.Flags().StringVar(&order, "sort", "name", "order: name, size, resident (largest first), age (newest first)")
	cmd.Flags().BoolVarP(&reverse, "reverse", "r", false, "reverse the order")
	return cmd
}

// listHint adds to an error about listing what else there is.
func (a *app) listHint(err error) error {
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return hint(err, "shm info NAME   (this system does not list its shared memory)")
	case errors.Is(err, fs.ErrNotExist):
		return hint(err, "shm doctor%s", a.placeFlags())
	}
	return err
}

func (a *app) printList(dir shm.Dir, blocks []shm.Info, long bool) error {
	var seen *proc.Snapshot
	if long {
		var err error
		if seen, err = scanFor(blocks); err != nil && !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	if a.json {
		doc := struct {
			Dir     string     `json:"dir"`
			Blocks  []blockDoc `json:"blocks"`
			Refused *int       `json:"refused_processes,omitempty"`
		}{Dir: placeName(dir)}
		doc.Blocks, doc.Refused = docsOf(blocks, seen)
		return a.writeJSON(doc)
	}
	if len(blocks) == 0 {
		fmt.Fprintf(a.stderr, "no blocks in %s\n", placeName(dir))
		return nil
	}
	headings := []string{"NAME", ">SIZE", ">RESIDENT", "MODE", "OWNER", "LIFETIME", ">AGE"}
	if long {
		headings = append(headings, "USER", "HOLDERS")
	}
	t := a.newTable(headings...)
	now := time.Now()
	for _, b := range blocks {
		cells := []any{printable(b.Name), a.size(b.Size), a.size(b.Resident), modeText(b.Mode),
			ownerCell(b), lifetimeCell(b), age(b.Created, now)}
		if long {
			cells = append(cells, userName(b.UID), holdersText(seen, b))
		}
		t.row(cells...)
	}
	if err := t.flush(); err != nil {
		return err
	}
	a.noteRefused(seen)
	return nil
}

func ownerCell(b shm.Info) cell {
	switch {
	case b.Owner == shm.Owner{}:
		return cell{dim, "-"}
	case b.Owner.Alive:
		return cell{green, strconv.Itoa(b.Owner.PID)}
	}
	return cell{red, strconv.Itoa(b.Owner.PID) + " dead"}
}

// hiddenFromUs says that a block is another user's, whose journal is not ours
// to read: it looks foreign then, and may not be.
func hiddenFromUs(b shm.Info) bool {
	me := os.Geteuid()
	return b.Foreign && me > 0 && b.UID != me
}

func lifetimeCell(b shm.Info) cell {
	if hiddenFromUs(b) {
		return cell{dim, "?"}
	}
	if b.Foreign {
		return cell{dim, "foreign"}
	}
	text := b.Lifetime.String()
	if b.KeepName {
		text += ", keeps name"
	}
	return cell{plain, text}
}

func userName(uid int) string {
	if uid < 0 {
		return "-"
	}
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return strconv.Itoa(uid)
	}
	return u.Username
}

// scanFor finds the holders of blocks.
func scanFor(blocks []shm.Info) (*proc.Snapshot, error) {
	wanted := make(map[proc.Key]bool, len(blocks))
	for _, b := range blocks {
		wanted[keyOf(b)] = true
	}
	return proc.Scan(func(k proc.Key) bool { return wanted[k] })
}

func keyOf(b shm.Info) proc.Key { return proc.Key{Dev: b.Device, Ino: b.Inode} }

func holdersOf(seen *proc.Snapshot, b shm.Info) []proc.Holder {
	if seen == nil {
		return nil
	}
	if o := seen.Objects[keyOf(b)]; o != nil {
		return o.Holders
	}
	return []proc.Holder{}
}

// holdersText is "1234 python3, 1240 camd", or why there is no such list.
func holdersText(seen *proc.Snapshot, b shm.Info) string {
	if seen == nil {
		return "?"
	}
	var parts []string
	for _, h := range holdersOf(seen, b) {
		parts = append(parts, fmt.Sprintf("%d %s", h.PID, printable(h.Name)))
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, ", ")
}

// noteRefused says on stderr what the holders shown may lack.
func (a *app) noteRefused(seen *proc.Snapshot) {
	if text := refusedText(seen); text != "" {
		if os.Geteuid() != 0 {
			text += "; run as root to see all holders"
		}
		fmt.Fprintln(a.stderr, "note:", text)
	}
}

func refusedText(seen *proc.Snapshot) string {
	switch {
	case seen == nil || seen.Complete():
		return ""
	case seen.HidesPIDs:
		return "/proc hides the processes of other users (hidepid)"
	case seen.Refused == 1:
		return "1 process could not be looked into"
	}
	return fmt.Sprintf("%d processes could not be looked into", seen.Refused)
}

func newRm(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "rm NAME…",
		Aliases: []string{"unlink"},
		Short:   "Remove blocks",
		Long: `Take away the names of blocks. Processes that have a block mapped keep its
memory until they let go; nobody else can open it any more.`,
		Example: `  shm rm cam0
  shm rm -f cam0 cam1`,
		ValidArgsFunction: a.completeNames,
		Args:              atLeast(1, "at least one name"),
		RunE: func(_ *cobra.Command, names []string) error {
			dir, err := a.place()
			if err != nil {
				return err
			}
			removed := []string{}
			var errs []error
			for _, name := range names {
				switch err := a.remove(dir, name); {
				case err == nil:
					removed = append(removed, name)
				case force && errors.Is(err, fs.ErrNotExist):
				default:
					errs = append(errs, err)
				}
			}
			if a.json {
				doc := struct {
					Removed []string `json:"removed"`
					Failed  []string `json:"failed"`
				}{removed, []string{}}
				for _, err := range errs {
					doc.Failed = append(doc.Failed, err.Error())
				}
				if err := a.writeJSON(doc); err != nil {
					return err
				}
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "a block that is not there is no error")
	return cmd
}

// remove unlinks one block.
func (a *app) remove(dir shm.Dir, name string) error {
	info, statErr := dir.Stat(name)
	if err := dir.Unlink(name); err != nil {
		return err
	}
	if statErr == nil && info.KeepName && info.Owner.Alive {
		return hint(fmt.Errorf("%s: its owner, process %d, brings the name back whenever another takes it away", printable(name), info.Owner.PID),
			"kill %d, then shm prune%s", info.Owner.PID, a.placeFlags())
	}
	return nil
}
