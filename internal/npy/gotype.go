package npy

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/sharedmem/shm/internal/layout"
)

// Named is what a Go type has that is more to NumPy than its kind: the name of
// its dtype.
type Named interface{ NumPyDType() string }

var named = reflect.TypeFor[Named]()

// ofTypes remembers Of's answers: reflect.Type → *DType or error.
var ofTypes sync.Map

// Of returns the dtype of a Go type: what NumPy calls the bytes that Go lays
// out for it.
//
// Errors: ErrDType, which names the field.
func Of(t reflect.Type) (*DType, error) {
	v, ok := ofTypes.Load(t)
	if !ok {
		d, err := of(t, t.String())
		if v = d; err != nil {
			v = err
		} else if d.Elem != nil {
			v = fmt.Errorf("%w: elements of type %v are arrays; make its length a dimension of the array, and its elements' type the type",
				ErrDType, t)
		}
		v, _ = ofTypes.LoadOrStore(t, v)
	}
	if err, bad := v.(error); bad {
		return nil, err
	}
	return v.(*DType), nil
}

func of(t reflect.Type, path string) (*DType, error) {
	d := &DType{Size: int(t.Size()), Big: BigEndian && t.Size() > 1}
	if t.Implements(named) {
		return ofNamed(t, path)
	}
	switch t.Kind() {
	case reflect.Bool:
		d.Kind = 'b'
	case reflect.Int64:
		d.Kind = 'i'
		if t == reflect.TypeFor[time.Duration]() {
			d.Kind, d.Unit = 'm', "ns"
		}
	case reflect.Int8, reflect.Int16, reflect.Int32:
		d.Kind = 'i'
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		d.Kind = 'u'
	case reflect.Float32, reflect.Float64:
		d.Kind = 'f'
	case reflect.Complex64, reflect.Complex128:
		d.Kind = 'c'
	case reflect.Int, reflect.Uint, reflect.Uintptr:
		return nil, fmt.Errorf("%w: %s is a %v, whose size is not the same on every machine; use %[3]v64 or %[3]v32",
			ErrDType, path, strings.TrimSuffix(t.Kind().String(), "ptr"))
	case reflect.Array:
		return ofArray(t, path, d)
	case reflect.Struct:
		if t.PkgPath() == "sync/atomic" {
			// An atomic is the number in it, behind fields without a size.
			return of(t.Field(t.NumField()-1).Type, path)
		}
		return ofStruct(t, path, d)
	default:
		return nil, fmt.Errorf("%w: %s is a %v, which holds a pointer of this process", ErrDType, path, t)
	}
	return d, nil
}

func ofNamed(t reflect.Type, path string) (*DType, error) {
	if layout.HasPointers(t) {
		return nil, fmt.Errorf("%w: %s is a %v, which holds a pointer of this process", ErrDType, path, t)
	}
	name := reflect.Zero(t).Interface().(Named).NumPyDType()
	d := DType{Kind: 'V', Size: 2, Name: name}
	if name != "bfloat16" {
		var err error
		if d, err = ParseType(name); err != nil {
			return nil, fmt.Errorf("%s: %v's NumPyDType: %w", path, t, err)
		}
	}
	if t.Size() == 0 {
		return nil, fmt.Errorf("%w: %s is a %v, which has no bytes", ErrDType, path, t)
	}
	if d.Size != int(t.Size()) {
		return nil, fmt.Errorf("%w: %s is a %v of %d bytes, and its NumPyDType says %s", ErrDType, path, t, t.Size(), layout.PyRepr(name))
	}
	return &d, nil
}

// ofArray makes bytes of [N]byte and text of [N]rune: NumPy's S and U, which
// end at their last element that is not zero.
func ofArray(t reflect.Type, path string, d *DType) (*DType, error) {
	switch elem := t.Elem(); {
	case t.Len() == 0:
		return nil, fmt.Errorf("%w: %s has no elements", ErrDType, path)
	case elem == reflect.TypeFor[byte]():
		d.Kind, d.Big = 'S', false
		return d, nil
	case elem == reflect.TypeFor[rune]():
		d.Kind, d.Big = 'U', BigEndian
		return d, nil
	}
	elem, err := of(t.Elem(), path+"[0]")
	if err != nil {
		return nil, err
	}
	sub := &DType{Size: d.Size, Elem: elem, Shape: []int{t.Len()}}
	if elem.Elem != nil {
		sub.Elem, sub.Shape = elem.Elem, append(sub.Shape, elem.Shape...)
	}
	return sub, nil
}

