import socket
import subprocess
from multiprocessing.connection import Connection


class GoWorker:
    """A Go program that answers calls: its standard input is a socket."""

    def __init__(self, *command, **options):
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(command, stdin=theirs, **options)
        self.connection = Connection(ours.detach())

    def call(self, function, *args):
        self.connection.send((function, args))
        try:
            error, result = self.connection.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError("the Go worker has ended: %s" % self.process.wait()) from None
        if error is not None:
            raise RuntimeError(error)
        return result

    def close(self):
        self.connection.close()  # which ends the worker, as our own end would
        return self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
