# Imported by every Python that a command under our tracker starts, 2.7 and
# those without multiprocessing included: it is quick, and silent when it fails.
import os
import sys

_NAME = 'multiprocessing.resource_tracker'
_held = None


def _is(fd, inode):
    st = os.fstat(fd)
    return st.st_mode >> 12 == 1 and str(st.st_ino) == inode  # a pipe, and that one


def _pipe():
    # The tracker lives as long as somebody holds this open, so it is opened
    # at the start and not at the first use. A program may have closed it since.
    global _held
    path, _, inode = os.environ['SHM_TRACKER'].rpartition(':')
    try:
        if _held is not None and _is(_held, inode):
            return _held
    except OSError:
        pass
    _held = None
    if os.readlink(path) != 'pipe:[' + inode + ']':
        return None  # the tracker is gone and its PID another's
    fd = os.open(path, os.O_WRONLY)
    low = []
    while fd < 3:  # a standard stream is closed; its number is not for us
        low.append(fd)
        fd = os.dup(fd)
    for f in low:
        os.close(f)
    if not _is(fd, inode):
        os.close(fd)
        return None
    _held = fd
    return fd


def _adopt(module):
    tracker = module._resource_tracker

    def use():
        try:
            if tracker._fd is None:
                tracker._fd = _pipe()
        except Exception:
            pass
    use()
    # From 3.15 a plain os.fork takes the pipe from the child.
    os.register_at_fork(after_in_child=use)


class _Loader(object):
    def __init__(self, loader):
        self.loader = loader

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        try:
            sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, _Finder)]
            _adopt(module)
        except Exception:
            pass


class _Finder(object):
    def find_spec(self, name, path=None, target=None):
        if name != _NAME:
            return None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, 'find_spec'):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    if hasattr(spec.loader, 'exec_module'):
                        spec.loader = _Loader(spec.loader)
                    return spec
        return None


def _start():
    if sys.version_info < (3, 8):
        return
    try:
        if _pipe() is None:
            return
        if _NAME in sys.modules:
            _adopt(sys.modules[_NAME])
        else:
            sys.meta_path.insert(0, _Finder())
    except Exception:
        pass


_start()

# Now whatever this file stands in front of.
_here = os.path.dirname(__file__)
sys.path[:] = [p for p in sys.path if p != _here]
sys.path_importer_cache.pop(_here, None)
_self = sys.modules.pop(__name__)
try:
    import sitecustomize
except ImportError as _e:
    if getattr(_e, 'name', __name__) != __name__:
        raise
finally:
    sys.modules.setdefault(__name__, _self)
