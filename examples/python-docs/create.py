"""Does what create/main.go does."""
import sys
from multiprocessing.shared_memory import SharedMemory

name = sys.argv[1] if len(sys.argv) > 1 else None  # None: a fresh one
shm_a = SharedMemory(name, create=True, size=64)

buffer = shm_a.buf
buffer[:4] = bytearray([22, 33, 44, 55])
buffer[4] = 100

numbers = buffer[16:64].cast("q")  # int64; NumPy: np.ndarray(6, np.int64, buffer, 16)
for i, n in enumerate([1, 1, 2, 3, 5, 8]):
    numbers[i] = n

print(shm_a.name, flush=True)
print("Now run attach with this name elsewhere, and then press Enter here.", file=sys.stderr)
sys.stdin.readline()

print(bytes(buffer[:5]).decode(), *numbers)

numbers.release()  # close() refuses as long as a view is in use
shm_a.close()
shm_a.unlink()
