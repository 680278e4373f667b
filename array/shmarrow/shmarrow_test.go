package shmarrow_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	arrowarray "github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/arrow/tensor"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array"
	"github.com/sharedmem/shm/array/shmarrow"
	"github.com/sharedmem/shm/internal/shmtest"
)

func TestMain(m *testing.M) { shmtest.Main(m) }

// closeLater closes and unlinks when the test ends.
func closeLater(t testing.TB, c interface{ Close() error }) {
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if u, ok := c.(interface{ Unlink() error }); ok {
			_ = u.Unlink() // a peer may have done so
		}
	})
}

func newArray[T any](t testing.TB, shape []int, order ...array.Order) *array.Array[T] {
	t.Helper()
	a, err := array.Create[T](shmtest.Name(t), shape, nil, order...)
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, a)
	return a
}

// mixed is a record of n rows, from row from on, with many types; every tenth row
// has nulls.
func mixed(t testing.TB, from, n int) arrow.RecordBatch {
	t.Helper()
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "id", Type: arrow.PrimitiveTypes.Int64},
		{Name: "fare", Type: arrow.PrimitiveTypes.Float64, Nullable: true, Metadata: arrow.MetadataFrom(map[string]string{"unit": "€"})},
		{Name: "place", Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: "paid", Type: arrow.FixedWidthTypes.Boolean},
		{Name: "when", Type: &arrow.TimestampType{Unit: arrow.Nanosecond, TimeZone: "UTC"}},
		{Name: "stops", Type: arrow.ListOf(arrow.PrimitiveTypes.Int16)},
		{Name: "kind", Type: &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String}},
		{Name: "at", Type: arrow.StructOf(arrow.Field{Name: "x", Type: arrow.PrimitiveTypes.Float32}, arrow.Field{Name: "y", Type: arrow.PrimitiveTypes.Float32})},
		{Name: "note", Type: arrow.BinaryTypes.StringView},
	}, nil)
	b := arrowarray.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	stops := b.Field(5).(*arrowarray.ListBuilder)
	at := b.Field(7).(*arrowarray.StructBuilder)
	kinds := b.Field(6).(*arrowarray.BinaryDictionaryBuilder)
	for _, kind := range []string{"taxi", "bus", "tram"} {
		// All at first, so that every batch has the same dictionary.
		if err := kinds.AppendString(kind); err != nil {
			t.Fatal(err)
		}
	}
	for i := from; i < from+n; i++ {
		b.Field(0).(*arrowarray.Int64Builder).Append(int64(i))
		if i%10 == 9 {
			b.Field(1).AppendNull()
			b.Field(2).AppendNull()
		} else {
			b.Field(1).(*arrowarray.Float64Builder).Append(float64(i) / 4)
			b.Field(2).(*arrowarray.StringBuilder).Append(fmt.Sprintf("place %d", i))
		}
		b.Field(3).(*arrowarray.BooleanBuilder).Append(i%3 == 0)
		b.Field(4).(*arrowarray.TimestampBuilder).Append(arrow.Timestamp(i) * 1e9)
		stops.Append(true)
		for k := range i % 4 {
			stops.ValueBuilder().(*arrowarray.Int16Builder).Append(int16(k))
		}
		if i >= from+3 {
			if err := kinds.AppendString([]string{"taxi", "bus", "tram"}[i%3]); err != nil {
				t.Fatal(err)
			}
		}
		at.Append(true)
		at.FieldBuilder(0).(*arrowarray.Float32Builder).Append(float32(i))
		at.FieldBuilder(1).(*arrowarray.Float32Builder).Append(-float32(i))
		b.Field(8).(*arrowarray.StringViewBuilder).Append(strings.Repeat("long ", i%5))
	}
	rec := b.NewRecordBatch()
	t.Cleanup(rec.Release)
	return rec
}

// eachBuffer visits all memory of a column, and of what it consists of.
func eachBuffer(d arrow.ArrayData, visit func(p []byte)) {
	for _, b := range d.Buffers() {
		if b != nil && b.Len() > 0 {
			visit(b.Bytes())
		}
	}
	for _, c := range d.Children() {
		eachBuffer(c, visit)
	}
	if dict := d.Dictionary(); dict != nil && !isNil(dict) {
		eachBuffer(dict, visit)
	}
}

