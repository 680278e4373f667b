package shmarrow

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	flatbuffers "github.com/google/flatbuffers/go"
)

// Arrow's metadata is in flatbuffers (format/Message.fbs, Schema.fbs and File.fbs
// of the specification). arrow-go keeps its code for them to itself, so
// the few fields that are needed here are named by their place in a table. A place
// that lies outside of the buffer panics, and whoever calls recovers.

// What a message holds: the union MessageHeader.
const (
	schemaMessage     = 1
	dictionaryMessage = 2
	recordMessage     = 3
)

// Places of fields.
const (
	messageVersion, messageType, messageHeader, messageBody, messageMetadata = 4, 6, 8, 10, 12
	schemaFields, schemaMetadata                                             = 6, 8
	fieldName, fieldType, fieldDictionary, fieldChildren, fieldMetadata      = 4, 8, 12, 14, 16
	encodingID                                                               = 4
	pairKey, pairValue                                                       = 4, 6
	dictionaryID, dictionaryData, dictionaryDelta                            = 4, 6, 8
	batchBuffers, batchCompression, batchVariadic                            = 8, 10, 12
	footerDictionaries, footerRecords                                        = 8, 10
)

// Of the union Type.
const (
	binaryView = 23
	utf8View   = 24
)

// maxDepth is arrow-go's own limit for nested types, which it does not keep to
// when it reads a schema.
const maxDepth = 64

// span is where a message lies in the file: its metadata, with what comes before
// it, and behind that its body. It is the struct Block of a footer.
type span struct{ off, meta, body int64 }

const spanSize = 24

func root(p []byte) flatbuffers.Table {
	return flatbuffers.Table{Bytes: p, Pos: flatbuffers.GetUOffsetT(p)}
}

// sub returns the table that a field points to.
func sub(t flatbuffers.Table, field flatbuffers.VOffsetT) (flatbuffers.Table, bool) {
	o := t.Offset(field)
	if o == 0 {
		return flatbuffers.Table{}, false
	}
	return flatbuffers.Table{Bytes: t.Bytes, Pos: t.Indirect(t.Pos + flatbuffers.UOffsetT(o))}, true
}

// vector returns the bytes of a vector of structs or numbers.
func vector(t flatbuffers.Table, field flatbuffers.VOffsetT, size int) []byte {
	o := flatbuffers.UOffsetT(t.Offset(field))
	if o == 0 {
		return nil
	}
	start := int(t.Vector(o))
	n := t.VectorLen(o)
	if start > len(t.Bytes) || n > (len(t.Bytes)-start)/size {
		panic("a vector leaves its buffer")
	}
	return t.Bytes[start : start+n*size]
}

// tables returns the tables that a vector points to.
func tables(t flatbuffers.Table, field flatbuffers.VOffsetT) func(yield func(flatbuffers.Table) bool) {
	return func(yield func(flatbuffers.Table) bool) {
		n := len(vector(t, field, 4)) / 4
		if n == 0 {
			return
		}
		start := t.Vector(flatbuffers.UOffsetT(t.Offset(field)))
		for i := range n {
			if !yield(flatbuffers.Table{Bytes: t.Bytes, Pos: t.Indirect(start + 4*flatbuffers.UOffsetT(i))}) {
				return
			}
		}
	}
}

// spans reads a list of a footer.
func spans(footer flatbuffers.Table, field flatbuffers.VOffsetT) []span {
	p := vector(footer, field, spanSize)
	list := make([]span, len(p)/spanSize)
	for i := range list {
		s := p[i*spanSize:]
		list[i] = span{
			int64(binary.LittleEndian.Uint64(s)),
			int64(int32(binary.LittleEndian.Uint32(s[8:]))),
			int64(binary.LittleEndian.Uint64(s[16:])),
		}
	}
	return list
}

