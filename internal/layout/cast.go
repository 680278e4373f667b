package layout

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"
)

var (
	// ErrType says that a Go type cannot lie in shared memory.
	ErrType = errors.New("type cannot lie in shared memory")

	// ErrRange says that offset and length do not lie within the memory.
	ErrRange = errors.New("outside the block")

	// ErrAlign says that an offset is not a multiple of the type's alignment.
	ErrAlign = errors.New("misaligned")
)

// At returns the T at byte off of b. b must be aligned to a page, as mappings
// are.
//
// Errors: ErrType, ErrRange, ErrAlign.
func At[T any](b []byte, off int) (*T, error) {
	if err := check[T](b, off, 1); err != nil {
		return nil, err
	}
	var t T
	if unsafe.Sizeof(t) == 0 {
		return new(T), nil
	}
	return (*T)(unsafe.Pointer(&b[off])), nil
}

// Slice returns the n values of type T from byte off of b on.
//
// Errors: ErrType, ErrRange, ErrAlign.
func Slice[T any](b []byte, off, n int) ([]T, error) {
	if err := check[T](b, off, n); err != nil {
		return nil, err
	}
	var t T
	if n == 0 || unsafe.Sizeof(t) == 0 {
		return make([]T, n), nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&b[off])), n), nil
}

// Words returns the same memory as words, to be copied without looking at them.
func Words[T ~int64 | ~float64](s []T) []uint64 {
	return unsafe.Slice((*uint64)(unsafe.Pointer(unsafe.SliceData(s))), len(s))
}

// Bytes returns the same memory as bytes. T must be free of pointers.
func Bytes[T any](s []T) []byte {
	var t T
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), uintptr(len(s))*unsafe.Sizeof(t))
}

// LowHalf is where in the bytes of a 64-bit word its low 32 bits lie. (So does
// the kernel's futex: it looks at 32 bits only.)
var LowHalf = 4 * int(binary.NativeEndian.Uint16([]byte{0, 1})&1)

// HasPointers reports whether values of type t hold a pointer of this process.
func HasPointers(t reflect.Type) bool { return pointerFree(t) != nil }

// Offset returns where in b p points. Not ok if *p does not lie wholly in b.
func Offset[T any](b []byte, p *T) (off int, ok bool) {
	if len(b) == 0 || p == nil {
		return 0, false
	}
	base, at := uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(p))
	if at < base || at-base > uintptr(len(b)) || unsafe.Sizeof(*p) > uintptr(len(b))-(at-base) {
		return 0, false
	}
	return int(at - base), true
}

// FaultOffset returns which byte of b lies at addr, for an addr up to the end of
// b's last page of the given size; not ok for any other.
func FaultOffset(b []byte, addr uintptr, page int) (off int, ok bool) {
	if len(b) == 0 {
		return 0, false
	}
	base := uintptr(unsafe.Pointer(&b[0]))
	end := (uintptr(len(b)) + uintptr(page) - 1) &^ (uintptr(page) - 1)
	if addr < base || addr-base >= end {
		return 0, false
	}
	return min(int(addr-base), len(b)-1), true
}

func check[T any](b []byte, off, n int) error {
	var t T
	size, align := unsafe.Sizeof(t), unsafe.Alignof(t)
	if err := pointerFree(reflect.TypeFor[T]()); err != nil {
		return err
	}
	if off < 0 || n < 0 || off > len(b) ||
		size > 0 && uint64(n) > math.MaxInt/uint64(size) || uintptr(len(b)-off) < uintptr(n)*size {
		return fmt.Errorf("%w: %d × %d bytes at offset %d of %d", ErrRange, n, size, off, len(b))
	}
	if uintptr(off)%align != 0 {
		return fmt.Errorf("%w: offset %d, %v needs a multiple of %d", ErrAlign, off, reflect.TypeFor[T](), align)
	}
	return nil
}

// verdicts remembers pointerFree's answers: reflect.Type → error or nil.
var verdicts sync.Map

// pointerFree refuses types with pointers in them: an address means nothing in
// another process, and the garbage collector does not look into mapped memory.
// Go's int, uint and uintptr are allowed, though their size is the machine's.
func pointerFree(t reflect.Type) error {
	if v, ok := verdicts.Load(t); ok {
		err, _ := v.(error)
		return err
	}
	var err error
	if path, bad := findPointer(t, t.String()); bad != nil {
		err = fmt.Errorf("%w: %s is a %v, which holds a pointer of this process", ErrType, path, bad)
	}
	verdicts.Store(t, err)
	return err
}

// findPointer returns the path of the first field of t that holds a pointer,
// and its type.
func findPointer(t reflect.Type, path string) (string, reflect.Type) {
	switch t.Kind() {
	case reflect.Bool, reflect.Uintptr,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64,
		reflect.Float32, reflect.Float64, reflect.Complex64, reflect.Complex128:
		return "", nil
	case reflect.Array:
		// An array of no elements holds no pointer: [0]*T as an alignment trick.
		if t.Len() == 0 {
			return "", nil
		}
		return findPointer(t.Elem(), path+"[0]")
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			if p, bad := findPointer(f.Type, path+"."+f.Name); bad != nil {
				return p, bad
			}
		}
		return "", nil
	}
	return path, t
}

// StoreRelease is w.Store for which it is enough that everything stored before
// it is seen by whoever sees v. On amd64, where all stores are so, it is a
// plain store, where w.Store is a locked instruction (docs/decisions.md).
func StoreRelease(w *atomic.Uint64, v uint64) {
	if runtime.GOARCH == "amd64" {
		*(*uint64)(unsafe.Pointer(w)) = v
		return
	}
	w.Store(v)
}

// ValueBytes returns the memory of v, which is addressable and of a type free of
// pointers.
func ValueBytes(v reflect.Value) []byte {
	return unsafe.Slice((*byte)(v.Addr().UnsafePointer()), v.Type().Size())
}

// TextBytes returns the bytes of s, to be read only.
func TextBytes(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// SliceBytes returns the memory of a slice's elements, of a type free of pointers.
func SliceBytes(v reflect.Value) []byte {
	return unsafe.Slice((*byte)(v.UnsafePointer()), uintptr(v.Len())*v.Type().Elem().Size())
}
