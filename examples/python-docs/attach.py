"""Does what attach/main.go does."""
import sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory

if sys.version_info >= (3, 13):
    shm_b = SharedMemory(sys.argv[1], track=False)
else:
    # Python thinks that whoever opens a block has to remove it. These lines tell
    # its resource tracker that this one is somebody else's.
    shm_b = SharedMemory(sys.argv[1])
    resource_tracker.unregister(shm_b._name, "shared_memory")

print(*shm_b.buf[:5])
shm_b.buf[:5] = b"howdy"

numbers = shm_b.buf[16:64].cast("q")
print(*numbers)
numbers[5] = 888

numbers.release()
shm_b.close()