func isNil(d arrow.ArrayData) bool { p, ok := d.(*arrowarray.Data); return ok && p == nil }

// What was written is read, and every buffer of it lies in the block, at a multiple
// of 64.
func TestFile(t *testing.T) {
	recs := []arrow.RecordBatch{mixed(t, 0, 100), mixed(t, 100, 100), mixed(t, 200, 100)}
	f, err := shmarrow.Create(shmtest.Name(t), nil, recs, nil)
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, f)
	peer, err := shmarrow.Open(f.Ref().Name, &shm.OpenOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, readOnly{peer})
	if !peer.Schema().Equal(recs[0].Schema()) || peer.Len() != 3 {
		t.Fatalf("%d batches of %v", peer.Len(), peer.Schema())
	}
	for _, i := range []int{2, 0, 1, 0} {
		rec, err := peer.Record(i)
		if err != nil {
			t.Fatal(err)
		}
		if !arrowarray.RecordEqual(rec, recs[i]) {
			t.Errorf("batch %d is another one:\n%v\n%v", i, rec, recs[i])
		}
		buffers := 0
		for k, col := range rec.Columns() {
			eachBuffer(col.Data(), func(p []byte) {
				buffers++
				off, err := shm.Offset(peer.Block(), &p[0])
				if err != nil || off+len(p) > peer.Block().Size() || off%64 != 0 {
					t.Errorf("batch %d, %s: %d bytes at %d of the block, %v", i, rec.ColumnName(k), len(p), off, err)
				}
			})
		}
		if buffers < 17 {
			t.Errorf("batch %d has only %d buffers", i, buffers)
		}
		rec.Release()
	}
	if info, err := shm.Stat(f.Ref().Name); err != nil || info.Kind != "arrow" {
		t.Errorf("Stat: %+v, %v", info, err)
	}

	// arrow-go's own readers take the block as a file, and what lies behind
	// its beginning as a stream.
	own, err := ipc.NewFileReader(bytes.NewReader(f.Block().Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	for i := range recs {
		rec, err := own.RecordBatchAt(i)
		if err != nil || !arrowarray.RecordEqual(rec, recs[i]) {
			t.Errorf("arrow-go reads batch %d as %v, %v", i, rec, err)
		}
	}
	stream, err := ipc.NewReader(bytes.NewReader(f.Block().Bytes()[8:]))
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < 3; n++ {
		if !stream.Next() || !arrowarray.RecordEqual(stream.RecordBatch(), recs[n]) {
			t.Errorf("as a stream, batch %d is another one: %v", n, stream.Err())
		}
	}
	if stream.Next() || stream.Err() != nil {
		t.Errorf("as a stream it goes on: %v", stream.Err())
	}
}

// readOnly hides Unlink.
type readOnly struct{ f *shmarrow.File }

func (r readOnly) Close() error { return r.f.Close() }

// A number stored through one handle is the number of another one's record.
func TestFileIsShared(t *testing.T) {
	f, err := shmarrow.Create(shmtest.Name(t), nil, []arrow.RecordBatch{mixed(t, 0, 100)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, f)
	peer, err := shmarrow.Open(f.Ref().Name, nil)
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, readOnly{peer})
	mine, err := f.Record(0)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := peer.Record(0)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := shmarrow.FromColumn[int64](f.Block(), mine.Column(0))
	if err != nil {
		t.Fatal(err)
	}
	ids.Set(-7, 42)
	if got := theirs.Column(0).(*arrowarray.Int64).Value(42); got != -7 {
		t.Errorf("the other handle has %d", got)
	}
	when, err := shmarrow.FromColumn[array.Time](f.Block(), mine.Column(4))
	if err != nil || when.At(3).Time() != time.Unix(3, 0).UTC() {
		t.Errorf("a timestamp: %v, %v", when, err)
	}

	_, err = shmarrow.FromColumn[float64](f.Block(), mine.Column(1))
	wantFormat(t, "a column with nulls", err, "10 nulls")
	_, err = shmarrow.FromColumn[uint64](f.Block(), mine.Column(0))
	wantFormat(t, "another type", err, "int64")
	_, err = shmarrow.FromColumn[bool](f.Block(), mine.Column(3))
	wantFormat(t, "bits", err, "bits")
	if _, err = shmarrow.FromColumn[int64](peer.Block(), mine.Column(0)); !errors.Is(err, shm.ErrSize) {
		t.Errorf("a column of another block: %v", err)
	}
}

func wantFormat(t *testing.T, what string, err error, say string) {
	t.Helper()
	if !errors.Is(err, shm.ErrFormat) || !strings.Contains(err.Error(), say) {
		t.Errorf("%s: %v; want ErrFormat that says %q", what, err, say)
	}
	if _, ok := errors.AsType[*shm.Error](err); !ok {
		t.Errorf("%s: %#v is no *shm.Error", what, err)
	}
}

func TestEmptyFiles(t *testing.T) {
	full := mixed(t, 0, 100)
	none := full.NewSlice(0, 0)
	defer none.Release()
	for what, recs := range map[string][]arrow.RecordBatch{"no batches": nil, "a batch without rows": {none}} {
		f, err := shmarrow.Create(shmtest.Name(t), full.Schema(), recs, nil)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		closeLater(t, f)
		if !f.Schema().Equal(full.Schema()) || f.Len() != len(recs) {
			t.Errorf("%s: %d batches of %v", what, f.Len(), f.Schema())
		}
		for i := range recs {
			rec, err := f.Record(i)
			if err != nil || rec.NumRows() != 0 {
				t.Errorf("%s: %v, %v", what, rec, err)
			}
		}
	}

	// A slice of a record is written without the rest.
	part := full.NewSlice(20, 30)
	defer part.Release()
	f, err := shmarrow.Create(shmtest.Name(t), nil, []arrow.RecordBatch{part}, nil)
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, f)
	rec, err := f.Record(0)
	if err != nil || !arrowarray.RecordEqual(rec, part) {
		t.Errorf("a slice of a record: %v, %v", rec, err)
	}
}

