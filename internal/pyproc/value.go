package pyproc

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/internal/pickle"
	"github.com/sharedmem/shm/list"
)

// ErrValue says that a value has no form in the other language, or does not fit
// the type that is wanted there. The message says which part of it.
var ErrValue = errors.New("cannot be sent between Go and Python")

// systemDir is where blocks lie that say nothing else, on the only system that has
// workers; the helper knows it as well.
const systemDir = "/dev/shm"

// tag names a struct's field in Python.
const tag = "py"

// What arguments and results are made of: functions of the helper.
func global(name string) pickle.Global { return pickle.Global{Module: module, Name: name} }

var complexClass = pickle.Global{Module: "builtins", Name: "complex"}

// arrayView is what an *array.Array[T] has, whatever its T.
type arrayView interface {
	Block() *shm.Block
	Place() array.Place
	Attach(*shm.Block, array.Place) error
	Close() error
}

var (
	bigType       = reflect.TypeFor[*big.Int]()
	blockType     = reflect.TypeFor[*shm.Block]()
	listType      = reflect.TypeFor[*list.List]()
	refType       = reflect.TypeFor[shm.Ref]()
	arrayViewType = reflect.TypeFor[arrayView]()
	anyType       = reflect.TypeFor[any]()
	dictType      = reflect.TypeFor[pickle.Dict]()
)

func isArray(t reflect.Type) bool { return t.Kind() == reflect.Pointer && t.Implements(arrayViewType) }

// Encode returns the arguments of a call, as a pickle: of f(v); of f(), if v is a struct
// without fields; or of f(**v), with keywords, where v is a struct or a map.
//
// The files have to stay open until the call is over: there Python finds memory
// without a name.
//
// Errors: ErrValue, pickle's limits.
func Encode(v any, keywords bool) (b []byte, files []*os.File, err error) {
	e := &encoder{}
	args := pickle.Tuple{v}
	if t := reflect.TypeOf(v); t != nil && t.Kind() == reflect.Struct && t.NumField() == 0 {
		args = pickle.Tuple{}
		if keywords {
			args = pickle.Tuple{pickle.Dict{}}
		}
	}
	b, err = pickle.Marshal(args, &pickle.EncodeOptions{Convert: e.convert, MaxBytes: MaxMessage})
	if e.err != nil {
		err = e.err
	}
	if err != nil && !errors.Is(err, ErrValue) {
		err = fmt.Errorf("a %T %w: %w", v, ErrValue, err)
		if errors.Is(err, pickle.ErrLimit) {
			err = fmt.Errorf("%w; put large ones into an array or a block", err)
		}
	}
	return b, e.files, err
}

// encoder turns into what package pickle knows what it does not know.
type encoder struct {
	files []*os.File
	err   error
}

func (e *encoder) fail(format string, args ...any) (any, bool) {
	if e.err == nil {
		e.err = fmt.Errorf("%s %w", fmt.Sprintf(format, args...), ErrValue)
	}
	return nil, true
}

func (e *encoder) convert(v any) (any, bool) {
	switch v := v.(type) {
	case *shm.Block:
		if v == nil {
			return nil, true
		}
		return e.call("SharedMemory", e.block(v))
	case *list.List:
		if v == nil {
			return nil, true
		}
		return e.list(v.Ref())
	case shm.Ref:
		if v.Kind == "list" {
			return e.list(v)
		}
		return e.call("SharedMemory", e.named(v, false))
	case complex128:
		return &pickle.Call{Func: complexClass, Args: pickle.Tuple{real(v), imag(v)}}, true
	case complex64:
		return &pickle.Call{Func: complexClass, Args: pickle.Tuple{float64(real(v)), float64(imag(v))}}, true
	}
	r := reflect.ValueOf(v)
	switch t := r.Type(); t.Kind() {
	case reflect.Pointer:
		if r.IsNil() {
			return nil, true
		}
		if a, ok := v.(arrayView); ok {
			return e.array(a)
		}
		return r.Elem().Interface(), true
	case reflect.Struct:
		d := pickle.Dict{}
		for i := range t.NumField() {
			if name := fieldName(t.Field(i)); name != "" {
				d = append(d, pickle.Pair{Key: name, Value: r.Field(i).Interface()})
			}
		}
		if len(d) == 0 && t.NumField() > 0 {
			return e.fail("a %v, none of whose fields is exported,", t)
		}
		return d, true
	case reflect.Map:
		if t.ConvertibleTo(reflect.TypeFor[map[string]any]()) {
			return nil, false // sorted there
		}
		d := pickle.Dict{}
		for it := r.MapRange(); it.Next(); {
			d = append(d, pickle.Pair{Key: it.Key().Interface(), Value: it.Value().Interface()})
		}
		return d, true
	case reflect.Array:
		l := make([]any, r.Len())
		for i := range l {
			l[i] = r.Index(i).Interface()
		}
		return l, true
	case reflect.Chan, reflect.Func, reflect.UnsafePointer:
		return e.fail("a %v", t)
	}
	return nil, false
}

