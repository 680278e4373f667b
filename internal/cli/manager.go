package cli

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/conn"
	"github.com/sharedmem/shm/list"
	"github.com/sharedmem/shm/manager"
)

func init() { verbs = append(verbs, newManager) }

// addressForms is what an --address can be.
const addressForms = "--address unix:/run/me/socket, unix:@name or tcp:127.0.0.1:5000"

// keyHelp is the part of the help that serve and manager share.
const keyHelp = `The key comes from a file or the environment, never from an argument, which
every user of the machine could read. It is all bytes of the file or variable
but for line ends at its end, as in Python open(FILE, "rb").read().rstrip(b"\r\n").
A file that others than its owner may use is refused.`

// keyFlags say where the key is.
type keyFlags struct{ file, env string }

// authKeyEnv is where the key is if no flag says so.
const authKeyEnv = "SHM_AUTHKEY"

func (k *keyFlags) add(f interface {
	StringVar(p *string, name, value, usage string)
}) {
	f.StringVar(&k.file, "authkey-file", "", "the key is in `FILE`")
	f.StringVar(&k.env, "authkey-env", "", "the key is in the environment variable `NAME` (default "+authKeyEnv+")")
}

// noKeyFlag answers a flag error, with more than that if somebody gives a key
// as an argument.
func noKeyFlag(cmd *cobra.Command, err error) error {
	if err.Error() == "unknown flag: --authkey" {
		return usageError{
			errors.New("there is no --authkey: every user of the machine can read a program's arguments"),
			"--authkey-file FILE, or " + authKeyEnv + " in the environment",
		}
	}
	return usageError{err, cmd.CommandPath() + " --help"}
}

// authKey is a key and where it is from: file or env is set.
type authKey struct {
	bytes     []byte
	file, env string
}

// String says where it is from.
func (k authKey) String() string {
	if k.file != "" {
		return printable(k.file)
	}
	return "$" + k.env
}

// flags are what has another command use the same key.
func (k authKey) flags() string {
	switch {
	case k.file != "":
		return " --authkey-file " + shellQuote(absolute(k.file))
	case k.env != authKeyEnv:
		return " --authkey-env " + shellQuote(k.env)
	}
	return ""
}

// errNoKey says that neither flag nor environment name a key.
var errNoKey = errors.New("there is no key")

// read returns the key that the flags mean, or errNoKey.
func (k *keyFlags) read() (authKey, error) {
	if k.file != "" && k.env != "" {
		return authKey{}, usageError{errors.New("--authkey-file and --authkey-env exclude each other"), "one of the two"}
	}
	key := authKey{file: k.file}
	var err error
	if key.file != "" {
		key.bytes, err = readKeyFile(key.file)
	} else {
		key.env = cmp.Or(k.env, authKeyEnv)
		text, ok := os.LookupEnv(key.env)
		switch {
		case !ok && k.env != "":
			err = hint(fmt.Errorf("the environment has no %s", printable(key.env)), "--authkey-file FILE")
		case !ok:
			err = errNoKey
		}
		key.bytes = []byte(text)
	}
	if err != nil {
		return authKey{}, err
	}
	if key.bytes = bytes.TrimRight(key.bytes, "\r\n"); len(key.bytes) == 0 {
		return authKey{}, hint(fmt.Errorf("%v: the key is empty", key), "openssl rand -hex 32 >FILE; chmod 600 FILE")
	}
	return key, nil
}

// maxKey is far more than a key needs, and less than a wrong file may have.
const maxKey = 64 << 10

// readKeyFile returns what a file holds that nobody else may read.
func readKeyFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, hint(err, "ls -l %s", shellQuote(path))
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	// On Windows the bits say nothing. A pipe, as the shell's <(…) makes, is
	// nobody else's.
	if fi.Mode().IsRegular() && fi.Mode().Perm()&0o077 != 0 && runtime.GOOS != "windows" {
		return nil, hint(fmt.Errorf("%s: others may use the key, its mode is %s", printable(path), modeText(fi.Mode())), "chmod 600 %s", shellQuote(path))
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKey+1))
	if err == nil && len(b) > maxKey {
		err = fmt.Errorf("%s: more than %d bytes are no key", printable(path), maxKey)
	}
	return b, err
}

