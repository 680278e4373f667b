"""Sums a thousand items of the list NAME, beginning with item FROM, and leaves the
result in a block of the manager's: half.py NAME FROM."""
import os
import sys
from multiprocessing import resource_tracker, shared_memory
from multiprocessing.managers import SharedMemoryManager

name, start = sys.argv[1], int(sys.argv[2])
manager = SharedMemoryManager(address=os.environ["MANAGER_ADDRESS"],
                              authkey=bytes.fromhex(os.environ["MANAGER_KEY"]))
manager.connect()
numbers = shared_memory.ShareableList(name=name)
result = manager.SharedMemory(size=8)
result.buf[:8] = sum(numbers[i] for i in range(start, start + 1000)).to_bytes(8, sys.byteorder)
print(result.name)

# Both are the manager's. Our own tracker would remove them when we end.
for block in numbers.shm, result:
    resource_tracker.unregister(block._name, "shared_memory")
    block.close()
