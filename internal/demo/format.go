package demo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
)

// The demo's two blocks. All numbers are little-endian and 64 bits wide.
//
// The text block, which only the parent writes, before it starts anybody:
//
//	 0   8  "SHMTEXT1"
//	 8   8  number of parts P
//	16   8  number of files F
//	24   8  bytes of paths N
//	32   8  where the text begins T, from the start of the block
//	40   8  bytes of text
//	48  16  zero
//	64 16P  parts: begin, end; from T
//	   32F  files: path's begin (from the first path), path's length,
//	        begin (from T), length
//	     N  paths
//	 T      text: the files, one after another, at least one byte between them
//
// A part ends after a '\n' or between two files, so a large file may belong to
// several; it counts as a file where it begins.
//
// The result block, a slot for each process, which nobody else writes:
//
//	 0   8  "SHMRESL1"
//	 8   8  number of slots
//	16   8  bytes of a slot S
//	24  40  zero
//	64      slots
//
// A slot:
//
//	  0   8  bytes counted so far, for the progress bar
//	  8   8  process number
//	 16   8  nanoseconds of counting
//	 24  40  files, bytes, lines, words, identifiers
//	 64   8  different identifiers
//	 72   8  the largest count left out of the list
//	 80   8  bytes of the list
//	 88  40  zero
//	128      list: count, length, name; and so on
//
// A slot is complete when its process has ended with status 0: the end of a
// process is an event that both sides see, where a word would have to be
// waited for.
const (
	textMagic   = "SHMTEXT1"
	resultMagic = "SHMRESL1"
	headBytes   = 64
	partBytes   = 16
	fileBytes   = 32
	slotHead    = 128
	listHead    = 16

	// pieceBytes is about how much is counted at a time.
	pieceBytes = 1 << 20
)

// extent is a stretch of the text: begin, and end or length.
type extent struct{ off, n int }

// entry is one file of the index.
type entry struct {
	path string
	extent
}

// index says what lies where in the text block.
type index struct {
	parts []extent
	files []entry // by ascending offset
	text  extent  // in the block
}

// layOut returns where the text begins, given what stands before it, and how
// large the block is. Like all blocks of text it begins a cache line.
func layOut(parts, files, pathBytes, textBytes int) (text extent, size int) {
	begin := headBytes + parts*partBytes + files*fileBytes + pathBytes
	begin = (begin + 63) &^ 63
	return extent{begin, textBytes}, begin + textBytes
}

// encode writes the index to the head of the block. The text must begin where
// layOut said for at least as many files.
func (x *index) encode(block []byte) {
	le := binary.LittleEndian
	h := append(make([]byte, 0, x.text.off), textMagic...)
	paths := 0
	for _, f := range x.files {
		paths += len(f.path)
	}
	for _, v := range []int{len(x.parts), len(x.files), paths, x.text.off, x.text.n, 0, 0} {
		h = le.AppendUint64(h, uint64(v))
	}
	for _, p := range x.parts {
		h = le.AppendUint64(h, uint64(p.off))
		h = le.AppendUint64(h, uint64(p.off+p.n))
	}
	paths = 0
	for _, f := range x.files {
		for _, v := range []int{paths, len(f.path), f.off, f.n} {
			h = le.AppendUint64(h, uint64(v))
		}
		paths += len(f.path)
	}
	for _, f := range x.files {
		h = append(h, f.path...)
	}
	copy(block[:x.text.off], h)
}

