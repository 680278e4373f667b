"""Looks at the pictures that capture/main.go takes, where they are, until there are no more.

    worker.py [--crash] [NAME]

--crash: is killed while it looks at the first one.
"""
import os
import signal
import struct
import sys

# Or copy shm_ring.py and shm_lock.py beside this file.
sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../interop/python"))
from shm_ring import Ring

crash = "--crash" in sys.argv
name = ([a for a in sys.argv[1:] if a[0] != "-"] or ["frames"])[0]

# As in capture/main.go.
FRAME = struct.Struct("<QIIQ")
RESULT = struct.Struct("<QIIBBBBBB2x")

SMALL = 24  # how wide the picture is, about, that goes back


def look(frame, again):
    number, width, height, _ = FRAME.unpack_from(frame)
    # A view, not a copy. NumPy: np.frombuffer(frame, np.uint8, -1, FRAME.size).reshape(height, width, 3)
    with frame[FRAME.size:] as pixels:
        mean = [sum(pixels[c::3]) // (width * height) for c in range(3)]
        step = max(1, width // SMALL)
        green = b"".join(bytes(pixels[3 * width * y + 1:3 * width * (y + 1):3 * step]) for y in range(0, height, step))
        small = len(range(0, width, step)), len(range(0, height, step))
        return RESULT.pack(number, *small, *mean, min(pixels), max(pixels), again) + green


with Ring(name) as frames, Ring(name + ".found") as found, frames.receiver() as receiver, found.sender() as sender:
    while True:
        try:
            with receiver.lease() as frame:
                if crash:
                    os.kill(os.getpid(), signal.SIGKILL)
                # Sent before the frame is let go: should we die in between, it comes twice
                # rather than never.
                sender.send(look(frame, receiver.redelivered))
        except EOFError:
            break
