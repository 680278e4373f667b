package cli

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array/npz"
	"github.com/sharedmem/shm/internal/npy"
)

// checkedNPY is a source that, if it begins as a .npy file, has to be one: whole,
// and of elements that can be shared. Whether it was is known at its end, when
// no block has its name yet.
type checkedNPY struct {
	r    io.Reader
	n    int64        // bytes that came
	head bytes.Buffer // the first of them, until it is known what they are
	over bool         // nothing is to be found out any more
	need int64        // bytes that header and elements take
}

func (c *checkedNPY) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if !c.over {
		c.head.Write(p[:n])
		if bad := c.look(err != nil); bad != nil {
			return 0, bad
		}
	}
	if errors.Is(err, io.EOF) && c.n < c.need {
		return 0, fmt.Errorf("%w: its header and elements take %d bytes, and %d came", npy.ErrHeader, c.need, c.n)
	}
	return n, err
}

// look looks for a header in what came so far. end says that nothing follows.
func (c *checkedNPY) look(end bool) error {
	p := c.head.Bytes()
	if !bytes.HasPrefix([]byte(npy.Magic), p[:min(len(p), len(npy.Magic))]) || len(p) < len(npy.Magic) && end {
		c.over = true
		return nil
	}
	length, _, err := npy.Length(p)
	if len(p) < 12 && !end || err == nil && len(p) < length && !end {
		return nil // more is to come
	}
	c.over = true
	if err != nil {
		return err
	}
	h, err := npy.Parse(p, -1)
	if err != nil {
		return err
	}
	c.need = int64(h.Offset) + int64(h.Bytes())
	return nil
}

// checkNPY looks at the one source of put beforehand if it is a file, so that it
// can be copied as fast as any other. It returns what else to read from.
func (a *app) checkNPY(in *inputs, paths []string) (io.Reader, error) {
	r := a.fastest(in)
	f := file(r)
	if f == nil {
		return &checkedNPY{r: r}, nil
	}
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return &checkedNPY{r: r}, nil
	}
	var magic [len(npy.Magic)]byte
	if n, _ := f.ReadAt(magic[:], at); n < len(magic) || string(magic[:]) != npy.Magic {
		for _, p := range paths {
			if strings.EqualFold(filepath.Ext(p), ".npy") {
				fmt.Fprintf(a.stderr, "shm: %s is no .npy file, whatever its name; the block holds it as it is\n", printable(p))
			}
		}
		return r, nil
	}
	_, head, err := npy.Read(io.NewSectionReader(f, at, in.size))
	if err == nil {
		_, err = npy.Parse(head, int(in.size))
	}
	return r, err
}

// npyHint says what to do about a file that is no good .npy.
func npyHint(err error, name string) error {
	if errors.Is(err, npy.ErrHeader) || errors.Is(err, npy.ErrDType) {
		return hint(fmt.Errorf("put %s: it begins as a .npy file, but %w", printable(name), err), "shm put --raw %s FILE   (keeps it as it is)", shellQuote(name))
	}
	return err
}

