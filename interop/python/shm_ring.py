"""Rings: queues of messages in shared memory between Python and Go processes.

The counterpart of github.com/sharedmem/shm/ring. Any process of either language may
be killed at any moment: nothing that was sent is lost, nobody waits for the dead.
Standard library only; copy this file and shm_lock.py, which it imports.

    from shm_ring import Ring

    with Ring("jobs") as ring, ring.receiver() as r:    # ring.Open("jobs", nil) in Go
        for message in r:                               # bytes, until all senders closed
            work(message)

    with Ring("jobs") as ring, ring.sender() as s:
        s.send(b"hello")                                # waits while the ring is full
        with s.reserve(1000) as room:                   # in place, without a copy
            room[:] = ...

Ring(name) opens a ring that Go, `shm ring create` or Ring.create made. All kinds are
there: one or many senders and receivers, messages over several slots, either
way with a dead receiver's messages. By name a block is opened without
multiprocessing's resource tracker, which would remove it when this process ends.

What ends waiting: a receiver gets EOFError when all senders have closed and nothing is
left, a sender BrokenPipeError when the ring is full and all receivers have closed; both
get PeerGone if the last one died instead. A process that ends without close has died,
for the others, so use `with`. Damaged memory is ValueError.

CPython 3.8 or newer on 64-bit Linux, x86-64 or arm64. A Sender or Receiver is for
one thread at a time (another gets RuntimeError), but any may close it. A forked child
has none of them; it opens the ring again. The formats are in docs/format.md of the
module. What differs from Go: a block that somebody makes smaller ends the process
with SIGBUS.

A Receiver has a fileno(), for selectors and for asyncio's add_reader: it is readable
as long as there may be something. Then call receive(timeout=0) until it gives None,
or ends with an error.
"""
import ctypes
import errno
import os
import queue
import struct
import threading
import weakref
from contextlib import contextmanager

import shm_lock
from shm_lock import (_ALL, _Until, _address, _alive, _cas32, _cas64, _holders, _libc, _load32, _load64, _map, _member, _place,
                      _sleep, _syscall, _wake)

__all__ = ["Ring", "Sender", "Receiver", "PeerGone", "Taken"]


class PeerGone(OSError):
    """The last peer died: nobody is left to send, or to receive."""


class Taken(OSError):
    """The ring is for one sender or receiver, and has it."""


_M64, _M32 = (1 << 64) - 1, (1 << 32) - 1
_HEADER = struct.Struct("<8sIIQQQQQQQ")  # magic, version, flags, slot size, slots, stride, limit, parts, place, ready
_PAGE = 4096
_TABLE, _PEERS, _EPOCH, _HAD, _TALLY, _TAIL, _HEAD, _FILLED, _FREED = 16, 17, 18, 19, 20, 24, 32, 40, 48  # as words of 8 bytes

_ONE_SENDER, _ONE_RECEIVER, _DISCARD, _FENCED = 1, 2, 4, 8

# An entry of the table, in words: two, and from 8 on the counters of its owner.
_ENTRY = 128
_OWNER, _STATE, _SEEN, _SENT, _RECEIVED, _WAITS, _HIGH, _LOST, _REDELIVERED = 0, 1, 8, 9, 10, 11, 12, 13, 14
_SENDER, _RECEIVER, _LEAVING = 1, 2, 8

# A slot's word: lap from bit 32 on, span from 16, entry from 4.
_FREE, _WRITING, _FULL, _READING, _VOID = range(5)
_AGAIN = 8
_LAP = 1 << 32

_EVER_SENDER, _EVER_RECEIVER, _SENDER_DIED, _RECEIVER_DIED = 1 << 32, 1 << 33, 1 << 34, 1 << 35

_SLEEPING = 1
_LOOKS = 20  # before sleeping, a microsecond or two each: to be woken takes as long


# Who is about to sleep has the kernel send all participants through a barrier, so that
# Go's senders need none. Ours are barriers anyway, as compare-and-swap is.
_SYS_MEMBARRIER = {"x86_64": 324, "aarch64": 283}[shm_lock._machine]
_fences = _syscall(_SYS_MEMBARRIER, 4, 0, 0) == 0  # REGISTER_GLOBAL_EXPEDITED


def _signed(n):
    """n as a signed number of 64 bits."""
    n &= _M64
    return n - (1 << 64) if n >> 63 else n


def _garbage(what, word):
    return ValueError("%s is %#x: the ring is damaged" % (what, word))


def _flat(message):
    """What is sent, as bytes one behind the other."""
    if type(message) is bytes:
        return message
    view = memoryview(message)
    return view.cast("B") if view.nbytes else b""


def _wake_all(address):
    """Wake who sleeps on a word, if anybody does."""
    while True:
        v = _load32(address)
        if not v & _SLEEPING:
            return
        if _cas32(address, v, v + 2 & _M32 & ~_SLEEPING) == v:
            _wake(address, _ALL)
            return


_tables = {}  # by device and inode: whose turn it is in this process to lock the table
_rings = weakref.WeakSet()


def _forked():
    _tables.clear()  # somebody's turn may never end
    for ring in list(_rings):
        for part in ring._parts:
            part._end = True  # it is the parent's
        ring._parts.clear()
        ring._forked = True


os.register_at_fork(after_in_child=_forked)