// fieldName returns what a field is called in Python, "" if it is left out.
func fieldName(f reflect.StructField) string {
	name, ok := f.Tag.Lookup(tag)
	switch {
	case !f.IsExported() || name == "-":
		return ""
	case ok && name != "":
		return name
	}
	return f.Name
}

func (e *encoder) call(maker string, args pickle.Tuple) (any, bool) {
	return &pickle.Call{Func: global(maker), Args: args}, true
}

// named is where a block with a name is, what it is called, and whether it is for
// reading only.
func (e *encoder) named(ref shm.Ref, readOnly bool) pickle.Tuple {
	if ref.Name == "" {
		e.fail("a block without a name")
	}
	dir, err := filepath.Abs(cmp.Or(ref.Dir, systemDir))
	if err != nil {
		e.fail("%v: a block", err)
	}
	return pickle.Tuple{filepath.Join(dir, ref.Name), ref.Name, readOnly}
}

func (e *encoder) block(b *shm.Block) pickle.Tuple {
	if b.Name() != "" {
		return e.named(b.Ref(), b.ReadOnly())
	}
	f, err := b.File()
	if err != nil {
		e.fail("%v: %v", b, err)
		return nil
	}
	e.files = append(e.files, f)
	fd := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
	return pickle.Tuple{fd, fd, b.ReadOnly()}
}

// list is by name only: Python's class opens it itself.
func (e *encoder) list(ref shm.Ref) (any, bool) {
	if ref.Name == "" || ref.Dir != "" {
		return e.fail("a list without a name, or in a directory of its own, where ShareableList does not look,")
	}
	return e.call("shareable_list", pickle.Tuple{ref.Name})
}

func (e *encoder) array(a arrayView) (any, bool) {
	b := a.Block()
	if b == nil {
		return e.fail("%v, which lies in this process's own memory (array.Create makes one in shared memory),", a)
	}
	p := a.Place()
	return e.call("array", append(e.block(b), p.Offset, p.DType, tuple(p.Shape), tuple(p.Strides)))
}

func tuple(v []int) pickle.Tuple {
	t := make(pickle.Tuple, len(v))
	for i, n := range v {
		t[i] = n
	}
	return t
}

// Decode stores a result in what out points to. What it opens is the caller's to
// close; used are the names of blocks that out has. If it fails everything is closed.
//
// Errors: ErrValue; those of opening blocks.
func Decode(b []byte, out any) (used map[string]bool, err error) {
	v, err := pickle.Unmarshal(b, &pickle.Options{Globals: globals, MaxBytes: MaxMessage, MaxItems: math.MaxInt32})
	if err != nil {
		return nil, fmt.Errorf("the result %w: %w", ErrValue, err)
	}
	d := &decoder{used: map[string]bool{}}
	if err := d.store(reflect.ValueOf(out).Elem(), v); err != nil {
		for _, c := range d.opened {
			_ = c.Close()
		}
		reflect.ValueOf(out).Elem().SetZero()
		return nil, err
	}
	return d.used, nil
}

func globals(mod, name string) bool {
	if mod == module {
		switch name {
		case "SharedMemory", "shareable_list", "array", "value":
			return true
		}
	}
	return pickle.Global{Module: mod, Name: name} == complexClass
}

type decoder struct {
	opened []io.Closer
	used   map[string]bool
}

// mismatch is a part of the result that has no place in what Go wants.
type mismatch struct {
	path string // put together from its end
	text string
	err  error
}

func (m *mismatch) Error() string {
	return fmt.Sprintf("the result%s is %s: it %v", m.path, m.text, m.err)
}

func (m *mismatch) Unwrap() error { return m.err }

