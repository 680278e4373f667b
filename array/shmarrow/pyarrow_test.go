package shmarrow_test

import (
	"context"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	arrowarray "github.com/apache/arrow-go/v18/arrow/array"

	"github.com/sharedmem/shm"
	"github.com/sharedmem/shm/array/shmarrow"
	"github.com/sharedmem/shm/internal/shmtest"
)

// python reads the block that its argument names, and writes the batches into one
// of its own. Both programs are those of the package's documentation.
const python = `
import sys
import pyarrow as pa
from multiprocessing import resource_tracker, shared_memory

def open_block(name=None, **how):
	try:
		return shared_memory.SharedMemory(name, track=False, **how)
	except TypeError:  # before 3.13 the tracker would remove it at our end
		block = shared_memory.SharedMemory(name, **how)
		resource_tracker.unregister(block._name, "shared_memory")
		return block

def buffers(table):
	for column in table.columns:
		for chunk in column.chunks:
			yield from (b for b in chunk.buffers() if b is not None and b.size > 0)
			if pa.types.is_dictionary(chunk.type):
				yield from (b for b in chunk.dictionary.buffers() if b is not None)

def inside(table, buffer):
	return all(buffer.address <= b.address and b.address + b.size <= buffer.address + buffer.size for b in buffers(table))

def say(*words):
	print(*words, flush=True)

block = open_block(sys.argv[1])
buffer = pa.py_buffer(block.buf)
reader = pa.ipc.open_file(buffer)
table = reader.read_all()
table.validate(full=True)
say(reader.num_record_batches, table.num_rows, pa.total_allocated_bytes(), inside(table, buffer), all(b.address % 64 == 0 for b in buffers(table)))
say(table["id"][42], table["place"][8], table["place"][9], table["kind"][1], table["stops"][3], table["note"][1], table.schema.field("fare").metadata)
input()
say(table["id"][42])

def write(sink):
	with pa.ipc.new_file(sink, table.schema) as writer:
		for i in range(reader.num_record_batches):
			writer.write_batch(reader.get_batch(i))

sink = pa.MockOutputStream()
write(sink)
other = open_block(sys.argv[2], create=True, size=sink.size())
target = pa.py_buffer(other.buf)
write(pa.FixedSizeBufferWriter(target))
del table, reader, buffer
block.close()
say("written")

table = pa.ipc.open_file(target).read_all()
input()
say(table["id"][43], inside(table, target))
del table, target
other.close()
other.unlink()
`

// pyarrow reads our files where they lie, and we its; what one side stores, the
// other sees.
func TestPyArrow(t *testing.T) {
	for _, py := range shmtest.PythonsWith(t, "pyarrow") {
		t.Run(py.Version, func(t *testing.T) {
			recs := []arrow.RecordBatch{mixed(t, 0, 100), mixed(t, 100, 100)}
			f, err := shmarrow.Create(shmtest.Name(t), nil, recs, nil)
			if err != nil {
				t.Fatal(err)
			}
			closeLater(t, f)
			theirs := shmtest.Name(t)
			p := shmtest.StartCommand(t, py.Cmd(context.Background(), "-c", python, f.Ref().Name, theirs))
			p.Expect("2 200 0 True True")
			p.Expect("42 place 8 None bus [0, 1, 2] long  {b'unit': b'\\xe2\\x82\\xac'}")

			rec, err := f.Record(0)
			if err != nil {
				t.Fatal(err)
			}
			defer rec.Release()
			store := func(f *shmarrow.File, rec arrow.RecordBatch, i int, v int64) {
				t.Helper()
				ids, err := shmarrow.FromColumn[int64](f.Block(), rec.Column(0))
				if err != nil {
					t.Fatal(err)
				}
				ids.Set(v, i)
			}
			store(f, rec, 42, -7)
			p.Send("")
			p.Expect("-7")
			p.Expect("written")

			g, err := shmarrow.Open(theirs, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			if !g.Schema().Equal(f.Schema()) || g.Len() != 2 {
				t.Fatalf("pyarrow wrote %d batches of %v, not %v", g.Len(), g.Schema(), f.Schema())
			}
			for i := range recs {
				want, err := f.Record(i)
				if err != nil {
					t.Fatal(err)
				}
				got, err := g.Record(i)
				if err != nil {
					t.Fatal(err)
				}
				if !arrowarray.RecordEqual(got, want) {
					t.Errorf("pyarrow wrote batch %d as\n%v\nnot\n%v", i, got, want)
				}
				for k, col := range got.Columns() {
					eachBuffer(col.Data(), func(p []byte) {
						if _, err := shm.Offset(g.Block(), &p[0]); err != nil {
							t.Errorf("batch %d, %s: %v", i, got.ColumnName(k), err)
						}
					})
				}
				if i == 0 {
					store(g, got, 43, -8)
				}
			}
			p.Send("")
			p.Expect("-8 True")
			if status, stderr := p.WaitAll(); status != 0 || stderr != "" {
				t.Errorf("Python ended with %d: %s", status, stderr)
			}
		})
	}
}
