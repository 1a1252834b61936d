"""Folders in which long work is kept: begun once, never overwritten, and gone on with after any end.

A kind of work has a class of its own, which says what it is called and which file tells its folders from others::

    class Run(WorkFolder):
        kind = Kind("a run", "run.json", begin="ebm train RECIPE --out", go_on="ebm train --resume")
        schema = Facts
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

from ebmcli.errors import EBMError
from ebmcli.storage.files import write_whole
from ebmcli.storage.locks import LOCK, held, hold
from ebmcli.storage.seals import dumps, read_sealed


class Kind(NamedTuple):
    """What one kind of long work is called, and how its folders are known."""

    noun: str
    """with its article, for messages: `a long run`"""
    facts: str
    """name of the file that says how the work was begun; a folder that has it is of this kind"""
    begin: str
    """the command that begins one; the folder's path follows"""
    go_on: str
    """the command that goes on with one; the folder's path follows"""
    left_over: tuple[str, ...] = ()
    """names that a start which was cut short may leave, besides the lock and temporary files"""


class WorkFolder:
    """The folder of one piece of long work; subclasses name its kind, and make it.

    Args:
        folder: its path.
    """

    kind: ClassVar[Kind]
    schema: ClassVar[Any]
    """the type that the facts are checked against"""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def check_new(cls, folder: Path) -> None:
        """Nothing, if work of this kind may be begun in `folder`.

        Raises:
            EBMError: something is there, other than what a start that was cut short has left.
        """
        noun = cls.kind.noun
        if (folder / cls.kind.facts).is_file():
            raise EBMError(
                f"{folder} holds {noun} already, and none is overwritten",
                f"choose another `out`, or go on with it: {cls.kind.go_on} {folder}",
            )
        if not folder.exists():
            return
        if not folder.is_dir():
            raise EBMError(f"{folder} is a file: {noun} gets a folder of its own", "choose another `out`")
        try:
            empty = all(cls._is_left_over(path.name) for path in folder.iterdir())
        except OSError as error:
            raise EBMError(f"cannot read {folder}: {error.strerror}", "choose another `out`") from error
        if not empty:
            raise EBMError(f"{folder} is not empty: {noun} gets a folder of its own", "choose another `out`")

    @classmethod
    def make(cls, folder: Path) -> Self:
        """The folder, made with those above it; the facts are still to be written.

        Raises:
            EBMError: as `check_new`, or it cannot be made.
        """
        cls.check_new(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EBMError(f"cannot make the folder {folder}: {error.strerror}", "choose another `out`") from error
        return cls(folder)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The folder of work that was begun.

        Raises:
            EBMError: there is none of this kind in that folder.
        """
        if not (folder / cls.kind.facts).is_file():
            noun = cls.kind.noun.partition(" ")[2]
            raise EBMError(f"no {noun} in {folder}", f"start one: {cls.kind.begin} {folder}")
        return cls(folder)

    @classmethod
    def _is_left_over(cls, name: str) -> bool:
        is_temporary = name.startswith(".") and name.endswith(".tmp")
        return is_temporary or name == LOCK or name in cls.kind.left_over

    def lock(self) -> None:
        """Keep this folder to this process until it ends, however it ends.

        Raises:
            EBMError: another process is at work in it.
        """
        self._lock = hold(self.folder)

    def locked(self) -> bool:
        """Whether a process is at work in it now (never, where the system has no such lock)."""
        return held(self.folder)

    @property
    def facts(self) -> dict[str, Any]:
        """How the work was begun, and with what.

        Raises:
            EBMError: the file cannot be read, or is damaged.
        """
        return dict(read_sealed(self.folder / self.kind.facts, self.schema))

    def write_facts(self, facts: dict[str, Any]) -> None:
        """Replace the facts, whole or not at all."""
        write_whole(self.folder / self.kind.facts, dumps(facts))


def new_folder(name: str, parent: Path = Path("runs")) -> Path:
    """runs/NAME, or runs/NAME-2, runs/NAME-3 … where there are folders of that name."""
    folder, number = parent / name, 1
    while folder.exists():
        number += 1
        folder = parent / f"{name}-{number}"
    return folder
