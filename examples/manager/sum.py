"""Has two processes each sum half of a list. The command of its arguments is what
does that: sum.py COMMAND [ARG…]."""
import os
import subprocess
import sys
from multiprocessing import shared_memory
from multiprocessing.managers import SharedMemoryManager

if __name__ == "__main__":
    key = os.urandom(32)
    with SharedMemoryManager(authkey=key) as manager:
        numbers = manager.ShareableList(range(2000))
        env = dict(os.environ, MANAGER_ADDRESS=manager.address, MANAGER_KEY=key.hex())
        halves = [subprocess.Popen(sys.argv[1:] + [numbers.shm.name, start], env=env, stdout=subprocess.PIPE)
                  for start in ("0", "1000")]
        total = 0
        for half in halves:
            # It has left its result in a block, and said which.
            name = half.communicate()[0].decode().strip()
            if half.returncode:
                sys.exit("a half has failed")
            result = shared_memory.SharedMemory(name)
            total += int.from_bytes(result.buf[:8], sys.byteorder)
            result.close()
        numbers.shm.close()
    print("the sum is", total)
