"""Does what attach/main.go does."""
import sys
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import ShareableList

l = ShareableList(name=sys.argv[1])
# Python thinks that whoever opens a list has to remove it, and has no track=False
# for lists. This tells its resource tracker that the list is somebody else's.
resource_tracker.unregister(l.shm._name, "shared_memory")
print(l)

print(*(type(item).__name__ for item in l))

# An item may become another number, or text that fits into its slot ...
l[2] = -78.5
l[2] = "dry ice"
# ... but nothing longer. What it was it still is.
try:
    l[2] = "carbon dioxide"
except ValueError as e:
    print(e)
print(l[2])

print(len(l), l.index(42), l.count(42))

# The zero at the end, first as it is, then kept by a mark.
print(len(l[7]), len(l[8][:-1]))

l[6] += 1  # a read and a write: only while nobody else adds
l.shm.close()