func wrong(v any, t reflect.Type) error {
	return &mismatch{text: fmt.Sprintf("%s, where Go wants %v", pythonName(v), t), err: ErrValue}
}

// at says of an error in which part of a value it is.
func at(err error, format string, args ...any) error {
	if m, ok := errors.AsType[*mismatch](err); ok {
		m.path = fmt.Sprintf(format, args...) + m.path
	}
	return err
}

// pythonName is the class of v, with an article.
func pythonName(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		return "a bool"
	case int64, *big.Int:
		digits := fmt.Sprint(v)
		if len(digits) > 40 {
			return fmt.Sprintf("an int of %d digits", len(digits))
		}
		return "the int " + digits
	case float64:
		return fmt.Sprintf("the float %v", v)
	case complex128:
		return "a complex"
	case string:
		return "a str"
	case []byte, pickle.ByteArray:
		return fmt.Sprintf("%d bytes", reflect.ValueOf(v).Len())
	case []any:
		return fmt.Sprintf("a list of %d", len(v))
	case pickle.Tuple:
		return fmt.Sprintf("a tuple of %d", len(v))
	case pickle.Dict:
		return "a dict"
	case pickle.Set, pickle.FrozenSet:
		return "a set"
	case *pickle.Call:
		if g, ok := v.Func.(pickle.Global); ok {
			switch g.Name {
			case "SharedMemory":
				return "a SharedMemory"
			case "shareable_list":
				return "a ShareableList"
			case "array":
				return "an array"
			}
		}
	}
	return "an object"
}

// store stores v.
func (d *decoder) store(dst reflect.Value, v any) error {
	t := dst.Type()
	if c, ok := v.(*pickle.Call); ok {
		g, _ := c.Func.(pickle.Global)
		switch {
		case g == global("value") && len(c.Args) == 1:
			return d.store(dst, c.Args[0])
		case g == complexClass && len(c.Args) == 2:
			re, ok1 := c.Args[0].(float64)
			im, ok2 := c.Args[1].(float64)
			if ok1 && ok2 {
				v = complex(re, im)
			}
		default:
			return d.handle(dst, c, g.Name)
		}
	}
	fail := func() error { return wrong(v, t) }
	switch t {
	case anyType:
		return d.dynamic(dst, v)
	case bigType:
		switch v := v.(type) {
		case nil:
		case int64:
			dst.Set(reflect.ValueOf(big.NewInt(v)))
		case *big.Int:
			dst.Set(reflect.ValueOf(v))
		default:
			return fail()
		}
		return nil
	case dictType:
		dict, ok := v.(pickle.Dict)
		if !ok {
			return fail()
		}
		for i := range dict {
			var pair struct{ key, value any }
			if err := d.store(reflect.ValueOf(&pair.key).Elem(), dict[i].Key); err != nil {
				return err
			}
			if err := d.store(reflect.ValueOf(&pair.value).Elem(), dict[i].Value); err != nil {
				return err
			}
			dict[i] = pickle.Pair{Key: pair.key, Value: pair.value}
		}
		dst.Set(reflect.ValueOf(dict))
		return nil
	}
	switch t.Kind() {
	case reflect.Bool:
		b, ok := v.(bool)
		if !ok {
			return fail()
		}
		dst.SetBool(b)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		i, ok := v.(int64)
		if !ok || dst.OverflowInt(i) {
			return fail()
		}
		dst.SetInt(i)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		u, ok := uint64Of(v)
		if !ok || dst.OverflowUint(u) {
			return fail()
		}
		dst.SetUint(u)
	case reflect.Float32, reflect.Float64:
		switch v := v.(type) {
		case float64:
			dst.SetFloat(v)
		case int64:
			if dst.SetFloat(float64(v)); int64(dst.Float()) != v {
				return fail()
			}
		default:
			return fail()
		}
	case reflect.Complex64, reflect.Complex128:
		switch v := v.(type) {
		case complex128:
			dst.SetComplex(v)
		case float64:
			dst.SetComplex(complex(v, 0))
		default:
			return fail()
		}
	case reflect.String:
		s, ok := v.(string)
		if !ok {
			return fail()
		}
		dst.SetString(s)
	case reflect.Pointer:
		if v == nil {
			return nil
		}
		if isArray(t) || t == blockType || t == listType {
			return fail()
		}
		dst.Set(reflect.New(t.Elem()))
		return d.store(dst.Elem(), v)
	case reflect.Slice, reflect.Array:
		return d.sequence(dst, v)
	case reflect.Map:
		return d.mapping(dst, v)
	case reflect.Struct:
		return d.fields(dst, v)
	default:
		return fail()
	}
	return nil
}

