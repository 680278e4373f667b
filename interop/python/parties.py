"""What the tests of rings and topics share on the Python side; see shmtest.StartDriven.

message and parse are those of the Go tests. plan and die have children of this
process killed before each line of a module before which a block has changed: at the
others who dies leaves the same.
"""
import mmap
import os
import selectors
import signal
import struct
import sys
import threading
import time
import warnings
import zlib


def message(frm, number, n):
    n = max(n, 16)
    p = bytearray((i * 7 + number) & 255 for i in range(n))
    struct.pack_into("<IIII", p, 0, frm, number, n, 0)
    struct.pack_into("<I", p, 12, zlib.crc32(p))
    return bytes(p)


def parse(p):
    frm, number, n, crc = struct.unpack_from("<IIII", p)
    q = bytearray(p)
    q[12:16] = bytes(4)
    if n != len(p) or zlib.crc32(q) != crc:
        raise AssertionError("torn: %r" % bytes(p))
    return frm, number


def retry(join, taken):
    """The kernel keeps a dead process's lock while somebody looks at its memory map."""
    while True:
        try:
            return join()
        except taken:
            time.sleep(0.0002)


def both(*calls):
    threads = [threading.Thread(target=f, args=args) for f, *args in calls]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


def selected(part):
    "How many messages came to one who waits in a selector, until the end."
    n, s = 0, selectors.DefaultSelector()
    s.register(part, selectors.EVENT_READ)
    while True:
        s.select()
        try:
            while part.receive(timeout=0) is not None:
                n += 1
        except EOFError:
            return n


journal = mmap.mmap(-1, 4096)  # words that outlive a child


def put(i, v):
    struct.pack_into("<Q", journal, 8 * i, v)


def get(i):
    return struct.unpack_from("<Q", journal, 8 * i)[0]


def traced(module, line):
    """Calls line with each line number of the module that this thread comes to."""

    def trace(frame, event, arg):
        if frame.f_code.co_filename != module.__file__:
            return None
        if event == "line":
            line(frame.f_lineno)
        return trace

    sys.settrace(trace)


def plan(module, what, name):
    """At which steps to die; name is the block's."""
    states = []
    with open("/dev/shm/" + name, "rb") as block:
        size = os.fstat(block.fileno()).st_size

        def line(_):
            states.append(zlib.crc32(os.pread(block.fileno(), size, 0)))

        traced(module, line)
        try:
            what()
        finally:
            sys.settrace(None)
    return [i for i in range(len(states)) if i == 0 or states[i] != states[i - 1]]


def die(module, what, at):
    """Has a child killed before its step number at; tells whether it came to that, and its status."""
    journal[:] = bytes(4096)
    warnings.simplefilter("ignore", DeprecationWarning)  # of 3.12: there may be threads
    pid = os.fork()
    if pid:
        status = os.waitpid(pid, 0)[1]
        return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    left = [at]

    def line(_):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    traced(module, line)
    try:
        what()
    finally:
        os._exit(0)
