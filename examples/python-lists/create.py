"""Does what create/main.go does."""
import sys
from multiprocessing.shared_memory import ShareableList

name = sys.argv[1] if len(sys.argv) > 1 else None  # None: a fresh one
l = ShareableList([
    "howdy", b"HoWdY", -273.154, 100, None, True, 42,
    "?\0",   # loses its zero
    "?\0$",  # keeps it, at the price of a mark that readers drop
], name=name)

print(l.shm.name, flush=True)
print("Now run attach with this name elsewhere, and then press Enter here.", file=sys.stderr)
sys.stdin.readline()

print(l)

l.shm.close()
l.shm.unlink()
