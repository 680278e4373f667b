package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/platform/proc"
	"github.com/sharedmem/shm/list"
)

func newInfo(a *app) *cobra.Command {
	var python, summary bool
	cmd := &cobra.Command{
		Use:     "info NAME…",
		Aliases: []string{"stat"},
		Short:   "Show all about a block, or how to open it in Python",
		Long: `Show a block's size, permissions and owner, how much of it occupies memory,
what it holds if that can be told, the locks of package lock in its first mebibyte
with who holds them, and which processes have it open or mapped; of a ring or
topic who takes part.

Of an array, a block that begins with a .npy header, it shows type and shape and
looks through the elements: smallest, largest, mean, how many are NaN; of
structures up to 8 fields. Those of more than 256 MiB it leaves alone unless told
--summary; --summary=false leaves all alone.

--python prints instead the lines that open it in Python without losing it, a
list as a ShareableList:
Python, up to 3.12 always and since then by default, removes a block when any
process that opened it exits.`,
		Example: `  shm info cam0
  shm info --python cam0
  shm info --json cam0 | jq '.blocks[0].holders'
  shm info --json weights | jq '.blocks[0].array.summary[0].mean'`,
		ValidArgsFunction: a.completeNames,
		Args:              atLeast(1, "a name"),
		RunE: func(cmd *cobra.Command, names []string) error {
			dir, err := a.place()
			if err != nil {
				return err
			}
			var blocks []shm.Info
			var errs []error
			for _, name := range names {
				if b, err := dir.Stat(name); err != nil {
					errs = append(errs, err)
				} else {
					blocks = append(blocks, b)
				}
			}
			switch {
			case len(blocks) == 0 && !a.json:
			case python:
				err = a.printPython(blocks)
			default:
				var force *bool
				if cmd.Flags().Changed("summary") {
					force = &summary
				}
				err = a.printInfo(cmd.Context(), blocks, force)
			}
			if err != nil {
				return err
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVar(&python, "python", false, "print the lines that open the block in Python")
	cmd.Flags().BoolVar(&summary, "summary", false, "look through an array's elements however large it is; =false: never (default: up to 256 MiB)")
	return cmd
}

// printInfo prints all about blocks. force is --summary: nil if not given.
func (a *app) printInfo(ctx context.Context, blocks []shm.Info, force *bool) error {
	seen, err := scanFor(blocks)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	if a.json {
		doc := struct {
			Blocks  []blockDoc `json:"blocks"`
			Refused *int       `json:"refused_processes,omitempty"`
		}{}
		doc.Blocks, doc.Refused = docsOf(blocks, seen)
		for i, b := range blocks {
			doc.Blocks[i].Locks = locksOf(b)
			switch b.Kind {
			case "list":
				doc.Blocks[i].List, _ = listOf(b) // absent if it cannot be told
			case "ring":
				doc.Blocks[i].Ring, _ = rings.look(b.Dir, b.Name)
			case "topic":
				doc.Blocks[i].Topic, _ = topics.look(b.Dir, b.Name)
			case "npy":
				array, _, err := a.npyOf(ctx, b, force)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if doc.Blocks[i].Array = array; err != nil {
					doc.Blocks[i].ArrayError = a.npyError(err)
				}
			}
		}
		return a.writeJSON(doc)
	}
	for i, b := range blocks {
		if i > 0 {
			fmt.Fprintln(a.stdout)
		}
		if err := a.printOne(ctx, b, seen, force); err != nil {
			return err
		}
	}
	a.noteRefused(seen)
	return nil
}

// printOne prints a block as lines of "what: value", which are easy to read
// and to grep.
func (a *app) printOne(ctx context.Context, b shm.Info, seen *proc.Snapshot, force *bool) error {
	t := a.newTable("", "")
	line := func(what string, value any) { t.row(cell{bold, what + ":"}, value) }
	line("name", printable(b.Name))
	if p := pathOf(b); p != "" {
		line("path", printable(p))
	}
	size := a.size(b.Size)
	if !a.exact && b.Size >= 1024 {
		size += fmt.Sprintf(" (%d bytes)", b.Size)
	}
	line("size", size)
	resident := a.size(b.Resident)
	if b.Size > 0 && !a.exact {
		resident += fmt.Sprintf(" (%d%%)", min(100, b.Resident*100/b.Size))
	}
	line("resident", resident)
	line("mode", modeText(b.Mode))
	if b.UID >= 0 {
		line("user", fmt.Sprintf("%s (%d)", userName(b.UID), b.UID))
	}
	if !b.Created.IsZero() {
		line("created", b.Created.Local().Format(time.DateTime)+" ("+age(b.Created, time.Now())+" ago)")
	}
	switch {
	case hiddenFromUs(b):
		line("lifetime", "unknown: another user's")
	case b.Foreign:
		line("lifetime", "foreign: another program's, so nothing is known of its owner")
	case b.Lifetime == shm.Persistent:
		line("lifetime", "persistent: stays until it is removed")
	case b.Lifetime == shm.Tracked:
		line("lifetime", "tracked: removed as soon as its owner is gone")
	default:
		line("lifetime", "owned: removed when its owner is gone")
	}
	if b.KeepName {
		line("keeps name", "yes: only its owner can remove it")
	}
	switch {
	case b.Owner == shm.Owner{}:
		line("owner", "none")
	case b.Owner.Alive:
		line("owner", cell{green, fmt.Sprintf("process %d, alive", b.Owner.PID)})
	default:
		line("owner", cell{red, fmt.Sprintf("process %d, dead: shm prune removes the block", b.Owner.PID)})
	}
	switch {
	case b.Kind == "list":
		if l, err := listOf(b); err != nil {
			line("kind", cell{red, "list, but " + oneLine(a.message(err))})
		} else {
			line("kind", "list of "+l.String())
		}
	case b.Kind == "npy":
		array, texts, err := a.npyOf(ctx, b, force)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			line("kind", cell{red, "npy, but " + a.npyError(err)})
		} else {
			line("kind", "npy: an array")
		}
		if array != nil {
			what, text := array.lines(a, b, texts)
			for i := range what {
				line(what[i], text[i])
			}
		}
	case b.Kind == "ring", b.Kind == "topic":
		text, look := "ring: a queue of messages", rings.look
		if b.Kind == "topic" {
			text, look = "topic: messages that every subscriber reads", topics.look
		}
		d, err := look(b.Dir, b.Name)
		if err != nil {
			line("kind", cell{red, b.Kind + ", but " + oneLine(a.message(err))})
			break
		}
		line("kind", text)
		f := d.facts(a, holdersOf(seen, b))
		for i, what := range f.what {
			line(what, f.text[i])
		}
	case b.Kind != "":
		line("kind", printable(b.Kind))
	}
	for i, l := range locksOf(b) {
		what := ""
		if i == 0 {
			what = "locks:"
		}
		t.row(cell{bold, what}, lockText(l, holdersOf(seen, b)))
	}
	switch {
	case seen == nil:
		line("holders", "this system does not tell")
	case len(holdersOf(seen, b)) == 0:
		line("holders", "none")
	default:
		what := "holders:"
		for _, h := range holdersOf(seen, b) {
			t.row(cell{bold, what}, holderText(a, h))
			what = ""
		}
	}
	return t.flush()
}

func holderText(a *app, h proc.Holder) string {
	s := fmt.Sprintf("%d %s", h.PID, printable(h.Name))
	if h.UID >= 0 {
		s += " of " + userName(h.UID)
	}
	var has []string
	if h.Mapped > 0 {
		has = append(has, a.size(h.Mapped)+" mapped")
	}
	if h.Open > 0 {
		has = append(has, "open")
	}
	return s + " (" + strings.Join(has, ", ") + ")"
}

// printPython prints Python that opens each block. It is a program as it
// stands, so that it can be piped into a file or an interpreter.
func (a *app) printPython(blocks []shm.Info) error {
	var w strings.Builder
	for _, b := range blocks {
		var l *listDoc
		if b.Kind == "list" {
			l, _ = listOf(b)
		}
		// Python runs inside the container, where the folder has its own name.
		if a.pid != 0 {
			if b.Dir = a.inside(b.Dir); b.Dir == "/dev/shm" {
				b.Dir = ""
			}
		}
		pythonLines(&w, b, l)
	}
	if a.json {
		return a.writeJSON(struct {
			Python string `json:"python"`
		}{w.String()})
	}
	_, err := io.WriteString(a.stdout, w.String())
	return err
}

// pythonLines prints them for one. l is what is known of the list in it.
func pythonLines(w *strings.Builder, b shm.Info, l *listDoc) {
	switch {
	case b.Kind == "list" && b.Dir == "":
		pythonListLines(w, b, l)
		return
	case b.Kind == "ring", b.Kind == "topic":
		pythonPartyLines(w, b)
		return
	}
	name, path := pythonString(b.Name), pythonString(pathOf(b))
	line := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	line("# %s, %d bytes", pythonComment(b.Name), b.Size)
	if b.Dir == "" {
		line("import sys")
		line("from multiprocessing import resource_tracker, shared_memory")
		line("")
		line("# Without this care the block goes away when this process exits.")
		line("if sys.version_info >= (3, 13):")
		line("    block = shared_memory.SharedMemory(%s, track=False)", name)
		line("else:")
		line("    block = shared_memory.SharedMemory(%s)", name)
		line("    # Not in a child of multiprocessing: it shares its parent's tracker.")
		line("    resource_tracker.unregister(block._name, \"shared_memory\")")
	} else {
		// SharedMemory knows only the system's place.
		line("import mmap")
		line("import types")
		line("")
		line("with open(%s, \"r+b\") as f:", path)
		line("    block = types.SimpleNamespace(buf=memoryview(mmap.mmap(f.fileno(), 0)))")
	}
	line("data = block.buf[:%d]  # bytes: bytes(data), data[0] = 1", b.Size)
	line("")
	switch b.Kind {
	case "list":
		line("# The block holds a ShareableList, which Python opens in the system's place only.")
	case "npy":
		line("# NumPy, as the block holds a .npy file")
		line("# import io, numpy as np")
		line("# f = io.BytesIO(data[:4096]); version = np.lib.format.read_magic(f)")
		line("# shape, fortran, dtype = (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(f)")
		line("# a = np.ndarray(shape, dtype, data, offset=f.tell(), order=\"F\" if fortran else \"C\")")
	default:
		line("# NumPy, no copy")
		line("# import numpy as np")
		line("# a = np.frombuffer(data, dtype=np.uint8)")
	}
	line("")
	line("# torch, no copy")
	line("# import torch")
	line("# t = torch.frombuffer(data, dtype=torch.uint8)")
	if b.Dir != "" || pathOf(b) != "" {
		line("")
		line("# read-only, for a user who may not write; nothing to unregister")
		line("# import mmap")
		line("# with open(%s, \"rb\") as f:", path)
		line("#     data = memoryview(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ))")
	}
	if b.Dir == "" {
		line("")
		line("# at the end: del every view and array, then")
		line("# data.release(); block.close()")
	}
}

func pythonListLines(w *strings.Builder, b shm.Info, l *listDoc) {
	line := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	line("# %s, %d bytes", pythonComment(b.Name), b.Size)
	if l != nil {
		line("# a list of %v", *l)
		if l.Layout == list.Python38.String() {
			line("# Only CPython 3.8 reads this layout; later ones fail, or read nonsense.")
		}
		if l.Exact {
			line("# Do not assign text or bytes here: Python cuts them off at the length of the old ones.")
		}
		if l.Concurrent {
			line("# Python takes no part in what makes it concurrent: what it assigns may be seen half done.")
		}
	}
	name := pythonString(b.Name)
	if runtime.GOOS == "windows" { // a block goes with the last process that has it open
		line("from multiprocessing.shared_memory import ShareableList")
		line("")
		line("items = ShareableList(name=%s)", name)
	} else {
		line("from multiprocessing import resource_tracker")
		line("from multiprocessing.shared_memory import ShareableList")
		line("")
		line("items = ShareableList(name=%s)", name)
		line("# Without this care the block goes away when this process exits: ShareableList")
		line("# knows no track=False. Not in a child of multiprocessing: it shares its")
		line("# parent's tracker.")
		line("resource_tracker.unregister(items.shm._name, \"shared_memory\")")
	}
	line("")
	line("# print(list(items)); items[0] = 1")
	line("# at the end: items.shm.close()")
}

// pythonPartyLines are for a ring or topic, which nobody should write to by hand.
func pythonPartyLines(w *strings.Builder, b shm.Info) {
	line := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	where := pythonString(b.Name)
	if b.Dir != "" {
		where += ", directory=" + pythonString(b.Dir)
	}
	line("# %s, a %s of %d bytes", pythonComment(b.Name), b.Kind, b.Size)
	if b.Kind == "ring" {
		line("# shm_ring.py and shm_lock.py are in interop/python of the module, to be copied.")
		line("from shm_ring import Ring")
		line("")
		line("ring = Ring(%s)", where)
		line("# with ring.receiver() as r: print(r.receive(timeout=1))")
		line("# with ring.sender() as s: s.send(b\"hello\")")
		line("# at the end: ring.close()")
		return
	}
	line("# shm_topic.py, shm_ring.py and shm_lock.py are in interop/python of the module, to be copied.")
	line("from shm_topic import Topic")
	line("")
	line("topic = Topic(%s)", where)
	line("# with topic.subscriber() as s: print(s.receive(timeout=1), s.missed)")
	line("# with topic.publisher() as p: p.publish(b\"hello\")")
	line("# print(topic.latest())")
	line("# at the end: topic.close()")
}

// pythonString writes a Python literal. Go's quoting is Python's, but for what
// is not UTF-8 and for characters beyond the first plane, which it writes alike.
func pythonString(s string) string { return strconv.Quote(s) }

// pythonComment keeps a name inside its comment.
func pythonComment(s string) string { return printable(s) }
