"""Does what server/main.go does."""
import sys
from multiprocessing import resource_tracker
from multiprocessing.connection import Listener
from multiprocessing.shared_memory import SharedMemory


def address(text):
    """Go's form of an address in Python's."""
    kind, _, rest = text.partition(":")
    if kind == "tcp":
        host, _, port = rest.rpartition(":")
        return host, int(port)
    return "\0" + rest[1:] if rest.startswith("@") else rest


def show(address):
    """Python's form of an address in Go's."""
    if isinstance(address, tuple):
        return "tcp:%s:%d" % address
    if isinstance(address, bytes):
        address = address.decode()
    return "unix:" + address.replace("\0", "@", 1)


def answer(question):
    if isinstance(question, list):
        return sum(question)
    if isinstance(question, SharedMemory):
        text = bytes(question.buf).partition(b"\0")[0].decode()
        question.close()
        # It is the client's: keep our resource tracker from removing it.
        resource_tracker.unregister(question._name, "shared_memory")
        return text
    return "pardon?"


with Listener(address(sys.argv[1]) if len(sys.argv) > 1 else None, authkey=b"secret password") as listener:
    print(show(listener.address), flush=True)
    with listener.accept() as conn:
        while True:
            try:
                question = conn.recv()
            except EOFError:
                break
            print("got a", type(question).__name__, flush=True)
            conn.send(answer(question))
