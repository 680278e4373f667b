"""Topics: messages in shared memory that every subscriber reads, between Python and Go processes.

The counterpart of github.com/sharedmem/shm/topic. Publishers and subscribers of either
language come and go, and may be killed at any moment. Standard library only; copy
this file, shm_ring.py and shm_lock.py.

    from shm_topic import Topic

    with Topic("prices") as topic, topic.subscriber() as s:   # topic.Open, t.Subscriber in Go
        for message in s:                                     # bytes, until the publishers closed
            if s.missed:
                print("missed", s.missed)                     # overwritten before we came to them
            ...

    with Topic("prices") as topic, topic.publisher() as p:
        p.publish(b"hello")                                   # waits only if the topic's policy says so
        with p.reserve(40) as room:                           # in place, without a copy
            room[:] = ...

    Topic("state").latest()                                   # the last message, and its number; takes no part

Topic(name) opens a topic that Go, `shm topic create` or Topic.create made. What ends
waiting, who a participant is, what fork does and what is not there is as in shm_ring.
"""
import ctypes
import errno

import shm_lock
from shm_lock import _Until, _cas64
from shm_ring import PeerGone, Taken, _flat, _garbage, _Part, _Party, _PEERS, _Room, _signed, _wake_all, _M64, _SLEEPING

__all__ = ["Topic", "Publisher", "Subscriber", "Overwritten", "PeerGone", "Taken"]


class Overwritten(OSError):
    """A message was overwritten while it was read in place: what was read is worth nothing."""


_ONE, _WAIT = 1, 2
_JOINS, _TAIL, _FILLED, _FREED = 18, 24, 32, 40  # as words of 8 bytes
_STATE, _CURSOR, _PUBLISHED, _RECEIVED, _MISSED, _WAITS, _HIGH = 1, 8, 9, 10, 11, 12, 13
_PUBLISHER, _SUBSCRIBER = 1, 2

# A slot's word: lap from bit 16 on, entry from 4.
_VOID, _WRITING, _FULL, _BLOCKED = range(4)

_TRIES = 16  # how often a reader that is overtaken begins again at once


