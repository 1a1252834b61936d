"""Where a map under way is kept, so that it goes on after any end.

    settings.json     what is being made
    jobs.jsonl        one line a finished job, with a checksum of its own
    NAME.safetensors  the newest state of a stage

A job comes to the same each time, so what was under way when a process ended is done again, to the same end; and so
is what turns out to be damaged.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NotRequired

from pydantic import Field
from torch import Tensor
from typing_extensions import TypedDict

from ebmcli.errors import EBMError
from ebmcli.landscape.travel import Arrival, Job
from ebmcli.storage.disk import crash_point
from ebmcli.storage.files import append, remove_tree, rename, sweep, write_whole
from ebmcli.storage.locks import LOCK, hold
from ebmcli.storage.reading import checked, parse_json, read_bytes
from ebmcli.storage.seals import NONE, Finding, Soundness, sum_of
from ebmcli.storage.tensors import not_finite, pack_sealed, read_sealed

SUM = 16
"""Hexadecimal digits of a line's checksum."""
log = logging.getLogger("ebmcli.landscape")


Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Some = Annotated[int, Field(ge=1, le=10**6)]


class Settings(TypedDict):
    """`MapSettings` within bounds, as settings.json has them."""

    step_size: Positive
    chain_steps: NotRequired[Annotated[int, Field(ge=0, le=10**9)]]
    quench_steps: NotRequired[Annotated[int, Field(ge=0, le=10**9)]]
    seed: NotRequired[Annotated[int, Field(ge=0, lt=1 << 63)]]
    strength: NotRequired[Positive | None]
    temperature: NotRequired[Positive | None]
    travel_step: NotRequired[Positive | None]
    patience: NotRequired[Annotated[int, Field(ge=1, le=10**9)]]
    limit: NotRequired[Annotated[int, Field(ge=1, le=10**9)]]
    adjust: NotRequired[bool]
    rounds: NotRequired[Some]
    trials: NotRequired[Some]
    neighbours: NotRequired[Some]
    pilot: NotRequired[Some]
    string_steps: NotRequired[Annotated[int, Field(ge=0, le=10**9)]]


class Begun(TypedDict):
    """settings.json: what is being made."""

    model: str
    digest: str | None
    how: dict[str, float | bool | None]
    start: str
    samples: Annotated[int, Field(ge=2, le=10**7)]
    data: str | None
    leaves: Some
    settings: Settings


class Facts(TypedDict, total=False):
    """What is kept with the tensors of a stage."""

    step: Annotated[int, Field(ge=0)]
    still: bool


class Line(NamedTuple):
    """A line of jobs.jsonl, without its checksum."""

    stage: str
    start: int
    target: int
    trial: int
    strength: float
    arrived: bool
    top: float
    steps: int


def _line(fields: list[Any]) -> str:
    """A line of jobs.jsonl: its last field is the checksum of those before it."""
    return json.dumps([*fields, sum_of(json.dumps(fields).encode())[:SUM]]) + "\n"


def _job(line: bytes) -> tuple[str, Job, Arrival, Soundness]:
    """What `_line` made, and whether its checksum is right or it has none.

    Raises:
        EBMError: it is cut off, or no such line.
    """
    raw = parse_json(line if line.endswith(b"\n") else b"", list[Any], "the line")
    state = Soundness.UNVERIFIABLE
    if len(raw) == len(Line._fields) + 1:
        state = Soundness.SOUND
        if raw.pop() != sum_of(json.dumps(raw).encode())[:SUM]:
            raise EBMError("the line is damaged")
    read = checked(raw, Line, "the line")
    job = Job(read.start, read.target, read.trial, read.strength)
    return read.stage, job, Arrival(read.arrived, read.top, read.steps), state


