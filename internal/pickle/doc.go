// Package pickle reads and writes the Python pickles that multiprocessing's
// connections and managers exchange: plain values, and the handles of shared
// memory. It is a closed subset. No code is ever run: a class or function is
// only a name, which the reader's allow-list must have, and a call of one is
// data, a [Call].
//
//	Python             Go, from Unmarshal
//	None               nil
//	bool               bool
//	int                int64, *big.Int beyond
//	float              float64
//	str                string, always valid UTF-8
//	bytes, bytearray   []byte, ByteArray
//	tuple, list        Tuple, []any
//	dict               Dict, in order
//	set, frozenset     Set, FrozenSet
//	class, function    Global
//	any other object   *Call
//
// # What is refused
//
// Everything that no pickler of Python 3 writes for these values: persistent
// IDs, the extension registry, buffers out of band, Python 2's strings and
// classes, and the opcodes that serve only them. So is what contains itself;
// what is merely shared stays shared, and comes out as the same slice or
// pointer. A str with lone surrogates (an undecodable file name, say) has no
// UTF-8 and is refused as well.
//
// # Limits
//
// Input is taken for hostile. It costs time and memory in proportion to its
// length at worst, whatever lengths it announces. And since a few shared
// references can stand for more values than there are atoms, the limits of
// [Options] hold for the value as if nothing in it were shared: a function that
// walks the result, such as fmt.Sprint, needs no limit of its own.
//
// Errors wrap [ErrSyntax], [ErrForbidden] or [ErrLimit].
package pickle
