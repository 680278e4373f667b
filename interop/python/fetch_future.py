#!/usr/bin/env python3
"""Fetch the multiprocessing modules of CPython 3.14 and 3.15.

Machines with a 3.13 interpreter can run them long before they have an
interpreter of those versions: the modules are pure Python, and the npm package
pyodide carries the real ones in its python_stdlib.zip. Only the number of
arguments of _posixsubprocess.fork_exec changed in between, so one line of
util.py is patched back to what 3.13 takes.

They land in $XDG_CACHE_HOME/shm-interop (or ~/.cache/shm-interop), where the
tests look, in one folder per package: VERSION holds the Python version, lib
goes into PYTHONPATH. What is there already is left alone. Prints one line per
folder. Needs npm, for its ordinary download and its check of the tarball.
"""
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

PACKAGES = ["314.0.7", "315.0.0-alpha.2"]

# The last line of the call in util.spawnv_passfds. 3.13 wants one more
# argument, allow_vfork, and passes True on Linux.
NEW_CALL = "False, False, -1, None, None, None, -1, None)"
OLD_CALL = "False, False, -1, None, None, None, -1, None, True)"


def fetch(package, target):
    # Beside the target, so that the rename at the end stays in one file system.
    work = tempfile.mkdtemp(prefix=".fetch-", dir=os.path.dirname(target))
    try:
        subprocess.run(["npm", "pack", "--silent", "pyodide@" + package],
                       cwd=work, check=True, stdout=subprocess.DEVNULL)
        tarball, = [f for f in os.listdir(work) if f.endswith(".tgz")]
        with tarfile.open(os.path.join(work, tarball)) as tar:
            lock = json.load(tar.extractfile("package/pyodide-lock.json"))
            stdlib = zipfile.ZipFile(io.BytesIO(tar.extractfile("package/python_stdlib.zip").read()))
        result = os.path.join(work, "result")
        lib = os.path.join(result, "lib")
        # The rest of the library comes from the interpreter: newer modules
        # may need a newer one.
        stdlib.extractall(lib, [n for n in stdlib.namelist() if n.startswith("multiprocessing/")])

        util = os.path.join(lib, "multiprocessing", "util.py")
        with open(util, encoding="utf-8") as f:
            text = f.read()
        if text.count(NEW_CALL) != 1:
            sys.exit("pyodide %s: util.py does not call fork_exec as expected" % package)
        with open(util, "w", encoding="utf-8") as f:
            f.write(text.replace(NEW_CALL, OLD_CALL))
        with open(os.path.join(result, "VERSION"), "w", encoding="utf-8") as f:
            f.write(lock["info"]["python"] + "\n")
        try:
            os.rename(result, target)
        except OSError:
            # Another process was faster.
            if not os.path.exists(os.path.join(target, "VERSION")):
                raise
    finally:
        shutil.rmtree(work)


def main():
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    cache = os.path.join(cache, "shm-interop")
    os.makedirs(cache, exist_ok=True)
    for package in PACKAGES:
        target = os.path.join(cache, "pyodide-" + package)
        if not os.path.exists(os.path.join(target, "VERSION")):
            fetch(package, target)
        with open(os.path.join(target, "VERSION"), encoding="utf-8") as f:
            print("%s %s" % (f.read().strip(), os.path.join(target, "lib")))


main()
