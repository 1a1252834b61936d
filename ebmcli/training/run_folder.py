"""The run folder: what a training run writes, and how it is found again after any end.

    run.json            how it was started: seed, threads, backend, versions, data
    recipe.toml         the resolved recipe
    metrics.jsonl       one line an update (or every so many)
    model.safetensors   the newest model
    samples/000100.png  grids on the way
    checkpoints/000100/ model.safetensors, state.safetensors, state.json

Every file but the metrics is written whole under another name and then renamed; the metrics are
cut back to the newest checkpoint when a run is resumed. A run is never overwritten.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NotRequired

from pydantic import ConfigDict, Field
from torch import Tensor
from typing_extensions import TypedDict

from ebmcli.errors import EBMError
from ebmcli.models.checkpoint import FILE, Checkpoint
from ebmcli.storage import checkpoints
from ebmcli.storage.checkpoints import DIGITS, Lines, Saved
from ebmcli.storage.disk import crash_point
from ebmcli.storage.files import append, sweep, sync, write_whole
from ebmcli.storage.folders import Kind, WorkFolder
from ebmcli.storage.reading import read_lines
from ebmcli.storage.seals import Finding, Soundness, sum_of
from ebmcli.storage.tensors import not_finite, read_tensors


class Metric(TypedDict):
    """One line of the metrics; what else it holds are numbers and texts of an update."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    update: Annotated[int, Field(ge=0)]
    energy_difference: NotRequired[float]
    gradient_magnitude: NotRequired[float]
    displacement: NotRequired[float]
    burn_in_distance: NotRequired[float]
    straightness: NotRequired[float]
    seconds: NotRequired[float]
    rolled_back: NotRequired[str]