// putNPZ makes a block of each array in an archive: NAME.array.
func (a *app) putNPZ(ctx context.Context, dir shm.Dir, name, path string, replace bool, opts *shm.CreateOptions) (err error) {
	f, err := npz.Open(path)
	if err != nil {
		return hint(err, "unzip -l %s", shellQuote(path))
	}
	defer f.Close()
	names := f.Names()
	if len(names) == 0 {
		return hint(fmt.Errorf("%s holds no arrays", printable(path)), "unzip -l %s", shellQuote(path))
	}
	var total int64
	blocks := map[string]string{}
	for _, member := range names {
		// A slash, which NumPy allows, cannot stand in a block's name.
		block := name + "." + strings.ReplaceAll(member, "/", ".")
		if other, twice := blocks[block]; twice {
			return fmt.Errorf("%s: the arrays %s and %s would both become the block %s", printable(path), printable(other), printable(member), printable(block))
		}
		blocks[block] = member
		info, err := f.Info(member)
		if err != nil {
			return hint(err, "unzip -t %s", shellQuote(path))
		}
		n := int64(info.ItemSize)
		for _, k := range info.Shape {
			n *= int64(k)
		}
		total += n + int64(info.Offset)
		if _, err := dir.Stat(block); err == nil && !replace {
			return hint(&shm.Error{Op: "create", Name: block, Err: fs.ErrExist}, "shm put --npz --replace%s %s %s", a.placeFlags(), shellQuote(name), shellQuote(path))
		}
	}
	if err := a.roomFor(dir, total); err != nil {
		return err
	}
	var done atomic.Int64
	stop := a.progress("put "+printable(name), total, done.Load)
	defer stop()
	var made []string
	defer func() {
		if err == nil {
			return
		}
		for _, block := range made { // all of them or none
			err = errors.Join(err, dir.Unlink(block))
		}
	}()
	for _, member := range names {
		block := name + "." + strings.ReplaceAll(member, "/", ".")
		if replace {
			if err := dir.Unlink(block); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		r, _, err := f.Member(member)
		if err != nil {
			return hint(err, "unzip -t %s", shellQuote(path))
		}
		err = interruptible(ctx, func() error {
			b, err := shm.CreateFrom(block, &counted{ctx, r, &done}, opts)
			if err != nil {
				return err
			}
			return b.Close()
		})
		err = errors.Join(err, r.Close())
		if errors.Is(err, shm.ErrFormat) {
			err = hint(err, "unzip -t %s", shellQuote(path))
		}
		if err != nil {
			return err
		}
		made = append(made, block)
	}
	stop()
	if !a.json {
		for _, block := range made {
			fmt.Fprintln(a.stdout, printable(block))
		}
		return nil
	}
	docs := []blockDoc{}
	for _, block := range made {
		info, err := dir.Stat(block)
		if err != nil {
			return err
		}
		docs = append(docs, docOf(info))
	}
	return a.writeJSON(struct {
		Blocks []blockDoc `json:"blocks"`
	}{docs})
}

// counted counts what is read, and ends with its context.
type counted struct {
	ctx  context.Context
	r    io.Reader
	done *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.done.Add(int64(n))
	return n, err
}

// catNPZ writes an archive of the arrays that args name: MEMBER=BLOCK; BLOCK; or
// what put --npz was given, which stands for all its blocks.
func (a *app) catNPZ(ctx context.Context, dir shm.Dir, args []string, deflate bool) error {
	if isTerminal(a.stdout) {
		return hint(errors.New("an archive is nothing for a terminal"), "shm cat --npz%s %s > arrays.npz", a.placeFlags(), shellQuote(args[0]))
	}
	all, err := dir.List()
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b shm.Info) int { return strings.Compare(a.Name, b.Name) })
	there := map[string]bool{}
	for _, b := range all {
		there[b.Name] = true
	}
	type pair struct{ member, block string }
	var pairs []pair
	for _, arg := range args {
		member, block, named := strings.Cut(arg, "=")
		before := len(pairs)
		switch {
		case there[arg]:
			pairs = append(pairs, pair{arg, arg})
		case named:
			pairs = append(pairs, pair{member, block})
		default:
			for _, b := range all {
				if rest, ok := strings.CutPrefix(b.Name, arg+"."); ok && rest != "" {
					pairs = append(pairs, pair{rest, b.Name})
				}
			}
			if len(pairs) == before {
				return &shm.Error{Op: "open", Name: arg, Err: fs.ErrNotExist}
			}
		}
	}
	// All are opened before anything is written, so that a wrong name leaves no
	// half of an archive.
	var arrays []*elements
	defer func() {
		for _, e := range arrays {
			e.close()
		}
	}()
	var total int64
	for _, p := range pairs {
		e, err := a.openElements(ctx, p.block, &arrayFlags{order: "C"})
		if err != nil {
			return err
		}
		arrays = append(arrays, e)
		total += int64(e.head.Offset) + int64(e.head.Bytes())
	}
	var done atomic.Int64
	stop := a.progress("cat "+printable(args[0]), total, done.Load)
	defer stop()
	w := npz.NewWriter(a.stdout)
	w.Deflate = deflate
	return interruptible(ctx, func() error {
		for i, e := range arrays {
			e.done = func(n int64) { done.Add(n) }
			if err := w.Add(pairs[i].member, fileOf{e}); err != nil {
				return err
			}
		}
		return w.Close()
	})
}

// fileOf is the .npy file in a block, as it is, without what lies behind it.
type fileOf struct{ e *elements }

func (f fileOf) WriteNPY(w io.Writer) (int64, error) {
	buf := make([]byte, 256<<10)
	var at int64
	end := int64(f.e.head.Offset) + int64(f.e.head.Bytes())
	for at < end {
		p := buf[:min(end-at, int64(len(buf)))]
		if err := f.e.fill(p, at); err != nil {
			return at, err
		}
		n, err := w.Write(p)
		if at += int64(n); err != nil {
			return at, err
		}
	}
	return at, nil
}

// noteNPZ says what else can be done with an archive that is put as it is.
func (a *app) noteNPZ(name string, paths []string) {
	if len(paths) != 1 || !strings.EqualFold(filepath.Ext(paths[0]), ".npz") {
		return
	}
	f, err := os.Open(paths[0])
	if err != nil {
		return
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil {
		if _, err := zip.NewReader(f, info.Size()); err == nil {
			fmt.Fprintf(a.stderr, "shm: the block holds the archive itself; a block of each array: shm put --npz %s %s\n", shellQuote(name), shellQuote(paths[0]))
		}
	}
}
