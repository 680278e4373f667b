# What runs inside of a Python worker. Its parent, a Go program, sends this
# text: nothing is installed, and nothing but the standard library is needed,
# and NumPy where there are arrays. It is CPython 3.8 to 3.15.
import collections
import faulthandler
import fcntl
import importlib
import io
import linecache
import mmap
import os
import pickle
import select
import signal
import socket
import struct
import sys
import traceback
import types
from multiprocessing import parent_process, resource_tracker, shared_memory

_FILE = __name__  # what tracebacks call this text
_HIGH = 200, 50, 10, 3  # where our descriptors are, if the limit allows: functions that count from 3 miss them
_KEPT = 16  # mappings of arguments that stay for the next job
_IDLE = 0.2  # seconds without a job, then none stays
_TEXT = 24 << 10  # of an exception that are sent

# The states in which a job comes back; Go has the same.
_DONE, _FAILED, _NOT_SENT = range(3)


class SharedMemory(shared_memory.SharedMemory):
    # The same to those who use it, but opened by a path: the tracker hears nothing
    # of it, and it may lie anywhere, have no name, or be for reading only.
    _track = False

    def __init__(self, path, name, read_only):
        try:
            self._fd = os.open(path, os.O_RDONLY if read_only else os.O_RDWR)
        except PermissionError:
            if read_only:
                raise
            read_only = True
            self._fd = os.open(path, os.O_RDONLY)
        self._size = os.fstat(self._fd).st_size
        self._mmap = mmap.mmap(self._fd, self._size, prot=mmap.PROT_READ | (0 if read_only else mmap.PROT_WRITE))
        self._buf = memoryview(self._mmap)
        self._name = "/" + name
        self.path = path
        self.address = None  # of the memory, once somebody has asked

    def unlink(self):
        os.unlink(self.path)

    # Nobody has to close it. Python's own unmaps the memory when it is collected,
    # under the arrays over it: what NumPy holds is the mmap, but nothing that keeps
    # it from being closed. So it is not closed: it goes with the last of them.
    def __del__(self):
        self._buf = self._mmap = None
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __reduce__(self):
        return shared_memory.SharedMemory, (self.name, False, self.size)


def _untrack(name):
    resource_tracker.unregister("/" + name, "shared_memory")


def _expect_names():
    # CPython makes a block, and then registers it: a death in between would leave
    # it for ever. So our tracker hears of names that Python picks before they are.
    pick = getattr(shared_memory, "_make_filename", None)
    if pick is None:
        return

    def pick_and_tell():
        name = pick()
        while os.path.lexists("/dev/shm/" + name.lstrip("/")):
            name = pick()
        try:
            os.write(resource_tracker.getfd(), b"EXPECT:%s:shared_memory\n" % name.encode())
        except OSError:
            pass
        return name
    shared_memory._make_filename = pick_and_tell


# What arguments are made of. Go's pickles call these by name.


def shareable_list(name):
    sl = shared_memory.ShareableList(name=name)
    _untrack(name)
    return sl


_blocks = collections.OrderedDict()  # those under arrays, by path, as they were last used


def _same(path, b):
    try:
        here, there = os.fstat(b._fd), os.stat(path)
    except OSError:
        return False
    return (here.st_ino, here.st_dev) == (there.st_ino, there.st_dev)


def _mapped(path, name, read_only):
    # To map a block is quick; to touch its pages for the first time is not. So
    # it stays mapped for a moment, since the next job may well have the same.
    b = _blocks.get(path)
    if b is not None and _same(path, b) and (read_only or not b.buf.readonly):
        _blocks.move_to_end(path)
        return b
    for p in [p for p, b in _blocks.items() if not _same(p, b)]:
        del _blocks[p]
    b = _blocks[path] = SharedMemory(path, name, read_only)
    if len(_blocks) > _KEPT:
        _blocks.popitem(last=False)
    return b


def _numpy():
    try:
        import numpy
    except ImportError as e:
        raise ImportError("the argument or result is an array, and %s cannot import NumPy (%s); install it there, or "
                          "choose another interpreter in worker.PythonOptions" % (sys.executable, e)) from e
    return numpy


def array(path, name, read_only, offset, dtype, shape, strides):
    np = _numpy()
    if dtype == "bfloat16":
        import ml_dtypes  # which teaches NumPy the name
        del ml_dtypes
    elif dtype[0] in "[{(":
        import ast
        dtype = ast.literal_eval(dtype)
    b = _mapped(path, name, read_only)
    a = np.ndarray(shape, dtype, b.buf, offset, strides)
    if b.address is None:
        b.address = np.frombuffer(b.buf, np.uint8).__array_interface__["data"][0]
    if read_only:
        a.flags.writeable = False  # though the mapping may be another's, who may write
    return a