class Topic(_Party):
    """A topic that this process has open, by its block's name. Any thread may call it."""

    _WHAT, _MAGIC, _FLAGS, _ONE_TAKER = "topic", b"SHM\0TOPC", 11, 0
    _FILLED, _FREED, _WAITS = _FILLED, _FREED, _WAITS

    @staticmethod
    def _order(slot, parts, place, _):
        return slot, parts, place

    @staticmethod
    def _fields(limit, parts, place):
        return parts, place, 0

    def _check_header(self):
        super()._check_header()
        self._one, self._wait = self._flags & _ONE != 0, self._flags & _WAIT != 0

    @classmethod
    def create(cls, name, slot_size=48, slots=1024, policy="overwrite", many_publishers=False, participants=64, mode=0o600,
               directory="/dev/shm"):
        """Make a topic in a new block, which stays until unlink, and open it.

        The arguments are Go's topic.Options. FileExistsError if the name is taken.
        """
        if policy not in ("overwrite", "wait"):
            raise ValueError("%r is neither 'overwrite' nor 'wait'" % (policy,))
        flags = (0 if many_publishers else _ONE) | (_WAIT if policy == "wait" else 0)
        return cls._make(name, flags, slot_size, slots, 0, participants, mode, directory)

    def publisher(self):
        """Become a publisher. Taken if there is one and may be only one."""
        return Publisher(self)

    def subscriber(self, start="now"):
        """Become a subscriber that begins with what comes, or start "newest" or "oldest"."""
        return Subscriber(self, start)

    def stats(self):
        """Counts since the topic was made, as Go's Stats has them."""
        self._check_open()
        q, n = self._q, {}
        for key, at in (("published", _PUBLISHED), ("received", _RECEIVED), ("missed", _MISSED), ("waits", _WAITS)):
            n[key] = sum(q[e + at] for e in self._entries()) & _M64
        n["high_water"] = max(q[e + _HIGH] for e in self._entries())
        n["kept"] = min(q[_TAIL], self.slots)
        peers = q[_PEERS]
        n["publishers"], n["subscribers"] = peers & 0xFFFF, peers >> 16 & 0xFFFF
        return n

    def latest(self):
        """The last message and how many there were up to it; (None, 0) if there is none.

        Takes no part, and does not wait. For a topic that publishers overwrite. Overwritten
        if as many publishers as there are slots publish just now, or died while they did.
        """
        self._check_open()
        for _ in range(2 * self.slots + 64):
            t = self._tail()
            first, pos = max(t - self.slots, 0), t
            while pos > first:
                w = self._read(self._slot(pos - 1))
                ahead = self._ahead(w, pos - 1)
                if ahead > 0:
                    break  # others have come around; look again
                if ahead == 0 and w & 7 == _FULL:
                    n = self._q[self._slot(pos - 1) + 1]
                    at = self._room(pos - 1)
                    message = bytes(self._bytes[at : at + min(n, self.slot_size)])
                    if self._read_last(self._slot(pos - 1)) != w:
                        break
                    if n > self.slot_size:
                        raise _garbage("the length of a message", n)
                    return message, pos
                pos -= 1
            else:
                if self._tail() == t == 0:
                    return None, 0
                if t == self._tail():
                    raise Overwritten(errno.ESTALE, "publishers have begun in all slots, or died in them")
        raise ValueError("the topic is published to all the time")

    # A position counts messages since the topic was made.

    def _lap(self, pos):
        """The lap of a position, as a word has it."""
        return (pos >> self._shift) + 1 << 16 & _M64

    def _ahead(self, w, pos):
        """By how many laps a word is ahead of pos."""
        return _signed(w - self._lap(pos)) >> 16

    def _read_last(self, word):
        """A word, after all that was read before. x86-64 has that order by itself; on arm64
        a compare and swap of a word of our own goes between."""
        if shm_lock._machine != "x86_64":
            _cas64(ctypes.addressof(self._fence), 0, 0)
        return self._read(word)

    _fence = ctypes.c_uint64()

    def _tail(self):
        """The first position that nobody has claimed."""
        read = self._read
        t = read(_TAIL)
        for _ in range(2 * self.slots + 64):
            w = read(self._slot(t))
            ahead = self._ahead(w, t)
            if ahead == 0 and self._one and w & 7 != _FULL:
                return t  # begun, and perhaps for ever
            if ahead >= 0:
                t += 1
            elif ahead == -1:
                return t
            else:
                raise _garbage("the tail", t)
            h = read(_TAIL)  # the publishers are faster than this walk, but they tell where they are
            if _signed(h - t) > 0:
                t = h
                if self._one:
                    return t
        return t

    def _recover_slots(self, e, role):
        # What a single publisher was writing stays so: the next one writes there.
        if role == _PUBLISHER and not self._one:
            self._void(e)

    def _void(self, e):
        """Mark what one of many publishers was writing."""
        number = self._number(e)
        for i in range(self.slots):
            while True:
                w = self._read(self._slot(i))
                if w & 7 not in (_WRITING, _BLOCKED) or w >> 4 & 0xFFF != number or self._swap(i, w, w & ~7 | _VOID):
                    break


