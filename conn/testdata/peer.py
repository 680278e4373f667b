"""The Python side of package conn's tests: one JSON object per line in, one out.

  {"op": "listen", "address": A, "key": K}   then {"op": "accept"}
  {"op": "client", "address": A, "key": K}
  {"op": "send_bytes", "data": HEX}   {"op": "recv_bytes"}
  {"op": "send", "value": EXPR}       {"op": "recv"}   answers with repr
  {"op": "fill", "n": N}              send_bytes of N times the letter x
  {"op": "count"}                     recv_bytes, answers with its length
  {"op": "close"}                     listener and connection

A is a string (a leading @ is a NUL) or [host, port]. K is hex, null without.
"""
import json
import sys
from multiprocessing.connection import Client, Listener
from multiprocessing.shared_memory import SharedMemory, ShareableList  # for EXPR

listener = conn = None


def address(a):
    return tuple(a) if isinstance(a, list) else a.replace("@", "\0", 1)


def key(k):
    return None if k is None else bytes.fromhex(k)


def serve(r):
    global listener, conn
    op = r["op"]
    if op == "listen":
        listener = Listener(address(r["address"]) if r["address"] else None, authkey=key(r["key"]))
        a = listener.address
        if isinstance(a, bytes):
            a = a.decode().replace("\0", "@", 1)
        return a
    if op == "accept":
        conn = listener.accept()
    elif op == "client":
        conn = Client(address(r["address"]), authkey=key(r["key"]))
    elif op == "send_bytes":
        conn.send_bytes(bytes.fromhex(r["data"]))
    elif op == "recv_bytes":
        return conn.recv_bytes().hex()
    elif op == "send":
        conn.send(eval(r["value"]))
    elif op == "recv":
        return repr(conn.recv())
    elif op == "fill":
        conn.send_bytes(b"x" * r["n"])
    elif op == "count":
        data = conn.recv_bytes()
        assert data == b"x" * len(data)
        return len(data)
    elif op == "close":
        for c in (conn, listener):
            if c is not None:
                c.close()
        conn = listener = None
    else:
        raise ValueError(op)


for line in iter(sys.stdin.readline, ""):
    try:
        reply = {"result": serve(json.loads(line))}
    except Exception as e:
        reply = {"error": type(e).__name__, "message": str(e)}
    print(json.dumps(reply), flush=True)
