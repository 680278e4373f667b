"""Calls the library in c/reverse.c. It runs in workers of serve, and may die there."""
import ctypes
import functools


@functools.lru_cache(None)
def library(path):
    f = ctypes.CDLL(path).reverse
    f.argtypes = ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t
    f.restype = None
    return f


def reverse(lib, text):
    out = ctypes.create_string_buffer(len(text))
    library(lib)(text, out, len(text))
    return out.raw
