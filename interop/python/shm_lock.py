"""Locks in shared memory between Python and Go, which survive the death of their owner.

The counterpart of github.com/sharedmem/shm/lock: a Mutex, Semaphore or Event at
an offset of a block, used by processes of either language, any of which may be
killed at any moment. One file, standard library only; copy it where you need it.

    from shm_lock import Mutex

    lock = Mutex("cam0", offset=0)      # lock.NewMutex(b, 0) in Go
    with lock:
        if lock.owner_died:             # the last holder was killed holding it
            repair()
            lock.mark_consistent()      # without this the lock ends as NotRecoverable
        change()

The memory is a block's name, or anything with a writable buffer: a SharedMemory,
an mmap. (By name it is opened without multiprocessing's resource tracker, which
would remove the block when this process ends.)

CPython 3.8 or newer on 64-bit Linux, x86-64 or arm64. A lock belongs to the
process, as in Go: any thread may release it. The first acquire, or wait, starts a
thread that learns of others' deaths; so os.fork warns from 3.12 on that there are
threads. A forked child holds nothing, and takes part as a process of its own. The formats are in docs/format.md of the
module. What differs from Go: no RWMutex, Cond, Barrier and Once; and a block that
somebody makes smaller ends the process with SIGBUS.
"""
import atexit
import ctypes
import errno
import fcntl
import mmap
import os
import platform
import stat
import struct
import sys
import threading
import time
import weakref

__all__ = ["Mutex", "Semaphore", "Event", "NotRecoverable"]


class NotRecoverable(OSError):
    """What a dead owner left was not mended before the lock was released."""


# Atomics. CPython has none, and a plain store cannot take a lock. These are five
# functions in machine code: compare and swap, which returns what was there, and load,
# each of 64 and of 32 bits, sequentially consistent. They lie in a memory file
# that is mapped for reading and executing, never writable at the same time; and
# with a file the kernel sees to the instruction cache of arm64, as it does for
# every library. A call takes the better part of a microsecond, all of it ctypes.
_CODE = {
    "x86_64": (
        # mov rax, rsi; lock cmpxchg [rdi], rdx; ret
        "4889f0f0480fb117c3",
        # mov eax, esi; lock cmpxchg [rdi], edx; ret
        "89f0f00fb117c3",
        "488b07c3",  # mov rax, [rdi]; ret
        "8b07c3",  # mov eax, [rdi]; ret
    ),
    "aarch64": (
        # 0: ldaxr x3, [x0]; cmp x3, x1; b.ne 1f; stlxr w4, x2, [x0]; cbnz w4, 0b
        # 1: dmb ish; mov x0, x3; ret
        "03fc5fc87f0001eb6100005402fc04c884ffff35bf3b03d5e00303aac0035fd6",
        # the same with w3, w1 and w2
        "03fc5f887f00016b6100005402fc048884ffff35bf3b03d5e003032ac0035fd6",
        "00fcdfc8c0035fd6",  # ldar x0, [x0]; ret
        "00fcdf88c0035fd6",  # ldar w0, [x0]; ret
    ),
}
# Linux's numbers: futex, set_robust_list. futex_waitv is 449 everywhere.
_NUMBERS = {"x86_64": (202, 273), "aarch64": (98, 99)}

_machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())
if not sys.platform.startswith("linux") or _machine not in _CODE or sys.maxsize < 1 << 32:
    raise ImportError("shm_lock: only for 64-bit Linux on x86-64 and arm64, not %s on %s" % (sys.platform, platform.machine()))
_SYS_FUTEX, _SYS_SET_ROBUST_LIST = _NUMBERS[_machine]
_SYS_FUTEX_WAITV = 449

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_U64, _U32, _PTR = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_void_p