// decodeIndex reads what encode wrote, and believes none of it: after it, all
// extents lie in the block. It copies what it reads before it looks at it,
// since whoever may write to the block could change it in between.
func decodeIndex(block []byte) (*index, error) {
	bad := func(format string, args ...any) (*index, error) {
		return nil, fmt.Errorf("not a text block of this demo: "+format, args...)
	}
	if len(block) < headBytes {
		return bad("%d bytes are too few", len(block))
	}
	head := bytes.Clone(block[:headBytes])
	if string(head[:8]) != textMagic {
		return bad("it begins with %q", head[:8])
	}
	// A number beyond the block's size cannot be right, whatever it counts.
	var v [5]int
	for i := range v {
		n := binary.LittleEndian.Uint64(head[8+8*i:])
		if n > uint64(len(block)) {
			return bad("header word %d is %d in a block of %d bytes", i+1, n, len(block))
		}
		v[i] = int(n)
	}
	parts, files, paths, text := v[0], v[1], v[2], extent{v[3], v[4]}
	// In 64 bits, since on a 32-bit system even these sums may not fit an int.
	if headBytes+int64(parts)*partBytes+int64(files)*fileBytes+int64(paths) > int64(text.off) {
		return bad("%d parts and %d files do not fit before %d", parts, files, text.off)
	}
	if text.n > len(block)-text.off {
		return bad("the text ends after the block")
	}
	tables := bytes.Clone(block[headBytes:text.off])
	word := func(at int) uint64 { return binary.LittleEndian.Uint64(tables[at:]) }

	x := &index{text: text, parts: make([]extent, parts), files: make([]entry, files)}
	for i := range x.parts {
		lo, hi := word(i*partBytes), word(i*partBytes+8)
		if lo > hi || hi > uint64(text.n) {
			return bad("part %d is %d to %d of %d", i, lo, hi, text.n)
		}
		x.parts[i] = extent{int(lo), int(hi - lo)}
	}
	names := tables[parts*partBytes+files*fileBytes:][:paths]
	free := uint64(0) // where the next file may begin
	for i := range x.files {
		at := parts*partBytes + i*fileBytes
		name, nameLen, off, n := word(at), word(at+8), word(at+16), word(at+24)
		if name > uint64(paths) || nameLen > uint64(paths)-name {
			return bad("the path of file %d is not among the paths", i)
		}
		if off < free || off > uint64(text.n) || n > uint64(text.n)-off {
			return bad("file %d is %d bytes at %d of %d", i, n, off, text.n)
		}
		// Two files never begin at one place, or a part could not tell whose
		// file an empty one is.
		free = off + n + 1
		x.files[i] = entry{string(names[name:][:nameLen]), extent{int(off), int(n)}}
	}
	return x, nil
}

// split cuts the text into one part for each weight, as large as the weight
// says, give or take a line.
func (x *index) split(text []byte, weights []float64) []extent {
	total, sum := 0, 0.0
	for _, f := range x.files {
		total += f.n
	}
	for _, w := range weights {
		sum += w
	}
	parts := make([]extent, len(weights))
	// before is how much lies in the files before file i.
	begin, i, before, upTo := 0, 0, 0, 0.0
	for k, w := range weights {
		upTo += w
		end := len(text)
		if k < len(weights)-1 {
			want := int(float64(total) * upTo / sum)
			for i < len(x.files) && before+x.files[i].n <= want {
				before += x.files[i].n
				i++
			}
			if i < len(x.files) {
				f := x.files[i]
				end = f.off
				if into := want - before; into > 0 {
					end = f.off + lineEnd(text[f.off:][:f.n], into)
				}
			}
			end = max(begin, end) // a very long line may reach beyond the next cut
		}
		parts[k] = extent{begin, end - begin}
		begin = end
	}
	return parts
}

// lineEnd returns where in p the line ends that the byte before at belongs to.
func lineEnd(p []byte, at int) int {
	if at > 0 && p[at-1] == '\n' {
		return at
	}
	if nl := bytes.IndexByte(p[at:], '\n'); nl >= 0 {
		return at + nl + 1
	}
	return len(p)
}

// pieces returns the stretches of text that make up a part, each of one file
// and at most a line longer than pieceBytes, and for each whether a file
// begins there. text is the text alone.
func (x *index) pieces(text []byte, part extent) iter.Seq2[extent, bool] {
	return func(yield func(extent, bool) bool) {
		// The first file that ends in the part or after it.
		i, _ := slices.BinarySearchFunc(x.files, part.off, func(f entry, off int) int {
			return f.off + f.n - off
		})
		end := part.off + part.n
		for ; i < len(x.files); i++ {
			f := x.files[i]
			if f.off >= end {
				return
			}
			begins := f.off >= part.off
			at, stop := max(f.off, part.off), min(f.off+f.n, end)
			if at >= stop && !begins {
				continue
			}
			for {
				n := stop - at
				if n > pieceBytes {
					n = lineEnd(text[at:stop], pieceBytes)
				}
				if !yield(extent{at, n}, begins) {
					return
				}
				if at += n; at >= stop {
					break
				}
				begins = false
			}
		}
	}
}

