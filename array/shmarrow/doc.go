// Package shmarrow shares Apache Arrow's columns, tensors and record batches
// through shared memory, without a copy, between Go and everything that reads Arrow:
// pyarrow, pandas, Polars, DuckDB.
//
// It is a module of its own, so that only who imports it depends on Arrow.
//
// # Arrays
//
// [Column] hands an array of one axis to Arrow as a column, and [Tensor] one of any
// number of axes as a tensor; [FromColumn] takes a column of numbers as an array. All
// are the same memory, in both directions.
//
// # Record batches
//
// [Create] writes record batches into a block, in Arrow's file format; shm info
// calls such a block arrow. [Open] reads them where they lie: columns point
// into the block.
//
//	f, err := shmarrow.Open("trips", nil)
//	if err != nil {
//		return err
//	}
//	defer f.Close()
//	for i := range f.Len() {
//		rec, err := f.Record(i)
//		if err != nil {
//			return err
//		}
//		… // not beyond Close
//		rec.Release()
//	}
//
// In Python, as well without a copy:
//
//	block = shared_memory.SharedMemory("trips")
//	reader = pa.ipc.open_file(pa.py_buffer(block.buf))
//	table = reader.read_all()
//	…
//	del table, reader  # and all that was made of them, before
//	block.close()
//
// Where a block has whole pages only (docs/platforms.md), Python has to cut the zeros
// off its end, as Open does: py_buffer(block.buf[:size]).
//
// Python writes a block for Open in two passes, as its size has to be known first:
//
//	sink = pa.MockOutputStream()
//	with pa.ipc.new_file(sink, table.schema) as writer:
//		writer.write_table(table)
//	block = shared_memory.SharedMemory("trips", create=True, size=sink.size())
//	buffer = pa.py_buffer(block.buf)
//	with pa.ipc.new_file(pa.FixedSizeBufferWriter(buffer), table.schema) as writer:
//		writer.write_table(table)
//	del writer, buffer
//
// What only a copy could read is refused: compressed batches, deltas of dictionaries,
// another byte order. ipc.NewFileReader over bytes.NewReader(block.Bytes()) reads
// these.
//
// # Lifetime and safety
//
// Records, columns and tensors are views of their block. Release them, and let go of
// what was made of them, before Close; a later access faults, as with [shm.Slice].
// Reference counts keep no block open. Several goroutines may call the methods
// of a [File] at once.
//
// Arrow takes columns as constant. Here somebody else may write to them: who
// writes, and when nobody reads, is for the processes to arrange. What the block says
// of itself is copied before it is checked, and what offsets and indices in the
// columns say is checked once, when Record reads them. A process that changes those
// later can make a reader's access panic, no more.
package shmarrow
