"""Does what create/main.go does."""
import sys
from multiprocessing import shared_memory

import numpy as np

name = sys.argv[1] if len(sys.argv) > 1 else None  # None: a fresh one
a = np.array([1, 1, 2, 3, 5, 8], dtype=np.int64)
shm = shared_memory.SharedMemory(name, create=True, size=a.nbytes)
b = np.ndarray(a.shape, dtype=a.dtype, buffer=shm.buf)
b[:] = a[:]

print(shm.name, flush=True)
print("Now run attach with this name elsewhere, and then press Enter here.", file=sys.stderr)
sys.stdin.readline()

print(b)

# First the array, then the memory: close() does not notice that b is still
# there, and the next b[0] would be a segmentation fault.
del b
shm.close()
shm.unlink()