// countPart counts one part in place. It calls progress after every piece, and
// ends early when ctx does.
func (x *index) countPart(ctx context.Context, text []byte, part extent, progress func(done uint64)) (*counter, error) {
	c := newCounter()
	for piece, begins := range x.pieces(text, part) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if begins {
			c.Files++
		}
		c.count(text[piece.off:][:piece.n])
		progress(c.Bytes)
	}
	return c, nil
}

// slotBytes is how large a slot is made for a part of n bytes. The identifiers
// of real source take a twelfth of it; what does not fit is left out, and the
// numbers say so.
func slotBytes(n int) int {
	return (slotHead + max(64<<10, n/8) + 63) &^ 63
}

// encodeResultHead writes the head of a block of results.
func encodeResultHead(block []byte, slots, slot int) {
	copy(block, resultMagic)
	binary.LittleEndian.PutUint64(block[8:], uint64(slots))
	binary.LittleEndian.PutUint64(block[16:], uint64(slot))
}

// slotExtent returns where slot i of a block of results lies.
func slotExtent(block []byte, i int) (extent, error) {
	if len(block) < headBytes || string(block[:8]) != resultMagic {
		return extent{}, errors.New("not a result block of this demo")
	}
	slots := binary.LittleEndian.Uint64(block[8:])
	size := binary.LittleEndian.Uint64(block[16:])
	room := uint64(len(block) - headBytes)
	if size < slotHead || size%8 != 0 || size > room || slots > room/size {
		return extent{}, fmt.Errorf("the result block has no room for %d slots of %d bytes", slots, size)
	}
	if i < 0 || uint64(i) >= slots {
		return extent{}, fmt.Errorf("the result block has no slot %d", i)
	}
	return extent{headBytes + i*int(size), int(size)}, nil
}

// resultSlot returns slot i itself.
func resultSlot(block []byte, i int) ([]byte, error) {
	at, err := slotExtent(block, i)
	if err != nil {
		return nil, err
	}
	return block[at.off:][:at.n:at.n], nil
}

// encode writes r to a slot, but for the slot's first word, and leaves out
// identifiers that have no room, the rarest first.
func (r *result) encode(slot []byte) {
	le := binary.LittleEndian
	list, room := slot[slotHead:slotHead], len(slot)-slotHead
	for _, id := range r.List {
		if listHead+len(id.Name) > room-len(list) {
			r.Cut = max(r.Cut, id.Count)
			continue
		}
		list = le.AppendUint64(list, id.Count)
		list = le.AppendUint64(list, uint64(len(id.Name)))
		list = append(list, id.Name...)
	}
	for i, v := range []uint64{
		uint64(r.PID), r.Nanoseconds,
		r.Files, r.Bytes, r.Lines, r.Words, r.Identifiers,
		r.Distinct, r.Cut, uint64(len(list)),
	} {
		le.PutUint64(slot[8+8*i:], v)
	}
}

// decodeResult reads a slot. Its process has ended, but others may write to the
// block: the slot is copied before it is looked at.
func decodeResult(slot []byte) (result, error) {
	if len(slot) < slotHead {
		return result{}, fmt.Errorf("a slot of %d bytes is too small", len(slot))
	}
	head := bytes.Clone(slot[:slotHead])
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(head[8*i:]) }
	r := result{
		PID: int(word(1)), Nanoseconds: word(2),
		Tally:    Tally{Files: word(3), Bytes: word(4), Lines: word(5), Words: word(6), Identifiers: word(7)},
		Distinct: word(8), Cut: word(9),
	}
	if word(10) > uint64(len(slot)-slotHead) {
		return result{}, fmt.Errorf("a list of %d bytes in a slot of %d", word(10), len(slot))
	}
	list := bytes.Clone(slot[slotHead:][:word(10)])
	for len(list) > 0 {
		if len(list) < listHead {
			return result{}, errors.New("the list of identifiers ends in the middle")
		}
		count, n := binary.LittleEndian.Uint64(list), binary.LittleEndian.Uint64(list[8:])
		list = list[listHead:]
		if n > uint64(len(list)) {
			return result{}, errors.New("the list of identifiers ends in the middle")
		}
		r.List = append(r.List, Identifier{string(list[:n]), count})
		list = list[n:]
	}
	return r, nil
}
