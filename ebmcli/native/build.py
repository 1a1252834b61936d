"""The compiled CPU kernel: building `kernel.cpp`, keeping the result, loading it.

The file beside this one is compiled at first use with the C++ compiler of the machine (`CXX`, else `g++`, `c++`,
`clang++`) into a cache folder (`EBM_CACHE`, else `XDG_CACHE_HOME/ebmcli`, else `~/.cache/ebmcli`) and loaded with
ctypes. Without a compiler `available()` is False and `why_not()` says why; `EBM_NATIVE=0` turns the kernel off.

What is loaded runs as code, so it has to be what was built here, to the byte. The cache folder and its files must be
ours alone (`ebmcli.storage.private`). The name of a library is the hash of all that it is made from, and beside it
lies its digest, which is written last. The bytes that agree with the digest are those that are loaded, whatever
becomes of the file meanwhile. What is damaged is built anew, and that is said; what is new is tried in a process of
its own first.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ebmcli.native import symbols
from ebmcli.storage import locks, private

log = logging.getLogger("ebmcli.native")

LANES, BLOCKS = 16, 3
"""Chains in a block, the lanes of one vector; and the blocks that go through the network together, at most."""
NARROW = 8
"""Chains in a block of the second build, for what is left over."""

_SOURCE = Path(__file__).with_name("kernel.cpp")
_FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fPIC", "-shared")
_TUNINGS = (("-march=native",), ("-mcpu=native",), ())  # x86 and newer ARM compilers; older ARM; others
_COMPILING, _TRYING = 300.0, 60.0  # seconds after which a compiler, a trial is given up


class _Build(NamedTuple):
    """One of the two builds: chains in a block, and blocks that go through the network together."""

    lanes: int
    blocks: int

    @property
    def flags(self) -> tuple[str, str]:
        return f"-DEBM_LANES={self.lanes}", f"-DEBM_BLOCKS={self.blocks}"


_BUILDS = _Build(LANES, BLOCKS), _Build(NARROW, 1)


class Libraries(NamedTuple):
    """The two builds of the kernel."""

    wide: ctypes.CDLL
    narrow: ctypes.CDLL


class _State(NamedTuple):
    """The kernel, or None and why there is none; and the folder that keeps it."""

    libraries: Libraries | None
    why: str = ""
    folder: Path | None = None


# --- the compiler -----------------------------------------------------------------------------------------------------


def compiler() -> list[str]:
    """The command of the C++ compiler, with the arguments that `CXX` may give it; the only place that chooses one.

    Raises:
        OSError: there is none.
    """
    named = os.environ.get("CXX", "").strip()
    commands = [["g++"], ["c++"], ["clang++"]]
    if named:
        commands = [[named]]
        with suppress(ValueError):  # an open quotation
            commands.append(shlex.split(named))
    for words in commands:
        if words and (found := shutil.which(words[0])):
            return [found, *words[1:]]
    raise OSError(f"no C++ compiler: {f'CXX={named}' if named else 'g++, c++, clang++'} not found")


def _run(command: list[str], seconds: float, handles: tuple[int, ...] = ()) -> str:
    """What is wrong with a command: the line of its output that says it, or what ended it; empty where it succeeds."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds, pass_fds=handles
        )
    except (OSError, ValueError, subprocess.SubprocessError) as problem:
        return str(problem)
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        with suppress(ValueError):
            return signal.Signals(-done.returncode).name
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no message"]
    return next((line for line in lines if "error" in line), lines[-1])


def _compile(command: list[str], build: _Build) -> bytes:
    """A library, tried. Raises OSError with one line where no tuning gives one that works."""
    whys = []
    with tempfile.TemporaryDirectory(prefix="ebm-native-", ignore_cleanup_errors=True) as folder:
        result = Path(folder) / "native.so"
        for tuning in _TUNINGS:
            why = _run([*command, *_FLAGS, *tuning, *build.flags, str(_SOURCE), "-o", str(result)], _COMPILING)
            if why:
                whys.append(f"{command[0]} failed: {why}")
                continue
            result.chmod(0o600)  # whatever the user's mask is
            library = private.read(result)
            if not (why := _trial(library, result, build)):
                return library
            whys.append(f"what {command[0]} makes does not run here: {why}")
    raise OSError(whys[0])


