"""The compiled CPU kernel: building `native.cpp`, keeping the result, loading it (floor 1).

The file beside this one is compiled at first use with the C++ compiler of the machine (`CXX`, else `g++`, `c++`,
`clang++`) into a cache folder (`EBM_CACHE`, else `XDG_CACHE_HOME/ebmcli`, else `~/.cache/ebmcli`) and loaded with
ctypes. Without a compiler `available()` is False and `why_not()` says why; `EBM_NATIVE=0` turns the kernel off.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

LANES, BLOCKS = 16, 3
"""Chains in a block, the lanes of one vector; and the blocks that go through the network together, at most."""
NARROW = 8
"""Chains in a block of the second build, for what is left over."""

_SOURCE = Path(__file__).with_name("native.cpp")
_FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fPIC", "-shared")
_TUNINGS = (("-march=native",), ("-mcpu=native",), ())  # x86 and newer ARM compilers; older ARM; others


def _cache_folder() -> Path:
    if named := os.environ.get("EBM_CACHE"):
        return Path(named).expanduser()
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named).expanduser() / "ebmcli"
    return Path.home() / ".cache" / "ebmcli"


def _compiler() -> str | None:
    named = os.environ.get("CXX")
    candidates = [named] if named else ["g++", "c++", "clang++"]
    return next((found for name in candidates if (found := shutil.which(name))), None)


def _processor() -> str:
    """What `-march=native` depends on: the CPU's model and features."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        found = {line.partition(":")[0].strip(): line for line in lines if line.startswith(wanted)}
        if found:
            return "\n".join(found[key] for key in sorted(found))
    return f"{platform.machine()} {platform.processor()}"


def _run(command: list[str]) -> tuple[bool, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300)
    except (OSError, subprocess.SubprocessError) as problem:
        return False, str(problem)
    return done.returncode == 0, done.stdout if done.returncode == 0 else done.stderr


def _build(lanes: int, blocks: int) -> Path:
    """Path of the shared library, compiled if the cache does not hold it. Raises OSError with one line."""
    size = (f"-DEBM_LANES={lanes}", f"-DEBM_BLOCKS={blocks}")
    compiler = _compiler()
    if compiler is None:
        named = os.environ.get("CXX")
        raise OSError(f"no C++ compiler: {f'CXX={named}' if named else 'g++, c++, clang++'} not found")
    ok, version = _run([compiler, "--version"])
    if not ok:
        raise OSError(f"{compiler} does not run")
    source = _SOURCE.read_bytes()
    parts = [source, version.encode(), repr((_FLAGS, _TUNINGS, size)).encode(), _processor().encode()]
    name = "native-" + hashlib.sha256(b"\0".join(parts)).hexdigest()[:20] + ".so"
    folder = _cache_folder()
    target = folder / name
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(suffix=".so", prefix=".native-", dir=folder)
    os.close(handle)
    message = ""
    try:
        for tuning in _TUNINGS:
            ok, output = _run([compiler, *_FLAGS, *tuning, *size, str(_SOURCE), "-o", temporary])
            if ok:
                os.replace(temporary, target)  # whole or not at all, whoever else compiles at the same time
                return target
            message = message or output
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    lines = [line.strip() for line in message.splitlines() if line.strip()] or ["no message"]
    raise OSError(f"{compiler} failed: {next((line for line in lines if 'error' in line), lines[-1])}")


_POINTER, _INT, _WORD, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint64, ctypes.c_float
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "ebm_create": (_POINTER, [_INT, _POINTER, _POINTER, _INT]),
    "ebm_free": (None, [_POINTER]),
    "ebm_floats": (_INT, [_POINTER]),
    "ebm_pack": (None, [_POINTER, _INT, _POINTER, _POINTER]),
    "ebm_path": (
        None,
        [_POINTER, _POINTER, _INT, *[_POINTER] * 7, _INT, _INT, *[_FLOAT] * 3, _WORD, _POINTER, _INT],
    ),
    "ebm_normal": (None, [_WORD, _INT, _POINTER, _INT, _INT, _POINTER]),
    "ebm_words": (None, [_WORD, _INT, _POINTER, _INT, _INT, _POINTER]),
    "ebm_philox": (None, [_WORD, _POINTER, _POINTER]),
}
_loading = threading.Lock()


class Libraries(NamedTuple):
    """The two builds of the kernel."""

    wide: ctypes.CDLL
    narrow: ctypes.CDLL


@cache
def _load() -> tuple[Libraries | None, str]:
    """Both builds, or None and why there is none."""
    if os.environ.get("EBM_NATIVE", "") == "0":
        return None, "turned off by EBM_NATIVE=0"
    try:
        with ThreadPoolExecutor(2) as pool:
            paths = pool.map(_build, (LANES, NARROW), (BLOCKS, 1))
            libraries = Libraries(*map(ctypes.CDLL, map(str, paths)))
    except (OSError, RuntimeError) as problem:  # RuntimeError: no home folder
        return None, " ".join(str(problem).split())
    for library in libraries:
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    return libraries, ""


def available() -> bool:
    """Whether the kernel can be used here; compiles it when it is asked for the first time (seconds)."""
    with _loading:
        return _load()[0] is not None


def why_not() -> str:
    """One line that says why `available()` is False; empty when it is True."""
    with _loading:
        return _load()[1]


def libraries() -> Libraries:
    """Both builds. Raises RuntimeError where there is none."""
    with _loading:
        libraries, why = _load()
    if libraries is None:
        raise RuntimeError(f"the compiled kernel is not available: {why}")
    return libraries
