"""CPython's own shared memory, driven like peer.c: "VERB NAME SIZE N" in,
nanoseconds out.

The verbs with -untracked do what careful users do to keep the resource
tracker away from their blocks: track=False where there is one (3.13), else
the usual patch of the tracker's two functions.
"""

import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import resource_tracker, shared_memory
from multiprocessing.connection import Client, Listener
from multiprocessing.managers import SharedMemoryManager, dispatch
from multiprocessing.shared_memory import ShareableList, SharedMemory

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


def attached(name):
    """A list of somebody else's. Python's tracker hears of it, and would
    remove it at our end: there is no track=False for lists."""
    sl = ShareableList(name=name)
    resource_tracker.unregister(sl.shm._name, "shared_memory")
    return sl


def getitem(name, i, n, kw):
    sl = attached(name)
    start = time.perf_counter_ns()
    for _ in range(n):
        sl[i]
    took = time.perf_counter_ns() - start
    sl.shm.close()
    return took


def setitem(value):
    def verb(name, i, n, kw):
        sl = attached(name)
        start = time.perf_counter_ns()
        for _ in range(n):
            sl[i] = value
        took = time.perf_counter_ns() - start
        sl.shm.close()
        return took

    return verb


def makelist(name, size, n, kw):
    took, items = 0, list(range(size))
    for _ in range(n):
        start = time.perf_counter_ns()
        sl = ShareableList(items, name=name)
        took += time.perf_counter_ns() - start
        sl.shm.close()
        sl.shm.unlink()
        del sl
    return took


def sumlist(name, size, n, kw):
    sl, took = attached(name), 0
    for _ in range(n):
        s = 0
        start = time.perf_counter_ns()
        for x in sl:
            s += x
        took += time.perf_counter_ns() - start
        if s != size * (size - 1) // 2:
            raise ValueError(f"sum {s}")
    sl.shm.close()
    return took


def openlist(name, size, n, kw):
    took = 0
    for _ in range(n):
        start = time.perf_counter_ns()
        sl = ShareableList(name=name)
        sl.shm.close()
        took += time.perf_counter_ns() - start
        if len(sl._allocated_offsets) != size + 1:
            raise ValueError("items are missing")
        resource_tracker.unregister(sl.shm._name, "shared_memory")
        del sl
    return took


KEY = b"the key of these benchmarks"
SERVERS = {}


def address(text):
    """host:port, or the path of a Unix socket."""
    host, colon, port = text.rpartition(":")
    return (host, int(port)) if colon else text


def echo(name, size, n, kw):
    """Serves until the end: short messages go back, an empty one too."""
    listener = Listener(address(name), authkey=KEY)

    def serve():
        while True:
            with listener.accept() as c:
                try:
                    while True:
                        m = c.recv_bytes()
                        if len(m) <= 64:
                            c.send_bytes(m)
                except EOFError:
                    pass

    threading.Thread(target=serve, daemon=True).start()
    at = listener.address
    return at if isinstance(at, str) else "%s:%d" % at


def connected(name):
    """A connection whose first message, which over TCP waits for the kernel's
    acknowledgement of the handshake's last, has been sent."""
    c = Client(address(name), authkey=KEY)
    c.send_bytes(b"")
    c.recv_bytes()
    return c


def roundtrip(name, size, n, kw):
    message = bytes(size)
    with connected(name) as c:
        start = time.perf_counter_ns()
        for _ in range(n):
            c.send_bytes(message)
            c.recv_bytes()
        return time.perf_counter_ns() - start


def stream(name, size, n, kw):
    message = bytes(size)
    with connected(name) as c:
        start = time.perf_counter_ns()
        for _ in range(n):
            c.send_bytes(message)
        c.send_bytes(b"")
        c.recv_bytes()
        return time.perf_counter_ns() - start


def manager(name, size, n, kw):
    SERVERS[name] = SharedMemoryManager(address=name, authkey=KEY)
    SERVERS[name].start()
    return name


def unmanage(name, size, n, kw):
    SERVERS.pop(name).shutdown()
    return name


def managed(threads):
    def verb(name, size, n, kw):
        smm = SharedMemoryManager(address=name, authkey=KEY)
        smm.connect()

        def create(_):
            m = smm.SharedMemory(size)
            m.close()
            return m

        with ThreadPoolExecutor(threads) as pool:
            each = map if threads == 1 else pool.map
            start = time.perf_counter_ns()
            blocks = list(each(create, range(n)))
            took = time.perf_counter_ns() - start
        for m in blocks:
            # Removed here, so that our tracker hears of it, whoever's the server
            # is. That one takes the name off its list before it finds it gone.
            m.unlink()
            with Client(name, authkey=KEY) as c:
                try:
                    dispatch(c, None, "release_segment", (m.name,))
                except Exception as e:
                    if "FileNotFoundError" not in str(e):
                        raise
        return took

    return verb


def connect(name, size, n, kw):
    smm = SharedMemoryManager(address=name, authkey=KEY)
    start = time.perf_counter_ns()
    for _ in range(n):
        smm.connect()
    return time.perf_counter_ns() - start


