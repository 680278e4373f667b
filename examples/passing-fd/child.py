"""Works in the block that it was started with, as child/main.go does.

SharedMemory opens by name only, so this is plain mmap. No resource tracker
takes part, and there is no name that it could remove.
"""
import mmap

# 0: as long as the memory is. Where only a path will do,
# /proc/self/fd/3 is one.
with mmap.mmap(3, 0) as block:
    question = block[:block.find(b"\0")]
    if question != b"what is the answer?":
        raise SystemExit("child.py: what is the meaning of %r?" % question)
    middle = len(block) // 2
    block[middle:middle + 2] = b"42"  # reading a slice copies; memoryview(block) would not