class _Party:
    """What rings and topics have in common: a block with a table of who takes part, in two roles.

    Any thread may call it.
    """

    _VERSION = 1

    @staticmethod
    def _lie(flags, slot, slots):
        """How many bytes lie before the slots of a block, and from one to the next."""
        return 0, (slot + 16 + 63) // 64 * 64

    def __init__(self, name, directory="/dev/shm"):
        self._open = self._forked = False
        self._dir = os.path.realpath(directory)
        self.name = name.lstrip("/")
        self._parts = set()  # not weak: whoever drops one without close still has it
        self._heard = None  # the bell when everybody was last known to live
        self._stop = ctypes.c_uint32()  # changes when calls of this process are to give up
        self._map, self._file = _map(self.name, self._dir)
        self._bytes = memoryview(self._map)
        try:
            self._check_header()
        except BaseException:
            self._bytes.release()
            self._map.close()
            raise
        # The block in words. CPython makes one instruction of reading an aligned one, and of
        # writing it. x86-64 keeps such reads in order, so that _read, which is by the
        # word's number, needs ctypes on arm64 only.
        self._q = self._bytes[: len(self._bytes) & ~7].cast("Q")
        self._base, self._keep = _address(self._map, 0)
        base = self._base
        self._read = self._q.__getitem__ if shm_lock._machine == "x86_64" else lambda word: _load64(base + 8 * word)
        self._filled, self._freed = self._base + 8 * self._FILLED, self._base + 8 * self._FREED
        self._turn = _tables.setdefault((self._file.st_dev, self._file.st_ino), threading.Lock())
        self._member = _member(self._dir)
        self._open = True
        _rings.add(self)
        _holders.add(self)

    def _check_header(self):
        size = len(self._bytes)
        if size < _PAGE:
            raise ValueError("no %s: a block of %d bytes" % (self._WHAT, size))
        # Copied once, then checked: another process may change it.
        magic, version, flags, slot, slots, stride, *rest, ready = _HEADER.unpack(bytes(self._bytes[: _HEADER.size]))
        limit, parts, place = self._order(slot, *rest)
        if magic != self._MAGIC:
            raise ValueError("no %s" % self._WHAT)
        if version != self._VERSION:
            raise ValueError("a %s of version %d, this program knows %d" % (self._WHAT, version, self._VERSION))
        if ready != 1:
            raise ValueError("the %s is not complete" % self._WHAT)
        if flags & ~self._FLAGS:
            raise ValueError("a %s with flags %#x that this program does not know" % (self._WHAT, flags))
        start = _PAGE + (_ENTRY * parts + _PAGE - 1) // _PAGE * _PAGE
        before, right = self._lie(flags, slot, slots)
        if (
            not 2 <= slots <= 1 << 30
            or slots & slots - 1
            or slot < 8
            or slot % 8
            or slot > 1 << 40
            or stride != right
            or not 1 <= limit <= slot * min(slots, 65535)
            or not 2 <= parts <= 4096
            or start + before + slots * stride > size
        ):
            raise ValueError("a %s of %d slots of %d bytes every %d, messages of %d and %d participants, in a block of %d"
                             % (self._WHAT, slots, slot, stride, limit, parts, size))
        if place != _place(self._dir):
            raise OSError(errno.EOPNOTSUPP, "those who use the %s have their leases elsewhere; which directory?" % self._WHAT)
        self.slot_size, self.slots, self.max_message, self.participants = slot, slots, limit, parts
        self._mask, self._shift = slots - 1, slots.bit_length() - 1
        self._stride, self._start = stride >> 3, start >> 3  # in words
        self._flags, self._fenced = flags, flags & _FENCED != 0
        self._lag = min(max(slots // 8, 1), 16)  # how far hints may be behind

    @classmethod
    def _make(cls, name, flags, slot_size, slots, limit, participants, mode, directory):
        """Make one in a new block, and open it."""
        limit = limit or slot_size
        slot_size = max(slot_size + 7 & ~7, 8)
        slots = max(2, 1 << (slots - 1).bit_length()) if slots > 0 else 0
        if not (2 <= slots <= 1 << 30 and slot_size <= 1 << 30 and 1 <= limit <= slot_size * min(slots, 65535) and 2 <= participants <= 4096):
            raise ValueError("%d slots of %d bytes, messages of %d and %d participants are not possible" % (slots, slot_size, limit, participants))
        name = name.lstrip("/")
        if not name or "/" in name or name.startswith((".shm-", "sem.")):
            raise ValueError("%r is no name for a block" % name)
        before, stride = cls._lie(flags, slot_size, slots)
        size = _PAGE + (_ENTRY * participants + _PAGE - 1) // _PAGE * _PAGE + before + slots * stride
        header = _HEADER.pack(cls._MAGIC, cls._VERSION, flags | (_FENCED if _fences else 0), slot_size, slots, stride,
                              *cls._fields(limit, participants, _place(os.path.realpath(directory))), 1)
        # Complete before it has its name.
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)
        try:
            os.fchmod(fd, mode)
            os.posix_fallocate(fd, 0, size)
            os.pwrite(fd, header, 0)
            try:
                os.setxattr(fd, "user.shm.lifetime", b"persistent")
            except OSError:
                pass  # older systems
            if _libc.linkat(-100, b"/proc/self/fd/%d" % fd, -100, os.fsencode(os.path.join(directory, name)), 0x400) != 0:
                e = ctypes.get_errno()
                raise OSError(e, os.strerror(e), name)
        finally:
            os.close(fd)
        return cls(name, directory)

    def unlink(self):
        """Remove the name. Those who have it open go on."""
        path = os.path.join(self._dir, self.name)
        if not os.path.samestat(os.lstat(path), self._file):
            raise FileNotFoundError(errno.ENOENT, "another block has the name by now", self.name)
        os.unlink(path)

    def close(self):
        """Close what this process has of it, and let go of the memory."""
        if not self._open:
            return
        for part in list(self._parts):
            part.close()
        self._open = False
        _holders.discard(self)
        del self._keep
        try:
            self._q.release()
            self._bytes.release()
            self._map.close()
        except BufferError:
            pass  # somebody has a view of a message still; with it the memory goes

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _check_open(self):
        if not self._open or self._forked:
            raise ValueError("the %s is closed" % self._WHAT)

    def _holds(self):
        # Ending without close is dying, which the others shall hear of.
        return self._open and bool(self._parts)

    def _entries(self):
        """Where each entry begins, in words."""
        return range(_PAGE >> 3, _PAGE + _ENTRY * self.participants >> 3, _ENTRY >> 3)

    # The table's lock: a word with the ID of its holder's lease. Who finds a dead
    # one's there puts its own and begins anew: each step can be done twice.

    @contextmanager
    def _table(self, wait=True, until=None, part=None):
        """The table, locked; what it gives is false if it was not to be had."""
        left = until.left() if until else None
        if not self._turn.acquire(wait, -1 if not wait or left is None else max(left, 0)):
            yield False
            return
        try:
            got = self._lock_table(wait, until, part)
            try:
                yield got
            finally:
                if got:
                    self._unlock_table()
        finally:
            self._turn.release()

    def _lock_table(self, wait, until, part):
        address, me, asked = self._base + 8 * _TABLE, self._member.id, None
        while True:
            stop, bell = self._stop.value, _load32(self._member.page.bell)
            w = self._read(_TABLE)
            owner = w & ~15
            if owner in (0, me):
                # Ours without our turn is garbage. If it was free with the flag set, the
                # flag stays: others may sleep.
                if _cas64(address, w, me | w & 1) == w:
                    if owner:
                        self._redo()
                    return True
                continue
            if asked != (owner, bell):
                if not _alive(self._dir, owner):
                    if _cas64(address, w, me | w & 1) == w:
                        self._redo()
                        return True
                    continue
                asked = owner, bell
            if not wait or until and until.over() or part and part._end:
                return False
            if not w & 1:
                if _cas64(address, w, w | 1) != w:
                    continue
                w |= 1
            _sleep([(address, w & _M32), (self._member.page.bell, bell), (ctypes.addressof(self._stop), stop)], until and until.left())
            asked = None

    def _unlock_table(self):
        if self._store(_TABLE, 0) & 1:
            _wake(self._base + 8 * _TABLE, _ALL)

    def _store(self, word, value):
        """Store what others look at: after all that was stored before, before all that follows.

        Returns what was there.
        """
        while True:
            old = self._read(word)
            if _cas64(self._base + 8 * word, old, value & _M64) == old:
                return old

    def _redo(self):
        """End what a dead holder of the table began."""
        for e in self._entries():
            if self._q[e + _STATE] & _LEAVING:
                self._store(e + _OWNER, 0)
                self._store(e + _STATE, 0)
        self._recount()
        self._signal()

    def _recount(self, skip=-1, set_=0, clear=0):
        """Add up peers from the table, without the entry skip."""
        n = 0
        for e in self._entries():
            if e != skip:
                state = self._q[e + _STATE]
                n += 1 if state == _SENDER else 1 << 16 if state == _RECEIVER else 0
        flags = self._q[_PEERS] & (_EVER_SENDER | _EVER_RECEIVER | _SENDER_DIED | _RECEIVER_DIED)
        self._store(_PEERS, n | flags & ~clear | set_)

    def _signal(self):
        _wake_all(self._filled)
        _wake_all(self._freed)

    def _join(self, role, start):
        """The entry of a new participant, in words, who begins where start says."""
        self._check_open()
        q = self._q
        with self._table():
            self._inspect()
            at = None
            for e in self._entries():
                state = q[e + _STATE]
                if state == 0 and at is None:
                    at = e
                if state == role and self._flags & (_ONE_SENDER if role == _SENDER else self._ONE_TAKER):
                    raise Taken(errno.EBUSY, "the %s has its one already" % self._WHAT)
            if at is None:
                raise OSError(errno.ENOSPC, "all %d participants are there" % self.participants)
            self._store(at + _OWNER, self._member.id)
            self._store(at + _SEEN, start())
            self._store(at + _STATE, role)
            self._recount(-1, _EVER_SENDER if role == _SENDER else _EVER_RECEIVER)
            return at

    def _withdraw(self, e, role):
        # A living process that keeps the table from us, stopped perhaps, does not keep us
        # from closing: the place is a dead one's when this process ends.
        with self._table(until=_Until(True, 5)) as got:
            if not got:
                raise TimeoutError("another process keeps the table of participants")
            self._store(e + _STATE, role | _LEAVING)
            self._recount(e, 0, _SENDER_DIED if role == _SENDER else _RECEIVER_DIED)
            self._store(e + _OWNER, 0)
            self._store(e + _STATE, 0)
            self._signal()

    def _inspect(self):
        """Recover what dead participants left. With the table locked."""
        bell = _load32(self._member.page.bell)  # before the look: who dies after it rings again
        lives, found = {self._member.id: True, 0: False}, False
        for e in self._entries():
            state = self._q[e + _STATE]
            if state == 0:
                continue
            owner = self._q[e + _OWNER]
            if owner not in lives:
                lives[owner] = _alive(self._dir, owner)
            if not lives[owner]:
                self._recover(e, state & 7)
                found = True
        self._heard = bell
        if found:
            self._signal()

    def _recover(self, e, role):
        """Its slots first, then the sum, then its place: who takes over from us does it again."""
        self._recover_slots(e, role)
        self._recount(e, _SENDER_DIED if role == _SENDER else _RECEIVER_DIED if role == _RECEIVER else 0)
        self._store(e + _OWNER, 0)
        self._store(e + _STATE, 0)

    def _laid(self):
        """The words of all slots."""
        return self._q[self._start : self._start + self.slots * self._stride][:: self._stride].tolist()

    def _number(self, e):
        return e - (_PAGE >> 3) >> 4

    def _slot(self, pos):
        """Which word of the block is the one of a position's slot; the next is the length."""
        return self._start + (pos & self._mask) * self._stride

    def _swap(self, pos, old, new):
        """Change the word of a position's slot, if it is old."""
        return _cas64(self._base + 8 * (self._start + (pos & self._mask) * self._stride), old, new) == old

    def _room(self, pos):
        """At which byte of the block its payload begins."""
        return 8 * (self._start + (pos & self._mask) * self._stride) + 16

    def _advance(self, hint, pos):
        """Move a hint forward to pos, not back."""
        while True:
            h = self._read(hint)
            if _signed(pos - h) <= 0 or _cas64(self._base + 8 * hint, h, pos & _M64) == h:
                return


class Ring(_Party):
    """A ring that this process has open, by its block's name. Any thread may call it."""

    _WHAT, _MAGIC, _FLAGS, _ONE_TAKER = "ring", b"SHM\0RING", 15, _ONE_RECEIVER
    _FILLED, _FREED, _WAITS = _FILLED, _FREED, _WAITS
    _VERSION = 2

    @staticmethod
    def _lie(flags, slot, slots):
        # One sender and one receiver need no words in the slots: a direct ring has the lengths of
        # its messages before them.
        if flags & (_ONE_SENDER | _ONE_RECEIVER) == _ONE_SENDER | _ONE_RECEIVER:
            return (8 * slots + 63) // 64 * 64, slot
        return _Party._lie(flags, slot, slots)

    @staticmethod
    def _order(slot, limit, parts, place):
        return limit, parts, place

    @staticmethod
    def _fields(limit, parts, place):
        return limit, parts, place

    def _check_header(self):
        super()._check_header()
        self._one_sender, self._one_receiver = self._flags & _ONE_SENDER != 0, self._flags & _ONE_RECEIVER != 0
        self._discard = self._flags & _DISCARD != 0
        self._direct = self._one_sender and self._one_receiver
        if self._direct:
            self._payloads = 8 * self._start + self._lie(self._flags, self.slot_size, self.slots)[0]
            self._stride = 1  # of the lengths

    @classmethod
    def create(cls, name, slot_size=48, slots=1024, max_message=0, senders="many", receivers="many", after_death="redeliver",
               participants=64, mode=0o600, directory="/dev/shm"):
        """Make a ring in a new block, which stays until unlink, and open it.

        The arguments are Go's ring.Options. FileExistsError if the name is taken.
        """
        flags = 0
        for value, others, this, flag in ((senders, "many", "one", _ONE_SENDER), (receivers, "many", "one", _ONE_RECEIVER),
                                          (after_death, "redeliver", "discard", _DISCARD)):
            if value not in (others, this):
                raise ValueError("%r is neither %r nor %r" % (value, others, this))
            flags |= flag if value == this else 0
        return cls._make(name, flags, slot_size, slots, max_message, participants, mode, directory)

    def sender(self):
        """Become a sender. Taken if there is one and may be only one."""
        return Sender(self)

    def receiver(self):
        """Become a receiver. Taken if there is one and may be only one."""
        return Receiver(self)

    def stats(self):
        """Counts since the ring was made, as Go's Stats has them."""
        self._check_open()
        q, n = self._q, {}
        for key, at in (("sent", _SENT), ("received", _RECEIVED), ("lost", _LOST), ("redelivered", _REDELIVERED), ("waits", _WAITS)):
            n[key] = sum(q[e + at] for e in self._entries()) & _M64
        n["high_water"] = max(q[e + _HIGH] for e in self._entries())
        n["pending"] = min(max(_signed(q[_TAIL] - q[_HEAD]), 0), self.slots)
        peers = q[_PEERS]
        n["senders"], n["receivers"] = peers & 0xFFFF, peers >> 16 & 0xFFFF
        return n

    def _recover_slots(self, e, role):
        if role == _SENDER and not self._one_sender:
            self._void(e)
        elif role == _RECEIVER and self._direct:
            self._give_back_direct(e)
        elif role == _RECEIVER and self._one_receiver:
            self._give_back_from(e)
        elif role == _RECEIVER:
            self._give_back(e)

    def _words(self, state, e):
        """The slots whose words have this state and entry, and these words."""
        bits = state | self._number(e) << 4
        return [(i, w) for i, w in enumerate(self._laid()) if w & 0xFFF7 == bits]

    def _void(self, e):
        """Mark what a sender had claimed and not committed."""
        for i, w in self._words(_WRITING, e):
            self._swap(i, w, w & ~7 | _VOID)

    def _give_back(self, e):
        """Make what a receiver had claimed somebody else's."""
        for i, w in self._words(_READING, e):
            self._again(e, (w >> 32) << self._shift | i, w)
        # After the slots, so that who sees the count finds them: they are behind the head.
        self._store(_EPOCH, self._q[_EPOCH] + 1)

    def _give_back_from(self, e):
        """A single receiver claims nothing, but notes up to where it may have read."""
        seen, pos = self._q[e + _SEEN], self._q[_HEAD]
        for _ in range(2 * self.slots):
            if _signed(seen - pos) <= 0:
                return
            w, span = self._read(self._slot(pos)), 1
            if self._ahead(w, pos) == 0 and w & 7 != _FREE:
                try:
                    span = self._span(w)
                except ValueError:
                    return  # who receives will say so
                if w & 15 == _FULL:
                    self._again(e, pos, w)
            pos += span

    def _give_back_direct(self, e):
        """In a direct ring, where the head stays behind what was not done with.

        Whoever dies here, the messages are counted once: what the counter has to be is
        written down before anything changes.
        """
        seen, pos = self._q[e + _SEEN], self._q[_HEAD]
        counter = e + (_LOST if self._discard else _REDELIVERED)
        if not self._discard and _signed(self._q[_HAD] - pos) > 0:
            pos = self._q[_HAD]
        tally = self._q[_TALLY]
        if tally == 0:
            n = 0
            while _signed(seen - pos) > 0 and n < self.slots:
                pos += self._spans(min(self._q[self._slot(pos)], self.max_message))
                n += 1
            tally = (self._q[counter] + n) << 1 & _M64 | 1
            self._store(_TALLY, tally)
        self._store(counter, tally >> 1)
        if self._discard:
            self._store(_HEAD, seen)
        else:
            self._advance(_HAD, seen)
        self._store(_TALLY, 0)

    def _spans(self, n):
        """How many slots a message of n bytes takes."""
        return max(1, -(-n // self.slot_size))

    def _room(self, pos):
        return self._payloads + (pos & self._mask) * self.slot_size if self._direct else super()._room(pos)

    def _again(self, e, pos, w):
        """Put a message back for another receiver, or drop it."""
        if not self._discard:
            if self._swap(pos, w, w & ~0xFFF7 | _FULL | _AGAIN):
                self._q[e + _REDELIVERED] = self._q[e + _REDELIVERED] + 1 & _M64
            return
        try:
            self._free(pos, w, self._span(w))
        except ValueError:
            return
        self._q[e + _LOST] = self._q[e + _LOST] + 1 & _M64

    # Slots. A position counts slots since the ring was made.

    def _lap(self, pos):
        """The word of a slot that is free for pos."""
        return (pos >> self._shift & _M32) << 32

    def _ahead(self, w, pos):
        """By how many laps a word is ahead of pos."""
        n = (w >> 32) - (pos >> self._shift) & _M32
        return n - (1 << 32) if n >> 31 else n

    def _span(self, w):
        """The checked span of a word that somebody else wrote."""
        span = w >> 16 & 0xFFFF
        if not 1 <= span <= self.slots or w & 7 > _VOID:
            raise _garbage("a slot's word", w)
        return span

    def _free(self, pos, w, span):
        """Give the slots of a message back, the first one last: nobody claims those behind
        one that is not free, and who dies in the middle leaves a whole message."""
        for i in range(span - 1, 0, -1):
            lap = self._lap(pos + i)
            self._swap(pos + i, lap, lap + _LAP & _M64)
        self._swap(pos, w, self._lap(pos) + _LAP & _M64)

    def _copy_out(self, pos, n):
        """The n bytes of the message at pos."""
        at = self._room(pos)
        if n <= self.slot_size:
            return bytes(self._bytes[at : at + n])
        if self._direct:  # the slots are one piece, up to the end of the ring
            k = min(n, self._payloads + self.slots * self.slot_size - at)
            return b"".join((self._bytes[at : at + k], self._bytes[self._payloads : self._payloads + n - k]))
        parts = []
        while n > 0:
            k, at = min(n, self.slot_size), self._room(pos)
            parts.append(self._bytes[at : at + k])
            n -= k
            pos += 1
        return b"".join(parts)

    def _copy_in(self, pos, message):
        """Put a message into the slots from pos on."""
        n, done = len(message), 0
        if n <= self.slot_size:
            at = self._room(pos)
            self._bytes[at : at + n] = message
            return
        message = memoryview(message)
        if self._direct:
            k = min(n, self._payloads + self.slots * self.slot_size - self._room(pos))
            self._bytes[self._room(pos) : self._room(pos) + k] = message[:k]
            self._bytes[self._payloads : self._payloads + n - k] = message[k:]
            return
        while done < n:
            k, at = min(n - done, self.slot_size), self._room(pos)
            self._bytes[at : at + k] = message[done : done + k]
            done += k
            pos += 1


class _Call:
    """A call of a Sender or Receiver, beside which there is no other but close."""

    def __init__(self, part):
        self.part, self.lock, self.thread = part, threading.Lock(), None

    def __enter__(self):
        if self.part._end:
            raise ValueError("closed")
        if not self.lock.acquire(False):
            raise RuntimeError("in use by another call")
        self.thread = threading.get_ident()

    def __exit__(self, *_):
        self.thread = None
        self.lock.release()


class _Part:
    """What a Sender and a Receiver have in common."""

    def __init__(self, ring, role, start):
        self._call, self._end = _Call(self), False
        self._ring, self._role = ring, role
        self._entry = ring._join(role, start)
        self._number = ring._number(self._entry)
        self._notifier = None
        self._pos = self._shown = ring._q[self._entry + _SEEN]
        ring._parts.add(self)

    def _add(self, counter, n=1):
        at = self._entry + counter
        self._ring._q[at] = self._ring._q[at] + n & _M64

    def _await(self, look, f, until):
        """What look gives as soon as it gives something; None if that took too long."""
        for _ in range(1 if until.over() else _LOOKS):
            got = look()
            if got is not None:
                return got
        self._hint()  # for those who look from outside
        got = self._sleep_until(look, f, until)
        if got is None and self._notifier:
            self._notifier.lower()
        return got

    def _sleep_until(self, look, f, until):
        ring = self._ring
        bell_at, stop_at = ring._member.page.bell, ctypes.addressof(ring._stop)
        while True:
            over = until.over()
            bell, stop = _load32(bell_at), ring._stop.value
            if ring._heard != bell:
                with ring._table(not over, until, self) as got:
                    if got:
                        ring._inspect()
            v = 0
            if not over:
                # Said before the last look: either that sees the message, or who sends sees this.
                v = _load32(f)
                if not v & _SLEEPING and _cas32(f, v, v | _SLEEPING) != v:
                    continue
                v |= _SLEEPING
                if ring._fenced and _fences:
                    _syscall(_SYS_MEMBARRIER, 2, 0, 0)  # GLOBAL_EXPEDITED
            # Before the look, too: senders commit before they leave.
            peers = ring._read(_PEERS)
            got = look()
            if got is not None:
                return got
            if self._end:
                raise ValueError("closed")
            self._gone(peers)
            if over:
                return None
            self._add(ring._WAITS)
            left = until.left()
            if ring._fenced and not _fences:
                left = 0.005 if left is None else min(left, 0.005)  # nobody can be sent through a barrier
            _sleep([(f, v), (bell_at, bell), (stop_at, stop)], left)
            if _load32(f) == v and _load32(bell_at) == bell:
                ring._heard = None  # woken for nothing, perhaps by the clock: ask who lives
            got = look()
            if got is not None:
                return got

    def _fileno(self):
        with self._call:
            if not self._notifier:
                self._notifier = _Notifier(self)
            return self._notifier.out

    def close(self):
        """End this participant; a call of another thread that waits gets ValueError."""
        if self._end:
            return
        if self._call.thread == threading.get_ident():
            raise RuntimeError("in use by another call")  # as its own lease
        self._end = True
        ring = self._ring
        ring._stop.value = ring._stop.value + 1 & _M32
        _wake(ctypes.addressof(ring._stop), _ALL)
        with self._call.lock:
            if self._notifier:
                self._notifier.close()
            try:
                self._leave()
                ring._withdraw(self._entry, self._role)
            finally:
                ring._parts.discard(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class _Notifier:
    """A pipe that is readable as long as there may be something to take: from the
    beginning, and again and again until a call that does not wait finds nothing.

    A thread waits meanwhile, as receive does.
    """

    def __init__(self, part):
        self.part, self.raised = part, True
        self.empty = queue.SimpleQueue()
        self.out, self.into = os.pipe()
        os.write(self.into, b"1")
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def lower(self):
        if self.raised:
            os.read(self.out, 1)
            self.raised = False
            self.empty.put(self.part._nothing())

    def run(self):
        part = self.part
        for nothing in iter(self.empty.get, None):
            try:
                part._sleep_until(lambda: None if nothing() else True, part._ring._filled, _Until(True, None))
            except Exception:
                pass  # the end, or damage: who is told to look finds it as well
            self.raised = True
            os.write(self.into, b"1")

    def close(self):
        self.empty.put(None)
        self.thread.join()
        os.close(self.out)
        os.close(self.into)


class _Room:
    """What Sender.reserve gives: a message to be written where it will lie."""

    def __init__(self, sender, view, span):
        self._sender, self.buf, self._span = sender, view, span

    def commit(self, n=None):
        """Send the first n bytes, all without n."""
        s = self._sender
        with s._call:
            if s._room is not self:
                raise RuntimeError("nothing is reserved")
            n = len(self.buf) if n is None else n
            if not 0 <= n <= len(self.buf):
                raise ValueError("%d bytes of %d reserved" % (n, len(self.buf)))
            if self._span > 1:
                s._ring._copy_in(s._pos, self.buf[:n])
            self._done()
            s._publish(n, self._span)

    def abort(self):
        """Give the room back."""
        s = self._sender
        with s._call:
            if s._room is self:
                self._done()
                s._abort(self._span)

    def _done(self):
        self._sender._room = None
        try:
            self.buf.release()
        except BufferError:
            pass  # an array over it, say, which must not be written to any more

    def __enter__(self):
        return self.buf

    def __exit__(self, failed, *_):
        if self._sender._room is self:
            self.abort() if failed else self.commit()


class Sender(_Part):
    """Puts messages into a ring."""

    def __init__(self, ring):
        self._room = None
        super().__init__(ring, _SENDER, lambda: ring._q[_TAIL])

    def send(self, message, timeout=None):
        """Send bytes, or what is like them. Waits while the ring is full.

        False if there was no room in timeout seconds; 0 does not wait.
        """
        message = _flat(message)
        with self._call:
            return self._send(message, _Until(True, timeout))

    def send_batch(self, messages, timeout=None):
        """Send all messages, in order. Returns how many it were, fewer only if time is up."""
        messages, until, n = [_flat(m) for m in messages], _Until(True, timeout), 0
        with self._call:
            try:
                for message in messages:
                    if not self._send(message, until, False):
                        break
                    n += 1
            finally:
                _wake_all(self._ring._filled)  # once, not for each
        return n

    def reserve(self, n, timeout=None):
        """Room for a message of n bytes, which holds what lay there before.

            with s.reserve(n) as room:     # sent at the end, or given back by an exception
                room[:] = ...

        Without `with`, what it returns has buf, commit(n) and abort(). In a ring with many
        senders those who receive wait for it. None if there was none in timeout seconds.
        """
        with self._call:
            span = self._check(n)
            if self._await(lambda: self._claim(span), self._ring._freed, _Until(True, timeout)) is None:
                return None
            if span == 1:
                at = self._ring._room(self._pos)
                view = self._ring._bytes[at : at + n]
            else:
                view = memoryview(bytearray(n))  # has no place in one piece; copied by commit
            self._room = _Room(self, view, span)
            return self._room

    def _check(self, n):
        """How many slots a message of n bytes takes."""
        if self._room is not None:
            raise RuntimeError("a message is reserved; commit or abort it before")
        if not 0 <= n <= self._ring.max_message:
            raise ValueError("a message of %d bytes; the longest has %d" % (n, self._ring.max_message))
        return self._ring._spans(n)

    def _send(self, message, until, wake=True):
        span = self._check(len(message))
        if self._claim(span) is None:
            if not wake:
                _wake_all(self._ring._filled)
            if self._await(lambda: self._claim(span), self._ring._freed, until) is None:
                return False
        try:
            self._ring._copy_in(self._pos, message)
        except BaseException:
            self._abort(span)  # ^C
            raise
        self._publish(len(message), span, wake)
        return True

    def _own(self, span, state):
        return self._ring._lap(self._pos) | span << 16 | self._number << 4 | state

    def _claim(self, span):
        """Claim the first slots that are free: True, or None if the ring is full.

        What is claimed has no gaps, and everything before the hint is claimed. So
        the first free slot from there on is the first of all. A single sender finds it,
        and nobody else takes it.
        """
        ring = self._ring
        read, hint = ring._read, None
        if ring._direct:
            return self._vacant(span)
        if not ring._one_sender:
            hint = read(_TAIL)
            if _signed(hint - self._pos) > 0:
                self._pos = hint
        steps = 0
        while True:
            pos = self._pos
            w = read(ring._slot(pos))
            ahead = ring._ahead(w, pos)
            if ahead == 0 and w & 7 == _FREE:
                free = 1 if span == 1 else self._following(pos, span)
                if free < 0:
                    return None
                if free and (ring._one_sender or ring._swap(pos, w, self._own(span, _WRITING))):
                    return True
            elif ahead == 0:
                self._pos = pos + ring._span(w)
            elif ahead > 0:
                # Used up since; a message of several slots one by one, as the first of
                # them is freed last.
                self._pos = pos + 1
                h = read(_TAIL)
                if _signed(h - self._pos) > 0:
                    self._pos = h
            elif ahead == -1:
                return None
            else:
                raise _garbage("a slot's word", w)
            steps += 1
            if steps > 2 * ring.slots + 1024:
                # So much was claimed without anybody's moving the hint: nobody does.
                h = read(_TAIL)
                if h == hint:
                    raise _garbage("the tail", h)
                hint, steps = h, 0

    def _vacant(self, span):
        """True if a direct ring has so many free slots: what is before the head is free."""
        ring = self._ring
        head = ring._read(_HEAD)
        used = self._pos - head & _M64
        if used > ring.slots:
            raise _garbage("the head", head)
        if used + span > ring.slots:
            return None
        at = self._entry + _HIGH
        if ring._q[at] < used + span:
            ring._q[at] = used + span
        return True

    def _following(self, pos, span):
        """1 if the slots behind pos are free, 0 if somebody was faster, -1 if they are in use."""
        ring = self._ring
        for p in range(pos + 1, pos + span):
            w = ring._read(ring._slot(p))
            ahead = ring._ahead(w, p)
            if ahead == 0 and w & 7 == _FREE:
                continue
            if ahead == -1:
                return -1
            if ahead < -1 or ring._one_sender:
                raise _garbage("a slot's word", w)
            return 0
        return 1

    def _publish(self, n, span, wake=True):
        """Make the claimed message visible: length first, word last."""
        ring = self._ring
        if ring._direct:
            span = ring._spans(n)  # the others were never taken
            ring._q[ring._slot(self._pos)] = n
            ring._store(_TAIL, self._pos + span)
            self._pos += span
            self._add(_SENT)
            if wake and ring._read(_FILLED) & _SLEEPING:
                _wake_all(ring._filled)
            return
        ring._q[ring._slot(self._pos) + 1] = n
        old = ring._lap(self._pos) if ring._one_sender else self._own(span, _WRITING)
        if not ring._swap(self._pos, old, self._own(span, _FULL)):
            raise _garbage("a slot's word", ring._read(ring._slot(self._pos)))
        self._pos += span
        self._add(_SENT)
        if self._pos - self._shown >= ring._lag:
            self._hint()
        if wake and ring._read(_FILLED) & _SLEEPING:
            _wake_all(ring._filled)

    def _abort(self, span):
        ring = self._ring
        if not ring._one_sender:  # else it was never taken
            w = self._own(span, _WRITING)
            ring._swap(self._pos, w, w & ~7 | _VOID)
            _wake_all(ring._filled)

    def _hint(self):
        ring = self._ring
        if ring._direct:
            return
        self._shown = self._pos
        ring._advance(_TAIL, self._pos)
        n, at = _signed(self._pos - ring._q[_HEAD]), self._entry + _HIGH
        if ring._q[at] < n <= ring.slots:
            ring._q[at] = n

    def _leave(self):
        if self._room is not None:
            self._room._done()
        if not self._ring._one_sender:
            self._ring._void(self._entry)  # also what an interrupted call left
            _wake_all(self._ring._filled)
        self._hint()

    def _gone(self, peers):
        if peers >> 16 & 0xFFFF == 0 and peers & _EVER_RECEIVER:
            if peers & _RECEIVER_DIED:
                raise PeerGone(errno.EOWNERDEAD, "the last receiver died")
            raise BrokenPipeError(errno.EPIPE, "all receivers have closed")


class Receiver(_Part):
    """Takes messages out of a ring. `for` gets one after the other until the end."""

    def __init__(self, ring):
        self.redelivered = False  # the last message had been given to one that died: it may have been worked on
        self._taken = None  # position, word, span and length
        super().__init__(ring, _RECEIVER, lambda: ring._q[_HEAD])
        self._epoch, self._stale = None, 0  # there may be something behind the head
        self._had = ring._q[_HAD]  # changes only when there is no receiver
        self._leased = False

    def receive(self, timeout=None):
        """The next message, as bytes; None if there was none in timeout seconds, 0 does not wait."""
        with self._call:
            return self._receive(_Until(True, timeout))

    def receive_batch(self, most, timeout=None):
        """Wait for a message; then all that are there, at most so many. An empty list if time is up."""
        got = []
        with self._call:
            p, again = self._receive(_Until(True, timeout), False), self.redelivered
            try:
                while p is not None:
                    got.append(p)
                    again = again or self.redelivered
                    if len(got) >= most or self._take() is None:
                        break
                    p = self._finish_with_copy(False)
            finally:
                self.redelivered = again
                _wake_all(self._ring._freed)
        return got

    @contextmanager
    def lease(self, timeout=None):
        """The next message where it lies, to read; one over several slots is copied.

            with r.lease() as view:
                ...                        # if this process dies here, another gets it

        None if there was none in timeout seconds. Afterwards the view is no more; who has
        an array over it must not use that.
        """
        with self._call:
            if self._taken is None and self._await(self._take, self._ring._filled, _Until(True, timeout)) is None:
                view = None
            else:
                pos, _, _, n = self._taken
                at = self._ring._room(pos)
                view = (self._ring._bytes[at : at + n].toreadonly() if n <= self._ring.slot_size
                        else memoryview(self._ring._copy_out(pos, n)))
            try:
                yield view
            finally:
                if view is not None:
                    self._finish()
                    try:
                        view.release()
                    except BufferError:
                        pass

    def fileno(self):
        """For selectors: readable as long as there may be something, until receive(timeout=0)
        gives None, and at the end. It is closed with this Receiver."""
        return self._fileno()

    def _nothing(self):
        """How to find out, beside other calls, whether there is nothing still: there was nothing."""
        ring, pos, epoch = self._ring, self._pos, self._epoch

        def nothing():
            if ring._direct:
                return ring._read(_TAIL) == pos & _M64
            w = ring._read(ring._slot(pos))
            ahead = ring._ahead(w, pos)
            empty = ahead < 0 or ahead == 0 and w & 7 in (_FREE, _WRITING)
            return empty and (ring._one_receiver or ring._read(_EPOCH) == epoch)

        return nothing

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return self.receive()
        except EOFError:
            raise StopIteration from None

    def _receive(self, until, wake=True):
        # What was taken when ^C came is next.
        if self._taken is None and self._take() is None and self._await(self._take, self._ring._filled, until) is None:
            return None
        return self._finish_with_copy(wake)

    def _finish_with_copy(self, wake):
        pos, _, _, n = self._taken
        message = self._ring._copy_out(pos, n)
        self._finish(wake)
        return message

    def _take(self):
        """Take the first message that nobody has taken: True, or None.

        What is taken has no gaps, but for what the dead had: that is behind the head, and
        looked for when the epoch says so.
        """
        ring = self._ring
        read, hint = ring._read, None
        if ring._direct:
            return self._next()
        if not ring._one_receiver:
            epoch = read(_EPOCH)
            if epoch != self._epoch and self._take_stale(epoch):
                return True
            hint = read(_HEAD)
            if _signed(hint - self._pos) > 0:
                self._pos = hint
        steps = 0
        while True:
            pos = self._pos
            w = read(ring._slot(pos))
            ahead, state = ring._ahead(w, pos), w & 7
            if ahead == 0:
                if state in (_FREE, _WRITING):
                    return None
                span = ring._span(w)
                if state == _FULL:
                    if self._claim(pos, w, span):
                        return True
                    continue
                if state == _VOID:
                    ring._free(pos, w, span)
                    _wake_all(ring._freed)
                elif ring._one_receiver:
                    raise _garbage("a slot's word", w)
                self._pos = pos + span
            elif ahead > 0:
                self._pos = pos + 1
                h = read(_HEAD)
                if _signed(h - self._pos) > 0:
                    self._pos = h
            elif ahead == -1:
                return None
            else:
                raise _garbage("a slot's word", w)
            steps += 1
            if steps > 2 * ring.slots + 1024:
                h = read(_HEAD)
                if h == hint:
                    raise _garbage("the head", h)
                hint, steps = h, 0

    def _next(self):
        """Take the message at the head of a direct ring: True, or None."""
        ring, pos = self._ring, self._pos
        tail = ring._read(_TAIL)
        there = tail - pos & _M64
        if there > ring.slots:
            raise _garbage("the tail", tail)
        if there == 0:
            return None
        n = ring._q[ring._slot(pos)]
        span = ring._spans(n)
        if n > ring.max_message or span > there:
            raise _garbage("the length of a message", n)
        # If we die from here on, the next one is to know how far we were.
        ring._q[self._entry + _SEEN] = pos + span & _M64
        self._taken = pos, 0, span, n
        self.redelivered = _signed(self._had - pos) > 0
        return True

    def _claim(self, pos, w, span):
        ring = self._ring
        at = ring._slot(pos)
        n = ring._q[at + 1]
        if not ring._one_receiver and ring._read(at) != w:
            return False  # the length may be another message's
        if n > ring.max_message or n > span * ring.slot_size:
            raise _garbage("the length of a message", n)
        if ring._one_receiver:
            # Nothing has to be claimed; but if we die, the next one is to know how far we were.
            ring._q[self._entry + _SEEN] = pos + span & _M64
            own = w
        else:
            own = w & ~0xFFF7 | self._number << 4 | _READING
            if not ring._swap(pos, w, own):
                return False
            if pos == self._pos:
                self._pos += span
        self._taken = pos, own, span, n
        self.redelivered = w & _AGAIN != 0
        return True

    def _take_stale(self, epoch):
        ring = self._ring
        while self._stale < ring.slots:
            w = ring._read(ring._slot(self._stale))
            if w & 15 == _FULL | _AGAIN and self._claim((w >> 32) << ring._shift | self._stale, w, ring._span(w)):
                return True
            self._stale += 1
        self._stale, self._epoch = 0, epoch
        return False

    def _finish(self, wake=True):
        """Give the slots of what was taken back to the senders."""
        ring = self._ring
        pos, own, span, _ = self._taken
        if ring._direct:
            ring._store(_HEAD, pos + span)
        else:
            ring._free(pos, own, span)
        self._taken = None
        self._add(_RECEIVED)
        if ring._one_receiver:
            self._pos = pos + span
        if self._pos - self._shown >= ring._lag:
            self._hint()
        if wake and ring._read(_FREED) & _SLEEPING:
            _wake_all(ring._freed)

    def _hint(self):
        if not self._ring._direct:
            self._shown = self._pos
            self._ring._advance(_HEAD, self._pos)

    def _leave(self):
        ring = self._ring
        if self._taken is not None and not ring._one_receiver:
            ring._give_back(self._entry)  # ^C came before it was delivered
            _wake_all(ring._filled)
        self._hint()

    def _gone(self, peers):
        if peers & 0xFFFF == 0 and peers & _EVER_SENDER:
            if peers & _SENDER_DIED:
                raise PeerGone(errno.EOWNERDEAD, "the last sender died")
            raise EOFError("all senders have closed")