func ofStruct(t reflect.Type, path string, d *DType) (*DType, error) {
	d.Kind, d.Big, d.Fields = 'V', false, []Field{}
	for i := range t.NumField() {
		f := t.Field(i)
		at := path + "." + f.Name
		if f.Type.Size() == 0 {
			continue // [0]uint64 to align what follows, structs.HostLayout
		}
		if f.Name == "_" {
			if layout.HasPointers(f.Type) {
				return nil, fmt.Errorf("%w: %s is a %v, which holds a pointer of this process", ErrDType, at, f.Type)
			}
			continue
		}
		name := f.Name
		if tag, ok := f.Tag.Lookup("npy"); ok && tag != "" {
			name = tag
		}
		if !utf8.ValidString(name) {
			return nil, fmt.Errorf("%w: the name of %s is not UTF-8: %q", ErrDType, at, name)
		}
		if slices.ContainsFunc(d.Fields, func(o Field) bool { return o.Name == name }) {
			return nil, fmt.Errorf("%w: %s is a second field named %s", ErrDType, at, layout.PyRepr(name))
		}
		ft, err := of(f.Type, at)
		if err != nil {
			return nil, err
		}
		d.Fields = append(d.Fields, Field{Name: name, Offset: int(f.Offset), Type: *ft})
	}
	if len(d.Fields) == 0 {
		return nil, fmt.Errorf("%w: %s has no fields", ErrDType, path)
	}
	return d, nil
}

// Match says why memory of type have may not be read as want, the type of a Go
// type; nil if it may. Names of fields are compared without regard to case, as
// Go's exported names have capitals where Python's have none.
func Match(want, have *DType) error { return match(want, have, "") }

func match(want, have *DType, path string) error {
	at := func(format string, args ...any) error {
		msg := fmt.Sprintf(format, args...)
		if path != "" {
			msg = "field " + layout.PyRepr(clip(path)) + ": " + msg
		}
		return fmt.Errorf("%w: %s", ErrDType, msg)
	}
	differ := func() error {
		return at("the memory holds %s, and the Go type means %s", clip(have.String()), clip(want.String()))
	}
	if want.IsStruct() != have.IsStruct() {
		return differ()
	}
	if want.IsStruct() {
		return matchFields(want, have, path, at)
	}
	if want.Size != have.Size {
		return differ()
	}
	if isBytes(want) && isBytes(have) {
		return nil
	}
	if want.Elem != nil || have.Elem != nil {
		// [4]rune may also stand for four numbers, ('<i4', (4,)).
		if want.Kind == 'U' && have.Elem != nil && have.Elem.Kind == 'i' && have.Elem.Size == 4 && have.Elem.Big == want.Big {
			return nil
		}
		if want.Elem == nil || have.Elem == nil {
			return differ()
		}
		n := len(want.Shape)
		if len(have.Shape) < n || !slices.Equal(want.Shape, have.Shape[:n]) {
			return differ()
		}
		if len(have.Shape) == n {
			return match(want.Elem, have.Elem, path)
		}
		// [2][4]byte, two texts, may stand for the numbers ('|u1', (2, 4)).
		return match(want.Elem, &DType{Elem: have.Elem, Shape: have.Shape[n:], Size: want.Elem.Size}, path)
	}
	if want.Kind != have.Kind || want.Unit != have.Unit {
		return differ()
	}
	if want.Big != have.Big {
		return at("the memory holds %s, in the other byte order than this machine's; in Python, a.astype(a.dtype.newbyteorder('=')) turns it", have)
	}
	return nil
}

// isBytes reports whether d is bytes without a meaning: S5, V5 or ('|u1', (5,)).
func isBytes(d *DType) bool {
	return d.Kind == 'S' || d.Kind == 'V' && !d.IsStruct() || d.Elem != nil && d.Elem.Kind == 'u' && d.Elem.Size == 1
}

func matchFields(want, have *DType, path string, at func(string, ...any) error) error {
	for i, w := range want.Fields {
		name := strings.TrimPrefix(path+"."+w.Name, ".")
		if i >= len(have.Fields) {
			return at("the memory has no field %s", layout.PyRepr(clip(w.Name)))
		}
		h := have.Fields[i]
		if !strings.EqualFold(w.Name, h.Name) && !strings.EqualFold(w.Name, h.Title) {
			return at("the memory has the field %s where the Go type has %s; a tag `npy:%q` renames it",
				layout.PyRepr(clip(h.Name)), layout.PyRepr(clip(w.Name)), clip(h.Name))
		}
		if w.Offset != h.Offset {
			return at("the field %s begins at byte %d, in Go at byte %d; np.dtype(…, align=True) lays fields out as Go does",
				layout.PyRepr(clip(h.Name)), h.Offset, w.Offset)
		}
		if err := match(&w.Type, &h.Type, name); err != nil {
			return err
		}
	}
	if len(have.Fields) > len(want.Fields) {
		return at("the Go type has no field %s", layout.PyRepr(clip(have.Fields[len(want.Fields)].Name)))
	}
	if want.Size != have.Size {
		return at("an element has %d bytes, in Go %d; np.dtype(…, align=True) lays fields out as Go does", have.Size, want.Size)
	}
	return nil
}