func TestCreateErrors(t *testing.T) {
	_, err := shmarrow.Create(shmtest.Name(t), nil, nil, nil)
	wantFormat(t, "neither schema nor batch", err, "neither")

	other := arrow.NewSchema([]arrow.Field{{Name: "x", Type: arrow.PrimitiveTypes.Int8}}, nil)
	_, err = shmarrow.Create(shmtest.Name(t), other, []arrow.RecordBatch{mixed(t, 0, 100)}, nil)
	wantFormat(t, "another schema", err, "batch 0")

	// A dictionary that the first batch has not.
	typ := &arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String}
	var recs []arrow.RecordBatch
	for _, word := range []string{"one", "another"} {
		b := arrowarray.NewRecordBuilder(memory.DefaultAllocator, arrow.NewSchema([]arrow.Field{{Name: "w", Type: typ}}, nil))
		if err := b.Field(0).(*arrowarray.BinaryDictionaryBuilder).AppendString(word); err != nil {
			t.Fatal(err)
		}
		recs = append(recs, b.NewRecordBatch())
	}
	name := shmtest.Name(t)
	_, err = shmarrow.Create(name, nil, recs, nil)
	wantFormat(t, "two dictionaries", err, "batch 1")
	if _, err := shm.Stat(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after a Create that failed: %v", err)
	}

	f, err := shmarrow.Create(name, nil, recs[:1], nil)
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, f)
	if _, err := shmarrow.Create(name, nil, recs[:1], nil); !errors.Is(err, os.ErrExist) {
		t.Errorf("a name that is taken: %v", err)
	}
}

