package shmarrow

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/ipc"

	"github.com/sharedmem/shm"
)

const (
	magic = "ARROW1"

	// What Arrow recommends, for vector instructions. arrow-go's FileWriter aligns to
	// 8 only, which is why files are put together here.
	alignment = 64
)

// Create makes a block that holds record batches as an Arrow file, and opens
// it. The block is as large as they need, and appears when they are complete; the columns
// begin at multiples of 64 bytes. A nil schema is that of the first batch. The
// batches remain the caller's.
//
// Errors: shm.ErrFormat if batches differ in their schemas or dictionaries, or if
// there is neither batch nor schema; shm.ErrSize if they change meanwhile; those of
// [shm.Create].
func Create(name string, schema *arrow.Schema, records []arrow.RecordBatch, opts *shm.CreateOptions) (*File, error) {
	const op = "create record batches"
	if schema == nil {
		if len(records) == 0 {
			return nil, &shm.Error{Op: op, Name: name, Err: fmt.Errorf("%w: neither a schema nor a batch that has one", shm.ErrFormat)}
		}
		schema = records[0].Schema()
	}
	// Arrow lays out a batch as it writes it; so the first time it writes to nowhere.
	size, err := write(io.Discard, schema, records)
	if err == nil && size > math.MaxInt {
		err = fmt.Errorf("%w: %d bytes", shm.ErrSize, size)
	}
	if err != nil {
		return nil, &shm.Error{Op: op, Name: name, Err: err}
	}
	b, err := shm.CreateWith(name, int(size), opts, func(b *shm.Block) error {
		return b.Do(func(p []byte) error {
			room := room{p}
			n, err := write(&room, schema, records)
			if err == nil && n != size {
				err = errChanged
			}
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	f, err := FromBlock(b)
	if err != nil {
		return nil, errors.Join(err, b.Close(), b.Unlink())
	}
	return f, nil
}

var errChanged = fmt.Errorf("%w: the batches changed while they were written", shm.ErrSize)

// room is what is left of the block.
type room struct{ p []byte }

func (r *room) Write(p []byte) (int, error) {
	n := copy(r.p, p)
	r.p = r.p[n:]
	if n < len(p) {
		return n, errChanged
	}
	return n, nil
}

// write writes an Arrow file and returns its size.
func write(w io.Writer, schema *arrow.Schema, records []arrow.RecordBatch) (int64, error) {
	f := &fileWriter{w: w, ids: map[int64]bool{}}
	if _, err := f.Write([]byte(magic + "\x00\x00")); err != nil { // the first message is at byte 8
		return 0, err
	}
	out := ipc.NewWriterWithPayloadWriter(f, ipc.WithSchema(schema))
	var err error
	for i, rec := range records {
		if err = out.Write(rec); err != nil {
			err = fmt.Errorf("batch %d: %w", i, err)
			break
		}
	}
	if err = errors.Join(err, out.Close()); err != nil {
		if !errors.Is(err, shm.ErrSize) {
			err = fmt.Errorf("%w: %w", shm.ErrFormat, err)
		}
		return 0, err
	}
	return f.n, nil
}

// fileWriter puts the messages that Arrow makes of record batches together to a
// file. It is an ipc.PayloadWriter.
type fileWriter struct {
	w io.Writer
	n int64 // written so far

	schema                []byte
	dictionaries, records []span
	ids                   map[int64]bool
}

func (f *fileWriter) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	f.n += int64(n)
	return n, err
}

// Start does nothing: arrow-go calls it for some writers and not for others.
func (*fileWriter) Start() error { return nil }

// WritePayload writes a message: a mark, the length of the metadata, these, and the
// body. The length counts the zeros that bring the body to its place.
func (f *fileWriter) WritePayload(p ipc.Payload) error {
	buffer := p.Meta()
	defer buffer.Release()
	meta := slices.Clone(buffer.Bytes())
	m := root(meta)
	kind := m.GetByteSlot(messageType, 0)
	ends, err := spread(m, kind)
	if err != nil {
		return err
	}
	at := span{off: f.n, body: m.GetInt64Slot(messageBody, 0)}
	at.meta = aligned(at.off+8+int64(len(meta))) - at.off
	if at.meta > math.MaxInt32 {
		return fmt.Errorf("metadata of %d bytes", at.meta)
	}
	switch kind {
	case schemaMessage:
		f.schema = append(f.schema, meta...)
		for len(f.schema)%8 != 0 {
			f.schema = append(f.schema, 0)
		}
	case dictionaryMessage:
		header, _ := sub(m, messageHeader)
		id := header.GetInt64Slot(dictionaryID, 0)
		if f.ids[id] {
			// As for arrow-go's FileWriter. A stream may replace one, a file not.
			return errors.New("a column has another dictionary than before; a file has one for all its batches (array.NewDictionaryUnifier makes it)")
		}
		f.ids[id] = true
		f.dictionaries = append(f.dictionaries, at)
	case recordMessage:
		f.records = append(f.records, at)
	}
	head := binary.LittleEndian.AppendUint32([]byte("\xff\xff\xff\xff"), uint32(at.meta-8))
	head = append(head, meta...)
	head = append(head, make([]byte, at.meta-int64(len(head)))...)
	if _, err := f.Write(head); err != nil {
		return err
	}
	body := bodyWriter{file: f, ends: ends}
	if err := p.SerializeBody(&body); err != nil {
		return err
	}
	if n := f.n - at.off - at.meta; n != at.body || len(body.ends) > 0 {
		return fmt.Errorf("a body of %d bytes became %d", at.body, n)
	}
	return nil
}

func aligned(n int64) int64 { return (n + alignment - 1) / alignment * alignment }

// bodyWriter puts zeros behind each buffer of a body, up to where spread has the
// next one.
type bodyWriter struct {
	file *fileWriter
	n    int64   // bytes taken so far
	ends []int64 // of the buffers to come, in these bytes
}

func (b *bodyWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if len(b.ends) == 0 {
			return 0, fmt.Errorf("%d bytes behind the last buffer", len(p))
		}
		part := p[:min(int64(len(p)), b.ends[0]-b.n)]
		if _, err := b.file.Write(part); err != nil {
			return 0, err
		}
		b.n += int64(len(part))
		p = p[len(part):]
		for len(b.ends) > 0 && b.n == b.ends[0] {
			b.ends = b.ends[1:]
			if _, err := b.file.Write(make([]byte, aligned(b.file.n)-b.file.n)); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

// Close ends the messages and writes the footer.
func (f *fileWriter) Close() error {
	tail, err := appendFooter([]byte("\xff\xff\xff\xff\x00\x00\x00\x00"), f.schema, f.dictionaries, f.records)
	if err != nil {
		return err
	}
	tail = binary.LittleEndian.AppendUint32(tail, uint32(len(tail)-8))
	_, err = f.Write(append(tail, magic...))
	return err
}