def examine_jobs(path: Path) -> Finding:
    """jobs.jsonl read through; a last line that was cut off does not count."""
    states = []
    for number, line in enumerate(read_bytes(path).splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            states.append(_job(line)[3])
        except EBMError:
            return Finding(path, Soundness.DAMAGED, f"line {number} of {path} is damaged")
    sound = all(state is Soundness.SOUND for state in states)
    return Finding(path, Soundness.SOUND) if sound else Finding(path, Soundness.UNVERIFIABLE, NONE)


class Store:
    """Keeps nothing: a map that is made in one go, in memory."""

    def jobs(self, stage: str) -> dict[Job, Arrival]:
        """Finished jobs of a stage."""
        return {}

    def append(self, stage: str, results: Iterable[tuple[Job, Arrival]]) -> None:
        """Keep finished jobs."""

    def read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What `write` kept last."""
        return None

    def write(self, name: str, tensors: dict[str, Tensor], **facts: Any) -> None:
        """Keep the state of a stage in the place of an older one."""


class Folder(Store):
    """Keeps everything in a folder, which is this process's alone.

    Args:
        folder: that exists.
        fresh: whether to begin anew, without what is left there.

    Raises:
        EBMError: another process is at work in it.
    """

    def __init__(self, folder: Path, fresh: bool = False) -> None:
        self.folder = folder
        self._lock = hold(folder)
        sweep(folder)
        for left in folder.iterdir() if fresh else ():
            if left.name != LOCK:
                left.unlink()
        self._path = folder / "jobs.jsonl"
        self._known: dict[str, dict[Job, Arrival]] = {}
        self._read_jobs()

    def _read_jobs(self) -> None:
        """Take up the finished jobs; lines that are damaged, or were cut off, are dropped and their jobs done again."""
        if not self._path.exists():
            return
        whole, dropped, unsure = [], 0, 0
        with open(self._path, "rb") as file:
            for line in file:
                try:
                    stage, job, arrival, state = _job(line)
                except EBMError:
                    dropped += line.endswith(b"\n")  # a last line that was cut off is no damage
                    continue
                self._known.setdefault(stage, {})[job] = arrival
                whole.append(line)
                unsure += state is Soundness.UNVERIFIABLE
        if dropped:
            log.warning(f"damaged lines in {self._path}: {dropped}; their jobs are done again")
        if unsure:
            log.warning(f"{self._path} cannot be verified: written by an earlier version of ebm, without checksums")
        write_whole(self._path, b"".join(whole))

    def jobs(self, stage: str) -> dict[Job, Arrival]:
        """Finished jobs of a stage."""
        return self._known.get(stage, {})

    def append(self, stage: str, results: Iterable[tuple[Job, Arrival]]) -> None:
        """Add a line for each."""
        append(self._path, "".join(_line([stage, *job, *arrival]) for job, arrival in results))
        crash_point(f"map-{stage}")

    def read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """What `write` kept last; None, with a warning, where that is damaged."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            return None
        try:
            tensors, metadata, state = read_sealed(path)
            facts = parse_json(metadata.get("facts", "{}"), Facts, f"the facts in {path}")
            broken = not_finite(tensors)
            if broken:
                raise EBMError(f"{path} is damaged: {broken} is not finite")
        except EBMError as error:
            log.warning(f"{error.message}; it is set aside, and that part is done again")
            rename(path, path.with_name(f"{path.name}.damaged"))
            return None
        if state is Soundness.UNVERIFIABLE:
            log.warning(f"{path} cannot be verified: written by an earlier version of ebm, without a checksum")
        return tensors, dict(facts)

    def write(self, name: str, tensors: dict[str, Tensor], **facts: Any) -> None:
        """Replace the file of that name, whole or not at all."""
        write_whole(self.folder / f"{name}.safetensors", pack_sealed(tensors, {"facts": json.dumps(facts)}))
        crash_point(f"map-{name}-{facts.get('step', 0)}")

    def clear(self) -> None:
        """Remove the folder and what is in it: first what says that there is something to go on with."""
        remove_tree(self.folder, first="settings.json")
