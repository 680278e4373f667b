"""A manager that others make their blocks through. It ends, and they with it,
when Enter is pressed."""
import os
from multiprocessing.managers import SharedMemoryManager

if __name__ == "__main__":
    manager = SharedMemoryManager(address=os.environ["MANAGER_ADDRESS"],
                                  authkey=bytes.fromhex(os.environ["MANAGER_KEY"]))
    manager.start()
    print("ready", flush=True)
    input()
    manager.shutdown()
    print("all blocks are removed")