# --- loading ----------------------------------------------------------------------------------------------------------


def _in_memory(library: bytes) -> int | None:
    """The handle of a file in memory that holds `library`; None where the system has no such files.

    It has to stay open as long as the library is used: the loader knows libraries by their paths, and would take
    another file that got this one's number for the same.
    """
    handle = None
    try:
        handle = os.memfd_create("ebm-native")
        with open(handle, "wb", closefd=False) as file:
            file.write(library)
        if os.path.exists(f"/proc/self/fd/{handle}"):
            return handle
    except (AttributeError, OSError):  # no such call here, or none that is allowed
        pass
    if handle is not None:
        os.close(handle)
    return None


def _trial(library: bytes, path: Path, build: _Build) -> str:
    """Why a library that is new, whose file is `path`, does not work here: one line; empty where it does."""
    if not sys.executable or getattr(sys, "frozen", False):  # inside another program: no command runs Python
        return ""
    command = [sys.executable, "-I", "-S", symbols.__file__]
    if (handle := _in_memory(library)) is not None:
        why = _run([*command, f"/proc/self/fd/{handle}", str(build.lanes)], _TRYING, (handle,))
        os.close(handle)
        if not why:
            return ""
    return _run([*command, str(path), str(build.lanes)], _TRYING)


def _load(library: bytes, path: Path) -> ctypes.CDLL:
    """The library of these bytes; from the file `path` where the system runs nothing that is in memory."""
    if (handle := _in_memory(library)) is not None:
        try:
            return symbols.bind(f"/proc/self/fd/{handle}")
        except OSError:  # forbidden, or it does not load from anywhere: then the file says why
            os.close(handle)
    return symbols.bind(str(path))


# --- keeping ----------------------------------------------------------------------------------------------------------