# What results are made of. Go knows these names and never calls them.


def value(v):
    return v


_names = {SharedMemory, shareable_list, array, value, bytearray, complex}


def _spelled(dt):
    # A dtype as a literal.
    if dt.subdtype:
        return _spelled(dt.subdtype[0]), dt.subdtype[1]
    if dt.names is not None:
        fields = [dt.fields[n] for n in dt.names]
        return {"names": list(dt.names), "formats": [_spelled(f[0]) for f in fields],
                "offsets": [f[1] for f in fields], "itemsize": dt.itemsize}
    return "bfloat16" if dt.name == "bfloat16" else dt.str


class _Pickler(pickle.Pickler):
    def __init__(self, file):
        super().__init__(file, 4)
        self.made = []  # names of blocks that are Go's from now on
        self.keep = []  # those blocks
        self.own = []  # of them those that nobody else knows

    def reducer_override(self, obj):
        if isinstance(obj, (type, types.FunctionType, types.BuiltinFunctionType)):
            if obj in _names:
                return NotImplemented
        elif isinstance(obj, shared_memory.SharedMemory):
            self._give(obj)
            return SharedMemory, (getattr(obj, "path", "/dev/shm/" + obj.name), obj.name, False)
        elif isinstance(obj, shared_memory.ShareableList):
            self._give(obj.shm)
            return shareable_list, (obj.shm.name,)
        elif isinstance(obj, (bytearray, memoryview)):
            return (bytearray, (bytes(obj),)) if isinstance(obj, bytearray) else (value, (bytes(obj),))
        elif isinstance(obj, complex):
            return complex, (obj.real, obj.imag)
        elif isinstance(obj, tuple) and hasattr(obj, "_fields"):
            return value, (dict(zip(obj._fields, obj)),)
        elif hasattr(type(obj), "__dataclass_fields__"):
            return value, ({n: getattr(obj, n) for n in type(obj).__dataclass_fields__},)
        else:
            np = sys.modules.get("numpy")
            if np is not None and isinstance(obj, np.ndarray):
                return self._array(np, np.asarray(obj))
            if np is not None and isinstance(obj, np.generic):
                v = obj.item()
                if type(v) in (bool, int, float, complex, str, bytes):
                    return value, (v,)
            for base in (int, float, str, bytes, dict, list, tuple, set, frozenset):
                if isinstance(obj, base):  # an OrderedDict, an IntEnum, …
                    return value, (base(obj) if base is not str else str.__str__(obj),)
        raise TypeError("%s cannot be sent to Go; return numbers, text, bytes, lists, tuples, dicts, dataclasses, None, "
                        "NumPy arrays, SharedMemory or ShareableList" % _a(obj))

    def _give(self, b):
        # Only what was made here can change its owner, and only once.
        if getattr(b, "_flags", 0) & os.O_CREAT and not getattr(b, "_shm_given", False):
            b._shm_given = True
            self.made.append(b.name)
            self.keep.append(b)

    def _array(self, np, a):
        if a.dtype.hasobject or a.dtype.kind not in "biufcSUVMm":
            raise TypeError("an array of dtype %s cannot be sent to Go, which has no such elements" % a.dtype)
        at, nbytes = a.__array_interface__["data"][0], 0
        if a.size:
            nbytes = a.itemsize + sum((n - 1) * s for n, s in zip(a.shape, a.strides) if s > 0)
            at_low = at + sum((n - 1) * s for n, s in zip(a.shape, a.strides) if s < 0)
            for path, b in _blocks.items():  # what lies in an argument needs no copy
                if b.address is not None and b.address <= at_low and at + nbytes <= b.address + b.size and a.dtype.isnative:
                    return array, (path, b.name, False, at - b.address, self._text(a.dtype), a.shape, a.strides)
        b = None
        try:
            b = shared_memory.SharedMemory(create=True, size=max(a.nbytes, 1))
            os.posix_fallocate(b._fd, 0, max(a.nbytes, 1))  # else a full /dev/shm kills us
        except OSError as e:
            if b is not None:
                b.close()
                b.unlink()
            raise MemoryError("no room in /dev/shm for a result of %d bytes: %s" % (a.nbytes, e)) from e
        fortran = a.flags.f_contiguous and not a.flags.c_contiguous
        c = np.ndarray(a.shape, a.dtype.newbyteorder("="), b.buf, order="F" if fortran else "C")
        c[...] = a
        strides, dtype = c.strides, c.dtype
        del c
        self._give(b)
        self.own.append(b)
        return array, ("/dev/shm/" + b.name, b.name, False, 0, self._text(dtype), a.shape, strides)

    @staticmethod
    def _text(dtype):
        s = _spelled(dtype)
        return s if isinstance(s, str) else repr(s)


