// Package shmgonum hands arrays in shared memory to gonum as its matrices and
// vectors, without a copy: what gonum computes into one is seen by every process
// that has the block open, a NumPy array over it among them.
//
//	a, err := array.OpenNPY[float64]("weights", nil)
//	if err != nil {
//		return err
//	}
//	defer a.Close()
//	w, err := shmgonum.Dense(a)
//	if err != nil {
//		return err
//	}
//	w.Scale(0.5, w) // in the block
//
// It is a module of its own, so that only who imports it depends on gonum.
//
// Methods that store into their receiver, such as Mul, Add, Scale, Copy and Set,
// store into the block, if the result has the receiver's size. Those that give it
// other memory do not: CloneFrom, Grow beyond the size, and Reset, after which
// the next result lies elsewhere.
//
// What holds for the slices of [shm.Slice] holds here: after Close of the block, and
// when it was opened read-only and is written to, an access faults. Two goroutines
// or processes must not be at the same elements if one of them writes.
//
// gonum refuses to store into a matrix that its arguments overlap, and knows by the
// addresses. It does not see that two handles of one block are the same memory: keep
// to one handle in a computation.
//
// A symmetric matrix needs no function here: of one in C order
// mat.NewSymDense(n, a.Data()) uses the upper triangle.
package shmgonum
