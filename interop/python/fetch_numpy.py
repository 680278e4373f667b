#!/usr/bin/env python3
"""Make virtual environments with NumPy, for the tests of package array.

  env-numpy1-py3.8    the oldest NumPy for the oldest CPython of this machine
  env-numpy2-py3.13   the newest NumPy, ml_dtypes and pyarrow, for its newest
                      CPython up to 3.13
  env-torch-py3.12    with --torch: torch, half a gigabyte to fetch; needs gcc

They land in $XDG_CACHE_HOME/shm-interop (or ~/.cache/shm-interop), where the
tests look. VERSION, written last, says what is in an environment. One that is
there is left alone: remove its folder to have newer packages. Prints one line
per environment. Everything comes from PyPI, by pip.
"""
import argparse
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

# The first NumPy with a wheel for each minor version. From 3.13 on that is 2.x,
# and there is no old one to be had.
OLDEST = {8: "1.17.3", 9: "1.19.3", 10: "1.21.2", 11: "1.23.2", 12: "1.26.0"}

# What torch imports besides the libraries of CUDA.
TORCH = ["filelock", "typing-extensions", "setuptools", "sympy", "networkx", "jinja2", "fsspec", "numpy>=2", "ml_dtypes"]

PROBE = ("import platform, sys, ensurepip, venv\n"
         "from multiprocessing import shared_memory\n"
         "print(platform.python_implementation(), sys.version_info[1], sys.executable)")


def pythons():
    """The CPythons from 3.8 to 3.13 that can make environments, by minor version."""
    root = os.environ.get("PYENV_ROOT") or os.path.join(os.path.expanduser("~"), ".pyenv")
    found = {}
    for path in sorted(glob.glob(os.path.join(root, "versions", "3.*", "bin", "python3"))) + \
            ["python3.%d" % n for n in range(8, 14)] + ["python3", sys.executable]:
        try:
            out = subprocess.run([path, "-c", PROBE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
        except OSError:
            continue
        # A pyenv shim of a version that is not switched on fails here.
        answer = out.stdout.decode().split(maxsplit=2)
        if len(answer) == 3 and answer[0] == "CPython" and 8 <= int(answer[1]) <= 13:
            found.setdefault(int(answer[1]), answer[2].strip())
    return found


def pip(python, *args):
    # With --only-binary nothing is compiled: that would take a compiler and minutes.
    cmd = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--retries", "2",
           "--only-binary", ":all:", *args]
    done = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        sys.stderr.write(done.stdout.decode(errors="replace"))
        sys.exit("fetch_numpy.py: pip could not install %s; is PyPI reachable?" % " ".join(args))


def stand_in(env):
    """Let torch load without the libraries of CUDA, two gigabytes that no tensor
    in main memory has a use for. The loader wants them all the same, with every
    function whose address torch's tables hold; so they get functions that
    return an error: 100, cudaErrorNoDevice.
    """
    lib, = glob.glob(os.path.join(env, "lib", "python3.*", "site-packages", "torch", "lib"))
    files = sorted(glob.glob(os.path.join(lib, "*.so*")))
    wanted = set()
    for f in files:
        out = subprocess.run(["readelf", "-d", f], stdout=subprocess.PIPE, check=True).stdout.decode()
        wanted.update(re.findall(r"NEEDED.*\[(.*)\]", out))
    missing = [n for n in wanted if re.match(r"lib(cu|nv|nccl)", n) and not os.path.exists(os.path.join(lib, n))]
    if not missing:
        return  # a wheel for processors alone, as on arm64
    out = subprocess.run(["nm", "-D", "--undefined-only", *files], stdout=subprocess.PIPE, check=True).stdout.decode()
    functions = sorted(set(re.findall(r" U ((?:__)?(?:cu|nv|nccl)\w+)", out)))
    source = os.path.join(lib, "standin.c")
    with open(source, "w") as f:
        f.writelines("int %s(void) { return 100; }\n" % n for n in functions)
    # In a library of its own: in one with the name that a symbol's version has,
    # the loader wants to find the versions, too.
    gcc = ["gcc", "-w", "-shared", "-fPIC", "-nostdlib"]
    subprocess.run([*gcc, "-o", os.path.join(lib, "libstandin.so"), "-Wl,-soname,libstandin.so", source], check=True)
    for n in missing:
        subprocess.run([*gcc, "-o", os.path.join(lib, n), "-Wl,-soname," + n, "-Wl,--no-as-needed", "-Wl,-rpath,$ORIGIN",
                        "-x", "c", os.devnull, "-L" + lib, "-lstandin"], check=True)


def make(target, base, module, packages):
    bin_python = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python3")
    version = os.path.join(target, "VERSION")
    if os.path.exists(version) and os.path.exists(os.path.join(target, *bin_python)):
        with open(version) as f:
            return f.read().strip()
    # Beside the target, so that the rename at the end stays in one file system.
    # An environment bears being moved, its scripts apart.
    work = tempfile.mkdtemp(prefix=".fetch-", dir=os.path.dirname(target))
    try:
        env = os.path.join(work, "env")
        subprocess.run([base, "-m", "venv", env], check=True, stdout=subprocess.DEVNULL)
        python = os.path.join(env, *bin_python)
        pip(python, *packages)
        if module == "torch":
            pip(python, "--no-deps", "torch")
            stand_in(env)
        got = subprocess.run([python, "-c", "import %s as m; print(m.__version__)" % module], stdout=subprocess.PIPE)
        if got.returncode != 0:
            sys.exit("fetch_numpy.py: %s does not import %s" % (base, module))
        names = subprocess.run([python, "-m", "pip", "freeze"], stdout=subprocess.PIPE, check=True).stdout.decode().split()
        with open(os.path.join(env, "VERSION"), "w") as f:
            f.write(" ".join(n for n in names if re.match(r"(numpy|ml_dtypes|pyarrow|torch)\b", n)) + "\n")
        shutil.rmtree(target, ignore_errors=True)  # of an interpreter that is gone
        try:
            os.rename(env, target)
        except OSError:
            # Another process was faster.
            if not os.path.exists(version):
                raise
    finally:
        shutil.rmtree(work)
    with open(version) as f:
        return f.read().strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", action="store_true", help="also an environment with torch")
    args = parser.parse_args()
    found = pythons()
    if not found:
        sys.exit("fetch_numpy.py: no CPython from 3.8 to 3.13 with the modules venv and ensurepip (Debian: python3-venv)")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    cache = os.path.join(cache, "shm-interop")
    os.makedirs(cache, exist_ok=True)

    old, new = min(found), max(found)
    wanted = []
    if old in OLDEST:
        wanted.append(("numpy1", old, "numpy", ["numpy==" + OLDEST[old]]))
    else:
        print("no NumPy 1.x: the oldest CPython here is 3.%d" % old)
    if new >= 9:
        wanted.append(("numpy2", new, "numpy", ["numpy>=2", "ml_dtypes", "pyarrow"]))
    else:
        print("no NumPy 2.x: the newest CPython here is 3.%d" % new)
    if args.torch:
        # Its wheels for a new CPython are late.
        wanted.append(("torch", max([n for n in found if n <= 12] or [new]), "torch", TORCH))
    for what, minor, module, packages in wanted:
        target = os.path.join(cache, "env-%s-py3.%d" % (what, minor))
        print("%s: %s" % (target, make(target, found[minor], module, packages)), flush=True)


main()
