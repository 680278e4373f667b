"""What the tests of arrays have NumPy do: code for peer.py's "run".

Arrays have a key each, and live until free(key). What a test expects in one is
a Python expression, with np, ml_dtypes, and d for the dtype, that makes the
elements in C order, so that Go and Python say independently what the bytes should be.
"""
import ast
import io
import warnings
from multiprocessing import shared_memory

import numpy as np

try:
    import ml_dtypes  # gives NumPy bfloat16
except ImportError:
    ml_dtypes = None

# Stored array in format 3.0. It can only be read by NumPy >= 1.17
warnings.simplefilter("ignore", UserWarning)

arrays = {}  # key: (array, block, whether it is ours)


def dt(text):
    if text == "bfloat16" and ml_dtypes is None:
        return np.dtype("V2")
    return np.dtype(ast.literal_eval(text) if text[0] in "[{" else text)


def values(expr, dtype, shape):
    return np.array(eval(expr, {"np": np, "ml_dtypes": ml_dtypes, "d": dtype})).reshape(shape)


def attach(name):
    block = shared_memory.SharedMemory(name)
    forget(name)
    return block


def file_of(a, version=None):
    """a as a .npy file. NumPy's own: version None lets it choose."""
    f = io.BytesIO()
    np.lib.format.write_array(f, a, version=tuple(version) if version else None)
    return f.getvalue()


def over(block):
    """The array behind a header, without a copy."""
    f = io.BytesIO(bytes(block.buf[:4096]))
    version = np.lib.format.read_magic(f)
    # There is no public reader for 3.0, which is 2.0 in UTF-8.
    read = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(f)
    if version[0] == 3:
        dtype.names = [n.encode("latin1").decode() for n in dtype.names]
    return np.ndarray(shape, dtype, block.buf, f.tell(), order="F" if fortran else "C")


def open_array(key, name, dtype=None, shape=None, order="C", npy=False):
    block = attach(name)
    if npy:
        a = over(block)
        if dtype == "bfloat16":
            a = a.view(dt(dtype))
    else:
        a = np.ndarray(shape, dt(dtype), block.buf, order=order)
    arrays[key] = a, block, False


def make_array(key, name, source, order="C", version=None, npy=False):
    """A block of our own, with the elements of the array source."""
    source = np.array(source, order=order)
    if npy:
        data = file_of(source, version)
        block = shared_memory.SharedMemory(name, create=True, size=len(data))
        block.buf[:len(data)] = data
        arrays[key] = over(block), block, True
    else:
        block = shared_memory.SharedMemory(name, create=True, size=max(source.nbytes, 1))
        a = np.ndarray(source.shape, source.dtype, block.buf, order=order)
        a[...] = source
        arrays[key] = a, block, True


def free(key):
    a, block, ours = arrays.pop(key)
    # close takes the memory away from under an array that lives.
    del a
    block.close()
    if ours:
        block.unlink()


def differ(a, b):
    """Why two arrays are not the same to the bit; None if they are. Of structures
    the fields are compared, as what lies between them is nobody's."""
    if a.shape != b.shape:
        return "shape %s, not %s" % (a.shape, b.shape)
    if a.dtype != b.dtype:
        return "dtype %s, not %s" % (a.dtype, b.dtype)
    for n in a.dtype.names or ():
        why = differ(a[n], b[n])
        if why:
            return "field %r: %s" % (n, why)
    if not a.dtype.names and a.tobytes() != b.tobytes():
        return "%s, not %s; in bytes %s, not %s" % (a.tolist(), b.tolist(), a.tobytes().hex(), b.tobytes().hex())


def check(key, expr, dtype, shape, order):
    """Compare an array of Go's with what it should hold."""
    a, block, _ = arrays[key]
    d = dt(dtype)
    why = differ(a, values(expr, d, shape))
    if why:
        return why
    if not a.flags[order + "_CONTIGUOUS"]:
        return "strides %s in order %s" % (a.strides, order)
