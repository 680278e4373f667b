package shmarrow

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	arrowarray "github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/sharedmem/shm"
)

// File is an Arrow file in a block. See the package's documentation for how long what
// it returns is valid.
type File struct {
	block *shm.Block
	size  int64 // of the file in it

	schema    *arrow.Schema
	views     views
	preamble  []message // the schema and the dictionaries, which every record needs
	recordsAt []span
}

// message is a part of the file: its metadata in this process's own memory, so
// that nobody changes them between the check and the use, and its body in the block.
type message struct{ meta, body []byte }

// Open opens a block with an Arrow file in it.
//
// Errors: those of [shm.Open] and [FromBlock].
func Open(name string, opts *shm.OpenOptions) (*File, error) {
	b, err := shm.Open(name, opts)
	if err != nil {
		return nil, err
	}
	f, err := FromBlock(b)
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return f, nil
}

// FromBlock takes a block as an Arrow file, behind which it may have zeros. Close of
// the File closes it. If FromBlock fails the block stays open.
//
// Errors: shm.ErrFormat if it is none, or one that only a copy could read;
// shm.ErrTruncated, os.ErrClosed.
func FromBlock(b *shm.Block) (*File, error) {
	f := &File{block: b}
	err := f.guard(func(p []byte) error { return f.open(p) })
	if err != nil {
		return nil, err
	}
	return f, nil
}

// guard calls fn with the block held open. arrow-go panics on much of what a broken
// file can say.
func (f *File) guard(fn func(p []byte) error) error {
	var bad error
	err := f.block.Do(func(p []byte) error {
		defer func() {
			if r := recover(); r != nil {
				bad = fmt.Errorf("%v", r)
			}
		}()
		bad = fn(p)
		return nil
	})
	if err != nil || bad == nil {
		return err
	}
	// arrow-go recovers, too, and what it calls an error may have been a fault.
	if _, err := f.block.ReadAt(make([]byte, 1), int64(f.block.Size()-1)); err != nil {
		return err
	}
	return fail("open record batches", f.block, fmt.Errorf("%w: %w", shm.ErrFormat, bad))
}

// open reads the footer and, with it, all but the records.
func (f *File) open(p []byte) error {
	const head, tail = len(magic) + 2, 4 + len(magic)
	// The last byte of the file is no zero.
	p = bytes.TrimRight(p, "\x00")
	if len(p) < head+tail || !bytes.HasPrefix(p, []byte(magic)) || !bytes.HasSuffix(p, []byte(magic)) {
		return errors.New("no Arrow file, which begins and ends with " + magic)
	}
	f.size = int64(len(p))
	end := len(p) - tail
	n := binary.LittleEndian.Uint32(p[end:])
	if n < 4 || uint64(n) > uint64(end-head) {
		return fmt.Errorf("a footer of %d bytes in a file of %d", n, len(p))
	}
	footer := root(slices.Clone(p[end-int(n) : end]))
	f.recordsAt = spans(footer, footerRecords)

	// The first message is the schema. It need not be at byte 8: Arrow for Rust
	// has its beginning at a multiple of 64.
	at := span{off: int64(head)}
	for at.off < alignment && bytes.HasPrefix(p[at.off:], make([]byte, 8)) {
		at.off += 8
	}
	if rest := p[at.off:]; len(rest) < 8 {
		return errors.New("no schema")
	} else if at.meta = 8 + int64(int32(binary.LittleEndian.Uint32(rest[4:]))); at.meta < 8 {
		return fmt.Errorf("a schema of %d bytes", at.meta-8)
	}
	for kind, list := range [][]span{schemaMessage: {at}, dictionaryMessage: spans(footer, footerDictionaries)} {
		for _, at := range list {
			m, err := f.message(p, at, byte(kind))
			if err != nil {
				return err
			}
			if kind == schemaMessage {
				f.views = viewsOf(m.meta)
			}
			f.preamble = append(f.preamble, m)
		}
	}
	r, err := ipc.NewReaderFromMessageReader(&feed{messages: f.preamble[:1]}, readOptions...)
	if err != nil {
		return err
	}
	f.schema = r.Schema()
	if !f.schema.IsNativeEndian() {
		return errors.New("the file is in another byte order than this machine's, which only a copy could turn round")
	}
	return nil
}

// message takes the parts of one, and checks them.
func (f *File) message(p []byte, at span, kind byte) (message, error) {
	if at.off < 0 || at.meta < 8+4 || at.body < 0 || at.off > f.size ||
		at.meta > f.size-at.off || at.body > f.size-at.off-at.meta || (at.off|at.meta)%8 != 0 {
		return message{}, fmt.Errorf("a message of %d and %d bytes at byte %d of %d", at.meta, at.body, at.off, f.size)
	}
	body := at.off + at.meta
	m := message{slices.Clone(p[at.off:body]), p[body : body+at.body : body+at.body]}
	if n := binary.LittleEndian.Uint32(m.meta[4:]); !bytes.HasPrefix(m.meta, []byte("\xff\xff\xff\xff")) || int64(n) != at.meta-8 {
		return message{}, fmt.Errorf("no message at byte %d", at.off)
	}
	m.meta = m.meta[8:]
	return m, check(m.meta, kind, at.body, f.views)
}

// readOptions let arrow-go leave the bytes as they are: it would turn those of another
// order round in place.
var readOptions = []ipc.Option{ipc.WithEnsureNativeEndian(false)}

// feed gives arrow-go the messages of a file as those of a stream. Its reader of
// mapped files would read the metadata where others write, and lets buffers reach
// beyond their bodies.
type feed struct{ messages []message }

func (f *feed) Message() (*ipc.Message, error) {
	if len(f.messages) == 0 {
		return nil, io.EOF
	}
	m := f.messages[0]
	f.messages = f.messages[1:]
	return ipc.NewMessage(memory.NewBufferBytes(m.meta), memory.NewBufferBytes(m.body)), nil
}

func (*feed) Retain()  {}
func (*feed) Release() {}

// Schema returns the schema of all record batches.
func (f *File) Schema() *arrow.Schema { return f.schema }

// Len returns the number of record batches.
func (f *File) Len() int { return len(f.recordsAt) }

// Record returns a record batch, whose columns lie in the block. It looks at all
// offsets, indices and validity bits, but not at values. It panics if i is out of
// range. The caller releases the batch before Close.
//
// Errors: shm.ErrFormat if the batch is broken or compressed, shm.ErrTruncated,
// os.ErrClosed.
func (f *File) Record(i int) (rec arrow.RecordBatch, err error) {
	at := f.recordsAt[i]
	err = f.guard(func(p []byte) error {
		m, err := f.message(p, at, recordMessage)
		if err != nil {
			return err
		}
		r, err := ipc.NewReaderFromMessageReader(&feed{messages: append(slices.Clip(f.preamble), m)}, readOptions...)
		if err != nil {
			return err
		}
		defer r.Release()
		if !r.Next() {
			return errors.Join(errors.New("no record batch"), r.Err())
		}
		if err := arrowarray.ValidateRecordFull(r.RecordBatch()); err != nil {
			return err
		}
		rec = r.RecordBatch()
		rec.Retain()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return rec, nil
}

// Block returns the block.
func (f *File) Block() *shm.Block { return f.block }

// Close closes the block. See [shm.Block.Close].
func (f *File) Close() error { return f.block.Close() }

// Unlink takes the block's name away. See [shm.Block.Unlink].
func (f *File) Unlink() error { return f.block.Unlink() }

// Ref returns the block's name as a value.
func (f *File) Ref() shm.Ref { return f.block.Ref() }
