package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/platform/mem"
)

func init() { verbs = append(verbs, newPut, newCat) }

const (
	// What cat has the kernel copy between two looks at the context: some 5 ms.
	piece = 16 << 20
	// How long an interrupted transfer has to stop by itself. It needs that only
	// where nothing interrupts it: a read from a terminal.
	grace = time.Second
)

func newPut(a *app) *cobra.Command {
	var opts shm.CreateOptions
	opts.Lifetime = shm.Persistent
	var replace, raw, archive bool
	cmd := &cobra.Command{
		Use:   "put NAME [FILE…]",
		Short: "Move standard input or files into a new block",
		Long: `Make the block NAME of what the files hold, one after the other, or of
standard input, which FILE "-" means too. The block is exactly as large as what
came, appears under its name only when all of it is there, and stays until
somebody removes it.

What begins as a .npy file, NumPy's, becomes a block that describes itself (see
shm array), and is refused if it is cut off, or says what is not so; --raw takes
that too. --npz makes a block of each array in an archive of numpy.savez:
NAME.array, all of them or none.`,
		Example: `  shm put model.bin model.bin
  zstd -dc model.zst | shm put model.bin
  shm put weights weights.npy
  shm put --npz model model.npz
  shm put --replace table header.bin rows.bin`,
		Args: atLeast(1, "a name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, err := a.place()
			if err != nil {
				return err
			}
			opts.Dir = string(dir)
			name := args[0]
			if name == "" {
				return fmt.Errorf("%w: it is empty", shm.ErrName)
			}
			if archive {
				if len(args) != 2 || args[1] == "-" || raw {
					return usageError{errors.New("--npz wants NAME and one file, which it reads here and there"), "shm put --npz NAME FILE.npz"}
				}
				return a.putNPZ(cmd.Context(), dir, name, args[1], replace, &opts)
			}
			in, err := a.openInputs(cmd.Context(), name, args[1:])
			if err != nil {
				return err
			}
			defer in.close()
			source := a.fastest(in)
			if !raw {
				if source, err = a.checkNPY(in, args[1:]); err != nil {
					return npyHint(err, name)
				}
			}
			if replace {
				if err := dir.Unlink(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			} else if _, err := dir.Stat(name); err == nil {
				// Better now than after a gigabyte.
				return a.existsHint(&shm.Error{Op: "create", Name: name, Err: fs.ErrExist}, name)
			}
			if err := a.roomFor(dir, in.size); err != nil {
				return err
			}
			stop := func() {}
			if !in.typed() {
				stop = a.progress("put "+printable(name), in.size, in.done.Load)
			}
			defer stop()
			err = interruptible(cmd.Context(), func() error {
				b, err := shm.CreateFrom(name, source, &opts)
				if err != nil {
					return err
				}
				return b.Close()
			})
			stop()
			switch {
			case errors.Is(err, mem.ErrEmpty):
				return hint(fmt.Errorf("%s: nothing came in, and a block has at least one byte", printable(name)), "shm create %s SIZE", shellQuote(name))
			case err != nil:
				return npyHint(a.existsHint(err, name), name)
			case a.json:
				return a.printMade(dir, name)
			}
			a.noteNPZ(name, args[1:])
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&raw, "raw", false, "take the bytes as they are, whatever they begin with")
	f.BoolVar(&archive, "npz", false, "make a block of each array in the archive FILE")
	f.Var(newValue(&opts.Mode, "MODE", "0600", parseMode), "mode", "permission bits, whatever the umask")
	f.BoolVar(&replace, "replace", false, "remove the block that has the name first")
	return cmd
}

// roomFor refuses at once what would fail after gigabytes. Create's own checks
// follow as the block grows.
func (a *app) roomFor(dir shm.Dir, size int64) error {
	space, err := mem.SpaceOf(string(dir))
	if err != nil || space.Size == 0 || size <= space.Free {
		return nil
	}
	return &mem.NoSpaceError{Asked: size, Free: space.Free, Where: placeName(dir)}
}

// inputs are the sources of put, as one reader that counts.
type inputs struct {
	ctx   context.Context
	files []io.Reader
	own   []*os.File // those of files that we opened
	size  int64      // bytes of all; 0 if unknown
	done  atomic.Int64
}

// openInputs opens all sources before anything is made.
func (a *app) openInputs(ctx context.Context, name string, paths []string) (*inputs, error) {
	in := &inputs{ctx: ctx}
	if len(paths) == 0 {
		if isTerminal(a.stdin) {
			return nil, usageError{errors.New("standard input is a terminal, and no file is given"), "shm put " + shellQuote(name) + " FILE"}
		}
		paths = []string{"-"}
	}
	known := true
	for _, p := range paths {
		r := a.stdin
		if p != "-" {
			f, err := os.Open(p)
			if err != nil {
				in.close()
				return nil, hint(err, "ls -l %s", shellQuote(p))
			}
			r, in.own = f, append(in.own, f)
		}
		in.files = append(in.files, r)
		size, ok := regular(r)
		if ok && size < 0 {
			in.close()
			return nil, hint(fmt.Errorf("%s is a directory", printable(p)), "tar c %s | shm put %s", shellQuote(p), shellQuote(name))
		}
		known = known && ok
		in.size += size
	}
	if !known {
		in.size = 0
	}
	return in, nil
}

// regular returns how much of a file is left to read, -1 for a directory. ok is
// false for what has no size: pipes, terminals, devices, files of /proc.
func regular(r io.Reader) (size int64, ok bool) {
	f := file(r)
	if f == nil {
		return 0, false
	}
	fi, err := f.Stat()
	switch {
	case err != nil:
		return 0, false
	case fi.IsDir():
		return -1, true
	case !fi.Mode().IsRegular() || fi.Size() == 0:
		return 0, false
	}
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, false
	}
	return max(fi.Size()-at, 0), true
}

// fastest returns what to copy from. A single file goes as it is, as the kernel
// then copies from file to file and spares a third of the work; but it does a
// gigabyte in one call, which would leave a bar standing still.
func (a *app) fastest(in *inputs) io.Reader {
	if len(in.files) == 1 && in.size > 0 && !isTerminal(a.stderr) {
		return in.files[0]
	}
	return in
}

// typed says whether somebody types the bytes, whom a bar would disturb.
func (in *inputs) typed() bool {
	return slices.ContainsFunc(in.files, func(r io.Reader) bool { return isTerminal(r) })
}

func (in *inputs) Read(p []byte) (int, error) {
	for len(in.files) > 0 {
		if err := in.ctx.Err(); err != nil {
			return 0, err
		}
		n, err := in.files[0].Read(p)
		in.done.Add(int64(n))
		if err == io.EOF {
			in.files, err = in.files[1:], nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.EOF
}

// close closes the files that openInputs opened.
func (in *inputs) close() {
	for _, f := range in.own {
		f.Close()
	}
}

// interruptible runs f and returns when it does, or soon after ctx ends. What f
// has not finished then is given up, with whatever it made: no block has its
// name before it is complete.
func interruptible(ctx context.Context, f func() error) error {
	result := make(chan error, 1)
	go func() { result <- f() }()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-result:
		return err
	case <-time.After(grace):
		return ctx.Err()
	}
}

func newCat(a *app) *cobra.Command {
	var offset int64
	var archive, deflate bool
	length := int64(-1)
	cmd := &cobra.Command{
		Use:   "cat NAME…",
		Short: "Write the bytes of blocks to standard output",
		Long: `Write the bytes of blocks to standard output, one block after the other.
--offset and --length pick a part of each. A block that holds an array is a .npy
file as it is.

--npz writes one archive instead, as numpy.savez does: of BLOCK, under its name;
of MEMBER=BLOCK, under that name; or of NAME, which shm put --npz was given, with
all arrays that it has made.

The bytes are those that are there when they are written: other processes may
change them meanwhile.`,
		Example: `  shm cat model.bin > model.bin
  shm cat --offset 1M --length 64 cam0 | xxd
  shm cat table | shm put copy
  shm cat weights > weights.npy
  shm cat --npz model > model.npz
  shm cat --npz --deflate x=weights y=bias > both.npz`,
		ValidArgsFunction: a.completeNames,
		Args:              atLeast(1, "a name"),
		RunE: func(cmd *cobra.Command, names []string) error {
			if a.json {
				return usageError{errors.New("cat writes bytes and has no --json"), "shm info --json " + shellQuote(names[0])}
			}
			dir, err := a.place()
			if err != nil {
				return err
			}
			if archive {
				if offset != 0 || length >= 0 {
					return usageError{errors.New("--npz writes whole arrays, and knows no --offset and --length"), "shm cat --help"}
				}
				return a.catNPZ(cmd.Context(), dir, names, deflate)
			}
			if deflate {
				return usageError{errors.New("--deflate is for --npz"), "shm cat --npz --deflate " + shellQuote(names[0])}
			}
			var errs []error
			for _, name := range names {
				err := a.cat(cmd.Context(), dir, name, offset, length)
				if isBrokenPipe(err) || cmd.Context().Err() != nil {
					return err
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&archive, "npz", false, "write one archive of arrays, as numpy.savez does")
	f.BoolVar(&deflate, "deflate", false, "with --npz: compress, as numpy.savez_compressed does")
	f.Var(newValue(&offset, "SIZE", "0", parseSize), "offset", "begin so many bytes into the block")
	f.Var(newValue(&length, "SIZE", "", parseSize), "length", "write so many bytes at most (default: all)")
	return cmd
}

// cat writes part of a block; length -1 means up to its end.
func (a *app) cat(ctx context.Context, dir shm.Dir, name string, offset, length int64) error {
	b, err := shm.Open(name, &shm.OpenOptions{ReadOnly: true, Dir: string(dir)})
	if err != nil {
		return err
	}
	defer b.Close()
	size := int64(b.Size())
	if offset > size {
		return hint(fmt.Errorf("%s has %d bytes, so there is nothing at offset %d", printable(name), size, offset),
			"shm info%s %s", a.placeFlags(), shellQuote(name))
	}
	end := size
	if length >= 0 && length < size-offset {
		end = offset + length
	}
	if isTerminal(a.stdout) && end-offset > 1<<20 {
		return hint(fmt.Errorf("%s is %s, too much for a terminal", printable(name), a.size(end-offset)),
			"shm cat%s %s | xxd | less", a.placeFlags(), shellQuote(name))
	}
	source, err := reader(b, offset, end)
	if err != nil {
		return err
	}
	if c, ok := source.(io.Closer); ok {
		defer c.Close()
	}
	var done atomic.Int64
	if !isTerminal(a.stdout) {
		defer a.progress("cat "+printable(name), end-offset, done.Load)()
	}
	return interruptible(ctx, func() error {
		move := a.mover()
		for left := end - offset; left > 0; {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := move(source, min(left, piece))
			left -= n
			done.Add(n)
			if errors.Is(err, io.EOF) {
				err = &shm.Error{Op: "read", Name: name, Err: shm.ErrTruncated}
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// reader returns bytes offset to end of a block. They come from its file where
// it has one: reading a hole in the mapping would make the kernel put memory
// there, and the blocks of Python consist of holes until they are written to.
func reader(b *shm.Block, offset, end int64) (io.Reader, error) {
	f, err := b.File()
	if isUnsupported(err) {
		return io.NewSectionReader(b, offset, end-offset), nil
	}
	if err != nil {
		return nil, err
	}
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// mover returns how to get bytes to stdout, which gives io.EOF when there are
// fewer: from file to file within the kernel; into pipes, where io.Copy's own
// buffer costs twice the time, with one that fits the processor's cache.
func (a *app) mover() func(r io.Reader, n int64) (int64, error) {
	if f := file(a.stdout); f != nil {
		if fi, err := f.Stat(); err == nil && fi.Mode().IsRegular() {
			return func(r io.Reader, n int64) (int64, error) { return io.CopyN(f, r, n) }
		}
	}
	buf := make([]byte, 256<<10)
	return func(r io.Reader, n int64) (int64, error) {
		m, err := io.ReadFull(r, buf[:min(n, int64(len(buf)))])
		if err == io.ErrUnexpectedEOF {
			err = io.EOF
		}
		written, werr := a.stdout.Write(buf[:m])
		return int64(written), cmp.Or(werr, err)
	}
}