// createKeyFile makes a file with a new key, which is text, as some tools drop
// what is none. A file that is there is fs.ErrExist.
func createKeyFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	_, err = io.WriteString(f, hex.EncodeToString(key)+"\n")
	if err = errors.Join(err, f.Close()); err != nil {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// managerFlags are those of all verbs of manager.
type managerFlags struct {
	address string
	key     keyFlags
	timeout time.Duration

	used authKey // what with has found
}

func newManager(a *app) *cobra.Command {
	f := &managerFlags{timeout: 10 * time.Second}
	cmd := &cobra.Command{
		Use:   "manager",
		Short: "Use a manager of blocks: shm serve's or a Python SharedMemoryManager",
		Long: `Ask the manager that listens at an address, in Go or in Python, for its blocks,
give it others, or shut it down. A manager owns blocks and removes them at its
end.

` + keyHelp,
		Example: `  shm manager ls --address unix:/run/me/socket --authkey-file key
  export SHM_AUTHKEY=$(cat key)
  shm manager create --address tcp:127.0.0.1:5000 64M
  shm manager shutdown --address unix:@name`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return usageError{fmt.Errorf("manager has no verb %q", args[0]), "shm manager --help"}
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.SetFlagErrorFunc(noKeyFlag)
	flags := cmd.PersistentFlags()
	flags.StringVar(&f.address, "address", "", "the manager listens at `ADDR`: unix:/path, unix:@name or tcp:host:port")
	f.key.add(flags)
	flags.Var(newValue(&f.timeout, "TIME", "10s", parseDuration), "timeout", "give up after that time")
	for _, sub := range []func(*app, *managerFlags) *cobra.Command{newManagerLs, newManagerCreate, newManagerTrack, newManagerRelease, newManagerShutdown} {
		cmd.AddCommand(sub(a, f))
	}
	return cmd
}

// with connects to the manager and calls do.
func (f *managerFlags) with(ctx context.Context, do func(context.Context, *manager.Manager) error) error {
	if f.address == "" {
		return usageError{errors.New("--address is missing: where does the manager listen?"), addressForms}
	}
	key, err := f.key.read()
	if errors.Is(err, errNoKey) {
		err = usageError{fmt.Errorf("%w: neither --authkey-file nor $%s", err, authKeyEnv), "--authkey-file FILE   (shm serve says where its key is)"}
	}
	if err != nil {
		return err
	}
	f.used = key
	timed, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	m, err := manager.Connect(timed, f.address, key.bytes)
	if err == nil {
		defer m.Close()
		err = do(timed, m)
	}
	return f.explain(err)
}

// explain puts an error of the connection in terms of the flags.
func (f *managerFlags) explain(err error) error {
	if _, ok := errors.AsType[hintError](err); ok || err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	key := f.used
	at := printable(f.address)
	op, onWire := errors.AsType[*net.OpError](err)
	dialed := onWire && op.Op == "dial"
	switch {
	case errors.Is(err, conn.ErrAddress):
		return usageError{err, addressForms}
	case errors.Is(err, conn.ErrAuth):
		return hint(fmt.Errorf("the key in %v is not that of %s: %w", key, at, conn.ErrAuth), "--authkey-file FILE   (shm serve says where its key is; a Python manager's is its authkey)")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return hint(fmt.Errorf("%s: no answer within %v", at, f.timeout), "--timeout 1m, if it is busy; or is it something else than a manager?")
	case dialed && errors.Is(err, fs.ErrPermission):
		return hint(fmt.Errorf("%s is not for this user: %w", at, fs.ErrPermission), "ls -l %s   (it says whose it is)", shellQuote(strings.TrimPrefix(f.address, "unix:")))
	case dialed && errors.Is(err, fs.ErrNotExist):
		return hint(fmt.Errorf("%s: there is no such socket", at), "shm serve --address %s%s   (if that is where it should be)", shellQuote(f.address), key.flags())
	case dialed:
		what := op.Err
		if errors.Is(err, syscall.ECONNREFUSED) {
			what = errors.New("nobody listens there")
		}
		return hint(fmt.Errorf("%s: %w", at, what), "shm serve --address %s%s   (if it has ended)", shellQuote(f.address), key.flags())
	case onWire, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		// Not the error itself: EPIPE would count as that of standard output.
		return hint(fmt.Errorf("%s: it hung up", at), "shm manager ls%s   (has it ended? is it a manager?)", f.flags())
	}
	return err
}

// flags repeats what was given, for hints that name a command.
func (f *managerFlags) flags() string {
	return " --address " + shellQuote(f.address) + f.used.flags()
}

// managedDoc is how --json shows a block of a manager.
type managedDoc struct {
	Name string `json:"name"`
	Size *int64 `json:"size,omitempty"` // absent if it is not here
}

func newManagerLs(a *app, f *managerFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the blocks of a manager",
		Long: `List the blocks that a manager has, in the order in which it got them, with the
sizes of those that are on this machine.`,
		Example: `  shm manager ls --address unix:/run/me/socket --authkey-file key
  shm manager ls --address unix:@name --json | jq -r '.blocks[].name'`,
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := a.place()
			if err != nil {
				return err
			}
			var names []string
			err = f.with(cmd.Context(), func(ctx context.Context, m *manager.Manager) (err error) {
				names, err = m.Blocks(ctx)
				return err
			})
			if err != nil {
				return err
			}
			return a.printManaged(dir, f.address, names)
		},
	}
}

