"""What the tests of Python workers call."""
import collections
import dataclasses
import enum
import os
import signal
import subprocess
import sys
import time
from multiprocessing import shared_memory


def add(p):
    return p["A"] + p["B"]


def echo(x):
    return x


def nothing():
    return None


def kind(x):
    return "%s %r" % (type(x).__name__, x)


def keywords(a, b=2, *, c=3):
    return [a, b, c]


class Tools:
    @staticmethod
    def twice(x):
        return 2 * x


@dataclasses.dataclass
class Point:
    x: float
    y: float


Named = collections.namedtuple("Named", "name size")


class Color(enum.IntEnum):
    RED = 7


def various():
    return {
        "point": Point(1.5, 2), "named": Named("n", 3), "color": Color.RED, "ordered": collections.OrderedDict(a=1),
        "counter": collections.Counter("aab"), "set": {5}, "frozen": frozenset([6]), "bytearray": bytearray(b"xy"),
        "memoryview": memoryview(b"abc")[1:], "complex": 1 + 2j, "tuple": (1, "b"), "shared": [[1, 2]] * 2, 3: True,
    }


# Blocks.


def block_bytes(b):
    return bytes(b.buf[:5])


def block_fill(b):
    b.buf[:5] = b"12345"
    b.close()  # good manners in Python; harmless here


def block_make(text):
    b = shared_memory.SharedMemory(create=True, size=len(text))
    b.buf[:] = text
    return b


def block_make_and_leave(text):
    global left
    left = shared_memory.SharedMemory(create=True, size=len(text))
    return left.name


