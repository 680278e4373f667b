"""Looks at the pictures that service/main.go makes, where they are.

    worker.py [--careless] [NAME]

--careless opens the block as most programs do.
"""
import os
import socket
import struct
import sys
import tempfile
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory

careless = "--careless" in sys.argv
name = ([a for a in sys.argv[1:] if a[0] != "-"] or ["frames"])[0]

# Connected first: then the block is there.
service = socket.socket(socket.AF_UNIX)
service.connect(os.path.join(tempfile.gettempdir(), name + ".sock"))

# Without care, this process's resource tracker removes the block at our exit.
if careless:
    block = SharedMemory(name)
elif sys.version_info >= (3, 13):
    block = SharedMemory(name, track=False)
else:
    block = SharedMemory(name)
    resource_tracker.unregister(block._name, "shared_memory")

HEADER = struct.Struct("<QIIQBB6x")
RESULT = struct.Struct("<QBB")  # the part from byte 16 on

while service.recv(1):  # a frame is there; b"": no more
    number, width, height, *_ = HEADER.unpack_from(block.buf)
    # A view, not a copy. NumPy: np.frombuffer(block.buf, np.uint8, width * height, HEADER.size)
    with block.buf[HEADER.size:HEADER.size + width * height] as pixels:
        RESULT.pack_into(block.buf, 16, sum(pixels), min(pixels), max(pixels))
    service.send(b"d")

block.close()