// check looks in a message for what arrow-go would follow without limit. It makes
// room for whatever number a vector says before it looks whether so many
// are there; several fields may point to one table, so that a kilobyte
// unfolds to gigabytes; and memory that runs out is no panic that could be
// recovered from. It also finds what cannot be read without a copy.
//
// views is what the schema says.
func check(meta []byte, kind byte, body int64, views views) error {
	m := root(meta)
	if have := m.GetByteSlot(messageType, 0); have != kind {
		return fmt.Errorf("a message of type %d where %d should be", have, kind)
	}
	if n := m.GetInt64Slot(messageBody, 0); n != body {
		return fmt.Errorf("a message has a body of %d bytes, and the footer says %d", n, body)
	}
	header, ok := sub(m, messageHeader)
	if !ok {
		return errors.New("a message has no header")
	}
	// Names and pairs that are not shared fit in once; some writers may share them.
	c := checker{left: 16 * len(meta)}
	if err := c.pairs(m, messageMetadata); err != nil {
		return err
	}
	n := views.records
	switch kind {
	case schemaMessage:
		if err := c.pairs(header, schemaMetadata); err != nil {
			return err
		}
		return c.fields(header, schemaFields, 0)
	case dictionaryMessage:
		if header.GetBoolSlot(dictionaryDelta, false) {
			return errors.New("a dictionary is in several parts, which only a copy could join")
		}
		n = views.dictionaries[header.GetInt64Slot(dictionaryID, 0)]
		if header, ok = sub(header, dictionaryData); !ok {
			return errors.New("a dictionary without data")
		}
	}
	return checkBatch(header, body, n)
}

func checkBatch(batch flatbuffers.Table, body int64, views int) error {
	if batch.Offset(batchCompression) != 0 {
		return errors.New("the batch is compressed, so that only a copy could be read; write it without compression")
	}
	buffers := vector(batch, batchBuffers, 16)
	for p := buffers; len(p) > 0; p = p[16:] {
		off, n := int64(binary.LittleEndian.Uint64(p)), int64(binary.LittleEndian.Uint64(p[8:]))
		if off < 0 || n < 0 || off > body || n > body-off || off%8 != 0 {
			return fmt.Errorf("a buffer of %d bytes at %d of a body of %d", n, off, body)
		}
	}
	variadic := vector(batch, batchVariadic, 8)
	if len(variadic)/8 < views {
		// arrow-go would take what lies behind for the number.
		return fmt.Errorf("%d numbers of buffers for %d columns that need one", len(variadic)/8, views)
	}
	for p := variadic; len(p) > 0; p = p[8:] {
		if n := binary.LittleEndian.Uint64(p); n > uint64(len(buffers)/16) {
			return fmt.Errorf("a column has %d buffers of %d", n, len(buffers)/16)
		}
	}
	return nil
}

// views counts the columns of views, which have any number of buffers: those of
// a record, and those of each dictionary by its ID.
type views struct {
	records      int
	dictionaries map[int64]int
}

// viewsOf reads a schema that was checked.
func viewsOf(meta []byte) views {
	v := views{dictionaries: map[int64]int{}}
	if schema, ok := sub(root(meta), messageHeader); ok {
		v.records = v.count(schema, schemaFields)
	}
	return v
}

func (v *views) count(t flatbuffers.Table, list flatbuffers.VOffsetT) (n int) {
	for field := range tables(t, list) {
		m := v.count(field, fieldChildren)
		if kind := field.GetByteSlot(fieldType, 0); kind == binaryView || kind == utf8View {
			m++
		}
		if encoding, ok := sub(field, fieldDictionary); ok {
			id := encoding.GetInt64Slot(encodingID, 0)
			v.dictionaries[id] = max(v.dictionaries[id], m)
			m = 0 // a record has the indices only
		}
		n += m
	}
	return n
}

// checker counts what a schema unfolds to.
type checker struct{ left int }

func (c *checker) spend(n int) error {
	if c.left -= n; c.left < 0 {
		return errors.New("the metadata unfold to far more than they are")
	}
	return nil
}

// text spends the length of a string.
func (c *checker) text(t flatbuffers.Table, field flatbuffers.VOffsetT) error {
	return c.spend(len(vector(t, field, 1)))
}