def _machine_code():
    """(cas64, cas32, load64, load32) of our own."""
    page, at = b"", []
    for code in _CODE[_machine]:
        at.append(len(page))
        page += bytes.fromhex(code).ljust(64, b"\0")
    fd = os.memfd_create("shm_lock")
    try:
        os.write(fd, page)
        text = mmap.mmap(fd, len(page), flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
    finally:
        os.close(fd)
    # Python's buffers do not give the address of what is read-only; C's do.
    view = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(text), ctypes.byref(view), 0)
    where = view.buf  # the buffer is never given back: the code stays
    types = ((_U64, _PTR, _U64, _U64), (_U32, _PTR, _U32, _U32), (_U64, _PTR), (_U32, _PTR))
    # PYFUNCTYPE keeps the GIL: to give it back and fight for it again takes longer.
    return tuple(ctypes.PYFUNCTYPE(*t)(where + o) for t, o in zip(types, at)) + (text,)


class _PyBuffer(ctypes.Structure):
    _fields_ = [("buf", _PTR), ("rest", ctypes.c_char * 120)]


def _libatomic():
    """The same by GCC's library, where memory must not be executable, and it is there."""
    lib = ctypes.PyDLL("libatomic.so.1")

    def cas(size, c_type):
        f = getattr(lib, "__atomic_compare_exchange_%d" % size)
        f.argtypes, f.restype = (_PTR, _PTR, c_type, ctypes.c_int, ctypes.c_int), ctypes.c_bool

        def swap(address, old, new):
            was = c_type(old)
            f(address, ctypes.addressof(was), new, 5, 5)
            return was.value

        return swap

    def load(size, c_type):
        f = getattr(lib, "__atomic_load_%d" % size)
        f.argtypes, f.restype = (_PTR, ctypes.c_int), c_type
        return lambda address: f(address, 5)

    return cas(8, _U64), cas(4, _U32), load(8, _U64), load(4, _U32), lib


def _atomics():
    try:
        return _machine_code()
    except OSError as refused:
        try:
            return _libatomic()
        except OSError:
            raise ImportError("shm_lock: this system lets no program make code (%s), and has no libatomic.so.1: install it" % refused)


_cas64, _cas32, _load64, _load32, _kept = _atomics()


# Futexes.
class _Waitv(ctypes.Structure):
    _fields_ = [("val", _U64), ("addr", _U64), ("flags", _U32), ("reserved", _U32)]


class _Timespec(ctypes.Structure):
    _fields_ = [("sec", ctypes.c_int64), ("nsec", ctypes.c_int64)]


_BACKSTOP = 1.0  # the longest that anybody sleeps without a look
_SLICE = 0.005  # the same before Linux 5.16, where one cannot sleep on several words
_ALL = 1 << 30


def _syscall(*args):
    return _libc.syscall(*[ctypes.c_long(a) for a in args])


_syscall(_SYS_FUTEX_WAITV, 0, 0, 0, 0, 0)
_have_waitv = ctypes.get_errno() == errno.EINVAL  # else ENOSYS, or EPERM of an old sandbox


def _timespec(seconds):
    return _Timespec(int(seconds), int(seconds % 1 * 1e9))


def _sleep(words, timeout=None):
    """Sleep until one of the (address, value) has another value or is woken.

    For a second at most, and perhaps shorter for no reason.
    """
    timeout = _BACKSTOP if timeout is None else max(0.0, min(timeout, _BACKSTOP))
    if _have_waitv:
        list_ = (_Waitv * len(words))(*[_Waitv(v, a, 2, 0) for a, v in words])
        until = _timespec(time.monotonic() + timeout)
        r = _syscall(_SYS_FUTEX_WAITV, ctypes.addressof(list_), len(words), 0, ctypes.addressof(until), time.CLOCK_MONOTONIC)
    else:
        address, value = words[0]
        for_ = _timespec(min(timeout, _SLICE))
        r = _syscall(_SYS_FUTEX, address, 0, value, ctypes.addressof(for_), 0, 0)
    if r < 0 and ctypes.get_errno() == errno.EFAULT:
        raise OSError(errno.EFAULT, "the memory is gone")


