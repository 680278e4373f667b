"""The Python side of the interoperation tests.

Reads one JSON object per line from standard input and answers each with one on
standard output. Runs on CPython 3.8 to 3.15 and uses nothing but the public
multiprocessing.shared_memory, as any program of a user would.

  {"op": "create", "name": "x", "size": 10}    name null: Python chooses
  {"op": "attach", "name": "x"}                "track": false from 3.13 on
  {"op": "write", "off": 0, "data": "68656c6c6f"}
  {"op": "read", "off": 0, "n": 5}
  {"op": "stat"}                               name, size and repr
  {"op": "close"}, {"op": "unlink"}
  {"op": "unregister", "name": "x"}            tell our tracker to forget it
  {"op": "lists", "steps": [["set", "b", 0, ["int", "1"]], ...]}
  {"op": "managers", "steps": [["connect", "m", "/tmp/socket", "6b6579"], ...]}
  {"op": "run", "code": "result = 1 + 1"}      in one module for all; args are "args"
  {"op": "exit"}                               as a program ends, tracker and all

"block": "b" chooses among several blocks of one process. An exception is
answered with {"error": its class, "errno": ..., "message": ...}.

"lists" does many things to ShareableLists, in order, each named by its second
word, and answers with {"results": [[value], ...]}; an exception in one of them
is ["error", its class] in its place. Values travel as [type, text], exact to
the bit; see pack.

"run" is for tests with modules of their own, NumPy above all. What the code
leaves in result is answered as {"results": result}; arrays.py is such code.

"managers" does many things to SharedMemoryManagers in the same way, with plain
JSON for values; an exception is ["error", its class, its text].
"""
import json
import os
import struct
import sys
from multiprocessing import shared_memory

space = {"__name__": "run"}  # the globals of "run"
blocks = {}
lists = {}
managers = {}


def describe(shm):
    return {"name": shm.name, "size": shm.size, "repr": repr(shm)}


def forget(name):
    if os.name == "nt":
        return  # no trackers there
    from multiprocessing import resource_tracker
    # The tracker knows names as the C library does, with their slash.
    resource_tracker.unregister("/" + name, "shared_memory")


def pack(v):
    if v is None:
        text = ""
    elif isinstance(v, bool):
        text = "true" if v else "false"
    elif isinstance(v, int):
        text = str(v)
    elif isinstance(v, float):
        text = struct.pack(">d", v).hex()
    else:
        text = (v.encode() if isinstance(v, str) else v).hex()
    return ["None" if v is None else type(v).__name__, text]


def unpack(kind, text):
    if kind == "bool":
        return text == "true"
    if kind == "int":
        return int(text)
    if kind == "float":
        return struct.unpack(">d", bytes.fromhex(text))[0]
    if kind == "bytes":
        return bytes.fromhex(text)
    if kind == "str":
        # What is no UTF-8 becomes a str that cannot be encoded.
        return bytes.fromhex(text).decode("utf-8", "surrogateescape")
    return [] if kind == "list" else None


def step(what, key, *args):
    if what == "make":
        name, items = args
        lists[key] = shared_memory.ShareableList([unpack(*v) for v in items], name=name)
    elif what == "open":
        lists[key] = shared_memory.ShareableList(name=args[0])
    sl = lists[key]
    if what == "set":
        sl[args[0]] = unpack(*args[1])
    elif what == "get":
        return pack(sl[args[0]])
    elif what == "all":
        return [attempt(lambda: pack(sl[i])) for i in range(len(sl))]
    elif what == "format":
        return sl.format
    elif what == "repr":
        return repr(sl)
    elif what == "count":
        return sl.count(unpack(*args[0]))
    elif what == "index":
        return sl.index(unpack(*args[0]))
    elif what == "close":
        sl.shm.close()
        del lists[key]
    elif what == "unlink":
        sl.shm.unlink()
    elif what == "unregister":
        forget(sl.shm.name)
    elif what not in ("make", "open"):
        raise SystemExit("no such step: " + what)


