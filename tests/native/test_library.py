"""The compiled kernel's files: what is damaged or foreign is not loaded, what is new is tried, and it is said."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from ebmcli.native import build as library
from ebmcli.native import stack as native
from ebmcli.native import symbols
from ebmcli.storage import private

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.skipif(not native.available(), reason=native.why_not()),
    pytest.mark.skipif(sys.platform == "win32", reason="the compiler of these tests is a shell script"),
]

fresh = library._state.__wrapped__
"""The kernel as a process that begins would find it, whatever this one has."""

LIGHT = """
from ebmcli.native import build
print(build.available(), build.why_not())
"""


class Place(NamedTuple):
    """A cache folder, and a compiler that takes no time: it hands out what the real one has made before."""

    folder: Path
    log: Path
    script: Path
    made: list[Path]

    @property
    def compiled(self) -> int:
        """How often the compiler has run."""
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    @property
    def libraries(self) -> list[Path]:
        """Where the two builds of this compiler are kept."""
        return library._paths(self.folder, library.compiler())

    def write(self, before: str = "") -> None:
        """Write the compiler; `before` is run first, and knows the `$library` to hand out and all `$words`."""
        self.script.write_text(f"""#!/bin/sh
echo run >> "{self.log}"
words="$*"
for word in "$@"; do
    case "$word" in
        -DEBM_LANES=16) library="{self.made[0]}" ;;
        -DEBM_LANES=8) library="{self.made[1]}" ;;
    esac
    [ "$last" = -o ] && out="$word"
    last="$word"
done
{before}
cp "$library" "$out"
""")
        self.script.chmod(0o755)


@pytest.fixture(scope="module")
def made() -> list[Path]:
    """The real compiler's libraries."""
    where = library.folder()
    assert where is not None
    return library._paths(where, library.compiler())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[Path]) -> Place:
    for name in ("cache", "home", "temporary"):
        (tmp_path / name).mkdir(mode=0o700)
    here = Place(tmp_path / "cache", tmp_path / "log", tmp_path / "compiler", made)
    monkeypatch.setenv("EBM_CACHE", str(here.folder))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("CXX", str(here.script))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    here.write()
    return here


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What has been said since it was asked last."""
    monkeypatch.setattr(logging.getLogger("ebmcli"), "propagate", True)  # a command may have turned it off

    def lines() -> list[str]:
        found = [record.getMessage() for record in caplog.records if record.name == "ebmcli.native"]
        caplog.clear()
        return found

    return lines


def words_of(state: library._State) -> list[int]:
    """Some of the random words of both builds."""
    assert state.libraries is not None, state.why
    out, chains = (ctypes.c_uint32 * 40)(), (ctypes.c_int64 * 2)(3, 2**33)
    found: list[int] = []
    for one in state.libraries:
        one.ebm_words(7, 2, chains, 5, 20, out)
        found += out
    return found


def cut(size: float) -> Callable[[Path], object]:
    return lambda path: os.truncate(path, int(size * path.stat().st_size) if size < 1 else int(size))


def flip(where: float) -> Callable[[Path], object]:
    def act(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(where * len(data))] ^= 16
        path.write_bytes(data)

    return act


def replace(act: Callable[[Path], object]) -> Callable[[Path], object]:
    """Remove the file first."""

    def both(path: Path) -> None:
        path.unlink()
        act(path)

    return both


def exchange(path: Path) -> None:
    """The other build, with its digest, under this one's name."""
    other = next(p for p in path.parent.glob("native-*.so") if p != path)
    for suffix in (".so", ".sha256"):
        shutil.copy(other.with_suffix(suffix), path.with_suffix(suffix))


def beside(act: Callable[[Path], object]) -> Callable[[Path], object]:
    """Do it to the digest."""
    return lambda path: act(path.with_suffix(".sha256"))


def filled_folder(path: Path) -> None:
    path.mkdir()
    (path / "file").write_text("x")


