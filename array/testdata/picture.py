"""Makes picture.png: 60 by 40 pixels, in colours, lines without filters.

    python3 picture.py > picture.png
"""
import struct
import sys
import zlib

W, H = 60, 40


def pixel(x, y):
    c, z, n = complex(x / 20 - 2.2, y / 16 - 1.25), 0j, 0
    while abs(z) <= 2 and n < 40:
        z, n = z * z + c, n + 1
    return bytes((n * 6, (n * n) % 256, (x * 4 + y) % 256)) if n < 40 else b"\0\0\0"


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


lines = b"".join(b"\0" + b"".join(pixel(x, y) for x in range(W)) for y in range(H))
sys.stdout.buffer.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", W, H, 8, 2, 0, 0, 0))
                        + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b""))