func uint64Of(v any) (uint64, bool) {
	switch v := v.(type) {
	case int64:
		return uint64(v), v >= 0
	case *big.Int:
		return v.Uint64(), v.IsUint64()
	}
	return 0, false
}

// elements returns what is in a list, tuple or set.
func elements(v any) ([]any, bool) {
	switch v := v.(type) {
	case []any:
		return v, true
	case pickle.Tuple:
		return v, true
	case pickle.Set:
		return v, true
	case pickle.FrozenSet:
		return v, true
	}
	return nil, false
}

func (d *decoder) sequence(dst reflect.Value, v any) error {
	t := dst.Type()
	if t.Kind() == reflect.Slice && v == nil {
		return nil
	}
	var raw []byte
	switch v := v.(type) {
	case []byte:
		raw = v
	case pickle.ByteArray:
		raw = v
	}
	if raw != nil && t.Elem().Kind() == reflect.Uint8 {
		if t.Kind() == reflect.Slice {
			dst.SetBytes(raw)
			return nil
		}
		if len(raw) != t.Len() {
			return wrong(v, t)
		}
		reflect.Copy(dst, reflect.ValueOf(raw))
		return nil
	}
	items, ok := elements(v)
	if !ok || t.Kind() == reflect.Array && len(items) != t.Len() {
		return wrong(v, t)
	}
	if t.Kind() == reflect.Slice {
		dst.Set(reflect.MakeSlice(t, len(items), len(items)))
	}
	for i, item := range items {
		if err := d.store(dst.Index(i), item); err != nil {
			return at(err, "[%d]", i)
		}
	}
	return nil
}

func (d *decoder) mapping(dst reflect.Value, v any) error {
	t := dst.Type()
	if v == nil {
		return nil
	}
	dict, ok := v.(pickle.Dict)
	if !ok {
		return wrong(v, t)
	}
	dst.Set(reflect.MakeMapWithSize(t, len(dict)))
	for _, pair := range dict {
		key, value := reflect.New(t.Key()).Elem(), reflect.New(t.Elem()).Elem()
		if err := d.store(key, pair.Key); err != nil {
			return at(err, "'s key")
		}
		if !key.Comparable() {
			return at(wrong(pair.Key, t.Key()), "'s key")
		}
		if err := d.store(value, pair.Value); err != nil {
			return at(err, "[%#v]", pair.Key)
		}
		dst.SetMapIndex(key, value)
	}
	return nil
}

// fields stores a dict in a struct. Keys that the struct has not are passed over,
// and case decides only between two that differ in nothing else, as in package json.
func (d *decoder) fields(dst reflect.Value, v any) error {
	t := dst.Type()
	if t.NumField() == 0 {
		return nil // nothing is wanted
	}
	dict, ok := v.(pickle.Dict)
	if !ok {
		return wrong(v, t)
	}
	for _, pair := range dict {
		key, ok := pair.Key.(string)
		if !ok {
			continue
		}
		found := -1
		for i := range t.NumField() {
			name := fieldName(t.Field(i))
			if name == key {
				found = i
				break
			}
			if found < 0 && name != "" && strings.EqualFold(name, key) {
				found = i
			}
		}
		if found < 0 {
			continue
		}
		if err := d.store(dst.Field(found), pair.Value); err != nil {
			return at(err, "[%q]", key)
		}
	}
	return nil
}

// dynamic stores what the caller leaves to us.
func (d *decoder) dynamic(dst reflect.Value, v any) error {
	var to reflect.Value
	switch v := v.(type) {
	case nil:
		dst.SetZero()
		return nil
	case []any, pickle.Tuple, pickle.Set, pickle.FrozenSet:
		items, _ := elements(v)
		for i := range items {
			if err := d.store(reflect.ValueOf(&items[i]).Elem(), items[i]); err != nil {
				return at(err, "[%d]", i)
			}
		}
		dst.Set(reflect.ValueOf(v))
		return nil
	case pickle.Dict:
		to = reflect.New(dictType)
	case *pickle.Call, pickle.Global:
		return wrong(v, dst.Type())
	default:
		dst.Set(reflect.ValueOf(v))
		return nil
	}
	if err := d.store(to.Elem(), v); err != nil {
		return err
	}
	dst.Set(to.Elem())
	return nil
}