def _a(obj):
    return "an object of class %s" % _class(type(obj)) if not isinstance(obj, type) else "the class %s" % _class(obj)


def _class(t):
    return t.__qualname__ if t.__module__ in ("builtins", "__mp_main__") else t.__module__ + "." + t.__qualname__


_simple = {type(None), bool, int, float, str, bytes}


class _Result:
    def __init__(self, v):
        self.p = None
        if type(v) in _simple:
            self.data, self.made = pickle.dumps(v, 4), ()
            return
        file = io.BytesIO()
        self.p = _Pickler(file)
        try:
            self.p.dump(v)
        except BaseException:
            self.undo()
            raise
        self.data, self.made = file.getbuffer(), self.p.made

    def undo(self):
        # Nobody will take the blocks.
        if self.p is not None:
            for b in self.p.keep:
                b._shm_given = False
            for b in self.p.own:
                b.unlink()


def _failure(e):
    # Only what is the function's is shown of the traceback.
    tb = e.__traceback__
    while tb is not None and tb.tb_frame.f_code.co_filename == _FILE:
        tb = tb.tb_next
    try:
        text = str(e)
    except Exception:
        text = "(its text cannot be had)"
    try:
        trace = "".join(traceback.format_exception(type(e), e, tb))
    except Exception:
        trace = ""
    clean = lambda s: s.encode("utf-8", "backslashreplace").decode()
    trace = clean(trace)
    if len(trace) > _TEXT:
        trace = "…" + trace[-_TEXT:]
    return pickle.dumps((clean(_class(type(e))), clean(text)[:_TEXT], trace), 4)


class _Jobs:
    # Frames of multiprocessing.connection, with fewer calls than its own class
    # makes, and with a pause that can be noticed.

    def __init__(self, fd):
        self.fd = fd
        self.got = b""
        self.socket = socket.socket(fileno=fd)
        self.timed = False

    def _wait(self, seconds):
        self.timed = seconds > 0
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO,
                               struct.pack("ll", int(seconds), int(seconds % 1 * 1e6)))

    def _read(self, into):
        while True:
            try:
                return os.readv(self.fd, [into])
            except BlockingIOError:
                _blocks.clear()
                self._wait(0)

    def next(self):
        # b"" when there will be no more.
        if _blocks and not self.timed:
            self._wait(_IDLE)
        got = self.got
        if len(got) < 4:
            room = bytearray(65536)
            while len(got) < 4:
                n = self._read(room)
                if n == 0:
                    return b""
                got += room[:n]
        n = 4 + int.from_bytes(got[:4], "big")
        if len(got) >= n:
            self.got = got[n:]
            return got[4:n]
        frame, have = bytearray(n), len(got)
        frame[:have] = got
        self.got = b""
        view = memoryview(frame)
        while have < n:
            more = self._read(view[have:])
            if more == 0:
                return b""
            have += more
        return view[4:]

    def answer(self, job, state, data, made=()):
        head = struct.pack("<QBH", job, state, len(made)) + b"".join(struct.pack("<B", len(n)) + n.encode() for n in made)
        size = len(head) + len(data)
        if size > self.limit:
            raise ValueError("a result of %d bytes is too long to be sent, at most %d are; return a NumPy array, "
                             "which is not copied, or less at once" % (len(data), self.limit))
        head = struct.pack(">i", size) + head
        parts = [head + data] if size < 16384 else [memoryview(head), memoryview(data)]
        while parts:
            n = os.writev(self.fd, parts)
            while parts and n >= len(parts[0]):
                n -= len(parts.pop(0))
            if parts and n:
                parts[0] = memoryview(parts[0])[n:]


_pid = os.getpid()
_current = 0  # the job whose function runs
_cancelled = set()
_cancel_fd = -1


def _signalled(number, frame):
    # Go says on a pipe which job it means, as that may be over by now.
    known = False
    try:
        while True:
            ids = os.read(_cancel_fd, 4096)
            if not ids:
                break
            known = True
            _cancelled.update(i for i, in struct.iter_unpack("<Q", ids))
    except OSError:
        pass
    if not known and number == signal.SIGTERM:
        sys.exit(128 + number)
    if _current in _cancelled:
        _cancelled.discard(_current)
        raise KeyboardInterrupt("the job was cancelled")