def _wake(address, n):
    return _syscall(_SYS_FUTEX, address, 1, n, 0, 0, 0)


def _add32(address, n):
    while True:
        old = _load32(address)
        if _cas32(address, old, (old + n) & 0xFFFFFFFF) == old:
            return


# Leases: a file per process and directory, locked as long as the process lives.
_PREFIX = ".shm-lease."
_MAGIC = b"SHMLEASE"
_SIZE = 4096
_OWNER_BYTE = 1 << 62
_LIFE, _BELL = 56, 60
_WAITERS_BIT, _OWNER_DIED = 1 << 31, 1 << 30
_F_OFD_GETLK, _F_OFD_SETLK = 36, 37


def _flock(kind):
    return struct.pack("@hhqqi0q", kind, 0, _OWNER_BYTE, 1, 0)


def _alive(directory, lease):
    """Whether the process with this lease lives. Unknown is alive."""
    try:
        fd = os.open(os.path.join(directory, "%s%016x" % (_PREFIX, lease)), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        # What is in the way of a read lock: only the owner's write lock can be.
        return struct.unpack_from("@h", fcntl.fcntl(fd, _F_OFD_GETLK, _flock(fcntl.F_RDLCK)))[0] != fcntl.F_UNLCK
    except OSError:
        return True
    finally:
        os.close(fd)


def _place(directory):
    """The word that says where the leases of a lock's users are."""
    st = os.stat(directory)
    return (((st.st_dev * 0x9E3779B97F4A7C15) & (1 << 64) - 1) ^ st.st_ino) | 1 << 63


def _address(buffer, offset):
    """The address of a buffer's byte, and what keeps the buffer from being closed."""
    keep = ctypes.c_char.from_buffer(buffer, offset)
    return ctypes.addressof(keep), keep


class _Page:
    """A lease's first page."""

    def __init__(self, lease, fd):
        self.id = lease
        self.map = mmap.mmap(fd, _SIZE)
        base, self.keep = _address(self.map, 0)
        self.life, self.bell = base + _LIFE, base + _BELL

    @classmethod
    def open(cls, directory, name, lease):
        try:
            fd = os.open(os.path.join(directory, name), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None  # another user's, or just gone
        try:
            st = os.fstat(fd)
            if not stat.S_ISREG(st.st_mode) or st.st_size < _SIZE or st.st_uid != os.geteuid():
                return None
            page = cls(lease, fd)
        except (OSError, ValueError):
            return None
        finally:
            os.close(fd)
        if page.map[:8] != _MAGIC:
            page.close()
            return None
        return page

    def lives(self):
        life = _load32(self.life)
        return life != 0 and not life & _OWNER_DIED

    def ring(self):
        _add32(self.bell, 1)
        _wake(self.bell, _ALL)

    def close(self):
        del self.keep
        self.map.close()


class _Member:
    """This process among those who wait for each other in a directory.

    Each has a guard, a thread that sleeps on the life of the next one in the
    order of their leases and rings everybody's bell when that ends.
    """

    def __init__(self, directory):
        self.dir = directory
        self.id = 0
        while self.id == 0:
            self.id = int.from_bytes(os.urandom(8), "little") & ~15
        self.name = "%s%016x" % (_PREFIX, self.id)
        self.fd = self.make()
        self.page = _Page(self.id, self.fd)
        self.stop = False
        self.known = {}  # members, True as long as they lived when last seen
        ready = threading.Event()
        self.thread = threading.Thread(target=self.guard, args=(ready,), name="shm_lock", daemon=True)
        self.thread.start()
        ready.wait()

    def make(self):
        """Make the lease: locked first, named last, as nobody may see it half done."""
        path, temp = os.path.join(self.dir, self.name), None
        try:
            fd = os.open(self.dir, os.O_TMPFILE | os.O_RDWR, 0o600)
        except OSError:
            temp = os.path.join(self.dir, ".shm-new.%016x.0" % self.id)
            fd = os.open(temp, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        try:
            os.fchmod(fd, 0o600)
            os.posix_fallocate(fd, 0, _SIZE)  # a full /dev/shm is an error here, not a SIGBUS later
            fcntl.fcntl(fd, _F_OFD_SETLK, _flock(fcntl.F_WRLCK))
            try:
                with open("/proc/self/stat", "rb") as f:
                    start = int(f.read().rsplit(b")", 1)[1].split()[19])
                space = os.stat("/proc/self/ns/pid").st_ino
            except OSError:
                start = space = 0
            os.pwrite(fd, struct.pack("<8sIIQQQQQ", _MAGIC, 1, 320, self.id, os.getpid(), space, start, time.time_ns()), 0)
            if temp:
                os.link(temp, path)
            # AT_FDCWD, AT_SYMLINK_FOLLOW; os.link has not followed in all versions
            elif _libc.linkat(-100, b"/proc/self/fd/%d" % fd, -100, os.fsencode(path), 0x400) != 0:
                raise OSError(ctypes.get_errno(), "cannot name the lease", path)
        except BaseException:
            os.close(fd)
            raise
        finally:
            if temp:
                os.unlink(temp)
        return fd

    def guard(self, ready):
        # struct robust_list_head with one entry: head, offset, pending, and the
        # entry itself, which points back. The kernel sets OWNER_DIED in the word at
        # entry + offset, if it has this thread's ID, and wakes, when the thread ends.
        self.robust = (ctypes.c_uint64 * 4)()
        head = ctypes.addressof(self.robust)
        self.robust[0], self.robust[3] = head + 24, head
        self.robust[1] = (self.page.life - (head + 24)) & (1 << 64) - 1
        _syscall(_SYS_SET_ROBUST_LIST, head, 24)
        self.set_life(threading.get_native_id() | _WAITERS_BIT)
        try:
            around = self.neighbours(None)
            if around:
                around[0].ring()  # it has to watch us from now on
            for page in around:
                page.close()
        except OSError:
            pass
        finally:
            ready.set()
        while True:
            bell = _load32(self.page.bell)
            if self.stop:
                break
            try:
                around = self.neighbours(self.known)
            except OSError:
                around = []  # out of descriptors, perhaps; the next look is a second away
            words = [(self.page.bell, bell)]
            next_ = around[-1] if around else None
            if next_:
                life = _load32(next_.life)
                if life and not life & _OWNER_DIED:
                    words.append((next_.life, life))
            _sleep(words)
            # The kernel says so when the guard's thread ends; the process's other threads
            # may have some instructions to go. Its lock drops with the last of them.
            until = time.monotonic() + _BACKSTOP
            while next_ and _load32(next_.life) & _OWNER_DIED and time.monotonic() < until and _alive(self.dir, next_.id):
                time.sleep(0.0002)
            for page in around:
                page.close()
        self.set_life(0)
        self.robust[0] = head
        _wake(self.page.life, _ALL)

    def set_life(self, value):
        while True:
            old = _load32(self.page.life)
            if _cas32(self.page.life, old, value) == old:
                return

    def neighbours(self, known):
        """The living members before and after this one, for the caller to close.

        None, one that is both, or two. Rings for each death that known does not know.
        """
        ids, living, died, seen = [], [], False, set()
        for name in os.listdir(self.dir):
            if name.startswith(_PREFIX) and len(name) == len(_PREFIX) + 16:
                try:
                    ids.append((int(name[len(_PREFIX):], 16), name))
                except ValueError:
                    pass
        for lease, name in sorted(ids):
            page = None if lease == self.id else _Page.open(self.dir, name, lease)
            if page is None:
                continue
            life = _load32(page.life)
            # The word alone may be from before a restart, or of who has no robust list.
            alive = page.lives() and _alive(self.dir, lease)
            seen.add(lease)
            if known is not None:
                died = died or not alive and life != 0 and known.get(lease, True)
                known[lease] = alive
            if alive:
                living.append(page)
            else:
                page.close()
        for lease in [l for l in known or () if l not in seen]:
            died = known.pop(lease) or died
        if died:
            for page in living:
                page.ring()
            self.page.ring()
        if not living:
            return []
        i = sum(page.id < self.id for page in living)
        before, next_ = living[i - 1], living[i % len(living)]
        for page in living:
            if page is not before and page is not next_:
                page.close()
        return [before] if before is next_ else [before, next_]

    def leave(self):
        self.stop = True
        self.page.ring()
        self.thread.join()
        try:
            os.unlink(os.path.join(self.dir, self.name))
        except OSError:
            pass  # its directory has gone
        os.close(self.fd)


_members = {}
_members_lock = threading.Lock()
_holders = weakref.WeakSet()  # of what a process must not end with as if nothing were


def _member(directory):
    m = _members.get(directory)
    if m is None:
        with _members_lock:
            m = _members.get(directory)
            if m is None:
                m = _members[directory] = _Member(directory)
    return m


def _forked():
    """A child is another process, with a lease of its own once it needs one.

    The parent's would look alive as long as the child has it open.
    """
    global _members_lock
    _members_lock = threading.Lock()
    for m in _members.values():
        os.close(m.fd)
    _members.clear()


os.register_at_fork(after_in_child=_forked)


@atexit.register
def _leave():
    # A process that ends holding a lock has died holding it, and the others shall
    # hear of that as of a death.
    holding = {h._dir for h in _holders if h._holds()}
    for directory in [d for d in _members if d not in holding]:
        _members.pop(directory).leave()


def _map(name, directory):
    """All of a block, and what its file is."""
    fd = os.open(os.path.join(directory, name.lstrip("/")), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        return mmap.mmap(fd, 0), os.fstat(fd)
    finally:
        os.close(fd)


class _Primitive:
    """A State: 64 bytes of a block."""

    def __init__(self, memory, offset, directory, kind, param):
        self._open = False
        self._dir = os.path.realpath(directory)
        self._own = None
        if isinstance(memory, str):
            self._own, _ = _map(memory, directory)
            memory = self._own
        buffer = memoryview(getattr(memory, "buf", memory)).cast("B")
        if offset < 0 or offset % 8 or offset + 64 > len(buffer):
            raise ValueError("no room for a lock at offset %d" % offset)
        base, self._keep = _address(buffer, offset)
        buffer.release()
        if base % 8:
            raise ValueError("the memory does not begin at a multiple of 8")
        self._open = True
        self._word = base + 8
        stamp = 0x14C53 | kind << 24 | param << 32
        have = _cas64(base, 0, stamp) or stamp
        try:
            if have & 0xFFFFFFFF != stamp & 0xFFFFFFFF:
                raise ValueError("at offset %d is something else: %#x" % (offset, have))
            self._param = have >> 32
            place = _place(self._dir)
            if _cas64(base + 56, 0, place) not in (0, place):
                raise OSError(errno.EOPNOTSUPP, "those who use the lock have their leases elsewhere; which directory?")
        except BaseException:
            self.close()
            raise

    def close(self):
        """Let go of the memory. A SharedMemory cannot be closed before."""
        if self._open:
            self._open = False
            del self._keep
            if self._own is not None:
                self._own.close()

    def _check(self):
        if not self._open:
            raise ValueError("the lock is closed")

    def __enter__(self):
        self.acquire()
        return self

    def __exit__(self, *_):
        self.release()


class _Until:
    """How long there is left to wait."""

    def __init__(self, blocking, timeout):
        if timeout is not None and timeout < 0:
            timeout = None  # as threading.Lock has it
        if not blocking:
            timeout = 0
        self.end = None if timeout is None else time.monotonic() + timeout

    def left(self):
        return None if self.end is None else self.end - time.monotonic()

    def over(self):
        return self.end is not None and self.end <= time.monotonic()


_WAITERS, _DIED, _PENDING, _FLAGS = 1, 2, 4, 15
_BROKEN = (1 << 64) - 1


class Mutex(_Primitive):
    """A lock between processes, held by one of them."""

    def __init__(self, memory, offset=0, directory="/dev/shm"):
        super().__init__(memory, offset, directory, 1, 0)
        _holders.add(self)

    def acquire(self, blocking=True, timeout=-1):
        """Take the lock; False if it was not to be had in time. See owner_died."""
        self._check()
        member = _member(self._dir)
        me = mine = member.id
        if _cas64(self._word, 0, me) == 0:
            return True
        until = _Until(blocking, timeout)
        asked = None  # an owner known to live, and the bell then
        slept = False
        try:
            while True:
                bell = _load32(member.page.bell)
                w = _load64(self._word)
                owner = w & ~_FLAGS
                if w == _BROKEN:
                    raise NotRecoverable(errno.ENOTRECOVERABLE, os.strerror(errno.ENOTRECOVERABLE))
                if owner == 0:
                    if _cas64(self._word, w, mine) == w:
                        return True
                    continue
                if owner != me and asked != (owner, bell):
                    if not _alive(self._dir, owner):
                        died = w & _DIED if w & _PENDING else _DIED
                        if _cas64(self._word, w, me | died | (w | mine) & _WAITERS) == w:
                            return True
                        continue
                    asked = owner, bell
                if until.over():
                    if slept:
                        self._pass_on()
                    return False
                if not w & _WAITERS:
                    if _cas64(self._word, w, w | _WAITERS) != w:
                        continue
                    w |= _WAITERS
                mine |= _WAITERS  # others may sleep as well
                slept = True
                _sleep([(self._word, w & 0xFFFFFFFF), (member.page.bell, bell)], until.left())
                if _load32(member.page.bell) == bell and _load64(self._word) == w:
                    asked = None
        except KeyboardInterrupt:
            self._pass_on()
            raise

    def _pass_on(self):
        # The one wake that came may have been for others, and the flag is theirs.
        while True:
            w = _load64(self._word)
            if w & ~_FLAGS == 0:
                _wake(self._word, 1)
                return
            if w & _WAITERS or _cas64(self._word, w, w | _WAITERS) == w:
                return

    def release(self):
        """Give the lock back. RuntimeError if this process does not hold it."""
        self._check()
        me = _member(self._dir).id
        if _cas64(self._word, me, 0) == me:
            return
        while True:
            w = _load64(self._word)
            if w == _BROKEN or w & ~_FLAGS != me:
                raise RuntimeError("release unlocked lock")
            to, n = (_BROKEN, _ALL) if w & _DIED else (0, 1)
            if _cas64(self._word, w, to) == w:
                if w & _WAITERS:
                    _wake(self._word, n)
                return

    @property
    def owner_died(self):
        """While held: the owner before died holding it, and nobody has mended."""
        self._check()
        return self.locked_here() and _load64(self._word) & _DIED != 0

    def mark_consistent(self):
        """Say that what a dead owner left is mended. RuntimeError if not held."""
        self._check()
        me = _member(self._dir).id
        while True:
            w = _load64(self._word)
            if w == _BROKEN or w & ~_FLAGS != me:
                raise RuntimeError("the lock is not held")
            if not w & _DIED or _cas64(self._word, w, w & ~_DIED) == w:
                return

    def locked_here(self):
        """Whether this process holds the lock."""
        member = _members.get(self._dir)
        w = _load64(self._word)
        return member is not None and w != _BROKEN and w & ~_FLAGS == member.id

    def _holds(self):
        return self._open and self.locked_here()

    def locked(self):
        """Whether anybody holds the lock, or died holding it."""
        self._check()
        return _load64(self._word) & ~_FLAGS != 0


def _signed(w):
    return w - (1 << 32) if w >> 31 else w


class Semaphore(_Primitive):
    """Permits, counted between processes. A new one begins with value of them."""

    def __init__(self, memory, offset=0, value=1, directory="/dev/shm"):
        if not 0 <= value <= 1 << 29:
            raise ValueError("0 to 2**29 permits are possible")
        super().__init__(memory, offset, directory, 7, value)

    def _permits(self, w):
        return self._param + (_signed(w) >> 1)

    @property
    def value(self):
        """How many permits there are now."""
        self._check()
        return max(0, self._permits(_load32(self._word)))

    def _take(self, flag):
        while True:
            w = _load32(self._word)
            if self._permits(w) <= 0:
                return False
            if _cas32(self._word, w, (w - 2) & 0xFFFFFFFF | flag) == w:
                return True

    def acquire(self, blocking=True, timeout=-1):
        """Take a permit; False if none came in time."""
        self._check()
        if self._take(0):
            return True
        if not blocking:
            return False
        member, until, flag = _member(self._dir), _Until(blocking, timeout), 0
        try:
            while True:
                bell = _load32(member.page.bell)
                if self._take(flag):
                    # Two may have been given while only one was woken.
                    if flag and self._permits(_load32(self._word)) > 0:
                        _wake(self._word, 1)
                    return True
                w = _load32(self._word)
                if self._permits(w) > 0:
                    continue
                if until.over():
                    return False
                if not w & 1 and _cas32(self._word, w, w | 1) != w:
                    continue
                flag = 1  # once we have slept, others may sleep as well
                _sleep([(self._word, w | 1), (member.page.bell, bell)], until.left())
        except KeyboardInterrupt:
            if self._permits(_load32(self._word)) > 0:
                _wake(self._word, 1)
            raise

    def release(self):
        """Add a permit."""
        self._check()
        while True:
            w = _load32(self._word)
            if _signed(w) >> 1 >= 1 << 29 or self._permits(w) >= (1 << 31) - 2:
                raise ValueError("too many permits")
            if _cas32(self._word, w, (w + 2) & 0xFFFFFFFF) == w:
                break
        if w & 1 and _wake(self._word, 1) == 0:
            # Nobody sleeps, nor has begun to if the word is the same still.
            _cas32(self._word, (w + 2) & 0xFFFFFFFF, (w + 2) & 0xFFFFFFFE)


class Event(_Primitive):
    """A flag to wait for. With auto=True one waiter passes each time it is set."""

    __enter__ = __exit__ = None

    def __init__(self, memory, offset=0, auto=False, directory="/dev/shm"):
        super().__init__(memory, offset, directory, 4, int(auto))
        if self._param != auto:
            self.close()
            raise ValueError("the event there is %s" % ("manual" if auto else "automatic"))

    def is_set(self):
        self._check()
        return _load32(self._word) & 1 != 0

    def set(self):
        self._check()
        while True:
            w = _load32(self._word)
            if w & 1:
                return
            if _cas32(self._word, w, (w + 2 | 1) & 0xFFFFFFFF) == w:
                break
        _wake(self._word, 1 if self._param else _ALL)

    def clear(self):
        self._check()
        while True:
            w = _load32(self._word)
            if _cas32(self._word, w, w & ~1) == w:
                return

    def wait(self, timeout=None):
        """Wait until the event is set; False if it was not in time."""
        self._check()
        member, until = _member(self._dir), _Until(True, timeout)
        first = _load32(self._word)
        try:
            while True:
                bell = _load32(member.page.bell)
                w = _load32(self._word)
                if self._param:
                    if w & 1:
                        if _cas32(self._word, w, w & ~1) == w:
                            return True
                        continue
                elif w & 1 or w >> 1 != first >> 1:
                    return True  # it was set, if only for a moment
                if until.over():
                    return False
                _sleep([(self._word, w), (member.page.bell, bell)], until.left())
        except KeyboardInterrupt:
            if _load32(self._word) & 1:
                _wake(self._word, 1)  # it may have been for another
            raise
