package list

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/internal/layout"
)

var (
	// ErrIndex says that the list has no such item. Indices count from 0;
	// negative ones are not Python's "from the end" here.
	ErrIndex = errors.New("index out of range")

	// ErrNotFound says that no item is equal to the value looked for.
	ErrNotFound = errors.New("no such item")

	// ErrType says that a list cannot hold such a value, or that an item is of
	// another type than the one asked for.
	ErrType = errors.New("wrong type")

	// ErrRange says that an integer is not an int64.
	ErrRange = errors.New("integer outside int64")

	// ErrTooLong says that text or bytes are longer than their slot, or longer
	// than any item can be (9 999 991 bytes). It is an [shm.ErrSize], too.
	ErrTooLong error = tooLong{}

	// ErrText says that text is not UTF-8. When the text was read from a list
	// the error is an [shm.ErrFormat], too.
	ErrText = errors.New("not UTF-8")

	// ErrBusy says that another process was at an item of a Concurrent list all
	// the time. It may be stopped, or have been another user's and be dead: only
	// that user and root can know, and [shm.Prune] of either ends it.
	ErrBusy = errors.New("the item is being changed by another process")
)

type tooLong struct{}

func (tooLong) Error() string        { return "too long" }
func (tooLong) Is(target error) bool { return target == shm.ErrSize }

// maxLen is the length of the longest text or bytes: the format of longer ones
// does not fit into eight characters.
const maxLen = 9_999_991

// Layout is one of the two ways in which Python has laid out its lists.
type Layout int

const (
	// Python39 is read and written by CPython 3.9 and later.
	Python39 Layout = iota

	// Python38 is CPython 3.8's. It knows no other, and no other Python knows
	// it.
	Python38
)

// String returns "3.9" or "3.8".
func (l Layout) String() string {
	switch l {
	case Python39:
		return "3.9"
	case Python38:
		return "3.8"
	}
	return fmt.Sprintf("Layout(%d)", int(l))
}

// Options are the choices of [Create]; nil and the zero value mean the
// defaults. The struct is copied on entry.
type Options struct {
	// Block has the choices for the block in which the list lies.
	Block shm.CreateOptions

	// Layout is which of Python's layouts is written.
	Layout Layout

	// Exact keeps the zeros at the end of text and bytes, by writing exact
	// lengths into their formats where Python writes the slot's. Python reads
	// such a list as any other, which for CPython up to 3.15 means without those
	// zeros. But when Python assigns text or bytes to an item that holds some,
	// it keeps the format and silently cuts what is longer than the length there.
	// So this is for lists that Python does not modify.
	Exact bool

	// Concurrent adds 32 bytes and a second slot for each item behind what
	// Python knows, so that processes of this library can change one item at
	// the same time: no reader sees half of a value, no change is lost, and one
	// that a process died in is completed or undone. Python may open the list
	// and takes no part in this; see the package's documentation. All
	// who change it open it by the same name and Dir, since that is where they
	// find out who lives.
	Concurrent bool
}

// Room is an item for [Create]: nil at first, with room for so many bytes of
// text or bytes later. Python's way is to begin with a text of that length.
type Room int

// List is one handle on a ShareableList. All methods may be called by several
// goroutines at once; what they promise to each other and to other processes
// is in the package's documentation.
//
// A List must be closed; dropping it leaves its block mapped.
type List struct {
	block *shm.Block
	shape layout.ListShape // as checked when it was opened; the memory is not asked again
	raw   []byte           // the block
	words []atomic.Uint64  // the same, by words
	data  int              // where the slots begin, in words
	form  int              // where the formats begin, in words

	starts []int32 // 3.8's layout: where each slot begins, in words from data
	exact  bool

	readOnly bool
	quick    quick
	trailer
}

// Create makes a list of these items in a block of its own; with name "" it
// finds a fresh name. It appears under its name only when it is complete, and
// if Create fails there is nothing.
//
// Items are integers, floats and bools of any of Go's kinds, strings, []byte
// and nil. A slot has room for its item's bytes, and for as many more as fill up
// 8 (at least one), so it can hold any number, bool or nil later, but no longer text.
// Zeros at the end of text and bytes are not kept; see Options.Exact.
// [Room] makes room for longer text.
//
// Errors: ErrType, ErrRange, ErrText, ErrTooLong (the message says which item),
// and those of [shm.Create].
func Create(name string, items []any, opts *Options) (*List, error) {
	const op = "create list"
	var o Options
	if opts != nil {
		o = *opts
	}
	p, err := newPlan(items, &o)
	if err != nil {
		return nil, &shm.Error{Op: op, Name: name, Err: err}
	}
	b, err := shm.CreateWith(name, p.size, &o.Block, p.write)
	if err != nil {
		return nil, err
	}
	l, err := FromBlock(b)
	if err != nil {
		return nil, errors.Join(err, b.Close(), b.Unlink())
	}
	return l, nil
}

// Open opens a list by name, one of this library's or of Python's, in either
// layout. It checks where the parts of the list lie and looks at no item, so it
// takes the same time and memory for any length. (For 3.8's layout it has
// to add up all sizes, and keeps 4 bytes an item.) See [List.Verify].
//
// Errors: shm.ErrFormat if the block holds no list, and those of [shm.Open].
func Open(name string, opts *shm.OpenOptions) (*List, error) {
	b, err := shm.Open(name, opts)
	return opened(b, err)
}

// Wait opens a list as soon as it exists. Python gives a list its name before its
// items: a list that Python is still making may be seen half made, as an
// empty one, or give shm.ErrFormat.
//
// Errors: those of Open and [shm.Wait].
func Wait(ctx context.Context, name string, opts *shm.OpenOptions) (*List, error) {
	b, err := shm.Wait(ctx, name, opts)
	return opened(b, err)
}