// What others wrote in other ways is read, or refused for a reason that is said.
func TestOtherWriters(t *testing.T) {
	rec := mixed(t, 0, 100)
	file := func(opts ...ipc.Option) []byte {
		var out bytes.Buffer
		w, err := ipc.NewFileWriter(&out, append(opts, ipc.WithSchema(rec.Schema()))...)
		if err == nil {
			err = errors.Join(w.Write(rec), w.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	open := func(p []byte) (*shmarrow.File, error) {
		b, err := shm.CreateFrom(shmtest.Name(t), bytes.NewReader(p), nil)
		if err != nil {
			t.Fatal(err)
		}
		closeLater(t, b)
		return shmarrow.FromBlock(b)
	}
	plain := file()
	for what, p := range map[string][]byte{
		"arrow-go's own": plain, "in whole pages": append(slices.Clip(plain), make([]byte, 4096-len(plain)%4096)...),
	} {
		f, err := open(p)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if got, err := f.Record(0); err != nil || !arrowarray.RecordEqual(got, rec) {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	// The dictionary is compressed, too, and read first.
	_, err := open(file(ipc.WithZstd()))
	wantFormat(t, "compressed", err, "without compression")
	var stream bytes.Buffer
	w := ipc.NewWriter(&stream, ipc.WithSchema(rec.Schema()))
	if err := errors.Join(w.Write(rec), w.Close()); err != nil {
		t.Fatal(err)
	}
	_, err = open(stream.Bytes())
	wantFormat(t, "a stream", err, "ARROW1")
	_, err = open(make([]byte, 100))
	wantFormat(t, "zeros", err, "ARROW1")
	_, err = open(plain[:len(plain)/2])
	wantFormat(t, "half a file", err, "ARROW1")
	_, err = open([]byte("ARROW1\x00\x00\xff\xff\xff\xffARROW1"))
	wantFormat(t, "a footer beyond the file", err, "footer")

	// The byte order is a field of the schema that is left out when it is little. In
	// this one it is there.
	big := arrow.NewSchema(rec.Schema().Fields()[:1], nil).WithEndianness(1 - rec.Schema().Endianness())
	var out bytes.Buffer
	bw, err := ipc.NewFileWriter(&out, ipc.WithSchema(big))
	if err == nil {
		err = bw.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = open(out.Bytes())
	wantFormat(t, "the other byte order", err, "byte order")
}

// After its block is closed or cut a file says so.
func TestFileOfClosedBlock(t *testing.T) {
	f, err := shmarrow.Create(shmtest.Name(t), nil, []arrow.RecordBatch{mixed(t, 0, 100)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Close(), f.Unlink()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Record(0); !errors.Is(err, os.ErrClosed) {
		t.Errorf("Record: %v", err)
	}
	if _, err := shmarrow.FromBlock(f.Block()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("FromBlock: %v", err)
	}
	defer func() {
		if recover() == nil {
			t.Error("Record out of range did not panic")
		}
	}()
	_, _ = f.Record(1)
}

func TestColumn(t *testing.T) {
	a := newArray[float64](t, []int{10})
	for i := range a.Data() {
		a.Set(float64(i), i)
	}
	part := a.Slice(2, 6)
	col, err := shmarrow.Column(part)
	if err != nil {
		t.Fatal(err)
	}
	defer col.Release()
	c, ok := col.(*arrowarray.Float64)
	if !ok || c.Len() != 4 || c.Value(1) != 3 {
		t.Fatalf("%T %v", col, col)
	}
	a.Set(42, 3)
	if c.Value(1) != 42 || &c.Float64Values()[0] != a.Ptr(2) {
		t.Error("the column is not the array's memory")
	}
	back, err := shmarrow.FromColumn[float64](a.Block(), arrowarray.NewSlice(col, 1, 3))
	if err != nil {
		t.Fatal(err)
	}
	back.Set(-1, 0)
	if !slices.Equal(back.Shape(), []int{2}) || a.At(3) != -1 {
		t.Errorf("%v of the column is %v, and the array %v", back, back.Data(), a.Data())
	}

	// A column of an array becomes one of a record, and is copied then.
	rec := arrowarray.NewRecordBatch(arrow.NewSchema([]arrow.Field{{Name: "x", Type: col.DataType()}}, nil), []arrow.Array{col}, 4)
	defer rec.Release()
	f, err := shmarrow.Create(shmtest.Name(t), nil, []arrow.RecordBatch{rec}, nil)
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, f)
	if got, err := f.Record(0); err != nil || !arrowarray.RecordEqual(got, rec) {
		t.Errorf("%v, %v", got, err)
	}

	_, err = shmarrow.Column(a.Step(0, 2))
	wantFormat(t, "gaps", err, "Clone")
	_, err = shmarrow.Column(newArray[float64](t, []int{2, 2}))
	wantFormat(t, "two axes", err, "one axis")
	_, err = shmarrow.Column(newArray[complex64](t, []int{2}))
	wantFormat(t, "complex numbers", err, "<c8")
	_, err = shmarrow.Column(newArray[bool](t, []int{2}))
	wantFormat(t, "booleans", err, "bits")
	own, err := array.Over([]int8{1, 2}, []int{2})
	if err != nil {
		t.Fatal(err)
	}
	_, err = shmarrow.Column(own)
	wantFormat(t, "no block", err, "no block")
}

// Every type of element that Arrow has goes there and back.
func TestColumnTypes(t *testing.T) {
	type Celsius float64
	both[int8](t, arrow.INT8, 1)
	both[int16](t, arrow.INT16, 1)
	both[int32](t, arrow.INT32, 1)
	both[int64](t, arrow.INT64, 1)
	both[uint8](t, arrow.UINT8, 1)
	both[uint16](t, arrow.UINT16, 1)
	both[uint32](t, arrow.UINT32, 1)
	both[uint64](t, arrow.UINT64, 1)
	both[array.Float16](t, arrow.FLOAT16, array.Float16Of(1))
	both[float32](t, arrow.FLOAT32, 1)
	both[Celsius](t, arrow.FLOAT64, 1)
	both[array.Time](t, arrow.TIMESTAMP, 1)
	both[time.Duration](t, arrow.DURATION, 1)
	both(t, arrow.FIXED_SIZE_BINARY, [5]byte{'1'})
}

func both[T comparable](t *testing.T, id arrow.Type, one T) {
	t.Helper()
	for _, n := range []int{0, 1, 5} {
		a := newArray[T](t, []int{n})
		if n > 0 {
			a.Set(one, n-1)
		}
		col, err := shmarrow.Column(a)
		if err != nil {
			t.Errorf("%T: %v", one, err)
			return
		}
		if err := arrowarray.ValidateFull(col); err != nil || col.DataType().ID() != id || col.Len() != n {
			t.Errorf("%T: %d elements of %s, %v", one, col.Len(), col.DataType(), err)
		}
		if n > 0 && !strings.HasPrefix(col.ValueStr(n-1), "1") && id != arrow.FIXED_SIZE_BINARY && id != arrow.TIMESTAMP {
			t.Errorf("%T: the last element is %s", one, col.ValueStr(n-1))
		}
		back, err := shmarrow.FromColumn[T](a.Block(), col)
		if err != nil {
			t.Errorf("%T: %v", one, err)
		} else if !slices.Equal(back.Data(), a.Data()) || n > 0 && back.Ptr(0) != a.Ptr(0) {
			t.Errorf("%T: %v came back as %v", one, a.Data(), back.Data())
		}
		col.Release()
	}
}

func TestTensor(t *testing.T) {
	for _, order := range []array.Order{array.C, array.Fortran} {
		a := newArray[int32](t, []int{4, 3, 2}, order)
		n := int32(0)
		for idx := range a.All() {
			a.Set(n, idx...)
			n++
		}
		for what, v := range map[string]*array.Array[int32]{
			"whole": a, "turned": a.Transpose(), "a part": a.SliceAxis(1, 1, 3), "steps": a.Step(0, 3).Step(2, 2),
			"one plane": a.Sub(2), "no axes": a.Sub(1).Sub(1).Sub(1), "nothing": a.Slice(2, 2), "one index": a.Slice(3, 4).Step(0, 5),
		} {
			x, err := shmarrow.Tensor(v)
			if err != nil {
				t.Errorf("%v, %s: %v", order, what, err)
				continue
			}
			i32 := x.(*tensor.Int32)
			if x.Len() != v.Len() || x.NumDims() != len(v.Shape()) {
				t.Errorf("%v, %s: %d elements in %v", order, what, x.Len(), x.Shape())
			}
			for idx, want := range v.All() {
				at := make([]int64, len(idx))
				for k, i := range idx {
					at[k] = int64(i)
				}
				if got := i32.Value(at); got != want {
					t.Errorf("%v, %s: %d at %v, want %d", order, what, got, idx, want)
				}
			}
			if x.IsContiguous() != (v.Order() != array.Strided) {
				t.Errorf("%v, %s: contiguous is %v, and the order %v; strides %v", order, what, x.IsContiguous(), v.Order(), x.Strides())
			}
			x.Release()
		}
		x, err := shmarrow.Tensor(a)
		if err != nil {
			t.Fatal(err)
		}
		a.Set(-5, 2, 1, 0)
		if got := x.(*tensor.Int32).Value([]int64{2, 1, 0}); got != -5 {
			t.Errorf("%v: the tensor has %d where -5 was stored", order, got)
		}
		_, err = shmarrow.Tensor(a.Flip(1))
		wantFormat(t, "flipped", err, "axis 1")
	}
	_, err := shmarrow.Tensor(newArray[array.Time](t, []int{2}))
	wantFormat(t, "times", err, "no tensors")
	a := newArray[int8](t, []int{2})
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := shmarrow.Tensor(a); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a tensor of a closed block: %v", err)
	}
}

// readAll does with a file all that a program would, and returns what it saw.
func readAll(b *shm.Block) (rows int64, err error) {
	f, err := shmarrow.FromBlock(b)
	if err != nil {
		return 0, err
	}
	var errs []error
	for i := range min(f.Len(), 100) {
		rec, err := f.Record(i)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		rows += rec.NumRows()
		for _, col := range rec.Columns() {
			// Null columns and run ends need no bytes for their length.
			for k := range min(col.Len(), 1000) {
				_ = col.ValueStr(k)
			}
		}
		rec.Release()
	}
	return rows, errors.Join(errs...)
}

// Any byte may be another one: that is an error or another value, and never
// a panic.
func TestBrokenFiles(t *testing.T) {
	f, err := shmarrow.Create(shmtest.Name(t), nil, []arrow.RecordBatch{mixed(t, 0, 4), mixed(t, 4, 4)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, f)
	p := f.Block().Bytes()
	refused := 0
	for i := range p {
		old := p[i]
		for _, bad := range []byte{old ^ 1, 0xff} {
			p[i] = bad
			if _, err := readAll(f.Block()); err != nil {
				refused++
				if !errors.Is(err, shm.ErrFormat) {
					t.Fatalf("byte %d as %#x: %v", i, bad, err)
				}
			}
		}
		p[i] = old
	}
	if rows, err := readAll(f.Block()); err != nil || rows != 8 || refused < 1000 {
		t.Errorf("in the end %d rows, %v; %d were refused", rows, err, refused)
	}
}

// Small metadata that unfold to more than any memory has are refused before anybody
// makes room for them.
func TestBombs(t *testing.T) {
	f, err := shmarrow.Create(shmtest.Name(t), arrow.NewSchema([]arrow.Field{
		{Name: "x", Type: arrow.ListOf(arrow.StructOf(arrow.Field{Name: "y", Type: arrow.PrimitiveTypes.Int8}))}}, nil), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	closeLater(t, f)
	p := f.Block().Bytes()
	good := slices.Clone(p)
	refused := 0
	// Every number that could be a count becomes a large one, everything that could
	// be an offset leads back to where it is.
	for i := 8; i+4 <= len(p); i += 2 {
		for _, bad := range []uint32{1 << 31, 1<<28 - 1, 1 << 24, 0, 0xfffffffc, 0xffffffe0, 0xffffff80} {
			binary.LittleEndian.PutUint32(p[i:], bad)
			if _, err := readAll(f.Block()); err != nil {
				refused++
				if !errors.Is(err, shm.ErrFormat) {
					t.Fatalf("%#x at %d: %v", bad, i, err)
				}
			}
			copy(p, good)
		}
	}
	if refused < 100 {
		t.Errorf("only %d were refused", refused)
	}
}

func FuzzFile(f *testing.F) {
	seed, err := shmarrow.Create(shmtest.Name(f), nil, []arrow.RecordBatch{mixed(f, 0, 10)}, nil)
	if err != nil {
		f.Fatal(err)
	}
	closeLater(f, seed)
	f.Add(slices.Clone(seed.Block().Bytes()))
	small, err := shmarrow.Create(shmtest.Name(f), arrow.NewSchema([]arrow.Field{{Name: "x", Type: arrow.PrimitiveTypes.Int8}}, nil), nil, nil)
	if err != nil {
		f.Fatal(err)
	}
	closeLater(f, small)
	f.Add(slices.Clone(small.Block().Bytes()))
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) == 0 {
			return
		}
		b, err := shm.Anonymous(len(p), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		copy(b.Bytes(), p)
		if _, err := readAll(b); err != nil && !errors.Is(err, shm.ErrFormat) {
			t.Fatal(err)
		}
		if !bytes.Equal(b.Bytes(), p) {
			t.Fatal("reading changed the block")
		}
	})
}