class Publisher(_Part):
    """Puts messages into a topic."""

    def __init__(self, topic):
        self._room = None
        super().__init__(topic, _PUBLISHER, topic._tail)
        self._limit, self._joins = self._pos, None
        self._hint()

    def publish(self, message, timeout=None):
        """Publish bytes, or what is like them.

        With the policy "wait" it waits until all subscribers have read what lies in its
        place; False if they had not in timeout seconds, 0 does not wait.
        """
        message = _flat(message)
        with self._call:
            return self._put(message, _Until(True, timeout))

    def publish_batch(self, messages, timeout=None):
        """Publish all messages, in order. Returns how many it were, fewer only if time is up."""
        messages, until, n = [_flat(m) for m in messages], _Until(True, timeout), 0
        with self._call:
            try:
                for message in messages:
                    if not self._put(message, until, False):
                        break
                    n += 1
            finally:
                _wake_all(self._ring._filled)  # once, not for each
        return n

    def reserve(self, n, timeout=None):
        """Room for a message of n bytes, as Sender.reserve of shm_ring."""
        with self._call:
            self._check(n)
            if self._await(self._claim, self._ring._freed, _Until(True, timeout)) is None:
                return None
            at = self._ring._room(self._pos)
            self._room = _Room(self, self._ring._bytes[at : at + n], 1)
            return self._room

    def _check(self, n):
        if self._room is not None:
            raise RuntimeError("a message is reserved; commit or abort it before")
        if n < 0 or n > self._ring.slot_size:
            raise ValueError("a message of %d bytes; the longest has %d" % (n, self._ring.slot_size))

    def _put(self, message, until, wake=True):
        topic = self._ring
        self._check(len(message))
        if self._claim() is None:
            if not wake:
                _wake_all(topic._filled)
            if self._await(self._claim, topic._freed, until) is None:
                return False
        try:
            at = topic._room(self._pos)
            topic._bytes[at : at + len(message)] = message
        except BaseException:
            self._abort()  # ^C
            raise
        self._publish(len(message), 1, wake)
        return True

    def _own(self, state):
        return self._ring._lap(self._pos) | self._number << 4 | state

    def _claim(self):
        """Make the next slot ours: True, or None if a subscriber has not read what is there.

        Who sees anything of what we write there then sees the word that says so.
        """
        topic = self._ring
        if topic._one:
            if topic._wait and not self._may():
                return None
            at = topic._slot(self._pos)
            topic._store(at, self._own(_WRITING))
            topic._read(at)  # where a compare and swap is no full barrier, what follows waits for this
            return True
        read = topic._read
        hint = read(_TAIL)
        if _signed(hint - self._pos) > 0:
            self._pos = hint
        steps = 0
        while True:
            pos = self._pos
            w = read(topic._slot(pos))
            ahead, state = topic._ahead(w, pos), w & 7
            if ahead >= 0:
                self._pos = pos + 1
                h = read(_TAIL)
                if ahead > 0 and _signed(h - self._pos) > 0:
                    self._pos = h
            elif ahead < -1 or state > _BLOCKED:
                raise _garbage("a slot's word", w)
            elif topic._wait and not self._may():
                return None
            elif state in (_WRITING, _BLOCKED):
                # Somebody has been at it for a whole lap: the position is nobody's.
                if topic._swap(pos, w, topic._lap(pos) | w & 0xFFF0 | _BLOCKED):
                    self._pos = pos + 1
            elif topic._swap(pos, w, self._own(_WRITING)):
                read(topic._slot(pos))
                return True
            steps += 1
            if steps > 2 * topic.slots + 64:
                h = read(_TAIL)
                if h == hint:
                    raise _garbage("the tail", h)
                hint, steps = h, 0
                if _signed(h - self._pos) > 0:
                    self._pos = h

    def _may(self):
        """Whether all subscribers have read what lies where we are to write."""
        topic = self._ring
        if _signed(self._limit - self._pos) > 0 and topic._read(_JOINS) == self._joins:
            return True
        # Who joins beside this is either seen here, or sees all that is claimed and begins
        # behind it: so a barrier stands between what we know and this look.
        self._joins = topic._read(_JOINS)
        topic._store(self._entry + _PUBLISHED, topic._q[self._entry + _PUBLISHED])
        oldest = self._pos
        for e in topic._entries():
            if topic._q[e + _STATE] == _SUBSCRIBER:
                cursor = topic._read(e + _CURSOR)
                if _signed(oldest - cursor) > 0:
                    oldest = cursor
        behind = _signed(self._pos - oldest)
        if behind > topic._q[self._entry + _HIGH]:
            topic._q[self._entry + _HIGH] = behind
        self._limit = oldest + topic.slots
        return _signed(self._limit - self._pos) > 0

    def _publish(self, n, _, wake=True):
        """Make the claimed message visible: length first, word last."""
        topic = self._ring
        topic._q[topic._slot(self._pos) + 1] = n
        self._settle(_FULL)
        self._pos += 1
        self._add(_PUBLISHED)
        if topic._one or self._pos - self._shown >= topic._lag:
            self._hint()
        if wake and topic._read(_FILLED) & _SLEEPING:
            _wake_all(topic._filled)

    def _settle(self, state):
        """End the writing of the claimed slot."""
        topic = self._ring
        if topic._swap(self._pos, self._own(_WRITING), self._own(state)):
            return
        # We have been overtaken: the slot is another lap's, and can be used again from the
        # next one on.
        while True:
            w = topic._read(topic._slot(self._pos))
            if w & 7 != _BLOCKED or w >> 4 & 0xFFF != self._number:
                if topic._one:
                    raise _garbage("a slot's word", w)
                return  # by no publisher's doing
            if topic._swap(self._pos, w, w & ~7 | _VOID):
                return

    def _abort(self, _=1):
        topic = self._ring
        if not topic._one:  # else the next message is written there
            self._settle(_VOID)
            self._pos += 1
            _wake_all(topic._filled)

    def _hint(self):
        self._shown = self._pos
        if self._ring._one:
            self._ring._store(_TAIL, self._pos)
        else:
            self._ring._advance(_TAIL, self._pos)

    def _leave(self):
        if self._room is not None:
            self._room._done()
        if not self._ring._one:
            self._ring._void(self._entry)  # also what an interrupted call left
            _wake_all(self._ring._filled)
        self._hint()

    def _gone(self, peers):
        pass  # publishers need no subscribers


