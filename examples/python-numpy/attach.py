"""Does what attach/main.go does."""
import sys
from multiprocessing import resource_tracker, shared_memory

import numpy as np

if sys.version_info >= (3, 13):
    existing_shm = shared_memory.SharedMemory(sys.argv[1], track=False)
else:
    # Else this program would remove the block when it ends.
    existing_shm = shared_memory.SharedMemory(sys.argv[1])
    resource_tracker.unregister(existing_shm._name, "shared_memory")

# Type and shape are agreed upon: a raw block does not say.
c = np.ndarray((6,), dtype=np.int64, buffer=existing_shm.buf)
print(c)
c[-1] = 888
print(c)

del c  # before close()
existing_shm.close()