def numpy_array(name):
    """A block with a .npy header as an array over it; block first, to be closed last."""
    import io
    import numpy

    m = SharedMemory(name)
    resource_tracker.unregister(m._name, "shared_memory")
    f = io.BytesIO(m.buf[:4096])
    numpy.lib.format.read_magic(f)
    shape, fortran, dtype = numpy.lib.format.read_array_header_1_0(f)
    return m, numpy.ndarray(shape, dtype, m.buf, f.tell(), order="F" if fortran else "C")


def npsum(name, size, n, kw):
    m, a = numpy_array(name)
    start = time.perf_counter_ns()
    for _ in range(n):
        a.sum()
    took = time.perf_counter_ns() - start
    del a
    m.close()
    return took


def nptouch(name, size, n, kw):
    m, a = numpy_array(name)
    a[1] += 1
    del a
    m.close()
    return 0


def nothing():
    pass


def add(terms):
    return terms[0] + terms[1]


POOLS = {}


def pool(workers):
    """One for each number of workers, for all of this process's life. Forked, which is the
    quickest to start; the way of a job is the same however its worker came to be."""
    if workers not in POOLS:
        POOLS[workers] = multiprocessing.get_context("fork").Pool(workers)
    return POOLS[workers]


def process(name, workers, n, kw):
    spawn = multiprocessing.get_context("spawn")
    start = time.perf_counter_ns()
    for _ in range(n):
        p = spawn.Process(target=int)  # as little as can be: it has no need of this script
        p.start()
        p.join()
    return time.perf_counter_ns() - start


def applyeach(name, workers, n, kw):
    """The time of each call."""
    took = []
    for _ in range(n + n // 10):
        start = time.perf_counter_ns()
        pool(workers).apply(nothing)
        took.append(time.perf_counter_ns() - start)
    return ",".join(map(str, took[n // 10 :]))


def apply(name, workers, n, kw):
    start = time.perf_counter_ns()
    for _ in range(n):
        pool(workers).apply(nothing)
    return time.perf_counter_ns() - start


def last(a):
    return float(a[-1])


def applyarray(name, size, n, kw):
    import numpy

    a = numpy.ones(size)
    start = time.perf_counter_ns()
    for i in range(n):
        a[-1] = i
        if pool(1).apply(last, (a,)) != i:
            raise ValueError("another array")
    return time.perf_counter_ns() - start


def mapped(name, workers, n, kw):
    inputs = [(i, 1) for i in range(n)]
    start = time.perf_counter_ns()
    sums = pool(workers).map(add, inputs, chunksize=1)
    took = time.perf_counter_ns() - start
    if sums != list(range(1, n + 1)):
        raise ValueError("the sums are wrong")
    return took


def answer(get, put, n, echo):
    put(b"ready")
    for _ in range(n):
        message = get()
        if echo:
            put(message)
    if not echo:
        put(b"done")


def messages(kind, echo):
    """To another process, and each back, or one at the end. Pipe is without the pickle that
    both queues make of a message; SimpleQueue is that and a lock, Queue a thread more."""

    def verb(name, size, n, kw):
        fork = multiprocessing.get_context("fork")
        if kind == "Pipe":
            here, there = fork.Pipe()
            put, get, theirs = here.send_bytes, here.recv_bytes, (there.recv_bytes, there.send_bytes)
        else:
            there, back = getattr(fork, kind)(), getattr(fork, kind)()
            put, get, theirs = there.put, back.get, (there.get, back.put)
        p = fork.Process(target=answer, args=(*theirs, n, echo), daemon=True)
        p.start()
        get()
        message = bytes(size)
        start = time.perf_counter_ns()
        for _ in range(n):
            put(message)
            if echo:
                get()
        if not echo:
            get()
        took = time.perf_counter_ns() - start
        p.join()
        return took

    return verb


VERBS = {
    **{("echo" if echo else "copy") + kind: messages(kind, echo) for kind in ("Queue", "SimpleQueue", "Pipe") for echo in (True, False)},
    "process": process,
    "applyeach": applyeach,
    "apply": apply,
    "applyarray": applyarray,
    "map": mapped,
    "npsum": npsum,
    "nptouch": nptouch,
    "create": create,
    "attach": attach,
    "hold": hold,
    "getitem": getitem,
    "setint": setitem(42),
    "settext": setitem("abcdefgh"),
    "makelist": makelist,
    "sumlist": sumlist,
    "openlist": openlist,
    "echo": echo,
    "roundtrip": roundtrip,
    "stream": stream,
    "manager": manager,
    "unmanage": unmanage,
    "managed": managed(1),
    "managed16": managed(16),
    "connect": connect,
}

for line in sys.stdin:
    try:
        verb, name, size, n = line.split()
        verb, _, how = verb.partition("-")
        print(VERBS[verb](name, int(size), int(n), tracked(how != "untracked")), flush=True)
    except Exception as e:
        print("error:", type(e).__name__, e, flush=True)
