"""Does what client/main.go does."""
import sys
from multiprocessing.connection import Client
from multiprocessing.shared_memory import SharedMemory

kind, _, rest = sys.argv[1].partition(":")
if kind == "tcp":
    host, _, port = rest.rpartition(":")
    address = host, int(port)
else:
    address = "\0" + rest[1:] if rest.startswith("@") else rest

with Client(address, authkey=b"secret password") as conn:
    block = SharedMemory(create=True, size=4096)
    block.buf[:5] = b"howdy"
    for question in [[1, 1, 2, 3, 5, 8], block, "how are you"]:
        conn.send(question)
        print(conn.recv(), flush=True)
    block.close()
    block.unlink()
