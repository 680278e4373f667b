"""Shows the market: reads the quotes, as many as it can, and says what it missed.

    display.py [--slow] [NAME]

--slow: takes 2 ms for each quote, far more than there is time for.
"""
import os
import struct
import sys
import time

# Or copy shm_topic.py, shm_ring.py and shm_lock.py beside this file.
sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../interop/python"))
from shm_topic import Topic

slow = "--slow" in sys.argv
name = ([a for a in sys.argv[1:] if a[0] != "-"] or ["market"])[0]

# As in exchange/main.go.
QUOTE = struct.Struct("<Q8sqq")
BOARD = struct.Struct("<Q4q")


def when_there(name):
    while True:
        try:
            return Topic(name)
        except FileNotFoundError:  # not yet
            time.sleep(0.1)


received = missed = 0
first = None  # the quote with which we began
with when_there(name) as quotes, when_there(name + ".board") as board, quotes.subscriber() as subscriber:
    for message in subscriber:
        number, symbol, cents, sent = QUOTE.unpack(message)
        missed += subscriber.missed
        if first is None:
            first = number - missed
        if number != first + received + missed:
            raise SystemExit("a gap that nobody told of")
        received += 1
        if slow:
            if subscriber.missed:
                print("missed %d, going on with %s at %.2f" % (subscriber.missed, symbol.rstrip(b"\0").decode(), cents / 100))
            time.sleep(0.002)
    # The state is there whatever was missed on the way to it.
    count, *cents = BOARD.unpack(board.latest()[0])
print("%s: received %d from %s on, missed %d; after %d quotes: %s"
      % ("slow" if slow else "display", received, first, missed, count, " ".join("%.2f" % (c / 100) for c in cents)))