def block_make_and_die(text):
    b = shared_memory.SharedMemory(create=True, size=len(text))
    print(b.name, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def block_again(b):
    return {"first": b, "second": b}


def block_and_bad(text):
    return {"block": block_make(text), "bad": object()}


def list_sum(sl):
    sl[0] = "seen"
    return sum(sl[i] for i in range(1, len(sl)))


def list_make(items):
    return shared_memory.ShareableList(items)


# Arrays; NumPy is imported by those who have it.


def array_add_one(a):
    a += 1


def array_sum(a):
    return a.sum().item()


def array_about(a):
    return [a.dtype.str, list(a.shape), list(a.strides), bool(a.flags.writeable)]


def array_double(a):
    return a * 2


def array_row(a):
    return a[1:, ::2]


def array_same(a):
    return a


def array_points(n):
    import numpy as np
    a = np.zeros(n, dtype=np.dtype([("X", "<i8"), ("Y", "<f8")], align=True))
    a["X"] = range(n)
    a["Y"] = 0.5
    return a


def array_move(a):
    a["X"] += 1


def array_make(how):
    import numpy as np
    return {
        "big-endian": lambda: np.arange(5, dtype=">i4"),
        "fortran": lambda: np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "empty": lambda: np.zeros((0, 3)),
        "scalar": lambda: np.float64(1.25),
        "zero-dim": lambda: np.array(7.0),
        "objects": lambda: np.array([object()]),
        "list": lambda: [np.arange(3.0), np.arange(4.0)],
    }[how]()


def array_large(n):
    import numpy as np
    return np.ones(n, np.uint8)


kept = []


def array_keep(a):
    kept.append(a)
    return [float(k[0]) for k in kept]


# Failures.


def fail(how):
    try:
        {"key": lambda: {}["x"], "file": lambda: open("/none"), "zero": lambda: 1 / 0}[how]()
    except ZeroDivisionError as e:
        raise ValueError("bad\nnews") from e


def unsendable(how):
    loop = []
    loop.append(loop)
    return {"object": object(), "function": fail, "class": Point, "loop": loop, "surrogate": "\ud800",
            "deep": eval("[" * 90 + "]" * 90), "huge": None, "open": sys.stdout}[how]


def huge(n):
    return b"x" * n


class Raises(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def raise_strange():
    raise Raises


def leave(how):
    if how == "sys.exit":
        sys.exit(3)
    elif how == "os._exit":
        os._exit(4)
    elif how == "abort":
        os.abort()
    elif how == "segv":
        import ctypes
        ctypes.string_at(0)
    elif how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "close":
        os.closerange(3, 1024)
    return how


def fork(x):
    os.fork()
    return x


def fork_and_stay(seconds):
    if os.fork() == 0:
        time.sleep(seconds)
        os._exit(0)
    return os.getpid()


def loop_for_ever():
    while True:
        pass


def wait_for(path):
    try:
        while True:
            time.sleep(0.01)
    finally:
        with open(path, "w") as f:
            f.write("cleaned up")


def hold_the_lock():
    # One call into C that takes for ever and lets no other thread run.
    import re
    print("holding", flush=True)
    re.match(r"(a*)*b", "a" * 64)


def say(text):
    print(text)
    sys.stderr.write(text + "!\n")
    os.write(1, b"\x00\x00\x00\x04junk")
    return len(text)


def recurse():
    return recurse()


# What it is.


def about():
    import multiprocessing as mp
    p = mp.current_process()
    return {"parent": mp.parent_process().pid, "pid": os.getpid(), "ppid": os.getppid(), "name": p.name,
            "key": len(p.authkey), "alive": mp.parent_process().is_alive(), "main": __name__,
            "method": mp.get_start_method(), "stdin": sys.stdin.read(), "dir": os.getcwd(), "env": os.environ.get("SHM_TEST"),
            "nice": os.nice(0), "argv": sys.argv}


def square(x):
    return x * x


def nested(xs):
    import multiprocessing as mp
    with mp.Pool(2) as pool:
        return pool.map(square, xs)


def open_in_subprocess(name):
    program = "from multiprocessing import shared_memory; print(shared_memory.SharedMemory(%r).size)" % name
    return int(subprocess.check_output([sys.executable, "-c", program]))


def pid():
    return os.getpid()


# Killed.


def block_make_killed(lines):
    """Return a block, and die when the helper has come so many lines further."""
    left = [lines]

    def trace(frame, event, arg):
        if frame.f_globals.get("__name__") != "_shm_worker":
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    frame = sys._getframe(1)
    while frame is not None:
        frame.f_trace = trace
        frame = frame.f_back
    sys.settrace(trace)
    return {"made": block_make(b"made"), "n": lines}


def tick(i):
    return {"index": i, "block": block_make(b"%08d" % i) if i % 5 == 0 else None}


# What the suite for all languages calls.


def suite_echo(s):
    return s


def suite_sum(v):
    return sum(v)


def suite_fail(text):
    raise OSError(text)


def suite_crash(text):
    raise ValueError(text)


def suite_exit(status):
    sys.exit(status)


def suite_kill(number):
    os.kill(os.getpid(), number)


def suite_loop(name):
    with open("/dev/shm/" + name, "r+b") as f:
        f.write(b"begun")
    while True:
        pass


def suite_print(text):
    for f in sys.stdout, sys.stderr:
        f.write(text)
        f.flush()
    return text


def suite_zeros(n):
    return bytes(n)


def suite_pid(_):
    return os.getpid()


def suite_blank(b):
    total = sum(b.buf)
    b.buf[:] = bytes(b.size)
    return total


def suite_make(n):
    b = shared_memory.SharedMemory(create=True, size=n)
    b.buf[:] = b"\7" * n
    return b


def suite_list(sl):
    sl[0] += 1
    return sl[0] - 1


def suite_scale(a):
    total = a.sum()
    a *= 2
    return total


def suite_matrix(n):
    import numpy as np
    return np.add.outer(10.0 * np.arange(n), np.arange(n))


def suite_fork(_):
    for fd in os.listdir("/proc/self/fd"):
        try:
            os.set_inheritable(int(fd), True)
        except OSError:
            pass
    subprocess.Popen(["/bin/sleep", "2"], close_fds=False)
    return ""


def suite_close(_):
    os.closerange(3, 1024)
    return ""


if __name__ == "__main__":
    sys.exit("a worker does not run this")