class Facts(TypedDict, total=False):
    """run.json."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    recipe: str
    recipe_hash: str
    seed: int
    data: str
    data_path: str | None
    data_identity: str | None
    device: str
    device_used: str
    backend: str
    backend_requested: str
    threads: Annotated[int, Field(ge=1, le=4096)]
    ebmcli: str
    torch: str
    init_from: str
    ended: str


class Found(NamedTuple):
    """The checkpoint that a run goes on from, and what there is to say about it."""

    saved: Saved | None
    """None: it has none yet"""
    damaged: tuple[Finding, ...] = ()
    """newer ones, newest first"""
    notes: tuple[str, ...] = ()
    """a line each, for the user"""


class Run(WorkFolder):
    """One run folder, created with `create` or found again with `open`."""

    kind = Kind("a run", "run.json", "ebm train RECIPE --out", "ebm train --resume", ("recipe.toml",))
    schema = Facts

    @classmethod
    def create(cls, folder: Path, recipe: str, facts: dict[str, Any]) -> Run:
        """A new run: the folder, with the resolved recipe and `facts` of its start in it.

        Raises:
            EBMError: the folder exists and is not empty, or cannot be made.
        """
        run = cls.make(folder)
        write_whole(folder / "recipe.toml", recipe)
        # run.json is last: a folder that has it is a run.
        run.write_facts(facts)
        crash_point("created")
        return run

    @property
    def recipe_path(self) -> Path:
        """recipe.toml."""
        return self.folder / "recipe.toml"

    def picture(self, update: int) -> Path:
        """Where the grid of this update belongs."""
        return self.folder / "samples" / f"{update:0{DIGITS}d}.png"

    # Checkpoints

    @property
    def _checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def checkpoints(self) -> list[Saved]:
        """Whole checkpoints, oldest first."""
        return [saved for saved in checkpoints.numbered(self._checkpoints) if checkpoints.is_whole(saved)]

    def save(self, update: int, model: Path, state: dict[str, Tensor], progress: dict[str, Any], keep: int) -> Saved:
        """Make checkpoint `update` out of a model file (moved there) and the training state.

        Args:
            model: a file in this run's folder.
            state: tensors that continue the run.
            progress: whatever else does, as JSON can hold it.
            keep: how many numbered checkpoints stay; older ones are removed.
        """
        saved = Saved(update, checkpoints.place(self._checkpoints, update))
        if saved in self.checkpoints():  # the same update, so the same state: never taken away
            model.unlink()
            return saved
        if self.metrics_path.is_file():
            sync(self.metrics_path)  # the metrics reach the disk before the checkpoint that follows them
        checkpoints.save(saved, model, state, {**progress, "metrics": self._summed()})
        self.finish(saved, keep)
        return saved

    def finish(self, saved: Saved, keep: int) -> None:
        """What follows the newest checkpoint: its model is the run's, and older ones than `keep` go."""
        write_whole(self.folder / FILE, (saved.folder / FILE).read_bytes())
        checkpoints.prune(self.checkpoints()[:-keep])

    def tidy(self) -> None:
        """Remove what a killed process has left half written."""
        sweep(self.folder)

    def newest_sound(self) -> Found:
        """The checkpoint to go on from: the newest, or, where that is damaged, the newest before it that is sound.

        Nothing is changed. One without checksums is believed only while nothing newer is damaged.

        Raises:
            EBMError: there are some, and none to go on from; or a line of the metrics is none.
        """
        learned = sum(1 for _ in self.metrics())  # read through before anything is said or changed
        damaged: list[Finding] = []
        for saved in reversed(checkpoints.numbered(self._checkpoints)):
            found = checkpoints.examine(saved)
            if found.state is Soundness.SOUND or (found.state is Soundness.UNVERIFIABLE and not damaged):
                return Found(saved, tuple(damaged), tuple(self._notes(saved, found, damaged)))
            damaged.append(found)
        if damaged:
            unsure = [wrong for wrong in damaged if wrong.state is Soundness.UNVERIFIABLE]
            raise EBMError(
                f"{damaged[0].reason}; "
                + ("those before it cannot be verified" if unsure else "there is no sound one"),
                f"nothing was changed; to go on from {unsure[0].path} all the same, move {damaged[0].path} away"
                if unsure
                else f"nothing was changed; to begin anew with the run's last weights: `init_from` {self.folder}",
            )
        if learned:
            raise EBMError(f"{self.folder} has learned, and has no checkpoint left", "bring checkpoints/ back")
        return Found(None)

    def _notes(self, saved: Saved, found: Finding, damaged: list[Finding]) -> Iterator[str]:
        for wrong in damaged:
            yield f"{wrong.reason}; it is set aside, and the run goes on after update {saved.update}"
        if found.state is Soundness.UNVERIFIABLE:
            yield f"{found.path} cannot be verified: {found.reason}"
        elif self.metrics_state(saved) is Soundness.DAMAGED:
            yield (
                f"{self.metrics_path} is not as it was at update {saved.update}: the weights do not depend on it, "
                "but its curves may be wrong"
            )

    def set_aside(self, found: Found) -> None:
        """Rename the damaged checkpoints, so that the updates after the sound one are made and kept again."""
        for wrong in found.damaged:
            checkpoints.set_aside(Saved(int(wrong.path.name), wrong.path))

    def load(self, saved: Saved) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Training state and progress of a checkpoint.

        Raises:
            EBMError: they cannot be read, or a number of the state is not finite.
        """
        path = saved.folder / checkpoints.STATE
        tensors, _ = read_tensors(path)
        broken = not_finite(tensors)
        if broken:
            raise EBMError(f"{path} is damaged: {broken} is not finite", "go on from another checkpoint")
        facts, _ = checkpoints.read_facts(saved)
        return tensors, {k: v for k, v in facts.items() if k not in ("files", "metrics")}

    # Metrics

    @property
    def metrics_path(self) -> Path:
        """metrics.jsonl."""
        return self.folder / "metrics.jsonl"

    def append(self, record: dict[str, Any]) -> None:
        """Add one line to the metrics."""
        line = json.dumps(record) + "\n"
        bytes_, hash_ = self._sum
        append(self.metrics_path, line)
        hash_.update(line.encode())
        self._sum = (bytes_ + len(line.encode()), hash_)
        crash_point(f"metrics-{record['update']}")

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The metrics so far; a last line that was cut off is left out.

        Raises:
            EBMError: a whole line is no record of an update; the message has its number.
        """
        for _, record in read_lines(self.metrics_path, Metric):
            yield dict(record)

    def cut_metrics(self, update: int) -> None:
        """Leave only the lines up to `update`: what comes after will be made again.

        Raises:
            EBMError: as `metrics`.
        """
        end = max((e for e, record in read_lines(self.metrics_path, Metric) if record["update"] <= update), default=0)
        content = self.metrics_path.read_bytes()[:end] if end else b""
        write_whole(self.metrics_path, content)
        self.__dict__.pop("_sum", None)

    @cached_property
    def _sum(self) -> tuple[int, Any]:
        """Bytes of the metrics so far, and their SHA-256, which goes on with each line."""
        content = self.metrics_path.read_bytes() if self.metrics_path.is_file() else b""
        return len(content), hashlib.sha256(content)

    def _summed(self) -> Lines:
        return {"bytes": self._sum[0], "sha256": self._sum[1].hexdigest()}

    def metrics_state(self, saved: Saved) -> Soundness:
        """Whether the metrics begin as they were when a checkpoint was written.

        Raises:
            EBMError: the checkpoint's own facts cannot be believed.
        """
        said = checkpoints.read_facts(saved)[0].get("metrics")
        if said is None:
            return Soundness.UNVERIFIABLE
        content = b""
        if self.metrics_path.is_file():
            with open(self.metrics_path, "rb") as file:
                content = file.read(max(0, said["bytes"]))
        return Soundness.SOUND if sum_of(content) == said["sha256"] else Soundness.DAMAGED


def hours(records: Sequence[Mapping[str, Any]]) -> float:
    """Hours of wall time that learning took: a record's seconds are those of each update since the record before."""
    before = [0, *(r["update"] for r in records)]
    return float(sum(r["seconds"] * (r["update"] - u) for r, u in zip(records, before, strict=False))) / 3600


def bank_of(file: Path, model: Checkpoint) -> Tensor | None:
    """All persistent chains [n c h w] of a model: of a run all that it keeps, elsewhere those that the file holds.

    Args:
        file: the model's file; in a run its model.safetensors, or that of one of its checkpoints.
        model: what the file holds.

    Raises:
        EBMError: the checkpoint that holds them is damaged.
    """
    folder = file.parent
    if (folder / "run.json").is_file():
        saved = Run(folder).checkpoints()
        folder = saved[-1].folder if saved else folder
    state = folder / checkpoints.STATE
    if model.bank is None or not state.is_file():
        return model.bank
    if folder.name.isdecimal():
        found = checkpoints.examine(Saved(int(folder.name), folder))
        if found.state is Soundness.DAMAGED:
            raise EBMError(found.reason, "ebm train --resume RUN goes back to the checkpoint before it")
    return read_tensors(state)[0].get("bank", model.bank)