func (a *app) printManaged(dir shm.Dir, address string, names []string) error {
	docs := []managedDoc{} // not null in JSON
	for _, name := range names {
		d := managedDoc{Name: name}
		if info, err := dir.Stat(name); err == nil {
			d.Size = &info.Size
		}
		docs = append(docs, d)
	}
	if a.json {
		return a.writeJSON(struct {
			Address string       `json:"address"`
			Blocks  []managedDoc `json:"blocks"`
		}{address, docs})
	}
	if len(docs) == 0 {
		fmt.Fprintln(a.stderr, "no blocks")
		return nil
	}
	t := a.newTable("NAME", ">SIZE")
	for _, d := range docs {
		size := cell{yellow, "not here"}
		if d.Size != nil {
			size = cell{text: a.size(*d.Size)}
		}
		t.row(printable(d.Name), size)
	}
	return t.flush()
}

func newManagerCreate(a *app, f *managerFlags) *cobra.Command {
	var isList bool
	var name string
	cmd := &cobra.Command{
		Use:   "create SIZE | --list VALUE…",
		Short: "Make a block and give it to a manager",
		Long: `Make a block of SIZE zero bytes, or a list of VALUEs, give it to the manager and
print its name. It goes when the manager is shut down. SIZE is as that of shm
create, VALUE as that of shm list; put -- before a VALUE that begins with a dash.`,
		Example: `  name=$(shm manager create --address unix:@name 64M)
  shm manager create --address unix:@name --list 'camera 0' 42 -- -1.5`,
		Args: atLeast(1, "a size, or --list and values"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if runtime.GOOS == "windows" {
				return hint(fmt.Errorf("a block goes with the last process that has it open, and this command ends now: %w", errors.ErrUnsupported),
					"manager.Connect and its Create, in a program that stays")
			}
			opts := list.Options{}
			makeBlock, err := managedMaker(&opts, isList, name, args)
			if err != nil {
				return err
			}
			dir, err := a.place()
			if err != nil {
				return err
			}
			opts.Block.Dir = string(dir)
			var b *shm.Block
			err = f.with(cmd.Context(), func(ctx context.Context, m *manager.Manager) (err error) {
				if b, err = makeBlock(); err != nil {
					return a.existsHint(err, name)
				}
				if err = m.Track(ctx, b); err != nil {
					err = errors.Join(err, b.Unlink())
				}
				return errors.Join(err, b.Close())
			})
			if err != nil {
				return err
			}
			return a.printMade(dir, b.Name())
		},
	}
	cmd.Flags().BoolVar(&isList, "list", false, "make a list of the arguments")
	cmd.Flags().StringVar(&name, "name", "", "call it `NAME`; without, it gets a new name")
	return cmd
}

