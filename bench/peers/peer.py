"""CPython's own shared memory, driven like peer.c: "VERB NAME SIZE N" in,
nanoseconds out.

The verbs with -untracked do what careful users do to keep the resource
tracker away from their blocks: track=False where there is one (3.13), else
the usual patch of the tracker's two functions.
"""

import os
import sys
import time
from multiprocessing import resource_tracker, shared_memory
from multiprocessing.shared_memory import SharedMemory

HAS_TRACK = sys.version_info >= (3, 13)
REGISTER, UNREGISTER = resource_tracker.register, resource_tracker.unregister


def tracked(on):
    """Before 3.13 the tracker can only be patched out."""
    if HAS_TRACK:
        return {} if on else {"track": False}
    ignore = lambda name, kind: None
    resource_tracker.register = REGISTER if on else ignore
    resource_tracker.unregister = UNREGISTER if on else ignore
    # 3.8's module imported the one function that it calls by name.
    for name in ("register", "unregister"):
        if hasattr(shared_memory, name):
            setattr(shared_memory, name, getattr(resource_tracker, name))
    return {}


def create(name, size, n, kw):
    start = time.perf_counter_ns()
    for _ in range(n):
        m = SharedMemory(name, create=True, size=size, **kw)
        m.close()
        m.unlink()
    return time.perf_counter_ns() - start


def attach(name, size, n, kw):
    start = time.perf_counter_ns()
    for _ in range(n):
        m = SharedMemory(name, **kw)
        m.close()
    return time.perf_counter_ns() - start


def hold(name, size, n, kw):
    """Keeps a block until it is killed; its tracker then removes it."""
    m = SharedMemory(name, create=True, size=size, **kw)
    m.buf[0] = 1
    print(os.getpid(), flush=True)
    sys.stdin.readline()


VERBS = {"create": create, "attach": attach, "hold": hold}

for line in sys.stdin:
    try:
        verb, name, size, n = line.split()
        verb, _, how = verb.partition("-")
        print(VERBS[verb](name, int(size), int(n), tracked(how != "untracked")), flush=True)
    except Exception as e:
        print("error:", type(e).__name__, e, flush=True)
