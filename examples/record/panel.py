"""Shows and changes the record that oven keeps.

    panel.py [NAME]

Commands, one a line: show, on, off, measure KELVIN.
"""
import sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import ShareableList

# The fields, as in oven/record.go. Python writes TEMPERATURE and ENABLED, nothing else.
NAME, COUNT, TEMPERATURE, ERROR, ENABLED = range(5)

record = ShareableList(name=sys.argv[1] if len(sys.argv) > 1 else "record")
# Without this line our exit would remove the record. Lists have no track=False,
# in no version of Python.
resource_tracker.unregister(record.shm._name, "shared_memory")


def settled(field):
    """A field that Go writes, read until it is twice the same.

    Python reads an item's format, value and kind one after the other, and what
    is written between belongs to another value. (A worker that is stopped in the
    middle of a text could still deceive us.)
    """
    before = object()
    while True:
        try:
            now = record[field]
        except (AttributeError, UnicodeDecodeError):
            continue
        if type(now) is type(before) and now == before:
            return now
        before = now


for line in sys.stdin:
    command, *arguments = line.split() or ["show"]
    if record[NAME] is None:
        sys.exit("the service has ended")
    if command == "measure":
        record[TEMPERATURE] = float(arguments[0])
    elif command in ("on", "off"):
        # Writing what is there already would show it as False for a moment.
        if record[ENABLED] != (command == "on"):
            record[ENABLED] = command == "on"
    elif command != "show":
        print("show, on, off or measure KELVIN, please", flush=True)
        continue
    print([settled(field) for field in range(len(record))], flush=True)

record.shm.close()