def _processor() -> str:
    """What `-march=native` depends on: the CPU's model and features."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        found = {line.partition(":")[0].strip(): line for line in lines if line.startswith(wanted)}
        if found:
            return "\n".join([platform.machine(), *(found[key] for key in sorted(found))])
    return f"{platform.machine()} {platform.processor()}"


def _identity(command: list[str]) -> str:
    """Which compiler a command runs. Its version would take a process at every start, and its file tells as much."""
    parts = list(command)
    for word in command:  # a compiler may stand behind ccache, or one like it
        if found := shutil.which(word):
            facts = os.stat(found)
            parts.append(f"{os.path.realpath(found)} {facts.st_size} {facts.st_mtime_ns}")
    return "\n".join(parts)


def _paths(folder: Path, command: list[str]) -> list[Path]:
    """Where the two builds are kept."""
    common = [_SOURCE.read_bytes(), repr((_FLAGS, _TUNINGS)).encode(), _identity(command).encode()]
    common.append(_processor().encode())
    hashes = [hashlib.sha256(b"\0".join([*common, repr(build.flags).encode()])).hexdigest() for build in _BUILDS]
    return [folder / f"native-{text[:20]}.so" for text in hashes]


def _digest(path: Path, library: bytes) -> bytes:
    """What is written beside a library; the name is in it, so that one build cannot stand in for the other."""
    return hashlib.sha256(path.name.encode() + b"\0" + library).hexdigest().encode()


def _kept(path: Path) -> bytes:
    """The library that is kept. Raises FileNotFoundError where there is none, OSError where it is not to be trusted."""
    library = private.read(path)
    try:
        digest = private.read(path.with_suffix(".sha256"))
    except FileNotFoundError:
        raise OSError("its digest is missing") from None
    if digest.strip() != _digest(path, library):
        raise OSError("its digest says otherwise")
    return library


def _keep(path: Path, library: bytes) -> None:
    """Keep a library and then its digest, so that a digest always tells of a whole one."""
    try:
        private.keep(path, library)
        private.keep(path.with_suffix(".sha256"), _digest(path, library) + b"\n")
    except OSError as problem:
        log.warning("the compiled kernel cannot be kept and is compiled at each start: %s", problem)


def _built(paths: list[Path], command: list[str], distrust: str) -> list[bytes]:
    """Both libraries, compiled where they are not kept, by one process at a time.

    Args:
        paths: where they are kept.
        command: the compiler.
        distrust: why those that are kept are not to be used, although they are whole; empty where they are.
    """
    with locks.turn(paths[0].parent / "native.lock", _COMPILING):
        found: list[bytes | None] = [None] * len(paths)
        doubts = [distrust] if distrust else []
        for place, path in enumerate(paths if not distrust else ()):
            try:
                found[place] = _kept(path)
            except FileNotFoundError:  # built for the first time
                pass
            except OSError as problem:
                doubts.append(f"{path.name}: {problem.strerror or problem}")
        if doubts:
            log.warning("the compiled kernel in %s is built anew: %s", paths[0].parent, "; ".join(doubts))
        for left in paths[0].parent.glob(".native-*"):  # by a process that was killed: nobody else writes now
            with suppress(OSError):
                left.unlink()
        missing = [place for place, library in enumerate(found) if library is None]
        with ThreadPoolExecutor(len(_BUILDS)) as pool:
            made = pool.map(lambda place: _compile(command, _BUILDS[place]), missing)
            for place, library in zip(missing, made, strict=True):
                _keep(paths[place], library)
                found[place] = library
    return [library for library in found if library is not None]


def _obtain(folder: Path, command: list[str]) -> Libraries:
    """Both libraries, loaded. Raises OSError with one line where that cannot be."""
    paths = _paths(folder, command)
    try:
        kept = [_kept(path) for path in paths]
    except OSError:
        return Libraries(*map(_load, _built(paths, command, ""), paths))
    try:
        return Libraries(*map(_load, kept, paths))
    except OSError as problem:  # whole, but made on a system with other shared libraries
        return Libraries(*map(_load, _built(paths, command, f"it does not load: {problem}"), paths))


_loading = threading.Lock()


@cache
def _state() -> _State:
    """The kernel of this process; what goes wrong with it, and not only what is missing, is said."""
    if os.environ.get("EBM_NATIVE", "") == "0":
        return _State(None, "turned off by EBM_NATIVE=0")
    try:
        command = compiler()
    except OSError as problem:
        return _State(None, " ".join(str(problem).split()))
    try:
        folder, instead = private.own_folder()
        if instead:
            log.warning("the compiled kernel is kept in %s and not in %s (EBM_CACHE names a folder)", folder, instead)
        return _State(_obtain(folder, command), "", folder)
    except (OSError, RuntimeError) as problem:  # RuntimeError: no thread to compile in
        why = " ".join(str(problem).split())
        log.warning("the compiled kernel is not used, slower code computes instead: %s", why)
        return _State(None, why)


def available() -> bool:
    """Whether the kernel can be used here; compiles it when it is asked for the first time (seconds)."""
    with _loading:
        return _state().libraries is not None


def why_not() -> str:
    """One line that says why `available()` is False; empty when it is True."""
    with _loading:
        return _state().why


def folder() -> Path | None:
    """Where the kernel is kept; None where there is none."""
    with _loading:
        return _state().folder


def libraries() -> Libraries:
    """Both builds. Raises RuntimeError where there is none."""
    with _loading:
        state = _state()
    if state.libraries is None:
        raise RuntimeError(f"the compiled kernel is not available: {state.why}")
    return state.libraries
