package layout

import (
	"bytes"
	"unicode/utf8"
)

// KindPrefix is how many bytes from its start Kind wants to see of a block.
const KindPrefix = 512

// Kind guesses what a block of size bytes holds that begins with head: "list"
// (Python's ShareableList), "npy" (a NumPy array that describes itself),
// "arrow", "ring" and "topic" (queues of package ring and topic), "empty" (nothing but zeros in sight), "text" or "" if it cannot be
// told. read gets the bytes at an offset, or nil.
func Kind(head []byte, size int64, read func(off int64, n int) []byte) string {
	switch {
	case bytes.HasPrefix(head, []byte("\x93NUMPY")):
		return "npy"
	case bytes.HasPrefix(head, []byte("ARROW1")), bytes.HasPrefix(head, []byte("\xff\xff\xff\xff")) && len(head) >= 8 && head[7] == 0 && head[6] == 0:
		return "arrow"
	case bytes.HasPrefix(head, []byte("SHM\x00RING")):
		return "ring"
	case bytes.HasPrefix(head, []byte("SHM\x00TOPC")):
		return "topic"
	case isList(size, read):
		return "list"
	case len(bytes.TrimLeft(head, "\x00")) == 0:
		return "empty"
	case isText(head):
		return "text"
	}
	return ""
}

// isList recognises both layouts of a ShareableList (docs/format.md). An empty
// one is eight or sixteen zeros, and not told from any others.
func isList(size int64, read func(off int64, n int) []byte) bool {
	s, err := ParseList(size, read)
	if err != nil || s.Items == 0 {
		return false
	}
	// The first item's format ends the doubt: one of the few that Python writes.
	f := bytes.TrimRight(read(int64(s.Formats), 8), "\x00")
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
