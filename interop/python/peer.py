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
  {"op": "exit"}                               as a program ends, tracker and all

"block": "b" chooses among several blocks of one process. An exception is
answered with {"error": its class, "errno": ..., "message": ...}.
"""
import json
import sys
from multiprocessing import shared_memory

blocks = {}


def describe(shm):
    return {"name": shm.name, "size": shm.size, "repr": repr(shm)}


def serve(op, block="", **args):
    if op == "create":
        blocks[block] = shared_memory.SharedMemory(create=True, **args)
    elif op == "attach":
        blocks[block] = shared_memory.SharedMemory(**args)
    elif op == "unregister":
        from multiprocessing import resource_tracker
        # The tracker knows names as the C library does, with their slash.
        resource_tracker.unregister("/" + args["name"], "shared_memory")
        return {}
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