// handle opens a block, list or array.
func (d *decoder) handle(dst reflect.Value, c *pickle.Call, kind string) error {
	t := dst.Type()
	ref, place, ok := handleOf(c, kind)
	if !ok {
		return wrong(c, t)
	}
	want := t
	if t.Kind() == reflect.Struct && t.NumField() == 0 {
		return nil // nothing is wanted
	}
	d.used[ref.Name] = true
	if t == anyType {
		switch kind {
		case "SharedMemory":
			want = blockType
		case "shareable_list":
			want = listType
		case "array":
			want = arrayTypes()[place.DType]
		}
	}
	switch {
	case want == refType:
		dst.Set(reflect.ValueOf(ref))
		return nil
	case want == blockType && kind == "SharedMemory":
		b, err := ref.Open(nil)
		if err != nil {
			return opening(err)
		}
		d.opened = append(d.opened, b)
		dst.Set(reflect.ValueOf(b))
		return nil
	case want == listType && kind == "shareable_list":
		l, err := list.Open(ref.Name, nil)
		if err != nil {
			return opening(err)
		}
		d.opened = append(d.opened, l)
		dst.Set(reflect.ValueOf(l))
		return nil
	case want != nil && isArray(want) && kind == "array":
		b, err := ref.Open(nil)
		if err != nil {
			return opening(err)
		}
		v := reflect.New(want.Elem())
		if err := v.Interface().(arrayView).Attach(b, place); err != nil {
			return opening(errors.Join(err, b.Close()))
		}
		d.opened = append(d.opened, v.Interface().(arrayView))
		dst.Set(v)
		return nil
	case want == nil:
		return &mismatch{text: fmt.Sprintf("an array of dtype %s, which needs an *array.Array of a type to match", place.DType), err: ErrValue}
	}
	return wrong(c, t)
}

func opening(err error) error { return &mismatch{text: "not to be opened", err: err} }

// handleOf reads what the helper wrote of a handle.
func handleOf(c *pickle.Call, kind string) (ref shm.Ref, p array.Place, ok bool) {
	args := c.Args
	if kind == "shareable_list" && len(args) == 1 {
		name, ok := args[0].(string)
		return shm.Ref{Name: name, Kind: "list"}, p, ok
	}
	if len(args) < 3 {
		return ref, p, false
	}
	path, ok := args[0].(string)
	dir, name := filepath.Split(path)
	if dir = filepath.Clean(dir); strings.HasPrefix(dir, "/proc/") {
		return ref, p, false // of memory that has no name
	}
	if dir == systemDir {
		dir = ""
	}
	ref = shm.Ref{Name: name, Dir: dir}
	if kind == "SharedMemory" {
		return ref, p, ok && len(args) == 3
	}
	if kind != "array" || len(args) != 7 {
		return ref, p, false
	}
	off, ok1 := args[3].(int64)
	dtype, ok2 := args[4].(string)
	shape, ok3 := ints(args[5])
	strides, ok4 := ints(args[6])
	return ref, array.Place{DType: dtype, Offset: int(off), Shape: shape, Strides: strides}, ok && ok1 && ok2 && ok3 && ok4
}

func ints(v any) ([]int, bool) {
	t, ok := v.(pickle.Tuple)
	out := make([]int, len(t))
	for i := range t {
		n, isInt := t[i].(int64)
		out[i], ok = int(n), ok && isInt && int64(int(n)) == n
	}
	return out, ok
}

// arrayTypes are the arrays that a result of unknown type can be.
var arrayTypes = sync.OnceValue(func() map[string]reflect.Type {
	m := map[string]reflect.Type{}
	add[bool](m)
	add[int8](m)
	add[int16](m)
	add[int32](m)
	add[int64](m)
	add[uint8](m)
	add[uint16](m)
	add[uint32](m)
	add[uint64](m)
	add[float32](m)
	add[float64](m)
	add[complex64](m)
	add[complex128](m)
	return m
})

func add[T any](m map[string]reflect.Type) {
	a, err := array.Over([]T{}, []int{0})
	if err != nil {
		panic(err) // each of them can be an element
	}
	m[a.DType()] = reflect.TypeFor[*array.Array[T]]()
}
