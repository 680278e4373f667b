// Package array lays typed N-dimensional arrays over shared memory as NumPy
// does, so that Go and Python work on the same elements without a copy.
//
//	a, err := array.CreateNPY[float32]("cam0", []int{480, 640}, nil)
//	if err != nil {
//		return err
//	}
//	defer a.Unlink()
//	defer a.Close()
//	a.Set(0.5, 10, 20)  // row 10, column 20
//	row := a.Row(10)    // 640 float32 in the memory itself
//
// # Two forms
//
// A raw array ([Create], [Open]) is nothing but elements, and both sides agree on
// type and shape by other means. In Python:
//
//	block = shared_memory.SharedMemory("cam0")
//	a = numpy.ndarray((480, 640), "float32", block.buf)
//
// One with a header ([CreateNPY], [OpenNPY]) describes itself. What lies in the block
// is a .npy file; saved as a file, numpy.load reads it. In Python, without a copy:
//
//	block = shared_memory.SharedMemory("cam0")
//	f = io.BytesIO(block.buf[:4096])
//	numpy.lib.format.read_magic(f)
//	shape, fortran, dtype = numpy.lib.format.read_array_header_1_0(f)
//	a = numpy.ndarray(shape, dtype, block.buf, f.tell(), order="F" if fortran else "C")
//
// Either way, Python must del the array, and all that was made of it, before
// block.close(). docs/python.md has more.
//
// # Types
//
// T is the Go type of an element; each has one NumPy type:
//
//	bool  int8 … int64  uint8 … uint64      |b1  |i1 … <i8  |u1 … <u8
//	float32  float64  complex64  complex128 <f4  <f8  <c8  <c16
//	Float16  BFloat16                       <f2  bfloat16 (of the ml_dtypes package; V2 in a header)
//	Time  time.Duration                     <M8[ns]  <m8[ns]
//	[N]byte  [N]rune                        |SN  <UN: text, which ends where only zeros follow
//	struct of these, and of arrays of them  a structured dtype
//
// Types defined by these, as type Celsius float64, are the same to NumPy. int
// and uint are refused, as their size differs between machines, and so is what
// holds a pointer. A type of your own may have a method NumPyDType() string, with
// the dtype that its bytes are: type Day int64 with "<M8[D]".
//
// The fields of a struct are NumPy's fields, at Go's offsets, which are those of
// C and of np.dtype(…, align=True). Names are Go's, or those in a tag `npy:"x"`;
// when an array is opened, case does not matter. Holes between fields are
// allowed, and written as NumPy writes them; [Array.Set] copies what lies in them.
// A dtype without holes fits a struct if no field needs a better alignment than it
// has there. Go has no others; such a header is refused, and the error names the
// field. [Describe] says what a type is to NumPy.
//
// # Lifetime, safety, and who may call
//
// An Array is a view of its block: [Array.Sub], [Array.Slice], [Array.Transpose] and the
// others give more views of the same memory, and Close on any of them closes the block
// for all. After that an access faults, as with [shm.Slice]; whoever closes
// sees to it that nobody is at it. [Array.Fill], [Array.CopyFrom], [Array.WriteNPY]
// and [LoadNPY] hold the block open while they run, and return shm.ErrTruncated when
// another process makes it smaller meanwhile.
//
// An index of yours that is out of range panics, as with slices. What a block or
// a file says is checked, once, when it is opened: a header that another process
// changes later has no effect.
//
// Methods may be called by several goroutines at once, and so far as elements
// are concerned that means no more than for a slice: who writes and who reads is for
// you to arrange, between goroutines and between processes.
//
// Arrays are in this machine's byte order. One of the other order is refused.
package array
