"""Makes two lists and a block through a manager, and leaves them there."""
import os
from multiprocessing import resource_tracker
from multiprocessing.managers import SharedMemoryManager

manager = SharedMemoryManager(address=os.environ["MANAGER_ADDRESS"],
                              authkey=bytes.fromhex(os.environ["MANAGER_KEY"]))
manager.connect()
numbers = manager.ShareableList([2, 3, 5, 7])
words = manager.ShareableList(["shared", "between", "two"])
raw = manager.SharedMemory(size=128)
for thing in numbers, words, raw:
    print(thing)

# They are the manager's. Our own tracker would remove them when we end.
for block in numbers.shm, words.shm, raw:
    resource_tracker.unregister(block._name, "shared_memory")
    block.close()
