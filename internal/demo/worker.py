"""A worker of `shm demo`: counts its part of a text in shared memory, in place.

work() is called by Go's package worker. Where there is none this is a program:

    python3 worker.py TEXT RESULT PART SLOT

TEXT and RESULT are names of blocks, PART and SLOT numbers. The blocks were
made by a Go program; nothing but CPython's own multiprocessing.shared_memory
is needed to open them. format.go describes what lies in them.
"""

import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from multiprocessing import resource_tracker, shared_memory
from struct import iter_unpack, pack, pack_into, unpack_from

PIECE = 1 << 20
SLOT_HEAD = 128

# On bytes, \b, \s and \w would do; spelled out, they need no footnote.
NEWLINE = re.compile(rb"\n")
WORD = re.compile(rb"[^ \t\n\v\f\r]+")
IDENTIFIER = re.compile(rb"(?<![A-Za-z0-9_])[A-Za-z_][A-Za-z0-9_]*")


def attach(name):
    """Open a block without making Python believe that it is ours to remove."""
    if sys.version_info >= (3, 13):
        return shared_memory.SharedMemory(name, track=False)
    block = shared_memory.SharedMemory(name)
    if os.name == "posix":
        # Without this, Python removes the block when this process ends,
        # while the others still work with it.
        resource_tracker.unregister(block._name, "shared_memory")
    return block


def die_with_parent():
    """End when the other end of standard input goes away, however it went."""
    os.read(0, 1)
    os._exit(1)


def pieces(text, base, files, begin, end):
    """Yield (begins a file, piece) for what lies in begin...end of the text."""
    for _, _, offset, length in files:
        if offset >= end:
            return
        begins = offset >= begin
        at, stop = max(offset, begin), min(offset + length, end)
        if at >= stop and not begins:
            continue
        while True:
            cut = stop
            if stop - at > PIECE:
                newline = NEWLINE.search(text, base + at + PIECE - 1, base + stop)
                if newline:
                    cut = newline.end() - base
            with text[base + at:base + cut] as piece:
                yield begins, piece
            begins, at = False, cut
            if at >= stop:
                break


def count(text, base, files, begin, end, progress):
    """Return [files, bytes, lines, words, identifiers] and the names' counts."""
    total, names = [0] * 5, Counter()
    for begins, piece in pieces(text, base, files, begin, end):
        found = IDENTIFIER.findall(piece)
        names.update(found)
        total[0] += begins
        total[1] += len(piece)
        total[2] += len(NEWLINE.findall(piece))
        total[3] += len(WORD.findall(piece))
        total[4] += len(found)
        progress(total[1])
    return total, names


def report(slot, nanoseconds, total, names):
    """Write everything into the slot but its first word, the progress."""
    room, used, cut, out = len(slot) - SLOT_HEAD, 0, 0, []
    for name, n in sorted(names.items(), key=lambda item: (-item[1], item[0])):
        if used + 16 + len(name) > room:
            cut = max(cut, n)
            continue
        out.append(pack("<QQ", n, len(name)) + name)
        used += 16 + len(name)
    slot[SLOT_HEAD:SLOT_HEAD + used] = b"".join(out)
    pack_into("<10Q", slot, 8, os.getpid(), nanoseconds, *total, len(names), cut, used)


def main(text_name, result_name, part, slot_number):
    # Ctrl-C reaches all processes of a terminal; the parent answers for us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=die_with_parent, daemon=True).start()
    text, result = attach(text_name), attach(result_name)
    work(text, result, part, slot_number)
    text.close()
    result.close()


def work(text, result, part, slot):
    """Count part of one block, a SharedMemory, and report in a slot of the other."""
    begun = time.perf_counter()

    magic, parts, n_files, _, base, _ = unpack_from("<8s5Q", text.buf)
    if magic != b"SHMTEXT1":
        sys.exit("not a text block of this demo")
    begin, end = unpack_from("<2Q", text.buf, 64 + 16 * part)
    table = 64 + 16 * parts
    files = list(iter_unpack("<4Q", text.buf[table:table + 32 * n_files]))

    slot_bytes, = unpack_from("<Q", result.buf, 16)
    at = 64 + slot_bytes * slot
    with result.buf[at:at + slot_bytes] as mine:
        total, names = count(text.buf, base, files, begin, end,
                             lambda done: pack_into("<Q", mine, 0, done))
        report(mine, int((time.perf_counter() - begun) * 1e9), total, names)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