DAMAGE = {
    **{f"cut to {size}": cut(size) for size in (0, 1, 63, 64, 4096, 0.2, 0.5, 0.9, 0.9999)},
    **{f"a bit flipped at {where}": flip(where) for where in (0, 0.001, 0.1, 0.33, 0.5, 0.75, 0.999)},
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "garbage": lambda path: path.write_bytes(os.urandom(5000)),
    "a shell script": lambda path: path.write_text("#!/bin/sh\nexit 0\n"),
    "the other build": exchange,
    "another library": lambda path: shutil.copy(torch._C.__file__, path),
    "a folder": replace(lambda path: path.mkdir()),
    "a folder with a file": replace(filled_folder),
    "a pipe": replace(os.mkfifo),
    "a link to itself": replace(lambda path: path.symlink_to(path)),
    "writable by the group": lambda path: path.chmod(0o660),
    "writable by all": lambda path: path.chmod(0o606),
    "without a digest": beside(lambda path: path.unlink()),
    "an empty digest": beside(cut(0)),
    "a digest cut short": beside(cut(63)),
    "another digest": beside(lambda path: path.write_text("0" * 64 + "\n")),
    "a digest that others can write": beside(lambda path: path.chmod(0o666)),
    "a digest that is a folder": beside(replace(filled_folder)),
    "a digest that is not text": beside(lambda path: path.write_bytes(b"\xff" * 64)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_built_anew_and_said_once(damage: str, place: Place, said: Callable[[], list[str]]) -> None:
    expected = words_of(fresh())
    path = place.libraries[len(damage) % 2]  # each of the builds, in turns
    whole = path.read_bytes()
    assert (place.compiled, said()) == (2, [])
    DAMAGE[damage](path)
    assert words_of(fresh()) == expected
    (line,) = said()
    assert str(place.folder) in line
    assert path.name in line
    assert "built anew" in line
    assert (place.compiled, path.read_bytes()) == (3, whole)
    assert words_of(fresh()) == expected
    assert (place.compiled, said()) == (3, [])


def test_a_link_to_a_sound_library_is_not_followed(place: Place, said: Callable[[], list[str]]) -> None:
    fresh()
    path = place.libraries[0]
    path.rename(place.folder / "elsewhere")
    path.symlink_to("elsewhere")
    words_of(fresh())
    assert len(said()) == 1
    assert not path.is_symlink()


def test_an_ordinary_start_runs_no_other_process(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh()

    def none(*words: object, **more: object) -> None:
        raise AssertionError(f"{words} is run")

    monkeypatch.setattr(subprocess, "Popen", none)
    words_of(fresh())


def test_files_and_folder_are_the_users_alone(place: Place) -> None:
    place.folder.rmdir()
    before = os.umask(0o002)
    try:
        words_of(fresh())
    finally:
        os.umask(before)
    assert stat.S_IMODE(place.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in place.folder.iterdir()} == {0o600}


def test_without_files_in_memory_the_checked_file_is_loaded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = words_of(fresh())
    monkeypatch.delattr(os, "memfd_create", raising=False)
    assert words_of(fresh()) == expected
    place.libraries[0].unlink()
    assert words_of(fresh()) == expected
    assert place.compiled == 3


def test_what_cannot_be_kept_is_used_and_said(
    place: Place, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(private, "keep", full)
    words_of(fresh())
    assert all("cannot be kept" in line and "No space left" in line for line in said())
    assert not list(place.folder.glob("native-*"))


# --- folders ----------------------------------------------------------------------------------------------------------


def shared(mode: int) -> Callable[[Path], object]:
    return lambda folder: folder.chmod(mode)


def as_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


@pytest.mark.parametrize("act", [shared(0o770), shared(0o707), shared(0o1777), as_a_file])
def test_another_folder_serves_where_others_can_write(
    act: Callable[[Path], object], place: Place, said: Callable[[], list[str]], tmp_path: Path
) -> None:
    fresh()
    for path in place.libraries:  # whoever can write there may have put them there, with the right digests
        path.write_bytes(b"foreign")
        path.with_suffix(".sha256").write_bytes(library._digest(path, b"foreign"))
    act(place.folder)
    state = fresh()
    words_of(state)
    (line,) = said()
    assert state.folder == tmp_path / "home" / ".cache" / "ebmcli"
    assert str(state.folder) in line
    assert str(place.folder) in line
    assert stat.S_IMODE(state.folder.stat().st_mode) == 0o700


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("linked", [False, True])
def test_a_folder_or_link_of_another_user_is_not_used(
    linked: bool, place: Place, said: Callable[[], list[str]]
) -> None:
    if linked:
        place.folder.rename(place.folder.with_name("target"))
        place.folder.symlink_to("target")
    os.chown(place.folder, 12345, 12345, follow_symlinks=False)
    assert fresh().folder != place.folder
    assert "another user" in said()[0]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_not_used(place: Place, said: Callable[[], list[str]]) -> None:
    fresh()
    os.chown(place.libraries[0], 12345, 12345)
    words_of(fresh())
    assert "another user" in said()[0]


def test_where_every_folder_is_another_users_a_new_one_serves(
    place: Place, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fresh()
    own = os.geteuid()
    others = [place.folder, tmp_path / "home" / ".cache" / "ebmcli", tmp_path / "temporary" / f"ebmcli-{own}"]
    for folder in others:
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    numbers = [folder.stat().st_ino for folder in others]
    monkeypatch.setattr(private, "_foreign", lambda facts: facts.st_ino in numbers)
    found = fresh().folder
    assert found is not None
    assert found.parent == tmp_path / "temporary"
    assert found not in others
    assert len(said()) == 1


def test_a_link_of_ones_own_counts_as_what_it_points_to(place: Place, said: Callable[[], list[str]]) -> None:
    target = place.folder.with_name("target")
    place.folder.rename(target)
    place.folder.symlink_to("target")
    assert fresh().folder == target
    assert said() == []
    target.chmod(0o777)
    assert fresh().folder != target


# --- what is new is tried ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Libraries that do not do: `trap.so` dies, `symbols.so` has other functions, `zero.so` computes nothing."""
    folder = tmp_path_factory.mktemp("bad")
    for name, body in (("trap", "__builtin_trap();"), ("zero", "return 0;"), ("symbols", None)):
        names = symbols._SIGNATURES if body else ()
        source, result = folder / f"{name}.cpp", folder / f"{name}.so"
        source.write_text("".join(f'extern "C" long {function}() {{ {body} }}\n' for function in names) + "int x;\n")
        subprocess.run([*library.compiler(), "-shared", "-fPIC", str(source), "-o", str(result)], check=True)
    return folder


WHYS = {"trap": "SIG(ILL|TRAP)", "symbols": "no function ebm_create", "zero": "Philox"}


@pytest.mark.parametrize("name", WHYS)
def test_a_new_library_that_does_not_do_is_not_used_and_the_reason_is_said(
    name: str, place: Place, bad: Path, said: Callable[[], list[str]]
) -> None:
    place.write(f'library="{bad / name}.so"')
    state = fresh()
    assert state.libraries is None
    (line,) = said()
    assert "slower" in line
    assert state.why in line
    assert re.search(WHYS[name], state.why), state.why
    assert not list(place.folder.glob("native-*"))


def test_what_a_killed_process_was_writing_is_cleared_away(place: Place) -> None:
    (place.folder / ".native-left.so-x").write_bytes(b"half")
    fresh()
    assert not list(place.folder.glob(".*"))


def test_a_tuning_that_does_not_run_here_gives_way_to_another(
    place: Place, bad: Path, said: Callable[[], list[str]]
) -> None:
    place.write(f'case "$words" in *=native*) library="{bad / "trap.so"}" ;; esac')
    words_of(fresh())
    assert said() == []
    assert place.compiled == 6


def test_a_compiler_that_fails_is_a_fault_and_one_that_is_missing_is_not(
    place: Place, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write("echo 'kernel.cpp: error: no such thing' >&2; exit 1")
    why = fresh().why
    assert "error: no such thing" in why
    assert said() == [f"the compiled kernel is not used, slower code computes instead: {why}"]
    monkeypatch.setenv("CXX", "/nonexistent")
    assert "no C++ compiler" in fresh().why
    assert said() == []


def test_the_compiler_may_have_arguments(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", f"{shutil.which('env')} '{place.script}' -g")
    assert library.compiler() == [shutil.which("env"), str(place.script), "-g"]
    words_of(fresh())
    assert place.compiled == 2
    for named in ("'", " ", "/nonexistent -g"):
        monkeypatch.setenv("CXX", named)
        monkeypatch.setenv("PATH", "")
        with pytest.raises(OSError, match="no C\\+\\+ compiler"):
            library.compiler()


# --- many processes ---------------------------------------------------------------------------------------------------


def begin() -> subprocess.Popen[str]:
    command = [sys.executable, "-c", LIGHT]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_eight_processes_at_once_compile_each_build_once(place: Place) -> None:
    place.write("sleep 1")
    processes = [begin() for _ in range(8)]
    assert [process.communicate(timeout=60) for process in processes] == [("True \n", "")] * 8
    assert place.compiled == 2


def test_who_is_killed_while_it_builds_leaves_its_turn_to_the_next(place: Place) -> None:
    place.write(f"echo $$ >> {place.log}.pids; exec sleep 60")
    killed = begin()
    pids = Path(f"{place.log}.pids")
    end = time.monotonic() + 60
    while not (pids.exists() and len(pids.read_text().split()) == 2) and time.monotonic() < end:
        time.sleep(0.02)
    waiting = begin()
    time.sleep(0.5)
    assert waiting.poll() is None
    assert place.compiled == 2
    place.write()
    killed.kill()
    killed.communicate()
    try:
        assert waiting.communicate(timeout=30) == ("True \n", "")  # although the compiler of the other one still runs
        assert place.compiled == 4
    finally:
        for pid in pids.read_text().split():
            os.kill(int(pid), signal.SIGKILL)
    assert sorted(file.suffix for file in place.folder.iterdir()) == [".lock", ".sha256", ".sha256", ".so", ".so"]
