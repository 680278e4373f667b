package demo

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
)

// What the demo counts is defined on bytes, so that Go and Python's re agree
// on any input whatever:
//
//   - a line is a '\n';
//   - a word is a longest run of bytes other than space, \t, \n, \v, \f and \r;
//   - an identifier is a longest run of A-Z, a-z, 0-9 and _ that does not
//     begin with a digit. Bytes beyond ASCII end it, as they do in Python.
//
// All three end at a '\n', which is why a text may be cut after any '\n' and
// its parts be counted apart.

// Tally is what adds up.
type Tally struct {
	Files       uint64 `json:"files"`
	Bytes       uint64 `json:"bytes"`
	Lines       uint64 `json:"lines"`
	Words       uint64 `json:"words"`
	Identifiers uint64 `json:"identifiers"` // how many stand there, not how many different ones
}

func (t *Tally) add(u Tally) {
	t.Files += u.Files
	t.Bytes += u.Bytes
	t.Lines += u.Lines
	t.Words += u.Words
	t.Identifiers += u.Identifiers
}

// Identifier is one identifier and how often it was seen.
type Identifier struct {
	Name  string `json:"name"`
	Count uint64 `json:"count"`
}

// byCount puts the commonest first; equals go by name, so that every process
// and every run shows the same order.
func byCount(a, b Identifier) int {
	if a.Count != b.Count {
		return cmp.Compare(b.Count, a.Count)
	}
	return cmp.Compare(a.Name, b.Name)
}

// Classes of bytes; those from classDigit on make up identifiers.
const (
	classOther = iota
	classSpace
	classDigit
	classLetter
)

var byteClass = func() (class [256]uint8) {
	for _, c := range " \t\n\v\f\r" {
		class[c] = classSpace
	}
	for c := '0'; c <= '9'; c++ {
		class[c] = classDigit
	}
	for c := 'a'; c <= 'z'; c++ {
		class[c], class[c-'a'+'A'] = classLetter, classLetter
	}
	class['_'] = classLetter
	return class
}()

// counter counts pieces of text. Make it with newCounter.
type counter struct {
	Tally
	// Pointers, so that the common case, an identifier seen before, looks up
	// without turning the bytes into a string.
	names map[string]*uint64
}

func newCounter() *counter { return &counter{names: map[string]*uint64{}} }

// count adds p, which begins at the start of a file or after a '\n'. p may lie
// in shared memory and change meanwhile: the counts are then of no use, and
// that is all.
func (c *counter) count(p []byte) {
	c.Bytes += uint64(len(p))
	c.Lines += uint64(bytes.Count(p, []byte{'\n'}))
	inWord := false
	for i := 0; i < len(p); {
		class := byteClass[p[i]]
		if class == classSpace {
			inWord = false
			i++
			continue
		}
		if !inWord {
			inWord = true
			c.Words++
		}
		if class == classOther {
			i++
			continue
		}
		j := i + 1
		for j < len(p) && byteClass[p[j]] >= classDigit {
			j++
		}
		if class == classLetter {
			c.Identifiers++
			if n, ok := c.names[string(p[i:j])]; ok {
				*n++
			} else {
				n := uint64(1)
				c.names[string(p[i:j])] = &n
			}
		}
		i = j
	}
}

// list returns what was seen, the commonest first.
func (c *counter) list() []Identifier {
	ids := make([]Identifier, 0, len(c.names))
	for name, n := range c.names {
		ids = append(ids, Identifier{name, *n})
	}
	slices.SortFunc(ids, byCount)
	return ids
}

// result is what one process found: its tally and as much of its list of
// identifiers as fits in its slot.
type result struct {
	Tally
	PID         int
	Nanoseconds uint64 // that it took, without starting the process
	Distinct    uint64 // identifiers it saw
	Cut         uint64 // no identifier that is not in List was seen more often
	List        []Identifier
}

// merged is the sum of several results. What a slot had no room for makes the
// count of an identifier a range.
type merged struct {
	Tally
	names  map[string]span
	unseen uint64 // what is not in names was seen at most so often
}

// span is a count known to lie in n … n+slack.
type span struct{ n, slack uint64 }

func mergeResults(results []result) merged {
	m := merged{names: map[string]span{}}
	for _, r := range results {
		m.add(r.Tally)
		m.unseen += r.Cut
	}
	// slack holds, at first, the cuts of the lists that do have the name.
	for _, r := range results {
		for _, id := range r.List {
			s := m.names[id.Name]
			m.names[id.Name] = span{s.n + id.Count, s.slack + r.Cut}
		}
	}
	for name, s := range m.names {
		m.names[name] = span{s.n, m.unseen - min(s.slack, m.unseen)}
	}
	return m
}

// top returns the k commonest identifiers, and whether what was left out of
// the lists could change that.
func (m *merged) top(k int) (ids []Identifier, sure bool) {
	ids = make([]Identifier, 0, len(m.names))
	for name, s := range m.names {
		ids = append(ids, Identifier{name, s.n})
	}
	slices.SortFunc(ids, byCount)
	if len(ids) < k {
		return ids, m.unseen == 0
	}
	last := ids[k-1]
	sure = m.unseen < last.Count
	for i, id := range ids {
		s := m.names[id.Name]
		switch {
		case s.slack == 0:
		case i < k, s.n+s.slack >= last.Count:
			sure = false
		}
	}
	return ids[:k], sure
}

// check compares the sum of the processes with what one process counted, all
// identifiers included, and says where they differ.
func (m *merged) check(single *counter) error {
	if m.Tally != single.Tally {
		return fmt.Errorf("the processes counted %+v together, one process counted %+v", m.Tally, single.Tally)
	}
	for name, n := range single.names {
		s, ok := m.names[name]
		if !ok {
			s = span{0, m.unseen}
		}
		if *n < s.n || *n > s.n+s.slack {
			return fmt.Errorf("the processes counted %q %d times together, one process %d times", name, s.n, *n)
		}
	}
	for name, s := range m.names {
		if single.names[name] == nil {
			return fmt.Errorf("the processes counted %q %d times together, one process never", name, s.n)
		}
	}
	return nil
}