class Subscriber(_Part):
    """Reads what is published. `for` gets one message after the other until the end.

    missed is how many messages were overwritten immediately before the last that was received
    (of a batch, before any); number is that of the next message.
    """

    def __init__(self, topic, start="now"):
        if start not in ("now", "newest", "oldest"):
            raise ValueError("%r is not 'now', 'newest' or 'oldest'" % (start,))
        self.missed, self._skipped = 0, 0
        self._begun = False
        super().__init__(topic, _SUBSCRIBER, lambda: self._first(topic, start))
        while True:
            joins = topic._read(_JOINS)
            if _cas64(topic._base + 8 * _JOINS, joins, joins + 1 & _M64) == joins:
                break
        # From here on publishers that wait look at our cursor.
        self._joined = topic._tail()
        if start == "now":
            self._move(self._joined)

    @staticmethod
    def _first(topic, start):
        t = topic._tail()
        if start == "now":
            return t
        first = max(t - topic.slots, 0)
        if start == "oldest":
            return first
        for pos in range(t - 1, first - 1, -1):
            w = topic._read(topic._slot(pos))
            ahead = topic._ahead(w, pos)
            if ahead > 0 or ahead == 0 and w & 7 == _FULL:
                return pos
        return t

    @property
    def number(self):
        """The number of the next message, missed ones counted. The first of a topic has 0."""
        return self._pos

    def receive(self, timeout=None):
        """The next message, as bytes; None if there was none in timeout seconds, 0 does not wait."""
        with self._call:
            return self._receive(_Until(True, timeout))

    def receive_batch(self, most, timeout=None):
        """Wait for a message; then all that are there, at most so many. An empty list if time is up."""
        got, missed = [], 0
        with self._call:
            m = self._receive(_Until(True, timeout))
            while m is not None:
                got.append(m)
                missed += self.missed
                if len(got) >= most:
                    break
                m = self._take()
            if got:
                self.missed = missed
        return got

    def lease(self, timeout=None):
        """The next message where it lies, to read, as Receiver.lease of shm_ring.

        With the policy "overwrite" it may be overwritten meanwhile: then Overwritten at the
        end of the `with`, the message counts as missed, and what was made of it is
        to be thrown away.
        """
        return _Lease(self, timeout)

    def fileno(self):
        """For selectors: readable as long as there may be something, until receive(timeout=0)
        gives None, and at the end. It is closed with this Subscriber."""
        return self._fileno()

    def _nothing(self):
        """How to find out, beside other calls, whether there is nothing still: there was nothing."""
        topic, pos = self._ring, self._pos

        def nothing():
            w = topic._read(topic._slot(pos))
            ahead = topic._ahead(w, pos)
            return ahead < 0 or ahead == 0 and w & 7 == _WRITING

        return nothing

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return self.receive()
        except EOFError:
            raise StopIteration from None

    def _receive(self, until):
        m = self._take()
        return self._await(self._take, self._ring._filled, until) if m is None else m

    def _find(self):
        """The next message's word and length, at _pos, from now on perhaps overwritten; or None."""
        topic = self._ring
        for _ in range(2 * topic.slots + 64):
            at = topic._slot(self._pos)
            w = topic._read(at)
            ahead, state = topic._ahead(w, self._pos), w & 7
            if ahead == 0:
                if state == _FULL:
                    n = topic._q[at + 1]
                    if n <= topic.slot_size:
                        return w, n
                    if topic._read_last(at) == w:
                        raise _garbage("the length of a message", n)
                elif state == _WRITING:
                    return None
                elif state in (_VOID, _BLOCKED):
                    self._move(self._pos + 1)
                else:
                    raise _garbage("a slot's word", w)
            elif ahead == -1:
                return None
            elif ahead < 0:
                raise _garbage("a slot's word", w)
            else:
                self._overrun(w, ahead)
        return None  # the publishers are much faster

    def _take(self):
        topic = self._ring
        for _ in range(_TRIES):
            found = self._find()
            if found is None:
                return None
            w, n = found
            at = topic._room(self._pos)
            message = bytes(topic._bytes[at : at + n])
            if topic._read_last(topic._slot(self._pos)) == w:
                self._received()
                return message
        return None

    def _overrun(self, w, laps):
        """Go on where there is something to read again; not with the oldest, which would be gone as soon."""
        topic = self._ring
        if not self._begun and _signed(self._joined - self._pos) > 0:
            self._move(self._pos + 1)  # it was not promised
            return
        if laps >= 1 << 62 - topic._shift:
            raise _garbage("a slot's word", w)
        tail = self._pos + (laps << topic._shift) + (0 if w & 7 in (_WRITING, _BLOCKED) else 1)
        tail = max(tail, topic._tail())
        next_ = max(tail - topic.slots + topic.slots // 4, self._pos + 1)
        self._lose(next_ - self._pos)
        self._move(next_)
        if topic.slots > topic._q[self._entry + _HIGH]:
            topic._q[self._entry + _HIGH] = topic.slots

    def _lose(self, n):
        self._skipped += n
        self._add(_MISSED, n)

    def _move(self, pos):
        """Have done with everything before pos. Publishers that wait hear of it."""
        topic = self._ring
        self._pos = pos
        if not topic._wait:
            topic._q[self._entry + _CURSOR] = pos & _M64
            return
        topic._store(self._entry + _CURSOR, pos)
        if topic._read(_FREED) & _SLEEPING:
            _wake_all(topic._freed)

    def _received(self):
        self._begun = True
        self.missed, self._skipped = self._skipped, 0
        self._add(_RECEIVED)
        self._move(self._pos + 1)

    def _hint(self):
        pass

    def _leave(self):
        pass

    def _gone(self, peers):
        if peers & 0xFFFF == 0 and peers & 1 << 32:
            if peers & 1 << 34:
                raise PeerGone(errno.EOWNERDEAD, "the last publisher died")
            raise EOFError("all publishers have closed")


class _Lease:
    """What Subscriber.lease gives."""

    def __init__(self, subscriber, timeout):
        self.s, self.timeout, self.view = subscriber, timeout, None

    def __enter__(self):
        s = self.s
        s._call.__enter__()
        try:
            found = s._await(s._find, s._ring._filled, _Until(True, self.timeout))
            if found is None:
                return None
            self.word, n = found
            s.missed = s._skipped
            at = s._ring._room(s._pos)
            self.view = s._ring._bytes[at : at + n].toreadonly()
            return self.view
        finally:
            if self.view is None:
                s._call.__exit__()

    def __exit__(self, failed, *_):
        s = self.s
        if self.view is None:
            return
        try:
            whole = s._ring._read_last(s._ring._slot(s._pos)) == self.word
            try:
                self.view.release()
            except BufferError:
                pass  # an array over it, say
            if whole:
                s._received()
            else:
                s._lose(1)
                s._move(s._pos + 1)
                raise Overwritten(errno.ESTALE, "the message was overwritten while it was read")
        finally:
            s._call.__exit__()