def _find(module, name):
    f = module
    for part in name.split("."):
        try:
            f = getattr(f, part)
        except AttributeError:
            names = sorted(n for n, v in vars(module).items() if callable(v) and not n.startswith("_"))
            raise AttributeError("%s has no function %r; it has %s" % (
                getattr(module, "__file__", None) or module.__name__, name, ", ".join(names[:20]) or "none")) from None
    if not callable(f):
        raise TypeError("%s is %s, which cannot be called" % (name, _a(f)))
    return f


def _load(script, source):
    if not script.endswith(".py") and source is None:
        return importlib.import_module(script)
    # As multiprocessing does with the main module of its children: what stands
    # under __name__ == "__main__" is not run, and those that a function starts
    # find its classes under the same name.
    if source is None:
        sys.path[0] = os.path.dirname(script)
        with open(script, "rb") as f:
            source = f.read()
    else:
        del sys.path[0]  # it stands nowhere, and has no neighbours
        text = source.decode("utf-8", "replace")
        linecache.cache[script] = len(text), None, text.splitlines(True), script  # for tracebacks
    sys.argv[:] = [script]
    main = types.ModuleType("__mp_main__")
    main.__file__ = script
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main
    exec(compile(source, script, "exec"), main.__dict__)
    return main


def _high(fd):
    for least in _HIGH:
        try:
            return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least)
        except OSError:
            pass
    raise OSError("no more descriptors")


def _moved(fd):
    high = _high(fd)
    os.close(fd)
    return high


def _die_with_parent():
    # The kernel kills us when the other end of this pipe is closed, whatever we
    # do then: a thread of ours would wait for a library that keeps the lock.
    fd = _high(parent_process().sentinel)
    fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(fd, 0)
    if poll.poll(0):  # it has gone already
        os._exit(1)


def _flush():
    for f in sys.stdout, sys.stderr:
        try:
            f.flush()
        except Exception:  # None, closed, or nobody reads it
            pass


def main(script, sent, jobs_fd, cancel_fd, limit):
    global _current, _cancel_fd
    _die_with_parent()
    _expect_names()
    jobs = _Jobs(_moved(jobs_fd))
    jobs.limit = limit
    _cancel_fd = _moved(cancel_fd)
    os.set_blocking(_cancel_fd, False)
    signal.signal(signal.SIGTERM, _signalled)
    # A terminal sends this to all of its processes; our parent answers for us.
    signal.signal(signal.SIGINT, _signalled)
    try:
        faulthandler.enable()
    except Exception:  # no standard error
        pass

    def forked():
        # Who is forked by a function must not keep us alive, or answer for us.
        for fd in jobs.fd, _cancel_fd:
            try:
                os.close(fd)
            except OSError:
                pass
    os.register_at_fork(after_in_child=forked)

    try:
        module = _load(script, bytes(jobs.next()) if sent else None)
    except Exception as e:
        jobs.answer(0, _FAILED, _failure(e))
        return
    functions = {}
    jobs.answer(0, _DONE, pickle.dumps(sys.version, 4))

    while True:
        frame = jobs.next()
        if not len(frame):
            return
        job, keywords, n = struct.unpack_from("<QBB", frame)
        if job == 0:
            for name in pickle.loads(frame[10:]):
                _untrack(name)
            continue
        state, answer, made, result = _DONE, None, (), None
        try:
            _current = job
            try:
                if job in _cancelled:
                    _cancelled.discard(job)
                    raise KeyboardInterrupt("the job was cancelled")
                name = bytes(frame[10:10 + n]).decode()
                f = functions.get(name)
                if f is None:
                    f = functions[name] = _find(module, name)
                args = pickle.loads(frame[10 + n:])
                del frame
                v = f(**args[0]) if keywords else f(*args)
                del args
                if os.getpid() == _pid:
                    state = _NOT_SENT
                    result = _Result(v)
                    answer, made, state = result.data, result.made, _DONE
                del v
            finally:
                _current = 0
        except BaseException as e:
            if isinstance(e, SystemExit):
                raise
            answer = _failure(e)
            if state != _NOT_SENT:
                state = _FAILED
            # These hold the function's variables.
            args = v = frame = None
        _flush()
        if os.getpid() != _pid:
            # The function has forked, and this is not the process that was asked.
            os._exit(0)
        try:
            try:
                jobs.answer(job, state, answer, made)
            except ValueError as e:
                result.undo()
                jobs.answer(job, _NOT_SENT, _failure(e))
        except OSError:
            os._exit(1)  # our parent is gone, or the function has closed what is ours
        answer = result = None