func (c *checker) pairs(t flatbuffers.Table, field flatbuffers.VOffsetT) error {
	for pair := range tables(t, field) {
		if err := errors.Join(c.spend(8), c.text(pair, pairKey), c.text(pair, pairValue)); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) fields(t flatbuffers.Table, list flatbuffers.VOffsetT, depth int) error {
	for field := range tables(t, list) {
		if depth == maxDepth {
			return fmt.Errorf("types nested deeper than %d", maxDepth)
		}
		if err := errors.Join(c.spend(8), c.text(field, fieldName), c.pairs(field, fieldMetadata)); err != nil {
			return err
		}
		if err := c.fields(field, fieldChildren, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// spread gives the buffers of a message places at multiples of the alignment, in
// its metadata. arrow-go wrote them one behind the other; ends is where, counted
// in that, each one's zeros end.
func spread(m flatbuffers.Table, kind byte) (ends []int64, err error) {
	if kind == schemaMessage {
		return nil, nil
	}
	batch, ok := sub(m, messageHeader)
	if ok && kind == dictionaryMessage {
		batch, ok = sub(batch, dictionaryData)
	}
	if !ok {
		return nil, errors.New("a message without a batch")
	}
	le := binary.LittleEndian
	body := m.GetInt64Slot(messageBody, 0)
	at := int64(0)
	for p := vector(batch, batchBuffers, 16); len(p) > 0; p = p[16:] {
		begin, end := int64(le.Uint64(p)), body
		if len(p) > 16 {
			end = int64(le.Uint64(p[16:]))
		}
		if begin > end || len(ends) == 0 && begin != 0 {
			return nil, errors.New("buffers in another order than their places")
		}
		le.PutUint64(p, uint64(at))
		at += aligned(end - begin)
		if end > 0 { // else nothing will be written that it could be behind of
			ends = append(ends, end)
		}
	}
	if at > 0 && !m.MutateInt64Slot(messageBody, at) {
		return nil, errors.New("a body without a length")
	}
	return ends, nil
}

// appendFooter appends a footer's flatbuffer: the table, both lists, and the schema's
// own message once more, into which the table points. p is a multiple of 8 long,
// and the footer is then, too.
func appendFooter(p, schema []byte, dictionaries, records []span) ([]byte, error) {
	const vtable, table, lists = 4, 16, 36
	m := root(schema)
	header, ok := sub(m, messageHeader)
	if !ok {
		return nil, errors.New("a schema without a header")
	}
	listSize := func(n int) int { return 4 + n*spanSize } // its length before it
	second := lists + listSize(len(dictionaries)) + 4     // the numbers in it at a multiple of 8
	message := second + listSize(len(records))
	if int64(message)+int64(len(schema)) > math.MaxInt32 {
		return nil, errors.New("too many record batches for one file")
	}

	le := binary.LittleEndian
	p = le.AppendUint32(p, table)
	for _, n := range []uint16{12, 20, 16, 4, 8, 12} { // of the vtable, of the table; version, schema, lists
		p = le.AppendUint16(p, n)
	}
	p = le.AppendUint32(p, table-vtable)
	p = le.AppendUint32(p, uint32(message+int(header.Pos)-(table+4)))
	p = le.AppendUint32(p, lists-(table+8))
	p = le.AppendUint32(p, uint32(second-(table+12)))
	p = le.AppendUint16(p, uint16(m.GetInt16Slot(messageVersion, 0)))
	p = le.AppendUint16(p, 0)
	for i, list := range [][]span{dictionaries, records} {
		if i == 1 {
			p = le.AppendUint32(p, 0)
		}
		p = le.AppendUint32(p, uint32(len(list)))
		for _, s := range list {
			p = le.AppendUint64(p, uint64(s.off))
			p = le.AppendUint64(p, uint64(s.meta))
			p = le.AppendUint64(p, uint64(s.body))
		}
	}
	return append(p, schema...), nil
}
