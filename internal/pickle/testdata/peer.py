"""The Python side of the tests of package pickle.

Reads one JSON list per line from standard input, an operation and its
arguments, and answers each with one JSON object on standard output. Runs on
CPython 3.8 to 3.15.
"""
import builtins
import functools
import json
import multiprocessing.context
import multiprocessing.managers
import multiprocessing.reduction
import multiprocessing.shared_memory
import pickle
import sys
from multiprocessing.managers import Token

inf = float("inf")
nan = float("nan")


def canonical(x):
    """repr, with the elements of sets in order."""
    if isinstance(x, (set, frozenset)):
        return type(x).__name__ + repr(sorted(map(canonical, x)))
    if type(x) in (tuple, list):
        return type(x).__name__ + "(" + ", ".join(map(canonical, x)) + ")"
    if type(x) is dict:
        return "{" + ", ".join(canonical(k) + ": " + canonical(v) for k, v in x.items()) + "}"
    if isinstance(x, BaseException):
        return type(x).__qualname__ + canonical(x.args)
    return repr(x)


def dumps(x):
    return [pickle.dumps(x, p).hex() for p in range(pickle.HIGHEST_PROTOCOL + 1)]


def value(raw, literal):
    """Whether a pickle is of what the literal says; pickles of the same."""
    got, want = pickle.loads(bytes.fromhex(raw)), eval(literal)
    # A value of its own: what is loaded may share what the literal does not.
    return {"same": canonical(got) == canonical(want), "repr": canonical(got), "pickles": dumps(got)}


def handle(name):
    """Pickles of a new block, which stays open, and of a list in it."""
    global block
    block = multiprocessing.shared_memory.SharedMemory(name, create=True, size=4096)
    forking = bytes(multiprocessing.reduction.ForkingPickler.dumps(block)).hex()
    return {"pickles": dumps(block) + [forking]}


def shareable(name):
    global block
    block = multiprocessing.shared_memory.ShareableList([1, "two"], name=name)
    forking = bytes(multiprocessing.reduction.ForkingPickler.dumps(block)).hex()
    return {"pickles": dumps(block) + [forking]}


def attach(raw):
    """Load a handle of the block or list that is open here."""
    got = pickle.loads(bytes.fromhex(raw))
    text = repr(got)
    getattr(got, "shm", got).close()
    return {"repr": text}


def unlink():
    shm = getattr(block, "shm", block)
    shm.close()
    shm.unlink()
    return {}


def exceptions():
    """Names of all builtin exceptions."""
    names = [n for n, c in vars(builtins).items() if isinstance(c, type) and issubclass(c, BaseException) and c.__name__ == n]
    return {"repr": " ".join(n for n in names if not n.startswith("_"))}


while True:
    # Not "for line in sys.stdin": that reads ahead and would answer late.
    line = sys.stdin.readline()
    if not line:
        break
    op, *args = json.loads(line)
    try:
        answer = globals()[op](*args)
    except Exception as e:
        answer = {"error": repr(e)}
    print(json.dumps(answer), flush=True)
