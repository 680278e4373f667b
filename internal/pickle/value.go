package pickle

import "errors"

// Tuple is a tuple.
type Tuple []any

// Dict is a dict in its order. A key that comes twice has the later value, as
// in Python; see Get.
type Dict []Pair

// Pair is a key and its value.
type Pair struct{ Key, Value any }

// Get returns the value of a key that is text.
func (d Dict) Get(key string) (value any, ok bool) {
	for i := len(d) - 1; i >= 0; i-- {
		if k, isText := d[i].Key.(string); isText && k == key {
			return d[i].Value, true
		}
	}
	return nil, false
}

// ByteArray is a bytearray.
type ByteArray []byte

// Set is a set. The elements are in the order of the pickle; that they differ,
// and that they and the keys of a Dict have a hash in Python, is not checked.
type Set []any

// FrozenSet is a frozenset, as Set is a set.
type FrozenSet []any

// Global is the name of a class or function.
type Global struct{ Module, Name string }

// Call is an object that is described by the call that makes it.
type Call struct {
	Func     any // a Global, or the *Call that makes the function
	Args     Tuple
	New      bool // Func.__new__(Func, *Args), not Func(*Args)
	State    any  // for __setstate__, if HasState
	HasState bool
}

var (
	// ErrSyntax says that the bytes are not a pickle, or not a whole one.
	ErrSyntax = errors.New("malformed")
	// ErrForbidden is for what is outside the subset or the allow-list.
	ErrForbidden = errors.New("not allowed")
	// ErrLimit is for what is too large, too deep or too much.
	ErrLimit = errors.New("limit exceeded")
)

// Defaults of Options and EncodeOptions.
const (
	defaultBytes = 64 << 20
	defaultDepth = 100
	defaultItems = 1 << 20
)

// maxInt is the most bytes an int may have; it takes too long to print larger
// ones. maxDigits is for decimal digits, and is Python's own limit (3.11 on).
const (
	maxInt    = 1 << 13
	maxDigits = 4300
)