def manage(what, key, *args):
    from multiprocessing import managers as mp
    if what in ("connect", "start", "serve", "registered", "sync"):
        address, authkey = args[0], bytes.fromhex(args[1])
        if isinstance(address, list):
            address = tuple(address)
        if what in ("registered", "sync"):
            base = mp.BaseManager if what == "registered" else mp.SyncManager
            Base = type("Base", (base,), {})
            Base.register("Thing", callable=dict)
            m = Base(address=address, authkey=authkey)
        else:
            m = mp.SharedMemoryManager(address=address, authkey=authkey, ctx=context())
        managers[key] = m
        if what == "start":
            m.start()
        elif what == "serve":
            # In the foreground of a thread: this one has to answer.
            import threading
            server = m.get_server()
            threading.Thread(target=server.serve_forever, daemon=True).start()
            return show(server.address)
        else:
            m.connect()
        return show(m.address)
    m = managers[key]
    if what == "memory":
        block = m.SharedMemory(args[0])
        blocks[block.name] = block
        return block.name
    if what == "list":
        sl = m.ShareableList(args[0])
        lists[sl.shm.name] = sl
        return sl.shm.name
    if what == "dispatch":
        return mp.dispatch(m._Client(m._address, authkey=m._authkey), None, args[0], tuple(args[1:]))
    if what == "session":
        # As a proxy does: one connection for one request after the other.
        c = m._Client(m._address, authkey=m._authkey)
        answers = [mp.dispatch(c, None, "accept_connection", ("MainProcess",))]
        for ident, method in args:
            answers.append(attempt_text(lambda: mp.dispatch(c, ident, method)))
        c.close()
        return answers
    if what == "make":
        return repr(getattr(m, args[0])(*args[1:]))
    if what == "shutdown":
        return m.shutdown()
    raise SystemExit("no such step: " + what)


def context():
    import multiprocessing
    # 3.14's modules on an older interpreter lack what their forkserver needs.
    if sys.version_info < (3, 14) and not hasattr(os, "readinto") and os.name != "nt":
        return multiprocessing.get_context("fork")
    return None


def show(address):
    return {"bytes": address.hex()} if isinstance(address, bytes) else address


def attempt_text(f):
    try:
        return f()
    except Exception as e:
        return ["error", type(e).__name__, str(e)]


def attempt(f):
    try:
        return f()
    except Exception as e:
        return ["error", type(e).__name__]


def serve(op, block="", **args):
    if op == "create":
        blocks[block] = shared_memory.SharedMemory(create=True, **args)
    elif op == "attach":
        blocks[block] = shared_memory.SharedMemory(**args)
    elif op == "unregister":
        forget(args["name"])
        return {}
    elif op == "lists":
        return {"results": [attempt(lambda: [step(*s)]) for s in args["steps"]]}
    elif op == "managers":
        return {"results": [attempt_text(lambda: [manage(*s)]) for s in args["steps"]]}
    elif op == "run":
        space.update(forget=forget, args=args.get("args"), result=None)
        exec(args["code"], space)
        return {"results": space["result"]}
    elif op == "exit":
        return {}

    shm = blocks[block]
    if op == "write":
        data = bytes.fromhex(args["data"])
        shm.buf[args["off"]:args["off"] + len(data)] = data
    elif op == "read":
        return {"data": bytes(shm.buf[args["off"]:args["off"] + args["n"]]).hex()}
    elif op == "close":
        shm.close()
    elif op == "unlink":
        shm.unlink()
    elif op not in ("create", "attach", "stat"):
        raise ValueError("no such op: " + op)
    return describe(shm)


def main():
    print(json.dumps({"version": sys.version, "module": shared_memory.__file__}), flush=True)
    # Not "for line in sys.stdin": that reads ahead and would answer late.
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        try:
            reply = serve(**request)
        except Exception as e:
            # str(e) of an OSError repeats number and file; strerror alone compares better.
            reply = {"error": type(e).__name__,
                     "errno": getattr(e, "errno", None) or 0,
                     "message": getattr(e, "strerror", None) or str(e)}
        print(json.dumps(reply), flush=True)
        if request["op"] == "exit":
            break


main()
