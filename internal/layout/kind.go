package layout

import (
	"bytes"
	"encoding/binary"
	"math"
	"unicode/utf8"
)

// KindPrefix is how many bytes from its start Kind wants to see of a block.
const KindPrefix = 512

// Kind guesses what a block of size bytes holds that begins with head: "list"
// (Python's ShareableList), "npy" (a NumPy array that describes itself),
// "arrow", "empty" (nothing but zeros in sight), "text" or "" if it cannot be
// told. read gets the bytes at an offset, or nil.
func Kind(head []byte, size int64, read func(off int64, n int) []byte) string {
	switch {
	case bytes.HasPrefix(head, []byte("\x93NUMPY")):
		return "npy"
	case bytes.HasPrefix(head, []byte("ARROW1")), bytes.HasPrefix(head, []byte("\xff\xff\xff\xff")) && len(head) >= 8 && head[7] == 0 && head[6] == 0:
		return "arrow"
	case isList(head, size, read):
		return "list"
	case len(bytes.TrimLeft(head, "\x00")) == 0:
		return "empty"
	case isText(head):
		return "text"
	}
	return ""
}

// isList recognises both layouts of a ShareableList (docs/format.md): a count,
// then from Python 3.9 on count+1 offsets of which the first is zero, in 3.8
// count sizes, all multiples of 8; at the end count formats of 8 bytes and
// count codes. An attacher may see a size rounded up to a page.
func isList(head []byte, size int64, read func(off int64, n int) []byte) bool {
	if len(head) < 24 || size < 24 {
		return false
	}
	le := binary.LittleEndian
	n := int64(le.Uint64(head))
	if n < 1 || n > size/9 {
		return false
	}
	first := int64(le.Uint64(head[8:]))
	var data, start int64 // bytes of data, and where they begin
	if first == 0 {
		start = 8 + 8*(n+1)
		b := read(8+8*n, 8)
		if len(b) != 8 {
			return false
		}
		data = int64(le.Uint64(b))
	} else {
		start = 8 + 8*n
		for off := int64(8); off < start; off += 4096 {
			b := read(off, int(min(4096, start-off)))
			for ; len(b) >= 8; b = b[8:] {
				s := int64(le.Uint64(b))
				if s < 8 || s%8 != 0 || data > math.MaxInt64-s {
					return false
				}
				data += s
			}
		}
	}
	if data < 8*n || data%8 != 0 || data > size || start+data > size-9*n {
		return false
	}
	// The first item's format ends the doubt: one of the few that Python writes.
	f := bytes.TrimRight(read(start+data, 8), "\x00")
	switch string(f) {
	case "q", "d", "xxxxxxx?", "xxxxxx?x":
		return true
	}
	if len(f) < 2 || f[len(f)-1] != 's' {
		return false
	}
	return len(bytes.Trim(f[:len(f)-1], "0123456789")) == 0
}

func isText(head []byte) bool {
	head = bytes.TrimRight(head, "\x00") // the rest of a block is often unused
	if len(head) == 0 {
		return false
	}
	for i := 0; i < len(head); {
		r, n := utf8.DecodeRune(head[i:])
		if r == utf8.RuneError && n <= 1 {
			return len(head)-i < utf8.UTFMax && len(head) >= KindPrefix-utf8.UTFMax // cut off
		}
		if r < ' ' && r != '\n' && r != '\r' && r != '\t' && r != '\f' && r != '\x1b' {
			return false
		}
		i += n
	}
	return true
}