func opened(b *shm.Block, err error) (*List, error) {
	if err != nil {
		return nil, err
	}
	l, err := FromBlock(b)
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return l, nil
}

// FromBlock returns the list that lies in a block, which may be an anonymous
// one. The block is the list's from now on: its Close closes it. If FromBlock
// fails, the block stays open.
//
// Errors: shm.ErrFormat, os.ErrClosed.
func FromBlock(b *shm.Block) (*List, error) {
	const op = "open list"
	words, err := shm.Slice[atomic.Uint64](b, 0, b.Size()/8)
	if err != nil {
		return nil, err
	}
	l := &List{block: b, raw: b.Bytes(), words: words, readOnly: b.ReadOnly()}
	if l.dir = b.Ref().Dir; l.dir != "" {
		// For as long as the list is open, wherever the program goes meanwhile.
		if l.dir, err = filepath.Abs(l.dir); err != nil {
			return nil, err
		}
	}
	// In Do, as the block may be smaller by now.
	err = b.Do(func(p []byte) error {
		s, err := layout.ParseList(int64(len(p)), func(off int64, n int) []byte {
			if off >= int64(len(p)) {
				return nil
			}
			return p[off:min(off+int64(n), int64(len(p)))]
		})
		if err != nil {
			return fmt.Errorf("%w: %w", shm.ErrFormat, err)
		}
		l.shape, l.data, l.form = s, s.Data/8, s.Formats/8
		if s.Sizes {
			if l.starts, err = addSizes(p[s.Table:s.Data], s.DataLen); err != nil {
				return err
			}
		}
		if err := l.openTrailer(); err != nil {
			return err
		}
		if !s.Sizes && !l.concurrent {
			l.quick = quick{
				forms: words[l.form : l.form+s.Items],
				codes: l.raw[s.Codes:s.End],
				table: words[1 : s.Items+2],
				slots: words[l.data:l.form],
			}
		}
		return nil
	})
	if err != nil {
		return nil, l.fail(op, err)
	}
	return l, nil
}

// addSizes finds where each slot begins in a list of 3.8's layout, in words,
// and at last where they end. The table is read once and not used again: its
// owner may change it any time.
func addSizes(table []byte, dataLen int) ([]int32, error) {
	starts := make([]int32, len(table)/8+1)
	end := uint64(0)
	for i := range len(table) / 8 {
		size := nativeWord(table[8*i:])
		// Slots are whole words, at most maxLen and a bit; int32 counts 16 GiB.
		if size < 8 || size%8 != 0 || size > uint64(dataLen) || end+size > uint64(dataLen) || (end+size)/8 > 1<<31-1 {
			return nil, fmt.Errorf("%w: the slot of item %d has %d bytes", shm.ErrFormat, i, size)
		}
		end += size
		starts[i+1] = int32(end / 8)
	}
	if end != uint64(dataLen) {
		return nil, fmt.Errorf("%w: its table has just been changed", shm.ErrFormat)
	}
	return starts, nil
}

// fail names the list in an error.
func (l *List) fail(op string, err error) error {
	if err == nil {
		return nil
	}
	// What went wrong in the block already says so.
	if e := (*shm.Error)(nil); errors.As(err, &e) {
		return err
	}
	return &shm.Error{Op: op, Name: l.block.Name(), Err: err}
}

// Len returns the number of items, which never changes. It stays readable
// after Close.
func (l *List) Len() int { return l.shape.Items }

// Layout returns which of Python's layouts the list has. (Of an empty list in a
// block of eight bytes, 3.8's.)
func (l *List) Layout() Layout {
	if l.shape.Sizes {
		return Python38
	}
	return Python39
}

// Exact tells whether the list was made with Options.Exact.
func (l *List) Exact() bool { return l.exact }

// Concurrent tells whether the list was made with Options.Concurrent.
func (l *List) Concurrent() bool { return l.concurrent }

// Block returns the block in which the list lies.
func (l *List) Block() *shm.Block { return l.block }

// Ref returns the name of the list's block as a value, of Kind "list".
func (l *List) Ref() shm.Ref {
	r := l.block.Ref()
	r.Kind = "list"
	return r
}

// Close lets go of the list in this process; the list itself stays. It waits
// for calls that copy (At, Set, bulk calls); the typed ones for single items must
// not run beside it. Closing again returns nil.
func (l *List) Close() error {
	err := l.block.Close()
	l.leave()
	return err
}

// Unlink takes the name of the list's block away, as [shm.Block.Unlink] does.
func (l *List) Unlink() error { return l.block.Unlink() }

// String returns what Python's repr does: ShareableList([1, 'two'], name='psm_1a2b3c4d').
// Where an item cannot be read, its error stands in <>.
func (l *List) String() string {
	var s strings.Builder
	s.WriteString("ShareableList([")
	for i, item := range l.All() {
		if i > 0 {
			s.WriteString(", ")
		}
		if err, ok := item.(error); ok {
			fmt.Fprintf(&s, "<%v>", err)
			continue
		}
		s.WriteString(layout.PyReprItem(item))
	}
	fmt.Fprintf(&s, "], name=%s)", layout.PyRepr(l.block.Name()))
	return s.String()
}

// validText finds out whether text from shared memory is text.
func validText(b []byte) error {
	if utf8.Valid(b) {
		return nil
	}
	return fmt.Errorf("%w: its text is %w (CPython cuts text off that has more bytes than characters): %s",
		shm.ErrFormat, ErrText, clip(strconv.Quote(string(b))))
}

var errReadOnly = fmt.Errorf("opened read-only: %w", fs.ErrPermission)
