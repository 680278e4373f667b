// Package worker runs functions in other processes that share memory with this one: on
// all cores, apart from each other's crashes and leaks, and without copying blocks.
//
//	var thumb = worker.Func("thumb", func(ctx context.Context, in *shm.Block) (image.Point, error) { … })
//
//	func main() {
//		worker.Main() // in a worker this is all that main does
//		pool, err := worker.NewPool(ctx, 4, nil)
//		defer pool.Close()
//		for size, err := range worker.Map(ctx, pool, thumb, blocks) {
//			…
//		}
//	}
//
// A worker is this program, executed again. [Func] registers a function in a variable,
// which parent and workers both have, and [Main] makes the difference between them.
//
// # Calls
//
//	Call                 one job, and its answer
//	Submit, Job.Wait     one job, and its answer later
//	Map, MapUnordered    many jobs, as an iterator takes their answers
//	Start, Process.Wait  one job in a process of its own
//
// [Python] makes the same kind of [Function] of a function in a Python file.
//
// # Values
//
// What a function takes and returns is copied to and from its worker:
//
//   - numbers, arrays, structs without pointers, and slices of these: as they lie in memory
//   - strings, slices, maps, pointers; structs of all of these, of which unexported fields do not
//     travel; types with GobEncode or MarshalBinary and the counterpart
//   - interfaces, if the type in them is a basic one or was given to [encoding/gob.Register]
//   - *shm.Block, *list.List, *array.Array and *ring.Queue, alone or in any of the above:
//     they arrive as one on the same memory, which is not copied. Anonymous blocks travel,
//     too; arrays that are not in a block do not.
//
// Pointers to the same thing arrive as pointers to two things. Channels, functions and what
// leads to itself cannot travel: ErrEncode.
//
// Blocks in an argument are opened for the call and closed when the function returns; the
// caller keeps its own open until then. Blocks in a result are closed in the worker, and the
// receiver closes its own. If the worker had created them, they become the receiver's, to
// be unlinked by it; there is no moment at which nobody owns them. If it dies before
// that, or if nobody asks for the result, they are removed.
//
// A value of more than 63 KiB goes through a block of its own, which costs some
// microseconds and two copies.
//
// # Deaths
//
// A worker that dies loses the one job it has begun: that fails with a [*Death], or runs
// again if [PoolOptions.Retries] says so, in a new worker. Each job is over once. A
// worker goes when its parent does, however that ends and whatever the function is
// doing, unless it is stopped by a signal or in a system call that cannot be interrupted.
//
// # Systems
//
// Linux has everything. Elsewhere NewPool and Start return errors.ErrUnsupported, as no
// other system lets processes wait for each other in shared memory.
package worker