// managedMaker checks the arguments of manager create, and returns what makes
// the block.
func managedMaker(opts *list.Options, isList bool, name string, args []string) (func() (*shm.Block, error), error) {
	if isList {
		items := make([]any, len(args))
		for i, text := range args {
			v, err := parseItem(text, byLook)
			if err != nil {
				return nil, err
			}
			items[i] = v
		}
		return func() (*shm.Block, error) {
			l, err := list.Create(name, items, opts)
			if err != nil {
				return nil, err
			}
			return l.Block(), nil
		}, nil
	}
	if len(args) > 1 {
		return nil, usageError{fmt.Errorf("a block has one SIZE, not %d", len(args)), "shm manager create 64M, or --list for a list of values"}
	}
	size, err := parseSize(args[0])
	if err != nil {
		return nil, usageError{err, "shm manager create 64M, or --list for a list of values"}
	}
	if size > int64(^uint(0)>>1) {
		return nil, fmt.Errorf("%w: %d is beyond the address space", shm.ErrSize, size)
	}
	return func() (*shm.Block, error) { return shm.Create(name, int(size), &opts.Block) }, nil
}

func newManagerTrack(a *app, f *managerFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "track NAME…",
		Short: "Give blocks that are there to a manager",
		Long: `Give blocks that nobody owns to the manager, which removes them at its end: those
of shm create and put, and those of Python programs, whose resource trackers may
be faster.`,
		Example: `  shm put model.bin model.bin
  shm manager track --address unix:@name model.bin`,
		ValidArgsFunction: a.completeNames,
		Args:              atLeast(1, "at least one name"),
		RunE: func(cmd *cobra.Command, names []string) error {
			dir, err := a.place()
			if err != nil {
				return err
			}
			return a.eachManaged(cmd.Context(), f, "tracked", names, func(ctx context.Context, m *manager.Manager, name string) error {
				b, err := shm.Open(name, &shm.OpenOptions{ReadOnly: true, Dir: string(dir)})
				if err != nil {
					return err
				}
				defer b.Close()
				return m.Track(ctx, b)
			})
		},
	}
}

func newManagerRelease(a *app, f *managerFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "release NAME…",
		Short:   "Have a manager remove blocks now",
		Example: `  shm manager release --address unix:@name psm_1a2b3c4d`,
		Args:    atLeast(1, "at least one name"),
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.eachManaged(cmd.Context(), f, "released", names, func(ctx context.Context, m *manager.Manager, name string) error {
				err := m.Release(ctx, name)
				if errors.Is(err, fs.ErrNotExist) {
					err = hint(fmt.Errorf("%s: the manager has no such block", printable(name)), "shm manager ls%s", f.flags())
				}
				return err
			})
		},
	}
}

// eachManaged does something with each name and the manager, and says in JSON
// with which it was done.
func (a *app) eachManaged(ctx context.Context, f *managerFlags, what string, names []string, do func(context.Context, *manager.Manager, string) error) error {
	done, failed := []string{}, []string{} // not null in JSON
	var errs []error
	err := f.with(ctx, func(ctx context.Context, m *manager.Manager) error {
		for _, name := range names {
			err := f.explain(do(ctx, m, name))
			if err == nil {
				done = append(done, name)
				continue
			}
			errs, failed = append(errs, err), append(failed, a.message(err))
			if ctx.Err() != nil {
				break // the others would not fare better
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if a.json {
		if err := a.writeJSON(map[string][]string{what: done, "failed": failed}); err != nil {
			return err
		}
	}
	return errors.Join(errs...)
}

func newManagerShutdown(a *app, f *managerFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "shutdown",
		Short:   "Have a manager remove its blocks and end",
		Example: `  shm manager shutdown --address unix:/run/me/socket --authkey-file key`,
		Args:    exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			doc := struct {
				Address string   `json:"address"`
				Ended   bool     `json:"ended"`
				Missing []string `json:"missing,omitempty"`
			}{Address: f.address, Ended: true}
			err := f.with(cmd.Context(), func(ctx context.Context, m *manager.Manager) error {
				err := m.Shutdown(ctx)
				remote, isRemote := errors.AsType[*manager.RemoteError](err)
				missing, isMissing := errors.AsType[*manager.MissingError](err)
				switch {
				case isRemote && strings.HasPrefix(remote.Text, "FileNotFoundError"):
					// Python's stops at the first block that is missing, but takes it off
					// its list.
					return hint(fmt.Errorf("one of its blocks was gone, and it has not ended: %w", err), "the same again")
				case isMissing:
					doc.Missing = missing.Names // it has ended nevertheless
					fmt.Fprintln(a.stderr, "note:", oneLine(missing.Error()))
					return nil
				}
				return err
			})
			if err != nil {
				return err
			}
			if a.json {
				return a.writeJSON(doc)
			}
			return nil
		},
	}
}
