"""Writes headers.json: headers as this NumPy writes them, with what it reads in them.

    python golden.py >> headers.json

Run with one NumPy of each major version: 1.17 and 2.5 made what is here.
"""
import hashlib
import io
import json
import warnings

import numpy as np

try:
    from numpy.lib import _format_impl as npy
except ImportError:
    from numpy.lib import format as npy


def cases():
    for t in "?bBhHiIqQefdgFDG":
        yield np.dtype(t), (3,), False, None
    for t in (">i4", ">f8", ">c16", ">U3", ">M8[us]", "S5", "S1", "V7", "U4", "U1",
              "M8[ns]", "M8[25s]", "M8", "m8[D]", "m8[as]"):
        yield np.dtype(t), (2, 3), False, None
    for shape in ((), (0,), (7,), (1, 1), (480, 640), (3, 4, 5), (0, 5, 0), (1,) * 32, (123456789012,)):
        yield np.dtype("<f4"), shape, False, None
        if len(shape) > 1:
            yield np.dtype("<f4"), shape, True, None
    for version in ((1, 0), (2, 0), (3, 0)):
        yield np.dtype("<i2"), (2, 2), True, version
    for d in (
        [("x", "<i4"), ("y", "<f8")],
        np.dtype([("flag", "?"), ("x", "<f8"), ("n", "<i2")], align=True),
        {"names": ["a", "b"], "formats": ["<i4", "u1"], "offsets": [4, 12], "itemsize": 20},
        [("m", "<f4", (2, 3)), ("s", "S4"), ("u", "<U2", 2)],
        [("outer", [("inner", [("deep", ">u2")], (3,)), ("b", "?")])],
        [(("a title", "t"), "<i4"), ("plain", "<i4")],
        {"names": ["a", "b"], "formats": ["<i4", "u1"], "offsets": [0, 8], "titles": ["first", None]},
        np.dtype([("k", "u1"), ("in", np.dtype([("c", "i1"), ("d", "<i8")], align=True), 2)], align=True),
        [("größe", "<f4"), ("été", "<f4")],
        [("温度", "<f4"), ("größe", "<f4"), ("\U0001f321", "u1")],
        [("it's", "u1"), ('say "it\'s"', "u1"), ("a\\b", "u1"), ("tab\t", "u1"), ("\x7f\xa0\u2028", "u1")],
        [("when", "<M8[ms]"), ("how long", "<m8[ns]")],
        [("field number %d" % i, "<f4") for i in range(2500)],
        [],
        {"names": [], "formats": [], "itemsize": 8},
    ):
        yield np.dtype(d), (2,), False, None


for dtype, shape, fortran, version in cases():
    out = io.BytesIO()
    head = {"descr": npy.dtype_to_descr(dtype), "fortran_order": fortran, "shape": shape}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        npy._write_array_header(out, head, version)
    try:
        back = npy.descr_to_dtype(head["descr"])
    except ValueError:  # 1.17 does not read what it writes for no fields
        continue
    text = out.getvalue().decode("latin1")
    case = {"numpy": np.__version__, "header": text, "version": list(version or ()), "shape": shape, "fortran": fortran,
            "dtype": str(back) if back.fields is not None else back.str, "size": back.itemsize}
    if back.fields is not None:
        case["fields"] = [[n, back.fields[n][1], back.fields[n][0].itemsize] for n in back.names]
    if len(text) > 5000:  # the test makes it again
        case = {"numpy": np.__version__, "sha256": hashlib.sha256(out.getvalue()).hexdigest(), "size": len(text)}
    print(json.dumps(case))
