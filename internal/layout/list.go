package layout

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ListShape is where the parts of a ShareableList lie, in bytes from the
// block's start. Python writes everything in the machine's byte order and at
// the machine's alignment; all parts but the codes lie at multiples of 8.
//
//	3.9 and later: count | count+1 offsets into the data, from 0 | data | formats | codes
//	3.8:           count | count sizes of slots                  | data | formats | codes
type ListShape struct {
	Items   int
	Sizes   bool // 3.8: sizes, not offsets
	Table   int  // first offset or size; 8 bytes each
	Data    int  // the slots, DataLen bytes, each a multiple of 8
	DataLen int
	Formats int // 8 bytes for each item
	Codes   int // a byte for each item
	End     int // the first byte that Python knows nothing of
}

// ErrList says why bytes are no ShareableList.
var ErrList = errors.New("not a ShareableList")

// ShapeList lays out a list of items whose slots have dataLen bytes together.
// Not ok if that is beyond the address space.
func ShapeList(items, dataLen int, sizes bool) (s ListShape, ok bool) {
	const most = int64(^uint(0)>>1) / 32 // so that no sum below overflows
	if items < 0 || dataLen < 0 || int64(items) > most || int64(dataLen) > most {
		return s, false
	}
	s = ListShape{Items: items, Sizes: sizes, Table: 8, DataLen: dataLen}
	s.Data = s.Table + 8*items
	if !sizes {
		s.Data += 8
	}
	s.Formats = s.Data + dataLen
	s.Codes = s.Formats + 8*items
	s.End = s.Codes + items
	return s, true
}

// ParseList finds the parts of a list in a block of size bytes, which may be
// longer than the list (other systems round up to a page, and we append a
// trailer). read returns the n bytes at off, or fewer. For a list of 3.9 and
// later it looks at three words, for one of 3.8 at all sizes.
//
// It promises that all parts lie within the block, not that the table between
// its ends, the formats or the codes make sense. Errors wrap ErrList.
func ParseList(size int64, read func(off int64, n int) []byte) (ListShape, error) {
	none := func(format string, args ...any) (ListShape, error) {
		return ListShape{}, fmt.Errorf("%w: %s", ErrList, fmt.Sprintf(format, args...))
	}
	word := func(off int64) (int64, bool) {
		b := read(off, 8)
		if len(b) != 8 {
			return 0, false
		}
		return int64(binary.NativeEndian.Uint64(b)), true
	}
	items, ok := word(0)
	if !ok {
		return none("%d bytes are too few", size)
	}
	// Each item has at least a size, a slot, a format and a code.
	if items < 0 || items > (size-8)/25 {
		return none("it would have %d items in %d bytes", items, size)
	}
	first, ok := word(8)
	if !ok && items > 0 {
		return none("it ends within its table")
	}
	var data int64
	sizes := items == 0 && !ok || items > 0 && first != 0
	switch {
	case items == 0 && sizes: // 8 bytes in all, as 3.8 writes an empty list
	case !sizes:
		if data, ok = word(8 + 8*items); !ok {
			return none("it ends within its table")
		}
		if first != 0 {
			return none("its data begin at %d, not 0", first)
		}
	default:
		// In pieces, for who reads from a file.
		for off, end := int64(8), 8+8*items; off < end; {
			b := read(off, int(min(4096, end-off)))
			if len(b) < 8 {
				return none("it ends within its table")
			}
			for off += int64(len(b) &^ 7); len(b) >= 8; b = b[8:] {
				s := int64(binary.NativeEndian.Uint64(b))
				if s < 8 || s%8 != 0 || s > size || data > size {
					return none("a slot has %d bytes", s)
				}
				data += s
			}
		}
	}
	if data < 8*items || data%8 != 0 || data > size {
		return none("its %d items have %d bytes of data, in a block of %d", items, data, size)
	}
	shape, ok := ShapeList(int(items), int(data), sizes)
	if !ok || data > int64(shape.DataLen) || int64(shape.End) > size { // an int may have 32 bits
		return none("it ends at byte %d, the block at %d", shape.End, size)
	}
	return shape, nil
}
