"""`convolution.cc` as a library: compiled at first use, kept in the user's cache, loaded once.

The library is compiled for the processor of this machine by its `c++`. Its name in the cache
holds a hash of the source, the command, jaxlib's version, the compiler and the processor, and
then a hash of the file itself. So two processes that compile at once write different files or
equal ones, and a damaged file is compiled again.
"""

import ctypes
import functools
import hashlib
import logging
import os
import subprocess
import tempfile
import threading
from pathlib import Path

import jax
import jaxlib.version

SOURCE = Path(__file__).with_name("convolution.cc")
COMMAND = ("c++", "-std=c++17", "-O3", "-march=native", "-shared", "-fPIC")
CALLS = ("output_call", "input_call", "kernel_call")
_lock = threading.Lock()
_log = logging.getLogger(__name__)


def prefix() -> str | None:
    """The beginning of the names of the calls for XLA, which end in one of CALLS.

    None without a compiler, and if DLWP_NATIVE is 0.
    """
    if os.environ.get("DLWP_NATIVE") == "0":
        return None
    with _lock:
        return _prefix()


@functools.cache
def _prefix():
    try:
        key = _key()
        library = _load(key) or _compile(key)
        # The names hold the key: XLA's own cache keeps compiled programs that call them.
        for call in CALLS:
            capsule = jax.ffi.pycapsule(getattr(library, call))
            jax.ffi.register_ffi_target(f"dlwp_{key}_{call}", capsule, platform="cpu")
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        _log.debug(
            "XLA's own convolutions are used, since there is no library of ours: %s %s",
            error,
            (getattr(error, "stderr", None) or b"").decode(errors="replace"),
        )
        return None
    return f"dlwp_{key}_"


def _key():
    # What the compiler predefines tells its version and the processor's instructions.
    command = [*COMMAND, "-dM", "-E", "-x", "c++", os.devnull]
    defined = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    described = f"{COMMAND} {jaxlib.version.__version__}".encode()
    return hashlib.sha256(SOURCE.read_bytes() + described + defined).hexdigest()[:16]


def _cache():
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dlwp-jax"


def _load(key):
    """The library of the cache; None if there is none that is whole."""
    for path in sorted(_cache().glob(f"convolution-{key}-*.so")):
        if path.stem.endswith(_digest(path)):
            return ctypes.CDLL(str(path))
    return None


def _compile(key):
    _cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_cache()) as folder:
        made = Path(folder) / "convolution.so"
        command = [*COMMAND, f"-I{jax.ffi.include_dir()}", str(SOURCE), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, timeout=600)
        path = _cache() / f"convolution-{key}-{_digest(made)}.so"
        made.replace(path)
    return ctypes.CDLL(str(path))


def _digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
